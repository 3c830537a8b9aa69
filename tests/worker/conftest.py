"""A place where jobs are submitted and workers work on them, without Celery."""

from __future__ import annotations

import dataclasses
import os
import subprocess
import sys
from contextlib import closing
from pathlib import Path

import pytest
from sqlalchemy import func, select

from slicewise.db import questions, summaries
from slicewise.db.models import Result
from slicewise.worker.intake import submit
from slicewise.worker.intake.spool import Spool
from slicewise.worker.queue.work import Work
from tests.orthanc import Orthanc


class Shop:
    """A home, a database, jobs in it, and workers in this process or in one of their own."""

    def __init__(self, settings, database):
        self.settings, self.database, self._workers = settings, database, []

    def submit(self, *paths, job_files=256):
        return submit(
            paths,
            database=self.database,
            spool=Spool(self.settings.spool),
            ring=lambda *_: None,
            job_files=job_files,
        )

    def worker(self, **options: object) -> Work:
        self._workers.append(Work(self.settings, **options))
        return self._workers[-1]

    def close(self):
        for worker in self._workers:
            worker._database.close()

    def elsewhere(self, script: str, *words: object, check: bool = True) -> subprocess.CompletedProcess:
        """Run a script about a `Work` of its own process."""
        done = subprocess.run(
            [sys.executable, "-c", script, *map(str, words)],
            env={**os.environ, **self.environment},
            capture_output=True,
            text=True,
            check=False,
        )
        assert not check or done.returncode == 0, done.stderr
        return done

    @property
    def environment(self):
        return {"SLICEWISE_DATABASE_URL": self.settings.database_url}

    def rows(self, submission=None):
        """Everything of a result but who wrote it and when."""
        with self.database.reading() as session:
            return [
                (
                    Path(row["source"]).name,
                    *(row[key] for key in ("content_sha256", "frame", "status", "label", "reason", "model_sha256")),
                    tuple((row["probabilities"] or {}).items()),
                )
                for row in questions.results(session, submission=submission)
            ]

    def results(self):
        with self.database.reading() as session:
            return list(questions.results(session))

    def series(self):
        """Every summary that any model's worker wrote, newest first."""
        with self.database.reading() as session:
            return list(summaries.summaries(session, self.worker().version, superseded=True))

    def count(self):
        with self.database.reading() as session:
            return session.scalar(select(func.count()).select_from(Result))

    def job(self, key):
        with self.database.reading() as session:
            return next(job for job in questions.jobs(session) if job["id"] == key)


@pytest.fixture
def shop(quick, settings, database):
    url = database.url.render_as_string(hide_password=False)
    with closing(Shop(dataclasses.replace(settings, database_url=url), database)) as made:
        yield made


@pytest.fixture
def undisturbed(quick, settings, tmp_path, opened):
    """The rows that a run without any accident gives."""

    def rows(*paths):
        with opened(f"sqlite:///{tmp_path / 'undisturbed.sqlite3'}") as database:
            database.upgrade()
            own = dataclasses.replace(
                settings, database_url=f"sqlite:///{tmp_path / 'undisturbed.sqlite3'}", home=tmp_path / "undisturbed"
            )
            with closing(Shop(own, database)) as calm:
                for job in calm.submit(*paths).jobs:
                    calm.worker().on_job(job)
                return calm.rows()

    return rows


@pytest.fixture
def orthanc(tmp_path, wait_until):
    """Start Orthanc: `orthanc(port)` with the port of a receiver that it may send to."""
    made = []

    def begin(port: int = 11112, **more: object) -> Orthanc:
        modalities = {"slicewise": ["SLICEWISE", "127.0.0.1", port]}
        made.append(Orthanc(tmp_path / f"orthanc-{len(made)}", modalities, wait_until, **more))
        return made[-1]

    yield begin
    for one in made:
        one.stop()


@pytest.fixture
def other(small_model, tmp_path):
    """A network of another opinion, mostly."""
    import onnx

    made = onnx.load(small_model)
    (weights,) = (one for one in made.graph.initializer if one.name == "weights")
    weights.CopyFrom(onnx.numpy_helper.from_array(-onnx.numpy_helper.to_array(weights), "weights"))
    onnx.save(made, tmp_path / "other.onnx")
    return tmp_path / "other.onnx"
