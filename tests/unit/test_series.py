"""The runs of a recurring optimization and their results, in the list, in a report and in Prefect."""

from __future__ import annotations

import re
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from command_line import command_in, create, work
from o9_testing import new

from o9.flows.run_artifacts import result_markdown
from o9.health.grades import Grade, GradeReason, Verdict
from o9.health.series_runs import SeriesRun, read_series, with_changes
from o9.model.optimization import OptimizationState
from o9.model.states import OptimizationStatus
from o9.report.write import report_of
from o9.store import queries
from o9.store.store import Store

MONDAY = datetime(2026, 1, 5, 22, tzinfo=UTC)
HELD_OUT = {"hold_out_sharpe": 0.05, "periods_per_year": 400}


def run(number: int, best: float | None) -> OptimizationState:
    due = (MONDAY + timedelta(days=number)).isoformat()
    state: OptimizationState = new(f"run-{number}", name="Carry", series="carry", scheduled_at=due)
    state.status = OptimizationStatus.COMPLETED
    state.current_performance, state.optimized_parameters = (0.0, {}) if best is None else (best, {"x": number})
    return state


def test_runs_have_their_change_and_hold_out() -> None:
    verdict = Verdict(Grade.CONFIRMED, GradeReason.FAMILY, "", "", figures=HELD_OUT)
    cancelled = run(2, 9.0)
    cancelled.status = OptimizationStatus.CANCELLED
    # The first one was caught up last.
    created_last_first = [SeriesRun(run(1, 1.5)), SeriesRun(run(3, 1.25), verdict), SeriesRun(cancelled)]
    first, third, second = with_changes(created_last_first)
    assert [each.change for each in (first, second, third)] == [None, 7.5, -0.25]
    assert (third.hold_out, first.hold_out) == (1.0, None)
    assert third.at == MONDAY + timedelta(days=3)


def series(store: Store, runs: int) -> OptimizationState:
    for number in range(runs):
        create(store, f"carry-{number}", metadata={"objective": "branin", "series": "carry"})
        work(store, f"carry-{number}", number + 1, "completed")
    create(store, "another", metadata={"objective": "branin", "series": "other"})
    state = store.read(queries.get, "carry-1")
    assert state is not None
    return state


def test_only_the_newest_runs_are_read(store_url: str) -> None:
    with Store(store_url) as store:
        state = series(store, 4)
        assert [(each.best, each.change) for each in read_series(store, state)] == [
            (3.0, 1.0), (2.0, 1.0), (1.0, 1.0), (0.0, None),
        ]  # fmt: skip
        assert [each.state.optimization_id for each in read_series(store, state, limit=2)] == ["carry-3", "carry-2"]
        state.metadata.pop("series")
        assert read_series(store, state) == []


def test_the_list_of_a_series_has_changes(
    store_url: str, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    with Store(store_url) as store:
        series(store, 3)
    o9 = command_in(tmp_path, capsys, monkeypatch)
    told = o9("list", "--series", "carry", "--limit", "2", "--store", store_url)
    rows = [line.split() for line in told.out.splitlines()]
    assert [(row[0], row[-2:]) for row in rows[2:]] == [
        ("carry-2", ["2.0000", "+1.0000"]), ("carry-1", ["1.0000", "+1.0000"]),
    ]  # fmt: skip
    assert "the first 2" in told.err


def test_a_report_draws_the_series(store_url: str) -> None:
    with Store(store_url) as store:
        series(store, 3)
        page = report_of(store, ["carry-1"])
        assert "The series carry" in page
        assert "3 runs: the best went from 0.0000 to 2.0000" in page
        assert len(set(re.findall(r"carry-[0-2]</bdi></code></td>", page))) == 3
        assert "The series" not in report_of(store, ["another"])


def test_the_artifact_has_the_last_runs() -> None:
    runs = [SeriesRun(run(2, 1.5), change=0.5), SeriesRun(run(1, 1.0))]
    text = result_markdown(run(2, 1.5), counts={}, failed=[], verdict=None, series=runs)
    assert "| run-2 | completed | 1.5000 | +0.5000 |" in text
    assert "last runs" not in result_markdown(run(2, 1.5), counts={}, failed=[], verdict=None, series=runs[:1])
