"""Users' strategies that are written as a class or an object with `step()`.

Contract. An async `step` runs in the event loop of the attempt; a sync one lives in a child process, where it can be
cut off and holds nothing up. A class is instantiated once an attempt, without arguments; an object is copied into the
child where its step is sync. What `step` returns is checked before anybody commits it; what breaks the contract, or
raises, is an OptimizationStrategyError that names the strategy.
"""

from __future__ import annotations

import inspect
import json
import math
from collections.abc import Mapping, Sequence
from typing import Any, ClassVar, Literal

from o9.model.errors import OptimizationError, OptimizationStrategyError, OptimizationValidationError
from o9.model.optimization import OptimizationState
from o9.model.states import TrialState
from o9.model.trial import Trial
from o9.strategies.answers import failure_text
from o9.strategies.protocol import StepResult
from o9.strategies.registry import ResolvedStrategy
from o9.strategies.team import Hosted
from o9.strategies.watchdog import run_user_code


class UserSteps:
    """One attempt with a user's strategy."""

    kind: ClassVar[Literal["steps"]] = "steps"

    def __init__(self, strategy: ResolvedStrategy, total_steps: int) -> None:
        self.total_steps = total_steps
        self._what = f"strategy {strategy.name!r}"
        self._target = strategy.target
        self._host = _Here(self._what, self._target) if _steps_here(self._target) else Hosted(self._what, self._target)
        self._opening: tuple[OptimizationState, list[Trial]] | None = None
        self._next_number = 0

    def open(self, state: OptimizationState, ledger: Sequence[Trial]) -> None:
        """Keep the ledger for the strategy's own `open`, which runs before the first step."""
        self._opening = (state, list(ledger))
        self._next_number = ledger[-1].number + 1 if ledger else 0

    async def step(self, state: OptimizationState, step: int, checkpoint: dict[str, Any] | None) -> StepResult:
        """Ask the strategy for a step and check what it says."""
        if self._opening is not None:
            if callable(getattr(self._target, "open", None)):
                await self._host.call("open", *self._opening)
            self._opening = None
        result = await self._host.call("step", state, step, checkpoint)
        checked = check_result(result, self._what, self._next_number)
        self._next_number += len(checked.trials)
        return checked

    def interrupted(self) -> tuple[Trial, ...]:
        """Nothing: what a user's step was evaluating is known only to itself."""
        return ()

    async def close(self) -> None:
        """Close the strategy if it has been started and wants to be, and end its child."""
        try:
            if self._host.started and callable(getattr(self._target, "close", None)):
                await self._host.call("close")
        finally:
            await self._host.close()


class _Here:
    """A user's object in this process."""

    def __init__(self, what: str, target: Any) -> None:
        self._what = what
        self._target = target
        self._object: Any = None

    @property
    def started(self) -> bool:
        return self._object is not None

    async def call(self, method: str, *arguments: Any) -> Any:
        try:
            return await run_user_code(f"{self._what} in {method}()", self._called, method, *arguments)
        except OptimizationError:
            raise
        except Exception as error:
            raise OptimizationStrategyError(f"{self._what} failed in {method}(): {failure_text(error)}") from error

    async def _called(self, method: str, *arguments: Any) -> Any:
        if self._object is None:
            self._object = self._target() if inspect.isclass(self._target) else self._target
        result = getattr(self._object, method)(*arguments)
        return await result if inspect.isawaitable(result) else result

    async def close(self) -> None:
        """Nothing of ours to end."""


def step_count(strategy: ResolvedStrategy, state: OptimizationState) -> int:
    """How many steps: the state's, or where that is 0 the strategy's own. Raises OptimizationValidationError."""
    asked = state.total_steps
    if isinstance(asked, bool) or not isinstance(asked, int) or asked < 0:
        raise OptimizationValidationError("total_steps", f"expected a whole number from 0 on, got {asked!r}")
    own = getattr(strategy.target, "total_steps", None)
    if asked > 0:
        return asked
    if isinstance(own, bool) or not isinstance(own, int) or own < 1:
        raise OptimizationValidationError(
            "total_steps",
            f"it is 0, and strategy {strategy.name!r} says no number of its own; give it a number, or the strategy "
            "the attribute total_steps",
        )
    return own


def check_result(result: Any, what: str, next_number: int) -> StepResult:
    """`result` if it is one that can be committed. Raises OptimizationStrategyError, saying what is wrong with it."""
    if not isinstance(result, StepResult):
        raise OptimizationStrategyError(f"{what}: step() returns a StepResult, not {type(result).__name__}")
    for position, trial in enumerate(result.trials, start=next_number):
        _check_trial(trial, position, what)
    if not isinstance(result.checkpoint, dict):
        raise OptimizationStrategyError(f"{what}: the checkpoint is a dict, not {type(result.checkpoint).__name__}")
    _check_json(result.checkpoint, f"{what}: the checkpoint")
    _check_json(result.best_parameters, f"{what}: best_parameters")
    _check_numbers(result.metrics, f"{what}: metrics")
    if result.best_value is not None and not _finite(result.best_value):
        raise OptimizationStrategyError(f"{what}: best_value is {result.best_value!r}; give a finite number, or None")
    return result


def _check_trial(trial: Any, number: int, what: str) -> None:
    if not isinstance(trial, Trial):
        raise OptimizationStrategyError(f"{what}: trials are of the class Trial, not {type(trial).__name__}")
    if trial.number != number:
        raise OptimizationStrategyError(
            f"{what}: its next trial has number {trial.number!r}, and {number} is next: count on from the ledger's"
        )
    if not isinstance(trial.state, TrialState):
        raise OptimizationStrategyError(f"{what}: trial {number} has state {trial.state!r}; take one of TrialState")
    if (trial.state is TrialState.COMPLETED) != _finite(trial.value):
        raise OptimizationStrategyError(
            f"{what}: trial {number} is {trial.state.value} with value {trial.value!r}; a completed trial has a finite "
            "value, any other None"
        )
    if trial.returns is None and (trial.hold_out_returns is not None or trial.baseline_returns is not None):
        raise OptimizationStrategyError(
            f"{what}: trial {number} has hold_out_returns or baseline_returns and no returns; give those beside them"
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


def _steps_here(target: Any) -> bool:
    return inspect.iscoroutinefunction(target.step)
