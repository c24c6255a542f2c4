"""Alerts that wait for nobody: what the tests of the alert system share."""

from __future__ import annotations

from typing import Any

from o9.alerts.service.system import AlertNotificationSystem
from o9.model.optimization import OptimizationAlert, utc_now

QUICK = "route: {receiver: default, group_wait: 0s, group_interval: 100ms, repeat_interval: 1h}\n"


def alert(alert_id: str, **fields: Any) -> OptimizationAlert:
    standard: dict[str, Any] = {
        "optimization_id": "opt-1", "level": "warning", "title": "Drawdown", "message": "it fell",
        "timestamp": utc_now(),
    }  # fmt: skip
    return OptimizationAlert(alert_id=alert_id, **(standard | fields))


async def leader(system: AlertNotificationSystem) -> Any:
    return (await system.get_alert_statistics())["leader"]
