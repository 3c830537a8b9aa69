"""Watching: what is complete is taken, whoever writes it and however; troubles are said once and end by themselves."""

from __future__ import annotations

import json
import re
import signal
import subprocess
import sys

import pytest

from slicewise.worker.intake import watch as module
from slicewise.worker.intake.events import Events

# --- what is complete ------------------------------------------------------------------------------------------


def test_a_slow_copy_is_taken_when_it_is_whole(post):
    """Whole minutes for one file, in pieces: paperless took such files too early (#432, #1279, #9698, #13011)."""
    post.begin()
    with post.put("a", "").open("a") as writing:
        for _ in range(20):
            writing.write("piece ")
            writing.flush()
            post.after(4)
            assert post.arrivals() == []
    post.after(4)
    post.after(5)
    assert (post.root / "done/a").read_text() == "piece " * 20
    assert (post.arrivals(), post.contents()) == (["a"], 1)


def test_a_copy_that_stalls_is_not_taken_while_its_writer_has_it_open(post, wait_until):
    """The size stands still for longer than the quiet time: only the kernel knows that there is more to come."""
    post.begin(listen=True)
    with post.put("a", "").open("a") as writing:
        writing.write("half")
        writing.flush()
        post.settle()
        for _ in range(8):
            post.after(5)
        assert post.arrivals() == []
        writing.write("and half")
    wait_until(post.settled)
    assert (post.root / "done/a").read_text() == "halfand half"


def test_a_file_that_stays_open_is_taken_at_last(post, wait_until):
    """Some programs never close a file; and of some file servers' files the kernel says that they are always open."""
    post.begin(listen=True)
    with post.put("a").open("a"):
        assert wait_until(post.settled) == ["a"]


def test_names_of_the_unfinished_are_left_until_they_are_renamed(post):
    post.begin()
    names = (".a", "b.part", "c.tmp", "d~", "e.filepart")
    for name in names:
        post.put(name)
    post.settle()
    assert (post.arrivals(), post.watch.waiting) == ([], 0)
    for name in names:
        (post.root / name).rename(post.root / name.strip(".~").partition(".")[0])
    post.settle()
    assert post.arrivals() == list("abcde")


def test_a_file_renamed_while_it_waits_waits_under_its_new_name(post):
    post.begin()
    post.put("a")
    post.after(30)
    (post.root / "a").rename(post.root / "b")
    post.after(5)
    assert post.arrivals() == []
    post.settle()
    assert post.arrivals() == ["b"]


def test_a_folder_that_comes_whole_is_taken_whole(post, tmp_path):
    for name in ("s/1", "s/t/2", "s/t/u/3"):
        path = tmp_path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(name)
    post.begin()
    (tmp_path / "s").rename(post.root / "s")
    post.settle()
    assert post.arrivals() == ["s/1", "s/t/2", "s/t/u/3"]


def test_a_jumping_wall_clock_changes_nothing(post):
    import os

    post.begin()
    os.utime(post.put("past"), (0, 0))
    os.utime(post.put("future"), (2**33, 2**33))
    post.settle()
    assert post.arrivals() == ["future", "past"]


# --- jobs ------------------------------------------------------------------------------------------------------


def test_a_folder_is_a_job_that_closes_when_it_is_quiet(post):
    for name in ("s/1", "s/2", "t/1"):
        post.put(name)
    post.begin().settle()
    assert post.jobs() == [("open", ["s/1", "s/2"]), ("open", ["t/1"])]
    assert post.bells == []
    post.after(11)
    assert [status for status, _ in post.jobs()] == ["pending", "pending"]
    assert post.bells == [1, 2]


def test_more_files_than_a_job_holds_are_more_jobs(post):
    for number in range(200):
        post.put(f"s/{number:03}")
    post.begin(job_files=90).settle()
    assert [len(files) for _, files in post.jobs()] == [90, 90, 20]
    post.watch.end()
    assert [status for status, _ in post.jobs()] == ["pending"] * 3


