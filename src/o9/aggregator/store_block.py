"""Resolves block:NAME to a store's URL before any Prefect server was chosen."""

from __future__ import annotations

import asyncio

from o9.aggregator.prefect_server import ensure_prefect_server, prefect_client_settings
from o9.blocks.store import named_url
from o9.model.settings import STORE_BLOCK


async def resolve_store_url(url: str) -> str:
    """The URL itself, or the URL in the block that it names, on the Prefect server that runs the flows.

    Raises OptimizationStoreError where there is no such block, OptimizationCoordinationError where there is no server.
    """
    if not url.startswith(STORE_BLOCK):
        return url
    server = await ensure_prefect_server()
    try:
        with prefect_client_settings(server):
            return await asyncio.to_thread(named_url, url)
    finally:
        server.release()
