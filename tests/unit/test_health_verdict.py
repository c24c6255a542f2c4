"""The verdict: which rule decides, the reasons of missing figures, and evidence from families."""

from __future__ import annotations

import json
import math
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from o9.health.grades import Grade, GradeReason, Placebo, Verdict
from o9.health.statistics.evidence import examine
from o9.health.statistics.forecast import Mixture
from o9.health.statistics.moments import Moments
from o9.health.statistics.overfitting import BacktestOverfitting, probabilistic_sharpe_ratio
from o9.health.unknown import Unknown
from o9.health.verdict import FAMILY_LEVEL, RULES, WITH_HOLD_OUT, Evidence, judge
from o9.health.wording import HEADLINES, REMEDIES

DAYS = 2_520
NONE = Unknown("not given")
BETTER = [Grade.VOID, Grade.LOST, Grade.UNPROVEN, Grade.PLAUSIBLE, Grade.CONFIRMED]
ADAPTIVE, BLIND = {"adaptive": True}, {"adaptive": False}


def noise(trials: int = 200, periods: int = DAYS, seed: int = 0) -> Any:
    return np.random.default_rng(seed).normal(0.0, 0.01, (trials, periods))


def with_edge(annual_sharpe: float, trials: int = 200, seed: int = 0) -> Any:
    """The edge is what trial 17 shows, too."""
    returns = noise(trials, seed=seed)
    returns[17] += annual_sharpe / math.sqrt(252) * 0.01 - returns[17].mean()
    return returns


def split(pbo: float, loss: float) -> BacktestOverfitting:
    some = np.zeros(2)
    return BacktestOverfitting(pbo, some, some, loss, 200, DAYS, 0, 16)


def held_out(annual_sharpe: float, years: float = 5.0) -> dict[str, Any]:
    return {"out_of_sample": Moments(round(252 * years), annual_sharpe / math.sqrt(252), 0.0, 3.0)}


def known(**changes: Any) -> Evidence:
    """A family whose best shows 1.9 a year over a baseline, of which 1.5 is expected to last; nothing was held out."""
    splendid = Evidence(
        counted=200,
        kept=200,
        best=Moments(DAYS, 0.12, 0.0, 3.0),
        luck=0.055,
        deflated=0.99,
        deflated_effective=0.995,
        effective=150.0,
        family=0.001,
        overfitting=split(0.02, 0.05),
        out_of_sample=NONE,
        over_benchmark=True,
        beta=0.69,
        periods_per_year=252,
        claim=Mixture((1.0,), (1.5,), (0.05,)),
    )
    return replace(splendid, **changes)


def graded(**changes: Any) -> tuple[Grade, GradeReason]:
    verdict = judge(known(**changes))
    return verdict.grade, verdict.reason


