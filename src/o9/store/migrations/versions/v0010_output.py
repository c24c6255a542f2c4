"""What users' code prints, by trial; and the dates of returns."""

import sqlalchemy as sa
from alembic import op

revision = "0010"
down_revision = "0009"


def upgrade() -> None:
    for name in ("calendar", "hold_out_calendar"):
        op.add_column("trial_returns", sa.Column(name, sa.Text(), nullable=True))
    op.create_table(
        "calendar",
        sa.Column("optimization_id", sa.Text(), nullable=False),
        sa.Column("digest", sa.Text(), nullable=False),
        sa.Column("data", sa.LargeBinary(), nullable=False),
        sa.PrimaryKeyConstraint("optimization_id", "digest"),
    )
    op.create_table(
        "trial_output",
        sa.Column("optimization_id", sa.Text(), nullable=False),
        sa.Column("step", sa.Integer(), nullable=False),
        sa.Column("number", sa.Integer(), nullable=False),
        sa.Column("text", sa.Text(), nullable=False),
        sa.Column("cut", sa.BigInteger(), nullable=False),
        sa.Column("total", sa.BigInteger(), nullable=False),
        sa.PrimaryKeyConstraint("optimization_id", "step", "number"),
    )
