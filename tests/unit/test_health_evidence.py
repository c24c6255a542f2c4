"""Evidence: the effect of baselines, hold-outs and poor returns."""

from __future__ import annotations

import math
import subprocess
import sys
from typing import Any

import numpy as np
import pytest

from o9.health.checks.validity import evidence_of, misfit
from o9.health.facts import Family
from o9.health.grades import Grade, GradeReason
from o9.health.statistics.evidence import examine
from o9.health.statistics.moments import Moments
from o9.health.unknown import Unknown
from o9.health.verdict import Evidence, judge
from o9.model.states import TrialState
from o9.model.trial import Trial
from o9.store.core.column_types import pack_returns
from o9.store.optimizations.provenance import Baseline

DAYS = 1_260
NONE = Unknown("not given")


def noise(trials: int, days: int = DAYS, seed: int = 0) -> Any:
    return np.random.default_rng(seed).normal(0.0, 0.01, (trials, days))


def family(series: Any, **changes: Any) -> Family:
    kept = [pack_returns(one) for one in series]
    standard: dict[str, Any] = {"name": "f", "counts": {"completed": len(kept)}, "series": kept, "judged": 0}
    return Family(**(standard | changes))


def best_of(series: Any, **changes: Any) -> Trial:
    kept = tuple(map(float, series[0]))
    return Trial(0, 0, TrialState.COMPLETED, {}, 1.0, returns=kept, periods_per_year=252.0, **changes)


def packed(returns: Any, hold_out: Any = None) -> Baseline:
    return Baseline(pack_returns(returns), None if hold_out is None else pack_returns(hold_out))


def test_a_rising_market_is_no_edge_over_the_baseline() -> None:
    market = noise(1, seed=5)[0] + 0.002
    series = noise(30, seed=6) * 0.3 + market
    best = best_of(series, hold_out_returns=tuple(map(float, series[0][:300])))
    over = family(series, baseline=packed(market, market[:300]))
    over_zero = evidence_of(best, family(series, market_neutral=True))
    assert isinstance(over_zero, Evidence)
    assert judge(over_zero).grade is Grade.CONFIRMED
    evidence = evidence_of(best, over)
    assert isinstance(evidence, Evidence)
    assert evidence.over_benchmark
    assert judge(evidence).grade in {Grade.LOST, Grade.UNPROVEN}
    assert isinstance(evidence.out_of_sample, Moments)
    beta = float(np.cov(series[0], market)[0, 1] / market.var(ddof=1))
    assert evidence.beta == pytest.approx(beta)
    fresh = (series[0] - beta * market)[:300]  # of as much of it as it held in sample
    assert evidence.out_of_sample.sharpe == pytest.approx(float(fresh.mean() / fresh.std(ddof=1)))
    assert [np.frombuffer(one, "<f8").tolist() for one in over.series] == series.tolist()  # nothing was changed


def test_leverage_on_the_baseline_is_neither_an_edge_nor_a_fault() -> None:
    market = noise(1, seed=5)[0] + 0.0008
    own = noise(3, seed=6) * 0.3
    levers = np.array([2.0, 0.3, 0.0])
    evidence = [examine(levers[:, None] * market + own, best=place, benchmark=market) for place in range(3)]
    for place, one in enumerate(evidence):
        assert isinstance(one.best, Moments)
        assert one.beta == pytest.approx(levers[place], abs=0.03)
        assert abs(one.best.sharpe) < 3 / math.sqrt(DAYS)
    edge = examine(levers[:, None] * market + own + [[0], [0.0006], [0]], best=1, benchmark=market)
    assert isinstance(edge.best, Moments)
    assert edge.best.sharpe > 4 / math.sqrt(DAYS)


def test_a_scaled_copy_of_the_baseline_never_varies_over_it() -> None:
    market = noise(1, seed=5)[0] + 0.0008
    for size in (1.0, 2.0, 1 / 3):
        evidence = examine([size * market, noise(1)[0]], best=0, benchmark=market)
        assert isinstance(evidence.best, Unknown)
        assert "never vary" in evidence.best.reason


@pytest.mark.parametrize("cash", [np.zeros(DAYS), np.full(DAYS, 0.0001), 0.0001 + noise(1, seed=8)[0] / 300])
def test_cash_is_subtracted_with_beta_one(cash: Any) -> None:
    series = noise(3)
    evidence = examine(list(series), best=0, benchmark=cash, out_of_sample=series[0], out_of_sample_benchmark=cash)
    rest = series[0] - cash
    assert evidence.beta == 1.0
    assert (evidence.over_benchmark, evidence.over_cash) == (True, True)
    assert isinstance(evidence.best, Moments)
    assert evidence.best.sharpe == pytest.approx(float(rest.mean() / rest.std(ddof=1)))
    assert evidence.out_of_sample == evidence.best


