"""The protocol that the routes need; the aggregator implements it."""

from __future__ import annotations

from collections.abc import Callable
from typing import Protocol, TypeVar

from sqlalchemy import Connection

from o9.alerts.service.system import AlertNotificationSystem
from o9.health.checker import OptimizationHealthChecker
from o9.lifecycle.control import Control
from o9.model.errors import OptimizationNotFoundError
from o9.model.optimization import OptimizationState
from o9.statistics.statistics import OptimizationStatistics
from o9.store import queries
from o9.store.store import Store

T = TypeVar("T")


class Backend(Protocol):
    """See the attributes of OptimizationStateAggregator."""

    alert_system: AlertNotificationSystem
    statistics: OptimizationStatistics
    health_checker: OptimizationHealthChecker

    @property
    def is_running(self) -> bool: ...

    @property
    def store(self) -> Store: ...

    @property
    def control(self) -> Control: ...

    @property
    def prefect_url(self) -> str: ...

    async def prefect_alive(self) -> bool: ...


async def get_or_404(backend: Backend, query: Callable[[Connection, str], T | None], name: str, kind: str) -> T:
    """Return the result of `query` for `name`. Raises OptimizationNotFoundError if there is none."""
    # PostgreSQL accepts no NUL, which no id contains.
    answer = None if "\0" in name else await backend.store.read_async(query, name)
    if answer is None:
        raise OptimizationNotFoundError(f"there is no {kind} {name!r}; GET /{kind}s lists them")
    return answer


async def get_state(backend: Backend, optimization_id: str) -> OptimizationState:
    """Return the current state. Raises OptimizationNotFoundError."""
    return await get_or_404(backend, queries.get, optimization_id, "optimization")
