"""Bells that nobody has to wait for."""

from __future__ import annotations

import threading

from slicewise.db.records import Lane
from slicewise.worker.errors import Retryable
from slicewise.worker.intake.bells import Bells


def test_nobody_waits_for_a_bell_and_all_are_rung():
    may_ring, rung = threading.Event(), []

    def slow(job, _lane):
        may_ring.wait()
        rung.append(job)

    with Bells(slow) as bells:
        for job in range(5):
            bells(job, Lane.STAT)
        assert rung == []
        may_ring.set()
    assert rung == [0, 1, 2, 3, 4]


def test_a_broker_that_is_away_is_left_in_peace_for_a_while():
    now, tried = [0.0], []

    def away(job, _lane):
        tried.append(job)
        raise Retryable("it does not answer")

    def wait(bells):
        done = threading.Event()
        bells._pool.submit(done.set)
        done.wait()

    with Bells(away, clock=lambda: now[0]) as bells:
        for job in range(5):
            bells(job, Lane.ROUTINE)
        wait(bells)
        assert tried == [0]
        now[0] = 31.0
        bells(5, Lane.ROUTINE)
        wait(bells)
        assert tried == [0, 5]
