"""One optimization's life as a Prefect flow: what the record and Prefect's own database say, whoever starts it."""

from __future__ import annotations

import asyncio
import contextlib
import io
import json
import logging
import os
import sqlite3
import subprocess
import sys
import textwrap
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from pathlib import Path
from typing import Any

import o9_testing
import pytest
from o9_testing import LINE, ended, ledger, new, path_of
from prefect import get_client
from prefect.client.orchestration import PrefectClient
from prefect.client.schemas.filters import FlowRunFilter, FlowRunFilterId, LogFilter, LogFilterFlowRunId
from prefect.flows import load_flow_from_entrypoint

from o9.aggregator.prefect_server import prefect_client_settings
from o9.flows.lifecycle import optimization_lifecycle
from o9.model.logs import ROOT, JsonFormatter, configure_logging
from o9.model.states import Intent
from o9.store.leases import Sweep
from o9.store.store import Store
from o9.store.transitions import SetIntent
from OptimizationStateAggregator import OptimizationStateAggregator, objective

STRAIGHT = ["created", "initializing", "running", "completed"]
DESK = """
import asyncio, time

def quick(parameters):
    return parameters["x"]

def slow(parameters):
    time.sleep(0.5)
    return parameters["x"]

async def hang(parameters):
    await asyncio.sleep(3600)

def broken(parameters):
    raise ValueError("the exchange was closed")
"""


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
    assert [(before, after, cause) for before, after, cause, *_ in rows] == [
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
    await async_wait_until(lambda: len(aggregator.store.prefect_states("a")) == 3 + 2 * 5)
    rows = aggregator.store.prefect_states("a")
    [flow_run_id] = {row["run_id"] for row in rows if row["run_kind"] == "flow"}

    flow_run = await prefect.read_flow_run(flow_run_id)
    assert (flow_run.name, flow_run.state_name) == ("a attempt 1", "Completed")
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
        state = aggregator.store.get(name)
        assert state.status.value == status
        run_id = aggregator.store.holding(name).prefect_run_id

        async def final(run_id: Any = run_id) -> Any:
            run = await prefect.read_flow_run(run_id)
            return run if run.state is not None and run.state.is_final() else None

        run = await async_wait_until(final)
        assert (run.state_type.value, run.state_name) == (state_type, state_name)
        # The last state, which no hook sees for some of these, is in the record as well.
        await async_wait_until(
            lambda name=name, run=run: (
                str(run.state.id) in {row["state_id"] for row in aggregator.store.prefect_states(name)}
            )
        )
    assert "none of the 2 trials succeeded" in aggregator.store.get("failed").issues[0]
    assert "no prices" in aggregator.store.get("failed").issues[0]


async def test_a_run_can_be_stopped_and_taken_up_by_the_next_aggregator(
    open_aggregator: Callable[..., Awaitable[Any]],
) -> None:
    @objective("steady", search_space=LINE)
    async def steady(parameters: dict[str, float]) -> float:
        await asyncio.sleep(0.05)
        return parameters["x"]

    first = await open_aggregator()
    for name in ("a", "straight"):
        await first.submit_optimization(new(name, objective="steady", total_steps=20, seed=3, trials_per_step=2))
    await ended(first, "straight")
    await first.submit_optimization(new("b", objective="steady", total_steps=20, seed=3, trials_per_step=2))
    await o9_testing.until(first, "b", lambda state: state.completed_steps >= 2)
    await first.stop()
    state = first.store.get("b")
    assert state.status.value == "created"
    assert 2 <= state.completed_steps < 20
    assert len(first.store.trials("b")) == 2 * state.completed_steps
    holding = first.store.holding("b")
    assert (holding.lease_node, holding.deaths) == (None, 0)

    second = await open_aggregator()
    assert (await ended(second, "b")).status.value == "completed"
    assert ledger(second.store, "b") == ledger(second.store, "straight")
    assert path_of(second.store, "b") == [*STRAIGHT[:3], *STRAIGHT]


# What Prefect runs by itself


def test_prefect_finds_the_flow_by_its_module() -> None:
    found = load_flow_from_entrypoint("o9.flows.lifecycle:optimization_lifecycle")
    assert found is optimization_lifecycle


@pytest.fixture
def desk(tmp_path: Path, store_url: str) -> Iterator[Callable[..., subprocess.Popen[str]]]:
    """Starts processes that call the flow as Prefect would; they share this test's store and Prefect's server."""
    (tmp_path / "desk.py").write_text(DESK)
    with o9_testing.no_process_left() as environment:
        environment |= {
            "PREFECT_API_URL": o9_testing.session_server().api_url,
            "O9_STORE_URL": store_url,
            "O9_ALLOWED_IMPORTS": "desk",
            "O9_LEASE_SECONDS": "1",
            "PYTHONPATH": os.pathsep.join([str(tmp_path), *filter(None, [os.environ.get("PYTHONPATH")])]),
        }
        started: list[subprocess.Popen[str]] = []

        def start(call: str, **more: str) -> subprocess.Popen[str]:
            source = f"""
            import asyncio, os
            from o9.flows.lifecycle import optimization_lifecycle

            async def main():
                running = asyncio.ensure_future(optimization_lifecycle({call}, return_state=True))
                if "CUT_OFF_AND_STAY" in os.environ:
                    await asyncio.sleep(3)
                    running.cancel()
                    await asyncio.wait({{running}})
                    await asyncio.sleep(3600)
                state = await running
                print(state.name, state.message)

            asyncio.run(main())
            """
            started.append(
                subprocess.Popen(
                    [sys.executable, "-c", textwrap.dedent(source)],
                    env=environment | more, cwd=tmp_path, text=True, stdout=subprocess.PIPE, stderr=subprocess.PIPE,
                )
            )  # fmt: skip
            return started[-1]

        yield start
        for process in started:
            if process.poll() is None:
                process.kill()
            process.communicate()


def spec(optimization_id: str, objective: str, steps: int, **metadata: Any) -> dict[str, Any]:
    metadata = {"objective": f"desk:{objective}", "search_space": LINE, "seed": 1, **metadata}
    return {"optimization_id": optimization_id, "total_steps": steps, "metadata": metadata}


def test_a_flow_that_prefect_starts_keeps_its_lease_and_is_mirrored(
    desk: Callable[..., subprocess.Popen[str]], store_url: str, wait_until: Callable[..., Any]
) -> None:
    process = desk(f"spec={spec('a', 'slow', 6)!r}")
    with Store(store_url) as store:
        wait_until(lambda: (state := store.get("a")) and state.completed_steps, 60)
        # Somebody looks for leases that ran out, all the time; this one's would within a second.
        wait_until(lambda: store.write(Sweep("somebody")) or process.poll() is not None, 60)
        out, error = process.communicate(timeout=30)
        assert process.returncode == 0, error
        assert out.startswith("Completed")
        assert store.get("a").status.value == "completed"  # type: ignore[union-attr]
        rows = store.transitions("a")
        assert path_of(store, "a") == STRAIGHT
        assert [row["cause"] for row in rows] == ["submission", "reconciler", "reconciler", "hook"]
        flow_states = [row["state_name"] for row in store.prefect_states("a") if row["run_kind"] == "flow"]
        assert flow_states == ["Pending", "Running", "Completed"]
        assert store.nodes() == [], "it takes its leave when its process ends"


def test_a_submitted_one_by_its_id(desk: Callable[..., subprocess.Popen[str]], store_url: str) -> None:
    from o9.lifecycle.submission import submit

    with Store(store_url) as store:
        asyncio.run(submit(store, new("b", objective="branin", total_steps=2, seed=1)))
        process = desk("optimization_id='b'")
        out, error = process.communicate(timeout=60)
        assert out.startswith("Completed"), error
        assert path_of(store, "b") == STRAIGHT
        assert len(store.trials("b")) == 8

        # It waits no more, and cannot be started twice.
        out, _ = desk("optimization_id='b'").communicate(timeout=60)
        assert out.startswith("Failed")
        assert "does not wait for a start" in out
        assert path_of(store, "b") == STRAIGHT


def test_a_parameter_may_not_name_any_module(desk: Callable[..., subprocess.Popen[str]], store_url: str) -> None:
    out, _ = desk(f"spec={spec('c', 'quick', 2)!r}", O9_ALLOWED_IMPORTS="elsewhere").communicate(timeout=60)
    assert out.startswith("Failed")
    assert "metadata.objective" in out
    assert "O9_ALLOWED_IMPORTS" in out
    with Store(store_url) as store:
        assert store.get("c") is None


def test_one_that_prefect_started_hears_of_a_cancellation(
    desk: Callable[..., subprocess.Popen[str]], store_url: str, wait_until: Callable[..., Any]
) -> None:
    process = desk(f"spec={spec('d', 'hang', 2)!r}")
    with Store(store_url) as store:
        wait_until(lambda: (state := store.get("d")) and state.status.value == "running", 60)
        store.write(SetIntent("d", Intent.CANCEL, "ann"))
        out, error = process.communicate(timeout=30)
        assert out.startswith("Cancelled"), error
        assert path_of(store, "d") == ["created", "initializing", "running", "cancelled"]


def test_its_failures_are_failures(desk: Callable[..., subprocess.Popen[str]], store_url: str) -> None:
    out, _ = desk(f"spec={spec('e', 'broken', 2)!r}").communicate(timeout=60)
    late, _ = desk(f"spec={spec('f', 'hang', 2, timeout_seconds=0.5)!r}").communicate(timeout=60)
    assert out.startswith("Failed")
    assert late.startswith("TimedOut")
    with Store(store_url) as store:
        state = store.get("e")
        assert state is not None
        assert state.status.value == "failed"
        assert "the exchange was closed" in state.issues[0]
        assert store.get("f").status.value == "timeout"  # type: ignore[union-attr]


def test_one_that_crashes_in_a_process_that_lives_on_is_queued_again(
    desk: Callable[..., subprocess.Popen[str]], store_url: str, wait_until: Callable[..., Any]
) -> None:
    process = desk(f"spec={spec('g', 'hang', 2)!r}", CUT_OFF_AND_STAY="1")
    with Store(store_url) as store:
        wait_until(lambda: (state := store.get("g")) and state.status.value == "running", 60)
        wait_until(lambda: path_of(store, "g") == ["created", "initializing", "running", "created"], 30)
        assert process.poll() is None
        assert store.holding("g").lease_node is None  # type: ignore[union-attr]


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
    flow_run_id = aggregator.store.prefect_states("a")[0]["run_id"]
    steps = {row["run_id"]: row["run_name"] for row in aggregator.store.prefect_states("a")}

    async def logged() -> Any:
        found = await prefect.read_logs(LogFilter(flow_run_id=LogFilterFlowRunId(any_=[flow_run_id])))
        ours = [log for log in found if log.name.startswith("o9.")]
        return ours if sum(log.name == "o9.objective" for log in ours) >= 3 else None

    ours = await async_wait_until(logged, 60)
    [begun] = [log for log in ours if log.name == "o9.tasks.steps"]
    assert begun.message == "attempt 1 of a test: from step 0 of 3"
    assert steps[str(begun.task_run_id)].startswith("prepare")
    printed = [(log.message, steps[str(log.task_run_id)]) for log in ours if log.name == "o9.objective"]
    values = [trial.parameters["x"] for trial in aggregator.store.trials("a")]
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
