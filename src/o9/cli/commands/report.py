"""`report`: one optimization, some or all as one HTML file. Reads the record; imports no Prefect."""

from __future__ import annotations

import webbrowser
from pathlib import Path
from typing import Annotated

import typer

from o9.cli.failures import help_only
from o9.cli.options import Json, StoreUrl, complete_ids

if not help_only:
    from o9.cli.console import answer
    from o9.cli.open_store import existing_ids, existing_store
    from o9.report.write import file_name, report_of, report_of_all, write


def report(
    ids: Annotated[
        list[str] | None,
        typer.Argument(
            metavar="ID", help="Ids of optimizations, or their beginnings; none: all.", autocompletion=complete_ids
        ),
    ] = None,
    output: Annotated[
        Path | None,
        typer.Option("--output", "-o", metavar="FILE.html", help="The file.  [default: here, named by ID]"),
    ] = None,
    open_it: Annotated[bool, typer.Option("--open", help="Show it in a browser.")] = False,
    store: StoreUrl = None,
    json: Json = False,
) -> None:
    """Contains the verdict, health and plots; without ID counts, trends and rankings. Readable without a network.
    Overwrites an earlier report, and no other file.
    """
    with existing_store(store) as opened:
        wanted = existing_ids(opened, ids or [])
        page = report_of(opened, wanted) if wanted else report_of_all(opened)
    path = write(page, output or Path(file_name(wanted)))
    answer({"report": str(path), "bytes": path.stat().st_size, "optimizations": wanted}, str(path), as_json=json)
    if open_it:
        webbrowser.open(path.as_uri())
