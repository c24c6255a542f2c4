"""`get_global_statistics` and `get_optimization_statistics` on a real store, compared with what was done."""

from __future__ import annotations

import asyncio
import json
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from contract_steps import at_work, put, trial

from o9.model.errors import OptimizationError
from o9.model.optimization import utc_now
from o9.model.states import OptimizationPriority, OptimizationType
from o9.model.states import OptimizationStatus as S
from o9.statistics.maintenance import maintain_rollups, markdown, table
from o9.statistics.statistics import OptimizationStatistics
from o9.store.core import unit
from o9.store.optimizations.commit_step import CommitStep
from o9.store.optimizations.transitions import Cause, Transition
from o9.store.queue.claims import Claim
from o9.store.store import Store

BEGAN = datetime.now(UTC) - timedelta(days=3)


class Clock:
    def __init__(self) -> None:
        self.now = BEGAN

    def text(self) -> str:
        return self.now.isoformat(timespec="microseconds")

    def on(self, seconds: float) -> None:
        self.now += timedelta(seconds=seconds)


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    made = Clock()
    monkeypatch.setattr(unit, "now_text", made.text)
    return made


@pytest.fixture(params=["store_url", pytest.param("postgres_url", id="postgresql", marks=pytest.mark.slow)])
def store(request: pytest.FixtureRequest) -> Any:
    with Store(request.getfixturevalue(request.param)) as opened:
        yield opened


def figures_of(store: Store) -> dict[str, Any]:
    return asyncio.run(OptimizationStatistics(store=store).get_global_statistics())


def life(store: Store, clock: Clock, key: str, seconds: float, improvement: float, end: S, **fields: Any) -> None:
    """Wait 10 s in the queue, run for `seconds`, and end."""
    put(store, key, **({"baseline_performance": 1.0} | fields))
    clock.on(10)
    claimed = store.write(Claim("node", 100, 600.0, key))
    assert claimed is not None
    for status in (S.INITIALIZING, S.RUNNING):
        store.write(Transition(key, status, Cause.HOOK))
    step = CommitStep(key, claimed.fence, 0, [trial(0)], {}, {}, "", 1.0, improvement, {"x": 0})
    store.write(step)
    clock.on(seconds)
    store.write(Transition(key, end, Cause.HOOK))


def test_an_empty_store_has_no_invented_figures(store: Store) -> None:
    answer = figures_of(store)
    assert (answer["total_optimizations"], answer["by_status"], answer["by_day"]) == (0, {}, {})
    assert answer["success_rate"] is answer["failure_rate"] is None
    for name in ("duration_seconds", "performance_improvement", "waiting_seconds"):
        figures = answer[name]
        assert figures["mean"] is figures["median"] is figures["p90"] is None
        assert "ended" in figures["reason"]
    assert answer["now"]["running"] == {"count": 0, "looked_at": 0, "longest_seconds": None}


def test_quantiles_of_equal_values_are_exact(store: Store, clock: Clock) -> None:
    for name in ("a", "b", "c"):
        life(store, clock, name, 100, 0.37, S.COMPLETED)
    for what, value in (("duration_seconds", 100.0), ("performance_improvement", 0.37)):
        figures = figures_of(store)[what]
        assert [figures[name] for name in ("p10", "median", "p90")] == [pytest.approx(value, rel=1e-12)] * 3


def test_global_figures(store: Store, clock: Clock) -> None:
    high, risk = OptimizationPriority.HIGH, OptimizationType.RISK_OPTIMIZATION
    life(store, clock, "a", 100, 0.5, S.COMPLETED)
    life(store, clock, "b", 300, 0.1, S.COMPLETED, priority=high, optimization_type=risk)
    life(store, clock, "c", 50, -0.3, S.FAILED, metadata={"strategy": "optuna"})
    clock.on(86_400)
    life(store, clock, "d", 10, 0.2, S.TIMEOUT)
    put(store, "e")
    store.write(Transition("e", S.CANCELLED, Cause.PERSON))
    answer = figures_of(store)
    json.dumps(answer)
    assert answer["total_optimizations"] == 5
    assert answer["by_status"] == {"completed": 2, "failed": 1, "timeout": 1, "cancelled": 1}
    assert answer["by_priority"] == {"normal": 4, "high": 1}
    assert (answer["success_rate"], answer["failure_rate"], answer["cancelled_rate"]) == (0.4, 0.4, 0.2)
    assert (answer["completed_optimizations"], answer["failed_optimizations"]) == (2, 2)
    durations = answer["duration_seconds"]
    assert (durations["count"], durations["mean"]) == (4, pytest.approx(115.0))
    assert durations["median"] == pytest.approx(50.0, rel=answer["quantiles"]["relative_error"])
    assert durations["p90"] == pytest.approx(300.0, rel=answer["quantiles"]["relative_error"])
    assert answer["performance_improvement"]["mean"] == pytest.approx(0.125)
    assert (answer["waiting_seconds"]["count"], answer["waiting_seconds"]["mean"]) == (4, pytest.approx(10.0, abs=1e-3))
    by = answer["ended"]
    assert by["type"]["risk_optimization"]["duration_seconds"]["mean"] == pytest.approx(300.0)
    assert by["strategy"]["optuna"] | {"a": 0} == by["status"]["failed"] | {"a": 0}
    assert by["priority"]["high"]["success_rate"] == 1.0
    assert by["status"]["cancelled"]["duration_seconds"]["mean"] is None
    days = list(answer["by_day"].values())
    assert [day["count"] for day in days] in ([3, 2], [1, 2, 2], [2, 1, 2])
    assert days[-1]["success_rate"] == 0.0


