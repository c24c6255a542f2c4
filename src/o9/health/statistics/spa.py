"""A family of trials judged as one: how many independent ones it amounts to, and whether its best is more than luck.

Contract. Pure and deterministic; randomness comes from a seed. `returns` is (periods, trials), float64, simple returns
a period. Poor data is an `Unknown` with its reason, and so is what would come from a figure that is not finite. A trial
whose returns never vary was tried, but has no part in what is computed here: it can neither be correlated nor be the
best by luck.

The test needs the package `arch` (extra `quant`), which is imported when it is used; without it the answer is Unknown.
10,000 trials of 2,500 periods (200 MB of returns): 6 s of processor time and 550 MiB at the highest for the test, as
much or less for the effective number.
"""

from __future__ import annotations

import math

import numpy as np
from numpy.typing import ArrayLike, NDArray

from o9.health.statistics.moments import ROUNDING, Floats, matrix_of
from o9.health.unknown import Unknown

REPLICATIONS = 1_000  # a p-value of 0.04 is then known to ±0.006 (one standard error)
LEAST_PERIODS = 60  # with fewer, worthless families pass twice as often as the level says
# The autocorrelation of this many trials, evenly spread, stands for that of all when the block length is chosen.
BLOCK_SAMPLE = 64
CELLS_AT_ONCE = 4_000_000  # 32 MB of replications by trials, or of padded series
LEAST_RESAMPLED_VARIANCE = 0.01  # of the series' own
MOST_KEPT = 0.97  # beyond it prewhitening divides by next to nothing (Andrews and Monahan 1992)


