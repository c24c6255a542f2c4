"""The options and arguments that commands share. Imports nothing heavier than typer."""

from __future__ import annotations

from datetime import datetime
from typing import Annotated

import typer

from o9.model.errors import OptimizationError
from o9.model.states import OptimizationStatus, OptimizationType

MOST_DAYS = 36_600
MOST_ROWS = 1_000_000_000  # more than any store holds, and less than Python's slices can count
PAGE_ROWS = 1_000  # the most that rankings and the history of notifications return
IDS_COMPLETED = 100


def days_above_zero(value: float | None) -> float | None:
    """Check a number of days (the callback of an option)."""
    if value is not None and not 0 < value <= MOST_DAYS:  # nor NaN
        raise typer.BadParameter(f"{value:g} days: must be greater than 0 and at most {MOST_DAYS}")
    return value


def _bounded(limit: int | None) -> int | None:
    return limit and min(limit, MOST_ROWS)


def moment_of(text: str, or_span: str = "") -> datetime:
    """Parse a time, which is local unless it has an offset (the parser of an option)."""
    try:
        return datetime.fromisoformat(text).astimezone()
    except (ValueError, OverflowError):
        forms = f"2026-01-31T18:00:00+00:00, or '2026-01-31 18:00' in local time{or_span}"
        raise typer.BadParameter(f"{text!r:.80} is not a time; write {forms}") from None


def _since(text: str) -> datetime:
    """Parse a time, or how long ago it was: 12h, 7d."""
    from o9.alerts.config.fields import span_of

    try:
        return datetime.now().astimezone() - span_of(text)
    except (ValueError, OverflowError):
        return moment_of(text, ", or 12h or 7d for how long ago")


def complete_ids(ctx: typer.Context, incomplete: str) -> list[str]:
    """Return the newest ids with this beginning, for a shell's completion."""
    from o9.cli.open_store import existing_store, newest_ids

    try:
        with existing_store(ctx.params.get("store")) as store:
            return newest_ids(store, incomplete, IDS_COMPLETED)
    except OptimizationError:  # completion cannot show an error; the command itself will
        return []


StoreUrl = Annotated[
    str | None,
    typer.Option(
        "--store",
        metavar="URL",
        help="The store: a path, sqlite:///…, postgresql://… or block:NAME  "
        "[env: O9_STORE_URL; default: optimization_state.db]",
    ),
]
Json = Annotated[bool, typer.Option("--json", help="Print JSON.")]
_ID_HELP = "Id of an optimization, or a unique prefix of it."
Id = Annotated[str, typer.Argument(metavar="ID", help=_ID_HELP, autocompletion=complete_ids)]
OptionalId = Annotated[str | None, typer.Argument(metavar="ID", help=_ID_HELP, autocompletion=complete_ids)]
Ids = Annotated[
    list[str],
    typer.Argument(metavar="ID", help="Ids of optimizations, or unique prefixes of them.", autocompletion=complete_ids),
]
Limit = Annotated[
    int | None, typer.Option("--limit", "-n", min=1, callback=_bounded, metavar="N", help="At most N results.")
]
PageLimit = Annotated[
    int | None, typer.Option("--limit", "-n", min=1, max=PAGE_ROWS, metavar="N", help="At most N results.")
]
MaxConcurrent = Annotated[
    int, typer.Option("--max-concurrent", min=1, metavar="N", help="Maximum number of optimizations that run at once.")
]
_STATUS = f"Filter by status: {', '.join(OptimizationStatus)}."
Status = Annotated[OptimizationStatus | None, typer.Option("--status", metavar="STATUS", help=_STATUS)]
Statuses = Annotated[
    list[OptimizationStatus] | None,
    typer.Option("--status", metavar="STATUS", help=f"{_STATUS} May be repeated."),
]
Type = Annotated[
    OptimizationType | None,
    typer.Option("--type", metavar="TYPE", help=f"Filter by type: {', '.join(OptimizationType)}."),
]
Since = Annotated[
    datetime | None,
    typer.Option(
        "--since", parser=_since, metavar="TIME", help="Filter by creation time: 12h, 7d, '2026-01-31 18:00'."
    ),
]
Files = Annotated[list[str], typer.Argument(metavar="FILE.yaml", help="Run files; - reads standard input.")]
By = Annotated[str | None, typer.Option("--by", metavar="NAME", help="Who does this, for the record.  [default: you]")]
