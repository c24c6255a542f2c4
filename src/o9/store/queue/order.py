"""The order in which optimizations wait for a slot: one number for each, the smallest first.

Queued earlier or of higher priority is smaller: a level of priority is worth ten minutes of waiting. As all
waiting times grow alike, the order of two never changes, and an index can hold it. Pure.
"""

from __future__ import annotations

from datetime import datetime
from typing import Any

AGING_SECONDS_PER_PRIORITY = 600.0


def queue_key(queued_at: str, priority: int) -> float:
    return datetime.fromisoformat(queued_at).timestamp() - AGING_SECONDS_PER_PRIORITY * int(priority)


def queued_at(key: Any, priority: Any) -> Any:
    """The seconds since 1970 at which it was queued; of two columns, the expression for them."""
    return key + AGING_SECONDS_PER_PRIORITY * priority
