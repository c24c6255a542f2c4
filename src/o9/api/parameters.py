"""What a request may ask for: queries, and the fields of a body. What is not here is refused by its name."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from datetime import datetime
from typing import Annotated, Any, Literal

from fastapi import Request
from pydantic import BaseModel, ConfigDict, Field, StringConstraints
from pydantic.json_schema import SkipJsonSchema

from o9.model.errors import OptimizationValidationError
from o9.model.optimization import as_utc
from o9.model.states import AlertLevel, OptimizationPriority, OptimizationStatus, OptimizationType
from o9.model.validation import (
    COUNT_LIMIT,
    DESCRIPTION_LIMIT,
    ID_LIMIT,
    INTEGER_LIMITS,
    METADATA,
    NAME_LIMIT,
    STEP_LIMIT,
)
from o9.store.core.column_types import moment
from o9.store.optimizations.queries import PAGE_LIMIT, Filter

# PostgreSQL cannot be asked for a NUL.
Text = Annotated[str, StringConstraints(min_length=1, max_length=NAME_LIMIT, pattern="^[^\\x00]*$")]
Yes = Literal["true", "false"]
Omitted = SkipJsonSchema[None]  # a query has no null


def each_once(request: Request) -> None:
    """A dependency of every route: of a parameter that is given twice one would be ignored."""
    refuse_repeated([name for name, _ in request.query_params.multi_items()])


def refuse_repeated(names: Sequence[str]) -> None:
    """Raise OptimizationValidationError for a name that is there more than once."""
    if len(set(names)) < len(names):
        [(twice, _)] = Counter(names).most_common(1)
        raise OptimizationValidationError(twice, "it is given more than once; give it once")


class NoQuery(BaseModel):
    """Of a route that has no parameters."""

    model_config = ConfigDict(extra="forbid")


class PageQuery(NoQuery):
    limit: int = Field(100, ge=1, le=PAGE_LIMIT, description="How many items at most.")
    cursor: str | Omitted = Field(None, min_length=1, description="The `next_cursor` of the page before.")


class LogQuery(PageQuery):
    trial: Annotated[int, Field(ge=0, le=COUNT_LIMIT)] | Omitted = Field(None, description="Of this trial alone.")


class OptimizationQuery(PageQuery):
    status: OptimizationStatus | Omitted = None
    type: OptimizationType | Omitted = None
    priority: Literal["low", "normal", "high", "critical", "1", "2", "3", "4"] | Omitted = None
    strategy: Text | Omitted = Field(
        None, description="Its name, as in `metadata.strategy`; `default` where none is given."
    )
    family: Text | Omitted = Field(None, description="What its trials count in, from the first trial on.")
    q: Text | Omitted = Field(None, description="A part of the name or the id, in upper or lower case.")
    created_after: Annotated[str, Field(json_schema_extra={"format": "date-time"})] | Omitted = Field(
        None, description="ISO 8601, such as 2026-01-31T09:30:00Z; encode a + as %2B."
    )

    def filter(self) -> Filter:
        """Raises OptimizationValidationError for a `created_after` that is no moment."""
        return Filter(
            self.status, self.type, _priority(self.priority), self.strategy, self.family, self.q,
            None if self.created_after is None else _moment(self.created_after),
        )  # fmt: skip


class AlertQuery(PageQuery):
    level: AlertLevel | Omitted = None
    optimization_id: Text | Omitted = None


class TrendQuery(NoQuery):
    days: float = Field(7.0, ge=1e-3, le=36_600, description="How far back; 0.5 is twelve hours.")


class RankingQuery(NoQuery):
    metric_name: Text
    limit: int = Field(10, ge=1, le=PAGE_LIMIT)


class CancelQuery(NoQuery):
    cancel: Yes = Field("false", description="true: what runs is cancelled first, and its end awaited.")


class ResolveBody(BaseModel):
    model_config = ConfigDict(extra="forbid")

    by: str = Field("api", max_length=NAME_LIMIT, description="Who has resolved it.")


def _priority(text: str | None) -> OptimizationPriority | None:
    if text is None:
        return None
    return OptimizationPriority(int(text)) if text.isdecimal() else OptimizationPriority[text.upper()]


def _moment(text: str) -> str:
    try:
        return moment(as_utc(datetime.fromisoformat(text)))
    except (ValueError, OverflowError):
        raise OptimizationValidationError(
            "created_after",
            f"{text!r:.80} is not an ISO 8601 datetime such as 2026-01-31T09:30:00Z (a + is %2B in a URL)",
        ) from None


def _text(limit: int, characters: str = "") -> dict[str, Any]:
    return {"type": "string", "maxLength": limit} | ({"pattern": characters} if characters else {})


_LINE, _LINES = "^[^\\x00-\\x1f\\x7f-\\x9f]*$", "^[^\\x00-\\x08\\x0b\\x0c\\x0e-\\x1f\\x7f-\\x9f]*$"
_ID = "^[^\\s/\\x00-\\x1f\\x7f-\\x9f]([^/\\x00-\\x1f\\x7f-\\x9f]*[^\\s/\\x00-\\x1f\\x7f-\\x9f])?$"
_COUNT = {"type": "integer", "minimum": 0, "maximum": COUNT_LIMIT}
_MOMENT = {"type": "string", "format": "date-time"}
_OBJECT, _LIST, _NUMBER = {"type": "object"}, {"type": "array"}, {"type": "number"}
_SECONDS = {"type": ["number", "null"], "minimum": 1e-3}
_SHAPES: dict[str, Any] = {
    "strategy": _text(ID_LIMIT),
    "objective": _text(NAME_LIMIT, _LINE),  # which is the name, too, where there is none
    "search_space": _OBJECT,
    "direction": {"type": "string", "enum": ["maximize", "minimize"]},
    "sampler": {"type": "string"},
    "seed": {"type": ["integer", "null"], "minimum": 0, "maximum": INTEGER_LIMITS[1]},
    "trials_per_step": {"type": "integer", "minimum": 1, "maximum": 10_000},
    "family": _text(NAME_LIMIT),
    "timeout_seconds": _SECONDS,
    "trial_timeout_seconds": _SECONDS,
    "stop_after_failures": {"type": ["integer", "null"], "minimum": 1, "maximum": COUNT_LIMIT},
    "market_neutral": {"type": "boolean"},
    "demonstration": {"type": "boolean"},
    "placebo_of": {"type": "string"},
    "series": _text(NAME_LIMIT, _LINE),
    "scheduled_at": _MOMENT,
    "max_attempts": {"type": "integer", "minimum": 1, "maximum": 1_000_000},
    "after": {"type": "array", "items": {"type": "string"}},
    "retry_of": {"type": "string"},
    "retry_from_step": _COUNT,
}
_METADATA = {name: _SHAPES.get(name, {}) | {"description": key.meaning} for name, key in METADATA.items()}
# What an optimization is made of, for the OpenAPI document; `o9.model.validation` checks it.
OPTIMIZATION: dict[str, Any] = {
    "type": "object",
    "title": "Optimization",
    "additionalProperties": False,
    "properties": {
        "optimization_id": _text(ID_LIMIT, _ID) | {"description": "Left out, O9 makes one."},
        "name": _text(NAME_LIMIT, _LINE),
        "description": _text(DESCRIPTION_LIMIT, _LINES),
        "optimization_type": {"type": "string", "enum": [kind.value for kind in OptimizationType]},
        "priority": {
            "anyOf": [
                {"type": "integer", "enum": [level.value for level in OptimizationPriority]},
                {"type": "string", "enum": [level.name.lower() for level in OptimizationPriority]},
            ]
        },
        "total_steps": _COUNT | {"description": "0: the strategy's own number."},
        "baseline_performance": _NUMBER,
        "target_performance": _NUMBER,
        "parameters": _OBJECT | {"description": "Given to the objective in every trial, beneath the suggested ones."},
        "metadata": {
            "type": "object",
            "description": "What to optimize. Other keys are refused, unless its strategy declares them.",
            "properties": _METADATA,
        },
        **dict.fromkeys(("created_at", "updated_at"), _MOMENT),
        **dict.fromkeys(("started_at", "completed_at"), _MOMENT | {"type": ["string", "null"]}),
        "status": {"type": "string", "enum": [status.value for status in OptimizationStatus]},
        "progress": {"type": "number", "minimum": 0, "maximum": 1},
        "current_step": _text(STEP_LIMIT, _LINES),
        "completed_steps": _COUNT,
        **dict.fromkeys(("current_performance", "performance_improvement"), _NUMBER),
        **dict.fromkeys(("optimized_parameters", "results", "metrics"), _OBJECT),
        **dict.fromkeys(("issues", "warnings"), _LIST),
        **dict.fromkeys(("cpu_usage", "memory_usage", "execution_time"), _NUMBER | {"minimum": 0}),
    },
}
# What O9 records itself a submission leaves out, or gives as it is at the beginning.
SUBMISSION: dict[str, Any] = OPTIMIZATION | {
    "title": "Submission",
    "properties": OPTIMIZATION["properties"]
    | {
        "status": {"type": "string", "enum": [OptimizationStatus.CREATED.value]},
        "completed_steps": {"type": "integer", "enum": [0]},
        "started_at": {"type": "null"},
        "completed_at": {"type": "null"},
    },
}


def body_of(schema: dict[str, Any]) -> dict[str, Any]:
    """For the `openapi_extra` of a route."""
    return {"requestBody": {"required": True, "content": {"application/json": {"schema": schema}}}}
