"""One worker's work, without Celery: what it writes, and what is left when it dies."""

from __future__ import annotations

import dataclasses
import os
import signal
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor

import pytest
from sqlalchemy import update

from slicewise.db import questions, writes
from slicewise.db.models import Job
from slicewise.db.reasons import RefusalReason
from slicewise.worker import isolated, pipeline, sample
from slicewise.worker.errors import Refused
from slicewise.worker.intake.spool import Spool
from slicewise.worker.queue import work
from slicewise.worker.queue.work import Work


def test_every_file_has_its_rows(shop, write_study, tmp_path):
    submission = shop.submit(write_study(tmp_path / "s", 30))
    assert shop.worker().on_job(submission.jobs[0]) == []
    rows = shop.rows(submission.uid)
    assert [row[0][:4] for row in rows] == [f"{n:04}" for n in range(30)]
    assert [row[3] for row in rows] == ["refused" if n % 10 == 9 else "labelled" for n in range(30)]
    assert shop.job(submission.jobs[0])["status"] == "done"


def test_the_sample_study_shows_what_its_manifest_says(shop):
    submission = shop.submit(sample.STUDY)
    shop.worker().on_job(submission.jobs[0])
    assert len({row[0] for row in shop.rows()}) == submission.arrivals == len(list(sample.STUDY.iterdir()))
    assert {row[3] for row in shop.rows()} == {"labelled", "refused"}


def test_a_second_run_adds_no_row(shop, write_study, tmp_path):
    folder = write_study(tmp_path / "s", 12)
    first = shop.submit(folder)
    shop.worker().on_job(first.jobs[0])
    rows = shop.rows()
    second = shop.submit(folder, folder / "0000.dcm")
    shop.worker().on_job(second.jobs[0])
    shop.worker().on_job(first.jobs[0])
    assert shop.rows() == rows
    assert len(shop.rows(second.uid)) == 13
    assert shop.count() == 12


def test_a_job_that_is_done_held_or_nowhere_is_left_alone(shop, write_study, tmp_path):
    worker = shop.worker()
    (done,) = shop.submit(write_study(tmp_path / "s", 2)).jobs
    worker.on_job(done)
    (held,) = shop.submit(write_study(tmp_path / "t", 3)).jobs
    with shop.database.writing() as session:
        assert writes.claim(session, held, "another host's worker", 60)
    for job in (done, held, 12345):
        assert worker.on_job(job) == []
    assert shop.job(held)["status"] == "running"
    assert shop.count() == 2


def test_small_jobs_are_worked_on_together(shop, write_dicom, tmp_path, monkeypatch):
    for n in range(6):
        write_dicom(tmp_path / "s" / f"{n}.dcm", seed=n)
    jobs = shop.submit(tmp_path / "s", job_files=1).jobs
    calls = []
    assess = pipeline.assess
    monkeypatch.setattr(
        pipeline,
        "assess",
        lambda model, files, **more: calls.append(files := list(files)) or assess(model, files, **more),
    )
    shop.worker().on_job(jobs[0])
    assert [len(files) for files in calls] == [6]
    assert {shop.job(job)["status"] for job in jobs} == {"done"}


def test_a_batch_of_jobs_is_no_larger_than_a_job_may_be(shop, write_dicom, tmp_path):
    for n in range(9):
        write_dicom(tmp_path / "s" / f"{n}.dcm", seed=n)
    jobs = shop.submit(tmp_path / "s", job_files=2).jobs
    shop.settings = dataclasses.replace(shop.settings, job_files=5)
    shop.worker().on_job(jobs[0])
    assert [shop.job(job)["status"] for job in jobs] == ["done", "done", "done", "pending", "pending"]


def test_a_uid_that_comes_again_with_other_bytes_is_a_conflict(shop, brain, write_dicom, tmp_path):
    write_dicom(tmp_path / "s" / "a.dcm", brain(0), SOPInstanceUID="1.2.3")
    write_dicom(tmp_path / "s" / "b.dcm", brain(1), SOPInstanceUID="1.2.3")
    submission = shop.submit(tmp_path / "s")
    shop.worker().on_job(submission.jobs[0])
    with shop.database.reading() as session:
        rows = list(questions.results(session))
    assert [row["status"] for row in rows] == ["labelled"] * 2
    assert sorted(row["conflict"] for row in rows) == [False, True]


def test_a_hostile_header_costs_no_neighbour(shop, write_dicom, tmp_path):
    """A NUL inside a UID: PostgreSQL's text cannot hold one."""
    write_dicom(tmp_path / "s" / "a.dcm", SeriesInstanceUID="1.2\0.3", StudyInstanceUID="9" * 200)
    write_dicom(tmp_path / "s" / "b.dcm", seed=1)
    submission = shop.submit(tmp_path / "s")
    shop.worker().on_job(submission.jobs[0])
    assert [row[3] for row in shop.rows()] == ["labelled", "labelled"]


