"""The verdict: what each leg says, which one decides, and what is said where something is missing."""

from __future__ import annotations

import math
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from o9.health.evidence import examine
from o9.health.family import FamilyTest
from o9.health.moments import Moments
from o9.health.overfitting import BacktestOverfitting, probabilistic_sharpe_ratio
from o9.health.unknown import Unknown
from o9.health.verdict import DEFLATED_LEVEL, FAMILY_LEVEL, Evidence, Verdict, judge
from o9.store.families import PrunedTrials

DAYS = 2_520
NONE = Unknown("not given")


def noise(trials: int = 200, periods: int = DAYS, seed: int = 0) -> Any:
    return np.random.default_rng(seed).normal(0.0, 0.01, (trials, periods))


def with_edge(annual_sharpe: float, trials: int = 200, seed: int = 0) -> Any:
    returns = noise(trials, seed=seed)
    returns[17] += annual_sharpe / math.sqrt(252) * 0.01
    return returns


def test_of(p_value: float) -> FamilyTest:
    return FamilyTest(p_value, p_value, 3.0, 0, 200, DAYS, 2, 1_000)


test_of.__test__ = False  # type: ignore[attr-defined]


def split(pbo: float, loss: float) -> BacktestOverfitting:
    some = np.zeros(2)
    return BacktestOverfitting(pbo, some, some, some, loss, None, 200, DAYS, 0, 16)


def known(**changes: Any) -> Evidence:
    """Splendid evidence; what a test needs is changed."""
    splendid = Evidence(
        counted=200,
        kept=200,
        best=Moments(DAYS, 0.12, 0.0, 3.0),
        luck=0.055,
        deflated=0.99,
        deflated_effective=0.995,
        effective=150.0,
        family=test_of(0.001),
        overfitting=split(0.02, 0.05),
        out_of_sample=Moments(504, 0.11, 0.0, 3.0),
        periods_per_year=252,
    )
    return replace(splendid, **changes)


# --- the whole rule, on families ----------------------------------------------------------------------------------


def test_two_hundred_worthless_strategies_are_not_real_although_the_best_looks_splendid() -> None:
    evidence = examine(list(noise()), periods_per_year=252)
    assert isinstance(evidence.best, Moments)
    assert evidence.best.annual_sharpe(252) > 0.7
    assert isinstance(evidence.deflated, float)
    assert evidence.deflated < 0.9
    judgement = judge(evidence)
    assert judgement.verdict in {Verdict.LUCK, Verdict.OVERFIT}
    assert judgement.score is not None


def test_a_planted_edge_passes() -> None:
    judgement = judge(examine(list(with_edge(2.0)), periods_per_year=252))
    assert (judgement.verdict, judgement.decided_by) == (Verdict.REAL, "family_test")
    assert "so it is more than luck" in judgement.words
    assert "a year from 2,520 returns" in judgement.words
    assert judgement.errs


def test_the_more_that_were_tried_the_less_it_says() -> None:
    """The same returns; the others failed or were thrown away."""
    returns = list(with_edge(1.5, trials=20))
    few, many = examine(returns), examine(returns, counted=50_000)
    assert judge(few).verdict is Verdict.REAL
    assert judge(many).verdict is Verdict.LUCK
    assert "The returns of 49,980 of 50,000 trials are not there" in judge(many).words
    assert many.p_value > few.p_value  # type: ignore[operator]
    assert many.luck > few.luck  # type: ignore[operator]
    assert many.deflated < few.deflated  # type: ignore[operator]


def test_an_edge_in_sample_only_is_overfit() -> None:
    returns = with_edge(4.0)
    fresh = noise(1, 504, seed=9)[0] - 0.001
    judgement = judge(examine(list(returns), out_of_sample=fresh, periods_per_year=252))
    assert (judgement.verdict, judgement.decided_by) == (Verdict.OVERFIT, "hold_out")
    assert "Out of sample the Sharpe ratio is -" in judgement.words


def test_a_rising_market_is_no_edge_over_itself() -> None:
    market = noise(1, seed=5)[0] + 0.002
    returns = noise(30) * 0.3 + market
    assert judge(examine(list(returns))).verdict is Verdict.REAL
    over = judge(examine(list(returns), benchmark=market))
    assert over.verdict is not Verdict.REAL
    assert "over the baseline" in str(over.legs)


