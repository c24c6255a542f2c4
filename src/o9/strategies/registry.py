"""Objectives and strategies, found by name.

Contract. A name is looked up in this order: what this process registered (`@objective`, `register_strategy`); what
O9 brings along (`o9.objectives.catalogue`, and the strategy `optuna`, also called `default`); the entry points of the
group `o9.objectives` or `o9.strategies`; and, where it has a colon, the import path `package.module:name`. Who calls
from outside (a request, a Prefect parameter) passes `allowed_imports`: only modules under those prefixes are imported
then, and what is refused is refused before anything is imported. `None` is a caller who could run any code anyway.
Unknown names raise OptimizationStrategyError with near matches. Registering twice under one name keeps the last; the
built-in strategies cannot be replaced. Thread-safe.
"""

from __future__ import annotations

import difflib
import importlib
import inspect
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from enum import Enum
from functools import cache, cached_property
from importlib.metadata import EntryPoint, entry_points
from typing import Any, TypeVar

from o9.model.errors import OptimizationStrategyError, OptimizationValidationError
from o9.model.trial import fingerprint
from o9.objectives.catalogue import BUILTIN, BuiltinObjective

OBJECTIVES_GROUP = "o9.objectives"
STRATEGIES_GROUP = "o9.strategies"
BUILT_IN_STRATEGIES = ("default", "optuna")

F = TypeVar("F", bound=Callable[..., Any])


@dataclass(frozen=True)
class Objective:
    """A function to optimize, with the defaults that its author gave.

    `locator` is `module:name` where a fresh process can import the function by it; None where it has to be shipped.
    `total_steps` 0 leaves their number to the strategy. `truncatable`: see `objective`.
    """

    name: str
    function: Callable[..., Any]
    search_space: Mapping[str, Any] | None = None
    direction: str | None = None
    baseline: float | None = None
    data: Any = field(default=None, repr=False)
    locator: str | None = None
    total_steps: int = 0
    trials_per_step: int = 1
    truncatable: bool = False

    @cached_property
    def is_async(self) -> bool:
        return is_async(self.function)

    @cached_property
    def data_fingerprint(self) -> str | None:
        """Of `data`; hashed when first asked for, because data may be large and most readers never ask."""
        if self.data is None:
            return None
        try:
            return fingerprint(self.data)
        except TypeError as error:
            raise OptimizationStrategyError(f"objective {self.name!r}: {error}") from error

    def family(self, data_fingerprint: str | None = None) -> str:
        """Whose trials count together: the objective on this data. An evaluation's own fingerprint wins."""
        data_name = data_fingerprint or self.data_fingerprint
        return f"{self.name}@{data_name}" if data_name else self.name


class StrategyKind(str, Enum):
    """How a strategy is written."""

    OPTUNA = "optuna"
    STEPS = "steps"
    COROUTINE = "coroutine"


@dataclass(frozen=True)
class ResolvedStrategy:
    """A strategy and how it is written. `target` is None for the built-in one."""

    name: str
    kind: StrategyKind
    target: Any = None


_objectives: dict[str, Objective] = {}
_strategies: dict[str, ResolvedStrategy] = {}


def objective(
    name: str,
    *,
    search_space: Mapping[str, Any] | None = None,
    data: Any = None,
    direction: str | None = None,
    baseline: float | None = None,
    truncatable: bool = False,
) -> Callable[[F], F]:
    """Register the sync or async function below under `name`; the function stays as it is.

    `data` is what it computes on, or the name of it: see `o9.model.trial.fingerprint`. `truncatable` lets O9 look for a
    look-ahead: the function takes a keyword `periods` too, None by default; with a number it computes as if its data
    ended with that many returns, closes nothing at their end, and gives exactly those. One whose decisions then end a
    day before its returns is also seen to forget a shift.

    >>> @objective("parabola", search_space={"x": {"type": "float", "low": -1, "high": 1}})
    ... def parabola(parameters):
    ...     return -parameters["x"] ** 2
    >>> parabola({"x": 0.5})
    -0.25
    """
    _check_name(name, "objective")
    if direction not in (None, "maximize", "minimize"):
        raise OptimizationValidationError("direction", f"{direction!r} is not one of maximize, minimize")

    def register(function: F) -> F:
        if not callable(function):
            raise OptimizationStrategyError(f"objective {name!r}: expected a function, got {type(function).__name__}")
        if truncatable and not _takes_periods(function):
            raise OptimizationStrategyError(
                f"objective {name!r}: a truncatable one takes the keyword `periods`: def {name}(parameters, *, "
                "periods=None)"
            )
        _objectives[name] = Objective(name, function, search_space, direction, baseline, data, truncatable=truncatable)
        return function

    return register


def register_strategy(name: str, thing: Any) -> None:
    """Register a class or an instance with `step()`, or a coroutine function that takes the optimization."""
    _check_name(name, "strategy")
    if name in BUILT_IN_STRATEGIES:
        raise OptimizationStrategyError(f"strategy {name!r} is built in; register yours under another name")
    _strategies[name] = _classify(name, thing)


def resolve_objective(name: str, *, allowed_imports: tuple[str, ...] | None = None) -> Objective:
    """The objective of this name. Raises OptimizationStrategyError: unknown, refused, or its import failed."""
    if name in BUILTIN and name not in _objectives:
        return _from_catalogue(BUILTIN[name])
    found = _find(name, "objective", OBJECTIVES_GROUP, _objectives, allowed_imports)
    if isinstance(found, Objective):
        return found
    target, locator = found
    if not callable(target):
        raise OptimizationStrategyError(f"objective {name!r}: {locator} is not a function but {type(target).__name__}")
    for known in list(_objectives.values()):  # what its decorator said goes with it, whatever it is called here
        if known.function is target:
            return replace(known, name=name, locator=locator)
    return Objective(name, target, locator=locator)


