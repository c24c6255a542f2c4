"""Creates an optimization: fills in defaults, checks everything, and records it. All errors are raised here.

If no objective and no strategy of the user's own is named, a built-in demonstration objective of the optimization's
type runs, and `warnings` says so.
"""

from __future__ import annotations

import asyncio
import copy
import dataclasses
import re
from collections.abc import Collection, Iterable, Mapping, Sequence
from datetime import datetime
from graphlib import CycleError, TopologicalSorter
from typing import Any
from weakref import WeakKeyDictionary

from o9.model.errors import Faults, OptimizationStateError, OptimizationValidationError
from o9.model.optimization import GIVEN, OptimizationState
from o9.model.settings import settings
from o9.model.specification import Role, keys_of, new_optimization, unknown_keys
from o9.model.states import OptimizationStatus, OptimizationType
from o9.model.templates import fill_dates
from o9.model.validation import validate_new
from o9.store import queries
from o9.store.core.column_types import content_hash
from o9.store.core.component import StoreComponent
from o9.store.core.unit import Operation
from o9.store.optimizations.placebos import CreatePlacebo
from o9.store.optimizations.prefect_runs import CreateRefused
from o9.store.optimizations.retry import Retry
from o9.store.optimizations.transitions import Create, was_refused
from o9.store.queue.policies import Policies, PoliciesChangedError, with_defaults
from o9.store.store import Store
from o9.strategies.factory import settle, strategy_of

_OF_PLACEBOS = frozenset({"placebo_of", "placebo_number"})
_WITH_FIRST_TRIAL = _OF_PLACEBOS | {"retry_of", "warm_start_from"}  # their first trial is given already


def requested(
    given: Any, allowed_imports: tuple[str, ...] | None = None, *, scheduled_for: datetime | None = None
) -> OptimizationState:
    """The optimization that a run file or a request describes, ready to submit.

    scheduled_for: the time that templates of dates mean; None: there are no templates. Raises
    OptimizationValidationError with all faults, including those that a submission of the valid part would find.
    """
    faults, state = Faults(), None
    if scheduled_for is not None:
        given = fill_dates(given, scheduled_for, faults)
    with faults:
        state = new_optimization(given)
    if faults.fields and isinstance(given, Mapping):
        rest = _without(given, [field for field in faults.fields if not field.startswith("metadata.")])
        metadata = rest.get("metadata")
        sound = _without(metadata, faults.fields, "metadata.") if isinstance(metadata, Mapping) else {}
        try:
            other = new_optimization(rest | {"metadata": {"objective": ""} | sound})
            other.metadata = sound  # which may name no objective
            prepared(other, allowed_imports)
        except OptimizationValidationError as error:
            _add_others(faults, error)
    faults.refuse()
    assert state is not None
    return state


def prepared(
    state: OptimizationState, allowed_imports: tuple[str, ...] | None = None, *, older: Collection[str] = ()
) -> OptimizationState:
    """A checked copy of `state`, with everything filled in that is fixed at submission.

    allowed_imports: the module prefixes that may be named; None: any, unless O9_ALLOWED_IMPORTS is set, because the
    caller runs its own code anyway. older: keys of its metadata that were recorded before. Raises
    OptimizationValidationError with all faults, each naming the field and the remedy.
    """
    faults, settled, metadata = Faults(), state, None
    with faults:
        metadata = validate_new(state)
    if isinstance(state, OptimizationState) and isinstance(state.metadata, dict):
        sound = _sound(state, faults.fields) if faults.fields else state
        try:
            strategy = strategy_of(sound, allowed_imports)
            for fault in unknown_keys(state.metadata, (*strategy.metadata, *older)):
                faults.add(fault)
            settled = settle(sound, allowed_imports=allowed_imports, strategy=strategy, metadata=metadata)
        except OptimizationValidationError as error:
            _add_others(faults, error)
    faults.refuse()
    return settled


def _sound(state: OptimizationState, wrong: Sequence[str]) -> OptimizationState:
    """A copy without the wrong fields that a plan depends on."""
    sound = copy.copy(state)
    sound.metadata = _without(state.metadata, wrong, "metadata.")
    for name in _PLANNED.keys() & set(wrong):
        setattr(sound, name, _PLANNED[name])
    return sound


_PLANNED: dict[str, Any] = {"optimization_type": OptimizationType.PARAMETER_TUNING, "total_steps": 0}


def _without(values: Mapping[str, Any], wrong: Iterable[str], above: str = "") -> dict[str, Any]:
    """The values without those that contain a wrong field."""
    return {key: value for key, value in values.items() if not any(_holds(f"{above}{key}", field) for field in wrong)}


def _holds(holder: str, field: str) -> bool:
    return field == holder or field.startswith((f"{holder}.", f"{holder}["))


