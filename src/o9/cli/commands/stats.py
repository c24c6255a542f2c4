"""`stats`, `trends` and `rankings`: figures over all optimizations. Nothing here imports Prefect.

Contract. `--json` prints what the methods of `OptimizationStatistics` answer, and nothing else. A store without any
optimization is no error.
"""

from __future__ import annotations

import asyncio
from datetime import timedelta
from itertools import groupby

from o9.cli.console import emit, results, say, write_json
from o9.cli.failures import DONE
from o9.cli.open_store import existing_store
from o9.cli.views.statistics import metrics_view, ranked_by, rankings_view, statistics_view, trends_view
from o9.model.errors import OptimizationError, OptimizationValidationError
from o9.model.optimization import utc_now
from o9.statistics.statistics import OptimizationStatistics
from o9.store import queries
from o9.store.statistics.rankings import within
from o9.store.store import Store
from o9.text.escape import shown

PAGE_WIDTH = 120


def show_statistics(url: str | None, *, as_json: bool) -> int:
    with existing_store(url) as store:
        told = asyncio.run(OptimizationStatistics(store=store).get_global_statistics())
    if as_json:
        write_json(told)
    elif not told["total_optimizations"]:
        say("none yet; `o9 demo` or `o9 run FILE.yaml` makes some")
    else:
        console = results()
        emit(console, *statistics_view(told, utc_now().date(), min(console.width, PAGE_WIDTH)))
    return DONE


def show_trends(url: str | None, days: float, *, as_json: bool) -> int:
    with existing_store(url) as store:
        told = asyncio.run(OptimizationStatistics(store=store).get_performance_trends(timedelta(days=days)))
    if as_json:
        write_json(told)
    elif not told["windows"]:
        say("nothing has ended yet, so there is no trend")
    else:
        console = results()
        emit(console, *trends_view(told, days, min(console.width, PAGE_WIDTH)))
    return DONE


def show_rankings(url: str | None, metric: str | None, limit: int, *, as_json: bool) -> int:
    with existing_store(url) as store:
        if metric is None:
            return _list_metrics(store, as_json=as_json)
        try:
            rows = asyncio.run(OptimizationStatistics(store=store).get_optimization_rankings(metric, limit))
        except OptimizationValidationError as error:
            raise OptimizationError(f"{error.problem} (`o9 rankings` lists what can be ranked)") from error
    if as_json:
        write_json(rows)
    elif not rows:
        say(shown(f"nothing has a {metric} yet"))
    else:
        console = results()
        for family, of_one in groupby(rows, lambda row: row.get("family")):
            title = metric if family is None else shown(within(metric, family))
            emit(console, *rankings_view(title, list(of_one), min(console.width, PAGE_WIDTH)))
    return DONE


def _list_metrics(store: Store, *, as_json: bool) -> int:
    metrics = ranked_by(store.read(queries.ranked_metrics))
    if as_json:
        write_json(metrics)
    elif not metrics:
        say("nothing can be ranked yet: what has ended or rests is, and what runs once its figures were refreshed")
    else:
        emit(results(), metrics_view(metrics))
    return DONE
