"""A node's heartbeat: a thread that renews the node's leases, finds dead nodes, and frees what they held.

It is a thread, so that a strategy that blocks the event loop does not cost the node its leases. It needs only the
store, and survives every error; leases that it cannot renew in time are lost.
"""

from __future__ import annotations

import asyncio
import logging
import os
import socket
import threading
import time
from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor, wait
from math import inf
from typing import Any

import psutil

from o9.lifecycle.lease_expiry import FIRST_PATIENCE_SECONDS, LOOK_SECONDS, LeaseExpiry, StoreClock
from o9.lifecycle.processes import PROCESS, identity, lives
from o9.model.errors import OptimizationCoordinationError
from o9.model.loops import ErrorBoundary
from o9.store import queries
from o9.store.core.unit import Row
from o9.store.queue.claims import Heartbeat, Leases, Leave, Sweep
from o9.store.store import Store

logger = logging.getLogger(__name__)
ONLY = "only"  # in a node's info: the ids that it claims, if it does not claim all
WORKERS = "workers"  # the lease of the flow that dispatches to workers, and their name in lists of nodes


class NodeHeartbeat:
    """Sends three heartbeats a lease, and looks for dead nodes every LOOK_SECONDS.

    Callbacks run on the thread. on_freed: called when work was freed and waits. info: what other nodes can read about
    this one. is_stuck: while it returns True, nothing is renewed, and other nodes take over. before_dead: called with
    the names of dead nodes of this host before their leases are freed; their spool may say how their work ended.
    """

    def __init__(
        self,
        store: Store,
        node: str,
        lease_seconds: float,
        on_freed: Callable[[], object] = lambda: None,
        info: Mapping[str, Any] | None = None,
        is_stuck: Callable[[], bool] = lambda: False,
        before_dead: Callable[[tuple[str, ...]], object] = lambda _: None,
    ) -> None:
        self._store = store
        self._node = node
        self._lease_seconds = lease_seconds
        self._on_freed = on_freed
        # Made once, because the system may refuse the descriptors that it needs later.
        about = {**(info or {}), PROCESS: identity(os.getpid())}
        started = psutil.Process().create_time()
        self._heartbeat = Heartbeat(node, socket.gethostname(), os.getpid(), started, lease_seconds, about)
        self._is_stuck = is_stuck
        self._before_dead = before_dead
        self._boundary = ErrorBoundary(logger, f"node {node}: renewing its leases and looking for dead nodes")
        self._was_stuck = False
        self._expiry = LeaseExpiry(lease_seconds)
        self._clock = StoreClock()
        self._renewed_at = self._due_at = -inf
        self._look_seconds = min(LOOK_SECONDS, lease_seconds / 6)
        self._stop = threading.Event()
        self._thread: threading.Thread | None = None

    @property
    def holds(self) -> bool:
        """Whether the last renewal is recent enough to claim more."""
        return time.monotonic() - self._renewed_at < self._lease_seconds * 2 / 3

    def start(self) -> None:
        """Announce the node, and free what dead nodes of this host held.

        Raises OptimizationStoreError where the store cannot be written, OptimizationCoordinationError where a living
        process has the node's name. Waits for that one's lease to expire where nothing else shows whether it lives.
        """
        if self._thread is not None:
            return
        self._replace_predecessor()
        self._look()
        self._thread = threading.Thread(target=self._run, name="o9-heartbeat", daemon=True)
        self._thread.start()

    def stop(self) -> None:
        """Leave; what this node still held is queued for others."""
        if self._thread is None:
            return
        self._stop.set()
        self._thread.join()
        self._thread = None
        self._stop.clear()
        self._store.write(Leave(self._node))

    def _replace_predecessor(self) -> None:
        """Free what an earlier process of this node's name held; else this one would renew its leases."""
        before = self._own_row()
        if before is None:
            return
        alive = lives(before)
        if alive is None:
            alive = self._is_renewed(before)
        if alive:
            raise OptimizationCoordinationError(
                f"process {before['pid']} on {before['host']} is running as node {self._node!r} already: "
                "give this one another O9_NODE_ID"
            )
        self._store.write(Sweep(self._node, (self._node,)))

    def _is_renewed(self, before: Row) -> bool:
        """Whether a process of this name that is invisible from here renews its leases before they expire."""
        lasts = _lease_seconds(before)
        left = before["heartbeat_at"] + lasts - self._store.read(queries.leases).at
        until = time.monotonic() + min(max(left, FIRST_PATIENCE_SECONDS), lasts)
        logger.warning(
            "node %s: process %d on %s had this name, and may be alive where this process cannot see it: "
            "its leases are taken over if it renews none within %.0f s",
            self._node, before["pid"], before["host"], until - time.monotonic(),
        )  # fmt: skip
        while time.monotonic() < until and not self._stop.wait(self._look_seconds):
            now = self._own_row()
            if now is None or now["heartbeat_at"] != before["heartbeat_at"]:
                return now is not None
        return False

    def _own_row(self) -> Row | None:
        return next((node for node in self._store.read(queries.nodes) if node["node_id"] == self._node), None)

    def _run(self) -> None:
        while not self._stop.wait(self._look_seconds):
            with self._boundary:
                self._look()

    def _look(self) -> None:
        """Renew the leases if that is due; then free what dead nodes held."""
        before = time.monotonic()
        leases = self._store.read(queries.leases)
        if jump := self._clock.jumped(leases.at, before, time.monotonic()):
            logger.warning(
                "node %s: the store's clock has jumped by %+.1f s; leases are renewed, and none is lost",
                self._node, jump,
            )  # fmt: skip
            self._due_at = before
        if self._renew_if_due(before):
            self._free_dead_nodes(leases, before)

    def _renew_if_due(self, now: float) -> bool:
        """Returns False where a renewal is due, but the event loop is blocked."""
        if now < self._due_at:
            return True
        if self._is_stuck():
            if not self._was_stuck:
                logger.error("node %s renews no lease while its event loop is blocked", self._node)
            self._was_stuck = True
            return False
        self._was_stuck = False
        began = time.monotonic()
        self._store.write(self._heartbeat)
        self._renewed_at, self._due_at = began, began + self._lease_seconds / 3
        return True

    def _free_dead_nodes(self, leases: Leases, now: float) -> None:
        nodes = self._store.read(queries.nodes)
        dead = _dead(nodes)
        lasting = {node["node_id"]: _lease_seconds(node) for node in nodes}
        run_out = [lease for lease in self._expiry.run_out(leases, lasting, now) if lease.node != self._node]
        if dead:
            self._renewing_meanwhile(lambda: self._before_dead(dead))
        if not dead and not run_out:
            return
        freed = self._store.write(Sweep(self._node, dead, run_out))
        if freed:
            logger.warning("released the claims of dead nodes: %s", ", ".join(freed))
            self._on_freed()

    def _renewing_meanwhile(self, work: Callable[[], object]) -> None:
        """`work` may take longer than a lease lasts."""
        with ThreadPoolExecutor(1, "o9-heartbeat-dead") as elsewhere:
            done = elsewhere.submit(work)
            while not wait([done], self._look_seconds).done:
                self._renew_if_due(time.monotonic())
            done.result()


