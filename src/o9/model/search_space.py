"""The search space, `metadata.search_space`, as typed, immutable parameters.

Contract. `SearchSpace.parse` takes a mapping of names to parameters, or a list of parameters with names, of the types
int, float and categorical. It raises OptimizationValidationError with all faults and their paths. Parameters are sorted
by name, so that the order in a store or a file has no effect. Optuna sees only the index of a categorical choice, so
`1`, `1.0` and `True` are three choices, and a list or a mapping may be a choice. It also sees only the index of a float
with a step, so that values are the decimals as written (0.3, not 0.30000000000000004). Optuna is imported only to
sample.
"""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Mapping
from dataclasses import dataclass
from decimal import Decimal
from functools import cached_property
from typing import TYPE_CHECKING, Annotated, Any, Literal, Self

from pydantic import AfterValidator, ConfigDict, Field, TypeAdapter, field_validator, model_validator

from o9.model.errors import OptimizationValidationError
from o9.model.faults import Flag, Text, Typed, Whole, refusing
from o9.model.fields import Figure, JsonList, Storable, not_blank

if TYPE_CHECKING:
    from optuna.distributions import BaseDistribution

FIELD = "metadata.search_space"
LARGEST_INT = 2**53  # samplers compute in float64, which cannot distinguish larger neighbouring integers
LARGEST_RATIO = 1e12  # of a bound to a step; float64 cannot reliably distinguish the points of a finer grid


class _Named(Typed):
    name: Annotated[Text, Storable] = Field("", description="Needed in a list; in a mapping, the key is the name.")

    def to_dict(self) -> dict[str, Any]:
        """The parameter with all defaults written out."""
        return self.model_dump(exclude={"name"})

    def named(self, name: str) -> Self:
        return self.model_copy(update={"name": name})


class _Range(_Named):
    """The base of both numeric parameters."""

    def _check_range(self, low: float, high: float, step: float | None, log: bool) -> None:
        if low > high:
            raise OptimizationValidationError("low", f"low ({low!r}) is greater than high ({high!r})")
        if log and low <= 0:
            raise OptimizationValidationError("low", f"{low!r} has no logarithm; give a low above 0, or remove log")
        if log and step is not None and not (isinstance(low, int) and step == 1):
            raise OptimizationValidationError("step", "cannot be combined with log; remove one of them")


Bound = Annotated[Whole, Field(ge=-LARGEST_INT, le=LARGEST_INT)]


class IntParameter(_Range):
    """An integer from `low` to `high`, both included, in steps of `step` or on a logarithmic scale."""

    type: Literal["int"]
    low: Bound
    high: Bound
    step: Bound = Field(1, gt=0, description="The distance between two values.")
    log: Flag = Field(False, description="Sample on a logarithmic scale.")

    @model_validator(mode="after")
    def _check(self) -> IntParameter:
        self._check_range(self.low, self.high, self.step, self.log)
        return self

    def named(self, name: str) -> Self:
        # Samplers warn if the last step overshoots `high`, so lower it to the last reachable value.
        high = self.low + (self.high - self.low) // self.step * self.step
        return self.model_copy(update={"name": name, "high": high})

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

    @property
    def _grid(self) -> range:
        return range(self.low, self.high + 1, self.step)


