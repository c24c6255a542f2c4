"""`stats`, `trends`, `rankings` and `export`: figures over all optimizations, as pages, JSON and files.

Contract. `--json` prints exactly what the methods of `OptimizationStatistics` return; `export` writes its frames. An
empty store is no error. Nothing here imports Prefect.
"""

from __future__ import annotations

import asyncio
import sys
from datetime import timedelta
from itertools import groupby
from pathlib import Path
from typing import Annotated, Any

import typer

from o9.cli.failures import help_only
from o9.cli.options import PAGE_ROWS, Json, Limit, PageLimit, Status, StoreUrl, Type, complete_ids, days_above_zero
from o9.model.errors import OptimizationError, OptimizationValidationError
from o9.statistics import frames

if not help_only:
    from o9.cli.console import NONE_YET, answer, page_width, say, show, write_json
    from o9.cli.open_store import existing_optimization, existing_store
    from o9.cli.views.statistics import best_view, rankings_view, statistics_view, trends_view
    from o9.model.optimization import utc_now
    from o9.statistics.statistics import OptimizationStatistics
    from o9.store import queries
    from o9.store.statistics.rankings import STATE_FIGURES, family_metric
    from o9.store.store import Store


DAYS = 7
RANKED = 10
RANKED_OF_EACH = 3


def stats(store: StoreUrl = None, json: Json = False) -> None:
    """Counts by status, type, strategy, priority and day, with rates, durations, improvements and waits. Placebo runs
    are counted separately.
    """
    with existing_store(store) as opened:
        figures = asyncio.run(OptimizationStatistics(store=opened).get_global_statistics())
    if json:
        write_json(figures)
    elif not figures["total_optimizations"]:
        say(NONE_YET)
    else:
        width = page_width()
        show(*statistics_view(figures, utc_now().date(), width), width=width)


def trends(
    days: Annotated[
        float, typer.Option(metavar="N", callback=days_above_zero, help="Days to look back; 0.5 is twelve hours.")
    ] = DAYS,
    store: StoreUrl = None,
    json: Json = False,
) -> None:
    """Groups ended optimizations by hour (up to 2 days), day (up to 400 days) or month, and prints slopes with their
    intervals.
    """
    with existing_store(store) as opened:
        figures = asyncio.run(OptimizationStatistics(store=opened).get_performance_trends(timedelta(days=days)))
    if json:
        write_json(figures)
    elif not figures["windows"]:
        say("no trends yet: no optimization has ended")
    else:
        width = page_width()
        show(*trends_view(figures, days, width), width=width)


def rankings(
    metric: Annotated[
        str | None, typer.Argument(metavar="METRIC", help="Metric to rank by; if omitted, the best by several.")
    ] = None,
    limit: PageLimit = None,
    store: StoreUrl = None,
    json: Json = False,
) -> None:
    """Prints the best 10, unless --limit is given. A metric of objectives is ranked within each family: the same
    objective on the same data. Without METRIC, --json prints the names of all metrics.
    """
    with existing_store(store) as opened:
        if metric is None:
            _best_of_each(opened, as_json=json)
            return
        try:
            rows = asyncio.run(OptimizationStatistics(store=opened).get_optimization_rankings(metric, limit or RANKED))
        except OptimizationValidationError as error:
            raise OptimizationError(f"{error.problem} (`o9 rankings` lists the metrics)") from error
    if json:
        write_json(rows)
    elif not rows:
        say(f"no optimization has {metric} yet")
    else:
        for number, (family, of_one) in enumerate(groupby(rows, lambda row: row.get("family"))):
            title = metric if family is None else family_metric(metric, family)
            page = rankings_view(title, list(of_one), page_width())
            show(*([""] if number else []), *page, width=page_width())


def _best_of_each(store: Store, *, as_json: bool) -> None:
    recorded = store.read(queries.ranked_metrics)
    own = [name for name in STATE_FIGURES if name in recorded]
    if as_json:
        write_json([*own, *(name for name in recorded if name not in STATE_FIGURES)])
    elif not recorded:
        say("nothing to rank yet: optimizations are ranked once they have ended or paused")
    else:
        statistics = OptimizationStatistics(store=store)
        best = {name: asyncio.run(statistics.get_optimization_rankings(name, RANKED_OF_EACH)) for name in own}
        show(*best_view(best, [name for name in recorded if name not in STATE_FIGURES]), width=page_width())


_STDOUT = Path("-")


def export(
    kind: Annotated[str, typer.Argument(metavar="KIND", help=f"One of {', '.join(frames.KINDS)}.")] = "optimizations",
    optimization_id: Annotated[
        str | None,
        typer.Argument(
            metavar="ID",
            help="Id of the optimization: required for trials, returns, metrics, transitions.",
            autocompletion=complete_ids,
        ),
    ] = None,
    output: Annotated[
        Path | None,
        typer.Option(
            "--output",
            "-o",
            metavar="FILE",
            help="File to write, .csv or .parquet; - is stdout.  [default: named by KIND]",
        ),
    ] = None,
    metric: Annotated[str | None, typer.Option(metavar="NAME", help="Metric of the rankings.")] = None,
    days: Annotated[
        float | None,
        typer.Option(metavar="N", callback=days_above_zero, help="Days that trends look back.  [default: 7]"),
    ] = None,
    status: Status = None,
    optimization_type: Type = None,
    limit: Limit = None,
    store: StoreUrl = None,
    json: Json = False,
) -> None:
    """Writes all rows, unless --limit is given, and overwrites an existing file. `o9 export trials ID` writes the
    ledger of one optimization.
    """
    wanted: dict[str, Any] = {
        "optimization_id": optimization_id, "metric_name": metric, "status": status,
        "optimization_type": optimization_type, "limit": limit,
        "time_range": None if days is None else timedelta(days=days),
    }  # fmt: skip
    try:
        frames.check(kind, wanted)
    except OptimizationValidationError as error:
        raise typer.BadParameter(f"{_TYPED.get(error.field, error.field)}: {error.problem}") from error
    if kind == "rankings" and limit is not None and limit > PAGE_ROWS:
        raise typer.BadParameter(f"--limit: {limit} is too large; the maximum for rankings is {PAGE_ROWS}")
    if output == _STDOUT and json:
        raise typer.BadParameter("-o - prints only CSV: omit --json, or name a file")
    with existing_store(store) as opened:
        if optimization_id is not None and kind != "alerts":  # an alert may name an id that is no optimization
            wanted["optimization_id"] = existing_optimization(opened, optimization_id).optimization_id
        frame = asyncio.run(OptimizationStatistics(store=opened).frame(kind, **wanted))
    if output == _STDOUT:
        frame.to_csv(sys.stdout, index=False)
        return
    if output is None:
        from o9.report.write import file_name  # imports plotly

        name = wanted["optimization_id"]
        output = Path(file_name([name] if name else [], kind, "csv"))
    path = frames.write(frame, output).absolute()
    answer({"file": str(path), "rows": len(frame), "columns": list(frame.columns)}, str(path), as_json=json)


_TYPED = {
    "kind": "KIND", "optimization_id": "ID", "metric_name": "--metric", "status": "--status", "limit": "--limit",
    "optimization_type": "--type", "time_range": "--days",
}  # fmt: skip
