"""The routes, once: `o9 serve` will serve them, and `handle_api_request` asks them without a network.

Success is `{"success": true, "data", "timestamp", "api_version"}`, an error `{"success": false, "error", "code"}`
with the HTTP status; `code_of` is the one table from errors to codes.
"""

from __future__ import annotations

import json
import logging
from collections.abc import Awaitable, Callable
from datetime import timedelta
from typing import Annotated, Any, Protocol

from fastapi import APIRouter, FastAPI, Query, Request
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse
from starlette.exceptions import HTTPException

from o9.lifecycle.submission import new_optimization
from o9.model.component import not_yet
from o9.model.errors import (
    NotYetAvailableError,
    OptimizationAPIError,
    OptimizationConflictError,
    OptimizationError,
    OptimizationStateError,
    OptimizationStoreError,
    OptimizationValidationError,
)
from o9.model.optimization import (
    OptimizationAlert,
    OptimizationHealthReport,
    OptimizationMetrics,
    OptimizationState,
    utc_now,
)
from o9.model.validation import COUNT_LIMIT
from o9.store.store import Store

logger = logging.getLogger(__name__)
API_VERSION = "v1"
PREFIX = f"/api/{API_VERSION}"


class Backend(Protocol):
    """What the routes need; the aggregator is one."""

    @property
    def is_running(self) -> bool: ...

    @property
    def store(self) -> Store: ...

    async def submit_request(self, state: OptimizationState) -> OptimizationState: ...

    async def get_optimization_status(self, optimization_id: str) -> OptimizationState | None: ...

    async def pause_optimization(self, optimization_id: str) -> bool: ...

    async def resume_optimization(self, optimization_id: str) -> bool: ...

    async def cancel_optimization(self, optimization_id: str) -> bool: ...

    async def get_global_statistics(self) -> dict[str, Any]: ...

    async def get_performance_trends(self, time_range: timedelta) -> dict[str, Any]: ...

    async def get_optimization_rankings(self, metric_name: str, limit: int) -> list[dict[str, Any]]: ...

    async def get_optimization_metrics(self, optimization_id: str) -> list[OptimizationMetrics]: ...

    async def get_optimization_health(self, optimization_id: str) -> OptimizationHealthReport | None: ...

    async def get_alerts(self) -> list[OptimizationAlert]: ...


def create_app(backend: Backend) -> FastAPI:
    """The application over `backend`."""
    app = FastAPI(title="O9", version=API_VERSION, redirect_slashes=False)

    @app.middleware("http")
    async def _only_while_running(request: Request, forward: Callable[[Request], Awaitable[Any]]) -> Any:
        if not backend.is_running:
            return _error("the aggregator is not running: call start() first", 503)
        return await forward(request)

    app.include_router(_router(backend), prefix=PREFIX)
    for kind in (OptimizationError, HTTPException, RequestValidationError):
        app.add_exception_handler(kind, _answer_error)
    app.add_exception_handler(Exception, _answer_unforeseen)
    return app


def _router(backend: Backend) -> APIRouter:
    router = APIRouter()

    @router.post("/optimizations")
    async def create(fields: dict[str, Any]) -> JSONResponse:
        return _success((await backend.submit_request(new_optimization(fields))).to_dict())

    @router.get("/optimizations")
    async def listed(limit: int = 100, cursor: str | None = None) -> JSONResponse:
        page = await backend.store.read_async(backend.store.list, limit=limit, cursor=cursor)
        return _success({"items": [state.to_dict() for state in page.items], "next_cursor": page.next_cursor})

    @router.get("/optimizations/{optimization_id}")
    async def one(optimization_id: str) -> JSONResponse:
        return _success((await _existing(backend, optimization_id)).to_dict())

    @router.get("/optimizations/{optimization_id}/trials")
    async def trials(
        optimization_id: str,
        limit: Annotated[int, Query(ge=1, le=COUNT_LIMIT)] = 1000,
        after: Annotated[int, Query(ge=-1, le=COUNT_LIMIT)] = -1,
    ) -> JSONResponse:
        await _existing(backend, optimization_id)
        found = await backend.store.read_async(backend.store.trials, optimization_id, after=after, limit=limit)
        return _success([trial.to_dict() for trial in found])

    @router.get("/optimizations/{optimization_id}/metrics")
    async def metrics(optimization_id: str) -> JSONResponse:
        await _existing(backend, optimization_id)
        return _success([one.to_dict() for one in await backend.get_optimization_metrics(optimization_id)])

    @router.get("/optimizations/{optimization_id}/transitions")
    async def transitions(optimization_id: str) -> JSONResponse:
        await _existing(backend, optimization_id)
        return _success(await backend.store.read_async(backend.store.transitions, optimization_id))

    @router.post("/optimizations/{optimization_id}/{action}")
    async def steer(optimization_id: str, action: str) -> JSONResponse:
        if action == "start":
            raise not_yet("starting one by a request (those that wait start by themselves)")
        actions = {
            "pause": backend.pause_optimization,
            "resume": backend.resume_optimization,
            "cancel": backend.cancel_optimization,
        }
        if action not in actions:
            raise OptimizationAPIError(f"no such action {action!r}; there are {', '.join(actions)}", 404)
        await _existing(backend, optimization_id)
        await actions[action](optimization_id)
        return _success((await _existing(backend, optimization_id)).to_dict())

    @router.get("/statistics")
    async def statistics() -> JSONResponse:
        return _success(await backend.get_global_statistics())

    @router.get("/statistics/trends")
    async def trends(days: float = 7.0) -> JSONResponse:
        return _success(await backend.get_performance_trends(_days(days)))

    @router.get("/statistics/rankings")
    async def rankings(metric_name: str, limit: int = 10) -> JSONResponse:
        return _success(await backend.get_optimization_rankings(metric_name, limit))

    @router.get("/alerts")
    async def alerts() -> JSONResponse:
        return _success({"items": [alert.to_dict() for alert in await backend.get_alerts()], "next_cursor": None})

    for method, path, what in _LATER:
        router.add_api_route(path, _later(what), methods=[method])

    @router.get("/health")
    async def health() -> JSONResponse:
        schema = await backend.store.read_async(backend.store.schema)  # whether it can be read, at any size
        return _success({"running": backend.is_running, "store": backend.store.name, "schema": schema})

    @router.get("/health/{optimization_id}")
    async def health_of(optimization_id: str) -> JSONResponse:
        await _existing(backend, optimization_id)
        report = await backend.get_optimization_health(optimization_id)
        return _success(report.to_dict() if report else None)

    return router


