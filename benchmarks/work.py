"""The work that both sides of lifecycle.py do. Evaluation processes import it, so it imports nothing."""

from __future__ import annotations

from typing import Any


def computation(x: float) -> float:
    """A few milliseconds of arithmetic: about the least that is worth a Prefect task."""
    total = 0.0
    for n in range(1, 20_000):
        total += (x - n) ** 2 / n**3
    return total


async def async_computation(parameters: dict[str, Any]) -> float:
    return computation(parameters["x"])


def sync_computation(parameters: dict[str, Any]) -> float:
    return computation(parameters["x"])
