"""One optimization's life as a Prefect flow: what the record and Prefect's own database say, whoever starts it."""

from __future__ import annotations

import asyncio
import contextlib
import io
import json
import logging
import os
import sqlite3
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from typing import Any

import o9_testing
import pytest
from o9_testing import LINE, ended, ledger, new, path_of
from prefect import get_client
from prefect.client.orchestration import PrefectClient
from prefect.client.schemas.filters import FlowRunFilter, FlowRunFilterId, LogFilter, LogFilterFlowRunId

from o9.aggregator.prefect_server import prefect_client_settings
from o9.model.logs import ROOT, JsonFormatter, configure_logging
from o9.store import queries
from OptimizationStateAggregator import OptimizationStateAggregator, objective

STRAIGHT = ["created", "initializing", "running", "completed"]


@pytest.fixture
async def prefect() -> AsyncIterator[PrefectClient]:
    with prefect_client_settings(o9_testing.session_server()):
        async with get_client() as client:
            yield client


@objective("line", search_space=LINE)
async def line(parameters: dict[str, float]) -> float:
    return parameters["x"]


# What the aggregator runs


async def test_the_file_holds_each_transition_with_its_cause_and_prefects_run(
    aggregator: OptimizationStateAggregator, store_url: str
) -> None:
    await aggregator.submit_optimization(new("a", objective="line", total_steps=3))
    await ended(aggregator, "a")
    with contextlib.closing(sqlite3.connect(store_url)) as database:
        rows = database.execute(
            "select from_status, to_status, cause, attempt, prefect_run_id, prefect_state_id"
            " from transition order by id"
        ).fetchall()
        [run_id] = {run_id for *_, run_id, _ in rows if run_id}
        [at_work] = database.execute("select prefect_run_id from optimization").fetchone()
    heard = [(before, after, "hook" if cause == "event" else cause) for before, after, cause, *_ in rows]
    assert heard == [  # the event of a state may be heard before its hook is called
        (None, "created", "submission"),
        ("created", "initializing", "claim"),
        ("initializing", "running", "hook"),
        ("running", "completed", "hook"),
    ]
    assert at_work == run_id
    assert [attempt for *_, attempt, _, _ in rows] == [0, 1, 1, 1]
    assert all(state_id for *_, state_id in rows[1:])


async def test_prefects_own_database_tells_the_same_story(
    aggregator: OptimizationStateAggregator, prefect: PrefectClient, async_wait_until: Callable[..., Awaitable[Any]]
) -> None:
    await aggregator.submit_optimization(new("a", objective="line", total_steps=3))
    await ended(aggregator, "a")

    def told() -> list[dict[str, Any]]:
        """What hooks and the flow itself tell; of tasks, the event stream adds Pending when it comes to it."""
        found = aggregator.store.read(queries.prefect_states, "a")
        return [row for row in found if row["run_kind"] == "flow" or row["state_name"] != "Pending"]

    await async_wait_until(lambda: len(told()) == 3 + 2 * 5, 60.0)
    rows = told()
    [flow_run_id] = {row["run_id"] for row in rows if row["run_kind"] == "flow"}

    flow_run = await prefect.read_flow_run(flow_run_id)
    assert (flow_run.name, flow_run.state_name) == (f"{new('a').name} · a", "Completed")
    assert flow_run.parameters == {"optimization_id": "a"}
    theirs = await prefect.read_flow_run_states(flow_run_id)
    assert [described(state) for state in theirs] == [recorded(row) for row in rows if row["run_kind"] == "flow"]

    only = FlowRunFilter(id=FlowRunFilterId(any_=[flow_run.id]))

    async def all_recorded() -> Any:  # Prefect's server writes task runs from its event stream, a moment later
        runs = await prefect.read_task_runs(flow_run_filter=only)
        return runs if len(runs) == 5 and all(run.state_name == "Completed" for run in runs) else None

    task_runs = await async_wait_until(all_recorded, 30)
    assert {run.name.partition("-")[0] for run in task_runs} == {"prepare", "step", "finalize"}
    for run in task_runs:
        ours = [recorded(row) for row in rows if row["run_id"] == str(run.id)]
        assert [name for _, _, name, _ in ours] == ["Running", "Completed"]
        states = await prefect.read_task_run_states(run.id)
        assert [described(state) for state in states if state.name != "Pending"] == ours


