"""Updates what Prefect shows of an optimization's run: its name and tags, progress, best trials, and result.

It also emits the events of `o9.flows.events` for new bests, and for runs that Prefect started.

Contract. It never delays a step, and never fails the optimization: errors of Prefect are logged. Progress and trials
are written every SHOW_SECONDS at most; a run that ends before that shows its result only.
"""

from __future__ import annotations

import asyncio
import json
import logging
from typing import Any
from uuid import UUID

from prefect import get_client
from prefect.client.orchestration import PrefectClient
from prefect.client.schemas import filters
from prefect.client.schemas.actions import ArtifactCreate, ArtifactUpdate
from prefect.client.schemas.objects import FlowRun
from prefect.settings import PREFECT_UI_URL

from o9.flows.events import emit_improved, emit_status
from o9.flows.run_artifacts import artifact_key, result_line, result_markdown, run_name, run_tags, trials_table
from o9.health.checker import checker_for
from o9.health.grades import kept_verdict
from o9.health.series_runs import read_series
from o9.lifecycle.effect import direction_of
from o9.model.loops import ErrorBoundary, cancel_and_wait, periodic
from o9.model.optimization import OptimizationState, is_placebo
from o9.model.settings import report_page
from o9.model.states import OptimizationStatus, TrialState
from o9.model.urls import public_url
from o9.store import queries
from o9.store.store import Store

logger = logging.getLogger(__name__)
SHOW_SECONDS = 4.0
CLOSE_SECONDS = 10.0
TRIALS_SHOWN = 10
FAILED_SHOWN = 5
RUNS_SHOWN = 10


def run_page(flow_run_id: str) -> str:
    """The address of the run's page on the server that Prefect's settings name; empty where they name none."""
    pages = PREFECT_UI_URL.value()
    return f"{public_url(pages)}/runs/flow-run/{flow_run_id}" if pages else ""


class RunView:
    """The view of one attempt, in the event loop of its flow. by_prefect: name the run, which Prefect started."""

    def __init__(self, store: Store, optimization_id: str, flow_run: FlowRun, *, by_prefect: bool) -> None:
        self._store = store
        self._optimization_id = optimization_id
        self._flow_run = flow_run
        self._named = not by_prefect
        self._shown: tuple[Any, ...] | None = None
        self._artifacts: dict[str, UUID] | None = None
        self._looking: asyncio.Task[None] | None = None

    def start(self) -> None:
        boundary = ErrorBoundary(logger, "showing progress in Prefect")
        looking = periodic(self._look, SHOW_SECONDS, boundary, at_once=not self._named)
        self._looking = asyncio.create_task(looking, name=f"o9-view-{self._optimization_id}")

    async def close(self) -> None:
        """Show the last progress, if any was shown; name a short run. The result shows the best trials."""
        await cancel_and_wait(self._looking)
        if self._named and self._artifacts is None:
            return
        try:
            async with asyncio.timeout(CLOSE_SECONDS):
                await self._look(at_end=True)
        except Exception as error:  # noqa: BLE001 - any error of Prefect or the store
            logger.warning("the last progress of %s is not shown in Prefect: %r", self._optimization_id, error)

    async def _look(self, *, at_end: bool = False) -> None:
        state = await self._store.read_async(queries.get, self._optimization_id)
        if state is None:
            return
        async with get_client() as client:
            if not self._named:
                tags = sorted({*self._flow_run.tags, *run_tags(state)})
                await client.update_flow_run(self._flow_run.id, name=run_name(state), tags=tags)
                self._named = True
                await emit_status(self._store, self._optimization_id, OptimizationStatus.RUNNING)
                return
            reached = (state.completed_steps, state.progress, state.optimized_parameters)
            if reached != self._shown and not is_placebo(state.metadata):
                await self._show(client, state, trials=not at_end)
                if self._shown is not None and self._shown[-1] != state.optimized_parameters:
                    await emit_improved(self._store, self._optimization_id)
                self._shown = reached

    async def _show(self, client: PrefectClient, state: OptimizationState, *, trials: bool) -> None:
        if self._artifacts is None:
            self._artifacts = await _artifacts_of(client, self._flow_run.id)
        steps = f"{state.completed_steps} of {state.total_steps or '?'} steps"
        progress = ArtifactCreate(type="progress", data=round(100.0 * state.progress, 1), description=steps)
        await _put(client, progress, self._flow_run.id, self._artifacts)
        if trials and (table := await asyncio.to_thread(_trials_artifact, self._store, state)) is not None:
            await _put(client, table, self._flow_run.id, self._artifacts)


