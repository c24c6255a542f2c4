"""Frames: stable columns and dtypes, values equal to the record, and files."""

from __future__ import annotations

import asyncio
import importlib.util
import json
import sys
from datetime import timedelta
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
from contract_reports import healthy, record_report
from contract_steps import at_work, put, trial
from verdicts import FORECAST, keep_verdict, verdict

from o9.alerts.service.system import AlertNotificationSystem
from o9.health.checker import OptimizationHealthChecker
from o9.health.grades import Grade
from o9.model.errors import OptimizationError, OptimizationStatisticsError, OptimizationValidationError
from o9.model.optimization import OptimizationAlert, OptimizationMetrics, utc_now
from o9.model.states import AlertLevel, TrialState
from o9.model.states import OptimizationStatus as S
from o9.statistics import rows
from o9.statistics.frames import COLUMNS, MOMENT, OPTIMIZATIONS, TRIALS
from o9.statistics.statistics import OptimizationStatistics
from o9.store import queries
from o9.store.optimizations.commit_step import CommitStep
from o9.store.optimizations.transitions import Cause, Transition
from o9.store.store import Store

HAS_PYARROW = importlib.util.find_spec("pyarrow") is not None


@pytest.fixture
def store(store_url: str) -> Any:
    with Store(store_url) as opened:
        yield opened


def frame(store: Store, kind: str, *arguments: Any, **more: Any) -> pd.DataFrame:
    return asyncio.run(OptimizationStatistics(store=store).frame(kind, *arguments, **more))


def filled(store: Store) -> None:
    claimed = at_work(store, "名字-🚀", name="双均线", parameters={"fee": 0.001})
    trials = [
        trial(
            0,
            parameters={"fast": 5, "kind": "ema", "flag": True},
            value=1.5,
            metrics={"turnover": 3.1},
            family="crossover",
        ),
        trial(1, state=TrialState.FAILED, parameters={"fast": 7.5, "kind": [1]}, value=None, error='broke, "badly"\n'),
    ]
    store.write(CommitStep("名字-🚀", claimed.fence, 0, trials, {}, {"best": 1.5}, "", 1.5, 0.5, {"fast": 5}))
    store.write(Transition("名字-🚀", S.COMPLETED, Cause.HOOK))
    put(store, "waiting")


def test_a_frame_of_optimizations_is_the_record(store: Store) -> None:
    filled(store)
    found = frame(store, "optimizations")
    assert {name: str(dtype) for name, dtype in found.dtypes.items()} == OPTIMIZATIONS
    state = store.read(queries.get, "名字-🚀")
    assert state is not None
    row = found.set_index("optimization_id").loc["名字-🚀"]
    assert (row["name"], row["status"], row["strategy"], row["priority"]) == ("双均线", "completed", "default", 2)
    assert row["completed_at"].to_pydatetime() == state.completed_at
    assert json.loads(row["parameters"]) == {"fee": 0.001}
    assert row["performance_improvement"] == 0.5
    assert found.set_index("optimization_id").loc["waiting", "started_at"] is pd.NaT


def test_a_frame_of_trials_has_a_column_for_each_parameter_and_metric(store: Store) -> None:
    filled(store)
    found = frame(store, "trials", "名字-🚀")
    own = {
        "parameter.fast": "float64", "parameter.flag": "string", "parameter.kind": "string",
        "metric.turnover": "float64",
    }  # fmt: skip
    assert {name: str(dtype) for name, dtype in found.dtypes.items()} == TRIALS | own
    assert found["state"].tolist() == ["completed", "failed"]
    assert found["family"].tolist()[0] == "crossover"
    assert found["parameter.fast"].tolist() == [5.0, 7.5]
    assert found["parameter.kind"].tolist() == ["ema", "[1]"]
    assert found["parameter.flag"].tolist() == ["true", pd.NA]
    assert found["value"].isna().tolist() == [False, True]


@pytest.mark.parametrize("kind", COLUMNS)
def test_an_empty_frame_has_the_same_columns(store: Store, kind: str) -> None:
    put(store, "a")
    about = ["a"] if kind in ("trials", "returns", "metrics", "transitions") else []
    if kind == "optimizations":
        found = frame(store, kind, status="failed")
    else:
        found = frame(store, kind, *about, **({"metric_name": "performance_improvement"} if kind == "rankings" else {}))
    assert {name: str(dtype) for name, dtype in found.dtypes.items()} == COLUMNS[kind]
    assert len(found) == {"transitions": 1, "statistics": 1}.get(kind, 0)


