"""The watched folder: nothing is followed out of it, nothing in it is overwritten, one process has it."""

from __future__ import annotations

import os
import socket
import subprocess
import sys

import pytest

from slicewise.worker.intake import tree as module
from slicewise.worker.intake.settling import Look
from slicewise.worker.intake.sources import Untakeable
from slicewise.worker.intake.tree import Away, Changed, Occupied, Tree, unfinished, written_to


@pytest.fixture
def root(tmp_path):
    (tmp_path / "in").mkdir()
    return tmp_path / "in"


@pytest.fixture
def tree(root, tmp_path):
    with Tree(root, tmp_path / "locks", ("done", "refused")) as made:
        yield made


def put(root, name, text="content"):
    path = root / name
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text)
    return path


def below(folder):
    return sorted(path.relative_to(folder).as_posix() for path in folder.rglob("*") if not path.is_dir())


# --- what is there ---------------------------------------------------------------------------------------------


def test_everything_is_found_but_what_is_unfinished_or_lies_apart(root, tree):
    for name in ("a", "b/c/d", "done/x", "refused/y", "b/done/z"):
        put(root, name)
    for name in (".hidden", "b/.cache/x", "a.part", "a.TMP", "b/a.filepart", "a~", "copying.partial/x"):
        put(root, name)
    (root / "empty").mkdir()
    assert sorted(name for name, _ in tree.walk()) == ["a", "b/c/d", "b/done/z"]


@pytest.mark.parametrize("name", [".a", "a/.b/c", "a.part", "x.tmp/y", "y~"])
def test_names_of_what_is_unfinished(name):
    assert unfinished(name)


@pytest.mark.parametrize("name", ["a", "a/b.dcm", "part", "tmp/a", "a.b", "~a", "a.tmpx"])
def test_names_of_what_is_finished(name):
    assert not unfinished(name)


def test_links_and_other_things_are_found_and_not_followed(root, tree, tmp_path):
    put(tmp_path, "outside/secret")
    (root / "folder").symlink_to(tmp_path / "outside")
    (root / "file").symlink_to(tmp_path / "outside" / "secret")
    (root / "loop").symlink_to(root)
    os.mkfifo(root / "fifo")
    listener = socket.socket(socket.AF_UNIX)
    listener.bind(str(root / "socket"))
    listener.close()
    assert sorted(name for name, _ in tree.walk()) == ["fifo", "file", "folder", "loop", "socket"]
    for name in ("file", "folder", "loop", "folder/secret", "fifo", "socket"):
        with pytest.raises((OSError, Untakeable)):
            tree.open(name)
    assert tree.look("folder/secret") is None
    assert tree.look("file") == Look.of((root / "file").lstat())


def test_a_folder_swapped_for_a_link_leads_nowhere(root, tree, tmp_path):
    """Between the look and the opening, by somebody who may write there."""
    put(root, "sub/a", "harmless")
    put(tmp_path, "outside/a", "secret")
    found = dict(tree.walk())["sub/a"]
    (root / "sub").rename(root / "was")
    (root / "sub").symlink_to(tmp_path / "outside")
    with pytest.raises(OSError, match=r"Not a directory|symbolic"):
        tree.open("sub/a")
    with pytest.raises(OSError, match=r"Not a directory|symbolic"):
        tree.move("sub/a", found, "done")
    assert (tmp_path / "outside" / "a").read_text() == "secret"


def test_a_folder_nested_too_deep_is_found_as_one(root, tree, monkeypatch):
    monkeypatch.setattr(module, "DEEPEST", 2)
    put(root, "1/2/ok")
    put(root, "1/2/3/hidden")
    assert sorted(name for name, _ in tree.walk()) == ["1/2/3", "1/2/ok"]


@pytest.mark.parametrize("name", [b"\xff\xfe", b"line\nbreak", b"-rf", b" ", "Jörg".encode(), b"x" * 255])
def test_a_hostile_name_is_a_name(root, tree, name):
    path = os.path.join(os.fsencode(root), name)  # noqa: PTH118
    with open(path, "w") as writing:  # noqa: PTH123
        writing.write("x")
    ((found, look),) = tree.walk()
    assert os.fsencode(found) == name
    with tree.open(found) as reading:
        assert reading.read() == b"x"
    tree.move(found, look, "refused", "for a reason")
    assert list(tree.walk()) == []
    assert len(below(root)) == 2


def test_a_folder_that_is_gone_is_away_and_comes_back(root, tree):
    put(root, "a")
    root.rename(root.with_name("elsewhere"))
    with pytest.raises(Away, match="No such file"):
        tree.refresh()
    root.mkdir()
    put(root, "b")
    assert tree.refresh()
    assert [name for name, _ in tree.walk()] == ["b"]
    assert not tree.refresh()


# --- moving ----------------------------------------------------------------------------------------------------


def look(root, name):
    return Look.of((root / name).lstat())


def test_a_file_is_moved_with_the_folders_above_it(root, tree):
    put(root, "a/b/c", "one")
    tree.move("a/b/c", look(root, "a/b/c"), "done")
    assert below(root) == ["done/a/b/c"]
    assert (root / "done/a/b/c").read_text() == "one"


def test_a_name_that_is_taken_gets_a_number_and_nothing_is_overwritten(root, tree):
    for number in range(150):
        put(root, "s/x.dcm", str(number))
        tree.move("s/x.dcm", look(root, "s/x.dcm"), "done")
    kept = list((root / "done" / "s").iterdir())
    assert sorted(int(path.read_text()) for path in kept) == list(range(150))
    assert {"x.dcm", "x.2.dcm", "x.99.dcm"} <= {path.name for path in kept}
    assert all(path.suffix == ".dcm" for path in kept)


