"""The order of the queue: each optimization has a key, and the smallest key is claimed first. Pure.

A level of priority is worth ten minutes of waiting. All waiting times grow at the same rate, so the order of two
optimizations never changes, and an index can hold it.
"""

from __future__ import annotations

from datetime import datetime
from typing import Any

AGING_SECONDS_PER_PRIORITY = 600.0


def queue_key(queued_at: str, priority: int) -> float:
    return datetime.fromisoformat(queued_at).timestamp() - AGING_SECONDS_PER_PRIORITY * int(priority)


def queued_at(key: Any, priority: Any) -> Any:
    """Return when it was queued, in seconds since 1970; given two columns, the SQL expression for that."""
    return key + AGING_SECONDS_PER_PRIORITY * priority
