"""What is there to be taken: files, the files of folders, and the members of zip archives."""

from __future__ import annotations

import lzma
import os
import stat
import zipfile
import zlib
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import IO

from slicewise.worker.errors import Misconfigured
from slicewise.worker.intake.spool import Spool, Spooled

MAX_ARCHIVE_BYTES = 64 * 2**30
"""Most bytes that a zip archive may unpack to."""

MAX_ARCHIVE_RATIO = 200
"""Most bytes that one byte of a zip archive may stand for: pictures never shrink that far, bombs do."""

MAX_ARCHIVE_MEMBERS = 200_000

DAMAGED = (zipfile.BadZipFile, zlib.error, lzma.LZMAError, EOFError, NotImplementedError)
"""What reading a member of a damaged zip archive raises."""

# Below this an archive is harmless, whatever its ratio.
_SMALL_BYTES = 64 * 2**20


class Untakeable(Exception):
    """A source that cannot be taken in; the message says why. Nothing of it was kept."""


@dataclass(frozen=True)
class Source:
    """One file that can be read.

    Parameters
    ----------
    name
        Where it came from, as it is stored: an absolute path, or ``archive.zip!member``.
    folder
        What holds it; files of one folder are mostly one series.
    open
        Opens it for reading. Raises `Untakeable`, or `OSError`.
    """

    name: str
    folder: str
    open: Callable[[], IO[bytes]]


@dataclass(frozen=True)
class Skipped:
    """Something that is there and is no file to be taken."""

    name: str
    reason: str


@dataclass(frozen=True)
class Cut:
    """What came so far has to be read before the walk goes on: the archive that holds it is closed then."""


def walk(roots: Iterable[Path]) -> Iterator[Source | Skipped | Cut]:
    """Everything below some files and folders, in the order of names.

    Symbolic links to folders are not followed; zip archives are opened, those inside them are not.

    Raises
    ------
    Misconfigured
        A root does not exist; nothing has been walked.
    """
    for root in check(roots):
        yield from _folder(root) if root.is_dir() else _file(root)


def check(roots: Iterable[Path]) -> list[Path]:
    """See that files and folders exist; their absolute paths.

    Raises
    ------
    Misconfigured
        One of them does not.
    """
    absolute = [Path(root).absolute() for root in roots]
    for root in absolute:
        if not root.exists():
            raise Misconfigured(f"{root} does not exist: give a file, a folder or a zip archive")
    return absolute


def _folder(root: Path) -> Iterator[Source | Skipped | Cut]:
    unlistable: list[Skipped] = []

    def note(error: OSError) -> None:
        unlistable.append(Skipped(text(error.filename), error.strerror or "cannot be listed"))

    for folder, folders, names in os.walk(root, onerror=note):
        folders.sort()
        for name in folders:
            if Path(folder, name).is_symlink():
                yield Skipped(text(Path(folder, name)), "a symbolic link to a folder")
        for name in sorted(names):
            yield from _file(Path(folder, name))
    yield from unlistable


def _file(path: Path) -> Iterator[Source | Skipped | Cut]:
    if path.suffix.lower() == ".zip" and _is_archive(path):
        yield from _archive(path)
    else:
        yield Source(text(path), text(path.parent), lambda: open_regular(path))


def open_regular(path: Path, flags: int = 0, folder: int | None = None) -> IO[bytes]:
    """Open a regular file for reading, and nothing else.

    Parameters
    ----------
    flags
        More flags of open(2), for instance ``os.O_NOFOLLOW``.
    folder
        Descriptor of the folder that `path` is relative to.

    Raises
    ------
    Untakeable
        It is a folder, a pipe, a device.
    """
    # O_NONBLOCK: opening a pipe that nobody writes to would wait for ever.
    descriptor = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC | flags, dir_fd=folder)
    if not stat.S_ISREG(os.fstat(descriptor).st_mode):
        os.close(descriptor)
        raise Untakeable("not a regular file")
    return os.fdopen(descriptor, "rb")


def take(source: Source | Skipped, spool: Spool) -> Spooled:
    """Copy a source into the spool.

    Raises
    ------
    Untakeable
        It cannot be read, or the disk is full.
    """
    with opened(source) as reading:
        return spool.add(reading)


@contextmanager
def opened(source: Source | Skipped) -> Iterator[IO[bytes]]:
    """Open a source; whatever breaks while it is read is said in one way.

    Raises
    ------
    Untakeable
        It cannot be read, or what is done with it failed with an `OSError`.
    """
    if isinstance(source, Skipped):
        raise Untakeable(source.reason)
    try:
        with source.open() as reading:
            yield reading
    except OSError as error:
        raise Untakeable(error.strerror or type(error).__name__) from error
    except DAMAGED as error:
        raise Untakeable(f"damaged in its archive ({type(error).__name__})") from error


def _is_archive(path: Path) -> bool:
    try:
        with open_regular(path) as reading:
            return is_archive(path.name, reading)
    except (OSError, Untakeable):
        # It is taken, or not, as any other file.
        return False


def is_archive(name: str, reading: IO[bytes]) -> bool:
    """Whether a file is to be taken as the members of a zip archive; it is left at its beginning."""
    begins = reading.read(2)
    reading.seek(0)
    return name.lower().endswith(".zip") and begins == b"PK"


def _archive(path: Path) -> Iterator[Source | Skipped | Cut]:
    try:
        with open_regular(path) as reading:
            yield from members(path, reading)
    except OSError as error:
        yield Skipped(text(path), _damaged(error))


def members(path: Path, reading: IO[bytes]) -> Iterator[Source | Skipped | Cut]:
    """The members of a zip archive; instead of all of them, why there are none to be had.

    Parameters
    ----------
    path
        What the archive is called.
    reading
        The archive itself; to be kept open until the last of its members has been read.
    """
    try:
        with zipfile.ZipFile(reading) as archive:
            found = [member for member in archive.infolist() if not member.is_dir()]
            _check(found, os.fstat(reading.fileno()).st_size)
            for member in found:
                name = text(f"{path}!{member.filename}")
                if member.flag_bits & 1:
                    yield Skipped(name, "it is encrypted: unpack the archive first")
                else:
                    yield Source(name, name.rpartition("/")[0], _member(archive, member))
            yield Cut()
    except Untakeable as error:
        yield Skipped(text(path), str(error))
    except (zipfile.BadZipFile, NotImplementedError, ValueError) as error:
        yield Skipped(text(path), _damaged(error))


def _damaged(error: Exception) -> str:
    return f"a damaged zip archive ({type(error).__name__}): send it again"


def _check(members: list[zipfile.ZipInfo], size: int) -> None:
    unpacked = sum(member.file_size for member in members)
    if len(members) > MAX_ARCHIVE_MEMBERS:
        raise Untakeable(f"a zip archive of {len(members)} files; at most {MAX_ARCHIVE_MEMBERS} are taken: split it")
    if unpacked > MAX_ARCHIVE_BYTES or unpacked > max(_SMALL_BYTES, MAX_ARCHIVE_RATIO * size):
        raise Untakeable(f"a zip archive of {size} bytes that unpacks to {unpacked}: unpack it first")


def _member(archive: zipfile.ZipFile, member: zipfile.ZipInfo) -> Callable[[], IO[bytes]]:
    # Reading stops at the size that the archive states, which has been checked.
    return lambda: archive.open(member)


def text(path: object) -> str:
    """A path as the database stores it: what is no UTF-8 becomes a question mark."""
    return os.fsencode(str(path)).decode("utf-8", "replace")
