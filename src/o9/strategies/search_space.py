"""What may be tried: `metadata.search_space`, parsed once into typed, immutable parameters.

Contract. `SearchSpace.parse` accepts exactly three types, int, float and categorical, with the keys in `_KEYS`;
every refusal is an OptimizationValidationError that names the dotted field and the remedy. Parameters are kept
sorted by name, so that a space means the same whichever order a store or a YAML file gives its keys in. Values are
what JSON holds: int, float, and for categoricals any JSON value. Immutable; Optuna is imported only where needed.
"""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from o9.model.errors import OptimizationValidationError
from o9.strategies.parameters import (
    CategoricalParameter,
    FloatParameter,
    IntParameter,
    Parameter,
    as_json,
    is_int,
    is_number,
    storable,
)

if TYPE_CHECKING:
    from optuna.distributions import BaseDistribution

FIELD = "metadata.search_space"
# Beyond it two neighbouring integers share one float64, in which samplers compute.
LARGEST_INT = 2**53
# Beyond it float64 cannot tell the points of a step's grid apart reliably.
LARGEST_RATIO = 1e12


@dataclass(frozen=True)
class SearchSpace:
    """All parameters of one optimization, sorted by name."""

    parameters: tuple[Parameter, ...]

    @classmethod
    def parse(cls, raw: Any, field: str = FIELD) -> SearchSpace:
        """Read a mapping of names to `{"type": …}`. Raises OptimizationValidationError, naming what is wrong."""
        if not isinstance(raw, Mapping):
            example = '{"fast": {"type": "int", "low": 2, "high": 60}}'
            raise OptimizationValidationError(field, f"expected a mapping such as {example}, got {_kind(raw)}")
        if not raw:
            raise OptimizationValidationError(field, "it is empty; give at least one parameter to search")
        for name in raw:
            _check_name(name, field)
        return cls(tuple(_parse_parameter(name, raw[name], f"{field}.{name}") for name in sorted(raw)))

    @property
    def names(self) -> tuple[str, ...]:
        return tuple(parameter.name for parameter in self.parameters)

    def to_dict(self) -> dict[str, Any]:
        """The space with every default written out; `parse` reads it back."""
        return {parameter.name: parameter.to_dict() for parameter in self.parameters}

    def digest(self) -> str:
        """A short name for exactly this space: equal spaces, however written, have equal digests."""
        text = json.dumps(self.to_dict(), sort_keys=True)
        return hashlib.blake2b(text.encode("utf-8", "surrogatepass"), digest_size=8).hexdigest()

    def contains(self, parameters: Mapping[str, Any]) -> bool:
        """Is this a full set of parameters, each inside its bounds and on its grid?"""
        return parameters.keys() == set(self.names) and all(
            parameter.contains(parameters[parameter.name]) for parameter in self.parameters
        )

    def grid_size(self) -> int:
        """How many different sets there are. Raises OptimizationValidationError for a float without a step."""
        return math.prod(self._grid_sizes())

    def grid_point(self, index: int) -> dict[str, Any]:
        """Set number `index` of the grid, 0 to `grid_size() - 1`; the last parameter by name varies fastest."""
        point: dict[str, Any] = {}
        for parameter, size in zip(reversed(self.parameters), reversed(self._grid_sizes()), strict=True):
            index, position = divmod(index, size)
            point[parameter.name] = parameter.grid_value(position)
        return {name: point[name] for name in self.names}

    def distributions(self) -> dict[str, BaseDistribution]:
        """What Optuna samples from."""
        return {parameter.name: parameter.distribution() for parameter in self.parameters}

    def from_optuna(self, chosen: Mapping[str, Any]) -> dict[str, Any]:
        """Optuna's values to ours: plain int and float, and whatever JSON value a choice is."""
        return {parameter.name: parameter.from_optuna(chosen[parameter.name]) for parameter in self.parameters}

    def to_optuna(self, parameters: Mapping[str, Any]) -> dict[str, Any]:
        """Our values to Optuna's; the inverse of `from_optuna`, for a set that the space contains."""
        return {parameter.name: parameter.to_optuna(parameters[parameter.name]) for parameter in self.parameters}

    def _grid_sizes(self) -> list[int]:
        sizes: list[int] = []
        for parameter in self.parameters:
            size = parameter.grid_size()
            if size is None:
                raise OptimizationValidationError(
                    f"{FIELD}.{parameter.name}.step",
                    "the grid sampler needs a step for every float; give one, or take another sampler",
                )
            sizes.append(size)
        return sizes


