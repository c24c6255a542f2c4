"""Whether a result can be trusted. The checks themselves are not in this release; nothing here makes up a score."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from o9.model.component import Registered, not_yet
from o9.model.optimization import OptimizationHealthReport
from o9.store.component import StoreComponent
from o9.store.store import Store


class OptimizationHealthChecker(StoreComponent):
    """Knows no reports yet, and says so."""

    def __init__(self, check_interval: float = 30.0, *, store: Store | None = None) -> None:
        super().__init__(store)
        self.check_interval = check_interval

    async def check_optimization_health(self, optimization_id: str) -> OptimizationHealthReport:
        raise not_yet("a health check")

    async def get_health_report(self, optimization_id: str) -> OptimizationHealthReport | None:
        """The last report; None where none was made. Raises OptimizationError where there is no such optimization."""
        await self.existing(optimization_id)
        return None

    async def get_all_health_reports(self) -> list[OptimizationHealthReport]:
        """All reports that were made."""
        return []

    def set_health_threshold(self, name: str, value: float) -> Registered:
        raise not_yet("a health threshold")

    def register_health_rule(self, rule: Callable[..., Any]) -> Registered:
        raise not_yet("a health rule")
