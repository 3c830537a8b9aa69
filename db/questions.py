"""Every question to the database. Nothing here writes."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from datetime import timedelta
from typing import Any

from sqlalchemy import ColumnElement, and_, exists, func, or_, select
from sqlalchemy.orm import Session, aliased

from slicewise.db.engine import now
from slicewise.db.models import Arrival, Attempt, Instance, Job, Result
from slicewise.db.records import NO_MODEL, WHOLE_FILE, JobStatus


@dataclass(frozen=True)
class Model:
    """Whose answers count: one model under one preprocessing."""

    sha256: str
    preprocess_version: str


@dataclass(frozen=True)
class Waiting:
    """A content that a job still has to assess."""

    job_id: int
    instance_id: int
    content_sha256: str
    size_bytes: int


@dataclass(frozen=True)
class Progress:
    """How far a submission is, in arrivals; `dead` counts those whose job ended without an answer of this model.

    `jobs` counts its jobs that have not ended: where every answer stood before, they still have to be closed.
    """

    arrivals: int
    answered: int
    dead: int
    jobs: int = 0

    @property
    def finished(self) -> bool:
        return self.answered + self.dead >= self.arrivals and not self.jobs


def unanswered(session: Session, job_id: int, model: Model) -> list[Waiting]:
    """The contents of a job that have no answer yet under this model, each once."""
    wanted = (
        select(Instance.id, Instance.content_sha256, Instance.size_bytes, func.min(Arrival.id).label("first"))
        .join(Arrival, Arrival.instance_id == Instance.id)
        .where(Arrival.job_id == job_id, ~_answered(model))
        .group_by(Instance.id, Instance.content_sha256, Instance.size_bytes)
        .order_by("first")
    )
    return [Waiting(job_id, key, sha, size) for key, sha, size, _ in session.execute(wanted)]


def attempts(session: Session, job_id: int) -> int:
    """How often a job has been claimed."""
    return session.scalar(select(Job.attempts).where(Job.id == job_id)) or 0


def dead(session: Session, job_ids: Sequence[int]) -> list[int]:
    """Those of some jobs that are dead."""
    return list(session.scalars(select(Job.id).where(Job.id.in_(job_ids), Job.status == JobStatus.DEAD)))


def companions(session: Session, job_id: int, limit: int) -> list[int]:
    """Other jobs waiting in the same lane for their first attempt, oldest first, for the caller to claim.

    PostgreSQL locks them at once and leaves out what another worker is about to claim: two that wanted each
    other's jobs would wait in a circle. On SQLite there is one writer at a time.
    """
    lane = select(Job.lane).where(Job.id == job_id).scalar_subquery()
    fresh = (Job.status == JobStatus.PENDING) & (Job.attempts == 0) & (Job.lane == lane)
    waiting = select(Job.id).where(fresh, Job.id != job_id).order_by(Job.id).limit(limit)
    return list(session.scalars(waiting.with_for_update(skip_locked=True)))


def lease_owners(session: Session) -> list[str]:
    """Everyone who holds a lease."""
    held = select(Job.lease_owner).where(Job.status == JobStatus.RUNNING, Job.lease_owner.is_not(None)).distinct()
    return [owner for owner in session.scalars(held) if owner]


def quiet_jobs(session: Session) -> int:
    """How many open jobs have been quiet for long enough to be closed."""
    quiet = select(func.count()).where(Job.status == JobStatus.OPEN, Job.open_until < now(session))
    return session.scalar(quiet) or 0


def unheard(session: Session, seconds: float) -> int:
    """How many jobs have waited for so long, though no worker anywhere is at work.

    A worker that lives takes what is rung, or is busy; where neither happens, its connection to the broker has stalled.
    """
    at = now(session)
    if session.scalar(select(exists().where(Job.status == JobStatus.RUNNING, Job.lease_until > at))):
        return 0
    long_ago = at - timedelta(seconds=seconds)
    last_claim = session.scalar(select(Attempt.started_at).order_by(Attempt.id.desc()).limit(1))
    if last_claim and last_claim > long_ago:
        return 0
    return session.scalar(select(func.count()).where(Job.status == JobStatus.PENDING, Job.created_at < long_ago)) or 0


def progress(session: Session, submission: str, model: Model) -> Progress:
    """Count a submission's arrivals and their answers."""
    mine = select(func.count()).select_from(Arrival).join(Job).where(Job.submission == submission)
    # A job that is done without this model's answers was done by a worker that serves another one.
    given_up = mine.join(Instance, Instance.id == Arrival.instance_id).where(
        Job.status.in_((JobStatus.DEAD, JobStatus.DONE, JobStatus.DROPPED)), ~_answered(model)
    )
    answered = mine.join(Instance, Instance.id == Arrival.instance_id).where(_answered(model))
    going_on = select(func.count()).where(
        Job.submission == submission, Job.status.in_((JobStatus.OPEN, JobStatus.PENDING, JobStatus.RUNNING))
    )
    return Progress(*(session.scalar(question) or 0 for question in (mine, answered, given_up, going_on)))


