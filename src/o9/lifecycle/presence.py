"""A node's sign of life: a thread that renews its leases, finds the dead, and frees what they held.

A thread, because a strategy that blocks the event loop must not cost the node its leases. It needs nothing but
the store; a store that is away is reported and tried again, and leases that ran out meanwhile are lost, as they
must be.
"""

from __future__ import annotations

import logging
import os
import socket
import threading
import time
from collections.abc import Callable, Mapping
from typing import Any

import psutil

from o9.model.errors import OptimizationCoordinationError, OptimizationError
from o9.store.leases import Heartbeat, Leave, Sweep
from o9.store.store import Store

logger = logging.getLogger(__name__)
SWEEP_SECONDS = 2.0


class Presence:
    """`start` announces the node and frees what the dead on this host held; then there are three signs of life a lease,
    and a look for the dead every SWEEP_SECONDS.

    `on_freed` is called, on the thread, when work was freed and waits for somebody. `info` is what the others may know
    of this node. While `is_stuck` says so, nothing is renewed: what is held goes to whoever can run it. `before_dead`
    is called, on the thread and with their names, before what the dead of this host held is freed: they may have left
    word of its end.
    """

    def __init__(
        self,
        store: Store,
        node: str,
        lease_seconds: float,
        on_freed: Callable[[], None] | None = None,
        info: Mapping[str, Any] | None = None,
        is_stuck: Callable[[], bool] = lambda: False,
        before_dead: Callable[[tuple[str, ...]], object] = lambda _: None,
    ) -> None:
        self._store = store
        self._node = node
        self._lease_seconds = lease_seconds
        self._on_freed = on_freed
        self._info = dict(info or {})
        self._is_stuck = is_stuck
        self._before_dead = before_dead
        self._in_trouble = False
        self._next_beat = 0.0
        self._seen_at: float | None = None
        self._patient_until = 0.0
        self._stop = threading.Event()
        self._thread: threading.Thread | None = None

    def start(self) -> None:
        """Raises OptimizationStoreError where the store cannot be written.

        OptimizationCoordinationError where a living process of this host has the node's name.
        """
        if self._thread is not None:
            return
        self._succeed()
        self._beat()
        self._thread = threading.Thread(target=self._run, name="o9-presence", daemon=True)
        self._thread.start()

    def stop(self) -> None:
        """Leave in good order: what this node still held waits for another."""
        if self._thread is None:
            return
        self._stop.set()
        self._thread.join()
        self._thread = None
        self._stop.clear()
        self._store.write(Leave(self._node))

    def _succeed(self) -> None:
        """Free what an earlier process of this node's name held: its leases would otherwise be renewed by us."""
        before = [node for node in self._store.nodes() if node["node_id"] == self._node]
        for node in before:
            if node["host"] == socket.gethostname() and _lives(node["pid"], node["process_started"]):
                raise OptimizationCoordinationError(
                    f"process {node['pid']} is running as node {self._node!r} already: give this one another O9_NODE_ID"
                )
            self._store.write(Sweep(self._node, (self._node,)))

    def _run(self) -> None:
        while not self._stop.wait(min(SWEEP_SECONDS, self._lease_seconds / 3)):
            try:
                self._beat()
                self._in_trouble = False
            except OptimizationError as error:
                self._trouble(f"could not give a sign of life, and tries again: {error}")

    def _trouble(self, what: str) -> None:
        """Said once, until it is over."""
        logger.log(logging.DEBUG if self._in_trouble else logging.ERROR, "node %s %s", self._node, what)
        self._in_trouble = True

    def _beat(self) -> None:
        """Renew what is held, when it is time, and sweep."""
        now = time.monotonic()
        if now >= self._next_beat:
            if self._is_stuck():
                self._trouble("does not answer for what it holds: its event loop is blocked")
                return
            me = psutil.Process()
            self._store.write(
                Heartbeat(self._node, socket.gethostname(), me.pid, me.create_time(), self._lease_seconds, self._info)
            )
            self._next_beat = now + self._lease_seconds / 3
        if self._seen_at is None or now - self._seen_at > self._lease_seconds / 2:
            # After a time without the store, others had no chance to renew their leases either.
            self._patient_until = now + (SWEEP_SECONDS if self._seen_at is None else self._lease_seconds / 3)
        dead = dead_on_this_host(self._store)
        if dead:
            self._before_dead(dead)
        freed = self._store.write(Sweep(self._node, dead, expired=now >= self._patient_until))
        self._seen_at = time.monotonic()
        if freed:
            logger.warning("freed what the dead held: %s", ", ".join(freed))
            if self._on_freed is not None:
                self._on_freed()


def dead_on_this_host(store: Store) -> tuple[str, ...]:
    """Nodes of this host whose process is gone: no need to wait for their leases."""
    host = socket.gethostname()
    return tuple(
        node["node_id"]
        for node in store.nodes()
        if node["host"] == host and node["pid"] != os.getpid() and not _lives(node["pid"], node["process_started"])
    )


def _lives(pid: int, started: float) -> bool:
    """Whether this very process lives; a pid is used again, with another start."""
    try:
        process = psutil.Process(pid)
        return abs(process.create_time() - started) < 1.0 and process.status() != psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return False
