"""A flow that Prefect started waits for its turn in its own process, while an aggregator hears what Prefect says."""

from __future__ import annotations

import json
from pathlib import Path

import control_chaos
import o9_testing
import pytest
from control_chaos import assert_whole, plan, wait_for

from o9.store import queries

pytestmark = pytest.mark.slow
STRAIGHT = ["created", "initializing", "running", "completed"]


@pytest.mark.parametrize(
    "dies",
    [pytest.param(False, id="it waits", marks=pytest.mark.long), pytest.param(True, id="it dies while it waits")],
)
def test_what_waits_for_its_turn_is_not_at_work(tmp_path: Path, dies: bool) -> None:
    """That its flow run is Running in Prefect says nothing of the optimization, which nobody holds."""
    o9_testing.session_server()
    seconds = {
        "o9.flows.admission.LOOK_SECONDS": 0.1,
        # A dead one is called in vain for so long.
        "o9.flows.hand_over.CALLED_SECONDS": 1.0 if dies else 60.0,
    }
    with control_chaos.floor(tmp_path / "floor", limit=1, CHAOS_SET=json.dumps(seconds)) as floor:
        store = floor.store
        floor.probe()
        floor.hold()
        worker = floor.aggregator()
        floor.submit(plan("first", "gated", 2))
        floor.wait_running("first")
        floor.submit(plan("second", "quick", 3), hold=True)
        with control_chaos.Watcher(floor) as watcher:
            flow = floor.flow("second")
            wait_for(lambda: store.read(queries.holding, "second").suspended_run_id)
            wait_for(lambda: "Running" in [row["state_name"] for row in store.read(queries.prefect_states, "second")])
            assert flow.poll() is None, floor.log()
            assert floor.state("second").status == "created"
            if dies:
                floor.kill(flow, "flow")
            floor.let_all_go()
            floor.wait_ended()
        assert watcher.bare == set()
        assert o9_testing.path_of(store, "second") == STRAIGHT
        assert_whole(store, "second", 3)
        control_chaos.assert_leases(floor, 1)
        if not dies:
            assert "Completed" in flow.communicate(timeout=60)[0]
            states = store.read(queries.prefect_states, "second")
            assert {row["run_id"] for row in states if row["run_kind"] == "flow"} == {
                store.read(queries.holding, "second").prefect_run_id
            }, "another run than the one that waited"  # fmt: skip
        floor.stop(worker)
