"""Jobs and answers made of plain values."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Sequence

import pytest

from slicewise.db import questions, writes
from slicewise.db.engine import Database
from slicewise.db.records import NO_MODEL, WHOLE_FILE, Answer, Assessed, Content, Header, Lane, Outcome

MODEL = questions.Model("a" * 64, "p-1")
OTHER_MODEL = questions.Model("b" * 64, "p-1")


def sha(name: str) -> str:
    return hashlib.sha256(name.encode()).hexdigest()


class Desk:
    """A database, and the steps of a job's life in one word each: every step is a transaction of its own."""

    model = MODEL
    other_model = OTHER_MODEL

    def __init__(self, database: Database) -> None:
        self.database = database

    def submit(self, *names: str, submission: str = "s", lane: Lane = Lane.ROUTINE) -> int:
        contents = [Content(sha(name), len(name), f"/scans/{name}") for name in names]
        with self.database.writing() as session:
            return writes.submit(session, contents, way="submit", submission=submission, lane=lane)

    def claim(self, job: int, owner: str = "me", seconds: float = 60, abandoned: Sequence[str] = ()) -> bool:
        with self.database.writing() as session:
            return writes.claim(session, job, owner, seconds, abandoned)

    def record(
        self,
        job: int,
        *names: str,
        owner: str = "me",
        model: questions.Model = MODEL,
        header: Callable[[str], Header] = lambda name: Header(sop_instance_uid=f"1.{name}", frames=1),
        label: str = "glioma",
        frames: int = 1,
    ) -> None:
        self._write(
            job,
            owner,
            model,
            {
                name: (
                    header(name),
                    tuple(
                        Answer(n, Outcome.LABELLED, model.sha256, label, {"glioma": 0.75, "no_tumor": 0.25})
                        for n in range(1, frames + 1)
                    ),
                )
                for name in names
            },
        )

    def refuse(self, job: int, *names: str, owner: str = "me", model: questions.Model = MODEL) -> None:
        answer = Answer(WHOLE_FILE, Outcome.REFUSED, NO_MODEL, reason="unreadable", detail="no scan")
        self._write(job, owner, model, {name: (Header(), (answer,)) for name in names})

    def finish(self, job: int, owner: str = "me") -> None:
        with self.database.writing() as session:
            writes.finish(session, job, owner)

    def fail(self, job: int, owner: str = "me", reason: str = "it broke") -> None:
        with self.database.writing() as session:
            writes.fail(session, job, owner, reason)

    def release(self, job: int, owner: str = "me") -> None:
        with self.database.writing() as session:
            writes.release(session, job, owner)

    def done(self, *names: str, submission: str = "s") -> int:
        """A job from start to end."""
        job = self.submit(*names, submission=submission)
        assert self.claim(job)
        self.record(job, *names)
        self.finish(job)
        return job

    def job(self, key: int) -> dict[str, object]:
        with self.database.reading() as session:
            return next(job for job in questions.jobs(session) if job["id"] == key)

    def unanswered(self, job: int, model: questions.Model = MODEL) -> list[str]:
        with self.database.reading() as session:
            return [waiting.content_sha256 for waiting in questions.unanswered(session, job, model)]

    def results(self, **asked: object) -> list[dict[str, object]]:
        with self.database.reading() as session:
            return list(questions.results(session, **asked))

    def progress(self, submission: str = "s", model: questions.Model = MODEL) -> questions.Progress:
        with self.database.reading() as session:
            return questions.progress(session, submission, model)

    def due(self, quiet: float = 20, abandoned: Sequence[str] = (), limit: int = 1000) -> list[int]:
        with self.database.reading() as session:
            return writes.due(session, Lane.ROUTINE, quiet, abandoned, limit)

    def _write(self, job, owner, model, given) -> None:
        with self.database.reading() as session:
            keys = {
                w.content_sha256: w.instance_id for w in questions.unanswered(session, job, questions.Model("", ""))
            }
        assessed = [Assessed(keys[sha(name)], sha(name), header, answers) for name, (header, answers) in given.items()]
        with self.database.writing() as session:
            writes.record(session, job, owner, assessed, model=model, seconds=60)


@pytest.fixture
def desk(database) -> Desk:
    return Desk(database)


@pytest.fixture(name="sha")
def _sha():
    return sha
