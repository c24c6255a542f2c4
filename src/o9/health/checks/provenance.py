"""Is it the same code and the same data that all its trials come from, and code that may be run here? Pure.

Contract. What is compared are the fingerprints that each attempt recorded when it began (`strategies.fingerprints` says
what they cover and what not), and the families that its trials name. What has no fingerprint is unknown.
"""

from __future__ import annotations

from itertools import pairwise
from typing import Any

from o9.health.checks.check import Check, unknown
from o9.health.facts import HealthFacts
from o9.model.states import TrialState
from o9.store.queue.claims import MIRRORED
from o9.strategies.registry import import_allowed

CODE, DATA, IMPORTS = "security.code", "security.data", "security.imports"
OTHER_CODE = 0.8  # a warning: a fingerprint is of the whole file, and a comment changes it
OTHER_DATA = 0.3  # critical: what is compared across other data is no comparison
NOT_ALLOWED = 0.8
_SUBMIT_AGAIN = "submit it again, so that all its trials are evaluated alike"


def provenance(facts: HealthFacts) -> list[Check]:
    """Nothing of code and data where no attempt has begun, and of a flow that O9 only watches."""
    begun = facts.holding is not None and facts.holding.attempt > 0
    ours = facts.state.metadata.get("strategy") != MIRRORED
    return [*([code(facts), data(facts)] if ours and (begun or facts.ran) else []), *imports(facts)]


def code(facts: HealthFacts) -> Check:
    """Was the code of its objective, or strategy, the same in all attempts?"""
    known = [ran for ran in facts.ran if ran.code]
    if not known:
        why = (
            "what its attempts ran was not recorded"
            if not facts.ran
            else f"{facts.ran[-1].objective} has no code to be read"
        )
        return unknown(CODE, why)
    evidence = {"attempts": [{"attempt": ran.attempt, "of": ran.objective, "code": ran.code} for ran in known]}
    changes = [(before, after) for before, after in pairwise(known) if before.code != after.code]
    name = known[-1].objective
    if changes:
        between = ", ".join(f"{_attempt(before.attempt)} and {after.attempt}" for before, after in changes)
        words = f"the file of {name} changed between {between}{_trials_before(facts, changes[-1][1].attempt)}"
        remedy = f"see what was changed in between; if it is more than a comment, {_SUBMIT_AGAIN}"
        return Check(CODE, OTHER_CODE, words, remedy, evidence=evidence)
    if len(known) == 1:
        return Check(CODE, 1.0, f"there was one attempt, with {name} as {known[0].code[:12]}", evidence=evidence)
    return Check(CODE, 1.0, f"{name} was {known[0].code[:12]} in all {len(known)} attempts", evidence=evidence)


def data(facts: HealthFacts) -> Check:
    """Were its trials all computed from the same data?"""
    completed = [trial for trial in facts.trials if trial.state is TrialState.COMPLETED]
    families = list(dict.fromkeys(trial.family for trial in completed if trial.family))
    declared = [ran for ran in facts.ran if ran.data]
    evidence: dict[str, Any] = {
        "attempts": [{"attempt": ran.attempt, "data": ran.data} for ran in declared], "families": families[:5],
    }  # fmt: skip
    if len(families) > 1:
        first = next(trial for trial in completed if trial.family == families[1])
        words = f"its data changed: trial {first.number} ({_attempt(first.attempt)}) is of {families[1]}, those before "
        words += f"it are of {families[0]}"
        return Check(DATA, OTHER_DATA, words, _SUBMIT_AGAIN, evidence=evidence)
    for before, after in pairwise(declared):
        if before.data != after.data:
            words = f"its data changed between {_attempt(before.attempt)} and {after.attempt}"
            words += _trials_before(facts, after.attempt)
            return Check(DATA, OTHER_DATA, words, _SUBMIT_AGAIN, evidence=evidence)
    if not declared and not any("@" in family for family in families):
        remedy = "give @objective(…, data=…), or let it answer Evaluation(…, data_fingerprint=…)"
        return unknown(DATA, "its data have no fingerprint", remedy)
    named = declared[-1].data if declared else families[0].partition("@")[2]
    return Check(DATA, 1.0, f"all its trials are of {named}", evidence=evidence)


def imports(facts: HealthFacts) -> list[Check]:
    """Is what it names inside O9_ALLOWED_IMPORTS? Left out where that is empty: there is nothing to hold it against."""
    if not facts.allowed_imports:
        return []
    named = [facts.state.metadata.get(key) for key in ("objective", "strategy")]
    paths = [name for name in named if isinstance(name, str) and ":" in name]
    outside = [path for path in paths if not import_allowed(path.partition(":")[0], facts.allowed_imports)]
    if outside:
        words = f"{' and '.join(outside)} lies outside of what O9_ALLOWED_IMPORTS allows to requests"
        remedy = "see who submitted it from a process that may run anything; allow its package, or register it by name"
        return [Check(IMPORTS, NOT_ALLOWED, words, remedy, evidence={"outside": outside})]
    words = f"{' and '.join(paths)} is allowed" if paths else "it names nothing to import"
    return [Check(IMPORTS, 1.0, words)]


def _attempt(number: int) -> str:
    return f"attempt {number}" if number else "what it took over"


def _trials_before(facts: HealthFacts, attempt: int) -> str:
    """Which trials come from before that attempt."""
    before = [trial.number for trial in facts.trials if trial.attempt < attempt]
    if not before:
        return ", before its first trial"
    return f"; trials up to {max(before)} come from before, those behind it from after"
