"""A flow that Prefect started waits for its turn in its own process, while an aggregator hears what Prefect says."""

from __future__ import annotations

import time
from pathlib import Path

import control_chaos
import o9_testing
import pytest
from control_chaos import assert_whole, plan, wait_for

STRAIGHT = ["created", "initializing", "running", "completed"]


@pytest.mark.parametrize("dies", [False, True], ids=["it waits", "it dies while it waits"])
def test_what_waits_for_its_turn_is_not_at_work(tmp_path: Path, dies: bool) -> None:
    """That its flow run is Running in Prefect says nothing of the optimization, which nobody holds."""
    o9_testing.session_server()
    with control_chaos.floor(tmp_path / "floor", limit=1) as floor:
        store = floor.store
        floor.probe()
        (floor.folder / "hold").touch()
        worker = floor.aggregator()
        floor.wait_ready(worker)
        floor.submit(plan("first", "gated", 2))
        wait_for(lambda: store.get("first").status.value == "running")
        floor.submit(plan("second", "quick", 3), hold=True)
        with control_chaos.Watcher(floor) as watcher:
            flow = floor.flow("second")
            wait_for(lambda: store.holding("second").parked_run_id)
            wait_for(lambda: "Running" in [row["state_name"] for row in store.prefect_states("second")])
            time.sleep(2.0)  # it looks for its turn every second
            assert flow.poll() is None, floor.log()
            assert store.get("second").status.value == "created"
            if dies:
                floor.kill(flow, "flow")
            (floor.folder / "hold").unlink()
            floor.wait_ended(seconds=90)
        assert watcher.bare == set()
        assert o9_testing.path_of(store, "second") == STRAIGHT
        assert_whole(store, "second", 3)
        control_chaos.assert_leases(floor, 1)
        if not dies:
            assert "Completed" in flow.communicate(timeout=30)[0]
        floor.stop(worker)
