"""Tells Prefect what the record says has happened, by the events of `o9.flows.events`.

Contract. It follows the components of one aggregator while they are started, whichever process did what happened.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager
from datetime import datetime
from typing import Any

from o9.alerts.service.system import AlertNotificationSystem
from o9.flows.events import emit_alert, emit_health, emit_status
from o9.health.checker import OptimizationHealthChecker
from o9.lifecycle.coordinator import OptimizationCoordinator
from o9.model.optimization import OptimizationAlert, OptimizationHealthReport
from o9.model.states import OptimizationStatus
from o9.store.store import Store


class PrefectEvents:
    """`prefect_settings`: under which the node's Prefect server is reached; None while no node is started."""

    def __init__(
        self,
        coordinator: OptimizationCoordinator,
        health_checker: OptimizationHealthChecker,
        alert_system: AlertNotificationSystem,
        prefect_settings: Callable[[], AbstractContextManager[None] | None],
    ) -> None:
        self._coordinator = coordinator
        self._prefect_settings = prefect_settings
        coordinator.register_callback("transition", self._on_transition)
        health_checker.register_callback("report", self._on_report)
        alert_system.register_callback("alert", self._on_alert)
        alert_system.register_callback("resolved", self._on_alert)

    @property
    def _store(self) -> Store:
        return self._coordinator.store

    async def _on_transition(self, row: Mapping[str, Any]) -> None:
        if (reached := self._prefect_settings()) is None:
            return
        with reached:
            await emit_status(
                self._store,
                row["optimization_id"],
                OptimizationStatus(row["to_status"]),
                attempt=row["attempt"],
                message=row["message"],
                at=datetime.fromisoformat(row["at"]),
            )

    async def _on_report(self, report: OptimizationHealthReport) -> None:
        if (reached := self._prefect_settings()) is not None:
            with reached:
                await emit_health(self._store, report)

    async def _on_alert(self, alert: OptimizationAlert) -> None:
        if (reached := self._prefect_settings()) is not None:
            with reached:
                await emit_alert(self._store, alert)
