"""Taking files out of a watched folder: what is lost, what is taken twice, when something dies or lies in between."""

from __future__ import annotations

import os
import shutil
import signal
import socket
import subprocess
import sys
import zipfile

import pytest

from slicewise.db.errors import DatabaseError
from slicewise.worker.intake import copying, spool
from slicewise.worker.intake import drop as module
from slicewise.worker.intake.tree import Tree


def test_a_file_is_committed_then_moved(post):
    post.put("s/a")
    post.put("s/b")
    post.begin().settle()
    assert post.arrivals() == ["s/a", "s/b"]
    assert post.files() == ["done/s/a", "done/s/b"]
    assert post.remembered() == []


def test_a_file_is_committed_then_left_and_remembered(post):
    post.put("s/a")
    post.begin(move=False).settle()
    post.settle()
    assert post.arrivals() == ["s/a"]
    assert post.files() == ["s/a"]
    assert post.remembered() == [("s/a", None)]


def test_the_same_name_again_is_taken_again_and_overwrites_nothing(post):
    post.begin()
    for text in ("first", "second", "second"):
        post.put("a.dcm", text)
        post.settle()
    assert post.arrivals() == ["a.dcm"] * 3
    assert post.contents() == 2
    assert {name: (post.root / name).read_text() for name in post.files()} == {
        "done/a.dcm": "first",
        "done/a.2.dcm": "second",
        "done/a.3.dcm": "second",
    }


# --- what is refused -------------------------------------------------------------------------------------------


@pytest.fixture
def hostile(post, tmp_path):
    """One of everything that is not to be taken, and a good file."""
    (tmp_path / "outside").mkdir()
    (tmp_path / "outside" / "secret").write_text("secret")
    post.root.joinpath("file").symlink_to(tmp_path / "outside" / "secret")
    post.root.joinpath("folder").symlink_to(tmp_path / "outside")
    post.root.joinpath("hard").hardlink_to(tmp_path / "outside" / "secret")
    os.mkfifo(post.root / "fifo")
    listener = socket.socket(socket.AF_UNIX)
    listener.bind(str(post.root / "socket"))
    listener.close()
    post.put("good")


_BAD = ["fifo", "file", "folder", "hard", "socket"]


@pytest.mark.timeout(60)
def test_what_is_no_plain_file_is_refused_with_a_reason_beside_it(post, hostile, tmp_path):
    post.begin().settle()
    assert post.arrivals() == ["good"]
    expected = ["done/good", *(f"refused/{bad}{end}" for bad in _BAD for end in ("", ".reason.txt"))]
    assert post.files() == sorted(expected)
    assert "symbolic link" in (post.root / "refused/file.reason.txt").read_text()
    assert "hard links" in (post.root / "refused/hard.reason.txt").read_text()
    assert len(post.audited()) == len(_BAD)
    assert post.watch.sum.refused == len(_BAD)
    assert (tmp_path / "outside" / "secret").read_text() == "secret"
    assert list((tmp_path / "outside").iterdir()) == [tmp_path / "outside" / "secret"]


@pytest.mark.timeout(60)
def test_what_is_refused_and_left_is_said_once_whatever_is_restarted(post, hostile):
    for _ in range(2):
        post.begin(move=False).settle()
        post.settle()
        post.end()
    assert post.arrivals() == ["good"]
    assert sorted(line.partition(":")[0] for line in post.audited()) == _BAD


def test_a_hard_linked_file_that_is_left_is_taken_once_it_has_one_name(post, tmp_path):
    post.put("a").rename(tmp_path / "other")
    (post.root / "a").hardlink_to(tmp_path / "other")
    post.begin(move=False).settle()
    assert post.arrivals() == []
    (tmp_path / "other").unlink()
    post.settle()
    assert post.arrivals() == ["a"]
    assert post.remembered() == [("a", None)]


@pytest.fixture
def unreadable(monkeypatch):
    """Nobody may read files that are called so; root may read whatever has no reader."""
    opened = Tree.open

    def denied(tree, name):
        if "closed" in name:
            raise PermissionError(13, "Permission denied")
        return opened(tree, name)

    monkeypatch.setattr(Tree, "open", denied)
    return monkeypatch


