"""A round of health checks over what needs one: what `check_health` does, without Prefect.

Contract. One after the other, so that the returns of one family at a time are in memory. What runs, or rests and has
changed, comes first, then what has ended and was not checked since: the best of these is evaluated once more, where
this process knows its objective and may run it (`again`). Of each at most `limit`. A check that fails is named and does
not keep the others from being made; what was pruned meanwhile is passed over.
"""

from __future__ import annotations

import logging
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from typing import Any

from o9.health.checker import OptimizationHealthChecker
from o9.health.grades import Verdict, verdict_of
from o9.model.errors import OptimizationHealthError, OptimizationStoreError, OptimizationValidationError
from o9.model.optimization import OptimizationHealthReport
from o9.model.states import HealthStatus
from o9.store import queries
from o9.store.optimizations.health_reports import PAGE_LIMIT

logger = logging.getLogger(__name__)
LIMIT = 200

Progress = Callable[[float], Awaitable[None]]


@dataclass
class Round:
    """What was checked. `verdicts`: by id, of those that were judged. `failures`: why, by id.

    more_due: there were more that have ended than `limit`.
    """

    reports: list[OptimizationHealthReport] = field(default_factory=list)
    verdicts: dict[str, Verdict] = field(default_factory=dict)
    under_way: int = 0
    ended: int = 0
    failures: dict[str, str] = field(default_factory=dict)
    more_due: bool = False

    def by_status(self) -> dict[str, int]:
        """How many reports say so, the worst first."""
        counts = {status.value: 0 for status in WORST_FIRST}
        for report in self.reports:
            counts[report.overall_status.value] += 1
        return counts

    def figures(self) -> dict[str, Any]:
        """All but the reports and verdicts, which the store has."""
        return {
            "checked": len(self.reports),
            "under_way": self.under_way,
            "ended": self.ended,
            "by_status": self.by_status(),
            "failures": self.failures,
            "more_due": self.more_due,
        }


async def check_round(
    checker: OptimizationHealthChecker, limit: int = LIMIT, progress: Progress | None = None
) -> Round:
    """Raises OptimizationStoreError where the store is away; OptimizationHealthError where every check failed."""
    if isinstance(limit, bool) or not isinstance(limit, int) or not 1 <= limit < PAGE_LIMIT:
        raise OptimizationValidationError("limit", f"{limit!r} is not a whole number between 1 and {PAGE_LIMIT - 1}")
    store, done = checker.store, Round()
    running = await store.read_async(queries.health_under_way, limit=limit)
    due = await store.read_async(queries.health_due, limit=limit + 1)
    done.more_due = len(due) > limit
    names = [*running, *due[:limit]]
    for number, name in enumerate(names, start=1):
        report = await _checked(checker, name, done, evaluate=number > len(running))
        if report is not None:
            done.reports.append(report)
            kept = await store.read_async(queries.health_report, name)
            if kept is not None and (verdict := verdict_of(kept["checks"])) is not None:
                done.verdicts[name] = verdict
            done.under_way += number <= len(running)
            done.ended += number > len(running)
        if progress is not None:
            await progress(number / len(names))
    if done.failures and not done.reports:
        name, why = next(iter(done.failures.items()))
        raise OptimizationHealthError(f"none of {len(done.failures)} could be checked; {name}: {why}")
    return done


async def _checked(
    checker: OptimizationHealthChecker, name: str, done: Round, *, evaluate: bool
) -> OptimizationHealthReport | None:
    try:
        return await checker.check_optimization_health(name, evaluate=evaluate)
    except OptimizationStoreError:
        raise
    except Exception as error:
        if await checker.get_optimization_status(name) is not None:
            logger.exception("%s could not be checked", name)
            done.failures[name] = f"{type(error).__name__}: {error}"[:500]
        return None


# Of what is unknown, all that is known is good.
WORST_FIRST = (HealthStatus.CRITICAL, HealthStatus.WARNING, HealthStatus.UNKNOWN, HealthStatus.HEALTHY)
