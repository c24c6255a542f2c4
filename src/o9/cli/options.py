"""The options and arguments that commands share. Needs nothing but typer."""

from __future__ import annotations

from typing import Annotated

import typer

from o9.cli import failures

WAIT_SECONDS = 60
MOST_DAYS = 36_600


def _set_debug(value: bool) -> None:
    if value:
        failures.debug = True


def days_above_zero(value: float | None) -> float | None:
    """The callback of an option that is a number of days."""
    if value is not None and not 0 < value <= MOST_DAYS:  # nor NaN
        raise typer.BadParameter(f"{value:g} is not a number of days above 0 and up to {MOST_DAYS}")
    return value


StoreUrl = Annotated[
    str | None,
    typer.Option(
        "--store",
        metavar="URL",
        help="The store: a path, sqlite:///…, postgresql://… or block:NAME  "
        "[env: O9_STORE_URL; default: optimization_state.db]",
    ),
]
Json = Annotated[bool, typer.Option("--json", help="Print one JSON document.")]
Debug = Annotated[bool, typer.Option("--debug", "-v", callback=_set_debug, help="Show debug logs and tracebacks.")]
Id = Annotated[str, typer.Argument(metavar="ID", help="An optimization's id, as `o9 list` shows it.")]
Ids = Annotated[list[str], typer.Argument(metavar="ID", help="Ids of optimizations, as `o9 list` shows them.")]
Wait = Annotated[
    float | None,
    typer.Option(
        "--wait",
        min=0,
        metavar="[SECONDS]",
        help=f"Wait until it is so, {WAIT_SECONDS} seconds unless told; exits 1 if it is not so in time.",
    ),
]
Limit = Annotated[
    int | None, typer.Option("--limit", "-n", min=1, max=1_000_000_000, metavar="N", help="At most so many.")
]
MaxConcurrent = Annotated[
    int, typer.Option("--max-concurrent", min=1, metavar="N", help="How many optimizations work at once.")
]
