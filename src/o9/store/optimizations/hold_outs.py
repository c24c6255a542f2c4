"""Held-out data: the returns of an optimization's best trial on them, and how often such data were looked at.

Contract. A look is a new series of returns on held-out data. It is counted before it is shown, over all optimizations
of the same objective on the same data, whatever their families, and pruning keeps it. Looks are counted together if
their periods overlap, or if the dates or the data fingerprint of either is unknown. The same series again (from a
retry, another report, or a search with the same best) is no new look. Looks of a strategy without an objective are
counted by family, and without a family by optimization.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from sqlalchemy import Connection, bindparam, func, select, update

from o9.store.core.column_types import pack_returns, unpack_returns
from o9.store.core.unit import OnOptimization, Operation, UnitOfWork
from o9.store.optimizations.commit_step import require_held
from o9.store.optimizations.provenance import write_calendar
from o9.store.schema.optimizations import BASELINE, CALENDAR, OPTIMIZATION, PROVENANCE, RETURNS, TRIAL
from o9.store.schema.statistics import LOOK

REAL_BYTES = 8  # of one date in a calendar


@dataclass(frozen=True)
class RecordHoldOut(OnOptimization[None]):
    """Record the held-out `returns` of trial `number`, those of the baseline if there is one, and the dates of both.

    This counts as a look. Raises StaleAttemptError if another attempt holds the optimization.
    """

    optimization_id: str
    fence: int
    number: int
    returns: Sequence[float]
    baseline: Sequence[float] | None = None
    dates: Sequence[float] | None = None

    def apply(self, unit: UnitOfWork) -> None:
        require_held(unit, self.optimization_id, self.fence)
        kept = {
            "hold_out": pack_returns(self.returns),
            "hold_out_calendar": write_calendar(unit, self.optimization_id, self.dates),
        }
        unit.flush()
        mine = RETURNS.c.optimization_id == self.optimization_id, RETURNS.c.number == self.number
        unit.connection.execute(update(RETURNS).where(*mine).values(kept))
        if self.baseline is not None:
            base = BASELINE.c.optimization_id == self.optimization_id
            unit.connection.execute(update(BASELINE).where(base).values(hold_out=pack_returns(self.baseline)))
        unit.change(self.optimization_id, "amended")
        _count_look(unit, self.optimization_id, self.number)


@dataclass(frozen=True)
class CountLook(Operation["Look | None"]):
    """Count the look at the held-out returns that trial `number` brought along."""

    optimization_id: str
    number: int

    def apply(self, unit: UnitOfWork) -> Look | None:
        unit.flush()
        _count_look(unit, self.optimization_id, self.number)
        unit.flush()
        return look(unit.connection, self.optimization_id, self.number)


@dataclass(frozen=True)
class Look:
    """When a series was first seen, and the number of looks that are counted together with it, including it."""

    at: str
    count: int


def look(connection: Connection, optimization_id: str, number: int) -> Look | None:
    """Return the look at the held-out returns of this trial; None if it has none, or nobody has looked yet."""
    seen = _seen(connection, optimization_id, number)
    if seen is None:
        return None
    looks = connection.execute(_LOOKS, {"objective": seen.objective}).all()
    own = next((each for each in looks if each.digest == seen.digest), None)
    if own is None:
        return None
    others = [
        each
        for each in looks
        if each is not own
        and (not seen.data or not each.data or seen.data == each.data)
        and _overlap(seen.period, _period(each))
    ]
    return Look(own.at, 1 + len(others))


@dataclass(frozen=True)
class _Seen:
    """What identifies a series of held-out returns."""

    objective: str
    data: str  # fingerprint of the objective's data; "" if unknown
    digest: str
    period: tuple[float, float] | None  # first and last date


def _count_look(unit: UnitOfWork, optimization_id: str, number: int) -> None:
    seen = _seen(unit.connection, optimization_id, number)
    if seen is None:
        return
    row = {
        "objective": seen.objective, "digest": seen.digest, "data": seen.data,
        "seen_by": optimization_id, "trial": number, "at": unit.now,
    }  # fmt: skip
    unit.insert(LOOK, row, ignore_known=True)


def _seen(connection: Connection, optimization_id: str, number: int) -> _Seen | None:
    row = connection.execute(_HOLD_OUT, {"target": optimization_id, "number": number}).first()
    if row is None or row.hold_out is None:
        return None
    digest = hashlib.blake2b(row.hold_out, digest_size=16).hexdigest()
    metadata = json.loads(row.metadata)
    objective = metadata.get("objective")
    if not isinstance(objective, str):
        return _Seen(row.family or f"optimization {optimization_id}", "", digest, _period(row))
    # A family that the user did not name is the objective and the evaluation's own data fingerprint.
    name, _, given = (row.family or "").rpartition("@")
    data = given if name == objective and "family" not in metadata else row.data or ""
    return _Seen(objective, data, digest, _period(row))


def _period(row: Any) -> tuple[float, float] | None:
    return (unpack_returns(row.first)[0], unpack_returns(row.last)[0]) if row.first else None


def _overlap(one: tuple[float, float] | None, other: tuple[float, float] | None) -> bool:
    return one is None or other is None or (one[0] <= other[1] and other[0] <= one[1])


_DATES = CALENDAR.c.data
_FIRST_AND_LAST = (
    func.substr(_DATES, 1, REAL_BYTES).label("first"),
    func.substr(_DATES, func.length(_DATES) - REAL_BYTES + 1, REAL_BYTES).label("last"),
)
_CALENDAR_OF_IT = (CALENDAR.c.optimization_id == RETURNS.c.optimization_id) & (
    CALENDAR.c.digest == RETURNS.c.hold_out_calendar
)
_HOLD_OUT = (
    select(TRIAL.c.family, RETURNS.c.hold_out, OPTIMIZATION.c.metadata, PROVENANCE.c.data, *_FIRST_AND_LAST)
    .select_from(TRIAL)
    .join(OPTIMIZATION, OPTIMIZATION.c.optimization_id == TRIAL.c.optimization_id)
    .join(RETURNS, (RETURNS.c.optimization_id == TRIAL.c.optimization_id) & (RETURNS.c.number == TRIAL.c.number))
    .outerjoin(
        PROVENANCE,
        (PROVENANCE.c.optimization_id == TRIAL.c.optimization_id) & (PROVENANCE.c.attempt == TRIAL.c.attempt),
    )
    .outerjoin(CALENDAR, _CALENDAR_OF_IT)
    .where(TRIAL.c.optimization_id == bindparam("target"), TRIAL.c.number == bindparam("number"))
)
_LOOKS = (
    select(LOOK.c.digest, LOOK.c.data, LOOK.c.at, *_FIRST_AND_LAST)
    .select_from(LOOK)
    .outerjoin(RETURNS, (RETURNS.c.optimization_id == LOOK.c.seen_by) & (RETURNS.c.number == LOOK.c.trial))
    .outerjoin(CALENDAR, _CALENDAR_OF_IT)
    .where(LOOK.c.objective == bindparam("objective"))
)
