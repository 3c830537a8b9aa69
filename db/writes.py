"""Every write to the database. Each function is one step inside the caller's transaction.

A job's life: `submit`, or `collect` as often as a file comes and then `close` -> `claim` -> `record` (as often as there
are chunks) -> `finish`; `fail` when an attempt broke. Whatever happens between, the lease decides who may write: it is
checked in the same transaction.
"""

from __future__ import annotations

import secrets
import time
import uuid
from collections.abc import Iterable, Sequence
from datetime import datetime, timedelta
from functools import cache
from hashlib import sha256
from typing import Any, cast

from sqlalchemy import (
    BigInteger,
    ColumnElement,
    Table,
    and_,
    bindparam,
    exists,
    func,
    insert,
    literal,
    or_,
    select,
    update,
)
from sqlalchemy.dialects import postgresql, sqlite
from sqlalchemy.orm import Session

from slicewise.db import questions
from slicewise.db.engine import now
from slicewise.db.models import Arrival, Attempt, Audit, Instance, Job, Result, UtcDateTime
from slicewise.db.questions import Model, counts
from slicewise.db.records import Action, Assessed, AttemptOutcome, Content, Header, JobStatus, Lane

MAX_ATTEMPTS = 3
"""A job that has failed this often, however it died, is dead."""

_INSERT_ROWS = 1000


# What is done for each file that comes: on tables, on the connection, and built once. By way of the ORM's classes and session
# it costs three times as much processor time (measured).
_JOBS, _INSTANCES, _ARRIVALS, _RESULTS = (
    cast("Table", entity.__table__) for entity in (Job, Instance, Arrival, Result)
)
_PROLONG = (
    update(_JOBS)
    .where(_JOBS.c.id == bindparam("job"), _JOBS.c.status == JobStatus.OPEN)
    .values(open_until=bindparam("until"))
)
_ARRIVE = insert(_ARRIVALS).values(
    instance_id=select(_INSTANCES.c.id).where(_INSTANCES.c.content_sha256 == bindparam("content")).scalar_subquery()
)


class LeaseLost(Exception):
    """Another worker holds the job now; what this one did must not be written."""


def submit(
    session: Session,
    contents: Sequence[Content],
    *,
    way: str,
    submission: str,
    sender: str | None = None,
    lane: Lane = Lane.ROUTINE,
) -> int:
    """Write a job with its arrivals; success may be answered once this is committed.

    Returns
    -------
    int
        The job's key, for the queue.
    """
    job = _new_job(session, submission, lane, JobStatus.PENDING)
    _arrive(session, job.id, contents, way, sender)
    audit(session, sender or way, Action.SENT, submission, f"{len(contents)} files by {way} in job {job.uid}")
    return job.id


def collect(
    session: Session,
    contents: Sequence[Content],
    *,
    way: str,
    submission: str,
    quiet_seconds: float,
    sender: str | None = None,
    lane: Lane = Lane.ROUTINE,
    job_id: int | None = None,
) -> int:
    """Add arrivals to an open job, for what comes file by file; success may be answered once this is committed.

    Parameters
    ----------
    quiet_seconds
        The job closes by itself when nothing has been added to it for so long.
    job_id
        The job that `collect` gave before. Where it has closed meanwhile, or is None, a new one is opened.

    Returns
    -------
    int
        The job that holds these arrivals.
    """
    until = now(session) + timedelta(seconds=quiet_seconds)
    if job_id is None or not _changed(session.connection().execute(_PROLONG, {"job": job_id, "until": until})):
        job = _new_job(session, submission, lane, JobStatus.OPEN, open_until=until)
        audit(session, sender or way, Action.SENT, submission, f"by {way} in job {job.uid}")
        job_id = job.id
    _arrive(session, job_id, contents, way, sender)
    return job_id


def close(session: Session, job_ids: Sequence[int] | None = None) -> list[tuple[int, str]]:
    """Let open jobs wait for a worker: these, or (None) all that have been quiet for long enough.

    Returns
    -------
    list
        Key and lane of each job that was open: to be rung.
    """
    chosen = Job.open_until < now(session) if job_ids is None else Job.id.in_(job_ids)
    closing = update(Job).where(Job.status == JobStatus.OPEN, chosen)
    closed = session.execute(closing.values(status=JobStatus.PENDING, open_until=None).returning(Job.id, Job.lane))
    return sorted((key, lane) for key, lane in closed)


def audit(session: Session, actor: str, action: Action, subject: str, detail: str | None = None) -> None:
    """Record who did what; there is no way to change or remove it."""
    session.add(Audit(at=now(session), actor=actor, action=action, subject=subject, detail=detail))


