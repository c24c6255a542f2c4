"""`stats`, `trends`, `rankings` and `export`: figures over all optimizations, as pages, JSON and files.

Contract. `--json` prints what the methods of `OptimizationStatistics` answer, and nothing else; `export` writes its
frames. A store without any optimization is no error. Nothing here imports Prefect.
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
from o9.cli.options import Json, Limit, Status, StoreUrl, Type, complete_ids, days_above_zero
from o9.model.errors import OptimizationError, OptimizationValidationError
from o9.statistics import frames

if not help_only:
    from o9.cli.console import answer, page_width, say, show, write_json
    from o9.cli.open_store import existing_optimization, existing_store
    from o9.cli.views.statistics import best_view, rankings_view, statistics_view, trends_view
    from o9.model.optimization import utc_now
    from o9.statistics.statistics import OptimizationStatistics
    from o9.store import queries
    from o9.store.statistics.rankings import STATE_FIGURES, family_metric
    from o9.store.store import Store


DAYS = 7
RANKED = 10
MOST_RANKED = 1_000  # as many as `get_optimization_rankings` gives
RANKED_OF_EACH = 3


def stats(store: StoreUrl = None, json: Json = False) -> None:
    """By status, type, strategy, priority and day, with rates, durations, improvements and waits. Placebo runs are
    counted apart.
    """
    with existing_store(store) as opened:
        figures = asyncio.run(OptimizationStatistics(store=opened).get_global_statistics())
    if json:
        write_json(figures)
    elif not figures["total_optimizations"]:
        say("none yet; `o9 demo` or `o9 run FILE.yaml` makes some")
    else:
        width = page_width()
        show(*statistics_view(figures, utc_now().date(), width), width=width)


def trends(
    days: Annotated[
        float, typer.Option(metavar="N", callback=days_above_zero, help="How far back; 0.5 is twelve hours.")
    ] = DAYS,
    store: StoreUrl = None,
    json: Json = False,
) -> None:
    """What ended, by the hour (up to 2 days), the day (up to 400) or the month, with slopes and their intervals."""
    with existing_store(store) as opened:
        figures = asyncio.run(OptimizationStatistics(store=opened).get_performance_trends(timedelta(days=days)))
    if json:
        write_json(figures)
    elif not figures["windows"]:
        say("nothing has ended yet, so there is no trend")
    else:
        width = page_width()
        show(*trends_view(figures, days, width), width=width)


def rankings(
    metric: Annotated[
        str | None, typer.Argument(metavar="METRIC", help="What to rank by; none: the best of each, and what there is.")
    ] = None,
    limit: Limit = None,
    store: StoreUrl = None,
    json: Json = False,
) -> None:
    """The best 10, unless --limit; at most 1000. What an objective measured is ranked within each family: the same
    objective on the same data. Without METRIC --json prints the names of all metrics.
    """
    with existing_store(store) as opened:
        if metric is None:
            _best_of_each(opened, as_json=json)
            return
        count = min(limit or RANKED, MOST_RANKED)
        try:
            rows = asyncio.run(OptimizationStatistics(store=opened).get_optimization_rankings(metric, count))
        except OptimizationValidationError as error:
            raise OptimizationError(f"{error.problem} (`o9 rankings` lists what can be ranked)") from error
    if json:
        write_json(rows)
    elif not rows:
        say(f"nothing has a {metric} yet")
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
        say("nothing can be ranked yet: what has ended or rests is, and what runs once its figures were refreshed")
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
            help="The optimization; trials, returns, metrics and transitions need it.",
            autocompletion=complete_ids,
        ),
    ] = None,
    output: Annotated[
        Path | None,
        typer.Option(
            "--output", "-o", metavar="FILE", help="The file, .csv or .parquet; -: stdout.  [default: named by KIND]"
        ),
    ] = None,
    metric: Annotated[str | None, typer.Option(metavar="NAME", help="The metric of rankings.")] = None,
    days: Annotated[
        float | None, typer.Option(metavar="N", callback=days_above_zero, help="How far back trends go.  [default: 7]")
    ] = None,
    status: Status = None,
    optimization_type: Type = None,
    limit: Limit = None,
    store: StoreUrl = None,
    json: Json = False,
) -> None:
    """Writes all rows, unless --limit; overwrites an existing file of that name. `o9 export trials ID` writes the
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
    if output == _STDOUT and json:
        raise typer.BadParameter("-o - prints CSV, and nothing else: name a file")
    with existing_store(store) as opened:
        if optimization_id is not None and kind != "alerts":  # which may be about what is no optimization
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
