"""Control against users' code that does not behave: hooks that hang, swallowed cancellations, odd statuses."""

from __future__ import annotations

import asyncio
import os
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

import pytest
from contract_steps import put
from o9_testing import LINE, ended, new, reached, until

from o9.model.errors import StoreUnavailableError
from o9.store import queries
from o9.store.store import Store
from OptimizationStateAggregator import OptimizationStatus, objective

S = OptimizationStatus
Open = Callable[..., Awaitable[Any]]
Wait = Callable[..., Awaitable[Any]]
pytestmark = pytest.mark.slow


@objective("rough easy", search_space=LINE)
async def rough_easy(parameters: dict[str, float]) -> float:
    return parameters["x"]


async def test_a_hook_that_hangs_delays_its_own_optimization_alone_and_can_be_cancelled(aggregator: Any) -> None:
    hanging = asyncio.Event()

    async def hangs(optimization_id: str) -> None:
        if optimization_id == "slow":
            hanging.set()
            await asyncio.sleep(3600)

    aggregator.lifecycle_manager.register_lifecycle_hook("before_running", hangs)
    await aggregator.submit_optimization(new("slow", objective="rough easy", total_steps=1))
    await asyncio.wait_for(hanging.wait(), 60)
    await aggregator.submit_optimization(new("other", objective="rough easy", total_steps=1))
    assert (await ended(aggregator, "other")).status is S.COMPLETED
    await aggregator.cancel_optimization("slow")
    assert (await ended(aggregator, "slow", seconds=20)).status is S.CANCELLED  # before HOOK_SECONDS are over
    assert aggregator.store.read(queries.holding, "slow").lease_node is None


async def test_a_hook_that_raises_or_exits_silences_no_other(aggregator: Any, async_wait_until: Wait) -> None:
    told: list[str]
    manager, told = aggregator.lifecycle_manager, []

    def leaves(optimization_id: str) -> None:
        raise SystemExit(4)

    manager.register_lifecycle_hook("after_completed", lambda name: 1 / 0)
    manager.register_lifecycle_hook("after_completed", leaves)
    manager.register_lifecycle_hook("after_completed", told.append)
    await aggregator.submit_optimization(new("a", objective="rough easy", total_steps=1))
    await ended(aggregator, "a")
    await async_wait_until(lambda: told == ["a"], 20)
    manager.register_lifecycle_hook("before_running", leaves)
    await aggregator.submit_optimization(new("b", objective="rough easy", total_steps=1))
    assert "SystemExit(4)" in (await reached(aggregator, "b", "paused")).issues[0]


async def test_an_objective_that_swallows_its_cancellation_is_left_behind(
    open_aggregator: Open, monkeypatch: pytest.MonkeyPatch, async_wait_until: Wait
) -> None:
    from o9.tasks import attempt

    monkeypatch.setattr(attempt, "CUT_OFF_SECONDS", 0.5)
    begun, let_go = asyncio.Event(), asyncio.Event()

    @objective("swallows", search_space=LINE)
    async def swallows(parameters: dict[str, float]) -> float:
        begun.set()
        while not let_go.is_set():
            try:
                await asyncio.sleep(0.05)
            except asyncio.CancelledError:
                continue
        return 0.0

    aggregator = await open_aggregator(max_concurrent_optimizations=1)
    await aggregator.submit_optimization(new("a", objective="swallows", total_steps=3))
    await aggregator.submit_optimization(new("next", objective="rough easy", total_steps=1))
    await asyncio.wait_for(begun.wait(), 60)
    await aggregator.cancel_optimization("a")
    assert (await ended(aggregator, "a", seconds=5)).status is S.CANCELLED
    assert [trial.state.value for trial in aggregator.store.read(queries.trials, "a")] == ["cancelled"]
    assert (await ended(aggregator, "next")).status is S.COMPLETED
    assert attempt.has_abandoned_code()
    let_go.set()
    await async_wait_until(lambda: not attempt.has_abandoned_code(), 20)


async def test_a_coroutine_that_assigns_nothing_hears_of_a_pause(aggregator: Any) -> None:
    begun = asyncio.Event()

    async def waits(optimization: Any) -> None:
        optimization.optimized_parameters = {"x": 1.0}
        begun.set()
        await asyncio.sleep(3600)

    aggregator.coordinator.register_strategy("waits", waits)
    await aggregator.submit_optimization(new("a", strategy="waits", total_steps=3))
    await asyncio.wait_for(begun.wait(), 60)
    await aggregator.pause_optimization("a")
    paused = await reached(aggregator, "a", "paused", seconds=10)
    assert paused.optimized_parameters == {"x": 1.0}


@pytest.mark.parametrize("status", [S.FAILED, S.CANCELLED, "banana"])
async def test_a_status_that_a_strategy_sets_is_never_taken_for_success(status: Any, aggregator: Any) -> None:
    async def odd(optimization: Any) -> None:
        optimization.issues = ["no luck"]
        optimization.status = status

    aggregator.coordinator.register_strategy("odd", odd)
    await aggregator.submit_optimization(new("a", strategy="odd", total_steps=3))
    state = await ended(aggregator, "a")
    assert state.status is S.FAILED
    assert ("no luck" if status is S.FAILED else str(status)) in state.issues[-1]


async def test_results_say_what_a_strategy_came_to_after_a_resume(aggregator: Any) -> None:
    was_paused = asyncio.Event()

    async def climbs(optimization: Any) -> None:
        for step in range(optimization.completed_steps, 8):
            if step == 4:
                await was_paused.wait()
            optimization.completed_steps = step + 1
            optimization.optimized_parameters = {"x": step}
            optimization.current_performance = float(step)

    aggregator.coordinator.register_strategy("climbs", climbs)
    await aggregator.submit_optimization(new("a", strategy="climbs", total_steps=8))
    await until(aggregator, "a", lambda state: state.completed_steps == 4)
    await aggregator.pause_optimization("a")
    assert (await reached(aggregator, "a", "paused")).completed_steps == 4
    was_paused.set()
    await aggregator.resume_optimization("a")
    state = await ended(aggregator, "a")
    assert (state.results["best_value"], state.results["best_parameters"]) == (7.0, {"x": 7})


def test_a_store_that_is_deleted_under_its_writer_is_missed(tmp_path: Path) -> None:
    path = tmp_path / "store.db"
    with Store(str(path)) as store:
        put(store, "a")
        os.rename(path, tmp_path / "elsewhere.db")
        with pytest.raises(StoreUnavailableError, match="moved or deleted while in use"):
            put(store, "b")
        os.rename(tmp_path / "elsewhere.db", path)
        put(store, "b")
        assert {state.optimization_id for state in store.read(queries.page).items} == {"a", "b"}