def _new_job(session: Session, submission: str, lane: Lane, status: JobStatus, **more: Any) -> Job:
    job = Job(uid=uuid7(), submission=submission, lane=lane, status=status, attempts=0, created_at=now(session), **more)
    session.add(job)
    session.flush()
    return job


def _arrive(session: Session, job_id: int, contents: Sequence[Content], way: str, sender: str | None) -> None:
    if not contents:
        return
    at = now(session)
    distinct = {c.sha256: c for c in contents}
    _insert_missing(
        session,
        _INSTANCES,
        ("content_sha256",),
        [
            {
                "content_sha256": c.sha256,
                "size_bytes": c.size_bytes,
                "sop_instance_uid": c.sop_instance_uid,
                "series_instance_uid": c.series_instance_uid,
                "created_at": at,
            }
            for c in distinct.values()
        ],
    )
    arrivals = [
        {
            "job_id": job_id,
            "content": c.sha256,
            "way": way,
            "source": c.source,
            "sender": sender,
            "received_at": at,
        }
        for c in contents
    ]
    session.connection().execute(_ARRIVE, arrivals)


def claim(session: Session, job_id: int, owner: str, seconds: float, abandoned: Iterable[str] = ()) -> bool:
    """Take a job that waits, or whose lease has run out, or whose owner is known to be gone.

    A job that has used up its attempts is marked dead instead.

    Parameters
    ----------
    abandoned
        Lease owners that are certainly dead: their jobs need not wait for the lease to run out.

    Returns
    -------
    bool
        Whether the caller now holds the job.
    """
    at = now(session)
    free = and_(Job.id == job_id, _free(at, abandoned))
    dead = update(Job).where(free, Job.attempts >= MAX_ATTEMPTS)
    _end_attempt(session, job_id, at, AttemptOutcome.DIED, condition=free)
    died = session.execute(
        dead.values(
            status=JobStatus.DEAD,
            lease_owner=None,
            lease_until=None,
            finished_at=at,
            reason=func.coalesce(Job.reason, f"the worker died {MAX_ATTEMPTS} times while it held this job"),
        )
    )
    if _changed(died):
        return False
    taken = session.execute(
        update(Job)
        .where(free)
        .values(
            status=JobStatus.RUNNING,
            lease_owner=owner,
            lease_until=at + timedelta(seconds=seconds),
            attempts=Job.attempts + 1,
            # Its bell is heard: should this worker die, the next sweep may ring again at once.
            rung_at=None,
        )
    )
    if not _changed(taken):
        return False
    session.add(Attempt(job_id=job_id, owner=owner, started_at=at))
    return True


def renew(session: Session, job_id: int, owner: str, seconds: float) -> None:
    """Prolong a lease.

    Raises
    ------
    LeaseLost
        It has run out and another worker took the job.
    """
    until = now(session) + timedelta(seconds=seconds)
    if not _changed(session.execute(_held(job_id, owner).values(lease_until=until))):
        raise LeaseLost(f"job {job_id} is no longer held by this worker")


def record(
    session: Session, job_id: int, owner: str, assessed: Sequence[Assessed], *, model: Model, seconds: float
) -> None:
    """Write the answers of whole files under the lease, which is renewed with them.

    A file that has its answers under this model already keeps those, whatever another worker made of it meanwhile.
    Progress gives back attempts: a job that died three times has died three times over the same files.

    Raises
    ------
    LeaseLost
        Nothing was written.
    """
    renew(session, job_id, owner, seconds)
    at = now(session)
    assessed = _still_open(session, assessed, model)
    for one in assessed:
        _describe(session, one.instance_id, one.header)
    rows = [
        {
            "instance_id": one.instance_id,
            "content_sha256": one.content_sha256,
            "frame": a.frame,
            "model_sha256": a.model_sha256,
            "preprocess_version": model.preprocess_version,
            "status": a.status,
            "label": a.label,
            "probabilities": a.probabilities,
            "confidence": max(a.probabilities.values()) if a.probabilities else None,
            "reason": a.reason,
            "detail": a.detail,
            "provider": a.provider,
            "job_id": job_id,
            "created_at": at,
        }
        for one in assessed
        for a in one.answers
    ]
    _insert_missing(session, _RESULTS, ("content_sha256", "frame", "model_sha256", "preprocess_version"), rows)
    if rows:
        # Never below the second attempt: what has killed a worker once is decoded in isolation.
        session.execute(_held(job_id, owner).where(Job.attempts >= MAX_ATTEMPTS).values(attempts=MAX_ATTEMPTS - 1))


