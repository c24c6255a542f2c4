"""The formulas against published values, and CSCV against a plain version."""

from __future__ import annotations

import itertools
import math
import time
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from scipy.stats import norm

from o9.health.statistics.overfitting import (
    BacktestOverfitting,
    deflated_sharpe_ratio,
    expected_maximum_sharpe,
    minimum_backtest_length,
    minimum_track_record_length,
    probabilistic_sharpe_ratio,
    probability_of_backtest_overfitting,
)
from o9.health.unknown import Unknown

DAYS = 250.0  # a year, as the papers count it


def noise(periods: int, trials: int, seed: int = 0) -> Any:
    return np.random.default_rng(seed).normal(0.0, 0.01, (periods, trials))


def found(returns: Any, blocks: int = 16) -> BacktestOverfitting:
    answer = probability_of_backtest_overfitting(returns, blocks)
    assert isinstance(answer, BacktestOverfitting)
    return answer


def reason(answer: object) -> str:
    assert isinstance(answer, Unknown)
    return answer.reason


# --- what the best of many is expected to show ---------------------------------------------------------------------


@pytest.mark.parametrize(
    ("trials", "value"),
    [
        (2, 0.5642),  # 1/√π: the exact mean of the largest of two normals
        (5, 1.1630),  # tables of order statistics, as Harter 1961
        (10, 1.5746),  # Bailey and López de Prado 2014; 1.57 in Bailey, Borwein, López de Prado, Zhu 2014
        (45, 2.2356),  # the same; its square is the five years of "45 trials"
        (100, 2.5306),  # the same
    ],
)
def test_expected_maximum(trials: int, value: float) -> None:
    assert expected_maximum_sharpe(trials) == pytest.approx(value, abs=5e-5)
    assert expected_maximum_sharpe(trials, 4.0) == pytest.approx(2 * value, abs=1e-4)


def test_expected_maximum_agrees_with_simulation() -> None:
    largest = np.random.default_rng(1).standard_normal((20_000, 100)).max(axis=1)
    assert expected_maximum_sharpe(100) == pytest.approx(float(largest.mean()), abs=0.03)


@given(st.floats(1, 1e12), st.floats(1, 1e12))
def test_expected_maximum_grows_with_the_trials_and_is_never_below_zero(one: float, other: float) -> None:
    fewer, more = (expected_maximum_sharpe(trials) for trials in sorted((one, other)))
    assert isinstance(fewer, float)
    assert isinstance(more, float)
    assert 0 <= fewer <= more < 8


def test_expected_maximum_of_one_trial_is_zero_and_of_none_unknown() -> None:
    assert expected_maximum_sharpe(1) == 0.0
    assert "0 trials" in reason(expected_maximum_sharpe(0))
    assert "nan trials" in reason(expected_maximum_sharpe(math.nan))
    assert "variance of -1" in reason(expected_maximum_sharpe(10, -1.0))


def test_minimum_backtest_length() -> None:
    # Bailey, Borwein, López de Prado, Zhu 2014: five years of data allow no more than 45 trials at a Sharpe ratio of 1.
    assert minimum_backtest_length(45, 1.0) == pytest.approx(4.998, abs=5e-4)
    assert minimum_backtest_length(45, 2.0) == pytest.approx(4.998 / 4, abs=5e-4)
    assert minimum_backtest_length(1, 1.0) == 0.0
    assert "target" in reason(minimum_backtest_length(45, 0.0))


# --- the Sharpe ratio against its own uncertainty --------------------------------------------------------------------


def test_probabilistic_sharpe_ratio() -> None:
    # Bailey and López de Prado 2012, the example of a hedge fund: annual 1.585 from 24 months.
    monthly = 1.585 / math.sqrt(12)
    skewed = probabilistic_sharpe_ratio(monthly, observations=24, skewness=-2.448, kurtosis=10.164)
    assert skewed == pytest.approx(0.9132, abs=5e-5)
    assert probabilistic_sharpe_ratio(monthly, observations=24) == pytest.approx(0.981, abs=1e-3)


def test_deflated_sharpe_ratio() -> None:
    # Bailey and López de Prado 2014, the numerical example.
    best = 2.5 / math.sqrt(DAYS)
    known: dict[str, float] = {"observations": 1250, "variance": 0.5 / DAYS, "skewness": -3, "kurtosis": 10}
    assert expected_maximum_sharpe(100, 0.5 / DAYS) == pytest.approx(0.1132, abs=5e-5)
    assert deflated_sharpe_ratio(best, trials=100, **known) == pytest.approx(0.9004, abs=5e-5)
    assert deflated_sharpe_ratio(best, trials=46, **known) == pytest.approx(0.9505, abs=5e-5)


