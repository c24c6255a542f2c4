"""What may be tried: `metadata.search_space`, parsed once into typed, immutable parameters.

Contract. `SearchSpace.parse` accepts exactly three types, int, float and categorical, with the keys in `_KEYS`;
every refusal is an OptimizationValidationError that names the dotted field and the remedy. Parameters are kept
sorted by name, so that a space means the same whichever order a store or a YAML file gives its keys in. Values are
what JSON holds: int, float, and for categoricals any JSON value. Immutable; Optuna is imported only where needed.

Optuna never sees a categorical's values, only their index: `1`, `1.0` and `True` stay three choices, and a list
or a mapping may be one.
"""

from __future__ import annotations

import difflib
import hashlib
import json
import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from decimal import Decimal
from typing import TYPE_CHECKING, Any

from o9.model.errors import OptimizationValidationError

if TYPE_CHECKING:
    from optuna.distributions import BaseDistribution
    from optuna.trial import Trial as OptunaTrial

FIELD = "metadata.search_space"
# Beyond it two neighbouring integers share one float64, in which samplers compute.
LARGEST_INT = 2**53


@dataclass(frozen=True)
class IntParameter:
    """An integer from `low` to `high`, both included, `step` apart or on a logarithmic scale."""

    name: str
    low: int
    high: int
    step: int = 1
    log: bool = False

    def grid(self) -> range:
        return range(self.low, self.high + 1, self.step)

    def contains(self, value: Any) -> bool:
        return _is_int(value) and int(value) in self.grid()

    def to_dict(self) -> dict[str, Any]:
        return {"type": "int", "low": self.low, "high": self.high, "step": self.step, "log": self.log}


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
        return _steps_between(self.low, self.high, self.step) + 1

    def grid_value(self, index: int) -> float:
        return self.low if self.step is None else _on_grid(self.low, index, self.step)

    def contains(self, value: Any) -> bool:
        if not _is_number(value) or not self.low <= value <= self.high:
            return False
        if self.step is None:
            return True
        position = (value - self.low) / self.step
        return bool(abs(position - round(position)) < 1e-8)

    def to_dict(self) -> dict[str, Any]:
        return {"type": "float", "low": self.low, "high": self.high, "step": self.step, "log": self.log}


@dataclass(frozen=True)
class CategoricalParameter:
    """One of `choices`, told apart by how JSON writes them."""

    name: str
    choices: tuple[Any, ...]
    positions: dict[str, int] = field(init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "positions", {_json(choice): index for index, choice in enumerate(self.choices)})

    def index(self, value: Any) -> int | None:
        """Where `value` stands among the choices; None where it is not one of them."""
        try:
            return self.positions.get(_json(value))
        except (TypeError, ValueError):
            return None

    def contains(self, value: Any) -> bool:
        return self.index(value) is not None

    def to_dict(self) -> dict[str, Any]:
        return {"type": "categorical", "choices": list(self.choices)}


Parameter = IntParameter | FloatParameter | CategoricalParameter


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

    def grid_size(self, field: str = FIELD) -> int:
        """How many different sets there are. Raises OptimizationValidationError for a float without a step."""
        return math.prod(_grid_size(parameter, field) for parameter in self.parameters)

    def grid_point(self, index: int) -> dict[str, Any]:
        """Set number `index` of the grid, 0 to `grid_size() - 1`; the last parameter by name varies fastest."""
        point: dict[str, Any] = {}
        for parameter in reversed(self.parameters):
            index, position = divmod(index, _grid_size(parameter, FIELD))
            point[parameter.name] = _grid_value(parameter, position)
        return {name: point[name] for name in self.names}

    def distributions(self) -> dict[str, BaseDistribution]:
        """Optuna's distributions, categoricals by index."""
        from optuna.distributions import CategoricalDistribution, FloatDistribution, IntDistribution

        result: dict[str, BaseDistribution] = {}
        for parameter in self.parameters:
            match parameter:
                case IntParameter(name, low, high, step, log):
                    result[name] = IntDistribution(low, high, log=log, step=step)
                case FloatParameter(name, low, high, step, log):
                    result[name] = FloatDistribution(low, high, log=log, step=step)
                case CategoricalParameter(name, choices):
                    result[name] = CategoricalDistribution(tuple(range(len(choices))))
        return result

    def suggest(self, trial: OptunaTrial) -> dict[str, Any]:
        """Let an Optuna trial choose, and answer in our values."""
        chosen: dict[str, Any] = {}
        for parameter in self.parameters:
            match parameter:
                case IntParameter(name, low, high, step, log):
                    chosen[name] = trial.suggest_int(name, low, high, step=step, log=log)
                case FloatParameter(name, low, high, step, log):
                    chosen[name] = trial.suggest_float(name, low, high, step=step, log=log)
                case CategoricalParameter(name, choices):
                    chosen[name] = trial.suggest_categorical(name, tuple(range(len(choices))))
        return self.from_optuna(chosen)

    def from_optuna(self, chosen: Mapping[str, Any]) -> dict[str, Any]:
        """Optuna's values to ours: plain int and float, and a choice for its index."""
        return {parameter.name: _external(parameter, chosen[parameter.name]) for parameter in self.parameters}

    def to_optuna(self, parameters: Mapping[str, Any]) -> dict[str, Any]:
        """Our values to Optuna's; the inverse of `from_optuna` for a set that the space contains."""
        return {
            parameter.name: (
                parameter.index(parameters[parameter.name])
                if isinstance(parameter, CategoricalParameter)
                else parameters[parameter.name]
            )
            for parameter in self.parameters
        }