def _still_open(session: Session, assessed: Sequence[Assessed], model: Model) -> list[Assessed]:
    """Those files that have no answers yet, locked until the transaction ends, in one order everywhere."""
    uids = {one.header.sop_instance_uid for one in assessed} - {None}
    if session.get_bind().dialect.name == "postgresql" and uids:
        # Two contents of one UID must not be described at the same time: neither would see the other.
        keys = sorted(
            int.from_bytes(sha256(uid.encode("utf-8", "replace")).digest()[:8], signed=True) for uid in uids if uid
        )
        session.execute(select(func.pg_advisory_xact_lock(func.unnest(postgresql.array(keys, type_=BigInteger())))))
    mine = Instance.id.in_({one.instance_id for one in assessed})
    session.execute(select(Instance.id).where(mine).order_by(Instance.id).with_for_update())
    standing = select(Result.instance_id).where(
        Result.instance_id.in_({one.instance_id for one in assessed}), counts(model)
    )
    answered = set(session.scalars(standing))
    return sorted((one for one in assessed if one.instance_id not in answered), key=lambda one: one.instance_id)


def finish(session: Session, job_id: int, owner: str) -> None:
    """Mark a job done: every arrival has its outcome.

    Raises
    ------
    LeaseLost
        Another worker holds it now.
    """
    at = now(session)
    done = _held(job_id, owner).values(
        status=JobStatus.DONE, lease_owner=None, lease_until=None, finished_at=at, reason=None
    )
    if not _changed(session.execute(done)):
        raise LeaseLost(f"job {job_id} is no longer held by this worker")
    _end_attempt(session, job_id, at, AttemptOutcome.DONE, owner=owner)


def fail(session: Session, job_id: int, owner: str, reason: str) -> None:
    """Hand back a job whose attempt broke: it waits again, or is dead after `MAX_ATTEMPTS`.

    No error if the lease is lost: another worker has taken the job, and decides.
    """
    at = now(session)
    _end_attempt(session, job_id, at, AttemptOutcome.FAILED, owner=owner, reason=reason)
    session.execute(
        _held(job_id, owner)
        .where(Job.attempts >= MAX_ATTEMPTS)
        .values(status=JobStatus.DEAD, lease_owner=None, lease_until=None, finished_at=at, reason=reason)
    )
    session.execute(
        # As if it had just been rung, so that it rests before the next attempt.
        _held(job_id, owner).values(
            status=JobStatus.PENDING, lease_owner=None, lease_until=None, reason=reason, rung_at=at
        )
    )


def release(session: Session, job_id: int, owner: str) -> None:
    """Hand back a job that was interrupted through no fault of its own: the attempt does not count."""
    _end_attempt(session, job_id, now(session), AttemptOutcome.HANDED_BACK, owner=owner)
    session.execute(
        _held(job_id, owner).values(
            status=JobStatus.PENDING, lease_owner=None, lease_until=None, attempts=Job.attempts - 1
        )
    )


def retry(session: Session, actor: str, jobs: Sequence[str] | None = None) -> int:
    """Let dead jobs wait again with all their attempts: these, by their ids, or (None) every one; how many."""
    waiting = {"status": JobStatus.PENDING, "attempts": 0, "finished_at": None, "rung_at": None}
    return _settle(session, actor, Action.RETRIED, jobs, waiting)


def drop(session: Session, actor: str, jobs: Sequence[str] | None = None) -> int:
    """Give dead jobs up: their files without an outcome stay without one, and are accounted for as dropped."""
    return _settle(session, actor, Action.DROPPED, jobs, {"status": JobStatus.DROPPED})


def rescore(session: Session, actor: str, model: Model) -> int:
    """Let jobs that are done wait again where a model has not answered all their files: how many."""
    unanswered = and_(Job.status == JobStatus.DONE, questions.lacks_answers(model))
    waiting = {"status": JobStatus.PENDING, "attempts": 0, "finished_at": None, "rung_at": None}
    count = _changed(session.execute(update(Job).where(unanswered).values(**waiting)))
    audit(session, actor, Action.RESCORED, model.sha256, f"{count} jobs")
    return count


def _settle(session: Session, actor: str, action: Action, jobs: Sequence[str] | None, values: dict[str, Any]) -> int:
    chosen = Job.status == JobStatus.DEAD if jobs is None else and_(Job.status == JobStatus.DEAD, Job.uid.in_(jobs))
    if session.get_bind().dialect.name == "postgresql":
        # What is audited is what is changed, whoever else is at it.
        session.execute(select(Job.id).where(chosen).order_by(Job.id).with_for_update())
    row = select(literal(now(session), UtcDateTime), literal(actor), literal(action.value), Job.uid, Job.reason)
    columns = [Audit.at, Audit.actor, Audit.action, Audit.subject, Audit.detail]
    session.execute(insert(Audit).from_select(columns, row.where(chosen).order_by(Job.id)))
    return _changed(session.execute(update(Job).where(chosen).values(**values)))


