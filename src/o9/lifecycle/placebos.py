"""Placebo runs: repetitions of a completed search on data whose edge was destroyed.

Contract. They are queued like other optimizations. The id, the seed and the data of number k follow from the
optimization and k alone, so that a repeated request queues none twice. They count in a family of their own, evaluate no
hold-out, and raise no alerts.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from datetime import datetime

from o9.lifecycle.submission import submit
from o9.model.errors import OptimizationValidationError
from o9.model.fields import ID_LIMIT, NAME_LIMIT
from o9.model.optimization import OptimizationState, utc_now
from o9.model.specification import new_optimization
from o9.model.states import ENDED, OptimizationPriority, OptimizationStatus
from o9.model.validation import validate_whole
from o9.store import queries
from o9.store.core.component import StoreComponent
from o9.store.store import Store

RUNS = 19  # the fewest with which p can be 0.05
MOST_RUNS = 9_999
_NOT_INHERITED = ("after", "retry_of", "retry_from_step", "family", "seed")


async def submit_placebos(
    store: Store,
    optimization_id: str,
    runs: int = RUNS,
    *,
    allowed_imports: tuple[str, ...] | None = None,
) -> list[OptimizationState]:
    """Queue those of the placebo runs 1 to `runs` that do not exist; returns all of them, by number.

    Raises OptimizationValidationError where the optimization has not completed with a best, is a placebo run itself, or
    has an objective that does not receive its data; OptimizationNotFoundError for an unknown id.
    """
    validate_whole("runs", runs, MOST_RUNS)
    origin = await StoreComponent(store).existing(optimization_id)
    _check(origin)
    known = (await store.read_async(queries.placebos, optimization_id)).run_ids
    asked_at = utc_now()
    found: list[OptimizationState] = []
    for number in range(1, runs + 1):
        state = await store.read_async(queries.get, known[number]) if number in known else None
        if state is None and number not in known:  # of a pruned one the value is kept
            run = placebo(origin, number, asked_at)
            state = await submit(store, run, allowed_imports=allowed_imports, is_placebo=True)
        found += [state] if state is not None else []
    return found


def placebo(origin: OptimizationState, number: int, asked_at: datetime) -> OptimizationState:
    """Placebo run `number` of `origin`, to be submitted at `asked_at`."""
    seed = hashlib.blake2b(f"{origin.metadata.get('seed')}/{number}".encode(), digest_size=4).digest()
    kept = {key: value for key, value in origin.metadata.items() if key not in _NOT_INHERITED}
    name, ending = origin.optimization_id, f"-placebo-{number}"
    if len(name) + len(ending) > ID_LIMIT:
        name = f"{name[: ID_LIMIT - len(ending) - 9]}-{hashlib.blake2b(name.encode(), digest_size=4).hexdigest()}"
    return new_optimization(
        {
            "optimization_id": f"{name}{ending}",
            "name": f"{origin.name[: NAME_LIMIT - 20]} (placebo {number})",
            "optimization_type": origin.optimization_type,
            "priority": OptimizationPriority.LOW,
            "created_at": asked_at,
            "updated_at": asked_at,
            "total_steps": origin.total_steps,
            "parameters": origin.parameters,
            "metadata": kept
            | {
                "placebo_of": origin.optimization_id,
                "placebo_number": number,
                "seed": int.from_bytes(seed, "big"),
                "family": f"placebo of {origin.optimization_id}",
            },
        }
    )


def waiting(states: Sequence[OptimizationState]) -> list[str]:
    """The ids of the optimizations that have not ended."""
    return [state.optimization_id for state in states if state.status not in ENDED]


def _check(origin: OptimizationState) -> None:
    name = origin.optimization_id
    if "placebo_of" in origin.metadata:
        raise OptimizationValidationError(
            "placebo_of", f"{name!r} is a placebo run itself; use {origin.metadata['placebo_of']!r}"
        )
    if origin.status is not OptimizationStatus.COMPLETED or not origin.optimized_parameters:
        raise OptimizationValidationError(
            "placebo_of", f"{name!r} is {origin.status.value}: placebo runs need a completed run with a best trial"
        )
