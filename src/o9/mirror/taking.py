"""Taking a state that was heard from outside: what it means by how the optimization stands, and what is written."""

from __future__ import annotations

import logging
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from o9.mirror.mapping import PREFECT, Standing, Why, may_be_a_wish, on_the_way, wish_of
from o9.mirror.run_registry import RUNS
from o9.mirror.seen import FLOW, Run, Seen, operation_for
from o9.model.errors import OptimizationError, OptimizationLifecycleError, OptimizationStateError, StaleAttemptError
from o9.model.states import Intent, OptimizationStatus
from o9.store.codec import moment
from o9.store.leases import MIRRORED
from o9.store.runs import LostRun
from o9.store.store import Store
from o9.store.transitions import Cause, RecordPrefectState, Transition

logger = logging.getLogger(__name__)


@dataclass
class Taken:
    """What came of it: how many states were new, and what somebody wanted by them."""

    states: int = 0
    intents: list[Intent] = field(default_factory=list)
    why: list[Why] = field(default_factory=list)

    def __iadd__(self, other: Taken) -> Taken:
        self.states += other.states
        self.intents += other.intents
        self.why += other.why
        return self


# Records what somebody wants: (optimization id, intent, by). `o9.lifecycle.control.Control.request` is one.
Request = Callable[[str, Intent, str], Awaitable[Any]]


async def take(store: Store, node: str, heard: Sequence[tuple[Run, Seen]], source: Cause, *, request: Request) -> Taken:
    """Record the states of one optimization's runs that are missing, oldest first. Raises OptimizationError."""
    new = [(run, seen) for run, seen in heard if not RUNS.is_recorded(seen.state_id)]
    if not new:
        return Taken()
    name = new[0][0].optimization_id
    known = await store.read_async(store.known_states, name)
    for _, seen in new:
        if seen.state_id in known:
            RUNS.remember(seen.state_id)
    new = sorted(((run, seen) for run, seen in new if seen.state_id not in known), key=lambda pair: pair[1].at)
    taken = Taken()
    telling: list[tuple[Run, Seen]] = []
    for run, seen in new:
        if _is_to_be_weighed(seen):
            await _record(store, node, telling, source)  # what is older goes first
            telling = []
            taken += await _weigh(store, node, run, seen, heard, source, request)
        else:
            telling.append((run, seen))
    await _record(store, node, telling, source)
    taken.states = len(new)
    return taken


async def _record(store: Store, node: str, telling: Sequence[tuple[Run, Seen]], source: Cause) -> None:
    # All before the first answer: one transaction takes them.
    answers = [store.write_async(operation_for(seen, run, source, node)) for run, seen in telling]
    for (_, seen), answer in zip(telling, answers, strict=True):
        await answer
        RUNS.remember(seen.state_id)


def _is_to_be_weighed(seen: Seen) -> bool:
    """Whether it depends on how the optimization stands what the state means."""
    tells_of_work = seen.run_kind == FLOW and seen.state_type in ("RUNNING", "COMPLETED")
    return tells_of_work or may_be_a_wish(seen.run_kind, seen.state_type, seen.state_name)


async def _weigh(
    store: Store, node: str, run: Run, seen: Seen, heard: Sequence[tuple[Run, Seen]], source: Cause, request: Request
) -> Taken:
    holding = await store.read_async(store.holding, run.optimization_id)
    if holding is None:
        raise OptimizationError(f"there is no optimization {run.optimization_id!r} any more")
    standing = Standing(
        owner=run.owner,
        status=OptimizationStatus(holding.status),
        attempt=holding.attempt,
        run_attempt=run.attempt,
        parked=holding.parked_run_id == run.run_id,
        newest=await _is_newest(store, run, seen, heard),
    )
    wish = wish_of(standing, seen.state_type, seen.state_name)
    if wish.intent is not None:
        try:
            await request(run.optimization_id, wish.intent, PREFECT)
        except OptimizationStateError:
            wish = replace(wish, intent=None)  # it has ended, or is about to, since it was read
        except OptimizationLifecycleError as error:
            logger.warning("what was asked of %s in Prefect is not done: %s", run.optimization_id, error)
            wish = replace(wish, intent=None)
    if wish.lost:
        evidence = f"Prefect says that its flow run crashed: {seen.message or 'no reason given'}"
        await store.write_async(LostRun(run.run_id, run.optimization_id, run.attempt, node, evidence))
    operation = operation_for(seen, run, source, node, moves=wish.moves)
    if standing.newest and (holding.lease_node is not None or run.owner == MIRRORED):
        await _catch_up(store, operation, standing.status, holding.fence)
    await store.write_async(operation)
    RUNS.remember(seen.state_id)
    return Taken(intents=[wish.intent] if wish.intent else [], why=[wish.why])


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


async def _is_newest(store: Store, run: Run, seen: Seen, heard: Sequence[tuple[Run, Seen]]) -> bool:
    """Whether nothing later is known of this flow run, from the store or from what was heard together with it."""
    if any(other.run_kind == FLOW and other.run_id == seen.run_id and other.at > seen.at for _, other in heard):
        return False
    rows = await store.read_async(store.prefect_states, run.optimization_id)
    at = moment(seen.at)
    return all(row["run_id"] != seen.run_id or row["at"] <= at for row in rows)
