"""One optimization's life as a Prefect flow: prepare, one task for each step, finalize.

Started by the aggregator, which holds the claim already, or by Prefect (a schedule, its UI, a worker), in
which case the flow claims the optimization itself. How an attempt ends is Prefect's final state and ours alike:

| end             | Prefect               | optimization |
| done            | Completed             | completed    |
| an error        | Failed                | failed       |
| paused          | Cancelled as `Paused` | paused       |
| cancelled       | Cancelled             | cancelled    |
| out of time     | Failed as `TimedOut`  | timeout      |
| its node stops  | Cancelled as `Requeued` | created    |
"""

from __future__ import annotations

import asyncio
import logging
from typing import Any

from prefect import flow, get_client
from prefect.client.schemas.objects import State, StateType
from prefect.context import FlowRunContext
from prefect.settings import PREFECT_LOCAL_STORAGE_PATH
from prefect.states import Cancelled, Failed

from o9.blocks.store import current_store
from o9.flows.presence import appear
from o9.lifecycle.submission import new_optimization, submit
from o9.mirror.mapping import REQUEUED
from o9.mirror.recorder import Tracked, mirror_flow_state, record_state, track, untrack
from o9.model.errors import OptimizationError, OptimizationValidationError
from o9.model.logs import bound
from o9.model.settings import settings
from o9.model.states import Intent
from o9.store.leases import Claim, Lost
from o9.store.transitions import Cause
from o9.tasks.attempt import Attempt, Verdict, find, forget, register
from o9.tasks.run_logs import forward_to_prefect
from o9.tasks.steps import finalize, prepare, run_step

logger = logging.getLogger(__name__)
HEAR_SECONDS = 1.0


_claimed_here: dict[Any, Attempt] = {}


async def mirror_last_flow_state(flow: Any, flow_run: Any, state: Any) -> None:
    """The state hook of ends. A crashed run that Prefect started is queued again: its process may live on, and would
    keep its lease for ever."""
    await mirror_flow_state(flow, flow_run, state)
    attempt = _claimed_here.get(flow_run.id)
    if attempt is not None:
        _let_go(flow_run.id)
        if state.is_crashed():
            await attempt.store.write_async(Lost(attempt.claimed.optimization_id, attempt.claimed.fence, attempt.node))


def _let_go(flow_run_id: Any) -> None:
    if _claimed_here.pop(flow_run_id, None) is not None:
        untrack(flow_run_id)


@flow(
    name="optimization-lifecycle",
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
async def optimization_lifecycle(optimization_id: str | None = None, spec: dict[str, Any] | None = None) -> Any:
    """Run one optimization: one that was submitted, by its id, or a new one, by its fields (`spec`)."""
    context = FlowRunContext.get()
    assert context is not None
    assert context.flow_run is not None
    flow_run_id = context.flow_run.id
    forward_to_prefect()
    attempt, hearing = find(flow_run_id), None
    if attempt is None:
        attempt = await _claim(flow_run_id, optimization_id, spec)
        hearing = asyncio.create_task(_hear_cancellation(attempt))
    name = attempt.claimed.optimization_id
    with bound(optimization=name, attempt=attempt.claimed.attempt):
        try:
            begun = await prepare(name)
            step, verdict = begun["step"], Verdict.GO_ON
            if begun["total_steps"] and step >= begun["total_steps"]:
                verdict = Verdict.DONE  # it died between its last step and its end
            while verdict is Verdict.GO_ON:
                verdict = Verdict(await run_step(name, step))
                step += 1
            results = await finalize(name, verdict.value)
        finally:
            if hearing is not None:
                hearing.cancel()
                await asyncio.wait({hearing})
            if attempt.strategy is not None and attempt.strategy.kind == "steps":
                await attempt.strategy.close()
            forget(flow_run_id)
    if verdict in (Verdict.PAUSE, Verdict.CANCEL):  # for which Prefect calls no hook
        _let_go(flow_run_id)
    return results if verdict is Verdict.DONE else _END_STATES[verdict]()


_END_STATES: dict[Verdict, Any] = {
    Verdict.PAUSE: lambda: State(type=StateType.CANCELLED, name="Paused", message="paused; a resume goes on from here"),
    Verdict.CANCEL: lambda: Cancelled(message="cancelled through O9"),
    Verdict.TIME_OUT: lambda: Failed(name="TimedOut", message="metadata.timeout_seconds were used up"),
    Verdict.REQUEUE: lambda: State(type=StateType.CANCELLED, name=REQUEUED, message="its node was stopped"),
}


async def _claim(flow_run_id: Any, optimization_id: str | None, spec: dict[str, Any] | None) -> Attempt:
    """Started by Prefect itself: create what is asked for, claim it, and take over what Prefect recorded so far."""
    if (optimization_id is None) == (spec is None):
        raise OptimizationValidationError("optimization_id", "give either an optimization_id or a spec")
    store = await asyncio.to_thread(current_store)
    node = await asyncio.to_thread(appear, store)
    if spec is not None:
        state = new_optimization(spec)
        await submit(store, state, node=node, allowed_imports=settings().allowed_imports)
        optimization_id = state.optimization_id
    claimed = await store.write_async(Claim(node, 0, settings().lease_seconds, optimization_id))
    assert claimed is not None
    attempt = Attempt(store, claimed, node)
    register(flow_run_id, attempt)
    _claimed_here[flow_run_id] = attempt
    tracked = Tracked(store, claimed.optimization_id, claimed.attempt, node)
    async with get_client() as client:
        flow_run = await client.read_flow_run(flow_run_id)
        for state_so_far in await client.read_flow_run_states(flow_run_id):
            await record_state(tracked, "flow", flow_run, state_so_far, Cause.RECONCILER)
    track(flow_run_id, tracked)
    return attempt


async def _hear_cancellation(attempt: Attempt) -> None:
    """Cut the attempt off when somebody cancels it: no aggregator listens for a flow that Prefect started."""
    store, name = attempt.store, attempt.claimed.optimization_id
    while True:
        await asyncio.sleep(HEAR_SECONDS)
        try:
            holding = await store.read_async(store.holding, name)
        except OptimizationError:
            logger.exception("could not read what is wanted of %s; trying again in %s s", name, HEAR_SECONDS)
            continue
        if holding is not None and holding.intent == Intent.CANCEL.value:
            attempt.interrupt(Verdict.CANCEL)
            return


def end_attempt(flow_run_id: Any) -> None:
    """Forget a flow run that has ended in this process."""
    forget(flow_run_id)
    untrack(flow_run_id)
