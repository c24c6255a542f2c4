"""The search space: what it accepts, how it names what it refuses, and what holds for every one of them."""

from __future__ import annotations

import json
import math
from typing import Any

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from o9.model.errors import OptimizationValidationError
from o9.model.search_space import SearchSpace

INT = {"type": "int", "low": 2, "high": 60}
FLOAT = {"type": "float", "low": 0.0, "high": 1.0}


@pytest.mark.parametrize(
    ("raw", "field", "problem"),
    [
        (None, "metadata.search_space", "expected a mapping"),
        ([INT], "metadata.search_space[0].name", "it is missing"),
        ({}, "metadata.search_space", "empty"),
        ({"": INT}, "metadata.search_space", "it is empty"),
        ({" ": INT}, "metadata.search_space. ", "it is empty"),
        ({3: INT}, "metadata.search_space[3]", "expected text"),
        ({"a\0b": INT}, "metadata.search_space.a\\x00b", "U+0000"),
        ({"\ud800": INT}, "metadata.search_space", "U+D800"),
        ({"fast": 7}, "metadata.search_space.fast", "expected a mapping"),
        ({"fast": {}}, "metadata.search_space.fast.type", "it is missing"),
        ({"fast": INT | {"type": "integer"}}, "metadata.search_space.fast.type", "'integer' is not one of"),
        ({"fast": INT | {"type": []}}, "metadata.search_space.fast.type", "is not one of"),
        ({"fast": INT | {"stp": 2}}, "metadata.search_space.fast.stp", "did you mean step?"),
        ({"fast": {"type": "int", "low": 1}}, "metadata.search_space.fast.high", "missing"),
        ({"fast": INT | {"low": 61}}, "metadata.search_space.fast.low", "high"),
        ({"fast": INT | {"low": True}}, "metadata.search_space.fast.low", "whole number, got true"),
        ({"fast": INT | {"low": 2.5}}, "metadata.search_space.fast.low", "whole number"),
        ({"fast": INT | {"high": "60"}}, "metadata.search_space.fast.high", "whole number"),
        ({"fast": INT | {"high": 2**60}}, "metadata.search_space.fast.high", "at most"),
        ({"fast": INT | {"step": 0}}, "metadata.search_space.fast.step", "greater than 0"),
        ({"fast": INT | {"log": 1}}, "metadata.search_space.fast.log", "true or false"),
        ({"fast": INT | {"low": 0, "log": True}}, "metadata.search_space.fast.low", "no logarithm"),
        ({"fast": INT | {"step": 2, "log": True}}, "metadata.search_space.fast.step", "log"),
        ({"x": FLOAT | {"low": math.nan}}, "metadata.search_space.x.low", "not a finite number"),
        ({"x": FLOAT | {"high": math.inf}}, "metadata.search_space.x.high", "not a finite number"),
        ({"x": FLOAT | {"high": 10**400}}, "metadata.search_space.x.high", "64 bits"),
        ({"x": FLOAT | {"low": -1.7e308, "high": 1.7e308}}, "metadata.search_space.x.high", "too wide"),
        ({"x": FLOAT | {"low": False}}, "metadata.search_space.x.low", "expected a number"),
        ({"x": FLOAT | {"low": 2}}, "metadata.search_space.x.low", "high"),
        ({"x": FLOAT | {"step": -0.1}}, "metadata.search_space.x.step", "greater than 0"),
        ({"x": FLOAT | {"low": 1e9, "high": 2e9, "step": 1e-5}}, "metadata.search_space.x.step", "too small"),
        ({"x": FLOAT | {"log": True}}, "metadata.search_space.x.low", "no logarithm"),
        ({"x": FLOAT | {"low": 1.0, "high": 2.0, "log": True, "step": 1.0}}, "metadata.search_space.x.step", "log"),
        ({"c": {"type": "categorical"}}, "metadata.search_space.c.choices", "missing"),
        ({"c": {"type": "categorical", "choices": "ab"}}, "metadata.search_space.c.choices", "expected a list"),
        ({"c": {"type": "categorical", "choices": []}}, "metadata.search_space.c.choices", "at least 1"),
        ({"c": {"type": "categorical", "choices": ["a", "b", "a"]}}, "metadata.search_space.c.choices[2]", "duplicate"),
        ({"c": {"type": "categorical", "choices": [math.nan]}}, "metadata.search_space.c.choices[0]", "not a finite"),
        ({"c": {"type": "categorical", "choices": [{1}]}}, "metadata.search_space.c.choices[0]", "JSON cannot hold"),
        (
            {"c": {"type": "categorical", "choices": [{1: 2}]}},
            "metadata.search_space.c.choices[0][1]",
            "the key is int",
        ),
        ({"c": {"type": "categorical", "choices": ["a\0"]}}, "metadata.search_space.c.choices[0]", "U+0000"),
        (
            {"c": {"type": "categorical", "choices": [1], "low": 0}},
            "metadata.search_space.c.low",
            "available",
        ),
    ],
)
def test_a_bad_space_is_refused_by_field_and_remedy(raw: Any, field: str, problem: str) -> None:
    with pytest.raises(OptimizationValidationError) as caught:
        SearchSpace.parse(raw)
    assert caught.value.field == field
    assert problem in caught.value.problem


