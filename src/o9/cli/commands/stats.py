"""`stats`, `trends` and `rankings`: figures over all optimizations. Nothing here imports Prefect.

Contract. `--json` prints what the methods of `OptimizationStatistics` answer, and nothing else. A store without any
optimization is no error.
"""

from __future__ import annotations

import asyncio
from datetime import timedelta
from itertools import groupby
from typing import Annotated

import typer

from o9.cli.console import page_width, say, show, write_json
from o9.cli.failures import DONE
from o9.cli.open_store import existing_store
from o9.cli.options import Json, StoreUrl, days_above_zero
from o9.cli.views.statistics import best_view, rankings_view, statistics_view, trends_view
from o9.model.errors import OptimizationError, OptimizationValidationError
from o9.model.optimization import utc_now
from o9.statistics import ranking
from o9.statistics.statistics import OptimizationStatistics
from o9.store import queries
from o9.store.statistics.rankings import STATE_FIGURES, within
from o9.store.store import Store

DAYS = 7
RANKED = 10
RANKED_OF_EACH = 3


def stats(store: StoreUrl = None, json: Json = False) -> int:
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
    return DONE


def trends(
    days: Annotated[
        float, typer.Option("--days", metavar="N", callback=days_above_zero, help="How far back; 0.5 is twelve hours.")
    ] = DAYS,
    store: StoreUrl = None,
    json: Json = False,
) -> int:
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
    return DONE


def rankings(
    metric: Annotated[
        str | None, typer.Argument(metavar="METRIC", help="What to rank by; none: the best of each, and what there is.")
    ] = None,
    limit: Annotated[
        int, typer.Option("--limit", "-n", min=1, max=ranking.LIMIT, metavar="N", help="Print N at most.")
    ] = RANKED,
    store: StoreUrl = None,
    json: Json = False,
) -> int:
    """What an objective measured is ranked within each family: the same objective on the same data. Without METRIC
    --json prints the names of all metrics.
    """
    with existing_store(store) as opened:
        if metric is None:
            return _best_of_each(opened, as_json=json)
        try:
            rows = asyncio.run(OptimizationStatistics(store=opened).get_optimization_rankings(metric, limit))
        except OptimizationValidationError as error:
            raise OptimizationError(f"{error.problem} (`o9 rankings` lists what can be ranked)") from error
    if json:
        write_json(rows)
    elif not rows:
        say(f"nothing has a {metric} yet")
    else:
        for number, (family, of_one) in enumerate(groupby(rows, lambda row: row.get("family"))):
            title = metric if family is None else within(metric, family)
            page = rankings_view(title, list(of_one), page_width())
            show(*([""] if number else []), *page, width=page_width())
    return DONE


def _best_of_each(store: Store, *, as_json: bool) -> int:
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
    return DONE
