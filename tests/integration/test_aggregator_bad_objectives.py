"""Objectives and strategies that misbehave: what becomes of their trials, of their optimization, of the rest."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

import psutil
import pytest
from child_objectives import misbehave, spin
from o9_testing import LINE, ended, new, reached, shell_command, until

from o9.store import queries
from o9.store.optimizations.transitions import Create
from o9.store.store import Store
from OptimizationStateAggregator import (
    OptimizationState,
    OptimizationStateAggregator,
    OptimizationStatus,
    objective,
    register_strategy,
)


@objective("unhurried", search_space=LINE)
async def unhurried(parameters: dict[str, float]) -> float:
    await asyncio.sleep(0.05)
    return parameters["x"]


@objective("hangs for ever", search_space=LINE)
async def stuck(parameters: dict[str, float]) -> float:
    await asyncio.sleep(3600)
    return 0.0


# What a record in the store may name


async def test_a_node_imports_nothing_from_the_store_that_the_operator_did_not_allow(
    open_aggregator: Callable[..., Awaitable[OptimizationStateAggregator]],
    store_url: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    set_o9: Callable[..., None],
) -> None:
    own = "import numpy as np\nclass Desk:\n    @staticmethod\n    def flat(parameters): return 1.0\n"
    (tmp_path / "desk_in_store.py").write_text(own)
    leave = f"import pathlib\npathlib.Path({str(tmp_path / 'left too')!r}).touch()\n"
    (tmp_path / "elsewhere_in_store.py").write_text(f"{leave}def flat(parameters): return 1.0\n")
    monkeypatch.syspath_prepend(str(tmp_path))
    set_o9(allowed_imports="desk_in_store")
    usual: dict[str, Any] = {"search_space": LINE, "direction": "maximize", "seed": 1, "total_steps": 1}
    command = shell_command("desk_in_store", tmp_path)
    with Store(store_url) as store:  # as somebody writes who asks no O9 on this machine
        for state in (
            new(**command),
            new("b", objective="elsewhere_in_store:flat", **usual),
            new("c", strategy="elsewhere_in_store:flat", total_steps=1),
            new("d", objective="desk_in_store:Desk.flat", **usual),
        ):
            store.write(Create(state))
    aggregator = await open_aggregator()
    for name, field in (("a", "metadata.objective"), ("b", "metadata.objective"), ("c", "metadata.strategy")):
        state = await ended(aggregator, name)
        assert state.status is OptimizationStatus.FAILED
        assert field in state.issues[-1]
    assert (await ended(aggregator, "d")).status is OptimizationStatus.COMPLETED
    assert [(tmp_path / name).exists() for name in ("left", "left too")] == [False, False]


# What an objective may do


SAYS = {
    "raise": "RuntimeError: the exchange was closed",
    "nan": "returned nan",
    "none": "returned None",
    "text": "returned '1.0' (str)",
    "complex": "(complex)",
    "exit": "sys.exit(3)",
    "die": "exit code 7",
}


async def test_each_bad_answer_fails_its_own_trial_only(aggregator: OptimizationStateAggregator) -> None:
    objective("misbehaves")(misbehave)
    space = {"how": {"type": "categorical", "choices": [*SAYS, "print", "well"]}}
    await aggregator.submit_optimization(new("a", objective="misbehaves", search_space=space, sampler="grid"))
    state = await ended(aggregator, "a")
    trials = {trial.parameters["how"]: trial for trial in aggregator.store.read(queries.trials, "a")}
    assert set(trials) == {*SAYS, "print", "well"}
    for how, says in SAYS.items():
        assert trials[how].state.value == "failed"
        assert trials[how].value is None
        assert says in (trials[how].error or "")
    assert trials["print"].value == trials["well"].value == 1.0
    assert state.status is OptimizationStatus.COMPLETED
    assert state.current_performance == 1.0


async def test_when_all_trials_fail_the_optimization_says_why(aggregator: OptimizationStateAggregator) -> None:
    objective("misbehaves")(misbehave)
    space = {"how": {"type": "categorical", "choices": ["raise"]}}
    await aggregator.submit_optimization(new("a", objective="misbehaves", search_space=space, total_steps=3))
    state = await ended(aggregator, "a")
    assert state.status is OptimizationStatus.FAILED
    [issue] = state.issues
    assert "none of the 3 trials succeeded" in issue
    assert "the exchange was closed" in issue
    assert state.results["trials"] == {"failed": 3}
    assert state.progress < 1.0 or state.completed_steps == 3


@pytest.mark.parametrize("kind", ["sync", "async"])
async def test_what_hangs_is_cut_off_when_its_time_is_up(aggregator: OptimizationStateAggregator, kind: str) -> None:
    objective("hangs", search_space=LINE)(spin)
    name = "hangs" if kind == "sync" else "hangs for ever"
    await aggregator.submit_optimization(new("a", objective=name, timeout_seconds=3, trials_per_step=2))
    state = await ended(aggregator, "a", seconds=20)
    assert state.status is OptimizationStatus.TIMEOUT
    assert "timeout_seconds" in state.issues[0]
    assert state.execution_time < 10
    assert [trial.state.value for trial in aggregator.store.read(queries.trials, "a")] == ["cancelled", "cancelled"]
    if kind == "sync":
        busy = [
            child for child in psutil.Process().children(recursive=True) if "worker.py" in " ".join(child.cmdline())
        ]
        assert not [child for child in busy if child.cpu_percent(0.2) > 50]


async def test_time_that_earlier_attempts_used_counts(aggregator: OptimizationStateAggregator) -> None:
    await aggregator.submit_optimization(new("a", objective="unhurried", timeout_seconds=6, total_steps=10_000))
    await until(aggregator, "a", lambda state: state.execution_time > 3)
    await aggregator.pause_optimization("a")
    used = (await reached(aggregator, "a", "paused")).execution_time
    await aggregator.resume_optimization("a")
    state = await ended(aggregator, "a", seconds=60)
    assert state.status is OptimizationStatus.TIMEOUT
    assert used > 3
    assert state.execution_time - used < 5, "the second attempt had only what the first one left"


async def test_a_strategy_that_breaks_fails_the_optimization(aggregator: OptimizationStateAggregator) -> None:
    async def breaks(optimization: OptimizationState) -> None:
        optimization.progress = 0.5
        raise KeyError("broker")

    async def nonsense(optimization: OptimizationState) -> None:
        optimization.progress = 7.0

    class NoResult:
        total_steps = 3

        def step(self, state: Any, step: int, checkpoint: Any) -> Any:
            return 42

    for name, strategy, says in [
        ("breaks", breaks, "KeyError: 'broker'"),
        ("nonsense", nonsense, "progress"),
        ("no-result", NoResult, "must return a StepResult, not int"),
    ]:
        register_strategy(name, strategy)
        await aggregator.submit_optimization(new(name, strategy=name))
        state = await ended(aggregator, name)
        assert state.status is OptimizationStatus.FAILED
        assert says in state.issues[0]


async def test_a_coroutine_is_paused_behind_what_it_assigned_last(aggregator: OptimizationStateAggregator) -> None:
    async def counts(optimization: OptimizationState) -> None:
        pause = 0.01 if optimization.completed_steps else 0.3
        for count in range(optimization.completed_steps, optimization.total_steps):
            await asyncio.sleep(pause)
            optimization.completed_steps = count + 1

    register_strategy("counts", counts)
    await aggregator.submit_optimization(new("a", strategy="counts", total_steps=40))
    await until(aggregator, "a", lambda state: state.completed_steps >= 2)
    await aggregator.pause_optimization("a")
    state = await reached(aggregator, "a", "paused", "completed")
    assert state.status is OptimizationStatus.PAUSED
    assert state.completed_steps < 40
    await aggregator.resume_optimization("a")
    state = await ended(aggregator, "a")
    assert (state.status, state.completed_steps) == (OptimizationStatus.COMPLETED, 40)
