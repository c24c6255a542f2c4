"""Aggregates kept current in the transaction that changes a status, so that global figures cost the same at any size.

`tally` holds how many optimizations are in each status now. `rollup` holds, by the day on which they ended,
counts, sums and histograms of duration and improvement. A histogram maps a bucket to a count; the buckets of
`bucket_of` are a twelfth of a decade wide, so a quantile read from it is within 11 % of the true one.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from typing import Any

from sqlalchemy import select
from sqlalchemy.dialects import postgresql, sqlite

from o9.store import tables
from o9.store.codec import to_json
from o9.store.commit import Row, UnitOfWork

TALLY = tables.table_of(tables.Tally)
ROLLUP = tables.table_of(tables.Rollup)
BUCKETS_PER_DECADE = 12


def count_new(unit: UnitOfWork, row: Row) -> None:
    _count(unit, row, None, row["status"])


def count_transition(unit: UnitOfWork, row: Row, from_status: str, to_status: str, *, ended: bool) -> None:
    """`row` as it is after the transition."""
    _count(unit, row, from_status, to_status)
    if ended:
        unit.endings.append((dict(row), to_status))


def bucket_of(value: float) -> str:
    """The histogram bucket of a value: sign and a twelfth of a decade; zero has its own."""
    if value == 0 or not math.isfinite(value):
        return "0"
    return f"{'-' if value < 0 else '+'}{math.floor(math.log10(abs(value)) * BUCKETS_PER_DECADE)}"


def bucket_centre(bucket: str) -> float:
    """The value in the (geometric) middle of a bucket."""
    if bucket == "0":
        return 0.0
    magnitude = 10 ** ((int(bucket[1:]) + 0.5) / BUCKETS_PER_DECADE)
    return -magnitude if bucket[0] == "-" else magnitude


def quantile(histogram: Mapping[str, int], share: float) -> float | None:
    """The value below which `share` (0 to 1) of the histogram lies; None where it is empty."""
    total = sum(histogram.values())
    seen = 0
    for bucket in sorted(histogram, key=bucket_centre):
        seen += histogram[bucket]
        if seen >= share * total:
            return bucket_centre(bucket)
    return None


def write_rollups(unit: UnitOfWork) -> None:
    """Write the unit's counted moves and endings: just before COMMIT, and before anything reads the counts."""
    moves = [
        {"optimization_type": kind, "strategy": strategy, "status": status, "count": count}
        for (kind, strategy, status), count in _counted_by_status(unit).items()
        if count
    ]
    if moves:
        unit.upsert_counts(TALLY, moves)
    for row, status in unit.endings:
        _add_ending(unit, row, status)
    unit.moves, unit.endings = {}, []


def _count(unit: UnitOfWork, row: Row, from_status: str | None, to_status: str) -> None:
    key = (row["optimization_type"], row["strategy"], from_status, to_status)
    unit.moves[key] = unit.moves.get(key, 0) + 1


def _counted_by_status(unit: UnitOfWork) -> dict[tuple[str, str, str], int]:
    counted: dict[tuple[str, str, str], int] = {}
    for (kind, strategy, from_status, to_status), count in unit.moves.items():
        counted[kind, strategy, to_status] = counted.get((kind, strategy, to_status), 0) + count
        if from_status is not None:
            counted[kind, strategy, from_status] = counted.get((kind, strategy, from_status), 0) - count
    return counted


def _add_ending(unit: UnitOfWork, row: Row, status: str) -> None:
    key = {
        "day": unit.now[:10],
        "optimization_type": row["optimization_type"],
        "strategy": row["strategy"],
        "status": status,
    }
    where = [ROLLUP.c[name] == value for name, value in key.items()]
    found = unit.connection.execute(select(ROLLUP).where(*where)).mappings().first()
    old: Mapping[str, Any] = dict(found) if found else _NOTHING_YET
    # Something that never ran has neither a duration nor an improvement to speak of.
    ran = row["started_at"] is not None
    values = {
        "count": old["count"] + 1,
        "duration_sum": old["duration_sum"] + row["execution_time"],
        "improvement_sum": old["improvement_sum"] + row["performance_improvement"],
        "steps_sum": old["steps_sum"] + row["completed_steps"],
        "durations": _counted(old["durations"], row["execution_time"], ran),
        "improvements": _counted(old["improvements"], row["performance_improvement"], ran),
    }
    dialect = sqlite if unit.connection.dialect.name == "sqlite" else postgresql
    upsert = dialect.insert(ROLLUP).values(**key, **values)
    unit.connection.execute(upsert.on_conflict_do_update(index_elements=list(key), set_=values))


def _counted(histogram: str, value: float, counts: bool) -> str:
    if not counts:
        return histogram
    buckets: dict[str, int] = json.loads(histogram)
    bucket = bucket_of(value)
    buckets[bucket] = buckets.get(bucket, 0) + 1
    return to_json(buckets)


_NOTHING_YET = {
    "count": 0,
    "duration_sum": 0.0,
    "improvement_sum": 0.0,
    "steps_sum": 0,
    "durations": "{}",
    "improvements": "{}",
}