# --- which rule decides -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("changes", "grade", "reason"),
    [
        ({"void": GradeReason.LOOK_AHEAD} | held_out(1.5), Grade.VOID, GradeReason.LOOK_AHEAD),
        ({"void": GradeReason.NOT_REPEATABLE}, Grade.VOID, GradeReason.NOT_REPEATABLE),
        ({"void": GradeReason.VALUE_DOES_NOT_FIT, "best": NONE}, Grade.VOID, GradeReason.VALUE_DOES_NOT_FIT),
        (held_out(-0.1), Grade.LOST, GradeReason.HOLD_OUT_NEGATIVE),
        (held_out(0.0, years=0.1), Grade.LOST, GradeReason.HOLD_OUT_NEGATIVE),
        # A mute one: luck is expected to give the best more than it has.
        (held_out(-1.5) | {"luck": 0.2, "family": 0.9}, Grade.LOST, GradeReason.HOLD_OUT_NEGATIVE),
        # At most 0.68 is seen in 5 of 100 where 1.5 ± √(0.05 + 1/5) is expected.
        (held_out(0.6), Grade.LOST, GradeReason.HOLD_OUT_BELOW_FORECAST),
        (held_out(0.75) | BLIND, Grade.CONFIRMED, GradeReason.HOLD_OUT_AND_FAMILY),
        (held_out(0.75) | ADAPTIVE, Grade.UNPROVEN, GradeReason.HOLD_OUT_UNCERTAIN),
        (held_out(1.0) | ADAPTIVE, Grade.CONFIRMED, GradeReason.HOLD_OUT_AND_FAMILY),
        (held_out(1.0) | {"family": WITH_HOLD_OUT}, Grade.CONFIRMED, GradeReason.HOLD_OUT_AND_FAMILY),
        (held_out(1.0) | {"family": 0.21}, Grade.UNPROVEN, GradeReason.LIKELY_LUCK),
        (held_out(1.0) | {"over_benchmark": False}, Grade.UNPROVEN, GradeReason.NO_BASELINE),
        (held_out(1.0) | {"over_cash": True}, Grade.UNPROVEN, GradeReason.NO_BASELINE),  # which any market beats
        (held_out(1.0) | {"over_cash": True, "market_neutral": True}, Grade.CONFIRMED, GradeReason.HOLD_OUT_AND_FAMILY),
        (
            held_out(1.0) | {"over_benchmark": False, "market_neutral": True},
            Grade.CONFIRMED,
            GradeReason.HOLD_OUT_AND_FAMILY,
        ),
        (
            held_out(1.0) | {"over_benchmark": False, "placebo": Placebo(0.05, 19)},
            Grade.CONFIRMED,
            GradeReason.HOLD_OUT_AND_PLACEBO,
        ),
        (held_out(1.0) | {"family": NONE, "placebo": Placebo(0.1, 19)}, Grade.UNPROVEN, GradeReason.NO_FAMILY_TEST),
        # Look by look it takes more: 0.75 over five years is above zero with 0.953, 1.0 with 0.987.
        (held_out(0.75) | BLIND | {"looks": 2}, Grade.UNPROVEN, GradeReason.HOLD_OUT_UNCERTAIN),
        (held_out(1.0) | BLIND | {"looks": 3}, Grade.CONFIRMED, GradeReason.HOLD_OUT_AND_FAMILY),
        (held_out(1.0) | BLIND | {"looks": 4}, Grade.UNPROVEN, GradeReason.HOLD_OUT_UNCERTAIN),
        # So does each trial that was valued on it; after a search that follows results it says nothing.
        (held_out(1.0) | BLIND | {"seen": 2}, Grade.CONFIRMED, GradeReason.HOLD_OUT_AND_FAMILY),
        (held_out(1.0) | BLIND | {"seen": 3}, Grade.UNPROVEN, GradeReason.HOLD_OUT_UNCERTAIN),
        (held_out(3.0) | ADAPTIVE | {"seen": 1}, Grade.UNPROVEN, GradeReason.HOLD_OUT_SEEN),
        (
            held_out(3.0) | ADAPTIVE | {"seen": 1, "placebo": Placebo(0.05, 19)},
            Grade.UNPROVEN, GradeReason.HOLD_OUT_SEEN,
        ),
        (held_out(-0.1) | ADAPTIVE | {"seen": 1}, Grade.LOST, GradeReason.HOLD_OUT_NEGATIVE),
        # Serial correlation leaves less in it.
        (held_out(1.0) | {"variance_ratio": 2.0}, Grade.UNPROVEN, GradeReason.HOLD_OUT_UNCERTAIN),
        # 1.9 a year is told from zero after 0.75 years: half a year is too short, and one is not.
        (held_out(1.0, years=0.5) | BLIND, Grade.PLAUSIBLE, GradeReason.FAMILY),
        (held_out(1.0, years=1.0) | BLIND, Grade.UNPROVEN, GradeReason.HOLD_OUT_UNCERTAIN),
        (BLIND, Grade.PLAUSIBLE, GradeReason.FAMILY),
        (BLIND | {"family": FAMILY_LEVEL}, Grade.PLAUSIBLE, GradeReason.FAMILY),
        (BLIND | {"family": FAMILY_LEVEL + 1e-6}, Grade.UNPROVEN, GradeReason.LIKELY_LUCK),
        (BLIND | {"over_benchmark": False}, Grade.UNPROVEN, GradeReason.NO_BASELINE),
        (BLIND | {"over_benchmark": False, "market_neutral": True}, Grade.PLAUSIBLE, GradeReason.FAMILY),
        (ADAPTIVE, Grade.UNPROVEN, GradeReason.ADAPTIVE_SEARCH),
        (ADAPTIVE | {"counted": 1, "kept": 1}, Grade.PLAUSIBLE, GradeReason.FAMILY),  # one trial was not chosen
        ({"placebo": Placebo(0.05, 19), "over_benchmark": False}, Grade.PLAUSIBLE, GradeReason.PLACEBO),
        ({"placebo": Placebo(0.1, 19)}, Grade.UNPROVEN, GradeReason.LIKELY_LUCK),
        ({"placebo": Placebo(0.1, 9)}, Grade.UNPROVEN, GradeReason.ADAPTIVE_SEARCH),  # too few to be told
        ({"family": 0.5, "deflated": 0.99}, Grade.UNPROVEN, GradeReason.LIKELY_LUCK),
        ({"family": NONE}, Grade.UNPROVEN, GradeReason.NO_FAMILY_TEST),
        ({"best": NONE, "family": NONE}, Grade.UNPROVEN, GradeReason.NO_RETURNS),
        ({"best": NONE, "family": NONE, "counted": 0}, Grade.UNPROVEN, GradeReason.NO_TRIALS),
        # These decide nothing.
        (BLIND | {"overfitting": split(0.9, 0.9), "deflated": 0.1}, Grade.PLAUSIBLE, GradeReason.FAMILY),
        ({"overfitting": split(0.0, 0.0), "deflated": 0.999}, Grade.UNPROVEN, GradeReason.ADAPTIVE_SEARCH),
    ],
)  # fmt: skip
def test_the_first_rule_that_applies_decides(changes: dict[str, Any], grade: Grade, reason: GradeReason) -> None:
    verdict = judge(known(**changes))
    assert (verdict.grade, verdict.reason) == (grade, reason)
    assert Verdict.from_dict(json.loads(json.dumps(verdict.to_dict()))) == verdict


