"""What can be typed to count, rank, export and judge: `stats`, `trends`, `rankings`, `export`, `health`, `report`."""

from __future__ import annotations

from enum import Enum
from pathlib import Path
from typing import Annotated

import typer

from o9.cli.options import Debug, Json, Limit, StoreUrl, days_above_zero
from o9.model.states import OptimizationStatus, OptimizationType

RANKED, MOST_RANKED = 10, 1_000
DAYS = 7


class Format(str, Enum):
    """What `export` writes."""

    CSV = "csv"
    PARQUET = "parquet"


def add_judging(app: typer.Typer) -> None:
    """Add the commands to `app`, behind those that it has."""
    app.command("stats")(stats)
    app.command("trends")(trends)
    app.command("rankings")(rankings)
    app.command("export")(export)
    app.command("health")(health)
    app.command("placebo")(placebo)
    app.command("report")(report)


def stats(store: StoreUrl = None, json: Json = False, debug: Debug = False) -> int:
    """Count all optimizations.

    By status, type, strategy, priority and day, with rates, durations, improvements and waits.
    """
    from o9.cli.commands.stats import show_statistics

    return show_statistics(store, as_json=json)


def placebo(
    optimization_id: Annotated[str, typer.Argument(metavar="ID", help="One that has completed.")],
    runs: Annotated[
        int, typer.Option("--runs", min=1, metavar="K", help="How many; p is 1 / (K + 1) at the least.")
    ] = 19,
    wait: Annotated[
        bool, typer.Option("--wait", help="Run them here, with progress, and say what came of it.")
    ] = False,
    store: StoreUrl = None,
    json: Json = False,
    debug: Debug = False,
) -> int:
    """Run the same search on data without an edge.

    Queues it K times, each with a seed of its own, on data that are resampled so that no edge is left in them. How
    often the best there is at least as good is how often luck alone explains the result, whatever the search does.
    Asked again, it queues what is missing. The objective has to take its data: @objective(…, data=load).
    """
    from o9.cli.commands.placebo import run_placebos

    return run_placebos(store, optimization_id, runs, wait=wait, as_json=json)


def trends(
    days: Annotated[
        float, typer.Option("--days", metavar="N", callback=days_above_zero, help="How far back; 0.5 is twelve hours.")
    ] = DAYS,
    store: StoreUrl = None,
    json: Json = False,
    debug: Debug = False,
) -> int:
    """Show whether it gets better.

    What ended, by the hour (up to 2 days), the day (up to 400) or the month, with slopes and their intervals.
    """
    from o9.cli.commands.stats import show_trends

    return show_trends(store, days, as_json=json)


def rankings(
    metric: Annotated[
        str | None, typer.Argument(metavar="METRIC", help="What to rank by; none: list what there is.")
    ] = None,
    limit: Annotated[
        int, typer.Option("--limit", "-n", min=1, max=MOST_RANKED, metavar="N", help="At most so many.")
    ] = RANKED,
    store: StoreUrl = None,
    json: Json = False,
    debug: Debug = False,
) -> int:
    """Rank optimizations by a metric.

    The best 10, unless --limit.
    """
    from o9.cli.commands.stats import show_rankings

    return show_rankings(store, metric, limit, as_json=json)


def export(
    kind: Annotated[
        str,
        typer.Argument(
            metavar="[KIND]",
            help="optimizations, trials, returns, metrics, transitions, health, alerts, rankings, trends, statistics.",
        ),
    ] = "optimizations",
    optimization_id: Annotated[
        str | None, typer.Argument(metavar="[ID]", help="Of which one; trials, returns, metrics, transitions need it.")
    ] = None,
    file_format: Annotated[
        Format | None,
        typer.Option(
            "--format", "-f", help="By default what FILE ends in, else csv. Parquet needs the extra [parquet]."
        ),
    ] = None,
    output: Annotated[
        Path | None,
        typer.Option("--output", "-o", metavar="FILE", help="The file, here unless given; - prints CSV."),
    ] = None,
    metric: Annotated[str | None, typer.Option("--metric", metavar="NAME", help="What rankings rank by.")] = None,
    days: Annotated[
        float | None,
        typer.Option("--days", metavar="N", callback=days_above_zero, help=f"How far back trends go; {DAYS}."),
    ] = None,
    status: Annotated[OptimizationStatus | None, typer.Option("--status", help="Optimizations of this status.")] = None,
    optimization_type: Annotated[
        OptimizationType | None, typer.Option("--type", help="Optimizations of this type.")
    ] = None,
    limit: Limit = None,
    store: StoreUrl = None,
    json: Json = False,
    debug: Debug = False,
) -> int:
    """Write a part of the record as CSV or Parquet.

    The rows of a pandas frame, for a spreadsheet, a notebook or a program; whole, unless --limit. An earlier file of
    that name is written over. `o9 export trials ID` writes the ledger of one.
    """
    from o9.cli.commands.export import export_frame

    choice = {
        "optimization_id": optimization_id, "metric_name": metric, "status": status,
        "optimization_type": optimization_type, "limit": limit,
    }  # fmt: skip
    return export_frame(store, kind, choice, days, file_format and file_format.value, output, as_json=json)


def health(
    optimization_id: Annotated[
        str | None, typer.Argument(metavar="ID", help="An optimization's id; none: list the last reports.")
    ] = None,
    evaluate: Annotated[
        bool, typer.Option("--evaluate", help="Let its objective evaluate the best once more before: it runs here.")
    ] = False,
    exit_code: Annotated[
        bool, typer.Option("--exit-code", help="Exit with 3 where it is critical; else 0, whatever it is.")
    ] = False,
    limit: Limit = None,
    store: StoreUrl = None,
    json: Json = False,
    debug: Debug = False,
) -> int:
    """Judge whether a result can be trusted.

    Now, with the verdict, the checks behind it and what to do; the report is kept. Without ID: the last reports of all,
    the newest first.
    """
    from o9.cli.commands.health import judge_optimization, list_reports

    if optimization_id is None:
        if exit_code or evaluate:
            raise typer.BadParameter(f"--{'exit-code' if exit_code else 'evaluate'} is about one: give its ID")
        return list_reports(store, limit, as_json=json)
    if limit is not None:
        raise typer.BadParameter("--limit is for the list of reports: leave it or the ID out")
    return judge_optimization(store, optimization_id, evaluate=evaluate, exit_code=exit_code, as_json=json)


def report(
    ids: Annotated[
        list[str] | None, typer.Argument(metavar="[ID]...", help="Ids of optimizations; none: all of them.")
    ] = None,
    output: Annotated[
        Path | None,
        typer.Option("--output", "-o", metavar="FILE.html", help="The file; here, named by ID, unless told."),
    ] = None,
    open_it: Annotated[bool, typer.Option("--open", help="Show it in a browser.")] = False,
    store: StoreUrl = None,
    json: Json = False,
    debug: Debug = False,
) -> int:
    """Write a report as one HTML file.

    The verdict in words, health, plots; without ID counts, trends and rankings. It needs no network to be read. An
    earlier report is written over, no other file is.
    """
    from o9.cli.commands.report import write_report

    return write_report(store, ids or [], output, open_it=open_it, as_json=json)
