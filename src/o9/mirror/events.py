"""Ingests Prefect's event stream: what people do in Prefect's UI, and the states that no hook reports.

Contract. Owned by one event loop. It reconnects for as long as it takes; the reconciler ingests what was missed
meanwhile. A state that may carry an intent (cancelled, paused, resumed) is ingested at once; the others together, half
a second later, when the run's own hooks have recorded most of them. It costs nothing while nothing happens. The store
is asked about an unknown run for FOREIGN_SECONDS, because its first hook may be about to register it, and then no more
until the run starts again or a person acts on it.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections import OrderedDict
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass
from typing import Any

from prefect.events.clients import get_events_subscriber
from prefect.events.filters import EventFilter, EventNameFilter
from prefect.settings import PREFECT_API_URL
from websockets.exceptions import WebSocketException

from o9.mirror.ingest import Request, ingest
from o9.mirror.interpretation import may_ask
from o9.mirror.observed_state import FLOW, ObservedState, Run, observed_in
from o9.mirror.run_registry import RUNS
from o9.model.errors import OptimizationCoordinationError, OptimizationStoreError
from o9.model.loops import Backoff, cancelled
from o9.store.optimizations.transitions import Cause
from o9.store.store import Store

logger = logging.getLogger(__name__)
GATHER_SECONDS = 0.5
CONNECT_SECONDS = 5.0
AGAIN_SECONDS = 2.0  # after the store was away
FOREIGN_SECONDS = 5.0
RECONNECT = Backoff(0.2, 5.0)
REMEMBERED_RUNS = 10_000
WAITING_LIMIT = 10_000  # states kept while the store is away; the reconciler takes those beyond


@dataclass
class _Known:
    """Whose a flow run is; while that is None, it is asked again up to the moment `until`."""

    run: Run | None
    until: float


class EventListener:
    """`request` records what somebody wants, see `o9.mirror.ingest`."""

    def __init__(self, store: Store, node: str, *, request: Request) -> None:
        self._store = store
        self._node = node
        self._request = request
        self._listening: asyncio.Task[None] | None = None
        self._connected = asyncio.Event()
        self._runs: OrderedDict[str, _Known] = OrderedDict()
        self._waiting: dict[str, list[ObservedState]] = {}
        self._count = 0
        self._taking: dict[str, asyncio.Task[None]] = {}

    async def start(self) -> None:
        """Listen to the server that Prefect's settings name here and now; returns before it is connected.

        Raises OptimizationCoordinationError where they name none.
        """
        if self._listening is None:
            if not PREFECT_API_URL.value():
                raise OptimizationCoordinationError("no Prefect server to listen to: set PREFECT_API_URL")
            self._listening = asyncio.create_task(self._listen(), name="o9-events")

    async def stop(self) -> None:
        """What was heard and not recorded yet is the reconciler's."""
        tasks = (self._listening, *self._taking.values())
        self._listening, self._taking = None, {}
        self._waiting, self._count = {}, 0
        await cancelled(*tasks)

    async def reconnect(self) -> None:
        """Listen to the server that the settings name now."""
        listening, self._listening = self._listening, None
        await cancelled(listening)
        await self.start()

    async def connected(self) -> None:
        """Returns once it hears events."""
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
        self._waiting.setdefault(flow_run_id, []).append(observed)
        self._count += 1
        self._take_soon(flow_run_id, at_once=asks)

    def _is_foreign(self, flow_run_id: str, begins: bool) -> bool:
        known = self._runs.get(flow_run_id)
        if known is None:
            known = self._runs[flow_run_id] = _Known(None, time.monotonic() + FOREIGN_SECONDS)
            if len(self._runs) > REMEMBERED_RUNS:
                self._runs.popitem(last=False)
        elif begins and known.run is None:
            known.until = time.monotonic() + FOREIGN_SECONDS
        return known.run is None and time.monotonic() >= known.until

    def _take_soon(self, flow_run_id: str, *, at_once: bool) -> None:
        task = self._taking.get(flow_run_id)
        if task is not None and at_once and task.get_name() == _GATHERING:
            task.cancel()  # it only waits; what it waits with is taken now
            task = None
        if task is None or task.done():
            pause = 0.0 if at_once else GATHER_SECONDS
            name = _GATHERING if pause else _TAKING
            self._taking[flow_run_id] = asyncio.create_task(self._take(flow_run_id, pause), name=name)

    async def _take(self, flow_run_id: str, pause: float) -> None:
        me = asyncio.current_task()
        assert me is not None
        await asyncio.sleep(pause)
        me.set_name(_TAKING)
        while heard := self._waiting.get(flow_run_id):
            try:
                done = await self._take_now(flow_run_id, list(heard))
            except OptimizationStoreError as error:
                logger.warning("could not record states of flow run %s, trying again: %s", flow_run_id, error)
                await asyncio.sleep(AGAIN_SECONDS)
            except Exception:  # whatever it was, what comes behind it is to be taken
                logger.exception("could not ingest states of flow run %s", flow_run_id)
                done = len(heard)
                self._forget(flow_run_id, done)
            else:
                self._forget(flow_run_id, done)
                if not done:
                    await asyncio.sleep(GATHER_SECONDS)
        if self._taking.get(flow_run_id) is me:
            del self._taking[flow_run_id]

    async def _take_now(self, flow_run_id: str, heard: list[ObservedState]) -> int:
        """How many of them are done with: none while nobody has said yet whose the run is."""
        known = self._runs.get(flow_run_id) or _Known(None, 0.0)
        # Asked again for each batch: an attempt that was suspended and resumed is the next one, on the same run.
        row = await self._store.read_async(self._store.prefect_run, flow_run_id)
        known.run = Run.of_row(row) if row else None
        if known.run is None:
            return len(heard) if time.monotonic() >= known.until else 0
        found = [(known.run, observed) for observed in heard]
        await ingest(self._store, self._node, found, Cause.EVENT, request=self._request)
        return len(heard)

    def _forget(self, flow_run_id: str, count: int) -> None:
        waiting = self._waiting[flow_run_id]
        del waiting[:count]
        self._count -= count
        if not waiting:
            del self._waiting[flow_run_id]


_GATHERING, _TAKING = "o9-gather", "o9-take"


@asynccontextmanager
async def _entered(subscriber: Any) -> AsyncIterator[Any]:
    """`async with subscriber`, for one that leaves its connection open where it is cancelled while it connects."""
    entering = asyncio.ensure_future(subscriber.__aenter__())
    try:
        await asyncio.shield(entering)
        yield subscriber
    finally:
        if not entering.done():
            await asyncio.wait({entering}, timeout=CONNECT_SECONDS)
        entering.cancel()
        unread = asyncio.ensure_future(_read_out(subscriber._websocket))
        try:
            await subscriber.__aexit__(None, None, None)
        finally:
            unread.cancel()
            await asyncio.wait({unread})


async def _read_out(connection: Any) -> None:
    """Behind 16 unread messages a closing connection never hears the server's goodbye, and waits 10 s for it."""
    if connection is not None:
        with suppress(WebSocketException):
            async for _ in connection:
                pass
