"""Group commit: what all associations of this process bring is committed together, and answered only then."""

from __future__ import annotations

import queue
import threading
from collections import OrderedDict
from dataclasses import dataclass, field

from slicewise.db import writes
from slicewise.db.engine import Database
from slicewise.db.errors import DatabaseError
from slicewise.db.records import Content, Lane
from slicewise.worker.errors import Retryable
from slicewise.worker.intake.submit import Bell

# An association that mixes more series than this at a time has the jobs of the longest unseen closed.
_OPEN_JOBS = 32


@dataclass
class _OpenJob:
    key: int
    files: int


@dataclass
class Sending:
    """What one association brings: its sender, and the open job of each series.

    Parameters
    ----------
    sender
        Application entity and address, for the audit: ``AE@address``.
    """

    sender: str
    submission: str = field(default_factory=writes.uuid7)
    jobs: OrderedDict[str | None, _OpenJob] = field(default_factory=OrderedDict)


@dataclass
class _Request:
    """A content to be committed, or (None) the end of a sending."""

    sending: Sending
    series: str | None = None
    content: Content | None = None
    settled: bool = False
    failure: str | None = None


class Committer:
    """Commits what many threads bring, in turn: whoever's turn it is commits everything that has come meanwhile.

    Nobody waits where nothing is under way, and under load a commit, whose cost is mostly that of the disk, is shared.

    Parameters
    ----------
    ring
        Puts a closed job on the queue; must return at once.
    job_files
        Most files in one job.
    quiet_seconds
        A job closes by itself when its series has brought nothing for so long.
    """

    def __init__(
        self,
        database: Database,
        ring: Bell,
        *,
        job_files: int,
        quiet_seconds: float,
        lane: Lane = Lane.ROUTINE,
        way: str = "receive",
    ) -> None:
        self._database, self._ring, self._way = database, ring, way
        self._job_files, self._quiet_seconds, self._lane = job_files, quiet_seconds, lane
        self._requests: queue.SimpleQueue[_Request] = queue.SimpleQueue()
        self._turn = threading.Lock()

    def add(self, sending: Sending, series: str | None, content: Content) -> None:
        """Add a content that lies in the spool to the open job of its series; returns when that is committed.

        Raises
        ------
        Retryable
            The database did not take it.
        """
        self._await(_Request(sending, series, content))

    def end(self, sending: Sending) -> None:
        """Close the jobs of a sending.

        Raises
        ------
        Retryable
            The database did not do it; they close by themselves when they have been quiet.
        """
        self._await(_Request(sending))

    def _await(self, request: _Request) -> None:
        self._requests.put(request)
        with self._turn:
            if not request.settled:
                self._settle(self._waiting())
        if request.failure:
            raise Retryable(request.failure)

    def _waiting(self) -> list[_Request]:
        waiting = []
        while not self._requests.empty():
            waiting.append(self._requests.get())
        return waiting

    def _settle(self, requests: list[_Request]) -> None:
        """Commit requests and note how that went; one that the database refuses does not harm its neighbours."""
        try:
            closed = self._commit(requests)
        except Exception as error:  # noqa: BLE001
            # The boundary of a request: whatever it is, those who wait for this turn are told.
            if len(requests) > 1 and not isinstance(error, DatabaseError):
                for request in requests:
                    self._settle([request])
                return
            for request in requests:
                request.settled, request.failure = True, f"the database did not take it ({type(error).__name__})"
            return
        for request in requests:
            request.settled = True
        for job, lane in closed:
            self._ring(job, Lane(lane))

    def _commit(self, requests: list[_Request]) -> list[tuple[int, str]]:
        """One transaction; the jobs that it closed. What is known of open jobs changes only when it is committed."""
        known: dict[int, OrderedDict[str | None, _OpenJob]] = {}
        full: list[int] = []
        with self._database.writing() as session:
            for request in requests:
                sending = request.sending
                jobs = known.setdefault(id(sending), OrderedDict(sending.jobs))
                if request.content is None:
                    full += [job.key for job in jobs.values()]
                    jobs.clear()
                    continue
                before = jobs.get(request.series)
                key = writes.collect(
                    session,
                    [request.content],
                    way=self._way,
                    submission=sending.submission,
                    quiet_seconds=self._quiet_seconds,
                    sender=sending.sender,
                    lane=self._lane,
                    job_id=before.key if before else None,
                )
                files = before.files + 1 if before and before.key == key else 1
                jobs[request.series] = _OpenJob(key, files)
                jobs.move_to_end(request.series)
                full += self._full(jobs)
            closed = writes.close(session, full) if full else []
        for request in requests:
            request.sending.jobs = known[id(request.sending)]
        return closed

    def _full(self, jobs: OrderedDict[str | None, _OpenJob]) -> list[int]:
        """Take out jobs that take nothing more."""
        series, job = next(reversed(jobs.items()))
        if job.files >= self._job_files:
            del jobs[series]
            return [job.key]
        return [jobs.popitem(last=False)[1].key] if len(jobs) > _OPEN_JOBS else []