@pytest.mark.parametrize(
    ("periods", "moments", "years"),
    [
        # Bailey and López de Prado 2012: annual 2 against 1 at 95 %, daily, monthly, and as hedge funds really are.
        (DAYS, {}, 2.731),
        (12.0, {}, 3.240),
        (12.0, {"skewness": -0.72, "kurtosis": 5.78}, 4.991),
    ],
)
def test_minimum_track_record(periods: float, moments: dict[str, float], years: float) -> None:
    root = math.sqrt(periods)
    length = minimum_track_record_length(2 / root, benchmark=1 / root, **moments)
    assert isinstance(length, float)
    assert length / periods == pytest.approx(years, abs=1e-3)


@given(st.floats(0.01, 0.5), st.floats(0.0, 0.009), st.floats(-2, 0.5), st.floats(6, 20), st.floats(0.6, 0.99))
def test_a_track_record_of_the_minimum_length_has_the_confidence(
    sharpe: float, benchmark: float, skewness: float, kurtosis: float, confidence: float
) -> None:
    shape = {"skewness": skewness, "kurtosis": kurtosis, "benchmark": benchmark}
    length = minimum_track_record_length(sharpe, confidence=confidence, **shape)
    assert isinstance(length, float)
    if length >= 2:
        assert probabilistic_sharpe_ratio(sharpe, observations=length, **shape) == pytest.approx(confidence)


def test_an_unknown_probability_has_a_reason() -> None:
    assert "1 returns" in reason(probabilistic_sharpe_ratio(1.0, observations=1))
    assert "must be finite" in reason(probabilistic_sharpe_ratio(math.nan, observations=10))
    assert "benchmark inf" in reason(probabilistic_sharpe_ratio(1.0, observations=10, benchmark=math.inf))
    assert "at once" in reason(probabilistic_sharpe_ratio(1.0, observations=10, skewness=5, kurtosis=3))
    assert "0 trials" in reason(deflated_sharpe_ratio(1.0, observations=10, trials=0, variance=1.0))
    assert "not above" in reason(minimum_track_record_length(1.0, benchmark=1.0))
    assert "must be finite" in reason(minimum_track_record_length(math.nan))
    assert "confidence" in reason(minimum_track_record_length(1.0, confidence=1.0))


# --- the probability of backtest overfitting ---------------------------------------------------------------------


