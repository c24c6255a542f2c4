"""A coroutine strategy in Prefect: one task for each step that it reports, whichever way it reports."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from typing import Any

import o9_testing
import pytest
from o9_testing import ended, new, reached, until
from prefect import get_client, task
from prefect.client.schemas.filters import FlowRunFilter, FlowRunFilterId

from o9.aggregator.prefect_server import prefect_client_settings
from o9.store import queries
from OptimizationStateAggregator import OptimizationState, OptimizationStateAggregator, OptimizationStatus

S = OptimizationStatus
Wait = Callable[..., Awaitable[Any]]
pytestmark = pytest.mark.slow


async def by_progress(optimization: OptimizationState) -> None:
    """As the specification shows it."""
    for step in range(optimization.total_steps):
        await asyncio.sleep(0.15)
        optimization.progress = (step + 1) / optimization.total_steps
        optimization.current_performance = float(step)


async def by_count(optimization: OptimizationState) -> None:
    """Its length is its own business; all but the first step are reported between two looks."""
    for step in range(optimization.completed_steps, 6):
        optimization.completed_steps = step + 1
        optimization.current_performance = float(step)
        await asyncio.sleep(0.3 if step == 0 else 0.0)


def tasks_of(aggregator: OptimizationStateAggregator, optimization_id: str) -> dict[str, str]:
    """The last state that Prefect said each step's task to be in."""
    rows = aggregator.store.read(queries.prefect_states, optimization_id)
    steps = [row for row in rows if row["run_name"].startswith("step-") and row["state_name"] != "Pending"]
    return {row["run_name"]: row["state_name"] for row in steps}


@pytest.mark.parametrize(("strategy", "total_steps"), [(by_progress, 5), (by_count, 0), (by_count, 6)])
async def test_each_step_is_a_task(
    strategy: Any, total_steps: int, aggregator: OptimizationStateAggregator, async_wait_until: Wait
) -> None:
    aggregator.coordinator.register_strategy("mine", strategy)
    await aggregator.submit_optimization(new("a", strategy="mine", total_steps=total_steps))
    state = await ended(aggregator, "a")
    steps = 5 if strategy is by_progress else 6
    assert (state.status, state.completed_steps, state.current_performance) == (S.COMPLETED, steps, steps - 1)
    assert tasks_of(aggregator, "a") == {f"step-{number}": "Completed" for number in range(steps)}

    mine = FlowRunFilter(id=FlowRunFilterId(any_=[aggregator.store.read(queries.holding, "a").prefect_run_id]))
    with prefect_client_settings(o9_testing.session_server()):
        async with get_client() as prefect:

            async def are_there() -> bool:  # Prefect's server writes task runs a moment later
                runs = await prefect.read_task_runs(flow_run_filter=mine)
                completed = {run.name for run in runs if run.state_name == "Completed"}
                return tasks_of(aggregator, "a").keys() == {name for name in completed if name.startswith("step-")}

            await async_wait_until(are_there, 30)


async def test_the_task_of_the_step_that_fails_has_failed(aggregator: OptimizationStateAggregator) -> None:
    async def breaks(optimization: OptimizationState) -> None:
        for step in range(optimization.total_steps):
            if step == 3:
                raise RuntimeError("the exchange is closed")
            optimization.progress = (step + 1) / optimization.total_steps
            await asyncio.sleep(0)

    aggregator.coordinator.register_strategy("breaks", breaks)
    await aggregator.submit_optimization(new("a", strategy="breaks", total_steps=10))
    state = await ended(aggregator, "a")
    assert (state.status, state.completed_steps) == (S.FAILED, 3)
    assert tasks_of(aggregator, "a") == dict.fromkeys(["step-0", "step-1", "step-2"], "Completed") | {
        "step-3": "Failed"
    }
    # It counts steps, and leaves no checkpoint: a retry is from the beginning.
    await aggregator.retry_optimization("a", new_id="again")
    assert (await ended(aggregator, "again")).completed_steps == 3


async def test_a_pause_and_a_resume_number_on(aggregator: OptimizationStateAggregator) -> None:
    async def pauses(optimization: OptimizationState) -> None:
        first = round(optimization.progress * optimization.total_steps)
        for step in range(first, optimization.total_steps):
            await asyncio.sleep(0.01)
            optimization.progress = (step + 1) / optimization.total_steps
            if step == 2:
                optimization.status = OptimizationStatus.PAUSED
                break

    aggregator.coordinator.register_strategy("pauses", pauses)
    await aggregator.submit_optimization(new("a", strategy="pauses", total_steps=5))
    assert (await reached(aggregator, "a", "paused")).completed_steps == 3
    assert list(tasks_of(aggregator, "a")) == ["step-0", "step-1", "step-2"]
    await aggregator.resume_optimization("a")
    assert (await ended(aggregator, "a")).completed_steps == 5
    assert tasks_of(aggregator, "a") == {f"step-{number}": "Completed" for number in range(5)}


async def test_thousands_of_steps_share_tasks(aggregator: OptimizationStateAggregator) -> None:
    async def counts(optimization: OptimizationState) -> None:
        for step in range(optimization.total_steps):
            optimization.completed_steps = step + 1
            if step % 1000 == 0:
                await asyncio.sleep(0.01)

    aggregator.coordinator.register_strategy("counts", counts)
    await aggregator.submit_optimization(new("a", strategy="counts", total_steps=20_000))
    state = await ended(aggregator, "a", seconds=30)
    assert (state.status, state.completed_steps) == (S.COMPLETED, 20_000)
    assert 1 <= len(tasks_of(aggregator, "a")) < 100


async def test_a_cancel_between_two_reports_leaves_nothing_at_work(aggregator: OptimizationStateAggregator) -> None:
    left = asyncio.Event()

    async def waits(optimization: OptimizationState) -> None:
        try:
            for step in range(3):
                optimization.completed_steps = step + 1
                await asyncio.sleep(0.15)
            optimization.optimized_parameters = {"x": 1.0}
            await asyncio.sleep(3600)
        finally:
            left.set()

    aggregator.coordinator.register_strategy("waits", waits)
    await aggregator.submit_optimization(new("a", strategy="waits", total_steps=9))
    await until(aggregator, "a", lambda state: state.optimized_parameters)
    await aggregator.cancel_optimization("a")
    state = await ended(aggregator, "a", seconds=10)
    assert (state.status, state.completed_steps, left.is_set()) == (S.CANCELLED, 3, True)
    assert list(tasks_of(aggregator, "a")) == ["step-0", "step-1", "step-2", "step-3"]


async def test_tasks_of_its_own_belong_to_the_flow_and_not_to_a_step(
    aggregator: OptimizationStateAggregator, async_wait_until: Wait
) -> None:
    """The step that it was begun in is over by then."""

    @task(name="fetch")
    async def fetch(number: int) -> int:
        return number

    fetched: list[int] = []

    async def fetches(optimization: OptimizationState) -> None:
        for step in range(3):
            fetched.append(await fetch(step))
            optimization.completed_steps = step + 1
            await asyncio.sleep(0.2)

    aggregator.coordinator.register_strategy("fetches", fetches)
    await aggregator.submit_optimization(new("a", strategy="fetches", total_steps=3))
    assert (await ended(aggregator, "a")).status is S.COMPLETED
    assert fetched == [0, 1, 2]
    assert tasks_of(aggregator, "a") == {f"step-{number}": "Completed" for number in range(3)}
