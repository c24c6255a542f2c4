"""The types of an optimization's fields, with their limits: the one place that says what each may hold.

The data classes, `OptimizationSpec` and the API's schemas are made of them. They convert nothing: what passes is stored
and read back as it was, with tuples as lists. Refusals name the remedy (`o9.model.faults`).
"""

from __future__ import annotations

import json
import math
import re
from collections.abc import Callable
from datetime import datetime
from typing import Annotated, Any

from pydantic import AfterValidator, BeforeValidator, Field, Strict

from o9.model.errors import OptimizationValidationError
from o9.model.faults import Number, Text, Whole, kind_of, remedy_for, shown

ID_LIMIT = 200
NAME_LIMIT = 500
TITLE_LIMIT = 1_000
STEP_LIMIT = 1_000
DESCRIPTION_LIMIT = 10_000
JSON_LIMIT_BYTES = 1 << 20
NESTING_LIMIT = 64
COUNT_LIMIT = 2**31 - 1  # PostgreSQL's integer
INTEGER_LIMITS = (-(2**63), 2**63 - 1)

_CONTROL = re.compile("[\x00-\x1f\x7f-\x9f\ud800-\udfff]")
_CONTROL_BUT_LINES = re.compile("[\x00-\x08\x0b\x0c\x0e-\x1f\x7f-\x9f\ud800-\udfff]")
_NOT_IN_JSON = re.compile("[\x00\ud800-\udfff]")


def _without(forbidden: re.Pattern[str]) -> Callable[[str], str]:
    def check(text: str) -> str:
        if found := forbidden.search(text):
            raise ValueError(f"it holds {_named(found[0])}; take that out")
        return text

    return check


def _named(character: str) -> str:
    if "\ud800" <= character <= "\udfff":
        return f"half a character (the surrogate U+{ord(character):04X})"
    return f"the control character U+{ord(character):04X}"


def not_blank(text: str) -> str:
    """`text`; raises ValueError where there is nothing but blanks."""
    if not text.strip():
        raise ValueError("it is empty; give a text that is not only blanks")
    return text


def _in_a_path(text: str) -> str:
    if text != text.strip():
        raise ValueError(f"{text!r} begins or ends with a blank; take that out")
    if "/" in text or text in (".", ".."):
        raise ValueError(f"{text!r} cannot be part of a URL's path; use '-' instead of '/'")
    return text


def _in_utc(at: datetime) -> datetime:
    try:
        at.astimezone()
    except (OverflowError, ValueError):
        raise ValueError(f"{at} cannot be expressed in UTC; give a later one") from None
    return at


def _whole_bits(value: Any) -> Any:
    if isinstance(value, int) and not INTEGER_LIMITS[0] <= value <= INTEGER_LIMITS[1]:
        raise ValueError(f"{shown(value)} needs more than 64 bits; give a smaller number")
    return value


_LINE, _LINES = "^[^\\x00-\\x1f\\x7f-\\x9f]*$", "^[^\\x00-\\x08\\x0b\\x0c\\x0e-\\x1f\\x7f-\\x9f]*$"
_PATH_PART = "^[^\\s/\\x00-\\x1f\\x7f-\\x9f]([^/\\x00-\\x1f\\x7f-\\x9f]*[^\\s/\\x00-\\x1f\\x7f-\\x9f])?$"


def _schema(pattern: str) -> Any:
    return Field(json_schema_extra={"pattern": pattern})


_OneLine = AfterValidator(_without(_CONTROL))
_Lines = AfterValidator(_without(_CONTROL_BUT_LINES))
Name = Annotated[Text, Field(max_length=NAME_LIMIT), _OneLine, _schema(_LINE)]
Key = Annotated[Text, Field(max_length=ID_LIMIT), AfterValidator(not_blank), _OneLine, _schema(_LINE)]
Id = Annotated[
    Text,
    Field(max_length=ID_LIMIT),
    AfterValidator(not_blank),
    _OneLine,
    AfterValidator(_in_a_path),
    _schema(_PATH_PART),
]
Description = Annotated[Text, Field(max_length=DESCRIPTION_LIMIT), _Lines, _schema(_LINES)]
StepText = Annotated[Text, Field(max_length=STEP_LIMIT), _Lines, _schema(_LINES)]
Title = Annotated[Text, Field(max_length=TITLE_LIMIT), AfterValidator(not_blank)]
Count = Annotated[Whole, Field(ge=0, le=COUNT_LIMIT)]
Figure = Annotated[Number, BeforeValidator(_whole_bits)]
Share = Annotated[Figure, Field(ge=0.0, le=1.0)]
Amount = Annotated[Figure, Field(ge=0.0)]
Moment = Annotated[datetime, Strict(), AfterValidator(_in_utc)]


def _json(kind: type[dict[str, Any]] | type[list[Any]]) -> BeforeValidator:
    def check(value: Any) -> Any:
        if isinstance(value, kind) and value:
            _Walk().check("", value, 1)
            size = len(json.dumps(value, ensure_ascii=False, separators=(",", ":")).encode())
            if size > JSON_LIMIT_BYTES:
                raise _too_large(f"{size:,} bytes")
        return value

    return BeforeValidator(check)


JsonObject = Annotated[dict[str, Any], _json(dict)]
JsonList = Annotated[list[Any], _json(list)]


class _Walk:
    """Checks each value inside one field, and stops when there are too many to fit."""

    def __init__(self) -> None:
        self._left = JSON_LIMIT_BYTES

    def check(self, path: str, value: Any, depth: int) -> None:
        self._left -= 1  # each value takes a byte at least; so what refers to itself many times over ends, too
        if self._left < 0:
            raise _too_large(f"over {JSON_LIMIT_BYTES:,} values")
        if value is None or isinstance(value, bool):
            return
        if isinstance(value, str):
            self._text(path, value)
        elif isinstance(value, int):
            try:
                _whole_bits(value)
            except ValueError as error:
                raise OptimizationValidationError(path, str(error)) from None
        elif isinstance(value, float):
            if not math.isfinite(value):
                raise OptimizationValidationError(path, f"{value} is not a finite number; leave it out, or use null")
        elif isinstance(value, (dict, list, tuple)):
            if depth > NESTING_LIMIT:
                problem = f"nested deeper than {NESTING_LIMIT} levels; flatten it, or keep it in a file"
                raise OptimizationValidationError("", problem)
            self._members(path, value, depth)
        else:
            raise OptimizationValidationError(path, f"JSON cannot hold {kind_of(value)}; {remedy_for(value)}")

    def _members(self, path: str, value: Any, depth: int) -> None:
        if not isinstance(value, dict):
            for index, member in enumerate(value):
                self.check(f"{path}[{index}]", member, depth + 1)
            return
        for key, member in value.items():
            if not isinstance(key, str):
                problem = f"the key is {kind_of(key)}, and JSON's keys are texts; give text"
                raise OptimizationValidationError(f"{path}[{shown(key)}]", problem)
            inner = f"{path}.{key}".removeprefix(".") if key.isidentifier() else f"{path}[{shown(key)}]"
            self._text(inner, key)
            self.check(inner, member, depth + 1)

    def _text(self, path: str, value: str) -> None:
        if found := _NOT_IN_JSON.search(value):
            raise OptimizationValidationError(path, f"it holds {_named(found[0])}; take that out")


def _too_large(size: str) -> OptimizationValidationError:
    return OptimizationValidationError(
        "", f"{size}; at most {JSON_LIMIT_BYTES:,} bytes (1 MiB) of JSON are allowed: keep large data in a file"
    )
