"""Submission and control, on any store.

The coordinator runs nothing; an aggregator on the same store does, in this process or another. Without one, queued
optimizations wait, and a warning is logged. A started coordinator emits events for all optimizations of the store.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Mapping, Sequence
from typing import Any

from o9.lifecycle.control import Control, ControlVerbs
from o9.model.component import Registered
from o9.model.optimization import OptimizationState
from o9.model.states import OptimizationStatus, OptimizationType
from o9.model.validation import validate_whole
from o9.store import queries
from o9.store.core.component import StoreComponent, all_optimizations
from o9.store.queue.policies import ALL, SetPolicy
from o9.store.store import Store
from o9.strategies.registry import names_of, register_strategy
from o9.text.suggest import did_you_mean, near

logger = logging.getLogger(__name__)


class OptimizationCoordinator(ControlVerbs, StoreComponent):
    """Events, in the order of the record: `optimization_<status>(state)` for each change of status, `transition(row)`.

    `state` is the present one when the callback is called.
    """

    events = ("transition", *(f"optimization_{status.value}" for status in OptimizationStatus))

    def __init__(
        self, max_concurrent_optimizations: int = 10, *, store: Store | None = None, interval: float = 1.0
    ) -> None:
        """interval: how often to read new transitions, in seconds."""
        super().__init__(store)
        validate_whole("max_concurrent_optimizations", max_concurrent_optimizations)
        self.max_concurrent_optimizations = max_concurrent_optimizations
        self._interval = interval
        self._control = Control(self)

    def use_control(self, control: Control) -> None:
        """Call the verbs, and the hooks, of `control`."""
        self._control = control

    async def submit_optimization(self, state: OptimizationState) -> str:
        """Record an optimization durably, and queue it; returns its id."""
        return (await self.control.submit(state)).optimization_id

    async def get_all_optimizations(self) -> list[OptimizationState]:
        """All of them, newest first."""
        return await asyncio.to_thread(lambda: list(all_optimizations(self.store)))

    def register_strategy(self, name: str, strategy: Any, *, metadata: Sequence[str] = ()) -> Registered:
        """Register a strategy for `metadata["strategy"]`: a class with `step()`, or a coroutine function.

        metadata: the strategy's own keys in the metadata. A coroutine function changes the state that it is given.
        """
        register_strategy(name, strategy, metadata=metadata)
        return Registered()

    def set_optimization_policy(self, name: str, config: Mapping[str, Any]) -> Registered:
        """Set limits and defaults for `all`, a type or a strategy, on all nodes; {} removes them. See `policies`.

        Raises OptimizationValidationError, naming the key. Takes effect at once, and may be awaited.
        """
        self.store.write(SetPolicy(name, config))
        known = [ALL, *(kind.value for kind in OptimizationType), *names_of("strategy")]
        if name not in known and (hint := did_you_mean(near(name, known, cutoff=0.8))):
            logger.warning("the policy %r is for a strategy of that name; %s", name, hint)
        return Registered()

    async def get_optimization_policies(self) -> dict[str, dict[str, Any]]:
        """All policies by name."""
        return await self.store.read_async(queries.policies)

    async def _begin(self) -> None:
        cursor = await self.store.read_async(queries.last_transition)

        async def look() -> None:
            nonlocal cursor
            for row in await self.store.read_async(queries.transitions_since, cursor):
                await self._emit_for(row)
                cursor = row["id"]

        self._repeat(look, self._interval, "reading transitions")

    async def _emit_for(self, row: Mapping[str, Any]) -> None:
        await self.emit("transition", row)
        event = f"optimization_{row['to_status']}"
        if self.callbacks_of(event):
            state = await self.store.read_async(queries.get, row["optimization_id"])
            if state is not None:
                await self.emit(event, state)
