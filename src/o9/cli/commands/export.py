"""`export`: a frame of the record as a CSV or Parquet file. Imports no Prefect."""

from __future__ import annotations

import asyncio
import hashlib
import re
import sys
from datetime import timedelta
from enum import Enum
from pathlib import Path
from typing import Annotated, Any

import typer

from o9.cli.console import write_json
from o9.cli.failures import DONE
from o9.cli.open_store import existing_optimization, existing_store
from o9.cli.options import Json, Limit, Status, StoreUrl, Type, complete_ids, days_above_zero
from o9.model.errors import OptimizationValidationError
from o9.statistics import frames
from o9.statistics.statistics import OptimizationStatistics

LONGEST_NAME = 100
_STDOUT = Path("-")


class Format(str, Enum):
    """What `export` writes."""

    CSV = "csv"
    PARQUET = "parquet"


def export(
    kind: Annotated[str, typer.Argument(metavar="KIND", help=f"One of {', '.join(frames.KINDS)}.")] = "optimizations",
    optimization_id: Annotated[
        str | None,
        typer.Argument(
            metavar="ID",
            help="Of which one; trials, returns, metrics and transitions need it.",
            autocompletion=complete_ids,
        ),
    ] = None,
    file_format: Annotated[
        Format | None,
        typer.Option(
            "--format",
            "-f",
            metavar="FORMAT",
            help="csv, or parquet, which needs the extra [parquet].  [default: what FILE ends in, else csv]",
        ),
    ] = None,
    output: Annotated[
        Path | None,
        typer.Option("--output", "-o", metavar="FILE", help="The file; - prints CSV.  [default: here, named by KIND]"),
    ] = None,
    metric: Annotated[str | None, typer.Option("--metric", metavar="NAME", help="What rankings rank by.")] = None,
    days: Annotated[
        float | None,
        typer.Option("--days", metavar="N", callback=days_above_zero, help="How far back trends go.  [default: 7]"),
    ] = None,
    status: Status = None,
    optimization_type: Type = None,
    limit: Limit = None,
    store: StoreUrl = None,
    json: Json = False,
) -> int:
    """The rows of a pandas frame, for a spreadsheet, a notebook or a program; whole, unless --limit. An earlier file of
    that name is written over. `o9 export trials ID` writes the ledger of one.
    """
    ending = output.suffix.removeprefix(".") if output is not None else ""
    written = file_format.value if file_format else ending if ending in frames.FORMATS else "csv"
    wanted: dict[str, Any] = {
        "optimization_id": optimization_id, "metric_name": metric, "status": status,
        "optimization_type": optimization_type, "limit": limit,
        "time_range": None if days is None else timedelta(days=days),
    }  # fmt: skip
    try:
        frames.check(kind, wanted)
    except OptimizationValidationError as error:
        raise typer.BadParameter(f"{_TYPED.get(error.field, error.field)}: {error.problem}") from error
    if output == _STDOUT and (json or written != "csv"):
        raise typer.BadParameter("-o - prints CSV, and nothing else: name a file")
    with existing_store(store) as opened:
        if optimization_id is not None and kind != "alerts":  # which may be about what is no optimization
            wanted["optimization_id"] = existing_optimization(opened, optimization_id).optimization_id
        frame = asyncio.run(OptimizationStatistics(store=opened).frame(kind, **wanted))
    if output == _STDOUT:
        frame.to_csv(sys.stdout, index=False)
        return DONE
    name = wanted["optimization_id"]
    path = frames.write(frame, output or Path(file_name(kind, name, written)), written).absolute()
    if json:
        write_json({"file": str(path), "rows": len(frame), "columns": list(frame.columns)})
    else:
        print(path)
    return DONE


def file_name(kind: str, optimization_id: str | None, file_format: str) -> str:
    """`o9-KIND-ID.csv`, in letters, digits, dots and dashes; another id never gives the same name."""
    if optimization_id is None:
        return f"o9-{kind}.{file_format}"
    safe = re.sub(r"[^\w.]+", "-", optimization_id)[:LONGEST_NAME].strip("-")
    if safe != optimization_id:
        digest = hashlib.blake2b(optimization_id.encode("utf-8", "surrogatepass"), digest_size=3).hexdigest()
        safe = f"{safe}-{digest}".strip("-")
    return f"o9-{kind}-{safe}.{file_format}"


_TYPED = {
    "kind": "KIND", "optimization_id": "ID", "metric_name": "--metric", "status": "--status", "limit": "--limit",
    "optimization_type": "--type", "time_range": "--days",
}  # fmt: skip
