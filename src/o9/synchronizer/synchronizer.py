"""Nodes that share one store publish optimizations through its change feed, and see each other join and leave.

Contract. A node receives what is published while it is started: every change once, in the order of the record, from
whichever node. How far it has read is kept beside its heartbeat; `sync_optimization_state` waits for that. A look
costs what has changed since the last one, however long the record is. Owned by one event loop.
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
from o9.store.synchronization import PAGE, ExpectNode, ForgetNode, Publish, ReadNext

logger = logging.getLogger(__name__)
CONFIRM_SECONDS = 0.5  # between two looks while a caller waits for other nodes
PATIENCE = 3  # intervals in which a node should have read what was published
_numbers = itertools.count(1)
Node = dict[str, Any]


class AsyncStateSynchronizer(StoreComponent):
    """sync_interval: seconds between two looks. max_sync_workers: how many changes are published at once; others queue.

    Started alone, it is a node of its own, which runs nothing; an aggregator's is the aggregator's node. Events:
    `synced(change)` for each published change: its `optimization_id`, the `state` as it is when the callback is called
    (None where it was pruned), the `update` that was broadcast (None: the state is meant), the `node` that published
    it, and when, `at`. `node_joined(node)` and `node_lost(node)`, as in `get_nodes`, for nodes other than this one.
    """

    events = ("synced", "node_joined", "node_lost")

    def __init__(self, sync_interval: float = 5.0, max_sync_workers: int = 3, *, store: Store | None = None) -> None:
        super().__init__(store)
        self.sync_interval = validate_seconds("sync_interval", sync_interval)
        self.max_sync_workers = validate_whole("max_sync_workers", max_sync_workers)
        self._workers = asyncio.Semaphore(max_sync_workers)
        self._queued = 0
        self._waiting = 0  # for other nodes to read
        self._looked = asyncio.Condition()
        self.node_id = f"{settings().node_id}#sync{next(_numbers)}"  # the name under which other nodes know this one
        self._beats = True
        self._heartbeat: NodeHeartbeat | None = None
        self._cursor = 0
        self._due = -math.inf
        self._readers: dict[str, Node] = {}
        self._counted: Counter[str] = Counter()
        self._last_sync: datetime | None = None

    def use_node(self, name: str) -> None:
        """Be this node, whose heartbeat the caller gives; before `start`."""
        self.node_id, self._beats = name, False

    async def get_nodes(self) -> list[dict[str, Any]]:
        """All nodes: those that announced themselves, and those that were registered by hand.

        Keys: node_id, host, pid, heartbeat_at (seconds since 1970), living, read_to (the last change that it has read),
        lag (how many came since), lag_seconds (since how long the first of them waits), expected (the info of one that
        was registered by hand). None: not known, or not so; `read_to` of one that reads no changes.
        """
        return await asyncio.to_thread(_nodes, self.store)

    async def register_node(self, node_id: str, node_info: Mapping[str, Any]) -> bool:
        """Expect a node: it is listed, with `node_info`, whether it runs or not. Nodes that run need no registration.

        Again: with new info. Raises OptimizationValidationError for an empty id, or for info that JSON cannot hold.
        """
        validate_node_id("node_id", node_id)
        info = dict(node_info) if isinstance(node_info, Mapping) else node_info
        validate_json("node_info", info)
        await self.store.write_async(ExpectNode(node_id, info))
        return True

    async def unregister_node(self, node_id: str) -> bool:
        """Expect it no more, and forget what a dead node had announced. Returns whether it was known.

        Raises OptimizationSyncError for one that runs: it leaves when it is stopped; OptimizationValidationError for
        what is no id.
        """
        validate_node_id("node_id", node_id)
        if any(node["node_id"] == node_id and node["living"] for node in await self.get_nodes()):
            raise OptimizationSyncError(f"node {node_id!r} runs: stop it, and it leaves by itself")
        return await self.store.write_async(ForgetNode(node_id))

    async def sync_optimization_state(self, optimization_id: str, target_nodes: Iterable[str] | None = None) -> bool:
        """Publish the state, and wait until the named nodes (None: all that live) have read up to there.

        False where they have not within three times `sync_interval`; the log names them, and why. Raises
        OptimizationSyncError before `start`, OptimizationError where there is no such optimization.
        """
        targets = _targets(target_nodes)
        if not self.is_running:
            raise OptimizationSyncError("the synchronizer is not started, and sees no node read: call start() first")
        change = await self._publish(optimization_id, None)
        missing = await self._await_readers(change, targets)
        self._counted["unconfirmed" if missing else "confirmed"] += 1
        if missing:
            logger.warning(
                "%s was published, and not read within %g s: %s",
                optimization_id, PATIENCE * self.sync_interval, "; ".join(missing),
            )  # fmt: skip
        return not missing

    async def broadcast_optimization_update(self, optimization_id: str, update: Mapping[str, Any]) -> bool:
        """Publish `update`: each node's `synced` callbacks get it once, this one's too. True when that is durable.

        The record of the optimization is not changed. Raises OptimizationValidationError for what JSON cannot hold,
        OptimizationError where there is no such optimization.
        """
        published = dict(update) if isinstance(update, Mapping) else update
        validate_json("update", published)
        await self._publish(optimization_id, published)
        self._counted["broadcasts"] += 1
        return True

    async def get_sync_statistics(self) -> dict[str, Any]:
        """`queue_size` (changes that wait to be published), `active_nodes` (that live and read), `total_nodes` (with
        those that are dead or only expected), `sync_stats` (what this object counted: confirmed, unconfirmed,
        broadcasts, heard), `last_sync` (when it last had read all; None before), and `nodes`, each with its lag: see
        `get_nodes`.
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
        """Which nodes have not read it in time, and why."""
        self._waiting += 1
        try:
            async with asyncio.timeout(PATIENCE * self.sync_interval), self._looked:
                await self._looked.wait_for(lambda: not self._missing(change, targets))
        except TimeoutError:
            return self._missing(change, targets)
        finally:
            self._waiting -= 1
        return []

    def _missing(self, change: int, targets: frozenset[str] | None) -> list[str]:
        """By the last look. This node is always among all: it has read the change only by a look that came after it."""
        missing = []
        for name in sorted(targets or {*self._readers, self.node_id}):
            node = self._readers.get(name)
            if node is None:
                missing.append(f"{name} does not live, or reads nothing")
            elif node["read_to"] < change:
                missing.append(f"{name} is {change - node['read_to']} changes behind it")
        return missing

    async def _begin(self) -> None:
        if self._beats:
            heartbeat = NodeHeartbeat(
                self.store, self.node_id, settings().lease_seconds, before_dead=lambda _: deliver(self.store)
            )
            await asyncio.to_thread(heartbeat.start)
            self._heartbeat = heartbeat
        try:
            self._cursor = await self.store.read_async(queries.last_change)
            self._readers = await self._meet()
        except BaseException:
            await self._leave()
            raise
        self._due = time.monotonic() + self.sync_interval
        self._repeat(self._turn, min(self.sync_interval, CONFIRM_SECONDS), "reading what nodes publish")

    async def _end(self) -> None:
        try:
            if self._heartbeat is None:
                await self.store.write_async(ReadNext(self.node_id, 0))
            await self._leave()
        except OptimizationStoreError as error:
            logger.warning(
                "could not leave the store in good order; this node is lost when its lease runs out: %s", error
            )

    async def _leave(self) -> None:
        if self._heartbeat is not None:
            heartbeat, self._heartbeat = self._heartbeat, None
            await asyncio.to_thread(heartbeat.stop)

    async def _turn(self) -> None:
        now = time.monotonic()
        if not self._waiting and now < self._due:
            return
        await self._read_on()
        before, self._readers = self._readers, await self._meet()
        self._last_sync = utc_now()
        self._due = now + self.sync_interval
        async with self._looked:
            self._looked.notify_all()
        others = {self.node_id}
        for name in sorted(self._readers.keys() - before.keys() - others):
            await self.emit("node_joined", self._readers[name])
        for name in sorted(before.keys() - self._readers.keys() - others):
            await self.emit("node_lost", before[name] | {"living": False})

    async def _read_on(self) -> None:
        """Emit what was published since the last look. What cannot be emitted now is read again."""
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

    async def _meet(self) -> dict[str, Node]:
        """The nodes that live and read, by id; how far this one has read is written down for the others."""
        nodes = await self.get_nodes()
        for node in nodes:
            if node["node_id"] == self.node_id and node["read_to"] != self._cursor:
                await self.store.write_async(ReadNext(self.node_id, self._cursor + 1))
                node["read_to"] = self._cursor
        return _readers(nodes)


def _readers(nodes: Iterable[Node]) -> dict[str, Node]:
    return {node["node_id"]: node for node in nodes if node["living"] and node["read_to"] is not None}


def _targets(names: Iterable[str] | None) -> frozenset[str] | None:
    if names is None:
        return None
    if isinstance(names, str) or not isinstance(names, Iterable):
        raise OptimizationValidationError("target_nodes", f"{names!r:.80} is no list of node ids")
    targets = list(names)
    if not targets:
        raise OptimizationValidationError("target_nodes", "it names no node; leave it out for all that live")
    for number, name in enumerate(targets):
        validate_node_id(f"target_nodes[{number}]", name)
    return frozenset(targets)


def _nodes(store: Store) -> list[Node]:
    """All nodes, in a thread. One whose process is gone from this machine lives no more, whatever its lease says."""
    found = store.read(queries.gathering)
    for node in found:
        node["living"] = node["living"] and lives(node) is not False
        del node["info"]
    return found
