"""Control: who asked for what, dependencies, policies, and whose attempt a flow run is."""

import sqlalchemy as sa
from alembic import op

revision = "0002"
down_revision = "0001"

_WAITING = sa.text("status = 'created' AND intent = 'run' AND unmet = 0 AND lease_expires_at IS NULL")
_OPEN = sa.text("is_open = 1")


def upgrade() -> None:
    op.add_column("optimization", sa.Column("unmet", sa.Integer(), nullable=False, server_default="0"))
    op.add_column("optimization", sa.Column("dependents", sa.Integer(), nullable=False, server_default="0"))
    op.add_column("optimization", sa.Column("parked_run_id", sa.Text(), nullable=True))
    op.drop_index("ix_optimization_queue", "optimization")
    op.create_index(
        "ix_optimization_queue",
        "optimization",
        ["optimization_type", "strategy", "queue_key", "optimization_id"],
        sqlite_where=_WAITING,
        postgresql_where=_WAITING,
    )
    op.create_table(
        "dependency",
        sa.Column("after_id", sa.Text(), nullable=False),
        sa.Column("optimization_id", sa.Text(), nullable=False),
        sa.PrimaryKeyConstraint("after_id", "optimization_id"),
    )
    op.create_table(
        "intent",
        sa.Column("id", sa.BigInteger().with_variant(sa.Integer(), "sqlite"), autoincrement=True, nullable=False),
        sa.Column("optimization_id", sa.Text(), nullable=False),
        sa.Column("intent", sa.Text(), nullable=False),
        sa.Column("by", sa.Text(), nullable=False),
        sa.Column("at", sa.Text(), nullable=False),
        sa.PrimaryKeyConstraint("id"),
    )
    op.create_index("ix_intent_optimization", "intent", ["optimization_id", "id"])
    op.create_table(
        "policy",
        sa.Column("name", sa.Text(), nullable=False),
        sa.Column("config", sa.Text(), nullable=False),
        sa.Column("at", sa.Text(), nullable=False),
        sa.PrimaryKeyConstraint("name"),
    )
    op.create_table(
        "prefect_run",
        sa.Column("run_id", sa.Text(), nullable=False),
        sa.Column("optimization_id", sa.Text(), nullable=False),
        sa.Column("attempt", sa.Integer(), nullable=False),
        sa.Column("kind", sa.Text(), nullable=False),
        sa.Column("is_open", sa.Integer(), nullable=False),
        sa.PrimaryKeyConstraint("run_id"),
    )
    op.create_index("ix_prefect_run_open", "prefect_run", ["run_id"], sqlite_where=_OPEN, postgresql_where=_OPEN)
