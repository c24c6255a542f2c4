"""Whether O9 itself is well: the store, Prefect, the nodes and the channels of alerts. Milliseconds at any size.

How the store's pages are is what `o9 db check` looks at.
"""

from __future__ import annotations

import asyncio
from datetime import UTC, datetime
from typing import Any

from o9.api.backend import Backend
from o9.lifecycle.processes import lives
from o9.model.settings import settings
from o9.model.states import HealthStatus
from o9.model.urls import public_url
from o9.store.store import Store
from o9.store.unit import Row

PREFECT_SECONDS = 1.0


async def system_health(backend: Backend) -> dict[str, Any]:
    """`status` with its `issues`; `running`, `store`, `schema`, `prefect`, `nodes` and `channels`."""
    store = backend.store
    alive, (schema, nodes, channels) = await asyncio.gather(
        _prefect_alive(backend), store.read_async(_read, store)
    )  # fmt: skip
    issues = [
        f"the node {node['node_id']} has no heartbeat since {node['heartbeat_at']}"
        for node in nodes
        if not node["alive"]
    ]
    issues += [
        f"the channel {each['channel']} fails since {each['failing_since']}"
        for each in channels
        if each["failing_since"]
    ]
    if not alive:
        issues.append(f"Prefect's server does not answer within {PREFECT_SECONDS:g} s: what runs waits for it")
    return {
        "status": (HealthStatus.WARNING if issues else HealthStatus.HEALTHY).value,
        "issues": issues,
        "running": backend.is_running,
        "store": store.name,
        "schema": schema,
        "prefect": {"url": public_url(backend.prefect_url), "alive": alive},
        "nodes": nodes,
        "channels": channels,
    }


async def _prefect_alive(backend: Backend) -> bool:
    try:
        async with asyncio.timeout(PREFECT_SECONDS):
            return await backend.prefect_alive()
    except TimeoutError:
        return False


def _read(store: Store) -> tuple[str | None, list[Row], list[Row]]:
    """In a thread."""
    now = -store.alerts.seconds_left(0.0)
    tried = {row["channel"]: row for row in store.alerts.channels()}
    offered = set(store.alerts.channels_of_nodes())
    channels = [_channel(name, tried.get(name, {}), name in offered) for name in sorted(tried.keys() | offered)]
    return store.schema(), [_node(row, now) for row in store.nodes()], channels


def _channel(name: str, row: Row, offered: bool) -> dict[str, Any]:
    """offered: whether a living node can send through it."""
    shown = {key: row.get(key) for key in ("last_sent_at", "failing_since", "error")}
    return {"channel": name, "offered": offered, **shown}


def _node(row: Row, now: float) -> dict[str, Any]:
    """now: by the store's clock, as the heartbeat is."""
    living = lives(row)
    lasts = float(row["info"].get("lease_seconds", settings().lease_seconds))
    return {
        "node_id": row["node_id"],
        "host": row["host"],
        "pid": row["pid"],
        "heartbeat_at": datetime.fromtimestamp(row["heartbeat_at"], UTC).isoformat(),
        "alive": row["heartbeat_at"] + lasts > now if living is None else living,
    }
