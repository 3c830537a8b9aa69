"""Group commit: what all associations of this process bring is committed together, and answered only then."""

from __future__ import annotations

import queue
import threading
from collections import OrderedDict
from concurrent.futures import Future
from dataclasses import dataclass, field

from slicewise.db import writes
from slicewise.db.engine import Database
from slicewise.db.errors import DatabaseError
from slicewise.db.records import Content, Lane
from slicewise.worker.errors import Retryable
from slicewise.worker.intake.submit import Bell

WAY = "receive"

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


@dataclass(frozen=True)
class _Request:
    """A content to be committed, or (None) the end of a sending."""

    sending: Sending
    series: str | None = None
    content: Content | None = None
    done: Future[None] = field(default_factory=Future)


class Committer:
    """A thread that commits whatever has come while it was at the last commit. Use it as a context.

    Nothing waits where nothing is under way, and under load a commit, whose cost is mostly that of the disk, is shared.

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
    ) -> None:
        self._database, self._ring = database, ring
        self._job_files, self._quiet_seconds, self._lane = job_files, quiet_seconds, lane
        self._requests: queue.SimpleQueue[_Request | None] = queue.SimpleQueue()
        self._thread = threading.Thread(target=self._run, name="committer", daemon=True)

    def __enter__(self) -> Committer:
        self._thread.start()
        return self

    def __exit__(self, *_exception: object) -> None:
        self._requests.put(None)
        self._thread.join()

    def add(self, sending: Sending, series: str | None, content: Content) -> None:
        """Add a content that lies in the spool to the open job of its series; returns when that is committed.

        Raises
        ------
        Retryable
            The database did not take it.
        """
        request = _Request(sending, series, content)
        self._requests.put(request)
        request.done.result()

    def end(self, sending: Sending) -> None:
        """Close the jobs of a sending, soon. Where that fails, they close by themselves when they have been quiet."""
        self._requests.put(_Request(sending))

    def _run(self) -> None:
        running = True
        while running:
            requests = [self._requests.get()]
            while not self._requests.empty():
                requests.append(self._requests.get())
            running = None not in requests
            self._settle([request for request in requests if request])

    def _settle(self, requests: list[_Request]) -> None:
        """Commit requests, and tell those who wait; one that the database refuses does not harm its neighbours."""
        if not requests:
            return
        try:
            closed = self._commit(requests)
        except Exception as error:  # noqa: BLE001
            # The boundary of a request: whatever it is, nobody may be left waiting.
            if len(requests) > 1 and not isinstance(error, DatabaseError):
                for request in requests:
                    self._settle([request])
                return
            for request in requests:
                request.done.set_exception(Retryable(f"the database did not take it ({type(error).__name__})"))
            return
        for request in requests:
            request.done.set_result(None)
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
                    way=WAY,
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
