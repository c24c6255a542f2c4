"""Comparing the rollups with the record, and repairing differences.

An hour is compared with the optimizations that ended in it, including pruned ones; a day with its hours, a month with
its days, all time with its months. The cost of an hour grows with what ended in it.
"""

from __future__ import annotations

from dataclasses import dataclass

from sqlalchemy import ColumnElement, Connection, func, select, union

from o9.store.core.unit import Operation, UnitOfWork
from o9.store.schema.optimizations import OPTIMIZATION
from o9.store.schema.statistics import ROLLUP
from o9.store.statistics.queries import first_window
from o9.store.statistics.rankings import COUNTED
from o9.store.statistics.rollups import (
    PRUNED_HOUR,
    SPANS,
    Key,
    Sums,
    add_to_rollups,
    keys_of,
    rollups,
    write_rollups,
)

# Suffixes that sort behind all of a window. They end in digits, since some locales of PostgreSQL ignore punctuation.
_ENDS = {"hour": ":99", "day": "T99", "month": "-99"}
# The spans that add up to each span; for an hour, the record is added.
_PARTS = {"hour": PRUNED_HOUR, "day": "hour", "month": "day", "all": "month"}


def first_ended(connection: Connection) -> str | None:
    """Return when the first optimization ended that is recorded or counted: an ISO time, or a prefix of one."""
    ended = select(func.min(OPTIMIZATION.c.completed_at)).where(OPTIMIZATION.c.completed_at.is_not(None))
    found: str | None = connection.execute(ended).scalar()
    return min(filter(None, (found, first_window(connection, "day"))), default=None)


def hours_ended_in(connection: Connection, day: str) -> list[str]:
    """Return the hours of a day (YYYY-MM-DDTHH) in which anything ended, or which have rollups."""
    at, starts = OPTIMIZATION.c.completed_at, ROLLUP.c.starts
    ended = select(func.substr(at, 1, SPANS["hour"])).where(*_inside(at, "day", day))
    counted = select(starts).where(ROLLUP.c.span.in_(("hour", PRUNED_HOUR)), *_inside(starts, "day", day))
    return sorted(connection.execute(union(ended, counted)).scalars())


def differences(connection: Connection, span: str, starts: str) -> dict[Key, Sums]:
    """Return what must be added to the rollups of a window to agree with the record and what was pruned."""
    true: dict[Key, Sums] = {}
    if span == "hour":
        ended = select(*COUNTED).where(*_inside(OPTIMIZATION.c.completed_at, "hour", starts))
        for row in connection.execute(ended).mappings():
            true.setdefault(keys_of(row, row["status"])[0], Sums()).add_ended(row)
    inside = _inside(ROLLUP.c.starts, span, starts) if starts else ()
    for key, sums in rollups(connection, ROLLUP.c.span == _PARTS[span], *inside):
        true.setdefault(key._replace(span=span, starts=starts), Sums()).add(sums)
    held = dict(rollups(connection, ROLLUP.c.span == span, ROLLUP.c.starts == starts))
    found = {}
    for key in sorted(held.keys() | true.keys()):
        missing, kept = true.get(key, Sums()), held.get(key, Sums())
        if kept.differs(missing):
            missing.add(kept, -1)
            found[key] = missing
    return found


def _inside(at: ColumnElement[str], span: str, starts: str) -> tuple[ColumnElement[bool], ColumnElement[bool]]:
    return at >= starts, at <= starts + _ENDS[span]


@dataclass(frozen=True)
class RepairRollups(Operation[dict[Key, Sums]]):
    """Add what `differences` finds to the rollups of a window, and return it. Nothing can end meanwhile."""

    span: str
    starts: str

    def apply(self, unit: UnitOfWork) -> dict[Key, Sums]:
        write_rollups(unit)
        unit.flush()
        missing = differences(unit.connection, self.span, self.starts)
        add_to_rollups(unit, missing)
        return missing
