"""The routes, with the models of their queries and bodies. Unknown parameters and fields are refused by name."""

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
from o9.api.answers import Page, Success, keyset_page, page, success
from o9.api.api import PREFIX, ROOT, VERSIONS
from o9.api.backend import Backend, get_or_404, get_state
from o9.api.changes import change, delete
from o9.api.health import system_health
from o9.health.grades import Grade, Verdict, kept_verdict, kept_verdicts
from o9.health.wording import document
from o9.lifecycle.control import Verb
from o9.lifecycle.heartbeat import nodes_claiming
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

# PostgreSQL accepts no NUL.
Text = Annotated[str, StringConstraints(min_length=1, max_length=NAME_LIMIT, pattern="^[^\\x00]*$")]
Omitted = SkipJsonSchema[None]  # a query has no null


class NoQuery(BaseModel):
    """The query of a route without parameters; the base class of all queries."""

    model_config = ConfigDict(extra="forbid")


class PageQuery(NoQuery):
    limit: int = Field(100, ge=1, le=PAGE_LIMIT, description="The maximum number of items.")
    cursor: str | Omitted = Field(None, min_length=1, description="The `next_cursor` of the previous page.")

    def position(self, *start: int) -> tuple[int, ...]:
        """The position after which this page begins; `start` on the first page."""
        return start if self.cursor is None else read_cursor(self.cursor, int, len(start))


class LogQuery(PageQuery):
    trial: Annotated[int, Field(ge=0, le=COUNT_LIMIT)] | Omitted = Field(None, description="Only this trial's.")


class OptimizationQuery(PageQuery):
    status: OptimizationStatus | Omitted = None
    type: OptimizationType | Omitted = None
    priority: Literal["low", "normal", "high", "critical", "1", "2", "3", "4"] | Omitted = None
    strategy: Text | Omitted = Field(
        None, description="Its name, as in `metadata.strategy`; `default` if there is none."
    )
    family: Text | Omitted = Field(None, description="The family of its trials; it has one from the first trial on.")
    q: Text | Omitted = Field(None, description="A part of the name or the id; case does not matter.")
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
    cancel: bool = Field(False, description="true: first cancel it if it runs, and wait for its end.")


class ResolveBody(NoQuery):
    by: str = Field("api", max_length=NAME_LIMIT, description="The person who has resolved it.")


def _priority(text: str | None) -> OptimizationPriority | None:
    if text is None:
        return None
    return OptimizationPriority(int(text)) if text.isdecimal() else OptimizationPriority[text.upper()]


# Optimizations: their record, their control, and what they tried


class DescribedBy:
    """A body that the route validates itself; the OpenAPI document has the schema of `model`."""

    def __init__(self, model: type[BaseModel]) -> None:
        self._model = model

    def __get_pydantic_json_schema__(self, schema: CoreSchema, handler: GetJsonSchemaHandler) -> JsonSchemaValue:
        return handler(self._model.__pydantic_core_schema__)


Fields = Annotated[dict[str, Any], DescribedBy(OptimizationSpec)]
ONE = f"{PREFIX}/optimizations/{{optimization_id}}"


class TrialAnswer(BaseModel):
    """One evaluated parameter set in the ledger."""

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
    """The number of placebo runs to have."""

    runs: int = Field(19, ge=1, le=9_999)


class PlaceboAnswer(BaseModel):
    """One placebo run; GET /optimizations/{id} returns its state."""

    optimization_id: str
    status: OptimizationStatus


@dataclass
class JudgedOptimization(OptimizationState):
    """A state with the `grade` of its verdict, by the last health report of its present status; null: not judged."""

    grade: Grade | None = None


class LogAnswer(BaseModel):
    """What users' code printed and logged. `trial` is null outside of trials; `cut` bytes of it were dropped."""

    step: int
    trial: int | None
    text: str
    cut: int


class Deleted(BaseModel):
    optimization_id: str


