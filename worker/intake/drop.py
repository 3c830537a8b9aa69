"""Taking files out of a watched folder: copy, commit, and only then move away, or leave and remember.

Whatever happens in between, a file is either still there and not taken, or taken and known to be.
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, field
from itertools import groupby
from typing import Any

from slicewise.db import watched, writes
from slicewise.db.engine import Database
from slicewise.db.records import Action, Lane
from slicewise.worker.intake import sources
from slicewise.worker.intake.copying import Barred, Copied, Copier, File, Later
from slicewise.worker.intake.gathering import Gathering
from slicewise.worker.intake.settling import Look
from slicewise.worker.intake.submit import Bell
from slicewise.worker.intake.tree import Changed, Tree

DONE, REFUSED = "done", "refused"
"""Folders at the top of a watched one, for what has been dealt with."""

WAY = "watch"

# Copies that wait for the disk at the same time: their fsyncs share one journal commit.
_COPIES = 8


@dataclass
class Tally:
    """What became of some files.

    Attributes
    ----------
    taken, contents
        Files committed, and the contents in them: an archive holds many.
    refused
        Files that cannot be taken, or, of an archive, not all of it.
    unmoved
        Why files could not be moved: they stay, and are remembered.
    dealt, later
        Files that are done with, and those to be tried again.
    committed
        Whether the database was asked, and answered.
    """

    taken: int = 0
    contents: int = 0
    refused: int = 0
    unmoved: list[str] = field(default_factory=list)
    dealt: list[File] = field(default_factory=list)
    later: list[Later] = field(default_factory=list)
    committed: bool = False


@dataclass(slots=True)
class _Known:
    memory: watched.Memory
    stays: bool
    """Nothing is to be done as long as it looks like this."""

    def looks(self, look: Look) -> bool:
        memory = self.memory
        return (memory.size_bytes, memory.mtime_ns, memory.inode) == (look.size_bytes, look.mtime_ns, look.inode)


class Drop:
    """Takes files out of one watched folder.

    Parameters
    ----------
    gathering
        The open jobs that they go into.
    ring
        Called with each job that is to be worked on; it does not raise.
    sender
        Who watches, for the audit.
    move
        Whether what has been dealt with is moved into `DONE` and `REFUSED`; else it stays and is remembered.
    """

    def __init__(
        self,
        tree: Tree,
        copier: Copier,
        *,
        database: Database,
        gathering: Gathering,
        ring: Bell,
        sender: str | None,
        move: bool,
    ) -> None:
        self._tree, self._copier, self._database, self._gathering = tree, copier, database, gathering
        self._ring, self._sender, self._move = ring, sender, move
        self._folder_key = _sha256(str(tree.root))
        self._known: dict[str, _Known] = {}
        self._moved_away: list[str] = []

    def recall(self) -> None:
        """Learn what had been dealt with before.

        Raises
        ------
        DatabaseError
            It does not answer.
        """
        with self._database.reading() as session:
            for memory in watched.recall(session, self._folder_key):
                # Where files are moved, one that is still there was left between commit and move: its bytes will tell.
                stays = not self._move and memory.file_sha256 is not None
                self._known[memory.path_sha256] = _Known(memory, stays)

    def knows(self, name: str, look: Look) -> bool:
        """Whether a file has been dealt with and stays."""
        known = self._known.get(self._key(name)) if self._known else None
        return known is not None and known.stays and known.looks(look)

    def keep(self, names: Iterable[str]) -> None:
        """Forget every file but these, where files are moved: it was, by a watcher that was killed, or by a person.

        Where they stay, nothing is forgotten: a share that is not mounted would be taken for an empty folder.
        """
        if self._move and self._known:
            for key in self._known.keys() - {self._key(name) for name in names}:
                self._forget(key)

    def take(self, files: Sequence[File]) -> Tally:
        """Take files in; what cannot be taken now is in the tally.

        Raises
        ------
        DatabaseError
            Nothing was committed; every file is where it was.
        """
        with ThreadPoolExecutor(_COPIES) as pool:
            outcomes = list(pool.map(self._copier.copy, files))
        tally = Tally(later=[one for one in outcomes if isinstance(one, Later)])
        dealt = [one for one in outcomes if not isinstance(one, Later)]
        new = [one for one in dealt if not self._is_old(one)]
        unremembered = [one for one in dealt if not self._is_remembered(one)]
        if unremembered:
            self._commit(new, unremembered)
            tally.committed = True
        for one in new:
            contents = len(one.contents) if isinstance(one, Copied) else 0
            tally.contents += contents
            tally.taken += contents > 0 or one.refused is None
            tally.refused += one.refused is not None
        for one in dealt:
            self._put_away(one, tally)
        return tally

    def tidy(self, *, ending: bool = False) -> bool:
        """Close the jobs of quiet folders, or all, and forget what has been moved away.

        Returns
        -------
        bool
            Whether there was anything to do.

        Raises
        ------
        DatabaseError
            It does not answer.
        """
        quiet = self._gathering.quiet()
        if not (ending or quiet or self._moved_away):
            return False
        with self._committing() as session:
            closed = self._gathering.close(session, None if ending else quiet)
            watched.forget(session, self._moved_away)
        self._moved_away.clear()
        self._sound(closed)
        return True

    def _commit(self, new: Sequence[Copied | Barred], unremembered: Sequence[Copied | Barred]) -> None:
        memories = [self._memory(one) for one in unremembered]
        bells: list[tuple[int, Lane]] = []
        with self._committing() as session:
            watched.forget(session, self._moved_away)
            copied = [one for one in new if isinstance(one, Copied)]
            single = sorted((one for one in copied if not one.archive), key=_folder)
            for folder, group in groupby(single, _folder):
                bells += self._gathering.add(session, folder, [content for file in group for content in file.contents])
            for archive in [one for one in copied if one.archive]:
                bells += self._gathering.add_whole(session, archive.contents)
            for one in [one for one in new if one.refused is not None]:
                self._record_refusal(session, one)
            watched.remember(session, self._folder_key, memories)
        self._moved_away.clear()
        for memory in memories:
            self._known[memory.path_sha256] = _Known(memory, not self._move and memory.file_sha256 is not None)
        self._sound(bells)

    @contextmanager
    def _committing(self) -> Iterator[Any]:
        committed = False
        try:
            with self._database.writing() as session:
                yield session
            committed = True
        finally:
            if not committed:
                self._gathering.reset()

    def _record_refusal(self, session: Any, one: Copied | Barred) -> None:
        source = sources.text(self._tree.root / one.file.name)
        subject = self._folder_key
        writes.audit(session, self._sender or WAY, Action.NOT_TAKEN, subject, f"{source}: {one.refused}")

    def _put_away(self, one: Copied | Barred, tally: Tally) -> None:
        """Move a file where that is asked for; what had been put there in its place meanwhile waits for its own turn."""
        key = self._key(one.file.name)
        tally.dealt.append(one.file)
        if not self._move:
            return
        into = DONE if one.refused is None else REFUSED
        try:
            self._tree.move(one.file.name, one.file.look, into, one.refused)
        except Changed:
            tally.dealt.pop()
            tally.later.append(Later(one.file))
        except FileNotFoundError:
            self._forget(key)
        except OSError as error:
            tally.unmoved.append(error.strerror or type(error).__name__)
            # What was read is not read again; anything else is tried again with the next look.
            self._known[key].stays = isinstance(one, Copied)
        else:
            self._forget(key)

    def _forget(self, key: str) -> None:
        del self._known[key]
        self._moved_away.append(key)

    def _is_old(self, one: Copied | Barred) -> bool:
        """Whether these bytes were dealt with under this name before: after a kill, or when only the time changed."""
        known = self._known.get(self._key(one.file.name))
        if known is None:
            return False
        if isinstance(one, Copied):
            return known.memory.file_sha256 == one.sha256
        return known.memory.refused == one.refused and known.looks(one.file.look)

    def _is_remembered(self, one: Copied | Barred) -> bool:
        known = self._known.get(self._key(one.file.name))
        return known is not None and known.looks(one.file.look) and self._is_old(one)

    def _memory(self, one: Copied | Barred) -> watched.Memory:
        look = one.file.look
        return watched.Memory(
            path_sha256=self._key(one.file.name),
            path=sources.text(self._tree.root / one.file.name),
            size_bytes=look.size_bytes,
            mtime_ns=look.mtime_ns,
            inode=look.inode,
            file_sha256=one.sha256 if isinstance(one, Copied) else None,
            refused=one.refused,
        )

    def _key(self, name: str) -> str:
        return _sha256(os.path.join(self._tree.root, name))  # noqa: PTH118 - names are text, and there are many

    def _sound(self, bells: Sequence[tuple[int, Lane]]) -> None:
        for job, lane in bells:
            self._ring(job, lane)


def _folder(one: Copied) -> str:
    return os.path.dirname(one.file.name)  # noqa: PTH120 - names are text


def _sha256(text: str) -> str:
    return hashlib.sha256(os.fsencode(text)).hexdigest()
