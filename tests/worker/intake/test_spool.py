"""The spool: every content once, whole or not at all, under no name from outside."""

from __future__ import annotations

import hashlib
import os
import shutil
import signal
import socket
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from slicewise.worker.intake.sources import Source, Untakeable, open_regular, take
from slicewise.worker.intake.spool import Spool


def add(spool, path):
    return take(Source("", "", lambda: open_regular(path)), spool)


@pytest.fixture
def spool(tmp_path):
    return Spool(tmp_path / "spool")


def files_in(folder):
    return sorted(path for path in folder.rglob("*") if path.is_file())


def test_a_content_lies_under_its_hash(spool, tmp_path):
    (tmp_path / "a").write_bytes(b"x" * 3_000_000)
    stored = add(spool, tmp_path / "a")
    assert stored.sha256 == hashlib.sha256(b"x" * 3_000_000).hexdigest()
    assert stored.size_bytes == 3_000_000
    assert spool.path(stored.sha256).read_bytes() == b"x" * 3_000_000
    assert (tmp_path / "a").exists()


def test_a_content_that_comes_in_pieces_is_kept_only_when_it_is_whole(spool, tmp_path):
    with spool.begin() as incoming:
        incoming.write(b"first ")
        incoming.write(b"second")
        assert incoming.size_bytes == 12
        stored = incoming.keep()
    assert spool.path(stored.sha256).read_bytes() == b"first second"
    with suppress(ConnectionError), spool.begin() as incoming:
        incoming.write(b"half")
        raise ConnectionError
    assert files_in(tmp_path / "spool") == [spool.path(stored.sha256)]


def test_an_empty_file_is_a_content(spool, tmp_path):
    (tmp_path / "a").touch()
    assert add(spool, tmp_path / "a").size_bytes == 0
    assert len(files_in(tmp_path / "spool")) == 1


def test_the_same_content_is_kept_once(spool, tmp_path):
    for name in "ab":
        (tmp_path / name).write_bytes(b"the same")
    assert add(spool, tmp_path / "a") == add(spool, tmp_path / "b") == add(spool, tmp_path / "a")
    assert len(files_in(tmp_path / "spool")) == 1


def test_the_same_content_from_many_sides_at_once_is_kept_once(spool, tmp_path):
    (tmp_path / "a").write_bytes(b"the same" * 100_000)
    with ThreadPoolExecutor(8) as pool:
        stored = set(pool.map(lambda _: add(spool, tmp_path / "a"), range(40)))
    assert len(stored) == 1
    (kept,) = files_in(tmp_path / "spool")
    assert hashlib.sha256(kept.read_bytes()).hexdigest() == kept.name


@pytest.mark.timeout(20)
def test_what_is_no_regular_file_is_refused_without_waiting(spool, tmp_path):
    os.mkfifo(tmp_path / "fifo")
    (tmp_path / "folder").mkdir()
    listener = socket.socket(socket.AF_UNIX)
    listener.bind(str(tmp_path / "socket"))
    for name in ("fifo", "folder", "socket", "/dev/zero"):
        with pytest.raises(Untakeable, match=r"not a regular file|No such device"):
            add(spool, tmp_path / name)
    listener.close()
    assert files_in(tmp_path / "spool") == []


def test_what_cannot_be_read_is_refused(spool, tmp_path):
    (tmp_path / "loop").symlink_to(tmp_path / "loop")
    (tmp_path / "dangling").symlink_to(tmp_path / "nowhere")
    for name, says in (("loop", "symbolic links"), ("dangling", "No such file"), ("nowhere", "No such file")):
        with pytest.raises(Untakeable, match=says):
            add(spool, tmp_path / name)


def test_what_breaks_while_it_is_read_leaves_nothing(spool, tmp_path):
    """A process's own memory opens and stats as a regular file, and fails at the first read."""
    with pytest.raises(Untakeable, match="Input/output error"):
        add(spool, f"/proc/{os.getpid()}/mem")
    assert files_in(tmp_path / "spool") == []


