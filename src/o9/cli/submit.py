"""`submit`: record optimizations without running them. Nothing here imports Prefect."""

from __future__ import annotations

from collections.abc import Sequence

from rich.text import Text

from o9.cli.batch import read_batch
from o9.cli.console import emit, results
from o9.cli.open_store import option_for, place_of, store_url
from o9.cli.words import aligned
from o9.lifecycle.submission import prepared
from o9.model.optimization import OptimizationState
from o9.store.codec import content_hash
from o9.store.store import Store
from o9.store.transitions import Create


def submit_files(paths: Sequence[str], url: str | None) -> int:
    states = read_batch(paths)
    with Store(store_url(url)) as store:
        # Those first that are known: the same id with other content is refused before anything new is recorded.
        for state in sorted(states, key=lambda state: store.get(state.optimization_id) is None):
            store.write(Create(prepared(state), content=content_hash(state)))
        recorded = [found for state in states if (found := store.get(state.optimization_id))]
        where = place_of(store)
    console = results()
    emit(console, *(Text(_line(state)) for state in recorded))
    ids = " ".join(state.optimization_id for state in recorded)
    option = option_for(url)
    emit(console, Text(), Text(f"Recorded in {where}. Whichever aggregator runs next on that store takes them."))
    commands = [(f"o9 run --resume {ids}{option}", "runs them now"), (f"o9 list{option}", "shows how they are")]
    emit(console, *(Text(line) for line in aligned(commands, console.width)))
    return 0


def _line(state: OptimizationState) -> str:
    return f"{state.optimization_id}  {state.status.value}  {state.name}"