def test_a_list_of_named_parameters_is_the_same_space() -> None:
    listed = [{"name": "b"} | INT, {"name": "a"} | FLOAT]
    assert SearchSpace.parse(listed) == SearchSpace.parse({"a": FLOAT, "b": INT})
    wrong = [*listed, {"name": "a"} | INT, {"name": " "} | INT]
    with pytest.raises(OptimizationValidationError, match=r"search_space\[2\]\.name: 'a'"):
        SearchSpace.parse(wrong)


def test_all_that_is_wrong_with_a_space_is_known_at_once() -> None:
    with pytest.raises(OptimizationValidationError) as refused:
        SearchSpace.parse({"a": INT | {"low": 99}, "b": {"type": "float", "high": "x"}, "c": {"type": "choice"}})
    fields = [fault.field.removeprefix("metadata.search_space.") for fault in refused.value.faults]
    assert fields == ["a.low", "b.low", "b.high", "c.type"]


def test_names_in_any_script_and_single_values_are_fine() -> None:
    space = SearchSpace.parse({"快线": INT, "🚀": {"type": "int", "low": 3, "high": 3}})
    assert space.contains({"快线": 2, "🚀": 3})


def test_the_order_of_keys_means_nothing() -> None:
    one, other = {"b": INT, "a": FLOAT}, {"a": FLOAT, "b": INT}
    assert SearchSpace.parse(one) == SearchSpace.parse(other)
    assert SearchSpace.parse(one).digest() == SearchSpace.parse(other).digest()
    assert SearchSpace.parse(one).digest() != SearchSpace.parse(one | {"a": FLOAT | {"high": 1.5}}).digest()


def test_choices_that_python_calls_equal_stay_apart() -> None:
    space = SearchSpace.parse({"c": {"type": "categorical", "choices": [1, 1.0, True, [1], None, {"k": 1}]}})
    assert space.grid_size() == 6
    values = [space.grid_point(index)["c"] for index in range(6)]
    assert [type(value) for value in values] == [int, float, bool, list, type(None), dict]
    assert [space.to_optuna({"c": value})["c"] for value in values] == [0, 1, 2, 3, 4, 5]
    assert not space.contains({"c": 2})
    assert not space.contains({"c": {1}})


def test_the_grid_of_a_decimal_step_has_the_decimals() -> None:
    space = SearchSpace.parse({"x": {"type": "float", "low": 0.0, "high": 0.35, "step": 0.1}})
    assert [space.grid_point(index)["x"] for index in range(space.grid_size())] == [0.0, 0.1, 0.2, 0.3]


