"""Rankings: directions, ties, limits, and suggestions for a misspelled name."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest
from contract_steps import at_work, put, trial

from o9.model.errors import OptimizationError, OptimizationValidationError
from o9.model.optimization import OptimizationMetrics, utc_now
from o9.model.states import OptimizationStatus as S
from o9.statistics.maintenance import maintain_rollups
from o9.statistics.statistics import OptimizationStatistics, ranks_shown
from o9.store.optimizations.commit_step import Amend, CommitStep
from o9.store.optimizations.transitions import Cause, Transition
from o9.store.store import Store


@pytest.fixture(params=["store_url", pytest.param("postgres_url", id="postgresql", marks=pytest.mark.slow)])
def store(request: pytest.FixtureRequest) -> Any:
    with Store(request.getfixturevalue(request.param)) as opened:
        yield opened


def ran(
    store: Store,
    key: str,
    value: float | None,
    *,
    direction: str = "maximize",
    end: S | None = S.COMPLETED,
    baseline: float = 0.5,
    **metrics: float,
) -> None:
    claimed = at_work(store, key, metadata={"direction": direction}, baseline_performance=baseline)
    best = None if value is None else {"x": 1}
    step = CommitStep(key, claimed.fence, 0, [trial(0, value=value)], {}, metrics, "", value, value, best)
    store.write(step)
    if end is not None:
        store.write(Transition(key, end, Cause.HOOK))


def ranking(store: Store, metric: str, limit: int = 10) -> list[dict[str, Any]]:
    statistics = OptimizationStatistics(store=store)
    return asyncio.run(statistics.get_optimization_rankings(metric, limit))


def order(rows: list[dict[str, Any]]) -> list[tuple[str, int]]:
    return [(row["optimization_id"], row["rank"]) for row in rows]


def test_the_best_comes_first_and_ties_share_a_rank(store: Store) -> None:
    for key, value in (("a", 1.0), ("b", 3.0), ("c", 2.0), ("d", 3.0), ("e", -1.0)):
        ran(store, key, value)
    result = ranking(store, "current_performance")
    assert order(result) == [("b", 1), ("d", 1), ("c", 3), ("a", 4), ("e", 5)]
    assert result[0] | {"value": 0} == {
        "rank": 1, "optimization_id": "b", "name": "name", "optimization_type": "parameter_tuning",
        "strategy": "default", "status": "completed", "value": 0, "direction": "maximize",
    }  # fmt: skip
    assert ranks_shown(result) == ["1=", "1=", "3", "4", "5"]


def test_smaller_values_rank_first_if_minimized(store: Store) -> None:
    for key, value in (("a", 1.0), ("b", 3.0), ("c", 2.0), ("d", 1.0)):
        ran(store, key, value, direction="minimize", best_value=value)
    for metric in ("current_performance", "best_value"):
        assert order(ranking(store, metric)) == [("a", 1), ("d", 1), ("c", 3), ("b", 4)]
    assert [row["rank"] for row in ranking(store, "performance_improvement")] == [1, 2, 3, 3]  # more is better


def test_mixed_directions_form_one_order(store: Store) -> None:
    ran(store, "up", 1.0)
    ran(store, "down", 0.5, direction="minimize")
    assert [row["optimization_id"] for row in ranking(store, "current_performance")] == ["up", "down"]
    assert [row["direction"] for row in ranking(store, "current_performance")] == ["maximize", "minimize"]


def test_an_improvement_without_a_baseline_is_not_ranked(store: Store) -> None:
    ran(store, "alone", 41.0, baseline=0.0)
    ran(store, "compared", 2.0)
    assert [row["optimization_id"] for row in ranking(store, "performance_improvement")] == ["compared"]


def test_figures_that_were_never_measured_are_not_ranked(store: Store) -> None:
    ran(store, "none", None, end=S.FAILED)
    put(store, "waiting")
    assert ranking(store, "current_performance") == ranking(store, "performance_improvement") == []
    assert [row["optimization_id"] for row in ranking(store, "execution_time")] == ["none"]
    ran(store, "zero", 0.0)
    assert [row["optimization_id"] for row in ranking(store, "current_performance")] == ["zero"]


def test_running_optimizations_are_ranked_by_the_maintenance(store: Store) -> None:
    ran(store, "runs", 5.0, end=None, sharpe=2.0)
    assert ranking(store, "current_performance") == []
    asyncio.run(maintain_rollups(store, utc_now()))
    assert order(ranking(store, "current_performance")) == order(ranking(store, "sharpe")) == [("runs", 1)]
    store.write(Transition("runs", S.PAUSED, Cause.PERSON))
    assert ranking(store, "current_performance")[0]["status"] == "paused"


def test_an_amendment_after_the_end_updates_the_ranking(store: Store) -> None:
    ran(store, "a", 1.0)
    ran(store, "b", 2.0)
    store.write(Amend("a", {"current_performance": 3.0}))
    assert [row["optimization_id"] for row in ranking(store, "current_performance")] == ["a", "b"]


def test_an_unknown_metric_names_near_ones(store: Store) -> None:
    ran(store, "a", 1.0, max_drawdown=0.2)
    for wrong, near in (("max_drawdwon", "max_drawdown"), ("Current_Performance", "current_performance")):
        with pytest.raises(OptimizationValidationError, match=f"did you mean.*{near}") as refused:
            ranking(store, wrong)
        assert refused.value.field == "metric_name"
    with pytest.raises(OptimizationValidationError, match=r"available: completed_steps, .*max_drawdown"):
        ranking(store, "zzz")
    with pytest.raises(OptimizationValidationError, match="metric_name"):
        ranking(store, "")


@pytest.mark.parametrize("limit", [0, -1, 1001, True, 1.5, None])
def test_a_limit_out_of_range_is_refused(store: Store, limit: Any) -> None:
    with pytest.raises(OptimizationValidationError, match=r"^limit: "):
        ranking(store, "execution_time", limit)


def test_an_empty_store_has_no_rankings(store: Store) -> None:
    assert ranking(store, "current_performance") == []


def test_metrics_from_outside_enter_history_and_rankings(store: Store) -> None:
    statistics = OptimizationStatistics(store=store)
    ran(store, "a", 1.0, accuracy=0.5)
    ran(store, "b", 2.0)
    metrics = OptimizationMetrics("b", utc_now(), execution_time=9e9, accuracy=0.75)
    asyncio.run(statistics.record_optimization_metric("b", metrics))
    assert order(ranking(store, "accuracy")) == [("b", 1), ("a", 2)]
    assert ranking(store, "execution_time")[0]["value"] < 1e6  # O9's own measurement is ranked
    history = asyncio.run(statistics.get_optimization_history("b"))
    assert [(row["step"], row["name"], row["value"]) for row in history] == [
        (None, "execution_time", 9e9), (None, "accuracy", 0.75),
    ]  # fmt: skip
    assert len(asyncio.run(statistics.get_optimization_history("b", 1))) == 1


def test_invalid_metrics_are_refused_and_change_nothing(store: Store) -> None:
    statistics = OptimizationStatistics(store=store)
    ran(store, "a", 1.0)
    now = utc_now()
    for key, metrics, said in (
        ("ghost", OptimizationMetrics("ghost", now, accuracy=1.0), "ghost"),
        ("a", OptimizationMetrics("b", now, accuracy=1.0), "metrics.optimization_id"),
        ("a", OptimizationMetrics("a", now), "all are None"),
        ("a", OptimizationMetrics("a", now, accuracy=float("nan")), "accuracy"),
        ("a", OptimizationMetrics("a", now, recall=1.0, precision=float("inf")), "precision"),
        ("a", {"accuracy": 1.0}, "OptimizationMetrics"),
    ):
        with pytest.raises(OptimizationError, match=said):
            asyncio.run(statistics.record_optimization_metric(key, metrics))  # type: ignore[arg-type]
    assert asyncio.run(statistics.get_optimization_history("a")) == []
    with pytest.raises(OptimizationError, match="ghost"):
        asyncio.run(statistics.get_optimization_history("ghost"))
    with pytest.raises(OptimizationValidationError, match="limit"):
        asyncio.run(statistics.get_optimization_history("a", 0))
