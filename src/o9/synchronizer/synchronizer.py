"""Synchronization of nodes on one store: they publish optimizations through the change feed, and see each other.

Contract. While it is started, a node receives each published change once, in the order of the record, from all nodes.
Its position in the feed is stored beside its heartbeat; `sync_optimization_state` waits for the positions of others. A
poll costs what has changed since the last one, at any size of the record. Owned by one event loop.
"""

from __future__ import annotations

import asyncio
import itertools
import logging
import math
import time
from collections import Counter
from collections.abc import Iterable, Mapping
from datetime import datetime
from typing import Any

from o9.lifecycle.heartbeat import NodeHeartbeat
from o9.lifecycle.processes import lives
from o9.mirror.spool import deliver
from o9.model.errors import OptimizationStoreError, OptimizationSyncError, OptimizationValidationError
from o9.model.optimization import utc_now
from o9.model.settings import settings
from o9.model.validation import validate_json, validate_node_id, validate_seconds, validate_whole
from o9.store import queries
from o9.store.core.component import StoreComponent
from o9.store.core.unit import Row
from o9.store.store import Store
from o9.store.synchronization import PAGE, Publish, RegisterNode, SetReadCursor, UnregisterNode

logger = logging.getLogger(__name__)
CONFIRM_SECONDS = 0.5  # between two polls while a caller waits for other nodes
PATIENCE = 3  # sync intervals in which a node should read what was published
_numbers = itertools.count(1)
Node = dict[str, Any]


