"""Coroutine strategies: no change is lost, however slow the store is."""

import asyncio
from datetime import datetime

from evaluations import run_coroutine

from o9.model.optimization import OptimizationState
from o9.model.states import OptimizationPriority, OptimizationStatus, OptimizationType


async def test_the_last_changes_are_observed_after_a_slow_observation() -> None:
    now = datetime.now()
    state = OptimizationState(
        optimization_id="a",
        name="a",
        description="",
        optimization_type=OptimizationType.PARAMETER_TUNING,
        status=OptimizationStatus.CREATED,
        priority=OptimizationPriority.NORMAL,
        created_at=now,
        updated_at=now,
    )
    observing, ended = asyncio.Event(), asyncio.Event()
    seen: list[int] = []

    async def strategy(optimization: OptimizationState) -> None:
        optimization.completed_steps = 1
        await observing.wait()
        optimization.completed_steps = 2
        ended.set()

    async def observe(changed: OptimizationState) -> None:
        seen.append(changed.completed_steps)
        observing.set()
        await ended.wait()
        await asyncio.sleep(0)

    await run_coroutine(strategy, state, observe, 0.01)
    assert seen == [1, 2]
