"""Submitting files and folders: spool, commit, ring."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path

from slicewise.db import writes
from slicewise.db.engine import Database
from slicewise.db.records import Content, Lane
from slicewise.worker.errors import Misconfigured, Retryable
from slicewise.worker.intake.spool import NotSpooled, Spool

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
    paths: Iterable[Path],
    *,
    database: Database,
    spool: Spool,
    ring: Bell,
    way: str = "submit",
    lane: Lane = Lane.ROUTINE,
    job_files: int = 256,
    progress: Callable[[int], None] = lambda _count: None,
) -> Submission:
    """Take in files and whole folders.

    A job is rung as soon as it is committed, so that work starts while the rest is still being copied.

    Parameters
    ----------
    paths
        Files and folders; folders are walked in name order, symbolic links to folders are not followed.
    progress
        Called with the number of files of each finished job.

    Raises
    ------
    Misconfigured
        A path does not exist; nothing has been taken in.
    """
    roots = [Path(p).absolute() for p in paths]
    for root in roots:
        if not root.exists():
            raise Misconfigured(f"{root} does not exist: give a file or a folder")
    submission = Submission(writes.uuid7())
    heard = True
    with ThreadPoolExecutor(_COPIES) as pool:
        for chunk in _chunks(_walk(roots, submission), job_files):
            contents = _spooled(chunk, spool, pool, submission)
            if contents:
                with database.writing() as session:
                    job = writes.submit(session, contents, way=way, submission=submission.uid, lane=lane)
                submission.jobs.append(job)
                submission.arrivals += len(contents)
                heard = heard and _rung(ring, job, lane)
            progress(len(chunk))
    return submission


def _rung(ring: Bell, job: int, lane: Lane) -> bool:
    """Ring; after the first failure nobody tries again here, since each try waits for the broker to answer."""
    with suppress(Retryable):
        ring(job, lane)
        return True
    return False


def _spooled(chunk: Sequence[Path], spool: Spool, pool: ThreadPoolExecutor, submission: Submission) -> list[Content]:
    contents = []
    for source, future in [(path, pool.submit(spool.add, path)) for path in chunk]:
        try:
            stored = future.result()
        except NotSpooled as error:
            submission.not_taken.append((str(source), str(error)))
        else:
            contents.append(Content(stored.sha256, stored.size_bytes, os.fsencode(source).decode("utf-8", "replace")))
    return contents


def _walk(roots: Iterable[Path], submission: Submission) -> Iterator[Path]:
    for root in roots:
        if not root.is_dir():
            yield root
            continue

        def unlistable(error: OSError) -> None:
            submission.not_taken.append((str(error.filename), error.strerror or "cannot be listed"))

        for folder, folders, names in os.walk(root, onerror=unlistable):
            folders.sort()
            links = [str(path) for name in folders if (path := Path(folder, name)).is_symlink()]
            submission.not_taken.extend((link, "a symbolic link to a folder") for link in links)
            yield from (Path(folder, name) for name in sorted(names))


def _chunks(paths: Iterator[Path], most: int) -> Iterator[list[Path]]:
    """Cut where the folder changes once a job is half full: a folder is mostly a series."""
    chunk: list[Path] = []
    for path in paths:
        if len(chunk) >= most or (len(chunk) >= most / 2 and path.parent != chunk[-1].parent):
            yield chunk
            chunk = []
        chunk.append(path)
    if chunk:
        yield chunk
