"""One optimization's life as a Prefect flow: prepare, one task for each step, finalize.

An aggregator starts it with a claim. Started by Prefect (a schedule, the UI, a worker), the flow claims the
optimization itself, or waits for its turn without a worker. Prefect's final state and the optimization's status follow
from the end of the attempt:

| end             | Prefect                                                    | optimization |
| done            | Completed                                                  | completed    |
| an error        | Failed                                                     | failed       |
| paused          | Suspended, with a deployment; else Cancelled as `Paused`   | paused       |
| suspended by O9 | Cancelled as `Suspended`                                   | suspended    |
| cancelled       | Cancelled                                                  | cancelled    |
| out of time     | Failed as `TimedOut`                                       | timeout      |
| its node stops  | Cancelled as `Requeued`                                    | created      |
| replaced        | Cancelled as `Replaced`                                    | follows the other attempt |
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager, nullcontext, suppress
from contextvars import copy_context
from typing import Annotated, Any

from prefect import flow, get_client
from prefect.client.schemas.objects import FlowRun, State, StateType
from prefect.context import FlowRunContext
from prefect.exceptions import Pause
from prefect.settings import PREFECT_LOCAL_STORAGE_PATH

from o9.flows.admission import begin, ended_state, may_be_suspended, suspend_until_resumed
from o9.flows.form import AsForm
from o9.flows.hand_over import LIFECYCLE
from o9.flows.process import on_sigterm, run_begins, watchdog_for
from o9.flows.run_view import RunView, report_end
from o9.lifecycle.control import control_of
from o9.mirror.interpretation import PAUSED, PREFECT, REPLACED, REQUEUED, SUSPENDED
from o9.mirror.recorder import mirror_flow_state
from o9.mirror.run_registry import RUNS, LiveRun
from o9.model.errors import OptimizationStateError, StaleAttemptError
from o9.model.logs import bound
from o9.model.loops import ErrorBoundary, cancel_and_wait, is_exhausted, periodic
from o9.model.specification import OptimizationSpec
from o9.model.states import ENDED, Intent, OptimizationStatus
from o9.store import queries
from o9.store.optimizations.intents import SetIntent
from o9.store.optimizations.prefect_runs import SetSuspendedRun
from o9.store.queue.claims import AbandonClaim
from o9.tasks.attempt import Attempt, Continuation
from o9.tasks.steps import finalize, hold_out, prepare, record_end, run_step
from o9.tasks.trials import started_runner

logger = logging.getLogger(__name__)
INTENT_SECONDS = 1.0  # between two readings of the intent
ASK_SECONDS = 5.0  # a worker kills a run 30 s after SIGTERM
OptimizationSpec.model_rebuild()  # once; else Prefect's form and each use would build it again


async def mirror_last_flow_state(flow: Any, flow_run: Any, state: Any) -> None:
    """The hook for final states. Frees the claim of a crashed run that Prefect started, whose process may live on."""
    await mirror_flow_state(flow, flow_run, state)
    live = _ends_here(flow_run.id)
    if live is None:
        return
    claimed = live.work.claimed
    if state.is_crashed():
        await live.work.store.write_async(AbandonClaim(claimed.optimization_id, claimed.fence, live.work.node))
    else:  # the process has only this run, so judging the result delays nothing
        await report_end(live.work.store, claimed.optimization_id, flow_run.id, judge=True)


def _ends_here(flow_run_id: Any) -> LiveRun | None:
    """Remove a run that Prefect started from the registry; the dispatcher removes its own."""
    live = RUNS.find(flow_run_id)
    return RUNS.end(flow_run_id) if live is not None and live.by_prefect else None


@flow(
    name=LIFECYCLE,
    flow_run_name=None,
    on_running=[mirror_flow_state],
    on_completion=[mirror_last_flow_state],
    on_failure=[mirror_last_flow_state],
    on_crashed=[mirror_last_flow_state],
    on_cancellation=[mirror_last_flow_state],
    persist_result=False,
    # Nothing is stored there. Without it, each run would block the event loop to ask Prefect's server for a default,
    # over a connection that Prefect never closes.
    result_storage=PREFECT_LOCAL_STORAGE_PATH.value(),
    validate_parameters=False,
)
async def optimization_lifecycle(
    spec: Annotated[OptimizationSpec | None, AsForm()] = None, optimization_id: str = "", retry_of: str = ""
) -> Any:
    """Run one optimization.

    Args:
        spec: A new optimization, if neither of the other two is given.
        optimization_id: The id of one that was submitted.
        retry_of: The id of one that has ended, to run again as a new one.
    """
    context = FlowRunContext.get()
    assert context is not None
    assert context.flow_run is not None
    flow_run = context.flow_run
    run_begins()
    live = RUNS.find(flow_run.id)
    attempt = live.work if live is not None else await begin(flow_run, optimization_id, spec, retry_of)
    if not isinstance(attempt, Attempt):
        return attempt  # an end state
    name, following, results = attempt.claimed.optimization_id, Continuation.GO_ON, None
    logger.info("optimization %s, attempt %d", name, attempt.claimed.attempt)
    view = RunView(attempt.store, name, flow_run, by_prefect=live is None)
    view.start()
    async with AsyncExitStack() as at_end:
        at_end.enter_context(bound(optimization=name, attempt=attempt.claimed.attempt))
        at_end.push_async_callback(view.close)
        at_end.push_async_callback(attempt.close)
        if live is None:
            await at_end.enter_async_context(_supervised(attempt, flow_run))
        attempt.task_runner = await at_end.enter_async_context(started_runner(context.task_runner))
        try:
            prepared = await prepare(name)
            step, following = prepared["step"], Continuation(prepared["following"])
            attempt.context = copy_context()
            while following is Continuation.GO_ON:
                following = Continuation(await run_step(name, step))
                step = max(step + 1, attempt.next_step)
            if following is Continuation.DONE and attempt.holds_out:
                following = Continuation(await hold_out(name))
            if following is not Continuation.REPLACED:
                results = await finalize(name, following.value)
        except Pause:
            await _suspended_from_outside(attempt, flow_run)
            raise
        except StaleAttemptError as error:
            following = Continuation.REPLACED
            logger.warning("%s", error)
        except Exception as error:
            if not is_exhausted(error):
                raise
            logger.error("%s is queued again, because this process has run out of resources: %r", name, error)
            following = Continuation.REQUEUE
            await record_end(attempt, following)
    has_hook = following in (Continuation.DONE, Continuation.TIME_OUT)
    if not has_hook and _ends_here(flow_run.id) is not None:
        await report_end(attempt.store, name, flow_run.id)
    if following is Continuation.REPLACED:
        return await _replaced_state(attempt)
    if following is Continuation.PAUSE and may_be_suspended(flow_run):
        await suspend_until_resumed(attempt.store, name, flow_run)
    return results if following is Continuation.DONE else _end_state(following, attempt.asked_by)


async def _suspended_from_outside(attempt: Attempt, flow_run: FlowRun) -> None:
    """Record the pause of a run that was suspended in Prefect, which has ended it between two tasks."""
    name = attempt.claimed.optimization_id
    await attempt.end_reported()
    await attempt.write(SetIntent(name, Intent.PAUSE, PREFECT))
    attempt.asked_by = PREFECT
    await attempt.write(SetSuspendedRun(name, str(flow_run.id)))
    await record_end(attempt, Continuation.PAUSE)
    if _ends_here(flow_run.id) is not None:
        await report_end(attempt.store, name, flow_run.id)


def _end_state(following: Continuation, asked_by: str) -> State[Any]:
    """Prefect's state for an attempt that ended before the optimization was done."""
    cancelled, used_up = StateType.CANCELLED, "metadata.timeout_seconds were used up"
    kind, name, message = {
        Continuation.PAUSE: (cancelled, PAUSED, "paused; a resume continues from here"),
        Continuation.SUSPEND: (cancelled, SUSPENDED, f"suspended by {asked_by or 'O9'}; it resumes by itself"),
        Continuation.CANCEL: (cancelled, None, f"cancelled through O9 {asked_by}".strip()),
        Continuation.TIME_OUT: (StateType.FAILED, "TimedOut", f"asked by {asked_by}" if asked_by else used_up),
        Continuation.REQUEUE: (cancelled, REQUEUED, "its node stopped; the next attempt continues from here"),
    }[following]
    return State(type=kind, name=name, message=message)