# --- events and looking ----------------------------------------------------------------------------------------


def test_what_no_event_told_of_is_found(post):
    post.begin(listen=False)
    post.after(30)
    post.put("deep/er/a")
    post.after(29)
    assert post.watch.waiting == 0
    post.after(1)
    assert post.watch.waiting == 1


def test_what_an_event_tells_of_is_found_without_looking(post, wait_until):
    post.begin(listen=True)
    post.after(0)
    post.put("a")

    def waits():
        post.after(0)
        return post.watch.waiting == 1

    wait_until(waits)
    assert wait_until(post.settled) == ["a"]


def test_a_new_folder_is_looked_through_at_once(post, wait_until):
    post.begin(listen=True)
    post.after(0)
    post.put("s/t/a")

    def waits():
        post.after(0.01)
        return post.watch.waiting == 1

    wait_until(waits)


def test_a_folder_that_is_given_by_a_link_is_listened_to(posts, database, tmp_path, wait_until):
    post = posts(database)
    (tmp_path / "link").symlink_to(post.root)
    real, post.root = post.root, tmp_path / "link"
    post.begin(listen=True)
    post.after(0)
    (real / "a").write_text("x")

    def waits():
        post.after(0)
        return post.watch.waiting == 1

    wait_until(waits)


def test_events_name_files_and_not_what_is_ignored(tmp_path, wait_until):
    with Events(tmp_path, lambda name: name.startswith("done")) as events:
        (tmp_path / "done").mkdir()
        (tmp_path / "done" / "a").write_text("x")
        (tmp_path / "b").write_text("x")
        names: set[str] = set()

        def heard():
            more, everything = events.heard()
            assert not everything
            names.update(more)
            return "b" in names

        wait_until(heard)
    assert names == {"b"}


def test_without_events_it_looks(post, monkeypatch, caplog):
    class Refused:
        def __init__(self, *_arguments):
            raise OSError(28, "inotify watch limit reached")

    monkeypatch.setattr(module, "Events", Refused)
    post.put("a")
    post.begin(listen=True).settle()
    assert post.arrivals() == ["a"]
    assert "gives no events (inotify watch limit reached)" in caplog.text


# --- troubles --------------------------------------------------------------------------------------------------


def test_a_folder_that_goes_away_is_waited_for(post, caplog, wait_until):
    caplog.set_level("INFO")
    post.begin(listen=True)
    post.settle()
    elsewhere = post.root.with_name("unmounted")
    post.root.rename(elsewhere)
    for _ in range(3):
        post.settle()
    assert len([line for line in caplog.messages if "cannot be looked through" in line]) == 1
    elsewhere.rename(post.root)
    post.put("a")
    assert wait_until(post.settled) == ["a"]
    assert len([line for line in caplog.messages if "over" in line]) == 1


def test_a_folder_made_anew_is_watched_like_the_old_one(post, wait_until):
    post.begin(listen=True)
    post.settle()
    post.root.rename(post.root.with_name("old"))
    post.root.mkdir()
    post.put("a")
    assert wait_until(post.settled) == ["a"]


def test_nothing_that_a_file_is_called_is_logged(post, caplog, wait_until):
    caplog.set_level("DEBUG")
    post.put("DOE^JANE/19700101.dcm")
    (post.root / "DOE^JANE" / "link").symlink_to("nowhere")
    post.begin(listen=True)
    wait_until(lambda: post.settled() and post.audited())
    said = "".join(
        record.getMessage() for record in caplog.records if record.name.startswith(("slicewise", "watchdog"))
    )
    assert "taken 1" in said
    assert "refused 1" in said
    assert not re.search(r"DOE|1970|dcm|link|/", said)


