"""Sharpe ratio, skewness and kurtosis of a series of returns; and many series as one matrix.

Contract. Pure. Returns are simple returns per period, in excess of any benchmark. All figures are per period unless
their name says `annual`. The result for poor data is `Unknown` with the reason. A return larger than `MOST_RETURN` in
absolute value is poor data, and so are returns that are all below `LEAST_RETURN`.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray

from o9.health.unknown import Unknown

Floats = NDArray[np.float64]

LEAST_OBSERVATIONS = 3  # with fewer, skewness and kurtosis follow from the formula, not from the data
ROUNDING = 1e-12  # a deviation this small relative to the numbers is the rounding error of a constant
# Returns may be in money; beyond these the data are wrong. Fourth powers of others neither overflow nor underflow.
LEAST_RETURN, MOST_RETURN = 1e-30, 1e15


@dataclass(frozen=True)
class Moments:
    """Moments of one series. `sharpe` is per period, `kurtosis` is Pearson's (3 for a normal), `worst` the minimum."""

    observations: int
    sharpe: float
    skewness: float
    kurtosis: float
    worst: float = 0.0

    def annual_sharpe(self, periods_per_year: float) -> float:
        """√periods · sharpe, exact for returns without serial correlation (Lo 2002, eq. 9)."""
        return math.sqrt(periods_per_year) * self.sharpe


@dataclass(frozen=True)
class Aligned:
    """Series of one length as the columns of `matrix`, (periods, series), float64.

    `positions`: the position of each column among the given series. `left_out`: reasons by position.
    """

    matrix: Floats
    positions: tuple[int, ...]
    left_out: dict[int, str]


def moments(returns: ArrayLike) -> Moments | Unknown:
    """Compute the moments of one series, shape (periods,).

    Sharpe ratio: mean over standard deviation with n - 1. Skewness m₃/m₂^1.5 and kurtosis m₄/m₂² from the central
    moments with n (the variant of Bailey and López de Prado 2012; no small-sample correction).
    """
    series = np.asarray(returns, dtype=np.float64)
    wrong = fault(series)
    if wrong:
        return Unknown(wrong)
    deviations = series - series.mean()
    second = float(np.mean(deviations**2))
    return Moments(
        observations=len(series),
        sharpe=float(series.mean()) / math.sqrt(second * len(series) / (len(series) - 1)),
        skewness=float(np.mean((deviations / math.sqrt(second)) ** 3)),
        kurtosis=float(np.mean((deviations / math.sqrt(second)) ** 4)),
        worst=float(series.min()),
    )


def aligned(series: Sequence[ArrayLike | None], judged: int | None = None) -> Aligned | Unknown:
    """Combine series into one matrix, without those that are None or `unusable`.

    Series of different lengths are not cut, because it is unknown which periods they share: those of another length
    than the series at `judged` are left out; without a usable one there, the result is Unknown. A series that never
    varies stays in: a strategy that never traded was a trial, too. Memory: 8 bytes · periods · series, 200 MB for
    10,000 series of 2,500 periods.
    """
    usable: dict[int, Floats] = {}
    left_out: dict[int, str] = {}
    for position, one in enumerate(series):
        if one is None:
            left_out[position] = "it has no returns"
            continue
        values = np.asarray(one, dtype=np.float64)
        wrong = unusable(values)
        if wrong:
            left_out[position] = wrong
        else:
            usable[position] = values
    if not usable:
        return Unknown(f"none of {len(series)} trials has usable returns{_first(left_out)}")
    if judged in usable:
        periods = len(usable[judged])
        for position in [each for each, values in usable.items() if len(values) != periods]:
            left_out[position] = f"it has {len(usable.pop(position)):,} returns, the judged one has {periods:,}"
    lengths = Counter(len(values) for values in usable.values())
    if len(lengths) > 1:
        counts = ", ".join(f"{count} of length {length}" for length, count in lengths.most_common(3))
        return Unknown(
            f"the returns have {len(lengths)} different lengths ({counts}): they cannot be compared by period"
        )
    return Aligned(np.column_stack(list(usable.values())), tuple(usable), left_out)


def matrix_of(returns: ArrayLike) -> Floats | Unknown:
    """Return `returns` as a finite matrix, (periods, trials)."""
    try:
        matrix = np.asarray(returns, dtype=np.float64)
    except (TypeError, ValueError):
        return Unknown("the returns are not a matrix: series of different lengths cannot be compared by period")
    if matrix.ndim != 2:
        return Unknown(f"expected returns of shape (periods, trials), got {matrix.ndim} dimension(s)")
    if not np.isfinite(matrix).all():
        period, trial = (int(where[0]) for where in np.nonzero(~np.isfinite(matrix)))
        return Unknown(f"the returns of trial {trial} are not finite in period {period}")
    return matrix


def fault(series: Floats) -> str | None:
    """Return why `series` has no Sharpe ratio; None if it has one."""
    wrong = unusable(series)
    if wrong:
        return wrong
    if len(series) < LEAST_OBSERVATIONS:
        return f"{len(series)} returns are too few: at least {LEAST_OBSERVATIONS} are needed"
    if not varies(series):
        return "the returns never vary, so there is no risk to divide by"
    return None


def varies(returns: Floats) -> NDArray[np.bool_]:
    """Whether each column, or the only series, has a deviation above the rounding error of a constant."""
    above: NDArray[np.bool_] = returns.std(axis=0) > ROUNDING * np.abs(returns).max(axis=0)
    return above


def unusable(series: Floats) -> str | None:
    """Return why `series` cannot be returns; None if it can."""
    if series.ndim != 1:
        return f"the returns have {series.ndim} dimensions, not one"
    if not len(series):
        return "it has no returns"
    finite = np.isfinite(series)
    if not finite.all():
        bad, first = int((~finite).sum()), int(finite.argmin())
        return f"{bad} of {len(series)} returns are not finite, the first in period {first}"
    largest = max(float(series.max()), -float(series.min()))
    if 0 < largest < LEAST_RETURN:
        return f"no return is larger than {largest:.2g}"
    if largest > MOST_RETURN:
        beyond = np.abs(series) > MOST_RETURN
        return (
            f"{int(beyond.sum())} of {len(series)} returns are beyond ±{MOST_RETURN:,.0f}, the first in period "
            f"{int(beyond.argmax())}"
        )
    return None


def _first(left_out: dict[int, str]) -> str:
    return f"; trial {next(iter(left_out))}: {next(iter(left_out.values()))}" if left_out else ""