def test_what_may_not_be_read_is_refused(post, unreadable):
    post.put("closed")
    post.begin().settle()
    assert post.files() == ["refused/closed", "refused/closed.reason.txt"]
    assert post.audited() == ["closed: it cannot be read: Permission denied"]


def test_what_may_be_read_later_is_taken_then(post, unreadable):
    post.put("closed")
    post.begin(move=False).settle()
    unreadable.undo()
    post.settle()
    assert post.arrivals() == ["closed"]


# --- what is not complete --------------------------------------------------------------------------------------


def test_what_changes_while_it_is_copied_is_not_taken(post, monkeypatch):
    path = post.put("a", "x" * 100)
    chunks = copying._chunks

    def growing(reading):
        with path.open("a") as writing:
            writing.write("more")
        yield from chunks(reading)

    monkeypatch.setattr(copying, "_chunks", growing)
    post.begin().settle()
    assert post.arrivals() == []
    assert post.files() == ["a"]
    monkeypatch.undo()
    post.settle()
    assert post.arrivals() == ["a"]
    assert (post.root / "done/a").read_text() == "x" * 100 + "more"


def test_what_is_swapped_while_it_is_copied_is_not_taken(post, monkeypatch):
    post.put("a", "old")
    chunks = copying._chunks

    def swapping(reading):
        post.put(".new", "new").rename(post.root / "a")
        yield from chunks(reading)

    monkeypatch.setattr(copying, "_chunks", swapping)
    post.begin().settle()
    assert post.arrivals() == []
    monkeypatch.undo()
    post.settle()
    assert (post.arrivals(), post.contents()) == (["a"], 1)
    assert (post.root / "done/a").read_text() == "new"


def test_what_is_deleted_while_it_waits_is_nothing(post):
    path = post.put("a")
    post.begin().after(30)
    path.unlink()
    post.after(5)
    post.settle()
    assert post.arrivals() == []
    assert post.watch.waiting == 0


def test_what_is_replaced_between_commit_and_move_stays_and_is_taken_too(post, monkeypatch):
    post.put("a", "old")
    move = Tree.move

    def late(tree, name, *more):
        post.put(".new", "new bytes").rename(post.root / "a")
        monkeypatch.undo()
        move(tree, name, *more)

    monkeypatch.setattr(Tree, "move", late)
    post.begin().settle()
    assert post.files() == ["a"]
    post.settle()
    assert (post.arrivals(), post.contents()) == (["a", "a"], 2)
    assert (post.root / "done/a").read_text() == "new bytes"


# --- killed, restarted -----------------------------------------------------------------------------------------

_KILLED = """
import os, signal, sys
from pathlib import Path
from slicewise.db.engine import Database
from slicewise.db.records import Lane
from slicewise.worker.intake.copying import Copier, File
from slicewise.worker.intake.drop import Drop
from slicewise.worker.intake.gathering import Gathering
from slicewise.worker.intake.tree import Tree
root, home, url, moment, move = sys.argv[1:]
def die(*_): os.kill(os.getpid(), signal.SIGKILL)
if moment == "before the commit":
    Drop._commit = die
elif moment == "before the move":
    Drop._put_away = die
elif moment == "in the move":
    os.rename = lambda *_, **__: die()
elif moment == "after the move":
    Drop._forget = die
with Tree(Path(root), Path(home, "watching"), ("done", "refused")) as tree:
    gathering = Gathering(way="watch", sender="me", lane=Lane.STAT, job_files=256, quiet_seconds=10)
    drop = Drop(tree, Copier(tree, Path(home, "spool")), database=Database(url), gathering=gathering,
                ring=lambda *_: None, sender="me", move=move == "move")
    drop.take([File(name, look) for name, look in tree.walk()])
    die()
"""


def killed(post, moment, after="move"):
    url = post.database.url.render_as_string(hide_password=False)
    words = [sys.executable, "-c", _KILLED, post.root, post.home, url, moment, after]
    assert subprocess.run(words, check=False).returncode == -signal.SIGKILL