def test_what_was_left_half_written_is_removed_after_a_day(spool, tmp_path):
    (tmp_path / "file").write_bytes(b"x")
    assert spool.tidy() == 0
    whole = add(spool, tmp_path / "file")
    with spool.begin() as going_on:
        going_on.write(b"y")
        (old,) = (tmp_path / "spool" / "incoming").iterdir()
        (left := old.with_name("left")).write_bytes(b"z")
        os.utime(left, (0, 0))
        assert spool.tidy() == 1
        assert not left.exists()
        kept = going_on.keep()
    os.utime(spool.path(whole.sha256), (0, 0))
    assert spool.tidy() == 0
    assert spool.path(whole.sha256).exists()
    assert spool.path(kept.sha256).read_bytes() == b"y"


def test_the_disk_keeps_its_reserve(tmp_path):
    (tmp_path / "file").write_bytes(b"x")
    total = shutil.disk_usage(tmp_path).total
    with pytest.raises(Untakeable, match="MiB of disk to spare"):
        add(Spool(tmp_path / "spool", reserve_bytes=2 * total), tmp_path / "file")
    assert files_in(tmp_path / "spool") == []
    assert add(Spool(tmp_path / "spool", reserve_bytes=1), tmp_path / "file").size_bytes == 1


def test_a_spool_that_cannot_be_written_is_said(tmp_path):
    (tmp_path / "file").touch()
    with pytest.raises(Untakeable, match=r"Not a directory|File exists"):
        add(Spool(tmp_path / "file"), tmp_path / "file")


_FULL = """
import resource, signal, sys
from pathlib import Path
from slicewise.worker.intake.sources import Source, Untakeable, open_regular, take
from slicewise.worker.intake.spool import Spool
signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
resource.setrlimit(resource.RLIMIT_FSIZE, (1000, 1000))
try:
    take(Source("", "", lambda: open_regular(sys.argv[2])), Spool(Path(sys.argv[1])))
except Untakeable as error:
    print(error)
"""


def test_a_disk_that_takes_no_more_leaves_nothing_behind(tmp_path):
    (tmp_path / "a").write_bytes(b"x" * 100_000)
    said = subprocess.run(
        [sys.executable, "-c", _FULL, tmp_path / "spool", tmp_path / "a"], capture_output=True, text=True, check=True
    ).stdout
    assert said == "File too large\n"
    assert files_in(tmp_path / "spool") == []


_COPIES = """
import sys
from pathlib import Path
from slicewise.worker.intake.spool import Spool
Spool(Path(sys.argv[1])).add(open(sys.argv[2], "rb"))
"""


def test_a_partial_file_is_never_visible(tmp_path, wait_until):
    """Killed in the middle of a copy: nothing lies under a hash."""
    source = tmp_path / "a"
    with source.open("wb") as sparse:
        sparse.truncate(20 * 2**30)
    copying = subprocess.Popen([sys.executable, "-c", _COPIES, tmp_path / "spool", source])
    incoming = tmp_path / "spool" / "incoming"
    wait_until(lambda: incoming.exists() and any(path.stat().st_size for path in incoming.iterdir()))
    copying.send_signal(signal.SIGKILL)
    copying.wait()
    assert {path.parent for path in files_in(tmp_path / "spool")} == {incoming}
    for path in files_in(incoming):
        path.unlink()


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None, max_examples=50)
@given(
    name=st.binary(min_size=1, max_size=100).filter(
        lambda n: b"/" not in n and b"\0" not in n and n not in (b".", b"..")
    )
)
def test_no_name_from_outside_reaches_the_spool(tmp_path_factory, name):
    folder = tmp_path_factory.mktemp("n")
    source = os.path.join(os.fsencode(folder), name)  # noqa: PTH118
    with open(source, "wb") as writing:  # noqa: PTH123
        writing.write(b"content")
    stored = add(Spool(folder / "spool"), os.fsdecode(source))
    assert [path.relative_to(folder / "spool").parts for path in files_in(folder / "spool")] == [
        (stored.sha256[:2], stored.sha256)
    ]