def test_every_reason_has_texts_and_the_score_of_its_grade() -> None:
    assert {reason for _, reason, _ in RULES} == set(GradeReason) == set(HEADLINES) == set(REMEDIES)
    assert all(bool(REMEDIES[reason]) != (grade is Grade.CONFIRMED) for grade, reason, _ in RULES)
    scores = [judge(known(**each)).score for each in (
        {"void": GradeReason.LOOK_AHEAD}, held_out(-1), {}, BLIND, held_out(1.5),
    )]  # fmt: skip
    assert scores == sorted(scores)  # type: ignore[type-var]
    assert judge(known(family=NONE)).score is None
    luck, remedy = {"family": 0.5}, REMEDIES[GradeReason.LIKELY_LUCK]
    assert [judge(known(**luck, **more)).remedy == remedy for more in ({}, held_out(1.0))] == [True, False]


def test_a_void_result_has_no_forecast_and_a_hold_out_updates_it() -> None:
    assert judge(known(void=GradeReason.LOOK_AHEAD)).forecast is None
    assert judge(known(periods_per_year=None, claim=NONE)).forecast is None
    before, lost, good = (judge(known(**each)).forecast for each in ({}, held_out(-1.0), held_out(2.0)))
    assert before is not None
    assert lost is not None
    assert good is not None
    assert lost.mean < before.mean < good.mean
    assert before.held_out is None
    assert lost.held_out == pytest.approx(-1.0)
    assert before.claimed == pytest.approx(0.12 * math.sqrt(252))
    assert all(each.low < each.mean < each.high for each in (before, lost, good))
    blind = judge(known(**BLIND)).forecast
    assert blind is not None
    assert [each.too_high for each in (before, lost, blind)] == [True, False, False]


