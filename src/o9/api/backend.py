"""What the routes need; the aggregator has it."""

from __future__ import annotations

from typing import Protocol

from o9.alerts.service.system import AlertNotificationSystem
from o9.health.checker import OptimizationHealthChecker
from o9.lifecycle.control import Control
from o9.model.errors import OptimizationNotFoundError
from o9.model.optimization import OptimizationState
from o9.statistics.statistics import OptimizationStatistics
from o9.store import queries
from o9.store.store import Store


class Backend(Protocol):
    """See the attributes of the same names of OptimizationStateAggregator."""

    @property
    def is_running(self) -> bool: ...

    @property
    def store(self) -> Store: ...

    @property
    def alert_system(self) -> AlertNotificationSystem: ...

    @property
    def control(self) -> Control: ...

    @property
    def statistics(self) -> OptimizationStatistics: ...

    @property
    def health_checker(self) -> OptimizationHealthChecker: ...

    @property
    def prefect_url(self) -> str: ...

    async def prefect_alive(self) -> bool: ...


async def existing(backend: Backend, optimization_id: str) -> OptimizationState:
    """The present state; raises OptimizationNotFoundError where there is none."""
    # No id holds a NUL, and PostgreSQL cannot be asked for one.
    state = None if "\0" in optimization_id else await backend.store.read_async(queries.get, optimization_id)
    if state is None:
        raise OptimizationNotFoundError(
            f"there is no optimization {optimization_id!r}; GET /optimizations lists those that there are"
        )
    return state
