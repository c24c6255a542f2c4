"""What stands beside the verdict: lengths, PBO, out of sample; and what a baseline and a hold-out change."""

from __future__ import annotations

import math
import subprocess
import sys
from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from o9.health.beside import beside, track_record
from o9.health.checks import Check
from o9.health.evidence import examine
from o9.health.facts import Family
from o9.health.moments import Moments
from o9.health.overfitting import BacktestOverfitting, minimum_backtest_length, minimum_track_record_length
from o9.health.unknown import Unknown
from o9.health.validity import evidence_of, luck
from o9.health.verdict import Evidence, Verdict, judge
from o9.model.states import TrialState
from o9.model.trial import Trial
from o9.store.codec import pack_returns
from o9.store.provenance import Baseline

DAYS = 1_260
NONE = Unknown("not given")


def noise(trials: int, days: int = DAYS, seed: int = 0) -> Any:
    return np.random.default_rng(seed).normal(0.0, 0.01, (trials, days))


def known(**changes: Any) -> Evidence:
    """200 trials over five years, the best of which is worth 1.9 a year; what a test needs is changed."""
    splits = np.zeros(70)
    standard: dict[str, Any] = {
        "counted": 200, "kept": 200, "best": Moments(DAYS, 0.12, 0.0, 3.0), "luck": 0.055, "deflated": 0.99,
        "deflated_effective": 0.99, "effective": 20.0, "family": NONE,
        "overfitting": BacktestOverfitting(0.1, splits, splits, splits, 0.2, None, 200, DAYS, 0, 8),
        "out_of_sample": Moments(252, 0.09, 0.0, 3.0), "periods_per_year": 252,
    }  # fmt: skip
    return Evidence(**(standard | changes))


def named(evidence: Evidence | Unknown, name: str) -> Check:
    return next(check for check in beside(evidence) if check.name == f"validity.{name}")


def test_what_is_good_is_told_with_its_figures() -> None:
    assert {check.name: check.score for check in beside(known())} == {
        "validity.track_record": 1.0, "validity.backtest_length": 1.0, "validity.overfitting": 1.0,
        "validity.out_of_sample": 1.0,
    }  # fmt: skip
    assert named(known(), "track_record").words == (
        "a Sharpe ratio of 1.90 a year takes 190 periods (0.8 years) to be told from zero with 95% confidence; there "
        "are 1,260 periods (5.0 years)"
    )
    assert named(known(), "backtest_length").words == (
        "the best of 20 independent worthless trials is expected to reach its 1.90 a year by luck within 1.0 years; "
        "the backtest has 5.0 (within 2.1 if none of the 200 trials were correlated)"
    )
    assert named(known(), "overfitting").words == (
        "PBO is 0.10 over 70 splits of 200 trials; what was chosen in one half lost in 20% of the other halves"
    )
    assert named(known(), "out_of_sample").words == (
        "the Sharpe ratio is 1.43 a year over 252 periods (1.0 years) out of sample and 1.90 a year over 1,260 periods "
        "(5.0 years) in sample: 75% of it"
    )


@pytest.mark.parametrize("sharpe", [0.03, 0.046, 0.047, 0.2])
@pytest.mark.parametrize("shape", [(0.0, 3.0), (-0.72, 5.78)])
def test_the_record_is_long_enough_from_its_minimum_on(sharpe: float, shape: tuple[float, float]) -> None:
    needed = minimum_track_record_length(sharpe, skewness=shape[0], kurtosis=shape[1])
    assert isinstance(needed, float)
    for days in (math.floor(needed), math.ceil(needed)):
        found = track_record(best := Moments(days, sharpe, *shape), known(best=best))
        assert found.score == (1.0 if days >= needed else 0.7)
        assert bool(found.remedy) == (days < needed)


def test_a_record_that_is_not_above_the_baseline_is_never_long_enough() -> None:
    best = Moments(DAYS, -0.01, 0.0, 3.0)
    for over, words in ((True, "a year over the baseline is not above zero"), (False, "a year is not above zero")):
        found = named(known(best=best, over_benchmark=over), "track_record")
        assert (found.score, words in found.words) == (0.7, True)
    assert "by luck at any length" in named(known(best=best), "backtest_length").words


def test_the_more_were_tried_the_longer_the_backtest_must_be() -> None:
    needed = minimum_backtest_length(10_000, 0.12 * math.sqrt(252))
    assert isinstance(needed, float)
    assert needed < 5.0
    assert named(known(counted=10_000, effective=10_000.0), "backtest_length").score == 1.0
    few = Moments(int(252 * needed), 0.12, 0.0, 3.0)
    for effective in (NONE, 10_000):
        short = named(known(counted=10_000, effective=effective, best=few), "backtest_length")
        assert (short.score, short.evidence["needed"]) == (0.7, needed)
        assert "if none" not in short.words
    copies = named(known(counted=10_000, effective=20.0, best=few), "backtest_length")
    assert (copies.score, copies.evidence["needed_of_counted"]) == (1.0, needed)
    per_period = known(periods_per_year=None)
    assert isinstance(named(per_period, "backtest_length").score, Unknown)
    assert "0.1200 a period takes 190 periods to be told" in named(per_period, "track_record").words