def by_hand(returns: Any, blocks: int) -> tuple[list[float], list[float]]:
    """CSCV as in the paper, one split and one trial at a time."""
    length = len(returns) // blocks
    returns = returns[len(returns) - length * blocks :]
    cut = [returns[i * length : (i + 1) * length] for i in range(blocks)]

    def sharpe(series: Any) -> float:
        constant = bool(np.ptp(series) <= 1e-12 * max(1e-300, float(np.abs(returns).max())))
        return 0.0 if constant else float(series.mean() / series.std(ddof=1))

    logits, outside = [], []
    for chosen in itertools.combinations(range(blocks), blocks // 2):
        halves = [np.concatenate([cut[i] for i in range(blocks) if (i in chosen) is mine]) for mine in (True, False)]
        first, second = ([sharpe(half[:, n]) for n in range(returns.shape[1])] for half in halves)
        best = next(n for n, ratio in enumerate(first) if ratio >= max(first) - 1e-9)
        below = sum(ratio < second[best] - 1e-9 for ratio in second)
        equal = sum(abs(ratio - second[best]) <= 1e-9 for ratio in second)
        rank = below + (equal + 1) / 2
        omega = rank / (len(first) + 1)
        logits.append(math.log(omega / (1 - omega)))
        outside.append(second[best])
    return logits, outside


@settings(max_examples=60, deadline=None)
@given(st.sampled_from([2, 4, 6]), st.integers(12, 40), st.integers(2, 7), st.integers(0, 10_000))
def test_cscv_agrees_with_a_plain_version(blocks: int, periods: int, trials: int, seed: int) -> None:
    returns = noise(periods, trials, seed) + 0.003
    answer = found(returns, blocks)
    logits, outside = by_hand(returns, blocks)
    assert answer.logits == pytest.approx(logits)
    assert answer.out_of_sample == pytest.approx(outside)
    share = np.mean([0.5 if abs(logit) < 1e-12 else float(logit < 0) for logit in logits])
    assert answer.pbo == pytest.approx(share)


@settings(max_examples=60, deadline=None)
@given(arrays(np.float64, (16, 4), elements=st.sampled_from([-0.01, 0.0, 0.01])))
def test_cscv_agrees_with_a_plain_version_on_ties(returns: Any) -> None:
    """Three different returns only: equals everywhere, constant halves, copies."""
    answer = probability_of_backtest_overfitting(returns, 4)
    if isinstance(answer, Unknown):
        assert not np.ptp(returns, axis=0).any()
        return
    # A column that never varies is worth 0 however it stands; by hand the same.
    logits, outside = by_hand(returns, 4)
    assert answer.logits == pytest.approx(logits)
    assert answer.out_of_sample == pytest.approx(outside, abs=1e-9)


@settings(max_examples=30, deadline=None)
@given(st.integers(0, 10_000), st.floats(0.001, 1000))
def test_cscv_does_not_depend_on_order_or_scale(seed: int, scale: float) -> None:
    returns = noise(64, 6, seed)
    shuffled = np.random.default_rng(seed).permutation(6)
    answer = found(returns, 8)
    assert found(returns[:, shuffled] * scale, 8).logits == pytest.approx(answer.logits)
    assert 0 <= answer.pbo <= 1


@pytest.mark.slow
def test_sixteen_blocks_have_12870_splits_and_take_under_ten_seconds() -> None:
    # Bailey, Borwein, López de Prado, Zhu 2017: C(16, 8) = 12,870.
    returns = noise(2_500, 500)
    began = time.perf_counter()
    answer = found(returns)
    assert time.perf_counter() - began < 10
    assert len(answer.logits) == 12_870
    assert (answer.periods, answer.dropped_periods, answer.blocks) == (2_496, 4, 16)


def test_pbo_of_noise_is_near_one_half_and_of_an_edge_near_zero() -> None:
    shares = [found(noise(512, 20, seed), 8).pbo for seed in range(40)]
    assert np.mean(shares) == pytest.approx(0.5, abs=0.1)
    returns = noise(512, 20)
    returns[:, 7] += 0.003
    answer = found(returns, 8)
    assert answer.pbo == 0.0
    assert answer.probability_of_loss == 0.0


def test_a_strategy_that_is_good_in_one_half_is_overfit() -> None:
    """Each trial shines in one block and loses everywhere else."""
    returns = noise(800, 8) * 0.2 - 0.001
    for block in range(8):
        returns[block * 100 : (block + 1) * 100, block] += 0.009
    answer = found(returns, 8)
    assert answer.pbo == 1.0


def test_a_logit_of_zero_counts_as_half() -> None:
    """Copies always share the middle rank; so do trials that are all equally good."""
    one = noise(64, 1)
    for trials in (2, 3):
        answer = found(np.repeat(one, trials, axis=1), 4)
        assert not answer.logits.any()
        assert answer.pbo == 0.5


def test_a_plateau_has_a_pbo_like_noise_but_never_loses() -> None:
    answer = found(noise(512, 20) + 0.004, 8)
    assert answer.pbo > 0.4
    assert answer.probability_of_loss == 0.0


def test_a_high_sharpe_ratio_keeps_its_precision() -> None:
    """Mean a million times the deviation: sums of squares alone would keep nothing of the variance."""
    returns = noise(64, 5) * 1e-4 + 1.0
    assert found(returns, 4).out_of_sample == pytest.approx(by_hand(returns, 4)[1], rel=1e-6)


def test_a_strategy_that_never_traded_counts_as_zero() -> None:
    returns = np.column_stack([np.zeros(64), noise(64, 1)[:, 0] - 0.05])
    answer = found(returns, 4)
    assert not answer.out_of_sample.any()
    assert answer.pbo == 0.0


def test_impossible_cscv_has_a_reason() -> None:
    blank = noise(64, 3)
    blank[5, 2] = math.nan
    assert reason(probability_of_backtest_overfitting(blank)) == "the returns of trial 2 are not finite in period 5"
    assert "at least two" in reason(probability_of_backtest_overfitting(noise(64, 1)))
    assert "too few for 16 blocks" in reason(probability_of_backtest_overfitting(noise(31, 2)))
    assert "ever vary" in reason(probability_of_backtest_overfitting(np.full((64, 3), 0.1)))
    assert "different lengths" in reason(probability_of_backtest_overfitting([[0.1, 0.2], [0.1]]))
    assert "shape" in reason(probability_of_backtest_overfitting([0.1, 0.2]))
    assert "at least two" in reason(probability_of_backtest_overfitting(np.empty((64, 0))))
    for blocks in (3, 0, 22):
        with pytest.raises(ValueError, match="even and from 2 to 20"):
            probability_of_backtest_overfitting(noise(64, 3), blocks)


def test_the_normal_distribution_agrees_with_scipy() -> None:
    assert probabilistic_sharpe_ratio(0.1, observations=901) == pytest.approx(norm.cdf(3.0 / math.sqrt(1.005)))