@pytest.mark.parametrize("moment", ["before the commit", "before the move", "in the move", "after the move"])
def test_killed_at_any_moment_a_file_is_taken_once_and_moved(post, moment):
    post.put("s/a")
    with zipfile.ZipFile(post.root / "b.zip", "w") as archive:
        archive.writestr("1", "one")
        archive.writestr("2", "two")
    (post.root / "link").symlink_to("nowhere")
    killed(post, moment)
    post.begin().settle()
    assert sorted(post.arrivals()) == ["b.zip!1", "b.zip!2", "s/a"]
    assert len(post.audited()) == 1
    moved = {post.root / name for name in post.files() if name.startswith("done/")}
    assert {path.read_bytes() for path in moved} >= {b"this is s/a"}
    assert [name for name in post.files() if not name.startswith(("done/", "refused/"))] == []
    post.after(1)
    assert post.remembered() == []


def test_a_file_that_comes_again_after_a_kill_is_a_new_arrival(post):
    """What is remembered of a file that was moved away must not stand for one that comes later."""
    post.put("a")
    killed(post, "after the move")
    post.begin().settle()
    post.put("a")
    post.settle()
    assert post.arrivals() == ["a", "a"]


def test_killed_after_the_commit_a_file_that_stays_is_taken_once(post):
    post.put("s/a")
    killed(post, "before the move", "keep")
    post.begin(move=False).settle()
    assert post.arrivals() == ["s/a"]


def test_what_was_replaced_while_nobody_watched_is_taken_again(post):
    for name in "ab":
        post.put(name)
    post.begin(move=False).settle()
    post.end()
    post.put("a", "other bytes")
    shutil.copyfile(post.root / "b", post.root / "c")
    (post.root / "c").rename(post.root / "b")  # another file with the same bytes
    post.begin(move=False).settle()
    assert post.arrivals() == ["a", "b", "a"]
    post.end()
    post.begin(move=False).settle()
    assert post.arrivals() == ["a", "b", "a"]


def test_a_restart_reads_nothing_that_it_remembers(post, monkeypatch):
    post.put("a")
    post.begin(move=False).settle()
    post.end()
    monkeypatch.setattr(Tree, "open", lambda *_: pytest.fail("it is remembered"))
    post.begin(move=False).settle()


# --- what is wrong on this side --------------------------------------------------------------------------------


def full(monkeypatch, free):
    monkeypatch.setattr(spool.shutil, "disk_usage", lambda _path: shutil._ntuple_diskusage(0, 0, free))


def test_a_full_disk_makes_intake_wait_and_nothing_is_refused(post, monkeypatch, caplog):
    caplog.set_level("INFO")
    for name in "abc":
        post.put(name)
    full(monkeypatch, 1000)
    post.begin(reserve=1000)
    for _ in range(5):
        post.settle()
    assert (post.arrivals(), post.files(), post.audited()) == ([], ["a", "b", "c"], [])
    assert len([line for line in caplog.messages if "to spare" in line]) == 1
    monkeypatch.undo()
    post.after(5)
    assert post.arrivals() == ["a", "b", "c"]
    assert len([line for line in caplog.messages if "over" in line]) == 1


def test_a_file_that_does_not_fit_holds_up_no_other(post, monkeypatch):
    post.put("a", "x" * 1000)
    post.put("b", "x")
    full(monkeypatch, 1500)
    post.begin(reserve=1000).settle()
    assert post.arrivals() == ["b"]


_FULL = """
import resource, signal, sys
from pathlib import Path
from slicewise.worker.intake.copying import Copier, File
from slicewise.worker.intake.tree import Tree
signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
resource.setrlimit(resource.RLIMIT_FSIZE, (1000, 1000))
with Tree(Path(sys.argv[1]), Path(sys.argv[2], "watching")) as tree:
    copier = Copier(tree, Path(sys.argv[2], "spool"))
    for outcome in [copier.copy(File(name, look)) for name, look in sorted(tree.walk())]:
        print(outcome.file.name, type(outcome).__name__, getattr(outcome, "fault", ""))
"""


