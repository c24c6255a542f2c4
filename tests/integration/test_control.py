"""Control of what an aggregator runs: cancelled, paused, timed out, by whomever, at whatever moment; what is left."""

from __future__ import annotations

import asyncio
import contextlib
import errno
import os
import sqlite3
import threading
import time
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

import o9_testing
import psutil
import pytest
from child_objectives import third_hangs
from o9_testing import LINE, ended, ledger, new, path_of, reached, until
from prefect import get_client
from prefect.client.schemas.objects import State, StateType

from o9.aggregator.prefect_server import prefect_client_settings
from o9.model.states import Intent
from o9.store import queries
from o9.store.optimizations.intents import SetIntent
from o9.store.store import Store
from OptimizationStateAggregator import (
    OptimizationLifecycleError,
    OptimizationStateError,
    OptimizationStatus,
    OptimizationValidationError,
    objective,
)

S = OptimizationStatus
Open = Callable[..., Awaitable[Any]]
Wait = Callable[..., Awaitable[Any]]
pytestmark = pytest.mark.slow


objective("third hangs", search_space=LINE)(third_hangs)


@objective("control slow", search_space=LINE)
async def control_slow(parameters: dict[str, float]) -> float:
    await asyncio.sleep(0.05)
    return parameters["x"]


@objective("control easy", search_space=LINE)
async def control_easy(parameters: dict[str, float]) -> float:
    return parameters["x"]


@objective("control broken", search_space=LINE)
async def control_broken(parameters: dict[str, float]) -> float:
    raise ValueError("the exchange was closed")


async def prefect_state(aggregator: Any, optimization_id: str) -> State[Any]:
    run_id = aggregator.store.read(queries.holding, optimization_id).prefect_run_id
    with prefect_client_settings(o9_testing.session_server()):
        async with get_client() as client:
            state = (await client.read_flow_run(run_id)).state
    assert state is not None
    return state


@pytest.mark.parametrize("way", ["python", "another process", "prefect"])
async def test_what_never_ends_is_cut_off_at_once(
    way: str, open_aggregator: Open, tmp_path: Path, async_wait_until: Wait
) -> None:
    aggregator = await open_aggregator(max_concurrent_optimizations=1)
    store = aggregator.store
    await aggregator.submit_optimization(
        new("a", objective="third hangs", total_steps=9, seed=1, parameters={"folder": str(tmp_path)})
    )
    await aggregator.submit_optimization(new("next", objective="control easy", total_steps=1))
    await async_wait_until((tmp_path / "hangs").exists, 60)
    if way == "python":
        assert await aggregator.cancel_optimization("a")
    elif way == "another process":
        with Store(store.url) as other:
            other.write(SetIntent("a", Intent.CANCEL, "ann"))
    else:
        with prefect_client_settings(o9_testing.session_server()):
            async with get_client() as client:
                run_id = store.read(queries.holding, "a").prefect_run_id
                await client.set_flow_run_state(run_id, State(type=StateType.CANCELLING))
    state = await ended(aggregator, "a", seconds=10)
    assert state.status is S.CANCELLED
    assert store.read(queries.holding, "a").lease_node is None
    assert store.read(queries.holding, "a").intent_by == {"python": "python", "another process": "ann"}.get(
        way, "prefect"
    )
    assert store.read(queries.intents, "a")[-1]["intent"] == "cancel"
    trials = store.read(queries.trials, "a")
    assert [trial.state.value for trial in trials] == ["completed", "completed", "cancelled"]
    assert state.current_performance == max(trial.value for trial in trials[:2])
    assert state.optimized_parameters
    pids = [int(name.removeprefix("pid-")) for name in os.listdir(tmp_path) if name.startswith("pid-")]
    assert len(pids) == 2
    await async_wait_until(lambda: not any(is_alive(pid) for pid in pids), 20)
    assert (await ended(aggregator, "next")).status is S.COMPLETED, "the slot is free"

    async def cancelled_in_prefect() -> bool:
        return (await prefect_state(aggregator, "a")).type is StateType.CANCELLED

    await async_wait_until(cancelled_in_prefect, 20)
    assert await aggregator.cancel_optimization("a"), "twice is once"
    assert path_of(store, "a")[-1] == "cancelled"


