"""The schema of the lifecycle's form: in shapes that Prefect draws, and as strict as the specification."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest
from prefect.utilities.callables import parameter_schema
from prefect.utilities.schema_tools.validation import ValidationError, validate

from o9.flows.form import offer_objectives
from o9.flows.lifecycle import optimization_lifecycle

PERIOD = {"name": "fast", "type": "int", "low": 2, "high": 60}
NAMED = {"objective": "branin"}


@pytest.fixture(scope="module")
def schema() -> dict[str, Any]:
    made = parameter_schema(optimization_lifecycle).model_dump(exclude_unset=True)
    assert isinstance(made, dict)
    return made


def parts(node: Any) -> Iterator[dict[str, Any]]:
    if isinstance(node, dict):
        yield node
    for each in node.values() if isinstance(node, dict) else node if isinstance(node, list) else ():
        yield from parts(each)


def test_it_has_only_shapes_that_prefect_draws(schema: dict[str, Any]) -> None:
    for part in parts(schema):
        assert part.get("type") != "null"
        assert not part.keys() & {"oneOf", "discriminator"}
    fields = schema["definitions"]["Metadata"]["properties"]
    assert fields["search_space"]["type"] == "array"
    assert fields["seed"]["type"] == "integer"
    assert fields["timeout_seconds"]["minimum"] > 0
    assert fields["warm_start"]["type"] == "boolean"
    assert not fields.keys() & {"series", "scheduled_at", "warm_start_from"}
    assert not [name for name, field in fields.items() if "default" in field]  # which would override an objective's own


@pytest.mark.parametrize(
    "parameters",
    [
        {"spec": {"metadata": NAMED}},
        {"spec": {"name": "Momentum", "priority": "high", "metadata": {**NAMED, "search_space": [PERIOD]}}},
        {"spec": {"metadata": {"strategy": "desk.search:Search"}}},
        {"spec": {"metadata": {"retry_of": "a"}}},
        {"spec": {"metadata": {**NAMED, "series": "nightly", "warm_start": True}}},
        {"optimization_id": "a"},
        {"retry_of": "a", "optimization_id": ""},
    ],
)
def test_what_can_run_is_accepted(parameters: dict[str, Any], schema: dict[str, Any]) -> None:
    validate(parameters, schema, raise_on_error=True)


@pytest.mark.parametrize(
    "spec",
    [
        {},
        {"metadata": {}},
        {"metadata": {"strategy": "default"}},
        {"metadata": {**NAMED, "seed": -1}},
        {"metadata": {**NAMED, "sampler": "best"}},
        {"metadata": {**NAMED, "trial_timeout_seconds": 0}},
        {"metadata": {**NAMED, "search_space": [{"name": "fast", "type": "int", "low": 2}]}},
        {"metadata": NAMED, "total_steps": "many"},
        {"metadata": NAMED, "priority": "soon"},
        {"metadata": NAMED, "stepps": 3},
    ],
)
def test_what_cannot_is_refused_before_a_run_is_made(spec: dict[str, Any], schema: dict[str, Any]) -> None:
    with pytest.raises(ValidationError):
        validate({"spec": spec}, schema, raise_on_error=True)


def test_registered_objectives_are_choices_beside_any_other(schema: dict[str, Any]) -> None:
    offer_objectives(schema["definitions"], ["branin", "desk-momentum"])
    choices, other = schema["definitions"]["Metadata"]["properties"]["objective"]["anyOf"]
    assert (choices["enum"], other["type"]) == (["branin", "desk-momentum"], "string")
