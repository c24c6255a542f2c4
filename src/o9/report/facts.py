"""What a report tells, read once and within bounds: the only place of this room that reads the store. It blocks.

Contract. Of one optimization what `o9.health.facts` reads, within its bounds; of all of them aggregates, and the newest
NEWEST. Nothing is written. Raises OptimizationError where the id is not known.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Any

from o9.health.checker import checks_of
from o9.health.checks.check import Check
from o9.health.checks.validity import evidence_of, verdict_on
from o9.health.facts import HealthFacts, read_facts
from o9.health.grades import Verdict, kept_verdicts
from o9.health.series_runs import SeriesRun, read_series
from o9.health.unknown import Unknown
from o9.health.verdict import Evidence
from o9.model.errors import OptimizationError
from o9.model.optimization import OptimizationState
from o9.statistics.importance import MOST_TRIALS, importance
from o9.statistics.statistics import OptimizationStatistics
from o9.store import queries
from o9.store.store import Store

logger = logging.getLogger(__name__)
NEWEST = 200
RANKED = 10
RANKED_BY = ("current_performance", "performance_improvement", "execution_time")
SHORTEST_TREND, LONGEST_TREND = timedelta(days=2), timedelta(days=90)


@dataclass(frozen=True)
class OneFacts:
    """One optimization: the record, what health makes of it, and what the verdict on its best rests on.

    counts: trials by state, all of them. waited_seconds: in the queue, before its first attempt. series: the newest
    runs of the recurring optimization that it is a run of.
    """

    facts: HealthFacts
    checks: Sequence[Check]
    evidence: Evidence | Unknown
    verdict: Verdict
    importance: Mapping[str, Any]
    counts: Mapping[str, int]
    waited_seconds: float | None
    series: Sequence[SeriesRun] = ()

    @property
    def state(self) -> OptimizationState:
        return self.facts.state


@dataclass(frozen=True)
class AllFacts:
    """All optimizations: `summary` and `trends` as the statistics give them, the newest ones, rankings by metric.

    verdicts: by id, of those of the newest that have one.
    """

    summary: Mapping[str, Any]
    trends: Mapping[str, Any]
    newest: Sequence[OptimizationState]
    verdicts: Mapping[str, Verdict]
    rankings: Mapping[str, Sequence[Mapping[str, Any]]]


def read_one(store: Store, optimization_id: str) -> OneFacts:
    state = store.read(queries.get, optimization_id)
    if state is None:
        raise OptimizationError(f"there is no optimization {optimization_id!r}; `o9 list` shows those that there are")
    facts = read_facts(store, state)
    evidence = _evidence(facts)
    holding = store.read(queries.holding, optimization_id)
    return OneFacts(
        facts=facts,
        checks=checks_of(facts, evidence),
        evidence=evidence,
        verdict=verdict_on(facts, evidence),
        importance=importance(facts.trials[:MOST_TRIALS]),
        counts=store.read(queries.trial_counts, optimization_id),
        waited_seconds=holding.waited_seconds if holding else None,
        series=read_series(store, state),
    )


def read_all(store: Store, now: datetime) -> AllFacts:
    first = store.read(queries.first_ended)
    age = now - _aware(first) if first else SHORTEST_TREND
    summary, trends, rankings = asyncio.run(_statistics(store, min(max(age, SHORTEST_TREND), LONGEST_TREND)))
    newest = store.read(queries.page, limit=NEWEST).items
    return AllFacts(summary, trends, newest, kept_verdicts(store, newest), rankings)


def _evidence(facts: HealthFacts) -> Evidence | Unknown:
    """Unknown, too, where judging fails: the rest of the report is none the worse for it."""
    try:
        return evidence_of(facts.best, facts.family)
    except Exception as error:
        logger.exception("the best of %s could not be judged", facts.state.optimization_id)
        return Unknown(f"it could not be judged: {type(error).__name__}: {error}"[:500])


def _aware(moment: str) -> datetime:
    at = datetime.fromisoformat(moment)
    return at if at.tzinfo else at.replace(tzinfo=UTC)  # the beginning of a day has none


async def _statistics(store: Store, time_range: timedelta) -> tuple[Any, Any, dict[str, Any]]:
    statistics = OptimizationStatistics(store=store)
    await statistics.initialize()
    return (
        await statistics.get_global_statistics(),
        await statistics.get_performance_trends(time_range),
        {metric: await statistics.get_optimization_rankings(metric, RANKED) for metric in RANKED_BY},
    )