def test_pbo_alone_is_no_harm_and_with_loss_it_is_the_verdict() -> None:
    found = known().overfitting
    assert isinstance(found, BacktestOverfitting)
    plateau = replace(found, pbo=0.6, probability_of_loss=0.01)
    assert named(known(overfitting=plateau), "overfitting").score == 1.0
    fitted = known(overfitting=replace(found, pbo=0.6, probability_of_loss=0.55))
    assert judge(fitted).verdict is Verdict.OVERFIT
    assert named(fitted, "overfitting").score == pytest.approx(0.4)
    assert isinstance(named(known(overfitting=NONE), "overfitting").score, Unknown)


def test_out_of_sample_what_is_contradicted_is_the_verdict_and_a_loss_is_a_warning() -> None:
    lost = known(out_of_sample=Moments(20, -0.05, 0.0, 3.0))  # too short to contradict
    assert judge(lost).verdict is not Verdict.OVERFIT
    assert named(lost, "out_of_sample").score == 0.7
    assert "nothing of it is left" in named(lost, "out_of_sample").words
    assert "too short to tell: even all of it would take 190 periods" in named(lost, "out_of_sample").words
    contradicted = known(out_of_sample=Moments(504, -0.05, 0.0, 3.0))
    assert judge(contradicted).verdict is Verdict.OVERFIT
    assert named(contradicted, "out_of_sample").score < 0.05  # type: ignore[operator]
    missing = named(known(out_of_sample=NONE), "out_of_sample")
    assert isinstance(missing.score, Unknown)
    assert "hold_out_returns" in missing.remedy


def test_out_of_sample_too_little_is_a_warning_unless_it_can_be_told_from_zero() -> None:
    modest = Moments(DAYS, 0.56 / math.sqrt(252), 0.0, 3.0)
    short = named(known(best=modest, out_of_sample=Moments(504, 0.0006 / math.sqrt(252), 0.0, 3.0)), "out_of_sample")
    assert (short.score, bool(short.remedy)) == (0.7, True)
    assert "0% of it, which cannot be told from nothing; it is too short to tell: even all of it" in short.words
    long = named(known(luck=0.11, out_of_sample=Moments(504, 0.05, 0.0, 3.0)), "out_of_sample")
    assert (long.score, long.words.endswith("42% of it, which cannot be told from nothing")) == (0.7, True)
    told = named(known(luck=0.11, out_of_sample=Moments(5_040, 0.05, 0.0, 3.0)), "out_of_sample")
    assert (told.score, told.remedy) == (1.0, "")
    assert named(known(best=modest, out_of_sample=Moments(504, 0.02, 0.0, 3.0)), "out_of_sample").score == 1.0


def test_what_luck_says_already_is_not_said_again() -> None:
    assert beside(NONE) == []
    assert beside(examine([[0.01] * 100] * 3)) == []


def family(series: Any, **changes: Any) -> Family:
    kept = [pack_returns(one) for one in series]
    standard: dict[str, Any] = {"name": "f", "counts": {"completed": len(kept)}, "series": kept, "judged": 0}
    return Family(**(standard | changes))


def best_of(series: Any, **changes: Any) -> Trial:
    kept = tuple(map(float, series[0]))
    return Trial(0, 0, TrialState.COMPLETED, {}, 1.0, returns=kept, periods_per_year=252.0, **changes)


def packed(returns: Any, hold_out: Any = None) -> Baseline:
    return Baseline(pack_returns(returns), None if hold_out is None else pack_returns(hold_out))


def test_over_its_baseline_a_rising_market_is_no_edge() -> None:
    market = noise(1, seed=5)[0] + 0.002
    series = noise(30, seed=6) * 0.3 + market
    best = best_of(series, hold_out_returns=tuple(map(float, series[0][:300])))
    over_zero, over = family(series), family(series, baseline=packed(market, market[:300]))
    assert "real" in luck(best, over_zero, evidence_of(best, over_zero)).words[:5]
    evidence = evidence_of(best, over)
    found = luck(best, over, evidence)
    assert (found.score <= 0.5, found.evidence["over_baseline"]) == (True, True)  # type: ignore[operator]
    assert isinstance(evidence, Evidence)
    assert isinstance(evidence.out_of_sample, Moments)
    beta = float(np.cov(series[0], market)[0, 1] / market.var(ddof=1))
    assert evidence.beta == pytest.approx(beta)
    fresh = (series[0] - beta * market)[:300]  # of as much of it as it held in sample
    assert evidence.out_of_sample.sharpe == pytest.approx(float(fresh.mean() / fresh.std(ddof=1)))
    assert [np.frombuffer(one, "<f8").tolist() for one in over.series] == series.tolist()  # nothing was changed


