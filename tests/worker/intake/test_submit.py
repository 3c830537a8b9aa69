"""Taking in files and folders: everything is either an arrival or named with the reason."""

from __future__ import annotations

import os
import socket
from pathlib import Path

import pytest
from sqlalchemy.exc import OperationalError

from slicewise.db import questions, writes
from slicewise.db.errors import DatabaseError
from slicewise.db.records import Lane
from slicewise.worker.errors import Misconfigured, Retryable
from slicewise.worker.intake import submit
from slicewise.worker.intake.spool import Spool

ANY = questions.Model("", "")


@pytest.fixture
def take_in(database, tmp_path):
    bells = []

    def take(*paths, **options):
        options.setdefault("ring", lambda job, lane: bells.append((job, lane)))
        return submit(paths, database=database, spool=Spool(tmp_path / "spool"), **options)

    take.bells = bells
    return take


@pytest.fixture
def scans(tmp_path):
    """Makes files by their path below one folder."""

    def make(*names):
        for name in names:
            path = tmp_path / "scans" / name
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(f"this is {name}")
        return tmp_path / "scans"

    return make


def sources(database, folder):
    """What lies in each job, by its path below the folder, in the order of arrival."""
    from sqlalchemy import select

    from slicewise.db.models import Arrival

    jobs = {}
    with database.reading() as session:
        for job, source in session.execute(select(Arrival.job_id, Arrival.source).order_by(Arrival.id)):
            jobs.setdefault(job, []).append(os.path.relpath(source, folder))
    return list(jobs.values())


def test_a_database_that_takes_no_more_is_said_of_every_file_it_has_not_taken(take_in, scans, database, monkeypatch):
    """The disk fills while a folder is taken in: what was committed stands, all the rest is named."""
    folder = scans(*(f"{n}" for n in range(6)))
    whole, full = writes.submit, []

    def submit_then_full(session, contents, **more):
        job = whole(session, contents, **more)
        if full:
            raise OperationalError("INSERT", {}, Exception("database or disk is full"))
        full.append(job)
        return job

    monkeypatch.setattr(writes, "submit", submit_then_full)
    submission = take_in(folder, job_files=2)
    assert (submission.arrivals, len(submission.jobs)) == (2, 1)
    assert [Path(name).name for name, _ in submission.not_taken] == ["2", "3", "4", "5"]
    assert all("disk is full: submit it again" in reason for _, reason in submission.not_taken)
    assert sources(database, folder) == [["0", "1"]]


def test_a_folder_is_walked_in_the_order_of_names(take_in, scans, database):
    folder = scans("b/2", "b/1", "a/deep/er/x", "c", "a/0")
    submission = take_in(folder)
    assert sources(database, folder) == [["c", "a/0", "a/deep/er/x", "b/1", "b/2"]]
    assert (submission.arrivals, submission.not_taken) == (5, [])
    assert take_in.bells == [(submission.jobs[0], Lane.ROUTINE)]


def test_files_and_folders_are_taken_as_they_are_given(take_in, scans, database):
    folder = scans("x/1", "y", "z")
    take_in(folder / "z", folder / "x", folder / "y", folder / "z")
    assert sources(database, folder) == [["z", "x/1", "y", "z"]]


def test_a_relative_path_is_stored_in_full(take_in, scans, database, monkeypatch):
    folder = scans("a")
    monkeypatch.chdir(folder)
    take_in(Path("a"))
    assert sources(database, "/") == [[str(folder / "a")[1:]]]


def test_jobs_are_cut_where_the_folder_changes(take_in, scans, database):
    """A folder is mostly a series, and a series should stay in one job."""
    folder = scans(*(f"a/{n}" for n in range(6)), *(f"b/{n}" for n in range(6)), *(f"c/{n}" for n in range(13)), "d/0")
    submission = take_in(folder, job_files=10)
    assert [[Path(name).parts[0] for name in job] for job in sources(database, folder)] == [
        ["a"] * 6,
        ["b"] * 6,
        ["c"] * 10,
        ["c"] * 3 + ["d"],
    ]
    assert submission.arrivals == 26
    assert [job for job, _ in take_in.bells] == submission.jobs


def test_small_folders_share_a_job(take_in, scans, database):
    folder = scans(*(f"{n:02}/x" for n in range(12)))
    take_in(folder, job_files=10)
    assert [len(job) for job in sources(database, folder)] == [5, 5, 2]


