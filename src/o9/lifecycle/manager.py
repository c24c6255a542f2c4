"""The life of an optimization, controlled by hand: create it, start it, change its status, and read its history.

A running attempt carries out a pause, a cancellation or a time-out by itself; otherwise the status changes at once. A
change that the table of transitions forbids raises OptimizationStateError. Without an aggregator on the store, queued
optimizations wait, and a warning is logged.

Hooks: `on_create(state)`; `before_<status>(id)`, which forbids the change by raising; `after_<status>(id)`. An
aggregator also calls them for its own attempts: a `before_initializing`, `before_running` or `before_completed` that
raises pauses or fails the optimization, with the reason; `after_…` follows within the monitoring interval. Actions of
other processes call no hooks of this one.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from datetime import datetime
from typing import Any

from o9.lifecycle.control import Control, ControlVerbs
from o9.model.component import Registered
from o9.model.optimization import OptimizationState
from o9.model.states import Intent, OptimizationStatus
from o9.store import queries
from o9.store.core.component import StoreComponent
from o9.store.store import Store


class OptimizationLifecycleManager(ControlVerbs, StoreComponent):
    """See the module. Each method that changes the status returns True, even if nothing was left to do, or raises."""

    events = ("on_create", *(f"{when}_{to.value}" for when in ("before", "after") for to in OptimizationStatus))

    def __init__(self, *, store: Store | None = None) -> None:
        super().__init__(store)
        self._control = Control(self)

    async def create_optimization(self, state: OptimizationState) -> str:
        """Record a new optimization; returns its id. `start_optimization` queues it."""
        return (await self.control.submit(state, hold=True)).optimization_id

    async def initialize_optimization(self, optimization_id: str) -> bool:
        """Mark it as initializing, without the queue: the caller runs it."""
        await self.control.move(optimization_id, OptimizationStatus.INITIALIZING)
        return True

    async def complete_optimization(self, optimization_id: str) -> bool:
        """Mark it as completed. Final."""
        await self.control.move(optimization_id, OptimizationStatus.COMPLETED)
        return True

    async def fail_optimization(self, optimization_id: str, error: str | BaseException = "failed by hand") -> bool:
        """Mark it as failed, with `error` as the last of its issues. Final."""
        await self.control.move(optimization_id, OptimizationStatus.FAILED, issue=str(error) or repr(error))
        return True

    async def timeout_optimization(self, optimization_id: str, by: str = "python") -> bool:
        """Cut off the step in flight, and mark it as timed out. Final."""
        await self.control.request(optimization_id, Intent.TIME_OUT, by)
        return True

    async def get_lifecycle_state(self, optimization_id: str) -> OptimizationStatus | None:
        """Its status, also after the end; None for an unknown id."""
        state = await self.get_optimization_status(optimization_id)
        return state.status if state else None

    async def get_lifecycle_history(self, optimization_id: str) -> list[dict[str, Any]]:
        """Every transition so far: from_state, to_state, timestamp, cause, message, attempt, Prefect's ids."""
        rows = await self.store.read_async(queries.transitions, optimization_id)
        return [
            {
                "from_state": OptimizationStatus(row["from_status"]) if row["from_status"] else None,
                "to_state": OptimizationStatus(row["to_status"]),
                "timestamp": datetime.fromisoformat(row["at"]),
                **{key: row[key] for key in ("cause", "message", "node", "attempt", "prefect_run_id")},
            }
            for row in rows
        ]

    def register_lifecycle_hook(self, event: str, hook: Callable[..., Any]) -> Registered:
        """Call `hook` (sync or async) at `event`; takes effect at once, and may be awaited."""
        return self.register_callback(event, hook)

    async def recorded(self, transition: Mapping[str, Any]) -> None:
        """Call the `after` hooks for a transition that was read from the record."""
        await self.emit(f"after_{transition['to_status']}", transition["optimization_id"])