def described(state: Any) -> tuple[str, str, str, str]:
    return (str(state.id), state.type.value, state.name, state.timestamp.isoformat())


def recorded(row: dict[str, Any]) -> tuple[str, str, str, str]:
    return (row["state_id"], row["state_type"], row["state_name"], row["at"])


async def test_every_end_is_prefects_end_too(
    open_aggregator: Callable[..., Awaitable[Any]], prefect: PrefectClient, async_wait_until: Callable[..., Any]
) -> None:
    @objective("hangs", search_space=LINE)
    async def hangs(parameters: dict[str, float]) -> float:
        await asyncio.sleep(3600)
        return 0.0

    @objective("raises", search_space=LINE)
    async def raises(parameters: dict[str, float]) -> float:
        raise ValueError("no prices")

    @objective("patient", search_space=LINE)
    async def patient(parameters: dict[str, float]) -> float:
        await asyncio.sleep(0.05)
        return 1.0

    aggregator = await open_aggregator()
    plans = {
        "done": new("done", objective="line", total_steps=1),
        "failed": new("failed", objective="raises", total_steps=2),
        "late": new("late", objective="hangs", timeout_seconds=0.3),
        "cut": new("cut", objective="hangs"),
        "paused": new("paused", objective="patient", total_steps=1000),
    }
    for state in plans.values():
        await aggregator.submit_optimization(state)
    for name in ("cut", "paused"):
        await o9_testing.reached(aggregator, name, "running")
    await aggregator.cancel_optimization("cut")
    await aggregator.pause_optimization("paused")
    for name in plans:
        await o9_testing.reached(aggregator, name, *o9_testing.ENDED, "paused")

    expected = {
        "done": ("completed", "COMPLETED", "Completed"),
        "failed": ("failed", "FAILED", "Failed"),
        "late": ("timeout", "FAILED", "TimedOut"),
        "cut": ("cancelled", "CANCELLED", "Cancelled"),
        "paused": ("paused", "CANCELLED", "Paused"),
    }
    for name, (status, state_type, state_name) in expected.items():
        state = aggregator.store.read(queries.get, name)
        assert state.status.value == status
        run_id = aggregator.store.read(queries.holding, name).prefect_run_id

        async def final(run_id: Any = run_id) -> Any:
            run = await prefect.read_flow_run(run_id)
            return run if run.state is not None and run.state.is_final() else None

        run = await async_wait_until(final)
        assert (run.state_type.value, run.state_name) == (state_type, state_name)
        # The last state, which no hook sees for some of these, is in the record as well.
        await async_wait_until(
            lambda name=name, run=run: (
                str(run.state.id) in {row["state_id"] for row in aggregator.store.read(queries.prefect_states, name)}
            )
        )
    assert "none of the 2 trials succeeded" in aggregator.store.read(queries.get, "failed").issues[0]
    assert "no prices" in aggregator.store.read(queries.get, "failed").issues[0]


async def test_a_run_can_be_stopped_and_taken_up_by_the_next_aggregator(
    open_aggregator: Callable[..., Awaitable[Any]],
) -> None:
    @objective("steady", search_space=LINE)
    async def steady(parameters: dict[str, float]) -> float:
        await asyncio.sleep(0.1)
        return parameters["x"]

    first = await open_aggregator()
    search: dict[str, Any] = {"objective": "steady", "total_steps": 10, "seed": 3, "trials_per_step": 2}
    await first.submit_optimization(new("straight", **search))
    await ended(first, "straight")
    await first.submit_optimization(new("b", **search))
    await o9_testing.until(first, "b", lambda state: state.completed_steps >= 2)
    await first.stop()
    state = first.store.read(queries.get, "b")
    assert state.status.value == "created"
    assert 2 <= state.completed_steps < 10
    assert len(first.store.read(queries.trials, "b")) == 2 * state.completed_steps
    holding = first.store.read(queries.holding, "b")
    assert (holding.lease_node, holding.deaths) == (None, 0)

    second = await open_aggregator()
    assert (await ended(second, "b")).status.value == "completed"
    assert ledger(second.store, "b") == ledger(second.store, "straight")
    assert path_of(second.store, "b") == [*STRAIGHT[:3], *STRAIGHT]


