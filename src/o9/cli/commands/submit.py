"""`submit`: record optimizations without running them. Nothing here imports Prefect."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from typing import Annotated

import typer

from o9.cli.failures import help_only
from o9.cli.options import Files, Json, StoreUrl
from o9.model.states import Intent, OptimizationStatus

if not help_only:
    from o9.cli.batch import read_batch
    from o9.cli.console import show, write_json
    from o9.cli.open_store import holding_of, option_for, place_of, store_url
    from o9.cli.session.follow import Nodes, nodes_of, way_to_continue
    from o9.cli.views.words import Next, command
    from o9.lifecycle.control import control_of
    from o9.model.optimization import OptimizationState
    from o9.store import queries
    from o9.store.optimizations.queries import Holding
    from o9.store.store import Store


CREATED = OptimizationStatus.CREATED.value


def submit(
    files: Files,
    hold: Annotated[bool, typer.Option("--hold", help="Do not queue them until `o9 start`.")] = False,
    store: StoreUrl = None,
    json: Json = False,
) -> None:
    """Any aggregator on the store runs them, such as `o9 serve`."""
    states, option = read_batch(files), option_for(store)
    with Store(store_url(store)) as opened:
        known = {each.optimization_id for each in states if opened.read(queries.get, each.optimization_id)}
        recorded = asyncio.run(_record(opened, states, known, hold))
        holdings = {state.optimization_id: holding_of(opened, state.optimization_id) for state in recorded}
        nodes, where = nodes_of(opened), place_of(opened)
    if json:
        write_json([state.to_dict() | {"known": state.optimization_id in known} for state in recorded])
        return
    for state in recorded:
        name = state.optimization_id
        show(submitted_line(state, holdings[name], nodes, option, known=name in known))
    queued = [name for name, each in holdings.items() if (each.status, each.intent) == (CREATED, Intent.RUN.value)]
    commands = []
    alone = [name for name in queued if not nodes.takers(name)]
    if alone:
        commands += [(command("resume --here", alone, option), "runs them now, in this process")]
        commands += [(f"o9 serve{option}", "runs all queued optimizations")]
    if waiting := [name for name, holding in holdings.items() if holding.intent == Intent.HOLD.value]:
        commands += [(command("start", waiting, option), "queues those held back")]
    commands += [(f"o9 list{option}", "lists them with their status")]
    show("", f"Recorded in {where}.{' No node runs queued optimizations now.' if alone else ''}", Next(commands))


def submitted_line(state: OptimizationState, holding: Holding, nodes: Nodes, option: str, *, known: bool) -> str:
    """`id created name`; if it was recorded before, its status, and how to continue it."""
    name, status = state.optimization_id, state.status.value
    if not known:
        return f"{name}  {status}{', held back' if holding.intent == Intent.HOLD.value else ''}  {state.name}"
    going = way_to_continue(state, holding, nodes)
    then = f"; `{command(going[0], [name], option)}` {going[1]}" if going else ""
    return f"{name}  {status}  already recorded, unchanged{then}"


async def _record(
    store: Store, states: Sequence[OptimizationState], known: set[str], hold: bool
) -> list[OptimizationState]:
    # Known ones first: an id with other content is refused before anything new is recorded.
    found = {}
    for state in sorted(states, key=lambda state: state.optimization_id not in known):
        found[state.optimization_id] = await control_of(store).submit(state, hold=hold)
    return [found[state.optimization_id] for state in states]
