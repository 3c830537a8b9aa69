"""Submitting files, folders and archives: spool, commit, ring."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing, suppress
from dataclasses import dataclass, field
from pathlib import Path

from slicewise.db import writes
from slicewise.db.engine import Database
from slicewise.db.errors import DatabaseError
from slicewise.db.records import Content, Lane
from slicewise.worker.errors import Retryable
from slicewise.worker.intake.sources import Cut, Skipped, Source, Untakeable, take, walk
from slicewise.worker.intake.spool import Spool
from slicewise.worker.settings import Settings

# Copies that wait for the disk at the same time: their fsyncs share one journal commit.
_COPIES = 8

Bell = Callable[[int, Lane], None]
"""Puts a job's key on the queue. Where it raises `Retryable`, the sweeper rings later."""


@dataclass
class Submission:
    """What was taken in and what was not.

    `uid` joins its jobs; `arrivals` counts the files taken; `not_taken` names every other one, with the reason.
    """

    uid: str
    jobs: list[int] = field(default_factory=list)
    arrivals: int = 0
    not_taken: list[tuple[str, str]] = field(default_factory=list)


def submit(
    paths: Iterable[Path | str],
    *,
    database: Database | None = None,
    spool: Spool | None = None,
    ring: Bell | None = None,
    way: str = "submit",
    sender: str | None = None,
    lane: Lane = Lane.ROUTINE,
    job_files: int | None = None,
    progress: Callable[[int], None] = lambda _count: None,
) -> Submission:
    """Take in files, whole folders and zip archives.

    A job is rung as soon as it is committed, so that work starts while the rest is still being copied.

    Parameters
    ----------
    paths
        Files, folders and archives; see `slicewise.worker.intake.sources.walk`.
    database, spool, ring, job_files
        By default those of the settings (``SLICEWISE_*``), as they are now.
    sender
        Who submits, for the audit: a user and a host.
    progress
        Called with the number of files of each finished job.

    Raises
    ------
    Misconfigured
        A path does not exist, or a setting is wrong; nothing has been taken in.

    Examples
    --------
    >>> from slicewise.worker.intake import submit
    >>> submission = submit(["/scans"])  # doctest: +SKIP
    >>> submission.arrivals, submission.not_taken  # doctest: +SKIP
    (240, [])
    """
    settings = Settings.from_environment()
    if database is None:
        with closing(Database(settings.database_url)) as own:
            own.check()
            return submit(
                paths,
                database=own,
                spool=spool,
                ring=ring,
                way=way,
                sender=sender,
                lane=lane,
                job_files=job_files,
                progress=progress,
            )
    spool, ring, job_files = spool or Spool(settings.spool), ring or _default_ring(), job_files or settings.job_files
    found = walk(map(Path, paths))
    submission = Submission(writes.uuid7())
    heard, broken = True, ""
    with ThreadPoolExecutor(_COPIES) as pool:
        for chunk in _chunks(found, job_files):
            if broken:
                submission.not_taken += [(source.name, broken) for source in chunk]
                continue
            contents = _spooled(chunk, spool, pool, submission)
            try:
                if contents:
                    with database.writing() as session:
                        job = writes.submit(
                            session, contents, way=way, sender=sender, submission=submission.uid, lane=lane
                        )
                    submission.jobs.append(job)
                    submission.arrivals += len(contents)
                    heard = heard and _rung(ring, job, lane)
            except DatabaseError as error:
                # What was committed stands and is being worked on; the rest is named, and not tried: each try may wait.
                broken = f"{error}: submit it again"
                submission.not_taken += [(content.source, broken) for content in contents]
            progress(len(chunk))
    return submission


def _default_ring() -> Bell:
    # Imported here: Celery takes its time, and not every way in needs it.
    from slicewise.worker.queue import app

    return app.ring


def _rung(ring: Bell, job: int, lane: Lane) -> bool:
    """Ring; after the first failure nobody tries again here, since each try waits for the broker to answer."""
    with suppress(Retryable):
        ring(job, lane)
        return True
    return False


def _spooled(
    chunk: Sequence[Source | Skipped], spool: Spool, pool: ThreadPoolExecutor, submission: Submission
) -> list[Content]:
    contents = []
    for source, future in [(one, pool.submit(take, one, spool)) for one in chunk]:
        try:
            stored = future.result()
        except Untakeable as error:
            submission.not_taken.append((source.name, str(error)))
        else:
            contents.append(Content(stored.sha256, stored.size_bytes, source.name))
    return contents


def _chunks(found: Iterator[Source | Skipped | Cut], most: int) -> Iterator[list[Source | Skipped]]:
    """Cut where the folder changes once a job is half full: a folder is mostly a series."""
    chunk: list[Source | Skipped] = []
    folder = ""
    for one in found:
        if isinstance(one, Cut):
            if chunk:
                yield chunk
            chunk = []
            continue
        changed = isinstance(one, Source) and one.folder != folder
        if len(chunk) >= most or (len(chunk) >= most / 2 and changed):
            yield chunk
            chunk = []
        chunk.append(one)
        folder = one.folder if isinstance(one, Source) else folder
    if chunk:
        yield chunk