def test_a_database_that_goes_away_and_comes_back(own_postgres, opened, posts, caplog, wait_until):
    caplog.set_level("INFO")
    with opened(own_postgres.make()) as database:
        database.upgrade()
        post = posts(database).begin()
        post.put("before")
        post.settle()
        own_postgres.stop()
        for number in range(100):
            post.put(f"s/{number:02}")
        for _ in range(3):
            post.settle()
        assert len(post.files()) == 101
        assert len([line for line in caplog.messages if "database" in line]) == 1
        own_postgres.start()
        wait_until(own_postgres._answers)
        post.settle()
        post.settle()
        assert post.arrivals() == ["before", *(f"s/{number:02}" for number in range(100))]
        assert len([line for line in caplog.messages if "over" in line]) == 1
        assert {name.partition("/")[0] for name in post.files()} == {"done"}


# --- once ------------------------------------------------------------------------------------------------------


def test_once_takes_what_is_there_and_no_more(post):
    post.put("a")
    post.begin(once=True)
    post.after(0)
    assert not post.watch.finished
    post.put("late")
    post.after(5)
    assert post.watch.finished
    assert post.arrivals() == ["a"]


def test_once_does_not_wait_for_a_disk_to_become_free(post):
    post.put("a")
    post.begin(once=True, reserve=2**60)
    post.after(0)
    post.after(5)
    assert post.watch.finished
    assert (post.watch.sum.left, post.files()) == (1, ["a"])


# --- the command -----------------------------------------------------------------------------------------------


@pytest.fixture
def folder(tmp_path):
    (tmp_path / "in").mkdir()
    return tmp_path / "in"


@pytest.fixture
def home(slicewise, settings):
    slicewise("db", "upgrade")
    return settings


def arrivals(url):
    """Number of arrivals, and of contents, in a database of another process."""
    from sqlalchemy import func, select

    from slicewise.db.engine import Database
    from slicewise.db.models import Arrival, Instance

    database = Database(url)
    try:
        with database.reading() as session:
            return tuple(session.scalar(select(func.count()).select_from(table)) for table in (Arrival, Instance))
    finally:
        database.close()


def test_once_as_a_person_calls_it(home, slicewise, folder, write_study):
    write_study(folder / "s", 5)
    done = slicewise("watch", folder, "--once", "--quiet", "0.3", "--reserve", "0")
    assert re.fullmatch(r"submission [0-9a-f-]{36}: 5 files\n", done.stdout)
    assert len(list((folder / "done" / "s").iterdir())) == 5
    jobs = json.loads(slicewise("jobs", "--format", "json").stdout)
    assert [(job["status"], job["files"]) for job in jobs] == [("pending", 5)]
    (folder / "link").symlink_to("nowhere")
    done = slicewise("watch", folder, "--once", "--quiet", "0.3", status=1)
    assert "0 files, 1 file refused" in done.stdout
    assert str(folder) not in done.stderr


def test_what_is_wrong_is_said_before_anything_is_done(home, slicewise, folder):
    assert "is no folder" in slicewise("watch", folder / "nowhere", status=78).stderr
    (folder / "done").write_text("in the way")
    said = slicewise("watch", folder, status=78).stderr
    assert "nothing can be moved" in said
    assert "--after keep" in said
    assert "more than 0" in slicewise("watch", folder, "--quiet", "0", status=2).stderr
    assert "more than 0" in slicewise("watch", folder, "--rescan", "soon", status=2).stderr


def test_a_second_watcher_says_so(home, slicewise, start, folder):
    watching = start("watch", folder)
    assert watching.stdout.readline().startswith(f"watching {folder}: ")
    assert "is watched already" in slicewise("watch", folder, status=2).stderr
    watching.send_signal(signal.SIGTERM)
    assert watching.wait(60) == 0
    slicewise("watch", folder, "--once", "--quiet", "0.1")


