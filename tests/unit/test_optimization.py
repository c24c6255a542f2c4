"""The state of an optimization as users hold it, and what a submission may hold."""

from __future__ import annotations

import json
import math
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta, timezone
from decimal import Decimal
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from contract_steps import new
from hypothesis import given, settings
from hypothesis import strategies as st

from o9.model.errors import OptimizationValidationError
from o9.model.fields import JSON_LIMIT_BYTES
from o9.model.optimization import (
    OptimizationAlert,
    OptimizationHealthReport,
    OptimizationMetrics,
    OptimizationState,
    utc_now,
)
from o9.model.states import AlertLevel, HealthStatus, OptimizationPriority, OptimizationStatus, OptimizationType
from o9.model.validation import validate_changes, validate_new
from o9.store import queries
from o9.store.optimizations.transitions import Create
from o9.store.store import Store

REQUIRED = {
    "optimization_id": "a",
    "name": "name",
    "description": "",
    "optimization_type": "risk_optimization",
    "status": "created",
    "priority": 2,
    "created_at": "2026-01-31T09:30:00+00:00",
    "updated_at": "2026-01-31T09:30:00+00:00",
}


def test_to_dict_is_json_and_from_dict_its_inverse() -> None:
    state = new("a", metadata={"search_space": {"fast": [1, 2.5, None]}}, started_at=utc_now(), issues=["ä"])
    data = state.to_dict()
    assert OptimizationState.from_dict(json.loads(json.dumps(data))) == state
    data["metadata"]["search_space"]["fast"].append(3)  # what was given away is not shared
    assert state.metadata["search_space"]["fast"] == [1, 2.5, None]


def test_every_data_class_has_an_inverse() -> None:
    now, healthy = utc_now(), HealthStatus.HEALTHY
    for record in (
        OptimizationMetrics("a", now, cpu_usage=12.5),
        OptimizationAlert("x", "a", AlertLevel.WARNING, "title", "message", now, metadata={"k": [1]}),
        OptimizationHealthReport("a", now, *[healthy] * 5, *[0.5] * 4, issues=["i"]),  # type: ignore[misc, arg-type]
    ):
        data = json.loads(json.dumps(record.to_dict()))
        assert type(record).from_dict(data) == record


def test_a_naive_datetime_is_local_and_an_aware_one_is_kept() -> None:
    naive = datetime(2026, 7, 1, 12, 0)
    tokyo = datetime(2026, 7, 1, 21, 0, tzinfo=timezone(timedelta(hours=9)))
    state = new("a", created_at=naive, updated_at=tokyo)
    assert (state.created_at.tzinfo, state.updated_at.tzinfo) == (UTC, UTC)
    assert state.created_at.astimezone().replace(tzinfo=None) == naive
    assert state.updated_at == tokyo


@pytest.mark.parametrize("priority", ["high", " HIGH ", 3, 3.0, OptimizationPriority.HIGH])
def test_a_priority_by_name_or_number(priority: Any) -> None:
    assert new("a", priority=priority).priority is OptimizationPriority.HIGH


@pytest.mark.parametrize(
    ("field", "value", "words"),
    [
        ("priority", "urgent", "low (1), normal (2), high (3), critical (4)"),
        ("priority", True, "low (1)"),
        ("priority", None, "low (1)"),
        ("priority", np.array([1, 2]), "low (1)"),
        ("status", "done", "created, initializing, running"),
        ("optimization_type", "tuning", "parameter_tuning, strategy_optimization"),
        ("created_at", "yesterday", "ISO 8601"),
        ("created_at", 1767225600, "expected a datetime, got int"),
        ("created_at", None, "expected a datetime"),
        ("created_at", "0001-01-01T00:00:00+14:00", "cannot be expressed in UTC"),
    ],
)
def test_what_cannot_become_a_state(field: str, value: Any, words: str) -> None:
    for make in (OptimizationState.from_dict, lambda data: OptimizationState(**data)):
        with pytest.raises(OptimizationValidationError) as refused:
            make(REQUIRED | {field: value})
        assert refused.value.field == field
        assert words in refused.value.problem


