"""The Celery shell on a real Redis: which job comes when, and what closes by itself."""

from __future__ import annotations

import pytest

from slicewise.db import questions, writes
from slicewise.db.records import Content, Lane
from slicewise.worker.intake import submit
from slicewise.worker.intake.spool import Spool
from slicewise.worker.queue import app

pytestmark = pytest.mark.timeout(400)


@pytest.fixture
def order(quick, settings, database_of, start, write_dicom, tmp_path, wait_until, monkeypatch):
    """Submit jobs of two files in some lanes, start the service, and tell in which order they were done."""

    def run(lanes):
        monkeypatch.setenv("SLICEWISE_JOB_FILES", "2")
        keys = []
        for place, lane in enumerate(lanes):
            paths = [write_dicom(tmp_path / f"{place}-{n}.dcm", seed=2 * place + n) for n in range(2)]
            keys += submit(paths, database=database_of, spool=Spool(settings.spool), ring=_silent, lane=Lane(lane)).jobs
        service = start("up")
        wait_until(lambda: all(job["status"] == "done" for job in _jobs(database_of)))
        service.terminate()
        service.wait(60)
        done = {job["id"]: job["finished_at"] for job in _jobs(database_of)}
        return [lanes[keys.index(key)] for key in sorted(done, key=done.__getitem__)]

    return run


@pytest.fixture
def database_of(settings, opened):
    with opened(settings.database_url) as database:
        database.upgrade()
        yield database


def _silent(_job, _lane):
    """Nobody is there to hear it: the sweeper rings all of them at once, oldest first."""


def _jobs(database):
    with database.reading() as session:
        return questions.jobs(session)


def test_what_is_urgent_overtakes_what_waits(order):
    done = order(["routine"] * 12 + ["stat"] * 2)
    assert done.index("stat") <= 2
    assert done[-6:] == ["routine"] * 6


def test_what_is_not_urgent_is_not_starved_by_what_is(order):
    done = order(["stat"] * 12 + ["routine"] * 2)
    assert done.index("routine") <= 2
    assert done[-6:] == ["stat"] * 6


def test_the_sweep_closes_what_has_been_quiet(settings, database_of, monkeypatch):
    rung = []
    monkeypatch.setattr(app, "ring", lambda job, lane: rung.append((job, lane)))
    with database_of.writing() as session:
        quiet, busy = (
            writes.collect(
                session, [Content(name * 64, 1, name)], way="receive", submission=name, quiet_seconds=seconds
            )
            for name, seconds in (("a", -1), ("b", 60))
        )
    assert app.sweep(settings) == 1
    assert rung == [(quiet, Lane.ROUTINE)]
    assert {job["id"]: job["status"] for job in _jobs(database_of)} == {quiet: "pending", busy: "open"}
