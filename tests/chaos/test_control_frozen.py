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
import pytest
from control_chaos import Floor, assert_whole, node_of, plan, wait_for

from o9.mirror.interpretation import REPLACED
from o9.store import queries

pytestmark = pytest.mark.slow
STEPS = 4
NAMES = {"sync": "gated_sync", "async": "gated"}


def record(floor: Floor, name: str) -> dict[str, Any]:
    """All that an attempt may write, and nobody may once it was replaced."""
    state = floor.state(name)
    return {
        "trials": floor.ledger(name),
        "metrics": floor.store.read(queries.metrics, name),
        "checkpoint": floor.store.read(queries.checkpoint, name),
        "transitions": [tuple(row.values()) for row in floor.store.read(queries.transitions, name)],
        "state": (state.status, state.completed_steps, state.results, state.issues, state.optimized_parameters),
        "holding": floor.store.read(queries.holding, name),
    }


def test_the_old_attempt_writes_nothing_when_it_wakes(tmp_path: Path) -> None:
    o9_testing.session_server()
    with control_chaos.floor(tmp_path / "floor", limit=4) as floor:
        store = floor.store
        sleeper = floor.aggregator()
        floor.hold()
        for (name, objective), sampler in zip(NAMES.items(), ("tpe", "cmaes"), strict=True):
            floor.submit(plan(name, objective, STEPS, sampler=sampler))
            floor.let_go(name, 2)
        for name in NAMES:
            floor.wait_at_gate(name, sleeper, steps=2)
        control_chaos.freeze(sleeper, floor.url)
        floor.let_leases_run_out(node_of(sleeper))

        other = floor.aggregator()
        # It has the lease, and evaluates the step in which the sleeper was stopped.
        for name in NAMES:
            floor.wait_at_gate(name, other, steps=2)
        before = {name: record(floor, name) for name in NAMES}
        assert [before[name]["holding"].lease_node for name in NAMES] == [node_of(other)] * 2
        floor.let_process_go(sleeper)
        sleeper.send_signal(signal.SIGCONT)

        def has_tried(name: str) -> bool:
            return end_of_first_attempt(floor, name) == REPLACED or record(floor, name) != before[name]

        wait_for(lambda: all(has_tried(name) for name in NAMES), what="its attempt to write")
        assert {name: record(floor, name) for name in NAMES} == before

        floor.let_all_go()
        floor.wait_ended(list(NAMES))
        for name in NAMES:
            assert_whole(store, name, STEPS)
            assert floor.ledger(name) == floor.undisturbed(name)
            since = store.read(queries.transitions, name)[len(before[name]["transitions"]) :]
            assert [row["to_status"] for row in since] == ["completed"]
            # Any node may be the first to hear from Prefect that it has completed.
            assert since[0]["node"] == node_of(other) or since[0]["cause"] in ("event", "reconciler")
            assert {trial.attempt for trial in store.read(queries.trials, name)} == {1, 2}

        # It lives on, runs what comes next, and ends in good order.
        floor.stop(other)
        floor.submit(plan("next", "quick", 1))
        floor.wait_ended(["next"])
        assert store.read(queries.transitions, "next")[-1]["node"] == node_of(sleeper)
        floor.stop(sleeper)
        assert store.read(queries.nodes) == []


def end_of_first_attempt(floor: Floor, name: str) -> str:
    """Under which name the record has the last state of the first attempt's flow run."""
    rows = [
        row
        for row in floor.store.read(queries.prefect_states, name)
        if row["run_kind"] == "flow" and row["attempt"] == 1
    ]
    return str(rows[-1]["state_name"])
