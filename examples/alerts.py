"""Alerts: your own channels and rules, silences, and the history."""

from __future__ import annotations

import asyncio
import os
import uuid
from pathlib import Path

from OptimizationStateAggregator import AlertLevel, OptimizationAlert, OptimizationStateAggregator

os.environ.setdefault("O9_ALERTS_FILE", str(Path(__file__).with_name("alerts.yaml")))
received: list[str] = []
run = uuid.uuid4().hex[:6]  # so that the example can be run again on the same record


async def desk(alert: OptimizationAlert) -> None:
    """A channel: a function, a coroutine function, an Apprise URL, or one of Prefect's notification blocks."""
    received.append(f"{'over' if alert.resolved else alert.level.value}: {alert.title}: {alert.message}")


def no_remarks(alert: OptimizationAlert) -> bool:
    """A rule: False drops an alert before anybody is notified."""
    return alert.level is not AlertLevel.INFO


def new(number: int, level: AlertLevel, title: str, message: str) -> OptimizationAlert:
    return OptimizationAlert(f"example-{run}-{number}", f"book-{run}", level, title, message)


async def main() -> None:
    aggregator = OptimizationStateAggregator(storage_path="examples.db", monitoring_interval=0.2)
    system = aggregator.alert_system
    system.register_notification_channel("desk", desk)
    system.register_alert_rule(no_remarks)
    async with aggregator:
        silence = await system.suppress_alert("*maintenance*", 3600, author="ana", comment="every Saturday")
        drawdown = new(1, AlertLevel.CRITICAL, "Drawdown", "the book has lost 3% since noon")
        await aggregator.send_alert(drawdown)
        await aggregator.send_alert(new(2, AlertLevel.INFO, "Rebalanced", "12 orders"))
        await aggregator.send_alert(new(3, AlertLevel.WARNING, "Feed maintenance", "prices are an hour old"))
        while not received:
            await asyncio.sleep(0.1)
        await system.resolve_alert(drawdown.alert_id, by="ana")
        while len(received) < 2:
            await asyncio.sleep(0.1)
        print("\n".join(received))

        for alert in await aggregator.get_alerts(f"book-{run}"):
            print(f"{alert.title}: {'resolved' if alert.resolved else 'firing'}")
        for entry in await system.get_notification_history(limit=20):
            print(f"history: {entry['status']} {entry.get('reason') or ''}".rstrip())
        await system.end_silence(silence)


asyncio.run(main())
