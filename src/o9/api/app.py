"""The application: the routes, once, for HTTP and for `handle_api_request`, which asks them without a network."""

from __future__ import annotations

import inspect
from collections.abc import Awaitable, Callable, Mapping
from typing import Annotated, Any

from fastapi import Body, FastAPI, Request
from fastapi.encoders import jsonable_encoder
from fastapi.exceptions import RequestValidationError
from fastapi.responses import HTMLResponse, JSONResponse
from jinja2 import Environment, PackageLoader
from pydantic import JsonValue
from starlette.exceptions import HTTPException

from o9.api.answers import REFUSALS, answer_error, answer_http, answer_invalid, refusal, success
from o9.api.backend import Backend
from o9.api.gate import Gate, RateLimit
from o9.api.optimization_routes import add_optimization_routes
from o9.api.other_routes import add_other_routes
from o9.api.versions import ALONE, API_VERSION, PREFIX, READING, Handler
from o9.model.errors import OptimizationAPIError, OptimizationError


def create_app(
    backend: Backend | None,
    *,
    rate_limit: RateLimit,
    answered: Callable[[dict[str, Any]], Awaitable[None]],
    handlers: Mapping[tuple[str, str], Handler],
) -> FastAPI:
    """The application over `backend`; None: without O9's own routes, of which a request learns why.

    `handlers`, by method and path below the prefix, come before O9's own routes.
    """
    app = FastAPI(
        title="O9", version=API_VERSION, redirect_slashes=False, docs_url=None, redoc_url=None,
        responses=REFUSALS,
    )  # fmt: skip
    app.state.is_running = lambda: backend is None or backend.is_running
    for (method, path), handler in handlers.items():
        app.add_api_route(f"{PREFIX}{path}", _route(handler), methods=[method], include_in_schema=False)
    if backend is not None:
        add_optimization_routes(app, backend)
        add_other_routes(app, backend)
    app.add_api_route("/docs", lambda: HTMLResponse(_reference(app.openapi())), include_in_schema=False)
    app.add_exception_handler(OptimizationError, answer_error)
    app.add_exception_handler(RequestValidationError, answer_invalid)
    app.add_exception_handler(HTTPException, _answer_alone if backend is None else answer_http)
    app.add_middleware(Gate, is_running=app.state.is_running, rate_limit=rate_limit, answered=answered)
    return app


def _route(handler: Handler) -> Callable[[Request], Any]:
    """A user's handler as an endpoint."""

    async def call(request: Request, body: Annotated[JsonValue, Body()] = None) -> JSONResponse:
        data = dict(request.query_params) if request.method in READING else body
        answer = handler(data, **request.path_params)
        if inspect.isawaitable(answer):
            answer = await answer
        try:
            return success(jsonable_encoder(answer))
        except (ValueError, TypeError) as error:
            why = f"the answer of its handler {getattr(handler, '__name__', handler)!s} is no JSON: {error}"
            remedy = "answer text, finite numbers, booleans, None, lists and dicts of them (numpy: .item(), .tolist())"
            raise OptimizationAPIError(f"{request.url.path}: {why}; {remedy}", 500) from error

    return call


def _reference(document: Mapping[str, Any]) -> str:
    """Every route for people to read, from the OpenAPI document. The page loads nothing from elsewhere."""
    environment = Environment(loader=PackageLoader("o9.api"), autoescape=True, trim_blocks=True, lstrip_blocks=True)
    return environment.get_template("reference.html").render(document)


async def _answer_alone(request: Request, error: Exception) -> JSONResponse:
    if isinstance(error, HTTPException) and error.status_code == 404:
        return refusal(ALONE, 503)
    return await answer_http(request, error)
