"""The API conforms to its OpenAPI document: Schemathesis sends valid and invalid requests to every operation.

`make openapi` runs it for longer.
"""

from __future__ import annotations

import dataclasses
import os
import re
from collections.abc import Iterator
from typing import Any

import pytest
import schemathesis
from command_line import create, work
from contract_alerts import new_alert
from http_server import serving
from hypothesis import HealthCheck, settings
from store_backend import StoreBackend

from o9.api.api import OptimizationAPI
from o9.model.optimization import OptimizationState
from o9.store.alerts.episodes import RaiseAlerts
from o9.store.core.column_types import JSON_FIELDS
from o9.store.optimizations.replace import REPLACEABLE
from o9.store.store import Store

LONG = bool(os.environ.get("O9_LONG_TESTS"))
EXAMPLES = 500 if LONG else 10
# Fields with constraints that a JSON schema cannot express: unknown names, an invalid cursor, a NUL or an integer of
# more than 64 bits at any depth, and 3.0 as an integer.
BEYOND_A_SCHEMA = {"cursor", "metric_name", "total_steps", "completed_steps", *JSON_FIELDS}
# Fields that a PUT may only repeat.
AS_READ = {field.name for field in dataclasses.fields(OptimizationState)} - REPLACEABLE
CONFIG = {
    "phases": {"coverage": {"enabled": LONG}},  # hundreds of requests for each field
    "checks": {"positive_data_acceptance": {"expected-statuses": ["2xx", 404, 409, 422]}},
}


@pytest.fixture
def document(store_url: str) -> Iterator[Any]:
    with Store(store_url) as store:
        create(store, "done")
        work(store, "done", 2, "completed")
        create(store, "waiting")
        store.write(RaiseAlerts([new_alert("alarm", optimization_id="waiting")]))
        api = OptimizationAPI(backend=StoreBackend(store), rate_limit="1000000/second")
        with serving(api) as served:
            config = schemathesis.Config.from_dict(CONFIG)
            yield schemathesis.openapi.from_url(f"{served.url}/openapi.json", config=config)


schema = schemathesis.pytest.from_fixture("document")


@schema.parametrize()
@settings(max_examples=EXAMPLES, deadline=None, suppress_health_check=list(HealthCheck))
def test_operations_conform_to_the_document(case: Any) -> None:
    response = case.call()
    case.validate_response(response)
    if response.status_code == 422 and case.meta.generation.mode.is_positive:
        field = re.split(r"\W", response.json()["error"])[0]
        assert field in BEYOND_A_SCHEMA | (AS_READ if case.method == "PUT" else set()), response.json()
