"""How much of a good backtest is luck: the formulas of the literature, each with its source and variant.

Contract. Pure. Sharpe ratios are per period, not annualized, unless a name says annual. Kurtosis is Pearson's (3 for a
normal distribution). `observations` is the number of returns; `trials` is the number of all trials ever run on the same
data, failed and cancelled ones included (an effective number need not be an integer). What cannot be computed is an
`Unknown` with the reason; only an invalid number of blocks raises ValueError.
"""

from __future__ import annotations

import itertools
import math
from dataclasses import dataclass, field
from functools import cache
from statistics import NormalDist

import numpy as np
from numpy.typing import ArrayLike, NDArray

from o9.health.statistics.moments import ROUNDING, Floats, matrix_of, varies
from o9.health.unknown import Unknown

EULER_MASCHERONI = 0.5772156649015329
EXACT_BELOW = 10  # trials
TIE = 1e-9  # Sharpe ratios this close are equal: sums in another order differ by about 1e-13
SPLITS_AT_ONCE = 512  # bounds the memory: five matrices of this many splits by trials
MOST_BLOCKS = 20  # 184,756 splits; 22 would be 705,432
_NORMAL = NormalDist()


@dataclass(frozen=True)
class BacktestOverfitting:
    """The result of CSCV. Arrays have one entry for each split, in the order of `itertools.combinations`.

    pbo: the probability of backtest overfitting: the share of splits in which the best in sample was below the median
        out of sample. A logit of exactly zero (the median itself) counts as half.
    logits: of the out-of-sample relative rank of the best in sample; positive is above the median.
    out_of_sample: the Sharpe ratio per period of the best in sample in the other half.
    probability_of_loss: the share of splits in which that is below zero; zero counts as half.
    trials, periods: the numbers used; `dropped_periods` is the number of oldest periods left out to have equal blocks.
    """

    pbo: float
    logits: Floats = field(compare=False, repr=False)
    out_of_sample: Floats = field(compare=False, repr=False)
    probability_of_loss: float
    trials: int
    periods: int
    dropped_periods: int
    blocks: int


def expected_maximum_sharpe(trials: float, variance: float = 1.0) -> float | Unknown:
    """Return the expected best Sharpe ratio of `trials` independent ones without edge, whose ratios have this variance.

    √V · [(1-g)·Φ⁻¹(1 - 1/N) + g·Φ⁻¹(1 - 1/(N·e))], g Euler's constant, from N = 10 on. Source: Bailey and López de
    Prado 2014 (The Deflated Sharpe Ratio), eq. 1. Below 10, where the approximation is off by up to 8%, it is the exact
    mean of the largest of N normals, √V · ∫ x dΦ(x)^N, which is also defined for an N that is not an integer. For one
    trial it is 0: nothing is chosen.

    >>> round(expected_maximum_sharpe(100), 4), round(expected_maximum_sharpe(2), 4)
    (2.5306, 0.5642)
    """
    if not (math.isfinite(trials) and trials >= 1):
        return Unknown(f"{trials:g} trials have no best")
    if not (math.isfinite(variance) and variance >= 0):
        return Unknown(f"a variance of {variance:g} between the trials' Sharpe ratios is impossible")
    if trials == 1:
        return 0.0
    if trials < EXACT_BELOW:
        density, below = _normal_grid()
        return math.sqrt(variance) * max(float(trials * (density @ below ** (trials - 1))), 0.0)
    # -Φ⁻¹(1/N) is Φ⁻¹(1 - 1/N) without the loss of precision for a large N.
    luck = (1 - EULER_MASCHERONI) * -_NORMAL.inv_cdf(1 / trials)
    luck += EULER_MASCHERONI * -_NORMAL.inv_cdf(1 / (trials * math.e))
    return math.sqrt(variance) * luck


@cache
def _normal_grid() -> tuple[Floats, Floats]:
    """Return x·φ(x)·dx and Φ(x) from -10 to 10. The trapezoidal rule on them is exact to 12 digits."""
    points = np.linspace(-10.0, 10.0, 1001)
    density = points * np.exp(-(points**2) / 2) / math.sqrt(2 * math.pi) * (points[1] - points[0])
    return density, np.array([_NORMAL.cdf(point) for point in points.tolist()])


