"""Where a file stands and what happened to it, whatever did happen."""

from __future__ import annotations

import pytest
from sqlalchemy import select

from slicewise.db import accounting, questions, writes
from slicewise.db.accounting import State
from slicewise.db.models import Audit
from slicewise.db.records import Content, Header


@pytest.fixture
def stands(desk, sha):
    def ask(name, model=None):
        with desk.database.reading() as session:
            return accounting.standings(session, [sha(name)], model or desk.model)[sha(name)]

    return ask


@pytest.fixture
def told(desk, sha):
    def ask(name):
        with desk.database.reading() as session:
            return [event.event for event in accounting.timeline(session, sha(name))]

    return ask


def uid(desk, job):
    return desk.job(job)["job"]


def die(desk, job):
    for _ in range(writes.MAX_ATTEMPTS):
        desk.claim(job)
        desk.fail(job, reason="it broke")


# --- standings by UID ------------------------------------------------------------------------------------------


def by_uid(desk, *uids):
    with desk.database.reading() as session:
        return accounting.standings_by_uid(session, uids, desk.model)


def test_a_uid_stands_where_its_best_content_stands(desk):
    first = desk.submit("a", "b")
    desk.claim(first)
    desk.record(first, "a", header=lambda _name: Header(sop_instance_uid="1.7", frames=1))
    desk.fail(first)
    assert by_uid(desk, "1.7", "1.8").keys() == {"1.7"}
    assert by_uid(desk, "1.7")["1.7"].state is State.LABELLED
    again = Content("c" * 64, 1, "elsewhere", sop_instance_uid="1.7")
    with desk.database.writing() as session:
        writes.submit(session, [again], way="receive", submission="t")
    assert by_uid(desk, "1.7")["1.7"].state is State.LABELLED


def test_a_uid_that_came_with_its_content_waits_and_outlives_a_refusal(desk, sha):
    content = Content(sha("a"), 1, "PACS", sop_instance_uid="1.9", series_instance_uid="1.2")
    with desk.database.writing() as session:
        job = writes.submit(session, [content], way="receive", submission="s")
    assert by_uid(desk, "1.9")["1.9"].state is State.WAITING
    desk.claim(job)
    desk.refuse(job, "a")
    assert by_uid(desk, "1.9")["1.9"].state is State.REFUSED
    assert [row["series_instance_uid"] for row in desk.results()] == ["1.2"]


def test_many_uids_are_asked_for_at_once(desk):
    desk.done(*map(str, range(1100)))
    assert len(by_uid(desk, *(f"1.{number}" for number in range(1200)))) == 1100


# --- standings -------------------------------------------------------------------------------------------------


def test_a_content_goes_from_missing_over_waiting_to_its_outcome(desk, stands):
    assert stands("a").state is State.MISSING
    job = desk.submit("a")
    assert stands("a").state is State.WAITING
    assert stands("a").since
    desk.claim(job)
    assert stands("a").state is State.WAITING
    desk.record(job, "a")
    assert stands("a").state is State.LABELLED


def test_a_refused_content_has_its_reason(desk, stands):
    job = desk.submit("a")
    desk.claim(job)
    desk.refuse(job, "a")
    assert (stands("a").state, stands("a").detail) == (State.REFUSED, "unreadable")


def test_a_content_of_a_dead_job_is_dead_until_it_waits_again_or_is_dropped(desk, stands):
    first, second = desk.submit("a"), desk.submit("b")
    die(desk, first)
    die(desk, second)
    assert (stands("a").state, stands("a").detail) == (State.DEAD, "it broke")
    with desk.database.writing() as session:
        assert writes.retry(session, "me", [uid(desk, first)]) == 1
        assert writes.drop(session, "me", [uid(desk, second)]) == 1
    assert (stands("a").state, stands("b").state) == (State.WAITING, State.DROPPED)
    assert not desk.claim(second)
    assert desk.due(quiet=-1) == [first]


def test_what_may_still_end_well_counts_before_what_is_dead(desk, stands):
    die(desk, desk.submit("a"))
    again = desk.submit("a")
    assert stands("a").state is State.WAITING
    desk.claim(again)
    desk.record(again, "a")
    assert stands("a").state is State.LABELLED


def test_what_only_another_model_has_seen_is_missing_and_says_so(desk, stands):
    desk.done("a")
    standing = stands("a", desk.other_model)
    assert standing.state is State.MISSING
    assert "another model" in standing.detail


def test_a_file_of_many_frames_stands_where_its_best_frame_stands(desk, stands):
    job = desk.submit("a")
    desk.claim(job)
    desk.record(job, "a", frames=3)
    assert stands("a").state is State.LABELLED


def test_many_contents_are_asked_for_at_once(desk, sha):
    names = [f"n{number}" for number in range(1203)]
    desk.submit(*names[:1200])
    with desk.database.reading() as session:
        found = accounting.standings(session, [sha(name) for name in names], desk.model)
    assert list(found) == [sha(name) for name in names]
    assert [standing.state for standing in found.values()] == [State.WAITING] * 1200 + [State.MISSING] * 3


# --- the timeline ----------------------------------------------------------------------------------------------