def _add_optimizations(app: FastAPI, backend: Backend) -> None:
    @app.post(f"{PREFIX}/optimizations", response_model=Success[OptimizationState])
    async def create_optimization(fields: Fields, _: Annotated[NoQuery, Query()]) -> JSONResponse:
        """Submit an optimization. Submitting the same id with the same content again returns the existing one.

        `run_by`: the nodes that may start it; empty if none is running.
        """
        allowed = settings().allowed_imports
        state = await backend.control.submit(requested(fields, allowed), allowed_imports=allowed)
        nodes = await asyncio.to_thread(nodes_claiming, backend.store, state.optimization_id)
        return success(state.to_dict(), run_by=list(nodes))

    @app.get(f"{PREFIX}/optimizations", response_model=Success[Page[JudgedOptimization]])
    async def list_optimizations(query: Annotated[OptimizationQuery, Query()]) -> JSONResponse:
        """List optimizations, newest first. All given filters apply."""
        store = backend.store
        part = await store.read_async(queries.page, wanted=query.filter(), limit=query.limit, cursor=query.cursor)
        verdicts = await asyncio.to_thread(kept_verdicts, store, part.items)
        items = [state.to_dict() | _grade(verdicts.get(state.optimization_id)) for state in part.items]
        return page(items, part.next_cursor)

    @app.get(ONE, response_model=Success[JudgedOptimization])
    async def get_optimization(optimization_id: str, _: Annotated[NoQuery, Query()]) -> JSONResponse:
        """Get the current state. The header `ETag` has the version, for `If-Match` of a PUT."""
        holding = await get_or_404(backend, queries.holding, optimization_id, "optimization")
        state = await get_state(backend, optimization_id)
        verdict = await asyncio.to_thread(kept_verdict, backend.store, state)
        return success(state.to_dict() | _grade(verdict), {"ETag": f'"{holding.version}"'})

    @app.put(ONE, response_model=Success[OptimizationState])
    async def update_optimization(
        optimization_id: str,
        fields: Fields,
        _: Annotated[NoQuery, Query()],
        if_match: Annotated[str | Omitted, Header()] = None,
    ) -> JSONResponse:
        """Change the given fields. A running optimization is refused: pause or cancel it first."""
        given = {name: value for name, value in fields.items() if name != "grade"}  # a field of GET's response
        return success((await change(backend, optimization_id, given, _version(if_match))).to_dict())

    @app.delete(ONE, response_model=Success[Deleted])
    async def delete_optimization(optimization_id: str, query: Annotated[CancelQuery, Query()]) -> JSONResponse:
        """Delete an optimization with its records. A running one is refused, or cancelled first with `cancel=true`."""
        await delete(backend, optimization_id, cancel=query.cancel)
        return success({"optimization_id": optimization_id})

    @app.post(f"{ONE}/placebo", response_model=Success[list[PlaceboAnswer]])
    async def run_placebos(optimization_id: str, body: PlaceboBody, _: Annotated[NoQuery, Query()]) -> JSONResponse:
        """Queue placebo runs, the same search on data without an edge, until there are `runs` of them."""
        await get_state(backend, optimization_id)
        allowed = settings().allowed_imports
        queued = await backend.control.placebo(optimization_id, body.runs, allowed_imports=allowed)
        return success([{name: state.to_dict()[name] for name in PlaceboAnswer.model_fields} for state in queued])

    @app.get(f"{ONE}/report", response_class=Response, responses={200: {"content": _HTML}})
    async def get_report(optimization_id: str, _: Annotated[NoQuery, Query()]) -> HTMLResponse:
        """Get the report as an HTML page, like that of `o9 report`; it is made for each request."""
        await get_state(backend, optimization_id)
        html = await asyncio.to_thread(_report, backend.store, optimization_id)
        return HTMLResponse(html.encode(errors="backslashreplace"))

    @app.get(f"{ONE}/trials", response_model=Success[Page[TrialAnswer]])
    async def list_trials(optimization_id: str, query: Annotated[PageQuery, Query()]) -> JSONResponse:
        """List the trials by number."""
        await get_state(backend, optimization_id)
        (after,) = query.position(-1)
        trials = await backend.store.read_async(queries.trials, optimization_id, after=after, limit=query.limit + 1)
        return keyset_page(trials, query.limit, Trial.to_dict, attrgetter("number"))

    @app.get(f"{ONE}/logs", response_model=Success[Page[LogAnswer]])
    async def list_logs(optimization_id: str, query: Annotated[LogQuery, Query()]) -> JSONResponse:
        """List what the objective printed and logged, by trial: the first 64 KiB of each."""
        await get_state(backend, optimization_id)
        step, number = query.position(-1, OF_NO_TRIAL)
        rows = await backend.store.read_async(
            queries.outputs, optimization_id, number=query.trial, after=(step, number), limit=query.limit + 1
        )
        return keyset_page(
            rows, query.limit, lambda row: {name: row[name] for name in LogAnswer.model_fields},
            itemgetter("step"), itemgetter("number"),
        )  # fmt: skip

    @app.get(f"{ONE}/metrics", response_model=Success[Page[OptimizationMetrics]])
    async def list_metrics(optimization_id: str, query: Annotated[PageQuery, Query()]) -> JSONResponse:
        """List the metrics of each step, oldest first. A figure that was not measured is null."""
        state = await get_state(backend, optimization_id)
        step, trial = query.position(0, 0)
        steps, following = await asyncio.to_thread(metrics_page, backend.store, state, (step, trial), query.limit)
        return page((each.to_dict() for each in steps), write_cursor(*following) if following else None)

    @app.get(f"{ONE}/transitions", response_model=Success[Page[dict[str, Any]]])
    async def list_transitions(optimization_id: str, query: Annotated[PageQuery, Query()]) -> JSONResponse:
        """List the changes of the status, with their causes."""
        await get_state(backend, optimization_id)
        (after,) = query.position(0)
        rows = await backend.store.read_async(queries.transitions, optimization_id, after=after, limit=query.limit + 1)
        return keyset_page(rows, query.limit, dict, itemgetter("id"))

    for verb, description in _VERBS.items():
        _add_control(app, backend, verb, description)