def test_a_disk_that_takes_no_more_is_no_file_s_fault(post):
    post.put("large", "x" * 100_000)
    post.put("small", "x")
    with zipfile.ZipFile(post.root / "large.zip", "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("one", "x" * 100_000)
    words = [sys.executable, "-c", _FULL, post.root, post.home]
    said = subprocess.run(words, capture_output=True, text=True, check=True).stdout.splitlines()
    full = "Later the spool takes no more: File too large"
    assert said == [f"large {full}", f"large.zip {full}", "small Copied "]
    assert [path.name for path in (post.home / "spool" / "incoming").iterdir()] == []


def test_a_share_that_gives_a_file_later_is_waited_for(post, monkeypatch):
    post.put("a")

    def broken(_tree, _name):
        raise OSError(116, "Stale file handle")

    monkeypatch.setattr(Tree, "open", broken)
    post.begin().settle()
    post.settle()
    assert (post.files(), post.audited()) == (["a"], [])
    monkeypatch.undo()
    post.settle()
    assert post.arrivals() == ["a"]


def test_a_commit_that_fails_leaves_everything_where_it_was(post, monkeypatch):
    for name in "ab":
        post.put(name)
    post.begin()

    def away(*_arguments):
        raise DatabaseError("it is away")

    monkeypatch.setattr(module.watched, "remember", away)
    post.settle()
    post.settle()
    assert (post.arrivals(), post.jobs(), post.files()) == ([], [], ["a", "b"])
    monkeypatch.undo()
    post.after(5)
    assert (post.arrivals(), post.files()) == (["a", "b"], ["done/a", "done/b"])


def test_what_cannot_be_moved_stays_is_remembered_and_said_once(post, monkeypatch, caplog):
    def other_disk(*_arguments, **_folders):
        raise OSError(18, "Invalid cross-device link")

    post.put("a")
    post.put("b")
    post.begin()
    monkeypatch.setattr(os, "rename", other_disk)
    for _ in range(3):
        post.settle()
    assert (post.arrivals(), post.files()) == (["a", "b"], ["a", "b"])
    assert len([line for line in caplog.messages if "cannot be moved" in line]) == 1
    post.end()
    monkeypatch.undo()
    post.begin().settle()
    assert (post.arrivals(), post.files()) == (["a", "b"], ["done/a", "done/b"])


# --- archives --------------------------------------------------------------------------------------------------


def test_an_archive_is_taken_as_its_members_in_jobs_of_their_own(post):
    with zipfile.ZipFile(post.root / "s.zip", "w") as archive:
        for number in range(5):
            archive.writestr(f"study/{number}", f"slice {number}")
    post.put("beside")
    post.begin(job_files=3).settle()
    assert post.jobs() == [
        ("open", ["beside"]),
        ("pending", [f"s.zip!study/{n}" for n in range(3)]),
        ("pending", [f"s.zip!study/{n}" for n in range(3, 5)]),
    ]
    assert post.bells == [2, 3]
    assert post.files() == ["done/beside", "done/s.zip"]


@pytest.mark.parametrize("move", [True, False])
def test_what_of_an_archive_cannot_be_taken_is_named(post, move):
    with zipfile.ZipFile(post.root / "s.zip", "w") as archive:
        archive.writestr("good", "good")
        archive.writestr("bad", "to be damaged")
    data = (post.root / "s.zip").read_bytes().replace(b"to be damaged", b"it is damaged", 1)
    (post.root / "s.zip").write_bytes(data)
    post.begin(move=move).settle()
    post.settle()
    assert post.arrivals() == ["s.zip!good"]
    (said,) = post.audited()
    assert "s.zip!bad: damaged in its archive (BadZipFile)" in said
    assert "1 of its files were taken" in said
    if move:
        assert post.files() == ["refused/s.zip", "refused/s.zip.reason.txt"]


def test_a_damaged_archive_is_refused_and_read_once(post, monkeypatch):
    post.put("s.zip", "PK and then nothing")
    post.begin(move=False).settle()
    assert len(post.audited()) == 1
    assert "damaged zip archive" in post.audited()[0]
    monkeypatch.setattr(Tree, "open", lambda *_: pytest.fail("it was read before"))
    post.settle()


def test_an_archive_that_is_none_is_a_file(post):
    post.put("a.zip", "no archive")
    post.begin().settle()
    assert post.arrivals() == ["a.zip"]