class FloatParameter(_Range):
    """A float from `low` to `high`, both included, in steps of `step`, continuous, or on a logarithmic scale."""

    type: Literal["float"]
    low: Figure
    high: Figure
    step: Figure | None = Field(None, gt=0, description="The distance between two values. Default: continuous.")
    log: Flag = Field(False, description="Sample on a logarithmic scale.")

    @model_validator(mode="after")
    def _check(self) -> FloatParameter:
        self._check_range(self.low, self.high, self.step, self.log)
        if not math.isfinite(self.high - self.low):
            raise OptimizationValidationError("high", "the range from low to high is too wide for a float")
        if self.step is not None and max(abs(self.low), abs(self.high)) / self.step > LARGEST_RATIO:
            raise OptimizationValidationError("step", f"{self.step!r} is too small for bounds of this size")
        return self

    def grid_size(self) -> int | None:
        """The number of values; None if it is continuous."""
        if self.step is None:
            return 1 if self.low == self.high else None
        return self._steps + 1

    def grid_value(self, position: int) -> float:
        if self.step is None:
            return self.low
        return float(Decimal(str(self.low)) + position * Decimal(str(self.step)))

    def contains(self, value: Any) -> bool:
        if not is_number(value) or not self.low <= value <= self.high:
            return False
        return self.step is None or self.grid_value(self._position(value)) == value

    def distribution(self) -> BaseDistribution:
        from optuna.distributions import FloatDistribution, IntDistribution

        if self.step is None:
            return FloatDistribution(self.low, self.high, log=self.log)
        return IntDistribution(0, self._steps)

    def from_optuna(self, value: Any) -> float:
        if self.step is not None:
            return self.grid_value(int(value))
        # exp(log(low)) may be one bit out of range.
        return min(max(float(value), self.low), self.high)

    def to_optuna(self, value: Any) -> float:
        return float(value) if self.step is None else self._position(value)

    @property
    def _steps(self) -> int:
        """The number of whole steps from low to high, in decimal arithmetic: 0.1 fits three times into 0.3."""
        return int((Decimal(str(self.high)) - Decimal(str(self.low))) // Decimal(str(self.step)))

    def _position(self, value: float) -> int:
        return round((value - self.low) / (self.step or 1.0))


class CategoricalParameter(_Named):
    """One of `choices`, which are distinguished by their JSON."""

    type: Literal["categorical"]
    choices: JsonList = Field(min_length=1, description="Any JSON values.", examples=[["sma", "ema"]])

    @field_validator("choices")
    @classmethod
    def _each_once(cls, choices: list[Any]) -> list[Any]:
        texts = [as_json(choice) for choice in choices]
        seen: set[str] = set()
        for index, text in enumerate(texts):
            if text in seen:
                raise OptimizationValidationError(f"[{index}]", f"{text:.80} is a duplicate; remove it")
            seen.add(text)
        return [json.loads(text) for text in texts]

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

    @cached_property
    def _positions(self) -> dict[str, int]:
        return {as_json(choice): index for index, choice in enumerate(self.choices)}


Parameter = IntParameter | FloatParameter | CategoricalParameter
_Parameter = Annotated[Parameter, Field(discriminator="type")]


def _names(read: dict[str, Parameter] | list[Parameter]) -> dict[str, Parameter] | list[Parameter]:
    if not read:
        raise ValueError("it is empty; give at least one parameter")
    names = [each.name for each in read] if isinstance(read, list) else []
    seen: set[str] = set()
    for index, name in enumerate(names):
        if not name.strip():
            raise OptimizationValidationError(f"[{index}].name", "it is missing; in a list each parameter has a name")
        if name in seen:
            raise OptimizationValidationError(f"[{index}].name", f"{name!r:.80} is a duplicate; rename it")
        seen.add(name)
    return read


SearchSpaceField = Annotated[
    dict[Annotated[Text, AfterValidator(not_blank), Storable], _Parameter] | list[_Parameter],
    AfterValidator(_names),
    Field(
        description="The parameters to search, by name, or as a list of parameters with names.",
        examples=[{"fast": {"type": "int", "low": 2, "high": 60}}],
    ),
]
_SPACE: TypeAdapter[dict[str, Parameter] | list[Parameter]] = TypeAdapter(
    SearchSpaceField, config=ConfigDict(defer_build=True)
)


@dataclass(frozen=True)
class SearchSpace:
    """All parameters of one optimization, sorted by name."""

    parameters: tuple[Parameter, ...]

    @classmethod
    def parse(cls, raw: Any, field: str = FIELD) -> SearchSpace:
        """Read `metadata.search_space`. Raises OptimizationValidationError with all faults."""
        with refusing(Parameter, raw, field):
            return cls.of(_SPACE.validate_python(raw))

    @classmethod
    def of(cls, read: dict[str, Parameter] | list[Parameter]) -> SearchSpace:
        """The space of validated parameters."""
        named = read if isinstance(read, dict) else {each.name: each for each in read}
        return cls(tuple(named[name].named(name) for name in sorted(named)))

    @property
    def names(self) -> tuple[str, ...]:
        return tuple(parameter.name for parameter in self.parameters)

    def to_dict(self) -> dict[str, Any]:
        """The space with all defaults written out; `parse` reads it back."""
        return {parameter.name: parameter.to_dict() for parameter in self.parameters}

    def digest(self) -> str:
        """A hash of the space: equal spaces, however they are written, have equal digests."""
        text = json.dumps(self.to_dict(), sort_keys=True)
        return hashlib.blake2b(text.encode("utf-8", "surrogatepass"), digest_size=8).hexdigest()

    def contains(self, parameters: Mapping[str, Any]) -> bool:
        """Whether `parameters` is a complete set, each value in range and on its grid."""
        return parameters.keys() == set(self.names) and all(
            parameter.contains(parameters[parameter.name]) for parameter in self.parameters
        )

    def within(self, parameters: Mapping[str, Any]) -> dict[str, Any]:
        """Those of `parameters` that are in the space; the set may be incomplete."""
        return {
            each.name: parameters[each.name]
            for each in self.parameters
            if each.name in parameters and each.contains(parameters[each.name])
        }

    def grid_size(self) -> int:
        """The number of different sets. Raises OptimizationValidationError for a float without a step."""
        return math.prod(self._grid_sizes())

    def grid_point(self, index: int) -> dict[str, Any]:
        """The set at `index` of the grid, 0 to `grid_size() - 1`; the last parameter by name varies fastest."""
        point: dict[str, Any] = {}
        for parameter, size in zip(reversed(self.parameters), reversed(self._grid_sizes()), strict=True):
            index, position = divmod(index, size)
            point[parameter.name] = parameter.grid_value(position)
        return {name: point[name] for name in self.names}

    def distributions(self) -> dict[str, BaseDistribution]:
        """What Optuna samples from."""
        return {parameter.name: parameter.distribution() for parameter in self.parameters}

    def from_optuna(self, chosen: Mapping[str, Any]) -> dict[str, Any]:
        """Convert Optuna's values to ours: int, float, or the JSON value of a choice."""
        return {parameter.name: parameter.from_optuna(chosen[parameter.name]) for parameter in self.parameters}

    def to_optuna(self, parameters: Mapping[str, Any]) -> dict[str, Any]:
        """Convert our values to Optuna's: the inverse of `from_optuna`, for parameters in the space."""
        return {each.name: each.to_optuna(parameters[each.name]) for each in self.parameters if each.name in parameters}

    def _grid_sizes(self) -> list[int]:
        sizes: list[int] = []
        for parameter in self.parameters:
            size = parameter.grid_size()
            if size is None:
                raise OptimizationValidationError(
                    f"{FIELD}.{parameter.name}.step",
                    "the grid sampler needs a step for each float; give one, or choose another sampler",
                )
            sizes.append(size)
        return sizes


def as_json(value: Any) -> str:
    """The canonical JSON of `value`. Raises TypeError or ValueError if JSON cannot hold it."""
    return json.dumps(value, allow_nan=False, sort_keys=True, ensure_ascii=False)


def is_int(value: Any) -> bool:
    """Whether it is an int; a bool is not."""
    return isinstance(value, int) and not isinstance(value, bool)


def is_number(value: Any) -> bool:
    """Whether it is an int or a float; a bool is not."""
    return isinstance(value, (int, float)) and not isinstance(value, bool)
