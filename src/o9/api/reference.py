"""The page /docs: every route for people to read, from the OpenAPI document. It loads nothing from elsewhere."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from jinja2 import Environment, PackageLoader, StrictUndefined

Document = Mapping[str, Any]


def reference_page(document: Document) -> str:
    """The page as HTML. `document`: the OpenAPI document, as `/openapi.json` answers it."""
    environment = Environment(
        loader=PackageLoader("o9.api"), autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True
    )
    return environment.get_template("reference.html").render(info=document["info"], routes=list(_routes(document)))


def _routes(document: Document) -> Iterator[dict[str, Any]]:
    for path, methods in document["paths"].items():
        for method, operation in methods.items():
            body = _content(operation.get("requestBody", {}))
            parameters = [
                _field(each["name"], each["in"], each["schema"] | each, each["required"], document)
                for each in operation.get("parameters", ())
            ]
            yield {
                "id": operation["operationId"],
                "method": method.upper(),
                "path": path,
                "description": operation.get("description", ""),
                "fields": [*parameters, *_fields(body, document)],
            }


def _fields(schema: Mapping[str, Any], document: Document, within: str = "") -> Iterator[dict[str, Any]]:
    """The fields of a JSON object; those of a nested object follow, with its path."""
    schema = _resolved(schema, document)
    for name, each in schema.get("properties", {}).items():
        yield _field(f"{within}{name}", "body", each, name in schema.get("required", ()), document)
        yield from _fields(each, document, f"{within}{name}.")


def _field(name: str, place: str, schema: Mapping[str, Any], required: bool, document: Document) -> dict[str, Any]:
    kind, description = _type_of(schema, document), schema.get("description", "")
    return {"name": name, "place": place, "type": kind, "required": required, "description": description}


def _type_of(schema: Mapping[str, Any], document: Document) -> str:
    """In a few words: `integer, 1 to 500`, `low | normal | high`, `list of string`."""
    if "$ref" in schema:
        target = _resolved(schema, document)
        return _type_of(target, document) if "enum" in target else str(target.get("title", "object"))
    if "enum" in schema:
        return " | ".join(map(str, schema["enum"]))
    if "const" in schema:
        return str(schema["const"])
    if "anyOf" in schema:
        return " | ".join(_type_of(each, document) for each in schema["anyOf"])
    if schema.get("type") == "array":
        return f"list of {_type_of(schema.get('items', {}), document)}"
    words = schema.get("type", schema.get("title", "any"))
    if isinstance(words, list):
        words = " | ".join(words)
    bounds = [str(schema[bound]) if bound in schema else "" for bound in ("minimum", "maximum")]
    if all(bounds):
        words = f"{words}, {' to '.join(bounds)}"
    return str(schema["format"]) if "format" in schema else str(words)


def _resolved(schema: Mapping[str, Any], document: Document) -> Mapping[str, Any]:
    if "$ref" not in schema:
        return schema
    found: Any = document
    for step in schema["$ref"].removeprefix("#/").split("/"):
        found = found[step]
    return dict(found)


def _content(part: Mapping[str, Any]) -> Mapping[str, Any]:
    return dict(part.get("content", {}).get("application/json", {}).get("schema", {}))
