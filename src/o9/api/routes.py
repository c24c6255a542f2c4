"""The routes, and what a request may ask for by query or body: what is not here is refused by its name."""

from __future__ import annotations

import asyncio
import re
from dataclasses import dataclass
from datetime import datetime, timedelta
from operator import attrgetter, itemgetter
from typing import Annotated, Any, Literal

from fastapi import FastAPI, Header, Query
from fastapi.responses import HTMLResponse, JSONResponse, Response
from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, GetJsonSchemaHandler, StringConstraints
from pydantic.json_schema import JsonSchemaValue, SkipJsonSchema
from pydantic_core import CoreSchema

from o9.alerts.service.repository import alert_of_row
from o9.api.answers import Page, Success, first_page, page, success
from o9.api.api import PREFIX, ROOT, VERSIONS
from o9.api.backend import Backend, existing, found
from o9.api.changes import change, delete
from o9.api.health import system_health
from o9.health.grades import Grade, Verdict, kept_verdict, kept_verdicts
from o9.health.wording import document
from o9.lifecycle.control import Verb
from o9.lifecycle.heartbeat import takers
from o9.lifecycle.submission import requested
from o9.model.errors import OptimizationAPIError, OptimizationStateError
from o9.model.fields import COUNT_LIMIT, NAME_LIMIT
from o9.model.optimization import (
    OptimizationAlert,
    OptimizationHealthReport,
    OptimizationMetrics,
    OptimizationState,
    moment_of,
    utc_now,
)
from o9.model.settings import settings
from o9.model.specification import OptimizationSpec
from o9.model.states import AlertLevel, OptimizationPriority, OptimizationStatus, OptimizationType, TrialState
from o9.model.trial import Trial
from o9.monitor.figures import metrics_page
from o9.store import queries
from o9.store.core.column_types import moment
from o9.store.core.reading import PAGE_LIMIT, read_cursor, write_cursor
from o9.store.core.unit import Row
from o9.store.optimizations.outputs import OF_NO_TRIAL
from o9.store.optimizations.queries import Filter
from o9.store.store import Store

# Queries and bodies

# PostgreSQL cannot be asked for a NUL.
Text = Annotated[str, StringConstraints(min_length=1, max_length=NAME_LIMIT, pattern="^[^\\x00]*$")]
Omitted = SkipJsonSchema[None]  # a query has no null


class NoQuery(BaseModel):
    """The query of a route without parameters; the base of all that have names."""

    model_config = ConfigDict(extra="forbid")


class PageQuery(NoQuery):
    limit: int = Field(100, ge=1, le=PAGE_LIMIT, description="How many items at most.")
    cursor: str | Omitted = Field(None, min_length=1, description="The `next_cursor` of the page before.")

    def behind(self, *start: int) -> tuple[int, ...]:
        """Behind which numbers this page begins; `start` where it is the first."""
        return start if self.cursor is None else read_cursor(self.cursor, int, len(start))


class LogQuery(PageQuery):
    trial: Annotated[int, Field(ge=0, le=COUNT_LIMIT)] | Omitted = Field(None, description="Of this trial alone.")


class OptimizationQuery(PageQuery):
    status: OptimizationStatus | Omitted = None
    type: OptimizationType | Omitted = None
    priority: Literal["low", "normal", "high", "critical", "1", "2", "3", "4"] | Omitted = None
    strategy: Text | Omitted = Field(
        None, description="Its name, as in `metadata.strategy`; `default` where none is given."
    )
    family: Text | Omitted = Field(None, description="What its trials count in, from the first trial on.")
    q: Text | Omitted = Field(None, description="A part of the name or the id, in upper or lower case.")
    created_after: Annotated[datetime, BeforeValidator(moment_of)] | Omitted = Field(
        None, description="ISO 8601, such as 2026-01-31T09:30:00Z; encode a + as %2B."
    )

    def filter(self) -> Filter:
        since = None if self.created_after is None else moment(self.created_after)
        return Filter(self.status, self.type, _priority(self.priority), self.strategy, self.family, self.q, since)


class AlertQuery(PageQuery):
    level: AlertLevel | Omitted = None
    optimization_id: Text | Omitted = None


class TrendQuery(NoQuery):
    days: float = Field(7.0, ge=1e-3, le=36_600, description="How far back; 0.5 is twelve hours.")


class RankingQuery(NoQuery):
    metric_name: Text
    limit: int = Field(10, ge=1, le=PAGE_LIMIT)


class CancelQuery(NoQuery):
    cancel: bool = Field(False, description="true: what runs is cancelled first, and its end awaited.")


class ResolveBody(NoQuery):
    by: str = Field("api", max_length=NAME_LIMIT, description="Who has resolved it.")


def _priority(text: str | None) -> OptimizationPriority | None:
    if text is None:
        return None
    return OptimizationPriority(int(text)) if text.isdecimal() else OptimizationPriority[text.upper()]


