"""Many optimizations on two aggregators that are killed, and kills wherever an optimization is at work: each ledger is
the one of a run that nobody disturbed.

`python benchmarks/chaos.py` runs the long forms.
"""

from __future__ import annotations

from pathlib import Path

import control_chaos
import control_scenarios
import o9_testing
import pytest
from control_chaos import KINDS, assert_whole, evaluations_of, has_ended, kill_alive, plan_of, wait_for

from o9.store import queries

pytestmark = pytest.mark.slow


@pytest.mark.parametrize(
    ("count", "kills"),
    [
        pytest.param(10, 2, id="ten", marks=pytest.mark.long),  # `test_control_on_postgres.py` has it with five
        pytest.param(120, 8, id="more of them", marks=pytest.mark.long),
    ],
)
def test_never_more_than_the_limit_and_in_the_order_of_the_queue(
    tmp_path: Path, chaos_seed: int, count: int, kills: int
) -> None:
    figures = control_scenarios.many(tmp_path / "floor", count=count, kills=kills, seed=chaos_seed)
    print(figures)
    assert figures["most leases"] == 5, "the limit was never reached, so nothing was shown"


@pytest.mark.parametrize(
    ("count", "steps"),
    [pytest.param(3, 10, id="three"), pytest.param(40, 20, id="forty", marks=pytest.mark.long)],
)
def test_kill_9_of_aggregators_evaluations_and_flows(tmp_path: Path, chaos_seed: int, count: int, steps: int) -> None:
    figures = control_scenarios.kills(tmp_path / "floor", count=count, steps=steps, seed=chaos_seed)
    print(figures)
    assert set(figures["kills"]) == {"aggregator", "child", "flow"}


def test_an_evaluation_that_is_killed_is_made_once_more(tmp_path: Path) -> None:
    """Somebody's kill, or a want of memory, is no fact about a strategy, and costs no life."""
    o9_testing.session_server()
    steps, kinds = 4, [kind for kind in KINDS if kind[1] == "sync"]
    with control_chaos.floor(tmp_path / "floor", limit=2) as floor:
        worker = floor.aggregator()
        floor.hold()
        names = [floor.submit(plan_of(kind, kind[0], steps, gated=True)) for kind in kinds]
        for name, (_, _, trials) in zip(names, kinds, strict=True):
            floor.let_go(name, trials)
            floor.wait_at_gate(name, worker, steps=1)
        victims = evaluations_of(worker)
        at_the_gate = [one.pid for one in victims if any(floor.folder.glob(f"gate-*-{one.pid}"))]
        assert len(at_the_gate) >= 2 * len(names), "each evaluates in a process that has a guardian"
        for victim in victims:
            kill_alive(victim)
        wait_for(lambda: all(has_ended(victim) for victim in victims))
        floor.let_all_go()
        floor.wait_ended()
        for name in names:
            assert_whole(floor.store, name)
            assert floor.ledger(name) == floor.undisturbed(name)
            holding = floor.store.read(queries.holding, name)
            assert holding is not None
            assert (holding.deaths, holding.attempt) == (0, 1)
        floor.stop(worker)
