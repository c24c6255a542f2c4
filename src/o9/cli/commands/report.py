"""`report`: one optimization, some or all as one HTML file. Reads the record; imports no Prefect."""

from __future__ import annotations

import webbrowser
from collections.abc import Sequence
from pathlib import Path

from o9.cli.console import write_json
from o9.cli.failures import DONE
from o9.cli.open_store import existing_optimization, existing_store
from o9.report.write import file_name, report_of, report_of_all, write


def write_report(url: str | None, ids: Sequence[str], output: Path | None, *, open_it: bool, as_json: bool) -> int:
    with existing_store(url) as store:
        wanted = [existing_optimization(store, name).optimization_id for name in dict.fromkeys(ids)]
        page = report_of(store, wanted) if wanted else report_of_all(store)
    path = write(page, output or Path(file_name(wanted)))
    if as_json:
        write_json({"report": str(path), "bytes": path.stat().st_size, "optimizations": wanted})
    else:
        print(path)
    if open_it:
        webbrowser.open(path.as_uri())
    return DONE
