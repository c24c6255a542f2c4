"""The specification of an optimization, as Pydantic models.

Contract. Run files, HTTP bodies, Prefect's form and the documentation use these models, and nothing else lists the
fields of an optimization or the keys of its metadata. `OptimizationSpec.parse` raises OptimizationValidationError with
all faults; `to_state` makes the OptimizationState to submit. Metadata are stored as they were given. Checks that need
the objective or the strategy are in `o9.strategies`.
"""

from __future__ import annotations

import re
import secrets
import unicodedata
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import MISSING, fields
from datetime import datetime
from enum import Enum
from functools import cache, partial
from typing import Annotated, Any, Literal, Self, get_args

from pydantic import AfterValidator, BeforeValidator, ConfigDict, Field, PlainValidator, WithJsonSchema, model_validator
from pydantic.json_schema import SkipJsonSchema

from o9.model.errors import Faults, OptimizationValidationError
from o9.model.faults import Flag, KeptAsGiven, Number, Text, Typed, Whole, validated
from o9.model.fields import (
    COUNT_LIMIT,
    INTEGER_LIMITS,
    NAME_LIMIT,
    Count,
    Description,
    Figure,
    Id,
    JsonObject,
    Key,
    Moment,
    Name,
    not_blank,
)
from o9.model.hold_out import HoldOut, parse_hold_out
from o9.model.optimization import FIGURES, GIVEN, OptimizationState, copied, member, moment_of, utc_now
from o9.model.search_space import SearchSpaceField
from o9.model.states import OptimizationPriority, OptimizationStatus, OptimizationType
from o9.model.strategy import BUILT_IN_STRATEGIES
from o9.text.suggest import did_you_mean, near

Sampler = Literal["tpe", "random", "grid", "qmc", "cmaes", "gp", "nsga2"]
SAMPLERS: tuple[str, ...] = get_args(Sampler)
Direction = Literal["maximize", "minimize"]
TIMEOUT_LIMIT_SECONDS = 10 * 366 * 86_400.0
AFTER_LIMIT = 1_000
UNKNOWN_SHOWN = 20


class Role(Enum):
    """What a key of the metadata affects, which decides when it may change and what a retry keeps."""

    SEARCH = "the trials depend on it: it may change only before the first attempt"
    SUBMISSION = "fixed at submission"
    LATER = "no trial depends on it: it may change until the end"
    WORDS = "may change at any time"
    RECORDED = "written by O9, not by users"


def _each_once(ids: list[str]) -> list[str]:
    if len(set(ids)) < len(ids):
        raise ValueError("it contains a duplicate; give each id once")
    return ids


def _zoned(text: str) -> str:
    if moment_of(text) and datetime.fromisoformat(text).tzinfo is None:
        raise ValueError(f"{text!r} has no offset from UTC; write 2026-01-31T09:30:00+00:00")
    return text


_Number = Annotated[Whole, Field(ge=1, le=COUNT_LIMIT)]
_Given = Literal["baseline_performance", "target_performance"]
_Seconds = Annotated[Number, Field(ge=1e-3, le=TIMEOUT_LIMIT_SECONDS)]
_HoldOut = Annotated[
    HoldOut | None, PlainValidator(parse_hold_out, json_schema_input_type=float | str | dict[str, Any] | None)
]


class WarmStart(Typed):
    """The run whose best parameters are tried first, and those parameters."""

    optimization_id: Id
    parameters: JsonObject


