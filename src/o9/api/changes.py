"""`PUT` and `DELETE` of an optimization. What an attempt works on is refused, or with `cancel` cancelled first.

A change keeps the fields that it does not name; metadata are one field. Before the first attempt it may give all that a
submission may; later what no trial depends on (`o9.store.optimizations.replace.LATER`), after the end the words.
Deleting is pruning: counts stay. What has not ended is cancelled before that.
"""

from __future__ import annotations

import asyncio
import dataclasses
from collections.abc import Mapping
from typing import Any

from o9.api.backend import Backend, existing
from o9.health.statistics.pruned import sharpe_ratios_of
from o9.lifecycle.submission import prepared
from o9.model.errors import OptimizationNotFoundError, OptimizationStateError, OptimizationValidationError
from o9.model.optimization import FIGURES, GIVEN, OptimizationState
from o9.model.settings import settings
from o9.model.specification import Role, keys_of, read_metadata, unnamed
from o9.model.states import ACTIVE, ENDED, Intent, OptimizationStatus
from o9.model.validation import validate_changes
from o9.store import queries
from o9.store.core.column_types import content_hash
from o9.store.optimizations.pruning import Because, PruneOne
from o9.store.optimizations.queries import Holding
from o9.store.optimizations.replace import (
    LATER,
    REPLACEABLE,
    SEARCH,
    WORDS,
    ChangedMeanwhile,
    Replace,
    check_changeable,
    check_version,
    fields_of,
)
from o9.store.queue.policies import with_defaults
from o9.store.store import Store

TRIES = 10  # to change what others change at the same time
END_SECONDS = 20.0  # what is cancelled has ended by then, and Prefect has said so
POLL_SECONDS = 0.05
_ABSENT = object()
_AT_SUBMISSION = sorted(keys_of(Role.SUBMISSION))
_WHY_KEPT = {
    Because.AWAITED: "others are to run after it: cancel or delete those first",
    Because.OPEN_RUN: "Prefect has not said yet how its flow run ended: ask again in a minute",
    Because.OPEN_ALERT: "an alert of it fires, or its end is still to be sent: POST /alerts/ID/resolve ends it",
}


async def change(
    backend: Backend, optimization_id: str, fields: Mapping[str, Any], *, cancel: bool, version: int | None
) -> OptimizationState:
    """Change these fields; returns the new state. `version`: that at which it was read; None: any.

    Raises OptimizationValidationError for a field that cannot be changed or a value that it cannot have,
    OptimizationStateError where the present state forbids it.
    """
    store = backend.store
    await existing(backend, optimization_id)
    for _ in range(TRIES):
        holding = await _holding(store, optimization_id)  # before the state: that is no older than this version
        before = await existing(backend, optimization_id)
        check_version(optimization_id, version, holding.version)
        ends = is_at_work(holding)
        if ends and not cancel:
            raise _at_work(before, "change")
        after, changed = _asked(before, fields, has_begun=holding.attempt > 0)
        _check_whole(before, after, changed, holding.attempt)
        if ends and (fixed := changed - WORDS):
            raise OptimizationStateError(
                f"{min(fixed)}: ?cancel=true would end the optimization, which is {before.status.value}, before this "
                "change; submit another one with it, under another id"
            )
        check_changeable(changed, before.status, holding.attempt)
        fields = {name: fields[name] for name in fields_of(changed)}  # what is given as it was read asks for nothing
        if ends:
            await _cancel(backend, optimization_id)
            version = None  # which has moved on
            continue
        if not changed:
            return before
        settled = await _settled(store, before, after) if fields_of(changed - LATER) & SEARCH else after
        try:
            await store.write_async(Replace(settled, changed, content_hash(after), holding.version))
        except ChangedMeanwhile:  # by somebody else, whose change is not to be lost
            if version is not None:
                raise
        else:
            return await existing(backend, optimization_id)
    raise OptimizationStateError(f"optimization {optimization_id!r} is changed by others all the time: ask again")


async def delete(backend: Backend, optimization_id: str, *, cancel: bool) -> None:
    """Delete it, its placebo runs, and all that is recorded of them.

    Raises OptimizationStateError where the present state forbids it.
    """
    store = backend.store
    state = await existing(backend, optimization_id)
    if is_at_work(await _holding(store, optimization_id)) and not cancel:
        raise _at_work(state, "delete")
    if waiting := await store.read_async(queries.awaiting, optimization_id):
        raise OptimizationStateError(f"to run after it: {', '.join(waiting[:10])}; cancel or delete those first")
    if await store.read_async(queries.has_open_alert, optimization_id):
        raise OptimizationStateError(f"optimization {optimization_id!r} stays: {_WHY_KEPT[Because.OPEN_ALERT]}")
    for run_id in (await store.read_async(queries.placebos, optimization_id)).run_ids.values():
        if await store.read_async(queries.get, run_id) is not None:
            await delete(backend, run_id, cancel=cancel)
    cancelled = ""
    if state.status not in ENDED:
        if cancel:
            await _cancel(backend, optimization_id)
        elif not await backend.control.cancel_at_rest(optimization_id, "api"):
            raise _at_work(await existing(backend, optimization_id), "delete")  # an attempt has begun since the look
        cancelled = ", cancelled"
    deadline = asyncio.get_running_loop().time() + END_SECONDS
    while (why := await store.write_async(PruneOne(optimization_id, sharpe_ratios_of))) is not Because.LONG_AGO:
        late = asyncio.get_running_loop().time() > deadline
        if why is not None and (late or why is not Because.OPEN_RUN):
            kept = _WHY_KEPT.get(why, why.value)
            raise OptimizationStateError(f"optimization {optimization_id!r} stays{cancelled}: {kept}")
        await asyncio.sleep(POLL_SECONDS)  # others write meanwhile