def test_longest_time_in_each_status(store: Store, clock: Clock, monkeypatch: pytest.MonkeyPatch) -> None:
    clock.now = datetime.now(UTC) - timedelta(seconds=1000)
    put(store, "waiting")
    for key in ("r1", "r2"):
        at_work(store, key)
        clock.on(600)
    store.write(Transition("r2", S.PAUSED, Cause.PERSON))
    put(store, "after", metadata={"after": ["waiting"]})
    answer = figures_of(store)
    now = answer["now"]
    assert now["running"]["count"] == now["paused"]["count"] == answer["active_optimizations"] == 1
    assert now["running"]["longest_seconds"] == pytest.approx(1000, abs=60)
    assert (now["created"]["count"], now["created"]["looked_at"]) == (2, 2)
    assert now["created"]["longest_seconds"] == pytest.approx(1000, abs=60)
    monkeypatch.setattr("o9.statistics.statistics.LOOKED_AT", 1)
    assert figures_of(store)["now"]["created"]["looked_at"] == 1


def test_one_optimization(store: Store, clock: Clock) -> None:
    statistics = OptimizationStatistics(store=store)
    life(store, clock, "a", 100, 0.5, S.COMPLETED)
    answer = asyncio.run(statistics.get_optimization_statistics("a"))
    assert (answer["status"], answer["trials"], answer["attempts"]) == ("completed", {"completed": 1}, 1)
    assert answer["seconds_per_step"] == answer["execution_time"] == pytest.approx(100.0)
    assert answer["waited_seconds"] == pytest.approx(10.0, abs=1e-3)
    put(store, "new")
    fresh = asyncio.run(statistics.get_optimization_statistics("new"))
    assert fresh["seconds_per_step"] is fresh["waited_seconds"] is None
    for ask in (statistics.get_optimization_statistics, statistics.get_parameter_importance):
        with pytest.raises(OptimizationError, match="ghost"):
            asyncio.run(ask("ghost"))


def test_trends_of_the_record(store: Store, clock: Clock) -> None:
    statistics = OptimizationStatistics(store=store)
    empty = asyncio.run(statistics.get_performance_trends())
    assert empty["windows"] == []
    assert all(each["slope"] is None and each["reason"] for each in empty["trends"].values())
    today = datetime.now(UTC).replace(minute=0, second=0, microsecond=0)  # so that a day's lives end on that day
    clock.now = today - timedelta(days=6)
    for day in range(7):
        for n in range(day + 1):
            life(store, clock, f"a{day}-{n}", 1, 0.1 * day, S.COMPLETED)
        clock.now = today - timedelta(days=5 - day)
    answer = asyncio.run(statistics.get_performance_trends(timedelta(days=30)))
    json.dumps(answer)
    assert [row["count"] for row in answer["windows"] if row["count"]] == [1, 2, 3, 4, 5, 6, 7]
    assert answer["trends"]["count"]["slope"] == pytest.approx(1.0)
    assert answer["trends"]["mean_improvement"]["slope"] == pytest.approx(0.1)
    assert answer["trends"]["success_rate"]["slope"] == 0.0
    hourly = asyncio.run(statistics.get_performance_trends(timedelta(hours=3)))
    assert (hourly["window"], sum(row["count"] for row in hourly["windows"])) == ("hour", 7)


def test_drift_is_repaired_on_every_database(store: Store) -> None:
    for key in ("a", "b"):
        at_work(store, key)
        store.write(Transition(key, S.COMPLETED, Cause.HOOK))
    true = figures_of(store)
    with store._engine.connect() as connection:
        connection.exec_driver_sql("UPDATE rollup SET count = 40, durations = '{}' WHERE span <> 'month'")
        connection.exec_driver_sql("DELETE FROM rollup WHERE span = 'month'")
    assert figures_of(store) != true
    assert len(asyncio.run(maintain_rollups(store, utc_now())).corrections) == 4
    assert figures_of(store) == true


def test_table_and_markdown_agree(store: Store, clock: Clock) -> None:
    life(store, clock, "a", 100, 0.5, S.COMPLETED)
    statistics = OptimizationStatistics(store=store)
    trends = asyncio.run(statistics.get_performance_trends())
    maintenance = asyncio.run(maintain_rollups(store, utc_now()))
    rows = table(figures_of(store))
    assert [row["by"] for row in rows] == ["all", "type", "strategy", "priority", "status"]
    assert {row["count"] for row in rows} == {1}
    said = markdown(figures_of(store), trends, maintenance)
    for words in ("**1**", "1 completed", "unknown:"):
        assert words in said
