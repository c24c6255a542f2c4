"""A running node: its Prefect server, heartbeat, dispatcher, scheduler, and listener to Prefect's events.

Contract. Owned by one event loop. `start` returns when the node is ready to run optimizations. A Prefect server that
dies is found again or replaced; running flows reconnect by themselves.
"""

from __future__ import annotations

import asyncio
import itertools
import logging
import os
import signal
import threading
from collections.abc import Callable, Sequence

from o9.aggregator.dispatcher import Dispatcher
from o9.aggregator.prefect_server import PrefectServer, ensure_prefect_server, prefect_client_settings
from o9.aggregator.scheduler import Scheduler
from o9.aggregator.schedules import Schedule
from o9.flows.process import watchdog_for
from o9.lifecycle.control import Control
from o9.lifecycle.heartbeat import ONLY, NodeHeartbeat
from o9.mirror.events import EventListener
from o9.mirror.reconciler import reconcile
from o9.mirror.spool import deliver
from o9.model.loops import ErrorBoundary, cancel_and_wait, periodic
from o9.model.settings import settings
from o9.store import queries
from o9.store.store import Store

logger = logging.getLogger(__name__)
RECONCILE_SECONDS = 30.0
LOOK_SECONDS = 1.0  # between two polls for queued work, for intents of other processes, and of Prefect's server


class Node:
    """See the module.

    limit: how many optimizations run at once, over all nodes. interval: how often to look at what coroutine strategies
    assign, in seconds. schedules: flows to run unless another node does. on_dead: called on a thread with the names of
    dead nodes of this host. blocked_reason: why nothing new may start; empty if it may. only: the ids to claim; None:
    all.
    """

    def __init__(
        self,
        store: Store,
        server: PrefectServer,
        *,
        limit: int,
        interval: float,
        control: Control,
        schedules: Sequence[Schedule] = (),
        on_dead: Callable[[tuple[str, ...]], None] = lambda _: None,
        blocked_reason: Callable[[], str] = lambda: "",
        only: frozenset[str] | None = None,
    ) -> None:
        lease_seconds = settings().lease_seconds
        self.name = _node_name()
        self._store = store
        self.server = server  # replaced when it dies
        self._control = control
        self._report_dead = on_dead
        self._loop = asyncio.get_running_loop()
        self.dispatcher = Dispatcher(
            store=store,
            node=self.name,
            limit=limit,
            lease_seconds=lease_seconds,
            interval=min(interval, LOOK_SECONDS),
            observe_seconds=interval,
            on_failure=self._check_server,
            guard=control.guard,
            blocked_reason=lambda: blocked_reason() if self._heartbeat.holds else "it cannot renew its leases",
            only=only,
        )
        self._watchdog = watchdog_for(store, self.name)
        self._heartbeat = NodeHeartbeat(
            store,
            self.name,
            lease_seconds,
            on_freed=self._on_freed,
            info={"limit": limit} | ({} if only is None else {ONLY: sorted(only)}),
            is_stuck=lambda: self._watchdog.is_blocked,
            before_dead=self._on_dead,
        )
        self._listener = EventListener(store, self.name, request=control.request)
        self._scheduler = Scheduler(store, self.name, schedules)
        self._reconcile_now = asyncio.Event()
        self._replacing = ErrorBoundary(logger, "finding another Prefect server")
        self._tasks: list[asyncio.Task[None]] = []
        self._replacement: asyncio.Task[None] | None = None

    async def stop(self) -> None:
        """Claim nothing more; running optimizations commit their step and wait for the next attempt."""
        await cancel_and_wait(*self._tasks, self._replacement)
        await self._listener.stop()
        await asyncio.gather(self._scheduler.stop(), self.dispatcher.stop())
        await asyncio.to_thread(self._heartbeat.stop)
        await asyncio.to_thread(self._watchdog.stop)
        await self.server.close()

    async def start(self) -> None:
        """Raises OptimizationError. Only `stop` closes the server."""
        self._keep_default_sigterm()
        await asyncio.to_thread(self._heartbeat.start)
        try:
            with prefect_client_settings(self.server):  # tasks created inside keep these settings
                await self.dispatcher.start()
                await self._listener.start()
                self._scheduler.start()
                boundary = ErrorBoundary(logger, "comparing the record with Prefect")
                reconciling = periodic(
                    self._reconcile, RECONCILE_SECONDS, boundary, at_once=True, wake=self._reconcile_now
                )
                self._tasks.append(asyncio.create_task(reconciling, name="o9-reconcile"))
        except BaseException:
            await asyncio.to_thread(self._heartbeat.stop)
            raise
        watching = periodic(self._watch_server, LOOK_SECONDS, ErrorBoundary(logger, "checking Prefect's server"))
        self._tasks.append(asyncio.create_task(watching, name="o9-watch-server"))
        self._watchdog.start()

    def _keep_default_sigterm(self) -> None:
        """Let SIGTERM end a process without a handler, even while Prefect's is installed (see `o9.flows.process`)."""
        if threading.current_thread() is threading.main_thread() and signal.getsignal(signal.SIGTERM) is signal.SIG_DFL:
            self._loop.add_signal_handler(signal.SIGTERM, _end_by_sigterm)

    def _on_dead(self, names: tuple[str, ...]) -> None:
        """On the heartbeat's thread, before the leases of dead nodes are freed."""
        self._report_dead(names)
        deliver(self._store)

    def _on_freed(self) -> None:
        """On the heartbeat's thread: a dead node's work is queued again, while Prefect still shows it as running."""
        self._loop.call_soon_threadsafe(self.dispatcher.wake)
        self._loop.call_soon_threadsafe(self._reconcile_now.set)

    async def _reconcile(self) -> None:
        """Compare the record with Prefect: at the start, every RECONCILE_SECONDS, and when a node has died."""
        await asyncio.to_thread(deliver, self._store)
        if await self._store.read_async(queries.open_runs, limit=1):
            logger.debug("%s", await reconcile(self._store, self.name, request=self._control.request))

    async def _watch_server(self) -> None:
        if self.server.gone():
            self._check_server()

    def _check_server(self) -> None:
        if self._replacement is None or self._replacement.done():
            self._replacement = asyncio.create_task(self._replace_dead_server(), name="o9-prefect")

    async def _replace_dead_server(self) -> None:
        """Find or start another server if the present one no longer answers."""
        with self._replacing:
            if await self.server.alive():
                return
            server = await ensure_prefect_server(logger.warning)
            try:
                # At the old address, with the old authentication, clients reconnect by themselves.
                if (server.api_url, server.auth_string) != (self.server.api_url, self.server.auth_string):
                    with prefect_client_settings(server):
                        await self.dispatcher.reconnect()
                        await self._listener.stop()
                        await self._listener.start()
                        self._scheduler.start()
            except BaseException:
                server.release()
                raise
            dead, self.server = self.server, server
            dead.release()


_names = itertools.count(1)


def _node_name() -> str:
    """The node's name. Leases are held by name, so further aggregators of the process get a suffix."""
    number = next(_names)
    return settings().node_id if number == 1 else f"{settings().node_id}#{number}"


def _end_by_sigterm() -> None:
    signal.signal(signal.SIGTERM, signal.SIG_DFL)
    os.kill(os.getpid(), signal.SIGTERM)
