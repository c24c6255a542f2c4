"""The options and arguments that commands share. Needs nothing but typer."""

from __future__ import annotations

from datetime import datetime
from typing import Annotated

import typer

from o9.model.errors import OptimizationError
from o9.model.states import OptimizationStatus, OptimizationType

MOST_DAYS = 36_600
MOST_ROWS = 1_000_000_000
IDS_COMPLETED = 100


def days_above_zero(value: float | None) -> float | None:
    """The callback of an option that is a number of days."""
    if value is not None and not 0 < value <= MOST_DAYS:  # nor NaN
        raise typer.BadParameter(f"{value:g} is not a number of days above 0 and up to {MOST_DAYS}")
    return value


def _bounded(limit: int | None) -> int | None:
    """At most as many as can be counted to: more is all."""
    return limit and min(limit, MOST_ROWS)


def moment_of(text: str) -> datetime:
    """A moment, in the reader's own time zone unless it says otherwise; the parser of an option."""
    try:
        return datetime.fromisoformat(text).astimezone()
    except (ValueError, OverflowError):
        raise typer.BadParameter(
            f"{text!r:.80} is no moment; write one such as '2026-01-31 18:00', or 2026-01-31T18:00:00+00:00"
        ) from None


def _since(text: str) -> datetime:
    """A moment, or how long ago that is: 12h, 7d."""
    from o9.alerts.config.fields import span_of

    try:
        return datetime.now().astimezone() - span_of(text)
    except (ValueError, OverflowError):
        return moment_of(text)


def complete_ids(ctx: typer.Context, incomplete: str) -> list[str]:
    """The newest ids that begin so, for a shell."""
    from o9.cli.open_store import existing_store, newest_ids

    try:
        with existing_store(ctx.params.get("store")) as store:
            return newest_ids(store, incomplete, IDS_COMPLETED)
    except OptimizationError:  # a shell has no place for its words; the command itself prints them
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
_ID_HELP = "An id, as `o9 list` shows it, or its beginning."
Id = Annotated[str, typer.Argument(metavar="ID", help=_ID_HELP, autocompletion=complete_ids)]
OptionalId = Annotated[str | None, typer.Argument(metavar="ID", help=_ID_HELP, autocompletion=complete_ids)]
Ids = Annotated[
    list[str],
    typer.Argument(
        metavar="ID", help="Ids, as `o9 list` shows them, or their beginnings.", autocompletion=complete_ids
    ),
]
Limit = Annotated[
    int | None, typer.Option("--limit", "-n", min=1, callback=_bounded, metavar="N", help="Print N at most.")
]
MaxConcurrent = Annotated[
    int, typer.Option("--max-concurrent", min=1, metavar="N", help="Optimizations that run at once.")
]
_STATUS = f"Filter by status: {', '.join(OptimizationStatus)}."
Status = Annotated[OptimizationStatus | None, typer.Option("--status", metavar="STATUS", help=_STATUS)]
Statuses = Annotated[
    list[OptimizationStatus] | None,
    typer.Option("--status", metavar="STATUS", help=f"{_STATUS} Repeat it for several."),
]
Type = Annotated[
    OptimizationType | None,
    typer.Option("--type", metavar="TYPE", help=f"Filter by type: {', '.join(OptimizationType)}."),
]
Since = Annotated[
    datetime | None,
    typer.Option("--since", parser=_since, metavar="TIME", help="Filter by creation since: 12h, 7d, 2026-01-31 18:00."),
]
Files = Annotated[list[str], typer.Argument(metavar="FILE.yaml", help="What to optimize; - reads stdin.")]
By = Annotated[str | None, typer.Option("--by", metavar="NAME", help="Name of the person.  [default: you]")]
