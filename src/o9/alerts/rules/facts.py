"""Facts for alert rules, read from the record.

Contract. The functions block and are called in a thread. Their cost does not depend on the length of the history. An
unknown figure is None. `o9.alerts.rules.metrics` lists all figures, labels and details.
"""

from __future__ import annotations

import json
import re
from collections import Counter
from collections.abc import Container, Iterable, Iterator, Mapping, Sequence
from dataclasses import replace
from datetime import datetime, timedelta
from statistics import median
from typing import Any

from o9.alerts.rules.metrics import QUANTITIES, Scope
from o9.alerts.rules.rules import SubjectFacts
from o9.alerts.service.repository import all_open
from o9.health.grades import Grade, verdict_of
from o9.health.wording import NOT_JUDGED
from o9.lifecycle.effect import direction_of, is_better
from o9.lifecycle.heartbeat import dead_on_this_host
from o9.lifecycle.trends import deviation
from o9.model.optimization import OptimizationState, baseline_of, series_of, strategy_of, target_of
from o9.model.states import HealthStatus, OptimizationStatus
from o9.statistics.summary import rates
from o9.store import queries
from o9.store.core.unit import Row
from o9.store.optimizations.transitions import Cause, was_refused
from o9.store.store import Store

S = OptimizationStatus
QUEUE_COUNTED = 2_000
LAST_RUNS = 10
LEAST_RUNS = 5
RUNS_SEARCHED = 200  # of the last completed ones, for runs of the same name
FORGOTTEN_SECONDS = timedelta(days=1).total_seconds()  # a node that is silent for longer is ignored
LABEL_LIMIT = 120
LEAST_DEVIATION = 0.001  # relative to the value; smaller differences are not worth an alert
_FLAGS = {S.COMPLETED: "completed", S.FAILED: "failed", S.TIMEOUT: "timed_out", S.CANCELLED: "cancelled"}
_RAISED = re.compile(r"[A-Za-z_][\w.]*(?:Error|Exception|Warning|Interrupt)\b")


def is_death(row: Row) -> bool:
    """Return whether this transition is the death of an attempt, after which the optimization is queued again."""
    swept: bool = row["cause"] == Cause.SWEEPER.value and row["to_status"] == S.CREATED.value
    return swept and row["from_status"] != S.CREATED.value


def is_start(row: Row) -> bool:
    """Return whether this transition is the start of a first attempt."""
    return row["attempt"] == 1 and (row["from_status"], row["to_status"]) == (S.INITIALIZING.value, S.RUNNING.value)


def start_facts(row: Row, state: OptimizationState) -> SubjectFacts:
    figures = {"started": 1.0, "on_start": float(state.metadata.get("on_start") is True)}
    return _of_optimization(state, figures, "", row["at"])


def death_facts(store: Store, row: Row, state: OptimizationState) -> SubjectFacts:
    holding = store.read(queries.holding, state.optimization_id)
    figures = {"deaths": float(holding.deaths) if holding else None, "attempt": float(row["attempt"])}
    return _of_optimization(state, figures, row["message"], row["at"])


def end_facts(store: Store, row: Row, used: frozenset[str], state: OptimizationState) -> SubjectFacts:
    """`used`: the figures that rules use; others that cost a read are left out."""
    status = S(row["to_status"])
    figures: dict[str, float | None] = state_figures(state)
    figures |= {name: float(status is each) for each, name in _FLAGS.items()}
    figures["refused"] = float(was_refused(row))
    figures["on_completion"] = float(state.metadata.get("on_completion") is True)
    if status is S.COMPLETED:
        figures |= _effect(state)
        if "worse_than_usual" in used:
            figures["worse_than_usual"] = worse_than_usual(store, state)
        if used & {"trials", "failed_trials", "failed_share"}:
            counts = store.read(queries.trial_counts, state.optimization_id)
            failed, tried = counts.get("failed", 0), counts.get("failed", 0) + counts.get("completed", 0)
            figures |= {"trials": float(tried), "failed_trials": float(failed)}
            figures["failed_share"] = failed / tried if tried else None
    detail = str(state.issues[-1]) if state.issues and status is not S.COMPLETED else row["message"]
    raised = _RAISED.search(detail)
    error = raised[0] if raised else detail.split("\n", 1)[0][:LABEL_LIMIT]  # a label, by which alerts are grouped
    labels = {"error": error} if status is S.FAILED else {}
    return _of_optimization(state, figures, detail or "no reason is recorded", row["at"], labels)


def state_facts(state: OptimizationState) -> SubjectFacts:
    """Return the facts of an optimization that runs, or the last ones of one that has ended."""
    return _of_optimization(state, state_figures(state), "", None)


def state_figures(state: OptimizationState) -> dict[str, float | None]:
    """Return the numbers of a state, with those in its metrics and results."""
    figures: dict[str, float | None] = {name: float(getattr(state, name)) for name in QUANTITIES[Scope.OPTIMIZATION]}
    if not state.optimized_parameters:  # nothing has been measured yet; these fields default to 0.0
        figures |= {"current_performance": None, "performance_improvement": None}
    return figures | flatten({"metrics": state.metrics, "results": state.results})