def probabilistic_sharpe_ratio(
    sharpe: float, *, observations: float, skewness: float = 0.0, kurtosis: float = 3.0, benchmark: float = 0.0
) -> float | Unknown:
    """Return the probability that the true Sharpe ratio is above `benchmark`, for returns without serial correlation.

    Φ[(SR - SR*)·√(T-1) / √(1 - γ₃·SR + (γ₄-1)·SR²/4)], the variance taken at the estimate SR, not at SR*.
    Source: Bailey and López de Prado 2012 (The Sharpe Ratio Efficient Frontier), eq. 11.
    """
    if not (math.isfinite(observations) and observations >= 2):
        return Unknown(f"{observations:g} returns are too few: at least 2 are needed")
    if not math.isfinite(benchmark):
        return Unknown(f"the benchmark {benchmark} is not finite")
    spread = _spread(sharpe, skewness, kurtosis)
    if isinstance(spread, Unknown):
        return spread
    return _NORMAL.cdf((sharpe - benchmark) * math.sqrt(observations - 1) / math.sqrt(spread))


def deflated_sharpe_ratio(
    sharpe: float, *, observations: float, trials: float, variance: float, skewness: float = 0.0, kurtosis: float = 3.0
) -> float | Unknown:
    """Return the probability that the true Sharpe ratio is above what luck alone gives the best of `trials`.

    `probabilistic_sharpe_ratio` against `expected_maximum_sharpe(trials, variance)`; `variance` is that of the trials'
    Sharpe ratios per period. Source: Bailey and López de Prado 2014, eq. 2.
    """
    luck = expected_maximum_sharpe(trials, variance)
    if isinstance(luck, Unknown):
        return luck
    return probabilistic_sharpe_ratio(
        sharpe, observations=observations, skewness=skewness, kurtosis=kurtosis, benchmark=luck
    )


def minimum_track_record_length(
    sharpe: float, *, benchmark: float = 0.0, confidence: float = 0.95, skewness: float = 0.0, kurtosis: float = 3.0
) -> float | Unknown:
    """Return the number of observations after which `sharpe` is above `benchmark` with this confidence.

    1 + (1 - γ₃·SR + (γ₄-1)·SR²/4)·(z/(SR - SR*))². Source: Bailey and López de Prado 2012, eq. 13.
    """
    if not 0.5 < confidence < 1:
        return Unknown(f"a confidence of {confidence:g} is not between 0.5 and 1")
    spread = _spread(sharpe, skewness, kurtosis)
    if isinstance(spread, Unknown):
        return spread
    if not (math.isfinite(benchmark) and sharpe > benchmark):
        return Unknown(f"a Sharpe ratio of {sharpe:.4g} is not above {benchmark:.4g}: no record is long enough")
    ratio = _finite(_NORMAL.inv_cdf(confidence) / (sharpe - benchmark))
    return ratio if isinstance(ratio, Unknown) else 1 + spread * ratio


def minimum_backtest_length(trials: float, target_sharpe: float) -> float | Unknown:
    """Return the years after which the best of `trials` without edge is not expected to reach `target_sharpe` (annual).

    (expected_maximum_sharpe(N) / target)², the form with both terms of the maximum, not its upper bound 2·ln N/target².
    Source: Bailey, Borwein, López de Prado and Zhu 2014 (Pseudo-Mathematics and Financial Charlatanism), theorem 1.
    """
    if not (math.isfinite(target_sharpe) and target_sharpe > 0):
        return Unknown(f"the target Sharpe ratio {target_sharpe:g} must be above 0")
    luck = expected_maximum_sharpe(trials)
    return luck if isinstance(luck, Unknown) else _finite(luck / target_sharpe)


def probability_of_backtest_overfitting(returns: ArrayLike, blocks: int = 16) -> BacktestOverfitting | Unknown:
    """CSCV: is the trial that is best in one half of the time above the median in the other half?

    `returns`: (periods, trials). The periods are cut into `blocks` (S) equal blocks. For each of the C(S, S/2) choices
    of half of them, the trial with the best Sharpe ratio is ranked by its Sharpe ratio on the others: rank r of N,
    ω = r/(N+1), logit ln(ω/(1-ω)).
    Source: Bailey, Borwein, López de Prado and Zhu 2017 (The Probability of Backtest Overfitting), sections 2 and 3.

    Where the paper leaves a choice: equal Sharpe ratios share their mean rank; of equals, the earliest trial is the
    best in sample; a logit of exactly zero (an odd N, or equals) counts as half overfit; the oldest periods that fill
    no block are dropped; a half in which a strategy never varied has the Sharpe ratio 0. If all trials are equally
    good, PBO is one half or more, as for noise: `probability_of_loss` distinguishes the two.

    Cost at S = 16: 500 trials over 2,500 days take 2 s, and 25 KB of memory a trial beside three copies of `returns`.
    Raises ValueError if `blocks` is odd or not in 2 to 20.
    """
    if blocks % 2 or not 2 <= blocks <= MOST_BLOCKS:
        raise ValueError(f"blocks must be even and from 2 to {MOST_BLOCKS}, got {blocks}")
    matrix = matrix_of(returns)
    if isinstance(matrix, Unknown):
        return matrix
    periods, trials = matrix.shape
    if trials < 2:
        return Unknown(f"only {trials} trial has returns; at least two are needed")
    if periods < 2 * blocks:
        return Unknown(f"{periods} returns are too few for {blocks} blocks: at least {2 * blocks} are needed")
    matrix = _standardised(matrix[periods % blocks :])
    if not matrix.any():
        return Unknown("no trial's returns ever vary")
    return _cscv(matrix, blocks, periods % blocks)


