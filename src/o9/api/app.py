"""The application: the routes, once, for HTTP and for `handle_api_request`, which asks them without a network.

Every request passes its gate: whether the aggregator runs, the rate limit, the body's size.
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
from o9.api.api import ALONE, API_VERSION, PREFIX, READING, ROOT, Handler
from o9.api.backend import Backend
from o9.api.routes import add_routes
from o9.model.errors import OptimizationAPIError, OptimizationError

logger = logging.getLogger(__name__)
BODY_LIMIT_BYTES = 1 << 20
TOO_LARGE = f"body: it is larger than {BODY_LIMIT_BYTES:,} bytes (1 MiB); keep large data in a file, and name that"


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
        add_routes(app, backend)
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


class RateLimit:
    """`text` in the notation of the library `limits`, such as `100/minute` or `10/second;1000/hour`, which all apply.

    Counted in this process, for each client apart, in a moving window. Refused requests do not count.
    """

    def __init__(self, text: str) -> None:
        self._limits = parse_many(text)
        self._storage = MemoryStorage()  # the limiter keeps only a weak reference to it in some releases
        self._limiter = MovingWindowRateLimiter(self._storage)

    def seconds_to_wait(self, client: str) -> int:
        """Count a request of `client`; 0 where it is within the limits, else when to send it again."""
        for each in self._limits:
            if not self._limiter.test(each, client):
                free_at = self._limiter.get_window_stats(each, client)[0]
                return max(1, math.ceil(free_at - time.time()))
        for each in self._limits:
            self._limiter.hit(each, client)
        return 0


@dataclass(frozen=True)
class Gate:
    """ASGI around the application.

    answered: awaited after every request, with its method, path, endpoint, client, code and seconds. `endpoint` is the
    route's path, with its placeholders; None where none matched.
    """

    app: ASGIApp
    is_running: Callable[[], bool]
    rate_limit: RateLimit
    answered: Callable[[dict[str, Any]], Awaitable[None]]

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        began, code, size = time.monotonic(), 0, 0

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
            logger.exception("%s %s failed", scope["method"], scope["path"])
            if code:
                raise
            message = f"an error inside O9, which its log has: {type(error).__name__}"
            await refusal(message, 500)(scope, receive, sending)
        endpoint, seconds = getattr(scope.get("route"), "path", None), time.monotonic() - began
        entry = {"method": scope["method"], "path": scope["path"], "endpoint": endpoint, "client": _client(scope)}
        await self.answered(entry | {"code": code, "seconds": seconds})

    def _refused(self, scope: Scope) -> Response | None:
        if scope["path"] != ROOT and not scope["path"].startswith(f"{ROOT}/"):
            return None  # probes and documentation are always answered
        if not self.is_running():
            return refusal("the aggregator is not running: call start() first", 503)
        wait = self.rate_limit.seconds_to_wait(_client(scope))
        if wait:
            message = f"over the rate limit: send it again in {wait} s, or raise O9_API_RATE_LIMIT"
            return refusal(message, 429, {"Retry-After": str(wait)}, retry_after=wait)
        if int(Headers(scope=scope).get("content-length", 0)) > BODY_LIMIT_BYTES:
            return refusal(TOO_LARGE, 413)
        return None


def _client(scope: Scope) -> str:
    client: Any = scope.get("client")
    return str(client[0]) if client else ""