def test_from_dict_names_what_is_too_many_and_what_is_missing() -> None:
    with pytest.raises(OptimizationValidationError, match=r"prio: no such field; the fields are .*priority"):
        OptimizationState.from_dict(REQUIRED | {"prio": 1})
    for name in REQUIRED:
        with pytest.raises(OptimizationValidationError, match=f"{name}: it is missing"):
            OptimizationState.from_dict({key: value for key, value in REQUIRED.items() if key != name})
    deep: Any = []
    for _ in range(5000):
        deep = [deep]
    with pytest.raises(OptimizationValidationError, match="too deeply"):
        OptimizationState.from_dict(REQUIRED | {"metadata": {"x": deep}})


def nested(levels: int) -> Any:
    return {} if levels == 1 else {"x": nested(levels - 1)}


LOOP: dict[str, Any] = {}
LOOP["again"] = LOOP
MANY: list[Any] = []
for _ in range(40):
    MANY = [MANY, MANY]


@pytest.mark.parametrize(
    ("field", "value", "problem"),
    [
        ("optimization_id", "", "it is empty"),
        ("optimization_id", " \t", "it is empty"),
        ("optimization_id", "a/b", "use '-' instead of '/'"),
        ("optimization_id", "..", "cannot be part of a URL"),
        ("optimization_id", " a", "space"),
        ("optimization_id", "-rf", "begins with '-'"),
        ("optimization_id", "a\nb", "U+000A"),
        ("optimization_id", "\u202egnp", "U+202E"),
        ("name", "a\u2066b", "U+2066"),
        ("optimization_id", "x" * 201, "201 characters; at most 200"),
        ("optimization_id", 7, "expected text, got 7"),
        ("name", "a\0b", "the control character U+0000"),
        ("name", "\ud83d", "surrogate"),
        ("name", "x" * 501, "501 characters; at most 500"),
        ("name", None, "expected text, got nothing"),
        ("description", "a\x1b[31m", "the control character U+001B"),
        ("description", "x" * 10_001, "at most 10,000"),
        ("total_steps", -1, "at least 0"),
        ("total_steps", True, "expected a whole number, got true"),
        ("total_steps", 5.0, "expected a whole number, got"),
        ("total_steps", np.int64(5), "convert it with .item()"),
        ("total_steps", 2**31, "at most 2,147,483,647"),
        ("completed_steps", 3, "it has begun"),
        ("progress", "half", "expected a number, got 'half'"),
        ("progress", 1.5, "at most 1"),
        ("progress", True, "expected a number, got true"),
        ("baseline_performance", math.nan, "nan is not a finite number"),
        ("target_performance", -math.inf, "-inf is not a finite number"),
        ("baseline_performance", 10**30, "64 bits"),
        ("baseline_performance", np.float32(1), "convert it with .item()"),
        ("cpu_usage", -1.0, "at least 0"),
        ("metadata", ["strategy"], "expected a mapping, got a list"),
        ("metadata", None, "expected a mapping, got nothing"),
        ("issues", "broken", "expected a list, got 'broken'"),
        ("metadata", {"x": "y" * JSON_LIMIT_BYTES}, "at most 1,048,576 bytes (1 MiB)"),
        ("metadata", {"x": "名" * 400_000}, "1,200,008 bytes; at most 1,048,576"),
        ("metadata", {"x": "y" * 10_000_000}, "keep large data in a file"),
        ("metadata", nested(65), "nested deeper than 64 levels"),
        ("metadata", LOOP, "nested deeper than 64 levels"),
        ("metadata", {"many": MANY}, "at most 1,048,576 bytes"),
        ("status", OptimizationStatus.RUNNING, "it has begun"),
        ("started_at", utc_now(), "it has begun"),
        ("completed_at", utc_now(), "it has begun"),
    ],
)
def test_what_a_submission_cannot_hold(field: str, value: Any, problem: str) -> None:
    found = refusal(field, value)
    assert found.field == field
    assert problem in found.problem


