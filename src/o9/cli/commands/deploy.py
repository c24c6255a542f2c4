"""`deploy`: deploy O9's flows, or one recurring optimization, to a Prefect server."""

from __future__ import annotations

import asyncio
from datetime import timedelta
from typing import Annotated

import typer

from o9.cli.failures import help_only
from o9.model.errors import OptimizationCoordinationError, OptimizationValidationError

if not help_only:
    from o9.aggregator import deployments as flows
    from o9.aggregator.prefect_server import check_prefect_server
    from o9.aggregator.recurring import check_names, deployed, removed_schedules
    from o9.alerts.config.fields import span_of
    from o9.cli.batch import read_template
    from o9.cli.console import say
    from o9.cli.prefect_side import REACH_SECONDS, configured_server
    from o9.model.settings import settings

Cron = Annotated[str | None, typer.Option("--cron", metavar="CRON", help="A cron schedule, such as '0 22 * * 1-5'.")]
Every = Annotated[str | None, typer.Option("--every", metavar="INTERVAL", help="An interval, such as 15m, 12h or 1d.")]
RRule = Annotated[str | None, typer.Option("--rrule", metavar="RRULE", help="An iCalendar rule: FREQ=MONTHLY.")]
Timezone = Annotated[str, typer.Option("--timezone", metavar="ZONE", help="Time zone of the schedule.")]


def deploy_(
    file: Annotated[
        str | None, typer.Argument(metavar="FILE.yaml", help="Run file of one optimization; if omitted, all flows.")
    ] = None,
    cron: Cron = None,
    every: Every = None,
    rrule: RRule = None,
    timezone: Timezone = "UTC",
    overlap: Annotated[
        str | None,
        typer.Option(
            metavar="POLICY",
            help="If the previous run has not ended: queue (default; in no order), skip, replace or together.",
        ),
    ] = None,
    missed: Annotated[
        str | None, typer.Option(metavar="POLICY", help="Missed runs to catch up on: all (default), once or none.")
    ] = None,
    name: Annotated[str | None, typer.Option(metavar="NAME", help="Name of the deployment.")] = None,
    replace: Annotated[
        bool,
        typer.Option("--replace", help="Replace the deployment of this name, even one of another file or objective."),
    ] = False,
    pool: Annotated[str, typer.Option(metavar="POOL", help="Name of the work pool.")] = "o9",
    serve: Annotated[
        bool, typer.Option("--serve", help="Run the deployments in this process, without a pool.")
    ] = False,
    as_yaml: Annotated[bool, typer.Option("--print", help="Print a prefect.yaml instead of deploying.")] = False,
) -> None:
    """Deploys to the server in PREFECT_API_URL. FILE.yaml holds the defaults of each run. Workers get
    O9_ALLOWED_IMPORTS, O9_TASK_RUNNER, O9_PUBLIC_URL and, unless it contains a password, O9_STORE_URL.
    """
    if file is None and (cron or every or rrule or name):
        raise OptimizationValidationError("FILE", "it is missing: a schedule and a name belong to one optimization")
    spec = None if file is None else read_template(file)
    when = asyncio.run(flows.recurrence(cron, interval_of(every), rrule, timezone))
    if not as_yaml:
        need_server()
    if spec is None:
        deployments = flows.all_flows()
    else:
        there = {} if as_yaml else asyncio.run(deployed())
        before, origin = there.get(name or flows.name_of(spec)), None if file == "-" else file
        made = flows.of_optimization(spec, when, overlap=overlap, missed=missed, name=name, file=origin, before=before)
        if others := check_names(made, spec, there, replace=replace):
            series = flows.named_series(spec)
            say(f"The series {series!r} is shared with {', '.join(others)}: `replace` and warm starts see all its runs")
        for text in removed_schedules(made, before):
            say(f"The schedule {text} is removed")
        if made.schedules and (made.paused or not any(each.active for each in made.schedules)):
            say(f"{made.name} stays paused; `o9 schedule resume {made.name}` resumes it")
        deployments = [made]
    if as_yaml:
        print(flows.as_prefect_yaml(deployments, pool), end="")
        return
    if serve:
        flows.serve_here(deployments)
        return
    for each in asyncio.run(flows.deploy(deployments, pool)):
        print(each)
    say(f"Start `prefect worker start --pool {pool}` where prefect-o9 and the objectives' packages are installed")
    if "O9_STORE_URL" not in flows.worker_environment():
        say("O9_STORE_URL contains a password and is not passed on: set it for the workers, or use a block")
    if not settings().allowed_imports:
        say("O9_ALLOWED_IMPORTS is not set: runs may name only what is registered, and no import path")


def need_server() -> None:
    """Raise OptimizationCoordinationError if Prefect's settings name no server, or one that does not answer."""
    url = configured_server()
    if url is None:
        raise OptimizationCoordinationError(
            "PREFECT_API_URL is not set: set it to the server that is to start the runs, such as "
            "http://127.0.0.1:4200/api for `prefect server start`"
        )
    asyncio.run(check_prefect_server(url, REACH_SECONDS))


def interval_of(text: str | None) -> timedelta | None:
    """`90s`, `15m`, `1h`, `1d`, `1w`. Raises OptimizationValidationError for anything else."""
    try:
        return None if text is None else span_of(text)
    except ValueError as error:
        raise OptimizationValidationError("every", str(error)) from None
