"""Watching folders: looking for files, waiting until they are complete, taking them, and saying so.

Events are a hint; what counts is that everything is looked through now and then. What is wrong on this side, a full
disk or a database that is away, is said once; then it is tried again until it is over.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from dataclasses import dataclass

from slicewise.db.errors import DatabaseError
from slicewise.worker.intake.copying import File
from slicewise.worker.intake.drop import Drop, Tally
from slicewise.worker.intake.events import Events
from slicewise.worker.intake.settling import Look, Settling
from slicewise.worker.intake.tree import Away, Tree

log = logging.getLogger(__name__)

# Kinds of trouble that end.
_DATABASE, _FAULT, _FOLDER = "database", "fault", "folder"

# Files that are committed together.
_BATCH = 64

# Looking everywhere must not take the machine from the work.
_SHARE = 20

# A file that does not change is taken at last, although somebody keeps it open for writing. On file servers the
# kernel says so of every file.
_OPEN_SECONDS = 60.0


@dataclass(frozen=True)
class Pace:
    """How patient a watcher is, in seconds.

    Parameters
    ----------
    quiet
        How long a file has to stay as it is before it is taken.
    rescan
        How often everything is looked through.
    """

    quiet: float = 5.0
    rescan: float = 30.0


@dataclass
class Sum:
    """What a watcher has done, and (`left`) what it could not do now and has left where it was."""

    taken: int = 0
    contents: int = 0
    refused: int = 0
    left: int = 0


class Watch:
    """Watches one folder. Use it as a context, and call `turn` again and again.

    Parameters
    ----------
    number
        What the log calls the folder: its path may name a person.
    listen
        Whether to listen to the kernel's events, and to what it says of writers: not on a file server.
    once
        Take only what is there now; `finished` says when that is done.
    """

    def __init__(
        self,
        tree: Tree,
        drop: Drop,
        pace: Pace,
        *,
        number: int = 1,
        listen: bool = True,
        once: bool = False,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._tree, self._drop, self._pace, self._clock = tree, drop, pace, clock
        self._settling = Settling(pace.quiet)
        self._listen, self._mind_writers = listen and not once, listen
        self._once, self._name = once, f"folder {number}"
        self._events: Events | None = None
        self._stack = ExitStack()
        self._next_rescan = self._soonest_rescan = clock()
        self._looked = False
        self._troubles: dict[str, str] = {}
        self._faulty: set[str] = set()
        self.sum = Sum()

    def __enter__(self) -> Watch:
        self._drop.recall()
        self._start_listening()
        return self

    def __exit__(self, *_exception: object) -> None:
        self._stack.close()

    @property
    def waiting(self) -> int:
        """How many files are not complete yet, as far as anybody can tell."""
        return len(self._settling)

    @property
    def finished(self) -> bool:
        """Whether all that was there has been dealt with."""
        return self._once and self._looked and not self._settling

    def turn(self) -> None:
        """Look, and take what is complete."""
        self._hear()
        if self._clock() >= self._next_rescan and not (self._once and self._looked):
            self._rescan()
        self._take()
        self._tidy()

    def end(self) -> None:
        """Close the open jobs; where that does not succeed, they close by themselves."""
        self._tidy(ending=True)

    def _start_listening(self) -> None:
        self._stack.close()
        self._events = None
        if self._listen:
            try:
                self._events = self._stack.enter_context(Events(self._tree.root.resolve(), self._tree.ignores))
            except OSError as error:
                log.warning(
                    "%s: the kernel gives no events (%s): it is looked through every %g s",
                    self._name,
                    error.strerror,
                    self._pace.rescan,
                )

    def _hear(self) -> None:
        if self._events is None:
            return
        names, everything = self._events.heard()
        if everything:
            self._next_rescan = min(self._next_rescan, self._soonest_rescan)
        at = self._clock()
        for name in names:
            look = self._tree.look(name)
            if look is None:
                self._settling.drop(name)
            else:
                self._see(name, look, at)
                self._settling.stir(name, at)

    def _rescan(self) -> None:
        began = self._clock()
        try:
            if self._tree.refresh():
                self._start_listening()
            seen = set()
            for name, look in self._tree.walk():
                seen.add(name)
                self._see(name, look, began)
            self._settling.keep(seen)
            self._drop.keep(seen)
        except Away as error:
            self._say(_FOLDER, f"the folder cannot be looked through: {error}")
        else:
            self._say(_FOLDER, None)
            self._looked = True
        ended = self._clock()
        self._soonest_rescan = ended + _SHARE * (ended - began)
        self._next_rescan = max(began + self._pace.rescan, self._soonest_rescan)

    def _see(self, name: str, look: Look, at: float) -> None:
        if self._drop.knows(name, look):
            self._settling.drop(name)
        else:
            self._settling.see(name, look, at)

    def _take(self) -> None:
        at = self._clock()
        ripe = [File(name, look, self._though_open(name, at)) for name, look in self._settling.ripe(at)]
        while ripe:
            # While the database is away, one file asks whether it is back.
            size = 1 if _DATABASE in self._troubles else _BATCH
            try:
                tally = self._drop.take(ripe[:size])
            except DatabaseError as error:
                self._say(_DATABASE, str(error))
                self._put_off([file.name for file in ripe])
                return
            ripe = ripe[size:]
            if tally.committed:
                self._say(_DATABASE, None)
            self._count(tally)
            self._again(tally)
        self._faulty = {name for name in self._faulty if name in self._settling}
        if not self._faulty:
            self._say(_FAULT, None)

    def _though_open(self, name: str, at: float) -> bool:
        return not self._mind_writers or self._settling.unchanged(name, at) >= _OPEN_SECONDS

    def _count(self, tally: Tally) -> None:
        for file in tally.dealt:
            self._settling.drop(file.name)
        self.sum.taken += tally.taken
        self.sum.contents += tally.contents
        self.sum.refused += tally.refused
        if tally.taken or tally.refused:
            counts = (tally.taken, tally.contents, tally.refused, len(self._settling))
            log.info("%s: taken %d, holding %d contents; refused %d; waiting %d", self._name, *counts)
        if tally.unmoved:
            self._say("move", f"some files cannot be moved ({tally.unmoved[-1]}): they stay, and are remembered")

    def _again(self, tally: Tally) -> None:
        at = self._clock()
        faults = [one for one in tally.later if one.fault]
        for one in [one for one in tally.later if not one.fault]:
            look = self._tree.look(one.file.name)
            if look is None:
                self._settling.drop(one.file.name)
            else:
                self._settling.see(one.file.name, look, at)
                self._settling.stir(one.file.name, at)
        if faults:
            self._faulty |= {one.file.name for one in faults}
            self._put_off([one.file.name for one in faults])
            self._say(_FAULT, f"{faults[-1].fault}; what waits stays where it is")
        if any(one.written for one in tally.later):
            self._say("writers", f"some files are quiet but open for writing: they wait for up to {_OPEN_SECONDS:g} s")

    def _put_off(self, names: Sequence[str]) -> None:
        at = self._clock()
        for name in names:
            if self._once:
                self._settling.drop(name)
                self.sum.left += 1
            else:
                self._settling.stir(name, at)

    def _tidy(self, *, ending: bool = False) -> None:
        try:
            if self._drop.tidy(ending=ending):
                self._say(_DATABASE, None)
        except DatabaseError as error:
            self._say(_DATABASE, str(error))

    def _say(self, kind: str, trouble: str | None) -> None:
        """Say a trouble once, and that it is over (None)."""
        if trouble is None:
            if over := self._troubles.pop(kind, None):
                log.info("%s: over: %s", self._name, over)
        elif kind not in self._troubles:
            self._troubles[kind] = trouble
            log.warning("%s: %s", self._name, trouble)
