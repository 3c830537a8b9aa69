"""Open jobs: a folder's files in one job, none too large, none open for ever."""

from __future__ import annotations

import hashlib
from contextlib import suppress

import pytest

from slicewise.db import questions, writes
from slicewise.db.records import Content, Lane
from slicewise.worker.intake.gathering import Gathering


@pytest.fixture
def desk(database):
    """A gathering whose every step is a transaction, on a clock that a test moves."""

    class Desk:
        def __init__(self) -> None:
            self.now = 0.0
            self.gathering = Gathering(
                way="watch", sender=None, lane=Lane.ROUTINE, job_files=3, quiet_seconds=10, clock=lambda: self.now
            )

        def add(self, folder, *names):
            with database.writing() as session:
                contents = [Content(hashlib.sha256(n.encode()).hexdigest(), 1, n) for n in names]
                return [job for job, _ in self.gathering.add(session, folder, contents)]

        def close(self, folders=None):
            with database.writing() as session:
                return [job for job, _ in self.gathering.close(session, folders)]

        def jobs(self):
            with database.reading() as session:
                found = sorted(questions.jobs(session), key=lambda job: job["id"])
            return [(job["status"], job["files"]) for job in found]

        def submissions(self):
            with database.reading() as session:
                return len({job["submission"] for job in questions.jobs(session)})

    return Desk()


def test_a_folder_s_files_share_a_job(desk):
    desk.add("a", "1")
    desk.add("b", "2")
    desk.add("a", "3")
    assert desk.jobs() == [("open", 2), ("open", 1)]
    assert desk.submissions() == 2


def test_a_full_job_is_closed_to_be_rung_and_the_next_is_of_the_same_submission(desk):
    assert desk.add("a", *"1234567") == [1, 2]
    assert desk.jobs() == [("pending", 3), ("pending", 3), ("open", 1)]
    assert desk.submissions() == 1
    assert desk.add("a", "8", "9") == [3]
    assert desk.jobs()[-1] == ("pending", 3)


def test_a_quiet_folder_s_job_is_closed(desk):
    desk.add("a", "1")
    desk.now = 5
    desk.add("b", "2")
    desk.now = 11
    assert desk.gathering.quiet() == ["a"]
    assert desk.close(desk.gathering.quiet()) == [1]
    assert desk.gathering.quiet() == []
    desk.add("a", "3")
    assert desk.jobs() == [("pending", 1), ("open", 1), ("open", 1)]
    assert desk.submissions() == 3


def test_a_folder_that_is_never_quiet_does_not_keep_its_job_for_ever(desk):
    gathering = desk.gathering
    gathering._most = 1000
    for second in range(0, 70, 5):
        desk.now = second
        desk.add("a", str(second))
        if gathering.quiet():
            break
    assert 60 < desk.now <= 65
    assert desk.close(gathering.quiet()) == [1]


def test_a_job_that_somebody_else_closed_is_followed_by_another(desk, database):
    desk.add("a", "1", "2")
    with database.writing() as session:
        writes.close(session, [1])
    desk.add("a", "3", "4")
    assert desk.jobs() == [("pending", 2), ("open", 2)]
    assert desk.close() == [2]


def test_what_was_not_committed_is_forgotten(desk, database):
    """The number of a job that was rolled back may be given to somebody else's."""
    with suppress(ConnectionError), database.writing() as session:
        desk.gathering.add(session, "a", [Content("0" * 64, 1, "x")])
        raise ConnectionError
    desk.gathering.reset()
    with database.writing() as session:
        other = writes.collect(session, [], way="receive", submission="s", quiet_seconds=60)
    desk.add("a", "1")
    assert desk.jobs()[0] == ("open", 0)
    assert other == 1 or desk.jobs()[-1] == ("open", 1)


def test_closing_nothing_is_nothing(desk):
    assert desk.close() == []
