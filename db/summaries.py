"""What is known of a series as a whole. A summary is never changed: when late slices come, a newer one supersedes it."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from hashlib import sha256
from typing import Any

from sqlalchemy import BigInteger, and_, func, select, update
from sqlalchemy.dialects import postgresql
from sqlalchemy.orm import Session, aliased

from slicewise.db.engine import now
from slicewise.db.models import Arrival, Instance, Job, Result, Summary
from slicewise.db.questions import Model, counts
from slicewise.db.records import JobStatus, Outcome

NO_TUMOR = "no_tumor"

_LEAST, _SHARE = 3, 0.05
"""A verdict rests on so many slices at least, and on such a share of those with a label: wrong answers come singly, too."""

_UNFINISHED = (JobStatus.OPEN, JobStatus.PENDING, JobStatus.RUNNING)


def refresh(session: Session, job_ids: Iterable[int], model: Model) -> int:
    """Summarise the series of jobs that have ended, where every job of their submission has.

    Call it in the transaction that ends the jobs. A series that stands as it was summarised last keeps that summary, so
    it may be called as often as one likes.

    Returns
    -------
    int
        How many series have a new summary.
    """
    ended = list(job_ids)
    submissions = sorted(set(session.scalars(select(Job.submission).where(Job.id.in_(ended)))))
    # Two jobs that end at the same time would each see the other one unfinished.
    _lock(session, submissions)
    going_on = select(Job.submission).where(Job.submission.in_(submissions), Job.status.in_(_UNFINISHED))
    finished = set(submissions) - set(session.scalars(going_on))
    if not finished:
        return 0
    series = (
        select(Instance.series_instance_uid)
        .join(Arrival, Arrival.instance_id == Instance.id)
        .join(Job, Job.id == Arrival.job_id)
        .where(Job.submission.in_(finished), Instance.series_instance_uid.is_not(None))
        .distinct()
    )
    # Nor may two submissions of one series write the same revision.
    _lock(session, sorted(map(str, session.scalars(series))))
    return _summarise(session, series, max(ended), model)


def _lock(session: Session, names: Sequence[str]) -> None:
    """Let nobody else at these until the transaction ends; on SQLite there is nobody else. In one order everywhere."""
    if session.get_bind().dialect.name == "postgresql" and names:
        keys = sorted(int.from_bytes(sha256(name.encode()).digest()[:8], signed=True) for name in names)
        session.execute(select(func.pg_advisory_xact_lock(func.unnest(postgresql.array(keys, type_=BigInteger())))))


def _summarise(session: Session, series: Any, job_id: int, model: Model) -> int:
    standing = _current(session, series, model)
    changed = 0
    for uid, facts in _counted(session, series, model).items():
        before = standing.get(uid)
        if before and facts == {name: getattr(before, name) for name in facts}:
            continue
        at = now(session)
        if before:
            session.execute(update(Summary).where(Summary.id == before.id).values(superseded_at=at))
        revision = before.revision + 1 if before else 1
        session.add(
            Summary(
                series_instance_uid=uid,
                model_sha256=model.sha256,
                preprocess_version=model.preprocess_version,
                revision=revision,
                job_id=job_id,
                created_at=at,
                **facts,
            )
        )
        changed += 1
    return changed


def _current(session: Session, series: Any, model: Model) -> dict[str, Summary]:
    asked = select(Summary).where(
        Summary.series_instance_uid.in_(series),
        Summary.model_sha256 == model.sha256,
        Summary.preprocess_version == model.preprocess_version,
        Summary.superseded_at.is_(None),
    )
    return {summary.series_instance_uid: summary for summary in session.scalars(asked)}


def _counted(session: Session, series: Any, model: Model) -> dict[str, dict[str, Any]]:
    """Files and frames of each series by what became of them; a second content of one SOP Instance UID is not counted."""
    mine = and_(Instance.series_instance_uid.in_(series), Instance.conflicts_with.is_(None))
    answered = (
        select(Instance.series_instance_uid, Result.status, Result.label, func.count())
        .join(Result, Result.instance_id == Instance.id)
        .where(mine, counts(model))
        .group_by(Instance.series_instance_uid, Result.status, Result.label)
        .order_by(Instance.series_instance_uid, Result.label)
    )
    files = select(Instance.series_instance_uid, func.count()).where(mine).group_by(Instance.series_instance_uid)
    found: dict[str, dict[str, Any]] = {
        str(uid): {"files": count, **dict.fromkeys(map(str, Outcome), 0), "labels": {}}
        for uid, count in session.execute(files)
    }
    for uid, status, label, count in session.execute(answered):
        facts = found[str(uid)]
        facts[status] += count
        if label:
            facts["labels"][label] = count
    return found


def verdict(labels: Mapping[str, int], abstained: int) -> str | None:
    """What the slices of a series say together; None where they do not say one thing.

    A tumour takes three slices (all of them, where there are fewer), a twentieth of those with a label, and more than all other
    tumours have. That there is none takes that no slice shows one, and that at most one in five has no label.

    Parameters
    ----------
    labels
        Slices by label.
    abstained
        Slices without one.
    """
    labelled = sum(labels.values())
    tumours = {label: count for label, count in labels.items() if label != NO_TUMOR}
    if not tumours:
        return NO_TUMOR if labelled and labelled >= 4 * abstained else None
    leading = max(tumours, key=lambda label: tumours[label])
    enough = max(min(_LEAST, labelled), _SHARE * labelled)
    alone = 2 * tumours[leading] > sum(tumours.values())
    return leading if tumours[leading] >= enough and alone else None


def rests_on(session: Session, model: Model, series: str, label: str) -> list[dict[str, Any]]:
    """``sop_instance_uid``, ``content_sha256``, ``frame`` and ``confidence`` of the slices of a series with a label, the surest first."""
    asked = (
        select(Instance.sop_instance_uid, Result.content_sha256, Result.frame, Result.confidence)
        .join(Instance, Instance.id == Result.instance_id)
        .where(
            Instance.series_instance_uid == series,
            Instance.conflicts_with.is_(None),
            Result.label == label,
            counts(model),
        )
        .order_by(Result.confidence.desc(), Result.id)
    )
    return [dict(row) for row in session.execute(asked).mappings()]


def summaries(
    session: Session,
    model: Model,
    *,
    series: str | None = None,
    study: str | None = None,
    patient: str | None = None,
    superseded: bool = False,
    limit: int | None = None,
) -> Iterator[dict[str, Any]]:
    """Summaries of series under a model, newest first; those that a newer one supersedes only when asked for.

    Yields
    ------
    dict
        ``series_instance_uid``, ``study_instance_uid``, ``patient``, ``revision``, ``files``, ``labelled``, ``abstained``,
        ``refused`` (frames, and files refused as a whole), ``labels`` (frames by label), ``verdict`` (by `verdict`),
        ``model_sha256``, ``preprocess_version``, ``job``, ``created_at``, ``superseded_at``.
    """
    # Study and patient are those of the first file of the series whose header could be read.
    one = aliased(Instance)
    read = one.series_instance_uid == Summary.series_instance_uid, one.frames.is_not(None)
    first = select(func.min(one.id)).where(*read).correlate(Summary).scalar_subquery()
    asked = (
        select(
            Summary.series_instance_uid,
            Instance.study_instance_uid,
            Instance.patient,
            Summary.revision,
            Summary.files,
            Summary.labelled,
            Summary.abstained,
            Summary.refused,
            Summary.labels,
            Summary.model_sha256,
            Summary.preprocess_version,
            Job.uid.label("job"),
            Summary.created_at,
            Summary.superseded_at,
        )
        .join(Job, Job.id == Summary.job_id)
        .outerjoin(Instance, Instance.id == first)
        .where(Summary.model_sha256 == model.sha256, Summary.preprocess_version == model.preprocess_version)
    )
    for column, value in (
        (Summary.series_instance_uid, series),
        (Instance.study_instance_uid, study),
        (Instance.patient, patient),
    ):
        if value is not None:
            asked = asked.where(column == value)
    if not superseded:
        asked = asked.where(Summary.superseded_at.is_(None))
    for row in session.execute(asked.order_by(Summary.id.desc()).limit(limit)).mappings():
        said = {"verdict": verdict(row["labels"], row["abstained"])}
        yield {**row, **said, **{k: row[k] and row[k].isoformat() for k in ("created_at", "superseded_at")}}
