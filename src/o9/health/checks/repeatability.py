"""What the best says when it is evaluated once more: is it the same, and does it look ahead? Pure.

Contract. `repeatable` and `look_ahead` judge outcomes that `o9.health.reevaluation` brought; `kept` gives the checks
that were made of the last ones, or the reason why there are none.

A look-ahead is found by the past that two runs share: what an objective says of a day must not change when later days
are added. So it is run on data that end earlier, at several days, and its returns there must be those of the whole run.
What is seen only by a run that ends on a certain day is found only there; data that were corrected after the fact are
the same in both runs, and are not found at all. That a day's position knows that same day is found only where the
objective lets its decisions end a day before its returns do: both runs know that day otherwise.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from o9.health.checks.check import Check, unknown
from o9.health.facts import HealthFacts
from o9.health.grades import REPEATABLE, GradeReason
from o9.health.unknown import Unknown
from o9.model.dates import iso_date
from o9.model.states import ENDED, TrialState
from o9.model.trial import Trial
from o9.strategies.evaluation import TrialOutcome

LOOK_AHEAD = "validity.look_ahead"
NOT_REPEATABLE = 0.5  # critical: what has another value next time has been chosen for its luck
# Of the largest return, or of the value: what sums in another order leave, and nobody can trade on.
TOLERANCE = 1e-9
CUTS = 8
EARLIEST_CUT = 0.2
LEAST_RETURNS = 20
_GOLDEN = 0.6180339887498949
_SEED_IT = "let every choice by chance in it follow from its parameters, and let it read data that do not change"
_AGAIN = "let it be evaluated once more (`evaluate=True`, `o9 health ID --evaluate`) where its objective is known"


@dataclass(frozen=True)
class Leak:
    """Where a run that ends after `periods` returns and the whole run first say different things."""

    periods: int
    place: int
    whole: float
    truncated: float

    @property
    def ahead(self) -> int:
        """How many periods too early it knows, at least."""
        return self.periods - self.place


def cuts_of(periods: int) -> list[int]:
    """After how many returns the data are to end, ascending; always the same, and in no rhythm that rebalances have."""
    places = [EARLIEST_CUT + (1 - EARLIEST_CUT) * (number * _GOLDEN % 1) for number in range(1, CUTS + 1)]
    return sorted({min(max(1, int(place * periods)), periods - 1) for place in places})


def first_difference(one: Sequence[float], other: Sequence[float]) -> int | None:
    """The first place where they differ by more than TOLERANCE of the largest in `one`, as far as both go."""
    shared = min(len(one), len(other))
    first, second = np.asarray(one[:shared], np.float64), np.asarray(other[:shared], np.float64)
    apart = np.abs(first - second) > TOLERANCE * np.abs(np.asarray(one, np.float64)).max(initial=0.0)
    return int(apart.argmax()) if apart.any() else None


def same(best: Trial | TrialOutcome, outcome: TrialOutcome) -> bool:
    """Are its value and its returns those of `best`, within the tolerance?"""
    if outcome.value is None or best.value is None or (outcome.returns is None) != (best.returns is None):
        return False
    if _differs(outcome.value, best.value):
        return False
    if outcome.returns is None or best.returns is None:
        return True
    return len(outcome.returns) == len(best.returns) and first_difference(best.returns, outcome.returns) is None


def repeatable(best: Trial, outcomes: Sequence[TrialOutcome], changed: str) -> Check:
    """Do the best's parameters give again what they gave?

    outcomes: of evaluating them once more, and once more again where the first was not the same. changed: what is known
    to have changed since then, which explains a difference; "" where nothing is.
    """
    first, last = outcomes[0], outcomes[-1]
    known: dict[str, Any] = {"trial": best.number, "value": best.value, "again": [one.value for one in outcomes]}
    failed = next((outcome for outcome in outcomes if outcome.state is not TrialState.COMPLETED), None)
    if failed is not None:
        return unknown(
            REPEATABLE, f"trial {best.number} failed when it was evaluated once more: {_line(failed)}", **known
        )
    if same(best, first):
        returns = "value and returns" if best.returns is not None else "value"
        return Check(REPEATABLE, 1.0, f"trial {best.number} has the same {returns} again", evidence=known)
    words = f"trial {best.number}, the best, {_apart(best, first)}"
    known["value_differs"] = _value_differs(best, first)
    if not same(first, last):
        return Check(REPEATABLE, NOT_REPEATABLE, f"{words}, and another each time", _SEED_IT, evidence=known)
    if changed:
        return unknown(REPEATABLE, f"{words}; {changed} since then", "submit it again as it is now", **known)
    remedy = "see what has changed since then: libraries, the machine, data read from outside; submit it again"
    return Check(REPEATABLE, NOT_REPEATABLE, f"{words}, the same each time", remedy, evidence=known)


def look_ahead(whole: TrialOutcome, truncated: Sequence[tuple[int, TrialOutcome]], asked: int) -> Check:
    """Does it say the same of the past when it does not know what comes after?

    whole: on all data. truncated: the number of returns after which the data end, and the outcome. asked: how many
    truncated runs there were to be.
    """
    assert whole.returns is not None
    leaks: list[Leak] = []
    wrong: list[str] = []
    compared = 0
    for periods, outcome in truncated:
        if outcome.returns is None:
            said = _line(outcome) if outcome.error else "it gave no returns"
            wrong.append(f"on the first {periods:,} periods: {said}")
        elif len(outcome.returns) != periods:
            wrong.append(f"asked for the first {periods:,} returns it gave {len(outcome.returns):,}")
        else:
            compared += 1
            place = first_difference(whole.returns, outcome.returns)
            if place is not None:
                leaks.append(Leak(periods, place, whole.returns[place], outcome.returns[place]))
    if leaks:
        return _leak(whole, leaks, compared)
    if not compared:
        why = wrong[0] if wrong else "none of the truncated runs ended in time"
        return unknown(LOOK_AHEAD, why, "with `periods`, compute as if the data ended there, and give no more")
    words = f"what it says of the past is the same whether the data end then or later, at {compared} of {asked} days"
    if wrong:
        words += f" ({wrong[0]})"
    words += "; a look at the very day, or one on rare days only, can pass"
    return Check(LOOK_AHEAD, 1.0, words, evidence={"cuts": [periods for periods, _ in truncated], "compared": compared})


def kept(facts: HealthFacts) -> list[Check]:
    """The checks of the last repetition, where it is of what is the best now."""
    found = facts.repetition
    if facts.best is None:
        return []
    if found is None or found.number != facts.best.number:
        ended = facts.state.status in ENDED
        why = "its best was not evaluated once more yet" if ended else "it is evaluated once more when it has ended"
        return [unknown(name, why, _AGAIN if ended else "") for name in (REPEATABLE, LOOK_AHEAD)]
    return [from_dict(one) for one in json.loads(found.checks)]


def from_dict(kept: dict[str, object]) -> Check:
    """The inverse of `Check.to_dict`."""
    fields = {name: kept[name] for name in ("name", "words", "remedy", "essential", "evidence")}
    score = kept["score"] if kept["unknown"] is None else Unknown(str(kept["unknown"]))
    return Check(score=score, **fields)  # type: ignore[arg-type]


def _leak(whole: TrialOutcome, leaks: Sequence[Leak], compared: int) -> Check:
    first = min(leaks, key=lambda leak: (leak.place, leak.periods))
    ahead = max(leak.ahead for leak in leaks)
    words = (
        f"it looks ahead: its return of {_day(whole, first.place)} is {first.whole:.6g} when it knows the days after "
        f"{_day(whole, first.periods - 1)}, and {first.truncated:.6g} when it does not. {len(leaks)} of {compared} "
        f"truncated runs differ, by up to {ahead:,} {'period' if ahead == 1 else 'periods'} before their end"
    )
    known = {
        "first": _day(whole, first.place), "period": first.place, "data_until": _day(whole, first.periods - 1),
        "whole": first.whole, "truncated": first.truncated, "periods_ahead": ahead,
        "leaks": [{"cut": leak.periods, "period": leak.place, "day": _day(whole, leak.place)} for leak in leaks],
    }  # fmt: skip
    remedy = (
        "do not trade on it: let each day's position follow from data up to that day alone (shift, rolling windows)"
    )
    return Check(LOOK_AHEAD, 0.0, words, remedy, evidence=known)


def void_of(checks: Sequence[Check]) -> GradeReason | None:
    """Why nothing can be believed of the best, by its repetition; None where nothing speaks against it."""
    found = {check.name: check for check in checks if isinstance(check.score, float) and check.score < 1.0}
    if LOOK_AHEAD in found:
        return GradeReason.LOOK_AHEAD
    if REPEATABLE not in found:
        return None
    differs = found[REPEATABLE].evidence.get("value_differs", True)
    return GradeReason.NOT_REPEATABLE if differs else GradeReason.VALUE_DOES_NOT_FIT


def _value_differs(best: Trial, outcome: TrialOutcome) -> bool:
    """By more than the tolerance; else the returns do."""
    return best.value is None or outcome.value is None or _differs(best.value, outcome.value)


def _differs(one: float, other: float) -> bool:
    return abs(one - other) > TOLERANCE * max(abs(one), abs(other))


def _apart(best: Trial, outcome: TrialOutcome) -> str:
    if _value_differs(best, outcome):
        return f"had the value {best.value:.10g} and has {outcome.value:.10g} now"
    place = first_difference(best.returns or (), outcome.returns or ())
    if place is None:
        return f"had {len(best.returns or ()):,} returns and has {len(outcome.returns or ()):,} now"
    assert best.returns is not None
    assert outcome.returns is not None
    return (
        f"has its value again, but the return of {_day(outcome, place)} was {best.returns[place]:.6g} and is "
        f"{outcome.returns[place]:.6g} now"
    )


def _day(outcome: TrialOutcome, place: int) -> str:
    if outcome.dates is None or place >= len(outcome.dates):
        return f"period {place}"
    return iso_date(outcome.dates[place])


def _line(outcome: TrialOutcome) -> str:
    return (outcome.error or "no reason given").split("\n", 1)[0][:300]
