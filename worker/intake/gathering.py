"""Open jobs: what comes file by file out of one folder goes into one job, until the folder has been quiet."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Any

from slicewise.db import writes
from slicewise.db.records import Content, Lane

_LONGEST_SECONDS = 60.0
"""A folder that is never quiet must not keep its job open for ever."""


@dataclass
class _Open:
    submission: str
    since: float
    last: float
    job: int | None = None
    count: int = 0


class Gathering:
    """The open jobs of one process, by the folder that fills them.

    Its methods write in a transaction of the caller's. When that is not committed, call `reset`: what is open then
    closes by itself.

    Parameters
    ----------
    way, sender, lane
        What the arrivals are stored with.
    job_files
        Most arrivals in one job.
    quiet_seconds
        A job closes when its folder has brought nothing for so long, and after a minute in any case.
    submission
        Joins all jobs; by default those of each folder, until it has been quiet, have one of their own.
    clock
        Seconds that do not run backwards.
    """

    def __init__(
        self,
        *,
        way: str,
        sender: str | None,
        lane: Lane,
        job_files: int,
        quiet_seconds: float,
        submission: str | None = None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._way, self._sender, self._lane = way, sender, lane
        self._most, self._quiet, self._clock, self._submission = job_files, quiet_seconds, clock, submission
        self._open: dict[str, _Open] = {}

    def add(self, session: Any, folder: str, contents: Sequence[Content]) -> list[tuple[int, Lane]]:
        """Add arrivals to the folder's job, or to as many as it takes; the jobs that are full now, to be rung."""
        at, full = self._clock(), []
        entry = self._open.setdefault(folder, _Open(self._submission or writes.uuid7(), at, at))
        entry.last = at
        rest = list(contents)
        while rest:
            part, rest = rest[: self._most - entry.count], rest[self._most - entry.count :]
            job = writes.collect(
                session,
                part,
                way=self._way,
                sender=self._sender,
                lane=self._lane,
                submission=entry.submission,
                quiet_seconds=self._quiet,
                job_id=entry.job,
            )
            # Where the job had closed meanwhile, these are in a new one.
            entry.count = len(part) + (entry.count if job == entry.job else 0)
            entry.job = job
            if entry.count >= self._most:
                full += _closed(session, [job])
                entry.job, entry.count = None, 0
        return full

    def add_whole(self, session: Any, contents: Sequence[Content]) -> list[tuple[int, Lane]]:
        """Add arrivals that belong together and are all there: they are jobs of their own, to be rung."""
        submission = self._submission or writes.uuid7()
        return [
            (
                writes.submit(
                    session,
                    contents[start : start + self._most],
                    way=self._way,
                    sender=self._sender,
                    lane=self._lane,
                    submission=submission,
                ),
                self._lane,
            )
            for start in range(0, len(contents), self._most)
        ]

    def quiet(self) -> list[str]:
        """Folders whose jobs are to be closed now."""
        at = self._clock()
        return [
            folder
            for folder, entry in self._open.items()
            if at - entry.last > self._quiet or at - entry.since > _LONGEST_SECONDS
        ]

    def close(self, session: Any, folders: Iterable[str] | None = None) -> list[tuple[int, Lane]]:
        """Close the jobs of these folders, or (None) of all; those that were open still, to be rung."""
        leaving = list(self._open) if folders is None else list(folders)
        jobs = [entry.job for entry in map(self._open.pop, leaving) if entry.job is not None]
        return _closed(session, jobs) if jobs else []

    def reset(self) -> None:
        """Forget every open job: the transaction that knew of them was not committed."""
        self._open.clear()


def _closed(session: Any, jobs: Sequence[int]) -> list[tuple[int, Lane]]:
    return [(job, Lane(lane)) for job, lane in writes.close(session, jobs)]
