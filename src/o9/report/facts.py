"""Read what a report shows, once and within bounds. Nothing else in this room reads the store. Blocks.

Contract. Of one optimization it reads what `o9.health.facts` reads, within its bounds; of all of them, aggregates and
the newest NEWEST. Nothing is written. Raises OptimizationError for an unknown id.
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
    """One optimization: the record, its health checks, and the evidence and the verdict on its best.

    counts: all trials by state. waited_seconds: in the queue, before the first attempt. series: the newest runs of its
    recurring optimization.
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
    """All optimizations: `summary` and `trends` from the statistics, the newest ones, rankings by metric.

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
        raise OptimizationError(f"there is no optimization {optimization_id!r}; `o9 list` lists them")
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
    """Unknown if judging fails, too, so that the rest of the report is still written."""
    try:
        return evidence_of(facts.best, facts.family)
    except Exception as error:
        logger.exception("the best of %s could not be judged", facts.state.optimization_id)
        return Unknown(f"it could not be judged: {type(error).__name__}: {error}"[:500])


def _aware(moment: str) -> datetime:
    at = datetime.fromisoformat(moment)
    return at if at.tzinfo else at.replace(tzinfo=UTC)  # the start of a day has none


async def _statistics(store: Store, time_range: timedelta) -> tuple[Any, Any, dict[str, Any]]:
    statistics = OptimizationStatistics(store=store)
    await statistics.initialize()
    return (
        await statistics.get_global_statistics(),
        await statistics.get_performance_trends(time_range),
        {metric: await statistics.get_optimization_rankings(metric, RANKED) for metric in RANKED_BY},
    )
