"""End to end, as a user runs it: real Redis, real Celery worker, and whatever dies in between really dies."""

from __future__ import annotations

import csv
import json
import os
import re
import signal
import subprocess
import sys
from contextlib import contextmanager
from pathlib import Path
from types import SimpleNamespace

import pytest
from sqlalchemy import func, select

from slicewise.db import questions, writes
from slicewise.db.engine import Database
from slicewise.db.errors import DatabaseError
from slicewise.db.models import Result
from slicewise.db.records import Content
from slicewise.worker import sample
from slicewise.worker.intake.spool import Spool
from slicewise.worker.settings import Settings

# Generous: the machine may be busy with other things.
pytestmark = pytest.mark.timeout(400)

KEYS = {
    *("source", "content_sha256", "sop_instance_uid", "series_instance_uid", "frame", "status", "label"),
    *("probabilities", "reason", "detail", "model_sha256", "preprocess_version", "provider"),
}


def told(rows):
    """What a row says of its content, and not when or for which job it was said."""
    kept = ("content_sha256", "frame", "status", "label", "reason", "model_sha256")
    return sorted(
        (Path(row["source"]).name, *(row[key] for key in kept), tuple((row["probabilities"] or {}).items()))
        for row in rows
    )


@contextmanager
def opened(url):
    database = Database(url)
    try:
        yield database
    finally:
        database.close()


SAMPLE = {row["file"]: row for row in csv.DictReader(sample.STUDY.with_name("manifest.csv").read_text().splitlines())}


def snapshot(*folders):
    return {path: path.stat().st_mtime_ns for folder in folders for path in folder.rglob("*")}


# --- run -------------------------------------------------------------------------------------------------------


def test_the_shipped_model_answers_for_every_file_of_the_sample_study(slicewise, processes, settings, tmp_path):
    outside = {
        name: tmp_path / name for name in ("HOME", "TMPDIR", "XDG_DATA_HOME", "XDG_CACHE_HOME", "XDG_STATE_HOME")
    }
    for folder in outside.values():
        folder.mkdir()
    before = snapshot(sample.STUDY, *outside.values())
    done = slicewise("run", sample.STUDY, "--format", "json", **{name: str(path) for name, path in outside.items()})
    rows = json.loads(done.stdout)
    assert {Path(row["source"]).name for row in rows} == {path.name for path in sample.STUDY.iterdir()}
    assert all(row.keys() >= KEYS for row in rows)
    for row in rows:
        labelled, refused = (row["status"] == status for status in ("labelled", "refused"))
        assert labelled == bool(row["label"]) != bool(row["reason"])
        assert refused != bool(row["probabilities"]) == (row["provider"] == "cpu")
        expected = SAMPLE[Path(row["source"]).name]
        assert refused == (expected["expected"] == "refuse")
        assert not refused or row["reason"] == expected["reason"]
    assert sum(row["status"] == "labelled" for row in rows) >= 10
    assert processes() == {}
    assert snapshot(sample.STUDY, *outside.values()) == before


def test_the_same_folder_twice_adds_no_row(quick, slicewise, settings, write_study, tmp_path, undisturbed):
    folder = write_study(tmp_path / "s", 12)
    first, second = (json.loads(slicewise("run", folder, "--format", "json").stdout) for _ in range(2))
    assert told(first) == told(second) == sorted(undisturbed(folder))
    assert answered(settings) == len(first) == 12


def test_what_is_wrong_with_a_file_costs_its_neighbours_nothing(
    quick, slicewise, processes, write_study, tmp_path, poison
):
    """One kills every process that opens it; one cannot be taken in at all, which is said and ends with 1."""
    folder = write_study(tmp_path / "s", 5)
    poison(folder / "0003.dcm")
    os.mkfifo(folder / "fifo")
    done = slicewise("run", folder, "--format", "json", status=1)
    assert [(row["status"], row["reason"]) for row in json.loads(done.stdout)] == [
        *[("labelled", None)] * 3,
        ("refused", "killed_the_worker"),
        ("labelled", None),
    ]
    assert f"not taken: {folder / 'fifo'}: not a regular file" in done.stderr
    assert processes() == {}


def test_a_path_that_does_not_exist_is_said_and_leaves_nothing(quick, slicewise, processes, tmp_path):
    done = slicewise("run", tmp_path / "nowhere", status=78)
    assert f"{tmp_path / 'nowhere'} does not exist" in done.stderr
    assert "Traceback" not in done.stderr
    assert processes() == {}


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGKILL])
def test_an_interrupted_run_leaves_nothing_running_and_can_be_run_again(
    quick, start, slicewise, processes, settings, write_study, tmp_path, wait_until, undisturbed, number
):
    """SIGKILL stands for every other signal too: none but SIGINT is caught."""
    # So many that it is not done before it is struck, on a busy machine either.
    folder = write_study(tmp_path / "s", 500)
    running = start("run", folder, SLICEWISE_JOB_FILES="10")
    wait_until(lambda: answered(settings))
    running.send_signal(number)
    assert running.wait(60) == (130 if number == signal.SIGINT else -number)
    wait_until(lambda: not processes())
    rows = json.loads(slicewise("run", folder, "--format", "json").stdout)
    assert told(rows) == sorted(undisturbed(folder))
    assert answered(settings) == 500