def test_a_grid_needs_a_step_for_every_float() -> None:
    with pytest.raises(OptimizationValidationError, match=r"metadata\.search_space\.x\.step: the grid sampler needs"):
        SearchSpace.parse({"x": FLOAT}).grid_size()


def test_the_grid_visits_every_point_once() -> None:
    space = SearchSpace.parse(
        {"a": {"type": "int", "low": 1, "high": 8, "step": 3}, "b": {"type": "categorical", "choices": ["x", "y"]}}
    )
    points = [space.grid_point(index) for index in range(space.grid_size())]
    assert points == [{"a": a, "b": b} for a in (1, 4, 7) for b in ("x", "y")]


finite = st.floats(min_value=-1e5, max_value=1e5, allow_nan=False)


@st.composite
def parameters(draw: st.DrawFn) -> dict[str, Any]:
    kind = draw(st.sampled_from(["int", "float", "categorical"]))
    if kind == "categorical":
        leaf = (
            st.none() | st.booleans() | st.integers(-5, 5) | finite | st.text(st.characters(codec="utf-8"), max_size=4)
        )
        choices = draw(st.lists(leaf, min_size=1, max_size=5, unique_by=lambda value: json.dumps(value)))
        choices = [choice for choice in choices if not (isinstance(choice, str) and "\0" in choice)] or ["x"]
        return {"type": kind, "choices": choices}
    number = st.integers(-1000, 1000) if kind == "int" else finite
    low, high = sorted((draw(number), draw(number)))
    raw: dict[str, Any] = {"type": kind, "low": low, "high": high}
    if low > 0 and draw(st.booleans()):
        return raw | {"log": True}
    if draw(st.booleans()):
        raw["step"] = draw(st.integers(1, 50) if kind == "int" else st.sampled_from([0.1, 0.25, 3.0]))
    return raw


spaces = st.dictionaries(
    st.text(st.characters(codec="utf-8", exclude_characters="\0"), min_size=1, max_size=5).filter(str.strip),
    parameters(),
    min_size=1,
    max_size=4,
)


@given(spaces, st.integers(0, 2**32 - 1))
@example({"x": {"type": "float", "low": 3.0, "high": 3.0, "log": True}}, 0)  # exp(log(3)) is above 3
@settings(max_examples=60, deadline=None)
def test_whatever_optuna_suggests_is_contained_and_survives_json(raw: dict[str, Any], seed: int) -> None:
    from optuna.samplers import RandomSampler

    space = SearchSpace.parse(raw)
    sampler: Any = RandomSampler(seed=seed)
    drawn = {name: sampler.sample_independent(None, None, name, kind) for name, kind in space.distributions().items()}
    chosen = space.from_optuna(drawn)
    assert space.contains(chosen)
    read_back = json.loads(json.dumps(chosen))
    assert read_back == chosen
    assert space.from_optuna(space.to_optuna(read_back)) == chosen


@given(spaces)
@settings(max_examples=60, deadline=None)
def test_a_space_written_out_is_read_back_the_same(raw: dict[str, Any]) -> None:
    space = SearchSpace.parse(raw)
    assert SearchSpace.parse(json.loads(json.dumps(space.to_dict()))) == space
    assert not space.contains({})
    assert not space.contains({**dict.fromkeys(space.names, object())})


@given(spaces, st.data())
@settings(max_examples=60, deadline=None)
def test_every_grid_point_is_contained(raw: dict[str, Any], data: st.DataObject) -> None:
    space = SearchSpace.parse({name: value for name, value in raw.items() if _has_grid(value)} or {"n": INT})
    point = space.grid_point(data.draw(st.integers(0, space.grid_size() - 1)))
    assert space.contains(point)


def _has_grid(raw: dict[str, Any]) -> bool:
    return raw["type"] != "float" or "step" in raw