def test_figures_include_the_reasons_of_missing_ones() -> None:
    figures = judge(known(**held_out(0.75), **BLIND, looks=2, placebo=Placebo(0.1, 9))).figures
    assert (figures["looks"], figures["hold_out_level"]) == (2, 0.975)
    assert figures["hold_out_above_zero"] == pytest.approx(0.953, abs=1e-3)
    assert (figures["placebo_p_value"], figures["placebo_runs"]) == (0.1, 9)
    assert (figures["pbo"], figures["deflated"], figures["beta"]) == (0.02, 0.99, 0.69)
    assert figures["track_record_needed"] == pytest.approx(190, abs=1)
    missing = judge(known(family=NONE)).figures
    assert (missing["p_value"], missing["looks"]) == (None, None)
    assert missing["unknown"] == {"p_value": "not given", "hold_out_sharpe": "not given"}


def test_a_baseline_of_cash_does_not_remove_the_market() -> None:
    figures = judge(known(over_cash=True)).figures
    assert (figures["over_baseline"], figures["beta"]) == (False, None)


def test_a_crash_in_the_hold_out_is_named() -> None:
    def judged(worst: float) -> Verdict:
        best, fresh = Moments(DAYS, 0.12, 0.0, 3.0, -0.02), Moments(1260, -0.01, 0.0, 3.0, worst)
        return judge(known(best=best, out_of_sample=fresh))

    crash, usual = judged(-0.2), judged(-0.03)
    assert [each.figures["hold_out_worst_loss"] for each in (crash, usual)] == pytest.approx([10.0, 1.5])
    assert ["10 times" in each.words for each in (crash, usual)] == [True, False]
    assert judge(known()).figures["hold_out_worst_loss"] is None


# --- laws -------------------------------------------------------------------------------------------------------------

cases = st.fixed_dictionaries(
    {
        "family": st.one_of(st.just(NONE), st.floats(0.001, 1.0)),
        "over_benchmark": st.booleans(),
        "market_neutral": st.booleans(),
        "adaptive": st.booleans(),
        "looks": st.integers(1, 20),
        "placebo": st.one_of(st.none(), st.builds(Placebo, st.floats(0.01, 1.0), st.integers(1, 99))),
        "variance_ratio": st.floats(0.5, 3.0),
        "claim": st.one_of(
            st.just(NONE), st.builds(lambda m, v: Mixture((1.0,), (m,), (v,)), st.floats(-1, 3), st.floats(0, 1))
        ),
        "void": st.sampled_from([None, None, None, GradeReason.NOT_REPEATABLE]),
        "best": st.one_of(st.just(NONE), st.floats(-0.1, 0.3).map(lambda sharpe: Moments(DAYS, sharpe, 0.0, 3.0))),
        "counted": st.integers(0, 300),
    }
)


@settings(max_examples=200, deadline=None)
@given(cases, st.floats(-0.3, 0.3), st.floats(0.0, 0.3), st.integers(30, 3_000), st.floats(-1.0, 1.0))
def test_a_worse_hold_out_never_gives_a_better_grade(
    case: dict[str, Any], sharpe: float, less: float, periods: int, skewness: float
) -> None:
    good, bad = (Moments(periods, each, skewness, 5.0) for each in (sharpe, sharpe - less))
    grades = [judge(known(**case, out_of_sample=each)).grade for each in (bad, good)]
    assert BETTER.index(grades[0]) <= BETTER.index(grades[1])


@settings(max_examples=200, deadline=None)
@given(
    cases, st.integers(0, 20), st.integers(0, 20), st.one_of(st.none(), st.floats(-0.1, 0.3)), st.integers(30, 3_000)
)
def test_more_looks_never_give_a_better_grade(
    case: dict[str, Any], more: int, seen: int, sharpe: float | None, periods: int
) -> None:
    fresh = NONE if sharpe is None else Moments(periods, sharpe, 0.0, 3.0)
    few = judge(known(**case, out_of_sample=fresh))
    many = judge(known(**case | {"looks": case["looks"] + more, "seen": seen}, out_of_sample=fresh))
    assert BETTER.index(many.grade) <= BETTER.index(few.grade)