class Metadata(Typed):
    """What to optimize, and how. Other keys are refused unless the strategy declares them."""

    model_config = ConfigDict(
        extra="allow",
        json_schema_extra={"anyOf": [{"required": [name]} for name in ("objective", "strategy", "retry_of")]},
    )

    objective: Annotated[Text | None, Role.SEARCH] = Field(
        None,
        description="What to optimize: a registered name or an import path.",
        examples=["desk.momentum:objective"],
    )
    search_space: Annotated[SearchSpaceField | None, Role.SEARCH] = Field(
        None, description="The parameters to search. Default: the objective's own."
    )
    direction: Annotated[Direction, Role.SEARCH] = Field(
        "maximize", description="Default: the objective's own, or maximize."
    )
    sampler: Annotated[Sampler, Role.SEARCH] = Field("tpe", description="The sampler of the built-in strategy.")
    seed: Annotated[Annotated[Whole, Field(ge=0, le=INTEGER_LIMITS[1])] | None, Role.SEARCH] = Field(
        None, description="The sampler's seed. Default: one is drawn and recorded."
    )
    trials_per_step: Annotated[Whole, Role.SEARCH] = Field(
        1, ge=1, le=10_000, description="The number of trials that a step evaluates in parallel."
    )
    strategy: Annotated[Key, Role.SEARCH] = Field(
        "default", description="What chooses the next trials: default, a registered name, or an import path."
    )
    hold_out: Annotated[_HoldOut, Role.SEARCH] = Field(
        None,
        description="The last part of the data, which the search never sees: a share, its first day, or years.",
        examples=[0.3, "2019-01-01", "3y"],
    )
    score: Annotated[Annotated[Text, AfterValidator(not_blank)] | None, Role.SEARCH] = Field(
        None, description="What is computed from returns without a value: sharpe, sortino, calmar or your own."
    )
    family: Annotated[Text, AfterValidator(not_blank)] | None = Field(
        None, max_length=NAME_LIMIT, description="The trials of one family count together when a result is judged."
    )
    market_neutral: Flag = Field(False, description="Judge the returns as they are, without a baseline.")
    risk_limits: Annotated[dict[str, Figure] | None, Role.LATER] = Field(
        None,
        min_length=1,
        description="Limits for metrics of the best trial; exceeding one suspends the optimization.",
        examples=[{"drawdown": 0.2}],
    )
    on_start: Annotated[Flag, Role.LATER] = Field(False, description="Send an alert of level info at the start.")
    on_completion: Annotated[Flag, Role.LATER] = Field(False, description="Send an alert of level info at completion.")
    timeout_seconds: _Seconds | None = Field(None, description="The limit of the running time, over all attempts.")
    trial_timeout_seconds: _Seconds | None = Field(None, description="The limit of one trial, which then fails.")
    stop_after_failures: _Number | None = Field(
        None, description="Consecutive failed trials that end it. Default: 10, as long as none has succeeded."
    )
    max_attempts: Whole = Field(3, ge=1, le=1_000_000, description="The attempts after which a crash fails it.")
    after: Annotated[Annotated[list[Id], AfterValidator(_each_once)], Role.SUBMISSION] = Field(
        default_factory=list,
        max_length=AFTER_LIMIT,
        description="The ids of optimizations that must complete first.",
    )
    retry_of: Annotated[Id | None, Role.SUBMISSION] = Field(None, description="An ended optimization to run again.")
    retry_from_step: Annotated[Count | None, Role.SUBMISSION] = Field(None, description="The steps of it to keep.")
    series: Name | None = Field(None, description="Reserved: the series that this run belongs to.")
    scheduled_at: Annotated[Text, AfterValidator(_zoned)] | None = Field(
        None, description="Reserved: the time that this run was scheduled for.", examples=["2026-01-31T09:30:00+00:00"]
    )
    warm_start: Annotated[Flag, Role.SEARCH] = Field(
        False, description="First try the best parameters of the last completed run of the series."
    )
    tags: Annotated[Any, Role.WORDS] = Field(None, description="Any JSON value.")
    notes: Annotated[Any, Role.WORDS] = Field(None, description="Any JSON value.")
    placebo_of: Annotated[SkipJsonSchema[Id | None], Role.SUBMISSION, Role.RECORDED] = None
    placebo_number: Annotated[SkipJsonSchema[_Number | None], Role.SUBMISSION, Role.RECORDED] = None
    warm_start_from: Annotated[SkipJsonSchema[WarmStart | None], Role.SEARCH, Role.RECORDED] = None
    demonstration: Annotated[SkipJsonSchema[Flag], Role.RECORDED] = False
    given: Annotated[SkipJsonSchema[tuple[_Given, ...]], Role.RECORDED] = ()

    @model_validator(mode="after")
    def _retries_something(self) -> Self:
        if self.retry_from_step is not None and self.retry_of is None:
            raise OptimizationValidationError("retry_from_step", "it requires metadata.retry_of")
        return self


