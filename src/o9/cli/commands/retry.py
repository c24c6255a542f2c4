"""`retry`: run one that has ended once more, as a new optimization that begins with what the old one had committed."""

from __future__ import annotations

import asyncio
from typing import Annotated

import typer

from o9.cli.batch import import_from_here
from o9.cli.commands.control import queue_outlook
from o9.cli.console import show, write_json
from o9.cli.failures import DONE
from o9.cli.open_store import existing_optimization, existing_store, option_for
from o9.cli.options import Id, Json, StoreUrl
from o9.cli.session.follow import crew_of, is_watched
from o9.cli.views.words import Next, command
from o9.lifecycle.control import control_of
from o9.model.errors import OptimizationError
from o9.model.states import OptimizationStatus
from o9.store import queries


def retry(
    optimization_id: Id,
    from_step: Annotated[
        int | None,
        typer.Option("--from-step", min=0, metavar="N", help="Begin behind its step N; 0: from the beginning."),
    ] = None,
    new_id: Annotated[str | None, typer.Option("--id", metavar="NEW", help="The new optimization's id.")] = None,
    store: StoreUrl = None,
    json: Json = False,
) -> int:
    """It keeps the seed, and the trials up to step N. N is by default the last step committed, but for steps at the end
    of which every trial failed; 0 if it completed.
    """
    import_from_here()
    with existing_store(store) as opened:
        origin = existing_optimization(opened, optimization_id)
        old = origin.optimization_id
        if is_watched(origin):
            raise OptimizationError(f"{old}: O9 only watched this flow; run it again in Prefect")
        if new_id is not None and opened.read(queries.get, new_id) is not None:
            raise OptimizationError(f"there is an optimization {new_id!r} already; give --id another, or leave it out")
        state = asyncio.run(control_of(opened).retry(old, from_step, new_id))
        holding, crew = opened.read(queries.holding, state.optimization_id), crew_of(opened)
    if json:
        write_json(state.to_dict())
        return DONE
    new, steps, option = state.optimization_id, state.completed_steps, option_for(store)
    begins = f"behind step {steps} of {old}, with its trials" if steps else f"from the beginning, as {old} did"
    if origin.status is not OptimizationStatus.COMPLETED and steps < origin.completed_steps:
        begins += f"; what {old} did after it is tried anew"
    assert holding is not None, "it was recorded in this moment"
    show(f"{new}: queued; it begins {begins}", queue_outlook(new, holding, crew, option), "")
    commands = (("watch", "follows it"), ("show", "the result, once there is one"))
    show(Next([(command(verb, [new], option), meaning) for verb, meaning in commands]))
    return DONE
