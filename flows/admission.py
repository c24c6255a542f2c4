"""Begins flow runs that Prefect started: submits or claims their optimization, or lets them wait without a worker.

Contract. A refused submission is recorded as a failed optimization. A scheduled run whose worker lacks its package is
scheduled again, for another worker; a recorded optimization that cannot run on this worker is queued again. A run of a
deployment that has to wait suspends itself: its process ends, Prefect shows Suspended, and the same run starts again
when O9 resumes it in its turn, or a person does in Prefect's UI. Prefect can suspend neither a run without a deployment
nor a subflow; these wait in their own process.
"""

from __future__ import annotations

import asyncio
import logging
import socket
import uuid
from collections.abc import Mapping
from datetime import timedelta
from importlib.util import find_spec
from typing import Any, NoReturn

from prefect import get_client
from prefect.client.schemas.objects import FlowRun, State
from prefect.exceptions import Pause
from prefect.flow_runs import asuspend_flow_run
from prefect.states import AwaitingRetry, Cancelled, Completed, Failed

from o9.blocks.store import current_store
from o9.flows.membership import join_store
from o9.flows.recurrence import replace_earlier_runs, skipped_state
from o9.flows.run_view import report_end
from o9.lifecycle.control import control_of
from o9.lifecycle.submission import record_refused, requested
from o9.mirror.interpretation import statuses_before
from o9.mirror.observed_state import FLOW, Run, observed_state, operation_for
from o9.mirror.run_registry import RUNS
from o9.model.errors import (
    OptimizationCoordinationError,
    OptimizationStrategyError,
    OptimizationValidationError,
)
from o9.model.optimization import utc_now
from o9.model.settings import settings
from o9.model.specification import OptimizationSpec
from o9.model.states import OptimizationStatus
from o9.model.templates import series_name
from o9.store import queries
from o9.store.optimizations.prefect_runs import MAX_REJECTIONS, Admission, BeginRun, RejectRun, SetSuspendedRun
from o9.store.optimizations.transitions import Cause, Transition
from o9.store.queue.claims import Claimed
from o9.store.store import Store
from o9.strategies.factory import create_strategy
from o9.strategies.registry import import_allowed
from o9.tasks.attempt import Attempt, wait_for_store
from o9.tasks.trials import configured_runner

logger = logging.getLogger(__name__)
LOOK_SECONDS = 1.0
RESCHEDULE_SECONDS = 15.0  # in which other workers ask for runs


async def begin(
    flow_run: FlowRun, optimization_id: str, spec: OptimizationSpec | Mapping[str, Any] | None, retry_of: str
) -> Attempt | State[Any]:
    """Submit the optimization if it is new, claim it, and record what Prefect knows of the run so far.

    Returns an end state where the optimization has ended already. Raises where another run holds it.
    """
    if optimization_id or retry_of:
        spec = None  # a deployment may have one as its default
    if sum(map(bool, (optimization_id, spec, retry_of))) != 1:
        raise OptimizationValidationError("optimization_id", "give one of optimization_id, spec and retry_of")
    configured_runner()  # raises for a wrong setting before anything is claimed
    store = await asyncio.to_thread(current_store)
    node = await asyncio.to_thread(join_store, store)
    known = await store.read_async(queries.prefect_run, str(flow_run.id))
    if known is not None:
        optimization_id = known["optimization_id"]  # the run was suspended
    elif spec:
        given = spec.model_dump(exclude_unset=True) if isinstance(spec, OptimizationSpec) else spec
        try:
            submitted = await _submit(store, flow_run, given)
        except OptimizationValidationError as error:
            if is_for_another_worker(flow_run, error, given):
                await _reschedule(flow_run, error)
            if flow_run.deployment_id is not None:  # nobody waits for the error, so alerts must report it
                refused = await record_refused(store, given, error, str(flow_run.id))
                await report_end(store, refused, flow_run.id)
            raise
        if isinstance(submitted, State):
            return submitted
        optimization_id = submitted
    elif retry_of:
        optimization_id = (await control_of(store).retry(retry_of, None, None, hold=True)).optimization_id
    claimed = await _wait_for_admission(store, optimization_id, flow_run, node)
    if not isinstance(claimed, Claimed):
        return claimed
    attempt = Attempt(store, claimed, node)
    if flow_run.deployment_id is not None:
        await _check_code(attempt, flow_run)
    live = attempt.live_run(flow_run.id, by_prefect=True)
    RUNS.begin(live)
    await _catch_up(attempt, live.run, flow_run)
    return attempt


