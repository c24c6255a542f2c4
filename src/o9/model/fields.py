"""The types of an optimization's fields, with their limits.

The data classes, `OptimizationSpec` and the API's schemas are made of them. They convert nothing: valid values are
stored and read back unchanged, except that tuples become lists. Error messages name the remedy (`o9.model.faults`).
"""

from __future__ import annotations

import json
import math
import re
from collections.abc import Iterator
from datetime import datetime
from typing import Annotated, Any

from pydantic import AfterValidator, BeforeValidator, Field, Strict

from o9.model.errors import OptimizationValidationError
from o9.model.faults import Number, Text, Whole, joined, kind_of, remedy_for, shown

ID_LIMIT = 200
NAME_LIMIT = 500
TITLE_LIMIT = 1_000
STEP_LIMIT = 1_000
DESCRIPTION_LIMIT = 10_000
JSON_LIMIT_BYTES = 1 << 20
NESTING_LIMIT = 64
COUNT_LIMIT = 2**31 - 1  # PostgreSQL's integer
INTEGER_LIMITS = (-(2**63), 2**63 - 1)

# The last two ranges change the direction of reading.
_CONTROL = re.compile("[\x00-\x1f\x7f-\x9f\ud800-\udfff\u202a-\u202e\u2066-\u2069]")
_CONTROL_BUT_LINES = re.compile("[\x00-\x08\x0b\x0c\x0e-\x1f\x7f-\x9f\ud800-\udfff]")
_NOT_IN_JSON = re.compile("[\x00\ud800-\udfff]")


def _forbidden(text: str, characters: re.Pattern[str]) -> str:
    """The problem, naming the first of the characters that `text` contains; "" if it contains none."""
    if (found := characters.search(text)) is None:
        return ""
    name = f"U+{ord(found[0]):04X}"
    is_surrogate = "\ud800" <= found[0] <= "\udfff"
    what = "unpaired surrogate" if is_surrogate else "control character"
    return f"it contains the {what} {name}; remove it"


def _without(characters: re.Pattern[str]) -> AfterValidator:
    def check(text: str) -> str:
        if problem := _forbidden(text, characters):
            raise ValueError(problem)
        return text

    return AfterValidator(check)


def not_blank(text: str) -> str:
    """Return `text`; raise ValueError if it is blank."""
    if not text.strip():
        raise ValueError("it is empty; give at least one visible character")
    return text


def addressable(text: str) -> str:
    """Return `text`; raise ValueError if a command line or the path of a URL cannot hold it."""
    if text != text.strip():
        raise ValueError(f"{text!r} has leading or trailing space; remove it")
    if text.startswith("-"):
        raise ValueError(f"{text!r} begins with '-', which a command line reads as an option; remove it")
    if "/" in text or text in (".", ".."):
        raise ValueError(f"{text!r} cannot be part of a URL's path; use '-' instead of '/'")
    return text


def _in_utc(at: datetime) -> datetime:
    try:
        at.astimezone()
    except (OverflowError, ValueError):
        raise ValueError(f"{at} cannot be expressed in UTC; give a later one") from None
    return at


def _too_long(value: int) -> str:
    if INTEGER_LIMITS[0] <= value <= INTEGER_LIMITS[1]:
        return ""
    return f"{shown(value)} does not fit into 64 bits; give a smaller number"


def _whole_bits(value: Any) -> Any:
    if isinstance(value, int) and (problem := _too_long(value)):
        raise ValueError(problem)
    return value


_EXCLUDED = "\\x00-\\x1f\\x7f-\\x9f\\u202a-\\u202e\\u2066-\\u2069"
_LINE = f"^[^{_EXCLUDED}]*[^\\s{_EXCLUDED}][^{_EXCLUDED}]*$"  # not blank
_LINES = "^[^\\x00-\\x08\\x0b\\x0c\\x0e-\\x1f\\x7f-\\x9f]*$"
_PATH_PART = f"^[^\\s/\\-{_EXCLUDED}]([^/{_EXCLUDED}]*[^\\s/{_EXCLUDED}])?$"


def _schema(pattern: str) -> Any:
    return Field(json_schema_extra={"pattern": pattern})


_OneLine, _Lines = _without(_CONTROL), _without(_CONTROL_BUT_LINES)
Storable = _without(_NOT_IN_JSON)
Name = Annotated[Text, Field(max_length=NAME_LIMIT), AfterValidator(not_blank), _OneLine, _schema(_LINE)]
Key = Annotated[Text, Field(max_length=ID_LIMIT), AfterValidator(not_blank), _OneLine, _schema(_LINE)]
Id = Annotated[
    Text,
    Field(max_length=ID_LIMIT),
    AfterValidator(not_blank),
    _OneLine,
    AfterValidator(addressable),
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


def _json(*kinds: type) -> BeforeValidator:
    def check(value: Any) -> Any:
        if isinstance(value, kinds) and value:
            _check_json(value, 1, iter(range(JSON_LIMIT_BYTES)))
            size = len(_JSON.encode(value).encode())
            if size > JSON_LIMIT_BYTES:
                raise _too_large(f"{size:,} bytes")
        return value

    return BeforeValidator(check)


_JSON = json.JSONEncoder(ensure_ascii=False, separators=(",", ":"))
JsonObject = Annotated[dict[str, Any], _json(dict)]
JsonList = Annotated[list[Any], _json(list, tuple)]


def _check_json(value: Any, depth: int, budget: Iterator[int]) -> None:
    """Raise OptimizationValidationError for a nested value that is not JSON, ValueError for the whole.

    budget: each value takes at least one byte, so that the check of a value that contains itself ends.
    """
    if next(budget, None) is None:
        raise _too_large(f"over {JSON_LIMIT_BYTES:,} values")
    problem = ""
    if isinstance(value, str):
        problem = _forbidden(value, _NOT_IN_JSON)
    elif isinstance(value, int):  # True and False, too
        problem = _too_long(value)
    elif isinstance(value, float):
        problem = "" if math.isfinite(value) else f"{value} is not a finite number; leave it out, or use null"
    elif isinstance(value, (dict, list, tuple)):
        if depth > NESTING_LIMIT:
            raise ValueError(f"nested deeper than {NESTING_LIMIT} levels; flatten it, or keep it in a file")
        for key, member in value.items() if isinstance(value, dict) else enumerate(value):
            try:
                if isinstance(value, dict):
                    _check_key(key)
                _check_json(member, depth + 1, budget)
            except OptimizationValidationError as error:
                part = key if isinstance(key, str) and key.isidentifier() else f"[{shown(key)}]"
                raise OptimizationValidationError(joined(part, error.field), error.problem) from None
    elif value is not None:
        problem = f"JSON cannot hold {kind_of(value)}; {remedy_for(value)}"
    if problem:
        raise OptimizationValidationError("", problem)


def _check_key(key: Any) -> None:
    if not isinstance(key, str):
        raise OptimizationValidationError("", f"the key is {kind_of(key)}, but keys in JSON are text; give text")
    if problem := _forbidden(key, _NOT_IN_JSON):
        raise OptimizationValidationError("", problem)


def _too_large(size: str) -> ValueError:
    return ValueError(
        f"{size}; at most {JSON_LIMIT_BYTES:,} bytes (1 MiB) of JSON are allowed: keep large data in a file"
    )
