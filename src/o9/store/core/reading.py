"""Reading rows as plain dicts, and pages with a `next_cursor` that a URL can carry."""

from __future__ import annotations

import base64
import binascii
import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, TypeVar

from sqlalchemy import Connection, Select

from o9.model.errors import OptimizationValidationError
from o9.model.fields import INTEGER_LIMITS
from o9.model.validation import validate_whole
from o9.store.core.unit import Row

Place = TypeVar("Place", str, int)
Item = TypeVar("Item")
PAGE_LIMIT = 1_000


def rows(connection: Connection, statement: Select[Any], values: Mapping[str, Any] | None = None) -> list[Row]:
    """Execute `statement` with the parameters `values`, and return its rows."""
    return [dict(row) for row in connection.execute(statement, values).mappings()]


def paged(read: Callable[[Any], Sequence[Item]], place: Callable[[Item], Any], start: Any = None) -> Iterator[Item]:
    """Yield the items of all pages: `read(start)`, then what follows the `place` of each page's last item."""
    while page := read(start):
        yield from page
        start = place(page[-1])


def page_size(limit: int) -> int:
    """Return `limit` if a page may have that many rows. Raises OptimizationValidationError."""
    return validate_whole("limit", limit, PAGE_LIMIT)


def write_cursor(*place: str | int) -> str:
    return base64.urlsafe_b64encode(json.dumps(place).encode()).decode()


def read_cursor(cursor: str, kind: type[Place], parts: int) -> tuple[Place, ...]:
    """Return what `write_cursor` was given: that many parts of one kind. Raises OptimizationValidationError."""
    try:
        place: Any = json.loads(base64.urlsafe_b64decode(cursor.encode()))
    except (ValueError, binascii.Error, RecursionError):
        place = None
    if not isinstance(place, list) or len(place) != parts or not all(_fits(part, kind) for part in place):
        raise OptimizationValidationError("cursor", "not a next_cursor of this list")
    return tuple(place)


def _fits(part: Any, kind: type[Place]) -> bool:
    """Whether `part` is of this kind, and every database can represent it."""
    if type(part) is not kind:
        return False
    if isinstance(part, str):
        return "\0" not in part
    return INTEGER_LIMITS[0] <= part <= INTEGER_LIMITS[1]
