"""Whether a result can be trusted: four scores from named checks, each with its evidence.

Contract. The checks are pure functions (`validity`, `completeness`, `security`, `performance`) of what `facts` reads. A
part that cannot be judged has the status unknown, no score (None), and its reason among the issues. A check that raises
makes its own part unknown and no other. Every report is stored with its checks after the custom rules have changed it
(`o9.store.optimizations.health_reports`). Events come from the store, so they cover reports made by any process. A
checker belongs to one event loop.
"""

from __future__ import annotations

import asyncio
import hashlib
import logging
import math
from collections.abc import Callable
from itertools import islice
from typing import TYPE_CHECKING, Any
from weakref import WeakKeyDictionary

from o9.health.checks.check import PARTS, THRESHOLDS, Check, report_of, unknown
from o9.health.checks.completeness import completeness
from o9.health.checks.performance import performance
from o9.health.checks.security import security
from o9.health.facts import HealthFacts, read_facts
from o9.health.grades import Verdict, kept_verdict
from o9.health.rules import Rule, apply_rule, name_of
from o9.model.component import Registered
from o9.model.errors import OptimizationError, OptimizationValidationError
from o9.model.loops import MIN_INTERVAL_SECONDS
from o9.model.optimization import OptimizationHealthReport, OptimizationState, utc_now
from o9.model.settings import settings
from o9.model.states import ENDED, HealthStatus
from o9.model.validation import validate_seconds
from o9.store import queries
from o9.store.core.column_types import moment, to_json
from o9.store.core.component import StoreComponent, latest_health_reports
from o9.store.optimizations.health_reports import RecordHealthReport
from o9.store.store import Store

if TYPE_CHECKING:
    from o9.health.unknown import Unknown
    from o9.health.verdict import Evidence

logger = logging.getLogger(__name__)
EVALUATION_SECONDS = 60.0
EVALUATIONS = 10  # the most that a re-evaluation makes: two on all data, eight on truncated data
HISTORY_SHOWN = 100
POLL_SECONDS = 2.0  # for reports made by other processes
_SEVERITY = {HealthStatus.HEALTHY: 0, HealthStatus.UNKNOWN: 0, HealthStatus.WARNING: 1, HealthStatus.CRITICAL: 2}


