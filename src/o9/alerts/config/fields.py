"""Pydantic types of fields in alert files: durations, levels, names, one text or several. Pure.

Contract. Each accepts the YAML reader's values and raises ValueError with the remedy.
"""

from __future__ import annotations

import re
from collections.abc import Collection
from datetime import timedelta
from typing import Annotated, Any, TypeVar

from pydantic import AfterValidator, BeforeValidator, PlainValidator

from o9.model.faults import shown
from o9.model.states import AlertLevel
from o9.text.suggest import suggestion

TEXT_LIMIT = 20_000
NAME_LIMIT = 200
LONGEST = timedelta(days=3660)
T = TypeVar("T")


def span_of(text: str, *, zero: bool = False) -> timedelta:
    """Parse a duration such as ``30s``, ``5m``, ``1h30m``, ``2d`` or ``500ms``. Raises ValueError."""
    found = _SPAN.fullmatch(text)
    if not text or (found is None and text != "0"):
        unit = "; it needs a unit" if text.isdigit() else ""
        raise ValueError(f"{text!r:.80} is not a duration{unit}; write it as 30s, 5m, 1h30m or 2d")
    counts = {unit: int(count) for unit, count in (found.groupdict() if found else {}).items() if count}
    days = counts.pop("days", 0) + 365 * counts.pop("years", 0)
    try:
        span = timedelta(days, **counts)
    except OverflowError:
        span = timedelta.max
    if span > LONGEST:
        raise ValueError(f"{text!r:.80} is longer than {LONGEST.days:,} days")
    if not span and not zero:
        raise ValueError("must be greater than 0")
    return span


def level_of(text: str) -> AlertLevel:
    """Parse a level in any case. Raises ValueError with a suggestion."""
    return AlertLevel(one_of(text.lower(), [level.value for level in AlertLevel], "level"))


def one_of(text: str, known: Collection[str], kind: str) -> str:
    """Return `text` if it is one of `known`. Raises ValueError with a suggestion."""
    if text not in known:
        raise ValueError(f"no {kind} is called {text!r:.80}{suggestion(text, known)}")
    return text


def as_text(value: Any) -> str:
    """Return a text, or a number as text. Raises ValueError for anything else."""
    if isinstance(value, (int, float)) and not isinstance(value, bool):
        return str(value)
    if not isinstance(value, str):
        quotes = "; put text that begins with { or [ in quotes" if isinstance(value, (dict, list)) else ""
        raise ValueError(f"expected text, got {shown(value)}{quotes}")
    if len(value) > TEXT_LIMIT:
        raise ValueError(f"{len(value):,} characters; at most {TEXT_LIMIT:,} are allowed")
    return value


def _name(text: str) -> str:
    if not text.strip() or not text.isprintable() or len(text) > NAME_LIMIT:
        raise ValueError(f"a name must be printable text of 1 to {NAME_LIMIT} characters")
    return text


def _span(value: Any, *, zero: bool = False) -> timedelta:
    return value if isinstance(value, timedelta) else span_of(as_text(value), zero=zero)


def _listed(value: Any) -> Any:
    return value if isinstance(value, (list, tuple)) else [value]


Words = Annotated[str, BeforeValidator(as_text)]
"""A text, or a number as text."""
PlainName = Annotated[str, AfterValidator(_name)]
Name = Annotated[Words, AfterValidator(_name)]
Span = Annotated[timedelta, PlainValidator(_span)]
SpanOrZero = Annotated[timedelta, PlainValidator(lambda value: _span(value, zero=True))]
Level = Annotated[AlertLevel, PlainValidator(lambda value: level_of(as_text(value)))]
Several = Annotated[tuple[T, ...], BeforeValidator(_listed)]
"""A list, or a single item."""

_SPAN = re.compile(
    r"(?:(?P<years>\d{1,9})y)?(?:(?P<weeks>\d{1,9})w)?(?:(?P<days>\d{1,9})d)?(?:(?P<hours>\d{1,9})h)?"
    r"(?:(?P<minutes>\d{1,9})m)?(?:(?P<seconds>\d{1,9})s)?(?:(?P<milliseconds>\d{1,9})ms)?",
    re.ASCII,
)
