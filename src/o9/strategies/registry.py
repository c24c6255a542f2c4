"""Objectives, strategies and scores, found by name.

Contract. A name is looked up in this order: registrations in this process (`@objective`, `register_strategy`,
`register_score`); built-in names (`o9.demo.catalogue`, the strategy `optuna`, also called `default`, and
`o9.workers.scores`); the entry points of the group `o9.objectives`, `o9.strategies` or `o9.scores`; and, if it has a
colon, the import path `package.module:name`.

`allowed_imports` are the module prefixes that an import path may have; if empty, none is allowed. Other modules are not
imported, and an object that an allowed module has imported from another one is refused unless it was registered.
Callers that act for somebody else (a request, a Prefect parameter) pass `allowed_imports`. None is for a caller on this
machine and for a node that reads its store: O9_ALLOWED_IMPORTS applies if it is set, else every path is allowed.

Unknown names raise OptimizationStrategyError with near matches. Registering a name again replaces it, but built-in
strategies and scores cannot be replaced. Thread-safe.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, fields, replace
from enum import Enum
from functools import cache, cached_property, lru_cache
from importlib.metadata import EntryPoint, entry_points
from typing import Any, Literal, TypeVar, get_type_hints, is_typeddict

from o9.demo.catalogue import BUILTIN
from o9.model.errors import OptimizationStrategyError, OptimizationValidationError
from o9.model.strategy import BUILT_IN_STRATEGIES, DEMONSTRATION, PLACEBO
from o9.model.trial import fingerprint
from o9.text.suggest import hint_of
from o9.user_code.import_paths import ImportPathError, find, module_of
from o9.workers.objective_data import SHUFFLE, is_kind
from o9.workers.scores import SCORES, Score

What = Literal["objective", "strategy", "score"]
_GROUPS: dict[What, str] = {"objective": "o9.objectives", "strategy": "o9.strategies", "score": "o9.scores"}
_TARGET: dict[What, str] = {"objective": "function", "strategy": "target", "score": ""}  # the registration's attribute
_BUILT_IN: dict[What, Iterable[str]] = {"objective": BUILTIN, "strategy": BUILT_IN_STRATEGIES, "score": SCORES}
F = TypeVar("F", bound=Callable[..., Any])


@dataclass(frozen=True)
class Objective:
    """A function to optimize, with its author's defaults.

    `locator` is the import path `module:name`; None if the function has to be pickled. With `total_steps` 0 the
    strategy chooses their number. `truncatable`: see `objective`. `gives_value`: it is known to return a value of its
    own, so that O9 does not compute one.
    """

    name: str
    function: Callable[..., Any]
    search_space: Mapping[str, Any] | None = None
    direction: str | None = None
    data: Any = field(default=None, repr=False)
    locator: str | None = None
    total_steps: int = 0
    trials_per_step: int = 1
    truncatable: bool = False
    gives_value: bool = False
    placebo: Any = SHUFFLE

    @cached_property
    def takes_data(self) -> bool:
        """Whether the function is called with `data`: data are declared, and it has a parameter of that name."""
        return self.data is not None and not isinstance(self.data, str) and _has_parameter(self.function, "data")

    @property
    def takes(self) -> frozenset[str] | None:
        """The parameters that a TypedDict in its signature names; None without one."""
        return _named_parameters(self.function) if getattr(self.function, "__annotations__", None) else None

    @cached_property
    def is_async(self) -> bool:
        """Whether it runs in the event loop; a sync one runs in a child process."""
        return is_async(self.function)

    @cached_property
    def data_fingerprint(self) -> str | None:
        """The fingerprint of `data`, computed at first use, because data may be large."""
        if self.data is None:
            return None
        try:
            return fingerprint(self.data() if callable(self.data) else self.data)
        except TypeError as error:
            raise OptimizationStrategyError(f"objective {self.name!r}: {error}") from error

    def family(self, data_fingerprint: str | None = None) -> str:
        """Return the family: the objective and its data, by the fingerprint of the evaluation if that has one."""
        data_name = data_fingerprint or self.data_fingerprint
        return f"{self.name}@{data_name}" if data_name else self.name


@lru_cache(maxsize=1_024)  # every submission makes an Objective and asks
def _named_parameters(function: Callable[..., Any]) -> frozenset[str] | None:
    try:
        first = next(iter(inspect.signature(function, eval_str=True).parameters.values()), None)
    except (TypeError, ValueError, NameError):
        return None
    return frozenset(get_type_hints(first.annotation)) if first and is_typeddict(first.annotation) else None


class StrategyKind(str, Enum):
    """How a strategy is written."""

    OPTUNA = "optuna"
    STEPS = "steps"
    COROUTINE = "coroutine"


@dataclass(frozen=True)
class ResolvedStrategy:
    """A strategy and how it is written. `target` is None for the built-in one. `metadata`: keys of its own."""

    name: str
    kind: StrategyKind
    target: Any = None
    metadata: tuple[str, ...] = ()


_registered: dict[What, dict[str, Any]] = {"objective": {}, "strategy": {}, "score": {}}


def objective(
    name: str,
    *,
    search_space: Mapping[str, Any] | None = None,
    data: Any = None,
    direction: str | None = None,
    truncatable: bool = False,
    placebo: Any = SHUFFLE,
) -> Callable[[F], F]:
    """Register the decorated sync or async function under `name`, and return it unchanged.

    data: the data it uses, a function that loads them, or a name for them (`o9.model.trial.fingerprint`). A function
        with a parameter `data` is called with the data, which it must not change; this makes placebo runs possible.
    placebo: how a placebo run destroys the edge in the data: "shuffle", "bootstrap:20", "bootstrap:auto", "shift" or a
        function; see `o9.workers.resampling`.
    truncatable: the function has a keyword parameter `periods`, None by default. With a number it computes as if its
        data ended with that many returns, closes no position at their end, and returns exactly those. O9 then checks
        for a look-ahead, and `metadata.hold_out` can keep the last part of the data from the search. If decisions end a
        day before the returns, a missing shift is found, too.

    >>> @objective("parabola", search_space={"x": {"type": "float", "low": -1, "high": 1}})
    ... def parabola(parameters):
    ...     return -parameters["x"] ** 2
    >>> parabola({"x": 0.5})
    -0.25
    """
    _check_name(name, "objective")
    if direction not in (None, "maximize", "minimize"):
        raise OptimizationValidationError("direction", f"{direction!r} is not one of maximize, minimize")

    if not is_kind(placebo):
        raise OptimizationValidationError(
            "placebo", f"{placebo!r:.60} is not shuffle, bootstrap, bootstrap:20, bootstrap:auto, shift, or a function"
        )

    def register(function: F) -> F:
        if not callable(function):
            raise OptimizationStrategyError(f"objective {name!r}: expected a function, got {type(function).__name__}")
        if truncatable and not _has_parameter(function, "periods", or_any=True):
            raise OptimizationStrategyError(
                f"objective {name!r}: a truncatable one takes the keyword `periods`: def {name}(parameters, *, "
                "periods=None)"
            )
        _registered["objective"][name] = Objective(
            name, function, search_space, direction, data, truncatable=truncatable, placebo=placebo
        )
        return function

    return register


def register_strategy(name: str, thing: Any, *, metadata: Sequence[str] = ()) -> None:
    """Register a class or an instance with `step()`, or a coroutine function that takes the optimization.

    `metadata`: keys that it reads from the metadata, in addition to O9's (`o9.model.specification.Metadata`).
    """
    _check_name(name, "strategy")
    if name in (*BUILT_IN_STRATEGIES, DEMONSTRATION, PLACEBO):
        raise OptimizationStrategyError(f"strategy {name!r} is built in; register yours under another name")
    if isinstance(metadata, str) or not all(isinstance(key, str) and key for key in metadata):
        raise OptimizationValidationError("metadata", f'expected keys such as ("desk",), got {metadata!r:.100}')
    _registered["strategy"][name] = replace(_classify(name, thing), metadata=tuple(metadata))


def register_score(name: str, function: Score) -> None:
    """Register `function(returns, periods_per_year)` as a score that `metadata.score` can name.

    returns: simple returns per period before the hold-out, as a numpy array of float64. periods_per_year: None if the
    objective does not return it. The result is one finite number; if the function raises, the trial has failed. It runs
    in the objective's process.
    """
    _check_name(name, "score")
    if name in SCORES:
        raise OptimizationStrategyError(f"score {name!r} is built in; register yours under another name")
    if not callable(function) or is_async(function):
        raise OptimizationStrategyError(
            f"score {name!r}: expected a function(returns, periods_per_year), got {type(function).__name__}"
        )
    _registered["score"][name] = function


def resolve_score(name: str, *, allowed_imports: tuple[str, ...] | None = None) -> Score | None:
    """Return the function of this name; None for a built-in one. Raises as `resolve_objective`."""
    if name in SCORES:
        return None
    found: Score = _find(name, "score", allowed_imports)[0]
    if not callable(found):
        raise OptimizationStrategyError(f"score {name!r} is not a function but {type(found).__name__}")
    return found


def resolve_objective(name: str, *, allowed_imports: tuple[str, ...] | None = None) -> Objective:
    """Return the objective of this name. Raises OptimizationStrategyError if it is unknown, refused or broken."""
    found, locator = _find(name, "objective", allowed_imports)
    if isinstance(found, Objective):
        return found if locator is None else replace(found, name=name, locator=locator)
    if not callable(found):
        raise OptimizationStrategyError(f"objective {name!r}: {locator} is not a function but {type(found).__name__}")
    return Objective(name, found, locator=locator)


def resolve_strategy(name: str, *, allowed_imports: tuple[str, ...] | None = None) -> ResolvedStrategy:
    """Return the strategy of this name. Raises as `resolve_objective`, and if it is not a strategy."""
    found, locator = _find(name, "strategy", allowed_imports)
    if isinstance(found, ResolvedStrategy):
        return found if locator is None else replace(found, name=name)
    return _classify(name, found)


def names_of(what: What) -> list[str]:
    """Return every name that can be resolved without an import path."""
    return sorted({*_registered[what], *_BUILT_IN[what], *_entry_points(what)})


def objectives_found_anywhere(allowed_imports: tuple[str, ...] | None) -> list[str]:
    """Return the names that every process can resolve, and the import paths of what allowed modules registered."""
    functions = (each.function for each in _registered["objective"].values())
    paths = {
        f"{function.__module__}:{function.__qualname__}"
        for function in functions
        if inspect.isfunction(function) and import_allowed(function.__module__, allowed_imports)
    }
    importable = {path for path in paths if "<" not in path and not path.startswith("__main__:")}
    return sorted({*_BUILT_IN["objective"], *_entry_points("objective"), *importable})


def import_allowed(module: str, allowed_imports: tuple[str, ...] | None) -> bool:
    """Whether `module` is one of the prefixes or inside one: `desk` allows `desk.models`, but not `desktop`."""
    if allowed_imports is None:
        return True
    return any(module == prefix or module.startswith(f"{prefix}.") for prefix in allowed_imports if prefix)


def is_async(function: Any) -> bool:
    """Whether it is a coroutine function or an object with an async `__call__`."""
    return inspect.iscoroutinefunction(function) or (
        not inspect.isroutine(function) and inspect.iscoroutinefunction(getattr(function, "__call__", None))  # noqa: B004
    )


def _find(name: str, what: What, allowed_imports: tuple[str, ...] | None) -> tuple[Any, str | None]:
    """Return the registration of this name and None; or, for an import path or an entry point, its object and the path.

    If the object is registered, its registration is returned instead.
    """
    if not isinstance(name, str) or not name:
        raise OptimizationStrategyError(f"{what}: expected a name, got {name!r}")
    if name in _registered[what]:
        return _registered[what][name], None
    if what == "strategy" and name in BUILT_IN_STRATEGIES:
        return ResolvedStrategy("optuna", StrategyKind.OPTUNA), None
    if what == "objective" and name in BUILTIN:
        return _from_catalogue(name), None
    if ":" not in name:
        if name in (points := _entry_points(what)):
            path = points[name].value.partition("[")[0].strip()
            target = _import(path, what, name)
            return _registration_of(target, what) or target, path
        known = names_of(what)
        raise OptimizationStrategyError(
            f"there is no {what} {name!r}{hint_of(name, known, n=3)} (known: {', '.join(known)}). Register it in this "
            f"process, add an entry point to the group {_GROUPS[what]}, or use an import path (package.module:name)"
        )
    from o9.model.settings import settings  # imports Pydantic, which a program that only registers does not need

    allowed = settings().allowed_imports or None if allowed_imports is None else allowed_imports
    module = name.partition(":")[0]
    if not import_allowed(module, allowed):
        raise OptimizationStrategyError(
            f"{what} {name!r} is not allowed: add {module.partition('.')[0]!r} to O9_ALLOWED_IMPORTS on this machine, "
            "or register it by name"
        )
    target = _import(name, what, name, allowed)
    registration = _registration_of(target, what)
    if registration is None and not import_allowed(home := module_of(target), allowed):
        raise OptimizationStrategyError(
            f"{what} {name!r} is defined in {home or 'another module'}, which O9_ALLOWED_IMPORTS does not allow; "
            f"define it in {module} itself, or register it by name"
        )
    return registration or target, name


def _registration_of(target: Any, what: What) -> Any:
    """Return the registration of this object under any name, or None."""
    known = list(_registered[what].values())
    return next((each for each in known if target is getattr(each, _TARGET[what], each)), None)


def _import(locator: str, what: str, name: str, allowed_imports: tuple[str, ...] | None = None) -> Any:
    try:
        return find(locator, lambda module: import_allowed(module, allowed_imports))
    except ImportPathError as error:
        raise OptimizationStrategyError(f"{what} {name!r}: {error}") from error
    except Exception as error:
        raise OptimizationStrategyError(
            f"{what} {name!r}: importing {locator.partition(':')[0]} failed: {type(error).__name__}: {error}"
        ) from error


@cache
def _from_catalogue(name: str) -> Objective:
    entry = BUILTIN[name]
    shared = {each.name for each in fields(entry)} & Objective.__dataclass_fields__.keys()
    declared = {name: getattr(entry, name) for name in shared}
    function = _import(entry.path, "objective", entry.name)
    return Objective(function=function, locator=entry.path, gives_value=True, **declared)


def _classify(name: str, thing: Any) -> ResolvedStrategy:
    if callable(getattr(thing, "step", None)):
        return ResolvedStrategy(name, StrategyKind.STEPS, thing)
    if not inspect.isclass(thing) and is_async(thing):
        return ResolvedStrategy(name, StrategyKind.COROUTINE, thing)
    raise OptimizationStrategyError(
        f"strategy {name!r}: expected a class or an object with a method step(state, step, checkpoint), or "
        f"`async def strategy(optimization)`; got {getattr(thing, '__qualname__', type(thing).__name__)}"
    )


def _has_parameter(function: Callable[..., Any], name: str, *, or_any: bool = False) -> bool:
    """or_any: a function with `**keywords` has every parameter."""
    try:
        parameters = inspect.signature(function).parameters
    except (TypeError, ValueError):
        return False  # a C function without a signature
    return name in parameters or (or_any and any(each.kind is each.VAR_KEYWORD for each in parameters.values()))


def _check_name(name: Any, what: str) -> None:
    if not isinstance(name, str) or not name.strip():
        raise OptimizationValidationError(what, f"its name must be a string that is not empty, got {name!r}")
    if ":" in name:
        raise OptimizationValidationError(what, f"{name!r}: a colon marks an import path; choose a name without one")


@cache
def _entry_points(what: What) -> dict[str, EntryPoint]:
    return {point.name: point for point in entry_points(group=_GROUPS[what])}
