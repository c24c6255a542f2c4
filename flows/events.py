"""Emits events of optimizations, their health and their alerts to Prefect, for automations to act on.

Contract. `docs/prefect.md` lists the events and their payloads. The resource is `o9.optimization.ID`, with the labels
`o9.type`, `o9.strategy`, `o9.is_retry`, and, in a series, `o9.series`; that of an alert is `o9.alert.ID`, with
`o9.alert.level`. Related resources are the flow run, the series, and for an alert the optimization. An event's id
follows from what happened, so that Prefect counts it once if several processes emit it. Placebo runs have no events.
Errors of Prefect are logged, and nothing waits for it.
"""

from __future__ import annotations

import asyncio
import json
import logging
import uuid
from datetime import datetime
from typing import Any

from prefect.events import emit_event

from o9.health.grades import kept_verdict
from o9.model.optimization import (
    OptimizationAlert,
    OptimizationHealthReport,
    OptimizationState,
    is_placebo,
    strategy_of,
)
from o9.model.states import ENDED, HealthStatus, OptimizationStatus
from o9.store import queries
from o9.store.store import Store

logger = logging.getLogger(__name__)
NAMES = {status: status.value for status in (*ENDED, OptimizationStatus.PAUSED, OptimizationStatus.SUSPENDED)}
NAMES[OptimizationStatus.RUNNING] = "started"
TEXT_LIMIT, PARAMETERS_LIMIT, ISSUES_SHOWN = 2_000, 10_000, 10
_IDS = uuid.UUID("7b0f6d0e-9f0c-4a53-8f3e-0f4f6b1d9a09")


async def emit_status(
    store: Store,
    optimization_id: str,
    status: OptimizationStatus | None = None,
    *,
    attempt: int | None = None,
    message: str = "",
    at: datetime | None = None,
) -> None:
    """Emit that the optimization has taken `status`, or has its present one. Some statuses have no event."""
    if status is not None and status not in NAMES:
        return
    found = await asyncio.to_thread(_subject, store, optimization_id)
    if found is None:
        return
    state, run_id, held_attempt, grade = found
    now = status or state.status
    if now not in NAMES:
        return
    counted = held_attempt if attempt is None else attempt
    payload: dict[str, Any] = {"attempt": counted}
    if now is not OptimizationStatus.RUNNING:
        last_issue = str(state.issues[-1]) if state.issues else ""
        payload |= {**_best(state), "message": (message or last_issue)[:TEXT_LIMIT], "grade": grade}
    _emit(f"o9.optimization.{NAMES[now]}", state, run_id, payload, f"{counted}/{now.value}", at)


async def emit_improved(store: Store, optimization_id: str) -> None:
    """Emit that the optimization has a new best."""
    found = await asyncio.to_thread(_subject, store, optimization_id)
    if found is not None:
        state, run_id, attempt, _ = found
        what = f"{attempt}/{state.completed_steps}/improved"
        _emit("o9.optimization.improved", state, run_id, {"attempt": attempt, **_best(state)}, what)


async def emit_health(store: Store, report: OptimizationHealthReport) -> None:
    """Emit the overall status of a health report, unless it is unknown."""
    if report.overall_status is HealthStatus.UNKNOWN:
        return
    found = await asyncio.to_thread(_subject, store, report.optimization_id)
    if found is None:
        return
    state, run_id, _, grade = found
    payload = {"issues": [str(issue)[:TEXT_LIMIT] for issue in report.issues[:ISSUES_SHOWN]], "grade": grade}
    what, at = f"health/{report.timestamp.isoformat()}", report.timestamp
    _emit(f"o9.health.{report.overall_status.value}", state, run_id, payload, what, at)


async def emit_alert(store: Store, alert: OptimizationAlert) -> None:
    """Emit that the alert fires, or is resolved."""
    event = "o9.alert.resolved" if alert.resolved else "o9.alert.firing"
    found = await asyncio.to_thread(_subject, store, alert.optimization_id) if alert.optimization_id else None
    state, run_id = (found[0], found[1]) if found is not None else (None, None)
    if state is not None and is_placebo(state.metadata):
        return
    resource = {
        "prefect.resource.id": f"o9.alert.{alert.alert_id}",
        "prefect.resource.name": alert.title[:TEXT_LIMIT],
        "o9.alert.level": alert.level.value,
    }
    related = _related(run_id, state)
    if state is not None:
        related.insert(0, {**_resource(state), "prefect.resource.role": "optimization"})
    payload = {
        "alert_id": alert.alert_id,
        "optimization_id": alert.optimization_id,
        "name": state.name if state else "",
        "level": alert.level.value,
        "title": alert.title[:TEXT_LIMIT],
        "message": alert.message[:TEXT_LIMIT],
    }
    _send(event, resource, related, payload, f"{alert.alert_id}/{alert.timestamp.isoformat()}/{event}")


def _emit(
    event: str, state: OptimizationState, run_id: str | None, payload: dict[str, Any], what: str,
    at: datetime | None = None,
) -> None:  # fmt: skip
    if is_placebo(state.metadata):
        return
    whose = {"optimization_id": state.optimization_id, "name": state.name}
    what = f"{state.optimization_id}/{state.created_at.isoformat()}/{what}"
    _send(event, _resource(state), _related(run_id, state), whose | payload, what, at)


def _send(
    event: str, resource: dict[str, str], related: list[dict[str, str]], payload: dict[str, Any], what: str,
    at: datetime | None = None,
) -> None:  # fmt: skip
    try:
        emit_event(event, resource, at, related, payload, uuid.uuid5(_IDS, what))
    except Exception as error:  # noqa: BLE001 - any error of Prefect's
        logger.warning("could not emit %s of %s to Prefect: %r", event, resource["prefect.resource.id"], error)


def _resource(state: OptimizationState) -> dict[str, str]:
    return {
        "prefect.resource.id": f"o9.optimization.{state.optimization_id}",
        "prefect.resource.name": state.name,
        "o9.type": state.optimization_type.value,
        "o9.strategy": strategy_of(state.metadata),
        "o9.is_retry": "true" if "retry_of" in state.metadata else "false",
        **({"o9.series": str(state.metadata["series"])} if state.metadata.get("series") else {}),
    }


def _related(run_id: str | None, state: OptimizationState | None) -> list[dict[str, str]]:
    related = []
    if run_id is not None:
        related.append({"prefect.resource.id": f"prefect.flow-run.{run_id}", "prefect.resource.role": "flow-run"})
    if state is not None and (series := state.metadata.get("series")):
        related.append({"prefect.resource.id": f"o9.series.{series}", "prefect.resource.role": "series"})
    return related


def _best(state: OptimizationState) -> dict[str, Any]:
    if not state.optimized_parameters:
        return {"best_value": None, "best_parameters": None}
    is_long = len(json.dumps(state.optimized_parameters)) > PARAMETERS_LIMIT
    return {"best_value": state.current_performance, "best_parameters": None if is_long else state.optimized_parameters}


def _subject(store: Store, optimization_id: str) -> tuple[OptimizationState, str | None, int, str | None] | None:
    """The state, its flow run's id, its attempt, and the verdict's grade if it has one. Blocks."""
    state, holding = store.read(queries.get, optimization_id), store.read(queries.holding, optimization_id)
    if state is None or holding is None:
        return None
    verdict = kept_verdict(store, state)
    return state, holding.prefect_run_id, holding.attempt, verdict.grade.value if verdict else None
