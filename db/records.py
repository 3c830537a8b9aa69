"""The plain values that pass between the house and its database. No SQLAlchemy here: imaging uses them too."""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum

NO_MODEL = "none"
"""Stands in `Result.model_sha256` for a refusal that needed no model; never NULL, so one unique key covers all."""

WHOLE_FILE = 0
"""Stands in `Result.frame` for an outcome of the file as a whole; real frames count from 1, as in DICOM."""


class JobStatus(StrEnum):
    """Where a job stands."""

    OPEN = "open"
    """It still takes arrivals; nobody works on it yet."""
    PENDING = "pending"
    RUNNING = "running"
    DONE = "done"
    DEAD = "dead"
    """Its attempts are used up; a person retries it or drops it."""
    DROPPED = "dropped"
    """A person decided that its remaining files stay without an outcome."""


class AttemptOutcome(StrEnum):
    """How a worker's try at a job ended."""

    DONE = "done"
    FAILED = "failed"
    DIED = "died"
    """Its worker vanished; noticed by the one that came next."""
    HANDED_BACK = "handed_back"
    """Interrupted through no fault of the job's; it does not count."""


class Action(StrEnum):
    """What the audit records."""

    SENT = "sent"
    ASKED = "asked"
    RETRIED = "retried"
    DROPPED = "dropped"
    PROMOTED = "promoted"
    ROLLED_BACK = "rolled_back"
    RESCORED = "rescored"
    NOT_TAKEN = "not_taken"
    """A file of a watched folder that cannot be taken in."""


class Outcome(StrEnum):
    """What became of a slice."""

    LABELLED = "labelled"
    ABSTAINED = "abstained"
    REFUSED = "refused"


class Lane(StrEnum):
    """Which queue a job waits in."""

    STAT = "stat"
    ROUTINE = "routine"


@dataclass(frozen=True)
class Content:
    """A file that lies in the spool.

    The UIDs are given where whoever brought it knew them; otherwise they are found when it is decoded.
    """

    sha256: str
    size_bytes: int
    source: str
    sop_instance_uid: str | None = None
    series_instance_uid: str | None = None


@dataclass(frozen=True)
class Header:
    """The header facts that are kept. Nothing that names a person, unless a person has switched that on."""

    sop_instance_uid: str | None = None
    series_instance_uid: str | None = None
    study_instance_uid: str | None = None
    patient: str | None = None
    """A pseudonym, unless the settings have it otherwise."""
    modality: str | None = None
    transfer_syntax_uid: str | None = None
    rows: int | None = None
    columns: int | None = None
    frames: int | None = None

    @property
    def vouches(self) -> bool:
        """Whether it says that this was made by MR (Modality (0008,0060)); what has no header may be anything."""
        return self.modality == "MR"


@dataclass(frozen=True)
class Answer:
    """The outcome of one frame, or of a whole file (frame 0)."""

    frame: int
    status: Outcome
    model_sha256: str
    label: str | None = None
    probabilities: dict[str, float] | None = None
    reason: str | None = None
    detail: str | None = None
    provider: str | None = None


@dataclass(frozen=True)
class Assessed:
    """All answers of one file: written together or not at all."""

    instance_id: int
    content_sha256: str
    header: Header
    answers: tuple[Answer, ...]
