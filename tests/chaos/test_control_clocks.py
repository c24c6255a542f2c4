"""A node's clock jumps an hour, either way: nothing is stuck, cut off, or taken from anybody who lives.

What goes by which clock: leases by the database's; a timeout by the process's monotonic one, while an attempt runs;
the order of the queue by the clock of whoever queued it, because that is what the record says of when that was.
"""

from __future__ import annotations

import signal
import time
from pathlib import Path

import control_chaos
import o9_testing
import pytest
from control_chaos import assert_whole, node_of, plan, wait_for

HOUR = 3600.0
STRAIGHT = ["created", "initializing", "running", "completed"]


@pytest.mark.parametrize("jump", [HOUR, -HOUR], ids=["an hour ahead", "an hour back"])
def test_a_jump_in_the_middle_cuts_nothing_off(tmp_path: Path, jump: float) -> None:
    o9_testing.session_server()
    shift = tmp_path / "shift"
    shift.write_text("0")
    with control_chaos.floor(tmp_path / "floor", limit=4, CHAOS_SHIFT=str(shift)) as floor:
        store = floor.store
        worker = floor.aggregator()
        floor.wait_ready(worker)
        for name, objective in (("b", "gated_sync"), ("a", "gated")):  # whose process has to start first
            floor.submit(plan(name, objective, 40, timeout_seconds=120))
            wait_for(lambda name=name: store.get(name).completed_steps >= 2)  # type: ignore[misc]
        (floor.folder / "hold").touch()
        shift.write_text(str(jump))
        floor.submit(plan("c", "gated", 2, timeout_seconds=120))
        wait_for(lambda: store.get("c").status.value == "running")
        (floor.folder / "hold").unlink()
        floor.wait_ended(seconds=60)
        for name, steps in (("a", 40), ("b", 40), ("c", 2)):
            assert o9_testing.path_of(store, name) == STRAIGHT
            assert_whole(store, name, steps)
            assert store.holding(name).deaths == 0
            assert store.get(name).execution_time >= 0
        floor.stop(worker)


def test_a_timeout_is_still_one_when_the_clock_goes_back(tmp_path: Path) -> None:
    o9_testing.session_server()
    shift = tmp_path / "shift"
    shift.write_text("0")
    with control_chaos.floor(tmp_path / "floor", limit=4, CHAOS_SHIFT=str(shift)) as floor:
        worker = floor.aggregator()
        floor.wait_ready(worker)
        floor.submit(plan("a", "quick", 5000, timeout_seconds=3))
        wait_for(lambda: floor.store.get("a").completed_steps > 2)
        shift.write_text(str(-HOUR))
        floor.wait_ended(seconds=20)
        assert floor.store.get("a").status.value == "timeout"
        floor.stop(worker)


@pytest.mark.parametrize("jump", [HOUR, -HOUR], ids=["an hour ahead", "an hour behind"])
def test_leases_do_not_care(tmp_path: Path, jump: float) -> None:
    """Two nodes whose clocks differ by an hour take nothing from each other, until one is dead."""
    o9_testing.session_server()
    shift = tmp_path / "shift"
    shift.write_text(str(jump))
    with control_chaos.floor(tmp_path / "floor", limit=2, O9_LEASE_SECONDS="2") as floor:
        store = floor.store
        (floor.folder / "hold").touch()
        wrong = floor.aggregator(CHAOS_SHIFT=str(shift))
        floor.wait_ready(wrong)
        floor.submit(plan("a", "gated", 3))
        wait_for(lambda: store.get("a").status.value == "running")
        right = floor.aggregator()
        floor.wait_ready(right)
        control_chaos.freeze(wrong, floor.url)  # for a moment, so that the other one takes what comes next
        floor.submit(plan("b", "gated", 3))
        wait_for(lambda: store.get("b").status.value == "running")
        wrong.send_signal(signal.SIGCONT)
        until = time.monotonic() + 5.0  # two leases and more
        while time.monotonic() < until:
            holders = {name: store.holding(name).lease_node for name in "ab"}
            assert holders["b"] == node_of(right)
            time.sleep(0.05)
        held_by_wrong = holders["a"] == node_of(wrong)
        floor.kill(wrong)
        (floor.folder / "hold").unlink()
        floor.wait_ended(seconds=60)
        for name in "ab":
            assert_whole(store, name, 3)
            assert store.get(name).status.value == "completed"
        assert held_by_wrong, "it was taken from a node that lived"
        assert store.holding("b").deaths == 0
        floor.stop(right)


def test_the_queue_goes_by_the_clock_of_whoever_queued_it(tmp_path: Path) -> None:
    """An hour is six levels of priority: from a clock ahead, the most urgent waits behind all; from one behind, it is
    the other way round. Neither waits for longer than until the others have begun."""
    o9_testing.session_server()
    with control_chaos.floor(tmp_path / "floor", limit=1) as floor:
        floor.probe()
        with control_chaos.submitted_ago(-HOUR):
            floor.submit(plan("critical, an hour ahead", "quick", 1, priority=4))
        floor.submit(plan("critical", "quick", 1, priority=4))
        floor.submit(plan("low", "quick", 1, priority=1))
        with control_chaos.submitted_ago(HOUR):
            floor.submit(plan("low, an hour behind", "quick", 1, priority=1))
        worker = floor.aggregator()
        floor.wait_ready(worker)
        floor.wait_ended(seconds=60)
        taken = floor.rows("SELECT optimization_id FROM chaos_lease WHERE did = 'taken' ORDER BY id")
        assert [name for (name,) in taken] == ["low, an hour behind", "critical", "low", "critical, an hour ahead"]
        control_chaos.assert_order(floor)
        floor.stop(worker)


@pytest.mark.parametrize("jump", [HOUR, -HOUR], ids=["an hour ahead", "an hour back"])
def test_prefects_clock_jumps_as_well(tmp_path: Path, jump: float) -> None:
    """Its last state seems older than those before: the end that the run's own node saw counts all the same."""
    o9_testing.session_server()
    shift = tmp_path / "shift"
    shift.write_text("0")
    with control_chaos.floor(tmp_path / "floor", limit=4, CHAOS_SHIFT=str(shift), CHAOS_SHIFT_PREFECT="1") as floor:
        worker = floor.aggregator()
        floor.wait_ready(worker)
        (floor.folder / "hold").touch()
        floor.submit(plan("a", "gated", 4))
        wait_for(lambda: floor.store.get("a").status.value == "running")
        shift.write_text(str(jump))
        (floor.folder / "hold").unlink()
        floor.wait_ended(seconds=60)
        assert o9_testing.path_of(floor.store, "a") == STRAIGHT
        assert floor.store.holding("a").deaths == 0
        assert_whole(floor.store, "a", 4)
        floor.stop(worker)
