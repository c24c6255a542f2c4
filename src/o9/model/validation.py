"""What a submission, a change or an alert may hold, checked as it stands: each field by the type of its data class.

`validate_new` checks everything about a new optimization that needs no strategy, and tells all faults at once:
objectives, samplers and search spaces are judged by `o9.strategies`. What passes is stored and read back as it was.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import fields
from functools import cache
from typing import Any, get_type_hints

from pydantic import ConfigDict, TypeAdapter

from o9.model.errors import Faults, OptimizationValidationError
from o9.model.faults import checked
from o9.model.fields import JsonObject, Key
from o9.model.optimization import OptimizationAlert, OptimizationState
from o9.model.specification import read_metadata
from o9.model.states import OptimizationStatus


def validate_new(state: OptimizationState) -> None:
    """Raise OptimizationValidationError for all that keeps `state` from being submitted, whatever its strategy."""
    if not isinstance(state, OptimizationState):
        raise OptimizationValidationError(
            "optimization",
            f"expected an OptimizationState, got {type(state).__name__}; from_dict() makes one of fields",
        )
    faults = Faults()
    for name, adapter in _adapters(OptimizationState).items():
        with faults:
            checked(adapter, getattr(state, name), name)
    _validate_life(state, faults)
    if isinstance(state.metadata, dict):
        with faults:
            read_metadata(state.metadata, state.optimization_id)
    faults.refuse()


def validate_changes(changes: Mapping[str, Any]) -> None:
    """Raise OptimizationValidationError for the first of these fields of an optimization that cannot be stored."""
    adapters = _adapters(OptimizationState)
    for name, value in changes.items():
        if name not in adapters:
            raise OptimizationValidationError(name, f"no such field; the fields are {', '.join(adapters)}")
        checked(adapters[name], value, name)


def validate_alert(alert: OptimizationAlert) -> None:
    """Raise OptimizationValidationError for the first thing that keeps `alert` from being taken.

    It may be about an optimization that nobody knows, or about none. How long its message is, is for others to bound.
    """
    if not isinstance(alert, OptimizationAlert):
        raise OptimizationValidationError(
            "alert", f"expected an OptimizationAlert, got {type(alert).__name__}; from_dict() makes one of fields"
        )
    for name, adapter in _adapters(OptimizationAlert).items():
        checked(adapter, getattr(alert, name), name)


def validate_node_id(field: str, value: Any) -> None:
    checked(_KEY, value, field)


def validate_json(field: str, value: Any) -> None:
    """A dict of what JSON can hold."""
    checked(_JSON, value, field)


def _validate_life(state: OptimizationState, faults: Faults) -> None:
    if state.status is not OptimizationStatus.CREATED:
        status = getattr(state.status, "value", state.status)
        problem = f"a new optimization is created, not {status}; leave the rest of its life to O9"
        faults.add(OptimizationValidationError("status", problem))
    if state.completed_steps:
        faults.add(
            OptimizationValidationError("completed_steps", "a new optimization has completed none; leave it at 0")
        )
    for name in ("started_at", "completed_at"):
        if getattr(state, name) is not None:
            faults.add(OptimizationValidationError(name, "O9 records it when it happens; leave it out"))


@cache
def _adapters(record: type) -> dict[str, TypeAdapter[Any]]:
    hints = get_type_hints(record, include_extras=True)
    return {each.name: TypeAdapter(hints[each.name], config=_STRICT) for each in fields(record)}


_STRICT = ConfigDict(strict=True)
_KEY, _JSON = TypeAdapter[str](Key, config=_STRICT), TypeAdapter[dict[str, Any]](JsonObject, config=_STRICT)
