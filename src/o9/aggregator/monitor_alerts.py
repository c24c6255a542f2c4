"""Sends what the monitor finds as alerts: repeatedly while the monitor finds it, and resolved when it no longer does.

Contract. Owned by one event loop. Every node's monitor finds the same and sends it under its own id; equal labels make
one alert of them. When a node dies, its findings expire after OVER_AFTER, unless another node finds them as well. What
a person has resolved is not sent again until it has been gone once. The rule of the finding's name in the alerts file
decides whether it is sent at all.
"""

from __future__ import annotations

import asyncio
import logging
from dataclasses import replace
from datetime import timedelta

from o9.alerts.rules.rules import with_rule
from o9.alerts.service.system import AlertNotificationSystem
from o9.model.errors import OptimizationConflictError, OptimizationError
from o9.model.loops import ErrorBoundary, cancelled, periodic
from o9.model.optimization import OptimizationAlert, utc_now
from o9.monitor.monitor import OptimizationMonitor

logger = logging.getLogger(__name__)
AGAIN = timedelta(minutes=1)
OVER_AFTER = timedelta(minutes=5)


class MonitorAlerts:
    """Listens to `monitor` from now on; `start` and `stop` go with the alert system's."""

    def __init__(self, monitor: OptimizationMonitor, alerts: AlertNotificationSystem) -> None:
        self._alerts = alerts
        self._found: dict[str, OptimizationAlert] = {}
        self._repeating: asyncio.Task[None] | None = None
        monitor.register_callback("alert", self._on_found)
        monitor.register_callback("resolved", self._on_gone)

    def start(self) -> None:
        boundary = ErrorBoundary(logger, "sending what was found as alerts")
        self._repeating = asyncio.create_task(
            periodic(self._repeat, AGAIN.total_seconds(), boundary), name="o9-findings"
        )

    async def stop(self) -> None:
        """What is found then is over when nobody has found it for OVER_AFTER."""
        repeating, self._repeating = self._repeating, None
        await cancelled(repeating)
        self._found.clear()

    async def _on_found(self, alert: OptimizationAlert) -> None:
        rule = next((rule for rule in self._alerts.configuration.rules if rule.name == alert.metadata["finding"]), None)
        if rule is None:
            return
        alert = with_rule(rule, alert)
        self._found[alert.alert_id] = alert
        await self._send(alert)

    async def _on_gone(self, alert: OptimizationAlert) -> None:
        if self._found.pop(alert.alert_id, None) is not None:
            try:
                await self._alerts.resolve_alert(alert.alert_id, "monitor")
            except OptimizationError as error:
                logger.warning("could not resolve the alert %s; it expires by itself: %s", alert.title, error)

    async def _repeat(self) -> None:
        for alert in list(self._found.values()):
            await self._send(replace(alert, timestamp=utc_now()))

    async def _send(self, alert: OptimizationAlert) -> None:
        try:
            await self._alerts.send_alert(alert, resolve_timeout=OVER_AFTER)
        except OptimizationConflictError:  # it was resolved meanwhile
            self._found.pop(alert.alert_id, None)
        except OptimizationError as error:
            logger.warning("could not send the alert %s; trying again in %s: %s", alert.title, AGAIN, error)
