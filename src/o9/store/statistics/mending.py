"""Comparing the rollups with the record, mending what differs, and giving up what is too old to be shown by the hour.

An hour is compared with the optimizations that ended in it and what was pruned of it, a day with its hours, a month
with its days, all time with its months. What an hour costs grows with what ended in it.
"""

from __future__ import annotations

from dataclasses import dataclass

from sqlalchemy import ColumnElement, Connection, delete, func, select, union

from o9.store.core.unit import Operation, UnitOfWork
from o9.store.schema.optimizations import OPTIMIZATION
from o9.store.schema.statistics import ROLLUP
from o9.store.statistics.queries import first_window
from o9.store.statistics.rankings import COUNTED
from o9.store.statistics.rollups import (
    PRUNED_DAY,
    PRUNED_HOUR,
    SPANS,
    Key,
    Sums,
    add_to_rollups,
    rollups,
    write_rollups,
)

FORGOTTEN_AT_ONCE = 24
# What ends a bound of a window ends in digits: in some of PostgreSQL's locales signs do not count.
_ENDS = {"hour": ":99", "day": "T99", "month": "-99"}
_MENDED_BY = {"day": "hour", "month": "day", "all": "month"}  # each is the sum of the next smaller ones


def first_ended(connection: Connection) -> str | None:
    """When the first ended that is recorded or counted; a moment, or the beginning of one."""
    ended = select(func.min(OPTIMIZATION.c.completed_at)).where(OPTIMIZATION.c.completed_at.is_not(None))
    found: str | None = connection.execute(ended).scalar()
    return min(filter(None, (found, first_window(connection, "day"))), default=None)


def hours_ended_in(connection: Connection, day: str) -> list[str]:
    """The hours of a day, as YYYY-MM-DDTHH, in which anything ended, or which have rollups."""
    at, starts = OPTIMIZATION.c.completed_at, ROLLUP.c.starts
    ended = select(func.substr(at, 1, SPANS["hour"])).where(*_inside(at, "day", day))
    counted = select(starts).where(ROLLUP.c.span.in_(("hour", PRUNED_HOUR)), *_inside(starts, "day", day))
    return sorted(connection.execute(union(ended, counted)).scalars())


def differences(connection: Connection, span: str, starts: str, *, recount: bool = False) -> dict[Key, Sums]:
    """What has to be added to the rollups of one window so that they agree with the record and with what was pruned.

    With `recount` a day is compared with the optimizations, too: its hours may be forgotten.
    """
    true: dict[Key, Sums] = {}
    recount = recount or span == "hour"
    hours = [starts] if span == "hour" else [f"{starts}T{number:02d}" for number in range(24)]
    for hour in hours if recount else ():
        ended = select(*COUNTED).where(*_inside(OPTIMIZATION.c.completed_at, "hour", hour))
        for row in connection.execute(ended).mappings():
            who = (row["optimization_type"], row["strategy"], int(row["priority"]), row["status"])
            true.setdefault(Key(span, starts, *who), Sums()).add_ended(row)
    for key, sums in rollups(connection, _parts(span, starts, recount)):
        true.setdefault(key._replace(span=span, starts=starts), Sums()).add(sums)
    held = dict(rollups(connection, ROLLUP.c.span == span, ROLLUP.c.starts == starts))
    found = {}
    for key in sorted(held.keys() | true.keys()):
        missing, kept = true.get(key, Sums()), held.get(key, Sums())
        if kept.differs(missing):
            missing.add(kept, -1)
            found[key] = missing
    return found


def _parts(span: str, starts: str, recount: bool) -> ColumnElement[bool]:
    """The rollups that make up a window, beside what is recounted."""
    smaller = PRUNED_HOUR if recount else _MENDED_BY[span]
    if span == "hour":
        return (ROLLUP.c.span == smaller) & (ROLLUP.c.starts == starts)
    inside = ROLLUP.c.span == smaller
    if starts:
        for bound in _inside(ROLLUP.c.starts, span, starts):
            inside &= bound
    if span == "day":
        inside |= (ROLLUP.c.span == PRUNED_DAY) & (ROLLUP.c.starts == starts)
    return inside


def _inside(at: ColumnElement[str], span: str, starts: str) -> tuple[ColumnElement[bool], ColumnElement[bool]]:
    return at >= starts, at <= starts + _ENDS[span]


@dataclass(frozen=True)
class Mend(Operation[dict[Key, Sums]]):
    """Add to the rollups of one window what `differences` finds; answers with that. Nothing ends meanwhile."""

    span: str
    starts: str
    recount: bool = False

    def apply(self, unit: UnitOfWork) -> dict[Key, Sums]:
        write_rollups(unit)
        unit.flush()
        missing = differences(unit.connection, self.span, self.starts, recount=self.recount)
        add_to_rollups(unit, missing)
        return missing


@dataclass(frozen=True)
class ForgetHours(Operation[int]):
    """Delete the first windows of single hours before `before`, `YYYY-MM-DDTHH`; their days keep what was pruned.

    Answers how many rollups there were; 0 when all is done.
    """

    before: str

    def apply(self, unit: UnitOfWork) -> int:
        by_hour = ROLLUP.c.span.in_(("hour", PRUNED_HOUR))
        first = select(ROLLUP.c.starts).where(by_hour, ROLLUP.c.starts < self.before).distinct()
        hours = list(unit.connection.execute(first.order_by(ROLLUP.c.starts).limit(FORGOTTEN_AT_ONCE)).scalars())
        days: dict[Key, Sums] = {}
        for key, sums in rollups(unit.connection, ROLLUP.c.span == PRUNED_HOUR, ROLLUP.c.starts.in_(hours)):
            day = key._replace(span=PRUNED_DAY, starts=key.starts[: SPANS["day"]])
            days.setdefault(day, Sums()).add(sums)
        add_to_rollups(unit, days)
        return int(unit.connection.execute(delete(ROLLUP).where(by_hour, ROLLUP.c.starts.in_(hours))).rowcount)
