"""`open`: open Prefect's UI in a browser, logged in if it is the local server's."""

from __future__ import annotations

import asyncio
import webbrowser
from typing import Annotated

import typer

from o9.cli.failures import help_only
from o9.cli.options import OptionalId, StoreUrl
from o9.model.errors import OptimizationStateError

if not help_only:
    from o9.aggregator.prefect_server import ensure_prefect_server
    from o9.cli.console import say
    from o9.cli.open_store import existing_optimization, existing_store
    from o9.cli.prefect_side import pages_at
    from o9.cli.views.words import command
    from o9.store import queries


FLOW_RUN = "/runs/flow-run/"


def open_(
    optimization_id: OptionalId = None,
    browser: Annotated[
        bool, typer.Option("--browser/--no-browser", help="Open a browser, or only print the address.")
    ] = True,
    store: StoreUrl = None,
) -> None:
    """Opens the page of ID's flow run, or else the start page, on the server in Prefect's settings, or else on the
    local one. There you are logged in: the printed address is a file that only you can read. If no local server runs,
    one is started until Ctrl-C.
    """
    path = "/" if optimization_id is None else _page_of(store, optimization_id)
    if (address := pages_at(path)) is not None:
        _show(address, browser)
    else:
        asyncio.run(_with_server(path, browser))


async def _with_server(path: str, browser: bool) -> None:
    async with await ensure_prefect_server(say):
        address = pages_at(path)
        assert address is not None
        _show(address, browser)
        say("Prefect's local server runs until Ctrl-C")
        await asyncio.Event().wait()


def _page_of(url: str | None, optimization_id: str) -> str:
    with existing_store(url) as store:
        name = existing_optimization(store, optimization_id).optimization_id
        holding = store.read(queries.holding, name)
    if holding is None or holding.prefect_run_id is None:
        raise OptimizationStateError(f"{name} has no flow run yet; `{command('show', [name])}` says why")
    return FLOW_RUN + holding.prefect_run_id


def _show(address: str, browser: bool) -> None:
    print(address, flush=True)
    if browser and not webbrowser.open(address):
        say("no browser was found: open the address above in one")
