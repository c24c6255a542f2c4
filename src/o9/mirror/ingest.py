"""Interprets and records states that Prefect reports, rather than the run's own hooks."""

from __future__ import annotations

import logging
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any

from o9.mirror.interpretation import PREFECT, RunStatus, Why, interpret, may_carry_intent, statuses_before
from o9.mirror.observed_state import FLOW, ObservedState, Run, operation_for
from o9.mirror.run_registry import RUNS
from o9.model.errors import (
    OptimizationLifecycleError,
    OptimizationNotFoundError,
    OptimizationStateError,
    StaleAttemptError,
)
from o9.model.states import Intent, OptimizationStatus
from o9.store import queries
from o9.store.core.column_types import moment
from o9.store.optimizations.prefect_runs import RecordLostRun, RejectRun
from o9.store.optimizations.transitions import Cause, RecordPrefectState, Transition
from o9.store.queue.claims import MIRRORED
from o9.store.store import Store

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class Ingested:
    """How many states were new, and the intents that they carried."""

    states: int = 0
    intents: tuple[Intent, ...] = ()


# Records an intent: (optimization id, intent, by). `o9.lifecycle.control.Control.request` is one.
Request = Callable[[str, Intent, str], Awaitable[Any]]


async def ingest(
    store: Store, node: str, run: Run, states: Sequence[ObservedState], source: Cause, *, request: Request
) -> Ingested:
    """Record the missing states of a flow run, its task runs and subflows, oldest first. Raises OptimizationError."""
    unknown = [observed.state_id for observed in states if not RUNS.is_recorded(observed.state_id)]
    if not unknown:
        return Ingested()
    for state_id in await store.read_async(queries.known_states, run.optimization_id, unknown):
        RUNS.remember(state_id)
    new = sorted((each for each in states if not RUNS.is_recorded(each.state_id)), key=lambda each: each.at)
    work = _Ingestion(store, node, run, states, source, request)
    intents: list[Intent] = []
    facts: list[ObservedState] = []
    for observed in new:
        if _needs_interpretation(observed):
            await work.record(facts)  # older ones go first
            facts = []
            if (intent := await work.interpret(observed)) is not None:
                intents.append(intent)
        else:
            facts.append(observed)
    await work.record(facts)
    return Ingested(len(new), tuple(intents))


def _needs_interpretation(observed: ObservedState) -> bool:
    """Whether the meaning depends on the optimization's status."""
    is_work = observed.run_kind == FLOW and observed.state_type in ("RUNNING", "COMPLETED")
    return is_work or may_carry_intent(observed.run_kind, observed.state_type, observed.state_name)


@dataclass(frozen=True)
class _Ingestion:
    store: Store
    node: str
    run: Run
    states: Sequence[ObservedState]
    source: Cause
    request: Request

    async def record(self, facts: Sequence[ObservedState]) -> None:
        # All are written before the first answer is awaited, so that one transaction takes them.
        answers = [self.store.write_async(operation_for(each, self.run, self.source, self.node)) for each in facts]
        for observed, answer in zip(facts, answers, strict=True):
            await answer
            RUNS.remember(observed.state_id)

    async def interpret(self, observed: ObservedState) -> Intent | None:
        """Record a state with its present meaning; returns the intent that it carries."""
        run = self.run
        holding = await self.store.read_async(queries.holding, run.optimization_id)
        if holding is None:
            raise OptimizationNotFoundError(f"optimization {run.optimization_id!r} was deleted")
        run_status = RunStatus(
            owner=run.owner,
            status=OptimizationStatus(holding.status),
            attempt=holding.attempt,
            run_attempt=run.attempt,
            suspended=holding.suspended_run_id == run.run_id,
            newest=await self._is_newest(observed),
        )
        read = interpret(run_status, observed.state_type, observed.state_name, observed.message)
        if read.intent is not None:
            try:
                await self.request(run.optimization_id, read.intent, PREFECT)
            except OptimizationStateError:
                read = replace(read, intent=None)  # it has ended since, or is about to
            except OptimizationLifecycleError as error:
                logger.warning("the action on %s in Prefect is not carried out: %s", run.optimization_id, error)
                read = replace(read, intent=None)
        if read.lost:
            evidence = f"Prefect reports that its flow run crashed: {observed.message or 'no reason given'}"
            await self.store.write_async(
                RecordLostRun(run.run_id, run.optimization_id, run.attempt, self.node, evidence)
            )
        if read.rejected:
            ended = operation_for(observed, run, self.source, self.node)
            why = f"its flow run ended before it began: {ended.issue or observed.message or observed.state_name}"
            counts = read.why is not Why.NO_SLOT
            await self.store.write_async(RejectRun(run.optimization_id, run.run_id, why, self.node, counts=counts))
        operation = operation_for(observed, run, self.source, self.node, moves=read.moves)
        if run_status.newest and (holding.lease_node is not None or run.owner == MIRRORED):
            await self._catch_up(operation, run_status.status, holding.fence)
        await self.store.write_async(operation)
        RUNS.remember(observed.state_id)
        return read.intent

    async def _catch_up(self, operation: RecordPrefectState, status: OptimizationStatus, fence: int) -> None:
        """Record the changes of status that the missing states before this one would have caused."""
        for step in statuses_before(status, operation.to):
            message = f"Prefect reports {operation.state_name}, which implies it"
            try:
                await self.store.write_async(
                    Transition(
                        operation.optimization_id, step, operation.source, message, operation.node, fence=fence,
                        prefect_run_id=operation.run_id,
                    )
                )  # fmt: skip
            except (OptimizationStateError, StaleAttemptError) as error:
                logger.debug("its status changed meanwhile: %s", error)
                return

    async def _is_newest(self, observed: ObservedState) -> bool:
        """Whether neither the store nor this report has a later state of this run."""
        others = (other for other in self.states if other.run_kind == FLOW and other.run_id == observed.run_id)
        if any(other.at > observed.at for other in others):
            return False
        last = await self.store.read_async(queries.last_state_at, self.run.optimization_id, observed.run_id)
        return last is None or last <= moment(observed.at)
