"""The public data classes: the state of an optimization, its metrics, alerts and health reports.

Plain data, no I/O. Datetimes are aware and in UTC; a naive one is taken as local time. `to_dict` gives JSON-ready
values, and `from_dict` is its inverse. `o9.model.validation` validates them.
"""

from __future__ import annotations

import copy
from collections.abc import Mapping
from dataclasses import MISSING, dataclass, field, fields
from datetime import UTC, datetime
from enum import Enum
from functools import cache
from types import NoneType
from typing import Any, Literal, Self, get_args, get_type_hints

from o9.model.errors import OptimizationValidationError
from o9.model.faults import Flag, Text
from o9.model.fields import (
    Amount,
    Count,
    Description,
    Figure,
    Id,
    JsonList,
    JsonObject,
    Moment,
    Name,
    Share,
    StepText,
    Title,
)
from o9.model.states import AlertLevel, HealthStatus, OptimizationPriority, OptimizationStatus, OptimizationType
from o9.model.strategy import DEMONSTRATION, PLACEBO


def utc_now() -> datetime:
    """The current time, aware, in UTC."""
    return datetime.now(UTC)


def as_utc(moment: datetime) -> datetime:
    """`moment` in UTC; a naive one is local time."""
    return moment if moment.tzinfo is UTC else moment.astimezone(UTC)


class _Record:
    """`to_dict` and `from_dict` for the data classes below."""

    @classmethod
    @cache
    def _coerced(cls) -> list[tuple[str, Any, bool]]:
        """The fields of an enum or datetime type: name, type, and whether None is allowed."""
        hints = {name: get_args(hint) or (hint,) for name, hint in get_type_hints(cls).items()}
        return [
            (name, kind, NoneType in kinds)
            for name, kinds in hints.items()
            for kind in kinds
            if isinstance(kind, type) and issubclass(kind, (Enum, datetime))
        ]

    def __post_init__(self) -> None:
        for name, kind, is_optional in self._coerced():
            value = getattr(self, name)
            if value is None and is_optional:
                continue
            try:
                setattr(self, name, moment_of(value) if kind is datetime else member(kind, value))
            except ValueError as error:
                raise OptimizationValidationError(name, str(error)) from None

    def to_dict(self) -> dict[str, Any]:
        """JSON-ready values: ISO datetimes, enum values."""
        return copy.deepcopy({f.name: _plain(getattr(self, f.name)) for f in fields(self)})  # type: ignore[arg-type]

    @classmethod
    def from_dict(cls, data: Mapping[str, Any]) -> Self:
        """The inverse of `to_dict`. Raises OptimizationValidationError for a field that does not exist."""
        known = sorted(f.name for f in fields(cls))  # type: ignore[arg-type]
        for name in data:
            if name not in known:
                raise OptimizationValidationError(str(name), f"no such field; the fields are {', '.join(known)}")
        for f in fields(cls):  # type: ignore[arg-type]
            if f.name not in data and f.default is MISSING and f.default_factory is MISSING:
                raise OptimizationValidationError(f.name, "it is missing")
        try:
            return cls(**{name: copied(name, value) for name, value in data.items()})
        except TypeError as error:
            raise OptimizationValidationError(cls.__name__, str(error)) from error


@dataclass
class OptimizationState(_Record):
    """The whole state of one optimization.

    `progress` is between 0.0 and 1.0, `cpu_usage` in percent of one core, `memory_usage` in MiB, and `execution_time`
    in seconds of running. `metadata` says what to optimize: strategy, objective, search_space, direction, sampler, …
    """

    optimization_id: Id
    name: Name
    description: Description
    optimization_type: OptimizationType
    status: OptimizationStatus
    priority: OptimizationPriority
    created_at: Moment
    updated_at: Moment
    started_at: Moment | None = None
    completed_at: Moment | None = None
    progress: Share = 0.0
    current_step: StepText = ""
    total_steps: Count = 0
    completed_steps: Count = 0
    current_performance: Figure = 0.0
    baseline_performance: Figure = 0.0
    target_performance: Figure = 0.0
    performance_improvement: Figure = 0.0
    parameters: JsonObject = field(default_factory=dict)
    optimized_parameters: JsonObject = field(default_factory=dict)
    results: JsonObject = field(default_factory=dict)
    metrics: JsonObject = field(default_factory=dict)
    issues: JsonList = field(default_factory=list)
    warnings: JsonList = field(default_factory=list)
    cpu_usage: Amount = 0.0
    memory_usage: Amount = 0.0
    execution_time: Amount = 0.0
    metadata: JsonObject = field(default_factory=dict)


