"""What a walk finds: files and the members of archives, and a word about everything else."""

from __future__ import annotations

import os
import zipfile

import pytest

from slicewise.worker.intake import sources
from slicewise.worker.intake.sources import Cut, Skipped, Source, Untakeable, take, walk
from slicewise.worker.intake.spool import Spool


@pytest.fixture
def archive(tmp_path):
    def make(members, name="a.zip", compression=zipfile.ZIP_DEFLATED):
        with zipfile.ZipFile(tmp_path / name, "w", compression) as writing:
            for member, content in members.items():
                writing.writestr(member, content)
        return tmp_path / name

    return make


def found(path):
    return [one for one in walk([path]) if not isinstance(one, Cut)]


def read(one):
    with one.open() as reading:
        return reading.read()


def test_the_members_of_an_archive_are_sources_while_it_is_open(archive):
    path = archive({"s/1.dcm": b"one", "s/2.dcm": b"two", "empty/": b""})
    steps = walk([path])
    first, second = next(steps), next(steps)
    assert [first.name, second.name] == [f"{path}!s/1.dcm", f"{path}!s/2.dcm"]
    assert (read(first), read(second)) == (b"one", b"two")
    assert isinstance(next(steps), Cut)


def test_an_archive_inside_an_archive_is_a_file(archive, tmp_path):
    inner = archive({"x": b"x"}, "inner.zip").read_bytes()
    path = archive({"inner.zip": inner}, "outer.zip")
    (one,) = [one for one in walk([path]) if not isinstance(one, Cut)]
    assert one.name.endswith("outer.zip!inner.zip")


def test_a_file_that_is_only_called_zip_is_a_file(tmp_path):
    (tmp_path / "a.zip").write_bytes(b"no archive")
    (one,) = found(tmp_path / "a.zip")
    assert read(one) == b"no archive"


@pytest.mark.parametrize("size", [0.3, 0.9])
def test_a_damaged_archive_is_said(archive, size):
    path = archive({f"{n}": os.urandom(1000) for n in range(10)})
    path.write_bytes(path.read_bytes()[: int(path.stat().st_size * size)])
    (one,) = found(path)
    assert isinstance(one, Skipped)
    assert "damaged" in one.reason


def test_a_damaged_member_is_said_and_its_neighbours_are_taken(archive, tmp_path):
    path = archive({"a": b"a" * 5000, "b": b"b" * 5000}, compression=zipfile.ZIP_STORED)
    path.write_bytes(path.read_bytes().replace(b"a" * 5000, b"a" * 4999 + b"x"))
    spool, taken = Spool(tmp_path / "spool"), []
    for one in walk([path]):
        if isinstance(one, Source):
            try:
                taken.append(take(one, spool).size_bytes)
            except Untakeable as error:
                assert "damaged in its archive" in str(error)  # noqa: PT017
    assert taken == [5000]


def test_a_bomb_is_not_unpacked(archive):
    path = archive({"zeros": b"\0" * (80 * 2**20)})
    assert path.stat().st_size < 200_000
    (one,) = found(path)
    assert isinstance(one, Skipped)
    assert "unpacks to 83886080" in one.reason


def test_too_many_members_are_said(archive, monkeypatch):
    monkeypatch.setattr(sources, "MAX_ARCHIVE_MEMBERS", 3)
    (one,) = found(archive({str(n): b"" for n in range(4)}))
    assert isinstance(one, Skipped)
    assert "split it" in one.reason


def test_an_encrypted_member_is_said(archive):
    path = archive({"a": b"a"}, compression=zipfile.ZIP_STORED)
    data = bytearray(path.read_bytes())
    for magic, place in ((b"PK\x03\x04", 6), (b"PK\x01\x02", 8)):
        data[data.index(magic) + place] |= 1
    path.write_bytes(data)
    (one,) = found(path)
    assert isinstance(one, Skipped)
    assert "encrypted" in one.reason


def test_a_member_s_name_leads_nowhere(archive, tmp_path):
    path = archive({"../../etc/passwd": b"x", "/abs": b"y"})
    spool = Spool(tmp_path / "spool")
    for one in walk([path]):
        if isinstance(one, Source):
            take(one, spool)
    assert {p.name for p in tmp_path.iterdir()} == {"a.zip", "spool"}
