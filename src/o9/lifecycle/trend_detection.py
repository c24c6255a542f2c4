"""Trends of a series of figures: does memory grow, does work get slower? Pure; the figures are in the order of time.

The trend where there is one beyond chance; None where there is none, or where there are too few figures to say.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from statistics import median

from o9.lifecycle import robust_statistics

GROWING_READINGS = 10
GROWING_TAU = 0.7
GROWING_SHARE = 0.2
GROWING_LATER = 0.25


@dataclass(frozen=True)
class Growth:
    """`slope`: Theil and Sen's, a reading; `tau`: Kendall's with time."""

    first: float
    last: float
    slope: float
    tau: float
    readings: int


def growth(readings: Sequence[float]) -> Growth | None:
    """Rises from reading to reading, by a fifth or more, and has not levelled off.

    Kendall's tau with time at least 0.7; the growth is Theil and Sen's slope over the readings; a quarter of it or more
    in the newer half.
    """
    if len(readings) < GROWING_READINGS:
        return None
    tau, slope, half = robust_statistics.concordance(readings), robust_statistics.slope(readings), len(readings) // 2
    grown, later = slope * (len(readings) - 1), robust_statistics.slope(readings[-half:]) * (half - 1)
    if tau < GROWING_TAU or grown < GROWING_SHARE * readings[0] or later < GROWING_LATER * grown:
        return None
    return Growth(readings[0], readings[-1], slope, tau, len(readings))


SLOWER_STEPS = 10
SLOWER_FACTOR = 2.0
SLOWER_Z = 3.0
SLOWER_SECONDS = 1.0  # below it, whatever else the machine does looks like a slowdown


@dataclass(frozen=True)
class Slowdown:
    """Medians, of the last SLOWER_STEPS and of all `count` before them; `z` of the Mann-Whitney test."""

    before: float
    now: float
    z: float
    count: int


def slowdown(times: Sequence[float]) -> Slowdown | None:
    """Twice as long or more in the last SLOWER_STEPS as in those before, beyond chance, and SLOWER_SECONDS or more."""
    before, lately = times[:-SLOWER_STEPS], times[-SLOWER_STEPS:]
    if len(before) < SLOWER_STEPS:
        return None
    usual, now = median(before), median(lately)
    _, z = robust_statistics.larger_later(before, lately)
    if now < max(SLOWER_SECONDS, SLOWER_FACTOR * usual) or usual <= 0 or z < SLOWER_Z:
        return None
    return Slowdown(usual, now, z, len(before))
