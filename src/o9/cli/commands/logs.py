"""`logs`: what an objective printed and logged, by trial. Nothing here imports Prefect."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Annotated

import typer
from rich.text import Text

from o9.cli.console import say, show, write_json_list
from o9.cli.open_store import existing_optimization, existing_store
from o9.cli.options import Id, Json, StoreUrl
from o9.model.errors import OptimizationError
from o9.store import queries
from o9.store.core.unit import Row
from o9.store.optimizations.outputs import OF_NO_TRIAL
from o9.store.store import Store
from o9.text.escape import shown

PAGE = 200
KEYS = ("step", "trial", "text", "cut")


def logs(
    optimization_id: Id,
    trial: Annotated[int | None, typer.Option("--trial", min=0, metavar="N", help="Of this trial alone.")] = None,
    store: StoreUrl = None,
    json: Json = False,
) -> int:
    """Of each trial the first 64 KiB are kept, of an optimization 16 MiB."""
    with existing_store(store) as opened:
        state = existing_optimization(opened, optimization_id)
        if trial is not None and opened.read(queries.trial, state.optimization_id, trial) is None:
            count = sum(opened.read(queries.trial_counts, state.optimization_id).values())
            numbers = f"its trials are 0 to {count - 1}" if count else "it has none yet"
            raise OptimizationError(f"{state.optimization_id} has no trial {trial}; {numbers}")
        found = _outputs(opened, state.optimization_id, trial)
        if json:
            write_json_list({name: row[name] for name in KEYS} for row in found)
            return 0
        nothing = True
        for row in found:
            nothing = False
            whose = "" if trial is not None else f"{_whose(row)}: "
            show(*(Text(whose + harmless(line)) for line in row["text"].splitlines()))
            if row["cut"]:
                say(f"{_whose(row)} printed {row['cut']:,} bytes more, which are not kept")
    if nothing:
        whose = "it has" if trial is None else f"its trial {trial} has"
        say(f"{state.optimization_id} is {state.status.value}; {whose} printed nothing")
    return 0


def harmless(line: str) -> str:
    """As it was printed, with tabs as spaces and nothing that steers a terminal."""
    return shown(line.expandtabs())


def _outputs(store: Store, optimization_id: str, trial: int | None) -> Iterator[Row]:
    after = (-1, OF_NO_TRIAL)
    while page := store.read(queries.outputs, optimization_id, number=trial, after=after, limit=PAGE):
        yield from page
        after = (page[-1]["step"], page[-1]["number"])


def _whose(row: Row) -> str:
    return f"step {row['step']}" if row["trial"] is None else f"trial {row['trial']}"
