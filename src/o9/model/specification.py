"""The one specification of an optimization, as Pydantic models.

Contract. Run files, HTTP bodies, Prefect's form and the documentation read these models, and nothing else lists the
fields of an optimization or the keys of its metadata. `OptimizationSpec.parse` raises OptimizationValidationError with
all faults; `to_state` makes the OptimizationState that is submitted. Metadata are kept as they were given. Checks that
need the objective or the strategy are in `o9.strategies`.
"""

from __future__ import annotations

import copy
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
from o9.model.optimization import FIGURES, GIVEN, OptimizationState, member, moment_of, utc_now
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

    SEARCH = "what the trials depend on: another value, and they would be another search's"
    SUBMISSION = "fixed at submission"
    LATER = "may change until the end: no trial depends on it"
    WORDS = "may change at any time"
    RECORDED = "written by O9; nobody types it"


def _each_once(ids: list[str]) -> list[str]:
    if len(set(ids)) < len(ids):
        raise ValueError("it names one more than once; name each once")
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
    """The run whose best parameters are tried first, and these."""

    optimization_id: Id
    parameters: JsonObject


class Metadata(Typed):
    """What to optimize, and how. Other keys are refused, unless the strategy declares them."""

    model_config = ConfigDict(
        extra="allow",
        json_schema_extra={"anyOf": [{"required": [name]} for name in ("objective", "strategy", "retry_of")]},
    )

    objective: Annotated[Text | None, Role.SEARCH] = Field(
        None,
        description="What is optimized: a registered name, or an import path.",
        examples=["desk.momentum:objective"],
    )
    search_space: Annotated[SearchSpaceField | None, Role.SEARCH] = Field(
        None, description="The parameters to search; left out, those that the objective brings."
    )
    direction: Annotated[Direction, Role.SEARCH] = Field(
        "maximize", description="Left out, the objective's own, else maximize."
    )
    sampler: Annotated[Sampler, Role.SEARCH] = Field("tpe", description="How the built-in strategy samples.")
    seed: Annotated[Annotated[Whole, Field(ge=0, le=INTEGER_LIMITS[1])] | None, Role.SEARCH] = Field(
        None, description="Of the sampler; left out, one is drawn and recorded."
    )
    trials_per_step: Annotated[Whole, Role.SEARCH] = Field(
        1, ge=1, le=10_000, description="How many trials a step evaluates, side by side."
    )
    strategy: Annotated[Key, Role.SEARCH] = Field(
        "default", description="What says what to try next: default, a registered name, or an import path."
    )
    hold_out: Annotated[_HoldOut, Role.SEARCH] = Field(
        None,
        description="The last part of the data, which the search never sees: a share, its first day, or years.",
        examples=[0.3, "2019-01-01", "3y"],
    )
    score: Annotated[Annotated[Text, AfterValidator(not_blank)] | None, Role.SEARCH] = Field(
        None, description="What is computed of returns that come without a value: sharpe, sortino, calmar or your own."
    )
    family: Annotated[Text, AfterValidator(not_blank)] | None = Field(
        None, max_length=NAME_LIMIT, description="Whose trials count together when a result is judged."
    )
    market_neutral: Flag = Field(False, description="Judge the returns themselves, without a baseline.")
    risk_limits: Annotated[dict[str, Figure] | None, Role.LATER] = Field(
        None,
        min_length=1,
        description="Metrics of the best trial above which it is suspended.",
        examples=[{"drawdown": 0.2}],
    )
    on_start: Annotated[Flag, Role.LATER] = Field(False, description="Send an alert of level info when it starts.")
    on_completion: Annotated[Flag, Role.LATER] = Field(
        False, description="Send an alert of level info when it completes."
    )
    timeout_seconds: _Seconds | None = Field(None, description="Of running, over all attempts.")
    trial_timeout_seconds: _Seconds | None = Field(None, description="Of one trial, which has failed then.")
    stop_after_failures: _Number | None = Field(
        None, description="Failed trials in a row that end it; left out, 10 as long as none has succeeded."
    )
    max_attempts: Whole = Field(3, ge=1, le=1_000_000, description="How often it may be begun again after a death.")
    after: Annotated[Annotated[list[Id], AfterValidator(_each_once)], Role.SUBMISSION] = Field(
        default_factory=list,
        max_length=AFTER_LIMIT,
        description="Ids of others that must complete before it is queued.",
    )
    retry_of: Annotated[Id | None, Role.SUBMISSION] = Field(None, description="One that has ended, to run again.")
    retry_from_step: Annotated[Count | None, Role.SUBMISSION] = Field(
        None, description="Behind which step of that it begins."
    )
    series: Name | None = Field(None, description="Reserved: the recurring optimization that it is a run of.")
    scheduled_at: Annotated[Text, AfterValidator(_zoned)] | None = Field(
        None, description="Reserved: for when that run was scheduled.", examples=["2026-01-31T09:30:00+00:00"]
    )
    warm_start: Annotated[Flag, Role.SEARCH] = Field(
        False, description="Try the best parameters of the last completed run of the series first."
    )
    tags: Annotated[Any, Role.WORDS] = Field(None, description="Free.")
    notes: Annotated[Any, Role.WORDS] = Field(None, description="Free.")
    placebo_of: Annotated[SkipJsonSchema[Id | None], Role.SUBMISSION, Role.RECORDED] = None
    placebo_number: Annotated[SkipJsonSchema[_Number | None], Role.SUBMISSION, Role.RECORDED] = None
    warm_start_from: Annotated[SkipJsonSchema[WarmStart | None], Role.SEARCH, Role.RECORDED] = None
    demonstration: Annotated[SkipJsonSchema[Flag], Role.RECORDED] = False
    given: Annotated[SkipJsonSchema[tuple[_Given, ...]], Role.RECORDED] = ()

    @model_validator(mode="after")
    def _retries_something(self) -> Self:
        if self.retry_from_step is not None and self.retry_of is None:
            raise OptimizationValidationError("retry_from_step", "of which one? name it in metadata.retry_of")
        return self