# The specification's routes that answer with what this release does not have.
_LATER = (
    ("POST", "/alerts/{alert_id}/resolve", "resolving an alert"),
    ("PUT", "/optimizations/{optimization_id}", "changing an optimization"),
    ("DELETE", "/optimizations/{optimization_id}", "deleting an optimization"),
)


def _later(what: str) -> Callable[[], Awaitable[JSONResponse]]:
    async def answer() -> JSONResponse:
        raise not_yet(what)

    return answer


def _days(days: float) -> timedelta:
    try:
        return timedelta(days=days)
    except (OverflowError, ValueError):
        raise OptimizationValidationError("days", f"{days} is not a number of days such as 7 or 0.5") from None


def code_of(error: Exception) -> int:
    """The HTTP status of an error."""
    for kind, code in _CODES:
        if isinstance(error, kind):
            return error.code if isinstance(error, OptimizationAPIError) else code
    return 500


_CODES: tuple[tuple[type[Exception], int], ...] = (
    (OptimizationAPIError, 400),
    (OptimizationConflictError, 409),
    (OptimizationValidationError, 422),
    (OptimizationStateError, 409),
    (NotYetAvailableError, 501),
    (OptimizationStoreError, 503),
)


async def _existing(backend: Backend, optimization_id: str) -> OptimizationState:
    # No id holds a NUL, and PostgreSQL cannot be asked for one.
    state = None if "\0" in optimization_id else await backend.get_optimization_status(optimization_id)
    if state is None:
        raise OptimizationAPIError(f"there is no optimization {optimization_id!r}", 404)
    return state


async def _answer_error(_request: Request, error: Exception) -> JSONResponse:
    if isinstance(error, HTTPException):
        hint = ": there is no such endpoint or method" if error.status_code in (404, 405) else ""
        return _error(f"{error.detail}{hint}", error.status_code)
    if isinstance(error, RequestValidationError):
        first = error.errors()[0]
        return _error(f"{'.'.join(map(str, first['loc']))}: {first['msg']}", 422)
    return _error(str(error), code_of(error))


async def _answer_unforeseen(request: Request, error: Exception) -> JSONResponse:
    logger.error("%s %s failed", request.method, request.url.path, exc_info=error)
    return _error(f"an error inside O9, which its log tells of: {type(error).__name__}", 500)


def _success(data: Any) -> JSONResponse:
    return JSONResponse({"success": True, "data": data, "timestamp": utc_now().isoformat(), "api_version": API_VERSION})


def _error(message: str, code: int) -> JSONResponse:
    told = message.encode(errors="backslashreplace").decode()  # what was asked may hold halves of characters
    return JSONResponse({"success": False, "error": told, "code": code}, status_code=code)


def as_json(data: Any) -> bytes:
    """`data` as a body. Raises OptimizationAPIError where JSON cannot hold it."""
    try:
        return json.dumps(data, allow_nan=False).encode()
    except (TypeError, ValueError) as error:
        raise OptimizationAPIError(f"data: JSON cannot hold it: {error}", 422) from error
