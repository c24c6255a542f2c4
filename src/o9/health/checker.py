"""Whether a result can be trusted: four scores from named checks, each with its evidence.

Contract. The checks are pure (`validity`, `completeness`, `security`, `performance`) over what `facts` reads; nothing
is made up: what cannot be known has the status unknown, no score (None), and its reason among the issues. Reports are
kept in memory only, the last one of each of the 1,000 optimizations that were checked last. For one event loop.
"""

from __future__ import annotations

import asyncio
import math
from collections import OrderedDict
from dataclasses import dataclass
from typing import Any

from o9.health.checks import THRESHOLDS, Check, report_of
from o9.health.completeness import completeness
from o9.health.facts import read_facts
from o9.health.performance import performance
from o9.health.rules import Rule, apply_rule
from o9.health.security import security
from o9.model.component import Registered
from o9.model.errors import OptimizationValidationError
from o9.model.optimization import OptimizationHealthReport, OptimizationState, utc_now
from o9.model.states import ENDED
from o9.store.component import StoreComponent
from o9.store.store import Store

REPORTS_KEPT = 1_000


@dataclass(frozen=True)
class _Kept:
    """A report, what it rests on, what the optimization was then, and which rules and thresholds held."""

    report: OptimizationHealthReport
    checks: list[Check]
    as_of: str
    judged_by: int


class OptimizationHealthChecker(StoreComponent):
    """`check_interval`: seconds for which a report is good enough for `recent_report`."""

    def __init__(self, check_interval: float = 30.0, *, store: Store | None = None) -> None:
        super().__init__(store)
        self.check_interval = check_interval
        self._thresholds = dict(THRESHOLDS)
        self._rules: list[Rule] = []
        self._judged_by = 0  # counts the changes of thresholds and rules
        self._reports: OrderedDict[str, _Kept] = OrderedDict()
        self._one_at_a_time = asyncio.Lock()  # a large family takes seconds of processor time and hundreds of MiB

    async def check_optimization_health(self, optimization_id: str) -> OptimizationHealthReport:
        """Check it now. Raises OptimizationError where there is no such optimization.

        Each part's score is that of its weakest check; its status is healthy from its threshold, warning from 7/9 of
        it, else critical. The whole is as good as the weakest known part (healthy from 0.9, warning from 0.7), and
        unknown where all that is known is good, but not all is known. Custom rules come last, in their order.
        """
        state = await self.existing(optimization_id)
        async with self._one_at_a_time:
            checks = await self.store.read_async(_checks, self.store, state)
        judged_by = self._judged_by
        report = report_of(optimization_id, utc_now(), checks, self._thresholds)
        for rule in list(self._rules):
            report = await apply_rule(rule, report)
        self._reports[optimization_id] = _Kept(report, checks, _as_of(state), judged_by)
        self._reports.move_to_end(optimization_id)
        while len(self._reports) > REPORTS_KEPT:
            self._reports.popitem(last=False)
        return _copy(report)

    async def recent_report(self, optimization_id: str) -> OptimizationHealthReport:
        """The last report if it is younger than `check_interval` and still meant, else a new one.

        Meant no longer: another status, any change after the end, or another threshold or rule.
        """
        state = await self.existing(optimization_id)
        kept = self._reports.get(optimization_id)
        if kept is None or (kept.as_of, kept.judged_by) != (_as_of(state), self._judged_by):
            return await self.check_optimization_health(optimization_id)
        if (utc_now() - kept.report.timestamp).total_seconds() >= self.check_interval:
            return await self.check_optimization_health(optimization_id)
        return _copy(kept.report)

    async def get_health_report(self, optimization_id: str) -> OptimizationHealthReport | None:
        """The last report that this process made (they are not stored); None where it made none.

        Raises OptimizationError where there is no such optimization.
        """
        await self.existing(optimization_id)
        kept = self._reports.get(optimization_id)
        return _copy(kept.report) if kept else None

    async def get_health_checks(self, optimization_id: str) -> list[dict[str, Any]]:
        """The checks behind the last report: name, score, unknown, words, remedy, essential, evidence."""
        await self.existing(optimization_id)
        kept = self._reports.get(optimization_id)
        return [check.to_dict() for check in kept.checks] if kept else []

    async def get_all_health_reports(self) -> list[OptimizationHealthReport]:
        """The last report of each optimization that this process checked, the newest first (they are not stored)."""
        return [_copy(kept.report) for kept in reversed(self._reports.values())]

    def set_health_threshold(self, name: str, value: float) -> Registered:
        """From which score on a part is healthy, 0 to 1, for the checks from now on; the names are in `THRESHOLDS`."""
        if name not in THRESHOLDS:
            raise OptimizationValidationError("name", f"{name!r} is not one of {', '.join(THRESHOLDS)}")
        number = isinstance(value, (int, float)) and not isinstance(value, bool) and math.isfinite(value)
        if not number or not 0 <= value <= 1:
            raise OptimizationValidationError(name, f"{value!r} is not a number from 0 to 1")
        self._thresholds[name] = float(value)
        self._judged_by += 1
        return Registered()

    def register_health_rule(self, rule: Rule) -> Registered:
        """Let `rule(optimization_id, report)` (sync, in a thread; or async) change each report from now on.

        One that raises, takes over 30 s or leaves no valid report is named in the report's issues, and undone.
        """
        if not callable(rule):
            raise OptimizationValidationError("rule", f"{rule!r:.80} cannot be called")
        self._rules.append(rule)
        self._judged_by += 1
        return Registered()


def _checks(store: Store, state: OptimizationState) -> list[Check]:
    from o9.health.validity import validity  # brings numpy and scipy, half a second that most processes never need

    facts = read_facts(store, state)
    return [*validity(facts), *completeness(facts), *security(facts), *performance(facts)]


def _as_of(state: OptimizationState) -> str:
    """What a report is of: one that runs changes all the time, and would be checked at every question."""
    return f"{state.status.value} {state.updated_at if state.status in ENDED else ''}"


def _copy(report: OptimizationHealthReport) -> OptimizationHealthReport:
    return OptimizationHealthReport.from_dict(report.to_dict())
