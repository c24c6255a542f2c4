"""One parameter of a search space: what it may be, its grid, and how Optuna sees it.

Contract. Immutable; made by `SearchSpace.parse`, which has checked what it is made of. Optuna never sees a
categorical's values, only their index: `1`, `1.0` and `True` stay three choices, and a list or a mapping may be one.
A float with a step is an index to it as well, so that its values are the decimals as written (0.3, and not
0.30000000000000004).
"""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from decimal import Decimal
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from optuna.distributions import BaseDistribution


@dataclass(frozen=True)
class IntParameter:
    """An integer from `low` to `high`, both included, `step` apart or on a logarithmic scale."""

    name: str
    low: int
    high: int
    step: int = 1
    log: bool = False

    def grid_size(self) -> int:
        return len(self._grid)

    def grid_value(self, position: int) -> int:
        return self._grid[position]

    def contains(self, value: Any) -> bool:
        return is_int(value) and int(value) in self._grid

    def distribution(self) -> BaseDistribution:
        from optuna.distributions import IntDistribution

        return IntDistribution(self.low, self.high, log=self.log, step=self.step)

    def from_optuna(self, value: Any) -> int:
        return int(value)

    def to_optuna(self, value: Any) -> int:
        return int(value)

    def to_dict(self) -> dict[str, Any]:
        return {"type": "int", "low": self.low, "high": self.high, "step": self.step, "log": self.log}

    @property
    def _grid(self) -> range:
        return range(self.low, self.high + 1, self.step)


@dataclass(frozen=True)
class FloatParameter:
    """A float from `low` to `high`, both included; on the grid of `step`, or on a logarithmic scale."""

    name: str
    low: float
    high: float
    step: float | None = None
    log: bool = False

    def grid_size(self) -> int | None:
        """How many values it has; None where it has no step and therefore a continuum."""
        if self.step is None:
            return 1 if self.low == self.high else None
        return steps_between(self.low, self.high, self.step) + 1

    def grid_value(self, position: int) -> float:
        return self.low if self.step is None else on_grid(self.low, position, self.step)

    def contains(self, value: Any) -> bool:
        if not is_number(value) or not self.low <= value <= self.high:
            return False
        return self.step is None or self.grid_value(self._position(value)) == value

    def distribution(self) -> BaseDistribution:
        from optuna.distributions import FloatDistribution, IntDistribution

        if self.step is None:
            return FloatDistribution(self.low, self.high, log=self.log)
        return IntDistribution(0, steps_between(self.low, self.high, self.step))

    def from_optuna(self, value: Any) -> float:
        if self.step is not None:
            return self.grid_value(int(value))
        # exp(log(low)) may lie one bit outside.
        return min(max(float(value), self.low), self.high)

    def to_optuna(self, value: Any) -> float:
        return float(value) if self.step is None else self._position(value)

    def to_dict(self) -> dict[str, Any]:
        return {"type": "float", "low": self.low, "high": self.high, "step": self.step, "log": self.log}

    def _position(self, value: float) -> int:
        return round((value - self.low) / (self.step or 1.0))


@dataclass(frozen=True)
class CategoricalParameter:
    """One of `choices`, told apart by how JSON writes them."""

    name: str
    choices: tuple[Any, ...]
    _positions: dict[str, int] = field(init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "_positions", {as_json(choice): index for index, choice in enumerate(self.choices)})

    def grid_size(self) -> int:
        return len(self.choices)

    def grid_value(self, position: int) -> Any:
        return self.choices[position]

    def contains(self, value: Any) -> bool:
        try:
            return as_json(value) in self._positions
        except (TypeError, ValueError):
            return False

    def distribution(self) -> BaseDistribution:
        from optuna.distributions import CategoricalDistribution

        return CategoricalDistribution(tuple(range(len(self.choices))))

    def from_optuna(self, value: Any) -> Any:
        return self.choices[int(value)]

    def to_optuna(self, value: Any) -> int:
        return self._positions[as_json(value)]

    def to_dict(self) -> dict[str, Any]:
        return {"type": "categorical", "choices": list(self.choices)}


Parameter = IntParameter | FloatParameter | CategoricalParameter


def steps_between(low: float, high: float, step: float) -> int:
    """Whole steps from low to high, in decimal as written, so that 0.1 goes three times into 0.3."""
    return int((Decimal(str(high)) - Decimal(str(low))) // Decimal(str(step)))


def on_grid(low: float, position: int, step: float) -> float:
    """Point number `position` of the grid that begins at `low`, in decimal as written."""
    return float(Decimal(str(low)) + position * Decimal(str(step)))


def as_json(value: Any) -> str:
    """The one way to write `value`. Raises TypeError or ValueError for what JSON, or a store, cannot hold."""
    text = json.dumps(value, allow_nan=False, sort_keys=True, ensure_ascii=False)
    if not storable(text) or "\\u0000" in text:
        raise ValueError("it has characters that no store can hold (NUL, or half of a surrogate pair)")
    return text


def storable(text: str) -> bool:
    """Has it no NUL and no half of a surrogate pair?"""
    return "\0" not in text and not any("\ud800" <= character <= "\udfff" for character in text)


def is_int(value: Any) -> bool:
    """A whole number; True and False are none."""
    return isinstance(value, int) and not isinstance(value, bool)


def is_number(value: Any) -> bool:
    """An int or a float; True and False are none."""
    return isinstance(value, (int, float)) and not isinstance(value, bool)
