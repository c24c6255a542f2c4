"""Nodes that share one store: they need no messages of their own, because the store is what they agree on."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from o9.model.component import not_yet
from o9.store.component import StoreComponent
from o9.store.store import Store


class AsyncStateSynchronizer(StoreComponent):
    """Knows the nodes that live on the store; following each node's reading is not in this release."""

    def __init__(self, sync_interval: float = 5.0, max_sync_workers: int = 3, *, store: Store | None = None) -> None:
        super().__init__(store)
        self.sync_interval = sync_interval
        self.max_sync_workers = max_sync_workers

    async def get_nodes(self) -> list[dict[str, Any]]:
        """The aggregators that have announced themselves: node_id, host, pid, heartbeat_at."""
        return await self.store.read_async(self.store.nodes)

    async def register_node(self, node_id: str, node_info: Mapping[str, Any]) -> bool:
        raise not_yet("registering another node by hand")

    async def unregister_node(self, node_id: str) -> bool:
        raise not_yet("unregistering another node by hand")

    async def sync_optimization_state(self, optimization_id: str, target_nodes: Sequence[str] | None = None) -> bool:
        raise not_yet("synchronizing towards named nodes")

    async def broadcast_optimization_update(self, optimization_id: str, update: Mapping[str, Any]) -> bool:
        raise not_yet("broadcasting an update")

    async def get_sync_statistics(self) -> dict[str, Any]:
        raise not_yet("statistics of synchronization")
