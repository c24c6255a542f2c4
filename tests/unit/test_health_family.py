"""Moments, effective numbers, and the family test: against arch's own, and on families with a known edge."""

from __future__ import annotations

import math
import sys
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats
from scipy.signal import lfilter

from o9.health.statistics import spa as family
from o9.health.statistics.moments import Aligned, Moments, aligned, moments
from o9.health.statistics.spa import (
    effective_number_of_trials,
    family_p_value,
    long_run_deviation,
    p_value_of_all,
    prewhitened_deviation,
    sharpe_ratios,
    shrunk_autocorrelations,
)
from o9.health.unknown import Unknown


def noise(periods: int, trials: int, seed: int = 0) -> Any:
    return np.random.default_rng(seed).normal(0.0, 0.01, (periods, trials))


def outcome(returns: Any, **options: Any) -> float:
    answer = family_p_value(returns, **options)
    assert isinstance(answer, float), answer
    return answer


def reason(answer: object) -> str:
    assert isinstance(answer, Unknown), answer
    return answer.reason


# --- moments ------------------------------------------------------------------------------------------------------


@settings(max_examples=50)
@given(st.lists(st.floats(-1, 1), min_size=3, max_size=60))
def test_moments_agree_with_scipy(returns: list[float]) -> None:
    answer = moments(returns)
    if isinstance(answer, Unknown):
        assert np.ptp(returns) < 1e-11
    elif np.ptp(returns) > 1e-6:
        assert answer.sharpe == pytest.approx(np.mean(returns) / np.std(returns, ddof=1))
        assert answer.skewness == pytest.approx(stats.skew(returns), abs=1e-6)
        assert answer.kurtosis == pytest.approx(stats.kurtosis(returns, fisher=False), rel=1e-6)


def test_a_normal_sample_has_kurtosis_three() -> None:
    answer = moments(noise(100_000, 1)[:, 0])
    assert isinstance(answer, Moments)
    assert answer.kurtosis == pytest.approx(3, abs=0.1)
    assert answer.annual_sharpe(252) == pytest.approx(math.sqrt(252) * answer.sharpe)


def test_series_without_moments_have_a_reason() -> None:
    assert "no returns" in reason(moments([]))
    assert "too few" in reason(moments([0.1, 0.2]))
    assert "never vary" in reason(moments([0.1] * 30))
    assert reason(moments([0.1, math.nan, math.inf])) == "2 of 3 returns are not finite, the first in period 1"


def test_series_are_aligned_to_a_matrix() -> None:
    answer = aligned([[0.1, 0.2], None, [0.3, math.nan], [0.5, 0.6]])
    assert isinstance(answer, Aligned)
    assert answer.matrix.tolist() == [[0.1, 0.5], [0.2, 0.6]]
    assert answer.positions == (0, 3)
    assert answer.left_out.keys() == {1, 2}
    assert "not finite" in answer.left_out[2]
    assert "2 different lengths" in reason(aligned([[0.1, 0.2], [0.1]]))
    judged = aligned([[0.1], [0.1, 0.2], None, [0.3, 0.4]], judged=1)
    assert isinstance(judged, Aligned)
    assert (judged.positions, sorted(judged.left_out)) == ((1, 3), [0, 2])
    assert isinstance(aligned([[0.1], None, [0.1, 0.2]], judged=1), Unknown)
    assert "none of 2 trials has usable returns; trial 0: it has no returns" in reason(aligned([None, []]))
    assert "none of 0 trials" in reason(aligned([]))


def test_series_with_impossible_returns_are_left_out() -> None:
    answer = aligned([[0.1, 0.2], [0.1, -1e15 - 1], [1e154, 1e154], [1e15, -1e15]])
    assert isinstance(answer, Aligned)
    assert answer.positions == (0, 3)
    assert answer.left_out[1] == "1 of 2 returns are beyond ±1,000,000,000,000,000, the first in period 1"
    assert "beyond" in reason(moments([0.1, 0.2, 1e16]))


def test_returns_that_underflow_when_squared_are_unusable() -> None:
    assert "no return is larger than 4e-200" in reason(moments([1e-200, 2e-200, 4e-200]))


# --- effective number of trials -----------------------------------------------------------------------------------


