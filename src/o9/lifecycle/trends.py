"""Robust statistics of short series, and trends beyond chance. Pure; a series is in the order of time.

Tests use ranks only: scaling, shifting, or one outlier does not change their result. They return None where there is no
trend, or too few values to show one.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from statistics import median, quantiles

import numpy as np

# The median absolute deviation of normal values times this is their standard deviation.
NORMAL_MAD = 1.4826
OUTLIER_DEVIATIONS = 5.0


def spread(values: Sequence[float]) -> float:
    """The interquartile range; 0.0 for fewer than two values."""
    if len(values) < 2:
        return 0.0
    low, _, high = quantiles(values, n=4, method="inclusive")
    return high - low


def deviation(values: Sequence[float]) -> float:
    """The standard deviation, estimated by the median absolute deviation: up to half of the values may be outliers."""
    centre = median(values)
    return NORMAL_MAD * median(abs(value - centre) for value in values)


def without_outliers(values: Sequence[float]) -> list[float]:
    """The values winsorized: limited to OUTLIER_DEVIATIONS robust deviations around the median."""
    centre, reach = median(values), OUTLIER_DEVIATIONS * deviation(values)
    return [min(max(value, centre - reach), centre + reach) for value in values]


def ranks(values: Sequence[float]) -> np.ndarray[tuple[int], np.dtype[np.float64]]:
    """1 for the smallest; equal values share their mean rank."""
    _, inverse, counts = np.unique(np.asarray(values, float), return_inverse=True, return_counts=True)
    last = np.cumsum(counts)
    shared: np.ndarray[tuple[int], np.dtype[np.float64]] = (last - (counts - 1) / 2.0)[inverse]
    return shared


def larger_later(earlier: Sequence[float], later: Sequence[float]) -> tuple[float, float]:
    """(share, z) of the Mann-Whitney test: the share of pairs in which the later value is the larger one (equals count
    half), and how many standard deviations that lies above one half, corrected for ties. (0.5, 0.0) for no variance.

    Mann and Whitney, "On a test of whether one of two random variables is stochastically larger", 1947.
    """
    first, second = len(earlier), len(later)
    if not first or not second:
        return 0.5, 0.0
    ranked = ranks([*earlier, *later])
    pairs = float(ranked[first:].sum()) - second * (second + 1) / 2
    _, ties = np.unique(ranked, return_counts=True)
    total = first + second
    tied = float((ties.astype(float) ** 3 - ties).sum()) / (total * (total - 1))
    variance = first * second / 12.0 * (total + 1 - tied)
    z = 0.0 if variance <= 0 else (pairs - first * second / 2) / math.sqrt(variance)
    return pairs / (first * second), z


def slope(values: Sequence[float]) -> float:
    """Theil and Sen's slope per position: the median of the slopes between all pairs."""
    array = np.asarray(values, float)
    first, second = np.triu_indices(len(array), 1)
    return float(np.median((array[second] - array[first]) / (second - first)))


def concordance(values: Sequence[float]) -> float:
    """Kendall's tau with time: 1.0 where each value is above all earlier ones, -1.0 where it is below them."""
    array = np.asarray(values, float)
    first, second = np.triu_indices(len(array), 1)
    return float(np.sign(array[second] - array[first]).mean()) if len(first) else 0.0


GROWING_READINGS = 10
GROWING_TAU = 0.7
GROWING_SHARE = 0.2
GROWING_LATER = 0.25


@dataclass(frozen=True)
class Growth:
    """`slope`: Theil and Sen's, per reading; `tau`: Kendall's with time."""

    first: float
    last: float
    slope: float
    tau: float
    readings: int


def growth(readings: Sequence[float]) -> Growth | None:
    """A rise from reading to reading by a fifth or more that has not levelled off.

    Kendall's tau with time is at least 0.7. The growth is Theil and Sen's slope over all readings; at least a quarter
    of it lies in the newer half.
    """
    if len(readings) < GROWING_READINGS:
        return None
    tau, rise, half = concordance(readings), slope(readings), len(readings) // 2
    grown, later = rise * (len(readings) - 1), slope(readings[-half:]) * (half - 1)
    if tau < GROWING_TAU or grown < GROWING_SHARE * readings[0] or later < GROWING_LATER * grown:
        return None
    return Growth(readings[0], readings[-1], rise, tau, len(readings))


SLOWER_STEPS = 10
SLOWER_FACTOR = 2.0
SLOWER_Z = 3.0
SLOWER_SECONDS = 1.0  # below, other load on the machine looks like a slowdown


@dataclass(frozen=True)
class Slowdown:
    """The medians of the last SLOWER_STEPS and of the `count` before them; `z` of the Mann-Whitney test."""

    before: float
    now: float
    z: float
    count: int


def slowdown(times: Sequence[float]) -> Slowdown | None:
    """The last SLOWER_STEPS took twice as long as those before or more, beyond chance, and at least SLOWER_SECONDS."""
    before, lately = times[:-SLOWER_STEPS], times[-SLOWER_STEPS:]
    if len(before) < SLOWER_STEPS:
        return None
    usual, now = median(before), median(lately)
    _, z = larger_later(before, lately)
    if now < max(SLOWER_SECONDS, SLOWER_FACTOR * usual) or usual <= 0 or z < SLOWER_Z:
        return None
    return Slowdown(usual, now, z, len(before))
