"""One worker's work on jobs: claim, assess, record under the lease. Knows no Celery."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import replace
from pathlib import Path

from slicewise.db import questions, summaries, writes
from slicewise.db.engine import Database
from slicewise.db.records import Assessed
from slicewise.worker import isolated, pipeline, pseudonyms
from slicewise.worker.intake.spool import Spool
from slicewise.worker.model.following import Following
from slicewise.worker.model.session import Model, Provider, load
from slicewise.worker.queue import owner
from slicewise.worker.settings import Settings

log = logging.getLogger(__name__)

# A chunk of answers is written when it holds this many files or is this old: a kill loses no more than that.
_CHUNK_FILES = 64
_CHUNK_SECONDS = 2.0

# After this long a worker hands its jobs back between two chunks, so that no task nears the hard time limit.
_TURN_SECONDS = 120.0


class Work:
    """A loaded model, a database, a spool, and the name under which leases are held.

    Build it in the process that works: sessions and connections do not survive a fork. Where `stopping` says so, it
    hands its jobs back after the file at hand. Before each turn it takes the bundle that is in charge by then.
    """

    def __init__(self, settings: Settings, stopping: Callable[[], bool] = lambda: False) -> None:
        self._settings = settings
        self._stopping = stopping
        self._database = Database(settings.database_url)
        self._spool = Spool(settings.spool)
        self._me = owner.here()
        self._patient = pseudonyms.naming(settings)
        self._following = Following(settings, self._load)
        self._take()

    def _load(self, path: Path) -> Model:
        return load(path, Provider(self._settings.provider), threads=self._settings.threads)

    def _take(self) -> None:
        self._model = self._following.now()
        self.version = questions.Model(self._model.sha256, self._model.description.preprocess_version)

    def on_job(self, job_id: int) -> list[int]:
        """Work on a job that was rung, and on others of its lane while the batch has room.

        Nothing happens when the job is done, or held by a living worker. A job is done when every arrival has
        an outcome; one that breaks is handed back, with the reason.

        Returns
        -------
        list of int
            Jobs to be rung: those that were handed back unfinished at the end of a turn, or else one that still waits, so that
            work goes on where no bell hangs any more.
        """
        self._take()
        held = self._claim(job_id)
        try:
            return self._work_through(held) or self._next(held)
        except writes.LeaseLost as lost:
            # Somebody else decided that this worker was dead. What it wrote stands; the rest is theirs.
            log.warning("%s", lost)
            self._hand_back(held)
            return list(held)
        except Exception as error:
            # The task boundary: whatever broke, the jobs must not stay leased until the lease runs out.
            reason = pipeline.where(error)
            with suppress(Exception), self._database.writing() as session:
                for key in held:
                    writes.fail(session, key, self._me, reason)
                summaries.refresh(session, held, self.version)
            raise

    def _claim(self, job_id: int) -> dict[int, bool]:
        """Claim the job and companions; for each, whether it has to be decoded in isolation."""
        lease = self._settings.lease_seconds
        with self._database.writing() as session:
            gone = owner.abandoned(questions.lease_owners(session))
            if not writes.claim(session, job_id, self._me, lease, gone):
                # It may have died of its last attempt just now.
                summaries.refresh(session, questions.dead(session, [job_id]), self.version)
                return {}
            suspect = questions.attempts(session, job_id) > 1
            held = {job_id: suspect}
            if suspect:
                # Its last attempt may have died of one of its files: it is worked on alone.
                return held
            room = self._settings.job_files - len(questions.unanswered(session, job_id, self.version))
            for other in questions.companions(session, job_id, limit=32):
                if room <= 0:
                    break
                if writes.claim(session, other, self._me, lease):
                    held[other] = False
                    room -= len(questions.unanswered(session, other, self.version))
            return held

    def _next(self, held: dict[int, bool]) -> list[int]:
        with self._database.reading() as session:
            return [other for key in list(held)[:1] for other in questions.companions(session, key, limit=1)]

    def _work_through(self, held: dict[int, bool]) -> list[int]:
        """Assess everything that has no answer yet; the jobs that had to be handed back."""
        with self._database.reading() as session:
            waiting = [w for key in held for w in questions.unanswered(session, key, self.version)]
        chunk: list[tuple[int, Assessed]] = []
        broken: dict[int, str] = {}
        started = written = renewed = time.monotonic()

        def tick() -> None:
            nonlocal renewed
            if time.monotonic() - renewed > self._settings.lease_seconds / 4:
                renewed = time.monotonic()
                self._renew(held)

        answers = pipeline.assess(
            self._model,
            ((w, self._spool.path(w.content_sha256)) for w in waiting),
            prepare=self._prepare(isolate=any(held.values())),
            tick=tick,
        )
        for w, prepared, given in answers:
            tick()
            if prepared.failure:
                broken[w.job_id] = f"file {w.content_sha256[:12]}: {prepared.failure}"
                continue
            header = replace(prepared.header, patient=self._patient(prepared.patient))
            chunk.append((w.job_id, Assessed(w.instance_id, w.content_sha256, header, given)))
            leaving = self._stopping() or time.monotonic() - started > _TURN_SECONDS
            if leaving or len(chunk) >= _CHUNK_FILES or time.monotonic() - written > _CHUNK_SECONDS:
                self._record(chunk)
                chunk, written = [], time.monotonic()
            if leaving:
                answers.close()
                self._hand_back(held)
                return list(held)
        self._record(chunk)
        self._close(held, broken)
        return []

    def _prepare(self, *, isolate: bool) -> pipeline.Prepare:
        return isolated.prepare if isolate else pipeline.prepare

    def _record(self, chunk: list[tuple[int, Assessed]]) -> None:
        # A transaction for each job: in one for all, two workers whose jobs share contents could wait for each other.
        for key in dict.fromkeys(job for job, _ in chunk):
            mine = [assessed for job, assessed in chunk if job == key]
            with self._database.writing() as session:
                writes.record(
                    session,
                    key,
                    self._me,
                    mine,
                    model=self.version,
                    seconds=self._settings.lease_seconds,
                )

    def _close(self, held: dict[int, bool], broken: dict[int, str]) -> None:
        """Every job is done but those with a file that could not be prepared: they are tried again."""
        with self._database.writing() as session:
            for key in held:
                if key in broken:
                    writes.fail(session, key, self._me, broken[key])
                else:
                    writes.finish(session, key, self._me)
            summaries.refresh(session, held, self.version)

    def _renew(self, held: dict[int, bool]) -> None:
        with self._database.writing() as session:
            for key in held:
                writes.renew(session, key, self._me, self._settings.lease_seconds)

    def _hand_back(self, held: dict[int, bool]) -> None:
        with self._database.writing() as session:
            for key in held:
                writes.release(session, key, self._me)