@pytest.mark.parametrize(("periods", "trials"), [(2_520, 200), (250, 1_000)])
def test_uncorrelated_trials_count_fully(periods: int, trials: int) -> None:
    """Even with more trials than periods, where the sample correlations have few eigenvalues."""
    assert effective_number_of_trials(noise(periods, trials)) == pytest.approx(trials, rel=0.02)


def test_scaled_copies_count_once() -> None:
    copies = noise(500, 1) @ np.linspace(0.5, 2.0, 40)[None, :]
    assert effective_number_of_trials(copies) == pytest.approx(1.0)


def test_groups_count_between_their_number_and_their_members() -> None:
    groups = np.repeat(noise(2_520, 10), 20, axis=1)
    counts = [effective_number_of_trials(groups + noise(2_520, 200, 1) * own) for own in (0.0, 0.1, 0.3, 1.0, 10.0)]
    assert counts == sorted(counts)  # type: ignore[type-var]
    assert counts[0] == pytest.approx(16, abs=1)
    assert counts[-1] > 190  # type: ignore[operator]


@settings(max_examples=30, deadline=None)
@given(st.integers(0, 10_000), st.integers(1, 12), st.floats(0, 1))
def test_the_effective_number_is_between_one_and_all(seed: int, trials: int, shared: float) -> None:
    returns = noise(60, trials, seed) + shared * noise(60, 1, seed + 1)
    answer = effective_number_of_trials(returns)
    assert isinstance(answer, float)
    assert 1 <= answer <= trials


def test_constant_trials_are_left_out_of_the_effective_number() -> None:
    returns = np.column_stack([noise(100, 3), np.zeros((100, 2))])
    assert effective_number_of_trials(returns) == effective_number_of_trials(noise(100, 3))
    assert "ever vary" in reason(effective_number_of_trials(np.zeros((100, 2))))
    assert "too few" in reason(effective_number_of_trials(noise(20, 3)))
    assert "not finite" in reason(effective_number_of_trials(np.full((100, 2), math.nan)))
    assert sharpe_ratios(returns)[3:].tolist() == [0.0, 0.0]


# --- the test of the family -------------------------------------------------------------------------------------------


def test_the_long_run_deviation_agrees_with_arch() -> None:
    from arch.bootstrap import SPA

    returns = np.cumsum(noise(300, 5), axis=0)[::2] * 0.1 + noise(150, 5, 1)
    theirs = SPA(np.zeros(150), -returns, block_size=7, reps=10, seed=0)
    theirs.compute()
    assert long_run_deviation(returns, 7) ** 2 == pytest.approx(theirs._loss_diff_var)


def test_over_many_independent_returns_the_p_value_agrees_with_arch() -> None:
    """arch 8.0.0 never studentizes, so the columns are divided beforehand."""
    from arch.bootstrap import SPA

    returns = noise(2_500, 12) + np.linspace(-0.004, 0.0001, 12)
    scaled = returns / long_run_deviation(returns, 2)
    theirs = SPA(np.zeros(len(returns)), -scaled, block_size=2, reps=1_000, seed=5)
    theirs.compute()
    assert theirs.pvalues["consistent"] < 0.5 < theirs.pvalues["upper"]
    assert outcome(returns) == pytest.approx(theirs.pvalues["consistent"], abs=0.05)


def test_the_prewhitened_deviation_has_no_bias_of_short_blocks() -> None:
    """Returns with an autocorrelation of 0.5: the long-run deviation of their mean is twice that of the shocks."""
    shocks = np.random.default_rng(0).standard_normal((20_050, 40))
    returns = lfilter([1.0], [1.0, -0.5], shocks, axis=0)[50:]
    assert prewhitened_deviation(returns, shrunk_autocorrelations(returns)).mean() == pytest.approx(2.0, rel=0.01)
    assert long_run_deviation(returns, 8).mean() < 1.9


def test_autocorrelations_of_similar_trials_are_shrunk() -> None:
    shocks = np.random.default_rng(1).standard_normal((300, 100))
    alike = lfilter([1.0], [1.0, -0.3], shocks, axis=0)
    assert shrunk_autocorrelations(alike).std() < 0.025  # sampling alone gives 0.055
    half = np.where(np.arange(100) < 50, alike, shocks)
    kept = shrunk_autocorrelations(half)
    assert kept[:50].mean() == pytest.approx(0.3, abs=0.05)
    assert kept[50:].mean() == pytest.approx(0.0, abs=0.05)
    assert shrunk_autocorrelations(alike[:, :1])[0] == pytest.approx(
        np.corrcoef(alike[1:, 0], alike[:-1, 0])[0, 1], abs=0.01
    )


