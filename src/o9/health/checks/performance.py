"""Is the result better than the baseline, on its way to the target, and reached without loss, failures or slowdown?

Pure. The optimization's direction decides what is better.
"""

from __future__ import annotations

from o9.health.checks.check import Check, unknown
from o9.health.facts import HealthFacts
from o9.lifecycle.effect import improvement, is_better, target_share
from o9.model.optimization import baseline_of, target_of
from o9.model.states import TrialState

BASELINE, TARGET = "performance.baseline", "performance.target"
HISTORY, FAILURES = "performance.history", "performance.failures"


def performance(facts: HealthFacts) -> list[Check]:
    from o9.health.checks.resources import resources  # brings numpy

    return [baseline(facts), *target(facts), *history(facts), *failures(facts), *resources(facts)]


def baseline(facts: HealthFacts) -> Check:
    """Is the best better than the baseline? With neither baseline nor target the part is unknown."""
    state, value = facts.state, facts.value
    if value is None:
        return unknown(BASELINE, "no result yet", "check the trials' errors", essential=True)
    before = baseline_of(state)
    if before is None:
        if target_of(state) is None:
            why = "neither baseline_performance nor target_performance is set"
            return unknown(
                BASELINE, why, "set baseline_performance to the value that the best has to beat", essential=True
            )
        return unknown(BASELINE, "baseline_performance is not set")
    gain = improvement(value, before, facts.direction)
    gained = f"{gain:+.1%}" if before else f"{gain:+.4g}"
    words = f"the best is {value:.6g}, the baseline {before:.6g}: improvement {gained}"
    better = is_better(value, before, facts.direction)
    remedy = "" if better else "keep the present parameters, or search another space"
    return Check(BASELINE, 1.0 if better else 0.0, words, remedy, evidence={"improvement": gain})


def target(facts: HealthFacts) -> list[Check]:
    """The share of the way from the baseline to the target. No check without a target."""
    state, value = facts.state, facts.value
    if value is None or target_of(state) is None:
        return []
    share = target_share(value, state.baseline_performance, state.target_performance, facts.direction)
    if share is None:
        why = f"the target {state.target_performance:.6g} is not better than {state.baseline_performance:.6g}"
        return [unknown(TARGET, why, "set a target that is better than the baseline")]
    words = f"the best is {value:.6g} on the way from {state.baseline_performance:.6g} to the target "
    words += f"{state.target_performance:.6g}: {share:.0%}"
    remedy = "run more trials, widen the search space, or lower the target"
    return [Check(TARGET, min(1.0, max(0.0, share)), words, remedy, evidence={"share": share})]


def failures(facts: HealthFacts) -> list[Check]:
    """The share of the trials that succeeded. No check without trials."""
    tried = [trial for trial in facts.trials if trial.state in (TrialState.COMPLETED, TrialState.FAILED)]
    if not tried:
        return []
    failed = [trial for trial in tried if trial.state is TrialState.FAILED]
    words = f"{len(failed)} of {len(tried)} trials failed"
    if failed:
        words += f"; last error: {failed[-1].error or 'no reason recorded'}"[:300]
    return [Check(FAILURES, 1 - len(failed) / len(tried), words, "check the trials' errors")]


def history(facts: HealthFacts) -> list[Check]:
    """The best so far never gets worse. No check before two steps have one."""
    bests = facts.bests
    if len(bests) < 2:
        return []
    lost = [step for step in range(1, len(bests)) if is_better(bests[step - 1], bests[step], facts.direction)]
    if lost:
        words = f"the best so far went from {bests[lost[-1] - 1]:.6g} back to {bests[lost[-1]]:.6g}"
        return [Check(HISTORY, 0.0, words, "correct the strategy: the best so far must not get worse")]
    return [Check(HISTORY, 1.0, f"the best so far went from {bests[0]:.6g} to {bests[-1]:.6g} in {len(bests)} steps")]
