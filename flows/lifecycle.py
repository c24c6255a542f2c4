"""One optimization's life as a Prefect flow: prepare, one task for each step, finalize.

Started by the aggregator, which holds the claim already, or by Prefect (a schedule, its UI, a worker), in
which case the flow claims the optimization itself, or waits for its turn without holding a worker. How an attempt
ends is Prefect's final state and ours alike:

| end             | Prefect                                                    | optimization |
| done            | Completed                                                  | completed    |
| an error        | Failed                                                     | failed       |
| paused          | Suspended, with a deployment; else Cancelled as `Paused`   | paused       |
| suspended by O9 | Cancelled as `Suspended`                                   | suspended    |
| cancelled       | Cancelled                                                  | cancelled    |
| out of time     | Failed as `TimedOut`                                       | timeout      |
| its node stops  | Cancelled as `Requeued`                                    | created      |
| was replaced    | Cancelled as `Replaced`                                    | is another attempt's |
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
from o9.flows.run_view import RunView, tell_end
from o9.lifecycle.control import control_of
from o9.mirror.interpretation import PREFECT, REPLACED, REQUEUED, SUSPENDED
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
HEAR_SECONDS = 1.0
ASK_SECONDS = 5.0  # a worker waits 30 s before it kills what it has asked to end
OptimizationSpec.model_rebuild()  # once: else Prefect's form and each reading would build it for themselves


async def mirror_last_flow_state(flow: Any, flow_run: Any, state: Any) -> None:
    """The state hook of ends. A crashed run that Prefect started is queued again: its process may live on, and would
    keep its lease.
    """
    await mirror_flow_state(flow, flow_run, state)
    live = _ends_here(flow_run.id)
    if live is None:
        return
    claimed = live.work.claimed
    if state.is_crashed():
        await live.work.store.write_async(AbandonClaim(claimed.optimization_id, claimed.fence, live.work.node))
    else:  # a process of its own: nothing else is held up while the result is judged
        await tell_end(live.work.store, claimed.optimization_id, flow_run.id, judge=True)


def _ends_here(flow_run_id: Any) -> LiveRun | None:
    """The end of a run that Prefect started; the dispatcher handles its own."""
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
    # Nothing is kept there. Left out, each run would stop the event loop to ask Prefect's server for a default, over a
    # connection that Prefect never closes.
    result_storage=PREFECT_LOCAL_STORAGE_PATH.value(),
    validate_parameters=False,
)
async def optimization_lifecycle(
    spec: Annotated[OptimizationSpec | None, AsForm()] = None, optimization_id: str = "", retry_of: str = ""
) -> Any:
    """Run one optimization.

    Args:
        spec: A new one, where none of the other two is given.
        optimization_id: One that was submitted.
        retry_of: One that has ended, to run once more as a new one.
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
            await at_end.enter_async_context(_looked_after(attempt, flow_run))
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
            logger.error("%s is queued again, as this process has run out of what it needs: %r", name, error)
            following = Continuation.REQUEUE
            await record_end(attempt, following)
    has_hook = following in (Continuation.DONE, Continuation.TIME_OUT)
    if not has_hook and _ends_here(flow_run.id) is not None:
        await tell_end(attempt.store, name, flow_run.id)
    if following is Continuation.REPLACED:
        return await _taken_from(attempt)
    if following is Continuation.PAUSE and may_be_suspended(flow_run):
        await suspend_until_resumed(attempt.store, name, flow_run)
    return results if following is Continuation.DONE else _end_state(following, attempt.asked_by)


async def _suspended_from_outside(attempt: Attempt, flow_run: FlowRun) -> None:
    """Somebody suspended the run in Prefect, which has ended it between two tasks."""
    name = attempt.claimed.optimization_id
    await attempt.end_reported()
    await attempt.write(SetIntent(name, Intent.PAUSE, PREFECT))
    attempt.asked_by = PREFECT
    await attempt.write(SetSuspendedRun(name, str(flow_run.id)))
    await record_end(attempt, Continuation.PAUSE)
    if _ends_here(flow_run.id) is not None:
        await tell_end(attempt.store, name, flow_run.id)


def _end_state(following: Continuation, asked_by: str) -> State[Any]:
    """Prefect's state for an attempt that ended, but is not done."""
    cancelled, used_up = StateType.CANCELLED, "metadata.timeout_seconds were used up"
    kind, name, message = {
        Continuation.PAUSE: (cancelled, "Paused", "paused; a resume goes on from here"),
        Continuation.SUSPEND: (cancelled, SUSPENDED, f"suspended by {asked_by or 'O9'}; it goes on by itself"),
        Continuation.CANCEL: (cancelled, None, f"cancelled through O9 {asked_by}".strip()),
        Continuation.TIME_OUT: (StateType.FAILED, "TimedOut", f"asked by {asked_by}" if asked_by else used_up),
        Continuation.REQUEUE: (cancelled, REQUEUED, "its node let it go; the next attempt goes on from here"),
    }[following]
    return State(type=kind, name=name, message=message)


async def _taken_from(attempt: Attempt) -> State[Any]:
    """The end of an attempt that lost its claim: the optimization was ended by hand, or another attempt runs it."""
    holding = await attempt.read(queries.holding, attempt.claimed.optimization_id)
    assert holding is not None
    status = OptimizationStatus(holding.status)
    if holding.attempt == attempt.claimed.attempt and status in ENDED:
        return ended_state(status, "ended from outside while this attempt was at work")
    message = f"attempt {holding.attempt} has taken the place of attempt {attempt.claimed.attempt}"
    return State(type=StateType.CANCELLED, name=REPLACED, message=message)


@asynccontextmanager
async def _looked_after(attempt: Attempt, flow_run: FlowRun) -> AsyncIterator[None]:
    """What an aggregator does for its own flows: read their intents, and watch the event loop. In a worker's process
    SIGTERM cuts the step off: Prefect cancels the run, or its worker ends."""
    store, name = attempt.store, attempt.claimed.optimization_id

    async def hear() -> None:
        holding = await store.read_async(queries.holding, name)
        if holding is not None:
            attempt.hear(Intent(holding.intent))

    boundary = ErrorBoundary(logger, f"reading what is wanted of {name}")
    hearing = asyncio.create_task(periodic(hear, HEAR_SECONDS, boundary))

    async def end() -> None:
        cancelled_there = False
        with ErrorBoundary(logger, "asking Prefect why this run is to end"):
            async with asyncio.timeout(ASK_SECONDS), get_client() as client:
                state = (await client.read_flow_run(flow_run.id)).state
            cancelled_there = state is not None and (state.is_cancelling() or state.is_cancelled())
        if cancelled_there:
            with suppress(OptimizationStateError):  # its end was asked for before
                await control_of(store).request(name, Intent.CANCEL, PREFECT)
        attempt.interrupt(Continuation.CANCEL if cancelled_there else Continuation.REQUEUE)

    watchdog = watchdog_for(store, attempt.node)
    watchdog.start()
    try:
        with on_sigterm(end) if flow_run.deployment_id is not None else nullcontext():
            yield
    finally:
        await cancel_and_wait(hearing)
        await asyncio.to_thread(watchdog.stop)
