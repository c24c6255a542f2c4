"""Validation of submissions, changes and alerts, by the field types of the data classes.

`validate_new` checks everything about a new optimization that does not depend on its strategy, and reports all faults
together. `o9.strategies` checks objectives, samplers and search spaces.
"""

from __future__ import annotations

import sys
from collections.abc import Mapping
from dataclasses import MISSING, fields
from functools import cache
from typing import Any, get_type_hints

from pydantic import BaseModel, ConfigDict, TypeAdapter, create_model

from o9.model.errors import Faults, OptimizationValidationError
from o9.model.faults import refusing, shown, validated
from o9.model.fields import JsonObject, Key
from o9.model.optimization import OptimizationAlert, OptimizationState
from o9.model.specification import Metadata, read_metadata
from o9.model.states import AlertLevel, OptimizationStatus

_STRICT = ConfigDict(strict=True, extra="forbid")


def validate_new(state: OptimizationState) -> Metadata:
    """Validate a new optimization, and return its metadata. Raises OptimizationValidationError with all faults."""
    faults, asked = Faults(), None
    with faults:
        _validate_record(OptimizationState, state, "optimization")
    if isinstance(state, OptimizationState):
        _validate_life(state, faults)
        if isinstance(state.metadata, dict):
            with faults:
                asked = read_metadata(state.metadata, state.optimization_id)
    faults.refuse()
    assert asked is not None
    return asked


def validate_changes(changes: Mapping[str, Any]) -> None:
    """Raise OptimizationValidationError with all faults of changed fields."""
    validated(_model(OptimizationState), changes)


def alert_level(value: Any) -> AlertLevel:
    """Convert `value` to an alert level. Raises OptimizationValidationError."""
    try:
        return AlertLevel(value)
    except ValueError:
        known = ", ".join(level.value for level in AlertLevel)
        raise OptimizationValidationError("level", f"{value!r:.80} is not one of {known}") from None


def validate_alert(alert: OptimizationAlert) -> None:
    """Raise OptimizationValidationError with all faults of an alert. Its optimization need not exist."""
    _validate_record(OptimizationAlert, alert, "alert")


def validate_node_id(field: str, value: Any) -> None:
    with refusing(None, value, field):
        _KEY.validate_python(value)


def validate_whole(field: str, value: Any, most: int | None = None) -> int:
    """Return `value` if it is an int from 1 to `most`. Raises OptimizationValidationError."""
    if isinstance(value, bool) or not isinstance(value, int) or value < 1 or (most is not None and value > most):
        kind = "of 1 or more" if most is None else f"between 1 and {most:,}"
        raise OptimizationValidationError(field, f"{value!r:.80} is not a whole number {kind}")
    return value


def validate_seconds(field: str, value: Any) -> float:
    """Return `value` if it is a finite number above 0. Raises OptimizationValidationError."""
    if isinstance(value, bool) or not isinstance(value, (int, float)) or not 0 < value <= sys.float_info.max:
        raise OptimizationValidationError(field, f"{value!r:.80} is not a number of seconds above 0")
    return float(value)


def validate_json(field: str, value: Any) -> None:
    """Raise OptimizationValidationError if `value` is not a dict of JSON values."""
    with refusing(None, value, field):
        _JSON.validate_python(value)


def _validate_record(kind: type, record: Any, field: str) -> None:
    if not isinstance(record, kind):
        problem = f"expected an {kind.__name__}, got {type(record).__name__}; make one with from_dict()"
        raise OptimizationValidationError(field, problem)
    given = ((name, getattr(record, name), default) for name, default in _defaults(kind))
    # Most fields of a new optimization have their defaults, which need no check.
    validated(_model(kind), {name: value for name, value, default in given if not _is_same(value, default)})


def _is_same(value: Any, default: Any) -> bool:
    return type(value) is type(default) and bool(value == default)


def _validate_life(state: OptimizationState, faults: Faults) -> None:
    new = {"status": OptimizationStatus.CREATED, "completed_steps": 0, "started_at": None, "completed_at": None}
    for name, value in new.items():
        if (given := getattr(state, name)) != value:
            problem = f"{shown(getattr(given, 'value', given))} means that it has begun; O9 sets this field: remove it"
            faults.add(OptimizationValidationError(name, problem))


@cache
def _model(record: type) -> type[BaseModel]:
    """A Pydantic model of the data class, with all fields optional."""
    hints = get_type_hints(record, include_extras=True)
    definitions: dict[str, Any] = {each.name: (hints[each.name], None) for each in fields(record)}
    return create_model(record.__name__, __config__=_STRICT, **definitions)


@cache
def _defaults(record: type) -> list[tuple[str, Any]]:
    """The default of each field; MISSING for required fields."""
    return [
        (each.name, each.default if each.default_factory is MISSING else each.default_factory())
        for each in fields(record)
    ]


_KEY = TypeAdapter[str](Key, config=_STRICT | {"defer_build": True})
_JSON = TypeAdapter[dict[str, Any]](JsonObject, config=_STRICT | {"defer_build": True})
