"""Pydantic's validation errors as O9's own: all faults, each with its field and remedy.

Contract. `validated(Model, data)` returns the model, or raises OptimizationValidationError with one fault for each
wrong field: its path as written (`metadata.after[2]`), the value, and what is allowed. A model's validator raises
ValueError with the problem, or OptimizationValidationError for several faults or for a nested field. Models of files
and requests forbid extra fields and use the types below, which convert nothing: "5" is not a number.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Annotated, Any, TypeVar, get_args

from pydantic import (
    AllowInfNan,
    BaseModel,
    BeforeValidator,
    ConfigDict,
    GetCoreSchemaHandler,
    Strict,
    ValidationError,
    ValidatorFunctionWrapHandler,
)
from pydantic.fields import FieldInfo
from pydantic_core import CoreSchema, ErrorDetails
from pydantic_core.core_schema import no_info_wrap_validator_function

from o9.model.errors import Faults, OptimizationValidationError
from o9.text.escape import shown as on_one_line
from o9.text.suggest import hint_of, suggestion


def _no_array(value: Any) -> Any:
    if hasattr(value, "ndim") and not isinstance(value, float):
        raise ValueError(f"expected a number, got {kind_of(value)}; {remedy_for(value)}")
    return value


Text = Annotated[str, Strict()]
Whole = Annotated[int, Strict()]
Number = Annotated[float, Strict(), AllowInfNan(False), BeforeValidator(_no_array)]
Flag = Annotated[bool, Strict()]

Path = tuple[str | int, ...]
M = TypeVar("M", bound=BaseModel)


class Typed(BaseModel):
    """The base of models of files and requests: unknown fields are faults, and instances are frozen."""

    model_config = ConfigDict(extra="forbid", frozen=True, populate_by_name=True, defer_build=True)

    @classmethod
    def remedy_of_unknown(cls, name: str) -> str | None:
        """What to do about an unknown field. None: the message names the known fields."""
        return None


class KeptAsGiven:
    """Annotates a mapping that is validated as `model` and has its schema, but stays a mapping."""

    def __init__(self, model: type[BaseModel]) -> None:
        self.model = model

    def __get_pydantic_core_schema__(self, source: Any, handler: GetCoreSchemaHandler) -> CoreSchema:
        def check(value: Any, validate: ValidatorFunctionWrapHandler) -> Any:
            validate(value)
            return value

        return no_info_wrap_validator_function(check, handler.generate_schema(self.model))


@contextmanager
def refusing(model: Any, data: Any, field: str = "") -> Iterator[None]:
    """Re-raise a ValidationError about `data` as the OptimizationValidationError of `refusal_of`."""
    try:
        yield
    except ValidationError as error:
        raise refusal_of(error.errors(include_url=False), model, data, field) from None


def validated(model: type[M], data: Any, *, field: str = "", context: Any = None) -> M:
    """Return `data`, the value of `field`, as a `model`. Raises OptimizationValidationError with all faults."""
    with refusing(model, data, field):
        return model.model_validate(data, context=context)


def refusal_of(details: Sequence[ErrorDetails], model: Any, data: Any, field: str = "") -> OptimizationValidationError:
    """Return one error with all faults that Pydantic found in `data`, one for each field.

    model: a model, or an annotation of models. field: the field whose value `data` is.
    """
    paths = [_path_of(each, data) for each in details]
    expected: dict[Path, list[str]] = {}
    for detail, path in zip(details, paths, strict=True):
        if detail["type"] in _EXPECTED:
            expected.setdefault(path, []).append(_EXPECTED[detail["type"]].format_map(detail.get("ctx", {})))
    faults = Faults()
    for detail, path in zip(details, paths, strict=True):
        # In a union, the alternative whose faults lie deeper was meant.
        is_other = detail["type"] in _EXPECTED or detail["type"] in _CHOICES
        if is_other and any(other[: len(path)] == path and other != path for other in paths):
            continue
        for fault in _faults_of(detail, path, expected.get(path, ()), model):
            faults.add(OptimizationValidationError(joined(field, fault.field), fault.problem))
    return faults.refusal()


def joined(field: str, inside: str) -> str:
    """Join a field and a path inside it: `metadata` and `after[2]` make `metadata.after[2]`."""
    return f"{field}{'' if not field or not inside or inside.startswith('[') else '.'}{inside}"


def written_path(path: Path) -> str:
    """The path as text, `metadata.after[2]`; names are shown on one line."""
    text = "".join(f"[{part}]" if isinstance(part, int) else f".{on_one_line(part)}" for part in path)
    return text.removeprefix(".")


def kind_of(value: Any) -> str:
    """The type of a Python value in a message."""
    kind = type(value)
    if value is None:
        return "None"
    return kind.__name__ if kind.__module__ == "builtins" else f"{kind.__module__}.{kind.__name__}"


def remedy_for(value: Any) -> str:
    """How to turn a Python value into JSON."""
    if hasattr(value, "ndim"):
        return "convert it with .item()" if value.ndim == 0 else "convert it with .tolist()"
    if hasattr(value, "isoformat"):
        return "give text: .isoformat()"
    if callable(value):
        return "register it under a name, and give the name"
    return "give text, numbers, booleans, null, lists and dicts of them"


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


def _faults_of(
    detail: ErrorDetails, path: Path, expected: Sequence[str], model: Any
) -> Iterator[OptimizationValidationError]:
    field, kind, context = written_path(path), detail["type"], detail.get("ctx", {})
    raised, models = context.get("error"), _models_at(model, path[:-1], detail["loc"])
    if isinstance(raised, OptimizationValidationError):
        for each in raised.faults:
            yield OptimizationValidationError(joined(field, each.field), each.problem)
        return
    if isinstance(raised, ValueError):
        problem = str(raised)
    elif kind == "missing":
        info = next((_fields(each)[path[-1]] for each in models if path and path[-1] in _fields(each)), None)
        example = info.examples[0] if info is not None and info.examples else None
        problem = "it is missing" + (f"; for example {example}" if example is not None else "")
    elif kind == "extra_forbidden":
        remedies = (each.remedy_of_unknown(str(path[-1])) for each in models if issubclass(each, Typed))
        names = dict.fromkeys(name for each in models for name in _fields(each))
        remedy = next((f"; {each}" for each in remedies if each), None)
        remedy = remedy or (suggestion(path[-1], names) if names else "; remove it")
        problem = f"there is no such field{remedy}"
    elif kind in _EXPECTED:
        remedy = f"; {remedy_for(detail['input'])}" if hasattr(detail["input"], "ndim") else ""
        problem = f"expected {' or '.join(dict.fromkeys(expected))}, got {shown(detail['input'])}{remedy}"
    elif kind.startswith("union_tag"):
        name = str(context["discriminator"]).strip("'")
        field = joined(field, name)
        variants = [_fields(each)[name] for each in _models_at(model, path, ()) if name in _fields(each)]
        tags = dict.fromkeys(tag for info in variants for tag in get_args(info.annotation))
        wrong = f"{shown(context['tag'])} is not" if "tag" in context else "it is missing; give"
        problem = f"{wrong} one of {', '.join(tags)}"
    elif kind in _CHOICES:
        known = re.findall(r"'([^']*)'", context["expected"]) or [context["expected"]]
        problem = f"{shown(detail['input'])} is not one of {', '.join(known)}{hint_of(detail['input'], known)}"
    elif kind in _LIMITS:
        size = len(detail["input"]) if hasattr(detail["input"], "__len__") else 0
        problem = _LIMITS[kind].format(value=shown(detail["input"]), size=size, **context)
    else:
        problem = detail["msg"][:1].lower() + detail["msg"][1:]
    yield OptimizationValidationError(field, problem)


def _path_of(detail: ErrorDetails, data: Any) -> Path:
    """The path of the fault in `data`. Pydantic's own path also names the alternatives of unions."""
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


