"""The sign of life for flows that Prefect started by itself, where no aggregator renews their leases.

One for each store of this process, from the first such flow until `depart`, or the end of the process. It goes by a
node name of its own, so that an aggregator in the same process that leaves takes nothing from these flows.
"""

from __future__ import annotations

import atexit
import logging
import threading

from o9.lifecycle.presence import Presence
from o9.mirror.run_registry import RUNS
from o9.mirror.spool import deliver
from o9.model.errors import OptimizationError
from o9.model.settings import settings
from o9.store.store import Store

logger = logging.getLogger(__name__)
_lock = threading.Lock()
_present: dict[Store, Presence] = {}


def appear(store: Store) -> str:
    """Announce this process on `store`; returns the node name that its claims must carry. Blocks while it writes.

    Raises as Presence.start does.
    """
    node = node_name()
    with _lock:
        if store not in _present:
            presence = Presence(store, node, settings().lease_seconds, before_dead=lambda _: deliver(store))
            presence.start()
            _present[store] = presence
    return node


def node_name() -> str:
    """The name under which this process's flows hold what they hold."""
    return f"{settings().node_id}#flows"


def depart(store: Store) -> None:
    """Before `store` is closed: what this process's flows still hold waits for another."""
    with _lock:
        presence = _present.pop(store, None)
    if presence is not None:
        presence.stop()


def _depart_from_all() -> None:
    if any(run.unrecorded for run in RUNS):
        return  # to leave in good order would be to say that they failed: Prefect says how, or their leases run out
    for store in list(_present):
        try:
            depart(store)
        except OptimizationError:
            logger.exception("could not take leave of %s; what was held is free once its lease runs out", store.name)


atexit.register(_depart_from_all)
