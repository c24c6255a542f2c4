"""Telling people. Rules, routing and delivery are not in this release; nothing is dropped: sending raises."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from datetime import timedelta
from typing import Any

from o9.model.component import Component, Registered, not_yet
from o9.model.optimization import OptimizationAlert
from o9.model.states import AlertLevel


class AlertNotificationSystem(Component):
    """Holds no alerts yet."""

    def __init__(self, notification_channels: Mapping[str, Callable[..., Any]] | None = None) -> None:
        super().__init__()
        if notification_channels:
            raise not_yet("a notification channel")

    async def send_alert(self, alert: OptimizationAlert) -> None:
        raise not_yet("sending an alert")

    async def get_alerts(
        self, optimization_id: str | None = None, level: AlertLevel | None = None
    ) -> list[OptimizationAlert]:
        """Alerts that were sent, newest first: none can have been."""
        return []

    def register_notification_channel(self, name: str, channel: Any) -> Registered:
        raise not_yet("a notification channel")

    def register_alert_rule(self, rule: Callable[..., Any]) -> Registered:
        raise not_yet("an alert rule")

    async def suppress_alert(self, pattern: str, duration: timedelta | float) -> None:
        raise not_yet("suppressing an alert")

    async def get_notification_history(self, limit: int = 100) -> list[dict[str, Any]]:
        """Notifications that were sent: none can have been."""
        return []

    async def get_alert_statistics(self) -> dict[str, Any]:
        raise not_yet("statistics of alerts")