def is_alive(pid: int) -> bool:
    try:
        return bool(psutil.Process(pid).status() != psutil.STATUS_ZOMBIE)
    except psutil.NoSuchProcess:
        return False


async def test_a_pause_outlives_a_restart_of_everything(open_aggregator: Open, async_wait_until: Wait) -> None:
    first = await open_aggregator()
    for name in ("paused", "straight"):
        await first.submit_optimization(new(name, objective="control slow", total_steps=12, seed=3))
    await until(first, "paused", lambda state: state.completed_steps >= 3)
    await first.pause_optimization("paused")
    state = await reached(first, "paused", "paused")
    assert first.store.read(queries.holding, "paused").lease_node is None
    assert len(first.store.read(queries.trials, "paused")) == state.completed_steps
    await async_wait_until(lambda: "paused" not in first._started().dispatcher.running, 20)
    assert (await prefect_state(first, "paused")).name == "Paused"
    await ended(first, "straight")
    await first.cleanup()

    second = await open_aggregator()
    assert (await second.get_optimization_status("paused")).status is S.PAUSED
    assert await second.resume_optimization("paused")
    await ended(second, "paused")
    assert ledger(second.store, "paused") == ledger(second.store, "straight")
    rows = second.store.read(queries.intents, "paused")
    assert [(row["intent"], row["by"]) for row in rows] == [("pause", "python"), ("run", "python")]
    assert rows[0]["at"] < rows[1]["at"]
    ran = second.store.read(queries.provenance, "paused")
    assert [one.attempt for one in ran] == [1, 2]
    assert ran[0].code == ran[1].code != ""


async def test_a_wish_before_the_first_step_needs_no_step(aggregator: Any) -> None:
    await aggregator.lifecycle_manager.create_optimization(new("a", objective="control easy", total_steps=3))
    await aggregator.submit_optimization(new("later", objective="control easy", total_steps=1))
    await ended(aggregator, "later")
    assert (await aggregator.get_optimization_status("a")).status is S.CREATED, "it is not queued"
    await aggregator.pause_optimization("a")
    assert (await aggregator.get_optimization_status("a")).status is S.PAUSED
    await aggregator.start_optimization("a")
    assert (await ended(aggregator, "a")).status is S.COMPLETED


async def test_timed_out_by_hand_and_by_the_clock(aggregator: Any) -> None:
    await aggregator.submit_optimization(new("hand", objective="control slow", total_steps=500))
    await aggregator.submit_optimization(new("clock", objective="control slow", total_steps=500, timeout_seconds=1.0))
    await until(aggregator, "hand", lambda state: state.completed_steps >= 2)
    assert await aggregator.lifecycle_manager.timeout_optimization("hand")
    by_hand, by_clock = await ended(aggregator, "hand"), await ended(aggregator, "clock")
    assert by_hand.status is by_clock.status is S.TIMEOUT
    assert by_hand.issues == ["asked by python"]
    assert "timeout_seconds" in by_clock.issues[0]
    assert (await prefect_state(aggregator, "hand")).name == "TimedOut"


async def test_bad_wishes_are_clear_errors(aggregator: Any) -> None:
    await aggregator.submit_optimization(new("done", objective="control easy", total_steps=1))
    await ended(aggregator, "done")
    for method in (aggregator.pause_optimization, aggregator.resume_optimization, aggregator.cancel_optimization):
        with pytest.raises(OptimizationStateError, match="has ended \\(completed\\)"):
            await method("done")
        with pytest.raises(Exception, match="no optimization 'ghost'"):
            await method("ghost")
    await aggregator.submit_optimization(new("runs", objective="control slow", total_steps=200))
    await reached(aggregator, "runs", "running")
    assert await aggregator.resume_optimization("runs"), "it runs already"
    await aggregator.cancel_optimization("runs")
    with pytest.raises(OptimizationStateError, match="cancel"):
        await aggregator.pause_optimization("runs")
    assert (await ended(aggregator, "runs")).status is S.CANCELLED