class OptimizationHealthChecker(StoreComponent):
    """Checks optimizations and keeps their reports.

    check_interval: the age in seconds up to which `recent_report` returns a stored report.
    evaluation_seconds: the time limit for re-evaluating the best trial of one optimization.

    Events, between `start` and `stop`: `report(report)` for each new report in the store that differs from the one
    before; `degraded(report, before)` if it is also a warning or critical, and worse than the optimization's previous
    report (None if there was none).
    """

    events = ("report", "degraded")

    def __init__(
        self,
        check_interval: float = 30.0,
        *,
        store: Store | None = None,
        evaluation_seconds: float = EVALUATION_SECONDS,
    ) -> None:
        super().__init__(store)
        self.check_interval = validate_seconds("check_interval", check_interval)
        self.evaluation_seconds = validate_seconds("evaluation_seconds", evaluation_seconds)
        self._thresholds = dict(THRESHOLDS)
        self._rules: list[Rule] = []
        self._evaluating = asyncio.Lock()
        self._announced = 0  # the id of the last report that was announced
        self._one_at_a_time = asyncio.Lock()  # a large family takes seconds of processor time and hundreds of MiB

    def use(self, store: Store) -> None:
        super().use(store)
        _in_use[store] = self

    async def check_optimization_health(
        self, optimization_id: str, *, evaluate: bool = False
    ) -> OptimizationHealthReport:
        """Check an optimization now and store the report. Raises OptimizationError if it does not exist.

        A part's score is that of its weakest check. Its status is healthy from its threshold up, warning from 7/9 of
        that, else critical. The overall status follows from the weakest known part (healthy from 0.9, warning from
        0.7); it is unknown if every known part is healthy and another is unknown. Custom rules run last, in the order
        of their registration.

        evaluate: first re-evaluate the best trial of an ended optimization, unless that was done (`reevaluation`). This
        runs the objective's code for at most `evaluation_seconds`; an import path must be inside O9_ALLOWED_IMPORTS.
        Without it, only the record is read.
        """
        state = await self.existing(optimization_id)
        if evaluate:
            await self._evaluate(state, self.evaluation_seconds, settings().allowed_imports)
        async with self._one_at_a_time:
            judged, checks = await asyncio.to_thread(_checks, self.store, state)
        criteria = self._criteria()
        report = report_of(optimization_id, utc_now(), checks, self._thresholds)
        for rule in list(self._rules):
            report = await apply_rule(rule, report)
        found = [check.to_dict() for check in checks]
        await self.store.write_async(RecordHealthReport(report, found, judged, criteria))
        return report

    async def recent_report(self, optimization_id: str) -> OptimizationHealthReport:
        """Return the last report if it is younger than `check_interval` and still valid, else a new one.

        A report is invalid if the optimization's status has changed, if an ended optimization has changed at all, or if
        the report was made with other thresholds or rules.
        """
        state = await self.existing(optimization_id)
        report = await self._valid_report(state)
        if report is not None and (utc_now() - report.timestamp).total_seconds() < self.check_interval:
            return report
        return await self.check_optimization_health(optimization_id)

    async def judge_ended(
        self, optimization_id: str, *, seconds: float, allowed_imports: tuple[str, ...] | None
    ) -> OptimizationHealthReport:
        """Check an optimization that has just ended, unless a valid report exists, which is returned.

        The best trial is re-evaluated if EVALUATIONS of it fit into `seconds`, by the time that its trial took.
        `allowed_imports`: as for `o9.health.reevaluation.evaluate_again`. Raises OptimizationError if it does not
        exist.
        """
        state = await self.existing(optimization_id)
        report = await self._valid_report(state)
        if report is not None:
            return report
        await self._evaluate(state, seconds, allowed_imports, seconds / EVALUATIONS)
        return await self.check_optimization_health(optimization_id)

    async def get_verdict(self, optimization_id: str) -> Verdict | None:
        """Return the verdict of the last report, or None if there is none for the present status.

        Raises OptimizationError if the optimization does not exist.
        """
        state = await self.existing(optimization_id)
        return await asyncio.to_thread(kept_verdict, self.store, state)

    async def get_health_report(self, optimization_id: str) -> OptimizationHealthReport | None:
        """Return the last report made by any process, or None. Raises OptimizationError for an unknown id."""
        await self.existing(optimization_id)
        kept = await self.store.read_async(queries.health_report, optimization_id)
        return OptimizationHealthReport.from_dict(kept["report"]) if kept else None

    async def get_health_checks(self, optimization_id: str) -> list[dict[str, Any]]:
        """Return the checks of the last report: name, score, unknown, words, remedy, essential, evidence."""
        await self.existing(optimization_id)
        kept = await self.store.read_async(queries.health_report, optimization_id)
        return list(kept["checks"]) if kept else []

    async def get_health_history(self, optimization_id: str, limit: int = HISTORY_SHOWN) -> list[dict[str, Any]]:
        """Return its reports, newest first. Equal ones in a row are one entry.

        An entry has `report` (the report's fields), `first_at`, `last_at`, `times` (their number) and `status` (the
        optimization's at that time). Raises OptimizationError if the optimization does not exist.
        """
        await self.existing(optimization_id)
        rows = await self.store.read_async(queries.health_history, optimization_id, limit=limit)
        return [{name: row[name] for name in ("first_at", "last_at", "times", "status", "report")} for row in rows]

    async def get_all_health_reports(self, limit: int | None = None) -> list[OptimizationHealthReport]:
        """Return the last report of each optimization that has one, newest first, at most `limit`."""
        rows = await asyncio.to_thread(lambda: list(islice(latest_health_reports(self.store), limit)))
        return [OptimizationHealthReport.from_dict(row["report"]) for row in rows]

    def set_health_threshold(self, name: str, value: float) -> Registered:
        """Set the score (0 to 1) from which a part is healthy, for later checks. `name` is a key of `THRESHOLDS`."""
        if name not in THRESHOLDS:
            raise OptimizationValidationError("name", f"{name!r} is not one of {', '.join(THRESHOLDS)}")
        number = isinstance(value, (int, float)) and not isinstance(value, bool) and math.isfinite(value)
        if not number or not 0 <= value <= 1:
            raise OptimizationValidationError(name, f"{value!r} is not a number from 0 to 1")
        self._thresholds[name] = float(value)
        return Registered()

    def register_health_rule(self, rule: Rule) -> Registered:
        """Let `rule(optimization_id, report)`, sync (run in a thread) or async, change each later report.

        If it sets `report.suspend` to a reason, an aggregator suspends the optimization until a later report has none.
        If it raises, takes over 30 s or leaves an invalid report, its changes are discarded and an issue names it.
        """
        if not callable(rule):
            raise OptimizationValidationError("rule", f"{rule!r:.80} is not callable")
        self._rules.append(rule)
        return Registered()

    @property
    def has_rules(self) -> bool:
        """Whether any rule is registered."""
        return bool(self._rules)

    async def _begin(self) -> None:
        self._announced = await self.store.read_async(queries.last_health_report)
        interval = max(MIN_INTERVAL_SECONDS, min(self.check_interval, POLL_SECONDS))
        self._repeat(self._announce_reports, interval, "announcing new health reports")

    async def _announce_reports(self) -> None:
        if not any(map(self.callbacks_of, self.events)):
            self._announced = await self.store.read_async(queries.last_health_report)
            return
        for row in await self.store.read_async(queries.health_reports_since, self._announced):
            report = OptimizationHealthReport.from_dict(row["report"])
            earlier = await self.store.read_async(queries.health_history, report.optimization_id, 1, row["id"])
            before = OptimizationHealthReport.from_dict(earlier[0]["report"]) if earlier else None
            self._announced = row["id"]
            await self.emit("report", report)
            if _SEVERITY[report.overall_status] > (_SEVERITY[before.overall_status] if before else 0):
                await self.emit("degraded", report, before)

    async def _evaluate(
        self, state: OptimizationState, seconds: float, allowed: tuple[str, ...] | None, most_each: float = math.inf
    ) -> None:
        from o9.health.reevaluation import evaluate_again  # brings numpy

        async with self._evaluating:
            await evaluate_again(
                self.store, state, seconds=seconds, allowed_imports=allowed, most_seconds_each=most_each
            )

    async def _valid_report(self, state: OptimizationState) -> OptimizationHealthReport | None:
        """The last report, if it was made with the present thresholds and rules and `state` has not changed since.

        Of a running optimization, which changes all the time, only the status must be the same.
        """
        kept = await self.store.read_async(queries.health_report, state.optimization_id)
        if kept is None or kept["judged_by"] != self._criteria() or kept["status"] != state.status.value:
            return None
        if state.status in ENDED and kept["as_of"] != moment(state.updated_at):
            return None
        return OptimizationHealthReport.from_dict(kept["report"])

    def _criteria(self) -> str:
        """A fingerprint of the present thresholds and rules."""
        criteria = to_json([sorted(self._thresholds.items()), [name_of(rule) for rule in self._rules]])
        return hashlib.blake2b(criteria.encode(), digest_size=8).hexdigest()