def _models_at(model: Any, path: Path, location: Path) -> list[type[BaseModel]]:
    """The models at `path`: of a union the alternative that Pydantic's path names, else all of them."""
    models = list(_models_in(model))
    for part in path:
        fields = [_fields(each)[part] for each in models if part in _fields(each)]
        if fields:
            models = [inner for field in fields for inner in _models_of(field)]
    tagged = [each for each in models if _tags(each) & set(location)]
    return tagged or models


def _tags(model: type[BaseModel]) -> set[Any]:
    return {tag for field in _fields(model).values() for tag in get_args(field.annotation)}


def _fields(model: type[BaseModel]) -> dict[Any, FieldInfo]:
    return {field.alias or name: field for name, field in model.model_fields.items()}


def _models_of(field: FieldInfo) -> Iterator[type[BaseModel]]:
    yield from _models_in(field.annotation)
    yield from (mark.model for mark in field.metadata if isinstance(mark, KeptAsGiven))


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
    "is_instance_of": "a member of {class}",
}
_CHOICES = ("literal_error", "enum")
_LIMITS = {
    "greater_than": "must be greater than {gt:,}, got {value}",
    "greater_than_equal": "must be at least {ge:,}, got {value}",
    "less_than": "must be less than {lt:,}, got {value}",
    "less_than_equal": "must be at most {le:,}, got {value}",
    "finite_number": "{value} is not a finite number",
    "string_too_short": "{size:,} characters; at least {min_length:,} needed",
    "string_too_long": "{size:,} characters; at most {max_length:,} allowed",
    "too_short": "{size:,} items; at least {min_length:,} needed",
    "too_long": "{size:,} items; at most {max_length:,} allowed",
    "string_unicode": "it contains an unpaired surrogate; remove it",
}