def test_a_reason_stands_beside_what_was_refused(root, tree):
    (root / "link").symlink_to("nowhere")
    tree.move("link", look(root, "link"), "refused", "a symbolic link")
    assert below(root) == ["refused/link", "refused/link.reason.txt"]
    assert (root / "refused/link").is_symlink()
    assert (root / "refused/link.reason.txt").read_text() == "a symbolic link\n"


def test_a_folder_can_be_refused_too(root, tree):
    put(root, "deep/x")
    tree.move("deep", look(root, "deep"), "refused", "too deep")
    assert below(root) == ["refused/deep.reason.txt", "refused/deep/x"]


def test_a_name_as_long_as_it_may_be_leaves_room_for_a_reason(root, tree):
    name = "ü" * 127
    for _ in range(2):
        put(root, name)
        tree.move(name, look(root, name), "refused", "why")
    kept = sorted(path.name for path in (root / "refused").iterdir())
    assert len(kept) == 4
    assert all(path.encode() for path in kept), "cut through the middle of a letter"


def test_what_was_replaced_meanwhile_stays(root, tree):
    put(root, "a", "old")
    seen = look(root, "a")
    put(root, "new", "newer bytes").rename(root / "a")
    with pytest.raises(Changed):
        tree.move("a", seen, "done")
    assert below(root) == ["a"]


def test_what_is_replaced_in_the_very_moment_goes_back(root, tree, monkeypatch):
    put(root, "a", "old")
    rename = os.rename

    def replaced(source, target, **folders):
        monkeypatch.setattr(os, "rename", rename)
        put(root, "new", "newer bytes").rename(root / "a")
        rename(source, target, **folders)

    monkeypatch.setattr(os, "rename", replaced)
    with pytest.raises(Changed):
        tree.move("a", look(root, "a"), "done")
    assert below(root) == ["a"]
    assert (root / "a").read_text() == "newer bytes"


def test_a_move_that_fails_leaves_no_empty_file(root, tree, monkeypatch):
    put(root, "a")

    def broken(*_arguments, **_folders):
        raise OSError(18, "Invalid cross-device link")

    monkeypatch.setattr(os, "rename", broken)
    with pytest.raises(OSError, match="cross-device"):
        tree.move("a", look(root, "a"), "refused", "why")
    assert [name for name in below(root) if not name.endswith("reason.txt")] == ["a"]


def test_a_done_folder_that_is_a_link_is_not_followed(root, tree, tmp_path):
    (tmp_path / "outside").mkdir()
    (root / "done").symlink_to(tmp_path / "outside")
    put(root, "a")
    with pytest.raises(OSError, match=r"Not a directory|symbolic"):
        tree.prepare("done")
    with pytest.raises(OSError, match=r"Not a directory|symbolic"):
        tree.move("a", look(root, "a"), "done")
    assert below(tmp_path / "outside") == []


def test_preparing_leaves_nothing_but_the_folders(root, tree):
    tree.prepare("done", "refused")
    tree.prepare("done", "refused")
    assert below(root) == []
    assert sorted(path.name for path in root.iterdir()) == ["done", "refused"]


# --- who has it ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("other", [".", "..", "sub", "link"])
def test_a_folder_is_watched_by_one_process(root, tree, tmp_path, other):
    """The same folder, one above it, one below it, one that leads to it; whatever the home."""
    (root / "sub").mkdir()
    (root / "link").symlink_to(root)
    with pytest.raises(Occupied, match="watched already"), Tree(root / other, tmp_path / "other locks"):
        pass


def test_folders_side_by_side_do_not_disturb_each_other(root, tree, tmp_path):
    (tmp_path / "beside").mkdir()
    with Tree(tmp_path / "beside", tmp_path / "locks"):
        pass


def test_where_no_folder_can_be_locked_a_file_in_the_home_is(root, tmp_path, monkeypatch):
    import fcntl
    import stat

    flock = fcntl.flock

    def of_a_file_server(descriptor, kind):
        if stat.S_ISDIR(os.fstat(descriptor).st_mode):
            raise OSError(9, "Bad file descriptor")
        flock(descriptor, kind)

    monkeypatch.setattr(fcntl, "flock", of_a_file_server)
    with (
        Tree(root, tmp_path / "locks"),
        pytest.raises(Occupied),
        Tree(root, tmp_path / "locks"),
    ):
        pass


_HOLDS = """
import sys, time
from pathlib import Path
from slicewise.worker.intake.tree import Tree
with Tree(Path(sys.argv[1]), Path(sys.argv[2])):
    print("held", flush=True)
    time.sleep(600)
"""


def test_the_lock_goes_with_its_process(root, tmp_path):
    holding = subprocess.Popen([sys.executable, "-c", _HOLDS, root, tmp_path / "locks"], stdout=subprocess.PIPE)
    assert holding.stdout.readline() == b"held\n"
    with pytest.raises(Occupied), Tree(root, tmp_path / "locks"):
        pass
    holding.kill()
    holding.communicate()
    with Tree(root, tmp_path / "locks"):
        pass


# --- who writes ------------------------------------------------------------------------------------------------


def test_the_kernel_says_who_writes(root, tree):
    path = put(root, "a")
    with path.open("a"), tree.open("a") as reading:
        assert written_to(reading)
    with tree.open("a") as reading:
        assert not written_to(reading)
        with path.open("a") as writing:
            # Nothing of the question is left that would hinder a writer.
            writing.write("more")


def test_where_the_kernel_does_not_say_nobody_writes():
    with open("/proc/self/status", "rb") as reading:  # noqa: PTH123
        assert not written_to(reading)
