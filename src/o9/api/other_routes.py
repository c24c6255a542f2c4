"""The routes of statistics, health and alerts, and the probes of this process."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass
from datetime import timedelta
from typing import Annotated, Any

from fastapi import FastAPI, Query
from fastapi.responses import JSONResponse

from o9.alerts.service.repository import alert_of_row
from o9.api.answers import Page, Success, page, success
from o9.api.backend import Backend, existing, found
from o9.api.health import system_health
from o9.api.parameters import AlertQuery, NoQuery, RankingQuery, ResolveBody, TrendQuery
from o9.api.versions import PREFIX, ROOT, VERSIONS
from o9.health.grades import Grade, Verdict
from o9.health.wording import document
from o9.model.errors import OptimizationAPIError
from o9.model.optimization import OptimizationAlert, OptimizationHealthReport, utc_now
from o9.store import queries
from o9.store.core.reading import read_cursor, write_cursor
from o9.store.core.unit import Row


@dataclass
class JudgedReport(OptimizationHealthReport):
    """grade and verdict: what may be believed of the best, with the forecast; null where it was not judged."""

    grade: Grade | None = None
    verdict: Verdict | None = None


def add_other_routes(app: FastAPI, backend: Backend) -> None:
    _add_statistics(app, backend)
    _add_health(app, backend)
    _add_alerts(app, backend)
    _add_probes(app, backend)


def _add_statistics(app: FastAPI, backend: Backend) -> None:
    @app.get(f"{PREFIX}/statistics", response_model=Success[dict[str, Any]])
    async def get_statistics(_: Annotated[NoQuery, Query()]) -> JSONResponse:
        """Counts, rates, durations and improvements over all optimizations."""
        return success(await backend.statistics.get_global_statistics())

    @app.get(f"{PREFIX}/statistics/trends", response_model=Success[dict[str, Any]])
    async def get_trends(asked: Annotated[TrendQuery, Query()]) -> JSONResponse:
        """Whether results improve: windows, and slopes with their 95 % intervals."""
        return success(await backend.statistics.get_performance_trends(timedelta(days=asked.days)))

    @app.get(f"{PREFIX}/statistics/rankings", response_model=Success[Page[dict[str, Any]]])
    async def get_rankings(asked: Annotated[RankingQuery, Query()]) -> JSONResponse:
        """The best by a metric."""
        return page(await backend.statistics.get_optimization_rankings(asked.metric_name, asked.limit), None)


def _add_health(app: FastAPI, backend: Backend) -> None:
    @app.get(f"{PREFIX}/health", response_model=Success[dict[str, Any]])
    async def get_health(_: Annotated[NoQuery, Query()]) -> JSONResponse:
        """Whether O9 itself is well: the store, Prefect, the nodes, the channels."""
        return success(await system_health(backend))

    @app.get(f"{PREFIX}/health/{{optimization_id}}", response_model=Success[JudgedReport])
    async def get_health_of(optimization_id: str, _: Annotated[NoQuery, Query()]) -> JSONResponse:
        """Whether a result can be trusted: the verdict on it, four scores, issues and recommendations."""
        await existing(backend, optimization_id)
        report = await backend.health_checker.recent_report(optimization_id)
        return success(report.to_dict() | document(await backend.health_checker.get_verdict(optimization_id)))


def _add_alerts(app: FastAPI, backend: Backend) -> None:
    @app.get(f"{PREFIX}/alerts", response_model=Success[Page[OptimizationAlert]])
    async def list_alerts(asked: Annotated[AlertQuery, Query()]) -> JSONResponse:
        """Alerts, newest first by their own time."""
        before = read_cursor(asked.cursor, str, 2) if asked.cursor is not None else None
        rows = await backend.store.read_async(
            queries.alerts, optimization_id=asked.optimization_id,
            level=asked.level.value if asked.level else None, limit=asked.limit,
            before=(before[0], before[1]) if before else None,
        )  # fmt: skip
        # One that is as full as was asked for may be the last one: then an empty one follows.
        more = len(rows) == asked.limit
        return page(map(_alert, rows), write_cursor(rows[-1]["at"], rows[-1]["alert_id"]) if more else None)

    @app.post(f"{PREFIX}/alerts/{{alert_id}}/resolve", response_model=Success[OptimizationAlert])
    async def resolve_alert(
        alert_id: str, _: Annotated[NoQuery, Query()], body: ResolveBody | None = None
    ) -> JSONResponse:
        """End the episode that it belongs to. A resolved alert stays as it is."""
        await found(backend, queries.alert, alert_id, "alert")
        await backend.alert_system.resolve_alert(alert_id, (body or ResolveBody()).by)
        return success(_alert(await found(backend, queries.alert, alert_id, "alert")))


def _add_probes(app: FastAPI, backend: Backend) -> None:
    @app.get(ROOT, response_model=Success[dict[str, list[str]]])
    async def get_versions() -> JSONResponse:
        """The versions of this API."""
        return success({"versions": [*VERSIONS]})

    @app.get("/healthz", response_model=Success[dict[str, str]])
    async def lives() -> JSONResponse:
        """This process is alive."""
        return success({"status": "alive"})

    @app.get("/readyz", response_model=Success[dict[str, str]])
    async def is_ready() -> JSONResponse:
        """The aggregator runs, and its store answers; else 503."""
        if not backend.is_running:
            raise OptimizationAPIError("the aggregator is not running: call start() first", 503)
        await asyncio.to_thread(backend.store.schema)
        return success({"status": "ready"})


def _alert(row: Row) -> dict[str, Any]:
    return alert_of_row(row, utc_now()).to_dict()
