"""The live Sharpe ratio to expect of the best of a family: a normal scale mixture with a chance of death.

Contract. Pure and deterministic; numpy only. All Sharpe ratios are annual, all lengths in years. Each trial's true
Sharpe ratio is a common part plus an own part; most own parts are small, a few are large (`SIGMAS`). An edge dies after
the sample with probability `DEATH`. A hold-out updates every component by Bayes' rule. The forecast cannot know crashes
that are not in the returns; `hints_at_a_crash` looks for signs of them.

Source: empirical Bayes by EM over a fixed grid of normal scales (Stephens 2017, False discovery rates: a new deal),
extended by the death of edges and the common part. The grid, its prior counts and the chance of death were chosen on
simulated families and on rules over real prices; `benchmarks/verdict.py` measures the coverage of the interval.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from statistics import NormalDist

import numpy as np

from o9.health.grades import Forecast
from o9.health.statistics.moments import Floats, varies
from o9.health.statistics.spa import MOST_AUTOCORRELATION

LIVE_YEARS = 5.0  # the interval is for the Sharpe ratio realized over this time
COVERAGE = 0.8
SIGMAS = (0.0, 0.25, 0.5, 1.0, 2.0, 3.0)  # standard deviations of the own parts
PRIOR_COUNTS = (1.0, 0.2, 0.15, 0.1, 0.035, 0.015)  # of trials, one for each of SIGMAS
EM_ROUNDS = 60
COMMON_VARIANCE = 0.09  # of the common part, around zero
DEATH, DEAD_VARIANCE = 0.25, 0.02
LEAST_OWN_SHARE = 1e-4  # of the noise: copies of one trial still differ by rounding
# Many small gains and few large losses: later losses tend to be larger than those so far.
CRASH_SKEWNESS, CRASH_KURTOSIS = -1.0, 10.0
CONCAVE_T = -3.0
_NORMAL = NormalDist()


@dataclass(frozen=True)
class Mixture:
    """The distribution of one true annual Sharpe ratio: a mixture of normals; `weights` sum to 1."""

    weights: tuple[float, ...]
    means: tuple[float, ...]
    variances: tuple[float, ...]

    @property
    def mean(self) -> float:
        return math.fsum(weight * mean for weight, mean in zip(self.weights, self.means, strict=True))

    def cdf(self, value: float, noise: float = 0.0) -> float:
        """Return the probability of at most `value`, measured with the error variance `noise`."""
        return math.fsum(
            weight * _cdf(value - mean, variance + noise)
            for weight, mean, variance in zip(self.weights, self.means, self.variances, strict=True)
        )

    def quantile(self, probability: float, noise: float = 0.0) -> float:
        """Return the inverse of `cdf`, by bisection to nearly full precision."""
        reach = 10 * math.sqrt(max(self.variances) + noise) + 1e-9
        low, high = min(self.means) - reach, max(self.means) + reach
        for _ in range(80):
            middle = (low + high) / 2
            low, high = (middle, high) if self.cdf(middle, noise) < probability else (low, middle)
        return (low + high) / 2

    def updated(self, seen: float, noise: float) -> Mixture:
        """Update by an independent measurement `seen` with the error variance `noise` > 0, by Bayes' rule."""
        logs, means, variances = [], [], []
        for weight, mean, variance in zip(self.weights, self.means, self.variances, strict=True):
            total = variance + noise
            logs.append(
                (math.log(weight) if weight > 0 else -math.inf) - (math.log(total) + (seen - mean) ** 2 / total) / 2
            )
            means.append(mean + variance / total * (seen - mean))
            variances.append(variance * noise / total)
        top = max(logs)
        likely = [math.exp(each - top) for each in logs]
        return Mixture(tuple(each / math.fsum(likely) for each in likely), tuple(means), tuple(variances))

    def with_death(self) -> Mixture:
        """Add the chance that the edge dies, which leaves a Sharpe ratio near zero."""
        weights = (*(weight * (1 - DEATH) for weight in self.weights), DEATH)
        return Mixture(weights, (*self.means, 0.0), (*self.variances, DEAD_VARIANCE))


def variance_ratio(autocorrelation: float) -> float:
    """Return (1 + k)/(1 - k), the factor by which serial correlation increases a mean's variance. Source: Lo 2002."""
    kept = min(max(autocorrelation, -MOST_AUTOCORRELATION), MOST_AUTOCORRELATION)
    return (1 + kept) / (1 - kept)