def checker_for(store: Store) -> OptimizationHealthChecker:
    """Return a checker with the thresholds and rules of the one that this process uses on `store`, if any."""
    made, used = OptimizationHealthChecker(store=store), _in_use.get(store)
    if used is not None:
        made._thresholds, made._rules = dict(used._thresholds), list(used._rules)
    return made


_in_use: WeakKeyDictionary[Store, OptimizationHealthChecker] = WeakKeyDictionary()


def checks_of(facts: HealthFacts, evidence: Evidence | Unknown | None = None) -> list[Check]:
    """Run all checks; a part whose check raises is unknown. `evidence`: as for `validity`, if already computed."""
    from o9.health.checks.validity import validity  # imports numpy and scipy: half a second most processes never need

    def judged(facts: HealthFacts) -> list[Check]:
        return validity(facts, evidence)

    found: list[Check] = []
    parts: dict[str, Callable[[HealthFacts], list[Check]]] = dict(
        zip(PARTS, (judged, completeness, security, performance), strict=True)
    )
    for part, check in parts.items():
        try:
            found += check(facts)
        except Exception as error:
            logger.exception("the check of the %s of %s failed", part, facts.state.optimization_id)
            found.append(_failed(part, "the check failed", error))
    return found


def _checks(store: Store, state: OptimizationState) -> tuple[OptimizationState, list[Check]]:
    """Return the state that was checked and its checks."""
    try:
        facts = read_facts(store, state)
    except OptimizationError:
        raise
    except Exception as error:
        logger.exception("the record of %s cannot be read", state.optimization_id)
        return state, [_failed(part, "the record cannot be read", error) for part in PARTS]
    return facts.state, checks_of(facts)


def _failed(part: str, what: str, error: Exception) -> Check:
    why = f"{what}: {type(error).__name__}: {error}"[:500]
    return unknown(f"{part}.checking", why, "see the log; `o9 db check` looks for damage", essential=True)