async def report_end(store: Store, optimization_id: str, flow_run_id: UUID, *, judge: bool = False) -> None:
    """Show the result of an attempt that Prefect started, and emit the event of its status. Never raises.

    judge: first check the result, by the record alone; this imports numpy and scipy.
    """
    try:
        if judge:
            await checker_for(store).check_optimization_health(optimization_id)
        await emit_status(store, optimization_id)
    except Exception as error:  # noqa: BLE001 - the optimization has ended regardless
        logger.warning("could not report the end of %s to Prefect: %r", optimization_id, error)
    await show_result(store, optimization_id, flow_run_id)


async def show_result(store: Store, optimization_id: str, flow_run_id: UUID) -> None:
    """Show the result and the best trials as artifacts of the flow run, replacing earlier ones. Never raises."""
    try:
        async with asyncio.timeout(CLOSE_SECONDS):
            artifacts = await asyncio.to_thread(_result_artifacts, store, optimization_id)
            if artifacts:
                async with get_client() as client:
                    known = await _artifacts_of(client, flow_run_id)
                    for artifact in artifacts:
                        await _put(client, artifact, flow_run_id, known)
    except Exception as error:  # noqa: BLE001 - any error of Prefect or the store
        logger.warning("the result of %s is not shown in Prefect: %r", optimization_id, error)


async def _artifacts_of(client: PrefectClient, flow_run_id: UUID) -> dict[str, UUID]:
    """The ids of the flow run's artifacts, by type: it has one of each."""
    mine = filters.ArtifactFilter(flow_run_id=filters.ArtifactFilterFlowRunId(any_=[flow_run_id]))
    return {str(found.type): found.id for found in await client.read_artifacts(artifact_filter=mine)}


async def _put(client: PrefectClient, artifact: ArtifactCreate, flow_run_id: UUID, known: dict[str, UUID]) -> None:
    kind = str(artifact.type)
    if kind in known:
        await client.update_artifact(known[kind], ArtifactUpdate(data=artifact.data, description=artifact.description))
    else:
        made = await client.create_artifact(artifact.model_copy(update={"flow_run_id": flow_run_id}))
        known[kind] = made.id


def _trials_artifact(store: Store, state: OptimizationState) -> ArtifactCreate | None:
    """The table of the best trials; None where no trial has succeeded. Blocks."""
    best = store.read(queries.best_trials, state.optimization_id, direction_of(state), limit=TRIALS_SHOWN)
    if not best:
        return None
    key, table = f"{artifact_key(state)}-trials", json.dumps(trials_table(best))
    return ArtifactCreate(type="table", key=key, data=table, description=f"The best trials of {run_name(state)}")


def _result_artifacts(store: Store, optimization_id: str) -> list[ArtifactCreate]:
    """The result, and the best trials; empty for placebo runs. Blocks."""
    state = store.read(queries.get, optimization_id)
    if state is None or is_placebo(state.metadata):
        return []
    verdict = kept_verdict(store, state)
    text = result_markdown(
        state,
        counts=store.read(queries.trial_counts, optimization_id),
        failed=store.read(queries.trials, optimization_id, limit=FAILED_SHOWN, state=TrialState.FAILED),
        verdict=verdict,
        series=read_series(store, state, limit=RUNS_SHOWN),
        report=report_page(optimization_id),
    )
    result = ArtifactCreate(
        type="markdown", key=artifact_key(state), data=text, description=result_line(state, verdict)
    )
    trials = _trials_artifact(store, state)
    return [result] if trials is None else [result, trials]
