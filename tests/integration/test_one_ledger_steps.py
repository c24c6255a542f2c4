"""Steps of the built-in strategy, and the checks of its submission."""

from __future__ import annotations

import json
from typing import Any

import pytest
from ledgers import GRID, SPACE, make_state, register_objective, run

from o9.model.errors import OptimizationStrategyError, OptimizationValidationError
from o9.model.states import TrialState
from o9.model.trial import Evaluation, Trial
from o9.strategies import registry
from o9.strategies.factory import create_strategy, settle
from o9.strategies.optuna_strategy import OptunaStrategy
from o9.strategies.registry import objective


@pytest.fixture(autouse=True)
def _objectives(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(registry._registered, "objective", {})
    monkeypatch.setitem(registry._registered, "strategy", {})
    register_objective()


async def test_a_grid_ends_where_it_is_exhausted() -> None:
    state = make_state(sampler="grid", trials_per_step=4, total_steps=100)
    attempt = create_strategy(state)
    assert isinstance(attempt, OptunaStrategy)
    attempt.open(state, [])
    results: list[Any] = []
    checkpoint = None
    while not results or not results[-1].done:
        results.append(await attempt.step(state, len(results), checkpoint))
        checkpoint = results[-1].checkpoint
    trials = [trial for result in results for trial in result.trials]
    assert len(trials) == 110
    assert len({json.dumps(trial.parameters) for trial in trials}) == 110
    assert [len(result.trials) for result in results][-2:] == [4, 2]
    assert (await attempt.step(state, len(results), checkpoint)).trials == []


async def test_trials_have_the_objectives_fields_and_their_family() -> None:
    @objective("rich", search_space=GRID, data="prices-v1")
    async def rich(parameters: dict[str, Any]) -> Evaluation:
        own = "prices-v2" if parameters["fast"] == 3 else None
        return Evaluation(parameters["base"], [0.1, 0.2], 252, {"turnover": 3.0}, own)

    async def families(**metadata: Any) -> list[Trial]:
        state = make_state(objective="rich", sampler="grid", parameters={"base": 7.0, "fast": -1}, **metadata)
        return (await run(state, range(2)))[0]

    first, second = await families()
    assert (first.value, first.returns, first.periods_per_year, first.metrics) == (
        7.0,
        (0.1, 0.2),
        252,
        {"turnover": 3},
    )
    assert first.parameters == {"band": 0.0, "fast": 2}, "the suggested ones; the optimization's own lie beneath"
    assert (first.family, second.family) == ("rich@prices-v1", "rich@prices-v2")
    assert {trial.family for trial in await families(family="mine")} == {"mine"}


async def test_a_cancelled_step_leaves_cancelled_trials() -> None:
    import asyncio

    reached = asyncio.Event()

    @objective("stuck", search_space=GRID, data="d")
    async def stuck(parameters: dict[str, Any]) -> float:
        reached.set()
        await asyncio.Event().wait()
        return 1.0

    state = make_state(objective="stuck", sampler="grid", trials_per_step=2)
    attempt = create_strategy(state)
    assert isinstance(attempt, OptunaStrategy)
    attempt.open(state, [])
    assert attempt.interrupted() == ()
    task = asyncio.ensure_future(attempt.step(state, 0, None))
    await reached.wait()
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    cut = attempt.interrupted()
    assert [(t.number, t.state, t.value, t.family) for t in cut] == [
        (number, TrialState.CANCELLED, None, "stuck@d") for number in (0, 1)
    ]
    assert all(trial.started_at is not None and trial.duration_seconds >= 0 for trial in cut)
    with pytest.raises(OptimizationStrategyError, match="another attempt"):
        await attempt.step(state, 0, None)
    await attempt.close()


# What is asked for


@pytest.mark.parametrize(
    ("metadata", "field", "said"),
    [
        ({"strategy": "optunna"}, "metadata.strategy", "did you mean optuna?"),
        ({"strategy": 3}, "metadata.strategy", "expected a name"),
        ({"objective": "unevn"}, "metadata.objective", "did you mean uneven?"),
        ({"objective": None}, "metadata.objective", "missing"),
        ({"objective": "a.b:c"}, "metadata.objective", "O9_ALLOWED_IMPORTS"),
        ({"search_space": None}, "metadata.search_space", "declares none"),
        ({"search_space": {}}, "metadata.search_space", "empty"),
        ({"direction": "maximise"}, "metadata.direction", "did you mean maximize?"),
        ({"direction": None}, "metadata.direction", "not one of maximize, minimize"),
        ({"sampler": "tpee"}, "metadata.sampler", "did you mean tpe?"),
        ({"sampler": ["tpe"]}, "metadata.sampler", "not one of"),
        ({"sampler": "grid", "search_space": SPACE}, "metadata.search_space.stop.step", "grid sampler needs a step"),
        ({"sampler": "cmaes", "search_space": {"side": SPACE["side"]}}, "metadata.sampler", "categorical"),
        ({"sampler": "cmaes", "search_space": SPACE}, "metadata.sampler", "side is categorical"),
        ({"sampler": "cmaes", "search_space": {"x": SPACE["x"]}}, "metadata.sampler", "two parameters"),
        (
            {"sampler": "cmaes", "search_space": {"x": SPACE["x"], "y": {"type": "int", "low": 3, "high": 3}}},
            "metadata.sampler",
            "two parameters",
        ),
        ({"seed": -1}, "metadata.seed", "-1"),
        ({"seed": True}, "metadata.seed", "true"),
        ({"seed": "7"}, "metadata.seed", "got '7'"),
        ({"seed": 2**63}, "metadata.seed", str(2**63)),
        ({"trials_per_step": 0}, "metadata.trials_per_step", "at least 1"),
        ({"trials_per_step": 1.5}, "metadata.trials_per_step", "got 1.5"),
        ({"family": " "}, "metadata.family", "it is empty"),
        (
            {"sampler": "grid", "search_space": {"n": {"type": "int", "low": 1, "high": 2_000_000}}},
            "total_steps",
            "2,000,000 points",
        ),
    ],
)
def test_a_submission_that_can_never_run_is_refused(metadata: dict[str, Any], field: str, said: str) -> None:
    state = make_state(**metadata)
    for check in (settle, create_strategy):
        with pytest.raises(OptimizationValidationError) as caught:
            check(state, allowed_imports=())
        assert caught.value.field == field
        assert said in caught.value.problem


def test_gp_without_torch_names_the_extra(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("o9.strategies.plan.find_spec", lambda name: None)
    with pytest.raises(OptimizationValidationError, match=r"metadata\.sampler: gp needs .*prefect-o9\[gp\]"):
        settle(make_state(sampler="gp"))


@pytest.mark.parametrize(
    ("metadata", "steps"),
    [
        ({}, 100),
        ({"trials_per_step": 8}, 13),
        ({"total_steps": 7}, 7),
        ({"sampler": "grid"}, 110),
        ({"sampler": "grid", "trials_per_step": 4}, 28),
        ({"objective": "branin", "search_space": None}, 50),
    ],
)
def test_total_steps_have_a_default(metadata: dict[str, Any], steps: int) -> None:
    assert create_strategy(make_state(**metadata)).total_steps == steps


def test_a_submission_without_an_objective_gets_the_demonstration() -> None:
    state = make_state(objective=None, search_space=None)
    settled = settle(state)
    assert settled.metadata["objective"] == "branin"
    assert "built-in demonstration objective 'branin'" in settled.warnings[0]
    assert settled.metadata["direction"] == "maximize"
    assert settle(settled, allowed_imports=()) == settled