@pytest.mark.parametrize(
    ("value", "path", "problem"),
    [
        ({"search_space": {"fast": {"low": math.nan}}}, "search_space.fast.low", "nan is not a finite number"),
        ({"choices": ["a", {"x": math.inf}]}, "choices[1].x", "inf is not a finite number"),
        ({"x": {1, 2}}, "x", "JSON cannot hold set; give text, numbers"),
        ({"x": datetime(2026, 1, 1)}, "x", "give text: .isoformat()"),
        ({"x": Decimal("1.5")}, "x", "give text, numbers"),
        ({"x": b"bytes"}, "x", "give text, numbers"),
        ({"x": Path("prices.csv")}, "x", "give text, numbers"),
        ({"x": len}, "x", "register it under a name"),
        ({"x": object()}, "x", "give text, numbers"),
        ({"x": np.float32(1.5)}, "x", "numpy.float32; convert it with .item()"),
        ({"x": [np.int64(1)]}, "x[0]", "convert it with .item()"),
        ({"x": np.bool_(True)}, "x", "convert it with .item()"),
        ({"x": np.zeros(2)}, "x", "convert it with .tolist()"),
        ({"x": 2**63}, "x", "64 bits"),
        ({"x": 10**5000}, "x", "an integer of 16,610 bits"),
        ({1: "x"}, "[1]", "the key is int"),
        ({"a b": {None: "x"}}, "['a b'][nothing]", "the key is None"),
        ({"x": "a\0"}, "x", "U+0000"),
        ({"x": {"\udfff": 1}}, "x['\\udfff']", "surrogate"),
    ],
)
@pytest.mark.parametrize("field", ["metadata", "parameters"])
def test_values_that_json_cannot_hold_are_found(field: str, value: Any, path: str, problem: str) -> None:
    found = refusal(field, value)
    assert found.field == (f"{field}{path}" if path.startswith("[") else f"{field}.{path}")
    assert problem in found.problem
    str(found).encode()  # the message itself can be printed


@pytest.mark.parametrize(
    ("key", "value", "problem"),
    [
        ("timeout_seconds", "60", "expected a number"),
        ("timeout_seconds", 0, "at least"),
        ("timeout_seconds", -1.5, "at least"),
        ("timeout_seconds", True, "expected a number, got true"),
        ("timeout_seconds", 1e12, "at most"),
        ("max_attempts", 0, "at least 1"),
        ("max_attempts", 2.0, "expected a whole number"),
        ("max_attempts", None, "expected a whole number, got nothing"),
        ("trials_per_step", 0, "at least 1"),
        ("trials_per_step", "4", "expected a whole number"),
        ("seed", -1, "at least 0"),
        ("seed", 1.5, "expected a whole number, got"),
        ("seed", "random", "expected a whole number, got"),
        ("strategy", "", "it is empty"),
        ("strategy", 5, "expected text"),
        ("strategy", "x" * 201, "at most 200"),
        ("family", ["a"], "expected text, got a list"),
    ],
)
def test_settings_in_the_metadata(key: str, value: Any, problem: str) -> None:
    found = refusal("metadata", {key: value})
    assert found.field == f"metadata.{key}"
    assert problem in found.problem


@pytest.mark.parametrize(
    "fields",
    [
        {"optimization_id": "x" * 200, "name": "x" * 500, "total_steps": 0},
        {"optimization_id": "momentum 2026 (v1.2)", "name": "双均线 🚀", "description": "a\n\tb\r\n"},
        {"progress": 1, "baseline_performance": -1, "target_performance": 1e308},
        {
            "optimization_id": "b",
            "metadata": nested(64),
            "parameters": {"side": ("long", "both"), "x": [None, True, -(2**63), 2**63 - 1]},
        },
        {
            "optimization_id": "c",
            "metadata": {"seed": None, "timeout_seconds": None, "max_attempts": 1},
        },
        {"optimization_id": "d", "parameters": {"x": np.float64(1.5)}},  # which is a float
    ],
)
def test_what_a_submission_can_hold(fields: dict[str, Any], store: Store) -> None:
    state = new(**({"optimization_id": "a"} | fields))
    validate_new(state)
    read, _ = store.write(Create(state))
    assert json.dumps(read.parameters) == json.dumps(state.parameters)
    assert read.metadata == state.metadata


def test_changes_are_checked_by_the_same_words() -> None:
    validate_changes({"progress": 0.5, "results": {"sharpe": 1.2}})
    for name, value in [("progress", "x"), ("results", {"x": {1}}), ("no_such", 1)]:
        with pytest.raises(OptimizationValidationError, match=f"^{name}"):
            validate_changes({name: value})