@pytest.fixture
def together(monkeypatch):
    """No decoding in isolation, which is slow, where a second attempt is about something else."""
    monkeypatch.setattr(isolated, "prepare", pipeline.prepare)


# --- accidents -------------------------------------------------------------------------------------------------

_DIES = """
import os, signal, sys
from slicewise.db import writes
from slicewise.worker.queue import work
from slicewise.worker.settings import Settings

moment, job = sys.argv[1], int(sys.argv[2])
work._CHUNK_FILES, work._CHUNK_SECONDS = 2, 60
def dying(step, before, times=1):
    def called(*given, **named):
        nonlocal times
        times -= 1
        if before and times < 0:
            os.kill(os.getpid(), signal.SIGKILL)
        done = step(*given, **named)
        if not before and times < 0:
            os.kill(os.getpid(), signal.SIGKILL)
        return done
    return called

if moment == "after the claim":
    work.Work._work_through = dying(work.Work._work_through, True, 0)
elif moment == "inside a transaction":
    writes.record = dying(writes.record, False)
elif moment == "between two chunks":
    work.Work._record = dying(work.Work._record, False)
elif moment == "before the end":
    writes.finish = dying(writes.finish, True, 0)
work.Work(Settings.from_environment()).on_job(job)
"""


@pytest.mark.parametrize(
    ("moment", "written"),
    [("after the claim", 0), ("inside a transaction", 2), ("between two chunks", 4), ("before the end", 6)],
)
def test_a_worker_that_is_killed_is_taken_over_at_once(
    shop, undisturbed, write_study, tmp_path, together, moment, written
):
    """Whatever the moment: another worker ends the job, with the same rows as if nothing had happened."""
    folder = write_study(tmp_path / "s", 6)
    (job,) = shop.submit(folder).jobs
    died = shop.elsewhere(_DIES, moment, job, check=False)
    assert died.returncode == -signal.SIGKILL, died.stderr
    assert shop.job(job)["status"] == "running"
    assert shop.count() == written
    shop.worker().on_job(job)
    assert (shop.job(job)["status"], shop.job(job)["attempts"]) == ("done", 2)
    assert shop.rows() == undisturbed(folder)


@pytest.mark.parametrize("database", ["sqlite"], indirect=True)
def test_a_file_that_kills_its_worker_is_refused_and_its_neighbours_are_not(shop, write_study, tmp_path, poison):
    folder = write_study(tmp_path / "s", 5)
    poison(folder / "0002.jpg")
    (job,) = shop.submit(folder).jobs
    script = "import sys; from slicewise.worker.queue.work import *; Work(Settings.from_environment()).on_job(int(sys.argv[1]))"
    assert shop.elsewhere(script, job, check=False).returncode == -signal.SIGSEGV
    shop.elsewhere(script, job)
    assert [(row[0], row[3], row[5]) for row in shop.rows()] == [
        ("0000.dcm", "labelled", None),
        ("0001.dcm", "labelled", None),
        ("0002.jpg", "refused", "killed_the_worker"),
        ("0003.dcm", "labelled", None),
        ("0004.dcm", "labelled", None),
    ]
    assert shop.job(job)["status"] == "done"


def test_a_worker_that_is_asked_to_stop_hands_back_after_the_file_at_hand(shop, undisturbed, write_study, tmp_path):
    folder = write_study(tmp_path / "s", 8)
    (job,) = shop.submit(folder).jobs
    for left in (7, 6, 5, 4, 3, 2, 1):
        # Asked again and again: that is no failure of the job's.
        assert shop.worker(stopping=lambda: True).on_job(job) == [job]
        assert (shop.job(job)["status"], shop.job(job)["attempts"]) == ("pending", 0)
        assert shop.count() == 8 - left
    assert shop.worker().on_job(job) == []
    assert shop.rows() == undisturbed(folder)


def test_what_died_under_one_model_is_tried_again_under_the_next(shop, write_study, tmp_path, monkeypatch):
    """A refusal of the network's own kind stands under that model alone."""
    (job,) = shop.submit(write_study(tmp_path / "s", 1)).jobs
    killed = pipeline.Prepared(refusal=Refused(RefusalReason.KILLED_THE_WORKER, "it crashed"))
    monkeypatch.setattr(pipeline, "prepare", lambda _path: killed)
    worker = shop.worker()
    worker.on_job(job)
    with shop.database.reading() as session:
        assert questions.unanswered(session, job, worker.version) == []
        assert len(questions.unanswered(session, job, dataclasses.replace(worker.version, sha256="0" * 64))) == 1