class AsyncStateSynchronizer(StoreComponent):
    """Publishes optimizations to the other nodes on the store, and receives theirs.

    sync_interval: seconds between two polls. max_sync_workers: the changes that are published at once; more wait.

    Without an aggregator it is a node of its own, which runs nothing. Events: `synced(change)` for each published
    change, with `optimization_id`, `state` (the current one; None if it was pruned), `update` (None if the state was
    published), `node` (the publisher) and `at`; `node_joined(node)` and `node_lost(node)` for other nodes, as in
    `get_nodes`.
    """

    events = ("synced", "node_joined", "node_lost")

    def __init__(self, sync_interval: float = 5.0, max_sync_workers: int = 3, *, store: Store | None = None) -> None:
        super().__init__(store)
        self.sync_interval = validate_seconds("sync_interval", sync_interval)
        self.max_sync_workers = validate_whole("max_sync_workers", max_sync_workers)
        self._workers = asyncio.Semaphore(max_sync_workers)
        self._queued = 0
        self._waiting = 0  # callers that wait for other nodes
        self._polled = asyncio.Condition()
        self.node_id = f"{settings().node_id}#sync{next(_numbers)}"
        self._owns_heartbeat = True
        self._heartbeat: NodeHeartbeat | None = None
        self._cursor = 0
        self._next_poll = -math.inf
        self._readers: dict[str, Node] = {}
        self._counted: Counter[str] = Counter()
        self._last_sync: datetime | None = None

    def use_node(self, name: str) -> None:
        """Use the id of a node whose heartbeat the caller keeps. Call it before `start`."""
        self.node_id, self._owns_heartbeat = name, False

    async def get_nodes(self) -> list[dict[str, Any]]:
        """Return all nodes that joined or were registered.

        Keys: node_id, host, pid, heartbeat_at (seconds since 1970), living, read_to (the last change that it has read;
        None if it reads none), lag (the number of unread changes), lag_seconds (the age of the first of them), expected
        (the info of a registered node). Unknown values are None.
        """
        return await asyncio.to_thread(_nodes, self.store)

    async def register_node(self, node_id: str, node_info: Mapping[str, Any]) -> bool:
        """Expect a node: it is listed with `node_info`, whether it runs or not. Running nodes need no registration.

        Registering a node again replaces its info. Raises OptimizationValidationError for an invalid id, or for info
        that is not a dict of JSON values.
        """
        validate_node_id("node_id", node_id)
        info = dict(node_info) if isinstance(node_info, Mapping) else node_info
        validate_json("node_info", info)
        await self.store.write_async(RegisterNode(node_id, info))
        return True

    async def unregister_node(self, node_id: str) -> bool:
        """Remove a registration, and the records of a dead node. Returns whether the node was known.

        Raises OptimizationSyncError for a running node, which leaves when it is stopped, and
        OptimizationValidationError for an invalid id.
        """
        validate_node_id("node_id", node_id)
        if any(node["node_id"] == node_id and node["living"] for node in await self.get_nodes()):
            raise OptimizationSyncError(f"node {node_id!r} is running; it leaves when it is stopped")
        return await self.store.write_async(UnregisterNode(node_id))

    async def sync_optimization_state(self, optimization_id: str, target_nodes: Iterable[str] | None = None) -> bool:
        """Publish the state, and wait until the target nodes (None: all living ones) have read it.

        Returns False if they have not within three times `sync_interval`; the log names them with the reasons. Raises
        OptimizationSyncError before `start`, and OptimizationError for an unknown optimization.
        """
        targets = _targets(target_nodes)
        if not self.is_running:
            raise OptimizationSyncError("the synchronizer is not started: call start() first")
        change = await self._publish(optimization_id, None)
        missing = await self._await_readers(change, targets)
        self._counted["unconfirmed" if missing else "confirmed"] += 1
        if missing:
            logger.warning(
                "%s was published, but not read within %g s: %s",
                optimization_id, PATIENCE * self.sync_interval, "; ".join(missing),
            )  # fmt: skip
        return not missing

    async def broadcast_optimization_update(self, optimization_id: str, update: Mapping[str, Any]) -> bool:
        """Publish `update` to the `synced` callbacks of all nodes, this one included. Returns True when it is durable.

        The optimization itself is not changed. Raises OptimizationValidationError if `update` is not a dict of JSON
        values, and OptimizationError for an unknown optimization.
        """
        published = dict(update) if isinstance(update, Mapping) else update
        validate_json("update", published)
        await self._publish(optimization_id, published)
        self._counted["broadcasts"] += 1
        return True

    async def get_sync_statistics(self) -> dict[str, Any]:
        """Return counts, and the nodes with their lags.

        Keys: queue_size (changes that wait to be published), active_nodes (living nodes that read changes), total_nodes
        (with dead and expected ones), sync_stats (this object's counts: confirmed, unconfirmed, broadcasts, heard),
        last_sync (when it had last read everything; None before that), and nodes, as in `get_nodes`.
        """
        nodes = await self.get_nodes()
        return {
            "queue_size": self._queued,
            "active_nodes": len(_readers(nodes)),
            "total_nodes": sum(node["read_to"] is not None or node["expected"] is not None for node in nodes),
            "sync_stats": {name: self._counted[name] for name in ("confirmed", "unconfirmed", "broadcasts", "heard")},
            "last_sync": self._last_sync,
            "nodes": nodes,
        }

    async def _publish(self, optimization_id: str, update: Mapping[str, Any] | None) -> int:
        self._queued += 1
        try:
            await self._workers.acquire()
        finally:
            self._queued -= 1
        try:
            return await self.store.write_async(Publish(optimization_id, self.node_id, update))
        finally:
            self._workers.release()

    async def _await_readers(self, change: int, targets: frozenset[str] | None) -> list[str]:
        """Wait until the nodes have read `change`. Returns those that have not in time, with the reasons."""
        self._waiting += 1
        try:
            async with asyncio.timeout(PATIENCE * self.sync_interval), self._polled:
                await self._polled.wait_for(lambda: not self._missing(change, targets))
        except TimeoutError:
            return self._missing(change, targets)
        finally:
            self._waiting -= 1
        return []

    def _missing(self, change: int, targets: frozenset[str] | None) -> list[str]:
        """The nodes that have not read `change`, at the last poll. This one counts, too: it reads in a later poll."""
        missing = []
        for name in sorted(targets or {*self._readers, self.node_id}):
            node = self._readers.get(name)
            if node is None:
                missing.append(f"{name} is not running, or reads no changes")
            elif node["read_to"] < change:
                missing.append(f"{name} is {change - node['read_to']} changes behind")
        return missing

    async def _begin(self) -> None:
        if self._owns_heartbeat:
            heartbeat = NodeHeartbeat(
                self.store, self.node_id, settings().lease_seconds, before_dead=lambda _: deliver(self.store)
            )
            await asyncio.to_thread(heartbeat.start)
            self._heartbeat = heartbeat
        try:
            self._cursor = await self.store.read_async(queries.last_change)
            self._readers = await self._living_readers()
        except BaseException:
            await self._leave()
            raise
        self._next_poll = time.monotonic() + self.sync_interval
        self._repeat(self._poll, min(self.sync_interval, CONFIRM_SECONDS), "reading what nodes publish")

    async def _end(self) -> None:
        try:
            if self._heartbeat is None:
                await self.store.write_async(SetReadCursor(self.node_id, 0))
            await self._leave()
        except OptimizationStoreError as error:
            logger.warning(
                "could not leave the store cleanly; this node counts as lost when its lease expires: %s", error
            )

    async def _leave(self) -> None:
        if self._heartbeat is not None:
            heartbeat, self._heartbeat = self._heartbeat, None
            await asyncio.to_thread(heartbeat.stop)

    async def _poll(self) -> None:
        now = time.monotonic()
        if not self._waiting and now < self._next_poll:
            return
        await self._read_changes()
        before, self._readers = self._readers, await self._living_readers()
        self._last_sync = utc_now()
        self._next_poll = now + self.sync_interval
        async with self._polled:
            self._polled.notify_all()
        this_node = {self.node_id}
        for name in sorted(self._readers.keys() - before.keys() - this_node):
            await self.emit("node_joined", self._readers[name])
        for name in sorted(before.keys() - self._readers.keys() - this_node):
            await self.emit("node_lost", before[name] | {"living": False})

    async def _read_changes(self) -> None:
        """Emit what was published since the last poll. A change whose callbacks were not called is read again."""
        while True:
            found = await self.store.read_async(queries.published, self._cursor)
            for change in found.changes:
                synced = await self._synced(change)
                self._cursor = change["id"]
                self._counted["heard"] += 1
                await self.emit("synced", synced)
            self._cursor = found.read_to
            if len(found.changes) < PAGE:
                return

    async def _synced(self, change: Row) -> dict[str, Any]:
        name = change["optimization_id"]
        return {
            "optimization_id": name,
            "state": await self.get_optimization_status(name) if self.callbacks_of("synced") else None,
            "update": change["update"],
            "node": change["node"],
            "at": datetime.fromisoformat(change["at"]),
        }

    async def _living_readers(self) -> dict[str, Node]:
        """Write this node's position for the others, and return the living nodes that read changes, by id."""
        nodes = await self.get_nodes()
        for node in nodes:
            if node["node_id"] == self.node_id and node["read_to"] != self._cursor:
                await self.store.write_async(SetReadCursor(self.node_id, self._cursor + 1))
                node["read_to"] = self._cursor
        return _readers(nodes)


def _readers(nodes: Iterable[Node]) -> dict[str, Node]:
    return {node["node_id"]: node for node in nodes if node["living"] and node["read_to"] is not None}


def _targets(names: Iterable[str] | None) -> frozenset[str] | None:
    if names is None:
        return None
    if isinstance(names, str) or not isinstance(names, Iterable):
        raise OptimizationValidationError("target_nodes", f"{names!r:.80} is not a list of node ids")
    targets = list(names)
    if not targets:
        raise OptimizationValidationError("target_nodes", "it is empty; omit it for all living nodes")
    for number, name in enumerate(targets):
        validate_node_id(f"target_nodes[{number}]", name)
    return frozenset(targets)


def _nodes(store: Store) -> list[Node]:
    """Read all nodes. Blocks. A node whose process on this machine has ended is dead, whatever its lease says."""
    found = store.read(queries.cluster_nodes)
    for node in found:
        node["living"] = node["living"] and lives(node) is not False
        del node["info"]
    return found
