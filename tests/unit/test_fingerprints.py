"""Fingerprints of code: of the file, or of the compiled code without one."""

from __future__ import annotations

import functools
import importlib.util
import json
import math
from dataclasses import replace
from pathlib import Path
from types import ModuleType
from typing import Any

from contract_steps import new

from o9.model.search_space import SearchSpace
from o9.model.trial import Ran
from o9.strategies import registry
from o9.strategies.factory import provenance_of, search_space_of
from o9.strategies.fingerprints import code_fingerprint

SOURCE = """
import functools

def wrapped(function):
    @functools.wraps(function)
    def inner(*args):
        return function(*args)
    return inner

def one(parameters):
    return parameters["x"] in {1, 2, 3}

@wrapped
def other(parameters):
    return 2.0

class Strategy:
    def step(self, state, step, checkpoint):
        return (lambda: step + 1)()
"""


def loaded(path: Path, source: str) -> ModuleType:
    path.write_text(source)
    spec = importlib.util.spec_from_file_location("desk_models", path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def typed_in(source: str) -> dict[str, Any]:
    """As at a prompt: no file, and no module that could have one."""
    names: dict[str, Any] = {"__name__": "a_prompt"}
    exec(compile(source, "<stdin>", "exec"), names)
    return names


def test_a_fingerprint_covers_the_whole_file(tmp_path: Path) -> None:
    module = loaded(tmp_path / "models.py", SOURCE)
    partly = functools.partial(module.one)
    things = [module.one, module.other, partly, functools.partial(partly), module.Strategy.step]
    assert len({code_fingerprint(thing) for thing in things}) == 1
    assert len(code_fingerprint(module.one)) == 32
    before = code_fingerprint(module.one)
    (tmp_path / "models.py").write_text(SOURCE + "# nothing but a comment")
    assert code_fingerprint(module.one) != before


def test_without_a_file_the_fingerprint_covers_the_compiled_code() -> None:
    first, again, changed = typed_in(SOURCE), typed_in(SOURCE), typed_in(SOURCE.replace("2, 3", "2, 4"))
    assert code_fingerprint(first["one"]) == code_fingerprint(again["one"]) != ""
    assert code_fingerprint(changed["one"]) != code_fingerprint(first["one"])
    deeper = typed_in(SOURCE.replace("step + 1", "step + 2"))
    for one, other, equal in ((first, again, True), (first, deeper, False)):
        assert (code_fingerprint(one["Strategy"]) == code_fingerprint(other["Strategy"])) is equal
    assert code_fingerprint(first["Strategy"]()) == code_fingerprint(first["Strategy"])


def test_c_code_has_no_fingerprint() -> None:
    assert code_fingerprint(math.sin) == code_fingerprint(object()) == ""


def test_the_provenance_of_an_attempt(monkeypatch: Any) -> None:
    monkeypatch.setitem(registry._registered, "objective", {})
    monkeypatch.setitem(registry._registered, "strategy", {})
    registry.objective("here", data="prices-v1", search_space={"x": {"type": "int", "low": 1, "high": 9}})(_objective)
    code = code_fingerprint(_objective)
    ran = provenance_of(new("a", metadata={"objective": "here"}), 3)
    assert replace(ran, search_space="") == Ran(3, "here", code, "prices-v1")
    state = new("a", metadata={"objective": "elsewhere:here"})
    assert search_space_of(state) is None
    space = search_space_of(state, [replace(ran, search_space=""), ran])
    assert space == SearchSpace.parse({"x": {"type": "int", "low": 1, "high": 9}})
    assert search_space_of(state, [ran, replace(ran, search_space="")]) is None  # recorded before there was one
    given = {"y": {"type": "int", "low": 1, "high": 2}}
    own = new("a", metadata={"objective": "here", "search_space": given})
    assert json.loads(provenance_of(own, 1).search_space) == SearchSpace.parse(given).to_dict()
    assert search_space_of(own, [ran]) == SearchSpace.parse(given)
    registry.register_strategy("own", _Own)
    assert provenance_of(new("a", metadata={"strategy": "own"}), 1) == Ran(1, "own", code, "")


def _objective(parameters: dict[str, Any]) -> float:
    return 1.0


class _Own:
    def step(self, state: Any, step: int, checkpoint: Any) -> None: ...