def family_p_value(
    returns: ArrayLike, *, chosen: int | None = None, replications: int = REPLICATIONS, seed: int = 0
) -> float | Unknown:
    """How often chance alone makes the best of such a family look as good as its best does, over `returns` of zero.

    returns: over the benchmark. (1 + exceeding) / (1 + replications).

    Hansen 2005 (A Test for Superior Predictive Ability), studentised, consistent recentring, over the stationary
    bootstrap of Politis and Romano 1994 from `arch`, with the mean optimal block length of Politis and White 2004 from
    `arch`. Holds under dependence between trials and over time. `chosen`: another column than the best; its p-value is
    then that of the one-step reality check of Romano and Wolf 2005, which is Hansen's for the best.

    Two steps beyond Hansen's make it hold its level. Blocks cut dependence short, so that the deviation they give is
    too small: what was seen is divided by the prewhitened long-run one instead (Andrews and Monahan 1992). Few returns
    have an uncertain deviation: each resampled mean is divided by that of its own resample too, as in the bootstrap-t
    (Efron 1982). Of worthless families of 200, Hansen's figure passes at the level 0.04: 7 % over 2,520 days that keep
    0.2 of the day before, 14 % over 60 independent ones; this one 4.6 % and 4.7 %.

    arch's own class `SPA` is not used: it ignores `studentize` (8.0.0) and copies the family for every replication.
    """
    excess = matrix_of(returns)
    if isinstance(excess, Unknown):
        return excess
    periods = len(excess)
    if periods < LEAST_PERIODS:
        return Unknown(f"{periods} returns are too few to resample: at least {LEAST_PERIODS} are needed")
    part = np.flatnonzero(_varies(excess))
    if not len(part):
        return Unknown("no trial's returns ever vary")
    if chosen is not None and chosen not in part:
        return Unknown(f"the returns of trial {chosen} never vary, so that there is no risk to divide by")
    with np.errstate(all="ignore"):  # what is not finite is answered for below
        try:
            kept = kept_of_the_period_before(excess[:, part])
            few = np.unique(np.linspace(0, len(part) - 1, min(len(part), BLOCK_SAMPLE)).astype(np.intp))
            block = _block_length(excess[:, part[few]])
            beyond = _beyond_first_order(_remainders(excess[:, part[few]], kept[few]))
            weights = _weights(periods, block, replications, seed)
        except ImportError:
            return Unknown('the package arch is not installed; `pip install "prefect-o9[quant]"` brings it')
        far_worse = -math.sqrt(2 * math.log(math.log(periods)) / periods)
        seen, luckiest = np.empty(len(part)), np.full(replications, -math.inf)
        step = max(1, CELLS_AT_ONCE // max(periods, replications))
        for start in range(0, len(part), step):
            chunk = slice(start, start + step)
            columns = excess[:, part[chunk]]
            deviation = long_run_deviation(columns, block)
            ratios = columns.mean(axis=0) / deviation
            seen[chunk] = ratios * deviation / (prewhitened_deviation(columns, kept[chunk]) * beyond)
            # What is far worse than the benchmark has no part in the luck of the best (Hansen's consistent recentring).
            centre = np.where(ratios < far_worse, 0.0, ratios)
            resampled = weights @ (columns / deviation)
            lucky = (resampled - centre) / _resampled_spread(weights, columns, resampled * deviation)
            luckiest = np.maximum(luckiest, lucky.max(axis=1))
        if not (np.isfinite(seen).all() and np.isfinite(luckiest).all()):
            return Unknown("the returns are too large, too small or too regular to be resampled")
        best = int(seen.argmax()) if chosen is None else int(np.searchsorted(part, chosen))
        return (1 + int((luckiest > seen[best]).sum())) / (1 + replications)


def p_value_of_all(p_value: float, kept: int, counted: int) -> float:
    """The p-value when `counted` trials were tried and the returns of only `kept` took part in it.

    1 - (1 - p)^(counted/kept): the others are taken to be as many and as independent again (Šidák 1967), which errs
    towards luck. That is what it costs not to keep the returns.
    """
    return -math.expm1(max(counted / kept, 1.0) * math.log1p(-min(p_value, 1.0 - 1e-15)))


def effective_number_of_trials(returns: ArrayLike) -> float | Unknown:
    """How many independent trials the correlated ones amount to: 1 for copies of one, N for N unrelated ones.

    (Σ√λ)² / Σλ over the eigenvalues of the correlation matrix (Galwey 2009), shrunk towards no correlation by the share
    of the squared correlations that sampling explains (Schäfer and Strimmer 2005, target identity, equal variances):
    without that 10,000 unrelated trials over 2,500 days would seem to be 2,300. Chosen over clustering (López de Prado
    and Lewis 2019, ONC): no random starts, no number of clusters to find, and it errs towards more trials: 200 in
    ten groups make 16 where a group is copies, and 53 where its trials correlate at 0.9.
    """
    matrix = matrix_of(returns)
    if isinstance(matrix, Unknown):
        return matrix
    if len(matrix) < LEAST_PERIODS:
        return Unknown(f"{len(matrix)} returns are too few for correlations: at least {LEAST_PERIODS} are needed")
    varies = _varies(matrix)
    varied: Floats = matrix if varies.all() else matrix[:, varies]
    periods, trials = varied.shape
    if not trials:
        return Unknown("no trial's returns ever vary")
    if trials == 1:
        return 1.0
    unit = varied - varied.mean(axis=0)
    unit /= np.sqrt(np.einsum("ij,ij->j", unit, unit))
    correlations = unit.T @ unit if trials <= periods else unit @ unit.T  # the same eigenvalues but for zeros
    eigenvalues = np.zeros(trials)
    eigenvalues[: min(trials, periods)] = np.maximum(np.linalg.eigvalsh(correlations), 0.0)
    squared = max(float((eigenvalues**2).sum()) - trials, 0.0)  # of all pairs, each twice
    by_chance = max(trials * (trials - 1) - squared, 0.0) / (periods - 2)
    shrinkage = min(by_chance / squared, 1.0) if squared > 0 else 1.0
    roots = float(np.sqrt((1 - shrinkage) * eigenvalues + shrinkage).sum())
    return float(min(max(roots * roots / trials, 1.0), trials))


def sharpe_ratios(returns: Floats) -> Floats:
    """Of each column, per period, n - 1; 0 where it never varies: nothing risked, nothing shown."""
    varies = _varies(returns)
    deviation = returns.std(axis=0) * math.sqrt(len(returns) / max(len(returns) - 1, 1))
    ratios: Floats = np.where(varies, returns.mean(axis=0) / np.where(varies, deviation, 1.0), 0.0)
    return ratios


def long_run_deviation(returns: Floats, block: int) -> Floats:
    """√periods · the deviation that the stationary bootstrap gives each column's mean, in closed form.

    Source: Politis and Romano 1994, lemma 1, as in Hansen 2005; the autocovariances by Fourier transform.
    """
    periods, trials = returns.shape
    lags = np.arange(periods)
    stay = 1.0 - 1.0 / block
    kernel = (1 - lags / periods) * stay**lags + (lags / periods) * stay ** (periods - lags)
    kernel[0], kernel[1:] = 1.0, 2 * kernel[1:]
    size = 1 << (2 * periods - 1).bit_length()
    variances = np.empty(trials)
    step = max(1, CELLS_AT_ONCE // size)
    for start in range(0, trials, step):
        part = returns[:, start : start + step]
        spectrum = np.fft.rfft(part - part.mean(axis=0), size, axis=0)
        covariances = np.fft.irfft(np.abs(spectrum) ** 2, size, axis=0)[:periods] / periods
        variances[start : start + step] = kernel @ covariances
    # Not below what rounding leaves: the kernel is positive definite, its sum in floating point only nearly.
    deviation: Floats = np.sqrt(np.maximum(variances, ROUNDING * returns.var(axis=0)))
    return deviation


def prewhitened_deviation(returns: Floats, kept: Floats) -> Floats:
    """The long-run deviation of each column without the bias that short blocks have, as far as the first order goes.

    The deviation of what each return does not keep of the one before, over one minus the share `kept`, (trials,).
    Source: Andrews and Monahan 1992.
    """
    deviation: Floats = _remainders(returns, kept).std(axis=0) / (1.0 - kept)
    return deviation


def kept_of_the_period_before(returns: Floats) -> Floats:
    """The first autocorrelation of each column, (trials,), at most 0.97 either way, shrunk towards that of all.

    Shrunk by the share of their spread that sampling gives, 1/periods (Efron and Morris 1975): alike trials lend each
    other their precision, without which the luckiest of many would be the one whose risk is underestimated most.
    """
    periods, trials = returns.shape
    kept = np.empty(trials)
    step = max(1, CELLS_AT_ONCE // periods)
    for start in range(0, trials, step):
        part = returns[:, start : start + step] - returns[:, start : start + step].mean(axis=0)
        kept[start : start + step] = (part[1:] * part[:-1]).sum(axis=0) / (part**2).sum(axis=0)
    spread = float(kept.var(ddof=1)) if trials > 1 else math.inf
    by_chance = min(1.0 / (periods * spread), 1.0) if spread > 0 else 1.0
    shrunk: Floats = np.clip(kept + by_chance * (kept.mean() - kept), -MOST_KEPT, MOST_KEPT)
    return shrunk


def _varies(returns: Floats) -> NDArray[np.bool_]:
    varies: NDArray[np.bool_] = returns.std(axis=0) > ROUNDING * np.abs(returns).max(axis=0)
    return varies


def _beyond_first_order(remainders: Floats) -> float:
    """Long-run deviation of whitened returns over their ordinary one; of all trials together, being noisy in each."""
    ratios = long_run_deviation(remainders, _block_length(remainders)) / remainders.std(axis=0)
    return math.sqrt(float((ratios**2).mean()))


def _resampled_spread(weights: Floats, columns: Floats, means: Floats) -> Floats:
    """The deviation of each resampled series over the series' own, and `means`: both (replications, trials)."""
    centred = columns - columns.mean(axis=0)
    variances = (weights @ centred**2 - (means - columns.mean(axis=0)) ** 2) / centred.var(axis=0)
    # A resample may hold one day of a strategy that hardly ever traded: no deviation, and no evidence either.
    spread: Floats = np.sqrt(np.where(variances <= LEAST_RESAMPLED_VARIANCE, math.inf, variances))
    return spread


def _block_length(returns: Floats) -> int:
    """Periods a block of the stationary bootstrap: the mean over the columns, rounded up, a third of all at most.

    Source: Politis and White 2004, corrected by Patton, Politis and White 2009. Raises ImportError without arch.
    """
    from arch.bootstrap import optimal_block_length

    lengths = optimal_block_length(returns)["stationary"].to_numpy()
    lengths = lengths[np.isfinite(lengths)]
    return max(1, min(math.ceil(lengths.mean()), len(returns) // 3)) if len(lengths) else 1


def _remainders(returns: Floats, kept: Floats) -> Floats:
    """What each return does not keep of the one before, (periods - 1, trials)."""
    centred = returns - returns.mean(axis=0)
    remainders: Floats = centred[1:] - kept * centred[:-1]
    return remainders


def _weights(periods: int, block: int, replications: int, seed: int) -> Floats:
    """(replications, periods): the share that each period has in the mean of each resampled series."""
    from arch.bootstrap import StationaryBootstrap

    bootstrap = StationaryBootstrap(block, np.arange(periods), seed=seed)
    weights = np.empty((replications, periods))
    for row, ((drawn,), _) in zip(weights, bootstrap.bootstrap(replications), strict=True):
        row[:] = np.bincount(drawn, minlength=periods)
    return weights / periods