@cache
def keys_of(*roles: Role) -> frozenset[str]:
    """The metadata keys that have one of the roles."""
    return frozenset(name for name, field in Metadata.model_fields.items() if set(roles) & set(field.metadata))


def read_metadata(metadata: Mapping[str, Any], optimization_id: str = "") -> Metadata:
    """Validate the known keys. Raises OptimizationValidationError with all faults."""
    faults = Faults()
    with faults:
        read = validated(Metadata, metadata, field="metadata")
    after = metadata.get("after")
    if isinstance(after, (list, tuple)) and optimization_id in after:
        faults.add(OptimizationValidationError("metadata.after", "it cannot wait for itself; remove its own id"))
    faults.refuse()
    return read


def unknown_keys(metadata: Mapping[str, Any], declared: Collection[str] = ()) -> Iterator[OptimizationValidationError]:
    """Yield a fault for each unknown key, UNKNOWN_SHOWN at most. declared: the keys of a user's strategy."""
    known = Metadata.model_fields
    unknown = [key for key in metadata if key not in known and key not in declared]
    typed = [*(known.keys() - keys_of(Role.RECORDED)), *declared] if unknown else []
    for key in unknown[:UNKNOWN_SHOWN]:
        yield OptimizationValidationError(
            f"metadata.{key!s:.60}", f"there is no such key; {_remedy_of_key(str(key), typed)}"
        )


def _remedy_of_key(key: str, known: Sequence[str]) -> str:
    if key in OptimizationState.__dataclass_fields__ and key != "metadata":
        return "it is a field of the optimization: put it beside metadata"
    if key in _ELSEWHERE:
        return f"use {_ELSEWHERE[key]}"
    if hint := did_you_mean(near(key, known)):
        return hint
    return (
        "put what an objective or a strategy needs into parameters, and anything else into notes or tags; your own "
        "strategy may declare keys: register_strategy(name, …, metadata=(…,))"
    )


# The names of other tools.
_ELSEWHERE = {
    "n_trials": "total_steps, beside metadata, and metadata.trials_per_step",
    "n_jobs": "metadata.trials_per_step",
    "timeout": "metadata.timeout_seconds",
    "pruner": "no pruner: O9 evaluates each trial completely",
    "placebo": "the command `o9 placebo ID`, after it has completed",
}


def missing_objective(metadata: Mapping[str, Any]) -> OptimizationValidationError | None:
    """The fault of metadata that name neither an objective nor a user's strategy; None if they name one."""
    named = metadata.get("objective") is not None or metadata.get("retry_of") is not None
    if named or metadata.get("strategy", "default") not in BUILT_IN_STRATEGIES:
        return None
    return OptimizationValidationError("metadata.objective", "it is missing: name an objective or your own strategy")


def _one_of(kind: type[Enum]) -> BeforeValidator:
    return BeforeValidator(partial(member, kind))


_PRIORITY = WithJsonSchema({
    "anyOf": [
        {"type": "string", "enum": [level.name.lower() for level in OptimizationPriority]},
        {"type": "integer", "enum": [level.value for level in OptimizationPriority]},
    ],
    "default": "normal",
})  # fmt: skip
_Moment = SkipJsonSchema[Annotated[Moment, BeforeValidator(moment_of)] | None]