# Logs


async def test_a_runs_log_in_prefect_holds_o9s_records_and_what_the_objective_prints(
    aggregator: OptimizationStateAggregator, prefect: PrefectClient, async_wait_until: Callable[..., Awaitable[Any]]
) -> None:
    @objective("talks", search_space=LINE)
    def talks(parameters: dict[str, float]) -> float:
        print("I have seen", parameters["x"])
        return parameters["x"]

    await aggregator.submit_optimization(new("a", objective="talks", total_steps=3))
    await ended(aggregator, "a")
    logging.getLogger("o9.elsewhere").warning("nobody's")
    flow_run_id = aggregator.store.read(queries.prefect_states, "a")[0]["run_id"]
    steps = {row["run_id"]: row["run_name"] for row in aggregator.store.read(queries.prefect_states, "a")}

    async def logged() -> Any:
        found = await prefect.read_logs(LogFilter(flow_run_id=LogFilterFlowRunId(any_=[flow_run_id])))
        ours = [log for log in found if log.name.startswith("o9.")]
        return ours if sum(log.name == "o9.objective" for log in ours) >= 3 else None

    ours = await async_wait_until(logged, 60)
    [begun] = [log for log in ours if log.name == "o9.tasks.steps"]
    assert begun.message == "attempt 1 of a test: from step 0 of 3"
    assert steps[str(begun.task_run_id)].startswith("prepare")
    printed = [(log.message, steps[str(log.task_run_id)]) for log in ours if log.name == "o9.objective"]
    values = [trial.parameters["x"] for trial in aggregator.store.read(queries.trials, "a")]
    assert printed == [(f"trial {n}: I have seen {x}", f"step-{n}") for n, x in enumerate(values)]
    assert not any("nobody's" in log.message for log in ours)


@pytest.fixture
def json_lines() -> Iterator[Callable[[], list[dict[str, Any]]]]:
    stream = io.StringIO()
    level, propagate = ROOT.level, ROOT.propagate
    configure_logging("DEBUG", "json", stream)
    yield lambda: [json.loads(line) for line in stream.getvalue().splitlines()]
    for handler in [handler for handler in ROOT.handlers if isinstance(handler.formatter, JsonFormatter)]:
        ROOT.removeHandler(handler)
    ROOT.setLevel(level)
    ROOT.propagate = propagate


async def test_json_lines_say_what_they_belong_to(
    aggregator: OptimizationStateAggregator, json_lines: Callable[[], list[dict[str, Any]]]
) -> None:
    @objective("speaks", search_space=LINE)
    def speaks(parameters: dict[str, float]) -> float:
        print("你好 🚀")
        return parameters["x"]

    await aggregator.submit_optimization(new("a", objective="speaks", total_steps=3))
    await ended(aggregator, "a")
    spoken = [line for line in json_lines() if line["logger"] == "o9.objective"]
    assert [line["message"] for line in spoken] == [f"trial {n}: 你好 🚀" for n in range(3)]
    assert [(line["optimization"], line["attempt"], line["step"]) for line in spoken] == [("a", 1, n) for n in range(3)]
    assert {line["node"].partition(":")[2].partition("#")[0] for line in spoken} == {str(os.getpid())}
    begun = next(line for line in json_lines() if line["logger"] == "o9.tasks.steps")
    assert (begun["optimization"], begun["attempt"]) == ("a", 1)
