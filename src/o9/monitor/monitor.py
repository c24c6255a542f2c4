"""What an optimization has measured of itself, step by step."""

from __future__ import annotations

from datetime import datetime
from typing import Any

from o9.model.component import not_yet
from o9.model.optimization import OptimizationAlert, OptimizationMetrics
from o9.model.states import AlertLevel
from o9.store.component import StoreComponent
from o9.store.store import Store


class OptimizationMonitor(StoreComponent):
    """Reads the record; finding problems by itself is not in this release."""

    events = ("alert",)

    def __init__(self, check_interval: float = 1.0, *, store: Store | None = None) -> None:
        super().__init__(store)
        self.check_interval = check_interval
        self._watched: set[str] = set()

    async def start_monitoring(self, optimization_id: str) -> bool:
        """Raises OptimizationError where there is no such optimization."""
        await self.existing(optimization_id)
        self._watched.add(optimization_id)
        return True

    async def stop_monitoring(self, optimization_id: str) -> bool:
        """Whether it was monitored."""
        watched = optimization_id in self._watched
        self._watched.discard(optimization_id)
        return watched

    async def get_monitoring_data(self, optimization_id: str, limit: int = 100) -> list[dict[str, Any]]:
        """The last `limit` steps, oldest first: step, timestamp, and the figures of that step by name."""
        await self.existing(optimization_id)
        rows = await self.store.read_async(self.store.metrics, optimization_id)
        steps: dict[int, dict[str, Any]] = {}
        for row in rows:
            entry = steps.setdefault(row["step"], {"step": row["step"], "timestamp": row["at"]})
            entry[row["name"]] = row["value"]
        return [steps[step] for step in sorted(steps)][-limit:]

    async def get_optimization_metrics(self, optimization_id: str) -> list[OptimizationMetrics]:
        """One entry a step; what was not measured is None."""
        return [
            OptimizationMetrics(
                optimization_id=optimization_id,
                timestamp=datetime.fromisoformat(entry["timestamp"]),
                execution_time=entry.get("step_seconds"),
                throughput=entry["trials"] / entry["step_seconds"] if entry.get("step_seconds") else None,
            )
            for entry in await self.get_monitoring_data(optimization_id, limit=1_000_000)
        ]

    async def get_alerts(
        self, optimization_id: str | None = None, level: AlertLevel | None = None
    ) -> list[OptimizationAlert]:
        raise not_yet("finding problems of a running optimization")