text = st.text(st.characters(), max_size=8)
leaf: st.SearchStrategy[Any] = (
    st.none() | st.booleans() | st.integers() | st.integers(-5, 5) | st.floats() | text | st.binary(max_size=2)
    | st.sets(st.integers(), max_size=2) | st.datetimes() | st.decimals()
    | st.sampled_from([np.int64(1), np.float32(1)])
)  # fmt: skip
key = text | st.sampled_from(["seed", "strategy", "max_attempts", "timeout_seconds"]) | st.integers(0, 3)
garbage = st.recursive(leaf, lambda inner: st.lists(inner, max_size=3) | st.dictionaries(key, inner, max_size=3))
characters = st.text(st.characters(codec="utf-8", exclude_characters="\0"), max_size=8)
jsonlike = st.recursive(
    st.none() | st.booleans() | st.integers(-9, 9) | st.floats(allow_nan=False, allow_infinity=False) | characters,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(characters, inner, max_size=3),
)
objects = st.dictionaries(characters, jsonlike, max_size=4)
words = st.text(st.characters(codec="utf-8", exclude_categories=["Cc"]), min_size=1, max_size=8)
plausible: dict[str, st.SearchStrategy[Any]] = {
    "optimization_id": words,
    "name": words,
    "description": words,
    "optimization_type": st.sampled_from([kind.value for kind in OptimizationType]),
    "status": st.sampled_from(["created", "created", "created", "created", "running"]),
    "priority": st.sampled_from([1, 2, "high", "CRITICAL"]),
    "created_at": st.datetimes().map(lambda at: at.isoformat() + "+00:00"),
    "updated_at": st.datetimes().map(lambda at: at.isoformat() + "+00:00"),
    "progress": st.floats(0, 1),
    "total_steps": st.integers(0, 99),
    "baseline_performance": st.floats(allow_nan=False, allow_infinity=False) | st.integers(),
    "parameters": objects,
    "metadata": objects,
    "results": objects,
    "issues": st.lists(jsonlike, max_size=2),
}


@st.composite
def submissions(draw: st.DrawFn) -> dict[str, Any]:
    """What `to_dict` could have given, with a field of garbage now and then."""
    data = {name: draw(value) for name, value in plausible.items() if name in REQUIRED or draw(st.booleans())}
    for name in draw(st.lists(st.sampled_from(list(OptimizationState.__dataclass_fields__)), max_size=1)):
        data[name] = draw(garbage)
    return data


@pytest.mark.slow
def test_garbage_is_refused_or_kept_as_it_is(store_url: str) -> None:
    accepted: list[str] = []
    opened = Store(store_url)

    @settings(max_examples=150, deadline=None)
    @given(data=submissions())
    def submit(data: dict[str, Any]) -> None:
        state = accept(data)
        if state is None:
            return
        if state.optimization_id in accepted:
            state.optimization_id += f"-{len(accepted)}"
        opened.write(Create(state))
        read = opened.read(queries.get, state.optimization_id)
        assert read is not None
        read.updated_at = state.updated_at
        assert read == state
        assert json.dumps(read.parameters) == json.dumps(state.parameters)
        accepted.append(state.optimization_id)

    with opened:
        submit()
    assert len(accepted) > 40


def accept(data: dict[str, Any]) -> OptimizationState | None:
    """None where it was refused, with a field, a problem, and a message that can be printed."""
    try:
        state = OptimizationState.from_dict(data)
        validate_new(state)
    except OptimizationValidationError as error:
        refused = error
    else:
        return state
    assert refused.field
    assert refused.problem
    str(refused).encode()
    return None


def refusal(field: str, value: Any) -> OptimizationValidationError:
    state = new("a")
    setattr(state, field, value)
    with pytest.raises(OptimizationValidationError) as found:
        validate_new(state)
    return found.value


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Store]:
    with Store(str(tmp_path_factory.mktemp("store") / "store.db")) as opened:
        yield opened


@pytest.mark.parametrize("given", [None, {"optimization_id": "a"}, "a"])
def test_only_an_optimization_is_submitted(given: Any) -> None:
    with pytest.raises(OptimizationValidationError, match="expected an OptimizationState"):
        validate_new(given)
