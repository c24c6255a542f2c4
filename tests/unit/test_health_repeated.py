"""Repeatability and look-ahead: the judgement of outcomes."""

from __future__ import annotations

import json
from typing import Any

import numpy as np
import pytest

from o9.health.checks.check import unknown
from o9.health.checks.repeatability import (
    CUTS,
    TOLERANCE,
    cuts_of,
    first_difference,
    from_dict,
    look_ahead,
    repeatable,
    same,
)
from o9.health.unknown import Unknown
from o9.model.dates import seconds_of
from o9.model.states import TrialState
from o9.model.trial import Trial
from o9.strategies.evaluation import TrialOutcome

DAYS = 500
MARKET = np.random.default_rng(3).normal(0.0005, 0.01, DAYS)
DATES = tuple(map(str, np.datetime64("2020-01-01") + np.arange(DAYS)))
SECONDS = tuple(seconds_of(DATES))


def honest(periods: int | None = None) -> np.ndarray:
    """Long or short for a day by the mean of the ten days before it."""
    market = MARKET[:periods]
    mean = np.convolve(market, np.full(10, 0.1))[: len(market)]
    position = np.zeros(len(market))
    position[1:] = np.sign(mean[:-1])
    return position * market


def tomorrow(periods: int | None = None) -> np.ndarray:
    """By the mean that ends a day too late: one shift is missing, and one is too many."""
    market = MARKET[:periods]
    mean = np.convolve(market, np.full(10, 0.1))[: len(market)]
    position = np.zeros(len(market))
    position[:-1] = np.sign(mean[1:])
    return position * market


def same_day(periods: int | None = None, *, shift: int = 0) -> np.ndarray:
    """By the mean that ends on the same day; what it decides by ends a day before what it earns does."""
    market = MARKET[:periods]
    decided_by = market if periods is None else market[:-1]
    mean = np.convolve(decided_by, np.full(10, 0.1))[: len(decided_by)]
    position = np.zeros(len(market))
    position[shift : shift + len(mean)] = np.sign(mean)[: len(market) - shift]
    return position * market


def normalised(periods: int | None = None) -> np.ndarray:
    """By how far the day before lay from the mean of all days, in deviations of all days."""
    market = MARKET[:periods]
    position = np.zeros(len(market))
    position[1:] = (market[:-1] - market.mean()) / market.std()
    return position * market


def for_a_week(periods: int | None = None) -> np.ndarray:
    """Honest but for the last days before the fourth cut."""
    market, earned = MARKET[:periods], honest(periods)
    cut = cuts_of(DAYS)[3]
    for day in range(cut - 3, min(cut, len(market) - 1)):
        earned[day] = abs(market[day + 1])
    return earned


def outcome(returns: Any, *, value: float = 1.0, number: int = 7, **fields: Any) -> TrialOutcome:
    kept = None if returns is None else tuple(map(float, returns))
    standard: dict[str, Any] = {
        "returns": kept,
        "dates": None if kept is None else SECONDS[: len(kept)],
    }
    return TrialOutcome(number, TrialState.COMPLETED, value, **(standard | fields))


def lost(error: str) -> TrialOutcome:
    return TrialOutcome(7, TrialState.FAILED, error=error)


def looked(strategy: Any) -> Any:
    cuts = cuts_of(DAYS)
    return look_ahead(outcome(strategy()), [(cut, outcome(strategy(cut))) for cut in cuts], len(cuts))


def test_an_objective_without_look_ahead_passes() -> None:
    found = looked(honest)
    assert (found.score, found.evidence["compared"]) == (1.0, CUTS)


def test_a_look_ahead_of_one_day_is_dated() -> None:
    found, first = looked(tomorrow), cuts_of(DAYS)[0]
    assert found.score == 0.0
    assert (found.evidence["first"], found.evidence["period"]) == (DATES[first - 1], first - 1)
    assert found.evidence["periods_ahead"] == 1
    assert found.words.startswith(f"it looks ahead: its return of {DATES[first - 1]} is ")
    assert f"{CUTS} of {CUTS} truncated runs differ, up to 1 period before their end" in found.words
    assert "shift" in found.remedy


def test_a_missing_shift_is_found_if_decisions_end_a_day_before() -> None:
    found, first = looked(same_day), cuts_of(DAYS)[0]
    assert (found.score, found.evidence["first"]) == (0.0, DATES[first - 1])
    shifted = looked(lambda periods=None: same_day(periods, shift=1))
    assert shifted.score == 1.0
    assert np.array_equal(same_day(shift=1), honest())


def test_a_mean_over_all_days_differs_from_the_first_day_on() -> None:
    found = looked(normalised)
    assert (found.score, found.evidence["first"]) == (0.0, DATES[1])
    assert found.evidence["periods_ahead"] == cuts_of(DAYS)[-1] - 1


