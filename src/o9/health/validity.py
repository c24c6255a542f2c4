"""Is the result real? The best trial judged among all that were ever tried on its objective and data. Pure.

Contract. `validity.luck` is what `o9.health.verdict.judge` says, and the part is unknown without it; what stands beside
it (`o9.health.beside`, what lies around the best in its search space) can only take away.
"""

from __future__ import annotations

import numpy as np

from o9.health.beside import beside
from o9.health.checks import Check, unknown
from o9.health.evidence import examine
from o9.health.facts import Facts, Family
from o9.health.moments import Floats
from o9.health.neighbours import Terrain, neighbourhood
from o9.health.repeated import kept
from o9.health.unknown import Unknown
from o9.health.verdict import Evidence, Judgement, Verdict, judge
from o9.model.trial import Trial

LUCK, NEIGHBOURS = "validity.luck", "validity.neighbours"
# What is not called real is believed no more than a coin, however near to the line it came.
NOT_REAL_AT_MOST = 0.5
PEAK = 0.7  # below the threshold: a warning, by itself no verdict
_GIVE_RETURNS = "let the objective answer Evaluation(value, returns=…, periods_per_year=…)"


def validity(facts: Facts, evidence: Evidence | Unknown | None = None) -> list[Check]:
    """All checks of the part; `evidence` is that of `evidence_of`, where somebody has it already."""
    if not facts.trials:
        why, remedy = "the ledger has no trials", "let the strategy report what it evaluates as trials, with returns"
        return [unknown(LUCK, why, remedy, essential=True)]
    known = evidence_of(facts.best, facts.family) if evidence is None else evidence
    return [luck(facts.best, facts.family, known), *beside(known), neighbours(facts), *kept(facts)]


def evidence_of(best: Trial | None, family: Family | None) -> Evidence | Unknown:
    """What is known of the best and its family: over its baseline, where that fits; else over zero."""
    if best is None or family is None:
        return Unknown("no trial has completed")
    if best.returns is None or family.judged is None:
        return Unknown(f"trial {best.number}, the best, has no returns")
    baseline = None if misfit(best, family) else family.baseline
    return examine(
        [unpacked(packed) for packed in family.series],
        counted=_counted(family),
        best=family.judged,
        benchmark=unpacked(baseline.returns) if baseline else None,
        out_of_sample=best.hold_out_returns,
        out_of_sample_benchmark=unpacked(baseline.hold_out) if baseline and baseline.hold_out is not None else None,
        periods_per_year=best.periods_per_year,
        pruned=family.pruned,
    )


def misfit(best: Trial, family: Family) -> str:
    """Why the best cannot be measured over the family's baseline; "" where it can, and where there is none."""
    if family.baseline is None or best.returns is None:
        return ""
    baseline = unpacked(family.baseline.returns)
    if len(baseline) != len(best.returns):
        return f"the baseline has {len(baseline):,} returns, trial {best.number} has {len(best.returns):,}"
    return "" if np.isfinite(baseline).all() else "the baseline's returns are not all finite"


def unpacked(returns: bytes) -> Floats:
    """A view of what the store has packed."""
    return np.frombuffer(returns, dtype="<f8")


def luck(best: Trial | None, family: Family | None, evidence: Evidence | Unknown) -> Check:
    """Is the best more than luck, given how many were tried?"""
    if best is None or family is None or isinstance(evidence, Unknown):
        remedy = "look at the trials' errors" if best is None else _GIVE_RETURNS
        why = evidence if isinstance(evidence, Unknown) else Unknown("no trial has completed")
        return unknown(LUCK, why, remedy, essential=True)
    judgement, wrong = judge(evidence), misfit(best, family)
    told = {
        "family": family.name, "counted": evidence.counted, "by_state": dict(family.counts),
        "kept": len(family.series), "best_trial": best.number, "over_baseline": evidence.over_benchmark,
        "beta": evidence.beta, "pruned": family.pruned.count, "verdict": judgement.verdict.value,
        "decided_by": judgement.decided_by, "errs": judgement.errs,
        "legs": {
            leg.name: leg.value.reason if isinstance(leg.value, Unknown) else leg.value for leg in judgement.legs
        },
    }  # fmt: skip
    if judgement.score is None:
        return unknown(LUCK, judgement.words, _remedy(judgement), essential=True, **told)
    words = f"{judgement.verdict.value} (by {judgement.decided_by}). {judgement.words}"
    if wrong:
        words += f" It is judged over zero and not over its baseline: {wrong}."
    if not family.complete:
        words += f" Only the first {len(family.series):,} returns of the family were looked at."
    return Check(LUCK, _score(judgement), words, _remedy(judgement), True, told)


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


def _counted(family: Family) -> int:
    return max(sum(family.counts.values()), len(family.series))


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
