"""Checks the result of a user's `step`, and transfers it from a child process to the node.

Contract. Runs in both processes. A checked result can be committed. `step_to_json` makes plain values, from which
`step_from_json` makes an equal StepResult without importing users' code: numbers are equal bit for bit, other values as
in JSON and the store. An invalid result raises OptimizationStrategyError, whose message begins with `what`.
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
    """Return `result` if it can be committed. Raises OptimizationStrategyError with what is wrong."""
    checked = _check_shape(result, what)
    for number, trial in enumerate(checked.trials, start=next_number):
        if trial.number != number:
            raise OptimizationStrategyError(
                f"{what}: its next trial has the number {trial.number}, but {number} is next: continue the ledger's "
                "numbers"
            )
    return checked


def step_to_json(result: Any, what: str) -> dict[str, Any]:
    """Return `result` as plain values. Raises OptimizationStrategyError if it cannot be sent."""
    _check_shape(result, what)
    fields = {field.name: getattr(result, field.name) for field in dataclasses.fields(StepResult)}
    trials = [_trial_to_json(trial, what) for trial in result.trials]
    return fields | {"output": None, "trials": trials, "done": bool(result.done), "metrics": dict(result.metrics)}


def step_from_json(answer: Sequence[Any], what: str) -> StepResult:
    """Return the StepResult, unchecked. Raises OptimizationStrategyError if it is unreadable."""
    try:
        data, *texts = answer
        return StepResult(**data | {"trials": [_trial_from_json(trial, texts) for trial in data["trials"]]})
    except (AttributeError, LookupError, TypeError, ValueError) as error:
        raise OptimizationStrategyError(f"{what}: its process sent an unreadable answer: {error!r}") from error


def _trial_to_json(trial: Trial, what: str) -> dict[str, Any]:
    fields = {field.name: getattr(trial, field.name) for field in dataclasses.fields(Trial)}
    for name in SERIES:
        if fields[name] is not None:
            values = fields[name]
            try:
                fields[name] = array("d", values.tolist() if hasattr(values, "tolist") else values)
            except (TypeError, ValueError, OverflowError) as error:
                raise OptimizationStrategyError(
                    f"{what}: the {name} of trial {trial.number} are not numbers: {error}"
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
        raise OptimizationStrategyError(f"{what}: step() must return a StepResult, not {type(result).__name__}")
    for trial in result.trials:
        _check_trial(trial, what)
    if not isinstance(result.checkpoint, dict):
        raise OptimizationStrategyError(
            f"{what}: the checkpoint must be a dict, not {type(result.checkpoint).__name__}"
        )
    _check_json(result.checkpoint, f"{what}: the checkpoint")
    _check_json(result.best_parameters, f"{what}: best_parameters")
    _check_numbers(result.metrics, f"{what}: metrics")
    if result.best_value is not None and not _finite(result.best_value):
        raise OptimizationStrategyError(
            f"{what}: best_value must be a finite number or None, not {result.best_value!r}"
        )
    return result


def _check_trial(trial: Any, what: str) -> None:
    if not isinstance(trial, Trial):
        raise OptimizationStrategyError(f"{what}: trials must be of the class Trial, not {type(trial).__name__}")
    number = trial.number
    if not isinstance(trial.state, TrialState):
        raise OptimizationStrategyError(f"{what}: trial {number} has the state {trial.state!r}; use a TrialState")
    if (trial.state is TrialState.COMPLETED) != _finite(trial.value):
        raise OptimizationStrategyError(
            f"{what}: trial {number} is {trial.state.value} with value {trial.value!r}; a completed trial must have "
            "a finite value, any other None"
        )
    for name, kinds in _KINDS.items():
        if not isinstance(value := getattr(trial, name), kinds):
            expected = " or ".join(kind.__name__ for kind in kinds)
            raise OptimizationStrategyError(f"{what}: trial {number} has {name} {value!r:.100}; it must be {expected}")
    if trial.returns is None and (trial.hold_out_returns is not None or trial.baseline_returns is not None):
        raise OptimizationStrategyError(
            f"{what}: trial {number} has hold_out_returns or baseline_returns without returns; return these, too"
        )
    for dates, returns in (("dates", "returns"), ("hold_out_dates", "hold_out_returns")):
        given, periods = getattr(trial, dates), getattr(trial, returns)
        if given is not None and (periods is None or len(given) != len(periods)):
            raise OptimizationStrategyError(f"{what}: trial {number} must have as many {dates} as {returns}")
    _check_json(trial.parameters, f"{what}: the parameters of trial {number}")
    _check_numbers(trial.metrics, f"{what}: the metrics of trial {number}")


def _check_numbers(metrics: Any, where: str) -> None:
    if not isinstance(metrics, Mapping) or not all(isinstance(k, str) and _finite(v) for k, v in metrics.items()):
        raise OptimizationStrategyError(f"{where} must map names to finite numbers, got {metrics!r:.200}")


def _check_json(value: Any, where: str) -> None:
    try:
        json.dumps(value, allow_nan=False)
    except (TypeError, ValueError, RecursionError) as error:
        raise OptimizationStrategyError(f"{where} must be JSON values: {error}") from error


def _finite(value: Any) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool) and math.isfinite(value)
