"""Flows for schedules of tests, found by their dotted paths; what they do is written down here."""

from __future__ import annotations

import asyncio
import sys

from prefect import flow

from o9.blocks.store import current_store

RAN: list[str] = []
AT_ONCE: list[int] = [0, 0]  # now, and the most there ever were
GATE = asyncio.Event()


@flow
async def tick(word: str = "tick") -> None:
    RAN.append(word)


@flow
async def where() -> None:
    RAN.append(current_store().url)


@flow
async def broken() -> None:
    RAN.append("broken")
    raise ValueError("no data today\nat all")


@flow
async def exits() -> None:
    RAN.append("exits")
    sys.exit(3)


@flow
async def cancelled_within() -> None:
    RAN.append("cancelled within")
    awaited = asyncio.get_running_loop().create_future()
    awaited.cancel()
    await awaited


@flow
async def unhurried() -> None:
    """Takes until GATE is set."""
    RAN.append("unhurried")
    AT_ONCE[0] += 1
    AT_ONCE[1] = max(AT_ONCE)
    try:
        await GATE.wait()
        RAN.append("unhurried: done")
    finally:
        AT_ONCE[0] -= 1