def is_at_work(holding: Holding) -> bool:
    """Whether an attempt works on it, or is about to."""
    return OptimizationStatus(holding.status) in ACTIVE or holding.lease_node is not None


async def _holding(store: Store, optimization_id: str) -> Holding:
    found = await store.read_async(queries.holding, optimization_id)
    if found is None:
        raise OptimizationNotFoundError(f"optimization {optimization_id!r} was deleted meanwhile")
    return found


def _at_work(state: OptimizationState, verb: str) -> OptimizationStateError:
    return OptimizationStateError(
        f"optimization {state.optimization_id!r} is {state.status.value}: pause it first, or {verb} it with "
        "?cancel=true, which ends it for good"
    )


def _asked(
    before: OptimizationState, fields: Mapping[str, Any], *, has_begun: bool
) -> tuple[OptimizationState, frozenset[str]]:
    """The state with `fields`, and the names of those that differ; of the metadata, of the keys.

    Raises OptimizationValidationError, and OptimizationStateError for what is fixed at submission.
    """
    typed = dict(fields)
    if typed.keys() < OptimizationState.__dataclass_fields__.keys():  # else it is a state as it was read
        zeros = {name for name in FIGURES if typed.get(name) == 0 and (not has_begun or getattr(before, name))}
        metadata = typed.get("metadata", before.metadata)
        if zeros and isinstance(metadata, Mapping):
            typed["metadata"] = {**metadata, GIVEN: sorted(zeros.union(metadata.get(GIVEN, ())))}
    after = OptimizationState.from_dict(before.to_dict() | typed)
    for each in dataclasses.fields(before):
        if each.name not in REPLACEABLE and getattr(before, each.name) != getattr(after, each.name):
            raise _not_theirs(before.optimization_id, each.name)
    validate_changes({name: getattr(after, name) for name in sorted(REPLACEABLE & fields.keys())})
    old, new = before.metadata, after.metadata
    if old != new:
        read_metadata(new, before.optimization_id)
    for key in _AT_SUBMISSION:
        if old.get(key) != new.get(key):
            raise OptimizationStateError(f"metadata.{key}: it is fixed at submission; delete it, and submit it again")
    keys = old.keys() | new.keys()
    changed = {f"metadata.{key}" for key in keys if _form(old.get(key, _ABSENT)) != _form(new.get(key, _ABSENT))}
    fields_changed = {
        name for name in REPLACEABLE - {"metadata"} if _form(getattr(before, name)) != _form(getattr(after, name))
    }
    return after, frozenset(changed | fields_changed)


def _check_whole(before: OptimizationState, after: OptimizationState, changed: frozenset[str], attempt: int) -> None:
    """Raises OptimizationStateError for metadata without a key that may not change any more: likely forgotten."""
    fixed = changed - (WORDS if before.status in ENDED else LATER)
    left_out = sorted(key for key in before.metadata if f"metadata.{key}" in fixed and key not in after.metadata)
    if left_out and (attempt or before.status in ENDED):
        raise OptimizationStateError(f"metadata.{left_out[0]}: it is missing here; send the metadata whole")


def _not_theirs(optimization_id: str, name: str) -> OptimizationValidationError:
    remedy = "it cannot change; submit another one under the new id"
    if name == "status":
        remedy = f"POST /optimizations/{optimization_id}/start, pause, resume or cancel moves it"
    elif name != "optimization_id":
        remedy = "O9 records it; leave it out"
    return OptimizationValidationError(name, remedy)


def _form(value: Any) -> Any:
    """`value` in a form in which true differs from 1. 1.0 does not: some programs send 1 where they have read 1.0."""
    if isinstance(value, Mapping):
        return {key: _form(each) for key, each in value.items()}
    if isinstance(value, (list, tuple)):
        return [_form(each) for each in value]
    return (bool, value) if isinstance(value, bool) else value


async def _settled(store: Store, before: OptimizationState, after: OptimizationState) -> OptimizationState:
    """`after` as a submission of it would be: checked, with what is fixed at submission filled in."""
    strategy = str(after.metadata.get("strategy", "default"))
    policies = await store.read_async(queries.policies)
    metadata = with_defaults(policies, after.optimization_type.value, strategy, after.metadata)
    new = dataclasses.replace(after, status=OptimizationStatus.CREATED, metadata=metadata, warnings=[])
    if "retry_of" not in metadata and (fault := unnamed(metadata)) is not None:
        raise fault
    settled = prepared(new, settings().allowed_imports, older=before.metadata.keys())
    if before.metadata == after.metadata:  # what was filled in at submission looks as if it had been asked for
        settled.warnings = list(dict.fromkeys([*before.warnings, *settled.warnings]))
    return settled


async def _cancel(backend: Backend, optimization_id: str) -> None:
    """Cancel it, and wait for its end."""
    await backend.control.request(optimization_id, Intent.CANCEL, "api")
    deadline = asyncio.get_running_loop().time() + END_SECONDS
    while (state := await existing(backend, optimization_id)).status not in ENDED:
        if asyncio.get_running_loop().time() > deadline:
            raise OptimizationStateError(
                f"optimization {optimization_id!r} is still {state.status.value}: its cancel is recorded; ask again "
                "once it has ended"
            )
        await asyncio.sleep(POLL_SECONDS)
