"""Series: a summary of each, and the pseudonym of whose it is."""

import sqlalchemy as sa
from alembic import op

revision = "0004"
down_revision = "0003"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.create_table(
        "summaries",
        sa.Column("id", sa.BigInteger().with_variant(sa.Integer(), "sqlite"), nullable=False),
        sa.Column("series_instance_uid", sa.String(length=64), nullable=False),
        sa.Column("model_sha256", sa.String(length=64), nullable=False),
        sa.Column("preprocess_version", sa.String(length=32), nullable=False),
        sa.Column("revision", sa.Integer(), nullable=False),
        sa.Column("files", sa.Integer(), nullable=False),
        sa.Column("labelled", sa.Integer(), nullable=False),
        sa.Column("abstained", sa.Integer(), nullable=False),
        sa.Column("refused", sa.Integer(), nullable=False),
        sa.Column("labels", sa.JSON(), nullable=False),
        sa.Column("job_id", sa.BigInteger().with_variant(sa.Integer(), "sqlite"), nullable=False),
        sa.Column("created_at", sa.DateTime(timezone=True), nullable=False),
        sa.Column("superseded_at", sa.DateTime(timezone=True), nullable=True),
        sa.ForeignKeyConstraint(["job_id"], ["jobs.id"], name="fk_summaries_job_id_jobs"),
        sa.PrimaryKeyConstraint("id", name="pk_summaries"),
        sa.UniqueConstraint(
            "series_instance_uid", "model_sha256", "preprocess_version", "revision", name="uq_summaries_revision"
        ),
    )
    op.create_index("ix_summaries_job_id", "summaries", ["job_id"])
    op.create_index("ix_summaries_superseded_at", "summaries", ["superseded_at"])
    op.add_column("instances", sa.Column("patient", sa.String(length=64), nullable=True))
    op.create_index("ix_instances_patient", "instances", ["patient"])


def downgrade() -> None:
    op.drop_index("ix_instances_patient", "instances")
    op.drop_column("instances", "patient")
    op.drop_table("summaries")
