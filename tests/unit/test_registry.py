"""Objectives and strategies by name: lookup, refusals and their messages."""

from __future__ import annotations

import functools
import subprocess
import sys
import textwrap
from collections.abc import Callable, Iterator
from importlib.metadata import EntryPoint
from pathlib import Path
from typing import Any

import pytest

from o9.model.errors import OptimizationStrategyError, OptimizationValidationError
from o9.strategies import registry
from o9.strategies.registry import (
    StrategyKind,
    import_allowed,
    is_async,
    names_of,
    objective,
    objectives_found_anywhere,
    register_strategy,
    resolve_objective,
    resolve_strategy,
)

SPACE = {"x": {"type": "float", "low": 0, "high": 1}}


@pytest.fixture(autouse=True)
def _clean_registry(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(registry._registered, "objective", {})
    monkeypatch.setitem(registry._registered, "strategy", {})


# What users have in a module: things of their own, and what those are made of.
HOLDING = """
import functools, os, subprocess, textwrap
import desk_of_tests.models as models
from subprocess import run
from textwrap import dedent
from desk_of_tests_too import neighbour

def own(parameters): return 1.0

@functools.lru_cache
def cached(parameters): return 1.0

def logged(function):
    @functools.wraps(function)
    def call(parameters): return function(parameters)
    return call

@logged
def decorated(parameters): return 1.0

class Desk:
    @staticmethod
    def objective(parameters): return 1.0
    @classmethod
    def made(cls, parameters): return 1.0
    class Inner:
        @staticmethod
        def objective(parameters): return 1.0
    run = staticmethod(subprocess.run)
    wrapper = textwrap.TextWrapper
    def step(self, state, step, checkpoint): ...

class Book:
    def __call__(self, parameters): return 1.0

book = Book()
half = functools.partial(own)
half_a_shell = functools.partial(subprocess.run, shell=True)
wrapper = textwrap.TextWrapper()
fill = wrapper.fill
bag = {}
"""


@pytest.fixture
def desk(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """An importable package `desk_of_tests` that leaves a file behind when it is imported."""
    (tmp_path / "desk_of_tests").mkdir()
    (tmp_path / "desk_of_tests/__init__.py").write_text("")
    (tmp_path / "desk_of_tests/models.py").write_text(
        "import pathlib\n"
        "pathlib.Path(__file__).with_name('imported').touch()\n"
        "def carry(parameters): return 1.0\n"
        "async def later(parameters): return 1.0\n"
        "number = 3\n"
        "class Nested:\n"
        "    @staticmethod\n"
        "    def inner(parameters): return 2.0\n"
    )
    (tmp_path / "desk_of_tests/broken.py").write_text("raise RuntimeError('no market today')\n")
    (tmp_path / "desk_of_tests/holding.py").write_text(HOLDING)
    (tmp_path / "desk_of_tests_too.py").write_text("def neighbour(parameters): return 1.0\n")
    monkeypatch.syspath_prepend(str(tmp_path))
    yield tmp_path
    for name in [name for name in sys.modules if name.startswith("desk_of_tests")]:
        del sys.modules[name]


def test_the_decorator_returns_the_function_itself() -> None:
    def crossover(parameters: dict[str, Any]) -> float:
        return float(parameters["x"] * 2.0)

    decorated = objective("crossover", search_space=SPACE, direction="minimize")(crossover)
    assert decorated is crossover
    found = resolve_objective("crossover")
    assert (found.function, found.search_space, found.direction) == (crossover, SPACE, "minimize")
    assert not found.is_async


def test_the_last_registration_wins() -> None:
    objective("twice")(lambda parameters: 1.0)
    objective("twice")(lambda parameters: 2.0)
    assert resolve_objective("twice").function({}) == 2.0


def test_partials_and_objects_are_recognized_as_async() -> None:
    async def wait(parameters: dict[str, Any]) -> float:
        return 1.0

    class Waiting:
        async def __call__(self, parameters: dict[str, Any]) -> float:
            return 1.0

    assert is_async(wait)
    assert is_async(functools.partial(wait))
    assert is_async(Waiting())
    assert not is_async(len)


def test_data_are_hashed_once_and_lazily() -> None:
    class Data:
        hashed = 0
        dtype = type("dtype", (), {"kind": "f", "str": "<f8"})
        shape = (1,)

        def tobytes(self) -> bytes:
            Data.hashed += 1
            return b"prices"

    objective("on_data", data=Data())(lambda parameters: 1.0)
    found = resolve_objective("on_data")
    assert Data.hashed == 0
    assert found.family() == f"on_data@{found.data_fingerprint}"
    assert found.family() == found.family()
    assert Data.hashed == 1
    assert found.family("other") == "on_data@other"


def test_the_family_without_data_is_the_objective() -> None:
    objective("plain")(lambda parameters: 1.0)
    assert resolve_objective("plain").family() == "plain"


def test_data_without_a_fingerprint_raise_with_a_remedy() -> None:
    objective("odd", data=object())(lambda parameters: 1.0)
    with pytest.raises(OptimizationStrategyError, match=r"objective 'odd'.*give a string"):
        _ = resolve_objective("odd").data_fingerprint


def test_built_in_objectives_are_found_by_name() -> None:
    found = resolve_objective("branin", allowed_imports=())
    assert found.locator == "o9.demo.functions:branin"
    assert found.data_fingerprint == "branin"
    assert found.trials_per_step > 1
    assert "branin" in names_of("objective")


def test_an_import_path_is_imported(desk: Path) -> None:
    found = resolve_objective("desk_of_tests.models:carry")
    assert found.function({}) == 1.0
    assert found.locator == "desk_of_tests.models:carry"
    assert resolve_objective("desk_of_tests.models:Nested.inner").function({}) == 2.0
    assert resolve_objective("desk_of_tests.models:later").is_async


def test_an_import_path_to_a_registered_function_keeps_its_registration(desk: Path) -> None:
    carry = resolve_objective("desk_of_tests.models:carry").function
    objective("carry", search_space=SPACE, data="v1")(carry)
    found = resolve_objective("desk_of_tests.models:carry")
    assert (found.search_space, found.data_fingerprint) == (SPACE, "v1")


def test_modules_that_are_not_allowed_are_not_imported(desk: Path) -> None:
    with pytest.raises(OptimizationStrategyError, match="add 'desk_of_tests' to O9_ALLOWED_IMPORTS"):
        resolve_objective("desk_of_tests.models:carry", allowed_imports=("desk_of",))
    with pytest.raises(OptimizationStrategyError, match="O9_ALLOWED_IMPORTS"):
        resolve_strategy("desk_of_tests.models:carry", allowed_imports=())
    assert not (desk / "desk_of_tests/imported").exists()
    assert resolve_objective("desk_of_tests.models:carry", allowed_imports=("x", "desk_of_tests")).function({}) == 1.0


@pytest.mark.parametrize(
    "name",
    [
        "own", "cached", "decorated", "Desk.objective", "Desk.made", "Desk.Inner.objective", "book", "half",
    ],
)  # fmt: skip
@pytest.mark.usefixtures("desk")
def test_names_that_a_module_defines_are_allowed(name: str) -> None:
    assert callable(resolve_objective(f"desk_of_tests.holding:{name}", allowed_imports=("desk_of_tests",)).function)


@pytest.mark.parametrize(
    "name",
    [
        "run", "subprocess.run", "os.system", "os.environ.get", "models.carry", "neighbour", "half_a_shell", "Desk.run",
        "Desk.wrapper", "Desk.wrapper.fill", "wrapper.fill", "fill", "textwrap.TextWrapper.fill", "book.__call__",
        "own.__globals__.get", "Desk.__subclasses__", "Desk.__class__", "Desk.step.__call__", "bag.get", "bag",
        "models", "__builtins__", "__loader__.load_module", "logged.__closure__",
    ],
)  # fmt: skip
@pytest.mark.usefixtures("desk")
def test_names_that_a_module_imports_are_refused(name: str) -> None:
    for resolve in (resolve_objective, resolve_strategy):
        with pytest.raises(OptimizationStrategyError):
            resolve(f"desk_of_tests.holding:{name}", allowed_imports=("desk_of_tests",))


@pytest.mark.usefixtures("desk")
def test_registered_objects_are_allowed_by_any_path() -> None:
    name = "desk_of_tests.holding:dedent"
    with pytest.raises(OptimizationStrategyError, match="textwrap"):
        resolve_objective(name, allowed_imports=("desk_of_tests",))
    objective("dedented", search_space=SPACE)(textwrap.dedent)
    assert resolve_objective(name, allowed_imports=("desk_of_tests",)).search_space == SPACE


def test_import_paths_never_lead_through_a_module(desk: Path) -> None:
    with pytest.raises(OptimizationStrategyError, match="'subprocess' is not a class"):
        resolve_objective("desk_of_tests.holding:subprocess.run")


def test_allowed_imports_apply_to_this_machine_too(desk: Path, set_o9: Callable[..., None]) -> None:
    set_o9(allowed_imports="desk_of_tests.holding")
    with pytest.raises(OptimizationStrategyError, match="O9_ALLOWED_IMPORTS"):
        resolve_objective("desk_of_tests.models:carry")
    assert not (desk / "desk_of_tests/imported").exists()
    assert resolve_strategy("desk_of_tests.holding:Desk").kind is StrategyKind.STEPS


@pytest.mark.parametrize(
    ("module", "prefixes", "allowed"),
    [
        ("desk", ("desk",), True),
        ("desk.x", ("desk",), True),
        ("desktop", ("desk",), False),
        ("desk", ("desk.x",), False),
        ("desk.xy", ("desk.x",), False),
        ("desk", ("",), False),
        ("desk", (), False),
        ("os", None, True),
    ],
)
def test_prefixes_end_at_dots(module: str, prefixes: tuple[str, ...] | None, allowed: bool) -> None:
    assert import_allowed(module, prefixes) is allowed


@pytest.mark.parametrize(
    ("name", "said"),
    [
        ("brannin", "did you mean branin?"),
        ("", "expected a name"),
        (None, "expected a name"),
        (3, "expected a name"),
        (["x"], "expected a name"),
        ("desk_of_tests.models:", "not an import path"),
        (":carry", "not an import path"),
        ("desk_of_tests models:carry", "not an import path"),
        ("desk_of_tests.models:cary", "did you mean carry?"),
        ("desk_of_tests.absent:carry", "importing desk_of_tests.absent failed: ModuleNotFoundError"),
        ("desk_of_tests.broken:carry", "RuntimeError: no market today"),
        ("desk_of_tests.models:number", "not a function but int"),
    ],
)
@pytest.mark.usefixtures("desk")
def test_an_unknown_objective_has_near_matches_and_a_remedy(name: Any, said: str) -> None:
    with pytest.raises(OptimizationStrategyError) as caught:
        resolve_objective(name)
    assert said in str(caught.value)


def test_an_unknown_strategy_names_the_known_ones() -> None:
    register_strategy("momentum", _Steps)
    with pytest.raises(OptimizationStrategyError, match=r"did you mean momentum\?.*default, momentum, optuna"):
        resolve_strategy("momentun")


def test_entry_points_are_always_allowed(desk: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    point = EntryPoint("carry_by_entry_point", "desk_of_tests.models:carry", "o9.objectives")
    monkeypatch.setattr(registry, "_entry_points", lambda what: {point.name: point} if what == "objective" else {})
    found = resolve_objective("carry_by_entry_point", allowed_imports=())
    assert (found.name, found.locator) == ("carry_by_entry_point", "desk_of_tests.models:carry")
    assert "carry_by_entry_point" in names_of("objective")
    assert "carry_by_entry_point" not in names_of("strategy")


def test_forms_offer_importable_objectives(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(registry._registered, "objective", {})
    objective("found_by_its_path")(_offered)
    objective("found_here_alone")(lambda parameters: 0.0)
    path = f"{__name__}:_offered"
    assert objectives_found_anywhere((__name__,)) == sorted([*objectives_found_anywhere(()), path])
    assert "branin" in objectives_found_anywhere(())
    assert resolve_objective(path).name == path


def _offered(parameters: dict[str, float]) -> float:
    return 0.0


class _Steps:
    def step(self, state: Any, step: int, checkpoint: Any) -> None: ...


async def _coroutine(optimization: Any) -> None: ...


@pytest.mark.parametrize(
    ("thing", "kind"),
    [(_Steps, StrategyKind.STEPS), (_Steps(), StrategyKind.STEPS), (_coroutine, StrategyKind.COROUTINE)],
)
def test_strategies_are_classified_by_kind(thing: Any, kind: StrategyKind) -> None:
    register_strategy("mine", thing)
    found = resolve_strategy("mine")
    assert (found.kind, found.target) == (kind, thing)


@pytest.mark.parametrize("name", ["default", "optuna"])
def test_the_built_in_strategy_cannot_be_replaced(name: str) -> None:
    assert resolve_strategy(name).kind is StrategyKind.OPTUNA
    with pytest.raises(OptimizationStrategyError, match="built in"):
        register_strategy(name, _Steps)


@pytest.mark.parametrize("thing", [len, object(), lambda optimization: None, object, None, 3])
def test_an_object_that_is_not_a_strategy_is_refused(thing: Any) -> None:
    with pytest.raises(OptimizationStrategyError, match="strategy 'odd': expected a class or an object"):
        register_strategy("odd", thing)


@pytest.mark.parametrize("name", ["", "  ", None, "a:b"])
def test_invalid_names_are_refused(name: Any) -> None:
    with pytest.raises(OptimizationValidationError):
        objective(name)
    with pytest.raises(OptimizationValidationError):
        register_strategy(name, _Steps)


def test_an_unknown_direction_is_refused() -> None:
    with pytest.raises(OptimizationValidationError, match="direction: 'up' is not one of maximize, minimize"):
        objective("x", direction="up")


@pytest.mark.slow
def test_importing_the_registry_is_cheap() -> None:
    code = (
        "import sys, o9.strategies.registry, o9.workers.worker\n"
        "heavy = {'optuna', 'numpy', 'prefect', 'sqlalchemy', 'pydantic', 'pandas', 'scipy', 'torch', 'cmaes'}\n"
        "sys.exit(str(heavy & set(sys.modules)) if heavy & set(sys.modules) else 0)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
