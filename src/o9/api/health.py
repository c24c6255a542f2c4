"""Whether O9 itself is well: the store, Prefect, the nodes and the channels of alerts. Milliseconds at any size.

`o9 db check` looks at the store's pages.
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
from o9.store import queries
from o9.store.core.unit import Row
from o9.store.store import Store

PREFECT_SECONDS = 1.0


async def _prefect_alive(backend: Backend) -> bool:
    try:
        async with asyncio.timeout(PREFECT_SECONDS):
            return await backend.prefect_alive()
    except TimeoutError:
        return False


async def system_health(backend: Backend) -> dict[str, Any]:
    """`status` with its `issues`; `running`, `store`, `schema`, `prefect`, `nodes` and `channels`."""
    store = backend.store
    alive, (schema, nodes, channels) = await asyncio.gather(
        _prefect_alive(backend), asyncio.to_thread(store_health, store)
    )
    issues = []
    for node in nodes:
        name, at = node["node_id"], node["heartbeat_at"]
        if not node["alive"]:
            issues.append(f"the node {name} has had no heartbeat since {at}")
        elif node["late"]:
            issues.append(f"the node {name} is alive, but its last heartbeat was written at {at}: see its log")
    for channel in channels:
        if since := channel["failing_since"]:
            issues.append(f"the channel {channel['channel']} has been failing since {since}")
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


def store_health(store: Store) -> tuple[str | None, list[Row], list[Row]]:
    """The schema's revision, the nodes and the channels; in a thread."""
    now = -store.read(queries.seconds_left, 0.0)
    tried = {row["channel"]: row for row in store.read(queries.alert_channels)}
    offered = set(store.read(queries.sending_channels))
    channels = [_channel(name, tried.get(name, {}), name in offered) for name in sorted(tried.keys() | offered)]
    return store.schema(), [_node(row, now) for row in store.read(queries.nodes)], channels


def _channel(name: str, row: Row, offered: bool) -> dict[str, Any]:
    """offered: whether a running node can send through it."""
    shown = {key: row.get(key) for key in ("last_sent_at", "failing_since", "error")}
    return {"channel": name, "offered": offered, **shown}


def _node(row: Row, now: float) -> dict[str, Any]:
    """now: by the store's clock, as the heartbeat is."""
    living = lives(row)
    late = row["heartbeat_at"] + float(row["info"].get("lease_seconds", settings().lease_seconds)) <= now
    return {
        "node_id": row["node_id"],
        "host": row["host"],
        "pid": row["pid"],
        "heartbeat_at": datetime.fromtimestamp(row["heartbeat_at"], UTC).isoformat(),
        "alive": not late if living is None else living,
        "late": late,
    }
