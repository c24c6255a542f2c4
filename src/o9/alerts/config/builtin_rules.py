"""The built-in rules. The alerts file changes them by their names, or switches them off. Pure."""

from __future__ import annotations

from datetime import timedelta
from typing import Any

from o9.alerts.rules.expressions import condition_of
from o9.alerts.rules.metrics import Scope
from o9.alerts.rules.rules import Rule
from o9.model.states import AlertLevel

MINUTE = timedelta(minutes=1)


def _rule(
    name: str,
    title: str,
    scope: Scope,
    level: AlertLevel,
    when: str,
    says: str,
    remedy: str,
    clear: str | None = None,
    **times: Any,
) -> Rule:
    cleared = None if clear is None else condition_of(clear, scope)
    return Rule(name, title, scope, level, condition_of(when, scope), cleared, says=says, remedy=remedy, **times)


BUILT_IN: tuple[Rule, ...] = (
    # How optimizations end.
    _rule(
        "failed", "Optimization failed", Scope.END, AlertLevel.ERROR, "failed == 1",
        "{name} failed: {detail}",
        "`o9 show {optimization}` shows what happened; `o9 retry {optimization}` runs it again",
    ),
    _rule(
        "timed_out", "Optimization timed out", Scope.END, AlertLevel.ERROR, "timed_out == 1",
        "{name} exceeded its time limit after running for {execution_time}: {detail}",
        "raise timeout_seconds or reduce the steps, then run it again with `o9 retry {optimization}`",
    ),
    _rule(
        "completed", "Optimization completed", Scope.END, AlertLevel.INFO, "completed == 1 and on_completion == 1",
        "{name} ended at {current_performance} after {completed_steps} steps, in {execution_time}",
        "`o9 show {optimization}` has its parameters, `o9 health {optimization}` its verdict",
    ),
    _rule(
        "crashed", "Attempt crashed", Scope.DEATH, AlertLevel.WARNING, "deaths >= 1",
        "{name}: {detail}",
        "find out what killed the process: memory, the machine, or a native library of the objective",
    ),
    _rule(
        "worse_than_baseline", "Worse than its baseline", Scope.END, AlertLevel.WARNING,
        "completed == 1 and improvement < 0",
        "{name} ended at {current_performance}; its baseline is {baseline_performance} ({improvement})",
        "keep the baseline, or search elsewhere",
    ),
    _rule(
        "worse_than_usual", "Worse than its own last runs", Scope.END, AlertLevel.WARNING,
        "completed == 1 and worse_than_usual > 3",
        "{name} ended at {current_performance}: worse than all of its last runs, and {worse_than_usual} of their usual "
        "deviations below their median",
        "compare its data and code with those of the run before: `o9 health {optimization}`",
    ),
    _rule(
        "target_missed", "Target missed", Scope.END, AlertLevel.WARNING, "completed == 1 and short_of_target > 0",
        "{name} ended at {current_performance}; its target is {target_performance}",
        "run more trials, widen the search space, or lower the target",
    ),
    _rule(
        "many_failed_trials", "Many trials failed", Scope.END, AlertLevel.WARNING,
        "completed == 1 and failed_share >= 20% and failed_trials >= 5",
        "{failed_trials} of {trials} trials of {name} failed ({failed_share})",
        "fix the objective, or exclude what it cannot evaluate from the search space",
    ),
    # Health reports; each holds until the next report.
    _rule(
        "validity_critical", "Validity critical", Scope.REPORT, AlertLevel.ERROR,
        "completed == 1 and validity_critical == 1 and look_ahead_found == 0 and verdict_void == 0 "
        "and verdict_lost == 0",
        "its result cannot be trusted: {validity}",
        "do not trade on it; `o9 health {optimization}` shows the evidence",
    ),
    _rule(
        "verdict_void", "Result void", Scope.REPORT, AlertLevel.WARNING,
        "completed == 1 and verdict_void == 1 and look_ahead_found == 0",
        "the result of {name} is void: {verdict}",
        "correct the objective and submit it again; `o9 health {optimization}` shows what was found",
    ),
    _rule(
        "verdict_lost", "Result lost out of sample", Scope.REPORT, AlertLevel.WARNING,
        "completed == 1 and verdict_lost == 1 and look_ahead_found == 0",
        "the result of {name} did not hold on data that the search never saw: {verdict}",
        "do not trade on it; `o9 health {optimization}` shows the evidence",
    ),
    _rule(
        "look_ahead_found", "Look-ahead found", Scope.REPORT, AlertLevel.CRITICAL, "look_ahead_found == 1",
        "its objective uses data from the future: {look_ahead}",
        "do not trade on it; correct the objective and submit it again",
    ),
    _rule(
        "risk_limit_broken", "Risk limit broken", Scope.REPORT, AlertLevel.CRITICAL, "risk_limits_broken >= 1",
        "its best result breaks its risk limits: {risk}",
        "do not use this result; make the limit part of the objective",
    ),
    # The nodes, Prefect, the store and the channels.
    _rule(
        "node_lost", "Node lost", Scope.NODE, AlertLevel.ERROR, "silent_leases > 3",
        "no heartbeat from node {node} on {host} for {silent_seconds}; it did not shut down cleanly",
        "check its machine and process; another running aggregator takes over its optimizations",
        clear="silent_leases < 1",
    ),
    _rule(
        "node_died", "Node lost", Scope.NODE_DEATH, AlertLevel.ERROR, "died == 1",
        "the process of node {node} on {host} is gone; it did not shut down cleanly",
        "find out what killed it; another running aggregator takes over its optimizations",
    ),
    _rule(
        "queue_too_long", "Queue too long", Scope.GLOBAL, AlertLevel.WARNING, "longest_wait_seconds > 1h",
        "{queued} optimizations wait for a slot, the first for {longest_wait_seconds}",
        "run more nodes, raise max_concurrent_optimizations, or give urgent ones a higher priority",
        clear="longest_wait_seconds < 30m", lasts=5 * MINUTE,
    ),
    _rule(
        "schedule_missed", "Schedule missed", Scope.SCHEDULE, AlertLevel.WARNING, "late_seconds > 10m",
        "{schedule} is {late_seconds} late",
        "start a worker, or an aggregator with schedules; see `o9 doctor` and Prefect's page of late runs",
        clear="late_seconds <= 0",
    ),
    _rule(
        "prefect_away", "Prefect away", Scope.THIS_NODE, AlertLevel.ERROR, "prefect_away_seconds > 1m",
        "node {node} has not reached Prefect's server for {prefect_away_seconds}, and starts nothing",
        "check that the server runs and that PREFECT_API_URL is right: `o9 doctor`",
        clear="prefect_away_seconds <= 0",
    ),
    _rule(
        "store_away", "Store was away", Scope.THIS_NODE, AlertLevel.WARNING, "store_away_seconds > 30s",
        "node {node} could not reach the store for {store_away_seconds}: {detail}",
        "look at the database's log; states that arrived meanwhile waited in the spool",
        clear="store_away_seconds <= 0", keep_firing=10 * MINUTE,
    ),
    _rule(
        "channel_failing", "Channel failing", Scope.CHANNEL, AlertLevel.ERROR, "failing_seconds > 5m",
        "the channel {channel} has been failing for {failing_seconds}: {detail}",
        "fix it, or remove it from its receivers; its messages wait",
        clear="failing_seconds <= 0",
    ),
    # What the monitor finds in what runs; it decides when that begins and is over.
    *(
        Rule(name, "", Scope.FINDING, None)
        for name in (
            "stalled", "failing_trials", "nan_values", "diverging", "memory_growing", "slower_than_before",
            "plateaued", "best_at_edge",
        )
    ),
)  # fmt: skip