async def _replaced_state(attempt: Attempt) -> State[Any]:
    """Prefect's state for an attempt that lost its claim to another one, or whose optimization was ended by hand."""
    holding = await attempt.read(queries.holding, attempt.claimed.optimization_id)
    assert holding is not None
    status = OptimizationStatus(holding.status)
    if holding.attempt == attempt.claimed.attempt and status in ENDED:
        return ended_state(status, "ended by hand while this attempt was running")
    message = f"attempt {holding.attempt} has taken the place of attempt {attempt.claimed.attempt}"
    return State(type=StateType.CANCELLED, name=REPLACED, message=message)


@asynccontextmanager
async def _supervised(attempt: Attempt, flow_run: FlowRun) -> AsyncIterator[None]:
    """Read intents, and watch the event loop, as an aggregator does for its own flows.

    In a worker's process, SIGTERM cuts off the step: Prefect cancels the run, or the worker stops.
    """
    store, name = attempt.store, attempt.claimed.optimization_id

    async def read_intent() -> None:
        holding = await store.read_async(queries.holding, name)
        if holding is not None:
            attempt.apply_intent(Intent(holding.intent))

    boundary = ErrorBoundary(logger, f"reading the intent for {name}")
    reading = asyncio.create_task(periodic(read_intent, INTENT_SECONDS, boundary))

    async def end() -> None:
        cancelled_there = False
        with ErrorBoundary(logger, "asking Prefect why this run must end"):
            async with asyncio.timeout(ASK_SECONDS), get_client() as client:
                state = (await client.read_flow_run(flow_run.id)).state
            cancelled_there = state is not None and (state.is_cancelling() or state.is_cancelled())
        if cancelled_there:
            with suppress(OptimizationStateError):  # its end was requested before
                await control_of(store).request(name, Intent.CANCEL, PREFECT)
        attempt.interrupt(Continuation.CANCEL if cancelled_there else Continuation.REQUEUE)

    watchdog = watchdog_for(store, attempt.node)
    watchdog.start()
    try:
        with on_sigterm(end) if flow_run.deployment_id is not None else nullcontext():
            yield
    finally:
        await cancel_and_wait(reading)
        await asyncio.to_thread(watchdog.stop)
