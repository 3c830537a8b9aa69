"""Group commit: everybody's contents in one transaction, and nobody told before."""

from __future__ import annotations

import hashlib
import threading
from concurrent.futures import ThreadPoolExecutor

import pytest
from sqlalchemy import func, select

from slicewise.db.models import Arrival, Audit, Job
from slicewise.db.records import Content, JobStatus
from slicewise.worker.errors import Retryable
from slicewise.worker.intake.receiving.committer import Committer, Sending


def content(name: str, source: str | None = None) -> Content:
    return Content(hashlib.sha256(name.encode()).hexdigest(), len(name), source or f"A@1/{name}")


@pytest.fixture
def bells() -> list[int]:
    return []


@pytest.fixture
def committer(database, bells) -> Committer:
    return Committer(database, lambda job, _lane: bells.append(job), job_files=3, quiet_seconds=60)


def jobs(database) -> list[tuple[str, int]]:
    """Status and number of files of each job."""
    with database.reading() as session:
        counted = select(Job.status, func.count(Arrival.id)).outerjoin(Arrival).group_by(Job.id).order_by(Job.id)
        return [tuple(row) for row in session.execute(counted)]


def test_what_was_added_is_committed(committer, database):
    committer.add(Sending("A@1"), "1.2", content("a"))
    with database.reading() as session:
        (arrival,) = session.scalars(select(Arrival))
        (audited,) = session.scalars(select(Audit))
    assert (arrival.way, arrival.sender, arrival.source) == ("receive", "A@1", "A@1/a")
    assert audited.actor == "A@1"


def test_each_series_has_its_job_until_it_is_full(committer, database, bells):
    sending = Sending("A@1")
    for number in range(8):
        committer.add(sending, f"1.{number % 2}", content(str(number)))
    assert jobs(database) == [("pending", 3), ("pending", 3), ("open", 1), ("open", 1)]
    assert len(bells) == 2
    committer.end(sending)
    assert {status for status, _ in jobs(database)} == {"pending"}
    assert len(set(bells)) == 4


def test_a_sending_that_mixes_many_series_has_few_open_jobs(committer, database):
    sending = Sending("A@1")
    for number in range(40):
        committer.add(sending, f"1.{number}", content(str(number)))
    found = [status for status, _ in jobs(database)]
    assert found == ["pending"] * 8 + ["open"] * 32


def test_a_job_that_was_closed_meanwhile_is_followed_by_another(committer, database):
    sending = Sending("A@1")
    committer.add(sending, None, content("a"))
    with database.writing() as session:
        session.get_one(Job, 1).status = JobStatus.PENDING
    committer.add(sending, None, content("b"))
    committer.add(sending, None, content("c"))
    assert jobs(database) == [("pending", 1), ("open", 2)]


def test_associations_that_send_at_once_do_not_mix(committer, database):
    def send(number: int) -> None:
        sending = Sending(f"A{number}@1")
        for file in range(6):
            committer.add(sending, "1.2", content(f"{number}-{file}"))
        committer.end(sending)

    with ThreadPoolExecutor(8) as pool:
        list(pool.map(send, range(8)))
    assert jobs(database) == [("pending", 3)] * 16
    with database.reading() as session:
        senders = select(func.count(Arrival.sender.distinct())).group_by(Arrival.job_id)
        assert set(session.scalars(senders)) == {1}


def test_those_who_wait_are_committed_together(committer, database, monkeypatch):
    """While one commit is held up, the others queue; the next one takes them all."""
    batches, first, go_on = [], threading.Event(), threading.Event()
    commit = committer._commit

    def slow(requests):
        batches.append(len(requests))
        first.set()
        go_on.wait(60)
        return commit(requests)

    monkeypatch.setattr(committer, "_commit", slow)
    with ThreadPoolExecutor(8) as pool:
        added = [pool.submit(committer.add, Sending("A@1"), "1.2", content("0"))]
        first.wait(60)
        added += [pool.submit(committer.add, Sending("A@1"), "1.2", content(str(n))) for n in range(1, 8)]
        while committer._requests.qsize() < 7:
            pass
        go_on.set()
        for one in added:
            one.result(60)
    assert batches == [1, 7]
    assert sum(files for _, files in jobs(database)) == 8


def test_one_that_the_database_refuses_harms_no_other(committer, database, monkeypatch):
    good, bad = Sending("A@1"), Sending("A@1")
    requests = threading.Barrier(2)

    def add(sending, one):
        requests.wait(60)
        committer.add(sending, "1.2", one)

    # Neither database takes this: it is no text.
    broken = Content(content("b").sha256, 1, object())  # type: ignore[arg-type]
    with ThreadPoolExecutor(2) as pool:
        sent = [pool.submit(add, good, content("a")), pool.submit(add, bad, broken)]
        sent[0].result(60)
        with pytest.raises(Retryable):
            sent[1].result(60)
    assert jobs(database) == [("open", 1)]
    committer.add(bad, "1.2", content("c"))
    assert jobs(database) == [("open", 1), ("open", 1)]


def test_a_database_that_is_away_is_said_and_forgotten_when_it_is_back(own_postgres, opened, wait_until):
    with opened(own_postgres.make()) as database:
        database.upgrade()
        committer, sending = Committer(database, lambda *_: None, job_files=3, quiet_seconds=60), Sending("A@1")
        committer.add(sending, "1.2", content("a"))
        own_postgres.stop()
        with pytest.raises(Retryable):
            committer.add(sending, "1.2", content("b"))
        with pytest.raises(Retryable):
            committer.end(sending)
        own_postgres.start()
        wait_until(own_postgres._answers)
        committer.add(sending, "1.2", content("b"))
        assert jobs(database) == [("open", 2)]
