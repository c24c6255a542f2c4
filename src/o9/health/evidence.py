"""From the returns of a family to the evidence that `o9.health.verdict.judge` judges.

Contract. Pure and deterministic. Whatever cannot be computed is an `Unknown` inside the evidence, with its reason; only
a count or a position that contradicts the series raises ValueError.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import ArrayLike

from o9.health.family import (
    REPLICATIONS,
    FamilyTest,
    effective_number_of_trials,
    family_p_value,
    sharpe_ratios,
)
from o9.health.moments import Aligned, Floats, Moments, aligned, moments
from o9.health.overfitting import (
    deflated_sharpe_ratio,
    expected_maximum_sharpe,
    probability_of_backtest_overfitting,
)
from o9.health.unknown import Unknown
from o9.health.verdict import Evidence


def examine(
    returns: Sequence[ArrayLike | None],
    *,
    counted: int | None = None,
    best: int | None = None,
    benchmark: ArrayLike | None = None,
    out_of_sample: ArrayLike | None = None,
    out_of_sample_benchmark: ArrayLike | None = None,
    periods_per_year: float | None = None,
    blocks: int = 16,
    replications: int = REPLICATIONS,
    seed: int = 0,
) -> Evidence:
    """What the returns of a family say.

    returns: one series for each trial, simple returns a period in sample; None where it has none (it failed, it was
        cancelled, its objective gives none, they were pruned).
    counted: all trials ever tried, at least as many as `returns`; None: exactly those.
    best: the position in `returns` of the trial that is to be judged; None: that with the highest Sharpe ratio.
    benchmark: returns of the baseline over the same periods; everything is then measured over it.
    out_of_sample: the judged trial's returns on data that had no part in the choice, with its own benchmark; unknown
        where one of the two has a benchmark and the other has none, for they say different things then.

    Memory: the returns that are given, one copy of them, and what the tests need. 10,000 trials of 2,520 periods
    (202 MB): 1.1 GiB at the highest, 30 s of processor time; 2,000: 460 MiB, 5 s.
    """
    tried = len(returns) if counted is None else counted
    if tried < len(returns):
        raise ValueError(f"{len(returns)} series were given, but only {tried} trials are counted")
    fresh = _fresh(out_of_sample, out_of_sample_benchmark, over=benchmark is not None)
    usable = _over(aligned(returns), benchmark)
    if isinstance(usable, Unknown):
        return _nothing(tried, usable, fresh)
    matrix = usable.matrix
    sharpes = sharpe_ratios(matrix)
    column = _column(usable, sharpes, best)
    if isinstance(column, Unknown):
        return _nothing(tried, column, fresh)
    chosen = moments(matrix[:, column])
    kept = matrix.shape[1]
    effective = effective_number_of_trials(matrix)
    if not isinstance(effective, Unknown):
        effective *= tried / kept
    variance = _variance(sharpes, tried)
    family: FamilyTest | Unknown = family_p_value(matrix, chosen=column, replications=replications, seed=seed)
    return Evidence(
        counted=tried,
        kept=kept,
        best=chosen,
        luck=variance if isinstance(variance, Unknown) else expected_maximum_sharpe(tried, variance),
        deflated=_deflated(chosen, tried, variance),
        deflated_effective=_deflated(chosen, effective, variance),
        effective=effective,
        family=family,
        overfitting=probability_of_backtest_overfitting(matrix, blocks),
        out_of_sample=fresh,
        over_benchmark=benchmark is not None,
        periods_per_year=periods_per_year,
        sharpes=sharpes,
    )


def _fresh(returns: ArrayLike | None, benchmark: ArrayLike | None, *, over: bool) -> Moments | Unknown:
    if returns is None:
        return Unknown("there are no returns that had no part in the choice")
    if over != (benchmark is not None):
        there, missing = ("in sample", "out of sample") if over else ("out of sample", "in sample")
        return Unknown(f"the baseline has returns {there} and none {missing}")
    series = np.asarray(returns, dtype=np.float64)
    if benchmark is None:
        return moments(series)
    baseline = np.asarray(benchmark, dtype=np.float64)
    if baseline.shape != series.shape:
        return Unknown(f"the benchmark has {baseline.size} returns out of sample, the trial has {series.size}")
    return moments(series - baseline)


def _over(usable: Aligned | Unknown, benchmark: ArrayLike | None) -> Aligned | Unknown:
    """The series over the benchmark."""
    if isinstance(usable, Unknown) or benchmark is None:
        return usable
    baseline = np.asarray(benchmark, dtype=np.float64)
    if baseline.shape != usable.matrix.shape[:1]:
        return Unknown(f"the benchmark has {baseline.size} returns, the trials have {len(usable.matrix)} each")
    if not np.isfinite(baseline).all():
        return Unknown("the benchmark's returns are not all finite")
    matrix = usable.matrix
    matrix -= baseline[:, None]  # it is `aligned`'s own copy, and there may be no memory for another
    return Aligned(matrix, usable.positions, usable.left_out)


def _column(usable: Aligned, sharpes: Floats, best: int | None) -> int | Unknown:
    if best is None:
        return int(sharpes.argmax())
    if best in usable.left_out:
        return Unknown(f"the trial to be judged cannot be: {usable.left_out[best]}")
    if best not in usable.positions:
        raise ValueError(f"there is no series {best}")
    return usable.positions.index(best)


def _variance(sharpes: Floats, tried: int) -> float | Unknown:
    """Between the trials' Sharpe ratios, n - 1."""
    if tried == 1:
        return 0.0
    if len(sharpes) < 2:
        return Unknown(f"the returns of only {len(sharpes)} of {tried:,} trials are there: their spread is unknown")
    return float(sharpes.var(ddof=1))


def _deflated(chosen: Moments | Unknown, trials: float | Unknown, variance: float | Unknown) -> float | Unknown:
    for known in (chosen, trials, variance):
        if isinstance(known, Unknown):
            return known
    assert isinstance(chosen, Moments)
    assert not isinstance(trials, Unknown)
    assert not isinstance(variance, Unknown)
    return deflated_sharpe_ratio(
        chosen.sharpe,
        observations=chosen.observations,
        trials=trials,
        variance=variance,
        skewness=chosen.skewness,
        kurtosis=chosen.kurtosis,
    )


def _nothing(tried: int, why: Unknown, fresh: Moments | Unknown) -> Evidence:
    return Evidence(tried, 0, why, why, why, why, why, why, why, fresh, sharpes=why)
