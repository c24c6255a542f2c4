"""The API, over HTTP or in process, with the same routes and responses."""

from __future__ import annotations

import json
import logging
from collections import Counter
from collections.abc import Callable, Mapping
from datetime import datetime
from enum import Enum
from typing import TYPE_CHECKING, Any

import httpx

from o9.model.component import Component, Registered
from o9.model.errors import OptimizationAPIError, OptimizationValidationError
from o9.model.settings import checked_rate_limit, settings
from o9.model.validation import validate_json

if TYPE_CHECKING:
    from starlette.types import ASGIApp, Receive, Scope, Send

    from o9.api.app import RateLimit
    from o9.api.backend import Backend

logger = logging.getLogger(__name__)
VERSIONS = ("v1",)
API_VERSION = VERSIONS[-1]
ROOT = "/api"
PREFIX = f"{ROOT}/{API_VERSION}"
QUERY_METHODS = ("GET", "DELETE")
Handler = Callable[..., Any]
NO_AGGREGATOR = (
    "this API has no aggregator, so only your own handlers respond: use `aggregator.api`, or "
    "OptimizationAPI(backend=aggregator)"
)
METHODS = ("GET", "POST", "PUT", "PATCH", "DELETE")
PROBES = ("/healthz", "/readyz")


class OptimizationAPI(Component):
    """The API of an aggregator. It is also an ASGI application, which `o9 serve` serves.

    rate_limit: for each client; None takes O9_API_RATE_LIMIT. Without an aggregator only your own handlers respond, and
    all other requests get 503.

    Event: `request(entry)` after each request, with method, path, endpoint, client, code and seconds.
    """

    events = ("request",)

    def __init__(
        self, api_version: str = API_VERSION, *, backend: Backend | None = None, rate_limit: str | None = None
    ) -> None:
        super().__init__()
        if api_version not in VERSIONS:
            served = ", ".join(VERSIONS)
            raise OptimizationValidationError("api_version", f"{api_version!r} is not one of {served}")
        self.api_version = api_version
        self._backend = backend
        try:
            self._rate = settings().api_rate_limit if rate_limit is None else checked_rate_limit(rate_limit)
        except ValueError as error:
            raise OptimizationValidationError("rate_limit", str(error)) from None
        self._limit: RateLimit | None = None
        self._app: ASGIApp | None = None
        self._handlers: dict[tuple[str, str], Handler] = {}
        self._codes: Counter[int] = Counter()
        self._endpoints: Counter[str] = Counter()

    async def handle_api_request(
        self, endpoint: str, method: str, data: Any = None, client_id: str | None = None
    ) -> dict[str, Any]:
        """Handle one request, and return the response.

        endpoint: the path, with or without the prefix; it may include a query. data: the JSON body, or the query of GET
        and DELETE. client_id: the client whose rate limit counts; requests without one share a limit.
        """
        try:
            request = _build_request(endpoint, method, data)
        except OptimizationAPIError as error:
            return {"success": False, "error": str(error), "code": error.code}
        transport = httpx.ASGITransport(app=self, client=(f"client_id {client_id}" if client_id else "in process", 0))
        async with httpx.AsyncClient(transport=transport) as client:
            answered = await client.send(request)
        if answered.headers["content-type"].startswith("text/html"):
            from o9.api.answers import envelope  # imports FastAPI, which is loaded by now

            return envelope(answered.text)
        answer: dict[str, Any] = answered.json()
        return answer

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """ASGI."""
        await self._application()(scope, receive, send)

    def register_api_handler(self, endpoint: str, method: str, handler: Handler) -> Registered:
        """Let `handler` respond to `method` at `endpoint`, below the prefix; it overrides a route of O9's own.

        handler(data, **placeholders), sync or async: `data` is the JSON body, or the query of GET and DELETE as a dict.
        Its result is the response's `data`. An OptimizationAPIError that it raises sets the response's code. Raises
        OptimizationValidationError.
        """
        below = f"/{endpoint.strip('/')}/".removeprefix(f"{PREFIX}/").strip("/") if isinstance(endpoint, str) else ""
        if not below:
            raise OptimizationValidationError("endpoint", f"{endpoint!r} is not a path such as /desks/{{name}}")
        if not isinstance(method, str) or method.upper() not in METHODS:
            raise OptimizationValidationError("method", f"{method!r} is not one of {', '.join(METHODS)}")
        if not callable(handler):
            raise OptimizationValidationError("handler", f"{handler!r} is not callable")
        from starlette.routing import compile_path

        path = f"/{below}"
        try:
            placeholders = compile_path(path)[2]
        except (AssertionError, ValueError) as error:
            raise OptimizationValidationError("endpoint", f"{endpoint!r}: {error}") from error
        if "data" in placeholders:
            raise OptimizationValidationError("endpoint", f"{endpoint!r}: `data` is the body; rename {{data}}")
        self._handlers[method.upper(), path] = handler
        self._app = None  # rebuilt for the next request
        return Registered()

    def get_api_stats(self) -> dict[str, Any]:
        """The numbers of requests by status code and by endpoint, the rate limit, and your own handlers."""
        return {
            "api_version": self.api_version,
            "requests": sum(self._codes.values()),
            "by_code": dict(sorted(self._codes.items())),
            "by_endpoint": dict(sorted(self._endpoints.items())),
            "rate_limit": self._rate,
            "handlers": [f"{method} {path}" for method, path in self._handlers],
        }

    def _application(self) -> ASGIApp:
        if self._app is None:
            from o9.api.app import RateLimit, create_app  # imports FastAPI, which takes a third of a second

            self._limit = self._limit or RateLimit(self._rate)
            self._app = create_app(
                self._backend, rate_limit=self._limit, on_answer=self._count, handlers=self._handlers
            )
        return self._app

    async def _begin(self) -> None:
        if self._backend is None:
            logger.warning("%s", NO_AGGREGATOR)

    async def _count(self, entry: dict[str, Any]) -> None:
        self._codes[entry["code"]] += 1
        if entry["endpoint"] is not None:
            self._endpoints[f"{entry['method']} {entry['endpoint'].removeprefix(PREFIX)}"] += 1
        await self.emit("request", entry)