def test_what_cannot_be_taken_is_named_and_the_rest_is_taken(take_in, scans, database, tmp_path):
    folder = scans("a", "b/c")
    os.mkfifo(folder / "b" / "fifo")
    (folder / "dangling").symlink_to("nowhere")
    (folder / "linked").symlink_to(tmp_path)
    (folder / "alias").symlink_to("a")
    listener = socket.socket(socket.AF_UNIX)
    listener.bind(str(folder / "socket"))
    listener.close()
    submission = take_in(folder)
    assert sources(database, folder) == [["a", "alias", "b/c"]]
    assert sorted((os.path.relpath(source, folder), reason) for source, reason in submission.not_taken) == [
        ("b/fifo", "not a regular file"),
        ("dangling", "No such file or directory"),
        ("linked", "a symbolic link to a folder"),
        ("socket", "No such device or address"),
    ]


def test_a_loop_of_links_ends(take_in, scans, database):
    folder = scans("a/b/c")
    (folder / "a" / "b" / "up").symlink_to(folder)
    submission = take_in(folder)
    assert sources(database, folder) == [["a/b/c"]]
    assert submission.not_taken == [(str(folder / "a/b/up"), "a symbolic link to a folder")]


def test_a_linked_folder_that_is_given_is_walked(take_in, scans, database, tmp_path):
    (tmp_path / "link").symlink_to(scans("a"))
    take_in(tmp_path / "link")
    assert sources(database, tmp_path / "link") == [["a"]]


def test_a_missing_path_is_said_before_anything_is_taken(take_in, scans, database, tmp_path):
    folder = scans("a")
    with pytest.raises(Misconfigured, match=r"nowhere does not exist: give a file, a folder or a zip archive"):
        take_in(folder, tmp_path / "nowhere")
    assert sources(database, folder) == []
    assert take_in.bells == []
    assert not (tmp_path / "spool").exists()


def test_an_empty_folder_is_a_submission_of_nothing(take_in, tmp_path, database):
    (tmp_path / "empty").mkdir()
    submission = take_in(tmp_path / "empty")
    assert (submission.arrivals, submission.jobs) == (0, [])


@pytest.mark.parametrize("name", [b"\xff\xfe.dcm", b"line\nbreak", b"=cmd()", b"-rf", "Jörg Müller".encode(), b" "])
def test_a_hostile_name_is_an_arrival_like_any_other(take_in, tmp_path, database, name):
    folder = tmp_path / "scans"
    folder.mkdir()
    with open(os.path.join(os.fsencode(folder), name), "w") as writing:  # noqa: PTH118, PTH123
        writing.write("x")
    assert take_in(folder).arrivals == 1
    assert sources(database, folder) == [[name.decode("utf-8", "replace")]]


def test_a_job_is_rung_only_once_it_is_committed(take_in, scans, database):
    def ring(job, _lane):
        with database.reading() as session:
            assert len(questions.unanswered(session, job, ANY)) == 2

    assert len(take_in(scans("a", "b", "c", "d"), job_files=2, ring=ring).jobs) == 2


def test_a_bell_that_does_not_sound_loses_nothing(take_in, scans, database):
    """The broker may be away: the jobs are in the database, and the sweeper rings them later."""

    def ring(job, _lane):
        raise Retryable("the broker is away")

    submission = take_in(scans("a", "b", "c", "d"), job_files=2, ring=ring)
    assert len(submission.jobs) == 2
    with database.reading() as session:
        assert questions.job_counts(session) == {"pending": 2}


def test_a_submission_names_its_lane_and_way(take_in, scans, database):
    submission = take_in(scans("a"), lane=Lane.STAT, way="run")
    with database.reading() as session:
        assert questions.jobs(session)[0]["lane"] == "stat"
    assert take_in.bells == [(submission.jobs[0], Lane.STAT)]


def test_progress_hears_of_every_file(take_in, scans):
    counts = []
    take_in(scans(*"abcdefg"), job_files=3, progress=counts.append)
    assert sum(counts) == 7


# --- as a program calls it -------------------------------------------------------------------------------------


def test_a_program_needs_no_more_than_paths(settings, opened, scans):
    """No worker and no broker: what is taken in waits."""
    folder = scans("a", "b")
    with opened(settings.database_url) as made:
        made.upgrade()
        taken = submit([str(folder)])
        assert (taken.arrivals, taken.not_taken) == (2, [])
        with made.reading() as session:
            assert [job["files"] for job in questions.jobs(session)] == [2]
    assert len([path for path in settings.spool.rglob("*") if path.is_file()]) == 2


def test_a_program_is_told_what_is_missing(settings, scans):
    with pytest.raises(DatabaseError, match="db upgrade"):
        submit([scans("a")])
