"""`metadata.hold_out`: the periods that no sampler may see. Pure; used in child processes, too.

Contract. `parse_hold_out` validates the value. `HoldOut.before` returns the number of periods before the cut; it raises
CutError, with the remedy, if that is unknown or leaves too few periods on one side.
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
    """The returns of the best trial and its baseline on held-out periods, with dates; or an `error`."""

    returns: tuple[float, ...] | None = None
    baseline: tuple[float, ...] | None = None
    dates: tuple[float, ...] | None = None
    error: str = ""


class CutError(Exception):
    """The periods cannot be cut as `metadata.hold_out` says; the message has the reason and the remedy."""


@dataclass(frozen=True)
class HoldOut:
    """The last part of the periods. value: a share of them, the first day (ISO), or a number of years, by `kind`."""

    kind: Literal["share", "date", "years"]
    value: Any

    def before(self, periods: int, periods_per_year: float | None, dates: Sequence[float] | None) -> int:
        """The number of periods before the cut. dates: of each period, ascending, in seconds since 1970."""
        if self.kind == "date":
            if dates is None:
                raise CutError(
                    f"{FIELD} is a date, and the objective gives no dates: give Evaluation(…, dates=…), one for each "
                    "return, or returns as a pandas Series with dates as its index; or hold out a share"
                )
            before = bisect_left(dates, second_of(self.value))
        elif self.kind == "years":
            if periods_per_year is None:
                raise CutError(
                    f"{FIELD} gives years, and the objective does not say how many periods a year has: give "
                    "Evaluation(…, periods_per_year=252), or hold out a share"
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
        """The form that a checkpoint keeps."""
        return {self.kind: self.value}


def parse_hold_out(raw: Any) -> HoldOut | None:
    """Read the value of `metadata.hold_out`. Raises ValueError with the allowed forms."""
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
    remedy = "; omit it to hold out nothing" if raw in (0, False, "") else ""
    raise ValueError(f"{_EXPECTED}; got {raw!r:.80}{remedy}")


def _is_day(text: str) -> bool:
    try:
        return len(text) == 10 and bool(date.fromisoformat(text))
    except ValueError:
        return False
