"""A watched folder as its keeper sees it: every name is reached from the folder itself, and no link is followed.

Whoever may write into the folder may swap a file, or a folder on the way to it, for a link at any moment. So nothing
below is ever named by a path: each part is opened in the one before it, and none may be a link.
"""

from __future__ import annotations

import errno
import fcntl
import hashlib
import os
import secrets
import signal
import stat
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path
from typing import IO

from slicewise.worker.errors import SlicewiseError
from slicewise.worker.intake.settling import Look
from slicewise.worker.intake.sources import open_regular

DEEPEST = 100
"""Folders nested deeper than this are not looked into."""

_FOLDER = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC

# What senders call a file that they still write: rsync and most others a leading dot, browsers, WinSCP, editors.
_UNFINISHED = (".part", ".partial", ".filepart", ".crdownload", ".tmp", "~")

# The longest name that file systems take, in bytes, less what a number and ".reason.txt" need.
_LONGEST_NAME = 255 - 32

_NUMBERED = 100


class Away(Exception):
    """The folder cannot be looked at now; the message says why."""


class Occupied(SlicewiseError):
    """Another watcher has the folder."""


class Changed(Exception):
    """A file is no longer what it was a moment ago."""


def unfinished(name: str) -> bool:
    """Whether a name says that its file, or something above it, is still being written."""
    return any(part.startswith(".") or part.lower().endswith(_UNFINISHED) for part in name.split("/"))


class Tree:
    """A watched folder, held by this process alone. Use it as a context.

    Names below it are relative, their parts joined by slashes.

    Parameters
    ----------
    root
        Its absolute path.
    locks
        A folder for lock files, for file systems that cannot lock a folder; the home, which several hosts may share.
    apart
        Names at its top that are not looked at.
    """

    def __init__(self, root: Path, locks: Path, apart: Sequence[str] = ()) -> None:
        self.root = root
        self._locks = locks
        self._apart = frozenset(apart)
        self._held = ExitStack()
        self._folder = -1

    def __enter__(self) -> Tree:
        self._hold()
        return self

    def __exit__(self, *_exception: object) -> None:
        self._release()

    def refresh(self) -> bool:
        """See that the folder is still the one that is held, and hold the new one where it was mounted or made anew.

        Returns
        -------
        bool
            Whether it is another one now.

        Raises
        ------
        Away
            There is none, or somebody else holds it.
        """
        try:
            if self._holds(self.root.stat()):
                return False
            self._release()
            self._hold()
        except OSError as error:
            raise Away(error.strerror or "it is gone") from None
        except Occupied as error:
            raise Away(str(error)) from None
        return True

    def walk(self) -> Iterator[tuple[str, Look]]:
        """Everything that lies there to be taken or refused, with its look; of folders only those that stay closed.

        Raises
        ------
        Away
            The file system does not answer: what was not seen may still be there.
        """
        waiting: list[tuple[tuple[str, ...], Look | None]] = [((), None)]
        while waiting:
            parts, look = waiting.pop()
            if len(parts) > DEEPEST and look:
                yield "/".join(parts), look
                continue
            try:
                entries = self._entries(parts)
            except PermissionError as error:
                if look is None:
                    raise Away(error.strerror) from None
                yield "/".join(parts), look
                continue
            for name, seen in entries:
                if unfinished(name) if parts else self.ignores(name):
                    continue
                if stat.S_ISDIR(seen.mode):
                    waiting.append(((*parts, name), seen))
                else:
                    yield "/".join((*parts, name)), seen

    def ignores(self, name: str) -> bool:
        """Whether a name lies apart, or says that it is still being written."""
        return unfinished(name) or name.partition("/")[0] in self._apart

    def look(self, name: str) -> Look | None:
        """How one file looks; None where it is none, or is not to be looked at."""
        if self.ignores(name):
            return None
        *above, base = name.split("/")
        try:
            with self._below(above) as folder:
                seen = _look(folder, base)
        except OSError:
            return None
        return None if stat.S_ISDIR(seen.mode) else seen

    def open(self, name: str) -> IO[bytes]:
        """Open a regular file for reading.

        Raises
        ------
        OSError
            It is gone, a link, closed to this user, or the file system does not answer.
        Untakeable
            It is no regular file.
        """
        *above, base = name.split("/")
        with self._below(above) as folder:
            return open_regular(Path(base), os.O_NOFOLLOW, folder)

    def move(self, name: str, look: Look, into: str, reason: str | None = None) -> None:
        """Move a file into a folder at the top, under its own name or, where that is taken, a numbered one.

        Parameters
        ----------
        look
            How it looked when it was dealt with.
        reason
            What to write into ``NAME.reason.txt`` beside it.

        Raises
        ------
        Changed
            Another file lies there by now; it stays.
        OSError
            It cannot be moved; it stays.
        """
        *above, base = name.split("/")
        with self._below(above) as here, self._below([into, *above], make=True) as there:
            if _look(here, base) != look:
                raise Changed
            with _claimed(there, base, look) as kept:
                if reason is not None:
                    _write(there, f"{kept}.reason.txt", reason)
                os.rename(base, kept, src_dir_fd=here, dst_dir_fd=there)
            # A folder changes when it is moved; and an inode's number, on some file servers.
            if not stat.S_ISDIR(look.mode) and _look(there, kept)._replace(inode=look.inode) != look:
                # It was replaced in the moment between: what lies there now has not been taken.
                with _claimed(here, base, look) as back:
                    os.rename(kept, back, src_dir_fd=there, dst_dir_fd=here)
                raise Changed

    def prepare(self, *names: str) -> None:
        """Make folders at the top, and see that files can be moved into them.

        Raises
        ------
        OSError
            They cannot be made, or written to.
        """
        for name in names:
            with self._below([name], make=True) as folder, _claimed(folder, ".try", None) as tried:
                os.unlink(tried, dir_fd=folder)

    def _entries(self, parts: Sequence[str]) -> list[tuple[str, Look]]:
        found = []
        try:
            with self._below(parts) as folder, os.scandir(folder) as entries:
                for entry in entries:
                    with suppress(FileNotFoundError):
                        found.append((entry.name, Look.of(entry.stat(follow_symlinks=False))))
        except PermissionError:
            raise
        except OSError as error:
            # Swapped for a file or a link meanwhile, or gone; the root itself may not be.
            if parts and error.errno in {errno.ENOENT, errno.ENOTDIR, errno.ELOOP}:
                return []
            raise Away(error.strerror or "it does not answer") from None
        return sorted(found)

    @contextmanager
    def _below(self, parts: Sequence[str], *, make: bool = False) -> Iterator[int]:
        """The descriptor of a folder, reached part by part."""
        folder = os.dup(self._folder)
        try:
            for part in parts:
                if make:
                    with suppress(FileExistsError):
                        os.mkdir(part, dir_fd=folder)
                below = os.open(part, _FOLDER, dir_fd=folder)
                os.close(folder)
                folder = below
            yield folder
        finally:
            os.close(folder)

    def _hold(self) -> None:
        """Lock the folder for this process; those above it are shared, so that nobody watches one of them.

        The locks are the kernel's: they go with the process, however that ends.

        Raises
        ------
        Occupied
            Another watcher has it, or a folder above or below it.
        """
        real = self.root.resolve(strict=True)
        with ExitStack() as stack:
            for above in reversed(real.parents):
                with suppress(PermissionError):
                    self._lock(_opened(stack, above, _FOLDER), fcntl.LOCK_SH)
            folder = _opened(stack, real, _FOLDER)
            self._lock(folder, fcntl.LOCK_EX)
            self._locks.mkdir(parents=True, exist_ok=True, mode=0o700)
            name = f"{hashlib.sha256(os.fsencode(real)).hexdigest()}.lock"
            self._lock(_opened(stack, self._locks / name, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC), fcntl.LOCK_EX)
            self._folder, self._held = folder, stack.pop_all()

    def _holds(self, there: os.stat_result) -> bool:
        try:
            return self._folder >= 0 and os.path.samestat(there, os.fstat(self._folder))
        except OSError:
            # A file server that came back does not know what was opened before.
            return False

    def _release(self) -> None:
        self._folder = -1
        self._held.close()

    def _lock(self, descriptor: int, kind: int) -> None:
        try:
            fcntl.flock(descriptor, kind | fcntl.LOCK_NB)
        except BlockingIOError:
            raise Occupied(
                f"{self.root}, or a folder above or below it, is watched already: stop that 'slicewise watch'"
            ) from None
        except OSError:
            # NFS locks no folders; the lock file in the home stands in.
            return


