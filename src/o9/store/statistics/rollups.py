"""Aggregates updated in the transaction that changes a status, so that global figures cost the same at any size.

`status_counter` has the number of optimizations in each status, `priority_counter` that of each priority. `rollup` has
counts, sums and histograms of ended optimizations by hour, day and month of their end and over all time, each by type,
strategy, priority and status. Durations are seconds of running; waits are seconds from being queued to being started,
summed over the attempts. A figure counts only if it exists: an optimization that never ran has no duration, and one
without a baseline no improvement (`rankings.has_improvement`).

A histogram maps a bucket to a count. Buckets are a twelfth of a decade wide, and a quantile is the geometric middle of
its bucket, so it is within `RELATIVE_ERROR` of the true one.

Pruned optimizations stay in the rollups. Their contributions are also kept under a span of their own, by the hour of
their end, so that the rollups can still be compared with the record (`o9.store.statistics.repair`).
"""

from __future__ import annotations

import json
import math
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from functools import lru_cache
from typing import Any, NamedTuple

from sqlalchemy import ColumnElement, Connection, select

from o9.model.states import ENDED
from o9.store.core.column_types import to_json
from o9.store.core.unit import Row, UnitOfWork
from o9.store.queue.order import queued_at
from o9.store.schema.statistics import PRIORITY_COUNTER, ROLLUP, STATUS_COUNTER
from o9.store.statistics import rankings
from o9.store.statistics.families import write_families

BUCKETS_PER_DECADE = 12
RELATIVE_ERROR = 10.0 ** (0.5 / BUCKETS_PER_DECADE) - 1
# The length of the prefix of an ISO time that names its window.
SPANS = {"hour": 13, "day": 10, "month": 7, "all": 0}
PRUNED_HOUR = "pruned hour"  # the span with the sums of pruned optimizations
_CREATED, _STARTED = "created", ("initializing", "running")
_RAN, _RESTING = "running", ("paused", "suspended")
ENDED_STATUSES = frozenset(status.value for status in ENDED)
SUMS = ("count", "ran", "improved", "waited", "steps_sum", "duration_sum", "improvement_sum", "wait_sum")
HISTOGRAMS = ("durations", "improvements", "waits")


class Key(NamedTuple):
    """The primary key of a rollup."""

    span: str
    starts: str
    optimization_type: str
    strategy: str
    priority: int
    status: str


@dataclass
class Sums:
    """The figures of a rollup. Adding is exact, except for rounding in the three real sums."""

    count: int = 0
    ran: int = 0
    improved: int = 0
    waited: int = 0
    steps_sum: int = 0
    duration_sum: float = 0.0
    improvement_sum: float = 0.0
    wait_sum: float = 0.0
    durations: Counter[str] = field(default_factory=Counter)
    improvements: Counter[str] = field(default_factory=Counter)
    waits: Counter[str] = field(default_factory=Counter)

    def add_ended(self, row: Mapping[Any, Any]) -> None:
        """Add the row of an ended optimization."""
        self.count += 1
        self.steps_sum += row["completed_steps"]
        if row["started_at"] is not None:
            self.ran += 1
            self.duration_sum += row["execution_time"]
            self.durations[bucket_of(row["execution_time"])] += 1
        if rankings.has_improvement(row):
            self.improved += 1
            self.improvement_sum += row["performance_improvement"]
            self.improvements[bucket_of(row["performance_improvement"])] += 1
        if row["waited_seconds"] is not None:
            self.waited += 1
            self.wait_sum += row["waited_seconds"]
            self.waits[bucket_of(row["waited_seconds"])] += 1

    def add(self, other: Sums, times: int = 1) -> None:
        """Add `other`; with `times` -1, subtract it."""
        for name in SUMS:
            setattr(self, name, getattr(self, name) + times * getattr(other, name))
        for name in HISTOGRAMS:
            mine: Counter[str] = getattr(self, name)
            (mine.update if times == 1 else mine.subtract)(getattr(other, name))

    def differs(self, other: Sums) -> bool:
        """Whether the two differ by more than rounding."""
        for name in ("count", "ran", "improved", "waited", "steps_sum", *HISTOGRAMS):
            if getattr(self, name) != getattr(other, name):
                return True
        slack = 1e-9 * max(1, self.count)
        return not all(
            math.isclose(getattr(self, name), getattr(other, name), rel_tol=1e-9, abs_tol=slack)
            for name in ("duration_sum", "improvement_sum", "wait_sum")
        )

    @classmethod
    def of(cls, row: Mapping[Any, Any]) -> Sums:
        """Return the figures of a row of the table."""
        histograms: dict[str, Any] = {name: Counter(json.loads(row[name])) for name in HISTOGRAMS}
        return cls(**{name: row[name] for name in SUMS}, **histograms)

    def as_row(self) -> Row:
        histograms = {name: to_json({k: n for k, n in getattr(self, name).items() if n}) for name in HISTOGRAMS}
        return {name: getattr(self, name) for name in SUMS} | histograms