async def test_dependencies(aggregator: Any) -> None:
    def one(name: str, objective: str = "control easy", **metadata: Any) -> Any:
        return new(name, objective=objective, total_steps=1, **metadata)

    submit = aggregator.submit_optimization
    with pytest.raises(OptimizationValidationError, match=r"metadata.after.*'ghost'"):
        await submit(one("a", after=["ghost"]))
    with pytest.raises(OptimizationValidationError, match=r"metadata.after.*itself"):
        await submit(one("a", after=["a"]))
    await aggregator.lifecycle_manager.create_optimization(one("first"))
    await submit(one("second", after=["first"]))
    await submit(one("third", after=["second", "first"]))
    await submit(one("breaks", "control broken"))
    await submit(one("never", after=["breaks"]))
    await submit(one("neither", after=["never", "first"]))
    for name, awaited in (("never", "breaks"), ("neither", "never")):
        state = await ended(aggregator, name)
        assert state.status is S.CANCELLED
        assert f" {awaited}," in state.issues[0]
    assert aggregator.store.read(queries.holding, "third").unmet == 2
    await aggregator.lifecycle_manager.start_optimization("first")
    third = await ended(aggregator, "third")
    first, second = (aggregator.store.read(queries.get, name) for name in ("first", "second"))
    assert first.completed_at <= second.started_at
    assert second.completed_at <= third.started_at
    await submit(one("late", after=["first"]))
    assert (await ended(aggregator, "late")).status is S.COMPLETED


async def test_running_it_again_from_a_checkpoint(aggregator: Any) -> None:
    await aggregator.submit_optimization(new("a", objective="control easy", total_steps=8, seed=5))
    await ended(aggregator, "a")
    whole = ledger(aggregator.store, "a")
    for step in (0, 3, 7):
        name = await aggregator.coordinator.retry_optimization("a", from_step=step, new_id=f"again-{step}")
        again = await ended(aggregator, name)
        assert again.status is S.COMPLETED
        assert ledger(aggregator.store, name) == whole
        assert (again.metadata["retry_of"], again.metadata["retry_from_step"]) == ("a", step)
        assert again.metadata["seed"] == 5
        assert again.current_performance == (await aggregator.get_optimization_status("a")).current_performance
        assert {trial.attempt for trial in aggregator.store.read(queries.trials, name)} == {
            0
        }  # none of them is a new try
    with pytest.raises(OptimizationValidationError, match="retry_from_step"):
        await aggregator.retry_optimization("a", from_step=8)


async def test_a_retry_tries_anew_what_an_absent_source_cost(aggregator: Any) -> None:
    source = {"there": True}

    @objective("by a source", search_space=LINE)
    async def by_a_source(parameters: dict[str, float]) -> float:
        if not source["there"]:
            raise ConnectionError("the data source is away")
        return parameters["x"]

    await aggregator.submit_optimization(new("whole", objective="by a source", total_steps=3, seed=5))
    await ended(aggregator, "whole")
    source["there"] = False
    await aggregator.submit_optimization(new("a", objective="by a source", total_steps=3, seed=5))
    assert (await ended(aggregator, "a")).status is S.FAILED
    source["there"] = True
    again = await ended(aggregator, await aggregator.retry_optimization("a", new_id="again"))
    assert (again.status, again.metadata["retry_from_step"]) == (S.COMPLETED, 0)
    assert ledger(aggregator.store, "again") == ledger(aggregator.store, "whole")


async def test_limits_by_policy(open_aggregator: Open) -> None:
    aggregator = await open_aggregator(max_concurrent_optimizations=8)
    most: list[int] = []
    at_work: set[str] = set()
    two_at_once = asyncio.Event()

    @objective("counted", search_space=LINE)
    async def counted(parameters: dict[str, Any]) -> float:
        at_work.add(parameters["me"])
        most.append(len(at_work))
        if len(at_work) == 2:
            two_at_once.set()
        await two_at_once.wait()
        await asyncio.sleep(0.05)  # a third one would come now
        at_work.remove(parameters["me"])
        return 0.0

    await aggregator.coordinator.set_optimization_policy("parameter_tuning", {"max_concurrent_optimizations": 2})
    aggregator.coordinator.set_optimization_policy("all", {"max_attempts": 7, "timeout_seconds": 60})
    for n in range(6):
        await aggregator.submit_optimization(new(f"c{n}", objective="counted", total_steps=1, parameters={"me": n}))
    for n in range(6):
        state = await ended(aggregator, f"c{n}")
        assert (state.metadata["max_attempts"], state.metadata["timeout_seconds"]) == (7, 60)
    assert max(most) == 2
    for key, value in [("max_concurrent_optimizations", 0), ("max_concurrent_optimizations", -1), ("retries", 3)]:
        with pytest.raises(OptimizationValidationError, match=f"config.{key}"):
            aggregator.coordinator.set_optimization_policy("all", {key: value})


