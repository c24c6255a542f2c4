"""The form of every response, and the table from errors to HTTP codes.

A success is `{"success": true, "data", "timestamp", "api_version"}`, an error `{"success": false, "error", "code"}`
with the HTTP status as `code`. A report is an HTML page, which is the `data` in process. An error over the rate limit
has `retry_after`; one for an unknown version, `versions`.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterable, Mapping, Sequence
from datetime import datetime
from typing import Any, Generic, Literal, TypeVar

from fastapi import Request
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse
from pydantic import BaseModel, ConfigDict
from starlette.exceptions import HTTPException
from starlette.routing import Match

from o9.api.api import API_VERSION, ROOT, VERSIONS
from o9.model.errors import (
    Faults,
    OptimizationAPIError,
    OptimizationConflictError,
    OptimizationLifecycleError,
    OptimizationNotFoundError,
    OptimizationStateError,
    OptimizationStoreError,
    OptimizationStrategyError,
    OptimizationValidationError,
)
from o9.model.faults import refusal_of
from o9.model.optimization import utc_now
from o9.store.core.reading import write_cursor

logger = logging.getLogger(__name__)
T = TypeVar("T")


class Success(BaseModel, Generic[T]):
    """The response to a request that succeeded."""

    success: Literal[True]
    data: T
    timestamp: datetime
    api_version: str


class Page(BaseModel, Generic[T]):
    """One page of a list. `next_cursor` is the `cursor` of the next page; null on the last one."""

    items: list[T]
    next_cursor: str | None


class Refusal(BaseModel):
    """Why a request failed, and what to do."""

    model_config = ConfigDict(extra="forbid")

    success: Literal[False]
    error: str
    code: int
    retry_after: int | None = None
    versions: list[str] | None = None


_RETRY_AFTER = {"Retry-After": {"description": "Seconds.", "schema": {"type": "integer"}}}
# For the OpenAPI document: the errors of any request.
REFUSALS: dict[int | str, dict[str, Any]] = {
    400: {"model": Refusal, "description": "Malformed."},
    403: {"model": Refusal, "description": "Sent by a page of another site, or to another host name."},
    404: {"model": Refusal, "description": "Not found."},
    409: {"model": Refusal, "description": "The present state, or a record with the same id, forbids it."},
    413: {"model": Refusal, "description": "The body is larger than 1 MiB."},
    422: {"model": Refusal, "description": "A field is invalid; the error names it."},
    429: {"model": Refusal, "description": "Over the rate limit.", "headers": _RETRY_AFTER},
    503: {"model": Refusal, "description": "The aggregator is not running, or the store is unavailable."},
}


def envelope(data: Any, **more: Any) -> dict[str, Any]:
    return {"success": True, "data": data, "timestamp": utc_now().isoformat(), "api_version": API_VERSION} | more


def success(data: Any, headers: dict[str, str] | None = None, **more: Any) -> JSONResponse:
    return JSONResponse(envelope(data, **more), headers=headers)


def page(items: Iterable[Any], next_cursor: str | None) -> JSONResponse:
    return success({"items": [*items], "next_cursor": next_cursor})


def keyset_page(
    found: Sequence[T], limit: int, shown: Callable[[T], Any], *place: Callable[[T], str | int]
) -> JSONResponse:
    """A page of the first `limit` of `found`, which has one more if another page follows. place: the cursor's parts."""
    items = found[:limit]
    cursor = write_cursor(*(part(items[-1]) for part in place)) if len(found) > limit else None
    return page(map(shown, items), cursor)


def refusal(message: str, code: int, headers: Mapping[str, str] | None = None, **more: Any) -> JSONResponse:
    shown = message.encode(errors="backslashreplace").decode()  # a request may contain unpaired surrogates
    return JSONResponse({"success": False, "error": shown, "code": code} | more, status_code=code, headers=headers)


def code_of(error: Exception) -> int:
    """The HTTP status of an error."""
    for kind, code in _CODES:
        if isinstance(error, kind):
            return error.code if isinstance(error, OptimizationAPIError) else code
    return 500


_CODES: tuple[tuple[type[Exception], int], ...] = (
    (OptimizationAPIError, 400),
    (OptimizationNotFoundError, 404),
    (OptimizationConflictError, 409),
    (OptimizationValidationError, 422),
    (OptimizationStrategyError, 422),
    (OptimizationStateError, 409),
    (OptimizationLifecycleError, 409),
    (OptimizationStoreError, 503),
)


async def answer_error(request: Request, error: Exception) -> JSONResponse:
    code = code_of(error)
    if code == 500 and not request.app.state.is_running():  # it was stopped meanwhile
        code = 503
    elif code == 500:
        logger.error("%s %s failed", request.method, request.url.path, exc_info=error)
    return refusal(str(error), code)


async def answer_invalid(request: Request, error: Exception) -> JSONResponse:
    """The response to an invalid query or body, as FastAPI found it."""
    assert isinstance(error, RequestValidationError)
    dependant, faults = request.scope["route"].dependant, Faults()
    for where, parameters, data in (
        ("query", dependant.query_params, dict(request.query_params)),
        ("body", dependant.body_params, error.body),
    ):
        details: Any = [each | {"loc": each["loc"][1:]} for each in error.errors() if each["loc"][0] == where]
        if where == "body" and details and details[0]["type"] == "json_invalid":
            return refusal(f"body: not valid JSON: {details[0]['ctx']['error']}; correct it", 400)
        if where == "body" and details and "json" not in request.headers.get("content-type", "") and data is not None:
            return refusal("body: send it as JSON, with the header Content-Type: application/json", 422)
        if details:
            for fault in refusal_of(details, parameters[0].field_info.annotation, data).faults:
                faults.add(OptimizationValidationError(fault.field or where, fault.problem))
    return refusal(str(faults.refusal()), 422)


async def answer_http(request: Request, error: Exception) -> JSONResponse:
    """The response to Starlette's own errors: an unknown path or method, or a body that cannot be read."""
    assert isinstance(error, HTTPException)
    path = request.url.path
    for cause, problem in _UNREADABLE:
        if error.status_code == 400 and isinstance(error.__cause__, cause):
            return refusal(f"body: {problem}", 400)
    if error.status_code not in (404, 405):
        return refusal(str(error.detail), error.status_code)
    version = path.removeprefix(f"{ROOT}/").partition("/")[0]
    if path.startswith(f"{ROOT}/") and version not in VERSIONS:
        served = ", ".join(VERSIONS)
        return refusal(f"{version!r} is not a version of this API; use {served}", 404, versions=[*VERSIONS])
    message = f"{request.method} {path}: there is no such endpoint or method; /docs lists them"
    allowed = ", ".join(sorted(_methods_of(request)))
    return refusal(message, error.status_code, {"Allow": allowed} if allowed else None)


# The body's errors that FastAPI passes on as the cause of an HTTPException.
_UNREADABLE: tuple[tuple[type[Exception], str], ...] = (
    (UnicodeDecodeError, "not valid UTF-8; encode it as UTF-8"),
    (RecursionError, "it is nested too deeply; flatten it, or keep the data in a file"),
    (ValueError, "it contains an integer with too many digits; give a smaller number"),
)


def _methods_of(request: Request) -> set[str]:
    """All methods of the path; Starlette names only those of the first route."""
    scope = dict(request.scope)
    fitting = (route for route in request.app.routes if route.matches(scope)[0] is not Match.NONE)
    return {method for route in fitting for method in getattr(route, "methods", None) or ()}