def results(
    session: Session,
    *,
    model: Model | None = None,
    submission: str | None = None,
    status: str | None = None,
    label: str | None = None,
    study: str | None = None,
    series: str | None = None,
    patient: str | None = None,
    limit: int | None = None,
) -> Iterator[dict[str, Any]]:
    """Result rows, in the order of arrival.

    Parameters
    ----------
    submission
        One row per arrival and frame of this submission, so that every file of it is seen. Without it, one row
        per result: a content that arrived twice has its first source.
    model
        Only this model's answers (and the refusals that needed none); None gives every model's.

    Yields
    ------
    dict
        ``source``, ``content_sha256``, ``sop_instance_uid``, ``series_instance_uid``, ``study_instance_uid``,
        ``patient``, ``frame``, ``status``, ``label``, ``probabilities``, ``reason``, ``detail``, ``model_sha256``,
        ``preprocess_version``, ``provider``, ``conflict``, ``job``, ``created_at``.
    """
    asked = _result_rows()
    if submission is None:
        twin = aliased(Arrival)
        first = select(func.min(twin.id)).where(twin.instance_id == Instance.id).scalar_subquery()
        asked = asked.where(Arrival.id == first)
    if model:
        asked = asked.where(counts(model))
    for column, value in (
        (Job.submission, submission),
        (Result.status, status),
        (Result.label, label),
        (Instance.study_instance_uid, study),
        (Instance.series_instance_uid, series),
        (Instance.patient, patient),
    ):
        if value is not None:
            asked = asked.where(column == value)
    for row in session.execute(asked.order_by(Arrival.id, Result.frame).limit(limit)).mappings():
        yield {**row, "created_at": row["created_at"].isoformat()}


def jobs(
    session: Session,
    *,
    status: str | None = None,
    submission: str | None = None,
    limit: int | None = None,
    before: str | None = None,
) -> list[dict[str, Any]]:
    """Jobs, newest first, with the number of their arrivals; `before` goes on with those older than this one."""
    arrivals = select(func.count()).where(Arrival.job_id == Job.id).scalar_subquery()
    asked = select(
        Job.id,
        Job.uid.label("job"),
        Job.submission,
        Job.lane,
        Job.status,
        arrivals.label("files"),
        Job.attempts,
        Job.reason,
        Job.created_at,
        Job.finished_at,
    )
    if status:
        asked = asked.where(Job.status == status)
    if submission:
        asked = asked.where(Job.submission == submission)
    if before:
        asked = asked.where(Job.id < select(Job.id).where(Job.uid == before).scalar_subquery())
    return [
        {**row, **{k: row[k].isoformat() if row[k] else None for k in ("created_at", "finished_at")}}
        for row in session.execute(asked.order_by(Job.id.desc()).limit(limit)).mappings()
    ]


def submission_exists(session: Session, submission: str) -> bool:
    """Whether any job belongs to it."""
    return bool(session.scalar(select(exists().where(Job.submission == submission))))


def submission_of(session: Session, uid: str) -> str | None:
    """The submission of this id, or that of the job of this id."""
    asked = select(Job.submission).where(or_(Job.submission == uid, Job.uid == uid)).limit(1)
    return session.scalar(asked)


def unknown_jobs(session: Session, uids: Sequence[str]) -> list[str]:
    """Those of some ids that no job has."""
    known = set(session.scalars(select(Job.uid).where(Job.uid.in_(uids))))
    return [uid for uid in uids if uid not in known]


def files_without_outcome(session: Session, job: str, model: Model) -> list[dict[str, Any]]:
    """``source`` and ``content_sha256`` of each arrival of a job that has no answer under a model."""
    asked = (
        select(Arrival.source, Instance.content_sha256)
        .join(Instance, Instance.id == Arrival.instance_id)
        .join(Job, Job.id == Arrival.job_id)
        .where(Job.uid == job, ~_answered(model))
        .order_by(Arrival.id)
    )
    return [dict(row) for row in session.execute(asked).mappings()]


def job_counts(session: Session) -> dict[str, int]:
    """How many jobs stand where."""
    return {status: count for status, count in session.execute(select(Job.status, func.count()).group_by(Job.status))}


def _result_rows() -> Any:
    return (
        select(
            Arrival.source,
            Result.content_sha256,
            Instance.sop_instance_uid,
            Instance.series_instance_uid,
            Instance.study_instance_uid,
            Instance.patient,
            Result.frame,
            Result.status,
            Result.label,
            Result.probabilities,
            Result.reason,
            Result.detail,
            Result.model_sha256,
            Result.preprocess_version,
            Result.provider,
            Instance.conflicts_with.is_not(None).label("conflict"),
            Job.uid.label("job"),
            Result.created_at,
        )
        .join(Instance, Instance.id == Result.instance_id)
        .join(Arrival, Arrival.instance_id == Instance.id)
        .join(Job, Job.id == Arrival.job_id)
    )


def counts(model: Model) -> ColumnElement[bool]:
    """A row of this model, or a refusal of a whole file that no model had to see."""
    return and_(
        Result.preprocess_version == model.preprocess_version,
        or_(Result.model_sha256 == model.sha256, and_(Result.model_sha256 == NO_MODEL, Result.frame == WHOLE_FILE)),
    )


def lacks_answers(model: Model) -> ColumnElement[bool]:
    """A job with a file that has no answer under this model."""
    mine = select(Arrival.id).join(Instance, Instance.id == Arrival.instance_id)
    return mine.where(Arrival.job_id == Job.id, ~_answered(model)).correlate(Job).exists()


def _answered(model: Model) -> ColumnElement[bool]:
    # All answers of a file are written in one transaction, so one of them means all of them.
    return exists().where(Result.content_sha256 == Instance.content_sha256, counts(model)).correlate(Instance)
