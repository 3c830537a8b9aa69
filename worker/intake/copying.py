"""Copying a file of a watched folder into the spool, if it is complete, a plain file, and stays as it is meanwhile.

What is wrong with a file is told apart from what is wrong on this side: for a full disk, no file pays.
"""

from __future__ import annotations

import hashlib
import os
import stat
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import IO

from slicewise.db.records import Content
from slicewise.worker.intake import sources
from slicewise.worker.intake.settling import Look
from slicewise.worker.intake.spool import Spool, Spooled
from slicewise.worker.intake.tree import Tree, written_to

_CHUNK = 1 << 20

# Members of an archive that are named when they cannot be taken.
_NAMED = 100


@dataclass(frozen=True)
class File:
    """A file as it was found.

    `though_open`: it may be taken although somebody has it open for writing.
    """

    name: str
    look: Look
    though_open: bool = False


@dataclass(frozen=True)
class Copied:
    """A file that lies in the spool: as one content, or as the members of an archive.

    `sha256` is the file's own; `refused` says what of an archive could not be taken.
    """

    file: File
    sha256: str
    contents: tuple[Content, ...]
    archive: bool = False
    refused: str | None = None


@dataclass(frozen=True)
class Barred:
    """A file that cannot be taken as long as it is what it is; `refused` says why."""

    file: File
    refused: str


@dataclass(frozen=True)
class Later:
    """A file that could not be taken now: it is gone, or not complete, or (`fault`) something else is wrong.

    `written`: somebody has it open for writing.
    """

    file: File
    fault: str | None = None
    written: bool = False


class _Fault(Exception):
    """Nothing is wrong with the file: the spool takes no more, or the file's own disk does not answer."""


class Copier:
    """Copies files of a watched folder into the spool.

    Parameters
    ----------
    folder
        The spool's folder, whose disk keeps `reserve_bytes` free.
    """

    def __init__(self, tree: Tree, folder: Path, reserve_bytes: int = 0) -> None:
        self._tree = tree
        self._spool = Spool(folder, reserve_bytes=reserve_bytes)

    def copy(self, file: File) -> Copied | Barred | Later:
        """Copy one file; it stays where it is."""
        if reason := _barred(file.look):
            return Barred(file, reason)
        try:
            with self._tree.open(file.name) as reading:
                return self._copied(file, reading)
        except PermissionError as error:
            return Barred(file, f"it cannot be read: {error.strerror}")
        except (FileNotFoundError, NotADirectoryError, sources.Untakeable):
            # Gone, or something else now: the next look will tell.
            return Later(file)
        except _Fault as error:
            return Later(file, str(error))
        except OSError as error:
            return Later(file, _not_given(error))

    def _copied(self, file: File, reading: IO[bytes]) -> Copied | Later:
        if _changed(file, reading) or (not file.though_open and written_to(reading)):
            return Later(file, written=not _changed(file, reading))
        with _kept():
            # Before anything is copied; of an archive it says little, so that each chunk is looked at too.
            self._spool.make_sure_of_room(file.look.size_bytes)
        if sources.is_archive(file.name, reading):
            copied = self._unpacked(file, reading)
        else:
            stored = self._spooled(_chunks(reading))
            source = sources.text(self._tree.root / file.name)
            copied = Copied(file, stored.sha256, (Content(stored.sha256, stored.size_bytes, source),))
        # What changed while it was being read has been read in part before, in part after.
        return Later(file) if _changed(file, reading) else copied

    def _unpacked(self, file: File, reading: IO[bytes]) -> Copied:
        sha256 = _digest(reading)
        contents, left_out = [], []
        for one in sources.members(self._tree.root / file.name, reading):
            if isinstance(one, sources.Skipped):
                left_out.append(f"{one.name}: {one.reason}")
            elif isinstance(one, sources.Source):
                try:
                    with one.open() as member:
                        stored = self._spooled(_chunks(member))
                except sources.DAMAGED as error:
                    left_out.append(f"{one.name}: damaged in its archive ({type(error).__name__})")
                else:
                    contents.append(Content(stored.sha256, stored.size_bytes, one.name))
        return Copied(file, sha256, tuple(contents), archive=True, refused=_list(left_out, len(contents)))

    def _spooled(self, chunks: Iterator[bytes]) -> Spooled:
        with _kept(), self._spool.begin() as incoming:
            for chunk in chunks:
                incoming.write(chunk)
            return incoming.keep()


@contextmanager
def _kept() -> Iterator[None]:
    """Tell a fault of the spool's from one of the watched folder's."""
    try:
        yield
    except OSError as error:
        raise _Fault(f"the spool takes no more: {error.strerror}") from None


def _barred(look: Look) -> str | None:
    if stat.S_ISLNK(look.mode):
        return "a symbolic link: copy the file itself"
    if stat.S_ISDIR(look.mode):
        return "a folder that cannot be listed, or is nested too deep"
    if not stat.S_ISREG(look.mode):
        return "not a regular file: a pipe, a socket or a device"
    if look.links > 1:
        return f"it has {look.links} names (hard links), which may be files elsewhere: copy it"
    return None


def _changed(file: File, reading: IO[bytes]) -> bool:
    return Look.of(os.fstat(reading.fileno())) != file.look


def _chunks(reading: IO[bytes]) -> Iterator[bytes]:
    try:
        while chunk := reading.read(_CHUNK):
            yield chunk
    except sources.DAMAGED:
        raise
    except OSError as error:
        if error.errno is None:
            raise EOFError from None  # bz2's word for damage
        raise _Fault(_not_given(error)) from None


def _not_given(error: OSError) -> str:
    return f"the watched folder does not give a file: {error.strerror}"


def _digest(reading: IO[bytes]) -> str:
    digest = hashlib.sha256()
    for chunk in _chunks(reading):
        digest.update(chunk)
    reading.seek(0)
    return digest.hexdigest()


def _list(left_out: list[str], taken: int) -> str | None:
    if not left_out:
        return None
    more = [f"and {len(left_out) - _NAMED} more"] if len(left_out) > _NAMED else []
    said = [f"{taken} of its files were taken"] if taken else []
    return "\n".join([*left_out[:_NAMED], *more, *said])