def test_a_frame_of_returns_has_one_value_in_a_row(store: Store) -> None:
    claimed = at_work(store, "a")
    trials = [
        trial(0, returns=(0.1, -0.2), hold_out_returns=(0.3,), baseline_returns=(0.0, 0.5)),
        trial(1, state=TrialState.FAILED, value=None),
        trial(2, returns=(0.25, 0.0)),
    ]
    store.write(CommitStep("a", claimed.fence, 0, trials, {}))
    found = frame(store, "returns", "a")
    assert {name: str(dtype) for name, dtype in found.dtypes.items()} == COLUMNS["returns"]
    series: dict[tuple[str, int | None], list[float]] = {}
    for row in found.itertuples():
        series.setdefault((row.series, None if row.number is pd.NA else row.number), []).append(row.value)
    assert series == {
        ("baseline", None): [0.0, 0.5],
        ("returns", 0): [0.1, -0.2],
        ("hold_out", 0): [0.3],
        ("returns", 2): [0.25, 0.0],
    }
    assert found["period"].tolist() == [0, 1, 0, 1, 0, 0, 1]
    assert len(frame(store, "returns", "a", limit=1)) == 2 + 2 + 1


def test_figures_history_and_rankings(store: Store) -> None:
    filled(store)
    asyncio.run(
        OptimizationStatistics(store=store).record_optimization_metric(
            "名字-🚀", OptimizationMetrics("名字-🚀", utc_now(), accuracy=0.75)
        )
    )
    metrics = frame(store, "metrics", "名字-🚀").set_index("name")
    assert (metrics.loc["best", "step"], metrics.loc["best", "value"]) == (0, 1.5)
    assert (metrics.loc["accuracy", "step"] is pd.NA, metrics.loc["accuracy", "value"]) == (True, 0.75)
    history = frame(store, "transitions", "名字-🚀")
    assert history["to_status"].tolist() == ["created", "initializing", "running", "completed"]
    assert history["from_status"].tolist()[0] is pd.NA
    assert frame(store, "transitions", "名字-🚀", limit=1)["to_status"].tolist() == ["completed"]
    ranked = frame(store, "rankings", metric_name="current_performance")
    assert ranked[["rank", "optimization_id", "value"]].values.tolist() == [[1, "名字-🚀", 1.5]]
    counted = frame(store, "statistics").set_index(["by", "which"])
    assert counted.loc[("all", ""), ["count", "success_rate"]].tolist() == [1, 1.0]
    assert counted.loc[("status", "completed"), "count"] == 1
    trends = frame(store, "trends", time_range=timedelta(hours=3))
    assert (trends["count"].sum(), trends["is_over"].tolist()[-1]) == (1, False)


def test_health_has_the_verdict_and_its_forecast(store: Store) -> None:
    for name in ("lost", "unproven"):
        put(store, name)
    keep_verdict(store, "unproven", verdict(Grade.UNPROVEN, forecast=None))
    keep_verdict(store, "lost", verdict(Grade.LOST))
    rows = frame(store, "health").set_index("optimization_id")
    lost, unproven = rows.loc["lost"], rows.loc["unproven"]
    assert (lost["grade"], lost["reason"], unproven["grade"]) == ("lost", "hold_out_negative", "unproven")
    figures = ["forecast", "forecast_low", "forecast_high", "claimed", "held_out"]
    assert lost[figures].tolist() == [FORECAST.mean, FORECAST.low, FORECAST.high, FORECAST.claimed, FORECAST.held_out]
    assert unproven[figures].isna().all()


