"""`schedule`: list and change what recurs on the Prefect server."""

from __future__ import annotations

import asyncio
from dataclasses import asdict
from typing import Annotated, Any

import typer

from o9.cli.commands.deploy import Cron, Every, RRule, Timezone, interval_of, need_server
from o9.cli.failures import help_only
from o9.cli.options import Json
from o9.model.errors import OptimizationValidationError

if not help_only:
    from o9.aggregator.deployments import recurrence
    from o9.aggregator.recurring import Recurring, add_schedule, recurring, remove_schedules, set_active
    from o9.cli.console import Cells, answer, say, show, table_of, write_json
    from o9.text.escape import shown
    from o9.text.format import count, local_moment, local_time

Name = Annotated[str, typer.Argument(metavar="NAME", help="Name of the deployment, as in `o9 schedule list`.")]


def list_(json: Json = False) -> None:
    need_server()
    found = asyncio.run(recurring())
    if json:
        write_json([_as_json(each) for each in found])
    elif not found:
        say("no recurring optimizations; `o9 deploy FILE.yaml --cron …` deploys one")
    else:
        show(table_of([_cells(each) for each in found], times=("next run",)))


def create(
    name: Name,
    cron: Cron = None,
    every: Every = None,
    rrule: RRule = None,
    timezone: Timezone = "UTC",
    json: Json = False,
) -> None:
    """The deployment must have been made by `o9 deploy FILE.yaml`."""
    when = asyncio.run(recurrence(cron, interval_of(every), rrule, timezone))
    if when is None:
        raise OptimizationValidationError("schedule", "give one of --cron, --every and --rrule")
    need_server()
    _answer(asyncio.run(add_schedule(name, when)), json)


def pause(name: Name, json: Json = False) -> None:
    """Runs that have not started are deleted or cancelled; running ones continue."""
    need_server()
    _answer(asyncio.run(set_active(name, False)), json)


def resume(name: Name, json: Json = False) -> None:
    """The schedules continue with their next date; runs that were missed meanwhile are not caught up on."""
    need_server()
    _answer(asyncio.run(set_active(name, True)), json)


def delete(name: Name, json: Json = False) -> None:
    """Runs that have not started are deleted or cancelled; running ones continue. `prefect deployment delete` deletes
    the deployment itself.
    """
    need_server()
    removed = asyncio.run(remove_schedules(name))
    text = f"{shown(name)}: removed {count(removed, 'schedule')}"
    answer({"name": name, "removed": removed}, text, as_json=json)


def _answer(made: Recurring, json: bool) -> None:
    then = f"next run {local_moment(made.next_at)}" if made.active and made.next_at else "no run is scheduled yet"
    text = shown(f"{made.name}: {'; '.join(made.when)}; {then if made.active else 'paused'}")
    answer(_as_json(made), text, as_json=json)


def _cells(each: Recurring) -> Cells:
    return {
        "name": each.name,
        "series": each.series or "",
        "when": "; ".join(each.when),
        "next run": local_time(each.next_at) if each.active else "paused",
        "last run": (each.last or "none").lower(),
    }


def _as_json(each: Recurring) -> dict[str, Any]:
    return asdict(each) | {"next_at": each.next_at and each.next_at.isoformat()}
