"""A process is stopped for longer than its lease, another goes on in its place, and then it wakes.

The fence is all that can hold it: both attempts evaluate the very same step, and the old one is the first to be done
with it. So nothing but its fence says that it may not commit it.
"""

from __future__ import annotations

import signal
from pathlib import Path
from typing import Any

import control_chaos
import o9_testing
from control_chaos import assert_whole, node_of, plan, wait_for
from o9_testing import ledger

from o9.store.store import Store

STEPS = 40
NAMES = ("sync", "async")  # its process has to start first


def record(store: Store, name: str) -> dict[str, Any]:
    """All that an attempt may write, and nobody may once it was replaced."""
    state = store.get(name)
    assert state is not None
    return {
        "trials": ledger(store, name),
        "metrics": store.metrics(name),
        "checkpoint": store.checkpoint(name),
        "transitions": [tuple(row.values()) for row in store.transitions(name)],
        "state": (state.status, state.completed_steps, state.results, state.issues, state.optimized_parameters),
        "holding": store.holding(name),
    }


def test_the_old_attempt_writes_nothing_when_it_wakes(tmp_path: Path) -> None:
    o9_testing.session_server()
    with control_chaos.floor(tmp_path / "floor", limit=4, O9_LEASE_SECONDS="2") as floor:
        store, folder = floor.store, floor.folder
        sleeper = floor.aggregator()
        floor.wait_ready(sleeper)
        for name in NAMES:
            floor.submit(plan(name, "gated" if name == "async" else "gated_sync", STEPS, sampler="random"))
            wait_for(lambda name=name: store.get(name).completed_steps >= 2)  # type: ignore[misc]
        (folder / "hold").touch()
        wait_for_quiet(store)
        control_chaos.freeze(sleeper, floor.url)
        steps = {name: store.get(name).completed_steps for name in NAMES}
        assert all(0 < done < STEPS for done in steps.values())

        other = floor.aggregator()
        floor.wait_ready(other)
        # It has the lease, and evaluates the step in which the sleeper was stopped.
        wait_for(lambda: all(at_work_for(store, name, node_of(other)) for name in NAMES))
        wait_for_quiet(store)
        before = {name: record(store, name) for name in NAMES}
        (folder / f"go-{sleeper.pid}").touch()
        sleeper.send_signal(signal.SIGCONT)
        refused = "attempt 2 has taken the place of attempt 1"

        def has_tried(name: str) -> bool:
            return refused in end_of_run(store, name, attempt=1) or record(store, name) != before[name]

        wait_for(lambda: all(has_tried(name) for name in NAMES), what="its attempt to write")
        assert {name: record(store, name) for name in NAMES} == before
        assert all(steps[name] == before[name]["state"][1] for name in NAMES)

        (folder / "hold").unlink()
        floor.wait_ended(list(NAMES), 60)
        for name in NAMES:
            assert_whole(store, name, STEPS)
            since = store.transitions(name)[len(before[name]["transitions"]) :]
            assert [(row["to_status"], row["node"]) for row in since] == [("completed", node_of(other))]
            assert {trial.attempt for trial in store.trials(name)} == {1, 2}

        # It lives on, runs what comes next, and ends in good order.
        floor.stop(other)
        floor.submit(plan("next", "gated", 2))
        floor.wait_ended(["next"], 60)
        assert store.transitions("next")[-1]["node"] == node_of(sleeper)
        floor.stop(sleeper)
        assert store.nodes() == []


def at_work_for(store: Store, name: str, node: str) -> bool:
    holding = store.holding(name)
    return holding is not None and (holding.lease_node, holding.status, holding.attempt) == (node, "running", 2)


def end_of_run(store: Store, name: str, attempt: int) -> str:
    """What the record says of how the flow run of an attempt ended."""
    rows = [row for row in store.prefect_states(name) if row["run_kind"] == "flow" and row["attempt"] == attempt]
    return str(rows[-1]["message"]) if rows else ""


def wait_for_quiet(store: Store) -> None:
    """Until the steps in flight are at the gate: nothing is recorded any more."""
    last, since = -1, 0

    def is_quiet() -> bool:
        nonlocal last, since
        now = sum(len(store.prefect_states(name)) + len(store.trials(name)) for name in NAMES)
        since, last = (since + 1 if now == last else 0), now
        return since > 100  # a hundredth of a second each

    wait_for(is_quiet)