@cache
def keys_of(*roles: Role) -> frozenset[str]:
    """The keys of the metadata that have one of these roles."""
    return frozenset(name for name, field in Metadata.model_fields.items() if set(roles) & set(field.metadata))


def read_metadata(metadata: Mapping[str, Any], optimization_id: str = "") -> Metadata:
    """The known keys. Raises OptimizationValidationError for all values that they cannot have."""
    faults = Faults()
    with faults:
        read = validated(Metadata, metadata, field="metadata")
    after = metadata.get("after")
    if isinstance(after, (list, tuple)) and optimization_id in after:
        faults.add(OptimizationValidationError("metadata.after", "it cannot wait for itself; take its own id out"))
    faults.refuse()
    return read


def unknown_keys(metadata: Mapping[str, Any], declared: Collection[str] = ()) -> Iterator[OptimizationValidationError]:
    """A fault for each unknown key, UNKNOWN_SHOWN at most; `declared` are those of a user's strategy."""
    known = Metadata.model_fields
    unknown = [key for key in metadata if key not in known and key not in declared]
    typed = [*(known.keys() - keys_of(Role.RECORDED)), *declared] if unknown else []
    for key in unknown[:UNKNOWN_SHOWN]:
        yield OptimizationValidationError(
            f"metadata.{key!s:.60}", f"there is no such key; {_remedy_of_key(str(key), typed)}"
        )


def _remedy_of_key(key: str, known: Sequence[str]) -> str:
    if key in OptimizationState.__dataclass_fields__ and key != "metadata":
        return "it is a field of its own: put it beside metadata"
    if key in _ELSEWHERE:
        return f"here that is {_ELSEWHERE[key]}"
    if hint := did_you_mean(near(key, known)):
        return hint
    return (
        "what an objective or a strategy is to know goes into parameters; notes and tags are free; a strategy of your "
        "own may declare keys: register_strategy(name, …, metadata=(…,))"
    )


