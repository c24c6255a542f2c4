"""Is the record complete? Steps, trial numbers, transitions, results, and the flow run's final state. Pure."""

from __future__ import annotations

from o9.health.checks.check import SHOWN, Check, examples, unknown
from o9.health.facts import MOST_TRIALS, HealthFacts
from o9.model.states import ENDED, TRANSITIONS, OptimizationStatus, TrialState
from o9.store.queue.claims import MIRRORED

PREFECT_ENDS = frozenset({"COMPLETED", "FAILED", "CRASHED", "CANCELLED"})
_BUG = "this is a bug in O9: keep a copy (`o9 db backup`), run `o9 db check`, and report it"


def completeness(facts: HealthFacts) -> list[Check]:
    return [steps(facts), trial_numbers(facts), transitions(facts), results(facts), *prefect_state(facts)]


def steps(facts: HealthFacts) -> Check:
    """Every completed step has trials or figures in the record."""
    name, done = "completeness.steps", facts.state.completed_steps
    if not done:
        return unknown(name, "no step has completed")
    if not facts.steps:
        return unknown(name, f"{done} steps are completed, and its strategy recorded neither trials nor figures")
    if not facts.all_trials:
        return unknown(name, f"only the first {MOST_TRIALS:,} trials were checked")
    missing = [step for step in range(done) if step not in facts.steps]
    if missing:
        words = f"{len(missing)} of {done} steps have neither trials nor figures: {examples(missing)}"
        return Check(name, 1 - len(missing) / done, words, _BUG, evidence={"missing": missing[:SHOWN], "steps": done})
    return Check(name, 1.0, f"all {done} steps are recorded", evidence={"steps": done})


def trial_numbers(facts: HealthFacts) -> Check:
    """Trials are numbered from 0 without a gap. A lost or removed trial would make the best look better."""
    name, numbers = "completeness.trial_numbers", [trial.number for trial in facts.trials]
    if not numbers:
        return unknown(name, "the ledger has no trials")
    last = max(numbers)
    missing = sorted(set(range(last + 1)) - set(numbers))
    beyond = "" if facts.all_trials else f" (the first {MOST_TRIALS:,} were checked)"
    if missing:
        words = f"{len(missing)} of {last + 1} trials are not in the ledger: {examples(missing)}{beyond}"
        return Check(name, 1 - len(missing) / (last + 1), words, _BUG, evidence={"missing": missing[:SHOWN]})
    return Check(name, 1.0, f"trials 0 to {last} are all recorded{beyond}", evidence={"trials": len(numbers)})


def transitions(facts: HealthFacts) -> Check:
    """Each transition is allowed and begins with the status the one before it ended with, up to the present one."""
    name, rows = "completeness.transitions", facts.transitions
    if not rows:
        return Check(name, 0.0, "no transition is recorded", _BUG, True)
    befores = [row["from_status"] for row in rows]
    afters = [row["to_status"] for row in rows]
    broken = [
        f"{before} → {after} after {previous}"
        for previous, before, after in zip([None, *afters], befores, afters, strict=False)
        if before != previous or not _allowed(before, after)
    ]
    if afters[-1] != facts.state.status.value:
        broken.append(f"the last one leads to {afters[-1]}, but the status is {facts.state.status.value}")
    if broken:
        words = f"the history is inconsistent: {'; '.join(broken[:SHOWN])}"
        return Check(name, 0.0, words, _BUG, True, {"broken": broken[:SHOWN]})
    return Check(name, 1.0, f"{len(rows)} transitions, all consistent", "", True)


def results(facts: HealthFacts) -> Check:
    """Completed trials have values, and a completed optimization has results and parameters."""
    name = "completeness.results"
    completed = [trial for trial in facts.trials if trial.state is TrialState.COMPLETED]
    hollow = [trial.number for trial in completed if trial.value is None]
    if hollow:
        words = f"{len(hollow)} completed trials have no value: {examples(hollow)}"
        return Check(name, 1 - len(hollow) / len(completed), words, _BUG)
    if facts.state.status is not OptimizationStatus.COMPLETED:
        return Check(name, 1.0, f"all {len(completed)} completed trials have their values")
    if facts.state.metadata.get("strategy") == MIRRORED:
        return unknown(name, "it is a mirrored flow, which keeps its own results")
    missing = [field for field in ("results", "optimized_parameters") if not getattr(facts.state, field)]
    if missing:
        words = f"it is completed, but {' and '.join(missing)} are empty"
        return Check(name, 0.0, words, "report results and parameters from the strategy", evidence={"missing": missing})
    if facts.best is not None and facts.all_trials and facts.best.value != facts.state.current_performance:
        words = f"the best trial has {facts.best.value}, current_performance is {facts.state.current_performance}"
        return Check(name, 0.0, words, _BUG)
    return Check(name, 1.0, "results and parameters are recorded")


def prefect_state(facts: HealthFacts) -> list[Check]:
    """The final state of an ended optimization's flow run is recorded. No check before the end."""
    name = "completeness.prefect_state"
    if facts.state.status not in ENDED:
        return []
    run = facts.prefect_run
    if run is None:
        return [unknown(name, "no flow run is recorded")]
    ends = [row for row in facts.prefect_states if row["run_id"] == run["run_id"] and row["state_type"] in PREFECT_ENDS]
    if ends:
        words = f"the flow run {run['run_id']} ended as {ends[-1]['state_name']} in Prefect"
        return [Check(name, 1.0, words, evidence={"run_id": run["run_id"], "state": ends[-1]["state_name"]})]
    if run["is_open"]:
        return [unknown(name, "the final state of its flow run is not recorded yet", "run the flow `reconcile_states`")]
    return [Check(name, 0.0, f"the final state of the flow run {run['run_id']} was never recorded", _BUG)]


def _allowed(before: str | None, after: str) -> bool:
    return before is None or OptimizationStatus(after) in TRANSITIONS[OptimizationStatus(before)]