async def test_hooks_around_what_attempts_do(aggregator: Any, async_wait_until: Wait) -> None:
    manager, seen = aggregator.lifecycle_manager, []
    closed = True

    def remember(name: str) -> Callable[[Any], None]:
        return lambda what: seen.append((name, getattr(what, "optimization_id", what)))

    async def market_is_open(optimization_id: str) -> None:
        if closed and optimization_id == "forbidden":
            raise RuntimeError("the market is closed")

    def not_good_enough(optimization_id: str) -> None:
        if optimization_id == "weak":
            raise RuntimeError("not good enough")

    def boom(optimization_id: str) -> None:
        raise RuntimeError("a hook's own trouble")

    manager.register_lifecycle_hook("on_create", remember("on_create"))
    for status in ("running", "completed", "paused", "failed"):
        manager.register_lifecycle_hook(f"after_{status}", remember(f"after_{status}"))
    await manager.register_lifecycle_hook("before_running", market_is_open)
    manager.register_lifecycle_hook("before_completed", not_good_enough)
    manager.register_lifecycle_hook("after_running", boom)
    for name in ("good", "forbidden", "weak"):
        await aggregator.submit_optimization(new(name, objective="control easy", total_steps=1))
    assert (await ended(aggregator, "good")).status is S.COMPLETED
    weak = await ended(aggregator, "weak")
    assert weak.status is S.FAILED
    assert "not good enough" in weak.issues[0]
    forbidden = await reached(aggregator, "forbidden", "paused")
    assert "the market is closed" in forbidden.issues[0]
    closed = False
    await aggregator.resume_optimization("forbidden")
    assert (await ended(aggregator, "forbidden")).status is S.COMPLETED
    await async_wait_until(lambda: seen.count(("after_completed", "forbidden")) == 1, 20)
    assert [event for event, name in seen if name == "good"] == ["on_create", "after_running", "after_completed"]
    assert [event for event, name in seen if name == "forbidden"] == [
        "on_create", "after_paused", "after_running", "after_completed",
    ]  # fmt: skip

    manager.register_lifecycle_hook("before_paused", market_is_open)
    closed = True
    with pytest.raises(OptimizationLifecycleError, match="market is closed"):
        await manager.pause_optimization("forbidden")


async def test_ended_by_hand_while_at_work(aggregator: Any, async_wait_until: Wait) -> None:
    for name, status in [("completed", S.COMPLETED), ("failed", S.FAILED)]:
        await aggregator.submit_optimization(new(name, objective="control slow", total_steps=500))
        await until(aggregator, name, lambda state: state.completed_steps >= 2)
        manager = aggregator.lifecycle_manager
        call = manager.complete_optimization if status is S.COMPLETED else manager.fail_optimization
        assert await call(name)
        state = await ended(aggregator, name)
        assert state.status is status
        await async_wait_until(lambda n=name: n not in aggregator._started().dispatcher.running, 10)
        in_prefect = await prefect_state(aggregator, name)
        assert in_prefect.type.value.lower() == status.value
        assert (await aggregator.get_optimization_status(name)).completed_steps == state.completed_steps


async def test_a_strategy_that_holds_the_event_loop_costs_the_node_its_leases_and_no_life(
    open_aggregator: Open, set_o9: Callable[..., None], caplog: pytest.LogCaptureFixture, async_wait_until: Wait
) -> None:
    set_o9(lease_seconds=1)  # a node's watchdog is as patient as its leases; test_watchdog.py has what it does
    aggregator = await open_aggregator()
    held: list[float] = []

    async def greedy(optimization: Any) -> None:
        began = time.thread_time()
        while not held and time.thread_time() < began + 10:
            if any("renews no lease" in record.getMessage() for record in caplog.records):
                held.append(time.thread_time() - began)
        optimization.completed_steps = 1

    aggregator.coordinator.register_strategy("greedy", greedy)
    await aggregator.submit_optimization(new("greedy", strategy="greedy", total_steps=1))
    state = await ended(aggregator, "greedy")
    assert (state.status, len(held)) == (S.COMPLETED, 1)


