"""When a file that lies in a watched folder is complete: once nothing about it has changed for a while.

Knows no clock and no file system: whoever looks says what was seen, and when.
"""

from __future__ import annotations

import os
from collections.abc import Collection
from dataclasses import dataclass
from typing import NamedTuple


class Look(NamedTuple):
    """What a file looks like from outside. As long as all of it stays, nobody has touched the file.

    `mode` and `links` count, too: a file that becomes readable, or loses its second name, is to be looked at anew.
    """

    mode: int
    links: int
    size_bytes: int
    mtime_ns: int
    inode: int

    @classmethod
    def of(cls, status: os.stat_result) -> Look:
        """The look that `os.stat` gives."""
        return cls(status.st_mode, status.st_nlink, status.st_size, status.st_mtime_ns, status.st_ino)


@dataclass
class _Waiting:
    look: Look
    since: float
    """When it was first seen like this, or last heard of."""
    unchanged: float
    """When it was first seen like this."""


class Settling:
    """The files that are not complete yet, as far as anybody can tell.

    Parameters
    ----------
    quiet_seconds
        How long a file has to stay as it is. Times are seconds on any clock that does not run backwards.
    """

    def __init__(self, quiet_seconds: float) -> None:
        self._quiet = quiet_seconds
        self._waiting: dict[str, _Waiting] = {}

    def __len__(self) -> int:
        return len(self._waiting)

    def __contains__(self, name: str) -> bool:
        return name in self._waiting

    def see(self, name: str, look: Look, at: float) -> None:
        """Note how a file looks now. Its time begins anew where that is not as before."""
        known = self._waiting.get(name)
        if known is None or known.look != look:
            self._waiting[name] = _Waiting(look, at, at)

    def stir(self, name: str, at: float) -> None:
        """Let a file wait for its whole time once more: something happened to it, or it could not be taken."""
        if name in self._waiting:
            self._waiting[name].since = at

    def drop(self, name: str) -> None:
        """Forget a file: it has been dealt with, or is gone."""
        self._waiting.pop(name, None)

    def keep(self, names: Collection[str]) -> None:
        """Forget every file but these: whoever looked has seen everything that is there."""
        for name in self._waiting.keys() - names:
            del self._waiting[name]

    def ripe(self, at: float) -> list[tuple[str, Look]]:
        """Files that have been as they are for long enough, in the order of names."""
        return sorted((name, one.look) for name, one in self._waiting.items() if at - one.since >= self._quiet)

    def unchanged(self, name: str, at: float) -> float:
        """How long a file has looked as it does, whatever was heard of it; in seconds."""
        return at - self._waiting[name].unchanged if name in self._waiting else 0.0
