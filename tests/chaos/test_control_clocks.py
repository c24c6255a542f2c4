"""A node's clock jumps an hour, either way: nothing is stuck, cut off, or taken from anybody who lives.

What goes by which clock: leases by the database's; a timeout by the process's monotonic one, while an attempt runs;
the order of the queue by the clock of whoever queued it, because that is what the record says of when that was.
"""

from __future__ import annotations

import signal
from collections.abc import Iterator
from datetime import datetime
from pathlib import Path

import control_chaos
import o9_testing
import pytest
from control_chaos import Floor, assert_whole, node_of, plan, wait_for

from o9.model.optimization import utc_now
from o9.model.states import OptimizationStatus
from o9.store import queries
from o9.store.optimizations.transitions import Cause, Transition
from o9.store.queue.claims import Claim

pytestmark = [pytest.mark.slow, pytest.mark.xdist_group("clocks")]
HOUR = 3600.0
STRAIGHT = ["created", "initializing", "running", "completed"]


class Clocks:
    """A floor with an aggregator whose clock jumps, and Prefect's with it where that is said."""

    def __init__(self, floor: Floor, shift: Path) -> None:
        self.floor = floor
        self._shift = shift

    def jump(self, seconds: float, *, prefect: bool = False) -> None:
        for name, by in (("shift", seconds), ("shift-prefect", seconds if prefect else 0.0)):
            new = self._shift.with_name("new")
            new.write_text(str(by))
            new.replace(self._shift.with_name(name))  # it is read all the time


@pytest.fixture(scope="module")
def one_aggregator(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Clocks]:
    o9_testing.session_server()
    folder = tmp_path_factory.mktemp("clocks")
    shift = folder / "shift"
    with control_chaos.floor(folder / "floor", limit=4, CHAOS_SHIFT=str(shift)) as floor:
        made = Clocks(floor, shift)
        made.jump(0.0)
        worker = floor.aggregator()
        floor.wait_ready(worker)
        yield made
        floor.stop(worker)


@pytest.fixture
def clocks(one_aggregator: Clocks) -> Iterator[Clocks]:
    """The clocks are right, and gated objectives held up, when a test begins."""
    one_aggregator.jump(0.0)
    one_aggregator.floor.hold()
    yield one_aggregator
    one_aggregator.floor.let_all_go()
    one_aggregator.floor.wait_ended()


def is_off(at: str, by: float) -> bool:
    """Whether a moment of the last minutes was written by a clock that is wrong by so many seconds."""
    return abs((datetime.fromisoformat(at) - utc_now()).total_seconds() - by) < 300.0


@pytest.mark.long  # `test_heartbeat.py` sets clocks as well
@pytest.mark.parametrize("jump", [HOUR, -HOUR], ids=["an hour ahead", "an hour back"])
def test_a_jump_in_the_middle_cuts_nothing_off(clocks: Clocks, jump: float) -> None:
    floor, steps_of = clocks.floor, {f"async {jump}": 4, f"sync {jump}": 4}
    for (name, steps), objective in zip(steps_of.items(), ("gated", "gated_sync"), strict=True):
        floor.submit(plan(name, objective, steps, timeout_seconds=300))
        floor.let_go(name, 2)
    for name in steps_of:
        wait_for(lambda name=name: floor.state(name).completed_steps == 2)  # type: ignore[misc]
    clocks.jump(jump)
    later = floor.submit(plan(f"later {jump}", "gated", 2, timeout_seconds=300))
    floor.wait_running(later)
    floor.let_all_go()
    floor.wait_ended()
    floor.hold()
    for name, steps in (steps_of | {later: 2}).items():
        assert o9_testing.path_of(floor.store, name) == STRAIGHT
        assert_whole(floor.store, name, steps)
        assert floor.store.read(queries.holding, name).deaths == 0
        assert floor.state(name).execution_time >= 0
        assert is_off(floor.store.read(queries.transitions, name)[-1]["at"], jump), "its clock did not jump"


@pytest.mark.long
def test_a_timeout_is_still_one_when_the_clock_goes_back(clocks: Clocks) -> None:
    floor = clocks.floor
    floor.submit(plan("out of time", "gated", 4, timeout_seconds=2))
    floor.wait_running("out of time")
    clocks.jump(-HOUR)
    floor.wait_ended(["out of time"])
    assert floor.state("out of time").status == "timeout"
    assert is_off(floor.store.read(queries.transitions, "out of time")[-1]["at"], -HOUR), "its clock did not jump"