def _add_others(faults: Faults, error: OptimizationValidationError) -> None:
    """Add the faults found in the rest, except those of fields that are wrong already."""
    known = {".".join(re.split(r"[.\[]", field)[:2]) for field in faults.fields}
    for fault in error.faults:
        if not any(_holds(field, fault.field) for field in known):
            faults.add(fault)


# As of this process's last submission. The store checks whether they still apply.
_policies: WeakKeyDictionary[Store, Policies] = WeakKeyDictionary()


async def submit(
    store: Store,
    state: OptimizationState,
    *,
    allowed_imports: tuple[str, ...] | None = None,
    hold: bool = False,
    is_placebo: bool = False,
) -> OptimizationState:
    """Record a new optimization durably. It is queued at once, or with `hold` when it is started.

    The same id with the same content returns the recorded one. `metadata["after"]` names those that must complete
    first, `metadata["retry_of"]` an ended one to run again from the checkpoint behind its step
    `metadata["retry_from_step"]`. With `metadata["warm_start"]` it begins with the best of the last completed run of
    its series. is_placebo: set by `o9.lifecycle.placebos` only. Raises OptimizationValidationError with all faults, and
    OptimizationConflictError for the same id with other content.
    """
    if not isinstance(getattr(state, "metadata", None), dict) or "retry_of" in state.metadata:
        validate_new(state)  # before its origin is read
    if not is_placebo and (given := _OF_PLACEBOS & state.metadata.keys()):
        raise OptimizationValidationError(f"metadata.{min(given)}", "only `o9 placebo ID` queues placebo runs; omit it")
    asked, steps, older = state, 0, frozenset[str]()
    if state.metadata.get("warm_start") is True and not (_WITH_FIRST_TRIAL & state.metadata.keys()):
        state = await _warm_started(store, state)
    if "retry_of" in state.metadata:
        state, steps = await asyncio.to_thread(_with_inherited, store, state)
        older = frozenset(state.metadata.keys() - asked.metadata.keys())
    strategy, kind = str(state.metadata.get("strategy", "default")), str(getattr(state.optimization_type, "value", ""))
    new = copy.copy(state)
    while True:
        policies = _policies.get(store, {})
        new.metadata = with_defaults(policies, kind, strategy, state.metadata)
        settled = prepared(new, allowed_imports, older=older)
        create = Create(settled, settings().node_id, content_hash(asked), hold, policies)
        operation: Operation[tuple[OptimizationState, bool]] = create
        if "retry_of" in asked.metadata:
            operation = Retry(create, asked.metadata["retry_of"], steps)
        elif is_placebo:
            operation = CreatePlacebo(create, asked.metadata["placebo_of"], asked.metadata["placebo_number"])
        try:
            recorded, _ = await store.write_async(operation)
        except PoliciesChangedError as error:
            _policies[store] = error.current
            continue
        return recorded


async def record_refused(store: Store, given: Any, error: OptimizationValidationError, run_id: str) -> str:
    """Record a refused submission of a flow run as a failed optimization, so that lists show it and alerts are raised.

    Returns its id, which is a new one, so that the corrected submission can have its own.
    """
    wrong = [fault.field for fault in error.faults]
    fields = given if isinstance(given, Mapping) else {}
    metadata = fields.get("metadata")
    sound = {name: value for name, value in _without(fields, wrong).items() if name in _SHOWN}
    shown = _without(metadata, wrong, "metadata.") if isinstance(metadata, Mapping) else {}
    shown = {name: value for name, value in shown.items() if name in _SHOWN}
    try:
        state = new_optimization(sound | {"metadata": {"objective": ""} | shown})
    except OptimizationValidationError:
        state = new_optimization({"metadata": {"objective": ""}})
    state.metadata = {name: value for name, value in state.metadata.items() if value}
    await store.write_async(CreateRefused(state, str(error), settings().node_id, run_id))
    return state.optimization_id


_SHOWN = frozenset({"name", "description", "optimization_type", "priority", "objective", "series", "tags", "notes"})


async def retry(
    store: Store,
    optimization_id: str,
    *,
    from_step: int | None = None,
    new_id: str | None = None,
    hold: bool = False,
) -> OptimizationState:
    """Run an ended optimization again, as a new one with the same seed, behind its step `from_step`.

    None: behind its last committed step that brought anything but failed trials, or from the beginning where it has
    completed. Raises OptimizationValidationError where there is no such step, OptimizationStateError while it has not
    ended.
    """
    origin = await StoreComponent(store).existing(optimization_id)
    metadata: dict[str, Any] = {"retry_of": optimization_id}
    if from_step is not None:
        metadata["retry_from_step"] = from_step
    fields = {"name": origin.name, "optimization_type": origin.optimization_type, "metadata": metadata}
    if new_id is not None:
        fields["optimization_id"] = new_id
    return await submit(store, new_optimization(fields), hold=hold)


