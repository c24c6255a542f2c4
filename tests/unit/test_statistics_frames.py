"""Frames: stable columns and dtypes, equal to the record, and the files that they are written to."""

from __future__ import annotations

import asyncio
import importlib.util
import json
import sys
from pathlib import Path
from typing import Any

import pandas as pd
import pytest

from o9.model.errors import OptimizationError, OptimizationStatisticsError, OptimizationValidationError
from o9.model.states import OptimizationStatus as S
from o9.model.states import TrialState
from o9.statistics.frames import MOMENT, OPTIMIZATIONS, TRIALS
from o9.statistics.statistics import OptimizationStatistics
from o9.store.contract_steps import at_work, put, trial
from o9.store.ledger import CommitStep
from o9.store.store import Store
from o9.store.transitions import Cause, Transition

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
        trial(0, parameters={"fast": 5, "kind": "ema", "flag": True}, value=1.5, metrics={"turnover": 3.1}),
        trial(1, state=TrialState.FAILED, parameters={"fast": 7.5, "kind": [1]}, value=None, error='broke, "badly"\n'),
    ]
    store.write(CommitStep("名字-🚀", claimed.fence, 0, trials, {}, {"best": 1.5}, "", 1.5, 0.5, {"fast": 5}))
    store.write(Transition("名字-🚀", S.COMPLETED, Cause.HOOK))
    put(store, "waiting")


def test_a_frame_of_optimizations_is_the_record(store: Store) -> None:
    filled(store)
    found = frame(store, "optimizations")
    assert {name: str(dtype) for name, dtype in found.dtypes.items()} == OPTIMIZATIONS
    state = store.get("名字-🚀")
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
    assert found["parameter.fast"].tolist() == [5.0, 7.5]
    assert found["parameter.kind"].tolist() == ["ema", "[1]"]
    assert found["parameter.flag"].tolist() == ["true", pd.NA]
    assert found["value"].isna().tolist() == [False, True]


@pytest.mark.parametrize(("kind", "columns"), [("optimizations", OPTIMIZATIONS), ("trials", TRIALS)])
def test_a_frame_of_nothing_has_the_same_columns(store: Store, kind: str, columns: dict[str, str]) -> None:
    if kind == "trials":
        put(store, "a")
    found = frame(store, kind, *(["a"] if kind == "trials" else []))
    assert {name: str(dtype) for name, dtype in found.dtypes.items()} == columns
    assert len(found) == 0


def test_a_frame_can_be_of_some(store: Store) -> None:
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


@pytest.mark.skipif(not HAS_PYARROW, reason="pyarrow is not installed: pip install 'prefect-o9[frames]'")
@pytest.mark.parametrize("empty", [True, False])
def test_a_parquet_reads_back_with_its_dtypes(store: Store, tmp_path: Path, empty: bool) -> None:
    if not empty:
        filled(store)
    statistics = OptimizationStatistics(store=store)
    path = asyncio.run(statistics.export(tmp_path / "all.parquet", "optimizations"))
    back, mine = pd.read_parquet(path), frame(store, "optimizations")
    assert str(back["started_at"].dtype) == MOMENT
    pd.testing.assert_frame_equal(back, mine, check_dtype=True)


@pytest.mark.skipif(HAS_PYARROW, reason="pyarrow is installed")
def test_parquet_without_pyarrow_says_what_to_install(store: Store, tmp_path: Path) -> None:
    with pytest.raises(OptimizationStatisticsError, match=r"prefect-o9\[frames\]"):
        asyncio.run(OptimizationStatistics(store=store).export(tmp_path / "all.parquet", "optimizations"))


def test_frames_without_pandas_say_what_to_install(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "pandas", None)
    with pytest.raises(OptimizationStatisticsError, match=r"prefect-o9\[frames\]"):
        frame(store, "optimizations")


def test_bad_requests_name_their_field(store: Store, tmp_path: Path) -> None:
    put(store, "a")
    for arguments, more, field in (
        (("tables",), {}, "kind"),
        (("trials",), {}, "optimization_id"),
        (("optimizations", "a"), {}, "optimization_id"),
        (("optimizations",), {"limit": 0}, "limit"),
        (("optimizations",), {"status": "done"}, "status"),
    ):
        with pytest.raises(OptimizationValidationError) as refused:
            frame(store, *arguments, **more)
        assert refused.value.field == field
    with pytest.raises(OptimizationError, match="ghost"):
        frame(store, "trials", "ghost")
    for path in (tmp_path / "a.txt", tmp_path / "none" / "a.csv"):
        with pytest.raises(OptimizationValidationError, match="path"):
            asyncio.run(OptimizationStatistics(store=store).export(path, "optimizations"))
