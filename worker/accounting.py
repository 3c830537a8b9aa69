"""Files against the database: where does each of them stand. Reads the files, changes nothing."""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path

from slicewise.db import accounting
from slicewise.db.accounting import NEVER_ARRIVED, Standing, State
from slicewise.db.engine import Database
from slicewise.db.questions import Model
from slicewise.worker.errors import Misconfigured, Refused, Retryable
from slicewise.worker.imaging import limits, open_scan
from slicewise.worker.intake.pulling.peer import Away, Declines, Peer
from slicewise.worker.intake.pulling.wanted import Wanted
from slicewise.worker.intake.sources import Cut, Skipped, Source, Untakeable, opened, walk

# Files hashed between two questions to the database.
_AT_ONCE = 500


@dataclass(frozen=True)
class Item:
    """One file and where it stands; `known_by` says whether by its bytes or by its SOP Instance UID."""

    source: str
    content_sha256: str | None
    state: State
    detail: str | None
    since: datetime | None
    known_by: str | None = None


def reconcile(
    paths: Iterable[Path], database: Database, model: Model, progress: Callable[[int], None] = lambda _count: None
) -> Iterator[Item]:
    """Ask for every file below some paths whether it has an outcome.

    Files are found as `slicewise.worker.intake.submit` finds them and compared by their content, so that a file may
    have come by any way and under any name. A content that never came is looked for by its SOP Instance UID: over the
    network an object comes with another file header. What cannot be taken in (a device, a damaged archive) is refused.

    Parameters
    ----------
    progress
        Called with the number of files that have been looked up.
    """
    part: list[tuple[Source | Skipped, str | Untakeable]] = []
    for one in walk(paths):
        if not isinstance(one, Cut):
            part.append((one, _sha256(one)))
        if len(part) >= _AT_ONCE or (isinstance(one, Cut) and part):
            yield from _looked_up(part, database, model)
            progress(len(part))
            part = []
    yield from _looked_up(part, database, model)
    progress(len(part))


def reconcile_peer(
    peer: Peer,
    wanted: Iterable[Wanted],
    database: Database,
    model: Model,
    progress: Callable[[int], None] = lambda _count: None,
) -> Iterator[Item]:
    """Ask for every instance that a PACS has of what is wanted whether it has an outcome, by its SOP Instance UID.

    Raises
    ------
    Retryable, Misconfigured
        The PACS is away, or says no: nothing is said of what was not asked for.
    """
    seen: set[str] = set()
    try:
        for one in wanted:
            for series in list(peer.series(one)):
                if series.uid not in seen:
                    seen.add(series.uid)
                    uids = [instance.uid for instance in peer.instances(series)]
                    yield from _instances(peer.name, uids, database, model)
                    progress(len(uids))
    except Declines as error:
        raise Misconfigured(str(error)) from None
    except Away as error:
        raise Retryable(f"the PACS is away: {error}") from None
    finally:
        peer.close()


def _instances(name: str, uids: list[str], database: Database, model: Model) -> Iterator[Item]:
    with database.reading() as session:
        found = accounting.standings_by_uid(session, uids, model)
    for uid in uids:
        standing = found.get(uid, NEVER_PULLED)
        known_by = "sop_instance_uid" if uid in found else None
        yield Item(f"{name}/{uid}", None, standing.state, standing.detail, standing.since, known_by)


NEVER_PULLED = Standing(State.MISSING, "it never arrived: pull it")


def _sha256(one: Source | Skipped) -> str | Untakeable:
    try:
        with opened(one) as reading:
            return hashlib.file_digest(reading, "sha256").hexdigest()  # type: ignore[arg-type]
    except Untakeable as error:
        return error


def _looked_up(
    part: list[tuple[Source | Skipped, str | Untakeable]], database: Database, model: Model
) -> Iterator[Item]:
    with database.reading() as session:
        contents = [content for _, content in part if isinstance(content, str)]
        by_content = accounting.standings(session, contents, model)
    never = [one for one, content in part if by_content.get(content) == NEVER_ARRIVED]  # type: ignore[arg-type]
    uids = {one.name: uid for one in never if (uid := _sop_instance_uid(one))}
    with database.reading() as session:
        by_uid = accounting.standings_by_uid(session, list(uids.values()), model)
    for one, content in part:
        if isinstance(content, Untakeable):
            yield Item(one.name, None, State.REFUSED, f"it cannot be taken in: {content}", None)
        elif standing := by_uid.get(uids.get(one.name, "")):
            yield Item(one.name, content, standing.state, standing.detail, standing.since, "sop_instance_uid")
        else:
            standing = by_content[content]
            known_by = None if standing == NEVER_ARRIVED else "content"
            yield Item(one.name, content, standing.state, standing.detail, standing.since, known_by)


def _sop_instance_uid(one: Source | Skipped) -> str | None:
    try:
        with opened(one) as reading:
            return open_scan(reading.read(limits.MAX_HEADER_BYTES)).header.sop_instance_uid
    except (Untakeable, Refused):
        return None


EXIT_MISSING, EXIT_DEAD, EXIT_WAITING = 1, 3, 4


def exit_status(states: Counter[State]) -> int:
    """0 where every file has its outcome, else what a person has to look at first."""
    if states[State.MISSING]:
        return EXIT_MISSING
    if states[State.DEAD] or states[State.DROPPED]:
        return EXIT_DEAD
    return EXIT_WAITING if states[State.WAITING] else 0