async def test_a_node_that_cannot_renew_its_leases_takes_no_work(
    open_aggregator: Open,
    set_o9: Callable[..., None],
    store_url: str,
    caplog: pytest.LogCaptureFixture,
    async_wait_until: Wait,
) -> None:
    set_o9(lease_seconds=3)
    aggregator = await open_aggregator()
    with contextlib.closing(sqlite3.connect(store_url)) as connection:
        connection.execute("CREATE TRIGGER no BEFORE UPDATE ON node BEGIN SELECT RAISE(ABORT, 'no renewal'); END")
        dispatcher = "o9.aggregator.dispatcher"
        await async_wait_until(lambda: any(record.name == dispatcher for record in caplog.records))
        await aggregator.submit_optimization(new("a", objective="control easy", total_steps=1))
        silent = silence(aggregator.store)
        await async_wait_until(lambda: silence(aggregator.store) > silent + 1.0)  # it looks ten times in a second
        assert aggregator.store.read(queries.holding, "a").attempt == 0
        connection.execute("DROP TRIGGER no")
    assert (await ended(aggregator, "a")).status is S.COMPLETED
    assert aggregator.store.read(queries.holding, "a").attempt == 1
    told = [record.levelname for record in caplog.records if record.name == dispatcher]
    assert told == ["ERROR", "WARNING"]


def silence(store: Store) -> float:
    """For how many seconds the one node has renewed no lease."""
    (node,) = store.read(queries.nodes)
    return store.read(queries.leases).at - float(node["heartbeat_at"])


async def test_callbacks_come_again_after_any_error(
    aggregator: Any, monkeypatch: pytest.MonkeyPatch, async_wait_until: Wait
) -> None:
    """As when descriptors are used up: what reads the record for callbacks goes on behind where it was."""
    told: list[str] = []
    aggregator.coordinator.register_callback("transition", lambda row: told.append(row["to_status"]))
    faults, read = [OSError(errno.EMFILE, "too many"), ValueError("odd")], queries.transitions_since

    def fails_at_first(*given: Any, **more: Any) -> Any:
        if faults:
            raise faults.pop()
        return read(*given, **more)

    monkeypatch.setattr(queries, "transitions_since", fails_at_first)
    await async_wait_until(lambda: not faults)
    await aggregator.submit_optimization(new("a", objective="control easy", total_steps=1))
    await ended(aggregator, "a")
    await async_wait_until(lambda: told[-1:] == ["completed"], 20)


async def test_callbacks_tell_of_every_status(aggregator: Any, async_wait_until: Wait) -> None:
    told: list[tuple[str, str]] = []
    for status in ("created", "running", "paused", "completed"):
        aggregator.coordinator.register_callback(
            f"optimization_{status}", lambda state, status=status: told.append((status, state.optimization_id))
        )
    aggregator.coordinator.register_callback("optimization_running", lambda state: 1 / 0)
    await aggregator.submit_optimization(new("a", objective="control slow", total_steps=8))
    await until(aggregator, "a", lambda state: state.completed_steps >= 2)
    await aggregator.pause_optimization("a")
    await reached(aggregator, "a", "paused")
    await aggregator.resume_optimization("a")
    await ended(aggregator, "a")
    await async_wait_until(lambda: ("completed", "a") in told, 20)
    assert [status for status, _ in told] == ["created", "running", "paused", "created", "running", "completed"]


async def test_no_thread_of_an_aggregator_outlives_it(open_aggregator: Open) -> None:
    def threads() -> list[str]:
        names = (thread.name for thread in threading.enumerate())
        return sorted(name for name in names if name in ("o9-watchdog", "o9-heartbeat"))

    aggregator = await open_aggregator()
    assert threads() == ["o9-heartbeat", "o9-watchdog"]
    await aggregator.cleanup()
    assert threads() == []
