"""Is the result real? The best trial judged among all that were ever tried on its objective and data. Pure.

Contract. `validity.luck` is what `o9.health.verdict.judge` says, and the part is unknown without it; what lies around
the best in its search space can only take away.
"""

from __future__ import annotations

import numpy as np

from o9.health.checks import Check, unknown
from o9.health.evidence import examine
from o9.health.facts import Facts, Family
from o9.health.neighbours import Terrain, neighbourhood
from o9.health.unknown import Unknown
from o9.health.verdict import Evidence, Judgement, Verdict, judge
from o9.model.trial import Trial

LUCK, NEIGHBOURS = "validity.luck", "validity.neighbours"
# What is not called real is believed no more than a coin, however near to the line it came.
NOT_REAL_AT_MOST = 0.5
PEAK = 0.7  # below the threshold: a warning, by itself no verdict
_GIVE_RETURNS = "let the objective answer Evaluation(value, returns=…, periods_per_year=…)"


def validity(facts: Facts, examined: Evidence | Unknown | None = None) -> list[Check]:
    """`examined`: what `evidence_of` gave, for whoever needs it besides; it takes seconds for a large family."""
    if not facts.trials:
        why, remedy = "the ledger has no trials", "let the strategy report what it evaluates as trials, with returns"
        return [unknown(LUCK, why, remedy, essential=True)]
    return [luck(facts.best, facts.family, examined), neighbours(facts)]


def evidence_of(best: Trial | None, family: Family | None) -> Evidence | Unknown:
    """What the verdict rests on; Unknown where nothing is there to be judged."""
    if best is None or family is None:
        return Unknown("no trial has completed")
    if best.returns is None or family.judged is None:
        return Unknown(f"trial {best.number}, the best, has no returns")
    counted = max(sum(family.counts.values()), len(family.series))
    series = [np.frombuffer(packed, dtype="<f8") for packed in family.series]
    return examine(series, counted=counted, best=family.judged, periods_per_year=best.periods_per_year)


def luck(best: Trial | None, family: Family | None, examined: Evidence | Unknown | None = None) -> Check:
    """Is the best more than luck, given how many were tried?"""
    known = evidence_of(best, family) if examined is None else examined
    if isinstance(known, Unknown):
        remedy = "look at the trials' errors" if best is None else _GIVE_RETURNS
        return unknown(LUCK, known, remedy, essential=True)
    assert best is not None
    assert family is not None
    judgement = judge(known)
    evidence = {
        "family": family.name, "counted": known.counted, "by_state": dict(family.counts), "kept": len(family.series),
        "best_trial": best.number, "verdict": judgement.verdict.value, "decided_by": judgement.decided_by,
        "errs": judgement.errs,
        "legs": {
            leg.name: leg.value.reason if isinstance(leg.value, Unknown) else leg.value for leg in judgement.legs
        },
    }  # fmt: skip
    if judgement.score is None:
        return unknown(LUCK, judgement.words, _remedy(judgement), essential=True, **evidence)
    told = "" if family.complete else f" Only the first {len(family.series):,} returns of the family were looked at."
    words = f"{judgement.verdict.value} (by {judgement.decided_by}). {judgement.words}{told}"
    return Check(LUCK, _score(judgement), words, _remedy(judgement), True, evidence)


def neighbours(facts: Facts) -> Check:
    """Does the result survive small changes of its parameters?"""
    if facts.space is None:
        return unknown(NEIGHBOURS, "its search space is not known here")
    found = neighbourhood(facts.trials, facts.space, maximize=facts.direction == "maximize")
    if isinstance(found, Unknown):
        return unknown(NEIGHBOURS, found)
    peak = found.terrain is Terrain.PEAK
    return Check(
        NEIGHBOURS,
        PEAK if peak else 1.0,
        found.words,
        "search around the best for a plateau, and prefer it to the peak" if peak else "",
        evidence={"terrain": found.terrain.value, "best": found.best, "neighbours": list(found.neighbours)},
    )


def _score(judgement: Judgement) -> float:
    assert judgement.score is not None
    score = min(1.0, max(0.0, judgement.score))
    return score if judgement.verdict is Verdict.REAL else min(score, NOT_REAL_AT_MOST)


def _remedy(judgement: Judgement) -> str:
    return {
        Verdict.REAL: "",
        Verdict.LUCK: "do not trade on it: try fewer variants on more data, or test the best on data not used so far",
        Verdict.OVERFIT: "do not trade on it: the search is fitted to its data; fewer parameters, more data",
        Verdict.UNKNOWN: "keep the returns of all trials, of one length and over the same periods",
    }[judgement.verdict]