def edge_of(
    sharpes: Floats, chosen: int, *, years: float, ratio: float, correlation: float, effective: float
) -> Mixture:
    """Estimate the true annual Sharpe ratio of trial `chosen` if its edge lasts, from the sample alone.

    sharpes: annual, (trials,), at least one, over the baseline if there is one. years: the length of the sample. ratio:
    `variance_ratio` of the trials' mean first autocorrelation. correlation: the mean between trials, 0 to 1.
    effective: the effective number of independent trials, 1 to that of `sharpes`.
    """
    trials = len(sharpes)
    noise = ratio / years
    own = max(1.0 - min(max(correlation, 0.0), 1.0), LEAST_OWN_SHARE) * noise
    if trials == 1:  # the common part cannot be separated from its own
        weights = np.asarray(PRIOR_COUNTS) / sum(PRIOR_COUNTS)
        scales = np.asarray(SIGMAS) ** 2 + COMMON_VARIANCE
        return _posterior(float(sharpes[0]), 0.0, 0.0, weights, scales, noise)
    centre = float(sharpes.mean())
    scales = np.asarray(SIGMAS) ** 2
    weights = _estimated_shares(sharpes - centre, scales, own, min(effective, trials) / trials)
    common = (noise - own) + (own + float(weights @ scales)) / trials
    kept = COMMON_VARIANCE / (COMMON_VARIANCE + common)
    return _posterior(float(sharpes[chosen]) - centre, kept * centre, kept * common, weights, scales, own)


def forecast_of(
    claim: Mixture,
    *,
    claimed: float,
    ratio: float,
    held_out: tuple[float, float] | None = None,
    hidden_crash: bool = False,
    adaptive: bool = False,
) -> Forecast:
    """Forecast the Sharpe ratio over LIVE_YEARS.

    claim: the result of `edge_of`. claimed: the annual Sharpe ratio in sample. held_out: the hold-out's annual Sharpe
    ratio and its error variance, or None. adaptive: the search was; a hold-out is not affected by that.
    """
    known = claim.with_death()
    if held_out is not None:
        known = known.updated(*held_out)
    noise, tail = ratio / LIVE_YEARS, (1 - COVERAGE) / 2
    return Forecast(
        mean=known.mean,
        low=known.quantile(tail, noise),
        high=known.quantile(1 - tail, noise),
        claimed=claimed,
        held_out=None if held_out is None else held_out[0],
        years=LIVE_YEARS,
        hidden_crash=hidden_crash,
        too_high=adaptive and held_out is None,
    )


def hints_at_a_crash(skewness: float, kurtosis: float, curvature: float | None) -> bool:
    """Whether the returns look like premiums for a risk that has hardly materialized.

    curvature: the t value of `concavity`; None without a baseline.
    """
    rare_losses = skewness < CRASH_SKEWNESS and kurtosis > CRASH_KURTOSIS
    return rare_losses or (curvature is not None and curvature < CONCAVE_T)


def concavity(returns: Floats, baseline: Floats) -> float | None:
    """Return the t value of baseline² in a regression of `returns` on the baseline and its square, both (periods,).

    A negative one means losses in large moves of the baseline in either direction, as from sold options (Treynor and
    Mazuy 1966). The standard error is White's (1980), robust to heteroskedasticity. None if it cannot be computed.
    """
    if len(returns) < 4 or not varies(baseline) or not varies(returns):
        return None
    unit = (baseline - baseline.mean()) / baseline.std()
    terms = np.column_stack([np.ones_like(unit), unit, unit**2])
    inverse = np.linalg.pinv(terms.T @ terms)
    rest = returns - terms @ (inverse @ (terms.T @ returns))
    spread = inverse @ ((terms * (rest**2)[:, None]).T @ terms) @ inverse
    if not (np.isfinite(spread[2, 2]) and spread[2, 2] > 0):
        return None
    return float((inverse @ (terms.T @ returns))[2] / math.sqrt(spread[2, 2]))


def _estimated_shares(deviations: Floats, scales: Floats, own: float, independent: float) -> Floats:
    """Estimate by EM the share of trials whose own part has each variance in `scales`."""
    counts = np.asarray(PRIOR_COUNTS)
    total = scales + own
    likely = np.exp(-np.square(deviations)[:, None] / (2 * total) - np.log(total) / 2)
    likely = np.maximum(likely, np.finfo(np.float64).tiny)
    shares: Floats = counts / counts.sum()
    for _ in range(EM_ROUNDS):
        joint = likely * shares
        counted = independent * (joint / joint.sum(axis=1, keepdims=True)).sum(axis=0) + counts
        shares = counted / counted.sum()
    return shares


def _posterior(
    deviation: float, centre: float, variance: float, weights: Floats, scales: Floats, own: float
) -> Mixture:
    """Return the posterior of centre + own part, after `deviation` was measured with the error variance `own`."""
    total = scales + own
    logs = np.log(weights) - (np.log(total) + deviation**2 / total) / 2
    likely = np.exp(logs - logs.max())
    kept = scales / total
    return Mixture(
        tuple((likely / likely.sum()).tolist()),
        tuple((centre + kept * deviation).tolist()),
        tuple((variance + kept * own).tolist()),
    )


def _cdf(distance: float, variance: float) -> float:
    if variance <= 0:
        return 1.0 if distance >= 0 else 0.0
    return _NORMAL.cdf(distance / math.sqrt(variance))
