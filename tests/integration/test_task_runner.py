"""Trials on two workers of Dask or Ray, through Prefect's task runners: the ledger is that without them."""

from __future__ import annotations

import os
import sys
from collections.abc import Awaitable, Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import child_objectives
import far_objectives
import o9_testing
import pytest
from evaluations import alive
from o9_testing import LINE, ended, ledger, new

from o9.aggregator.prefect_server import prefect_client_settings
from o9.blocks.store import using_store
from o9.flows.lifecycle import optimization_lifecycle
from o9.flows.membership import leave_store
from o9.model.errors import OptimizationValidationError
from o9.model.states import OptimizationStatus
from o9.store import queries
from o9.store.store import Store
from o9.tasks.trials import configured_runner

pytestmark = [pytest.mark.long, pytest.mark.xdist_group("clusters")]
Open = Callable[..., Awaitable[Any]]
SEARCH = {"search_space": LINE, "seed": 5, "trials_per_step": 4, "sampler": "tpe"}


@dataclass(frozen=True)
class Cluster:
    """`runner`: evaluates on it. `folder`: where its workers leave files."""

    runner: Any
    folder: Path


@contextmanager
def on_dask() -> Iterator[Any]:
    distributed = pytest.importorskip("distributed", reason="`pip install prefect-o9[dask]` enables it")
    prefect_dask = pytest.importorskip("prefect_dask", reason="`pip install prefect-o9[dask]` enables it")
    with distributed.LocalCluster(n_workers=2, threads_per_worker=2, dashboard_address=None) as cluster:
        yield prefect_dask.DaskTaskRunner(address=cluster.scheduler_address)


@contextmanager
def on_ray() -> Iterator[Any]:
    prefect_ray = pytest.importorskip("prefect_ray", reason="`pip install prefect-o9[ray]` enables it")
    ray = pytest.importorskip("ray", reason="`pip install prefect-o9[ray]` enables it")
    ray.init(num_cpus=2, include_dashboard=False, log_to_driver=False)
    try:
        yield prefect_ray.RayTaskRunner()
    finally:
        ray.shutdown()


@pytest.fixture(scope="module", params=[on_dask, on_ray], ids=["Dask", "Ray"])
def cluster(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Cluster]:
    folder = tmp_path_factory.mktemp("far")
    with pytest.MonkeyPatch.context() as patch:
        # Of the workers, which inherit them.
        patch.setenv("O9_ALLOWED_IMPORTS", "far_objectives")
        patch.setenv("PYTHONPATH", os.pathsep.join(filter(None, sys.path)))
        patch.setenv(far_objectives.FOLDER, str(folder))
        with request.param() as runner:
            patch.delenv("O9_ALLOWED_IMPORTS")
            yield Cluster(runner, folder)


@pytest.fixture
def runner(cluster: Cluster, monkeypatch: pytest.MonkeyPatch) -> Any:
    monkeypatch.setattr(far_objectives, "runner", cluster.runner)
    return cluster.runner


@pytest.fixture
def open_far(open_aggregator: Open, runner: Any, set_o9: Callable[..., None]) -> Open:
    """Opens an aggregator whose trials are evaluated on the cluster."""
    set_o9(task_runner="far_objectives:runner")
    return open_aggregator


def optimization(objective: str, name: str = "", **fields: Any) -> Any:
    return new(name, objective=f"far_objectives:{objective}", **{"total_steps": 4, **SEARCH, **fields})


@pytest.mark.parametrize("objective", ["uneven", "waiting"])
async def test_the_ledger_is_that_without_a_task_runner(
    open_aggregator: Open, runner: Any, set_o9: Callable[..., None], objective: str
) -> None:
    ledgers = []
    for name, path in (("here", ""), ("there", "far_objectives:runner")):
        set_o9(task_runner=path)
        aggregator = await open_aggregator()
        await aggregator.submit_optimization(optimization(objective, name))
        assert (await ended(aggregator, name)).status is OptimizationStatus.COMPLETED
        ledgers.append(ledger(aggregator.store, name))
        trials = aggregator.store.read(queries.trials, name)
        printed = {row["text"] for row in aggregator.store.read(queries.outputs, name)}
        await aggregator.cleanup()
    assert ledgers[0] == ledgers[1]
    assert len(ledgers[0]) == 16
    if objective == "uneven":
        assert {state for _, _, state, *_ in ledgers[0]} == {"completed", "failed"}
        assert len(printed) > 1, "all were evaluated in one process"
        assert all(trial.error.startswith("ValueError: no data for") for trial in trials if trial.error)


async def test_a_flow_is_given_one_by_with_options(store_url: str, runner: Any, set_o9: Callable[..., None]) -> None:
    set_o9(allowed_imports="far_objectives")
    spec = {"total_steps": 2, "metadata": {"objective": "far_objectives:uneven", **SEARCH}}
    far = optimization_lifecycle.with_options(task_runner=runner)
    with prefect_client_settings(o9_testing.session_server()), Store(store_url) as store, using_store(store):
        try:
            await optimization_lifecycle(spec={**spec, "optimization_id": "here"}, return_state=True)
            await far(spec={**spec, "optimization_id": "there"}, return_state=True)
            assert len(ledger(store, "here")) == 8
            assert ledger(store, "here") == ledger(store, "there")
        finally:
            leave_store(store)


async def test_a_trial_that_takes_too_long_fails_and_the_others_go_on(open_far: Open) -> None:
    aggregator = await open_far()
    await aggregator.submit_optimization(optimization("hangs", "slow", total_steps=1, trial_timeout_seconds=1.0))
    assert (await ended(aggregator, "slow")).status is OptimizationStatus.COMPLETED
    states = {
        (trial.parameters["x"] < 0.5, trial.state.value) for trial in aggregator.store.read(queries.trials, "slow")
    }
    assert states == {(True, "failed"), (False, "completed")}


async def test_a_cancellation_ends_what_runs_there(open_far: Open, cluster: Cluster, async_wait_until: Any) -> None:
    aggregator = await open_far()
    before = set(cluster.folder.iterdir())
    await aggregator.submit_optimization(optimization("hangs", "cut"))
    await async_wait_until(lambda: set(cluster.folder.iterdir()) - before)
    pids = [int(path.name) for path in set(cluster.folder.iterdir()) - before]
    await aggregator.cancel_optimization("cut")
    assert (await ended(aggregator, "cut")).status is OptimizationStatus.CANCELLED
    await async_wait_until(lambda: not any(map(alive, pids)))
    states = {trial.state.value for trial in aggregator.store.read(queries.trials, "cut")}
    assert "cancelled" in states


async def test_workers_import_what_they_allow(open_far: Open) -> None:
    aggregator = await open_far()
    state = optimization("", "forbidden")
    state.metadata["objective"] = f"{child_objectives.__name__}:misbehave"
    await aggregator.submit_optimization(state)
    found = await ended(aggregator, "forbidden")
    assert found.status is OptimizationStatus.FAILED
    assert "O9_ALLOWED_IMPORTS" in str(found.issues)


@pytest.mark.parametrize("path", ["far_objectives:uneven", "far_objectives:nothing", "no_such_module:runner", "dask"])
def test_a_setting_that_names_no_task_runner_is_refused(path: str, set_o9: Callable[..., None]) -> None:
    set_o9(task_runner=path)
    with pytest.raises(OptimizationValidationError) as refused:
        configured_runner()
    assert refused.value.field == "O9_TASK_RUNNER"
