"""What the best of an optimization earned on the periods that no trial was evaluated on.

Contract. Kept beside the trial's returns, with the baseline's; the same once more changes nothing.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from sqlalchemy import update

from o9.store.calendars import keep_calendar
from o9.store.codec import pack_returns
from o9.store.families import BASELINE, RETURNS
from o9.store.ledger import held
from o9.store.unit import UnitOfWork


@dataclass(frozen=True)
class KeepHoldOut:
    """By the attempt that holds the optimization: `returns` of trial `number`, its baseline's if it has one, and the
    dates of both."""

    optimization_id: str
    fence: int
    number: int
    returns: Sequence[float]
    baseline: Sequence[float] | None = None
    dates: Sequence[float] | None = None

    @property
    def targets(self) -> tuple[str, ...]:
        return (self.optimization_id,)

    def apply(self, unit: UnitOfWork) -> None:
        held(unit, self.optimization_id, self.fence)
        unit.flush()
        mine = RETURNS.c.optimization_id == self.optimization_id, RETURNS.c.number == self.number
        kept = {
            "hold_out": pack_returns(self.returns),
            "hold_out_calendar": keep_calendar(unit, self.optimization_id, self.dates),
        }
        unit.connection.execute(update(RETURNS).where(*mine).values(kept))
        if self.baseline is not None:
            base = BASELINE.c.optimization_id == self.optimization_id
            unit.connection.execute(update(BASELINE).where(base).values(hold_out=pack_returns(self.baseline)))
        unit.change(self.optimization_id, "amended")
