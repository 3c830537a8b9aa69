"""The spool: every content once, named by its SHA-256, durable before anybody is told so."""

from __future__ import annotations

import errno
import hashlib
import os
import secrets
import shutil
import tempfile
import time
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import IO

from slicewise.worker.durable import sync_folder

_CHUNK = 1 << 20

_LEFT_SECONDS = 86_400.0

# So much of a content is written without another look at the disk.
_UNLOOKED = 8 << 20


@dataclass(frozen=True)
class Spooled:
    """A content that lies in the spool."""

    sha256: str
    size_bytes: int


class Spool:
    """A folder fanned out over the first byte of the hash.

    No name from outside ever reaches the file system, and nothing is visible under its hash before all its
    bytes are on the disk.

    Parameters
    ----------
    reserve_bytes
        So much of the disk stays free: a full one would stop the database too.
    """

    def __init__(self, root: Path, *, reserve_bytes: int = 0) -> None:
        self._root = root
        self._reserve_bytes = reserve_bytes
        self._incoming = root / "incoming"

    def path(self, sha256: str) -> Path:
        """Where a content lies, or would lie."""
        return self._root / sha256[:2] / sha256

    def begin(self) -> Incoming:
        """Begin a content that comes piece by piece; use it as a context.

        Raises
        ------
        OSError
            The disk is full, or the spool cannot be written.
        """
        return Incoming(self, self._incoming / secrets.token_hex(16))

    def scratch(self) -> IO[bytes]:
        """A file without a name, for what has to be looked at before it is taken apart.

        Raises
        ------
        OSError
            The spool cannot be written.
        """
        _make_folder(self._incoming)
        return tempfile.TemporaryFile(dir=self._incoming)

    def make_sure_of_room(self, size_bytes: int) -> None:
        """See that the disk has its reserve and so many bytes to spare.

        Raises
        ------
        OSError
            It has not.
        """
        if not self._reserve_bytes:
            return
        # The spool is made with the first content.
        there = next(folder for folder in (self._root, *self._root.parents) if folder.exists())
        if shutil.disk_usage(there).free - size_bytes < self._reserve_bytes:
            raise OSError(errno.ENOSPC, f"less than {self._reserve_bytes >> 20} MiB of disk to spare")

    def tidy(self) -> int:
        """Remove what killed processes have left half written; how much. Safe while others write.

        What nobody has added to for a day will never be kept: nothing that takes anything in waits so long.
        """
        removed = 0
        for partial in list(self._incoming.glob("*")):
            with suppress(FileNotFoundError):
                if time.time() - partial.stat().st_mtime > _LEFT_SECONDS:
                    partial.unlink()
                    removed += 1
        return removed

    def add(self, reading: IO[bytes]) -> Spooled:
        """Copy everything that can be read from a file object into the spool.

        Raises
        ------
        OSError
            It cannot be read, or the disk is full; nothing of it was kept.
        """
        with self.begin() as incoming:
            while chunk := reading.read(_CHUNK):
                incoming.write(chunk)
            return incoming.keep()


class Incoming:
    """A content on its way in: what is not kept when the context ends is gone.

    Attributes
    ----------
    size_bytes
        How much has been written.
    """

    def __init__(self, spool: Spool, partial: Path) -> None:
        self._spool = spool
        self._partial = partial
        for changed in _make_folder(partial.parent):
            sync_folder(changed)
        self._writing = partial.open("xb")
        self._digest = hashlib.sha256()
        self.size_bytes = 0
        self._looked = 0

    def __enter__(self) -> Incoming:
        return self

    def __exit__(self, *_exception: object) -> None:
        try:
            self._writing.close()
        finally:
            # After `keep` the name is gone already.
            self._partial.unlink(missing_ok=True)

    def write(self, chunk: bytes | memoryview) -> None:
        """Add bytes.

        Raises
        ------
        OSError
            The disk is full, or has come to its reserve.
        """
        if self.size_bytes + len(chunk) > self._looked:
            self._looked = self.size_bytes + len(chunk) + _UNLOOKED
            self._spool.make_sure_of_room(len(chunk))
        self._digest.update(chunk)
        self.size_bytes += len(chunk)
        self._writing.write(chunk)

    def keep(self) -> Spooled:
        """Make what was written durable, under the name of its content.

        Raises
        ------
        OSError
            The disk is full, or failed; nothing was kept.
        """
        final = self._spool.path(self._digest.hexdigest())
        # Its name is its content: what lies there already is this very file. Whoever put it there may not have come
        # as far as making the name durable.
        changed = [final.parent]
        if not final.exists():
            # New folders are made before the wait for the disk, which mostly makes them durable too.
            changed += _make_folder(final.parent)
            self._writing.flush()
            os.fsync(self._writing.fileno())
            self._partial.replace(final)
        for folder in changed:
            sync_folder(folder)
        return Spooled(final.name, self.size_bytes)


def _make_folder(folder: Path) -> list[Path]:
    """Make a folder and those above it; the folders in which a name was made, which have to be made durable."""
    if folder.exists():
        return []
    changed = _make_folder(folder.parent)
    folder.mkdir(exist_ok=True)
    return [folder.parent, *changed]
