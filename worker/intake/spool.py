"""The spool: every content once, named by its SHA-256, durable before anybody is told so."""

from __future__ import annotations

import hashlib
import os
import secrets
from dataclasses import dataclass
from pathlib import Path
from typing import IO

_CHUNK = 1 << 20


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

    def add(self, reading: IO[bytes]) -> Spooled:
        """Copy everything that can be read from a file object into the spool.

        Raises
        ------
        OSError
            It cannot be read, or the disk is full; nothing of it was kept.
        """
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