def worse_than_usual(store: Store, state: OptimizationState) -> float | None:
    """Return by how many robust deviations it is worse than the median of its last runs; 0 unless worse than all.

    The last runs are up to LAST_RUNS of the same name, type and direction among the RUNS_SEARCHED that completed last;
    with fewer than LEAST_RUNS the answer is None. The deviation is at least LEAST_DEVIATION of the values, since runs
    with one seed and the same data are all equal.
    """
    value, direction = state.current_performance, direction_of(state)
    before = [
        other.current_performance
        for other in store.read(queries.page, queries.Filter(status=S.COMPLETED), limit=RUNS_SEARCHED).items
        if other.optimization_id != state.optimization_id
        and (other.name, other.optimization_type, direction_of(other))
        == (state.name, state.optimization_type, direction)
        and other.created_at <= state.created_at
        and other.optimized_parameters
    ][:LAST_RUNS]
    if len(before) < LEAST_RUNS or not state.optimized_parameters:
        return None
    if not all(is_better(other, value, direction) for other in before):
        return 0.0
    middle = median(before)
    return abs(value - middle) / max(deviation(before), LEAST_DEVIATION * max(abs(middle), abs(value)))


def retried(store: Store, state: OptimizationState) -> Iterator[str]:
    """Yield the ids of the optimizations that this one retries, the latest first."""
    before = state.metadata.get("retry_of")
    for _ in range(LAST_RUNS):
        if not isinstance(before, str):
            return
        yield before
        known = store.read(queries.get, before)
        before = known.metadata.get("retry_of") if known else None


def is_superseded(store: Store, row: Row, state: OptimizationState) -> bool:
    """Return whether a newer run of the series has completed and has an earlier report than this one."""
    if "series" not in state.metadata:
        return False
    wanted = queries.Filter(status=S.COMPLETED, series=series_of(state))
    completed = store.read(queries.page, wanted, limit=1).items
    if not completed or completed[0].created_at <= state.created_at:
        return False
    newest = store.read(queries.health_report, completed[0].optimization_id)
    return newest is not None and newest["id"] < row["id"]


def report_facts(row: Row, state: OptimizationState) -> SubjectFacts:
    """Return the facts of a health report. A report on a run of a series is about the series."""
    report, checks = row["report"], row["checks"]
    look_ahead, risk = (_failed_checks(checks, name) for name in ("validity.look_ahead", "security.risk_limits"))
    verdict = verdict_of(checks)
    forecast = verdict.forecast if verdict else None
    figures: dict[str, float | None] = {
        "completed": float(state.status is S.COMPLETED),
        "validity_critical": float(report["validity_status"] == HealthStatus.CRITICAL.value),
        "look_ahead_found": float(bool(look_ahead)),
        "risk_limits_broken": float(len(risk)),
        **{name: report[name] for name in report if name.endswith("_score")},
        **{f"verdict_{grade.value}": float(verdict is not None and verdict.grade is grade) for grade in Grade},
        "forecast": forecast.mean if forecast else None,
        "forecast_low": forecast.low if forecast else None,
        "forecast_high": forecast.high if forecast else None,
    }
    weakest = sorted(_failed_checks(checks, "validity."), key=lambda check: float(check["score"]))
    details = {
        "validity": _texts_of(weakest[:1]),
        "look_ahead": _texts_of(look_ahead),
        "risk": _texts_of(risk),
        "verdict": verdict.headline if verdict else NOT_JUDGED,
    }
    made = _of_optimization(state, figures, "", row["last_at"])
    made = replace(made, details={**made.details, **details})
    if "series" not in state.metadata:
        return made
    # Without labels of a single run, the alerts about all runs of a series are one.
    labels = {name: made.labels[name] for name in ("series", "type", "strategy")}
    key, provisional = " ".join(labels.values()), state.status is not S.COMPLETED
    return replace(made, key=key, labels={**labels, "optimization": ""}, provisional=provisional)


def living_nodes(store: Store) -> set[str]:
    """Return the nodes that have joined, without those of this host whose process is gone."""
    dead = dead_on_this_host(store)
    return {row["node_id"] for row in store.read(queries.nodes) if row["node_id"] not in dead}


def firing_about(store: Store, node: str, rules: Container[str]) -> list[tuple[str, str]]:
    """Return the id and rule of each alert of `rules` that fires about `node`."""
    firing = ((each.alert_id, json.loads(each.labels)) for each in all_open(store) if each.resolved_at is None)
    return [(name, of["rule"]) for name, of in firing if of.get("node") == node and of.get("rule") in rules]


