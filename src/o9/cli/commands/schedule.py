"""`o9 schedule`: what recurs on the Prefect server, and when."""

from __future__ import annotations

import asyncio
from dataclasses import asdict
from typing import Annotated, Any

import typer

from o9.cli import failures
from o9.cli.commands.deploy import Cron, Every, RRule, Timezone, interval_of, need_server
from o9.cli.options import Json
from o9.model.errors import OptimizationValidationError

if not failures.help_only:
    from o9.aggregator.deployments import recurrence
    from o9.aggregator.recurring import Recurring, add_schedule, recurring, remove_schedules, set_active
    from o9.cli.console import plain_table, say, show, write_json
    from o9.text.escape import shown
    from o9.text.format import local_moment

Name = Annotated[str, typer.Argument(metavar="NAME", help="The deployment, as `o9 schedule list` shows it.")]


def list_(json: Json = False) -> int:
    need_server()
    found = asyncio.run(recurring())
    if json:
        write_json([_as_json(each) for each in found])
        return 0
    if not found:
        say("nothing recurs; `o9 deploy FILE.yaml --cron …` deploys an optimization that does")
        return 0
    table = plain_table("name", "series", "when", "next run", "last run")
    for each in found:
        coming = local_moment(each.next_at) if each.active else "paused"
        row = (each.name, each.series or "", "; ".join(each.when), coming, (each.last or "none").lower())
        table.add_row(*map(shown, row))
    show(table)
    return 0


def create(
    name: Name,
    cron: Cron = None,
    every: Every = None,
    rrule: RRule = None,
    timezone: Timezone = "UTC",
    json: Json = False,
) -> int:
    """The deployment is one that `o9 deploy FILE.yaml` made."""
    when = recurrence(cron, interval_of(every), rrule, timezone)
    if when is None:
        raise OptimizationValidationError("schedule", "give one of --cron, --every and --rrule")
    need_server()
    return _answer(asyncio.run(add_schedule(name, when)), json)


def pause(name: Name, json: Json = False) -> int:
    """What runs goes on; runs that were about to start are deleted."""
    need_server()
    return _answer(asyncio.run(set_active(name, False)), json)


def resume(name: Name, json: Json = False) -> int:
    """From the next time that is due; what was missed is not made up for."""
    need_server()
    return _answer(asyncio.run(set_active(name, True)), json)


def delete(name: Name, json: Json = False) -> int:
    """Its runs and its optimizations stay; `prefect deployment delete` deletes the deployment, too."""
    need_server()
    removed = asyncio.run(remove_schedules(name))
    if json:
        write_json({"name": name, "removed": removed})
    else:
        print(f"{shown(name)}: removed {removed} schedule{'s' if removed > 1 else ''}")
    return 0


def _answer(made: Recurring, json: bool) -> int:
    if json:
        write_json(_as_json(made))
    else:
        then = f"next run {local_moment(made.next_at)}" if made.active and made.next_at else "no run is scheduled yet"
        print(shown(f"{made.name}: {'; '.join(made.when)}; {then if made.active else 'paused'}"))
    return 0


def _as_json(each: Recurring) -> dict[str, Any]:
    return asdict(each) | {"next_at": each.next_at and each.next_at.isoformat()}
