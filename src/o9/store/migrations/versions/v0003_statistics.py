"""Statistics: rollups by window and priority, times of waiting, rankings, metrics from outside.

What has ended is read once, row by row, and counted anew into the new rollups and rankings. How long it had waited was
not recorded, and stays unknown. This is written out here, because a migration must not change with the code.
"""

import json
import math
from collections import Counter
from collections.abc import Iterator, Mapping
from typing import Any

import sqlalchemy as sa
from alembic import op

revision = "0003"
down_revision = "0002"

_COMPLETED = sa.text("completed_at IS NOT NULL")
_HISTOGRAMS = ("durations", "improvements", "waits")


def upgrade() -> None:
    op.add_column("optimization", sa.Column("waited_seconds", sa.Float(), nullable=True))
    op.create_index(
        "ix_optimization_completed",
        "optimization",
        ["completed_at", "optimization_id"],
        sqlite_where=_COMPLETED,
        postgresql_where=_COMPLETED,
    )
    op.create_table(
        "tally_priority",
        sa.Column("priority", sa.Integer(), nullable=False),
        sa.Column("status", sa.Text(), nullable=False),
        sa.Column("count", sa.Integer(), nullable=False),
        sa.PrimaryKeyConstraint("priority", "status"),
    )
    op.execute(
        "INSERT INTO tally_priority (priority, status, count) "
        "SELECT priority, status, count(*) FROM optimization GROUP BY priority, status"
    )
    ranking = op.create_table(
        "ranking",
        sa.Column("optimization_id", sa.Text(), nullable=False),
        sa.Column("metric", sa.Text(), nullable=False),
        sa.Column("direction", sa.Text(), nullable=False),
        sa.Column("value", sa.Float(), nullable=False),
        sa.PrimaryKeyConstraint("optimization_id", "metric"),
    )
    op.create_table(
        "recorded_metric",
        sa.Column("id", sa.BigInteger().with_variant(sa.Integer(), "sqlite"), autoincrement=True, nullable=False),
        sa.Column("optimization_id", sa.Text(), nullable=False),
        sa.Column("name", sa.Text(), nullable=False),
        sa.Column("value", sa.Float(), nullable=False),
        sa.Column("at", sa.Text(), nullable=False),
        sa.PrimaryKeyConstraint("id"),
    )
    op.create_index("ix_recorded_metric_optimization", "recorded_metric", ["optimization_id", "id"])
    op.drop_table("rollup")
    rollup = op.create_table(
        "rollup",
        sa.Column("span", sa.Text(), nullable=False),
        sa.Column("starts", sa.Text(), nullable=False),
        sa.Column("optimization_type", sa.Text(), nullable=False),
        sa.Column("strategy", sa.Text(), nullable=False),
        sa.Column("priority", sa.Integer(), nullable=False),
        sa.Column("status", sa.Text(), nullable=False),
        sa.Column("count", sa.Integer(), nullable=False),
        sa.Column("ran", sa.Integer(), nullable=False),
        sa.Column("improved", sa.Integer(), nullable=False),
        sa.Column("waited", sa.Integer(), nullable=False),
        sa.Column("steps_sum", sa.Integer(), nullable=False),
        sa.Column("duration_sum", sa.Float(), nullable=False),
        sa.Column("improvement_sum", sa.Float(), nullable=False),
        sa.Column("wait_sum", sa.Float(), nullable=False),
        sa.Column("durations", sa.Text(), nullable=False),
        sa.Column("improvements", sa.Text(), nullable=False),
        sa.Column("waits", sa.Text(), nullable=False),
        sa.Column("corrections", sa.Integer(), nullable=False),
        sa.PrimaryKeyConstraint("span", "starts", "optimization_type", "strategy", "priority", "status"),
    )
    _count_ended(op.get_bind(), rollup, ranking)
    op.create_index(
        "ix_rollup_window",
        "rollup",
        ["span", "starts", "status", "count", "ran", "improved", "duration_sum", "improvement_sum"],
    )
    op.create_index("ix_ranking_value", "ranking", ["metric", "direction", "value", "optimization_id"])