def written_to(reading: IO[bytes]) -> bool:
    """Whether somebody has the file open for writing; False where the kernel does not say.

    It says so by refusing a read lease (fcntl(2)), to the file's owner and to CAP_LEASE, on local file systems.
    """
    try:
        # Whoever opens the file in the moment of the lease makes the kernel send a signal: one that nobody minds.
        fcntl.fcntl(reading, fcntl.F_SETSIG, signal.SIGURG)
        fcntl.fcntl(reading, fcntl.F_SETLEASE, fcntl.F_RDLCK)
        fcntl.fcntl(reading, fcntl.F_SETLEASE, fcntl.F_UNLCK)
    except BlockingIOError:
        return True
    except OSError:
        return False
    return False


def _opened(stack: ExitStack, path: Path, flags: int) -> int:
    descriptor = os.open(path, flags, 0o600)
    stack.callback(os.close, descriptor)
    return descriptor


def _look(folder: int, base: str) -> Look:
    return Look.of(os.stat(base, dir_fd=folder, follow_symlinks=False))


@contextmanager
def _claimed(folder: int, base: str, look: Look | None) -> Iterator[str]:
    """A name that nothing had: an empty file, or folder, holds it until it is renamed over."""
    as_folder = look is not None and stat.S_ISDIR(look.mode)
    for name in _names(base):
        try:
            if as_folder:
                os.mkdir(name, dir_fd=folder)
            else:
                os.close(os.open(name, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600, dir_fd=folder))
        except FileExistsError:
            continue
        used = False
        try:
            yield name
            used = True
        finally:
            if not used:
                (os.rmdir if as_folder else os.unlink)(name, dir_fd=folder)
        return


def _names(base: str) -> Iterator[str]:
    stem, dot, suffix = base.rpartition(".")
    if not stem or len(suffix) > 16:
        stem, dot, suffix = base, "", ""
    suffix = dot + suffix
    stem = _cut(stem, _LONGEST_NAME - len(os.fsencode(suffix)))
    yield f"{stem}{suffix}"
    yield from (f"{stem}.{number}{suffix}" for number in range(2, _NUMBERED))
    while True:
        yield f"{stem}.{secrets.token_hex(8)}{suffix}"


def _cut(text: str, most: int) -> str:
    data = os.fsencode(text)
    # Not through the middle of a letter: some file servers take UTF-8 only.
    return text if len(data) <= most else data[:most].decode("utf-8", "ignore")


def _write(folder: int, name: str, text: str) -> None:
    with _claimed(folder, name, None) as claimed:
        descriptor = os.open(claimed, os.O_WRONLY | os.O_NOFOLLOW | os.O_CLOEXEC, dir_fd=folder)
        with os.fdopen(descriptor, "w", encoding="utf-8") as writing:
            writing.write(text + "\n")
