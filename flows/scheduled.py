"""What the scheduled flows share: their options in Prefect, their start, and their progress artifact."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from typing import Any

from prefect.artifacts import acreate_progress_artifact, aupdate_progress_artifact
from prefect.settings import PREFECT_LOCAL_STORAGE_PATH

from o9.blocks.store import current_store
from o9.flows.process import run_begins
from o9.store.store import Store

# For `@flow(name=…, **SCHEDULED)`.
SCHEDULED: dict[str, Any] = {
    "flow_run_name": None,
    "persist_result": False,
    # As for the lifecycle: without it, each run would ask Prefect's server for a default that it does not need.
    "result_storage": PREFECT_LOCAL_STORAGE_PATH.value(),
}
SHOWN_STEP = 0.01  # each update is a request to Prefect's server


async def store_of_run() -> Store:
    """Prepare the process for the run, and open the store."""
    run_begins()
    return await asyncio.to_thread(current_store)


async def progress_shown(description: str) -> Callable[[float], Awaitable[None]]:
    """Create a progress artifact for the current run; returns a function that updates it, with 0 to 1."""
    artifact = await acreate_progress_artifact(progress=0.0, description=description)
    shown = 0.0

    async def move(share: float) -> None:
        nonlocal shown
        if share >= shown + SHOWN_STEP or share >= 1.0 > shown:
            shown = share
            await aupdate_progress_artifact(artifact, progress=100.0 * share)

    return move
