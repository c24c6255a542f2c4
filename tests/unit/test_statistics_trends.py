"""Trends: the windows of a range, slopes with intervals, and when these are unknown."""

from __future__ import annotations

import random
from datetime import UTC, datetime, timedelta
from itertools import pairwise
from typing import Any

import pytest

from o9.model.errors import OptimizationValidationError
from o9.statistics.summary import by_window
from o9.statistics.trends import slope, trends, windows_of

NOW = datetime(2026, 3, 31, 12, 30, tzinfo=UTC)


def window(count: int, **more: Any) -> dict[str, Any]:
    nothing = {"success_rate": None, "mean_duration_seconds": None, "mean_improvement": None}
    return {"count": count, "by_status": {"completed": count}, **nothing, **more}


def since_ever(span: str) -> str:
    return {"hour": "1970-01-01T00", "day": "1970-01-01", "month": "1970-01"}[span]


def days(values: list[Any], name: str) -> dict[str, Any]:
    """Trends over whole days with these values, and today."""
    windows = windows_of(timedelta(days=len(values)), NOW, since_ever)
    found = {
        starts: window(1, **({} if value is None else {name: value}))
        for starts, value in zip(windows.starts, values, strict=False)
    }
    return trends(windows, found)


@pytest.mark.parametrize("time_range", [timedelta(0), timedelta(seconds=-1), timedelta.min, 7, None, "week", True])
def test_an_invalid_range_names_its_field(time_range: Any) -> None:
    with pytest.raises(OptimizationValidationError, match=r"^time_range: ") as refused:
        windows_of(time_range, NOW, since_ever)
    assert refused.value.field == "time_range"


@pytest.mark.parametrize(
    ("time_range", "span", "first", "count"),
    [
        (timedelta(microseconds=1), "hour", "2026-03-31T12", 1),
        (timedelta(hours=1), "hour", "2026-03-31T11", 2),
        (timedelta(days=2), "hour", "2026-03-29T12", 49),
        (timedelta(days=7), "day", "2026-03-24", 8),
        (timedelta(days=400), "day", "2025-02-24", 401),
        (timedelta(days=401), "month", "2025-02", 14),
        (timedelta.max, "month", "1970-01", 675),
    ],
)
def test_windows_fit_the_range(time_range: timedelta, span: str, first: str, count: int) -> None:
    windows = windows_of(time_range, NOW, since_ever)
    assert (windows.span, windows.starts[0], len(windows.starts)) == (span, first, count)
    assert all(one < other for one, other in pairwise(windows.starts))


def test_there_are_no_windows_before_the_record() -> None:
    assert windows_of(timedelta(days=300), NOW, lambda _: "2026-03-29").starts == (
        "2026-03-29",
        "2026-03-30",
        "2026-03-31",
    )
    assert windows_of(timedelta.max, NOW, lambda _: "2026-02").starts == ("2026-02", "2026-03")
    assert windows_of(timedelta.max, NOW, lambda _: None).starts == ()


def test_one_outlier_does_not_change_the_slope_of_a_line() -> None:
    result = days([0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 99.0], "mean_improvement")["trends"]["mean_improvement"]
    assert result["slope"] == pytest.approx(0.1)
    assert 0 < result["low"] <= result["slope"] <= result["high"]
    assert (result["per"], result["windows"], result["direction"]) == ("day", 8, "rising")


def test_fewer_than_five_windows_have_no_slope_but_a_reason() -> None:
    for known in range(5):
        result = days([1.0] * known + [None] * (9 - known), "success_rate")["trends"]["success_rate"]
        assert result["slope"] is result["low"] is result["high"] is result["direction"] is None
        assert result["reason"].startswith(f"{known} ")
    assert days([1.0] * 5 + [None] * 4, "success_rate")["trends"]["success_rate"]["slope"] == 0.0


def test_the_current_window_is_shown_but_does_not_count() -> None:
    windows = windows_of(timedelta(days=6), NOW, since_ever)
    found = {starts: window(10) for starts in windows.starts[:-1]} | {windows.starts[-1]: window(1)}
    result = trends(windows, found)
    assert [row["is_over"] for row in result["windows"]] == [True] * 6 + [False]
    assert result["windows"][-1]["count"] == 1
    assert result["trends"]["count"]["slope"] == 0.0


def test_a_day_without_ends_has_a_count_of_zero_and_no_rate() -> None:
    windows = windows_of(timedelta(days=6), NOW, since_ever)
    result = trends(windows, {windows.starts[0]: window(6, success_rate=1.0)})
    assert [row["count"] for row in result["windows"]] == [6, 0, 0, 0, 0, 0, 0]
    assert result["windows"][1]["success_rate"] is None
    assert (result["trends"]["count"]["windows"], result["trends"]["success_rate"]["windows"]) == (6, 1)


def test_months_have_average_length() -> None:
    windows = windows_of(timedelta(days=4000), NOW, lambda _: "2025-01")
    result = trends(windows, {starts: window(10 * n) for n, starts in enumerate(windows.starts)})
    assert result["trends"]["count"]["slope"] == pytest.approx(10 / 30.436875)


def test_there_is_no_slope_of_values_that_overflow() -> None:
    result = days([1e308, -1e308] * 4, "mean_improvement")["trends"]["mean_improvement"]
    assert result["slope"] is None
    assert "float" in result["reason"]


def test_the_interval_covers_the_true_slope_as_often_as_it_claims() -> None:
    """400 series of 20 days with a slope of 0.5 and noise: at least 95% less three standard errors."""
    chance = random.Random(7)
    hits = 0
    for _ in range(400):
        found = slope([(float(n), 0.5 * n + chance.gauss(0, 3)) for n in range(20)])
        assert found is not None
        hits += found[1] <= 0.5 <= found[2]
    assert 0.917 <= hits / 400 <= 0.983


def test_windows_are_built_from_rows_by_status() -> None:
    completed = {"count": 3, "ran": 3, "improved": 2, "duration_sum": 30.0, "improvement_sum": 1.0}
    failed = {"count": 1, "ran": 0, "improved": 0, "duration_sum": 0.0, "improvement_sum": 0.0}
    day = {"starts": "2026-03-30"}
    rows = [{**day, "status": "completed", **completed}, {**day, "status": "failed", **failed}]
    assert by_window(rows) == {
        "2026-03-30": {
            "count": 4, "by_status": {"completed": 3, "failed": 1}, "success_rate": 0.75,
            "mean_duration_seconds": 10.0, "mean_improvement": 0.5,
        }
    }  # fmt: skip
