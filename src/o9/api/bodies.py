"""Bodies of requests: JSON in which each field is given once. FastAPI's own errors would not name the cause."""

from __future__ import annotations

import json
from collections.abc import Callable, Coroutine
from typing import Any

from fastapi import HTTPException, Request, Response
from fastapi.routing import APIRoute
from pydantic import BaseModel, GetJsonSchemaHandler
from pydantic.json_schema import JsonSchemaValue
from pydantic_core import CoreSchema

from o9.api.parameters import refuse_repeated
from o9.model.errors import OptimizationValidationError

Handle = Callable[[Request], Coroutine[Any, Any, Response]]


class ReadRoute(APIRoute):
    """A route that reads its body by `parsed`."""

    def get_route_handler(self) -> Handle:
        handle = super().get_route_handler()

        async def read(request: Request) -> Response:
            return await handle(_Request(request.scope, request.receive))

        return read


class _Request(Request):
    async def json(self) -> Any:
        return parsed(await self.body())


class DescribedBy:
    """A body that the route checks by itself; the OpenAPI document shows it as this model."""

    def __init__(self, model: type[BaseModel]) -> None:
        self._model = model

    def __get_pydantic_json_schema__(self, schema: CoreSchema, handler: GetJsonSchemaHandler) -> JsonSchemaValue:
        return handler(self._model.__pydantic_core_schema__)


def parsed(body: bytes) -> Any:
    """The body's JSON; None for an empty one. Raises HTTPException for other bodies, and a field given twice."""
    try:
        return json.loads(body, object_pairs_hook=_each_once) if body else None
    except (ValueError, RecursionError) as error:  # not UTF-8, an integer of thousands of digits, nested too deep
        raise HTTPException(400, f"body: it is no JSON: {error}") from error


def _each_once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    try:
        refuse_repeated([name for name, _ in pairs])
    except OptimizationValidationError as error:
        raise HTTPException(422, str(error)) from error
    return dict(pairs)
