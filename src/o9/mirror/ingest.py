"""Ingests states of Prefect's that were heard from outside the run: interprets them, and records what they mean."""

from __future__ import annotations

import logging
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any

from o9.mirror.interpretation import PREFECT, RunStatus, interpret, may_ask, on_the_way
from o9.mirror.observed_state import FLOW, ObservedState, Run, operation_for
from o9.mirror.run_registry import RUNS
from o9.model.errors import OptimizationError, OptimizationLifecycleError, OptimizationStateError, StaleAttemptError
from o9.model.states import Intent, OptimizationStatus
from o9.store import queries
from o9.store.core.column_types import moment
from o9.store.optimizations.prefect_runs import LostRun
from o9.store.optimizations.transitions import Cause, RecordPrefectState, Transition
from o9.store.queue.claims import MIRRORED
from o9.store.store import Store

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class Ingested:
    """How many states were new, and what somebody wanted by them."""

    states: int = 0
    intents: tuple[Intent, ...] = ()


# Records what somebody wants: (optimization id, intent, by). `o9.lifecycle.control.Control.request` is one.
Request = Callable[[str, Intent, str], Awaitable[Any]]


async def ingest(
    store: Store, node: str, heard: Sequence[tuple[Run, ObservedState]], source: Cause, *, request: Request
) -> Ingested:
    """Record the states of one optimization's runs that are missing, oldest first. Raises OptimizationError."""
    new = [(run, observed) for run, observed in heard if not RUNS.is_recorded(observed.state_id)]
    if not new:
        return Ingested()
    name = new[0][0].optimization_id
    known = await store.read_async(queries.known_states, name, [observed.state_id for _, observed in new])
    for _, observed in new:
        if observed.state_id in known:
            RUNS.remember(observed.state_id)
    new = sorted(
        ((run, observed) for run, observed in new if observed.state_id not in known), key=lambda pair: pair[1].at
    )
    intents: list[Intent] = []
    facts: list[tuple[Run, ObservedState]] = []
    for run, observed in new:
        if _needs_interpretation(observed):
            await _record(store, node, facts, source)  # what is older goes first
            facts = []
            if (intent := await _weigh(store, node, run, observed, heard, source, request)) is not None:
                intents.append(intent)
        else:
            facts.append((run, observed))
    await _record(store, node, facts, source)
    return Ingested(len(new), tuple(intents))


async def _record(store: Store, node: str, facts: Sequence[tuple[Run, ObservedState]], source: Cause) -> None:
    # All before the first answer: one transaction takes them.
    answers = [store.write_async(operation_for(observed, run, source, node)) for run, observed in facts]
    for (_, observed), answer in zip(facts, answers, strict=True):
        await answer
        RUNS.remember(observed.state_id)


def _needs_interpretation(observed: ObservedState) -> bool:
    """Whether it depends on how the optimization stands what the state means."""
    is_work = observed.run_kind == FLOW and observed.state_type in ("RUNNING", "COMPLETED")
    return is_work or may_ask(observed.run_kind, observed.state_type, observed.state_name)


async def _weigh(
    store: Store,
    node: str,
    run: Run,
    observed: ObservedState,
    heard: Sequence[tuple[Run, ObservedState]],
    source: Cause,
    request: Request,
) -> Intent | None:
    """Record a state by what it means now; answers with what somebody wanted by it."""
    holding = await store.read_async(queries.holding, run.optimization_id)
    if holding is None:
        raise OptimizationError(f"there is no optimization {run.optimization_id!r} any more")
    run_status = RunStatus(
        owner=run.owner,
        status=OptimizationStatus(holding.status),
        attempt=holding.attempt,
        run_attempt=run.attempt,
        suspended=holding.suspended_run_id == run.run_id,
        newest=await _is_newest(store, run, observed, heard),
    )
    read = interpret(run_status, observed.state_type, observed.state_name)
    if read.intent is not None:
        try:
            await request(run.optimization_id, read.intent, PREFECT)
        except OptimizationStateError:
            read = replace(read, intent=None)  # it has ended, or is about to, since it was read
        except OptimizationLifecycleError as error:
            logger.warning("what somebody did with %s in Prefect is not carried out: %s", run.optimization_id, error)
            read = replace(read, intent=None)
    if read.lost:
        evidence = f"Prefect says that its flow run crashed: {observed.message or 'no reason given'}"
        await store.write_async(LostRun(run.run_id, run.optimization_id, run.attempt, node, evidence))
    operation = operation_for(observed, run, source, node, moves=read.moves)
    if run_status.newest and (holding.lease_node is not None or run.owner == MIRRORED):
        await _catch_up(store, operation, run_status.status, holding.fence)
    await store.write_async(operation)
    RUNS.remember(observed.state_id)
    return read.intent


async def _catch_up(store: Store, operation: RecordPrefectState, status: OptimizationStatus, fence: int) -> None:
    """Move it to where the states before this one would have brought it, had they been heard first."""
    for step in on_the_way(status, operation.to):
        message = f"it must have been, since Prefect says {operation.state_name}"
        try:
            await store.write_async(
                Transition(
                    operation.optimization_id, step, operation.source, message, operation.node, fence=fence,
                    prefect_run_id=operation.run_id,
                )
            )  # fmt: skip
        except (OptimizationStateError, StaleAttemptError) as error:
            logger.debug("somebody else has moved it since: %s", error)
            return


async def _is_newest(
    store: Store, run: Run, observed: ObservedState, heard: Sequence[tuple[Run, ObservedState]]
) -> bool:
    """Whether nothing later is known of this flow run, from the store or from what was heard together with it."""
    if any(other.run_kind == FLOW and other.run_id == observed.run_id and other.at > observed.at for _, other in heard):
        return False
    last = await store.read_async(queries.last_state_at, run.optimization_id, observed.run_id)
    return last is None or last <= moment(observed.at)