@pytest.mark.parametrize(
    ("baseline", "why"),
    [
        ([0.0] * 9, "the baseline has 9 returns, trial 0 has 1,260"),
        ([math.nan] * DAYS, "the baseline's returns are not all finite"),
    ],
)
def test_a_baseline_that_does_not_fit_is_named_and_ignored(baseline: list[float], why: str) -> None:
    series = noise(20)
    best, odd = best_of(series, hold_out_returns=(0.1, 0.2, -0.1)), family(series, baseline=packed(baseline, [0.0] * 3))
    evidence = evidence_of(best, odd)
    assert misfit(best, odd) == why
    assert isinstance(evidence, Evidence)
    assert not evidence.over_benchmark
    assert isinstance(evidence.out_of_sample, Moments)  # over zero, as everything else then is
    assert evidence == evidence_of(best, family(series))


def test_a_hold_out_needs_a_benchmark_where_the_sample_has_one() -> None:
    series = noise(20)
    best = best_of(series, hold_out_returns=(0.1, 0.2, -0.1))
    for baseline, why in (
        (packed(noise(1, seed=9)[0]), "the baseline has returns in sample but none out of sample"),
        (packed(noise(1, seed=9)[0], [0.0] * 2), "the benchmark has 2 returns out of sample, the trial has 3"),
    ):
        evidence = evidence_of(best, family(series, baseline=baseline))
        assert isinstance(evidence, Evidence)
        assert evidence.out_of_sample == Unknown(why)


def test_nan_in_returns_excludes_the_trial_and_is_reported_for_the_best() -> None:
    series = noise(20)
    series[3][7] = math.nan
    best = best_of(series)
    evidence = evidence_of(best, family(series))
    assert isinstance(evidence, Evidence)
    assert (evidence.kept, evidence.counted) == (19, 20)
    spoiled = family(series, judged=3)
    itself = evidence_of(best, spoiled)
    assert isinstance(itself, Evidence)
    assert judge(itself).reason is GradeReason.NO_RETURNS
    assert "1 of 1260 returns are not finite, the first in period 7" in str(itself.best)


@pytest.mark.slow
@pytest.mark.long
def test_ten_thousand_trials_stay_within_the_documented_memory() -> None:
    code = (
        "import resource, numpy as np; from o9.health.statistics.evidence import examine\n"
        "rng = np.random.default_rng(1); market = rng.normal(0.0005, 0.01, 2520)\n"
        "series = [rng.normal(0, 0.01, 2520) for _ in range(10_000)]\n"
        "found = examine(series, benchmark=market, periods_per_year=252)\n"
        "assert found.kept == 10_000, found\n"
        "print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // 1024)"
    )
    told = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, timeout=300)
    assert int(told.stdout) < 1_250  # MiB, those of the returns that are given among them


def test_single_trials_constant_returns_and_unequal_lengths() -> None:
    alone = noise(1) + 0.002
    evidence = evidence_of(best_of(alone), family(alone))
    assert isinstance(evidence, Evidence)
    assert [isinstance(each, Unknown) for each in (evidence.best, evidence.overfitting, evidence.out_of_sample)] == [
        False, True, True,
    ]  # fmt: skip
    flat = np.zeros((3, DAYS))
    nothing = evidence_of(best_of(flat), family(flat))
    assert isinstance(nothing, Evidence)
    assert "never vary" in str(nothing.best)
    assert judge(nothing).reason is GradeReason.NO_RETURNS


def test_trials_over_other_periods_only_count() -> None:
    same = noise(20) + 0.001
    best = best_of(same, hold_out_returns=tuple(map(float, noise(1, 500, seed=9)[0] - 0.002)))
    alone, among = (evidence_of(best, family(series)) for series in (same, [*same, *noise(30, DAYS - 250, seed=8)]))
    assert isinstance(alone, Evidence)
    assert isinstance(among, Evidence)
    assert (among.kept, among.counted) == (20, 50)
    assert not isinstance(alone.family, Unknown)
    assert not isinstance(among.family, Unknown)
    assert judge(alone).grade is judge(among).grade is Grade.LOST
    p = [judge(each).figures["p_value"] for each in (alone, among)]
    assert p[1] > p[0]
