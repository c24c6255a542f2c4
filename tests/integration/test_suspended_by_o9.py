"""O9 itself takes off what must not run, with the reason, and lets it go on when that is over; people may resume it."""

from __future__ import annotations

import asyncio
import contextlib
import errno
import os
import sqlite3
from collections.abc import Awaitable, Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

import o9_testing
import pytest
from child_objectives import third_hangs_while_told
from o9_testing import LINE, ended, ledger, new, path_of, reached, until
from prefect import get_client

from o9.aggregator import suspender
from o9.aggregator.prefect_server import prefect_client_settings
from o9.model.states import Intent, SuspendedFor, TrialState
from o9.model.strategy import StepResult
from o9.model.trial import Trial
from o9.store import queries
from o9.store.optimizations.intents import SetIntent, Suspend
from OptimizationStateAggregator import Evaluation, OptimizationStatus, objective

S = OptimizationStatus
Open = Callable[..., Awaitable[Any]]
Wait = Callable[..., Awaitable[Any]]
MORE_THAN_THERE_IS = 10**9
SEED = {"seed": 7, "search_space": LINE}


@pytest.fixture(autouse=True)
def looks_often(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(suspender, "MIN_INTERVAL_SECONDS", 0.1)
    monkeypatch.setattr(suspender, "SETTLE_SECONDS", 0.5)


@objective("suspended slow", search_space=LINE)
async def slow(parameters: dict[str, float]) -> float:
    await asyncio.sleep(0.2)
    return parameters["x"]


objective("suspended in a child", search_space=LINE)(third_hangs_while_told)


@objective("suspended risky", search_space=LINE)
async def risky(parameters: dict[str, float]) -> Evaluation:
    await asyncio.sleep(0.25)
    return Evaluation(value=parameters["x"], metrics={"drawdown": -0.3})


def reasons(store: Any, name: str) -> list[tuple[str, str]]:
    return [(row["intent"], row["by"]) for row in store.read(queries.intents, name)]


@pytest.mark.parametrize("what", ["memory", pytest.param("disk", marks=pytest.mark.long)])
async def test_while_the_machine_is_short_it_rests_and_then_goes_on_as_if_nothing_had_been(
    open_aggregator: Open, async_wait_until: Wait, set_o9: Callable[..., None], what: str
) -> None:
    aggregator = await open_aggregator()
    store, setting = aggregator.store, f"{what}_reserve_mib"
    await aggregator.submit_optimization(new("a", objective="suspended slow", total_steps=12, **SEED))
    await until(aggregator, "a", lambda state: state.completed_steps >= 3)
    set_o9(**{setting: MORE_THAN_THERE_IS})
    state = await reached(aggregator, "a", "suspended")
    assert setting.upper() in state.issues[-1]
    assert store.read(queries.holding, "a").lease_node is None
    await aggregator.submit_optimization(new("b", objective="suspended slow", total_steps=2, **SEED))
    await asyncio.sleep(1.0)
    assert (store.read(queries.get, "b").status, store.read(queries.get, "b").completed_steps) == (S.CREATED, 0)
    assert store.read(queries.get, "a").completed_steps == state.completed_steps

    set_o9(**{setting: 0})
    for name in ("a", "b"):
        assert (await ended(aggregator, name)).status is S.COMPLETED
    assert path_of(store, "a") == [
        "created", "initializing", "running", "suspended", "created", "initializing", "running", "completed",
    ]  # fmt: skip
    assert reasons(store, "a") == [("suspend", f"o9:{what}"), ("run", f"o9:{what}")]
    assert store.read(queries.holding, "a").deaths == 0
    await aggregator.submit_optimization(new("c", objective="suspended slow", total_steps=12, **SEED))
    await ended(aggregator, "c")
    assert ledger(store, "a") == ledger(store, "c")
    assert await prefect_states(store, "a") >= {"Suspended", "Completed"}


async def prefect_states(store: Any, name: str) -> set[str]:
    """Of its flow runs."""
    runs = {row["run_id"] for row in store.read(queries.prefect_states, name) if row["run_kind"] == "flow"}
    with prefect_client_settings(o9_testing.session_server()):
        async with get_client() as client:
            return {(await client.read_flow_run(run_id)).state.name for run_id in runs}  # type: ignore[misc]


async def test_a_step_that_does_not_end_is_cut_off_and_evaluated_again(
    open_aggregator: Open, async_wait_until: Wait, set_o9: Callable[..., None], tmp_path: Path
) -> None:
    (tmp_path / "hangs").touch()
    aggregator = await open_aggregator()
    fields = {"parameters": {"folder": str(tmp_path)}, "total_steps": 4}
    await aggregator.submit_optimization(new("a", objective="suspended in a child", **fields, **SEED))
    await async_wait_until(lambda: (tmp_path / "trial-2").exists())
    set_o9(memory_reserve_mib=MORE_THAN_THERE_IS)
    state = await reached(aggregator, "a", "suspended")
    assert (state.completed_steps, len(aggregator.store.read(queries.trials, "a"))) == (2, 2)
    (tmp_path / "hangs").unlink()
    set_o9(memory_reserve_mib=0)
    state = await ended(aggregator, "a")
    assert (state.status, state.completed_steps) == (S.COMPLETED, 4)
    assert {trial.state.value for trial in aggregator.store.read(queries.trials, "a")} == {"completed"}


async def test_one_at_a_time_makes_room_and_the_most_urgent_stays_longest(
    open_aggregator: Open, set_o9: Callable[..., None]
) -> None:
    aggregator = await open_aggregator()
    for name, priority in (("low", 1), ("high", 3)):
        optimization = new(name, objective="suspended slow", total_steps=15, priority=priority, **SEED)
        await aggregator.submit_optimization(optimization)
    for name in ("low", "high"):
        await reached(aggregator, name, "running")
    set_o9(memory_reserve_mib=MORE_THAN_THERE_IS)
    for name in ("low", "high"):
        await reached(aggregator, name, "suspended")
    asked = {name: aggregator.store.read(queries.intents, name)[0]["at"] for name in ("low", "high")}
    rested = aggregator.store.read(queries.transitions, "low")[-1]["at"]
    assert asked["low"] < rested <= asked["high"]
    set_o9(memory_reserve_mib=0)
    for name in ("low", "high"):
        assert (await ended(aggregator, name)).status is S.COMPLETED


async def test_a_broken_risk_limit_takes_it_off_until_the_limit_is_another(open_aggregator: Open) -> None:
    aggregator = await open_aggregator()
    limits = {"risk_limits": {"drawdown": 0.2}}
    await aggregator.submit_optimization(new("a", objective="suspended risky", total_steps=8, **SEED, **limits))
    await aggregator.submit_optimization(new("fits", objective="suspended slow", total_steps=3, **SEED, **limits))
    state = await reached(aggregator, "a", "suspended")
    assert "drawdown -0.3, the limit is 0.2" in state.issues[-1]
    assert 1 <= state.completed_steps < 8
    metadata = state.metadata | {"risk_limits": {"drawdown": 0.5}}
    assert (await aggregator.handle_api_request("/optimizations/a", "PUT", {"metadata": metadata}))["success"]
    assert (await ended(aggregator, "a")).status is S.COMPLETED
    assert reasons(aggregator.store, "a") == [("suspend", "o9:risk_limits"), ("run", "o9:risk_limits")]
    assert (await ended(aggregator, "fits")).status is S.COMPLETED
    assert reasons(aggregator.store, "fits") == []


async def test_what_a_person_resumes_is_not_taken_off_again_for_the_same(open_aggregator: Open) -> None:
    aggregator = await open_aggregator()
    limits = {"risk_limits": {"drawdown": 0.2}}
    await aggregator.submit_optimization(new("a", objective="suspended risky", total_steps=8, **SEED, **limits))
    await reached(aggregator, "a", "suspended")
    await aggregator.resume_optimization("a")
    assert (await ended(aggregator, "a")).status is S.COMPLETED
    assert reasons(aggregator.store, "a") == [("suspend", "o9:risk_limits"), ("run", "python")]


async def test_who_pauses_what_is_suspended_keeps_it_there(open_aggregator: Open, set_o9: Callable[..., None]) -> None:
    aggregator = await open_aggregator()
    await aggregator.submit_optimization(new("a", objective="suspended slow", total_steps=12, **SEED))
    await reached(aggregator, "a", "running")
    set_o9(memory_reserve_mib=MORE_THAN_THERE_IS)
    await reached(aggregator, "a", "suspended")
    await aggregator.pause_optimization("a")
    set_o9(memory_reserve_mib=0)
    await asyncio.sleep(1.0)
    assert aggregator.store.read(queries.get, "a").status is S.SUSPENDED
    await aggregator.resume_optimization("a")
    assert (await ended(aggregator, "a")).status is S.COMPLETED


STALE: list[str] = []


@pytest.fixture
def stale() -> Iterator[list[str]]:
    STALE[:] = ["the feed is stale"]
    yield STALE
    STALE.clear()


async def feed_is_fresh(optimization_id: str, report: Any) -> None:
    report.suspend = "".join(STALE)


async def test_a_health_rule_takes_it_off_until_it_says_so_no_more(
    open_aggregator: Open, stale: list[str], store_url: str
) -> None:
    aggregator = await open_aggregator(health_check_interval=0.3)
    await aggregator.health_checker.register_health_rule(feed_is_fresh)
    await aggregator.submit_optimization(new("damaged", objective="suspended slow", total_steps=15, **SEED))
    await reached(aggregator, "damaged", "suspended")
    with contextlib.closing(sqlite3.connect(store_url)) as connection, connection:
        connection.execute("UPDATE health_report SET report = '{' WHERE optimization_id = 'damaged'")
    await aggregator.submit_optimization(new("a", objective="suspended slow", total_steps=15, **SEED))
    state = await reached(aggregator, "a", "suspended")
    assert state.issues[-1].endswith("the feed is stale")
    report = await aggregator.get_optimization_health("a")
    assert report.suspend == "the feed is stale"
    stale.clear()
    assert (await ended(aggregator, "a")).status is S.COMPLETED
    assert reasons(aggregator.store, "a") == [("suspend", "o9:health_rule"), ("run", "o9:health_rule")]


WISHES: dict[str, Callable[[], Any]] = {}


class RunsOut:
    """Its first step makes the wish for its optimization and fails at once, before anybody can hear of that."""

    total_steps = 1

    async def step(self, state: Any, step: int, checkpoint: Any) -> StepResult:
        if (wish := WISHES.pop(state.optimization_id, None)) is not None:
            wish()
            raise OSError(errno.ENOMEM, os.strerror(errno.ENOMEM))
        return StepResult([Trial(0, step, TrialState.COMPLETED, {}, 1.0)], {})


async def test_what_was_asked_for_comes_with_a_shortage_that_ends_the_attempt(open_aggregator: Open) -> None:
    aggregator = await open_aggregator()
    store = aggregator.store
    wishes: list[Suspend | SetIntent] = [
        Suspend("suspended", SuspendedFor.MEMORY, "99 MiB of memory are free", aggregator._node.name),
        SetIntent("paused", Intent.PAUSE, "ann"),
        SetIntent("cancelled", Intent.CANCEL, "ann"),
        SetIntent("timeout", Intent.TIME_OUT, "ann"),
    ]
    aggregator.coordinator.register_strategy("runs out", RunsOut)
    for wish in wishes:
        WISHES[wish.optimization_id] = partial(store.write, wish)
        await aggregator.submit_optimization(new(wish.optimization_id, strategy="runs out"))
    for name in ("paused", "cancelled", "timeout"):
        await reached(aggregator, name, name)
    await aggregator.resume_optimization("paused")
    for name in ("suspended", "paused"):
        assert (await ended(aggregator, name)).status is S.COMPLETED
        assert path_of(store, name) == [
            "created", "initializing", "running", name, "created", "initializing", "running", "completed",
        ]  # fmt: skip


async def test_what_one_aggregator_suspended_the_next_one_lets_go_on(
    open_aggregator: Open, set_o9: Callable[..., None], store_url: str
) -> None:
    first = await open_aggregator()
    await first.submit_optimization(new("a", objective="suspended slow", total_steps=12, **SEED))
    await reached(first, "a", "running")
    set_o9(memory_reserve_mib=MORE_THAN_THERE_IS)
    await reached(first, "a", "suspended")
    await first.cleanup()
    set_o9(memory_reserve_mib=0)
    second = await open_aggregator()
    assert (await ended(second, "a")).status is S.COMPLETED