def answered(settings):
    """How many results stand, at any time."""
    try:
        with opened(settings.database_url) as database, database.reading() as session:
            return session.scalar(select(func.count()).select_from(Result))
    except DatabaseError:
        return 0  # there is no table yet


# --- up --------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def up(tmp_path_factory, small_model):
    """A service that is up for all the tests below, each of which submits contents of its own."""
    home = tmp_path_factory.mktemp("u")
    given = {"SLICEWISE_HOME": str(home), "SLICEWISE_MODEL": str(small_model), "SLICEWISE_JOB_FILES": "8"}
    settings = Settings.from_environment(given)
    command = [sys.executable, "-m", "slicewise.worker.cli", "up"]
    log = home / "up.log"
    with (
        log.open("w") as said,
        subprocess.Popen(
            command, env={**os.environ, **given}, stdout=subprocess.PIPE, stderr=said, text=True
        ) as process,
    ):
        try:
            assert "slicewise is up in" in process.stdout.readline(), log.read_text()
            with opened(settings.database_url) as database:
                yield SimpleNamespace(process=process, settings=settings, database=database, environment=given)
        finally:
            process.terminate()
            process.communicate()


@pytest.fixture
def submitted(up, slicewise):
    """Submit to the service, and count what it has answered of it."""

    def submit(folder):
        said = slicewise("submit", folder, **up.environment).stdout
        submission = re.match(r"submission (\S+):", said)[1]

        def progress():
            with up.database.reading() as session:
                return questions.progress(session, submission, _model(up))

        def running():
            with up.database.reading() as session:
                return questions.job_counts(session).get("running")

        def rows():
            with up.database.reading() as session:
                return list(questions.results(session, submission=submission))

        return SimpleNamespace(progress=progress, running=running, rows=rows)

    return submit


def _model(up):
    from slicewise.worker.imaging import PREPROCESS_VERSION
    from slicewise.worker.model import bundle

    return questions.Model(bundle.sha256(up.settings.serving), PREPROCESS_VERSION)


@pytest.fixture
def members():
    """The numbers of a service's processes, by what they are."""

    def of(home):
        found = {"redis": [], "worker": [], "child": []}
        for entry in Path("/proc").iterdir():
            try:
                command = (entry / "cmdline").read_bytes().replace(b"\0", b" ").decode()
                parent = (entry / "stat").read_text().rpartition(")")[2].split()[1]
                ours = f"SLICEWISE_HOME={home}\0".encode() in (entry / "environ").read_bytes()
            except (OSError, ValueError):
                continue
            if f"{home}/redis.sock" in command:
                found["redis"].append(int(entry.name))
            elif ours and "slicewise.worker.cli worker" in command:
                found["child" if int(parent) in _workers(home) else "worker"].append(int(entry.name))
        return found

    return of


def _workers(home):
    found = set()
    for entry in Path("/proc").iterdir():
        try:
            command = (entry / "cmdline").read_bytes()
        except OSError:
            continue
        if b"slicewise.worker.cli\0worker" in command:
            found.add(int(entry.name))
    return found


def test_run_submits_to_the_service_that_is_up(up, slicewise, write_dicom, tmp_path):
    for n in range(3):
        write_dicom(tmp_path / "s" / f"{n}.dcm", seed=1000 + n)
    done = slicewise("run", tmp_path / "s", "--format", "json", **up.environment)
    assert "submitting to the service that runs in" in done.stderr
    assert [row["status"] for row in json.loads(done.stdout)] == ["labelled"] * 3
    assert up.process.poll() is None


def test_a_second_up_says_who_serves(up, slicewise):
    assert "is served already" in slicewise("up", status=78, **up.environment).stderr


def test_a_job_whose_bell_was_never_rung_is_found(up, write_dicom, tmp_path, wait_until):
    """The submitter died between its commit and the bell."""
    with write_dicom(tmp_path / "a.dcm", seed=2000).open("rb") as reading:
        stored = Spool(up.settings.spool).add(reading)
    with up.database.writing() as session:
        content = Content(stored.sha256, stored.size_bytes, "/scans/a.dcm")
        writes.submit(session, [content], way="submit", submission="silent")

    def answered():
        with up.database.reading() as session:
            return questions.progress(session, "silent", _model(up)).finished

    wait_until(answered)


