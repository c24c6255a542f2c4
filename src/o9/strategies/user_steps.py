"""Users' strategies written as a class or an object with `step()`.

Contract. An async `step` runs in the event loop of the attempt; a sync one runs in a child process, which can be killed
and blocks nothing. A class is instantiated once per attempt, without arguments; an object with a sync `step` is copied
into the child. The result of `step` is checked before it is committed. An exception, or a result that breaks the
contract, is an OptimizationStrategyError that names the strategy.
"""

from __future__ import annotations

import inspect
from collections.abc import Sequence
from typing import Any, ClassVar, Literal

from o9.model.errors import OptimizationError, OptimizationStrategyError, OptimizationValidationError
from o9.model.optimization import OptimizationState
from o9.model.strategy import StepResult
from o9.model.trial import Trial
from o9.strategies.registry import ResolvedStrategy
from o9.user_code.watchdog import run_user_code
from o9.workers.answers import failure_text
from o9.workers.step_results import check_result
from o9.workers.team import Hosted, Team


class UserSteps:
    """One attempt with a user's strategy."""

    kind: ClassVar[Literal["steps"]] = "steps"

    def __init__(self, strategy: ResolvedStrategy, total_steps: int) -> None:
        self.total_steps = total_steps
        self._what = what = f"strategy {strategy.name!r}"
        self._target = target = strategy.target
        is_async = inspect.iscoroutinefunction(target.step)
        self._host = _LocalObject(what, target) if is_async else Hosted(what, target)
        self._opening: tuple[OptimizationState, list[Trial]] | None = None
        self._next_number = 0

    def open(self, state: OptimizationState, ledger: Sequence[Trial]) -> None:
        """Keep the ledger for the strategy's own `open`, which is called before the first step."""
        self._opening = (state, list(ledger))
        self._next_number = ledger[-1].number + 1 if ledger else 0

    async def step(self, state: OptimizationState, step: int, checkpoint: dict[str, Any] | None) -> StepResult:
        """Run one step and check its result."""
        if self._opening is not None:
            if callable(getattr(self._target, "open", None)):
                await self._host.call("open", *self._opening)
            self._opening = None
        result = await self._host.call("step", state, step, checkpoint)
        checked = check_result(result, self._what, self._next_number)
        self._next_number += len(checked.trials)
        return checked

    @property
    def team(self) -> Team | None:
        """Its child processes; None if it runs in the event loop."""
        return self._host.team

    async def close(self) -> None:
        """Call the strategy's own `close`, if it was started and has one, and end its child."""
        try:
            if self._host.started and callable(getattr(self._target, "close", None)):
                await self._host.call("close")
        finally:
            await self._host.close()


class _LocalObject:
    """A user's object in this process; the counterpart of `Hosted`."""

    team: ClassVar[None] = None

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
        """Do nothing: there is no child."""


def step_count(strategy: ResolvedStrategy, state: OptimizationState) -> int:
    """Return the state's number of steps, or the strategy's own if that is 0. Raises OptimizationValidationError."""
    if state.total_steps > 0:
        return state.total_steps
    own = getattr(strategy.target, "total_steps", None)
    if isinstance(own, bool) or not isinstance(own, int) or own < 1:
        raise OptimizationValidationError(
            "total_steps",
            f"it is 0, and strategy {strategy.name!r} has no attribute total_steps; give a number of steps, or add "
            "the attribute",
        )
    return own