def _parse_parameter(name: str, raw: Any, field: str) -> Parameter:
    if not isinstance(raw, Mapping):
        raise OptimizationValidationError(
            field, f'expected a mapping such as {{"type": "float", "low": 0, "high": 1}}, got {_kind(raw)}'
        )
    kind = raw.get("type")
    if not isinstance(kind, str) or kind not in _KEYS:
        raise OptimizationValidationError(f"{field}.type", f"{kind!r} is not one of {', '.join(_KEYS)}")
    for key in raw:
        if key not in _KEYS[kind]:
            raise OptimizationValidationError(f"{field}.{key}", f"no such key; there are {', '.join(_KEYS[kind])}")
    for key in ("choices",) if kind == "categorical" else ("low", "high"):
        if key not in raw:
            raise OptimizationValidationError(f"{field}.{key}", f"missing; a parameter of type {kind} needs it")
    if kind == "categorical":
        return CategoricalParameter(name, _choices(raw["choices"], f"{field}.choices"))
    log = raw.get("log", False)
    if not isinstance(log, bool):
        raise OptimizationValidationError(f"{field}.log", f"expected true or false, got {_kind(log)}")
    return _int_parameter(name, raw, log, field) if kind == "int" else _float_parameter(name, raw, log, field)


def _int_parameter(name: str, raw: Mapping[str, Any], log: bool, field: str) -> IntParameter:
    low, high = (_integer(raw[key], f"{field}.{key}") for key in ("low", "high"))
    step = raw.get("step")
    step = 1 if step is None else _integer(step, f"{field}.step")
    _check_range(low, high, step, log, field)
    # Samplers warn of a last step that overshoots; the reachable end is what the space holds.
    return IntParameter(name, low, low + (high - low) // step * step, step, log)


def _float_parameter(name: str, raw: Mapping[str, Any], log: bool, field: str) -> FloatParameter:
    low, high = (_finite(raw[key], f"{field}.{key}") for key in ("low", "high"))
    step = raw.get("step")
    step = None if step is None else _finite(step, f"{field}.step")
    _check_range(low, high, step, log, field)
    if not math.isfinite(high - low):
        raise OptimizationValidationError(f"{field}.high", "the range from low to high is too wide for a float")
    if step is not None and max(abs(low), abs(high)) / step > LARGEST_RATIO:
        raise OptimizationValidationError(f"{field}.step", f"{step!r} is too fine beside bounds of this size")
    return FloatParameter(name, low, high, step, log)


def _check_range(low: float, high: float, step: float | None, log: bool, field: str) -> None:
    if low > high:
        raise OptimizationValidationError(f"{field}.low", f"{low!r} is above high, {high!r}; exchange them")
    if step is not None and step <= 0:
        raise OptimizationValidationError(f"{field}.step", f"{step!r} is not positive")
    if log and low <= 0:
        raise OptimizationValidationError(f"{field}.low", f"{low!r} has no logarithm; give a low above 0 or drop log")
    if log and step is not None and not (isinstance(low, int) and step == 1):
        raise OptimizationValidationError(f"{field}.step", "step and log exclude each other; drop one of them")


def _choices(raw: Any, field: str) -> tuple[Any, ...]:
    if not isinstance(raw, (list, tuple)):
        raise OptimizationValidationError(field, f"expected a list, got {_kind(raw)}")
    if not raw:
        raise OptimizationValidationError(field, "it is empty; give at least one choice")
    seen: dict[str, int] = {}
    for index, choice in enumerate(raw):
        try:
            text = as_json(choice)
            same = json.loads(text) == choice
        except (TypeError, ValueError, RecursionError) as error:
            where = f"{field}[{index}]"
            raise OptimizationValidationError(where, f"JSON cannot hold {choice!r:.60}: {error}") from None
        if not same:
            raise OptimizationValidationError(f"{field}[{index}]", f"JSON gives {choice!r:.80} back as something else")
        if text in seen:
            raise OptimizationValidationError(f"{field}[{index}]", f"{choice!r:.80} is there twice; drop one of them")
        seen[text] = index
    return tuple(json.loads(text) for text in seen)


def _check_name(name: Any, field: str) -> None:
    if not isinstance(name, str):
        raise OptimizationValidationError(field, f"a parameter's name must be text, got {name!r} ({_kind(name)})")
    if not name.strip():
        raise OptimizationValidationError(field, "a parameter has an empty name; give it one")
    if not storable(name):
        raise OptimizationValidationError(field, f"the name {name!r} has characters that no store can hold")


def _integer(value: Any, field: str) -> int:
    if not is_int(value):
        raise OptimizationValidationError(field, f"expected a whole number, got {value!r} ({_kind(value)})")
    if abs(value) > LARGEST_INT:
        raise OptimizationValidationError(field, f"{value} is beyond ±2**53, where samplers cannot tell integers apart")
    return int(value)


def _finite(value: Any, field: str) -> float:
    if not is_number(value):
        raise OptimizationValidationError(field, f"expected a number, got {value!r} ({_kind(value)})")
    try:
        number = float(value)
    except OverflowError:
        number = math.inf
    if not math.isfinite(number):
        raise OptimizationValidationError(field, f"{value!r:.40} is not finite; give a finite bound")
    return number


def _kind(value: Any) -> str:
    return type(value).__name__


_KEYS: dict[Any, tuple[str, ...]] = {
    "int": ("type", "low", "high", "step", "log"),
    "float": ("type", "low", "high", "step", "log"),
    "categorical": ("type", "choices"),
}
