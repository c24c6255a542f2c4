"""The demonstration on real prices: four optimizations to run side by side, and how to read what came out.

Contract. `demo_optimizations` gives states ready to submit, with ids that no other call gives; `demo_table` turns
their ends into rows of plain data. What may be believed of them is not said here: their objectives give returns that
the search never saw, and those of equal weight, and the verdict of `o9.health` is made of them as of any other. Nothing
here submits, waits or prints. Needs the extra `quant`.
"""

from __future__ import annotations

import secrets
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime

from o9.demo.catalogue import BUILTIN
from o9.demo.market.baselines import baseline_figures
from o9.demo.market.prices import sp500
from o9.model.optimization import OptimizationState, utc_now
from o9.model.states import OptimizationPriority, OptimizationStatus
from o9.model.trial import Trial

# A target of a quarter above equal weight: worth the trouble, and not out of reach.
TARGET_OVER_BASELINE = 1.25


@dataclass(frozen=True)
class DemoRow:
    """One line of the final table. A figure that is not known is None.

    Sharpe ratios are annual, net of costs and over zero, of the days in sample and of those held out; `figure` is what
    was optimized, `sharpe` or `calmar`.
    """

    optimization_id: str
    strategy: str
    trials: int
    figure: str
    in_sample_sharpe: float | None
    held_out_sharpe: float | None
    equal_weight_sharpe: float | None
    held_out_equal_weight_sharpe: float | None
    buy_and_hold_sharpe: float | None
    held_out_buy_and_hold_sharpe: float | None


def demo_optimizations(seed: int, small: bool = False, *, now: datetime | None = None) -> list[OptimizationState]:
    """Four optimizations, the longest first. `small` is for tests: a few trials each instead of some hundreds.

    The baseline is what equal weight earned on the same days at the same costs, computed here; the target is a quarter
    above it. Raises OptimizationStrategyError where skfolio is not installed.
    """
    moment = now or utc_now()
    stamp = f"{moment:%Y%m%d-%H%M}-{secrets.token_hex(2)}"
    equal_weight = baseline_figures(sp500())["equal_weight"]
    return [_state(plan, seed + i, small, moment, stamp, equal_weight) for i, plan in enumerate(_PLANS)]


def demo_table(
    states: Sequence[OptimizationState], best_trials: Mapping[str, Trial | None], trials: Mapping[str, int]
) -> list[DemoRow]:
    """A row for each state, in their order. `best_trials` and how many `trials` there are, by optimization id."""
    rows = []
    for state in states:
        best = best_trials.get(state.optimization_id)
        metrics = best.metrics if best is not None else {}
        rows.append(
            DemoRow(
                optimization_id=state.optimization_id,
                strategy=state.name,
                trials=trials.get(state.optimization_id, 0),
                figure=next((p.figure for p in _PLANS if p.objective == state.metadata.get("objective")), "sharpe"),
                in_sample_sharpe=metrics.get("sharpe"),
                held_out_sharpe=metrics.get("out_of_sample_sharpe"),
                equal_weight_sharpe=metrics.get("equal_weight_sharpe"),
                held_out_equal_weight_sharpe=metrics.get("out_of_sample_equal_weight_sharpe"),
                buy_and_hold_sharpe=metrics.get("buy_and_hold_sharpe"),
                held_out_buy_and_hold_sharpe=metrics.get("out_of_sample_buy_and_hold_sharpe"),
            )
        )
    return rows


@dataclass(frozen=True)
class _Plan:
    """One optimization of the demonstration; `full` and `small` are (steps, trials a step)."""

    key: str
    objective: str
    name: str
    description: str
    priority: OptimizationPriority
    full: tuple[int, int]
    small: tuple[int, int]
    figure: str = "sharpe"


# Sized for about a minute in all on two cores: a portfolio trial takes half a second to two, the others 15 to 30 ms,
# and a step costs some 40 ms beyond its trials.
_PLANS = (
    _Plan(
        key="portfolio",
        objective="sp500_portfolio",
        name="Portfolio construction",
        description="Which estimator, risk measure and regularisation build the best long-only portfolio of 20 large "
        "US stocks, refitted every year or two",
        priority=OptimizationPriority.HIGH,
        full=(12, 2),
        small=(2, 1),
    ),
    _Plan(
        key="trend",
        objective="sp500_trend",
        name="Trend following",
        description="Moving-average crossover on 20 large US stocks, each position sized by its volatility",
        priority=OptimizationPriority.NORMAL,
        full=(30, 6),
        small=(3, 2),
    ),
    _Plan(
        key="ranking",
        objective="sp500_cross_section",
        name="Cross-sectional ranking",
        description="Momentum or reversal: rank 20 large US stocks by past return and hold one end of the ranking",
        priority=OptimizationPriority.NORMAL,
        full=(30, 6),
        small=(3, 2),
    ),
    _Plan(
        key="risk",
        objective="sp500_risk_limits",
        name="Risk limits",
        description="Volatility target, leverage, position cap and drawdown stop for a fixed trend portfolio of 20 "
        "large US stocks; the goal is return over largest drawdown",
        priority=OptimizationPriority.HIGH,
        full=(30, 6),
        small=(3, 2),
        figure="calmar",
    ),
)


def _state(
    plan: _Plan, seed: int, small: bool, moment: datetime, stamp: str, equal_weight: Mapping[str, float]
) -> OptimizationState:
    steps, trials_per_step = plan.small if small else plan.full
    baseline = equal_weight[plan.figure]
    return OptimizationState(
        optimization_id=f"demo-{plan.key}-{stamp}",
        name=plan.name,
        description=plan.description,
        optimization_type=BUILTIN[plan.objective].optimization_type,
        status=OptimizationStatus.CREATED,
        priority=plan.priority,
        created_at=moment,
        updated_at=moment,
        total_steps=steps,
        baseline_performance=baseline,
        target_performance=round(TARGET_OVER_BASELINE * baseline, 2),
        metadata={
            "objective": plan.objective,
            "sampler": "tpe",
            "seed": seed,
            "trials_per_step": trials_per_step,
        },
    )
