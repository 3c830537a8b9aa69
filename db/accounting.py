"""The questions of accounting: where does a file stand, and what happened to it. Nothing here writes."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from datetime import datetime
from enum import StrEnum
from typing import Any

from sqlalchemy import func, or_, select
from sqlalchemy.orm import Session

from slicewise.db.models import Arrival, Attempt, Audit, Instance, Job, Result, Summary
from slicewise.db.questions import Model, counts
from slicewise.db.records import JobStatus

# Parameters of one statement: far below the limit of either database.
_AT_ONCE = 500


class State(StrEnum):
    """Where a file stands, best first. Every file stands somewhere."""

    LABELLED = "labelled"
    ABSTAINED = "abstained"
    REFUSED = "refused"
    WAITING = "waiting"
    DEAD = "dead"
    DROPPED = "dropped"
    MISSING = "missing"
    """It never arrived, or this model was never asked."""


@dataclass(frozen=True)
class Standing:
    """Where a content stands, why, and since when."""

    state: State
    detail: str | None = None
    since: datetime | None = None


@dataclass(frozen=True)
class Event:
    """One line of what happened to a content."""

    at: datetime
    event: str
    detail: str


NEVER_ARRIVED = Standing(State.MISSING, "it never arrived: submit it")
_NEVER_ASKED = "another model has assessed it, this one was not asked: 'slicewise model rescore' asks it"

_BEST = (State.LABELLED, State.ABSTAINED, State.REFUSED)

# Where a content came in several jobs: what may still end well counts first, then what a person has to look at.
_BY_JOB = {
    JobStatus.RUNNING: State.WAITING,
    JobStatus.PENDING: State.WAITING,
    JobStatus.OPEN: State.WAITING,
    JobStatus.DEAD: State.DEAD,
    JobStatus.DROPPED: State.DROPPED,
    JobStatus.DONE: State.MISSING,
}
_FIRST = tuple(dict.fromkeys(_BY_JOB.values()))


def standings(session: Session, contents: Sequence[str], model: Model) -> dict[str, Standing]:
    """Where each content stands under a model; every one of `contents` (SHA-256, hex) is in the answer."""
    found: dict[str, Standing] = {}
    wanted = list(dict.fromkeys(contents))
    for start in range(0, len(wanted), _AT_ONCE):
        part = wanted[start : start + _AT_ONCE]
        found |= _answered(session, part, model)
        found |= _unanswered(session, [content for content in part if content not in found])
    return {content: found.get(content, NEVER_ARRIVED) for content in wanted}


def standings_by_uid(session: Session, uids: Sequence[str], model: Model) -> dict[str, Standing]:
    """Where SOP Instance UIDs stand under a model; what has come with none of `uids` is not in the answer.

    For what cannot be asked by its content: an object is written with another file header each time it is sent or
    fetched. Of several contents of one UID, the one that stands best counts.
    """
    named: dict[str, list[str]] = {}
    wanted = list(dict.fromkeys(uids))
    for start in range(0, len(wanted), _AT_ONCE):
        asked = select(Instance.sop_instance_uid, Instance.content_sha256)
        asked = asked.where(Instance.sop_instance_uid.in_(wanted[start : start + _AT_ONCE])).order_by(Instance.id)
        for uid, content in session.execute(asked):
            named.setdefault(str(uid), []).append(content)
    standing = standings(session, [content for contents in named.values() for content in contents], model)
    return {uid: min((standing[content] for content in contents), key=_rank) for uid, contents in named.items()}


def arrived(session: Session, uids: Sequence[str]) -> set[str]:
    """Those of some SOP Instance UIDs of which something has come, whatever became of it."""
    found: set[str] = set()
    for start in range(0, len(uids), _AT_ONCE):
        asked = select(Instance.sop_instance_uid).where(Instance.sop_instance_uid.in_(uids[start : start + _AT_ONCE]))
        found.update(uid for uid in session.scalars(asked) if uid)
    return found


def _rank(standing: Standing) -> int:
    return list(State).index(standing.state)


def _answered(session: Session, contents: Sequence[str], model: Model) -> dict[str, Standing]:
    asked = select(Result.content_sha256, Result.status, Result.reason, Result.created_at)
    asked = asked.where(Result.content_sha256.in_(contents), counts(model)).order_by(Result.frame)
    found: dict[str, Standing] = {}
    for content, status, reason, at in session.execute(asked):
        # A file of many frames stands where its best frame stands.
        state = State(status)
        if content not in found or _BEST.index(state) < _BEST.index(found[content].state):
            found[content] = Standing(state, reason, at)
    return found


def _unanswered(session: Session, contents: Sequence[str]) -> dict[str, Standing]:
    asked = (
        select(Instance.content_sha256, Job.status, Job.reason, Arrival.received_at)
        .join(Arrival, Arrival.instance_id == Instance.id)
        .join(Job, Job.id == Arrival.job_id)
        .where(Instance.content_sha256.in_(contents))
        .order_by(Arrival.id)
    )
    found: dict[str, Standing] = {}
    for content, status, reason, since in session.execute(asked):
        state = _BY_JOB[JobStatus(status)]
        if content not in found or _FIRST.index(state) < _FIRST.index(found[content].state):
            found[content] = Standing(state, _NEVER_ASKED if state is State.MISSING else reason, since)
    return found


def contents_named(session: Session, name: str) -> list[str]:
    """Contents (SHA-256) that go by a SHA-256, a SOP Instance UID or the id of a job, in the order of arrival."""
    asked = (
        select(Instance.content_sha256)
        .join(Arrival, Arrival.instance_id == Instance.id)
        .join(Job, Job.id == Arrival.job_id)
        .where(or_(Instance.content_sha256 == name, Instance.sop_instance_uid == name, Job.uid == name))
        .group_by(Instance.content_sha256)
        .order_by(func.min(Arrival.id))
    )
    return list(session.scalars(asked))


def timeline(session: Session, content: str) -> list[Event]:
    """Everything that happened to a content, from its first arrival to its results, in order of time."""
    jobs = (
        select(Arrival.job_id)
        .join(Instance, Instance.id == Arrival.instance_id)
        .where(Instance.content_sha256 == content)
    )
    events = [
        *_arrivals(session, content),
        *_attempts(session, jobs),
        *_jobs(session, jobs),
        *_results(session, content),
        *_summaries(session, content),
        *_audits(session, jobs),
    ]
    return sorted(events, key=lambda event: event.at)


def _arrivals(session: Session, content: str) -> Iterator[Event]:
    asked = (
        select(Arrival, Instance, Job.uid)
        .join(Instance, Instance.id == Arrival.instance_id)
        .join(Job, Job.id == Arrival.job_id)
        .where(Instance.content_sha256 == content)
        .order_by(Arrival.id)
    )
    for number, (arrival, instance, job) in enumerate(session.execute(asked)):
        sender = f" from {arrival.sender}" if arrival.sender else ""
        yield Event(arrival.received_at, "arrived", f"by {arrival.way}{sender} as {arrival.source}, in job {job}")
        if number == 0 and instance.conflicts_with:
            first = session.get_one(Instance, instance.conflicts_with)
            text = f"its SOP Instance UID had come before with other bytes: {first.content_sha256}"
            yield Event(arrival.received_at, "conflict", text)


def _attempts(session: Session, jobs: Any) -> Iterator[Event]:
    asked = select(Attempt, Job.uid).join(Job, Job.id == Attempt.job_id).where(Attempt.job_id.in_(jobs))
    for attempt, job in session.execute(asked.order_by(Attempt.id)):
        host, _, rest = attempt.owner.partition("|")
        process = rest.split("|")[-2] if rest.count("|") >= 2 else "?"
        yield Event(attempt.started_at, "attempt began", f"job {job}, process {process} on {host}")
        if attempt.ended_at and attempt.outcome:
            why = f": {attempt.reason}" if attempt.reason else ""
            yield Event(attempt.ended_at, f"attempt {attempt.outcome.replace('_', ' ')}", f"job {job}{why}")


def _jobs(session: Session, jobs: Any) -> Iterator[Event]:
    asked = select(Job).where(Job.id.in_(jobs), Job.finished_at.is_not(None)).order_by(Job.id)
    for job in session.scalars(asked):
        why = f": {job.reason}" if job.reason else ""
        assert job.finished_at
        yield Event(job.finished_at, f"job {job.status}", f"job {job.uid}{why}")


def _results(session: Session, content: str) -> Iterator[Event]:
    asked = select(Result).where(Result.content_sha256 == content).order_by(Result.id)
    for result in session.scalars(asked):
        frame = f"frame {result.frame} " if result.frame else ""
        what = f"{result.label} {result.confidence:.3f}" if result.label else f"{result.reason}: {result.detail}"
        model = "" if result.frame == 0 else f", model {result.model_sha256[:12]} on {result.provider or 'no network'}"
        yield Event(result.created_at, result.status, f"{frame}{what}{model}")


def _summaries(session: Session, content: str) -> Iterator[Event]:
    series = select(Instance.series_instance_uid).where(Instance.content_sha256 == content).scalar_subquery()
    asked = select(Summary).where(Summary.series_instance_uid == series).order_by(Summary.id)
    for summary in session.scalars(asked):
        counted = f"{summary.labelled} labelled, {summary.abstained} abstained, {summary.refused} refused"
        yield Event(summary.created_at, "series summarised", f"revision {summary.revision}: {counted}")


def _audits(session: Session, jobs: Any) -> Iterator[Event]:
    ids = select(Job.uid).where(Job.id.in_(jobs))
    submissions = select(Job.submission).where(Job.id.in_(jobs))
    asked = select(Audit).where(or_(Audit.subject.in_(ids), Audit.subject.in_(submissions))).order_by(Audit.id)
    for entry in session.scalars(asked):
        detail = f", {entry.detail}" if entry.detail else ""
        yield Event(entry.at, entry.action, f"{entry.actor}{detail}")
