"""A series is summarised when its submission has ended, and again when something changes; nothing old is overwritten."""

from __future__ import annotations

import threading

import pytest

from slicewise.db import accounting, summaries, writes
from slicewise.db.records import Header


def of(series):
    return lambda name: Header(
        sop_instance_uid=f"1.{name}", series_instance_uid=series, study_instance_uid="9", patient="p", frames=1
    )


@pytest.fixture
def end(desk):
    """Work through a job as a worker does, whose last step summarises."""

    def work(job, *names, series="5", owner="me", **more):
        desk.claim(job, owner=owner)
        desk.record(job, *names, owner=owner, header=of(series), **more)
        with desk.database.writing() as session:
            writes.finish(session, job, owner)
            return summaries.refresh(session, [job], desk.model)

    return work


@pytest.fixture
def listed(desk):
    def ask(model=None, **asked):
        with desk.database.reading() as session:
            return list(summaries.summaries(session, model or desk.model, **asked))

    return ask


def test_a_series_is_counted_by_what_became_of_its_slices(desk, end, listed):
    assert end(desk.submit("a", "b"), "a", "b") == 1
    (row,) = listed()
    told = {key: row[key] for key in ("series_instance_uid", "study_instance_uid", "patient", "revision", "files")}
    assert told == {
        "series_instance_uid": "5",
        "study_instance_uid": "9",
        "patient": "p",
        "revision": 1,
        "files": 2,
    }
    assert (row["labelled"], row["abstained"], row["refused"], row["labels"]) == (2, 0, 0, {"glioma": 2})
    assert row["superseded_at"] is None


@pytest.mark.parametrize(
    ("labels", "abstained", "said"),
    [
        ({}, 0, None),
        ({}, 5, None),
        ({"no_tumor": 20}, 5, "no_tumor"),
        ({"no_tumor": 20}, 6, None),
        ({"no_tumor": 18, "glioma": 2}, 0, None),
        ({"no_tumor": 17, "glioma": 3}, 9, "glioma"),
        ({"no_tumor": 197, "glioma": 3}, 0, None),
        ({"no_tumor": 190, "glioma": 10}, 0, "glioma"),
        ({"glioma": 4, "meningioma": 3}, 0, "glioma"),
        ({"glioma": 4, "meningioma": 4}, 0, None),
        ({"glioma": 4, "meningioma": 3, "pituitary": 1}, 0, None),
        ({"pituitary": 1}, 0, "pituitary"),
        ({"pituitary": 1, "no_tumor": 1}, 0, None),
    ],
)
def test_the_verdict_on_a_series(labels, abstained, said):
    assert summaries.verdict(labels, abstained) == said


def test_a_verdict_names_the_slices_that_it_rests_on(desk, end, listed, sha):
    end(desk.submit("a", "b", "c"), "a", "b", "c")
    end(desk.submit("d", submission="t"), "d", label="pituitary")
    (row,) = listed()
    assert row["verdict"] == "glioma"
    with desk.database.reading() as session:
        grounds = summaries.rests_on(session, desk.model, "5", "glioma")
        assert summaries.rests_on(session, desk.model, "6", "glioma") == []
    assert {one["content_sha256"] for one in grounds} == {sha(name) for name in "abc"}
    assert {(one["sop_instance_uid"], one["frame"]) for one in grounds} == {("1.a", 1), ("1.b", 1), ("1.c", 1)}


def test_late_slices_supersede_the_summary_visibly(desk, end, listed):
    end(desk.submit("a"), "a")
    assert end(desk.submit("late", submission="t"), "late", label="pituitary") == 1
    (newest,) = listed()
    assert (newest["revision"], newest["labels"]) == (2, {"glioma": 1, "pituitary": 1})
    both = listed(superseded=True)
    assert [row["revision"] for row in both] == [2, 1]
    assert both[1]["labels"] == {"glioma": 1}
    assert both[1]["superseded_at"] == newest["created_at"]


def test_the_timeline_of_a_file_has_the_summaries_of_its_series(desk, end, sha):
    end(desk.submit("a"), "a")
    end(desk.submit("late", submission="t"), "late")
    with desk.database.reading() as session:
        told = [event.detail for event in accounting.timeline(session, sha("a")) if event.event == "series summarised"]
    assert told == ["revision 1: 1 labelled, 0 abstained, 0 refused", "revision 2: 2 labelled, 0 abstained, 0 refused"]


def test_what_comes_twice_changes_nothing(desk, end, listed):
    end(desk.submit("a"), "a")
    assert end(desk.submit("a", submission="t"), "a") == 0
    assert [row["revision"] for row in listed(superseded=True)] == [1]


def test_a_second_content_of_one_uid_is_not_counted(desk, end, listed):
    end(desk.submit("a"), "a")
    job = desk.submit("b", submission="t")
    desk.claim(job)
    desk.record(job, "b", header=lambda _name: of("5")("a"))
    desk.finish(job)
    with desk.database.writing() as session:
        assert summaries.refresh(session, [job], desk.model) == 0
    assert [row["files"] for row in listed()] == [1]


def test_nothing_is_summarised_while_the_submission_goes_on(desk, end, listed):
    first, second = desk.submit("a"), desk.submit("b")
    assert end(first, "a") == 0
    assert listed() == []
    assert end(second, "b") == 1
    assert [row["files"] for row in listed()] == [2]


def test_a_dead_job_does_not_keep_the_others_waiting(desk, end, listed):
    dead, job = desk.submit("x"), desk.submit("a")
    end(job, "a")
    for _ in range(writes.MAX_ATTEMPTS):
        desk.claim(dead)
        desk.fail(dead)
    with desk.database.writing() as session:
        assert summaries.refresh(session, [dead], desk.model) == 1
    assert [row["labelled"] for row in listed()] == [1]


def test_jobs_that_end_at_the_same_time_are_summarised_once(desk, end, listed):
    names = "abcdefgh"
    jobs = [desk.submit(name) for name in names]
    threads = [
        threading.Thread(target=end, args=(job, name), kwargs={"owner": name})
        for job, name in zip(jobs, names, strict=True)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert [(row["revision"], row["labelled"]) for row in listed(superseded=True)] == [(1, 8)]


def test_submissions_of_one_series_that_end_at_the_same_time_write_one_revision_each(desk, end, listed):
    names = "abcdefgh"
    jobs = [desk.submit(name, submission=name) for name in names]
    broken = []

    def work(job, name):
        try:
            end(job, name, owner=name)
        except Exception as error:
            broken.append(error)

    threads = [threading.Thread(target=work, args=words) for words in zip(jobs, names, strict=True)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert broken == []
    rows = listed(superseded=True)
    assert [row["revision"] for row in rows] == list(range(len(rows), 0, -1))
    assert [row["labelled"] for row in listed()] == [8]


def test_every_model_has_its_own(desk, end, listed):
    end(desk.submit("a"), "a")
    assert listed(desk.other_model) == []


@pytest.mark.parametrize("asked", [{"series": "5"}, {"study": "9"}, {"patient": "p"}])
def test_summaries_are_asked_for_by_what_they_are_of(desk, end, listed, asked):
    end(desk.submit("a"), "a")
    end(desk.submit("b", submission="t"), "b", series="6")
    assert len(listed(**asked)) == (1 if "series" in asked else 2)
    assert listed(**dict.fromkeys(asked, "unknown")) == []
    assert [row["series_instance_uid"] for row in listed(limit=1)] == ["6"]