@pytest.mark.parametrize("victim", ["child", "worker", "redis"])
def test_whatever_is_killed_the_rows_are_those_of_an_undisturbed_run(
    up, submitted, members, wait_until, brain, write_dicom, write_jpeg, tmp_path, undisturbed, victim
):
    seeds = {"child": 3000, "worker": 4000, "redis": 5000}[victim]
    folder = tmp_path / "s"
    for n in range(120):
        (write_jpeg if n % 4 == 3 else write_dicom)(folder / f"{n:03}", seed=seeds + n)
    submission = submitted(folder)
    wait_until(lambda: submission.progress().answered >= 16 and submission.running(), every=0)
    (number,) = members(up.settings.home)[victim]
    if victim == "worker":
        os.killpg(number, signal.SIGKILL)
    else:
        os.kill(number, signal.SIGKILL)
    assert not submission.progress().finished
    wait_until(lambda: submission.progress().finished)
    assert submission.progress().dead == 0
    assert told(submission.rows()) == sorted(undisturbed(folder))
    wait_until(lambda: [len(found) for found in members(up.settings.home).values()] == [1, 1, 1])


def test_a_killed_up_takes_everything_along_and_the_next_one_ends_in_order(
    quick, start, slicewise, processes, settings, write_study, tmp_path, wait_until, members, undisturbed
):
    folder = write_study(tmp_path / "s", 5)
    killed = start("up")
    assert "slicewise is up in" in killed.stdout.readline()
    wait_until(lambda: members(settings.home)["child"])
    killed.kill()
    killed.wait()
    following = start("up")
    assert "slicewise is up in" in following.stdout.readline()
    rows = json.loads(slicewise("submit", folder, "--wait", "--format", "json").stdout)
    assert told(rows) == sorted(undisturbed(folder))
    following.terminate()
    assert following.wait(60) == 0
    assert processes() == {}
    assert not (settings.home / "redis.sock").exists()


# --- what a person mistypes ------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("words", "status", "says"),
    [
        (("run", ""), 2, "an empty path: is a variable unset?"),
        (("run", "{tmp}", "--output", "/proc/nowhere/x.json"), 78, "cannot be written"),
        (("run", "{tmp}", "--output", "{tmp}"), 78, "Is a directory"),
        (("results", "--status", "nonsense"), 2, "invalid choice"),
        (("results", "--limit", "x"), 2, "give a whole number of at least 1"),
        (("worker", "--lanes", "fast"), 2, "give stat, routine or both"),
    ],
)
def test_is_said_at_once(slicewise, processes, settings, tmp_path, words, status, says):
    said = slicewise(*(word.format(tmp=tmp_path) for word in words), status=status).stderr
    assert says in said
    assert "Traceback" not in said
    assert not settings.spool.exists()


@pytest.mark.parametrize("command", [("run", "{tmp}"), ("up",), ("worker",)])
def test_a_provider_that_does_not_work_is_no_reason_to_wait(slicewise, processes, tmp_path, command):
    if command == ("worker",):
        slicewise("db", "upgrade")
    words = [word.format(tmp=tmp_path) for word in command]
    said = slicewise(*words, status=78, SLICEWISE_PROVIDER="cuda").stderr
    assert "cuda was asked for but" in said
    assert processes() == {}


@pytest.mark.parametrize("command", [("run", "{tmp}"), ("up",), ("doctor",)])
def test_a_home_that_cannot_be_used_names_the_remedy(slicewise, tmp_path, command):
    words = [word.format(tmp=tmp_path) for word in command]
    done = slicewise(*words, status=1 if command == ("doctor",) else 78, SLICEWISE_HOME="/proc/nowhere")
    assert "/proc/nowhere cannot be used" in done.stdout + done.stderr
    assert "set SLICEWISE_HOME" in done.stdout + done.stderr
    assert "Traceback" not in done.stderr


def test_an_unknown_submission_is_said(quick, slicewise, write_dicom, tmp_path):
    said = slicewise("run", write_dicom(tmp_path / "a.dcm"), "--format", "csv").stderr
    submission = re.search(r"1 row; submission (\S+)", said)[1]
    assert len(slicewise("results", "--submission", submission, "--format", "csv").stdout.splitlines()) == 2
    assert "no submission is called abc" in slicewise("results", "--submission", "abc", status=78).stderr


def test_an_empty_folder_is_said(quick, slicewise, tmp_path):
    (tmp_path / "empty").mkdir()
    assert "no files below" in slicewise("run", tmp_path / "empty").stderr


def test_sources_that_share_a_name_are_told_apart(quick, slicewise, write_dicom, tmp_path):
    for n, patient in enumerate(("anna", "b[e]rt")):
        write_dicom(tmp_path / "s" / patient / "1" / "1.dcm", seed=n)
    told = slicewise("run", tmp_path / "s").stdout
    assert "s/anna/1/1.dcm" in told
    assert "s/b[e]rt/1/1.dcm" in told
