"""What a user's `step` returned: checked, and carried from its child process to the node as data.

Contract. Runs in both. What is checked can be committed. `step_to_json` gives plain values, of which `step_from_json`
makes an equal StepResult without importing anything of the user's: numbers bit for bit, all else as JSON, and the
store, has it. What breaks the contract is an OptimizationStrategyError that begins with `what`.
"""

from __future__ import annotations

import dataclasses
import json
import math
from array import array
from collections.abc import Mapping, Sequence
from datetime import datetime
from typing import Any

from o9.model.errors import OptimizationStrategyError
from o9.model.states import TrialState
from o9.model.strategy import StepResult
from o9.model.trial import Trial
from o9.workers.answers import SERIES, numbers_of

_KINDS: dict[str, tuple[type, ...]] = {
    "number": (int,),
    "step": (int,),
    "attempt": (int,),
    "error": (str, type(None)),
    "started_at": (datetime, type(None)),
    "duration_seconds": (int, float),
    "family": (str,),
    "periods_per_year": (int, float, type(None)),
}


def check_result(result: Any, what: str, next_number: int) -> StepResult:
    """`result` if it is one that can be committed. Raises OptimizationStrategyError, saying what is wrong with it."""
    checked = _check_shape(result, what)
    for number, trial in enumerate(checked.trials, start=next_number):
        if trial.number != number:
            raise OptimizationStrategyError(
                f"{what}: its next trial has number {trial.number}, and {number} is next: count on from the ledger's"
            )
    return checked


def step_to_json(result: Any, what: str) -> dict[str, Any]:
    """`result` as plain values. Raises OptimizationStrategyError where it cannot be sent."""
    _check_shape(result, what)
    fields = {field.name: getattr(result, field.name) for field in dataclasses.fields(StepResult)}
    trials = [_trial_to_json(trial, what) for trial in result.trials]
    return fields | {"output": None, "trials": trials, "done": bool(result.done), "metrics": dict(result.metrics)}


def step_from_json(answer: Sequence[Any], what: str) -> StepResult:
    """The StepResult again, still to be checked. Raises OptimizationStrategyError where it cannot be read."""
    try:
        data, *texts = answer
        return StepResult(**data | {"trials": [_trial_from_json(trial, texts) for trial in data["trials"]]})
    except (AttributeError, LookupError, TypeError, ValueError) as error:
        raise OptimizationStrategyError(f"{what}: its process gave an answer that cannot be read: {error!r}") from error


def _trial_to_json(trial: Trial, what: str) -> dict[str, Any]:
    fields = {field.name: getattr(trial, field.name) for field in dataclasses.fields(Trial)}
    for name in SERIES:
        if fields[name] is not None:
            values = fields[name]
            try:
                fields[name] = array("d", values.tolist() if hasattr(values, "tolist") else values)
            except (TypeError, ValueError, OverflowError) as error:
                raise OptimizationStrategyError(
                    f"{what}: the {name} of trial {trial.number} are no numbers: {error}"
                ) from error
    started_at = None if trial.started_at is None else trial.started_at.isoformat()
    return fields | {
        "output": None,
        "state": trial.state.value,
        "started_at": started_at,
        "metrics": dict(trial.metrics),
    }


def _trial_from_json(data: Any, texts: Sequence[Any]) -> Trial:
    returns = {name: tuple(numbers_of(texts, data[name])) for name in SERIES if data[name] is not None}
    started_at = None if data["started_at"] is None else datetime.fromisoformat(data["started_at"])
    return Trial(**data | returns | {"state": TrialState(data["state"]), "started_at": started_at})


def _check_shape(result: Any, what: str) -> StepResult:
    if not isinstance(result, StepResult):
        raise OptimizationStrategyError(f"{what}: step() returns a StepResult, not {type(result).__name__}")
    for trial in result.trials:
        _check_trial(trial, what)
    if not isinstance(result.checkpoint, dict):
        raise OptimizationStrategyError(f"{what}: the checkpoint is a dict, not {type(result.checkpoint).__name__}")
    _check_json(result.checkpoint, f"{what}: the checkpoint")
    _check_json(result.best_parameters, f"{what}: best_parameters")
    _check_numbers(result.metrics, f"{what}: metrics")
    if result.best_value is not None and not _finite(result.best_value):
        raise OptimizationStrategyError(f"{what}: best_value is {result.best_value!r}; give a finite number, or None")
    return result


def _check_trial(trial: Any, what: str) -> None:
    if not isinstance(trial, Trial):
        raise OptimizationStrategyError(f"{what}: trials are of the class Trial, not {type(trial).__name__}")
    number = trial.number
    if not isinstance(trial.state, TrialState):
        raise OptimizationStrategyError(f"{what}: trial {number} has state {trial.state!r}; take one of TrialState")
    if (trial.state is TrialState.COMPLETED) != _finite(trial.value):
        raise OptimizationStrategyError(
            f"{what}: trial {number} is {trial.state.value} with value {trial.value!r}; a completed trial has a finite "
            "value, any other None"
        )
    for name, kinds in _KINDS.items():
        if not isinstance(value := getattr(trial, name), kinds):
            expected = " or ".join(kind.__name__ for kind in kinds)
            raise OptimizationStrategyError(f"{what}: trial {number} has {name} {value!r:.100}; it is of {expected}")
    if trial.returns is None and (trial.hold_out_returns is not None or trial.baseline_returns is not None):
        raise OptimizationStrategyError(
            f"{what}: trial {number} has hold_out_returns or baseline_returns and no returns; give those beside them"
        )
    for dates, returns in (("dates", "returns"), ("hold_out_dates", "hold_out_returns")):
        given, periods = getattr(trial, dates), getattr(trial, returns)
        if given is not None and (periods is None or len(given) != len(periods)):
            raise OptimizationStrategyError(
                f"{what}: trial {number} has {dates} that are not one for each of {returns}"
            )
    _check_json(trial.parameters, f"{what}: the parameters of trial {number}")
    _check_numbers(trial.metrics, f"{what}: the metrics of trial {number}")


def _check_numbers(metrics: Any, said: str) -> None:
    if not isinstance(metrics, Mapping) or not all(isinstance(k, str) and _finite(v) for k, v in metrics.items()):
        raise OptimizationStrategyError(f"{said} must map names to finite numbers, got {metrics!r:.200}")


def _check_json(value: Any, said: str) -> None:
    try:
        json.dumps(value, allow_nan=False)
    except (TypeError, ValueError, RecursionError) as error:
        raise OptimizationStrategyError(f"{said} must be what JSON can hold: {error}") from error


def _finite(value: Any) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool) and math.isfinite(value)
