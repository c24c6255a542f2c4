"""The rows of each frame, as plain values read from the store. Call these functions in a thread.

`limit` None means all; otherwise the newest rows, but the first ones of trials and returns.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from functools import partial
from itertools import islice
from operator import itemgetter
from typing import Any

from o9.model.optimization import strategy_of, utc_now
from o9.model.states import OptimizationStatus, OptimizationType, TrialState
from o9.model.trial import Trial
from o9.statistics.frames import TRIALS
from o9.store import queries
from o9.store.core.column_types import moment, unpack_returns
from o9.store.core.component import all_optimizations, latest_health_reports
from o9.store.core.reading import PAGE_LIMIT, paged
from o9.store.core.unit import Row
from o9.store.store import Store


def optimizations(
    store: Store, status: OptimizationStatus | None, kind: OptimizationType | None, limit: int | None
) -> list[Row]:
    """Return optimizations, newest first."""
    states = all_optimizations(
        store, queries.Filter(status=status, optimization_type=kind), min(PAGE_LIMIT, limit or PAGE_LIMIT)
    )
    return [state.to_dict() | {"strategy": strategy_of(state.metadata)} for state in islice(states, limit)]


def trials(store: Store, optimization_id: str, limit: int | None) -> list[Row]:
    """Return the ledger, in order."""
    return [trial(optimization_id, each) for each in store.read(queries.trials, optimization_id, limit=limit)]


def trial(optimization_id: str, one: Trial) -> Row:
    fixed: Row = one.to_dict() | {"optimization_id": optimization_id, "family": one.family}
    return (
        {name: fixed.get(name) for name in TRIALS}
        | {f"parameter.{name}": value for name, value in one.parameters.items()}
        | {f"metric.{name}": value for name, value in one.metrics.items()}
    )


def returns(store: Store, optimization_id: str, limit: int | None) -> Iterable[tuple[int | None, str, Sequence[float]]]:
    """Yield the returns of the baseline, and of the first `limit` completed trials."""
    baseline = store.read(queries.baseline, optimization_id)
    if baseline is not None:
        yield None, "baseline", unpack_returns(baseline.returns)
        if baseline.hold_out is not None:
            yield None, "baseline_hold_out", unpack_returns(baseline.hold_out)
    completed = (trial for trial in store.read(queries.trials, optimization_id) if trial.state is TrialState.COMPLETED)
    for known in islice(completed, limit):
        trial = store.read(queries.trial, optimization_id, known.number)
        if trial is not None and trial.returns is not None:
            yield trial.number, "returns", trial.returns
            if trial.hold_out_returns is not None:
                yield trial.number, "hold_out", trial.hold_out_returns


def metrics(store: Store, optimization_id: str, limit: int | None) -> list[Row]:
    """Return the last `limit` values, oldest first; `step` is None for one recorded from outside."""
    outside = store.read(queries.recordings, optimization_id, limit=limit)
    rows = [*store.read(queries.metrics, optimization_id, limit=limit), *({**row, "step": None} for row in outside)]
    rows = [{**row, "optimization_id": optimization_id} for row in rows]
    rows.sort(key=lambda row: str(row["at"]))
    return rows if limit is None else rows[-limit:]


def transitions(store: Store, optimization_id: str, limit: int | None) -> list[Row]:
    """Return the last `limit` transitions, oldest first."""
    rows = store.read(queries.transitions, optimization_id)
    return list(rows if limit is None else rows[-limit:])


def health(store: Store, optimization_id: str | None, limit: int | None) -> list[Row]:
    """Return the newest report of each optimization, or all reports of one, newest first."""
    if optimization_id is None:
        found = latest_health_reports(store)
    else:
        found = paged(partial(store.read, queries.health_history, optimization_id, PAGE_LIMIT), itemgetter("id"))
    return [{**row, **row["report"], **_verdict(row["verdict"])} for row in islice(found, limit)]


def _verdict(found: Mapping[str, Any] | None) -> Row:
    """Return the columns of a report's verdict."""
    if found is None:
        return {}
    forecast = found["forecast"] or {}
    columns = {"forecast": "mean", "forecast_low": "low", "forecast_high": "high"}
    columns |= {"claimed": "claimed", "held_out": "held_out"}
    row: Row = {name: found[name] for name in ("grade", "reason", "headline")}
    return row | {column: forecast.get(name) for column, name in columns.items()}


def alerts(store: Store, optimization_id: str | None, limit: int | None) -> list[Row]:
    """Return alerts, newest first."""
    now = moment(utc_now())
    found = paged(
        lambda before: store.read(queries.alerts, optimization_id=optimization_id, limit=PAGE_LIMIT, before=before),
        itemgetter("at", "alert_id"),
    )
    rows = []
    for row in islice(found, limit):
        over = row["ends_at"] if row["ends_at"] and row["ends_at"] <= now else None
        ended = row["resolved_at"] or over
        rows.append({**row, "timestamp": row["at"], "resolved": ended is not None, "resolved_at": ended})
    return rows


def statistics(summary: Mapping[str, Any]) -> list[Row]:
    """Return the figures of ended optimizations, in total and by type, strategy, priority and status.

    summary: that of `get_global_statistics()`.
    """
    ended = sum(each["count"] for each in summary["ended"]["status"].values())
    groups = [("all", "", {**summary, "count": ended})]
    groups += [(by, str(name), each) for by, found in summary["ended"].items() for name, each in found.items()]
    return [
        {
            "by": by,
            "which": which,
            **{name: each[name] for name in ("count", "success_rate", "failure_rate", "cancelled_rate")},
            "mean_duration_seconds": each["duration_seconds"]["mean"],
            "median_duration_seconds": each["duration_seconds"]["median"],
            "mean_improvement": each["performance_improvement"]["mean"],
            "median_improvement": each["performance_improvement"]["median"],
            "mean_waiting_seconds": each["waiting_seconds"]["mean"],
        }
        for by, which, each in groups
    ]