def dead_on_this_host(store: Store) -> tuple[str, ...]:
    """Nodes whose process is known to be dead, so that nobody need wait for their leases to expire."""
    return _dead(store.read(queries.nodes))


def nodes_claiming(store: Store, optimization_id: str) -> tuple[str, ...]:
    """The living aggregators that claim it when it is queued; without any, WORKERS if work is dispatched to them."""
    aggregators = tuple(node for node, info in living_nodes(store).items() if claims(info, optimization_id))
    return aggregators or ((WORKERS,) if workers_claim(store) else ())


def workers_claim(store: Store) -> bool:
    """Whether the scheduled flow that dispatches to Prefect's workers has run recently."""
    lease = store.read(queries.leader, WORKERS)
    return lease is not None and store.read(queries.seconds_left, lease["expires_at"]) > 0.0


def living_nodes(store: Store) -> dict[str, Mapping[str, Any]]:
    """The living nodes with their info."""
    now = store.read(queries.leases).at

    def is_alive(node: Row) -> bool:
        seen = lives(node)
        return node["heartbeat_at"] + _lease_seconds(node) > now if seen is None else seen

    return {node["node_id"]: node["info"] for node in store.read(queries.nodes) if is_alive(node)}


def claims(info: Mapping[str, Any], optimization_id: str | None) -> bool:
    """Whether a node with this info claims the optimization; None: whether it claims any."""
    only = info.get(ONLY)
    return "limit" in info and (only is None or optimization_id in only)


async def warn_if_not_claimed(store: Store, optimization_id: str) -> None:
    """Log a warning where no living node claims the optimization."""
    if not await asyncio.to_thread(nodes_claiming, store, optimization_id):
        logger.warning(
            "%s is queued, but no aggregator on %s claims it: start an OptimizationStateAggregator, "
            "or `o9 serve`, or `o9 resume --here %s`", optimization_id, store.name, optimization_id,
        )  # fmt: skip


def _dead(nodes: list[Row]) -> tuple[str, ...]:
    return tuple(node["node_id"] for node in nodes if lives(node) is False)


def _lease_seconds(node: Row) -> float:
    return float(node["info"].get("lease_seconds") or 0.0)