def test_trials_without_returns_count_and_change_nothing_else() -> None:
    returns = list(with_edge(2.0, trials=20))
    gaps: list[Any] = [None, *returns[:10], None, *returns[10:], [math.nan] * DAYS]
    evidence, plain = examine(gaps), examine(returns, counted=23)
    assert evidence == plain
    assert (evidence.counted, evidence.kept) == (23, 20)
    assert evidence.effective == pytest.approx(23, abs=1)
    assert examine(gaps, best=19) == evidence


def test_another_trial_than_the_best_can_be_judged() -> None:
    returns = list(with_edge(2.0, trials=20))
    assert judge(examine(returns, best=17)).verdict is Verdict.REAL
    assert judge(examine(returns, best=3)).verdict is not Verdict.REAL
    with pytest.raises(ValueError, match="no series 99"):
        examine(returns, best=99)


def test_one_trial_alone_is_judged_without_the_luck_of_choice() -> None:
    evidence = examine([with_edge(2.0)[17]])
    assert evidence.luck == 0.0
    assert isinstance(evidence.best, Moments)
    alone = probabilistic_sharpe_ratio(
        evidence.best.sharpe,
        observations=DAYS,
        skewness=evidence.best.skewness,
        kurtosis=evidence.best.kurtosis,
    )
    assert evidence.deflated == pytest.approx(alone)
    assert judge(evidence).verdict is Verdict.REAL
    assert "at least two" in str(evidence.overfitting)


# --- which leg decides ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("changes", "verdict", "decided_by"),
    [
        ({}, Verdict.REAL, "family_test"),
        ({"family": test_of(FAMILY_LEVEL)}, Verdict.REAL, "family_test"),
        ({"family": test_of(FAMILY_LEVEL + 1e-6)}, Verdict.LUCK, "family_test"),
        ({"family": test_of(0.5), "deflated": 0.99}, Verdict.LUCK, "family_test"),
        ({"deflated": 0.1}, Verdict.REAL, "family_test"),
        ({"family": NONE}, Verdict.REAL, "deflated"),
        ({"family": NONE, "deflated": DEFLATED_LEVEL}, Verdict.LUCK, "deflated"),
        ({"family": NONE, "deflated": NONE}, Verdict.UNKNOWN, "none"),
        ({"overfitting": split(0.6, 0.6)}, Verdict.OVERFIT, "split_sample"),
        ({"overfitting": split(0.6, 0.6), "family": NONE, "deflated": NONE}, Verdict.OVERFIT, "split_sample"),
        ({"overfitting": split(0.9, 0.1)}, Verdict.REAL, "family_test"),  # a plateau of equals
        ({"overfitting": split(0.1, 0.9)}, Verdict.REAL, "family_test"),
        ({"overfitting": NONE, "out_of_sample": NONE}, Verdict.REAL, "family_test"),
        ({"out_of_sample": Moments(504, -0.05, 0.0, 3.0)}, Verdict.OVERFIT, "hold_out"),
        ({"out_of_sample": Moments(20, -0.05, 0.0, 3.0)}, Verdict.REAL, "family_test"),  # too short to contradict
        ({"out_of_sample": Moments(504, 0.02, 0.0, 3.0)}, Verdict.REAL, "family_test"),  # less, but no contradiction
        ({"out_of_sample": Moments(504, -0.05, 0.0, 3.0), "luck": 0.2}, Verdict.REAL, "family_test"),
    ],
)
def test_the_first_leg_that_speaks_decides(changes: dict[str, Any], verdict: Verdict, decided_by: str) -> None:
    judgement = judge(known(**changes))
    assert (judgement.verdict, judgement.decided_by) == (verdict, decided_by)
    assert [leg.name for leg in judgement.legs] == ["hold_out", "split_sample", "family_test", "deflated"]
    assert (judgement.score is None) == (verdict is Verdict.UNKNOWN)


def test_unknown_is_said_with_all_its_reasons() -> None:
    judgement = judge(examine([None, None], counted=200))
    assert judgement.verdict is Verdict.UNKNOWN
    assert judgement.score is None
    assert "none of 2 trials has usable returns" in judgement.words
    ragged = judge(examine([[0.1, 0.2, 0.3], [0.1, 0.2]]))
    assert ragged.verdict is Verdict.UNKNOWN
    assert "2 different lengths" in ragged.words


