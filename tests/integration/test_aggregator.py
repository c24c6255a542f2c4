"""The aggregator at its limits: bad input, calls at the wrong time, several on one store."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

import pytest
from o9_testing import LINE, ended, new, path_of, reached

from o9.store import queries
from OptimizationStateAggregator import (
    OptimizationConflictError,
    OptimizationError,
    OptimizationState,
    OptimizationStateAggregator,
    OptimizationStateError,
    OptimizationStatus,
    OptimizationStoreError,
    OptimizationValidationError,
    objective,
)

Open = Callable[..., Awaitable[OptimizationStateAggregator]]


@objective("easy", search_space=LINE)
async def easy(parameters: dict[str, float]) -> float:
    return parameters["x"]


@objective("unhurried", search_space=LINE)
async def unhurried(parameters: dict[str, float]) -> float:
    await asyncio.sleep(0.05)
    return parameters["x"]


begun: list[float] = []


@objective("stuck", search_space=LINE)
async def stuck(parameters: dict[str, float]) -> float:
    begun.append(parameters["x"])
    await asyncio.sleep(3600)
    return 0.0


# What cannot be submitted


CANNOT_RUN: list[tuple[dict[str, Any], str, str]] = [
    ({"optimization_id": ""}, "optimization_id", "empty"),
    ({"optimization_id": "  "}, "optimization_id", "empty"),
    ({"strategy": "optunna"}, "metadata.strategy", "did you mean optuna"),
    ({"objective": "brannin"}, "metadata.objective", "did you mean branin"),
    ({"objective": "no.such.module:function"}, "metadata.objective", "importing no.such.module failed"),
    ({"sampler": "tpee"}, "metadata.sampler", "did you mean tpe"),
    ({"search_space": {"x": {"type": "float", "low": 2, "high": 1}}}, "metadata.search_space.x", ""),
    ({"search_space": {}}, "metadata.search_space", ""),
    ({"search_space": {"x": {"type": "categorical", "choices": []}}}, "metadata.search_space.x", ""),
    ({"search_space": {"x": {"type": "floot", "low": 0, "high": 1}}}, "metadata.search_space.x", ""),
    ({"total_steps": -1}, "total_steps", "-1"),
    ({"direction": "up"}, "metadata.direction", "minimize"),
    ({"seed": "abc"}, "metadata.seed", ""),
    ({"timeout_seconds": -1}, "metadata.timeout_seconds", ""),
    ({"status": OptimizationStatus.RUNNING}, "status", ""),
    ({"metadata": {"blob": "x" * 10_000_000}}, "metadata", "1 MiB"),
    ({"metadata": {"callback": print}}, "metadata.callback", "JSON cannot hold"),
    ({"baseline_performance": float("nan")}, "baseline_performance", "finite"),
]


async def test_a_submission_that_cannot_run_names_the_field_and_leaves_nothing(
    aggregator: OptimizationStateAggregator,
) -> None:
    for fields, field, says in CANNOT_RUN:
        state = new(**{"objective": "easy", **fields}) if "metadata" not in fields else new(**fields)
        if "optimization_id" in fields:
            state.optimization_id = fields["optimization_id"]
        with pytest.raises(OptimizationValidationError) as refused:
            await aggregator.submit_optimization(state)
        assert refused.value.field.startswith(field), fields
        assert says in str(refused.value)
    assert await aggregator.get_all_optimizations() == []


async def test_a_priority_may_be_a_name_and_not_any_text(aggregator: OptimizationStateAggregator) -> None:
    assert new(priority="high").priority == 3
    with pytest.raises(OptimizationValidationError, match=r"priority.*urgent.*critical"):
        new(priority="urgent")
    state = new(objective="easy")
    state.priority = "high"
    with pytest.raises(OptimizationValidationError, match="priority"):
        await aggregator.submit_optimization(state)


async def test_the_same_id_is_the_same_optimization_or_an_error(aggregator: OptimizationStateAggregator) -> None:
    first = new("a", objective="easy", total_steps=2)
    again = new("a", objective="easy", total_steps=2)
    assert await asyncio.gather(*[aggregator.submit_optimization(state) for state in (first, again)]) == ["a", "a"]
    await ended(aggregator, "a")
    assert await aggregator.submit_optimization(again) == "a"
    assert path_of(aggregator.store, "a") == ["created", "initializing", "running", "completed"]
    with pytest.raises(OptimizationConflictError, match="choose another id"):
        await aggregator.submit_optimization(new("a", objective="easy", total_steps=3))


async def test_names_and_ids_in_any_script(aggregator: OptimizationStateAggregator) -> None:
    name = "优化-🚀 é#?%"
    await aggregator.submit_optimization(new(name, name="双均线 🚀", objective="easy", total_steps=1))
    state = await ended(aggregator, name)
    assert (state.optimization_id, state.name, state.status.value) == (name, "双均线 🚀", "completed")


# Calls at the wrong time


async def test_calls_before_start_name_start(store_url: str) -> None:
    aggregator = OptimizationStateAggregator(storage_path=store_url)
    calls: list[Callable[[], Awaitable[Any]]] = [
        lambda: aggregator.submit_optimization(new()),
        lambda: aggregator.cancel_optimization("a"),
        lambda: aggregator.pause_optimization("a"),
        lambda: aggregator.resume_optimization("a"),
        lambda: aggregator.get_optimization_status("a"),
        lambda: aggregator.get_all_optimizations(),
        lambda: aggregator.get_optimization_metrics("a"),
        lambda: aggregator.get_optimization_health("a"),
        lambda: aggregator.get_global_statistics(),
        lambda: aggregator.get_performance_trends(),
        lambda: aggregator.get_optimization_rankings("value"),
        lambda: aggregator.get_alerts(),
        lambda: aggregator.register_node("n", {}),
        lambda: aggregator.sync_optimization_state("a"),
    ]
    for initialized in (False, True):
        for call in calls:
            with pytest.raises(OptimizationError, match=r"aggregator\.start\(\)"):
                await call()
        if not initialized:
            await aggregator.initialize()
    answer = await aggregator.handle_api_request("/statistics", "GET")
    assert (answer["success"], answer["code"]) == (False, 503)
    await aggregator.cleanup()
    await aggregator.cleanup()


async def test_an_unknown_id_has_no_state_no_health_and_no_metrics(aggregator: OptimizationStateAggregator) -> None:
    assert await aggregator.get_optimization_status("nobody") is None
    assert await aggregator.get_optimization_health("nobody") is None
    assert await aggregator.get_optimization_metrics("nobody") == []
    answer = await aggregator.handle_api_request("/health/nobody", "GET")
    assert (answer["success"], answer["code"]) == (False, 404)


async def test_each_part_of_its_life_may_be_called_twice(open_aggregator: Open, store_url: str) -> None:
    await open_aggregator()  # the session's Prefect server is up
    aggregator = OptimizationStateAggregator(storage_path=store_url, monitoring_interval=0.1)
    async with aggregator:
        await aggregator.initialize()
        await aggregator.start()
        await aggregator.start()
        await aggregator.submit_optimization(new("a", objective="easy", total_steps=2))
        await ended(aggregator, "a")
        await aggregator.stop()
        await aggregator.stop()
        with pytest.raises(OptimizationError, match=r"start\(\)"):
            await aggregator.get_all_optimizations()
        await asyncio.gather(aggregator.start(), aggregator.start())
        await aggregator.submit_optimization(new("b", objective="easy", total_steps=2))
        assert (await ended(aggregator, "b")).status is OptimizationStatus.COMPLETED
        await aggregator.cleanup()
        await aggregator.start()
        assert len(await aggregator.get_all_optimizations()) == 2
    await aggregator.cleanup()
    assert not aggregator.is_running


@pytest.mark.parametrize("part", ["coordinator", "alert_system", "monitor"])
async def test_a_start_that_fails_leaves_nothing_running_and_the_next_one_starts(
    open_aggregator: Open, store_url: str, monkeypatch: pytest.MonkeyPatch, part: str
) -> None:
    await open_aggregator()  # the session's Prefect server is up

    async def fail() -> None:
        raise OSError(24, "Too many open files")

    aggregator = OptimizationStateAggregator(storage_path=store_url, monitoring_interval=0.1)

    def looking() -> list[str]:
        names = (task.get_name() for task in asyncio.all_tasks())
        return sorted(name for name in names if name.startswith(("o9-schedule", "o9-reconcile", "o9-watch")))

    before = looking()
    with monkeypatch.context() as patched:
        patched.setattr(getattr(aggregator, part), "start", fail)
        with pytest.raises(OSError, match="Too many open files"):
            await aggregator.start()
    assert not aggregator.is_running
    assert looking() == before != []
    async with aggregator:
        await aggregator.submit_optimization(new("a", objective="easy", total_steps=1))
        assert (await ended(aggregator, "a")).status is OptimizationStatus.COMPLETED


async def test_a_stop_in_the_instant_of_a_wake_comes_to_its_end(
    aggregator: OptimizationStateAggregator, async_wait_until: Callable[..., Awaitable[Any]]
) -> None:
    """Before Python 3.12, asyncio.wait_for loses a cancellation that comes together with what it waits for."""
    dispatcher = aggregator._started().dispatcher
    assert dispatcher is not None
    await async_wait_until(lambda: dispatcher._awake._waiters)
    dispatcher.wake()
    await asyncio.wait_for(dispatcher.stop(), 5)


@pytest.mark.parametrize(
    "arguments",
    [
        {"monitoring_interval": 0},
        {"only": "an-id"},
        {"sync_interval": "1"},
        {"health_check_interval": True},
        {"max_concurrent_optimizations": 0},
        {"max_concurrent_optimizations": "10"},
    ],
)
def test_bad_arguments_are_named(arguments: dict[str, Any]) -> None:
    with pytest.raises(OptimizationValidationError) as refused:
        OptimizationStateAggregator(**arguments)
    assert refused.value.field == next(iter(arguments))


async def test_a_store_that_cannot_be_opened(tmp_path: Path) -> None:
    (tmp_path / "text.db").write_text("not a database, but a text that is long enough to be looked at" * 20)
    for path, says in [
        (tmp_path, "folder"),
        (tmp_path / "no" / "x.db", "does not exist"),
        (tmp_path / "text.db", "text.db"),
    ]:
        aggregator = OptimizationStateAggregator(storage_path=str(path))
        with pytest.raises(OptimizationStoreError, match=says):
            await aggregator.start()
        await aggregator.cleanup()
    assert (tmp_path / "text.db").read_text().startswith("not a database")


# Steering


async def test_cancelling_what_waits_runs_or_rests(open_aggregator: Open) -> None:
    aggregator = await open_aggregator(max_concurrent_optimizations=1)
    await aggregator.submit_optimization(new("running", objective="stuck"))
    await reached(aggregator, "running", "running")
    await aggregator.submit_optimization(new("queued", objective="easy"))
    await aggregator.submit_optimization(new("paused", objective="easy"))
    await aggregator.pause_optimization("paused")
    await reached(aggregator, "paused", "paused")
    for name in ("queued", "paused", "running"):
        assert await aggregator.cancel_optimization(name)
        await reached(aggregator, name, "cancelled", seconds=10)
        assert await aggregator.cancel_optimization(name), "twice is once"
    assert path_of(aggregator.store, "queued") == ["created", "cancelled"]
    assert path_of(aggregator.store, "paused") == ["created", "paused", "cancelled"]
    with pytest.raises(OptimizationError, match="'ghost'"):
        await aggregator.cancel_optimization("ghost")


async def test_what_has_ended_can_be_neither_paused_nor_resumed_nor_cancelled(
    aggregator: OptimizationStateAggregator,
) -> None:
    await aggregator.submit_optimization(new("a", objective="easy", total_steps=1))
    await ended(aggregator, "a")
    for call in (aggregator.pause_optimization, aggregator.resume_optimization, aggregator.cancel_optimization):
        with pytest.raises(OptimizationStateError, match="completed"):
            await call("a")


# Several on one store


async def test_two_in_one_process_share_a_store_and_its_limit(open_aggregator: Open) -> None:
    one, two = [await open_aggregator(max_concurrent_optimizations=2) for _ in range(2)]
    names = [f"a{n}" for n in range(6)]
    await asyncio.gather(
        *[
            (one, two)[n % 2].submit_optimization(new(name, objective="unhurried", total_steps=3))
            for n, name in enumerate(names)
        ]
    )
    for name in names:
        assert (await ended(two, name)).status is OptimizationStatus.COMPLETED
    moves = sorted(
        (row["at"], {"initializing": 1, "completed": -1}.get(row["to_status"], 0))
        for name in names
        for row in one.store.read(queries.transitions, name)
    )
    at_once = most = 0
    for _, change in moves:
        at_once += change
        most = max(most, at_once)
    assert most == 2
    assert {
        row["node"] for name in names for row in one.store.read(queries.transitions, name) if row["cause"] == "claim"
    } == {node["node_id"] for node in one.store.read(queries.nodes)}, "both took part"


async def test_a_cancel_reaches_the_other_aggregator(
    open_aggregator: Open, async_wait_until: Callable[..., Awaitable[Any]]
) -> None:
    begun.clear()
    one = await open_aggregator()
    await one.submit_optimization(new("a", objective="stuck"))
    await async_wait_until(lambda: begun, 30)
    two = await open_aggregator()
    await two.cancel_optimization("a")
    assert (await reached(two, "a", "cancelled", seconds=10)).results["trials"] == {"cancelled": 1}


# Callbacks, and what is not there yet


async def test_a_callback_that_raises_disturbs_nobody(
    aggregator: OptimizationStateAggregator, async_wait_until: Callable[..., Awaitable[Any]]
) -> None:
    told: list[str] = []

    def broken(state: OptimizationState) -> None:
        raise RuntimeError("my callback is broken")

    async def listens(state: OptimizationState) -> None:
        told.append(state.optimization_id)

    aggregator.coordinator.register_callback("optimization_completed", broken)
    await aggregator.coordinator.register_callback("optimization_completed", listens)
    with pytest.raises(OptimizationValidationError, match="optimization_complete"):
        aggregator.coordinator.register_callback("optimization_complete", listens)
    for name in ("a", "b"):
        await aggregator.submit_optimization(new(name, objective="easy", total_steps=1))
        await ended(aggregator, name)
        await async_wait_until(lambda name=name: name in told)
    assert told == ["a", "b"]
