"""Judging: what was ever tried in a family, health reports, hold-outs, baselines, what each attempt ran, repetitions.

A failed or cancelled trial that does not say whose it is belongs to its optimization's family, once that is known.
What ended before this is not due for a check: it is judged when somebody asks.
"""

import sqlalchemy as sa
from alembic import op

revision = "0004"
down_revision = "0003"

_SERIAL = sa.BigInteger().with_variant(sa.Integer(), "sqlite")
_DUE = sa.text("health_due = 1")
_LATEST = sa.text("is_latest = 1")


def upgrade() -> None:
    op.add_column("optimization", sa.Column("family", sa.Text(), nullable=False, server_default=""))
    op.add_column("optimization", sa.Column("health_due", sa.Integer(), nullable=False, server_default="0"))
    op.create_index(
        "ix_optimization_health_due",
        "optimization",
        ["completed_at", "optimization_id"],
        sqlite_where=_DUE,
        postgresql_where=_DUE,
    )
    op.add_column("trial_returns", sa.Column("hold_out", sa.LargeBinary(), nullable=True))
    op.create_table(
        "baseline_returns",
        sa.Column("optimization_id", sa.Text(), nullable=False),
        sa.Column("data", sa.LargeBinary(), nullable=False),
        sa.Column("hold_out", sa.LargeBinary(), nullable=True),
        sa.PrimaryKeyConstraint("optimization_id"),
    )
    op.create_table(
        "family_tally",
        sa.Column("family", sa.Text(), nullable=False),
        sa.Column("state", sa.Text(), nullable=False),
        sa.Column("count", sa.Integer(), nullable=False),
        sa.Column("pruned", sa.Integer(), nullable=False),
        sa.Column("sharpes", sa.Integer(), nullable=False),
        sa.Column("sharpe_sum", sa.Float(), nullable=False),
        sa.Column("sharpe_square_sum", sa.Float(), nullable=False),
        sa.PrimaryKeyConstraint("family", "state"),
    )
    op.create_table(
        "provenance",
        sa.Column("optimization_id", sa.Text(), nullable=False),
        sa.Column("attempt", sa.Integer(), nullable=False),
        sa.Column("objective", sa.Text(), nullable=False),
        sa.Column("code", sa.Text(), nullable=False),
        sa.Column("data", sa.Text(), nullable=False),
        sa.PrimaryKeyConstraint("optimization_id", "attempt"),
    )
    op.create_table(
        "repetition",
        sa.Column("optimization_id", sa.Text(), nullable=False),
        sa.Column("number", sa.Integer(), nullable=False),
        sa.Column("code", sa.Text(), nullable=False),
        sa.Column("at", sa.Text(), nullable=False),
        sa.Column("checks", sa.Text(), nullable=False),
        sa.PrimaryKeyConstraint("optimization_id"),
    )
    op.create_table(
        "health_report",
        sa.Column("id", _SERIAL, autoincrement=True, nullable=False),
        sa.Column("optimization_id", sa.Text(), nullable=False),
        sa.Column("first_at", sa.Text(), nullable=False),
        sa.Column("last_at", sa.Text(), nullable=False),
        sa.Column("times", sa.Integer(), nullable=False),
        sa.Column("is_latest", sa.Integer(), nullable=False),
        sa.Column("status", sa.Text(), nullable=False),
        sa.Column("as_of", sa.Text(), nullable=False),
        sa.Column("judged_by", sa.Text(), nullable=False),
        sa.Column("report", sa.Text(), nullable=False),
        sa.Column("checks", sa.Text(), nullable=False),
        sa.PrimaryKeyConstraint("id"),
    )
    op.create_index("ix_health_report_optimization", "health_report", ["optimization_id", "id"])
    op.create_index(
        "ix_health_report_latest",
        "health_report",
        ["last_at", "optimization_id"],
        sqlite_where=_LATEST,
        postgresql_where=_LATEST,
    )
    # By which all of one optimization is found.
    op.create_index("ix_prefect_run_optimization", "prefect_run", ["optimization_id"])
    op.create_index("ix_dependency_optimization", "dependency", ["optimization_id"])
    _count_priorities()
    _know_families()


def _count_priorities() -> None:
    op.drop_table("tally_priority")
    op.create_table(
        "tally_priority",
        sa.Column("priority", sa.Integer(), nullable=False),
        sa.Column("count", sa.Integer(), nullable=False),
        sa.PrimaryKeyConstraint("priority"),
    )
    op.execute(
        "INSERT INTO tally_priority (priority, count) SELECT priority, count(*) FROM optimization GROUP BY priority"
    )


def _know_families() -> None:
    op.execute(
        "UPDATE optimization SET family = coalesce((SELECT trial.family FROM trial "
        "WHERE trial.optimization_id = optimization.optimization_id AND trial.family <> '' "
        "ORDER BY trial.number DESC LIMIT 1), '')"
    )
    op.execute(
        "UPDATE trial SET family = (SELECT family FROM optimization "
        "WHERE optimization.optimization_id = trial.optimization_id) WHERE family = '' AND state <> 'completed'"
    )
    op.drop_index("ix_trial_family", "trial")
    op.create_index("ix_trial_family", "trial", ["family", "state", "optimization_id", "number"])
    op.execute(
        "INSERT INTO family_tally (family, state, count, pruned, sharpes, sharpe_sum, sharpe_square_sum) "
        "SELECT family, state, count(*), 0, 0, 0.0, 0.0 FROM trial WHERE family <> '' AND attempt <> 0 "
        "GROUP BY family, state"
    )