def rung(session: Session, job_ids: Sequence[int]) -> None:
    """Note that these jobs were put on the queue just now."""
    session.execute(update(Job).where(Job.id.in_(job_ids)).values(rung_at=now(session)))


def due(
    session: Session, lane: Lane, quiet_seconds: float, abandoned: Iterable[str] = (), limit: int = 1000
) -> list[int]:
    """Jobs of a lane that nobody works on and whose bell has been silent for a while: their keys, oldest first."""
    at = now(session)
    silent = or_(Job.rung_at.is_(None), Job.rung_at < at - timedelta(seconds=quiet_seconds))
    waiting = select(Job.id).where(_free(at, abandoned), silent, Job.lane == lane).order_by(Job.id).limit(limit)
    return list(session.scalars(waiting))


def uuid7() -> str:
    """A time-ordered UUID (RFC 9562, version 7)."""
    value = (time.time_ns() // 1_000_000 << 80) | secrets.randbits(80)
    value = value & ~(0xF << 76) | 0x7 << 76
    value = value & ~(0x3 << 62) | 0x2 << 62
    return str(uuid.UUID(int=value))


def _free(at: Any, abandoned: Iterable[str]) -> Any:
    gone = list(abandoned)
    orphaned = or_(Job.lease_until < at, Job.lease_owner.in_(gone)) if gone else Job.lease_until < at
    return or_(Job.status == JobStatus.PENDING, and_(Job.status == JobStatus.RUNNING, orphaned))


def _held(job_id: int, owner: str) -> Any:
    return update(Job).where(Job.id == job_id, Job.status == JobStatus.RUNNING, Job.lease_owner == owner)


def _end_attempt(
    session: Session,
    job_id: int,
    at: datetime,
    outcome: AttemptOutcome,
    *,
    owner: str | None = None,
    condition: ColumnElement[bool] | None = None,
    reason: str | None = None,
) -> None:
    """Note how the attempt that lasts has ended: an owner's own, or whoever's where the job is as `condition` says."""
    lasting = update(Attempt).where(Attempt.job_id == job_id, Attempt.ended_at.is_(None))
    if owner is not None:
        lasting = lasting.where(Attempt.owner == owner)
    if condition is not None:
        lasting = lasting.where(exists().where(condition))
    session.execute(lasting.values(ended_at=at, outcome=outcome, reason=reason))


def _changed(result: Any) -> int:
    return int(result.rowcount)


def _describe(session: Session, instance_id: int, header: Header) -> None:
    """Keep the header facts of a content seen for the first time, and notice a second content for one UID."""
    # What cannot be read now may have been known when it came: that stays.
    facts = {name: value for name, given in vars(header).items() if (value := _storable(given)) is not None}
    if not facts:
        return
    fresh = update(Instance).where(Instance.id == instance_id, Instance.frames.is_(None))
    session.execute(fresh.values(**facts))
    if "sop_instance_uid" in facts:
        same = Instance.sop_instance_uid == facts["sop_instance_uid"]
        by_arrival = select(Instance.id).join(Arrival).where(same).group_by(Instance.id).order_by(func.min(Arrival.id))
        # Whichever was decoded first: the one that came first stands, the others are beside it.
        first, *others = session.scalars(by_arrival)
        if others:
            session.execute(update(Instance).where(Instance.id == first).values(conflicts_with=None))
            session.execute(update(Instance).where(Instance.id.in_(others)).values(conflicts_with=first))


def _storable(value: str | int | None) -> str | int | None:
    """A header's text as both databases take it: a NUL or a lone surrogate would break the whole job."""
    if not isinstance(value, str):
        return value
    return value.replace("\0", "").encode("utf-8", "replace").decode() or None


def _insert_missing(session: Session, table: Table, key: tuple[str, ...], rows: list[dict[str, Any]]) -> None:
    connection = session.connection()
    missing = _insert_or_not(connection.dialect.name, table, key)
    # In one order everywhere, so that two writers of the same rows cannot wait for each other in a circle.
    rows = sorted(rows, key=lambda row: tuple(row[k] for k in key))
    for start in range(0, len(rows), _INSERT_ROWS):
        connection.execute(missing, rows[start : start + _INSERT_ROWS])


@cache
def _insert_or_not(dialect: str, table: Table, key: tuple[str, ...]) -> Any:
    adding = postgresql.insert if dialect == "postgresql" else sqlite.insert
    return adding(table).on_conflict_do_nothing(index_elements=key)
