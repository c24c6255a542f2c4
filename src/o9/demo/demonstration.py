"""The optimizations of `o9 demo`: four searches on real prices. Needs the extra `quant`.

They are judged like any others: their objectives return what the search never saw, and the returns of equal weight, on
which the verdict of `o9.health` is based.
"""

from __future__ import annotations

import secrets
from collections.abc import Mapping
from datetime import datetime
from typing import NamedTuple

from o9.demo.catalogue import BUILTIN
from o9.demo.market.judge import baseline_figures
from o9.demo.market.prices import sp500
from o9.model.optimization import OptimizationState, utc_now
from o9.model.specification import new_optimization
from o9.model.states import OptimizationPriority
from o9.text.format import sentence

TARGET_OVER_BASELINE = 1.25


def demo_optimizations(seed: int, small: bool = False, *, now: datetime | None = None) -> list[OptimizationState]:
    """Four optimizations, the longest first. `small`: a few trials each instead of some hundreds, for tests.

    The baseline is what equal weight earned on the same days at the same costs; the target is a quarter above it.
    Raises OptimizationStrategyError if skfolio is not installed.
    """
    moment = now or utc_now()
    stamp = f"{moment:%Y%m%d-%H%M}-{secrets.token_hex(2)}"
    equal_weight = baseline_figures(sp500())["equal_weight"]
    return [_state(plan, seed + i, small, moment, stamp, equal_weight) for i, plan in enumerate(_PLANS)]


class _Plan(NamedTuple):
    """One optimization. full, small: (steps, trials per step). figure: what its objective returns."""

    key: str
    objective: str
    name: str
    priority: OptimizationPriority
    full: tuple[int, int]
    small: tuple[int, int]
    figure: str = "sharpe"


# Sized for about a minute in total on two cores: a portfolio trial takes 0.5 to 2 s, the others 15 to 30 ms, and each
# step adds about 40 ms.
_HIGH, _NORMAL = OptimizationPriority.HIGH, OptimizationPriority.NORMAL
_PLANS = (
    _Plan("portfolio", "sp500_portfolio", "Portfolio construction", _HIGH, (12, 2), (2, 1)),
    _Plan("trend", "sp500_trend", "Trend following", _NORMAL, (30, 6), (3, 2)),
    _Plan("ranking", "sp500_cross_section", "Cross-sectional ranking", _NORMAL, (30, 6), (3, 2)),
    _Plan("risk", "sp500_risk_limits", "Risk limits", _HIGH, (30, 6), (3, 2), "calmar"),
)


def _state(
    plan: _Plan, seed: int, small: bool, moment: datetime, stamp: str, equal_weight: Mapping[str, float]
) -> OptimizationState:
    steps, trials_per_step = plan.small if small else plan.full
    baseline, built_in = equal_weight[plan.figure], BUILTIN[plan.objective]
    return new_optimization({
        "optimization_id": f"demo-{plan.key}-{stamp}",
        "name": plan.name,
        "description": sentence(built_in.description),
        "optimization_type": built_in.optimization_type,
        "priority": plan.priority,
        "created_at": moment,
        "updated_at": moment,
        "total_steps": steps,
        "baseline_performance": baseline,
        "target_performance": round(TARGET_OVER_BASELINE * baseline, 2),
        "metadata": {"objective": plan.objective, "seed": seed, "trials_per_step": trials_per_step},
    })  # fmt: skip
