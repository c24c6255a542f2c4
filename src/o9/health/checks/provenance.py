"""Do all trials come from the same code and data, and is that code allowed here? Pure.

Contract. Compares the fingerprints that each attempt recorded when it began (`strategies.fingerprints` says what they
cover) and the families of the trials. What has no fingerprint is unknown.
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
OTHER_CODE = 0.8  # a warning: the fingerprint covers the whole file, so that a new comment changes it
OTHER_DATA = 0.3  # critical: values on different data cannot be compared
NOT_ALLOWED = 0.8
_SUBMIT_AGAIN = "submit it again, so that all trials use the same version"


def provenance(facts: HealthFacts) -> list[Check]:
    """Code and data are left out before the first attempt, and for a mirrored flow."""
    begun = facts.holding is not None and facts.holding.attempt > 0
    ours = facts.state.metadata.get("strategy") != MIRRORED
    return [*([code(facts), data(facts)] if ours and (begun or facts.ran) else []), *imports(facts)]


def code(facts: HealthFacts) -> Check:
    """Was the code of the objective, or of the strategy, the same in all attempts?"""
    known = [ran for ran in facts.ran if ran.code]
    if not known:
        no_code = (
            f"the code of {facts.ran[-1].objective} cannot be read" if facts.ran else "no attempt recorded its code"
        )
        return unknown(CODE, no_code)
    evidence = {"attempts": [{"attempt": ran.attempt, "of": ran.objective, "code": ran.code} for ran in known]}
    changes = [(before, after) for before, after in pairwise(known) if before.code != after.code]
    name = known[-1].objective
    if changes:
        between = ", ".join(f"{_attempt(before.attempt)} and {after.attempt}" for before, after in changes)
        words = f"the file of {name} changed between {between}{_trials_before(facts, changes[-1][1].attempt)}"
        remedy = f"check what was changed; if it is more than a comment, {_SUBMIT_AGAIN}"
        return Check(CODE, OTHER_CODE, words, remedy, evidence=evidence)
    where = "its only attempt" if len(known) == 1 else f"all {len(known)} attempts"
    return Check(CODE, 1.0, f"{name} has the fingerprint {known[0].code[:12]} in {where}", evidence=evidence)


def data(facts: HealthFacts) -> Check:
    """Were all trials computed from the same data?"""
    completed = [trial for trial in facts.trials if trial.state is TrialState.COMPLETED]
    families = list(dict.fromkeys(trial.family for trial in completed if trial.family))
    declared = [ran for ran in facts.ran if ran.data]
    evidence: dict[str, Any] = {
        "attempts": [{"attempt": ran.attempt, "data": ran.data} for ran in declared], "families": families[:5],
    }  # fmt: skip
    if len(families) > 1:
        first = next(trial for trial in completed if trial.family == families[1])
        words = f"its data changed: trial {first.number} ({_attempt(first.attempt)}) belongs to {families[1]}, "
        words += f"those before it to {families[0]}"
        return Check(DATA, OTHER_DATA, words, _SUBMIT_AGAIN, evidence=evidence)
    for before, after in pairwise(declared):
        if before.data != after.data:
            words = f"its data changed between {_attempt(before.attempt)} and {after.attempt}"
            words += _trials_before(facts, after.attempt)
            return Check(DATA, OTHER_DATA, words, _SUBMIT_AGAIN, evidence=evidence)
    if not declared and not any("@" in family for family in families):
        remedy = "declare @objective(…, data=…), or return Evaluation(…, data_fingerprint=…)"
        return unknown(DATA, "no data fingerprint", remedy)
    named = declared[-1].data if declared else families[0].partition("@")[2]
    return Check(DATA, 1.0, f"all trials use the data {named}", evidence=evidence)


def imports(facts: HealthFacts) -> list[Check]:
    """Are its import paths inside O9_ALLOWED_IMPORTS? No check if that is empty."""
    if not facts.allowed_imports:
        return []
    named = [facts.state.metadata.get(key) for key in ("objective", "strategy")]
    paths = [name for name in named if isinstance(name, str) and ":" in name]
    outside = [path for path in paths if not import_allowed(path.partition(":")[0], facts.allowed_imports)]
    if outside:
        words = f"{' and '.join(outside)}: not inside O9_ALLOWED_IMPORTS"
        remedy = "check who submitted it, from a process without that restriction; allow its package, or register it"
        return [Check(IMPORTS, NOT_ALLOWED, words, remedy, evidence={"outside": outside})]
    words = f"{' and '.join(paths)}: allowed" if paths else "it has no import path"
    return [Check(IMPORTS, 1.0, words)]


def _attempt(number: int) -> str:
    return f"attempt {number}" if number else "the inherited trials"


def _trials_before(facts: HealthFacts, attempt: int) -> str:
    """Say which trials come from before that attempt."""
    before = [trial.number for trial in facts.trials if trial.attempt < attempt]
    return f"; trials up to {max(before)} were evaluated before the change" if before else ", before the first trial"
