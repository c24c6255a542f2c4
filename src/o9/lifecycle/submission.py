"""Creating an optimization: defaults, checks, and its record. Everything that can be wrong is said here, at the door.

Where neither an objective nor a strategy of one's own is named, a built-in demonstration objective of the
optimization's type runs, and `warnings` says so.
"""

from __future__ import annotations

import secrets
from collections.abc import Mapping
from typing import Any

from o9.model.errors import OptimizationValidationError
from o9.model.optimization import OptimizationState, utc_now
from o9.model.states import OptimizationPriority, OptimizationStatus, OptimizationType
from o9.model.validation import validate_new
from o9.store.codec import content_hash
from o9.store.store import Store
from o9.store.transitions import Create
from o9.strategies.factory import settle


def new_optimization(fields: Mapping[str, Any]) -> OptimizationState:
    """A state from the fields that somebody typed (YAML, a request, a Prefect parameter); the rest gets defaults."""
    if not isinstance(fields, Mapping):
        raise OptimizationValidationError("optimization", f"expected fields and values, got {type(fields).__name__}")
    now = utc_now()
    metadata = fields.get("metadata")
    objective = metadata.get("objective") if isinstance(metadata, Mapping) else None
    name = str(fields.get("name") or objective or "optimization")
    defaults: dict[str, Any] = {
        "optimization_id": f"opt-{now:%Y%m%d-%H%M%S}-{secrets.token_hex(3)}",
        "name": name,
        "description": "",
        "optimization_type": OptimizationType.PARAMETER_TUNING,
        "status": OptimizationStatus.CREATED,
        "priority": OptimizationPriority.NORMAL,
        "created_at": now,
        "updated_at": now,
    }
    return OptimizationState.from_dict(defaults | dict(fields))


def prepared(state: OptimizationState, allowed_imports: tuple[str, ...] | None = None) -> OptimizationState:
    """A copy of `state` that can run: checked, with what must be fixed at submission filled in.

    `allowed_imports` None: whoever submits runs code on the spot anyway and may name any import path; otherwise the
    module prefixes that may be named. Raises OptimizationValidationError, naming the field and the remedy.
    """
    validate_new(state)
    return settle(state, allowed_imports=allowed_imports)


async def submit(
    store: Store, state: OptimizationState, *, node: str = "", allowed_imports: tuple[str, ...] | None = None
) -> OptimizationState:
    """Record a new optimization, durably; it waits for its turn from then on.

    The same id with the same content answers with the first one. Raises OptimizationValidationError, and
    OptimizationConflictError for the same id with other content.
    """
    recorded, _ = await store.write_async(Create(prepared(state, allowed_imports), node, content_hash(state)))
    return recorded
