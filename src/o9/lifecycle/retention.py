"""Deletes everything of optimizations that ended longer ago than the record is kept.

Contract. `prune` deletes in many short transactions (`o9.store.optimizations.pruning`) with pauses in which other
processes can write. After an interruption the next call continues.
"""

from __future__ import annotations

import asyncio
import logging
import math
import time
from collections import Counter
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from typing import Any, TypeVar

from o9.model.errors import OptimizationValidationError
from o9.store import queries
from o9.store.alerts.pruning import PruneAlerts
from o9.store.core.column_types import moment
from o9.store.core.unit import Operation
from o9.store.optimizations.pruning import Prune, PruneChanges, PruneReason
from o9.store.statistics.families import SharpeRatios
from o9.store.store import Store

logger = logging.getLogger(__name__)
MOST_DAYS = 36_600
# The least pause; otherwise as long as the transaction took: SQLite's writers poll, and must often find the file free.
LEAST_PAUSE_SECONDS = 0.02

R = TypeVar("R")
Progress = Callable[[float], Awaitable[None]]


@dataclass
class Removed:
    """What was deleted, and how many optimizations were kept for which reason.

    longest_seconds: of a transaction, including its wait for the lock. flow_runs, scheduled_runs: runs in Prefect of
    pruned optimizations and of scheduled flows, which only the flow prune_history deletes.
    """

    before: str
    optimizations: int = 0
    rows: int = 0
    changes: int = 0
    alerts: int = 0
    notices: int = 0
    suppressed: int = 0
    silences: int = 0
    flow_runs: int = 0
    scheduled_runs: int = 0
    kept: Counter[PruneReason] = field(default_factory=Counter)
    longest_seconds: float = 0.0

    def figures(self) -> dict[str, Any]:
        """JSON-ready."""
        return {**vars(self), "kept": {why.name.lower(): count for why, count in self.kept.items()}}


def horizon(days: float, now: datetime, field: str = "days") -> str:
    """The ISO moment `days` before `now`. Raises OptimizationValidationError, naming `field`."""
    number = isinstance(days, (int, float)) and not isinstance(days, bool) and math.isfinite(days)
    if not number or not 0 < days <= MOST_DAYS:
        raise OptimizationValidationError(field, f"{days!r} is not a number of days above 0 and up to {MOST_DAYS}")
    return moment(now - timedelta(days=days))


async def prune(store: Store, before: str, sharpe_ratios: SharpeRatios, progress: Progress | None = None) -> Removed:
    """Delete optimizations that ended before the ISO moment `before`, and alerts that were over, their notifications,
    and changes of the feed from before it.
    """
    removed = Removed(before)
    expected = (await store.read_async(queries.prunable, before)).optimizations
    cursor: tuple[str, str] | None = ("", "")
    while cursor is not None:
        done = await _written(store, Prune(before, sharpe_ratios, cursor), removed)
        cursor = done.cursor
        removed.optimizations += done.optimizations
        removed.rows += done.rows
        removed.kept += done.kept
        if progress is not None and expected:
            await progress(min(1.0, removed.optimizations / expected))
    cursor = ("", "")
    while cursor is not None:
        gone = await _written(store, PruneAlerts(before, cursor), removed)
        cursor = gone.cursor
        removed.alerts += gone.alerts
        removed.notices += gone.notices
        removed.suppressed += gone.suppressed
        removed.silences += gone.silences
    while forgotten := await _written(store, PruneChanges(before), removed):
        removed.changes += forgotten
    logger.info(
        "%d optimizations that ended before %s are deleted, with their %d rows; %d alerts and %d messages",
        removed.optimizations, before, removed.rows, removed.alerts, removed.notices,
    )  # fmt: skip
    return removed


async def _written(store: Store, operation: Operation[R], removed: Removed) -> R:
    """The operation's answer, after a pause in which others can write."""
    began = time.monotonic()
    answer = await store.write_async(operation)
    took = time.monotonic() - began
    removed.longest_seconds = max(removed.longest_seconds, took)
    await asyncio.sleep(max(LEAST_PAUSE_SECONDS, took))
    return answer
