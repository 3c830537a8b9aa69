"""A job's life: what is written, by whom, and what is not written when something died in between."""

from __future__ import annotations

import subprocess
import sys
import threading
import time
import uuid
from concurrent.futures import ThreadPoolExecutor

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from sqlalchemy import func, select

from slicewise.db import writes
from slicewise.db.models import Arrival, Instance, Job, Result
from slicewise.db.records import Header, Lane


def count(database, table):
    with database.reading() as session:
        return session.scalar(select(func.count()).select_from(table))


# --- submit ----------------------------------------------------------------------------------------------------


def test_one_content_twice_in_a_job_is_one_instance_and_two_arrivals(desk):
    job = desk.submit("a", "a", "b")
    assert (count(desk.database, Instance), count(desk.database, Arrival)) == (2, 3)
    assert len(desk.unanswered(job)) == 2


def test_one_content_in_two_jobs_is_one_instance_and_two_arrivals(desk):
    first, second = desk.submit("a"), desk.submit("a")
    assert (count(desk.database, Instance), count(desk.database, Arrival), count(desk.database, Job)) == (1, 2, 2)
    assert desk.unanswered(first) == desk.unanswered(second)


def test_a_content_that_is_answered_is_answered_for_every_later_job(desk):
    desk.done("a", "b")
    again = desk.submit("a", "b", "c", submission="t")
    assert len(desk.unanswered(again)) == 1
    assert desk.progress("t").answered == 2


def test_a_submission_that_breaks_leaves_nothing(desk):
    with pytest.raises(KeyError), desk.database.writing() as session:
        writes.submit(session, [], way="submit", submission="s") and {}["what breaks"]
    assert count(desk.database, Job) == 0


def test_many_submitters_of_the_same_contents_do_not_hinder_each_other(desk):
    """In every order: two writers that take the same rows in another order would wait for each other for ever."""
    names = [f"n{i}" for i in range(50)]
    with ThreadPoolExecutor(4) as pool:
        jobs = list(pool.map(lambda turn: desk.submit(*names[turn:], *names[:turn]), range(0, 48, 4)))
    assert len(set(jobs)) == 12
    assert count(desk.database, Instance) == 50


# --- claim -----------------------------------------------------------------------------------------------------


def test_of_many_threads_one_gets_the_job(desk):
    job = desk.submit("a")
    start = threading.Barrier(8)

    def take(number: int) -> bool:
        start.wait()
        return desk.claim(job, f"worker {number}")

    with ThreadPoolExecutor(8) as pool:
        assert sum(pool.map(take, range(8))) == 1
    assert desk.job(job)["attempts"] == 1


_CLAIM = """
import os, sys
from slicewise.db import writes
from slicewise.db.engine import Database
database = Database(sys.argv[1])
jobs = [int(word) for word in sys.argv[2:]]
print("ready", flush=True)
sys.stdin.readline()
for job in jobs:
    with database.writing() as session:
        print(int(writes.claim(session, job, f"worker {os.getpid()}", 60)))
"""


