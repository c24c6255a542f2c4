"""Queries of rollups, of what is running or waiting now, and of rankings. They cost the same at any size."""

from __future__ import annotations

from sqlalchemy import Connection, func, literal_column, select, text

from o9.model.strategy import PLACEBO
from o9.store.core.reading import rows
from o9.store.core.unit import Row
from o9.store.queue.claims import MIRRORED
from o9.store.queue.order import queued_at
from o9.store.schema.optimizations import OPTIMIZATION, RECORDED, TRANSITION, WAITING
from o9.store.schema.statistics import PRIORITY_COUNTER, RANKING, ROLLUP
from o9.store.statistics.rankings import MAXIMIZE
from o9.store.statistics.rollups import Key, Sums, rollups

METRICS_LIMIT = 1_000
_SHOWN = ("optimization_id", "name", "optimization_type", "strategy", "status")


def totals(connection: Connection) -> list[tuple[Key, Sums]]:
    """Return the rollups over all time."""
    return rollups(connection, ROLLUP.c.span == "all")


def windows(connection: Connection, span: str, since: str, before: str) -> list[Row]:
    """Return counts and sums of each window of `span` from `since` up to `before`, by status, without placebo runs."""
    summed = [
        func.sum(ROLLUP.c[name]).label(name) for name in ("count", "ran", "improved", "duration_sum", "improvement_sum")
    ]
    return rows(
        connection,
        select(ROLLUP.c.starts, ROLLUP.c.status, *summed)
        .where(ROLLUP.c.span == span, ROLLUP.c.starts >= since, ROLLUP.c.starts < before, ROLLUP.c.count != 0)
        .where(ROLLUP.c.strategy != PLACEBO)
        .group_by(ROLLUP.c.starts, ROLLUP.c.status)
        .order_by(ROLLUP.c.starts, ROLLUP.c.status),
    )


def first_window(connection: Connection, span: str) -> str | None:
    """Return the earliest window of `span` in which anything ended; None if nothing has."""
    found: str | None = connection.execute(select(func.min(ROLLUP.c.starts)).where(ROLLUP.c.span == span)).scalar()
    return found


def priorities(connection: Connection) -> list[Row]:
    """Return the number of optimizations by priority."""
    return rows(
        connection, select(PRIORITY_COUNTER).where(PRIORITY_COUNTER.c.count != 0).order_by(PRIORITY_COUNTER.c.priority)
    )


def in_status_since(connection: Connection, status: str, limit: int) -> list[str]:
    """Return since when the `limit` oldest optimizations in `status` have been in it."""
    since = (
        select(TRANSITION.c.at)
        .where(TRANSITION.c.optimization_id == OPTIMIZATION.c.optimization_id)
        .order_by(TRANSITION.c.id.desc())
        .limit(1)
        .scalar_subquery()
    )
    statement = select(since).where(OPTIMIZATION.c.status == status)
    oldest = statement.order_by(OPTIMIZATION.c.created_at, OPTIMIZATION.c.optimization_id).limit(limit)
    return [at for at in connection.execute(oldest).scalars() if at is not None]


def queue(connection: Connection, limit: int) -> tuple[int, float | None]:
    """Return how many wait for a slot, up to `limit`, and since when the first of these does (seconds since 1970)."""
    at = queued_at(OPTIMIZATION.c.queue_key, OPTIMIZATION.c.priority)
    waiting = select(at.label("at")).where(literal_column(WAITING), OPTIMIZATION.c.strategy != MIRRORED)
    found = connection.execute(select(func.count(), func.min(text("at"))).select_from(waiting.limit(limit).subquery()))
    count, first = found.one()
    return int(count), None if first is None else float(first)


def ended_since(connection: Connection, hour: str) -> list[Row]:
    """Return how many ended in this hour or later, by hour, type, strategy and status."""
    by = [ROLLUP.c[name] for name in ("starts", "optimization_type", "strategy", "status")]
    inside = (ROLLUP.c.span == "hour") & (ROLLUP.c.starts >= hour) & (ROLLUP.c.count != 0)
    return rows(connection, select(*by, func.sum(ROLLUP.c["count"]).label("count")).where(inside).group_by(*by))


def ranked(connection: Connection, metric: str, direction: str, limit: int) -> list[Row]:
    """Return the best `limit` of the optimizations that rank a metric in this direction, with their values."""
    largest_first = direction == MAXIMIZE
    order = (RANKING.c.value, RANKING.c.optimization_id)
    head = (
        select(RANKING.c.optimization_id.label("ranked_id"), RANKING.c.value, RANKING.c.direction)
        .where(RANKING.c.metric == metric, RANKING.c.direction == direction)
        .order_by(*(column.desc() for column in order) if largest_first else order)
        .limit(limit)
        .subquery()
    )
    joined = head.join(OPTIMIZATION, OPTIMIZATION.c.optimization_id == head.c.ranked_id)
    columns = [OPTIMIZATION.c[name] for name in _SHOWN]
    found = rows(connection, select(*columns, head.c.value, head.c.direction).select_from(joined))
    return sorted(found, key=lambda row: (row["value"], row["optimization_id"]), reverse=largest_first)


def ranked_metrics(connection: Connection) -> list[str]:
    """Return the names of all ranked metrics. It costs one index lookup for each name."""
    return list(connection.execute(_METRICS, {"limit": METRICS_LIMIT}).scalars())


def recordings(connection: Connection, optimization_id: str, limit: int | None = None) -> list[Row]:
    """Return the newest `limit` metrics recorded from outside, oldest first: name, value, at."""
    where = RECORDED.c.optimization_id == optimization_id
    columns = (RECORDED.c.name, RECORDED.c.value, RECORDED.c.at)
    return rows(connection, select(*columns).where(where).order_by(RECORDED.c.id.desc()).limit(limit))[::-1]


_METRICS = text("""
    WITH RECURSIVE known (metric) AS (
        SELECT min(metric) FROM ranking
        UNION ALL
        SELECT (SELECT min(metric) FROM ranking WHERE metric > known.metric) FROM known WHERE known.metric IS NOT NULL
    )
    SELECT metric FROM known WHERE metric IS NOT NULL LIMIT :limit
""")
