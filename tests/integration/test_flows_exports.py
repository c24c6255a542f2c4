"""`from o9.flows import …`: an optimization as a step of a flow of the user's, sync or async."""

from __future__ import annotations

import asyncio
import os
import subprocess
import sys
from collections.abc import Iterator

import o9_testing
import pytest
from o9_testing import LINE
from prefect import flow

from o9.aggregator.prefect_server import prefect_client_settings
from o9.blocks.store import using_store
from o9.flows import OptimizationResult, arun_optimization, run_optimization
from o9.flows.membership import leave_store
from o9.health.grades import Grade
from o9.model.errors import OptimizationValidationError
from o9.store.store import Store
from OptimizationStateAggregator import OptimizationStatus, objective

SPEC = {"total_steps": 3, "metadata": {"objective": "exported", "seed": 7}}


@objective("exported", search_space=LINE)
async def exported(parameters: dict[str, float]) -> float:
    return parameters["x"]


@pytest.fixture
def store(store_url: str) -> Iterator[Store]:
    with prefect_client_settings(o9_testing.session_server()), Store(store_url) as store, using_store(store):
        yield store
        leave_store(store)


def check(result: OptimizationResult) -> None:
    assert result.status is OptimizationStatus.COMPLETED
    assert result.best_parameters is not None
    assert result.best_value == result.best_parameters["x"]
    assert result.verdict is not None
    assert result.verdict.grade is Grade.UNPROVEN


def test_a_sync_flow_gets_the_result(store: Store) -> None:
    @flow
    def weekly() -> OptimizationResult:
        return run_optimization(SPEC)

    check(weekly())


def test_an_async_flow_awaits_it(store: Store) -> None:
    @flow
    async def weekly() -> OptimizationResult:
        return await arun_optimization(SPEC)

    check(asyncio.run(weekly()))


def test_a_specification_that_is_none_is_refused_at_once(store: Store) -> None:
    with pytest.raises(OptimizationValidationError):
        run_optimization({"metadata": {"objective": "exported"}, "total_steps": "many"})


def test_the_process_of_a_run_loads_no_more_than_it_needs() -> None:
    """Each run of a deployment pays for what its flow imports."""
    program = (
        "import gc, sys\n"
        "import o9.flows.lifecycle\n"
        "print(gc.get_freeze_count() > 0)\n"
        "print({'alembic', 'apprise', 'fastapi', 'numpy', 'optuna', 'pandas', 'plotly', 'regex', 'scipy',\n"
        "       'o9.alerts', 'prefect.server', 'sqlalchemy.dialects.postgresql'} & set(sys.modules))\n"
    )
    environment = os.environ | {"PREFECT__FLOW_RUN_ID": "of one run"}
    ran = subprocess.run([sys.executable, "-c", program], env=environment, capture_output=True, text=True, check=True)
    assert ran.stdout.split("\n")[:2] == ["True", "set()"]
