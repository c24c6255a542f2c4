"""`PUT` and `DELETE` of an optimization. A running one is refused; `DELETE` with `cancel` cancels it first.

A change keeps the fields that it does not name; metadata are one field. Before the first attempt it may set everything
that a submission may; later, only what no trial depends on (`o9.store.optimizations.replace.LATER`); after the end,
only names and notes. Deleting is pruning: counts stay. An optimization that has not ended is cancelled first.
"""

from __future__ import annotations

import asyncio
import dataclasses
from collections.abc import Mapping
from typing import Any

from o9.api.backend import Backend, get_or_404, get_state
from o9.health.statistics.pruned import sharpe_ratios_of
from o9.lifecycle.submission import prepared
from o9.model.errors import OptimizationStateError, OptimizationValidationError
from o9.model.optimization import FIGURES, GIVEN, OptimizationState
from o9.model.settings import settings
from o9.model.specification import Role, keys_of, missing_objective, read_metadata
from o9.model.states import ACTIVE, ENDED, Intent, OptimizationStatus
from o9.model.validation import validate_changes
from o9.store import queries
from o9.store.core.column_types import content_hash
from o9.store.optimizations.pruning import PruneOne, PruneReason
from o9.store.optimizations.replace import (
    LATER,
    REPLACEABLE,
    SEARCH,
    Replace,
    check_changeable,
    check_version,
    fields_of,
)
from o9.store.queue.policies import with_defaults
from o9.store.store import Store

END_SECONDS = 20.0  # the time for a cancelled optimization and its flow run to end
POLL_SECONDS = 0.05


async def change(
    backend: Backend, optimization_id: str, fields: Mapping[str, Any], version: int | None
) -> OptimizationState:
    """Change the fields, and return the new state. version: the one that the caller has read; None: any.

    Raises OptimizationValidationError for a fixed field or an invalid value, and OptimizationStateError if the status
    forbids the change or the version is no longer `version`.
    """
    store = backend.store
    holding = await get_or_404(backend, queries.holding, optimization_id, "optimization")
    before = await get_state(backend, optimization_id)  # no older than that version
    check_version(optimization_id, version, holding.version)
    after, changed = _changed(before, fields)
    check_changeable(changed, before.status, holding.attempt)
    if not changed:
        return before
    settled = await _as_submitted(store, before, after) if fields_of(changed - LATER) & SEARCH else after
    try:
        await store.write_async(Replace(settled, changed, content_hash(after), holding.version))
    except OptimizationStateError:
        present = await get_or_404(backend, queries.holding, optimization_id, "optimization")
        if version is not None or present.version == holding.version:
            raise
        return await change(backend, optimization_id, fields, None)  # it was changed between read and write
    return await get_state(backend, optimization_id)


async def delete(backend: Backend, optimization_id: str, *, cancel: bool) -> None:
    """Delete an optimization and its placebo runs, with their records.

    cancel: cancel them first if they run. Raises OptimizationStateError if the present state forbids the deletion.
    """
    store = backend.store
    holding = await get_or_404(backend, queries.holding, optimization_id, "optimization")
    status, stays = OptimizationStatus(holding.status), f"optimization {optimization_id!r} was not deleted"
    if (status in ACTIVE or holding.lease_node is not None) and not cancel:
        raise OptimizationStateError(
            f"{stays}: it is {status.value}; pause it first, or delete it with ?cancel=true, which ends it for good"
        )
    if waiting := await store.read_async(queries.awaiting, optimization_id):
        raise OptimizationStateError(
            f"{stays}: {', '.join(waiting[:10])} will run after it; cancel or delete those first"
        )
    if await store.read_async(queries.has_open_alert, optimization_id):
        raise OptimizationStateError(f"{stays}: {PruneReason.OPEN_ALERT.value}")
    for run_id in (await store.read_async(queries.placebos, optimization_id)).run_ids.values():
        if await store.read_async(queries.get, run_id) is not None:
            await delete(backend, run_id, cancel=cancel)
    if status not in ENDED:
        await backend.control.request(optimization_id, Intent.CANCEL, "api")
        stays = f"{stays}, only cancelled"
    deadline = asyncio.get_running_loop().time() + END_SECONDS
    while (why := await store.write_async(PruneOne(optimization_id, sharpe_ratios_of))) is not PruneReason.LONG_AGO:
        ends = why in (PruneReason.NOT_ENDED, PruneReason.OPEN_RUN) and asyncio.get_running_loop().time() < deadline
        if why is not None and not ends:
            raise OptimizationStateError(f"{stays}: {why.value}")
        await asyncio.sleep(POLL_SECONDS)


def _changed(before: OptimizationState, fields: Mapping[str, Any]) -> tuple[OptimizationState, frozenset[str]]:
    """The state with `fields`, and the names of the fields and metadata keys that differ.

    Raises OptimizationValidationError, and OptimizationStateError for what is fixed at submission.
    """
    typed = dict(fields)
    if (
        typed.keys() < OptimizationState.__dataclass_fields__.keys()
    ):  # else it is a complete state, with its own note of zeros
        zeros = {name for name in FIGURES if typed.get(name) == 0}
        metadata = typed.get("metadata", before.metadata)
        if zeros and isinstance(metadata, Mapping):
            typed["metadata"] = {**metadata, GIVEN: sorted(zeros.union(metadata.get(GIVEN, ())))}
    after = OptimizationState.from_dict(before.to_dict() | typed)
    differing = {f.name for f in dataclasses.fields(before) if getattr(before, f.name) != getattr(after, f.name)}
    for name in sorted(differing - REPLACEABLE):
        remedy = "use POST /optimizations/{id}/start, pause, resume or cancel" if name == "status" else "remove it"
        raise OptimizationValidationError(name, f"it cannot be changed; {remedy}")
    validate_changes({name: getattr(after, name) for name in sorted(REPLACEABLE & fields.keys())})
    old, new = before.metadata, after.metadata
    if "metadata" in differing:
        read_metadata(new, before.optimization_id)
    keys = {key for key in old.keys() | new.keys() if old.get(key) != new.get(key)}
    for key in keys & keys_of(Role.SUBMISSION):
        raise OptimizationStateError(f"metadata.{key}: it is fixed at submission; delete it, and submit it again")
    return after, frozenset(differing - {"metadata"} | {f"metadata.{key}" for key in keys})


async def _as_submitted(store: Store, before: OptimizationState, after: OptimizationState) -> OptimizationState:
    """Check `after` as a submission, and fill in what a submission fixes."""
    strategy = str(after.metadata.get("strategy", "default"))
    policies = await store.read_async(queries.policies)
    metadata = with_defaults(policies, after.optimization_type.value, strategy, after.metadata)
    new = dataclasses.replace(after, status=OptimizationStatus.CREATED, metadata=metadata, warnings=[])
    if "retry_of" not in metadata and (fault := missing_objective(metadata)) is not None:
        raise fault
    settled = prepared(new, settings().allowed_imports, older=before.metadata.keys())
    if before.metadata == after.metadata:  # the warnings of the submission still apply
        settled.warnings = list(dict.fromkeys([*before.warnings, *settled.warnings]))
    return settled