def strategy_of(metadata: Mapping[str, Any]) -> str:
    """The strategy's name in lists and statistics; demonstrations and placebo runs have names of their own."""
    if is_placebo(metadata):
        return PLACEBO
    return DEMONSTRATION if metadata.get(DEMONSTRATION) is True else str(metadata.get("strategy", "default"))


def series_of(state: OptimizationState) -> str:
    """The series that it is a run of; the name of an optimization that does not recur."""
    return str(state.metadata.get("series") or state.name or state.optimization_id)


def is_placebo(metadata: Mapping[str, Any]) -> bool:
    """Whether it is a placebo run: a search on data without an edge."""
    return "placebo_of" in metadata


def baseline_of(state: OptimizationState) -> float | None:
    """The `baseline_performance`, or None if none was given: 0.0 is also the field's default."""
    return _figure(state, "baseline_performance")


def target_of(state: OptimizationState) -> float | None:
    """The `target_performance`, or None if none was given."""
    return _figure(state, "target_performance")


def _figure(state: OptimizationState, name: str) -> float | None:
    value: float = getattr(state, name)
    return value if value or name in state.metadata.get(GIVEN, ()) else None


GIVEN = "given"  # the metadata key that lists those of FIGURES that were explicitly given as 0
FIGURES = ("baseline_performance", "target_performance")


@dataclass
class OptimizationMetrics(_Record):
    """One measurement of a running optimization. A figure that was not measured is None."""

    optimization_id: str
    timestamp: datetime
    execution_time: float | None = None
    cpu_usage: float | None = None
    memory_usage: float | None = None
    throughput: float | None = None
    convergence_rate: float | None = None
    improvement_rate: float | None = None
    stability_score: float | None = None
    accuracy: float | None = None
    precision: float | None = None
    recall: float | None = None
    f1_score: float | None = None
    profit_improvement: float | None = None
    risk_reduction: float | None = None
    efficiency_gain: float | None = None


@dataclass
class OptimizationAlert(_Record):
    """An alert for people, usually about one optimization."""

    alert_id: Id
    optimization_id: Id | Literal[""]
    level: AlertLevel
    title: Title
    message: Text
    timestamp: Moment = field(default_factory=utc_now)
    resolved: Flag = False
    resolved_at: Moment | None = None
    metadata: JsonObject = field(default_factory=dict)


@dataclass
class OptimizationHealthReport(_Record):
    """Four statuses with their scores (0.0 to 1.0), issues and recommendations.

    suspend: a health rule sets it to a reason to suspend the optimization.
    """

    optimization_id: str
    timestamp: datetime
    overall_status: HealthStatus
    validity_status: HealthStatus
    completeness_status: HealthStatus
    security_status: HealthStatus
    performance_status: HealthStatus
    validity_score: float | None
    completeness_score: float | None
    security_score: float | None
    performance_score: float | None
    issues: list[Any] = field(default_factory=list)
    recommendations: list[Any] = field(default_factory=list)
    suspend: str = ""


def copied(field: str, value: Any) -> Any:
    """A deep copy of the value of `field`. Raises OptimizationValidationError if it is nested too deeply."""
    try:
        return copy.deepcopy(value)
    except RecursionError:
        raise OptimizationValidationError(field, "it is nested too deeply; flatten it") from None


def moment_of(value: Any) -> datetime:
    """Convert a datetime or an ISO 8601 text to UTC. Raises ValueError."""
    if isinstance(value, str):
        try:
            value = datetime.fromisoformat(value)
        except ValueError:
            raise ValueError(f"{value!r} is not an ISO 8601 datetime such as 2026-01-31T09:30:00+00:00") from None
    if not isinstance(value, datetime):
        raise ValueError(f"expected a datetime, got {type(value).__name__}")
    try:
        return as_utc(value)
    except (OverflowError, ValueError):
        raise ValueError(f"{value} cannot be expressed in UTC; give a date in the years 2 to 9998") from None


def member(kind: type[Enum], value: Any) -> Any:
    """Return the member of `kind` with this value or this name, in any case (`high` for HIGH). Raises ValueError."""
    if isinstance(value, (str, int, float)) and not isinstance(value, bool):
        try:
            return kind(value)
        except ValueError:
            name = str(value).strip().upper()
            if name in kind.__members__:
                return kind[name]
    elif isinstance(value, kind):
        return value
    choices = ", ".join(f"{m.name.lower()} ({m.value})" if isinstance(m.value, int) else str(m.value) for m in kind)
    raise ValueError(f"{value!r} is not one of {choices}")


def _plain(value: Any) -> Any:
    if isinstance(value, Enum):
        return value.value
    if isinstance(value, datetime):
        return value.isoformat()
    return value