def test_every_attempt_is_told(desk, told):
    job = desk.submit("a")
    desk.claim(job, "host|boot|ns|1|1")
    desk.fail(job, "host|boot|ns|1|1")
    desk.claim(job, "host|boot|ns|2|1", seconds=-1)
    desk.claim(job, "host|boot|ns|3|1")
    desk.release(job, "host|boot|ns|3|1")
    desk.claim(job, "me")
    desk.record(job, "a")
    desk.finish(job)
    assert [event for event in told("a") if event.startswith("attempt ")] == [
        *("attempt began", "attempt failed"),
        *("attempt began", "attempt died"),
        *("attempt began", "attempt handed back"),
        *("attempt began", "attempt done"),
    ]
    assert {"arrived", "sent", "labelled", "job done"} <= set(told("a"))


def test_who_loses_a_race_for_a_job_ends_nobodys_attempt(desk, told):
    job = desk.submit("a")
    desk.claim(job, "first")
    assert not desk.claim(job, "second")
    assert [event for event in told("a") if event.startswith("attempt ")] == ["attempt began"]


def test_the_third_death_is_told_with_the_job_s_own(desk, told):
    job = desk.submit("a")
    for _ in range(writes.MAX_ATTEMPTS + 1):
        desk.claim(job, "doomed", abandoned=["doomed"])
    assert told("a").count("attempt died") == writes.MAX_ATTEMPTS
    assert "job dead" in told("a")


def test_a_second_content_for_one_uid_is_told(desk, told):
    desk.done("a")
    job = desk.submit("b")
    desk.claim(job)
    desk.record(job, "b", header=lambda _name: writes.Header(sop_instance_uid="1.a", frames=1))
    assert "conflict" in told("b")
    assert "conflict" not in told("a")


def test_a_content_goes_by_its_hash_its_uid_and_its_job(desk, sha):
    job = desk.done("a", "b")
    with desk.database.reading() as session:
        for name, contents in ((sha("a"), ["a"]), ("1.b", ["b"]), (uid(desk, job), ["a", "b"]), ("nothing", [])):
            assert accounting.contents_named(session, name) == [sha(content) for content in contents]


# --- the audit -------------------------------------------------------------------------------------------------


def test_the_audit_says_who_sent_retried_and_dropped(desk):
    jobs = [desk.submit(name) for name in "abc"]
    for job in jobs:
        die(desk, job)
    with desk.database.writing() as session:
        assert writes.retry(session, "anna", [uid(desk, jobs[0])]) == 1
        assert writes.drop(session, "bert") == 2
        assert writes.retry(session, "carl") == 0
    with desk.database.reading() as session:
        entries = session.execute(select(Audit.actor, Audit.action, Audit.subject).order_by(Audit.id)).all()
    assert [(actor, action) for actor, action, _ in entries] == [
        *[("submit", "sent")] * 3,
        ("anna", "retried"),
        *[("bert", "dropped")] * 2,
    ]
    assert [subject for _, _, subject in entries[3:]] == [uid(desk, job) for job in jobs]


def test_dead_jobs_are_listed_page_by_page(desk):
    jobs = [desk.submit(str(number)) for number in range(7)]
    for job in jobs:
        die(desk, job)
    with desk.database.reading() as session:
        first = questions.jobs(session, status="dead", limit=4)
        second = questions.jobs(session, status="dead", limit=4, before=first[-1]["job"])
    assert [row["id"] for row in first + second] == jobs[::-1]


# --- open jobs -------------------------------------------------------------------------------------------------


@pytest.fixture
def collect(desk, sha):
    def add(name, job=None, quiet=60):
        with desk.database.writing() as session:
            contents = [Content(sha(name), 1, name)]
            return writes.collect(
                session, contents, way="receive", submission="s", quiet_seconds=quiet, sender="ae@host", job_id=job
            )

    return add


def test_an_open_job_takes_what_comes_and_waits_when_it_is_closed(desk, collect):
    job = collect("a")
    assert collect("b", job) == job
    assert desk.job(job)["status"] == "open"
    assert not desk.claim(job)
    assert desk.due(quiet=-1) == []
    with desk.database.writing() as session:
        assert writes.close(session, [job]) == [(job, "routine")]
        assert writes.close(session, [job]) == []
    assert desk.due() == [job]
    assert desk.claim(job)
    assert len(desk.unanswered(job)) == 2


def test_what_comes_after_the_close_opens_another_job(desk, collect):
    job = collect("a")
    with desk.database.writing() as session:
        writes.close(session, [job])
    late = collect("b", job)
    assert late != job
    assert desk.job(late)["status"] == "open"


def test_only_jobs_that_are_quiet_close_by_themselves(desk, collect):
    quiet, busy = collect("a", quiet=-1), collect("b", quiet=60)
    with desk.database.reading() as session:
        assert questions.quiet_jobs(session) == 1
    with desk.database.writing() as session:
        assert writes.close(session) == [(quiet, "routine")]
    assert desk.job(busy)["status"] == "open"


def test_each_arrival_puts_the_close_off(desk, collect):
    job = collect("a", quiet=-1)
    collect("b", job, quiet=60)
    with desk.database.writing() as session:
        assert writes.close(session) == []


# --- a worker that hangs ---------------------------------------------------------------------------------------


def test_jobs_are_unheard_only_where_nobody_is_at_work(desk):
    def unheard(seconds=-1):
        with desk.database.reading() as session:
            return questions.unheard(session, seconds)

    assert unheard() == 0
    first, second = desk.submit("a"), desk.submit("b")
    assert (unheard(), unheard(60)) == (2, 0)
    desk.claim(first)
    assert unheard() == 0
    desk.fail(first)
    assert (unheard(), unheard(60)) == (2, 0)
    for job in (first, second):
        desk.claim(job)
        desk.finish(job)
    assert unheard() == 0