@pytest.mark.slow
@pytest.mark.parametrize("kept", [0.0, 0.2])
def test_a_family_without_edge_passes_at_the_level(kept: float) -> None:
    """Sixty periods, where the deviation is least certain."""
    outcomes = []
    for seed in range(100):
        shocks = np.random.default_rng(seed).standard_normal((80, 30))
        outcomes.append(outcome(lfilter([1.0], [1.0, -kept], shocks, axis=0)[20:], replications=200, seed=seed))
    assert sum(one <= 0.05 for one in outcomes) <= 11  # 5 expected, and three standard errors
    assert sum(one <= 0.5 for one in outcomes) == pytest.approx(50, abs=20)


@pytest.mark.slow
def test_few_returns_are_resampled_with_fat_tails(monkeypatch: pytest.MonkeyPatch) -> None:
    """The best of 100 t-statistics of 60 returns is Student's, not a normal one."""
    monkeypatch.setattr(family, "BLOCK_SAMPLE", 10)  # ten independent columns tell the length of a block as well
    passed = [
        outcome(np.random.default_rng(seed).standard_normal((60, 100)), replications=200, seed=seed) <= 0.1
        for seed in range(150)
    ]
    assert sum(passed) <= 26  # 15 expected, and three standard errors; with the deviation of the whole series 28


def test_an_edge_is_found_in_noise() -> None:
    returns = noise(1_000, 50)
    assert outcome(returns) > 0.2
    returns[:, 33] += 0.0016
    assert outcome(returns) == outcome(returns, chosen=33) < 0.01


def test_the_p_value_is_deterministic_for_a_seed() -> None:
    assert outcome(noise(200, 10), seed=3) == outcome(noise(200, 10), seed=3)
    assert outcome(noise(200, 10), seed=3) != outcome(noise(200, 10), seed=4)


@pytest.mark.parametrize("trials", [1, 7, 300])
def test_the_chunk_size_does_not_change_the_p_value(trials: int, monkeypatch: pytest.MonkeyPatch) -> None:
    whole = outcome(noise(120, trials), replications=200)
    monkeypatch.setattr(family, "CELLS_AT_ONCE", 1_000)  # five columns
    parts = outcome(noise(120, trials), replications=200)
    assert parts == whole


def test_the_benchmarks_own_edge_is_removed() -> None:
    market = noise(1_000, 1, 9)[:, 0] + 0.0016
    returns = noise(1_000, 30) * 0.3 + market[:, None]
    assert outcome(returns) < 0.01
    assert outcome(returns - market[:, None]) > 0.05


def test_another_trial_than_the_best_has_a_larger_p_value() -> None:
    returns = noise(1_000, 20)
    returns[:, 3] += 0.0015
    best = outcome(returns)
    other = outcome(returns, chosen=int(np.argsort(sharpe_ratios(returns))[-2]))
    assert best == outcome(returns, chosen=3)
    assert other > best + 0.1


def test_a_trial_that_never_traded_changes_nothing() -> None:
    returns = np.column_stack([np.zeros(200), noise(200, 5)])
    assert outcome(returns) == outcome(returns[:, 1:])
    assert outcome(returns, chosen=4) == outcome(returns[:, 1:], chosen=3)
    assert "trial 0 never vary" in reason(family_p_value(returns, chosen=0))


def test_a_family_that_cannot_be_tested_has_a_reason(monkeypatch: pytest.MonkeyPatch) -> None:
    assert "ever vary" in reason(family_p_value(np.zeros((100, 3))))
    assert "too few" in reason(family_p_value(noise(59, 3)))
    assert "not finite" in reason(family_p_value(np.full((100, 2), math.nan)))
    monkeypatch.setitem(sys.modules, "arch.bootstrap", None)
    assert "prefect-o9[quant]" in reason(family_p_value(noise(100, 3)))


def test_trials_without_returns_raise_the_p_value() -> None:
    assert p_value_of_all(0.02, 200, 200) == pytest.approx(0.02)
    assert p_value_of_all(0.02, 100, 200) == pytest.approx(1 - 0.98**2)
    assert p_value_of_all(1.0, 1, 200) == pytest.approx(1.0)
