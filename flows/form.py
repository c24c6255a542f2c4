"""The form that Prefect draws of a specification: its JSON schema, reshaped so that Prefect's UI can draw it.

Contract. OptimizationSpec reads what the form sends. An optional field is one plain field, without a choice of "None";
the search space is a list of typed parameters; of alternative spellings the first is kept; RESERVED keys are accepted,
but not drawn. The form accepts nothing that the specification refuses, and a Prefect server that enforces the schema
refuses a wrong value before it creates a run.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

from pydantic import GetJsonSchemaHandler
from pydantic.json_schema import JsonSchemaValue
from pydantic_core import CoreSchema

from o9.model.strategy import BUILT_IN_STRATEGIES

NOTHING = {"type": "null"}
RESERVED = ("series", "scheduled_at")  # deployments and schedules fill them in
TITLES = {"number": "number", "string": "text"}  # of alternatives, which Prefect shows as tabs


class AsForm:
    """`Annotated[OptimizationSpec, AsForm()]`."""

    def __get_pydantic_json_schema__(self, core: CoreSchema, handler: GetJsonSchemaHandler) -> JsonSchemaValue:
        made = handler(core)
        seen: set[int] = set()

        def reshape(node: Any) -> None:
            if isinstance(node, list):
                for each in node:
                    reshape(each)
            if not isinstance(node, dict) or id(node) in seen:
                return
            seen.add(id(node))
            _drawable(node)
            if "$ref" in node:
                reshape(handler.resolve_ref_schema({"$ref": node["$ref"]}))
            fields = node.get("properties", {})
            for name, field in fields.items():
                if "$ref" not in field:
                    field.setdefault("title", name.replace("_", " ").capitalize())
            if "metadata" in fields:
                node["required"] = ["metadata"]
            if "objective" in fields:  # an objective or a policy sets the defaults: the form must not
                for name in RESERVED:
                    fields.pop(name, None)
                for field in fields.values():
                    field.pop("default", None)
            for key, each in list(node.items()):
                if key != "if":
                    reshape(each)

        reshape(made)
        return made


def _drawable(node: dict[str, Any]) -> None:
    """Reshape one schema in place, without those inside it."""
    if "oneOf" in node and "discriminator" in node:
        node["anyOf"] = node.pop("oneOf")
        del node["discriminator"]
    if "const" in node:
        node["enum"] = [node["const"]]
        node["default"] = node.pop("const")
    options = list(_options(node.pop("anyOf", [])))
    if options and all(set(option) == {"required"} for option in options):
        options = []
        node |= {"if": _BY_O9, "then": {"required": ["objective"]}}  # enforced, but not drawn
    if lists := [option for option in options if option.get("type") == "array"]:
        options = lists
    if len(options) > 1:
        options = [option for option in options if option.get("type") != "object"]
    if len(options) > 1 and all("enum" in option for option in options):
        options = options[:1]
    if len(options) == 1:
        for key, value in options[0].items():
            node.setdefault(key, value)
    elif options:
        node["anyOf"] = [
            {"title": TITLES[kind]} | option if (kind := option.get("type")) in TITLES else option for option in options
        ]
    for wrong, right in (("ge", "minimum"), ("le", "maximum")):  # of numbers whose type Pydantic does not know
        if isinstance(limit := node.get(wrong), (int, float)):
            node[right] = limit
            del node[wrong]
    if "default" in node and (node["default"] is None or node["default"] not in node.get("enum", [node["default"]])):
        del node["default"]


# Metadata with one of O9's strategies, which need an objective.
_BY_O9 = {"properties": {"strategy": {"enum": list(BUILT_IN_STRATEGIES)}}, "not": {"required": ["retry_of"]}}


def _options(given: Sequence[dict[str, Any]]) -> Iterator[dict[str, Any]]:
    """The alternatives, flattened and without null."""
    for option in given:
        if option.keys() - {"description", "examples", "title"} == {"anyOf"}:
            yield from _options(option["anyOf"])
        elif option != NOTHING:
            yield option


def offer_objectives(definitions: dict[str, Any], names: Sequence[str]) -> None:
    """Offer these names, beside a field for other ones, in the definitions of a deployment's schema."""
    for definition in definitions.values():
        objective = definition.get("properties", {}).get("objective")
        if objective is not None and names:
            objective.pop("type", None)
            objective["anyOf"] = [
                {"type": "string", "enum": list(names), "title": "registered"},
                {"type": "string", "title": "other"},
            ]