# Optimizations: their record, their control, and what they tried


class DescribedBy:
    """A body that the route checks by itself; the OpenAPI document shows it as this model."""

    def __init__(self, model: type[BaseModel]) -> None:
        self._model = model

    def __get_pydantic_json_schema__(self, schema: CoreSchema, handler: GetJsonSchemaHandler) -> JsonSchemaValue:
        return handler(self._model.__pydantic_core_schema__)


Fields = Annotated[dict[str, Any], DescribedBy(OptimizationSpec)]
ONE = f"{PREFIX}/optimizations/{{optimization_id}}"


class TrialAnswer(BaseModel):
    """One evaluated parameter set, as the ledger keeps it."""

    number: int
    attempt: int
    step: int
    state: TrialState
    parameters: dict[str, Any]
    value: float | None
    metrics: dict[str, Any]
    error: str | None
    started_at: datetime | None
    duration_seconds: float


class PlaceboBody(NoQuery):
    """How many placebo runs to have."""

    runs: int = Field(19, ge=1, le=9_999)


class PlaceboAnswer(BaseModel):
    """One placebo run; GET /optimizations/{id} has all of it."""

    optimization_id: str
    status: OptimizationStatus


@dataclass
class JudgedOptimization(OptimizationState):
    """grade: what may be believed of its best, by the last health report of its present status; null: not judged."""

    grade: Grade | None = None


class LogAnswer(BaseModel):
    """What users' code printed and logged. `trial` is null where it belongs to none; `cut` bytes of it are not kept."""

    step: int
    trial: int | None
    text: str
    cut: int


class Deleted(BaseModel):
    optimization_id: str


def _add_optimizations(app: FastAPI, backend: Backend) -> None:
    @app.post(f"{PREFIX}/optimizations", response_model=Success[OptimizationState])
    async def create_optimization(fields: Fields, _: Annotated[NoQuery, Query()]) -> JSONResponse:
        """Submit one. The same id with the same content again answers with the first, and creates nothing.

        `run_by`: the nodes that start it when its turn comes; empty where none runs now.
        """
        allowed = settings().allowed_imports
        state = await backend.control.submit(requested(fields, allowed), allowed_imports=allowed)
        nodes = await asyncio.to_thread(takers, backend.store, state.optimization_id)
        return success(state.to_dict(), run_by=list(nodes))

    @app.get(f"{PREFIX}/optimizations", response_model=Success[Page[JudgedOptimization]])
    async def list_optimizations(asked: Annotated[OptimizationQuery, Query()]) -> JSONResponse:
        """The newest first; all given filters apply."""
        store = backend.store
        part = await store.read_async(queries.page, wanted=asked.filter(), limit=asked.limit, cursor=asked.cursor)
        verdicts = await asyncio.to_thread(kept_verdicts, store, part.items)
        items = [state.to_dict() | _grade(verdicts.get(state.optimization_id)) for state in part.items]
        return page(items, part.next_cursor)

    @app.get(ONE, response_model=Success[JudgedOptimization])
    async def get_optimization(optimization_id: str, _: Annotated[NoQuery, Query()]) -> JSONResponse:
        """Its present state, also after its end. The header `ETag` is the version that `If-Match` of a PUT takes."""
        holding = await found(backend, queries.holding, optimization_id, "optimization")
        state = await existing(backend, optimization_id)
        verdict = await asyncio.to_thread(kept_verdict, backend.store, state)
        return success(state.to_dict() | _grade(verdict), {"ETag": f'"{holding.version}"'})

    @app.put(ONE, response_model=Success[OptimizationState])
    async def update_optimization(
        optimization_id: str,
        fields: Fields,
        _: Annotated[NoQuery, Query()],
        if_match: Annotated[str | Omitted, Header()] = None,
    ) -> JSONResponse:
        """Change the fields that are given. What runs is refused: pause or cancel it first."""
        given = {name: value for name, value in fields.items() if name != "grade"}  # which GET answers, too
        return success((await change(backend, optimization_id, given, _version(if_match))).to_dict())

    @app.delete(ONE, response_model=Success[Deleted])
    async def delete_optimization(optimization_id: str, asked: Annotated[CancelQuery, Query()]) -> JSONResponse:
        """Delete it with all that is recorded of it. What runs is refused, or cancelled first with `cancel=true`."""
        await delete(backend, optimization_id, cancel=asked.cancel)
        return success({"optimization_id": optimization_id})

    @app.post(f"{ONE}/placebo", response_model=Success[list[PlaceboAnswer]])
    async def run_placebos(optimization_id: str, asked: PlaceboBody, _: Annotated[NoQuery, Query()]) -> JSONResponse:
        """Queue its search on data without an edge, until there are `runs` of them."""
        await existing(backend, optimization_id)
        allowed = settings().allowed_imports
        queued = await backend.control.placebo(optimization_id, asked.runs, allowed_imports=allowed)
        return success([{name: state.to_dict()[name] for name in PlaceboAnswer.model_fields} for state in queued])

    @app.get(f"{ONE}/report", response_class=Response, responses={200: {"content": _HTML}})
    async def get_report(optimization_id: str, _: Annotated[NoQuery, Query()]) -> HTMLResponse:
        """Its report as a page for a browser, as `o9 report` writes it; made anew for each request."""
        await existing(backend, optimization_id)
        html = await asyncio.to_thread(_report, backend.store, optimization_id)
        return HTMLResponse(html.encode(errors="backslashreplace"))

    @app.get(f"{ONE}/trials", response_model=Success[Page[TrialAnswer]])
    async def list_trials(optimization_id: str, asked: Annotated[PageQuery, Query()]) -> JSONResponse:
        """The trials, by number."""
        await existing(backend, optimization_id)
        (after,) = asked.behind(-1)
        trials = await backend.store.read_async(queries.trials, optimization_id, after=after, limit=asked.limit + 1)
        return first_page(trials, asked.limit, Trial.to_dict, attrgetter("number"))

    @app.get(f"{ONE}/logs", response_model=Success[Page[LogAnswer]])
    async def list_logs(optimization_id: str, asked: Annotated[LogQuery, Query()]) -> JSONResponse:
        """What its objective printed and logged, by trial: the first 64 KiB of each."""
        await existing(backend, optimization_id)
        step, number = asked.behind(-1, OF_NO_TRIAL)
        rows = await backend.store.read_async(
            queries.outputs, optimization_id, number=asked.trial, after=(step, number), limit=asked.limit + 1
        )
        return first_page(
            rows, asked.limit, lambda row: {name: row[name] for name in LogAnswer.model_fields},
            itemgetter("step"), itemgetter("number"),
        )  # fmt: skip

    @app.get(f"{ONE}/metrics", response_model=Success[Page[OptimizationMetrics]])
    async def list_metrics(optimization_id: str, asked: Annotated[PageQuery, Query()]) -> JSONResponse:
        """One entry a step, oldest first; what was not measured is null."""
        state = await existing(backend, optimization_id)
        step, trial = asked.behind(0, 0)
        steps, following = await asyncio.to_thread(metrics_page, backend.store, state, (step, trial), asked.limit)
        return page((each.to_dict() for each in steps), write_cursor(*following) if following else None)

    @app.get(f"{ONE}/transitions", response_model=Success[Page[dict[str, Any]]])
    async def list_transitions(optimization_id: str, asked: Annotated[PageQuery, Query()]) -> JSONResponse:
        """Every change of its status, with its cause."""
        await existing(backend, optimization_id)
        (after,) = asked.behind(0)
        rows = await backend.store.read_async(queries.transitions, optimization_id, after=after, limit=asked.limit + 1)
        return first_page(rows, asked.limit, dict, itemgetter("id"))

    for verb, description in _VERBS.items():
        _add_control(app, backend, verb, description)


