"""What can be asked, on both databases."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

import pytest
from sqlalchemy import select
from sqlalchemy.exc import StatementError

from slicewise.db import questions, writes
from slicewise.db.models import Arrival, Instance, Job, Result
from slicewise.db.records import Header, Lane


def test_results_come_in_the_order_of_arrival_and_frame(desk):
    job = desk.submit("b", "a", "b")
    desk.claim(job)
    desk.record(job, "a", "b", frames=2)
    rows = desk.results(submission="s")
    assert [(row["source"][-1], row["frame"]) for row in rows] == [
        *(("b", 1), ("b", 2)),
        *(("a", 1), ("a", 2)),
        *(("b", 1), ("b", 2)),
    ]
    assert rows[0]["probabilities"] == {"glioma": 0.75, "no_tumor": 0.25}


def test_a_content_that_came_twice_has_one_row_a_result_and_its_first_source(desk):
    desk.done("b", "a", "b")
    desk.done("a", "c", submission="t")
    assert [(row["source"], row["job"]) for row in desk.results()] == [
        (row["source"], row["job"]) for row in [*desk.results(submission="s")[:2], *desk.results(submission="t")[1:]]
    ]
    assert [row["source"][-1] for row in desk.results(submission="t")] == ["a", "c"]


@pytest.mark.parametrize(
    ("asked", "found"),
    [
        ({}, "abcd"),
        ({"submission": "s"}, "abc"),
        ({"submission": "t"}, "da"),
        ({"submission": "t", "status": "labelled", "series": "1.a"}, "a"),
        ({"submission": "nobody's"}, ""),
        ({"status": "refused"}, "c"),
        ({"status": "labelled", "submission": "s"}, "ab"),
        ({"label": "pituitary"}, "b"),
        ({"study": "1.study"}, "ab"),
        ({"series": "1.a"}, "a"),
        ({"series": "1.a", "label": "pituitary"}, ""),
        ({"limit": 2}, "ab"),
        ({"limit": 0}, ""),
    ],
)
def test_results_can_be_narrowed(desk, asked, found):
    def header(name: str) -> Header:
        return Header(series_instance_uid=f"1.{name}", study_instance_uid="1.study", frames=1)

    job = desk.submit("a", "b", "c")
    desk.claim(job)
    desk.record(job, "a", header=header)
    desk.record(job, "b", header=header, label="pituitary")
    desk.refuse(job, "c")
    desk.done("d", "a", submission="t")
    assert "".join(row["source"][-1] for row in desk.results(**asked)) == found


def test_each_model_has_its_own_answers(desk):
    job = desk.submit("a", "b")
    desk.claim(job)
    desk.record(job, "a")
    desk.record(job, "a", model=desk.other_model, label="no_tumor")
    desk.refuse(job, "b")
    assert [row["label"] for row in desk.results(model=desk.model)] == ["glioma", None]
    assert [row["label"] for row in desk.results(model=desk.other_model)] == ["no_tumor", None]
    assert len(desk.results()) == 3


def test_another_model_or_preprocessing_has_answered_nothing(desk, sha):
    job = desk.done("a", "b")
    assert desk.unanswered(job) == []
    assert desk.unanswered(job, desk.other_model) == [sha("a"), sha("b")]
    assert desk.unanswered(job, questions.Model(desk.model.sha256, "p-2")) == [sha("a"), sha("b")]


def test_a_file_that_needed_no_model_is_refused_for_every_model_of_its_preprocessing(desk, sha):
    job = desk.submit("a")
    desk.claim(job)
    desk.refuse(job, "a")
    assert desk.unanswered(job, desk.other_model) == []
    assert desk.unanswered(job, questions.Model(desk.model.sha256, "p-2")) == [sha("a")]


def test_unanswered_contents_come_once_in_the_order_of_arrival(desk, sha):
    job = desk.submit("c", "a", "c", "b")
    assert desk.unanswered(job) == [sha("c"), sha("a"), sha("b")]


def test_progress_counts_every_arrival(desk):
    job = desk.submit("a", "a", "b")
    assert desk.progress() == questions.Progress(arrivals=3, answered=0, dead=0, jobs=1)
    desk.claim(job)
    desk.record(job, "a")
    assert desk.progress() == questions.Progress(arrivals=3, answered=2, dead=0, jobs=1)
    assert not desk.progress().finished
    desk.refuse(job, "b")
    assert not desk.progress().finished
    desk.finish(job)
    assert desk.progress().finished


def test_a_submission_whose_answers_all_stood_before_ends_with_its_job(desk):
    """Else a `run` would leave a job behind that waits for nothing."""
    desk.done("a")
    again = desk.submit("a", submission="t")
    assert desk.progress("t") == questions.Progress(arrivals=1, answered=1, dead=0, jobs=1)
    assert not desk.progress("t").finished
    desk.claim(again)
    desk.finish(again)
    assert desk.progress("t").finished


def test_progress_counts_a_dead_jobs_answers_as_answers(desk):
    job = desk.submit("a", "a", "b", "c")
    desk.submit("d")
    for _ in range(writes.MAX_ATTEMPTS):
        desk.claim(job)
        desk.record(job, "a")
        desk.fail(job)
    assert desk.progress() == questions.Progress(arrivals=5, answered=2, dead=2, jobs=1)
    assert not desk.progress().finished


def test_who_waits_for_another_models_answers_does_not_wait_for_ever(desk):
    desk.done("a", "b")
    assert desk.progress(model=desk.other_model) == questions.Progress(arrivals=2, answered=0, dead=2)
    assert desk.progress(model=desk.other_model).finished


def test_a_submission_of_nothing_is_finished(desk):
    assert desk.progress("nobody's").finished


def test_companions_wait_in_the_same_lane_for_their_first_attempt(desk):
    asked, second, urgent, failed, held, last = (
        desk.submit(name, lane=Lane.STAT if name == "c" else Lane.ROUTINE) for name in "abcdef"
    )
    desk.claim(failed)
    desk.fail(failed)
    desk.claim(held)
    with desk.database.writing() as session:
        assert questions.companions(session, asked, limit=10) == [second, last]
        assert questions.companions(session, asked, limit=1) == [second]
        assert questions.companions(session, urgent, limit=10) == []


def test_attempts_and_owners(desk):
    job, other = desk.submit("a"), desk.submit("b")
    desk.claim(job, "one", seconds=-1)
    desk.claim(job, "two")
    desk.claim(other, "two")
    with desk.database.reading() as session:
        assert questions.attempts(session, job) == 2
        assert questions.attempts(session, 12345) == 0
        assert questions.lease_owners(session) == ["two"]


def test_jobs_are_listed_newest_first(desk):
    done, dead, waiting = desk.done("a", "a"), desk.submit("b"), desk.submit("c")
    for _ in range(writes.MAX_ATTEMPTS):
        desk.claim(dead)
        desk.fail(dead)
    with desk.database.reading() as session:
        listed = questions.jobs(session)
        assert [(job["id"], job["status"], job["files"]) for job in listed] == [
            (waiting, "pending", 1),
            (dead, "dead", 1),
            (done, "done", 2),
        ]
        assert [job["id"] for job in questions.jobs(session, status="dead")] == [dead]
        assert len(questions.jobs(session, limit=2)) == 2
        assert questions.job_counts(session) == {"done": 1, "dead": 1, "pending": 1}


def test_every_time_has_its_zone(desk):
    job = desk.done("a")
    running = desk.submit("b")
    desk.claim(running)
    with desk.database.writing() as session:
        writes.rung(session, [job])
    with desk.database.reading() as session:
        stored = session.get(Job, job)
        times = [
            *(stored.created_at, stored.finished_at, stored.rung_at, session.get(Job, running).lease_until),
            *(
                session.scalar(select(column))
                for column in (Instance.created_at, Arrival.received_at, Result.created_at)
            ),
        ]
    assert all(time.utcoffset() == timedelta(0) for time in times)
    assert all(abs(time - datetime.now(UTC)) < timedelta(minutes=2) for time in times)
    assert desk.results()[0]["created_at"].endswith("+00:00")
    assert desk.job(job)["finished_at"].endswith("+00:00")


def test_a_time_without_a_zone_is_not_stored(desk):
    with pytest.raises(StatementError, match="without a zone"), desk.database.writing() as session:
        session.execute(select(Job).where(Job.created_at < datetime(2000, 1, 1)))  # noqa: DTZ001