def _finite(root: float) -> float | Unknown:
    """Return its square, if that is a finite length."""
    square = root * root
    return square if math.isfinite(square) else Unknown("the Sharpe ratio is too near to its benchmark")


def _spread(sharpe: float, skewness: float, kurtosis: float) -> float | Unknown:
    """Return T - 1 times the variance of an estimated Sharpe ratio. Source: Mertens 2002."""
    if not all(math.isfinite(figure) for figure in (sharpe, skewness, kurtosis)):
        return Unknown(f"Sharpe ratio {sharpe}, skewness {skewness} and kurtosis {kurtosis} must be finite")
    spread = 1 - skewness * sharpe + (kurtosis - 1) * sharpe**2 / 4
    # Kurtosis is at least 1 + skewness², which makes this positive; smaller, the moments contradict each other.
    if spread <= 0:
        return Unknown(f"no returns have skewness {skewness:.4g} and kurtosis {kurtosis:.4g} at once")
    return spread


def _standardised(matrix: Floats) -> Floats:
    """Divide each column by its deviation, for the precision of sums of squares; a constant column becomes 0."""
    varied = varies(matrix)
    scaled: Floats = np.where(varied, matrix / np.where(varied, matrix.std(axis=0), 1.0), 0.0)
    return scaled


def _cscv(matrix: Floats, blocks: int, dropped: int) -> BacktestOverfitting:
    periods, trials = matrix.shape
    cut = matrix.reshape(blocks, periods // blocks, trials)
    # Deviations from a pivot near the mean sum without cancellation.
    pivot = matrix.mean(axis=0)
    sums = (cut - pivot).sum(axis=1)
    squares = ((cut - pivot) ** 2).sum(axis=1)
    chosen = _splits(blocks)
    half = periods // 2
    logits, outside = np.empty(len(chosen)), np.empty(len(chosen))
    for start in range(0, len(chosen), SPLITS_AT_ONCE):
        part = slice(start, start + SPLITS_AT_ONCE)
        mine, rest = chosen[part], 1.0 - chosen[part]
        rows = np.arange(len(mine))
        in_sample = _sharpes(mine @ sums, mine @ squares, pivot, half)
        best = _earliest_best(in_sample)
        out_of_sample = _sharpes(rest @ sums, rest @ squares, pivot, half)
        outside[part] = out_of_sample[rows, best]
        beside = out_of_sample - outside[part][:, None]
        below = (beside < -TIE).sum(axis=1)
        equal = (np.abs(beside) <= TIE).sum(axis=1)  # itself included
        rank = below + (equal + 1) / 2
        logits[part] = np.log(rank / (trials + 1 - rank))
    return BacktestOverfitting(
        pbo=_share_below(logits, 0.0),
        logits=logits,
        out_of_sample=outside,
        probability_of_loss=_share_below(outside, TIE),
        trials=trials,
        periods=periods,
        dropped_periods=dropped,
        blocks=blocks,
    )


def _splits(blocks: int) -> Floats:
    """Return the splits as zeros and ones, (C(S, S/2), S), in lexicographic order."""
    choices = np.array(list(itertools.combinations(range(blocks), blocks // 2)))
    chosen = np.zeros((len(choices), blocks))
    np.put_along_axis(chosen, choices, 1.0, axis=1)
    return chosen


def _sharpes(sums: Floats, squares: Floats, pivot: Floats, count: int) -> Floats:
    """Return Sharpe ratios from the sums of deviations from `pivot` and of their squares; 0 without variance."""
    variance = (squares - sums**2 / count) / (count - 1)
    varied = variance > ROUNDING
    ratios: Floats = np.where(varied, (pivot + sums / count) / np.sqrt(np.where(varied, variance, 1.0)), 0.0)
    return ratios


def _earliest_best(ratios: Floats) -> NDArray[np.intp]:
    """Return the first column of each row that has the maximum, up to rounding."""
    best: NDArray[np.intp] = (ratios >= ratios.max(axis=1, keepdims=True) - TIE).argmax(axis=1)
    return best


def _share_below(figures: Floats, tie: float) -> float:
    """Return the share below zero; those within `tie` of zero count as half."""
    return float(np.where(np.abs(figures) <= tie, 0.5, figures < 0).mean())