_HTML = {"text/html": {"schema": {"type": "string"}}}
_VERBS = {
    Verb.START: "Queue an optimization that is held back, paused or suspended.",
    Verb.PAUSE: "Pause it when its current step is committed.",
    Verb.RESUME: "Queue a paused or suspended optimization again.",
    Verb.CANCEL: "Cancel it at once, for good; the best so far is kept.",
}


def _add_control(app: FastAPI, backend: Backend, verb: Verb, description: str) -> None:
    async def ask(optimization_id: str, _: Annotated[NoQuery, Query()]) -> JSONResponse:
        await get_state(backend, optimization_id)
        await backend.control.carry_out(verb, optimization_id, "api")
        return success((await get_state(backend, optimization_id)).to_dict())

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
        raise OptimizationStateError("If-Match: expected the ETag of a GET of this optimization; read it again")
    return int(tag[1])


# Statistics, health and alerts, and the probes of this process


@dataclass
class JudgedReport(OptimizationHealthReport):
    """A health report with the verdict, its grade and the forecast; null if the best was not judged."""

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
        """Get counts, rates, durations and improvements over all optimizations."""
        return success(await backend.statistics.get_global_statistics())

    @app.get(f"{PREFIX}/statistics/trends", response_model=Success[dict[str, Any]])
    async def get_trends(query: Annotated[TrendQuery, Query()]) -> JSONResponse:
        """Get the trends of results: time windows, and slopes with their 95 % intervals."""
        return success(await backend.statistics.get_performance_trends(timedelta(days=query.days)))

    @app.get(f"{PREFIX}/statistics/rankings", response_model=Success[Page[dict[str, Any]]])
    async def get_rankings(query: Annotated[RankingQuery, Query()]) -> JSONResponse:
        """Rank optimizations by a metric, the best first."""
        return page(await backend.statistics.get_optimization_rankings(query.metric_name, query.limit), None)


def _add_health(app: FastAPI, backend: Backend) -> None:
    @app.get(f"{PREFIX}/health", response_model=Success[dict[str, Any]])
    async def get_health(_: Annotated[NoQuery, Query()]) -> JSONResponse:
        """Get the health of O9 itself: the store, Prefect, the nodes, the channels."""
        return success(await system_health(backend))

    @app.get(f"{PREFIX}/health/{{optimization_id}}", response_model=Success[JudgedReport])
    async def get_health_of(optimization_id: str, _: Annotated[NoQuery, Query()]) -> JSONResponse:
        """Get whether the result can be trusted: the verdict, four scores, issues and recommendations."""
        await get_state(backend, optimization_id)
        report = await backend.health_checker.recent_report(optimization_id)
        return success(report.to_dict() | document(await backend.health_checker.get_verdict(optimization_id)))


def _add_alerts(app: FastAPI, backend: Backend) -> None:
    @app.get(f"{PREFIX}/alerts", response_model=Success[Page[OptimizationAlert]])
    async def list_alerts(query: Annotated[AlertQuery, Query()]) -> JSONResponse:
        """List alerts, newest first by their timestamps."""
        before = read_cursor(query.cursor, str, 2) if query.cursor is not None else None
        rows = await backend.store.read_async(
            queries.alerts, optimization_id=query.optimization_id,
            level=query.level.value if query.level else None, limit=query.limit,
            before=(before[0], before[1]) if before else None,
        )  # fmt: skip
        # A full page may be the last one: then an empty page follows.
        is_full = len(rows) == query.limit
        return page(map(_alert, rows), write_cursor(rows[-1]["at"], rows[-1]["alert_id"]) if is_full else None)

    @app.post(f"{PREFIX}/alerts/{{alert_id}}/resolve", response_model=Success[OptimizationAlert])
    async def resolve_alert(
        alert_id: str, _: Annotated[NoQuery, Query()], body: ResolveBody | None = None
    ) -> JSONResponse:
        """Resolve an alert, which ends its episode. A resolved alert is unchanged."""
        await get_or_404(backend, queries.alert, alert_id, "alert")
        await backend.alert_system.resolve_alert(alert_id, (body or ResolveBody()).by)
        return success(_alert(await get_or_404(backend, queries.alert, alert_id, "alert")))


def _add_probes(app: FastAPI, backend: Backend) -> None:
    @app.get(ROOT, response_model=Success[dict[str, list[str]]])
    async def get_versions() -> JSONResponse:
        """List the versions of this API."""
        return success({"versions": [*VERSIONS]})

    @app.get("/healthz", response_model=Success[dict[str, str]])
    async def lives() -> JSONResponse:
        """Check that the process is alive."""
        return success({"status": "alive"})

    @app.get("/readyz", response_model=Success[dict[str, str]])
    async def is_ready() -> JSONResponse:
        """Check that the aggregator runs and its store responds; else 503."""
        if not backend.is_running:
            raise OptimizationAPIError("the aggregator is not running: call start() first", 503)
        await asyncio.to_thread(backend.store.schema)
        return success({"status": "ready"})


def _alert(row: Row) -> dict[str, Any]:
    return alert_of_row(row, utc_now()).to_dict()
