"""What a series of returns says of itself: Sharpe ratio, skewness, kurtosis; and many series as one matrix.

Contract. Pure. Returns are simple returns a period, in excess of whatever they are measured against. Everything here is
per period unless its name says `annual`. Poor data is answered with `Unknown` and its reason; a return of more than
`MOST_RETURN` in size is poor data, and so are returns that are all below `LEAST_RETURN`.
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

LEAST_OBSERVATIONS = 3  # below it skewness and kurtosis are decided by the formula, not by the data
# A deviation this small beside the numbers themselves is what rounding leaves of a constant.
ROUNDING = 1e-12
# Returns may be in money; beyond these the data are at fault. Fourth powers of the rest neither overflow nor vanish.
LEAST_RETURN, MOST_RETURN = 1e-30, 1e15


@dataclass(frozen=True)
class Moments:
    """Of one series of returns. `sharpe` per period; `kurtosis` is Pearson's, 3 for a normal; `worst` is the lowest."""

    observations: int
    sharpe: float
    skewness: float
    kurtosis: float
    worst: float = 0.0

    def annual_sharpe(self, periods_per_year: float) -> float:
        """√periods · sharpe: right for returns without serial correlation (Lo 2002, eq. 9)."""
        return math.sqrt(periods_per_year) * self.sharpe


@dataclass(frozen=True)
class Aligned:
    """Series of one length as the columns of `matrix`, (periods, series), float64.

    `positions`: which of the given series each column is. `left_out`: position to reason, of those that are unusable.
    """

    matrix: Floats
    positions: tuple[int, ...]
    left_out: dict[int, str]


def moments(returns: ArrayLike) -> Moments | Unknown:
    """Of one series, shape (periods,).

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
    """Many series as one matrix. None, NaN, infinities and what is beyond MOST_RETURN leave their series out, with why.

    Series of different lengths are not cut to fit: nothing says which periods they share. `judged` is the position of a
    usable one: those of another length are left out. Without it, the answer is Unknown.
    A series that never varies stays in: a strategy that never traded was tried too. Memory: 8 bytes · periods · series,
    200 MB for 10,000 series of 2,500 periods.
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
    """A matrix (periods, trials) that can be judged, else why it cannot."""
    try:
        matrix = np.asarray(returns, dtype=np.float64)
    except (TypeError, ValueError):
        return Unknown("the returns are no matrix of numbers: series of different lengths cannot be compared by period")
    if matrix.ndim != 2:
        return Unknown(f"expected returns of shape (periods, trials), got {matrix.ndim} dimension(s)")
    if not np.isfinite(matrix).all():
        period, trial = (int(where[0]) for where in np.nonzero(~np.isfinite(matrix)))
        return Unknown(f"the returns of trial {trial} are not finite in period {period}")
    return matrix


def fault(series: Floats) -> str | None:
    """Why `series` has no Sharpe ratio; None where it has one."""
    wrong = unusable(series)
    if wrong:
        return wrong
    if len(series) < LEAST_OBSERVATIONS:
        return f"{len(series)} returns are too few: at least {LEAST_OBSERVATIONS} are needed"
    if never_varies(series):
        return "the returns never vary, so that there is no risk to divide by"
    return None


def never_varies(series: Floats) -> bool:
    """Is the deviation of `series`, shape (periods,), no more than what rounding leaves of a constant?"""
    return bool(series.std() <= ROUNDING * np.abs(series).max())


def unusable(series: Floats) -> str | None:
    """Why `series` cannot be returns; None where it can."""
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
            f"{int(beyond.sum())} of {len(series)} returns are beyond ±{MOST_RETURN:,.0f}, which no return is, "
            f"the first in period {int(beyond.argmax())}"
        )
    return None


def _first(left_out: dict[int, str]) -> str:
    return f"; trial {next(iter(left_out))}: {next(iter(left_out.values()))}" if left_out else ""
