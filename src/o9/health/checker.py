"""Whether a result can be trusted: four scores from named checks, each with its evidence.

Contract. The checks are pure (`validity`, `completeness`, `security`, `performance`) over what `facts` reads; nothing
is made up: what cannot be known has the status unknown, no score (None), and its reason among the issues. So has a part
whose own check failed: the others are judged all the same. Every report is kept in the store, with the checks behind it
(`o9.store.optimizations.health_reports`), as the custom rules left it. Events follow the record: every report is
announced, whichever process made it. For one event loop.
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
EVALUATIONS = 10  # that once more takes at most: twice on all data, and on eight that end earlier
HISTORY_SHOWN = 100
LOOK_SECONDS = 2.0  # for reports that other processes have made
_SEVERITY = {HealthStatus.HEALTHY: 0, HealthStatus.UNKNOWN: 0, HealthStatus.WARNING: 1, HealthStatus.CRITICAL: 2}


class OptimizationHealthChecker(StoreComponent):
    """`check_interval`: seconds for which a report is good enough for `recent_report`.

    evaluation_seconds: how long evaluating the best of one optimization once more may take.

    Events, while it is started: `report(report)` for each report on the store that says something new;
    `degraded(report, before)` for those among them that are a warning or critical, and worse than the one before of the
    same optimization (None: there was none).
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
        self._announced = 0  # the last report of which there were events
        self._one_at_a_time = asyncio.Lock()  # a large family takes seconds of processor time and hundreds of MiB

    def use(self, store: Store) -> None:
        super().use(store)
        _in_use[store] = self

    async def check_optimization_health(
        self, optimization_id: str, *, evaluate: bool = False
    ) -> OptimizationHealthReport:
        """Check it now, and keep the report. Raises OptimizationError where there is no such optimization.

        Each part's score is that of its weakest check; its status is healthy from its threshold, warning from 7/9 of
        it, else critical. The whole is as good as the weakest known part (healthy from 0.9, warning from 0.7), and
        unknown where all that is known is good, but not all is known. Custom rules come last, in their order.

        evaluate: the best of one that has ended is evaluated once more before, unless that was done (`again`): its
        objective's code runs then, for `evaluation_seconds` at most, an import path only inside O9_ALLOWED_IMPORTS.
        Else nothing but the record is read.
        """
        state = await self.existing(optimization_id)
        if evaluate:
            await self._evaluate(state, self.evaluation_seconds, settings().allowed_imports)
        async with self._one_at_a_time:
            judged, checks = await asyncio.to_thread(_checks, self.store, state)
        measure = self._measure()
        report = report_of(optimization_id, utc_now(), checks, self._thresholds)
        for rule in list(self._rules):
            report = await apply_rule(rule, report)
        await self.store.write_async(RecordHealthReport(report, [check.to_dict() for check in checks], judged, measure))
        return report

    async def recent_report(self, optimization_id: str) -> OptimizationHealthReport:
        """The last report if it is younger than `check_interval` and still valid, else a new one.

        Invalid: another status, any change after the end, or other thresholds or rules than this checker's.
        """
        state = await self.existing(optimization_id)
        report = await self._kept(state)
        if report is not None and (utc_now() - report.timestamp).total_seconds() < self.check_interval:
            return report
        return await self.check_optimization_health(optimization_id)

    async def judge_ended(
        self, optimization_id: str, *, seconds: float, allowed_imports: tuple[str, ...] | None
    ) -> OptimizationHealthReport:
        """Judge one that has just ended, unless a report of how it is now was kept: then that is the answer.

        Its best is evaluated once more where EVALUATIONS of it are done within `seconds`, by what it took before.
        `allowed_imports`: as for `o9.health.reevaluation.evaluate_again`. Raises OptimizationError where there is none.
        """
        state = await self.existing(optimization_id)
        report = await self._kept(state)
        if report is not None:
            return report
        await self._evaluate(state, seconds, allowed_imports, seconds / EVALUATIONS)
        return await self.check_optimization_health(optimization_id)

    async def get_verdict(self, optimization_id: str) -> Verdict | None:
        """What may be believed of its best, by the last report of its present status; None where there is none.

        Raises OptimizationError where there is no such optimization.
        """
        state = await self.existing(optimization_id)
        return await asyncio.to_thread(kept_verdict, self.store, state)

    async def get_health_report(self, optimization_id: str) -> OptimizationHealthReport | None:
        """The last report, made by any process; None where there is none yet.

        Raises OptimizationError where there is no such optimization.
        """
        await self.existing(optimization_id)
        kept = await self.store.read_async(queries.health_report, optimization_id)
        return OptimizationHealthReport.from_dict(kept["report"]) if kept else None

    async def get_health_checks(self, optimization_id: str) -> list[dict[str, Any]]:
        """The checks behind the last report: name, score, unknown, words, remedy, essential, evidence."""
        await self.existing(optimization_id)
        kept = await self.store.read_async(queries.health_report, optimization_id)
        return list(kept["checks"]) if kept else []

    async def get_health_history(self, optimization_id: str, limit: int = HISTORY_SHOWN) -> list[dict[str, Any]]:
        """What was said of it, newest first: `report` (its fields), `first_at`, `last_at`, and how many `times`.

        `status` is the one that it had. Raises OptimizationError where there is no such optimization.
        """
        await self.existing(optimization_id)
        rows = await self.store.read_async(queries.health_history, optimization_id, limit=limit)
        return [{name: row[name] for name in ("first_at", "last_at", "times", "status", "report")} for row in rows]

    async def get_all_health_reports(self, limit: int | None = None) -> list[OptimizationHealthReport]:
        """The last report of each optimization that has one, newest first; the newest `limit` of them."""
        rows = await asyncio.to_thread(lambda: list(islice(latest_health_reports(self.store), limit)))
        return [OptimizationHealthReport.from_dict(row["report"]) for row in rows]

    def set_health_threshold(self, name: str, value: float) -> Registered:
        """From which score on a part is healthy, 0 to 1, for the checks from now on; the names are in `THRESHOLDS`."""
        if name not in THRESHOLDS:
            raise OptimizationValidationError("name", f"{name!r} is not one of {', '.join(THRESHOLDS)}")
        number = isinstance(value, (int, float)) and not isinstance(value, bool) and math.isfinite(value)
        if not number or not 0 <= value <= 1:
            raise OptimizationValidationError(name, f"{value!r} is not a number from 0 to 1")
        self._thresholds[name] = float(value)
        return Registered()

    def register_health_rule(self, rule: Rule) -> Registered:
        """Let `rule(optimization_id, report)` (sync, in a thread; or async) change each report from now on.

        Where it sets `report.suspend` to a reason, an aggregator takes the optimization off until a later report has
        none. One that raises, takes over 30 s or leaves no valid report is named in the report's issues, and undone.
        """
        if not callable(rule):
            raise OptimizationValidationError("rule", f"{rule!r:.80} cannot be called")
        self._rules.append(rule)
        return Registered()

    @property
    def has_rules(self) -> bool:
        """Whether any rule is registered."""
        return bool(self._rules)

    async def _begin(self) -> None:
        self._announced = await self.store.read_async(queries.last_health_report)
        interval = max(MIN_INTERVAL_SECONDS, min(self.check_interval, LOOK_SECONDS))
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

    async def _kept(self, state: OptimizationState) -> OptimizationHealthReport | None:
        """The last report, where it is of how `state` is and was made by the thresholds and rules of now.

        Of one that runs any report counts, since it changes all the time.
        """
        kept = await self.store.read_async(queries.health_report, state.optimization_id)
        if kept is None or kept["judged_by"] != self._measure() or kept["status"] != state.status.value:
            return None
        if state.status in ENDED and kept["as_of"] != moment(state.updated_at):
            return None
        return OptimizationHealthReport.from_dict(kept["report"])

    def _measure(self) -> str:
        """A fingerprint of the thresholds and rules that hold now."""
        measure = to_json([sorted(self._thresholds.items()), [name_of(rule) for rule in self._rules]])
        return hashlib.blake2b(measure.encode(), digest_size=8).hexdigest()


