"""Who evaluates parameter sets: the event loop for async objectives, child processes for sync ones."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any

from o9.model.states import TrialState
from o9.strategies.registry import Objective


@dataclass(frozen=True)
class Outcome:
    """How one evaluation ended."""

    number: int
    state: TrialState
    value: float | None = None
    metrics: dict[str, float] = field(default_factory=dict)
    returns: tuple[float, ...] | None = None
    periods_per_year: float | None = None
    data_fingerprint: str | None = None
    error: str | None = None
    started_at: datetime | None = None
    duration_seconds: float = 0.0


class Evaluator:
    """Evaluates an objective, up to `workers` parameter sets at a time."""

    def __init__(self, objective: Objective, *, workers: int = 1) -> None:
        raise NotImplementedError

    async def evaluate(self, parameters: Sequence[Mapping[str, Any]], numbers: Sequence[int]) -> list[Outcome]:
        """Evaluate all, and answer in their order. Cancelling it kills what is in flight."""
        raise NotImplementedError

    async def call(self, function: Callable[..., Any], *args: Any) -> Any:
        """Run a sync function in a child process and give back what it returned."""
        raise NotImplementedError

    async def cancel(self) -> None:
        """Kill what is in flight, with its process groups."""
        raise NotImplementedError

    async def close(self) -> None:
        """Give the idle children back; none stays busy."""
        raise NotImplementedError


def prewarm(n: int) -> None:
    """Start `n` idle children, so that the next optimization need not wait for them."""
    raise NotImplementedError
