"""Prefect's event stream into the store: what people do in Prefect's UI, and the states that no hook reports.

Contract. Owned by one event loop. It reconnects by itself for as long as it takes; what it missed meanwhile is the
reconciler's. A state that may be somebody's wish (cancelled, paused, resumed) is taken at once; the others half a
second later and together, when the run's own hooks have recorded most of them. Idle it costs nothing; a run that the
store does not know costs one read, and one more every UNKNOWN_SECONDS while it is busy.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections import OrderedDict
from collections.abc import Callable
from typing import Any

from prefect.events.clients import get_events_subscriber
from prefect.events.filters import EventFilter, EventNameFilter
from prefect.settings import PREFECT_API_URL

from o9.mirror.mapping import may_be_a_wish
from o9.mirror.recorder import is_recorded
from o9.mirror.seen import FLOW, Run, Seen, seen_in
from o9.mirror.taking import take
from o9.model.errors import OptimizationCoordinationError, OptimizationError, OptimizationStoreError
from o9.store.store import Store
from o9.store.transitions import Cause

logger = logging.getLogger(__name__)
GATHER_SECONDS = 0.5
AGAIN_SECONDS = 2.0  # after the store was away
UNKNOWN_SECONDS = 5.0
RECONNECT_SECONDS = (0.2, 0.5, 1.0, 2.0, 5.0)
REMEMBERED_RUNS = 10_000
WAITING_LIMIT = 10_000  # states kept while the store is away; the reconciler takes those beyond


class EventListener:
    """`on_heard(optimization_id)` is called, in the event loop, after what somebody wanted was recorded."""

    def __init__(self, store: Store, node: str, on_heard: Callable[[str], None]) -> None:
        self._store = store
        self._node = node
        self._on_heard = on_heard
        self._listening: asyncio.Task[None] | None = None
        self._connected = asyncio.Event()
        self._runs: OrderedDict[str, tuple[Run | None, float]] = OrderedDict()
        self._waiting: dict[str, list[tuple[Run, Seen]]] = {}
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
        tasks = {task for task in (self._listening, *self._taking.values()) if task is not None}
        self._listening = None
        self._taking = {}
        self._waiting, self._count = {}, 0
        for task in tasks:
            task.cancel()
        if tasks:
            await asyncio.wait(tasks)

    async def reconnect(self) -> None:
        """Listen to the server that the settings name now."""
        listening, self._listening = self._listening, None
        if listening is not None:
            listening.cancel()
            await asyncio.wait({listening})
        await self.start()

    async def connected(self) -> None:
        """Returns once it hears events."""
        await self._connected.wait()

    async def _listen(self) -> None:
        names = EventFilter(event=EventNameFilter(prefix=["prefect.flow-run.", "prefect.task-run."]))
        failures = 0
        while True:
            try:
                async with get_events_subscriber(filter=names, reconnection_attempts=0) as events:
                    failures = 0
                    self._connected.set()
                    async for event in events:
                        await self._hear(event)
            except Exception as error:  # noqa: BLE001 - the server may be gone, or say anything; listening must go on
                level = logging.DEBUG if failures else logging.WARNING
                logger.log(level, "lost Prefect's events, connecting again: %s", error or type(error).__name__)
            self._connected.clear()
            await asyncio.sleep(RECONNECT_SECONDS[min(failures, len(RECONNECT_SECONDS) - 1)])
            failures += 1

    async def _hear(self, event: Any) -> None:
        found = seen_in(event)
        if found is None or is_recorded(found[1].state_id):
            return
        flow_run_id, seen = found
        wish = may_be_a_wish(seen.run_kind, seen.state_type, seen.state_name)
        try:
            # A run becomes known about when it begins to run; and a wish is too dear to be missed for a stale answer.
            run = await self._run_of(flow_run_id, ask=wish or (seen.run_kind == FLOW and seen.state_type == "RUNNING"))
        except OptimizationStoreError as error:
            logger.warning("could not look up a flow run, its states are the reconciler's: %s", error)
            return
        if run is None or self._count >= WAITING_LIMIT:
            return
        self._waiting.setdefault(run.optimization_id, []).append((run, seen))
        self._count += 1
        self._take_soon(run.optimization_id, at_once=wish)

    async def _run_of(self, flow_run_id: str, *, ask: bool) -> Run | None:
        run, until = self._runs.get(flow_run_id, (None, 0.0))
        if (run is not None and not ask) or (run is None and not ask and time.monotonic() < until):
            return run
        row = await self._store.read_async(self._store.prefect_run, flow_run_id)
        run = Run.of_row(row) if row else None
        self._runs[flow_run_id] = run, time.monotonic() + UNKNOWN_SECONDS
        self._runs.move_to_end(flow_run_id)
        if len(self._runs) > REMEMBERED_RUNS:
            self._runs.popitem(last=False)
        return run

    def _take_soon(self, name: str, *, at_once: bool) -> None:
        task = self._taking.get(name)
        if task is not None and at_once and task.get_name() == "o9-gather":
            task.cancel()  # it only waits; what it waits with is taken now
            task = None
        if task is None:
            pause = 0.0 if at_once else GATHER_SECONDS
            self._taking[name] = asyncio.create_task(self._take(name, pause), name="o9-gather" if pause else "o9-take")

    async def _take(self, name: str, pause: float) -> None:
        if pause:
            await asyncio.sleep(pause)
        me = asyncio.current_task()
        assert me is not None
        me.set_name("o9-take")
        while heard := self._waiting.pop(name, []):
            try:
                taken = await take(self._store, self._node, heard, Cause.EVENT)
            except OptimizationStoreError as error:
                logger.warning("could not record what Prefect said of %s, trying again: %s", name, error)
                self._waiting[name] = heard + self._waiting.get(name, [])
                await asyncio.sleep(AGAIN_SECONDS)
                continue
            except OptimizationError:
                logger.exception("could not take what Prefect said of %s", name)
            else:
                if taken.intents:
                    self._on_heard(name)
            self._count -= len(heard)
        if self._taking.get(name) is me:
            del self._taking[name]
