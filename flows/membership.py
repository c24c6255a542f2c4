"""The heartbeat for flows that Prefect started by itself, where no aggregator renews their leases.

One for each store, from the first such flow until `leave_store` or the end of the process. Its node has
a name of its own, so that an aggregator in the same process that leaves takes nothing from these flows.
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
    """Announce this process on `store`; returns the node name that its claims must carry. Blocks while it writes.

    Raises as NodeHeartbeat.start does.
    """
    node = node_name()
    with _lock:
        if store not in _joined:
            heartbeat = NodeHeartbeat(store, node, settings().lease_seconds, before_dead=lambda _: deliver(store))
            heartbeat.start()
            _joined[store] = heartbeat
    return node


def node_name() -> str:
    """The node name of the claims of this process's flows."""
    return f"{settings().node_id}#flows"


def leave_store(store: Store) -> None:
    """Before `store` is closed: what this process's flows still hold waits for another."""
    with _lock:
        heartbeat = _joined.pop(store, None)
    if heartbeat is not None:
        heartbeat.stop()


def _leave_all() -> None:
    if any(run.unrecorded for run in RUNS):
        return  # to leave in good order would be to say that they failed: Prefect says how, or their leases run out
    for store in list(_joined):
        try:
            leave_store(store)
        except OptimizationError:
            logger.exception(
                "could not leave %s in good order; what was held is free once its lease runs out", store.name
            )


atexit.register(_leave_all)
