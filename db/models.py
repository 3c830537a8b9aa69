"""What is stored. Times are UTC with zone; keys are 64-bit inside, UUIDv7 and SHA-256 for what leaves."""

from __future__ import annotations

from datetime import UTC, datetime

from sqlalchemy import (
    JSON,
    BigInteger,
    DateTime,
    Dialect,
    ForeignKey,
    Index,
    Integer,
    MetaData,
    String,
    Text,
    TypeDecorator,
    UniqueConstraint,
)
from sqlalchemy.orm import DeclarativeBase, Mapped, mapped_column


class UtcDateTime(TypeDecorator[datetime]):
    """A point in time: stored in UTC, always handed back with its zone (SQLite drops it)."""

    impl = DateTime(timezone=True)
    cache_ok = True

    def process_bind_param(self, value: datetime | None, dialect: Dialect) -> datetime | None:
        if value is not None and value.tzinfo is None:
            raise ValueError("a time without a zone cannot be stored: use datetime.now(UTC)")
        return value.astimezone(UTC) if value is not None else None

    def process_result_value(self, value: datetime | None, dialect: Dialect) -> datetime | None:
        if value is None:
            return None
        return value.replace(tzinfo=UTC) if value.tzinfo is None else value.astimezone(UTC)


# SQLite counts only an INTEGER primary key up by itself.
_Key = BigInteger().with_variant(Integer, "sqlite")


class Base(DeclarativeBase):
    """Names every constraint, so that migrations can name them too."""

    metadata = MetaData(
        naming_convention={
            "ix": "ix_%(column_0_N_label)s",
            "uq": "uq_%(table_name)s_%(column_0_N_name)s",
            "fk": "fk_%(table_name)s_%(column_0_N_name)s_%(referred_table_name)s",
            "pk": "pk_%(table_name)s",
        }
    )


class Instance(Base):
    """One content: the bytes are its identity. The header facts are filled in when it is first decoded.

    The same SOP Instance UID with other bytes is another instance, whose `conflicts_with` names the first.
    """

    __tablename__ = "instances"

    id: Mapped[int] = mapped_column(_Key, primary_key=True)
    content_sha256: Mapped[str] = mapped_column(String(64), unique=True)
    size_bytes: Mapped[int] = mapped_column(BigInteger)
    sop_instance_uid: Mapped[str | None] = mapped_column(String(64), index=True)
    series_instance_uid: Mapped[str | None] = mapped_column(String(64), index=True)
    study_instance_uid: Mapped[str | None] = mapped_column(String(64), index=True)
    patient: Mapped[str | None] = mapped_column(String(64), index=True)
    """Whose it is, as the settings have it: a pseudonym, unless a person has switched the identifier itself on."""
    modality: Mapped[str | None] = mapped_column(String(16))
    transfer_syntax_uid: Mapped[str | None] = mapped_column(String(64))
    rows: Mapped[int | None] = mapped_column(Integer)
    columns: Mapped[int | None] = mapped_column(Integer)
    frames: Mapped[int | None] = mapped_column(Integer)
    conflicts_with: Mapped[int | None] = mapped_column(ForeignKey("instances.id"))
    created_at: Mapped[datetime] = mapped_column(UtcDateTime)


class Job(Base):
    """A few hundred arrivals that are worked through together."""

    __tablename__ = "jobs"
    __table_args__ = (
        Index("ix_jobs_status_lane_id", "status", "lane", "id"),
        Index("ix_jobs_status_id", "status", "id"),
    )

    id: Mapped[int] = mapped_column(_Key, primary_key=True)
    uid: Mapped[str] = mapped_column(String(36), unique=True)
    submission: Mapped[str] = mapped_column(String(36), index=True)
    """Joins the jobs of one submission."""
    lane: Mapped[str] = mapped_column(String(16))
    status: Mapped[str] = mapped_column(String(16))
    attempts: Mapped[int] = mapped_column(Integer, default=0)
    lease_owner: Mapped[str | None] = mapped_column(String(128))
    lease_until: Mapped[datetime | None] = mapped_column(UtcDateTime)
    rung_at: Mapped[datetime | None] = mapped_column(UtcDateTime)
    """When its id was last put on the queue, where nobody has heard it since."""
    open_until: Mapped[datetime | None] = mapped_column(UtcDateTime)
    """Until when an open job takes further arrivals; each one puts it off."""
    reason: Mapped[str | None] = mapped_column(Text)
    """Why the last attempt failed."""
    created_at: Mapped[datetime] = mapped_column(UtcDateTime)
    finished_at: Mapped[datetime | None] = mapped_column(UtcDateTime)


class Arrival(Base):
    """One file seen once. Many arrivals may point at one instance; accounting counts arrivals.

    `sender` is who sent it: an application entity and its address, or a user and a host.
    """

    __tablename__ = "arrivals"

    id: Mapped[int] = mapped_column(_Key, primary_key=True)
    job_id: Mapped[int] = mapped_column(ForeignKey("jobs.id"), index=True)
    instance_id: Mapped[int] = mapped_column(ForeignKey("instances.id"), index=True)
    way: Mapped[str] = mapped_column(String(16))
    source: Mapped[str] = mapped_column(Text)
    sender: Mapped[str | None] = mapped_column(Text)
    received_at: Mapped[datetime] = mapped_column(UtcDateTime)


