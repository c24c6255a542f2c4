"""Ingests Prefect's event stream: actions in Prefect's UI, and the states that no hook reports.

Contract. Owned by one event loop. It reconnects for as long as it takes; the reconciler ingests what was missed
meanwhile. A state that may carry an intent (cancelled, paused, resumed) is ingested at once; the others together, half
a second later, when the run's own hooks have recorded most of them. The store is asked about an unknown run for
FOREIGN_SECONDS, because its first hook may be about to register it; then only after the run starts again, or a person
acts on it.
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
from o9.mirror.interpretation import may_ask
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
WAITING_LIMIT = 10_000  # states kept while the store is away; the reconciler takes those beyond


@dataclass
class _Waiting:
    """The states of one flow run that are to be ingested, by a task of its own."""

    states: list[ObservedState] = field(default_factory=list)
    at_once: asyncio.Event = field(default_factory=asyncio.Event)
    task: asyncio.Task[None] | None = None


class EventListener:
    """`request` records an intent, see `o9.mirror.ingest`."""

    def __init__(self, store: Store, node: str, *, request: Request) -> None:
        self._store = store
        self._node = node
        self._request = request
        self._listening: asyncio.Task[None] | None = None
        self._connected = asyncio.Event()
        # From when on a flow run that is not registered counts as foreign; never, for those that are registered.
        self._foreign_from: OrderedDict[str, float] = OrderedDict()
        self._waiting: dict[str, _Waiting] = {}
        self._count = 0

    async def start(self) -> None:
        """Listen to the server that Prefect's settings name here and now; returns before it is connected."""
        if self._listening is None:
            self._listening = asyncio.create_task(self._listen(), name="o9-events")

    async def stop(self) -> None:
        """What was received and not recorded yet is left to the reconciler."""
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
                        await self._hear(event)
            except Exception as error:  # noqa: BLE001 - the server may be gone, or say anything; listening must go on
                level = logging.DEBUG if failures else logging.WARNING
                logger.log(level, "lost Prefect's events, connecting again: %s", error or type(error).__name__)
            self._connected.clear()
            failures += 1
            await asyncio.sleep(RECONNECT.pause(failures))

    async def _hear(self, event: Any) -> None:
        found = observed_in(event)
        if found is None or RUNS.is_recorded(found[1].state_id):
            return
        flow_run_id, observed = found
        asks = may_ask(observed.run_kind, observed.state_type, observed.state_name)
        begins = asks or (observed.run_kind == FLOW and observed.state_type == "RUNNING")
        if self._is_foreign(flow_run_id, begins) or self._count >= WAITING_LIMIT:
            return
        waiting = self._waiting.get(flow_run_id)
        if waiting is None:
            waiting = self._waiting[flow_run_id] = _Waiting()
            waiting.task = asyncio.create_task(self._take(flow_run_id, waiting), name="o9-take")
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

    async def _take(self, flow_run_id: str, waiting: _Waiting) -> None:
        """Ingest what waits, and what comes meanwhile."""
        while waiting.states:
            with suppress(TimeoutError):
                async with asyncio.timeout(GATHER_SECONDS):
                    await waiting.at_once.wait()
            waiting.at_once.clear()
            heard = list(waiting.states)
            try:
                done = await self._take_now(flow_run_id, heard)
            except OptimizationStoreError as error:
                logger.warning("could not record states of flow run %s, trying again: %s", flow_run_id, error)
                await asyncio.sleep(AGAIN_SECONDS)
                continue
            except OptimizationNotFoundError as error:  # it was deleted meanwhile
                logger.debug("states of flow run %s concern nobody any more: %s", flow_run_id, error)
                done = True
            except Exception:  # whatever it was, what comes behind it is to be taken
                logger.exception("could not ingest states of flow run %s", flow_run_id)
                done = True
            if done:
                del waiting.states[: len(heard)]
                self._count -= len(heard)
        del self._waiting[flow_run_id]

    async def _take_now(self, flow_run_id: str, heard: list[ObservedState]) -> bool:
        """Whether they are dealt with: not while the run may still be registered."""
        # Asked again for each batch: an attempt that was suspended and resumed is the next one, on the same run.
        row = await self._store.read_async(queries.prefect_run, flow_run_id)
        if row is None:
            return not time.monotonic() < self._foreign_from.get(flow_run_id, inf) < inf
        self._foreign_from[flow_run_id] = inf
        await ingest(self._store, self._node, Run.of_row(row), heard, Cause.EVENT, request=self._request)
        return True


@asynccontextmanager
async def _entered(subscriber: Any) -> AsyncIterator[Any]:
    """`async with subscriber`, for a connection that is cut where it ends: with more than 16 unread messages, closing
    would wait 10 s for the server's answer; and where it is cancelled while it connects, Prefect 3.8 leaves it open."""
    try:
        yield await subscriber.__aenter__()
    finally:
        if (connection := getattr(subscriber._connect, "connection", None)) is not None:
            connection.transport.abort()
        await subscriber.__aexit__(None, None, None)
