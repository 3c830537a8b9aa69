"""How fast and when: by a clock that stands still between two questions."""

from __future__ import annotations

import threading
from datetime import datetime

import pytest

from slicewise.worker.intake.pulling.pace import Night, Pace, Stopped


class Clock(threading.Event):
    """A stop that nobody sets, whose waits move the clock."""

    def __init__(self, at="2026-01-01 12:00") -> None:
        super().__init__()
        self.seconds, self.begun = 0.0, datetime.fromisoformat(at)

    def wait(self, timeout=None):
        self.seconds += timeout or 0.0
        return super().is_set()

    def now(self):
        from datetime import timedelta

        return self.begun + timedelta(seconds=self.seconds)

    def pace(self, **more):
        return Pace(stop=self, clock=lambda: self.seconds, now=self.now, **more)


@pytest.mark.parametrize(
    ("night", "hour", "inside"),
    [
        ("22:00-06:00", "21:59", False),
        ("22:00-06:00", "22:00", True),
        ("22:00-06:00", "00:00", True),
        ("22:00-06:00", "05:59", True),
        ("22:00-06:00", "06:00", False),
        ("1:30-5:00", "01:30", True),
        ("1:30-5:00", "05:00", False),
    ],
)
def test_a_night_may_go_over_midnight(night, hour, inside):
    assert (datetime.fromisoformat(f"2026-01-01 {hour}") in Night(night)) is inside


@pytest.mark.parametrize("text", ["", "22-6", "22:00", "24:00-06:00", "22:00-22:00", "22:60-06:00", "a:b-c:d"])
def test_no_night(text):
    with pytest.raises(ValueError):
        Night(text)


def test_the_day_is_waited_for_to_end_and_that_is_said_once():
    clock, said = Clock("2026-01-01 21:00"), []
    pace = clock.pace(night=Night("22:00-06:00"), say=said.append)
    pace.before(10)
    assert clock.now() >= datetime.fromisoformat("2026-01-01 22:00")
    assert clock.now() < datetime.fromisoformat("2026-01-01 22:01")
    pace.before(10)
    assert said == ["waiting for the night: until 2026-01-01 22:00"]


def test_a_night_that_has_begun_is_not_waited_for():
    clock = Clock("2026-01-01 03:00")
    clock.pace(night=Night("22:00-06:00")).before(1)
    assert clock.seconds == 0
    assert Night("22:00-06:00").opens(clock.now()) == clock.now()


@pytest.mark.parametrize("rate", [0.5, 1.0, 7.0, 100.0])
def test_no_more_come_in_a_second_than_may(rate):
    clock = Clock()
    pace, asked = clock.pace(rate=rate), 0
    while asked < 500:
        pace.before(pace.batch)
        asked += pace.batch
        # At the moment of asking, everything before has had its time.
        assert asked - pace.batch <= rate * clock.seconds + 1e-6
    assert clock.seconds <= (asked + pace.batch) / rate


def test_without_a_rate_nothing_waits():
    clock = Clock()
    pace = clock.pace()
    for _ in range(10):
        pace.before(1000)
    assert clock.seconds == 0
    assert pace.batch == 64


def test_who_waits_can_be_stopped():
    clock = Clock()
    clock.set()
    for wait in (clock.pace().before, clock.pace(night=Night("22:00-06:00")).before, clock.pace().pause):
        with pytest.raises(Stopped):
            wait(1)
