"""Submission and control: what people ask for, written down so that whoever runs optimizations hears of it.

The coordinator runs nothing. An aggregator on the same store does, in this process or another.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from o9.lifecycle.submission import submit
from o9.model.component import Registered, not_yet
from o9.model.errors import OptimizationValidationError
from o9.model.optimization import OptimizationState
from o9.model.settings import settings
from o9.model.states import Intent
from o9.store.component import StoreComponent
from o9.store.store import Store
from o9.store.transitions import SetIntent
from o9.strategies.registry import register_strategy


class OptimizationCoordinator(StoreComponent):
    """Event: `optimization_completed(state)`, after an optimization has completed."""

    events = ("optimization_completed",)

    def __init__(self, max_concurrent_optimizations: int = 10, *, store: Store | None = None) -> None:
        super().__init__(store)
        if isinstance(max_concurrent_optimizations, bool) or not isinstance(max_concurrent_optimizations, int):
            raise OptimizationValidationError("max_concurrent_optimizations", "give a whole number of 1 or more")
        if max_concurrent_optimizations < 1:
            raise OptimizationValidationError(
                "max_concurrent_optimizations", f"{max_concurrent_optimizations} would run nothing; give 1 or more"
            )
        self.max_concurrent_optimizations = max_concurrent_optimizations

    async def submit_optimization(self, state: OptimizationState) -> str:
        """Record it, durably; returns its id. It starts when its turn comes."""
        return (await submit(self.store, state, node=settings().node_id)).optimization_id

    async def cancel_optimization(self, optimization_id: str, by: str = "python") -> bool:
        """The step in flight is cut off; the best so far is kept. Final."""
        return await self._want(optimization_id, Intent.CANCEL, by)

    async def pause_optimization(self, optimization_id: str, by: str = "python") -> bool:
        """The step in flight finishes and is committed; then the slot is free."""
        return await self._want(optimization_id, Intent.PAUSE, by)

    async def resume_optimization(self, optimization_id: str, by: str = "python") -> bool:
        """It waits for its turn, and goes on behind the last committed step."""
        return await self._want(optimization_id, Intent.RUN, by)

    async def get_all_optimizations(self) -> list[OptimizationState]:
        """All of them, newest first."""
        return await self.all_states()

    def register_strategy(self, name: str, strategy: Any) -> Registered:
        """A class with `step()`, or a coroutine function that changes the state; found by `metadata["strategy"]`."""
        register_strategy(name, strategy)
        return Registered()

    def set_optimization_policy(self, name: str, config: Mapping[str, Any]) -> Registered:
        raise not_yet("a policy for a strategy or a type")

    async def _want(self, optimization_id: str, intent: Intent, by: str) -> bool:
        await self.store.write_async(SetIntent(optimization_id, intent, by))
        return True
