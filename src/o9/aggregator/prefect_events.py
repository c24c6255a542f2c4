"""Emits the events of `o9.flows.events` to Prefect for everything that happens on an aggregator's store.

Contract. The components of the aggregator report what happened in any process, while they are started.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping
from datetime import datetime
from typing import Any

from o9.aggregator.prefect_server import PrefectServer, prefect_client_settings
from o9.alerts.service.system import AlertNotificationSystem
from o9.flows.events import emit_alert, emit_health, emit_status
from o9.health.checker import OptimizationHealthChecker
from o9.lifecycle.coordinator import OptimizationCoordinator
from o9.model.states import OptimizationStatus
from o9.store.store import Store


def emit_to_prefect(
    coordinator: OptimizationCoordinator,
    health_checker: OptimizationHealthChecker,
    alert_system: AlertNotificationSystem,
    server: Callable[[], PrefectServer | None],
) -> None:
    """`server`: the node's Prefect server; None while no node is started."""

    def emitted_by(emit: Callable[[Store, Any], Awaitable[None]]) -> Callable[[Any], Awaitable[None]]:
        async def emitted(happened: Any) -> None:
            if (reached := server()) is not None:
                with prefect_client_settings(reached):
                    await emit(coordinator.store, happened)

        return emitted

    coordinator.register_callback("transition", emitted_by(_emit_transition))
    health_checker.register_callback("report", emitted_by(emit_health))
    alert_system.register_callback("alert", emitted_by(emit_alert))
    alert_system.register_callback("resolved", emitted_by(emit_alert))


async def _emit_transition(store: Store, row: Mapping[str, Any]) -> None:
    await emit_status(
        store,
        row["optimization_id"],
        OptimizationStatus(row["to_status"]),
        attempt=row["attempt"],
        message=row["message"],
        at=datetime.fromisoformat(row["at"]),
    )