class OptimizationSpec(Typed):
    """An optimization to submit."""

    model_config = ConfigDict(title="Optimization")

    optimization_id: Id | None = Field(None, title="Id", description="Default: made from the name and the time.")
    name: Name | None = Field(None, description="Default: the objective's.", examples=["Momentum, EUR/USD"])
    description: Description = Field("", description="Any text.")
    optimization_type: Annotated[OptimizationType, _one_of(OptimizationType)] = Field(
        OptimizationType.PARAMETER_TUNING, title="Type", description="The kind of optimization."
    )
    priority: Annotated[OptimizationPriority, _one_of(OptimizationPriority), _PRIORITY] = Field(
        OptimizationPriority.NORMAL, description="A higher priority starts sooner."
    )
    total_steps: Count = Field(0, title="Steps", description="0: the strategy's or the objective's own number.")
    baseline_performance: Figure | None = Field(
        None, title="Baseline", description="The value to beat, such as that of the current parameters."
    )
    target_performance: Figure | None = Field(None, title="Target", description="The value to reach.")
    parameters: JsonObject = Field(
        default_factory=dict,
        description="Fixed parameters of every trial; the sampler's take precedence.",
        examples=[{"fee": 0.0002}],
    )
    metadata: Annotated[JsonObject, KeptAsGiven(Metadata)] = Field(
        default_factory=dict, description="What to optimize, and how."
    )
    created_at: _Moment = None
    updated_at: _Moment = None

    @classmethod
    def parse(cls, given: Any) -> Self:
        """Validate a specification. Raises OptimizationValidationError with all faults."""
        faults = Faults()
        with faults:
            spec = validated(cls, given)
        metadata = given.get("metadata", {}) if isinstance(given, Mapping) else None
        if isinstance(metadata, Mapping) and (fault := missing_objective(metadata)) is not None:
            faults.add(fault)
        faults.refuse()
        return spec

    @classmethod
    def remedy_of_unknown(cls, name: str) -> str | None:
        if name in _RECORDED:
            return "O9 sets it; remove it"
        return "it belongs under metadata" if name in Metadata.model_fields else None

    @model_validator(mode="before")
    @classmethod
    def _was_written_out(cls, data: Any) -> Any:
        """Accept a serialized state that has not begun: ignore the fields that O9 sets, and figures of 0.0."""
        if not isinstance(data, Mapping):
            return data
        silent = dict(_RECORDED)
        if data.keys() >= OptimizationState.__dataclass_fields__.keys():
            metadata = data["metadata"] if isinstance(data["metadata"], Mapping) else {}
            silent |= {name: 0.0 for name in FIGURES if name not in metadata.get(GIVEN, ())}
        return {name: value for name, value in data.items() if name not in silent or value != silent[name]}

    @model_validator(mode="after")
    def _names_something(self) -> Self:
        if (fault := missing_objective(self.metadata)) is not None:
            raise fault
        return self

    def to_state(self) -> OptimizationState:
        """Make the state to submit: with defaults, and a note of figures that were given as 0."""
        now = utc_now()
        objective = self.metadata.get("objective")
        name = self.name if self.name is not None else objective or "optimization"
        zeros = [figure for figure in FIGURES if getattr(self, figure) == 0]
        metadata = copied("metadata", self.metadata)
        if zeros and GIVEN not in metadata:
            metadata[GIVEN] = zeros
        stem = _slug(self.name or "") or _slug(str(objective or "").rpartition(":")[2]) or "optimization"
        return OptimizationState(
            optimization_id=self.optimization_id or f"{stem}-{now.astimezone():%Y%m%d-%H%M%S}-{secrets.token_hex(3)}",
            name=name,
            description=self.description,
            optimization_type=self.optimization_type,
            status=OptimizationStatus.CREATED,
            priority=self.priority,
            created_at=self.created_at or now,
            updated_at=self.updated_at or now,
            total_steps=self.total_steps,
            baseline_performance=self.baseline_performance or 0.0,
            target_performance=self.target_performance or 0.0,
            parameters=copied("parameters", self.parameters),
            metadata=metadata,
        )


def new_optimization(given: Any) -> OptimizationState:
    """Make the state to submit from a specification. Raises OptimizationValidationError with all faults."""
    return OptimizationSpec.parse(given).to_state()


def _slug(text: str) -> str:
    plain = unicodedata.normalize("NFKD", text).encode("ascii", "ignore").decode()
    return re.sub(r"[^a-z0-9]+", "-", plain.lower()).strip("-")[:32].strip("-")


# The fields that O9 sets, with their initial values.
_RECORDED: dict[str, Any] = {"status": OptimizationStatus.CREATED.value} | {
    field.name: field.default_factory() if field.default_factory is not MISSING else field.default
    for field in fields(OptimizationState)
    if field.name not in OptimizationSpec.model_fields and field.name != "status"
}
