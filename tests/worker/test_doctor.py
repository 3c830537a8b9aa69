"""What ``slicewise doctor`` says of jobs, and a worker of its broker."""

from __future__ import annotations

import json
import subprocess
import sys
from datetime import timedelta

import pytest
from sqlalchemy import update

from slicewise.db import writes
from slicewise.db.engine import now
from slicewise.db.models import Job
from slicewise.db.records import Content, JobStatus


@pytest.fixture
def database(settings, opened):
    with opened(settings.database_url) as made:
        made.upgrade()
        yield made


def test_jobs_that_no_worker_takes_are_a_failure_and_dead_ones_are_named(database, slicewise, quick):
    def found(status: int) -> list[str]:
        said = json.loads(slicewise("doctor", "--format", "json", status=status).stdout)
        return [one["text"] for one in said if "jobs" in one["text"]]

    assert found(0) == ["no dead jobs"]
    with database.writing() as session:
        writes.submit(session, [Content("0" * 64, 1, "a")], way="submit", submission="s")
    assert found(0) == ["no dead jobs"]
    with database.writing() as session:
        session.execute(update(Job).values(created_at=now(session) - timedelta(minutes=3)))
    waiting, dead = found(1)
    assert "no worker takes any: 1" in waiting
    assert dead == "no dead jobs"
    with database.writing() as session:
        session.execute(update(Job).values(status=JobStatus.DEAD))
    assert found(0) == ["dead jobs: 1; 'slicewise dead list' shows them"]


def test_a_worker_without_its_broker_says_so_and_goes_on_trying(database, processes, quick, settings, wait_until):
    said = settings.home / "said"
    with said.open("wb") as output:
        command = [sys.executable, "-m", "slicewise.worker.cli", "worker"]
        worker = subprocess.Popen(command, stdout=output, stderr=output)
    wait_until(lambda: "Trying again in" in said.read_text())
    assert "the broker does not answer: 'slicewise up' starts one" in said.read_text()
    worker.terminate()
    worker.wait(60)