async def _submit(store: Store, flow_run: FlowRun, given: Mapping[str, Any]) -> str | State[Any]:
    """Record a new optimization; returns its id, or an end state where a schedule's policy skips the run."""
    allowed, scheduled_for = settings().allowed_imports, flow_run.expected_start_time or utc_now()
    state = requested(given, allowed, scheduled_for=scheduled_for)
    recurs = {"series": series_name(given), "scheduled_at": scheduled_for.isoformat()}
    if flow_run.auto_scheduled:  # schedules made in Prefect's UI name no series
        state.metadata = recurs | state.metadata
    if (skipped := await skipped_state(flow_run)) is not None:
        return skipped
    await control_of(store).submit(state, allowed_imports=allowed, hold=True)
    await replace_earlier_runs(store, flow_run, state)
    return state.optimization_id


def is_for_another_worker(flow_run: FlowRun, error: OptimizationValidationError, given: Mapping[str, Any]) -> bool:
    """Whether the only fault of a scheduled run is that allowed packages are not installed here.

    False after MAX_REJECTIONS tries, and for a form, whose author waits for an answer.
    """
    if not flow_run.auto_scheduled or flow_run.run_count + 1 >= MAX_REJECTIONS:
        return False
    metadata = given.get("metadata")
    for fault in error.faults:
        path = metadata.get(fault.field.removeprefix("metadata.")) if isinstance(metadata, Mapping) else None
        module, colon, _ = path.partition(":") if isinstance(path, str) else ("", "", "")
        if not (colon and import_allowed(module, settings().allowed_imports)) or find_spec(module.partition(".")[0]):
            return False
    return True


async def _reschedule(flow_run: FlowRun, error: OptimizationValidationError) -> NoReturn:
    """Schedule the run again for the next worker; nothing is recorded yet."""
    message = f"a worker on {socket.gethostname()} cannot run it: {error}"
    logger.warning("%s is scheduled again for another worker: %s", flow_run.name, message)
    state: State[Any] = AwaitingRetry(scheduled_time=utc_now() + timedelta(seconds=RESCHEDULE_SECONDS), message=message)
    async with get_client() as client:
        await client.set_flow_run_state(flow_run.id, state, force=True)
    raise Pause(state=state)  # ends the process cleanly


async def _check_code(attempt: Attempt, flow_run: FlowRun) -> None:
    """Check that this worker has the strategy and the objective.

    If not, queue the optimization again, and raise OptimizationCoordinationError.
    """
    name = attempt.claimed.optimization_id
    state = await attempt.read(queries.get, name)
    assert state is not None
    try:
        create_strategy(state)
    except (OptimizationStrategyError, OptimizationValidationError) as error:
        why = f"a worker on {socket.gethostname()} cannot run it: {error}"
        await attempt.write(RejectRun(name, str(flow_run.id), why, attempt.node, attempt.claimed.fence))
        raise OptimizationCoordinationError(f"optimization {name!r} is queued again: {why}") from error