def node_facts(rows: Iterable[Row], now: float, *, certain: bool) -> list[SubjectFacts]:
    """`now`: by the database's clock. certain: False while heartbeats may be missing for lack of a running process."""
    facts = []
    for row in rows:
        silent = max(0.0, now - row["heartbeat_at"])
        if row["node_id"].endswith("#flows") or silent > FORGOTTEN_SECONDS:  # a flow is reported by its attempt
            continue
        lease = float(row["info"].get("lease_seconds") or 0.0)
        figures = {
            "silent_seconds": silent if certain else None,
            "silent_leases": silent / lease if certain and lease else None,
        }
        facts.append(SubjectFacts(row["node_id"], figures, {"node": row["node_id"]}, details={"host": row["host"]}))
    return facts


def channel_facts(rows: Iterable[Row], known: frozenset[str], now: datetime) -> list[SubjectFacts]:
    """Return the facts of the channels in `known`."""
    facts = []
    for row in rows:
        since = datetime.fromisoformat(row["failing_since"]) if row["failing_since"] else now
        figures = {"failing_seconds": max(0.0, (now - since).total_seconds())}
        details = {"detail": row["error"] or ""}
        if row["channel"] in known:
            facts.append(SubjectFacts(row["channel"], figures, {"channel": row["channel"]}, details=details))
    return facts


def global_facts(
    statistics: Mapping[str, Any], hours: Sequence[Row], queue: tuple[int, float | None], now: datetime
) -> SubjectFacts:
    """`statistics`: the answer of `get_global_statistics`, or empty if no rule uses it."""
    count, first = queue
    waiting = 0.0 if first is None else max(0.0, now.timestamp() - first)
    figures = flatten({name: each for name, each in statistics.items() if name != "ended"}) | _windows(hours, now)
    return SubjectFacts("", figures | {"queued": float(count), "longest_wait_seconds": waiting})


def group_facts(scope: Scope, statistics: Mapping[str, Any], hours: Sequence[Row], now: datetime) -> list[SubjectFacts]:
    """Return the facts of each type, or each strategy, with ended optimizations."""
    by, column = {Scope.TYPE: ("type", "optimization_type"), Scope.STRATEGY: ("strategy", "strategy")}[scope]
    return [
        SubjectFacts(name, flatten(given) | _windows([row for row in hours if row[column] == name], now), {by: name})
        for name, given in statistics["ended"][by].items()
    ]


def flatten(given: Mapping[str, Any], prefix: str = "") -> dict[str, float | None]:
    """Return all numbers in a nested mapping by their dotted paths."""
    figures: dict[str, float | None] = {}
    for name, value in given.items():
        if isinstance(value, Mapping):
            figures |= flatten(value, f"{prefix}{name}.")
        elif value is None or (isinstance(value, (int, float)) and not isinstance(value, bool)):
            figures[f"{prefix}{name}"] = None if value is None else float(value)
    return figures


def _windows(hours: Sequence[Row], now: datetime) -> dict[str, float | None]:
    """Return the figures of the last hour and day. Counts are by clock hour; `last_hour` is this one and the last."""
    figures: dict[str, float | None] = {}
    for window, first in (("last_hour", (now - timedelta(hours=1)).isoformat()[:13]), ("last_day", "")):
        counts: Counter[str] = Counter()
        for row in hours:
            if row["starts"] >= first:
                counts[row["status"]] += int(row["count"])
        known = rates(counts)
        figures |= {f"{window}.{name}": known[name] for name in ("success_rate", "failure_rate")}
        figures |= {f"{window}.{name}": float(counts[status.value]) for status, name in _FLAGS.items()}
        figures[f"{window}.ended"] = float(counts.total())
    return figures


def _effect(state: OptimizationState) -> dict[str, float | None]:
    figures: dict[str, float | None] = {"improvement": None, "short_of_target": None}
    if not state.optimized_parameters:
        return figures
    if baseline_of(state) is not None:
        figures["improvement"] = state.performance_improvement
    if (target := target_of(state)) is not None:
        gap = target - state.current_performance
        figures["short_of_target"] = -gap if direction_of(state) == "minimize" else gap
    return figures


def _of_optimization(
    state: OptimizationState,
    figures: Mapping[str, float | None],
    detail: str,
    at: str | None,
    labels: Mapping[str, str] | None = None,
) -> SubjectFacts:
    name = state.name or state.optimization_id
    known = {
        "name": name, "series": series_of(state), "type": state.optimization_type.value,
        "strategy": strategy_of(state.metadata),
    }  # fmt: skip
    return SubjectFacts(
        state.optimization_id,
        figures,
        {**known, **(labels or {})},
        state.optimization_id,
        {"name": name, "detail": detail},
        None if at is None else datetime.fromisoformat(at),
    )


def _failed_checks(checks: Iterable[Mapping[str, Any]], name: str) -> list[Mapping[str, Any]]:
    """Return the checks that found something and whose names begin with `name`."""
    known = (check for check in checks if check["name"].startswith(name) and check["score"] is not None)
    return [check for check in known if check["score"] < 1.0]


def _texts_of(checks: Iterable[Mapping[str, Any]]) -> str:
    return "; ".join(str(check["words"]) for check in checks)
