"""Does the best trial have the same result when it is evaluated again, and does its objective look ahead? Pure.

Contract. `repeatable` and `look_ahead` judge the outcomes that `o9.health.reevaluation` collects. `stored_checks`
returns those of the last re-evaluation, or the reason why there are none.

A look-ahead shows where two runs overlap: an objective's return of a day must not change when later days are added. So
the objective is run on data that end earlier, at several days, and its returns must equal those of the full run. A
look-ahead that shows only at a certain last day is found only if the data are cut there. Data corrected after the fact
are the same in both runs, so their use is never found. Neither is a position that knows its own day, unless the
objective's decisions end a day before its returns.
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
NOT_REPEATABLE = 0.5  # critical: a result that changes was chosen for its luck
TOLERANCE = 1e-9  # relative to the largest return, or to the value: the rounding of sums in another order
CUTS = 8
EARLIEST_CUT = 0.2
LEAST_RETURNS = 20
_GOLDEN = 0.6180339887498949
_SEED_IT = "seed every random choice from the parameters, and read data that do not change"
_EVALUATE = "re-evaluate it where its objective is known (`o9 health ID --evaluate`, or `evaluate=True`)"


@dataclass(frozen=True)
class Leak:
    """Where a run on data that end after `periods` returns first differs from the full run: return number `place`."""

    periods: int
    place: int
    whole: float
    truncated: float

    @property
    def ahead(self) -> int:
        """The number of periods, at least, that it looks ahead."""
        return self.periods - self.place


def cuts_of(periods: int) -> list[int]:
    """Return the numbers of returns after which to truncate, ascending: fixed, and in no rhythm of rebalancing."""
    places = [EARLIEST_CUT + (1 - EARLIEST_CUT) * (number * _GOLDEN % 1) for number in range(1, CUTS + 1)]
    return sorted({min(max(1, int(place * periods)), periods - 1) for place in places})


def first_difference(one: Sequence[float], other: Sequence[float]) -> int | None:
    """Return the first place where they differ by more than TOLERANCE of the largest in `one`, over the shorter one."""
    shared = min(len(one), len(other))
    first, second = np.asarray(one[:shared], np.float64), np.asarray(other[:shared], np.float64)
    apart = np.abs(first - second) > TOLERANCE * np.abs(np.asarray(one, np.float64)).max(initial=0.0)
    return int(apart.argmax()) if apart.any() else None


def same(best: Trial | TrialOutcome, outcome: TrialOutcome) -> bool:
    """Are the value and the returns those of `best`, within the tolerance?"""
    if outcome.value is None or best.value is None or (outcome.returns is None) != (best.returns is None):
        return False
    if _differs(outcome.value, best.value):
        return False
    if outcome.returns is None or best.returns is None:
        return True
    return len(outcome.returns) == len(best.returns) and first_difference(best.returns, outcome.returns) is None


def repeatable(best: Trial, outcomes: Sequence[TrialOutcome], changed: str) -> Check:
    """Does evaluating the best's parameters again give the same result?

    outcomes: one re-evaluation, and a second one if the first differed. changed: a known change of code or data since
    then, which explains a difference; "" if there is none.
    """
    first, last = outcomes[0], outcomes[-1]
    known: dict[str, Any] = {"trial": best.number, "value": best.value, "again": [one.value for one in outcomes]}
    failed = next((outcome for outcome in outcomes if outcome.state is not TrialState.COMPLETED), None)
    if failed is not None:
        return unknown(REPEATABLE, f"trial {best.number} failed on re-evaluation: {_line(failed)}", **known)
    if same(best, first):
        returns = "value and returns" if best.returns is not None else "value"
        return Check(REPEATABLE, 1.0, f"trial {best.number} has the same {returns} on re-evaluation", evidence=known)
    words = f"trial {best.number}, the best, {_apart(best, first)}"
    known["value_differs"] = _value_differs(best, first)
    if not same(first, last):
        return Check(REPEATABLE, NOT_REPEATABLE, f"{words}; each evaluation differs", _SEED_IT, evidence=known)
    if changed:
        return unknown(REPEATABLE, f"{words}; {changed} since then", "submit it again as it is now", **known)
    remedy = "find what has changed since then (libraries, the machine, external data), and submit it again"
    return Check(REPEATABLE, NOT_REPEATABLE, f"{words}, the same each time", remedy, evidence=known)


def look_ahead(whole: TrialOutcome, truncated: Sequence[tuple[int, TrialOutcome]], asked: int) -> Check:
    """Are past returns the same on data that end earlier?

    whole: the outcome on all data. truncated: pairs of the number of returns after which the data end, and the outcome.
    asked: the number of truncated runs that were planned.
    """
    assert whole.returns is not None
    leaks: list[Leak] = []
    wrong: list[str] = []
    compared = 0
    for periods, outcome in truncated:
        if outcome.returns is None:
            why = _line(outcome) if outcome.error else "it returned no returns"
            wrong.append(f"on the first {periods:,} periods: {why}")
        elif len(outcome.returns) != periods:
            wrong.append(f"called with periods={periods} it returned {len(outcome.returns):,} returns")
        else:
            compared += 1
            place = first_difference(whole.returns, outcome.returns)
            if place is not None:
                leaks.append(Leak(periods, place, whole.returns[place], outcome.returns[place]))
    if leaks:
        return _leak(whole, leaks, compared)
    if not compared:
        why = wrong[0] if wrong else "no truncated run finished in time"
        return unknown(LOOK_AHEAD, why, "with `periods`, compute as if the data ended there, and return no more")
    words = f"past returns are the same on data that end earlier, at {compared} of {asked} days"
    if wrong:
        words += f" ({wrong[0]})"
    words += "; look-ahead within a day, or on rare days only, can go unnoticed"
    return Check(LOOK_AHEAD, 1.0, words, evidence={"cuts": [periods for periods, _ in truncated], "compared": compared})


def stored_checks(facts: HealthFacts) -> list[Check]:
    """Return the checks of the last re-evaluation, if it was of the present best trial."""
    found = facts.repetition
    if facts.best is None:
        return []
    if found is None or found.number != facts.best.number:
        ended = facts.state.status in ENDED
        why = "the best trial is not re-evaluated yet" if ended else "the best trial is re-evaluated at the end"
        return [unknown(name, why, _EVALUATE if ended else "") for name in (REPEATABLE, LOOK_AHEAD)]
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
        f"it looks ahead: its return of {_day(whole, first.place)} is {first.whole:.6g} on all data, and "
        f"{first.truncated:.6g} on data up to {_day(whole, first.periods - 1)}. {len(leaks)} of {compared} truncated "
        f"runs differ, up to {ahead:,} {'period' if ahead == 1 else 'periods'} before their end"
    )
    known = {
        "first": _day(whole, first.place), "period": first.place, "data_until": _day(whole, first.periods - 1),
        "whole": first.whole, "truncated": first.truncated, "periods_ahead": ahead,
        "leaks": [{"cut": leak.periods, "period": leak.place, "day": _day(whole, leak.place)} for leak in leaks],
    }  # fmt: skip
    remedy = "do not trade on it: compute each day's position from data up to that day only (shift, rolling windows)"
    return Check(LOOK_AHEAD, 0.0, words, remedy, evidence=known)


def void_reason(checks: Sequence[Check]) -> GradeReason | None:
    """Return why the re-evaluation makes the result void, or None."""
    found = {check.name: check for check in checks if isinstance(check.score, float) and check.score < 1.0}
    if LOOK_AHEAD in found:
        return GradeReason.LOOK_AHEAD
    if REPEATABLE not in found:
        return None
    differs = found[REPEATABLE].evidence.get("value_differs", True)
    return GradeReason.NOT_REPEATABLE if differs else GradeReason.VALUE_DOES_NOT_FIT


def _value_differs(best: Trial, outcome: TrialOutcome) -> bool:
    """Do the values differ by more than the tolerance? If not, the returns do."""
    return best.value is None or outcome.value is None or _differs(best.value, outcome.value)


def _differs(one: float, other: float) -> bool:
    return abs(one - other) > TOLERANCE * max(abs(one), abs(other))


def _apart(best: Trial, outcome: TrialOutcome) -> str:
    if _value_differs(best, outcome):
        return f"had the value {best.value:.10g}, now {outcome.value:.10g}"
    place = first_difference(best.returns or (), outcome.returns or ())
    if place is None:
        return f"had {len(best.returns or ()):,} returns, now {len(outcome.returns or ()):,}"
    assert best.returns is not None
    assert outcome.returns is not None
    return (
        f"has the same value, but the return of {_day(outcome, place)} was {best.returns[place]:.6g}, now "
        f"{outcome.returns[place]:.6g}"
    )


def _day(outcome: TrialOutcome, place: int) -> str:
    if outcome.dates is None or place >= len(outcome.dates):
        return f"period {place}"
    return iso_date(outcome.dates[place])


def _line(outcome: TrialOutcome) -> str:
    return (outcome.error or "no reason given").split("\n", 1)[0][:300]
