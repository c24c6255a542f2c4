"""Is the result real? Judges the best trial among all trials ever run on its objective and data. Pure.

Contract. The essential check `validity.verdict` holds the `Verdict` of `o9.health.verdict.judge` in its evidence. Its
score follows from the grade: VOID and LOST are critical, UNPROVEN and PLAUSIBLE are warnings, CONFIRMED is healthy; it
is unknown if there was nothing to judge. The other checks (the best trial's neighbours, its re-evaluation) can only
lower the part's score.
"""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from o9.health.checks.check import Check, unknown
from o9.health.checks.neighbours import neighbourhood
from o9.health.checks.repeatability import stored_checks, void_reason
from o9.health.facts import Family, HealthFacts
from o9.health.grades import VERDICT, Grade, Verdict
from o9.health.statistics.evidence import examine
from o9.health.statistics.moments import Floats
from o9.health.unknown import Unknown
from o9.health.verdict import Evidence, judge
from o9.model.trial import Trial
from o9.text.format import sentence

NEIGHBOURS = "validity.neighbours"
PEAK = 0.7  # below the threshold: a warning, which does not change the verdict


def validity(facts: HealthFacts, evidence: Evidence | Unknown | None = None) -> list[Check]:
    """Run all checks of the part; `evidence` is the result of `evidence_of`, if already computed."""
    verdict = verdict_on(facts, evidence)
    if not facts.trials:
        return [verdict_check(verdict)]
    return [verdict_check(verdict), neighbours(facts), *stored_checks(facts)]


def verdict_on(facts: HealthFacts, evidence: Evidence | Unknown | None = None) -> Verdict:
    """Judge the best trial of `facts`; `evidence` as for `validity`."""
    known = evidence_of(facts.best, facts.family) if evidence is None else evidence
    if not facts.trials:
        known = Unknown("the ledger has no trials")
    if isinstance(known, Unknown):
        counted = _counted(facts.family) if facts.best is not None and facts.family is not None else 0
        known = Evidence.nothing(counted, known)
    repeated = stored_checks(facts)
    verdict = judge(replace(known, void=void_reason(repeated) or known.void))
    against = [check for check in repeated if isinstance(check.score, float) and check.score < 1.0]
    notes = [check.words for check in against] if verdict.grade is Grade.VOID else []
    if facts.best is not None and facts.family is not None:
        notes += _notes(facts.best, facts.family)
    return replace(verdict, words=" ".join(filter(None, (verdict.words, *map(sentence, notes)))))


def verdict_check(verdict: Verdict) -> Check:
    """Make the check that holds the verdict. `o9.health.grades.verdict_of` reads it back."""
    finding = f"{verdict.headline} {verdict.words}".rstrip()
    evidence = {"verdict": verdict.to_dict()}
    if verdict.score is None:
        return unknown(VERDICT, finding, verdict.remedy, essential=True, **evidence)
    words = f"{verdict.grade.value.upper()}: {finding}"
    return Check(VERDICT, verdict.score, words, verdict.remedy, True, evidence)


def evidence_of(best: Trial | None, family: Family | None) -> Evidence | Unknown:
    """Compute the evidence on the best trial and its family, over its baseline if that fits, else over zero."""
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
        adaptive=family.adaptive,
        market_neutral=family.market_neutral,
        looks=family.looks,
        seen=family.seen,
        placebo=family.placebo,
    )


def misfit(best: Trial, family: Family) -> str:
    """Return why the best trial cannot be measured over the baseline; "" if it can, or if there is none."""
    if family.baseline is None or best.returns is None:
        return ""
    baseline = unpacked(family.baseline.returns)
    if len(baseline) != len(best.returns):
        return f"the baseline has {len(baseline):,} returns, trial {best.number} has {len(best.returns):,}"
    return "" if np.isfinite(baseline).all() else "the baseline's returns are not all finite"


def unpacked(returns: bytes) -> Floats:
    """Return a view of packed returns."""
    return np.frombuffer(returns, dtype="<f8")


def neighbours(facts: HealthFacts) -> Check:
    """Does the result survive small changes of its parameters?"""
    if facts.space is None:
        return unknown(NEIGHBOURS, "the search space is unknown here")
    found = neighbourhood(facts.trials, facts.space, maximize=facts.direction == "maximize")
    if isinstance(found, Unknown):
        return unknown(NEIGHBOURS, found)
    terrain = "plateau" if found.is_plateau else "peak"
    evidence = {"terrain": terrain, "best": found.best, "neighbours": list(found.neighbours)}
    if found.is_plateau:
        return Check(NEIGHBOURS, 1.0, found.words, evidence=evidence)
    remedy = "search around the best trial for a plateau, and prefer that to the peak"
    return Check(NEIGHBOURS, PEAK, found.words, remedy, evidence=evidence)


def _counted(family: Family) -> int:
    return max(sum(family.counts.values()), len(family.series))


def _notes(best: Trial, family: Family) -> list[str]:
    """Say what limits the verdict."""
    wrong = misfit(best, family)
    notes = [f"It is judged over zero instead of its baseline: {wrong}"] if wrong else []
    if not family.complete:
        notes.append(f"Only the first {len(family.series):,} trials of the family with returns were used")
    return notes
