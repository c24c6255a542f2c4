"""What Pydantic finds wrong with data that somebody typed, as O9's own error: all faults, each with field and remedy.

Contract. `validated(Model, data)` returns the model, or raises OptimizationValidationError with one fault for each
wrong field: its path as written (`metadata.after[2]`), what was found there, and what is allowed. A validator of a
model raises ValueError with the problem, or OptimizationValidationError for several, or for a field inside its own.
Models of what people write have `extra="forbid"` and the types below, which convert nothing: "5" is no number.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from difflib import get_close_matches
from typing import Annotated, Any, TypeVar, get_args

from pydantic import AllowInfNan, BaseModel, ConfigDict, Strict, ValidationError
from pydantic.fields import FieldInfo
from pydantic_core import ErrorDetails

from o9.model.errors import Faults, OptimizationValidationError

Text = Annotated[str, Strict()]
Whole = Annotated[int, Strict()]
Number = Annotated[float, Strict(), AllowInfNan(False)]
Flag = Annotated[bool, Strict()]

Path = tuple[str | int, ...]
M = TypeVar("M", bound=BaseModel)


class Typed(BaseModel):
    """The base of models of what people write: unknown fields are faults, and what was read does not change."""

    model_config = ConfigDict(extra="forbid", frozen=True, populate_by_name=True)


def validated(model: type[M], data: Any, *, context: Any = None) -> M:
    """`data` as a `model`. Raises OptimizationValidationError with all faults."""
    try:
        return model.model_validate(data, context=context)
    except ValidationError as error:
        raise refusal_of(error, model, data) from None


def refusal_of(error: ValidationError, model: type[BaseModel], data: Any) -> OptimizationValidationError:
    """All that Pydantic found wrong with `data`, of each field once."""
    details = error.errors(include_url=False)
    paths = [_path_of(each, data) for each in details]
    expected: dict[Path, list[str]] = {}
    for detail, path in zip(details, paths, strict=True):
        if detail["type"] in _EXPECTED:
            expected.setdefault(path, []).append(_EXPECTED[detail["type"]])
    faults = Faults()
    for detail, path in zip(details, paths, strict=True):
        # Of a union that has an alternative with faults deeper inside, that one was meant.
        is_other = detail["type"] in _EXPECTED or detail["type"] in _CHOICES
        if is_other and any(other[: len(path)] == path and other != path for other in paths):
            continue
        for fault in _faults_of(detail, path, expected.get(path, ()), model):
            faults.add(fault)
    return faults.refusal()


def written_path(path: Path) -> str:
    """`metadata.after[2]`; a name that is no identifier stands as it is."""
    text = "".join(f"[{part}]" if isinstance(part, int) else f".{part}" for part in path)
    return text.removeprefix(".")


def shown(value: Any) -> str:
    """`value` in a message: short, and printable whatever it is."""
    if isinstance(value, int) and not isinstance(value, bool) and value.bit_length() > 200:
        return f"an integer of {value.bit_length():,} bits"  # which Python may refuse to print
    if isinstance(value, Mapping):
        return "a mapping" if value else "an empty mapping"
    if isinstance(value, (list, tuple)):
        return "a list" if value else "an empty list"
    text = "nothing" if value is None else str(value).lower() if isinstance(value, bool) else ascii(value)
    return text if len(text) <= 60 else f"{text[:60]}…"


def meant(name: Any, known: Sequence[str]) -> str:
    """A remedy for an unknown name, to end a sentence: what was probably meant, else what there is."""
    near = get_close_matches(str(name).lower(), known, n=1, cutoff=0.7)
    return f"did you mean {near[0]}?" if near else f"there are {', '.join(known)}" if known else "there are none"


def _faults_of(
    detail: ErrorDetails, path: Path, expected: Sequence[str], model: type[BaseModel]
) -> Iterator[OptimizationValidationError]:
    field, kind, context = written_path(path), detail["type"], detail.get("ctx", {})
    raised = context.get("error")
    if isinstance(raised, OptimizationValidationError):
        for each in raised.faults:
            inside = each.field if each.field.startswith("[") or not field or not each.field else f".{each.field}"
            yield OptimizationValidationError(f"{field}{inside}", each.problem)
        return
    if isinstance(raised, ValueError):
        problem = str(raised)
    elif kind == "missing":
        info = _fields_at(model, path[:-1]).get(str(path[-1]))
        example = info.examples[0] if info is not None and info.examples else None
        problem = "it is missing" + (f"; for example {example}" if example is not None else "")
    elif kind == "extra_forbidden":
        problem = f"there is no such field; {meant(path[-1], list(_fields_at(model, path[:-1])))}"
    elif kind in _EXPECTED:
        problem = f"expected {' or '.join(dict.fromkeys(expected))}, got {shown(detail['input'])}"
    elif kind in _CHOICES:
        known = re.findall(r"'([^']*)'", context["expected"]) or [context["expected"]]
        near = get_close_matches(str(detail["input"]).lower(), known, n=1)
        remedy = f"; did you mean {near[0]}?" if near else ""
        problem = f"{shown(detail['input'])} is not one of {', '.join(known)}{remedy}"
    elif kind in _BOUNDS:
        name, words = _BOUNDS[kind]
        problem = f"{shown(detail['input'])} is not {words} {context[name]:,}"
    elif kind in _LENGTHS:
        name, words = _LENGTHS[kind]
        unit = "characters" if kind.startswith("string") else "items"
        problem = f"{len(detail['input']):,} {unit}; {words} {context[name]:,} {'is' if context[name] == 1 else 'are'}"
        problem += " allowed" if name == "max_length" else " needed"
    elif kind == "finite_number":
        problem = f"{detail['input']} is not a finite number"
    else:
        problem = detail["msg"][:1].lower() + detail["msg"][1:]
    yield OptimizationValidationError(field, problem)


def _path_of(detail: ErrorDetails, data: Any) -> Path:
    """Where in `data` the fault is: Pydantic's own path has names of alternatives in it, too."""
    path: list[str | int] = []
    inside: Any = data if isinstance(data, (list, tuple, Mapping)) else ()
    for part in detail["loc"]:
        is_there = part in (inside if isinstance(inside, Mapping) else range(len(inside)))
        if is_there:
            inside = inside[part]
            inside = inside if isinstance(inside, (list, tuple, Mapping)) else ()
        if is_there or (detail["type"] == "missing" and part == detail["loc"][-1]):
            path.append(part)
    return tuple(path)


