"""Held-out data: what the best of an optimization earned on them, and how often anybody in a family has looked.

Contract. A look is a series of returns of a family on held-out data that nobody in the family has seen before. It is
counted before it is shown, over all optimizations, and never forgotten, whatever is pruned. The same series again (a
retry, a report made once more, a search that found the same) is no new look, for it tells nothing new. Without a family
an optimization counts alone.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from sqlalchemy import Connection, Select, func, insert, select, update

from o9.store.core.base import table_of
from o9.store.core.column_types import pack_returns
from o9.store.core.unit import Row, UnitOfWork
from o9.store.optimizations.calendars import keep_calendar
from o9.store.optimizations.commit_step import held
from o9.store.schema import statistics as aggregate_tables
from o9.store.statistics.families import BASELINE, RETURNS, TRIAL

LOOK = table_of(aggregate_tables.HoldOutLook)


@dataclass(frozen=True)
class KeepHoldOut:
    """By the attempt that holds the optimization: `returns` of trial `number`, its baseline's if it has one, and the
    dates of both. It is a look."""

    optimization_id: str
    fence: int
    number: int
    returns: Sequence[float]
    baseline: Sequence[float] | None = None
    dates: Sequence[float] | None = None

    @property
    def targets(self) -> tuple[str, ...]:
        return (self.optimization_id,)

    def apply(self, unit: UnitOfWork) -> int:
        """The number of the look in its family, from 1 on."""
        held(unit, self.optimization_id, self.fence)
        kept = {
            "hold_out": pack_returns(self.returns),
            "hold_out_calendar": keep_calendar(unit, self.optimization_id, self.dates),
        }
        unit.flush()
        mine = RETURNS.c.optimization_id == self.optimization_id, RETURNS.c.number == self.number
        unit.connection.execute(update(RETURNS).where(*mine).values(kept))
        if self.baseline is not None:
            base = BASELINE.c.optimization_id == self.optimization_id
            unit.connection.execute(update(BASELINE).where(base).values(hold_out=pack_returns(self.baseline)))
        unit.change(self.optimization_id, "amended")
        return _count_look(unit, self.optimization_id, self.number)


@dataclass(frozen=True)
class CountLook:
    """Somebody judges trial `number` by its hold-out, which came with it."""

    optimization_id: str
    number: int

    targets: tuple[str, ...] = ()

    def apply(self, unit: UnitOfWork) -> int:
        """The number of the look in its family, from 1 on; 0 where the trial has no hold-out."""
        unit.flush()
        return _count_look(unit, self.optimization_id, self.number)


def looks(connection: Connection, family: str, optimization_id: str) -> int:
    """How many series on held-out data anybody has seen in `family`; without a name, in `optimization_id` alone."""
    return _counted(connection, _key(family, optimization_id))


def look_of(connection: Connection, optimization_id: str, number: int) -> int:
    """The number of the look at the hold-out of this trial, in its family; 0 where nobody has looked."""
    found = _seen(connection, optimization_id, number)
    return 0 if found is None else int(connection.execute(_number_of(*found)).scalar() or 0)


def _count_look(unit: UnitOfWork, optimization_id: str, number: int) -> int:
    found = _seen(unit.connection, optimization_id, number)
    if found is None:
        return 0
    if known := unit.connection.execute(_number_of(*found)).scalar():
        return int(known)
    family, digest = found
    row: Row = {"family": family, "digest": digest, "look": _counted(unit.connection, family) + 1}
    unit.connection.execute(insert(LOOK).values(row | {"seen_by": optimization_id, "trial": number, "at": unit.now}))
    return int(row["look"])


def _seen(connection: Connection, optimization_id: str, number: int) -> tuple[str, str] | None:
    """Whose look at it counts, and the digest of what is seen."""
    key = (TRIAL.c.optimization_id == optimization_id, TRIAL.c.number == number)
    same = (RETURNS.c.optimization_id == TRIAL.c.optimization_id) & (RETURNS.c.number == TRIAL.c.number)
    row = connection.execute(select(TRIAL.c.family, RETURNS.c.hold_out).join(RETURNS, same).where(*key)).first()
    if row is None or row.hold_out is None:
        return None
    return _key(row.family, optimization_id), hashlib.blake2b(row.hold_out, digest_size=16).hexdigest()


def _counted(connection: Connection, family: str) -> int:
    return int(connection.execute(select(func.count()).select_from(LOOK).where(LOOK.c.family == family)).scalar_one())


def _number_of(family: str, digest: str) -> Select[Any]:
    return select(LOOK.c.look).where(LOOK.c.family == family, LOOK.c.digest == digest)


def _key(family: str, optimization_id: str) -> str:
    return family or f"optimization {optimization_id}"