class Attempt(Base):
    """One worker's try at a job. `outcome` is empty while it lasts."""

    __tablename__ = "attempts"

    id: Mapped[int] = mapped_column(_Key, primary_key=True)
    job_id: Mapped[int] = mapped_column(ForeignKey("jobs.id"), index=True)
    owner: Mapped[str] = mapped_column(String(128))
    started_at: Mapped[datetime] = mapped_column(UtcDateTime)
    ended_at: Mapped[datetime | None] = mapped_column(UtcDateTime)
    outcome: Mapped[str | None] = mapped_column(String(16))
    reason: Mapped[str | None] = mapped_column(Text)


class Audit(Base):
    """Who did what, when. Rows are added and never changed."""

    __tablename__ = "audit"

    id: Mapped[int] = mapped_column(_Key, primary_key=True)
    at: Mapped[datetime] = mapped_column(UtcDateTime)
    actor: Mapped[str] = mapped_column(Text)
    action: Mapped[str] = mapped_column(String(16))
    subject: Mapped[str] = mapped_column(String(64), index=True)
    """The id of a submission or a job, or what was asked for."""
    detail: Mapped[str | None] = mapped_column(Text)


class Watched(Base):
    """A file of a watched folder that has been dealt with: taken, or (`refused`) not.

    It is known by the hash of its path: a path may be longer than an index allows, and need not be UTF-8.
    """

    __tablename__ = "watched"

    id: Mapped[int] = mapped_column(_Key, primary_key=True)
    path_sha256: Mapped[str] = mapped_column(String(64), unique=True)
    folder_sha256: Mapped[str] = mapped_column(String(64), index=True)
    """Hash of the watched folder's own path."""
    path: Mapped[str] = mapped_column(Text)
    size_bytes: Mapped[int] = mapped_column(BigInteger)
    mtime_ns: Mapped[str] = mapped_column(String(32))
    """Text, as the inode: a sender may set a time, and a file server a number, beyond 63 bits."""
    inode: Mapped[str] = mapped_column(String(32))
    file_sha256: Mapped[str | None] = mapped_column(String(64))
    """Of the file as it lay there; an archive's members are contents with hashes of their own."""
    refused: Mapped[str | None] = mapped_column(Text)
    seen_at: Mapped[datetime] = mapped_column(UtcDateTime)


class Summary(Base):
    """What is known of a series under one model, at the end of a submission. A newer one supersedes it."""

    __tablename__ = "summaries"
    __table_args__ = (
        UniqueConstraint(
            "series_instance_uid", "model_sha256", "preprocess_version", "revision", name="uq_summaries_revision"
        ),
    )

    id: Mapped[int] = mapped_column(_Key, primary_key=True)
    series_instance_uid: Mapped[str] = mapped_column(String(64))
    model_sha256: Mapped[str] = mapped_column(String(64))
    preprocess_version: Mapped[str] = mapped_column(String(32))
    revision: Mapped[int] = mapped_column(Integer)
    """From 1."""
    files: Mapped[int] = mapped_column(Integer)
    labelled: Mapped[int] = mapped_column(Integer)
    """Frames, as the next two."""
    abstained: Mapped[int] = mapped_column(Integer)
    refused: Mapped[int] = mapped_column(Integer)
    labels: Mapped[dict[str, int]] = mapped_column(JSON)
    """Frames by label."""
    job_id: Mapped[int] = mapped_column(ForeignKey("jobs.id"), index=True)
    """The job whose end it was written at."""
    created_at: Mapped[datetime] = mapped_column(UtcDateTime)
    superseded_at: Mapped[datetime | None] = mapped_column(UtcDateTime, index=True)


class Result(Base):
    """The outcome of one frame under one model, or of a whole file that no model had to see.

    Unique by construction: content, frame, model and preprocessing together name one answer.
    """

    __tablename__ = "results"
    __table_args__ = (
        UniqueConstraint("content_sha256", "frame", "model_sha256", "preprocess_version", name="uq_results_answer"),
        Index("ix_results_status_label", "status", "label"),
        Index("ix_results_created_at", "created_at"),
    )

    id: Mapped[int] = mapped_column(_Key, primary_key=True)
    instance_id: Mapped[int] = mapped_column(ForeignKey("instances.id"), index=True)
    content_sha256: Mapped[str] = mapped_column(String(64))
    frame: Mapped[int] = mapped_column(Integer)
    model_sha256: Mapped[str] = mapped_column(String(64))
    preprocess_version: Mapped[str] = mapped_column(String(32))
    status: Mapped[str] = mapped_column(String(16))
    label: Mapped[str | None] = mapped_column(String(64))
    probabilities: Mapped[dict[str, float] | None] = mapped_column(JSON(none_as_null=True))
    confidence: Mapped[float | None]
    """The largest of the probabilities."""
    reason: Mapped[str | None] = mapped_column(String(64))
    detail: Mapped[str | None] = mapped_column(Text)
    provider: Mapped[str | None] = mapped_column(String(16))
    job_id: Mapped[int] = mapped_column(ForeignKey("jobs.id"), index=True)
    created_at: Mapped[datetime] = mapped_column(UtcDateTime)
