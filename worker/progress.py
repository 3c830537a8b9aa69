"""Submitting and waiting as a person at a terminal wants it: with a bar."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, SpinnerColumn, TextColumn, TimeElapsedColumn

from slicewise.db import questions
from slicewise.db.engine import Database
from slicewise.db.records import Lane
from slicewise.worker import shell
from slicewise.worker.intake import Submission
from slicewise.worker.intake import submit as take_in
from slicewise.worker.intake.spool import Spool
from slicewise.worker.queue import app
from slicewise.worker.settings import Settings

_POLL_SECONDS = 0.25


def _bar() -> Progress:
    # On standard error: what a program reads from standard output stays clean.
    return Progress(
        SpinnerColumn(),
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TimeElapsedColumn(),
        console=Console(file=sys.stderr),
        transient=False,
    )


def submit(
    settings: Settings, database: Database, paths: Sequence[Path], way: str, *, lane: Lane, reserve_bytes: int
) -> Submission:
    """Take in files and folders, ring the workers, and show how many files were copied."""
    with _bar() as bar:
        copying = bar.add_task("taking in ", total=None)
        submission = take_in(
            paths,
            database=database,
            spool=Spool(settings.spool, reserve_bytes=reserve_bytes),
            ring=app.ring,
            way=way,
            sender=shell.actor(),
            lane=lane,
            job_files=settings.job_files,
            progress=lambda count: bar.advance(copying, count),
        )
        taken = submission.arrivals + len(submission.not_taken)
        bar.update(copying, total=taken, completed=taken)
    return submission


def wait(
    database: Database, submission: Submission, model: questions.Model, between: Callable[[], object]
) -> questions.Progress:
    """Wait until every arrival has an outcome or a dead job, calling `between` now and then."""
    with _bar() as bar:
        scoring = bar.add_task("assessing ", total=submission.arrivals)
        while True:
            asked = time.monotonic()
            with database.reading() as session:
                now = questions.progress(session, submission.uid, model)
            cost = time.monotonic() - asked
            bar.update(scoring, completed=now.answered + now.dead)
            if now.finished:
                return now
            between()
            # Counting 40,000 arrivals takes a while: asking must not take the machine from the work.
            time.sleep(max(_POLL_SECONDS, 20 * cost))


def say_not_taken(submission: Submission) -> None:
    """Name every file that could not be taken in."""
    for source, reason in submission.not_taken:
        print(f"slicewise: not taken: {source}: {reason}", file=sys.stderr)