def test_only_a_job_that_died_is_isolated_and_it_is_worked_on_alone(shop, write_dicom, tmp_path, monkeypatch):
    for n in range(3):
        write_dicom(tmp_path / "s" / f"{n}.dcm", seed=n)
    suspect, *others = shop.submit(tmp_path / "s", job_files=1).jobs
    with shop.database.writing() as session:
        writes.claim(session, suspect, "dead", -1)
    decoded = []
    monkeypatch.setattr(isolated, "prepare", lambda path: decoded.append(path) or pipeline.prepare(path))
    worker = shop.worker()
    worker.on_job(suspect)
    assert (len(decoded), shop.count()) == (1, 1)
    worker.on_job(others[0])
    assert (len(decoded), shop.count()) == (1, 3)


def test_a_job_that_breaks_waits_with_its_reason_and_is_dead_in_the_end(
    shop, write_dicom, tmp_path, together, monkeypatch
):
    (job,) = shop.submit(write_dicom(tmp_path / "a.dcm")).jobs
    worker = shop.worker()
    with monkeypatch.context() as broken:
        # onnxruntime's own errors cannot be made to come: a model that breaks stands in for them.
        broken.setattr(type(worker._model), "score", lambda *_: {}["no such thing"])
        for attempt in (1, 2, 3):
            with pytest.raises(KeyError):
                worker.on_job(job)
            found = shop.job(job)
            assert (found["status"], found["attempts"]) == ("dead" if attempt == 3 else "pending", attempt)
            assert found["reason"].startswith("KeyError in test_work.py:")
        assert worker.on_job(job) == []
    with shop.database.writing() as session:
        assert writes.retry(session, "me")
    worker.on_job(job)
    assert shop.job(job)["status"] == "done"


def test_a_file_that_is_away_fails_its_job_and_no_neighbour(shop, write_study, tmp_path):
    """The spool lost a file, or is not mounted here: no refusal may stand for it, and a retry finds it again."""
    folder = write_study(tmp_path / "s", 3)
    submission = shop.submit(folder)
    (job,) = submission.jobs
    content = next(row.content_sha256 for row in _unanswered(shop, job))
    lost = Spool(shop.settings.spool).path(content)
    lost.rename(tmp_path / "away")
    worker = shop.worker()
    for attempt in (1, 2, 3):
        worker.on_job(job)
        assert shop.job(job)["attempts"] == attempt
        assert shop.job(job)["reason"] == f"file {content[:12]}: {shop.job(job)['reason'].partition(': ')[2]}"
        assert "FileNotFoundError" in shop.job(job)["reason"]
    assert shop.job(job)["status"] == "dead"
    assert shop.count() == 2
    (tmp_path / "away").rename(lost)
    with shop.database.writing() as session:
        writes.retry(session, "me")
    worker.on_job(job)
    assert shop.job(job)["status"] == "done"
    assert shop.count() == 3


def _unanswered(shop, job):
    with shop.database.reading() as session:
        return questions.unanswered(session, job, questions.Model("", ""))


def test_who_was_thought_dead_writes_nothing_more(shop, undisturbed, write_study, tmp_path, together, monkeypatch):
    """The lease ran out while this worker slept; another one took the job."""
    folder = write_study(tmp_path / "s", 12)
    (job,) = shop.submit(folder).jobs
    record = writes.record

    def robbed(session, *given, **named):
        record(session, *given, **named)
        session.execute(update(Job).values(lease_owner="another"))

    with monkeypatch.context() as sleepy:
        sleepy.setattr(work, "_CHUNK_FILES", 4)
        sleepy.setattr(writes, "record", robbed)
        shop.worker().on_job(job)
    assert shop.count() == 4
    assert (shop.job(job)["status"], shop.job(job)["attempts"]) == ("running", 1)
    with shop.database.writing() as session:
        writes.fail(session, job, "another", "gave up")
    shop.worker().on_job(job)
    assert shop.rows() == undisturbed(folder)


def test_a_lost_lease_costs_the_other_jobs_no_attempt(shop, write_dicom, tmp_path, monkeypatch):
    for n in range(3):
        write_dicom(tmp_path / "s" / f"{n}.dcm", seed=n)
    jobs = shop.submit(tmp_path / "s", job_files=1).jobs
    worker = shop.worker()
    work_through = Work._work_through

    def robbed(self, held):
        with shop.database.writing() as session:
            session.execute(update(Job).where(Job.id == jobs[1]).values(lease_owner="another"))
        return work_through(self, held)

    monkeypatch.setattr(Work, "_work_through", robbed)
    assert set(worker.on_job(jobs[0])) >= {jobs[0], jobs[2]}
    assert [(shop.job(job)["status"], shop.job(job)["attempts"]) for job in jobs] == [
        ("pending", 0),
        ("running", 1),
        ("pending", 0),
    ]


