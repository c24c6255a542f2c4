"""The health of O9 itself: the store, Prefect, the nodes and the alert channels. Takes milliseconds at any size.

`o9 db check` checks the integrity of the database.
"""

from __future__ import annotations

import asyncio
from contextlib import suppress
from datetime import UTC, datetime
from typing import Any

from o9.api.backend import Backend
from o9.lifecycle.processes import lives
from o9.model.states import HealthStatus
from o9.model.urls import public_url
from o9.store import queries
from o9.store.core.unit import Row
from o9.store.store import Store

PREFECT_SECONDS = 1.0


async def system_health(backend: Backend) -> dict[str, Any]:
    """`status` with its `issues`; `running`, `store`, `schema`, `prefect`, `nodes` and `channels`."""
    schema, nodes, channels = await asyncio.to_thread(store_health, backend.store)
    dead = [node for node in nodes if not node["alive"]]
    issues = [f"the node {node['node_id']} has had no heartbeat since {node['heartbeat_at']}" for node in dead]
    issues += [
        f"the channel {each['channel']} has been failing since {each['failing_since']}"
        for each in channels
        if each["failing_since"]
    ]
    alive = False
    with suppress(TimeoutError):
        async with asyncio.timeout(PREFECT_SECONDS):
            alive = await backend.prefect_alive()
    if not alive:
        issues.append(f"Prefect's server did not respond within {PREFECT_SECONDS:g} s; optimizations wait for it")
    return {
        "status": (HealthStatus.WARNING if issues else HealthStatus.HEALTHY).value,
        "issues": issues,
        "running": backend.is_running,
        "store": backend.store.name,
        "schema": schema,
        "prefect": {"url": public_url(backend.prefect_url), "alive": alive},
        "nodes": nodes,
        "channels": channels,
    }


def store_health(store: Store) -> tuple[str | None, list[Row], list[Row]]:
    """The schema's revision, the nodes and the channels. Blocks."""
    nodes = [_node(row) for row in store.read(queries.cluster_nodes) if row["heartbeat_at"] is not None]
    tried = {row["channel"]: row for row in store.read(queries.alert_channels)}
    offered = set(store.read(queries.sending_channels))  # that running nodes have
    channels = [
        {"channel": name, "offered": name in offered}
        | {key: tried.get(name, {}).get(key) for key in ("last_sent_at", "failing_since", "error")}
        for name in sorted(tried.keys() | offered)
    ]
    return store.schema(), nodes, channels


def _node(row: Row) -> dict[str, Any]:
    """A node is alive while its lease lasts, unless its process on this machine has ended."""
    shown = {name: row[name] for name in ("node_id", "host", "pid")}
    heartbeat_at = datetime.fromtimestamp(row["heartbeat_at"], UTC).isoformat()
    return shown | {"heartbeat_at": heartbeat_at, "alive": row["living"] and lives(row) is not False}