@pytest.mark.long
@pytest.mark.parametrize("jump", [HOUR, -HOUR], ids=["an hour ahead", "an hour back"])
def test_prefects_clock_jumps_as_well(clocks: Clocks, jump: float) -> None:
    """Its last state seems older than those before: the end that the run's own node saw counts all the same."""
    floor, name = clocks.floor, f"prefect {jump}"
    floor.submit(plan(name, "gated", 4))
    floor.wait_running(name)
    clocks.jump(jump, prefect=True)
    floor.let_go(name, 4)
    floor.wait_ended([name])
    assert o9_testing.path_of(floor.store, name) == STRAIGHT
    assert floor.store.read(queries.holding, name).deaths == 0
    assert_whole(floor.store, name, 4)
    states = [row for row in floor.store.read(queries.prefect_states, name) if row["run_kind"] == "flow"]
    by_name = {row["state_name"]: row["at"] for row in states}
    assert is_off(by_name["Running"], 0.0)
    assert is_off(by_name["Completed"], jump), "Prefect's clock did not jump"


@pytest.mark.long  # `test_heartbeat.py` sets clocks as well
@pytest.mark.parametrize("jump", [HOUR, -HOUR], ids=["an hour ahead", "an hour behind"])
def test_leases_do_not_care(tmp_path: Path, jump: float) -> None:
    """Two nodes whose clocks differ by an hour take nothing from each other, until one is dead."""
    o9_testing.session_server()
    shift = tmp_path / "shift"
    shift.write_text(str(jump))
    with control_chaos.floor(tmp_path / "floor", limit=2) as floor:
        store = floor.store
        floor.hold()
        wrong = floor.aggregator(CHAOS_SHIFT=str(shift))
        floor.wait_ready(wrong)
        floor.submit(plan("a", "gated", 3))
        floor.wait_running("a")
        right = floor.aggregator()
        floor.wait_ready(right)
        control_chaos.freeze(wrong, floor.url)  # for a moment, so that the other one takes what comes next
        floor.submit(plan("b", "gated", 3))
        floor.wait_running("b")
        wrong.send_signal(signal.SIGCONT)
        swept_by: set[str] = set()
        ghost = floor.submit(plan("ghost", "quick", 1), hold=True)
        floor.release(ghost)
        while swept_by != {node_of(wrong), node_of(right)}:
            swept_by.add(swept_from_a_ghost(floor, ghost))
        assert {name: store.read(queries.holding, name).lease_node for name in "ab"} == {
            "a": node_of(wrong), "b": node_of(right),
        }, "it was taken from a node that lived"  # fmt: skip
        assert is_off(store.read(queries.transitions, "a")[-1]["at"], jump), "its clock was right"
        floor.kill(wrong)
        floor.let_all_go()
        floor.wait_ended()
        for name in "ab":
            assert_whole(store, name, 3)
            assert floor.state(name).status == "completed"
        assert store.read(queries.holding, "b").deaths == 0
        floor.stop(right)


def swept_from_a_ghost(floor: Floor, optimization_id: str) -> str:
    """By which node; the ghost holds it, begins it, and is heard of no more. There must be no room for it."""
    claimed = floor.store.write(Claim("ghost", 100, HOUR, optimization_id))
    assert claimed is not None
    for status in (OptimizationStatus.INITIALIZING, OptimizationStatus.RUNNING):
        floor.store.write(Transition(optimization_id, status, Cause.HOOK, node="ghost", fence=claimed.fence))
    floor.let_leases_run_out("ghost")
    wait_for(lambda: floor.state(optimization_id).status == "created", what="a sweep")
    return str(floor.store.read(queries.transitions, optimization_id)[-1]["node"])


@pytest.mark.long  # the store's contract has the queue's order as well
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
        floor.wait_ended()
        taken = floor.rows("SELECT optimization_id FROM chaos_lease WHERE did = 'taken' ORDER BY id")
        assert [name for (name,) in taken] == ["low, an hour behind", "critical", "low", "critical, an hour ahead"]
        control_chaos.assert_order(floor)
        floor.stop(worker)
