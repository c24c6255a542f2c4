"""Runs one optimization from Python, inside a flow or outside, and returns its result.

    from prefect import flow
    from o9.flows import run_optimization

    @flow
    def weekly() -> None:
        result = run_optimization({"metadata": {"objective": "desk.momentum:objective", "seed": 7}})
        if result.verdict is not None and result.verdict.grade is Grade.CONFIRMED:
            trade(result.best_parameters)

Contract. Inside a flow, the optimization is a subflow with tasks, artifacts and events. It uses the store that
O9_STORE_URL names, and waits while other optimizations take all slots.
"""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from o9.blocks.store import current_store
from o9.flows.lifecycle import optimization_lifecycle
from o9.health.grades import Verdict, kept_verdict
from o9.model.errors import OptimizationError
from o9.model.specification import new_optimization
from o9.model.states import OptimizationStatus
from o9.store import queries


@dataclass(frozen=True)
class OptimizationResult:
    """best_value, best_parameters: None where no trial has succeeded. verdict: None where it was not judged."""

    optimization_id: str
    status: OptimizationStatus
    best_value: float | None
    best_parameters: dict[str, Any] | None
    verdict: Verdict | None


async def arun_optimization(spec: Mapping[str, Any]) -> OptimizationResult:
    """Run the optimization that `spec` describes, with the fields of a run file, until it ends or pauses.

    Raises OptimizationValidationError with all faults of `spec`; a failure of the optimization is its status.
    """
    optimization_id = new_optimization(spec).optimization_id
    await optimization_lifecycle(spec={**spec, "optimization_id": optimization_id}, return_state=True)
    store = await asyncio.to_thread(current_store)
    state = await store.read_async(queries.get, optimization_id)
    if state is None:
        raise OptimizationError(f"optimization {optimization_id!r} was not recorded; its flow run's log says why")
    has_best = bool(state.optimized_parameters)
    return OptimizationResult(
        optimization_id,
        state.status,
        state.current_performance if has_best else None,
        dict(state.optimized_parameters) if has_best else None,
        await asyncio.to_thread(kept_verdict, store, state),
    )


def run_optimization(spec: Mapping[str, Any]) -> OptimizationResult:
    """`arun_optimization` for a flow or program without an event loop."""
    return asyncio.run(arun_optimization(spec))