# --- the whole rule, on families ----------------------------------------------------------------------------------


def test_the_best_of_two_hundred_strategies_without_edge_is_unproven() -> None:
    evidence = examine(list(noise()), periods_per_year=252, adaptive=False, market_neutral=True)
    assert isinstance(evidence.best, Moments)
    assert evidence.best.annual_sharpe(252) > 0.7
    assert isinstance(evidence.deflated, float)
    assert evidence.deflated < 0.9
    verdict = judge(evidence)
    assert (verdict.grade, verdict.reason) == (Grade.UNPROVEN, GradeReason.LIKELY_LUCK)
    assert verdict.forecast is not None
    assert verdict.forecast.mean < 0.25


def test_an_edge_is_plausible_and_with_a_hold_out_confirmed() -> None:
    plain = {"periods_per_year": 252, "adaptive": False, "market_neutral": True}
    verdict = judge(examine(list(with_edge(2.0)), **plain))  # type: ignore[arg-type]
    assert (verdict.grade, verdict.reason) == (Grade.PLAUSIBLE, GradeReason.FAMILY)
    fresh = noise(1, 1_260, seed=9)[0]
    fresh += 1.7 / math.sqrt(252) * 0.01 - fresh.mean()
    confirmed = judge(examine(list(with_edge(2.0)), out_of_sample=fresh, **plain))  # type: ignore[arg-type]
    assert (confirmed.grade, confirmed.reason) == (Grade.CONFIRMED, GradeReason.HOLD_OUT_AND_FAMILY)
    assert confirmed.forecast is not None
    assert confirmed.forecast.mean > 1.0
    assert confirmed.forecast.claimed == pytest.approx(2.0, abs=0.05)


def test_more_trials_weaken_the_evidence() -> None:
    """The same returns; the others failed or were thrown away."""
    returns = list(with_edge(1.5, trials=20))
    few, many = (examine(returns, counted=n, adaptive=False, market_neutral=True) for n in (20, 50_000))
    assert judge(few).grade is Grade.PLAUSIBLE
    assert judge(many).reason is GradeReason.LIKELY_LUCK
    assert many.p_value > few.p_value  # type: ignore[operator]
    assert many.luck > few.luck  # type: ignore[operator]
    assert many.deflated < few.deflated  # type: ignore[operator]


def test_an_edge_only_in_sample_is_lost() -> None:
    returns = with_edge(4.0)
    fresh = noise(1, 504, seed=9)[0] - 0.001
    verdict = judge(examine(list(returns), out_of_sample=fresh, periods_per_year=252))
    assert (verdict.grade, verdict.reason) == (Grade.LOST, GradeReason.HOLD_OUT_NEGATIVE)


def test_the_market_has_no_edge_over_itself() -> None:
    market = noise(1, seed=5)[0] + 0.002
    returns = noise(30) * 0.3 + market
    assert judge(examine(list(returns), adaptive=False)).reason is GradeReason.NO_BASELINE
    assert judge(examine(list(returns), adaptive=False, benchmark=market)).reason is GradeReason.LIKELY_LUCK


def test_trials_without_returns_only_count() -> None:
    returns = list(with_edge(2.0, trials=20))
    gaps: list[Any] = [None, *returns[:10], None, *returns[10:], [math.nan] * DAYS]
    evidence, plain = examine(gaps), examine(returns, counted=23)
    assert evidence == plain
    assert (evidence.counted, evidence.kept) == (23, 20)
    assert evidence.effective == pytest.approx(23, abs=1)
    assert examine(gaps, best=19) == evidence


def test_another_trial_than_the_best_can_be_judged() -> None:
    returns = list(with_edge(2.0, trials=20))
    for best, grade in ((17, Grade.PLAUSIBLE), (3, Grade.UNPROVEN)):
        assert judge(examine(returns, best=best, adaptive=False, market_neutral=True)).grade is grade
    with pytest.raises(ValueError, match="no series 99"):
        examine(returns, best=99)


