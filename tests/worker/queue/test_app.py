"""The Celery shell on a real Redis: which job comes when, and what closes by itself."""

from __future__ import annotations

import pytest
from celery import Celery

from slicewise.db import questions, writes
from slicewise.db.records import Content, Lane
from slicewise.worker.errors import Retryable
from slicewise.worker.intake import submit
from slicewise.worker.intake.spool import Spool
from slicewise.worker.queue import app, embedded

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
    monkeypatch.setattr(app, "bells", lambda _lane: 0)
    assert app.sweep(settings) == 1
    assert rung == [(quiet, Lane.ROUTINE)]
    assert {job["id"]: job["status"] for job in _jobs(database_of)} == {quiet: "pending", busy: "open"}


@pytest.fixture
def broker(settings, monkeypatch):
    """The Redis of this home, and a Celery that has just begun."""
    settings.logs.mkdir(parents=True, exist_ok=True)
    server = embedded.start(settings.home, settings.logs / "redis.log")
    monkeypatch.setattr(app, "app", (fresh := Celery("slicewise", set_as_current=False)))
    fresh.add_defaults(app._configuration)

    @fresh.task(name="slicewise.classify")
    def classify(_job):
        """Never run here."""

    monkeypatch.setattr(app, "classify", classify)
    yield server
    fresh.close()
    server.kill()
    server.wait()


def test_a_backlog_that_is_swept_for_hours_does_not_fill_the_broker(settings, database_of, broker, monkeypatch):
    monkeypatch.setattr(app, "_SILENT_SECONDS", -1)
    monkeypatch.setattr(app, "_MOST_BELLS", 10)
    with database_of.writing() as session:
        for number in range(50):
            lane = Lane.STAT if number % 2 else Lane.ROUTINE
            content = Content(f"{number:064}", 1, f"{number}")
            writes.submit(session, [content], way="submit", submission=f"{number}", lane=lane)
    assert app.bells(Lane.ROUTINE) == 0
    for _ in range(20):
        app.sweep(settings)
    assert {lane: app.bells(lane) for lane in Lane} == {Lane.STAT: 10, Lane.ROUTINE: 10}
    # Each job has its bell when it comes, however many there are.
    app.ring(1, Lane.STAT)
    assert app.bells(Lane.STAT) == 11
    assert app.sweep(settings) == 0


def test_a_broker_that_is_away_is_said(settings, database_of, broker, monkeypatch):
    broker.kill()
    broker.wait()
    with pytest.raises(Retryable):
        app.bells(Lane.STAT)