@pytest.mark.parametrize(
    ("arguments", "where", "why"),
    [
        ({"returns": [[0.01] * 300, [0.01] * 300]}, "best", "never vary"),
        ({"returns": [noise(1)[0], None], "best": 1}, "best", "it has no returns"),
        ({"returns": [noise(1)[0]], "counted": 9}, "deflated", "only 1 of 9 trials"),
        ({"returns": list(noise(3)), "benchmark": [0.0] * 9}, "best", "benchmark has 9 returns"),
        ({"returns": list(noise(3)), "benchmark": [math.nan] * DAYS}, "best", "not all finite"),
        ({"returns": list(noise(3)), "out_of_sample": [0.1]}, "out_of_sample", "too few"),
        (
            {
                "returns": list(noise(3)),
                "benchmark": noise(1)[0],
                "out_of_sample": [0.1, 0.2],
                "out_of_sample_benchmark": [0.1],
            },
            "out_of_sample",
            "benchmark has 1 returns",
        ),
        (
            {"returns": list(noise(3)), "out_of_sample": [0.1, 0.2], "out_of_sample_benchmark": [0.1, 0.2]},
            "out_of_sample",
            "returns out of sample and none in sample",
        ),
        ({"returns": list(noise(3, 20))}, "family", "too few"),
    ],
)
def test_what_is_missing_is_unknown_with_its_reason(arguments: dict[str, Any], where: str, why: str) -> None:
    evidence = examine(**arguments)
    answer = getattr(evidence, where)
    assert isinstance(answer, Unknown)
    assert why in answer.reason
    judge(evidence)


def test_a_count_below_the_series_is_refused() -> None:
    with pytest.raises(ValueError, match="only 2 trials are counted"):
        examine(list(noise(3, 100)), counted=2)


@settings(max_examples=60, deadline=None)
@given(
    st.lists(
        st.one_of(
            st.none(),
            st.lists(st.one_of(st.floats(-1, 1), st.just(math.nan), st.just(0.0)), min_size=0, max_size=70),
            st.integers(0, 99).map(lambda seed: noise(1, 64, seed)[0].tolist()),
        ),
        max_size=5,
    ),
    st.integers(0, 5),
)
def test_whatever_comes_there_is_a_verdict(returns: list[Any], more: int) -> None:
    evidence = examine(returns, counted=len(returns) + more, blocks=4, replications=50)
    judgement = judge(evidence)
    assert judgement.words
    assert judgement.score is None or 0 <= judgement.score <= 1
    for leg in judgement.legs:
        assert isinstance(leg.value, Unknown) or math.isfinite(leg.value)


@pytest.mark.parametrize("size", [1e16, 1e150, 1e154, 1e307])
def test_a_series_that_is_none_of_returns_is_a_luckless_try(size: float, capfd: pytest.CaptureFixture[str]) -> None:
    series = np.random.default_rng(2).normal(0.0, 0.01, (40, 600))
    series[3, 5] = size
    evidence = examine(list(series), periods_per_year=252)
    assert (evidence.counted, evidence.kept) == (40, 39)
    without = [None if position == 3 else one for position, one in enumerate(series)]
    assert evidence == examine(without, periods_per_year=252)
    judgement = judge(evidence)
    assert judgement.verdict is Verdict.LUCK
    assert "The returns of 1 of 40 trials are not there" in judgement.words
    itself = judge(examine(list(series), best=3))
    assert itself.verdict is Verdict.UNKNOWN
    assert "the trial to be judged cannot be: 1 of 600 returns are beyond" in itself.words
    assert capfd.readouterr().err == ""


@pytest.mark.parametrize("scale", [1e153, 1e155, 1e200, 1e307])
def test_noise_at_a_scale_that_no_returns_have_is_unknown(scale: float) -> None:
    series = np.random.default_rng(2).normal(0.0, 1.0, (40, 600)) * scale
    assert judge(examine(list(series))).verdict is Verdict.UNKNOWN


def test_a_benchmark_that_is_none_of_returns_and_figures_that_are_not_finite_are_unknown() -> None:
    series = np.random.default_rng(2).normal(0.0, 0.01, (5, 600))
    baseline = series[0].copy()
    baseline[7] = 1e200
    found = examine(list(series), benchmark=baseline)
    assert "the benchmark cannot be used: 1 of 600" in str(found.best)
    boundless = PrunedTrials(1, 1, math.nan, math.nan)
    found = examine(list(series), counted=6, pruned=boundless, replications=10)
    for figure in (found.luck, found.deflated, found.deflated_effective):
        assert isinstance(figure, Unknown)