def test_a_single_trial_is_judged_without_luck() -> None:
    evidence = examine([with_edge(2.0)[17]], market_neutral=True)
    assert evidence.luck == 0.0
    assert isinstance(evidence.best, Moments)
    alone = probabilistic_sharpe_ratio(
        evidence.best.sharpe,
        observations=DAYS,
        skewness=evidence.best.skewness,
        kurtosis=evidence.best.kurtosis,
    )
    assert evidence.deflated == pytest.approx(alone)
    assert judge(evidence).grade is Grade.PLAUSIBLE
    assert "at least two" in str(evidence.overfitting)


# --- what is missing --------------------------------------------------------------------------------------------------


def test_a_result_that_cannot_be_judged_has_a_reason() -> None:
    for evidence, why in (
        (examine([None, None], counted=200), "none of 2 trials has usable returns"),
        (examine([[0.1, 0.2, 0.3], [0.1, 0.2]]), "2 different lengths"),
    ):
        verdict = judge(evidence)
        assert (verdict.grade, verdict.reason, verdict.score) == (Grade.UNPROVEN, GradeReason.NO_RETURNS, None)
        assert why in verdict.figures["unknown"]["sharpe"]


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
            "returns out of sample but none in sample",
        ),
        ({"returns": list(noise(3, 20))}, "family", "too few"),
    ],
)
def test_missing_figures_are_unknown_with_a_reason(arguments: dict[str, Any], where: str, why: str) -> None:
    evidence = examine(**arguments)
    answer = getattr(evidence, where)
    assert isinstance(answer, Unknown)
    assert why in answer.reason
    judge(evidence)


def test_a_count_below_the_number_of_series_raises() -> None:
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
    st.sampled_from([None, 12.0, 252.0]),
)
def test_judge_returns_a_verdict_for_any_evidence(returns: list[Any], more: int, year: float | None) -> None:
    fresh = next((each for each in returns if each), None)
    evidence = examine(
        returns, counted=len(returns) + more, out_of_sample=fresh, periods_per_year=year, blocks=4, replications=50
    )
    verdict = judge(evidence)
    assert verdict.headline
    assert verdict.score is None or 0 <= verdict.score <= 1
    json.dumps(verdict.to_dict(), allow_nan=False)


@pytest.mark.parametrize("size", [1e16, 1e150, 1e154, 1e307])
def test_an_unusable_series_counts_as_a_trial_without_edge(size: float, capfd: pytest.CaptureFixture[str]) -> None:
    series = np.random.default_rng(2).normal(0.0, 0.01, (40, 600))
    series[3, 5] = size
    evidence = examine(list(series), periods_per_year=252)
    assert (evidence.counted, evidence.kept) == (40, 39)
    without = [None if position == 3 else one for position, one in enumerate(series)]
    assert evidence == examine(without, periods_per_year=252)
    assert judge(evidence).reason is GradeReason.LIKELY_LUCK
    itself = judge(examine(list(series), best=3))
    assert itself.reason is GradeReason.NO_RETURNS
    assert "1 of 600 returns are beyond" in itself.figures["unknown"]["sharpe"]
    assert capfd.readouterr().err == ""


@pytest.mark.parametrize("scale", [1e153, 1e155, 1e200, 1e307])
def test_returns_of_an_impossible_scale_are_unknown(scale: float) -> None:
    series = np.random.default_rng(2).normal(0.0, 1.0, (40, 600)) * scale
    assert judge(examine(list(series))).reason is GradeReason.NO_RETURNS


def test_an_unusable_benchmark_is_unknown() -> None:
    series = np.random.default_rng(2).normal(0.0, 0.01, (5, 600))
    baseline = series[0].copy()
    baseline[7] = 1e200
    found = examine(list(series), benchmark=baseline)
    assert "the benchmark cannot be used: 1 of 600" in str(found.best)


def test_after_an_adaptive_search_the_level_is_stricter() -> None:
    levels = [judge(known(**held_out(0.75), adaptive=each)).figures["hold_out_level"] for each in (False, True)]
    assert levels == [0.95, 0.97]
