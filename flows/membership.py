"""The heartbeat for flows that Prefect started, whose leases no aggregator renews.

There is one for each store, from the first such flow until `leave_store` or the end of the process. Its node has its
own name, so that these flows keep their leases when an aggregator in the same process leaves.
"""

from __future__ import annotations

import atexit
import logging
import threading

from o9.lifecycle.heartbeat import NodeHeartbeat
from o9.mirror.run_registry import RUNS
from o9.mirror.spool import deliver
from o9.model.errors import OptimizationError
from o9.model.settings import settings
from o9.store.store import Store

logger = logging.getLogger(__name__)
_lock = threading.Lock()
_joined: dict[Store, NodeHeartbeat] = {}


def join_store(store: Store) -> str:
    """Announce this process on `store`; returns the node name for its claims. Blocks. Raises as NodeHeartbeat.start."""
    node = node_name()
    with _lock:
        if store not in _joined:
            heartbeat = NodeHeartbeat(store, node, settings().lease_seconds, before_dead=lambda _: deliver(store))
            heartbeat.start()
            _joined[store] = heartbeat
    return node


def node_name() -> str:
    """The node name for the claims of this process's flows."""
    return f"{settings().node_id}#flows"


def leave_store(store: Store) -> None:
    """Free what this process's flows still hold, before `store` is closed."""
    with _lock:
        heartbeat = _joined.pop(store, None)
    if heartbeat is not None:
        heartbeat.stop()


def _leave_all() -> None:
    if any(run.unrecorded for run in RUNS):
        return  # leaving would record them as failed; their end comes from Prefect, or their leases expire
    for store in list(_joined):
        try:
            leave_store(store)
        except OptimizationError:
            logger.exception("could not leave %s cleanly; what was held is free once its lease expires", store.name)


atexit.register(_leave_all)
