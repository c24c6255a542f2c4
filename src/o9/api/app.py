"""The application that serves both HTTP and `handle_api_request`.

Every request passes the gate, which checks that the aggregator runs, the rate limit, and the size of the body. HEAD is
answered like GET; the server omits the body.
"""

from __future__ import annotations

import inspect
import logging
import math
import time
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass
from typing import Annotated, Any

from fastapi import Body, FastAPI, Request
from fastapi.encoders import jsonable_encoder
from fastapi.exceptions import RequestValidationError
from fastapi.responses import HTMLResponse, JSONResponse
from jinja2 import Environment, PackageLoader
from limits import parse_many
from limits.storage import MemoryStorage
from limits.strategies import MovingWindowRateLimiter
from pydantic import JsonValue
from starlette.datastructures import Headers
from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect
from starlette.responses import Response
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from o9.api.answers import REFUSALS, answer_error, answer_http, answer_invalid, refusal, success
from o9.api.api import API_VERSION, NO_AGGREGATOR, PREFIX, QUERY_METHODS, ROOT, Handler
from o9.api.backend import Backend
from o9.api.routes import add_routes
from o9.model.errors import OptimizationAPIError, OptimizationError

logger = logging.getLogger(__name__)
BODY_LIMIT_BYTES = 1 << 20
TOO_LARGE = f"body: it is larger than {BODY_LIMIT_BYTES:,} bytes (1 MiB); keep large data in a file, and give its path"


def create_app(
    backend: Backend | None,
    *,
    rate_limit: RateLimit,
    on_answer: Callable[[dict[str, Any]], Awaitable[None]],
    handlers: Mapping[tuple[str, str], Handler],
) -> FastAPI:
    """Create the application over `backend`. None: without O9's own routes; requests for them get the reason.

    handlers: users' own, by method and path below the prefix; they override O9's routes.
    """
    app = FastAPI(
        title="O9", version=API_VERSION, redirect_slashes=False, docs_url=None, redoc_url=None,
        responses=REFUSALS,
    )  # fmt: skip
    app.state.is_running = lambda: backend is None or backend.is_running
    for (method, path), handler in handlers.items():
        app.add_api_route(f"{PREFIX}{path}", _route(handler), methods=[method], include_in_schema=False)
    if backend is not None:
        add_routes(app, backend)
    app.add_api_route("/docs", lambda: HTMLResponse(_reference(app.openapi())), include_in_schema=False)
    app.add_exception_handler(OptimizationError, answer_error)
    app.add_exception_handler(RequestValidationError, answer_invalid)
    app.add_exception_handler(HTTPException, _answer_without_aggregator if backend is None else answer_http)
    app.add_middleware(Gate, is_running=app.state.is_running, rate_limit=rate_limit, on_answer=on_answer)
    return app


def _route(handler: Handler) -> Callable[[Request], Any]:
    """Wrap a user's handler as an endpoint."""

    async def call(request: Request, body: Annotated[JsonValue, Body()] = None) -> JSONResponse:
        data = dict(request.query_params) if request.method in QUERY_METHODS else body
        answer = handler(data, **request.path_params)
        if inspect.isawaitable(answer):
            answer = await answer
        try:
            return success(jsonable_encoder(answer))
        except (ValueError, TypeError) as error:
            why = f"the result of the handler {getattr(handler, '__name__', handler)!s} is not JSON: {error}"
            remedy = "return text, finite numbers, booleans, None, lists and dicts of them (numpy: .item(), .tolist())"
            raise OptimizationAPIError(f"{request.url.path}: {why}; {remedy}", 500) from error

    return call


def _reference(document: Mapping[str, Any]) -> str:
    """Render the OpenAPI document as a page, which loads nothing from the network."""
    environment = Environment(loader=PackageLoader("o9.api"), autoescape=True, trim_blocks=True, lstrip_blocks=True)
    return environment.get_template("reference.html").render(document)


async def _answer_without_aggregator(request: Request, error: Exception) -> JSONResponse:
    if isinstance(error, HTTPException) and error.status_code == 404:
        return refusal(NO_AGGREGATOR, 503)
    return await answer_http(request, error)


class RateLimit:
    """One or several limits in the notation of the library `limits`, such as `10/second;1000/hour`; all of them apply.

    Requests are counted in this process, for each client, in a moving window. Refused requests do not count.
    """

    def __init__(self, text: str) -> None:
        self._limits = parse_many(text)
        self._storage = MemoryStorage()  # the limiter keeps only a weak reference to it in some releases
        self._limiter = MovingWindowRateLimiter(self._storage)

    def seconds_to_wait(self, client: str) -> int:
        """Count a request of `client`. Returns 0 if it is within the limits, else the seconds until the next try."""
        for each in self._limits:
            if not self._limiter.test(each, client):
                free_at = self._limiter.get_window_stats(each, client)[0]
                return max(1, math.ceil(free_at - time.time()))
        for each in self._limits:
            self._limiter.hit(each, client)
        return 0


@dataclass(frozen=True)
class Gate:
    """The ASGI middleware around the application.

    on_answer: awaited after every request, with its method, path, endpoint, client, code and seconds. `endpoint` is the
    route's path with its placeholders, or None if no route matched.
    """

    app: ASGIApp
    is_running: Callable[[], bool]
    rate_limit: RateLimit
    on_answer: Callable[[dict[str, Any]], Awaitable[None]]

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        began, code, size, method = time.monotonic(), 0, 0, scope["method"]
        if method == "HEAD":
            scope = {**scope, "method": "GET"}

        async def sending(message: Message) -> None:
            nonlocal code
            if message["type"] == "http.response.start":
                code = message["status"]
            await send(message)

        async def receiving() -> Message:
            nonlocal size
            message = await receive()
            size += len(message.get("body", b""))
            if size > BODY_LIMIT_BYTES:
                raise HTTPException(413, TOO_LARGE)
            return message

        try:
            await (self._refused(scope) or self.app)(scope, receiving, sending)
        except ClientDisconnect:
            return
        except Exception as error:
            logger.exception("%s %s failed", method, scope["path"])
            if code:
                raise
            message = f"an error inside O9, which is in the log: {type(error).__name__}"
            await refusal(message, 500)(scope, receive, sending)
        endpoint, seconds = getattr(scope.get("route"), "path", None), time.monotonic() - began
        entry = {"method": method, "path": scope["path"], "endpoint": endpoint, "client": _client(scope)}
        await self.on_answer(entry | {"code": code, "seconds": seconds})

    def _refused(self, scope: Scope) -> Response | None:
        if scope["path"] != ROOT and not scope["path"].startswith(f"{ROOT}/"):
            return None  # probes and documentation are always available
        if not self.is_running():
            return refusal("the aggregator is not running: call start() first", 503)
        wait = self.rate_limit.seconds_to_wait(_client(scope))
        if wait:
            message = f"over the rate limit: retry in {wait} s, or raise O9_API_RATE_LIMIT"
            return refusal(message, 429, {"Retry-After": str(wait)}, retry_after=wait)
        if int(Headers(scope=scope).get("content-length", 0)) > BODY_LIMIT_BYTES:
            return refusal(TOO_LARGE, 413)
        return None


def _client(scope: Scope) -> str:
    client: Any = scope.get("client")
    return str(client[0]) if client else ""
