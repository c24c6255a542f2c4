"""Hold-outs and baselines, from an evaluation to a step's trials."""

from __future__ import annotations

import logging
from typing import Any

import pytest
from contract_steps import new

from o9.model.errors import OptimizationStrategyError
from o9.model.states import TrialState
from o9.model.strategy import StepResult
from o9.model.trial import Evaluation, Trial
from o9.strategies import registry
from o9.strategies.factory import create_strategy
from o9.strategies.registry import objective
from o9.workers.step_results import check_result

LINE = {"x": {"type": "float", "low": 0.0, "high": 1.0}}


async def kept(parameters: dict[str, Any]) -> Evaluation:
    baseline = [0.01, 0.02] if not parameters.get("moody") else [parameters["x"], 0.02]
    return Evaluation(
        parameters["x"], [0.1, parameters["x"]], hold_out_returns=[parameters["x"]], baseline_returns=baseline,
        baseline_hold_out_returns=[0.03],
    )  # fmt: skip


async def steps_of(monkeypatch: pytest.MonkeyPatch, count: int, **parameters: Any) -> list[Trial]:
    monkeypatch.setitem(registry._registered, "objective", {})
    objective("kept", search_space=LINE)(kept)
    metadata = {"objective": "kept", "sampler": "random", "seed": 1, "trials_per_step": 2}
    state = new("a", total_steps=count, metadata=metadata, parameters=parameters)
    attempt = create_strategy(state)
    assert attempt.kind == "steps"
    attempt.open(state, [])
    trials: list[Trial] = []
    for step in range(count):
        trials += (await attempt.step(state, step, None)).trials
    await attempt.close()
    return trials


async def test_each_trial_has_its_hold_out_and_the_first_the_baseline(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    trials = await steps_of(monkeypatch, 2)
    assert [trial.hold_out_returns for trial in trials] == [(trial.value,) for trial in trials]
    assert (trials[0].baseline_returns, trials[0].baseline_hold_out_returns) == ((0.01, 0.02), (0.03,))
    assert {trial.baseline_returns for trial in trials[1:]} == {None}
    assert not caplog.records


async def test_a_baseline_that_depends_on_the_parameters_is_logged(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    with caplog.at_level(logging.WARNING):
        trials = await steps_of(monkeypatch, 1, moody=True)
    assert trials[1].baseline_returns is None
    assert "trial 1 has other baseline_returns" in caplog.text


@pytest.mark.parametrize("field", ["hold_out_returns", "baseline_returns"])
def test_users_strategies_return_them_with_returns(field: str) -> None:
    lone: dict[str, Any] = {field: (0.1,)}
    trial = Trial(0, 0, TrialState.COMPLETED, {"x": 1}, 1.0, **lone)
    with pytest.raises(OptimizationStrategyError, match="without returns"):
        check_result(StepResult([trial]), "strategy 'own'", 0)