def resolve_strategy(name: str, *, allowed_imports: tuple[str, ...] | None = None) -> ResolvedStrategy:
    """The strategy of this name. Raises OptimizationStrategyError: unknown, refused, or neither kind of strategy."""
    if name in BUILT_IN_STRATEGIES:
        return ResolvedStrategy("optuna", StrategyKind.OPTUNA)
    found = _find(name, "strategy", STRATEGIES_GROUP, _strategies, allowed_imports)
    return found if isinstance(found, ResolvedStrategy) else _classify(name, found[0])


def objective_names() -> list[str]:
    """Every name that can be resolved without an import path."""
    return sorted({*_objectives, *BUILTIN, *_entry_points(OBJECTIVES_GROUP)})


def strategy_names() -> list[str]:
    """Every name that can be resolved without an import path."""
    return sorted({*_strategies, *_entry_points(STRATEGIES_GROUP), *BUILT_IN_STRATEGIES})


def import_allowed(module: str, allowed_imports: tuple[str, ...] | None) -> bool:
    """Is `module` one of the prefixes or inside one? `desk` allows `desk.models`, never `desktop`."""
    if allowed_imports is None:
        return True
    return any(module == prefix or module.startswith(f"{prefix}.") for prefix in allowed_imports if prefix)


def is_async(function: Any) -> bool:
    """Does calling it give an awaitable? True for coroutine functions and objects with an async `__call__`."""
    return inspect.iscoroutinefunction(function) or (
        not inspect.isroutine(function) and inspect.iscoroutinefunction(getattr(function, "__call__", None))  # noqa: B004
    )


def _find(
    name: Any, what: str, group: str, registered: Mapping[str, Any], allowed_imports: tuple[str, ...] | None
) -> Any:
    """What was registered, or the pair (imported object, where it came from)."""
    if not isinstance(name, str) or not name:
        raise OptimizationStrategyError(f"{what}: expected a name, got {name!r}")
    if name in registered:
        return registered[name]
    if name in (points := _entry_points(group)):
        return _import(points[name].value.partition("[")[0].strip(), what, name)
    if ":" not in name:
        raise OptimizationStrategyError(_unknown(name, what, group))
    module = name.partition(":")[0]
    if not import_allowed(module, allowed_imports):
        raise OptimizationStrategyError(
            f"{what} {name!r} may not be imported on request; whoever operates O9 can allow it by adding "
            f"{module.partition('.')[0]!r} to O9_ALLOWED_IMPORTS, or register it by name"
        )
    return _import(name, what, name)


def _import(locator: str, what: str, name: str) -> tuple[Any, str]:
    module_name, _, attributes = locator.partition(":")
    if not all(part.isidentifier() for part in f"{module_name}.{attributes}".split(".")):
        raise OptimizationStrategyError(f"{what} {name!r} is not an import path such as package.module:function")
    try:
        target: Any = importlib.import_module(module_name)
    except Exception as error:
        raise OptimizationStrategyError(
            f"{what} {name!r}: importing {module_name} failed: {type(error).__name__}: {error}"
        ) from error
    for attribute in attributes.split("."):
        if not hasattr(target, attribute):
            near = difflib.get_close_matches(attribute, dir(target), n=1)
            hint = f"; did you mean {near[0]}?" if near else ""
            raise OptimizationStrategyError(f"{what} {name!r}: {module_name} has no {attribute!r}{hint}")
        target = getattr(target, attribute)
    return target, locator


def _from_catalogue(entry: BuiltinObjective) -> Objective:
    function, locator = _import(entry.path, "objective", entry.name)
    return Objective(
        entry.name,
        function,
        search_space=entry.search_space,
        direction=entry.direction,
        data=entry.data,
        locator=locator,
        total_steps=entry.total_steps,
        trials_per_step=entry.trials_per_step,
        truncatable=entry.truncatable,
    )


def _unknown(name: str, what: str, group: str) -> str:
    known = objective_names() if group == OBJECTIVES_GROUP else strategy_names()
    near = difflib.get_close_matches(name, known, n=3)
    hint = f"; did you mean {' or '.join(near)}?" if near else ""
    return (
        f"there is no {what} {name!r}{hint} (known are {', '.join(known)}). Register it in this process, give it an "
        f"entry point in the group {group}, or name it as package.module:name"
    )


def _classify(name: str, thing: Any) -> ResolvedStrategy:
    if callable(getattr(thing, "step", None)):
        return ResolvedStrategy(name, StrategyKind.STEPS, thing)
    if not inspect.isclass(thing) and is_async(thing):
        return ResolvedStrategy(name, StrategyKind.COROUTINE, thing)
    raise OptimizationStrategyError(
        f"strategy {name!r}: expected a class or an object with a method step(state, step, checkpoint), or "
        f"`async def strategy(optimization)`; got {getattr(thing, '__qualname__', type(thing).__name__)}"
    )


def _takes_periods(function: Any) -> bool:
    try:
        inspect.signature(function).bind({}, periods=1)
    except TypeError:
        return False
    except ValueError:
        return True  # one written in C says nothing of what it takes
    return True


def _check_name(name: Any, what: str) -> None:
    if not isinstance(name, str) or not name.strip():
        raise OptimizationValidationError(what, f"its name must be text that is not empty, got {name!r}")
    if ":" in name:
        raise OptimizationValidationError(what, f"{name!r}: a colon marks an import path; choose a name without one")


@cache
def _entry_points(group: str) -> dict[str, EntryPoint]:
    return {point.name: point for point in entry_points(group=group)}
