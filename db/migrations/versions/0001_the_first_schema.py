"""The first schema: instances, jobs, arrivals, results."""

import sqlalchemy as sa
from alembic import op

revision = "0001"
down_revision = None
branch_labels = None
depends_on = None

_KEY = sa.BigInteger().with_variant(sa.Integer(), "sqlite")


def upgrade() -> None:
    op.create_table(
        "instances",
        sa.Column("id", _KEY, nullable=False),
        sa.Column("content_sha256", sa.String(length=64), nullable=False),
        sa.Column("size_bytes", sa.BigInteger(), nullable=False),
        sa.Column("sop_instance_uid", sa.String(length=64), nullable=True),
        sa.Column("series_instance_uid", sa.String(length=64), nullable=True),
        sa.Column("study_instance_uid", sa.String(length=64), nullable=True),
        sa.Column("modality", sa.String(length=16), nullable=True),
        sa.Column("transfer_syntax_uid", sa.String(length=64), nullable=True),
        sa.Column("rows", sa.Integer(), nullable=True),
        sa.Column("columns", sa.Integer(), nullable=True),
        sa.Column("frames", sa.Integer(), nullable=True),
        sa.Column("conflicts_with", _KEY, nullable=True),
        sa.Column("created_at", sa.DateTime(timezone=True), nullable=False),
        sa.ForeignKeyConstraint(["conflicts_with"], ["instances.id"], name="fk_instances_conflicts_with_instances"),
        sa.PrimaryKeyConstraint("id", name="pk_instances"),
        sa.UniqueConstraint("content_sha256", name="uq_instances_content_sha256"),
    )
    op.create_index("ix_instances_series_instance_uid", "instances", ["series_instance_uid"])
    op.create_index("ix_instances_sop_instance_uid", "instances", ["sop_instance_uid"])
    op.create_index("ix_instances_study_instance_uid", "instances", ["study_instance_uid"])

    op.create_table(
        "jobs",
        sa.Column("id", _KEY, nullable=False),
        sa.Column("uid", sa.String(length=36), nullable=False),
        sa.Column("submission", sa.String(length=36), nullable=False),
        sa.Column("lane", sa.String(length=16), nullable=False),
        sa.Column("status", sa.String(length=16), nullable=False),
        sa.Column("attempts", sa.Integer(), nullable=False),
        sa.Column("lease_owner", sa.String(length=128), nullable=True),
        sa.Column("lease_until", sa.DateTime(timezone=True), nullable=True),
        sa.Column("rung_at", sa.DateTime(timezone=True), nullable=True),
        sa.Column("reason", sa.Text(), nullable=True),
        sa.Column("created_at", sa.DateTime(timezone=True), nullable=False),
        sa.Column("finished_at", sa.DateTime(timezone=True), nullable=True),
        sa.PrimaryKeyConstraint("id", name="pk_jobs"),
        sa.UniqueConstraint("uid", name="uq_jobs_uid"),
    )
    op.create_index("ix_jobs_status_lane_id", "jobs", ["status", "lane", "id"])
    op.create_index("ix_jobs_submission", "jobs", ["submission"])

    op.create_table(
        "arrivals",
        sa.Column("id", _KEY, nullable=False),
        sa.Column("job_id", _KEY, nullable=False),
        sa.Column("instance_id", _KEY, nullable=False),
        sa.Column("way", sa.String(length=16), nullable=False),
        sa.Column("source", sa.Text(), nullable=False),
        sa.Column("received_at", sa.DateTime(timezone=True), nullable=False),
        sa.ForeignKeyConstraint(["instance_id"], ["instances.id"], name="fk_arrivals_instance_id_instances"),
        sa.ForeignKeyConstraint(["job_id"], ["jobs.id"], name="fk_arrivals_job_id_jobs"),
        sa.PrimaryKeyConstraint("id", name="pk_arrivals"),
    )
    op.create_index("ix_arrivals_instance_id", "arrivals", ["instance_id"])
    op.create_index("ix_arrivals_job_id", "arrivals", ["job_id"])

    op.create_table(
        "results",
        sa.Column("id", _KEY, nullable=False),
        sa.Column("instance_id", _KEY, nullable=False),
        sa.Column("content_sha256", sa.String(length=64), nullable=False),
        sa.Column("frame", sa.Integer(), nullable=False),
        sa.Column("model_sha256", sa.String(length=64), nullable=False),
        sa.Column("preprocess_version", sa.String(length=32), nullable=False),
        sa.Column("status", sa.String(length=16), nullable=False),
        sa.Column("label", sa.String(length=64), nullable=True),
        sa.Column("probabilities", sa.JSON(none_as_null=True), nullable=True),
        sa.Column("confidence", sa.Double(), nullable=True),
        sa.Column("reason", sa.String(length=64), nullable=True),
        sa.Column("detail", sa.Text(), nullable=True),
        sa.Column("provider", sa.String(length=16), nullable=True),
        sa.Column("job_id", _KEY, nullable=False),
        sa.Column("created_at", sa.DateTime(timezone=True), nullable=False),
        sa.ForeignKeyConstraint(["instance_id"], ["instances.id"], name="fk_results_instance_id_instances"),
        sa.ForeignKeyConstraint(["job_id"], ["jobs.id"], name="fk_results_job_id_jobs"),
        sa.PrimaryKeyConstraint("id", name="pk_results"),
        sa.UniqueConstraint("content_sha256", "frame", "model_sha256", "preprocess_version", name="uq_results_answer"),
    )
    op.create_index("ix_results_created_at", "results", ["created_at"])
    op.create_index("ix_results_instance_id", "results", ["instance_id"])
    op.create_index("ix_results_job_id", "results", ["job_id"])
    op.create_index("ix_results_status_label", "results", ["status", "label"])


def downgrade() -> None:
    for table in ("results", "arrivals", "jobs", "instances"):
        op.drop_table(table)
