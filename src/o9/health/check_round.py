"""A round of health checks and its report: the work of the flow `check_health`, without Prefect.

Contract. Optimizations are checked one after the other, so that only one family's returns are in memory: first those
that are running, or have changed while they are paused or queued, then those that have ended since their last check, at
most `limit` of each. The best trial of an ended one is evaluated again where this process knows its objective and may
run it (`reevaluation`). A check that fails is listed and does not stop the others; a pruned optimization is skipped.
"""

from __future__ import annotations

import logging
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from typing import Any

from o9.health.checker import OptimizationHealthChecker
from o9.health.checks.check import PARTS
from o9.health.grades import Verdict
from o9.health.wording import headline
from o9.model.errors import OptimizationHealthError, OptimizationStoreError
from o9.model.optimization import OptimizationHealthReport
from o9.model.states import HealthStatus
from o9.model.validation import validate_whole
from o9.store import queries
from o9.store.core.reading import PAGE_LIMIT
from o9.text.escape import unmarked

logger = logging.getLogger(__name__)
LIMIT = 200
SHOWN = 50  # failures
# Unknown comes after warning: every score that is known is good.
WORST_FIRST = (HealthStatus.CRITICAL, HealthStatus.WARNING, HealthStatus.UNKNOWN, HealthStatus.HEALTHY)

Progress = Callable[[float], Awaitable[None]]


@dataclass
class Round:
    """The outcome of a round. `verdicts` and `failures` (the error's text) are by id.

    more_due: more than `limit` ended optimizations are due for a check.
    """

    reports: list[OptimizationHealthReport] = field(default_factory=list)
    verdicts: dict[str, Verdict] = field(default_factory=dict)
    under_way: int = 0
    ended: int = 0
    failures: dict[str, str] = field(default_factory=dict)
    more_due: bool = False

    def by_status(self) -> dict[str, int]:
        """The number of reports with each status, the worst first."""
        counts = {status.value: 0 for status in WORST_FIRST}
        for report in self.reports:
            counts[report.overall_status.value] += 1
        return counts

    def figures(self) -> dict[str, Any]:
        """All fields but the reports and verdicts, which are in the store."""
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
    """Check what is due. Raises OptimizationHealthError if all checks fail, OptimizationStoreError without a store."""
    validate_whole("limit", limit, PAGE_LIMIT - 1)
    store, done = checker.store, Round()
    running = await store.read_async(queries.health_under_way, limit=limit)
    due = await store.read_async(queries.health_due, limit=limit + 1)
    done.more_due = len(due) > limit
    names = [*running, *due[:limit]]
    for number, name in enumerate(names, start=1):
        has_ended = number > len(running)
        if await _check(checker, name, done, evaluate=has_ended):
            done.under_way += not has_ended
            done.ended += has_ended
        if progress is not None:
            await progress(number / len(names))
    if done.failures and not done.reports:
        name, why = next(iter(done.failures.items()))
        raise OptimizationHealthError(f"all {len(done.failures)} health checks failed; {name}: {why}")
    return done


async def _check(checker: OptimizationHealthChecker, name: str, done: Round, *, evaluate: bool) -> bool:
    try:
        done.reports.append(await checker.check_optimization_health(name, evaluate=evaluate))
        if (verdict := await checker.get_verdict(name)) is not None:
            done.verdicts[name] = verdict
    except OptimizationStoreError:
        raise
    except Exception as error:
        if await checker.get_optimization_status(name) is not None:
            logger.exception("the health check of %s failed", name)
            done.failures[name] = f"{type(error).__name__}: {error}"[:500]
        return False
    return True


def table(done: Round) -> list[dict[str, Any]]:
    """Return one row for each report, the worst first; an unknown score is a dash."""
    return [
        {
            "optimization": report.optimization_id,
            "result": headline(done.verdicts.get(report.optimization_id)),
            "overall": report.overall_status.value,
            **{part: _score(getattr(report, f"{part}_score")) for part in PARTS},
            "issues": len(report.issues),
            "first issue": str(report.issues[0]) if report.issues else "",
        }
        for report in sorted(done.reports, key=lambda each: (WORST_FIRST.index(each.overall_status), _weakest(each)))
    ]


def markdown(done: Round) -> str:
    """Summarize the round as Markdown: the counts, and the checks that failed."""
    counts = ", ".join(f"{count} {status}" for status, count in done.by_status().items() if count)
    lines = ["# Health", "", f"**{len(done.reports)}** checked{': ' if counts else ''}{counts}."]
    lines += ["", f"{done.under_way} are under way, {done.ended} have ended."]
    if done.more_due:
        lines += ["", "More ended optimizations are due. The next runs check them, or one run with a larger limit."]
    if done.failures:
        lines += ["", "## Could not be checked", ""]
        lines += [f"- **{unmarked(name)}**: {unmarked(why)}" for name, why in list(done.failures.items())[:SHOWN]]
        lines += [f"- and {len(done.failures) - SHOWN} more"] if len(done.failures) > SHOWN else []
    return "\n".join(lines) + "\n"


def _weakest(report: OptimizationHealthReport) -> float:
    known = [score for part in PARTS if (score := getattr(report, f"{part}_score")) is not None]
    return min(known, default=1.0)


def _score(score: float | None) -> str:
    return "-" if score is None else f"{score:.2f}"