def test_health_and_alerts_of_all_and_of_one(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(rows, "PAGE_LIMIT", 1)
    filled(store)

    async def judge() -> None:
        checker = OptimizationHealthChecker(store=store)
        await checker.check_optimization_health("名字-🚀")
        await checker.check_optimization_health("waiting")
        alerts = AlertNotificationSystem(store=store)
        for number, name in enumerate(("名字-🚀", "the eu desk")):
            alert = OptimizationAlert(f"alert-{number}", name, AlertLevel.WARNING, "Drawdown", "3 %", metadata={"a": 1})
            await alerts.send_alert(alert)
        await alerts.resolve_alert("alert-1")

    asyncio.run(judge())
    record_report(store, healthy("名字-🚀"))
    assert set(frame(store, "health")["optimization_id"]) == {"名字-🚀", "waiting"}
    assert frame(store, "health", "名字-🚀", limit=1)["overall_status"].tolist() == ["healthy"]
    _, one = (row for _, row in frame(store, "health", "名字-🚀").iterrows())
    assert (one["status"], one["times"], one["completeness_score"]) == ("completed", 1, 0.0)
    assert isinstance(json.loads(one["issues"]), list)
    alerts = frame(store, "alerts").set_index("alert_id")
    assert alerts["resolved"].to_dict() == {"alert-0": False, "alert-1": True}
    assert json.loads(alerts.loc["alert-0", "metadata"])["a"] == 1
    assert frame(store, "alerts", "the eu desk").index.size == frame(store, "alerts", limit=1).index.size == 1


async def test_used_alone_it_opens_and_closes_a_store(store_url: str) -> None:
    with Store(store_url) as store:
        filled(store)
    async with OptimizationStatistics(store_url) as statistics:
        assert len(await statistics.frame("optimizations")) == 2
        assert (await statistics.get_global_statistics())["total_optimizations"] == 2
    with pytest.raises(OptimizationError, match="not open"):
        await statistics.frame("optimizations")
    with pytest.raises(ZeroDivisionError):
        async with statistics:
            1 / 0  # noqa: B018 - the store is closed then, too
    with pytest.raises(OptimizationError, match="not open"):
        await statistics.get_global_statistics()


def test_frames_can_be_filtered(store: Store) -> None:
    for n in range(5):
        put(store, f"a{n}")
    at_work(store, "b")
    assert frame(store, "optimizations", status="running")["optimization_id"].tolist() == ["b"]
    assert len(frame(store, "optimizations", optimization_type="parameter_tuning")) == 6
    assert frame(store, "optimizations", limit=2)["optimization_id"].tolist() == ["b", "a4"]


def test_a_csv_reads_back(store: Store, tmp_path: Path) -> None:
    filled(store)
    statistics = OptimizationStatistics(store=store)
    path = asyncio.run(statistics.export(tmp_path / "trials.csv", "trials", "名字-🚀"))
    back = pd.read_csv(path)
    assert back["error"].tolist()[1] == 'broke, "badly"\n'
    assert back["value"].tolist()[0] == 1.5
    assert list(back.columns) == list(frame(store, "trials", "名字-🚀").columns)


@pytest.mark.skipif(not HAS_PYARROW, reason="pyarrow is not installed: pip install 'prefect-o9[parquet]'")
@pytest.mark.parametrize("empty", [True, False])
def test_a_parquet_reads_back_with_its_dtypes(store: Store, tmp_path: Path, empty: bool) -> None:
    if not empty:
        filled(store)
    statistics = OptimizationStatistics(store=store)
    path = asyncio.run(statistics.export(tmp_path / "all.parquet", "optimizations"))
    back, mine = pd.read_parquet(path), frame(store, "optimizations")
    assert str(back["started_at"].dtype) == MOMENT
    pd.testing.assert_frame_equal(back, mine, check_dtype=True)


def test_parquet_without_pyarrow_says_what_to_install(
    store: Store, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "pyarrow.parquet", None)
    with pytest.raises(OptimizationStatisticsError, match=r"prefect-o9\[parquet\]"):
        asyncio.run(OptimizationStatistics(store=store).export(tmp_path / "all.parquet", "optimizations"))
    assert not (tmp_path / "all.parquet").exists()


def test_bad_requests_name_their_field(store: Store, tmp_path: Path) -> None:
    put(store, "a")
    for arguments, more, field in (
        (("tables",), {}, "kind"),
        (("trials",), {}, "optimization_id"),
        (("optimizations", "a"), {}, "optimization_id"),
        (("optimizations",), {"limit": 0}, "limit"),
        (("optimizations",), {"status": "done"}, "status"),
        (("optimizations",), {"optimization_type": "fun"}, "optimization_type"),
        (("optimizations",), {"metric_name": "progress"}, "metric_name"),
        (("trials", "a"), {"status": "failed"}, "status"),
        (("rankings",), {}, "metric_name"),
        (("statistics",), {"limit": 3}, "limit"),
        (("trends",), {"time_range": timedelta(0)}, "time_range"),
    ):
        with pytest.raises(OptimizationValidationError) as refused:
            frame(store, *arguments, **more)
        assert refused.value.field == field
    with pytest.raises(OptimizationError, match="ghost"):
        frame(store, "trials", "ghost")
    for path in (tmp_path / "a.txt", tmp_path / "none" / "a.csv"):
        with pytest.raises(OptimizationValidationError, match="path"):
            asyncio.run(OptimizationStatistics(store=store).export(path, "optimizations"))
