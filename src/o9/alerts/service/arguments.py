"""What callers of the alert system give it, checked. Pure.

Contract. Each function returns what is meant, or raises OptimizationValidationError, which names the argument and the
remedy, for whatever it is given.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from datetime import datetime, timedelta
from os import PathLike
from typing import Any

from o9.alerts.pipeline.matchers import Matchers, parse
from o9.alerts.pipeline.silences import LONGEST
from o9.model.errors import OptimizationValidationError
from o9.model.optimization import OptimizationAlert, as_utc
from o9.store.core.column_types import free_text, moment


def text(field: str, value: Any) -> str:
    """Words for people; the store replaces characters that it cannot hold."""
    if not isinstance(value, str):
        raise _unexpected(field, "text", value)
    return value


def exact(field: str, value: Any) -> str:
    """A text that something is found by."""
    if free_text(text(field, value)) != value:
        raise OptimizationValidationError(
            field, f"{value!r:.80} holds a character that nothing stored has, NUL or half of a pair; take that out"
        )
    return str(value)


def span(field: str, value: Any) -> timedelta:
    """A timedelta or seconds, above 0."""
    if isinstance(value, bool) or not isinstance(value, (int, float, timedelta)):
        raise _unexpected(field, "a timedelta, such as timedelta(minutes=5), or seconds", value)
    seconds = value.total_seconds() if isinstance(value, timedelta) else value
    if not 0 < seconds <= LONGEST.total_seconds():
        raise OptimizationValidationError(field, f"{value!r:.80} is not above 0 and at most {LONGEST.days:,} days")
    return timedelta(seconds=seconds)


def instant(field: str, value: Any) -> datetime:
    """In UTC; without a zone it is local time."""
    if not isinstance(value, datetime):
        raise _unexpected(field, "a datetime", value)
    try:
        return as_utc(value)
    except (OverflowError, ValueError):
        raise OptimizationValidationError(field, f"{value} cannot be expressed in UTC; give another") from None


def matchers(value: Any) -> Matchers:
    """Of an empty text none."""
    return parse(value) if exact("matchers", value) else ()


def cursor(alert: Any) -> tuple[str, str] | None:
    """The place in a list that an alert has."""
    if alert is None:
        return None
    if not isinstance(alert, OptimizationAlert):
        raise _unexpected("before", "an OptimizationAlert of the page before", alert)
    return moment(instant("before.timestamp", alert.timestamp)), exact("before.alert_id", alert.alert_id)


def alerts(value: Any) -> Sequence[Any]:
    """Several; each is checked when it is recorded."""
    if isinstance(value, (str, bytes, Mapping)) or not isinstance(value, Iterable):
        raise _unexpected("alerts", "a list of OptimizationAlert", value)
    return value if isinstance(value, Sequence) else list(value)


def channels(value: Any) -> Mapping[str, Any]:
    if value is not None and not isinstance(value, Mapping):
        raise _unexpected("notification_channels", "a mapping of names to channels", value)
    return value or {}


def path(field: str, value: Any) -> str | None:
    found = value.__fspath__() if isinstance(value, PathLike) else value
    if found is not None and not isinstance(found, str):
        raise _unexpected(field, "a path", value)
    return found or None


def _unexpected(field: str, expected: str, value: Any) -> OptimizationValidationError:
    return OptimizationValidationError(field, f"expected {expected}, got {type(value).__name__}")
