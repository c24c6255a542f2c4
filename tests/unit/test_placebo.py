"""Resampling of data, and the p-value of placebo runs by its exact formula."""

from __future__ import annotations

from typing import Any

import numpy as np
import pandas as pd
import pytest

from o9.health.grades import Placebo
from o9.health.placebo import placebo_of
from o9.store.optimizations.placebos import PlaceboRuns
from o9.workers.resampling import DataError, stationary_rows, without_edge

ROWS = 400


def trending(rows: int = 4_000) -> Any:
    """Returns of which each keeps 0.8 of the one before."""
    shocks = np.random.default_rng(1).normal(0.0, 0.01, rows)
    found = shocks.copy()
    for row in range(1, rows):
        found[row] += 0.8 * found[row - 1]
    return found


def kept(returns: Any) -> float:
    return float(np.corrcoef(returns[1:], returns[:-1])[0, 1])


def test_the_p_value_counts_runs_that_are_as_good() -> None:
    def runs(*values: float | None) -> PlaceboRuns:
        return PlaceboRuns({}, dict(enumerate(values, 1)), requests=2)

    for value, others, direction, p in (
        (1.0, [0.5] * 19, "maximize", 1 / 20),
        (1.0, [1.0, 0.5, 2.0, 0.1], "maximize", 3 / 5),
        (1.0, [1.0, 0.5, 2.0, 0.1], "minimize", 4 / 5),
        (9.0, [1.0], "maximize", 1 / 2),
    ):
        found = placebo_of(value, runs(*others), direction)  # type: ignore[arg-type]
        assert found is not None
        assert (found.p_value, found.runs, found.without_result) == (p, len(others), 0)
    assert placebo_of(1.0, runs(), "maximize") is None
    assert placebo_of(1.0, runs(None, None), "maximize") is None
    assert placebo_of(None, runs(1.0), "maximize") is None
    assert placebo_of(1.0, runs(*[0.5] * 18, None), "maximize") == Placebo(2 / 20, 18, 0, without_result=1, requests=2)


def test_a_shuffle_uses_every_row_once() -> None:
    returns = trending()
    shuffled = without_edge(returns, "shuffle", 3)
    assert abs(kept(shuffled)) < 0.05
    assert sorted(shuffled) == sorted(returns)
    prices = 100 * np.cumprod(1 + returns)
    assert without_edge(prices, "shuffle", 3)[-1] == pytest.approx(prices[-1])


def test_long_blocks_keep_the_order() -> None:
    returns = trending()
    assert abs(kept(without_edge(returns, "bootstrap", 3))) < 0.05
    assert kept(without_edge(returns, "bootstrap:50", 3)) > 0.7
    assert kept(returns) > 0.75
    prices = pd.Series(100 * np.cumprod(1 + returns), index=pd.date_range("2010-01-01", periods=len(returns)))
    drawn = without_edge(prices, "bootstrap", 3)
    assert (drawn.index.equals(prices.index), drawn.iloc[0]) == (True, prices.iloc[0])
    ratios = (drawn / drawn.shift()).dropna().to_numpy()
    assert abs(kept(ratios)) < 0.05
    assert np.isin(ratios.round(9), (1 + returns[1:]).round(9)).all()
    assert ratios.mean() == pytest.approx((1 + returns[1:]).mean(), abs=0.002)


def test_resampling_is_deterministic_and_copies_the_data() -> None:
    data = pd.DataFrame(np.random.default_rng(2).normal(size=(ROWS, 3)), columns=list("abc"))
    before = data.copy()
    one, again, other = (without_edge(data, "bootstrap:5", seed) for seed in (1, 1, 2))
    pd.testing.assert_frame_equal(one, again)
    pd.testing.assert_frame_equal(data, before)
    assert not one.equals(other)


def test_relations_at_one_time_are_kept() -> None:
    generator = np.random.default_rng(4)
    market = generator.normal(0.0, 0.01, ROWS)
    data = {"market": market, "lever": (2 * market).tolist(), "prices": 100 * np.cumprod(1 + market)}
    drawn = without_edge(data, "bootstrap", 1)
    assert np.allclose(np.array(drawn["lever"]), 2 * drawn["market"])
    assert np.allclose(drawn["prices"][1:] / drawn["prices"][:-1], 1 + drawn["market"][1:])
    close = data["prices"]
    bars = pd.DataFrame(
        {"Open": close * 0.999, "High": close * 1.01, "Low": close * 0.98, "Close": close, "Volume": 7.0}
    )
    found = without_edge(bars, "bootstrap", 1)
    assert (found["Low"] <= found["Close"]).all()
    assert (found["Close"] <= found["High"]).all()
    assert np.allclose(found["High"] / found["Close"], 1.01)
    assert (found["Volume"] == 7.0).all()


def test_signals_are_rotated_and_functions_are_called() -> None:
    signals, prices = np.arange(float(ROWS)), np.arange(ROWS) + 1.0
    moved, same = without_edge((signals, prices), "shift", 5)
    assert same is prices
    assert sorted(moved) == sorted(signals)
    assert ROWS // 10 <= moved[0] <= ROWS - ROWS // 10
    mapping = without_edge({"signals": signals, "prices": prices}, "shift", 5)
    assert np.array_equal(mapping["signals"], moved)
    assert without_edge(signals, lambda data, generator: data[::-1], 5)[0] == ROWS - 1


@pytest.mark.parametrize(
    ("data", "kind"),
    [
        ("prices-v1", "bootstrap"),
        (np.arange(5.0), "bootstrap"),
        (np.array([1.0, np.nan] * 20), "bootstrap"),
        ({"a": np.arange(30.0), "b": np.arange(40.0)}, "bootstrap"),
        (pd.DataFrame({"a": ["x"] * 30}), "bootstrap"),
        (np.arange(30.0), "shift"),
    ],
)
def test_data_that_cannot_be_resampled_raise(data: Any, kind: str) -> None:
    with pytest.raises(DataError):
        without_edge(data, kind, 1)


def test_blocks_have_the_mean_length() -> None:
    for block in (1, 20):
        rows = stationary_rows(50_000, block, np.random.default_rng(1))
        assert 1 + np.mean(np.diff(rows) % 50_000 != 1) ** -1 == pytest.approx(1 + block, rel=0.1)
        assert (rows.min() >= 0, rows.max() < 50_000) == (True, True)