def _external(parameter: Parameter, value: Any) -> Any:
    match parameter:
        case IntParameter():
            return int(value)
        case FloatParameter():
            return float(value)
        case CategoricalParameter(_, choices):
            return choices[value]


def _grid_size(parameter: Parameter, field: str) -> int:
    match parameter:
        case IntParameter():
            return len(parameter.grid())
        case CategoricalParameter(_, choices):
            return len(choices)
        case FloatParameter(name):
            size = parameter.grid_size()
            if size is None:
                raise OptimizationValidationError(
                    f"{field}.{name}.step", "the grid sampler needs a step for every float; give one or another sampler"
                )
            return size


def _grid_value(parameter: Parameter, position: int) -> Any:
    match parameter:
        case IntParameter():
            return parameter.grid()[position]
        case CategoricalParameter(_, choices):
            return choices[position]
        case FloatParameter():
            return parameter.grid_value(position)


def _parse_parameter(name: str, raw: Any, field: str) -> Parameter:
    if not isinstance(raw, Mapping):
        raise OptimizationValidationError(
            field, f'expected a mapping such as {{"type": "float", "low": 0, "high": 1}}, got {_kind(raw)}'
        )
    kind = raw.get("type")
    if kind not in _KEYS:
        raise OptimizationValidationError(f"{field}.type", f"{kind!r} is not one of {', '.join(_KEYS)}")
    for key in raw:
        if key not in _KEYS[kind]:
            raise OptimizationValidationError(f"{field}.{key}", f"no such key{_near(key, _KEYS[kind])}")
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
    if step is not None:
        high = _on_grid(low, _steps_between(low, high, step), step)
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
            text = _json(choice)
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
    if not _storable(name):
        raise OptimizationValidationError(field, f"the name {name!r} has characters that no store can hold")


def _integer(value: Any, field: str) -> int:
    if not _is_int(value):
        raise OptimizationValidationError(field, f"expected a whole number, got {value!r} ({_kind(value)})")
    if abs(value) > LARGEST_INT:
        raise OptimizationValidationError(field, f"{value} is beyond ±2**53, where samplers cannot tell integers apart")
    return int(value)


def _finite(value: Any, field: str) -> float:
    if not _is_number(value):
        raise OptimizationValidationError(field, f"expected a number, got {value!r} ({_kind(value)})")
    try:
        number = float(value)
    except OverflowError:
        number = math.inf
    if not math.isfinite(number):
        raise OptimizationValidationError(field, f"{value!r:.40} is not finite; give a finite bound")
    return number


def _steps_between(low: float, high: float, step: float) -> int:
    """Whole steps from low to high, in decimal as written, so that 0.1 goes three times into 0.3."""
    return int((Decimal(str(high)) - Decimal(str(low))) // Decimal(str(step)))


def _on_grid(low: float, index: int, step: float) -> float:
    return float(Decimal(str(low)) + index * Decimal(str(step)))


def _json(value: Any) -> str:
    text = json.dumps(value, allow_nan=False, sort_keys=True, ensure_ascii=False)
    if not _storable(text) or "\\u0000" in text:
        raise ValueError("it has characters that no store can hold (NUL, or half of a surrogate pair)")
    return text


def _storable(text: str) -> bool:
    return "\0" not in text and not any("\ud800" <= character <= "\udfff" for character in text)


def _is_int(value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool)


def _is_number(value: Any) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool)


def _kind(value: Any) -> str:
    return type(value).__name__


def _near(key: Any, known: tuple[str, ...]) -> str:
    close = difflib.get_close_matches(str(key), known, n=1)
    return f"; did you mean {close[0]}?" if close else f"; there are {', '.join(known)}"


_KEYS: dict[Any, tuple[str, ...]] = {
    "int": ("type", "low", "high", "step", "log"),
    "float": ("type", "low", "high", "step", "log"),
    "categorical": ("type", "choices"),
}