class _Counts:
    """What a unit has to write.

    moves: counts by type, strategy, priority, old and new status; None is that of a new or deleted optimization.
    endings: the status with which each optimization ended.
    rested: optimizations to rank again, which stopped running or were changed after their end.
    """

    def __init__(self) -> None:
        self.moves: Counter[tuple[str, str, int, str | None, str | None]] = Counter()
        self.endings: dict[str, str] = {}
        self.rested: set[str] = set()

    def clear(self) -> None:
        for each in (self.moves, self.endings, self.rested):
            each.clear()


def mark_changed(unit: UnitOfWork, row: Row, changes: Row) -> None:
    """Mark an ended optimization for ranking and a health check after each change of it."""
    if changes.get("status", row["status"]) in ENDED_STATUSES:
        unit.part(_Counts).rested.add(row["optimization_id"])
        changes["health_due"] = 1


def count_new(unit: UnitOfWork, row: Row) -> None:
    _count(unit, row, None, row["status"])


def count_changed(unit: UnitOfWork, before: Row, after: Row) -> None:
    """Count an optimization under its new type, strategy and priority."""
    _count(unit, before, before["status"], None)
    _count(unit, after, None, after["status"])


def count_transition(unit: UnitOfWork, row: Row, from_status: str, to_status: str, *, ended: bool) -> None:
    """Count a transition; `row` is as it is afterwards."""
    _count(unit, row, from_status, to_status)
    if from_status == _CREATED and to_status in _STARTED and row["lease_expires_at"] is not None:
        unit.update(row, waited_seconds=(row["waited_seconds"] or 0.0) + _waited(unit, row))
    if ended:
        unit.part(_Counts).endings[row["optimization_id"]] = to_status
    elif from_status == _RAN and to_status in _RESTING:  # but not if it is queued again, to run soon
        unit.part(_Counts).rested.add(row["optimization_id"])


def bucket_of(value: float) -> str:
    """Return the histogram bucket of a value: sign and twelfth of a decade; zero has its own."""
    if value == 0 or not math.isfinite(value):
        return "0"
    return f"{'-' if value < 0 else '+'}{math.floor(math.log10(abs(value)) * BUCKETS_PER_DECADE)}"


@lru_cache(maxsize=10_000)
def bucket_centre(bucket: str) -> float:
    """Return the geometric middle of a bucket."""
    if bucket == "0":
        return 0.0
    magnitude: float = 10.0 ** min(308.25, (int(bucket[1:]) + 0.5) / BUCKETS_PER_DECADE)
    return -magnitude if bucket[0] == "-" else magnitude


def quantiles(histogram: Mapping[str, int], shares: Sequence[float]) -> list[float | None]:
    """Return the quantiles of a histogram at `shares` (0 to 1, ascending); all None if it is empty."""
    total, seen = sum(histogram.values()), 0
    found: list[float | None] = []
    for bucket in sorted(histogram, key=bucket_centre) if total else ():
        seen += histogram[bucket]
        while seen and len(found) < len(shares) and seen >= shares[len(found)] * total:
            found.append(bucket_centre(bucket))
    return found or [None] * len(shares)