def test_a_turn_has_an_end_and_the_rest_is_rung_again(shop, undisturbed, write_study, tmp_path, monkeypatch):
    """No task may near Celery's hard time limit."""
    folder = write_study(tmp_path / "s", 10)
    (job,) = shop.submit(folder).jobs
    counts = []
    with monkeypatch.context() as hasty:
        hasty.setattr(work, "_TURN_SECONDS", 0)
        worker = shop.worker()
        while worker.on_job(job) == [job]:
            counts.append(shop.count())
            assert (shop.job(job)["status"], shop.job(job)["attempts"]) == ("pending", 0)
    assert counts == list(range(1, 11))
    assert shop.job(job)["status"] == "done"
    assert shop.rows() == undisturbed(folder)


def test_a_lease_is_renewed_while_the_work_goes_on(shop, write_study, tmp_path, monkeypatch):
    """Slower than the lease is long, and nobody may take the job meanwhile."""
    (job,) = shop.submit(write_study(tmp_path / "s", 4)).jobs
    shop.settings = dataclasses.replace(shop.settings, lease_seconds=1)
    monkeypatch.setattr(pipeline, "_TICK_SECONDS", 0.05)
    monkeypatch.setattr(work, "_CHUNK_SECONDS", 60)
    prepare, robbed = pipeline.prepare, []

    def slow(path):
        time.sleep(0.8)
        with shop.database.writing() as session:
            robbed.append(writes.claim(session, job, "another", 60))
        return prepare(path)

    monkeypatch.setattr(pipeline, "prepare", slow)
    shop.worker().on_job(job)
    assert robbed == [False] * 4
    assert (shop.job(job)["status"], shop.job(job)["attempts"]) == ("done", 1)


def test_workers_that_claim_several_jobs_do_not_wait_in_a_circle(shop, tmp_path):
    """One takes 1 and wants 2 along, another takes 2 and wants 1 along."""
    for n in range(40):
        (tmp_path / f"{n:02}").write_text(f"no scan {n}")
    jobs = shop.submit(*sorted(tmp_path.glob("[0-9]*")), job_files=1).jobs
    shop.settings = dataclasses.replace(shop.settings, job_files=20)
    workers = [shop.worker() for _ in range(4)]

    def claim(number):
        workers[number]._me = f"worker {number}"
        return [key for job in jobs[number * 10 :] + jobs[: number * 10] for key in workers[number]._claim(job)]

    with ThreadPoolExecutor(4) as pool:
        taken = [key for keys in pool.map(claim, range(4)) for key in keys]
    assert sorted(taken) == jobs


_MANY = """
import random, sys
from slicewise.worker.queue.work import Work
from slicewise.worker.settings import Settings

jobs = [int(word) for word in sys.argv[2:]]
random.Random(int(sys.argv[1])).shuffle(jobs)
worker = Work(Settings.from_environment())
print("ready", flush=True)
sys.stdin.readline()
for job in jobs:
    worker.on_job(job)
"""


def test_many_workers_share_jobs_and_contents_without_harm(shop, undisturbed, write_study, tmp_path):
    """Small jobs with the same contents in every order, several workers, every bell rung for each of them."""
    folder = write_study(tmp_path / "s", 16)
    files = sorted(folder.iterdir())
    jobs = [
        job
        for turn in range(0, 16, 3)
        for job in shop.submit(*(files[turn:] + files[:turn])[:: (-1) ** turn], job_files=3).jobs
    ]
    started = [
        subprocess.Popen(
            [sys.executable, "-c", _MANY, str(seed), *map(str, jobs)],
            env={**os.environ, **shop.environment, "SLICEWISE_JOB_FILES": "12", "SLICEWISE_THREADS": "1"},
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        for seed in range(3)
    ]
    for process in started:
        assert process.stdout.readline() == "ready\n"
    said = [process.communicate("\n", timeout=120)[1] for process in started if process.stdin.flush() is None]
    assert [process.returncode for process in started] == [0] * 3, said
    assert {shop.job(job)["status"] for job in jobs} == {"done"}
    assert {shop.job(job)["attempts"] for job in jobs} == {1}
    assert sorted(shop.rows()) == sorted(undisturbed(folder))


def test_whoever_has_done_its_part_wakes_another(shop, write_study, tmp_path):
    """Bells may be fewer than jobs: the sweeper does not ring them all."""
    shop.settings = dataclasses.replace(shop.settings, job_files=2)
    jobs = shop.submit(write_study(tmp_path / "s", 8), job_files=2).jobs
    worker = shop.worker()
    heard, rung = [], [jobs[0]]
    while rung:
        heard.append(rung)
        rung = worker.on_job(rung[0])
    assert heard == [[job] for job in jobs]
    assert worker.on_job(jobs[0]) == []
