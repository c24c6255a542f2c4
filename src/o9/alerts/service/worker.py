"""What runs on a node while its alert system is started: deciding, if it leads, and sending, in any case.

Contract. Owned by one event loop. A store that is away, a file that is refused and a channel that fails are said once,
and tried again; nothing here ends but by `stop`, which leaves nothing behind: what waits is sent by another node, or at
the next start.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import time
from collections.abc import Awaitable, Callable
from math import inf
from typing import Any

from o9.alerts.channels.registry import ChannelRegistry, channel_name
from o9.alerts.config.loader import AlertsFile
from o9.alerts.config.schema import Configuration
from o9.alerts.service.delivery import Delivery
from o9.alerts.service.leader import Leader, Ticked
from o9.model.errors import OptimizationError
from o9.model.loops import ErrorBoundary
from o9.store import queries
from o9.store.store import Store

logger = logging.getLogger(__name__)
LOOK_SECONDS = 1.0  # for alerts of other processes, and for a leader that has gone
MISSING_SECONDS = 10.0  # a channel that no node has: a program registers its own after it has started
TICK_PAUSE_SECONDS = 0.05  # between two decisions, so that what arrives meanwhile is decided together


class Running:
    """`ended` gets the episodes that expired, `tried` each attempt of this node."""

    def __init__(
        self,
        store: Store,
        node: str,
        lease_seconds: float,
        file: AlertsFile,
        registry: ChannelRegistry,
        ended: Callable[[tuple[str, ...]], None],
        tried: Callable[[dict[str, Any]], None],
    ) -> None:
        self._store = store
        self._lease_seconds = lease_seconds
        self._file = file
        self._registry = registry
        self._ended = ended
        self._leader = Leader(store, node, lease_seconds, file, channel_name)
        self._delivery = Delivery(store, node, lease_seconds, tried)
        self._configuration: Configuration | None = None
        self._tasks: list[asyncio.Task[None]] = []
        self._tick: asyncio.Future[Ticked] | None = None
        self._new_alerts, self._to_send, self._to_keep = asyncio.Event(), asyncio.Event(), asyncio.Event()
        self._missing: dict[str, float] = {}  # channels that no node has: when that was first seen; inf once logged

    async def start(self) -> None:
        """Raises OptimizationError where the store is away."""
        self.use_channels()
        await self._delivery.keep()
        loops: tuple[tuple[str, Callable[[], Awaitable[float]], asyncio.Event], ...] = (
            ("decide", self._decide, self._new_alerts),
            ("send", self._send, self._to_send),
            ("keep", self._keep, self._to_keep),
        )
        self._tasks = [
            asyncio.create_task(self._repeat(name, act, wake), name=f"o9-alerts-{name}") for name, act, wake in loops
        ]

    async def stop(self) -> None:
        for task in self._tasks:
            task.cancel()
        if self._tasks:
            await asyncio.wait(self._tasks)
        if self._tick is not None:  # it goes on in its thread
            await asyncio.wait({self._tick})
        with contextlib.suppress(OptimizationError):  # a store that is away: the lease runs out
            await self._delivery.stop()
            await asyncio.to_thread(self._leader.leave)

    def wake(self) -> None:
        """There are new alerts: decide soon."""
        self._new_alerts.set()

    def use_channels(self) -> None:
        """Send through those that there are now."""
        self._configuration = self._file.configuration
        self._delivery.use(self._registry.channels(self._configuration), self._registry.own, self._configuration)
        self._to_keep.set()
        self._to_send.set()

    async def once(self) -> tuple[bool, int]:
        """Decide and send all that is due now, then leave. Answers whether this node led, and the notices it made."""
        self.use_channels()
        notices, led = 0, False
        try:
            await self._delivery.keep()
            while True:
                ticked = await asyncio.to_thread(self._leader.tick)
                led, notices = ticked.leads, notices + ticked.notices
                if not ticked.behind:
                    break
            await self._delivery.idle()
        finally:
            await self.stop()
        return led, notices

    async def _repeat(self, name: str, act: Callable[[], Awaitable[float]], wake: asyncio.Event) -> None:
        """Do it again after the seconds that it answers, or when it is woken."""
        boundary = ErrorBoundary(logger, f"alerts: the loop {name!r}")
        while True:
            wake.clear()
            seconds = LOOK_SECONDS
            with boundary:
                seconds = await act()
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(seconds):
                    await wake.wait()

    async def _decide(self) -> float:
        await asyncio.sleep(TICK_PAUSE_SECONDS)
        self._new_alerts.clear()
        self._tick = asyncio.ensure_future(asyncio.to_thread(self._leader.tick))
        ticked = await asyncio.shield(self._tick)
        if self._file.configuration is not self._configuration:
            self.use_channels()
        if ticked.ended:
            self._ended(ticked.ended)
        if ticked.notices:
            self._to_send.set()
        if not ticked.leads:
            await asyncio.sleep(LOOK_SECONDS)
            return 0.0
        if ticked.behind:
            return 0.0
        until = LOOK_SECONDS if ticked.next_at is None else (ticked.next_at - self._leader.now()).total_seconds()
        return min(max(until, 0.0), LOOK_SECONDS)

    async def _send(self) -> float:
        await self._delivery.look()
        throttled = self._delivery.wait_seconds()
        return LOOK_SECONDS if throttled is None else min(throttled, LOOK_SECONDS)

    async def _keep(self) -> float:
        await self._delivery.keep()
        if (renewal := self._leader.renewal()) is not None:
            self._leader.renewed(await self._store.write_async(renewal))
        assert self._configuration is not None
        unknown = self._registry.unknown(self._configuration)
        elsewhere = await self._store.read_async(queries.sending_channels) if unknown else []
        now = time.monotonic()
        self._missing = {each: self._missing.get(each, now) for each in unknown if each not in elsewhere}
        for channel in [name for name, since in self._missing.items() if now - since >= MISSING_SECONDS]:
            self._missing[channel] = inf
            logger.error(
                "the receiver %r names the channel %r, which no node has: register it, or correct the file; "
                "what goes there waits", unknown[channel], channel,
            )  # fmt: skip
        return min(self._lease_seconds / 3, *(since + MISSING_SECONDS - now for since in self._missing.values()), inf)
