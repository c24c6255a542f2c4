"""What the tests of one seed, one ledger share: an uneven objective, and attempts from fresh objects."""

from __future__ import annotations

import json
from collections.abc import Sequence
from datetime import UTC, datetime
from typing import Any

from o9.model.optimization import OptimizationState
from o9.model.states import OptimizationPriority, OptimizationStatus, OptimizationType, TrialState
from o9.model.trial import Infeasible, Trial
from o9.strategies.factory import create_strategy
from o9.strategies.optuna_strategy import OptunaStrategy
from o9.strategies.registry import objective

SPACE: dict[str, Any] = {
    "x": {"type": "float", "low": -5.0, "high": 10.0},
    "stop": {"type": "float", "low": 1e-3, "high": 0.1, "log": True},
    "band": {"type": "float", "low": 0.0, "high": 1.0, "step": 0.1},
    "fast": {"type": "int", "low": 2, "high": 60},
    "side": {"type": "categorical", "choices": ["long", "both", None, 1, 1.0]},
}
GRID: dict[str, Any] = {
    "band": {"type": "float", "low": 0.0, "high": 1.0, "step": 0.1},
    "fast": {"type": "int", "low": 2, "high": 11},
}
GP: dict[str, Any] = {"x": SPACE["x"], "fast": {"type": "int", "low": 2, "high": 6}}
NUMBERS: dict[str, Any] = {name: axis for name, axis in SPACE.items() if name != "side"}
Row = tuple[int, int, str, str, float | None, str | None]


def register_objective() -> None:
    """`uneven`: a best value, failures and what cannot be among the trials, and data with a name."""

    @objective("uneven", data="prices-v1")
    async def uneven(parameters: dict[str, Any]) -> float:
        if parameters["fast"] % 7 == 3:
            raise ValueError(f"no data for {parameters['fast']}")
        if parameters["fast"] % 9 in (4, 5):
            raise Infeasible("no such window")
        sides = {"long": 3.0, "both": 1.0}
        return float(
            -((parameters.get("x", 0.0) - 2.0) ** 2)
            - abs(parameters["fast"] - 20) / 7
            + parameters.get("band", 0.0)
            - parameters.get("stop", 0.0) * 30
            + sides.get(parameters.get("side", ""), 0.0)
        )


def make_state(total_steps: int = 0, parameters: dict[str, Any] | None = None, **metadata: Any) -> OptimizationState:
    now = datetime.now(UTC)
    space = {"grid": GRID, "gp": GP, "cmaes": NUMBERS}.get(str(metadata.get("sampler")), SPACE)
    return OptimizationState(
        "id",
        "name",
        "",
        OptimizationType.PARAMETER_TUNING,
        OptimizationStatus.CREATED,
        OptimizationPriority.NORMAL,
        now,
        now,
        total_steps=total_steps,
        parameters=parameters or {},
        metadata={"objective": "uneven", "seed": 11, "search_space": space} | metadata,
    )


def rows(trials: Sequence[Trial]) -> list[Row]:
    """What has to be equal, floats to the last bit."""
    return [
        (t.number, t.step, t.state.value, json.dumps(t.parameters), t.value, (t.error or "").split("\n")[0])
        for t in trials
    ]


def stored(trials: Sequence[Trial]) -> list[Trial]:
    """The trials as a fresh process reads them: through JSON, with the keys in another order."""
    read: list[Trial] = []
    for trial in trials:
        fields = json.loads(json.dumps(trial.to_dict(), sort_keys=True))
        fields["started_at"] = None
        fields["state"] = TrialState(fields["state"])
        read.append(Trial(**fields))
    return read


async def run(
    state: OptimizationState,
    steps: range,
    ledger: Sequence[Trial] = (),
    checkpoint: dict[str, Any] | None = None,
) -> tuple[list[Trial], list[dict[str, Any]]]:
    """One attempt from a fresh object: the whole ledger after it, and the checkpoint of each of its steps."""
    attempt = create_strategy(state)
    assert isinstance(attempt, OptunaStrategy)
    attempt.open(state, stored(ledger))
    whole, checkpoints = list(ledger), []
    try:
        for step in steps:
            result = await attempt.step(state, step, checkpoint)
            checkpoint = json.loads(json.dumps(result.checkpoint, sort_keys=True))
            whole += result.trials
            checkpoints.append(checkpoint)
    finally:
        await attempt.close()
    return whole, checkpoints