def keys_of(ended: Mapping[Any, Any], status: str) -> list[Key]:
    """Return the keys of the rollups that an ended optimization counts in."""
    who = (ended["optimization_type"], ended["strategy"], int(ended["priority"]), status)
    return [Key(span, ended["completed_at"][:length], *who) for span, length in SPANS.items()]


def write_rollups(unit: UnitOfWork) -> None:
    """Write the unit's counts, just before COMMIT or before the unit reads them."""
    by_status: Counter[tuple[str, str, str]] = Counter()
    by_priority: Counter[int] = Counter()
    counts = unit.part(_Counts)
    for (kind, strategy, priority, from_status, to_status), count in counts.moves.items():
        if to_status is not None:
            by_status[kind, strategy, to_status] += count
            by_priority[priority] += count
        if from_status is not None:
            by_status[kind, strategy, from_status] -= count
            by_priority[priority] -= count
    by_key = [
        {"optimization_type": kind, "strategy": strategy, "status": status, "count": count}
        for (kind, strategy, status), count in by_status.items()
        if count
    ]
    if by_key:
        unit.upsert_counts(STATUS_COUNTER, by_key)
    priorities = [{"priority": priority, "count": count} for priority, count in by_priority.items() if count]
    if priorities:
        unit.upsert_counts(PRIORITY_COUNTER, priorities)
    if counts.endings or counts.rested:
        sums: dict[Key, Sums] = {}
        for row in rankings.rank(unit, counts.rested | counts.endings.keys()):
            if row["optimization_id"] in counts.endings:
                for key in keys_of(row, counts.endings[row["optimization_id"]]):
                    sums.setdefault(key, Sums()).add_ended(row)
        add_to_rollups(unit, sums)
    counts.clear()
    write_families(unit)


def count_pruned(unit: UnitOfWork, rows: Iterable[Mapping[Any, Any]]) -> None:
    """Count optimizations as deleted: they leave the counts of the present, but stay in the rollups."""
    sums: dict[Key, Sums] = {}
    for row in rows:
        hour = keys_of(row, row["status"])[0]
        sums.setdefault(hour._replace(span=PRUNED_HOUR), Sums()).add_ended(row)
        _count(unit, row, row["status"], None)
    add_to_rollups(unit, sums)


def add_to_rollups(unit: UnitOfWork, sums: Mapping[Key, Sums]) -> None:
    by_who: dict[tuple[Any, ...], list[Key]] = {}
    for key in sums:
        by_who.setdefault(key[2:], []).append(key)
    changed: list[Row] = []
    for who, keys in by_who.items():
        mine = (ROLLUP.c[name] == value for name, value in zip(Key._fields[2:], who, strict=True))
        at = (ROLLUP.c.span.in_({key.span for key in keys}), ROLLUP.c.starts.in_({key.starts for key in keys}))
        known = dict(rollups(unit.connection, *at, *mine))
        for key in keys:
            total = known.get(key, Sums())
            total.add(sums[key])
            changed.append(key._asdict() | total.as_row())
    if changed:
        unit.upsert(ROLLUP, changed)


def rollups(connection: Connection, *which: ColumnElement[bool]) -> list[tuple[Key, Sums]]:
    found = connection.execute(select(ROLLUP).where(*which)).mappings()
    return [(Key(*(row[name] for name in Key._fields)), Sums.of(row)) for row in found]


def _count(unit: UnitOfWork, row: Mapping[Any, Any], from_status: str | None, to_status: str | None) -> None:
    key = (row["optimization_type"], row["strategy"], int(row["priority"]), from_status, to_status)
    unit.part(_Counts).moves[key] += 1


def _waited(unit: UnitOfWork, row: Row) -> float:
    """Return the seconds since it was queued, from its queue key."""
    queued: float = queued_at(float(row["queue_key"]), int(row["priority"]))
    return max(0.0, round(datetime.fromisoformat(unit.now).timestamp() - queued, 6))
