"""Scores by hand-computed values, and where a hold-out begins."""

from __future__ import annotations

import math
from datetime import date
from typing import Any

import numpy as np
import pytest

from o9.model.dates import seconds_of
from o9.model.errors import OptimizationValidationError
from o9.model.hold_out import CutError, parse_hold_out
from o9.model.specification import read_metadata
from o9.workers.scores import ScoreError, score_of

RETURNS = [0.02, -0.01, 0.03, -0.02]
DAYS = [f"{year}-{month:02}-15" for year in (2018, 2019, 2020) for month in range(1, 13)]


def test_scores() -> None:
    values = np.array(RETURNS)
    assert score_of(RETURNS, 252.0) == pytest.approx(values.mean() / values.std(ddof=1) * math.sqrt(252))
    assert score_of(RETURNS, None) == pytest.approx(values.mean() / values.std(ddof=1))
    downside = math.sqrt((0.01**2 + 0.02**2) / 4)
    assert score_of(RETURNS, 4.0, "sortino") == pytest.approx(0.005 / downside * 2.0)
    growth = 1.02 * 0.99 * 1.03 * 0.98 - 1
    assert score_of(RETURNS, 4.0, "calmar") == pytest.approx(growth / 0.02)
    assert score_of([0.5, -1.0, 3.0], 252.0, "calmar") == -1.0
    assert [score_of([0.0] * 5, 252.0, name) for name in ("sharpe", "sortino", "calmar")] == [0.0, 0.0, 0.0]
    assert score_of([0.1] * 7, 252.0) == 0.0  # rounding leaves a deviation of a constant
    assert score_of(RETURNS, 12.0, "own", lambda returns, year: returns.max() * year) == 0.36


@pytest.mark.parametrize(("returns", "name"), [([0.1], "sharpe"), ([0.1, 0.2], "sortino"), ([0.1, 0.2], "calmar")])
def test_returns_without_a_score(returns: list[float], name: str) -> None:
    with pytest.raises(ScoreError):
        score_of(returns, 252.0, name)
    with pytest.raises(ScoreError):
        score_of([1e200, -1e200], 252.0)
    with pytest.raises(ScoreError):
        score_of(RETURNS, 252.0, "own", lambda returns, year: math.nan)


@pytest.mark.parametrize(
    ("given", "before"),
    [
        (0.3, 26),
        ({"share": 0.5}, 18),
        ("2019-06-01", 17),
        (date(2020, 1, 1), 24),
        ({"date": "2019-01-15"}, 12),
        ("1y", 24),
        ("1.5 years", 18),
        ({"years": 2}, 12),
    ],
)
def test_where_a_hold_out_begins(given: Any, before: int) -> None:
    found = parse_hold_out(given)
    assert found is not None
    assert found.before(36, 12.0, seconds_of(DAYS)) == before


@pytest.mark.parametrize(
    "given", [0, 1, 1.5, -0.1, True, math.nan, "soon", "2019-13-01", "0y", {}, {"share": 2}, {"days": 3}, [0.3]]
)
def test_invalid_hold_outs_are_refused(given: Any) -> None:
    with pytest.raises(OptimizationValidationError) as caught:
        read_metadata({"hold_out": given})
    assert caught.value.field == "metadata.hold_out"


@pytest.mark.parametrize(
    ("given", "year", "dates"),
    [
        (0.1, 12.0, None),  # leaves 3 periods
        ("2019-01-01", 12.0, None),
        ("2030-01-01", 12.0, DAYS),
        ("1y", None, DAYS),
        ("9y", 12.0, DAYS),
    ],
)
def test_hold_outs_that_do_not_fit_the_returns(given: Any, year: float | None, dates: list[str] | None) -> None:
    found = parse_hold_out(given)
    assert found is not None
    with pytest.raises(CutError):
        found.before(36, year, None if dates is None else seconds_of(dates))
