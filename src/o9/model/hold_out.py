"""`metadata.hold_out`: which of an objective's periods no sampler may see. Pure; runs in child processes too.

Contract. `parse_hold_out` checks what somebody typed. `HoldOut.before` says how many periods come before the cut; it
raises CutError, with the remedy, where that is not known or leaves too few on one side.
"""

from __future__ import annotations

import math
import re
from bisect import bisect_left
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import date
from typing import Any, Literal, cast

from o9.model.dates import second_of

FIELD = "metadata.hold_out"
LEAST_PERIODS = 10  # on each side of the cut
_YEARS = re.compile(r"(\d+(?:\.\d+)?)\s*y(?:ears?)?")
_EXPECTED = (
    "expected a share between 0 and 1 (0.3), the first day of the hold-out ('2019-01-01'), or years ('3y'); "
    "as a mapping: {share: 0.3}, {date: '2019-01-01'} or {years: 3}"
)


@dataclass(frozen=True)
class HeldOut:
    """What the best and its baseline earned on held-out periods, with dates; or `error`, why that is unknown."""

    returns: tuple[float, ...] | None = None
    baseline: tuple[float, ...] | None = None
    dates: tuple[float, ...] | None = None
    error: str = ""


class CutError(Exception):
    """These periods cannot be cut as `metadata.hold_out` says; says why, and what to do."""


@dataclass(frozen=True)
class HoldOut:
    """The last part of the periods. value: a share of them; by date, the first day (ISO); or how many years."""

    kind: Literal["share", "date", "years"]
    value: Any

    def before(self, periods: int, periods_per_year: float | None, dates: Sequence[float] | None) -> int:
        """How many of `periods` come before the cut. `dates`: of each period, seconds since 1970 in order."""
        if self.kind == "date":
            if dates is None:
                raise CutError(
                    f"{FIELD} is a date, and the objective gives no dates: give Evaluation(…, dates=…), one for each "
                    "return, returns as a pandas Series with its index, or a share"
                )
            before = bisect_left(dates, second_of(self.value))
        elif self.kind == "years":
            if periods_per_year is None:
                raise CutError(
                    f"{FIELD} gives years, and the objective does not say how many periods a year has: give "
                    "Evaluation(…, periods_per_year=252), or a share"
                )
            before = periods - round(self.value * periods_per_year)
        else:
            before = periods - int(periods * self.value)
        if not LEAST_PERIODS <= before <= periods - LEAST_PERIODS:
            before = min(max(0, before), periods)
            raise CutError(
                f"{FIELD} leaves {before:,} of {periods:,} periods to search on and {periods - before:,} held out; "
                f"each side needs at least {LEAST_PERIODS}"
            )
        return before

    def to_json(self) -> dict[str, float | str]:
        """What is kept of it in a checkpoint."""
        return {self.kind: self.value}


def parse_hold_out(raw: Any) -> HoldOut | None:
    """The hold-out that was typed; None for none. Raises ValueError with what is allowed."""
    if raw is None or isinstance(raw, HoldOut):
        return raw
    kind, value = "share", raw
    if isinstance(raw, Mapping) and len(raw) == 1:
        [(kind, value)] = raw.items()
    elif isinstance(raw, str) and (years := _YEARS.fullmatch(raw.strip())):
        kind, value = "years", float(years[1])
    elif isinstance(raw, (str, date)):
        kind = "date"
    if isinstance(value, date):
        value = value.isoformat()[:10]
    most = {"share": 1.0, "years": math.inf}.get(kind, 0.0)
    if isinstance(value, (int, float)) and not isinstance(value, bool) and 0 < value < most:
        return HoldOut(cast(Literal["share", "years"], kind), float(value))
    if kind == "date" and isinstance(value, str) and _is_day(value):
        return HoldOut("date", value)
    remedy = "; to hold out nothing, leave it out" if raw in (0, False, "") else ""
    raise ValueError(f"{_EXPECTED}; got {raw!r:.80}{remedy}")


def _is_day(text: str) -> bool:
    try:
        return len(text) == 10 and bool(date.fromisoformat(text))
    except ValueError:
        return False