def test_no_path_is_printed_whatever_comes_at_once(home, folder, tmp_path, wait_until):
    """Folders within new folders: watchdog finds some of them twice, and warns of it by name."""
    words = [sys.executable, "-m", "slicewise.worker.cli", "watch", folder, "--quiet", "0.2", "--rescan", "1"]
    with (tmp_path / "said").open("w") as said:
        watching = subprocess.Popen([*words, "--reserve", "0"], stdout=subprocess.PIPE, stderr=said)
        try:
            assert watching.stdout.readline()
            for number in range(60):
                deep = folder / f"DOE^JANE {number}" / "19700101" / "deeper"
                deep.mkdir(parents=True)
                (deep / "slice").write_text(str(number))
            wait_until(lambda: arrivals(home.database_url)[0] == 60)
        finally:
            watching.terminate()
            watching.communicate()
    assert watching.returncode == 0
    assert not re.search("DOE|1970|deeper|Traceback|Warning", (tmp_path / "said").read_text())


def test_two_names_of_one_folder_are_one_too_many(home, slicewise, folder):
    assert "is watched already" in slicewise("watch", folder, folder / ".", status=2).stderr


_WRITER = """
import os, random, sys, time
folder, number = sys.argv[1], int(sys.argv[2])
random = random.Random(number)
for i in range(40):
    name = os.path.join(folder, f"{number}-{i}")
    with open(name + random.choice(["", ".part"]), "wb") as writing:
        for _ in range(random.randrange(1, 4)):
            writing.write(f"{number} {i} ".encode() * 1000)
            writing.flush()
            time.sleep(random.random() * 0.02)
        writing.write(b"end")
    if writing.name != name:
        os.rename(writing.name, name)
"""


@pytest.fixture
def start_writer():
    writers = []

    def begin(folder, number):
        writers.append(subprocess.Popen([sys.executable, "-c", _WRITER, folder, str(number)]))
        return writers[-1]

    yield begin
    for writer in writers:
        writer.kill()
        writer.wait()


@pytest.mark.parametrize("after", ["move", "keep"])
def test_killed_again_and_again_under_load_nothing_is_lost_or_cut(home, start, start_writer, folder, after, wait_until):
    """Real processes: writers in no hurry, and a watcher that is killed and started again beside them."""
    writers = [start_writer(folder, n) for n in range(2)]
    words = ("watch", folder, "--after", after, "--quiet", "0.2", "--rescan", "0.5", "--reserve", "0")
    before = 0
    for _ in range(3):
        watching = start(*words)
        wait_until(lambda at_least=before: arrivals(home.database_url)[0] >= min(at_least + 5, 80))
        watching.kill()
        watching.wait()
        before = arrivals(home.database_url)[0]
    assert [writer.wait() for writer in writers] == [0, 0]
    watching = start(*words)
    assert watching.stdout.readline()
    where = folder / "done" if after == "move" else folder
    wait_until(lambda: arrivals(home.database_url)[1] >= 80)
    wait_until(lambda: after == "keep" or not [path for path in folder.iterdir() if path.is_file()])
    watching.send_signal(signal.SIGTERM)
    assert watching.wait(60) == 0
    kept = [path.read_bytes() for path in where.iterdir() if path.is_file()]
    assert sum(data.endswith(b"end") for data in kept) == 80
    # Not one was taken before it was whole, and none twice.
    assert arrivals(home.database_url) == (80, 80)


def test_what_is_dropped_is_scored(quick, home, start, slicewise, folder, write_study, wait_until):
    """The whole way: a folder, a watcher, a worker, a result for every file."""
    up = start("up")
    assert "is up" in up.stdout.readline()
    start("watch", folder, "--quiet", "0.3", "--gather", "0.5", "--lane", "stat")
    study = write_study(folder / "s", 10)
    wait_until(lambda: not list(study.iterdir()))
    wait_until(lambda: '"done"' in slicewise("jobs", "--format", "json").stdout, every=0.5)
    told = slicewise("reconcile", folder / "done").stdout
    assert told == "10 files: 9 labelled, 1 refused\n"
