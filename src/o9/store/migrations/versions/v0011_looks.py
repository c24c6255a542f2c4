"""Looks at held-out data, by family; and the placebo runs of an optimization."""

import sqlalchemy as sa
from alembic import op

revision = "0011"
down_revision = "0010"


def upgrade() -> None:
    op.create_table(
        "hold_out_look",
        *[sa.Column(name, sa.Text(), nullable=False) for name in ("family", "digest")],
        sa.Column("look", sa.Integer(), nullable=False),
        sa.Column("seen_by", sa.Text(), nullable=False),
        sa.Column("trial", sa.Integer(), nullable=False),
        sa.Column("at", sa.Text(), nullable=False),
        sa.PrimaryKeyConstraint("family", "digest"),
    )
    op.create_table(
        "placebo_run",
        sa.Column("optimization_id", sa.Text(), nullable=False),
        sa.Column("number", sa.Integer(), nullable=False),
        sa.Column("run_id", sa.Text(), nullable=False),
        sa.Column("value", sa.Float(), nullable=True),
        sa.PrimaryKeyConstraint("optimization_id", "number"),
    )
    op.create_index("ix_placebo_run_run", "placebo_run", ["run_id"], unique=True)