async def _catch_up(attempt: Attempt, run: Run, flow_run: FlowRun) -> None:
    """Record the states that Prefect has of the run, and that it runs now."""
    name = run.optimization_id
    async with get_client() as client:
        states = sorted(await client.read_flow_run_states(flow_run.id), key=lambda state: state.timestamp)
    # States from before a suspension, or a try on another worker, do not change the status of this attempt.
    breaks = (n for n, state in enumerate(states) if state.is_paused() or state.name == "AwaitingRetry")
    last_break = max(breaks, default=-1)
    for n, state in enumerate(states):
        observed = observed_state(FLOW, flow_run, state)
        await attempt.write(operation_for(observed, run, Cause.RECONCILER, attempt.node, moves=n > last_break))
    holding = await attempt.read(queries.holding, name)
    assert holding is not None
    status, running = OptimizationStatus(holding.status), OptimizationStatus.RUNNING
    # The event stream may have recorded them first, without effect, because no attempt held the optimization yet.
    for step in (*statuses_before(status, running), running) if status in _BEFORE_WORK else ():
        message = "its flow run is running"
        await attempt.write(
            Transition(
                name, step, Cause.RECONCILER, message, attempt.node, attempt.claimed.fence, prefect_run_id=run.run_id
            )
        )


_BEFORE_WORK = (OptimizationStatus.CREATED, OptimizationStatus.INITIALIZING)


async def _wait_for_admission(store: Store, optimization_id: str, flow_run: FlowRun, node: str) -> Claimed | State[Any]:
    """Wait for this run's turn; returns the claim, or an end state where the optimization has ended.

    Raises Prefect's Pause, which ends the process, where the run is suspended meanwhile, and
    OptimizationCoordinationError where another run holds the optimization.
    """
    deployment_id = str(flow_run.deployment_id) if flow_run.deployment_id is not None else None
    begin = BeginRun(optimization_id, str(flow_run.id), node, settings().lease_seconds, deployment_id)
    logged = False
    while True:
        admission, claimed = await wait_for_store(lambda: store.write_async(begin), optimization_id)
        if claimed is not None:
            return claimed
        holding = await store.read_async(queries.holding, optimization_id)
        assert holding is not None
        if admission is Admission.ENDED:
            again = f"`o9 retry {optimization_id}`, or a run with retry_of={optimization_id!r}, runs it again"
            message = f"{admission.value} ({holding.status}), so this run changes nothing; {again}"
            logger.warning("optimization %s: %s", optimization_id, message)
            return ended_state(OptimizationStatus(holding.status), message)
        if admission is Admission.HELD:
            raise OptimizationCoordinationError(
                f"optimization {optimization_id!r} cannot be started: it is {holding.status}, "
                f"held by {holding.lease_node}"
            )
        if admission is Admission.CALLED:
            await asyncio.sleep(LOOK_SECONDS)
            continue
        if may_be_suspended(flow_run):
            logger.info("%s: %s; suspended until its turn comes", optimization_id, admission.value)
            await _suspend(flow_run)
        if not logged:
            logger.info("%s: %s; waiting", optimization_id, admission.value)
            logged = True
        await asyncio.sleep(LOOK_SECONDS)


async def suspend_until_resumed(store: Store, optimization_id: str, flow_run: FlowRun) -> None:
    """Suspend the run of a paused optimization, so that a resume starts the same run again.

    Returns only where Prefect refuses to suspend it; then the next attempt is a new run.
    """
    run_id = str(flow_run.id)
    await wait_for_store(lambda: store.write_async(SetSuspendedRun(optimization_id, run_id)), optimization_id)
    await _suspend(flow_run)
    await wait_for_store(lambda: store.write_async(SetSuspendedRun(optimization_id, None)), optimization_id)


def may_be_suspended(flow_run: FlowRun) -> bool:
    return flow_run.deployment_id is not None and flow_run.parent_task_run_id is None


async def _suspend(flow_run: FlowRun) -> None:
    try:
        # A unique key: Prefect suspends a run once for each key, and its default keys start from 0 in each process.
        await asuspend_flow_run(key=uuid.uuid4().hex)
    except RuntimeError as error:
        logger.warning("Prefect refused to suspend flow run %s: %s", flow_run.name, error)


def ended_state(status: OptimizationStatus, message: str) -> State[Any]:
    """Prefect's state for an optimization that has ended."""
    if status is OptimizationStatus.COMPLETED:
        return Completed(message=message)
    if status is OptimizationStatus.CANCELLED:
        return Cancelled(message=message)
    return Failed(name="TimedOut" if status is OptimizationStatus.TIMEOUT else None, message=message)
