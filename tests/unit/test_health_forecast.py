"""The forecast of a live Sharpe ratio: Bayes' rule, shrinkage, coverage, signs of crashes."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from o9.health.grades import Forecast
from o9.health.statistics.evidence import examine
from o9.health.statistics.forecast import LIVE_YEARS, Mixture, concavity, edge_of, forecast_of, variance_ratio
from o9.health.verdict import judge

TWO = Mixture((0.3, 0.7), (-1.0, 2.0), (0.25, 0.04))


def edge(sharpes: Any, chosen: int, **changes: float) -> Mixture:
    standard: dict[str, Any] = {"years": 10.0, "ratio": 1.0, "correlation": 0.0, "effective": float(len(sharpes))}
    return edge_of(np.asarray(sharpes, dtype=np.float64), chosen, **standard | changes)


def test_quantiles_invert_the_distribution() -> None:
    for noise in (0.0, 0.3):
        for probability in (0.001, 0.1, 0.3, 0.5, 0.9):
            assert TWO.cdf(TWO.quantile(probability, noise), noise) == pytest.approx(probability, abs=1e-9)
    assert TWO.mean == pytest.approx(1.1)


def test_a_measurement_updates_it_by_bayes_rule() -> None:
    """Against numerical integration of prior times likelihood."""
    grid = np.linspace(-6, 6, 20_001)
    prior = sum(
        w * np.exp(-((grid - m) ** 2) / (2 * v)) / math.sqrt(v)
        for w, m, v in zip(TWO.weights, TWO.means, TWO.variances, strict=True)
    )
    posterior = prior * np.exp(-((grid - 0.4) ** 2) / (2 * 0.5))
    posterior /= posterior.sum()
    found = TWO.updated(0.4, 0.5)
    assert found.mean == pytest.approx(float(posterior @ grid), abs=1e-6)
    for value in (-1.0, -0.5, 0.0, 1.8):
        assert found.cdf(value) == pytest.approx(float(posterior[grid <= value].sum()), abs=1e-3)
    assert sum(found.weights) == pytest.approx(1.0)


def test_noise_is_shrunk_to_zero_and_a_single_edge_hardly() -> None:
    luck = np.random.default_rng(1).normal(0, math.sqrt(0.1), 200)
    assert abs(edge(luck, int(luck.argmax())).mean) < 0.2
    luck[17] = 2.5
    assert 2.0 < edge(luck, 17).mean < 2.5
    assert edge(luck, 17, ratio=3.0).mean < edge(luck, 17).mean
    assert edge(luck, 17, years=3.0).mean < edge(luck, 17).mean


def test_an_edge_that_all_trials_share_is_kept() -> None:
    shared = np.random.default_rng(2).normal(0.5, math.sqrt(0.1), 200)
    found = edge(shared, int(shared.argmax()))
    assert 0.35 < found.mean < 0.65


def test_a_single_trial_and_copies_of_it_are_shrunk_alike() -> None:
    alone = edge([1.0], 0)
    assert 0 < alone.mean < 1.0
    assert all(math.isfinite(each) for each in (*alone.weights, *alone.means, *alone.variances))
    copies = edge([1.0] * 50, 3, correlation=1.0, effective=1.0)
    assert 0 < copies.mean < 1.0


@settings(max_examples=100, deadline=None)
@given(
    st.lists(st.floats(-5, 5), min_size=1, max_size=30), st.floats(0.05, 40), st.floats(0.2, 10), st.floats(-0.5, 1.0),
    st.one_of(st.none(), st.tuples(st.floats(-5, 5), st.floats(0.01, 10))),
)  # fmt: skip
def test_the_interval_is_always_finite(
    sharpes: list[float], years: float, ratio: float, correlation: float, held_out: tuple[float, float] | None
) -> None:
    claim = edge(sharpes, 0, years=years, ratio=ratio, correlation=correlation)
    found = forecast_of(claim, claimed=sharpes[0], ratio=ratio, held_out=held_out)
    assert found.low < found.high
    assert found.low <= found.mean <= found.high or abs(found.mean) < 10
    assert all(math.isfinite(each) for each in (found.low, found.mean, found.high))
    assert sum(claim.weights) == pytest.approx(1.0)


@pytest.mark.parametrize("edges", ["none", "lone", "all"])
def test_the_interval_has_its_coverage(edges: str) -> None:
    """400 families of 50 over ten years, five held out, five lived; a quarter of the edges die after the sample."""
    rng = np.random.default_rng(5)
    inside = 0
    for _ in range(400):
        truth = np.full(50, 0.5) if edges == "all" else np.zeros(50)
        truth[7] += 1.5 * (edges == "lone")
        seen = truth + rng.normal(0, math.sqrt(1 / 10), 50)
        best = int(seen.argmax())
        lives = truth[best] * (rng.random() > 0.25)
        held, lived = lives + rng.normal(0, math.sqrt(1 / 5), 2)
        claim = edge(seen, best)
        found = forecast_of(claim, claimed=seen[best], ratio=1.0, held_out=(held, 1 / 5))
        inside += found.low <= lived <= found.high
    assert 0.74 <= inside / 400 <= 0.9


def test_serial_correlation_widens_the_interval() -> None:
    assert variance_ratio(0.0) == 1.0
    assert variance_ratio(0.2) == pytest.approx(1.5)
    assert variance_ratio(-0.2) == pytest.approx(1 / 1.5)
    assert math.isfinite(variance_ratio(1.0))
    narrow, wide = (forecast_of(TWO, claimed=1.0, ratio=ratio) for ratio in (1.0, 2.0))
    assert wide.high - wide.low > narrow.high - narrow.low
    assert narrow.years == LIVE_YEARS


def forecast(returns: Any, **given: Any) -> Forecast:
    found = judge(examine([returns], periods_per_year=252, replications=10, **given)).forecast
    assert found is not None
    return found


def test_a_sold_put_hints_at_a_crash() -> None:
    market = np.random.default_rng(3).normal(0.0004, 0.01, 2_520)
    put = 0.0008 + 0.5 * np.minimum(market + 0.015, 0.0)  # a premium, and losses when the market falls far
    rest = np.random.default_rng(4).normal(0.0, 0.001, 2_520)
    assert forecast(put + rest, benchmark=market).hidden_crash
    assert forecast(put).hidden_crash  # by its skewness alone
    assert not forecast(0.5 * market + 10 * rest, benchmark=market).hidden_crash
    assert not forecast(market).hidden_crash
    assert concavity(market**2 + rest, market) > 3  # type: ignore[operator]
    assert concavity(market, np.full(2_520, 0.01)) is None