async def _warm_started(store: Store, state: OptimizationState) -> OptimizationState:
    """`state` with the best of the last completed run of its series as its first trial.

    It counts in the family of that run, because its first trial was chosen from that run's trials.
    """
    series = state.metadata.get("series")
    if not isinstance(series, str):
        warning = "no warm start: it belongs to no series; set metadata.series, as `o9 deploy` does"
        return dataclasses.replace(state, warnings=[*state.warnings, warning])
    last = await store.read_async(queries.last_best, series)
    if last is None:
        return state
    begun = {"optimization_id": last["optimization_id"], "parameters": last["optimized_parameters"]}
    family = {"family": last["family"]} if last["family"] else {}
    return dataclasses.replace(state, metadata=family | state.metadata | {"warm_start_from": begun})


def in_order(states: Sequence[OptimizationState]) -> list[OptimizationState]:
    """Sort a batch so that each follows those in its `metadata.after`.

    Raises OptimizationValidationError for a circle, naming it.
    """
    by_id: dict[str, list[OptimizationState]] = {}
    for state in states:
        by_id.setdefault(state.optimization_id, []).append(state)
    sorter = TopologicalSorter(
        {name: [other for other in _predecessors(same) if other in by_id] for name, same in by_id.items()}
    )
    try:
        return [state for name in sorter.static_order() for state in by_id[name]]
    except CycleError as error:
        circle = " → ".join(reversed(error.args[1]))
        raise OptimizationValidationError("metadata.after", f"circular dependency: {circle}") from error


def _predecessors(states: Sequence[OptimizationState]) -> list[str]:
    """The ids that any of them names in `metadata.after`; wrong values are left to the validation."""
    afters = [state.metadata.get("after") for state in states]
    return [name for after in afters if isinstance(after, list | tuple) for name in after if isinstance(name, str)]


def _with_inherited(store: Store, state: OptimizationState) -> tuple[OptimizationState, int]:
    """`state` with what it inherits from its origin, and the number of the origin's steps that it keeps. Blocks."""
    name = state.metadata["retry_of"]
    origin = store.read(queries.get, name)
    if origin is None:
        raise OptimizationValidationError("metadata.retry_of", f"there is no optimization {name!r}")
    if any(was_refused(each) for each in store.read(queries.transitions, name, 0, 2)):
        raise OptimizationStateError(
            f"optimization {name!r} was refused at submission, so there is nothing to run again: correct the issues "
            f"that `o9 show {name}` lists, then run its deployment again"
        )
    steps = state.metadata.get("retry_from_step")
    if steps is None:
        steps = 0 if origin.status is OptimizationStatus.COMPLETED else _steps_to_keep(store, origin)
    total = state.total_steps or origin.total_steps
    if 0 < total < steps or (total == steps > 0 and origin.status is OptimizationStatus.COMPLETED):
        raise OptimizationValidationError(
            "metadata.retry_from_step",
            f"no step is left after step {steps}: total_steps is {total}; use an earlier step, or raise total_steps",
        )
    for key in _KEPT:
        if steps and key in state.metadata and state.metadata[key] != origin.metadata.get(key):
            raise OptimizationValidationError(
                f"metadata.{key}", f"a retry from step {steps} keeps that of {name!r}; omit it, or use step 0"
            )
    inherited = {key: value for key, value in origin.metadata.items() if key not in _NOT_INHERITED}
    return dataclasses.replace(
        state,
        description=state.description or origin.description,
        total_steps=total,
        parameters=state.parameters or origin.parameters,
        baseline_performance=_own_or_inherited(origin, state, "baseline_performance"),
        target_performance=_own_or_inherited(origin, state, "target_performance"),
        metadata=inherited | state.metadata | {"retry_from_step": steps},
    ), steps


def _own_or_inherited(origin: OptimizationState, state: OptimizationState, name: str) -> float:
    value: float = getattr(state, name)
    inherited: float = getattr(origin, name)
    return value if value or name in state.metadata.get(GIVEN, ()) else inherited


def _steps_to_keep(store: Store, origin: OptimizationState) -> int:
    """How many of its first steps a retry keeps: not the last ones that only failed, or it would fail the same way.

    0 without a checkpoint: a coroutine strategy counts its own steps.
    """
    if store.read(queries.checkpoint, origin.optimization_id) is None:
        return 0
    steps, fruitless = origin.completed_steps, store.read(queries.failed_steps, origin.optimization_id)
    while steps and steps - 1 in fruitless:
        steps -= 1
    return steps


_KEPT = sorted(keys_of(Role.SEARCH))
_NOT_INHERITED = keys_of(Role.SUBMISSION) - keys_of(Role.RECORDED)
