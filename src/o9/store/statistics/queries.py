"""Reading what statistics are made of: rollups, what is going on now, rankings, and the full record by the hour.

What `differences` reads grows with the hour that it is asked about; everything else costs the same at any size.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager

from sqlalchemy import ColumnElement, Connection, func, literal, literal_column, or_, select, text

from o9.model.strategy import PLACEBO
from o9.store.core.reading import rows
from o9.store.core.unit import Row
from o9.store.queue.claims import MIRRORED
from o9.store.queue.order import queued_at
from o9.store.schema.optimizations import OPTIMIZATION, RECORDED, TRANSITION, WAITING
from o9.store.schema.statistics import PRIORITY_COUNTER, RANKING, ROLLUP
from o9.store.statistics.rankings import COUNTED
from o9.store.statistics.rollups import PRUNED_DAY, PRUNED_HOUR, SPANS, Difference, Key, Sums

BATCH = 2_000
METRICS_LIMIT = 1_000
_SHOWN = ("optimization_id", "name", "optimization_type", "strategy", "status")
# What ends a bound of a window ends in digits: in some of PostgreSQL's locales signs do not count.
_ENDS = {"hour": ":99", "day": "T99", "month": "-99"}
_MENDED_BY = {"day": "hour", "month": "day", "all": "month"}  # each is the sum of the next smaller ones


def totals(connection: Connection) -> list[tuple[Key, Sums]]:
    """What ended over all time, by type, strategy, priority and status."""
    return _rollups(connection, ROLLUP.c.span == "all")


def windows(connection: Connection, span: str, since: str, before: str) -> list[Row]:
    """Counts and sums of what ended in each window of `span` from `since` to before `before`, by status.

    Without placebo runs, which say nothing of any strategy.
    """
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
    """The earliest window of `span` that anything ended in."""
    found: str | None = connection.execute(select(func.min(ROLLUP.c.starts)).where(ROLLUP.c.span == span)).scalar()
    return found


def first_ended(connection: Connection) -> str | None:
    """When the first ended that is recorded or counted; a moment, or the beginning of one."""
    ended = select(func.min(OPTIMIZATION.c.completed_at)).where(OPTIMIZATION.c.completed_at.is_not(None))
    found: str | None = connection.execute(ended).scalar()
    return min(filter(None, (found, first_window(connection, "day"))), default=None)


def priorities(connection: Connection) -> list[Row]:
    """How many optimizations there are, by priority."""
    return rows(
        connection, select(PRIORITY_COUNTER).where(PRIORITY_COUNTER.c.count != 0).order_by(PRIORITY_COUNTER.c.priority)
    )


def time_in_status(connection: Connection, status: str, limit: int) -> list[Row]:
    """Of the `limit` that are in `status` and were created first: since when, what is wanted, what they wait for."""
    since = (
        select(TRANSITION.c.at)
        .where(TRANSITION.c.optimization_id == OPTIMIZATION.c.optimization_id)
        .order_by(TRANSITION.c.id.desc())
        .limit(1)
        .scalar_subquery()
    )
    columns = [OPTIMIZATION.c[name] for name in ("intent", "unmet", "queue_key", "priority", "lease_expires_at")]
    return rows(
        connection,
        select(*columns, since.label("since"))
        .where(OPTIMIZATION.c.status == status)
        .order_by(OPTIMIZATION.c.created_at, OPTIMIZATION.c.optimization_id)
        .limit(limit),
    )


def queue(connection: Connection, limit: int) -> tuple[int, float | None]:
    """How many wait for a slot, counted no further than `limit`, and since when the first of these does."""
    at = queued_at(OPTIMIZATION.c.queue_key, OPTIMIZATION.c.priority)
    waiting = select(at.label("at")).where(literal_column(WAITING), OPTIMIZATION.c.strategy != MIRRORED)
    found = connection.execute(select(func.count(), func.min(text("at"))).select_from(waiting.limit(limit).subquery()))
    count, first = found.one()
    return int(count), None if first is None else float(first)


def ended_since(connection: Connection, hour: str) -> list[Row]:
    """What ended in this hour or later, by hour, type, strategy and status."""
    by = [ROLLUP.c[name] for name in ("starts", "optimization_type", "strategy", "status")]
    inside = (ROLLUP.c.span == "hour") & (ROLLUP.c.starts >= hour) & (ROLLUP.c.count != 0)
    return rows(connection, select(*by, func.sum(ROLLUP.c["count"]).label("count")).where(inside).group_by(*by))


def queueing(connection: Connection, optimization_id: str) -> Row | None:
    """How often one was begun, and how long it has waited for that; None where there is no such optimization."""
    columns = (OPTIMIZATION.c.attempt, OPTIMIZATION.c.waited_seconds)
    found = rows(connection, select(*columns).where(OPTIMIZATION.c.optimization_id == optimization_id))
    return found[0] if found else None


def named(connection: Connection, status: str, limit: int) -> list[str]:
    """The ids of the first `limit` that are in `status`."""
    found = (
        select(OPTIMIZATION.c.optimization_id)
        .where(OPTIMIZATION.c.status == status)
        .order_by(OPTIMIZATION.c.created_at, OPTIMIZATION.c.optimization_id)
        .limit(limit)
    )
    return list(connection.execute(found).scalars())


def ranked(connection: Connection, metric: str, direction: str, limit: int, *, largest_first: bool) -> list[Row]:
    """The first `limit` of those whose metric has this direction of its own, with their values."""
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


def tied(connection: Connection, metric: str, direction: str, value: float, limit: int) -> int:
    """How many have exactly this value, counted no further than `limit`."""
    same = select(literal(1)).where(
        RANKING.c.metric == metric, RANKING.c.direction == direction, RANKING.c.value == value
    )
    return int(connection.execute(select(func.count()).select_from(same.limit(limit).subquery())).scalar_one())


def ranked_metrics(connection: Connection) -> list[str]:
    """The names of the metrics that anything was ranked by; one look at an index for each name."""
    return list(connection.execute(_METRICS, {"limit": METRICS_LIMIT}).scalars())


def recordings(connection: Connection, optimization_id: str, limit: int | None = None) -> list[Row]:
    """The newest `limit` metrics that were recorded from outside, oldest first: name, value, at."""
    where = RECORDED.c.optimization_id == optimization_id
    columns = (RECORDED.c.name, RECORDED.c.value, RECORDED.c.at)
    return rows(connection, select(*columns).where(where).order_by(RECORDED.c.id.desc()).limit(limit))[::-1]


def differences(connection: Connection, span: str, starts: str, *, recount: bool = False) -> list[Difference]:
    """What has to be added to the rollups of one window so that they agree with the record and with what was pruned.

    An hour is compared with the optimizations that ended in it, read in batches; a day with its hours, a month with its
    days, all time with its months. With `recount` a day is compared with the optimizations, too: its hours may be
    forgotten. All of it is read from one moment of the store; writers are not held up.
    """
    with _one_moment(connection):
        at = (ROLLUP.c.span == span) & (ROLLUP.c.starts == starts)
        held = {key: (sums, corrections) for key, sums, corrections in _rollups_with_corrections(connection, at)}
        true: dict[Key, Sums] = {}
        recount = recount or span == "hour"
        for row in _ended_in(connection, span, starts) if recount else ():
            who = (row["optimization_type"], row["strategy"], int(row["priority"]), row["status"])
            true.setdefault(Key(span, starts, *who), Sums()).add_ended(row)
        for key, sums in _rollups(connection, _parts(span, starts, recount)):
            true.setdefault(Key(span, starts, *key[2:]), Sums()).add(sums)
    found = []
    for key in sorted(held.keys() | true.keys()):
        sums, corrections = held.get(key, (Sums(), 0))
        if sums.differs(true.get(key, Sums())):
            missing = Sums()
            missing.add(true.get(key, Sums()))
            missing.add(sums, -1)
            found.append(Difference(key, missing, corrections))
    return found


def hours_ended_in(connection: Connection, day: str) -> list[str]:
    """The hours of a day, as YYYY-MM-DDTHH, in which anything ended, or which have rollups."""
    return [
        hour
        for hour in (f"{day}T{number:02d}" for number in range(24))
        if connection.execute(
            select(literal(1)).where(
                or_(
                    select(literal(1)).where(*_in_window("hour", hour)).exists(),
                    select(literal(1)).where(ROLLUP.c.span == "hour", ROLLUP.c.starts == hour).exists(),
                    select(literal(1)).where(ROLLUP.c.span == PRUNED_HOUR, ROLLUP.c.starts == hour).exists(),
                )
            )
        ).first()
    ]


def _rollups(connection: Connection, which: ColumnElement[bool]) -> list[tuple[Key, Sums]]:
    return [(key, sums) for key, sums, _ in _rollups_with_corrections(connection, which)]


def _rollups_with_corrections(connection: Connection, which: ColumnElement[bool]) -> list[tuple[Key, Sums, int]]:
    found = rows(connection, select(ROLLUP).where(which))
    return [(Key(*(row[name] for name in Key._fields)), Sums.of(row), row["corrections"]) for row in found]


def _parts(span: str, starts: str, recount: bool) -> ColumnElement[bool]:
    """The rollups that make up a window, beside what is recounted."""
    smaller = PRUNED_HOUR if recount else _MENDED_BY[span]
    if span == "hour":
        return (ROLLUP.c.span == smaller) & (ROLLUP.c.starts == starts)
    inside = (ROLLUP.c.span == smaller) & (ROLLUP.c.starts >= starts)
    if starts:
        inside &= ROLLUP.c.starts <= starts + _ENDS[span]
    if span == "day":
        inside |= (ROLLUP.c.span == PRUNED_DAY) & (ROLLUP.c.starts == starts)
    return inside


def _ended_in(connection: Connection, span: str, starts: str) -> Iterator[Row]:
    order = (OPTIMIZATION.c.completed_at, OPTIMIZATION.c.optimization_id)
    statement = select(*COUNTED).where(*_in_window(span, starts))
    statement = statement.order_by(*order).limit(BATCH)
    after: Sequence[str] = (starts, "")
    while True:
        at, name = after
        behind = or_(order[0] > at, (order[0] == at) & (order[1] > name))
        # The first condition is what the index is entered by.
        batch = rows(connection, statement.where(order[0] >= at, behind))
        yield from batch
        if len(batch) < BATCH:
            return
        after = (batch[-1]["completed_at"], batch[-1]["optimization_id"])


def _in_window(span: str, starts: str) -> tuple[ColumnElement[bool], ...]:
    return (OPTIMIZATION.c.completed_at >= starts, OPTIMIZATION.c.completed_at <= starts + _ENDS[span])


@contextmanager
def _one_moment(connection: Connection) -> Iterator[None]:
    """All that is read inside is of one moment; connections are in autocommit otherwise."""
    sqlite = connection.dialect.name == "sqlite"
    connection.exec_driver_sql("BEGIN" if sqlite else "BEGIN ISOLATION LEVEL REPEATABLE READ READ ONLY")
    try:
        yield
    finally:
        connection.exec_driver_sql("ROLLBACK")


_METRICS = text("""
    WITH RECURSIVE known (metric) AS (
        SELECT min(metric) FROM ranking
        UNION ALL
        SELECT (SELECT min(metric) FROM ranking WHERE metric > known.metric) FROM known WHERE known.metric IS NOT NULL
    )
    SELECT metric FROM known WHERE metric IS NOT NULL LIMIT :limit
""")
assert tuple(SPANS) == ("hour", *_MENDED_BY)
