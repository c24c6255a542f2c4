"""Requests without a network: the same routes, the same answers."""

from __future__ import annotations

from collections import Counter
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
            return {"success": False, "error": "this API is not bound to a running aggregator", "code": 503}
        path = endpoint if endpoint.startswith(PREFIX) else f"{PREFIX}/{endpoint.lstrip('/')}"
        reads = method.upper() in ("GET", "DELETE")
        try:
            body = None if reads or data is None else as_json(data)
        except OptimizationAPIError as error:
            return {"success": False, "error": str(error), "code": error.code}
        async with httpx.AsyncClient(
            transport=httpx.ASGITransport(app=self._app), base_url="http://o9.invalid"
        ) as client:
            response = await client.request(
                method.upper(),
                path,
                params=data if reads else None,
                content=body,
                headers={"content-type": "application/json"},
            )
        self._answers[response.status_code] += 1
        answer: dict[str, Any] = response.json()
        return answer

    def register_api_handler(self, endpoint: str, method: str, handler: Any) -> Registered:
        raise not_yet("an API handler of one's own")

    def get_api_stats(self) -> dict[str, Any]:
        """How many requests were answered, by status code."""
        return {"requests": sum(self._answers.values()), "by_code": dict(sorted(self._answers.items()))}
