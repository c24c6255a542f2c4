"""What the routes need; the aggregator has it."""

from __future__ import annotations

from datetime import timedelta
from typing import Any, Protocol

from o9.alerts.service.system import AlertNotificationSystem
from o9.lifecycle.manager import OptimizationLifecycleManager
from o9.model.errors import OptimizationNotFoundError
from o9.model.optimization import OptimizationHealthReport, OptimizationState
from o9.store.store import Store


class Backend(Protocol):
    """See the methods of the same names of OptimizationStateAggregator."""

    @property
    def is_running(self) -> bool: ...

    @property
    def store(self) -> Store: ...

    @property
    def alert_system(self) -> AlertNotificationSystem: ...

    @property
    def lifecycle_manager(self) -> OptimizationLifecycleManager: ...

    @property
    def prefect_url(self) -> str: ...

    async def prefect_alive(self) -> bool: ...

    async def submit_request(self, state: OptimizationState) -> OptimizationState: ...

    async def placebo_request(self, optimization_id: str, runs: int) -> list[OptimizationState]: ...

    async def get_optimization_status(self, optimization_id: str) -> OptimizationState | None: ...

    async def start_optimization(self, optimization_id: str, by: str) -> bool: ...

    async def pause_optimization(self, optimization_id: str, by: str) -> bool: ...

    async def resume_optimization(self, optimization_id: str, by: str) -> bool: ...

    async def cancel_optimization(self, optimization_id: str, by: str) -> bool: ...

    async def get_global_statistics(self) -> dict[str, Any]: ...

    async def get_performance_trends(self, time_range: timedelta) -> dict[str, Any]: ...

    async def get_optimization_rankings(self, metric_name: str, limit: int) -> list[dict[str, Any]]: ...

    async def get_optimization_health(self, optimization_id: str) -> OptimizationHealthReport | None: ...


async def existing(backend: Backend, optimization_id: str) -> OptimizationState:
    """The present state; raises OptimizationNotFoundError where there is none."""
    # No id holds a NUL, and PostgreSQL cannot be asked for one.
    state = None if "\0" in optimization_id else await backend.get_optimization_status(optimization_id)
    if state is None:
        raise OptimizationNotFoundError(
            f"there is no optimization {optimization_id!r}; GET /optimizations lists those that there are"
        )
    return state
