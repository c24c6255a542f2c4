"""Pruned trials keep counting: the same variance, the same luck."""

from __future__ import annotations

import math
from functools import cache
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from o9.health.statistics.evidence import examine
from o9.health.statistics.pruned import sharpe_ratios_of
from o9.health.unknown import Unknown
from o9.health.verdict import Evidence
from o9.store.core.column_types import pack_returns
from o9.store.statistics.families import PrunedTrials

DAYS = 120


def noise(trials: int, seed: int = 3) -> Any:
    return np.random.default_rng(seed).normal(0.0005, 0.01, (DAYS, trials))


def left_behind(matrix: Any, baseline: Any = None) -> PrunedTrials:
    packed = [pack_returns(column) for column in matrix.T]
    ratios = sharpe_ratios_of(packed, None if baseline is None else pack_returns(baseline))
    return PrunedTrials(matrix.shape[1], len(ratios), sum(ratios), sum(ratio**2 for ratio in ratios))


def known(evidence: Evidence) -> tuple[float, float]:
    assert not isinstance(evidence.luck, Unknown)
    assert not isinstance(evidence.deflated, Unknown)
    return evidence.luck, evidence.deflated


@cache
def unpruned(over: bool) -> tuple[Any, Any, Evidence]:
    """A family, its baseline, and its evidence before anything is pruned."""
    matrix = noise(40)
    matrix[:, 7] = 0.0  # it never traded, and was tried
    baseline = np.random.default_rng(9).normal(0.0, 0.01, DAYS) if over else None
    return matrix, baseline, examine(list(matrix.T), best=0, benchmark=baseline, replications=10)


@pytest.mark.slow
@settings(max_examples=30, deadline=None)
@given(st.integers(1, 39), st.booleans())
def test_pruning_does_not_change_the_luck_of_a_family(there: int, over: bool) -> None:
    matrix, baseline, whole = unpruned(over)
    pruned = left_behind(matrix[:, there:], baseline)
    part = examine(
        list(matrix[:, :there].T), counted=40, best=0, benchmark=baseline, pruned=pruned, replications=10
    )  # fmt: skip
    assert known(part) == pytest.approx(known(whole))


def test_the_variance_of_a_single_trial_is_unknown_without_pruned_ones() -> None:
    matrix = noise(40)
    assert isinstance(examine([matrix[:, 0]], counted=40).luck, Unknown)
    assert not isinstance(examine([matrix[:, 0]], counted=40, pruned=left_behind(matrix[:, 1:])).luck, Unknown)


def test_unusable_returns_leave_no_sharpe_ratio() -> None:
    varied = (0.01, 0.02, 0.03)
    packed = [pack_returns(each) for each in ((), (math.nan, 0.1, 0.2), (1e308, -1e308, 1e308), varied, (0.0, 0.0))]
    over_zero = float(np.mean(varied) / np.std(varied, ddof=1))
    assert sorted(sharpe_ratios_of(packed)) == pytest.approx([0.0, over_zero])  # 1e308 is no return
    for baseline in ((0.01,), (math.inf, 0.1, 0.2)):  # of another length, or none: over zero
        assert sorted(sharpe_ratios_of([packed[3]], pack_returns(baseline))) == pytest.approx([over_zero])
    twice = [pack_returns(2 * value for value in varied)]  # type: ignore[arg-type]
    assert sharpe_ratios_of(twice, pack_returns((0.01, -0.02, 0.03))) != pytest.approx([over_zero])
    assert sharpe_ratios_of([]) == []