def _count_ended(bind: sa.Connection, rollup: sa.Table, ranking: sa.Table) -> None:
    columns = (
        "optimization_id, optimization_type, strategy, priority, status, started_at, completed_at, completed_steps, "
        "execution_time, current_performance, performance_improvement, optimized_parameters, cpu_usage, memory_usage, "
        "metrics, metadata"
    )
    sums: dict[tuple[Any, ...], dict[str, Any]] = {}
    after = ("", "")
    while True:
        # By keyset: a cursor that stays open would disturb what is written meanwhile.
        page = bind.execute(
            sa.text(
                f"SELECT {columns} FROM optimization WHERE completed_at IS NOT NULL "
                "AND (completed_at, optimization_id) > (:at, :name) ORDER BY completed_at, optimization_id LIMIT 5000"
            ),
            {"at": after[0], "name": after[1]},
        ).mappings().all()  # fmt: skip
        if not page:
            break
        after = (page[-1]["completed_at"], page[-1]["optimization_id"])
        ranked = [line for row in page for line in _ranked(row)]
        if ranked:
            bind.execute(ranking.insert(), ranked)
        for row in page:
            _add(sums, row)
    if sums:
        bind.execute(
            rollup.insert(),
            [each | {n: json.dumps(each[n], separators=(",", ":")) for n in _HISTOGRAMS} for each in sums.values()],
        )


def _add(sums: dict[tuple[Any, ...], dict[str, Any]], row: Mapping[Any, Any]) -> None:
    for span, length in (("hour", 13), ("day", 10), ("month", 7), ("all", 0)):
        key = (span, row["completed_at"][:length], row["optimization_type"], row["strategy"], row["priority"])
        each = sums.setdefault(
            (*key, row["status"]),
            {
                "span": key[0], "starts": key[1], "optimization_type": key[2], "strategy": key[3], "priority": key[4],
                "status": row["status"], "count": 0, "ran": 0, "improved": 0, "waited": 0, "steps_sum": 0,
                "duration_sum": 0.0, "improvement_sum": 0.0, "wait_sum": 0.0, "corrections": 0,
                **{name: Counter() for name in _HISTOGRAMS},
            },
        )  # fmt: skip
        each["count"] += 1
        each["steps_sum"] += row["completed_steps"]
        if row["started_at"] is not None:
            each["ran"] += 1
            each["duration_sum"] += row["execution_time"]
            each["durations"][_bucket(row["execution_time"])] += 1
        if _measured(row):
            each["improved"] += 1
            each["improvement_sum"] += row["performance_improvement"]
            each["improvements"][_bucket(row["performance_improvement"])] += 1


def _bucket(value: float) -> str:
    if value == 0:
        return "0"
    return f"{'-' if value < 0 else '+'}{math.floor(math.log10(abs(value)) * 12)}"


def _ranked(row: Mapping[Any, Any]) -> Iterator[dict[str, Any]]:
    own = "minimize" if json.loads(row["metadata"]).get("direction") == "minimize" else "maximize"
    found = {
        name: (own if name == "best_value" else "maximize", float(value))
        for name, value in json.loads(row["metrics"]).items()
        if isinstance(value, (int, float)) and not isinstance(value, bool) and math.isfinite(value)
    }
    if _measured(row):
        found["current_performance"] = (own, row["current_performance"])
        found["performance_improvement"] = ("maximize", row["performance_improvement"])
    if row["started_at"] is not None:
        found["execution_time"] = ("minimize", row["execution_time"])
        found["completed_steps"] = ("maximize", float(row["completed_steps"]))
    for name in ("cpu_usage", "memory_usage"):
        if row[name] > 0.0:
            found[name] = ("minimize", row[name])
    for metric, (direction, value) in found.items():
        yield {
            "optimization_id": row["optimization_id"], "metric": metric, "direction": direction, "value": value,
        }  # fmt: skip


def _measured(row: Mapping[Any, Any]) -> bool:
    return bool(row["current_performance"] != 0.0 or row["optimized_parameters"] != "{}")