def _fields_at(model: type[BaseModel], path: Path) -> dict[str, FieldInfo]:
    """The fields that are known at `path`; of a union, those of all alternatives."""
    models = [model]
    for part in path:
        fields = [_fields(each).get(part) for each in models if isinstance(part, str)]
        if any(fields):
            models = [inner for field in fields if field is not None for inner in _models_in(field.annotation)]
    return {name: field for each in models for name, field in _fields(each).items()}


def _fields(model: type[BaseModel]) -> dict[str, FieldInfo]:
    return {field.alias or name: field for name, field in model.model_fields.items()}


def _models_in(annotation: Any) -> Iterator[type[BaseModel]]:
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        yield annotation
    for inner in get_args(annotation):
        yield from _models_in(inner)


_EXPECTED = {
    "string_type": "text",
    **dict.fromkeys(("int_type", "int_parsing", "int_from_float"), "a whole number"),
    **dict.fromkeys(("float_type", "float_parsing"), "a number"),
    **dict.fromkeys(("bool_type", "bool_parsing"), "true or false"),
    **dict.fromkeys(("list_type", "tuple_type", "set_type", "frozen_set_type"), "a list"),
    **dict.fromkeys(("dict_type", "mapping_type", "model_type", "model_attributes_type"), "a mapping"),
    **dict.fromkeys(("datetime_type", "datetime_parsing", "datetime_from_date_parsing"), "an ISO 8601 datetime"),
    "none_required": "nothing",
}
_CHOICES = ("literal_error", "enum")
_BOUNDS = {
    "greater_than": ("gt", "above"),
    "greater_than_equal": ("ge", "at least"),
    "less_than": ("lt", "below"),
    "less_than_equal": ("le", "at most"),
}
_LENGTHS = {
    "string_too_short": ("min_length", "at least"),
    "string_too_long": ("max_length", "at most"),
    "too_short": ("min_length", "at least"),
    "too_long": ("max_length", "at most"),
}
