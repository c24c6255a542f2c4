"""The routes of optimizations: their record, their control, and what they tried."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass
from datetime import datetime
from typing import Annotated, Any

from fastapi import FastAPI, Header, Query
from fastapi.responses import JSONResponse
from pydantic import BaseModel, ConfigDict, Field

from o9.api.answers import Page, Success, page, success
from o9.api.backend import Backend, existing
from o9.api.bodies import DescribedBy
from o9.api.changes import change, delete
from o9.api.parameters import CancelQuery, LogQuery, NoQuery, Omitted, OptimizationQuery, PageQuery
from o9.api.versions import PREFIX
from o9.health.grades import Grade, Verdict
from o9.health.kept import kept_verdict, kept_verdicts
from o9.lifecycle.control import Verb
from o9.lifecycle.heartbeat import takers
from o9.lifecycle.submission import requested
from o9.model.errors import OptimizationStateError, OptimizationValidationError
from o9.model.optimization import OptimizationMetrics, OptimizationState
from o9.model.settings import settings
from o9.model.specification import OptimizationSpec
from o9.model.states import OptimizationStatus, TrialState
from o9.monitor.figures import START, metrics_page
from o9.store import queries
from o9.store.core.reading import read_cursor, write_cursor
from o9.store.optimizations.outputs import OF_NO_TRIAL

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


class PlaceboBody(BaseModel):
    """How many placebo runs to have."""

    model_config = ConfigDict(extra="forbid")

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


def add_optimization_routes(app: FastAPI, backend: Backend) -> None:
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
        found = await store.read_async(queries.page, wanted=asked.filter(), limit=asked.limit, cursor=asked.cursor)
        verdicts = await asyncio.to_thread(kept_verdicts, store, found.items)
        items = [state.to_dict() | _grade(verdicts.get(state.optimization_id)) for state in found.items]
        return page(items, found.next_cursor)

    @app.get(ONE, response_model=Success[JudgedOptimization])
    async def get_optimization(optimization_id: str, _: Annotated[NoQuery, Query()]) -> JSONResponse:
        """Its present state, also after its end. The header `ETag` is the version that `If-Match` of a PUT takes."""
        await existing(backend, optimization_id)
        holding = await backend.store.read_async(queries.holding, optimization_id)
        state = await existing(backend, optimization_id)
        verdict = await asyncio.to_thread(kept_verdict, backend.store, state)
        return success(state.to_dict() | _grade(verdict), {"ETag": f'"{holding.version}"'} if holding else None)

    @app.put(ONE, response_model=Success[OptimizationState])
    async def update_optimization(
        optimization_id: str,
        fields: Fields,
        asked: Annotated[CancelQuery, Query()],
        if_match: Annotated[str | Omitted, Header()] = None,
    ) -> JSONResponse:
        """Change the fields that are given. What runs is refused, or cancelled first with `cancel=true`."""
        cancel, version = asked.cancel == "true", _version(if_match)
        if "grade" in fields:
            fields = await _without_grade(backend, optimization_id, fields)
        return success((await change(backend, optimization_id, fields, cancel=cancel, version=version)).to_dict())

    @app.delete(ONE, response_model=Success[Deleted])
    async def delete_optimization(optimization_id: str, asked: Annotated[CancelQuery, Query()]) -> JSONResponse:
        """Delete it with all that is recorded of it. What runs is refused, or cancelled first with `cancel=true`."""
        await delete(backend, optimization_id, cancel=asked.cancel == "true")
        return success({"optimization_id": optimization_id})

    @app.post(f"{ONE}/placebo", response_model=Success[list[PlaceboAnswer]])
    async def run_placebos(optimization_id: str, asked: PlaceboBody, _: Annotated[NoQuery, Query()]) -> JSONResponse:
        """Queue its search on data without an edge, until there are `runs` of them."""
        await existing(backend, optimization_id)
        allowed = settings().allowed_imports
        queued = await backend.control.placebo(optimization_id, asked.runs, allowed_imports=allowed)
        return success([{name: state.to_dict()[name] for name in PlaceboAnswer.model_fields} for state in queued])

    @app.get(f"{ONE}/trials", response_model=Success[Page[TrialAnswer]])
    async def list_trials(optimization_id: str, asked: Annotated[PageQuery, Query()]) -> JSONResponse:
        """The trials, by number."""
        await existing(backend, optimization_id)
        after = read_cursor(asked.cursor, int, 1)[0] if asked.cursor is not None else -1
        store = backend.store
        found = await store.read_async(queries.trials, optimization_id, after=after, limit=asked.limit + 1)
        items = [trial.to_dict() for trial in found[: asked.limit]]
        return page(items, write_cursor(items[-1]["number"]) if len(found) > asked.limit else None)

    @app.get(f"{ONE}/logs", response_model=Success[Page[LogAnswer]])
    async def list_logs(optimization_id: str, asked: Annotated[LogQuery, Query()]) -> JSONResponse:
        """What its objective printed and logged, by trial: the first 64 KiB of each."""
        await existing(backend, optimization_id)
        step, number = read_cursor(asked.cursor, int, 2) if asked.cursor is not None else (-1, OF_NO_TRIAL)
        store, limit = backend.store, asked.limit + 1
        found = await store.read_async(
            queries.outputs, optimization_id, number=asked.trial, after=(step, number), limit=limit
        )
        items = [{name: row[name] for name in LogAnswer.model_fields} for row in found[: asked.limit]]
        last = found[asked.limit - 1] if len(found) > asked.limit else None
        return page(items, write_cursor(last["step"], last["number"]) if last else None)

    @app.get(f"{ONE}/metrics", response_model=Success[Page[OptimizationMetrics]])
    async def list_metrics(optimization_id: str, asked: Annotated[PageQuery, Query()]) -> JSONResponse:
        """One entry a step, oldest first; what was not measured is null."""
        state = await existing(backend, optimization_id)
        step, trial = read_cursor(asked.cursor, int, 2) if asked.cursor is not None else START
        store = backend.store
        found, following = await asyncio.to_thread(metrics_page, store, state, (step, trial), asked.limit)
        return page([each.to_dict() for each in found], write_cursor(*following) if following else None)

    @app.get(f"{ONE}/transitions", response_model=Success[Page[dict[str, Any]]])
    async def list_transitions(optimization_id: str, asked: Annotated[PageQuery, Query()]) -> JSONResponse:
        """Every change of its status, with its cause."""
        await existing(backend, optimization_id)
        after = read_cursor(asked.cursor, int, 1)[0] if asked.cursor is not None else 0
        store = backend.store
        found = await store.read_async(queries.transitions, optimization_id, after=after, limit=asked.limit + 1)
        items = found[: asked.limit]
        return page(items, write_cursor(items[-1]["id"]) if len(found) > asked.limit else None)

    for verb, description in _VERBS.items():
        _add_control(app, backend, verb, description)


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


def _grade(verdict: Verdict | None) -> dict[str, str | None]:
    return {"grade": verdict.grade.value if verdict else None}


async def _without_grade(backend: Backend, optimization_id: str, fields: dict[str, Any]) -> dict[str, Any]:
    """The fields without the grade, which GET answers: a client may send back what it read."""
    state = await existing(backend, optimization_id)
    verdict = await asyncio.to_thread(kept_verdict, backend.store, state)
    if fields["grade"] != _grade(verdict)["grade"]:
        raise OptimizationValidationError("grade", "it is what the last health report says; leave it out")
    return {name: value for name, value in fields.items() if name != "grade"}


def _version(if_match: str | None) -> int | None:
    if if_match is None or if_match.strip() == "*":
        return None
    text = if_match.strip().removeprefix("W/").strip('"')
    if not text.isdecimal() or len(text) > 18:
        raise OptimizationStateError("If-Match: not an ETag that GET of this optimization gave: read it again")
    return int(text)
