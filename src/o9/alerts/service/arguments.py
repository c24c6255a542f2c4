"""What callers of the alert system give it, checked: each function answers with what is meant. Pure.

Contract. Raises OptimizationValidationError, which names the argument and the remedy, for whatever it is given.
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

LONGEST_TIMEOUT = timedelta(days=3660)


def text(field: str, value: Any) -> str:
    """Words for people: what a store cannot hold of them it replaces."""
    if not isinstance(value, str):
        raise OptimizationValidationError(field, f"expected text, got {type(value).__name__}")
    return value


def exact(field: str, value: Any) -> str:
    """Words that something is found by."""
    if free_text(text(field, value)) != value:
        raise OptimizationValidationError(
            field, f"{value!r:.80} holds a character that nothing stored has, NUL or half of a pair; take that out"
        )
    return str(value)


def timeout(value: Any) -> timedelta | None:
    """None: until it is resolved."""
    if value is None:
        return None
    if not isinstance(value, timedelta):
        raise OptimizationValidationError(
            "resolve_timeout", f"expected a timedelta or None, got {type(value).__name__}; timedelta(minutes=5), say"
        )
    if not timedelta(0) < value <= LONGEST_TIMEOUT:
        raise OptimizationValidationError(
            "resolve_timeout",
            f"{value} is not above 0 and at most {LONGEST_TIMEOUT.days:,} days; None is until it is resolved",
        )
    return value


def span(value: Any) -> timedelta:
    """How long a silence stands: a timedelta, or seconds."""
    if isinstance(value, bool) or not isinstance(value, (int, float, timedelta)):
        raise OptimizationValidationError("duration", f"{value!r:.80} is neither a timedelta nor seconds")
    seconds = value.total_seconds() if isinstance(value, timedelta) else value
    if not 0 < seconds <= LONGEST.total_seconds():
        raise OptimizationValidationError(
            "duration", f"{value!r:.80} is not above 0 and at most {LONGEST.days:,} days; change the rule instead"
        )
    return timedelta(seconds=seconds)


def instant(field: str, value: Any) -> datetime:
    """In UTC; without a zone it is local time."""
    if not isinstance(value, datetime):
        raise OptimizationValidationError(field, f"expected a datetime, got {type(value).__name__}")
    try:
        return as_utc(value)
    except (OverflowError, ValueError):
        raise OptimizationValidationError(field, f"{value} cannot be expressed in UTC; give another") from None


def matchers(value: Any) -> Matchers:
    """None where there is no text."""
    return parse(value) if exact("matchers", value) else ()


def behind(alert: Any) -> tuple[str, str] | None:
    """The place in a list that an alert has."""
    if alert is None:
        return None
    if not isinstance(alert, OptimizationAlert):
        raise OptimizationValidationError(
            "before", f"expected an OptimizationAlert of the page before, got {type(alert).__name__}"
        )
    return moment(instant("before.timestamp", alert.timestamp)), exact("before.alert_id", alert.alert_id)


def alerts(value: Any) -> Sequence[Any]:
    """Several; each is checked when it is taken."""
    if isinstance(value, (str, bytes, Mapping)) or not isinstance(value, Iterable):
        raise OptimizationValidationError("alerts", f"expected a list of OptimizationAlert, got {type(value).__name__}")
    return value if isinstance(value, Sequence) else list(value)


def channels(value: Any) -> Mapping[str, Any]:
    if value is None:
        return {}
    if not isinstance(value, Mapping):
        raise OptimizationValidationError(
            "notification_channels", f"expected a mapping of names to channels, got {type(value).__name__}"
        )
    return value


def path(field: str, value: Any) -> str | None:
    if value is None or isinstance(value, str):
        return value or None
    if not isinstance(value, PathLike) or not isinstance(found := value.__fspath__(), str):
        raise OptimizationValidationError(field, f"expected a path, got {type(value).__name__}")
    return found
