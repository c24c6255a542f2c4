"""Ingests Prefect's event stream: actions in Prefect's UI, and states that no hook reports.

Contract. Owned by one event loop. It reconnects until it succeeds; the reconciler ingests what was missed. A state that
may carry an intent (cancelled, paused, resumed) is ingested at once; others together after half a second, when the
run's own hooks have recorded most of them. The store is asked about an unknown run for FOREIGN_SECONDS, because the
run's first hook may be about to register it; after that only when the run starts again, or a person acts on it.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections import OrderedDict
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass, field
from math import inf
from typing import Any

from prefect.events.clients import get_events_subscriber
from prefect.events.filters import EventFilter, EventNameFilter

from o9.mirror.ingest import Request, ingest
from o9.mirror.interpretation import may_carry_intent
from o9.mirror.observed_state import FLOW, ObservedState, Run, observed_in
from o9.mirror.run_registry import RUNS
from o9.model.errors import OptimizationNotFoundError, OptimizationStoreError
from o9.model.loops import Backoff, cancel_and_wait
from o9.store import queries
from o9.store.optimizations.transitions import Cause
from o9.store.store import Store

logger = logging.getLogger(__name__)
GATHER_SECONDS = 0.5
AGAIN_SECONDS = 2.0  # after the store was away
FOREIGN_SECONDS = 5.0
RECONNECT = Backoff(0.2, 5.0)
REMEMBERED_RUNS = 10_000
WAITING_LIMIT = 10_000  # states kept while the store is away; the reconciler ingests further ones


@dataclass
class _Waiting:
    """The states of one flow run that wait to be ingested, by a task of its own."""

    states: list[ObservedState] = field(default_factory=list)
    at_once: asyncio.Event = field(default_factory=asyncio.Event)
    task: asyncio.Task[None] | None = None


class EventListener:
    """request: records an intent, see `o9.mirror.ingest`."""

    def __init__(self, store: Store, node: str, *, request: Request) -> None:
        self._store = store
        self._node = node
        self._request = request
        self._listening: asyncio.Task[None] | None = None
        self._connected = asyncio.Event()
        # When an unregistered flow run begins to count as foreign (monotonic time); infinity for registered ones.
        self._foreign_from: OrderedDict[str, float] = OrderedDict()
        self._waiting: dict[str, _Waiting] = {}
        self._count = 0

    async def start(self) -> None:
        """Start listening to the server that Prefect's settings name now; returns before it is connected."""
        if self._listening is None:
            self._listening = asyncio.create_task(self._listen(), name="o9-events")

    async def stop(self) -> None:
        """Stop listening. What is not recorded yet is left to the reconciler."""
        tasks = (self._listening, *(waiting.task for waiting in self._waiting.values()))
        self._listening, self._waiting, self._count = None, {}, 0
        await cancel_and_wait(*tasks)

    async def connected(self) -> None:
        """Returns once it receives events."""
        await self._connected.wait()

    async def _listen(self) -> None:
        names = EventFilter(event=EventNameFilter(prefix=["prefect.flow-run.", "prefect.task-run."]))
        failures = 0
        while True:
            try:
                async with _entered(get_events_subscriber(filter=names, reconnection_attempts=0)) as events:
                    failures = 0
                    self._connected.set()
                    async for event in events:
                        await self._receive(event)
            except Exception as error:  # noqa: BLE001 - the server may be gone, or send anything; the loop must continue
                level = logging.DEBUG if failures else logging.WARNING
                logger.log(level, "lost Prefect's events, connecting again: %s", error or type(error).__name__)
            self._connected.clear()
            failures += 1
            await asyncio.sleep(RECONNECT.pause(failures))

    async def _receive(self, event: Any) -> None:
        found = observed_in(event)
        if found is None or RUNS.is_recorded(found[1].state_id):
            return
        flow_run_id, observed = found
        asks = may_carry_intent(observed.run_kind, observed.state_type, observed.state_name)
        begins = asks or (observed.run_kind == FLOW and observed.state_type == "RUNNING")
        if self._is_foreign(flow_run_id, begins) or self._count >= WAITING_LIMIT:
            return
        waiting = self._waiting.get(flow_run_id)
        if waiting is None:
            waiting = self._waiting[flow_run_id] = _Waiting()
            waiting.task = asyncio.create_task(self._ingest_waiting(flow_run_id, waiting), name="o9-ingest")
        waiting.states.append(observed)
        self._count += 1
        if asks:
            waiting.at_once.set()

    def _is_foreign(self, flow_run_id: str, begins: bool) -> bool:
        now, foreign_from = time.monotonic(), self._foreign_from.get(flow_run_id)
        if foreign_from is None or (begins and foreign_from < inf):
            self._foreign_from[flow_run_id] = foreign_from = now + FOREIGN_SECONDS
            if len(self._foreign_from) > REMEMBERED_RUNS:
                self._foreign_from.popitem(last=False)
        return now >= foreign_from

    async def _ingest_waiting(self, flow_run_id: str, waiting: _Waiting) -> None:
        """Ingest the waiting states, and those that arrive meanwhile."""
        while waiting.states:
            with suppress(TimeoutError):
                async with asyncio.timeout(GATHER_SECONDS):
                    await waiting.at_once.wait()
            waiting.at_once.clear()
            states = list(waiting.states)
            try:
                done = await self._ingest_batch(flow_run_id, states)
            except OptimizationStoreError as error:
                logger.warning("could not record states of flow run %s, trying again: %s", flow_run_id, error)
                await asyncio.sleep(AGAIN_SECONDS)
                continue
            except OptimizationNotFoundError as error:  # deleted meanwhile
                logger.debug("states of flow run %s are dropped: %s", flow_run_id, error)
                done = True
            except Exception:  # later states must be ingested, whatever this was
                logger.exception("could not ingest states of flow run %s", flow_run_id)
                done = True
            if done:
                del waiting.states[: len(states)]
                self._count -= len(states)
        del self._waiting[flow_run_id]

    async def _ingest_batch(self, flow_run_id: str, states: list[ObservedState]) -> bool:
        """Whether the states are settled; not while the run may still be registered."""
        # Read for each batch: after a resume, the same run is another attempt.
        row = await self._store.read_async(queries.prefect_run, flow_run_id)
        if row is None:
            return not time.monotonic() < self._foreign_from.get(flow_run_id, inf) < inf
        self._foreign_from[flow_run_id] = inf
        await ingest(self._store, self._node, Run.of_row(row), states, Cause.EVENT, request=self._request)
        return True


@asynccontextmanager
async def _entered(subscriber: Any) -> AsyncIterator[Any]:
    """`async with subscriber`, but abort the connection at the end.

    With more than 16 unread messages, closing would wait 10 s for the server's answer; and Prefect 3.8 leaves a
    connection open that is cancelled while it connects.
    """
    try:
        yield await subscriber.__aenter__()
    finally:
        if (connection := getattr(subscriber._connect, "connection", None)) is not None:
            connection.transport.abort()
        await subscriber.__aexit__(None, None, None)