_HTML = {"text/html": {"schema": {"type": "string"}}}
_VERBS = {
    Verb.START: "Queue what was held back or rests.",
    Verb.PAUSE: "Finish the step that runs, and free the slot.",
    Verb.RESUME: "Queue again what rests.",
    Verb.CANCEL: "Cut it off at once, for good; the best is kept.",
}


def _add_control(app: FastAPI, backend: Backend, verb: Verb, description: str) -> None:
    async def ask(optimization_id: str, _: Annotated[NoQuery, Query()]) -> JSONResponse:
        await existing(backend, optimization_id)
        await backend.control.carry_out(verb, optimization_id, "api")
        return success((await existing(backend, optimization_id)).to_dict())

    app.add_api_route(
        f"{ONE}/{verb.value}", ask, methods=["POST"], name=f"{verb.value}_optimization", description=description,
        response_model=Success[OptimizationState],
    )  # fmt: skip


def _report(store: Store, optimization_id: str) -> str:
    """Blocks."""
    from o9.report.write import report_of  # plotly and scipy, which other requests do without

    return report_of(store, [optimization_id])


def _grade(verdict: Verdict | None) -> dict[str, str | None]:
    return {"grade": verdict.grade.value if verdict else None}


def _version(if_match: str | None) -> int | None:
    if if_match is None or if_match.strip() == "*":
        return None
    if (tag := re.fullmatch(r'\s*(?:W/)?"?(\d{1,18})"?\s*', if_match)) is None:
        raise OptimizationStateError("If-Match: not an ETag that GET of this optimization gave: read it again")
    return int(tag[1])


# Statistics, health and alerts, and the probes of this process


@dataclass
class JudgedReport(OptimizationHealthReport):
    """grade and verdict: what may be believed of the best, with the forecast; null where it was not judged."""

    grade: Grade | None = None
    verdict: Verdict | None = None


def add_routes(app: FastAPI, backend: Backend) -> None:
    _add_optimizations(app, backend)
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
