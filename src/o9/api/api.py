"""Requests without a network: the same routes, the same answers."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from typing import Any

import httpx

from o9.api.app import API_VERSION, PREFIX, Backend, as_json, create_app
from o9.model.component import Component, Registered, not_yet
from o9.model.errors import OptimizationAPIError, OptimizationValidationError


class OptimizationAPI(Component):
    """Bound to an aggregator, which answers; alone, every request is answered with 503."""

    def __init__(self, api_version: str = API_VERSION, *, backend: Backend | None = None) -> None:
        super().__init__()
        if api_version != API_VERSION:
            raise OptimizationValidationError("api_version", f"{api_version!r} is not served; there is {API_VERSION!r}")
        self._app = create_app(backend) if backend is not None else None
        self._answers: Counter[int] = Counter()

    async def handle_api_request(
        self, endpoint: str, method: str, data: Any = None, client_id: str | None = None
    ) -> dict[str, Any]:
        """Answer one request. `endpoint` with or without the prefix; `data` is the JSON body, or a GET's query."""
        if self._app is None:
            return _refusal(OptimizationAPIError("this API is not bound to a running aggregator", 503))
        try:
            request = _request(endpoint, method, data)
        except OptimizationAPIError as error:
            return _refusal(error)
        # What a route raises unforeseen is answered, and logged, by the application itself.
        transport = httpx.ASGITransport(app=self._app, raise_app_exceptions=False)
        async with httpx.AsyncClient(transport=transport) as client:
            response = await client.send(request)
        self._answers[response.status_code] += 1
        answer: dict[str, Any] = response.json()
        return answer

    def register_api_handler(self, endpoint: str, method: str, handler: Any) -> Registered:
        raise not_yet("an API handler of one's own")

    def get_api_stats(self) -> dict[str, Any]:
        """How many requests were answered, by status code."""
        return {"requests": sum(self._answers.values()), "by_code": dict(sorted(self._answers.items()))}


def _request(endpoint: Any, method: Any, data: Any) -> httpx.Request:
    """The request to the application. Raises OptimizationAPIError where what was given makes none."""
    for name, value in (("endpoint", endpoint), ("method", method)):
        if not isinstance(value, str):
            raise OptimizationAPIError(f"{name}: expected text, got {type(value).__name__}", 400)
    path = endpoint if endpoint.startswith(PREFIX) else f"{PREFIX}/{endpoint.lstrip('/')}"
    if {".", ".."} & set(path.partition("?")[0].split("/")):
        raise OptimizationAPIError(f"endpoint: {endpoint!r} leads out of the API; there is no such endpoint", 404)
    reads = method.upper() in ("GET", "DELETE")
    if reads and data is not None and not isinstance(data, Mapping):
        raise OptimizationAPIError(f"data: expected names and values for the query, got {type(data).__name__}", 422)
    try:
        return httpx.Request(
            method.upper(),
            f"http://o9.invalid{path}",
            params=data if reads else None,
            content=None if reads or data is None else as_json(data),
            headers={"content-type": "application/json"},
        )
    except (httpx.InvalidURL, UnicodeError) as error:
        raise OptimizationAPIError(f"endpoint: {endpoint!a} cannot be part of a URL: {error}", 400) from error


def _refusal(error: OptimizationAPIError) -> dict[str, Any]:
    return {"success": False, "error": str(error), "code": error.code}