def checker_for(store: Store) -> OptimizationHealthChecker:
    """One that judges as the one does that this process uses on `store`: by its thresholds and rules."""
    made, used = OptimizationHealthChecker(store=store), _in_use.get(store)
    if used is not None:
        made._thresholds, made._rules = dict(used._thresholds), list(used._rules)
    return made


_in_use: WeakKeyDictionary[Store, OptimizationHealthChecker] = WeakKeyDictionary()


def checks_of(facts: HealthFacts, evidence: Evidence | Unknown | None = None) -> list[Check]:
    """All checks; a part whose own check fails is unknown. `evidence`: as for `validity`, where it is known."""
    from o9.health.checks.validity import (
        validity,  # brings numpy and scipy, half a second that most processes never need
    )

    def judged(facts: HealthFacts) -> list[Check]:
        return validity(facts, evidence)

    found: list[Check] = []
    parts: dict[str, Callable[[HealthFacts], list[Check]]] = dict(
        zip(PARTS, (judged, completeness, security, performance), strict=True)
    )
    for part, look in parts.items():
        try:
            found += look(facts)
        except Exception as error:
            logger.exception("the %s of %s could not be checked", part, facts.state.optimization_id)
            found.append(_failed(part, "it could not be checked", error))
    return found


def _checks(store: Store, state: OptimizationState) -> tuple[OptimizationState, list[Check]]:
    """What was checked, as it was then, and the checks."""
    try:
        facts = read_facts(store, state)
    except OptimizationError:
        raise
    except Exception as error:
        logger.exception("the record of %s cannot be read", state.optimization_id)
        return state, [_failed(part, "its record cannot be read", error) for part in PARTS]
    return facts.state, checks_of(facts)


def _failed(part: str, what: str, error: Exception) -> Check:
    why = f"{what}: {type(error).__name__}: {error}"[:500]
    return unknown(f"{part}.checking", why, "see the log; `o9 db check` looks for damage", essential=True)