# What other tools call it.
_ELSEWHERE = {
    "n_trials": "total_steps, beside metadata, times metadata.trials_per_step",
    "n_jobs": "metadata.trials_per_step",
    "timeout": "metadata.timeout_seconds",
    "pruner": "nothing: each trial is evaluated whole",
    "placebo": "a command: o9 placebo ID, once it has completed",
}


def missing_objective(metadata: Mapping[str, Any]) -> OptimizationValidationError | None:
    """The fault of metadata that name neither an objective nor a strategy that brings one."""
    named = metadata.get("objective") is not None or metadata.get("retry_of") is not None
    if named or metadata.get("strategy", "default") not in BUILT_IN_STRATEGIES:
        return None
    return OptimizationValidationError("metadata.objective", "it is missing: name what to optimize, or a strategy")


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
    """An optimization as it is asked for; O9 records what becomes of it."""

    model_config = ConfigDict(title="Optimization")

    optimization_id: Id | None = Field(None, title="Id", description="Left out, O9 makes one of the name and the time.")
    name: Name | None = Field(None, description="Left out, the objective's.", examples=["Momentum, EUR/USD"])
    description: Description = Field("", description="For people.")
    optimization_type: Annotated[OptimizationType, _one_of(OptimizationType)] = Field(
        OptimizationType.PARAMETER_TUNING, title="Type", description="What is being optimized."
    )
    priority: Annotated[OptimizationPriority, _one_of(OptimizationPriority), _PRIORITY] = Field(
        OptimizationPriority.NORMAL, description="Of those that wait, the higher begins sooner."
    )
    total_steps: Count = Field(0, title="Steps", description="0: as many as the strategy or the objective says.")
    baseline_performance: Figure | None = Field(
        None, title="Baseline", description="The value to beat, such as that of the parameters in use."
    )
    target_performance: Figure | None = Field(None, title="Target", description="The value that is hoped for.")
    parameters: JsonObject = Field(
        default_factory=dict,
        description="Given to the objective in every trial, beneath the suggested ones.",
        examples=[{"fee": 0.0002}],
    )
    metadata: Annotated[JsonObject, KeptAsGiven(Metadata)] = Field(
        default_factory=dict, description="What to optimize, and how."
    )
    created_at: _Moment = None
    updated_at: _Moment = None

    @classmethod
    def parse(cls, given: Any) -> Self:
        """The specification in typed fields. Raises OptimizationValidationError with all faults."""
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
            return "O9 records it; leave it out"
        return "it belongs under metadata" if name in Metadata.model_fields else None

    @model_validator(mode="before")
    @classmethod
    def _was_written_out(cls, data: Any) -> Any:
        """A state that was written out before it began is accepted, too: ignore what O9 records, and figures of 0.0."""
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
        """The state to submit: defaults filled in, and figures of 0 that were given noted as such."""
        now = utc_now()
        objective = self.metadata.get("objective")
        name = self.name if self.name is not None else objective or "optimization"
        zeros = [figure for figure in FIGURES if getattr(self, figure) == 0]
        metadata = copy.deepcopy(self.metadata)
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
            parameters=copy.deepcopy(self.parameters),
            metadata=metadata,
        )


def new_optimization(given: Any) -> OptimizationState:
    """The state to submit, from typed fields. Raises OptimizationValidationError with all faults."""
    return OptimizationSpec.parse(given).to_state()


def _slug(text: str) -> str:
    plain = unicodedata.normalize("NFKD", text).encode("ascii", "ignore").decode()
    return re.sub(r"[^a-z0-9]+", "-", plain.lower()).strip("-")[:32].strip("-")


# What O9 records, as it is at the beginning.
_RECORDED: dict[str, Any] = {"status": OptimizationStatus.CREATED.value} | {
    field.name: field.default_factory() if field.default_factory is not MISSING else field.default
    for field in fields(OptimizationState)
    if field.name not in OptimizationSpec.model_fields and field.name != "status"
}
