"""The spool: every content once, named by its SHA-256, durable before anybody is told so."""

from __future__ import annotations

import hashlib
import os
import secrets
import stat
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

_CHUNK = 1 << 20


class NotSpooled(Exception):
    """A source that could not be taken in; the message says why. Nothing of it was kept."""


@dataclass(frozen=True)
class Spooled:
    """A content that lies in the spool."""

    sha256: str
    size_bytes: int


class Spool:
    """A folder fanned out over two levels of the hash.

    No name from outside ever reaches the file system, and nothing is visible under its hash before all its
    bytes are on the disk.
    """

    def __init__(self, root: Path) -> None:
        self._root = root
        self._incoming = root / "incoming"

    def path(self, sha256: str) -> Path:
        """Where a content lies, or would lie."""
        return self._root / sha256[:2] / sha256[2:4] / sha256

    def add(self, source: Path) -> Spooled:
        """Copy a regular file into the spool.

        Raises
        ------
        NotSpooled
            It is no regular file, cannot be read, or the disk is full.
        """
        try:
            with self._open(source) as reading:
                return self._store(reading)
        except OSError as error:
            raise NotSpooled(error.strerror or type(error).__name__) from error

    @staticmethod
    def _open(source: Path) -> BinaryIO:
        # O_NONBLOCK: opening a pipe that nobody writes to would wait for ever.
        descriptor = os.open(source, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
        if not stat.S_ISREG(os.fstat(descriptor).st_mode):
            os.close(descriptor)
            raise NotSpooled("not a regular file")
        return os.fdopen(descriptor, "rb")

    def _store(self, reading: BinaryIO) -> Spooled:
        self._incoming.mkdir(parents=True, exist_ok=True)
        partial = self._incoming / secrets.token_hex(16)
        digest, size = hashlib.sha256(), 0
        try:
            with partial.open("xb") as writing:
                while chunk := reading.read(_CHUNK):
                    digest.update(chunk)
                    size += len(chunk)
                    writing.write(chunk)
                final = self.path(digest.hexdigest())
                if final.exists():
                    # Its name is its content: what lies there already is this very file.
                    return Spooled(final.name, size)
                writing.flush()
                os.fsync(writing.fileno())
            final.parent.mkdir(parents=True, exist_ok=True)
            partial.replace(final)
            _sync_folder(final.parent)
            return Spooled(final.name, size)
        finally:
            partial.unlink(missing_ok=True)


def _sync_folder(folder: Path) -> None:
    # The rename itself is durable only when the folder is.
    descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