def test_a_look_ahead_at_one_cut_is_found() -> None:
    found, cut = looked(for_a_week), cuts_of(DAYS)[3]
    assert (found.score, found.evidence["first"]) == (0.0, DATES[cut - 1])
    assert found.evidence["leaks"] == [{"cut": cut, "period": cut - 1, "day": DATES[cut - 1]}]
    assert f"1 of {CUTS} truncated runs differ" in found.words


def test_without_dates_the_finding_names_the_period() -> None:
    cuts = cuts_of(DAYS)
    whole = outcome(tomorrow(), dates=None)
    found = look_ahead(whole, [(cut, outcome(tomorrow(cut), dates=None)) for cut in cuts], len(cuts))
    assert found.evidence["first"] == f"period {cuts[0] - 1}"


def test_runs_that_cannot_be_compared_are_unknown() -> None:
    cuts = cuts_of(DAYS)
    whole = outcome(honest())
    for truncated, reason in (
        ([(cut, outcome(honest())) for cut in cuts], f"periods={cuts[0]} it returned {DAYS:,} returns"),
        ([(cut, lost("KeyError: 3\nmore")) for cut in cuts], f"on the first {cuts[0]:,} periods: KeyError: 3"),
        ([(cut, outcome(None)) for cut in cuts], "no returns"),
        ([], "in time"),
    ):
        found = look_ahead(whole, truncated, len(cuts))
        assert isinstance(found.score, Unknown)
        assert reason in found.words, found.words
    some = [(cut, outcome(honest(cut)) if cut > cuts[2] else lost("too few days")) for cut in cuts]
    found = look_ahead(whole, some, len(cuts))
    assert found.score == 1.0
    assert f"at {CUTS - 3} of {CUTS} days (on the first {cuts[0]:,} periods: too few days)" in found.words


def test_cuts_are_spread_over_the_periods() -> None:
    for periods in (20, 21, 252, 2_520):
        cuts = cuts_of(periods)
        assert cuts == sorted(set(cuts)) == cuts_of(periods)
        assert 0.2 * periods - 1 <= cuts[0] < cuts[-1] < periods
    gaps = np.diff([0.2 * 2_520, *cuts_of(2_520), 2_520])
    assert gaps.max() < 0.25 * 2_520


def test_differences_above_rounding_count() -> None:
    one = honest()
    scale = np.abs(one).max()
    assert first_difference(one, one + 0.5 * TOLERANCE * scale) is None  # type: ignore[arg-type]
    other = one.copy()
    other[17] += 3 * TOLERANCE * scale
    assert first_difference(one, other) == 17  # type: ignore[arg-type]
    assert first_difference([], []) is None
    assert first_difference([0.0, 0.0], [0.0, 0.1]) == 1


BEST = Trial(7, 1, TrialState.COMPLETED, {"x": 1}, 1.0, returns=tuple(map(float, honest())))
BARE = Trial(7, 1, TrialState.COMPLETED, {"x": 1}, 1.0)
OTHER = tuple(map(float, honest() + 0.001))


@pytest.mark.parametrize(
    ("best", "outcomes", "changed", "score", "words"),
    [
        (BEST, [outcome(honest())], "", 1.0, "the same value and returns"),
        (BARE, [outcome(None)], "", 1.0, "the same value"),
        (BEST, [outcome(honest())], "its code has changed", 1.0, "the same"),
        (
            BARE,
            [outcome(None, value=1.1), outcome(None, value=1.2)],
            "",
            0.5,
            "had the value 1, now 1.1; ",
        ),
        (BARE, [outcome(None, value=1.1)] * 2, "", 0.5, "the same each time"),
        (BARE, [outcome(None, value=1.1)] * 2, "its code has changed", None, "its code has changed since then"),
        (BEST, [outcome(OTHER)] * 2, "", 0.5, "the return of 2020-01-01 was 0, now 0.001"),
        (BEST, [outcome(honest(400))] * 2, "", 0.5, "had 500 returns, now 400"),
        (BEST, [outcome(None)] * 2, "", 0.5, "had 500 returns, now 0"),
        (
            BEST,
            [lost("OSError: no file\n  at x")],
            "",
            None,
            "OSError: no file",
        ),
    ],
)
def test_a_repeatable_trial_has_the_same_value(
    best: Trial, outcomes: list[TrialOutcome], changed: str, score: float | None, words: str
) -> None:
    found = repeatable(best, outcomes, changed)
    assert words in found.words, found.words
    assert isinstance(found.score, Unknown) if score is None else found.score == score


def test_values_that_differ_by_rounding_are_equal() -> None:
    assert same(BARE, outcome(None, value=1.0 + 1e-12))
    assert not same(BARE, outcome(None, value=1.0 + 1e-6))
    assert not same(BARE, outcome(honest()))


def test_checks_survive_a_round_trip() -> None:
    for one in (looked(tomorrow), repeatable(BARE, [outcome(None)], ""), unknown("validity.x", "why", essential=True)):
        again = from_dict(json.loads(json.dumps(one.to_dict())))
        assert again == one
