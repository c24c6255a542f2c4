"""The same flow, started by Prefect itself: nobody else holds its lease, or tells it of a cancellation."""

from __future__ import annotations

import asyncio
import os
import subprocess
import textwrap
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import o9_testing
import pytest
import zygote
from contract_steps import sweep
from o9_testing import LINE, new, path_of
from prefect.flows import Flow, load_flow_from_entrypoint
from worker_pool import DESK

from o9.flows.lifecycle import optimization_lifecycle
from o9.model.states import Intent
from o9.store import queries
from o9.store.optimizations.intents import SetIntent
from o9.store.store import Store

STRAIGHT = ["created", "initializing", "running", "completed"]


def test_prefect_finds_the_flow_by_its_module() -> None:
    found: Flow[Any, Any] = load_flow_from_entrypoint("o9.flows.lifecycle:optimization_lifecycle")
    assert found is optimization_lifecycle


@pytest.fixture
def desk(tmp_path: Path, store_url: str) -> Iterator[Callable[..., zygote.Process]]:
    """Starts processes that call the flow as Prefect would; they share this test's store and Prefect's server."""
    (tmp_path / "desk.py").write_text(DESK)
    with o9_testing.no_process_left() as environment:
        environment |= {
            **o9_testing.prefect_environment(),
            "O9_STORE_URL": store_url,
            "O9_ALLOWED_IMPORTS": "desk",
            "O9_LEASE_SECONDS": "1",
            "PYTHONPATH": os.pathsep.join([str(tmp_path), *filter(None, [os.environ.get("PYTHONPATH")])]),
        }
        started: list[zygote.Process] = []

        def start(call: str, **more: str) -> zygote.Process:
            source = f"""
            import asyncio, os
            from o9.flows.lifecycle import optimization_lifecycle

            async def main():
                running = asyncio.ensure_future(optimization_lifecycle({call}, return_state=True))
                if "CUT_OFF_AND_STAY" in os.environ:
                    while not os.path.exists("hangs"):
                        await asyncio.sleep(0.05)
                    running.cancel()
                    await asyncio.wait({{running}})
                    await asyncio.sleep(3600)
                state = await running
                print(state.name, state.message)

            asyncio.run(main())
            """
            started.append(
                zygote.start(
                    ["-c", textwrap.dedent(source)],
                    env=environment | more, cwd=tmp_path, stdout=subprocess.PIPE, stderr=subprocess.PIPE,
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
    desk: Callable[..., zygote.Process], store_url: str, wait_until: Callable[..., Any]
) -> None:
    process = desk(f"spec={spec('a', 'slow', 6)!r}")
    with Store(store_url) as store:
        wait_until(lambda: (state := store.read(queries.get, "a")) and state.completed_steps, 60)
        # Somebody looks for leases that ran out, all the time; this one's would within a second.
        wait_until(lambda: sweep(store, "somebody") or process.poll() is not None, 60)
        out, error = process.communicate(timeout=30)
        assert process.returncode == 0, error
        assert out.startswith("Completed")
        assert store.read(queries.get, "a").status.value == "completed"
        rows = store.read(queries.transitions, "a")
        assert path_of(store, "a") == STRAIGHT
        assert [row["cause"] for row in rows] == ["submission", "reconciler", "reconciler", "hook"]
        flow_states = [
            row["state_name"] for row in store.read(queries.prefect_states, "a") if row["run_kind"] == "flow"
        ]
        assert flow_states == ["Pending", "Running", "Completed"]
        assert store.read(queries.nodes) == [], "it takes its leave when its process ends"


def test_a_submitted_one_by_its_id(desk: Callable[..., zygote.Process], store_url: str) -> None:
    from o9.lifecycle.submission import submit

    with Store(store_url) as store:
        asyncio.run(submit(store, new("b", objective="branin", total_steps=2, seed=1)))
        process = desk("optimization_id='b'")
        out, error = process.communicate(timeout=60)
        assert out.startswith("Completed"), error
        assert path_of(store, "b") == STRAIGHT
        assert len(store.read(queries.trials, "b")) == 8

        # It has ended: a second run says so, as what it ended, and does nothing.
        out, _ = desk("optimization_id='b'").communicate(timeout=60)
        assert out.startswith("Completed it has ended")
        assert path_of(store, "b") == STRAIGHT
        assert len(store.read(queries.trials, "b")) == 8


def test_a_parameter_may_not_name_any_module(desk: Callable[..., zygote.Process], store_url: str) -> None:
    out, _ = desk(f"spec={spec('c', 'quick', 2)!r}", O9_ALLOWED_IMPORTS="elsewhere").communicate(timeout=60)
    assert out.startswith("Failed")
    assert "metadata.objective" in out
    assert "O9_ALLOWED_IMPORTS" in out
    with Store(store_url) as store:
        assert store.read(queries.get, "c") is None


def test_a_parameter_reaches_nothing_that_an_allowed_module_merely_imports(
    desk: Callable[..., zygote.Process], store_url: str, tmp_path: Path
) -> None:
    parameter = o9_testing.shell_command("desk", tmp_path, through="asyncio.subprocess.subprocess")
    out, _ = desk(f"spec={parameter!r}").communicate(timeout=60)
    assert not (tmp_path / "left").exists()
    assert out.startswith("Failed")
    assert "metadata.objective" in out
    with Store(store_url) as store:
        assert store.read(queries.get, "a") is None


def test_one_that_prefect_started_hears_of_a_cancellation(
    desk: Callable[..., zygote.Process], store_url: str, wait_until: Callable[..., Any]
) -> None:
    process = desk(f"spec={spec('d', 'endless', 2)!r}")
    with Store(store_url) as store:
        wait_until(lambda: (state := store.read(queries.get, "d")) and state.status.value == "running", 60)
        store.write(SetIntent("d", Intent.CANCEL, "ann"))
        out, error = process.communicate(timeout=30)
        assert out.startswith("Cancelled"), error
        assert path_of(store, "d") == ["created", "initializing", "running", "cancelled"]


def test_its_failures_are_failures(desk: Callable[..., zygote.Process], store_url: str) -> None:
    out, _ = desk(f"spec={spec('e', 'broken', 2)!r}").communicate(timeout=60)
    late, _ = desk(f"spec={spec('f', 'endless', 2, timeout_seconds=0.5)!r}").communicate(timeout=60)
    assert out.startswith("Failed")
    assert late.startswith("TimedOut")
    with Store(store_url) as store:
        state = store.read(queries.get, "e")
        assert state is not None
        assert state.status.value == "failed"
        assert "the exchange was closed" in state.issues[0]
        assert store.read(queries.get, "f").status.value == "timeout"


def test_one_that_crashes_in_a_process_that_lives_on_is_queued_again(
    desk: Callable[..., zygote.Process], store_url: str, wait_until: Callable[..., Any]
) -> None:
    process = desk(f"spec={spec('g', 'endless', 2)!r}", CUT_OFF_AND_STAY="1")
    with Store(store_url) as store:
        wait_until(lambda: path_of(store, "g") == ["created", "initializing", "running", "created"], 60)
        assert process.poll() is None
        assert store.read(queries.holding, "g").lease_node is None
