"""`retry`: run one that has ended once more, as a new optimization that begins with what the old one had committed."""

from __future__ import annotations

import asyncio

from rich.text import Text

from o9.cli.batch import import_from_here
from o9.cli.commands.control import queue_outlook
from o9.cli.console import emit, results, write_json
from o9.cli.failures import DONE
from o9.cli.open_store import existing_optimization, existing_store, option_for
from o9.cli.session.follow import crew_of, is_watched
from o9.cli.views.words import aligned, command
from o9.lifecycle.control import control_of
from o9.model.errors import OptimizationError
from o9.model.optimization import OptimizationState
from o9.model.states import OptimizationStatus
from o9.store import queries
from o9.store.store import Store
from o9.text.escape import shown


def retry_optimization(
    url: str | None, optimization_id: str, *, from_step: int | None, new_id: str | None, as_json: bool
) -> int:
    import_from_here()
    with existing_store(url) as store:
        origin = existing_optimization(store, optimization_id)
        if is_watched(origin):
            raise OptimizationError(f"{optimization_id}: O9 only watched this flow; run it again in Prefect")
        if new_id is not None and store.read(queries.get, new_id) is not None:
            raise OptimizationError(f"there is an optimization {new_id!r} already; give --id another, or leave it out")
        state = asyncio.run(control_of(store).retry(optimization_id, from_step, new_id))
        if as_json:
            write_json(state.to_dict())
            return DONE
        _tell(store, state, origin, option_for(url))
    return DONE


def _tell(store: Store, state: OptimizationState, origin: OptimizationState, option: str) -> None:
    console, new, old, steps = results(), state.optimization_id, origin.optimization_id, state.completed_steps
    begins = f"behind step {steps} of {old}, with its trials" if steps else f"from the beginning, as {old} did"
    if origin.status is not OptimizationStatus.COMPLETED and steps < origin.completed_steps:
        begins += f"; what {old} did after it is tried anew"
    holding = store.read(queries.holding, new)
    assert holding is not None, "it was recorded in this moment"
    emit(console, Text(shown(f"{new}: queued; it begins {begins}")))
    emit(console, Text(queue_outlook(new, holding, crew_of(store), option)), Text())
    commands = [
        (command("watch", [new], option), "follows it"),
        (command("show", [new], option), "the result, once there is one"),
    ]
    emit(console, *map(Text, aligned(commands, console.width)))