def test_of_many_processes_one_gets_each_job(desk):
    jobs = [desk.submit(f"n{i}") for i in range(20)]
    url = desk.database.url.render_as_string(hide_password=False)
    started = [
        subprocess.Popen(
            [sys.executable, "-c", _CLAIM, url, *map(str, jobs)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        for _ in range(2)
    ]
    for process in started:
        assert process.stdout.readline() == "ready\n"
    for process in started:
        process.stdin.write("\n")
        process.stdin.flush()
    answers = [[int(line) for line in process.communicate(timeout=60)[0].split()] for process in started]
    assert [sum(taken) for taken in zip(*answers, strict=True)] == [1] * 20


def test_a_job_under_a_lease_is_left_alone(desk):
    job = desk.submit("a")
    assert desk.claim(job)
    assert not desk.claim(job, "another")
    assert not desk.claim(job, "another", abandoned=["somebody else"])


def test_a_lease_that_has_run_out_can_be_taken(desk):
    job = desk.submit("a")
    assert desk.claim(job, seconds=-1)
    assert desk.claim(job, "another")
    assert desk.job(job)["attempts"] == 2


def test_an_owner_that_is_gone_is_not_waited_for(desk):
    job = desk.submit("a")
    assert desk.claim(job, "dead")
    assert desk.claim(job, "another", abandoned=["dead"])


def test_a_job_that_does_not_exist_or_is_done_cannot_be_claimed(desk):
    assert not desk.claim(12345)
    assert not desk.claim(desk.done("a"))


# --- record ----------------------------------------------------------------------------------------------------


def test_a_file_has_one_outcome_whatever_two_workers_made_of_it(desk):
    """One labelled it; the other, whose decoding broke over it, refuses it: the first stands."""
    (first, second) = (desk.submit("a", submission=s) for s in "xy")
    desk.claim(first)
    desk.claim(second, owner="other")
    desk.record(first, "a")
    desk.refuse(second, "a", owner="other")
    assert [(row["frame"], row["status"]) for row in desk.results()] == [(1, "labelled")]


def test_progress_gives_back_attempts_but_never_all(desk):
    """Three power cuts are no reason to give up a job that comes a little further each time."""
    job = desk.submit("a", "b", "c", "d", "e", "f")
    for name in "abcde":
        assert desk.claim(job, owner=name, abandoned="abcde")
        desk.record(job, name, owner=name)
    assert desk.job(job)["attempts"] == 2
    for name in "xy":
        desk.claim(job, owner=name, abandoned="abcdexy")
    assert desk.job(job)["status"] == "dead"


def test_the_first_arrival_stands_whichever_is_decoded_first(desk):
    desk.submit("a", "b", "c")
    job = desk.submit("c", "a", "b")
    desk.claim(job)
    for name in "cab":
        desk.record(job, name, header=lambda _: Header(sop_instance_uid="1.2", frames=1))
    conflicts = {row["source"]: row["conflict"] for row in desk.results()}
    assert conflicts == {"/scans/a": False, "/scans/b": True, "/scans/c": True}


def test_two_workers_that_describe_one_uid_at_once_see_each_other(desk):
    names = [f"n{i}" for i in range(24)]
    jobs = [desk.submit(name) for name in names]

    def work(turn: int) -> None:
        desk.claim(jobs[turn], str(turn))
        header = Header(sop_instance_uid=f"1.{turn % 4}", frames=1)
        desk.record(jobs[turn], names[turn], owner=str(turn), header=lambda _: header)

    with ThreadPoolExecutor(8) as pool:
        list(pool.map(work, range(24)))
    assert [row["conflict"] for row in desk.results()].count(False) == 4


def test_what_is_recorded_twice_stands_once(desk):
    job = desk.submit("a", "b")
    desk.claim(job)
    desk.record(job, "a", "b", frames=3)
    before = desk.results()
    desk.record(job, "b", "a", frames=3, label="pituitary")
    assert desk.results() == before
    assert len(before) == 6


def test_whoever_lost_the_lease_writes_nothing(desk):
    job = desk.submit("a")
    desk.claim(job, "slow", seconds=-1)
    desk.claim(job, "quick")
    with pytest.raises(writes.LeaseLost):
        desk.record(job, "a", owner="slow")
    with pytest.raises(writes.LeaseLost):
        desk.finish(job, "slow")
    with pytest.raises(writes.LeaseLost), desk.database.writing() as session:
        writes.renew(session, job, "slow", 60)
    desk.fail(job, "slow")
    desk.release(job, "slow")
    assert count(desk.database, Result) == 0
    assert (desk.job(job)["status"], desk.job(job)["attempts"]) == ("running", 2)
    with desk.database.reading() as session:
        assert session.scalar(select(Instance.frames)) is None


def test_a_lease_that_ran_out_but_was_not_taken_still_counts(desk):
    job = desk.submit("a")
    desk.claim(job, seconds=-1)
    desk.record(job, "a")
    assert not desk.claim(job, "another")
    desk.finish(job)


def test_nothing_is_written_after_the_end(desk):
    job = desk.done("a")
    with pytest.raises(writes.LeaseLost):
        desk.record(job, "a")
    assert desk.job(job)["status"] == "done"


def test_writers_of_the_same_answers_do_not_wait_for_each_other_for_ever(desk):
    """The same contents in several jobs, in every order, recorded at the same time."""
    names = [f"n{i}" for i in range(40)]
    jobs = [desk.submit(*names) for _ in range(8)]

    def work(turn: int) -> None:
        mine = [*names[turn * 5 :], *names[: turn * 5]]
        desk.claim(jobs[turn], str(turn))
        for half in (mine[:20], mine[20:]):
            desk.record(jobs[turn], *half[:: (-1) ** turn], owner=str(turn))
        desk.finish(jobs[turn], str(turn))

    with ThreadPoolExecutor(4) as pool:
        list(pool.map(work, range(8)))
    assert count(desk.database, Result) == 40
    assert {desk.job(job)["status"] for job in jobs} == {"done"}


def test_a_second_content_under_one_uid_is_a_conflict_beside_the_first(desk, sha):
    job = desk.submit("a", "b", "c")
    desk.claim(job)
    for name, uid in (("a", "1.2"), ("b", "1.2"), ("c", "1.3")):
        desk.record(job, name, header=lambda _, uid=uid: Header(sop_instance_uid=uid, frames=1))
    desk.record(job, "a", header=lambda _: Header(sop_instance_uid="1.3", frames=1))
    assert [row["conflict"] for row in desk.results()] == [False, True, False]
    with desk.database.reading() as session:
        first, second = (session.scalar(select(Instance).where(Instance.content_sha256 == sha(name))) for name in "ab")
        assert second.conflicts_with == first.id
        assert first.sop_instance_uid == second.sop_instance_uid == "1.2"


def test_files_without_a_uid_conflict_with_nothing(desk):
    job = desk.submit("a", "b")
    desk.claim(job)
    desk.record(job, "a", "b", header=lambda _: Header(frames=1))
    assert [row["conflict"] for row in desk.results()] == [False, False]


@pytest.mark.parametrize("uid", ["1.2\0.3", "\0", "1" * 64, "Müller^Jörg", "\udcff"])
def test_no_header_value_breaks_a_job(desk, uid):
    """PostgreSQL's text cannot hold a NUL, nor a lone surrogate; a hostile header would take its neighbours along."""
    job = desk.submit("a", "b")
    desk.claim(job)
    desk.record(job, "a", "b", header=lambda _: Header(sop_instance_uid=uid, series_instance_uid=uid, frames=1))
    desk.finish(job)
    assert len(desk.results()) == 2


# --- the end of a job ------------------------------------------------------------------------------------------


def test_a_job_that_fails_waits_again_until_its_attempts_are_used_up(desk):
    job = desk.submit("a")
    for attempt in range(1, writes.MAX_ATTEMPTS + 1):
        assert desk.claim(job)
        desk.fail(job, reason=f"broke {attempt}")
        assert desk.job(job)["status"] == ("dead" if attempt == writes.MAX_ATTEMPTS else "pending")
        assert desk.job(job)["reason"] == f"broke {attempt}"
    assert not desk.claim(job)
    assert desk.job(job)["finished_at"]


def test_a_job_whose_workers_die_without_a_word_is_dead_in_the_end(desk):
    job = desk.submit("a")
    for _ in range(writes.MAX_ATTEMPTS):
        assert desk.claim(job, "doomed", abandoned=["doomed"])
    assert not desk.claim(job, "doomed", abandoned=["doomed"])
    found = desk.job(job)
    assert (found["status"], found["attempts"]) == ("dead", writes.MAX_ATTEMPTS)
    assert "the worker died 3 times" in found["reason"]
    assert desk.due(abandoned=["doomed"]) == []


def test_a_job_that_was_handed_back_has_used_no_attempt(desk):
    job = desk.submit("a")
    for _ in range(3 * writes.MAX_ATTEMPTS):
        assert desk.claim(job)
        desk.release(job)
    assert (desk.job(job)["status"], desk.job(job)["attempts"]) == ("pending", 0)


def test_a_dead_job_is_brought_back_with_all_its_attempts(desk):
    job = desk.submit("a")
    for _ in range(writes.MAX_ATTEMPTS):
        desk.claim(job)
        desk.fail(job)
    with desk.database.writing() as session:
        assert writes.retry(session, "me")
        assert not writes.retry(session, "me")
    assert desk.job(job)["finished_at"] is None
    assert desk.claim(job)
    desk.record(job, "a")
    desk.finish(job)
    assert (desk.job(job)["status"], desk.job(job)["reason"]) == ("done", None)


# --- the bell --------------------------------------------------------------------------------------------------


def test_only_jobs_that_nobody_hears_are_rung(desk):
    rung, running, orphaned, expired, fresh = (desk.submit(name) for name in "abcde")
    with desk.database.writing() as session:
        writes.rung(session, [rung])
    desk.claim(running, "alive")
    desk.claim(orphaned, "dead")
    desk.claim(expired, "slow", seconds=-1)
    desk.done("f")
    assert desk.due(abandoned=["dead"]) == [orphaned, expired, fresh]
    assert desk.due() == [expired, fresh]
    assert desk.due(quiet=-1) == [rung, expired, fresh]
    assert desk.due(limit=1) == [expired]


def test_a_job_whose_worker_died_is_rung_at_once_and_one_that_failed_rests(desk):
    """Its bell was heard by the dead; but what has just failed would mostly fail again."""
    died, failed = desk.submit("a"), desk.submit("b")
    with desk.database.writing() as session:
        writes.rung(session, [died, failed])
    desk.claim(died, "dead")
    desk.claim(failed)
    desk.fail(failed)
    assert desk.due(abandoned=["dead"]) == [died]
    assert desk.due(quiet=-1, abandoned=["dead"]) == [died, failed]


def test_what_is_due_names_its_lane(desk):
    job = desk.submit("a", lane=Lane.STAT)
    with desk.database.reading() as session:
        assert writes.due(session, Lane.STAT, 20) == [job]
        assert writes.due(session, Lane.ROUTINE, 20) == []


# --- keys ------------------------------------------------------------------------------------------------------


def test_a_uuid7_is_one_and_tells_its_time():
    before = time.time_ns() // 1_000_000
    made = uuid.UUID(writes.uuid7())
    assert (made.version, made.variant) == (7, uuid.RFC_4122)
    assert before <= made.int >> 80 <= time.time_ns() // 1_000_000


def test_uuid7s_are_unique_and_sort_by_time():
    together = {writes.uuid7() for _ in range(10_000)}
    assert len(together) == 10_000
    time.sleep(0.002)
    assert writes.uuid7() > max(together)


# --- all orders of events --------------------------------------------------------------------------------------


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None, max_examples=40)
@given(steps=st.lists(st.sampled_from(["claim", "take over", "record", "fail", "release", "finish"]), max_size=12))
def test_whatever_happens_to_a_job_its_books_balance(desk, steps):
    """No order of events counts an input twice, loses it, or leaves a job that is dead without being so called."""
    submission = writes.uuid7()
    job = desk.submit(f"{submission}a", f"{submission}b", submission=submission)
    owners = iter(range(100))
    me = f"worker {next(owners)}"
    for step in steps:
        try:
            if step == "claim":
                desk.claim(job, me)
            elif step == "take over":
                other = f"worker {next(owners)}"
                if desk.claim(job, other, abandoned=[me]):
                    me = other
            elif step == "record":
                desk.record(job, f"{submission}a", owner=me)
            else:
                getattr(desk, step)(job, me)
        except writes.LeaseLost:
            assert desk.job(job)["status"] != "running"
    found, progress = desk.job(job), desk.progress(submission)
    assert 0 <= found["attempts"] <= writes.MAX_ATTEMPTS
    assert len(desk.results(submission=submission)) == progress.answered <= 1
    over = found["status"] in {"done", "dead"}
    assert progress.dead == (2 - progress.answered if over else 0)
    assert progress.finished == over == (found["finished_at"] is not None)
