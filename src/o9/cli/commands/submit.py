"""`submit`: record optimizations without running them. Nothing here imports Prefect."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence

from rich.text import Text

from o9.cli.batch import read_batch
from o9.cli.console import emit, results
from o9.cli.open_store import option_for, place_of, store_url
from o9.cli.session.follow import PARKED, Crew, crew_of
from o9.cli.views.words import aligned, command
from o9.lifecycle.control import control_of
from o9.model.optimization import OptimizationState
from o9.model.states import ENDED, Intent, OptimizationStatus
from o9.store import queries
from o9.store.optimizations.queries import Holding
from o9.store.store import Store
from o9.text.escape import shown


def submit_files(paths: Sequence[str], url: str | None, *, hold: bool) -> int:
    states = read_batch(paths)
    option = option_for(url)
    with Store(store_url(url)) as store:
        known = {
            state.optimization_id for state in states if store.read(queries.get, state.optimization_id) is not None
        }
        asyncio.run(_record(store, states, known, hold))
        ids = [state.optimization_id for state in states]
        crew = crew_of(store)
        held = {name: holding for name in ids if (holding := store.read(queries.holding, name)) is not None}
        where = place_of(store)
    console = results()
    for state in states:
        name = state.optimization_id
        emit(console, Text(submitted_line(state, held[name], option, known=name in known)))
    queued = _queued(held)
    alone = [name for name in queued if not crew.takers(name)]
    commands = [(command("run --resume", alone, option), "runs them now, here")] if alone else []
    commands += [(f"o9 serve{option}", "runs whatever is queued")] if alone else []
    told = f"Recorded in {where}. {_who_runs(queued, alone, crew)}".rstrip()
    if waiting := [name for name, holding in held.items() if holding.intent == Intent.HOLD.value]:
        commands.append((command("start", waiting, option), "queues what is held back"))
    commands.append((f"o9 list{option}", "shows how they are"))
    emit(console, Text(), Text(told), *(Text(line) for line in aligned(commands, console.width)))
    return 0


def _who_runs(queued: Sequence[str], alone: Sequence[str], crew: Crew) -> str:
    """Who runs what is queued; `alone` are those that no living node takes."""
    if not queued:
        return ""
    if alone:
        return f"Nobody runs {'them' if len(alone) == len(queued) else shown(', '.join(alone))} now."
    nodes = sorted({node for name in queued for node in crew.takers(name)})
    who = f"{'Node' if len(nodes) == 1 else 'Nodes'} {shown(', '.join(nodes))}"
    return f"{who} will run {'it' if len(queued) == 1 else 'them'}."


def submitted_line(state: OptimizationState, holding: Holding, option: str, *, known: bool) -> str:
    """`id  created  name`; of one that is recorded already, how it is, and what makes it go on."""
    name, status = state.optimization_id, OptimizationStatus(holding.status)
    if not known:
        held_back = ", held back" if holding.intent == Intent.HOLD.value else ""
        return shown(f"{name}  {status.value}{held_back}  {state.name}")
    then = ""
    if holding.intent == Intent.HOLD.value:
        then = f"; `{command('start', [name], option)}` queues it"
    elif status in ENDED:
        then = f"; `{command('retry', [name], option)}` queues it once more"
    elif status in PARKED:
        then = f"; `{command('resume', [name], option)}` queues it again"
    return shown(f"{name}  {status.value}  is recorded already, and stays as it is{then}")


async def _record(store: Store, states: Sequence[OptimizationState], known: set[str], hold: bool) -> None:
    # Those first that are known: the same id with other content is refused before anything new is recorded.
    for state in sorted(states, key=lambda state: state.optimization_id not in known):
        await control_of(store).submit(state, hold=hold)


def _queued(held: dict[str, Holding]) -> list[str]:
    created = OptimizationStatus.CREATED.value
    return [name for name, h in held.items() if h.status == created and h.intent == Intent.RUN.value]
