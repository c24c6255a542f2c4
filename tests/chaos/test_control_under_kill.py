"""Many optimizations on two aggregators that are killed, and kills wherever an optimization is at work.

`python benchmarks/chaos.py` runs the long forms.
"""

from __future__ import annotations

from pathlib import Path

import control_scenarios
import pytest


@pytest.mark.parametrize(
    ("count", "kills"),
    [
        pytest.param(40, 3, id="forty"),
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
    "count",
    [pytest.param(9, id="nine"), pytest.param(40, id="forty", marks=pytest.mark.long)],
)
def test_kill_9_of_aggregators_evaluations_and_flows(tmp_path: Path, chaos_seed: int, count: int) -> None:
    figures = control_scenarios.kills(tmp_path / "floor", count=count, seed=chaos_seed)
    print(figures)
    assert set(figures["kills"]) == {"aggregator", "child", "flow"}
