"""Helpers of the contract's tests."""

from __future__ import annotations

import asyncio
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

from o9.model.optimization import OptimizationState, strategy_of, utc_now
from o9.model.states import (
    ENDED,
    TRANSITIONS,
    Intent,
    OptimizationPriority,
    OptimizationStatus,
    OptimizationType,
    TrialState,
)
from o9.model.trial import Trial
from o9.store import queries
from o9.store.core.unit import Operation, UnitOfWork
from o9.store.optimizations.queries import Holding
from o9.store.optimizations.transitions import Cause, Create, Transition
from o9.store.queue.claims import Claim, Claimed, Sweep
from o9.store.store import Store

OpenStore = Callable[[], Store]
S = OptimizationStatus


def new(optimization_id: str, **fields: Any) -> OptimizationState:
    """Return a state that can be submitted."""
    now = utc_now()
    standard: dict[str, Any] = {
        "name": "name",
        "description": "",
        "optimization_type": OptimizationType.PARAMETER_TUNING,
        "status": S.CREATED,
        "priority": OptimizationPriority.NORMAL,
        "created_at": now,
        "updated_at": now,
    }
    return OptimizationState(optimization_id, **(standard | fields))


def put(store: Store, optimization_id: str, **fields: Any) -> OptimizationState:
    return store.write(Create(new(optimization_id, **fields)))[0]


def at_work(store: Store, optimization_id: str, *, lease_seconds: float = 600.0, **fields: Any) -> Claimed:
    """Create, claim and start an optimization. With negative `lease_seconds` its lease is expired from the start."""
    put(store, optimization_id, **fields)
    claimed = store.write(Claim("node-1", 1000, lease_seconds, optimization_id))
    assert claimed is not None
    for status in (S.INITIALIZING, S.RUNNING):
        store.write(Transition(optimization_id, status, Cause.HOOK, fence=claimed.fence))
    return claimed


def sweep(store: Store, node: str) -> list[str]:
    """Free the leases that have expired by the database's clock."""
    return store.write(Sweep(node, run_out=store.read(queries.leases).run_out))


def bring_to(store: Store, optimization_id: str, status: OptimizationStatus) -> None:
    """Create an optimization, and move it to `status` by the shortest way."""
    put(store, optimization_id)
    ways: list[list[OptimizationStatus]] = [[S.CREATED]]
    way = next(way for way in ways if _reaches(way, status, ways))
    for stop in way[1:]:
        store.write(Transition(optimization_id, stop, Cause.HOOK))


def _reaches(way: list[OptimizationStatus], status: OptimizationStatus, ways: list[list[OptimizationStatus]]) -> bool:
    ways += [[*way, onward] for onward in sorted(TRANSITIONS[way[-1]]) if onward not in way]
    return way[-1] is status


def trial(number: int, *, step: int = 0, **fields: Any) -> Trial:
    standard: dict[str, Any] = {"state": TrialState.COMPLETED, "parameters": {"x": number}, "value": float(number)}
    return Trial(number=number, step=step, **(standard | fields))


@dataclass(frozen=True)
class Everything:
    """All that a store has of an optimization."""

    state: OptimizationState | None
    holding: Holding | None
    transitions: list[dict[str, Any]]
    trials: list[Trial]
    checkpoint: dict[str, Any] | None
    metrics: list[dict[str, Any]]
    prefect_states: list[dict[str, Any]]
    last_change: int


def record_of(store: Store, optimization_id: str) -> Everything:
    """Return all that a store has of an optimization, without what changes with time, to compare with later."""
    state = store.read(queries.get, optimization_id)
    if state is not None:
        state.execution_time = 0.0
    return Everything(
        state,
        store.read(queries.holding, optimization_id),
        store.read(queries.transitions, optimization_id),
        store.read(queries.trials, optimization_id),
        store.read(queries.checkpoint, optimization_id),
        store.read(queries.metrics, optimization_id),
        store.read(queries.prefect_states, optimization_id),
        store.read(queries.last_change),
    )


def intent_of(store: Store, optimization_id: str) -> Intent:
    holding = store.read(queries.holding, optimization_id)
    assert holding is not None
    return Intent(holding.intent)


def status_of(store: Store, optimization_id: str) -> OptimizationStatus:
    state = store.read(queries.get, optimization_id)
    assert state is not None
    return state.status


@contextmanager
def refused(kind: type[Exception], *words: str) -> Iterator[None]:
    """Assert that the block raises `kind` with a message that has all the words."""
    try:
        yield
    except kind as error:
        said = str(error)
    else:
        raise AssertionError(f"{kind.__name__} was not raised")
    missing = [word for word in words if word not in said]
    assert not missing, f"{said!r} does not say {missing}"


def wait_for(condition: Callable[[], Any], seconds: float = 10.0) -> None:
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, f"it did not happen within {seconds} s"
        time.sleep(0.01)


def assert_counts_are_true(store: Store) -> None:
    """The global counts equal a recount, and every end is in the rollups once."""
    states = store.read(queries.page, limit=1000).items
    recount = Counter((s.optimization_type.value, strategy_of(s.metadata), s.status.value) for s in states)
    counted = {
        (row["optimization_type"], row["strategy"], row["status"]): row["count"] for row in store.read(queries.counts)
    }
    assert counted == dict(recount)
    ended = Counter(state.status.value for state in states if state.status in ENDED)
    rolled: Counter[str] = Counter()
    for key, sums in store.read(queries.totals):
        rolled[key.status] += sums.count
    assert rolled == ended


@dataclass(frozen=True)
class Gate:
    """An operation that blocks the writer until `opened`, so that later writes form one group."""

    opened: threading.Event
    targets: tuple[str, ...] = field(default=())

    def apply(self, unit: UnitOfWork) -> bool:
        return self.opened.wait(10.0)


def together(store: Store, operations: list[Operation[Any]]) -> list[Any]:
    """Write the operations in one group, and return the answer or error of each."""

    async def write_all() -> list[Any]:
        opened = threading.Event()
        writes = [asyncio.ensure_future(store.write_async(each)) for each in (Gate(opened), *operations)]
        await asyncio.sleep(0)  # let each write join the queue
        opened.set()
        return (await asyncio.gather(*writes, return_exceptions=True))[1:]

    return asyncio.run(write_all())