def _build_request(endpoint: Any, method: Any, data: Any) -> httpx.Request:
    """Build the request to the application. Raises OptimizationAPIError for invalid arguments."""
    for name, value in (("endpoint", endpoint), ("method", method)):
        if not isinstance(value, str):
            raise OptimizationAPIError(f"{name}: expected text, got {type(value).__name__}", 400)
    if method.upper() == "HEAD":  # its response would have no body
        raise OptimizationAPIError("method: HEAD is not supported; use GET", 405)
    path = f"/{endpoint.lstrip('/')}"
    where = path.partition("?")[0]
    if where not in (ROOT, *PROBES) and not where.startswith(f"{ROOT}/"):
        path = f"{PREFIX}{path}"
    if {".", ".."} & set(where.split("/")):
        raise OptimizationAPIError(f"endpoint: {endpoint!r} is outside of the API; remove . and ..", 404)
    reads = method.upper() in QUERY_METHODS
    if reads and data is not None and not isinstance(data, Mapping):
        raise OptimizationAPIError(f"data: expected names and values for the query, got {type(data).__name__}", 422)
    try:
        url = httpx.URL(f"http://o9.invalid{path}")
        if reads and data:
            given = {name: _query_value(value) for name, value in data.items() if value is not None}
            url = url.copy_merge_params(given)
        content = None if reads or data is None else _json_body(data)
        return httpx.Request(method.upper(), url, content=content, headers={"content-type": "application/json"})
    except (httpx.InvalidURL, UnicodeError) as error:
        raise OptimizationAPIError(f"endpoint: {endpoint!a} cannot be part of a URL: {error}", 400) from error


def _query_value(value: Any) -> Any:
    if isinstance(value, Enum):
        return value.value
    return value.isoformat() if isinstance(value, datetime) else value


def _json_body(data: Any) -> bytes:
    """Encode `data` as a body. Raises OptimizationAPIError if it is not JSON."""
    try:
        text = json.dumps(data, allow_nan=False, ensure_ascii=False)
        if json.loads(text) != data:  # json.dumps converts keys that are not strings
            validate_json("", {"data": data})
        return text.encode()
    except OptimizationValidationError as error:
        raise OptimizationAPIError(str(error), 422) from error
    except (TypeError, ValueError, RecursionError) as error:
        raise OptimizationAPIError(f"data: JSON cannot hold it: {error}", 422) from error
