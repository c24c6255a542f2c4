"""Trends: slopes over windows, with confidence intervals. Pure.

The slope is the Theil-Sen estimator, the median of the slopes between all pairs of windows, with Sen's interval at 95%
(P. K. Sen, "Estimates of the regression coefficient based on Kendall's tau", JASA 63, 1968; `scipy.stats.theilslopes`).
Up to 29% of the windows may be outliers without turning it; one can turn a least-squares line. Fewer than five windows
give no interval at 95%, since four values rise or fall throughout by chance once in twelve.

The current window is shown, but it is not over and counts for no slope.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Any

from o9.model.errors import OptimizationValidationError

CONFIDENCE = 0.95
FEWEST_WINDOWS = 5
HOURLY_UP_TO = timedelta(days=2)
DAILY_UP_TO = timedelta(days=400)
EARLIEST = datetime(1970, 1, 1, tzinfo=UTC)
METHOD = "Theil-Sen slope with Sen's interval"
FIGURES = ("count", "success_rate", "mean_duration_seconds", "mean_improvement")
_NAMES = {"hour": "%Y-%m-%dT%H", "day": "%Y-%m-%d", "month": "%Y-%m"}
_MONTH_DAYS = 365.2425 / 12


@dataclass(frozen=True)
class Windows:
    """The windows of a range, oldest first. The last one is the current one."""

    span: str
    starts: tuple[str, ...]


def windows_of(time_range: timedelta, now: datetime, first_of: Callable[[str], str | None]) -> Windows:
    """Return the whole windows that `time_range` overlaps: hours, days or months, depending on its length.

    first_of: returns the earliest recorded window of a span, before which nothing is known; None if there is none.

    Raises OptimizationValidationError for a range of zero or less.
    """
    if not isinstance(time_range, timedelta):
        raise OptimizationValidationError("time_range", f"{time_range!r} is not a timedelta such as timedelta(days=7)")
    if time_range <= timedelta(0):
        raise OptimizationValidationError("time_range", f"{time_range} is not above zero; give e.g. timedelta(days=7)")
    span = "hour" if time_range <= HOURLY_UP_TO else "day" if time_range <= DAILY_UP_TO else "month"
    try:
        begin = max(EARLIEST, now - time_range)
    except OverflowError:
        begin = EARLIEST
    if (first := first_of(span)) is None:
        return Windows(span, ())
    starts, at = [], _floor(max(begin, _parse(first)), span)
    while at <= now:
        starts.append(at.strftime(_NAMES[span]))
        at = _next(at, span)
    return Windows(span, tuple(starts))


def trends(windows: Windows, found: Mapping[str, Mapping[str, Any]]) -> dict[str, Any]:
    """Return the windows with their figures (`summary.by_window`), and the slope of each of `FIGURES`.

    A window in which nothing ended has a count of 0, and no rate or means. Slopes are per hour or per day.
    """
    last = windows.starts[-1] if windows.starts else None
    shown: list[dict[str, Any]] = [
        {"starts": starts, **(found.get(starts) or _NOTHING), "is_over": starts != last} for starts in windows.starts
    ]
    over = [row for row in shown if row["is_over"]] if found else []
    per = "hour" if windows.span == "hour" else "day"
    return {
        "window": windows.span,
        "windows": shown,
        "trends": {
            name: _slope_of([(_place(row["starts"], per), row[name]) for row in over if row[name] is not None], per)
            for name in FIGURES
        },
        "method": METHOD,
        "confidence": CONFIDENCE,
    }


def slope(points: Sequence[tuple[float, float]]) -> tuple[float, float, float] | None:
    """Return the Theil-Sen slope and the bounds of its interval; None for fewer than FEWEST_WINDOWS points."""
    if len(points) < FEWEST_WINDOWS:
        return None
    from numpy import errstate
    from scipy.stats import theilslopes  # here, because the import takes a second

    where, values = zip(*points, strict=True)
    with errstate(over="ignore", invalid="ignore"):  # the caller checks that the result is finite
        found = theilslopes(values, where, alpha=CONFIDENCE)
    return float(found.slope), float(found.low_slope), float(found.high_slope)


_NOTHING: dict[str, Any] = {
    "count": 0, "by_status": {}, "success_rate": None, "mean_duration_seconds": None, "mean_improvement": None,
}  # fmt: skip


def _slope_of(points: Sequence[tuple[float, float]], per: str) -> dict[str, Any]:
    result: dict[str, Any] = {"per": per, "windows": len(points)} | dict.fromkeys(("slope", "low", "high", "direction"))
    found = slope(points)
    if found is None:
        return result | {
            "reason": f"{len(points)} complete windows have a value; a slope with a 95% confidence interval "
            f"needs {FEWEST_WINDOWS}"
        }
    if not all(map(math.isfinite, found)):
        return result | {"reason": "the values differ by more than a float can represent"}
    best, low, high = found
    direction = "rising" if low > 0 else "falling" if high < 0 else "no clear direction"
    return result | {"slope": best, "low": low, "high": high, "direction": direction}


def _place(starts: str, per: str) -> float:
    moment = _parse(starts)
    if len(starts) == len("YYYY-MM"):
        return (moment.year * 12 + moment.month) * _MONTH_DAYS
    return (moment - EARLIEST) / (timedelta(hours=1) if per == "hour" else timedelta(days=1))


def _parse(starts: str) -> datetime:
    return datetime.fromisoformat(f"{starts}-01" if len(starts) == len("YYYY-MM") else starts).replace(tzinfo=UTC)


def _floor(at: datetime, span: str) -> datetime:
    at = at.replace(minute=0, second=0, microsecond=0)
    if span == "hour":
        return at
    at = at.replace(hour=0)
    return at if span == "day" else at.replace(day=1)


def _next(at: datetime, span: str) -> datetime:
    if span == "month":
        return (at + timedelta(days=31)).replace(day=1)
    return at + (timedelta(hours=1) if span == "hour" else timedelta(days=1))
