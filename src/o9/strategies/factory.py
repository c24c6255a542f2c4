"""The single door to strategies: from an optimization's state to something that runs its steps.

Contract. `create_strategy` reads `state.metadata`, imports what it names (as far as allowed) and runs nothing.
It gives a StepAttempt (`open`, `step`, `close`, `total_steps`) or a CoroutineAttempt (`run`); `kind` tells them
apart. One attempt object serves one attempt of one optimization, in one event loop, and is closed at its end,
however it ended. `validate_strategy` is the same checks at submission: nothing is evaluated, no process started.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Sequence
from typing import Any, Literal, Protocol

from o9.model.optimization import OptimizationState
from o9.model.trial import Trial
from o9.strategies.protocol import StepResult


class StepAttempt(Protocol):
    """What is asked for one step at a time."""

    kind: Literal["steps"]
    total_steps: int

    def open(self, state: OptimizationState, ledger: Sequence[Trial]) -> None:
        """Once, before the first step: the committed trials of earlier attempts, by number."""

    async def step(self, state: OptimizationState, step: int, checkpoint: dict[str, Any] | None) -> StepResult:
        """Evaluate one step. Cancelling it kills what it evaluates at once."""

    async def close(self) -> None:
        """Once, however the attempt ended: leaves no process that this attempt used busy or alive."""


class CoroutineAttempt(Protocol):
    """A coroutine strategy, which changes the state by itself."""

    kind: Literal["coroutine"]
    total_steps: int

    async def run(
        self,
        state: OptimizationState,
        observe: Callable[[OptimizationState], Awaitable[None]],
        interval: float,
    ) -> Any:
        """See `o9.strategies.coroutine.run_coroutine`."""


def create_strategy(
    state: OptimizationState, *, allowed_imports: tuple[str, ...] | None = None
) -> StepAttempt | CoroutineAttempt:
    """The strategy that `state.metadata` asks for. Raises OptimizationValidationError, naming the field."""
    raise NotImplementedError


def validate_strategy(state: OptimizationState, *, allowed_imports: tuple[str, ...] | None = None) -> None:
    """Raise OptimizationValidationError for what can never run. Cheap: no Optuna, no process."""
    raise NotImplementedError


def settle(state: OptimizationState) -> OptimizationState:
    """A copy with what must be fixed at submission: `metadata["seed"]` is drawn where there is none."""
    raise NotImplementedError
