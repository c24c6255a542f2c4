"""`export`: a frame of the record as a CSV or Parquet file. Imports no Prefect."""

from __future__ import annotations

import asyncio
import hashlib
import re
import sys
from collections.abc import Mapping
from datetime import timedelta
from pathlib import Path
from typing import Any

import typer

from o9.cli.console import write_json
from o9.cli.failures import DONE
from o9.cli.open_store import existing_optimization, existing_store
from o9.model.errors import OptimizationValidationError
from o9.statistics import frames
from o9.statistics.statistics import OptimizationStatistics

LONGEST_NAME = 100
_STDOUT = Path("-")


def export_frame(
    url: str | None,
    kind: str,
    choice: Mapping[str, Any],
    days: float | None,
    file_format: str | None,
    output: Path | None,
    *,
    as_json: bool,
) -> int:
    wanted = {**choice, "time_range": None if days is None else timedelta(days=days)}
    try:
        frames.check(kind, wanted)
    except OptimizationValidationError as error:
        raise typer.BadParameter(f"{_TYPED.get(error.field, error.field)}: {error.problem}") from error
    ending = output.suffix.removeprefix(".") if output is not None else ""
    file_format = file_format or (ending if ending in frames.FORMATS else "csv")
    if output == _STDOUT and (as_json or file_format != "csv"):
        raise typer.BadParameter("-o - prints CSV, and nothing else: name a file")
    with existing_store(url) as store:
        name = wanted["optimization_id"]
        if name is not None and kind != "alerts":  # which may be about what is no optimization
            existing_optimization(store, name)
        frame = asyncio.run(OptimizationStatistics(store=store).frame(kind, **wanted))
    if output == _STDOUT:
        frame.to_csv(sys.stdout, index=False)
        return DONE
    path = frames.write(frame, output or Path(file_name(kind, name, file_format)), file_format).absolute()
    if as_json:
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