def test_a_lever_on_the_baseline_is_no_edge_and_less_risk_no_fault() -> None:
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


def test_a_copy_of_the_baseline_in_any_size_never_varies_over_it() -> None:
    market = noise(1, seed=5)[0] + 0.0008
    for size in (1.0, 2.0, 1 / 3):
        evidence = examine([size * market, noise(1)[0]], best=0, benchmark=market)
        assert isinstance(evidence.best, Unknown)
        assert "never vary" in evidence.best.reason


@pytest.mark.parametrize("cash", [np.full(DAYS, 0.0001), 0.0001 + noise(1, seed=8)[0] / 300])
def test_cash_is_subtracted_as_it_is(cash: Any) -> None:
    series = noise(3)
    evidence = examine(list(series), best=0, benchmark=cash, out_of_sample=series[0], out_of_sample_benchmark=cash)
    rest = series[0] - cash
    assert evidence.beta == 1.0
    assert isinstance(evidence.best, Moments)
    assert evidence.best.sharpe == pytest.approx(float(rest.mean() / rest.std(ddof=1)))
    assert evidence.out_of_sample == evidence.best


@pytest.mark.parametrize(
    ("baseline", "words"),
    [
        ([0.0] * 9, "the baseline has 9 returns, trial 0 has 1,260"),
        ([math.nan] * DAYS, "the baseline's returns are not all finite"),
    ],
)
def test_a_baseline_that_does_not_fit_is_said_and_left_aside(baseline: list[float], words: str) -> None:
    series = noise(20)
    best, odd = best_of(series, hold_out_returns=(0.1, 0.2, -0.1)), family(series, baseline=packed(baseline, [0.0] * 3))
    evidence = evidence_of(best, odd)
    found = luck(best, odd, evidence)
    assert f"It is judged over zero and not over its baseline: {words}." in found.words
    assert isinstance(evidence, Evidence)
    assert not evidence.over_benchmark
    assert isinstance(evidence.out_of_sample, Moments)  # over zero, as everything else then is
    plain = luck(best, family(series), evidence_of(best, family(series)))
    assert found.score == plain.score


def test_a_hold_out_is_not_held_against_another_measure() -> None:
    series = noise(20)
    best = best_of(series, hold_out_returns=(0.1, 0.2, -0.1))
    for baseline, why in (
        (packed(noise(1, seed=9)[0]), "the baseline has returns in sample and none out of sample"),
        (packed(noise(1, seed=9)[0], [0.0] * 2), "the benchmark has 2 returns out of sample, the trial has 3"),
    ):
        evidence = evidence_of(best, family(series, baseline=baseline))
        assert isinstance(evidence, Evidence)
        assert evidence.out_of_sample == Unknown(why)


def test_nan_inside_returns_leaves_its_trial_out_and_is_told_where_it_is_the_best() -> None:
    series = noise(20)
    series[3][7] = math.nan
    best = best_of(series)
    evidence = evidence_of(best, family(series))
    assert isinstance(evidence, Evidence)
    assert (evidence.kept, evidence.counted) == (19, 20)
    spoiled = family(series, judged=3)
    found = luck(best, spoiled, evidence_of(best, spoiled))
    assert isinstance(found.score, Unknown)
    assert "1 of 1260 returns are not finite, the first in period 7" in found.words


@pytest.mark.slow
@pytest.mark.long
def test_ten_thousand_trials_over_ten_years_stay_within_the_memory_that_is_stated() -> None:
    code = (
        "import resource, numpy as np; from o9.health.evidence import examine\n"
        "rng = np.random.default_rng(1); market = rng.normal(0.0005, 0.01, 2520)\n"
        "series = [rng.normal(0, 0.01, 2520) for _ in range(10_000)]\n"
        "found = examine(series, benchmark=market, periods_per_year=252)\n"
        "assert found.kept == 10_000, found\n"
        "print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // 1024)"
    )
    told = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, timeout=300)
    assert int(told.stdout) < 1_250  # MiB, those of the returns that are given among them


def test_one_trial_constant_returns_and_other_lengths() -> None:
    alone = noise(1) + 0.002
    evidence = evidence_of(best_of(alone), family(alone))
    assert {check.name.partition(".")[2] for check in beside(evidence) if isinstance(check.score, Unknown)} == {
        "overfitting", "out_of_sample",
    }  # fmt: skip
    assert named(evidence, "backtest_length").evidence["needed"] == 0.0
    flat = np.zeros((3, DAYS))
    assert "never vary" in luck(best_of(flat), family(flat), evidence_of(best_of(flat), family(flat))).words
    ragged = [noise(1)[0], noise(1, DAYS - 1)[0]]
    assert (
        "2 different lengths"
        in luck(best_of(ragged), family(ragged), evidence_of(best_of(ragged), family(ragged))).words
    )
