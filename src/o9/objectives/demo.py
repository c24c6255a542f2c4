"""The demonstration on real prices: four optimizations to run side by side, and how to read what came out.

Contract. `demo_optimizations` gives states ready to submit, with ids that no other call gives; `demo_table` turns
their ends into rows of plain data. Nothing here submits, waits or prints. Needs the extra `quant`.
"""

from __future__ import annotations

import math
import secrets
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime

import numpy as np

from o9.model.optimization import OptimizationState, utc_now
from o9.model.states import OptimizationPriority, OptimizationStatus
from o9.model.trial import Trial
from o9.objectives.catalogue import BUILTIN
from o9.objectives.market.baselines import baseline_figures, baseline_returns
from o9.objectives.market.figures import sharpe_ratio
from o9.objectives.market.prices import sp500
from o9.objectives.market.walk_forward import reselected, split_days

# A target of a quarter above equal weight: worth the trouble, and not out of reach.
TARGET_OVER_BASELINE = 1.25
# Two standard errors: below that, a difference of Sharpe ratios is what chance gives.
CLEAR_Z = 2.0


@dataclass(frozen=True)
class DemoRow:
    """One line of the final table. A figure that is not known is None.

    Sharpe ratios are annual and net of costs; `turnover` is a year's trades over the capital, purchases and sales
    together, in sample; drawdowns are fractions lost from the last high. `figure` is what was optimized, `sharpe` or
    `calmar`. `walk_forward_sharpe` is that of switching, at each fold but the first of the in-sample years, to the best
    parameters until then; `walk_forward_equal_weight_sharpe` is equal weight's in those years. The former flatters
    a little, see `reselected`.
    """

    optimization_id: str
    strategy: str
    trials: int
    figure: str
    in_sample_sharpe: float | None
    out_of_sample_sharpe: float | None
    equal_weight_sharpe: float | None
    out_of_sample_equal_weight_sharpe: float | None
    buy_and_hold_sharpe: float | None
    out_of_sample_buy_and_hold_sharpe: float | None
    out_of_sample_max_drawdown: float | None
    out_of_sample_equal_weight_max_drawdown: float | None
    turnover: float | None
    walk_forward_sharpe: float | None
    walk_forward_equal_weight_sharpe: float | None
    reading: str


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
    states: Sequence[OptimizationState],
    best_trials: Mapping[str, Trial | None],
    ledgers: Mapping[str, Sequence[Trial]] | None = None,
) -> list[DemoRow]:
    """A row for each state, in their order.

    best_trials: by optimization id. ledgers: all trials with their returns, by optimization id; without them
    the two `walk_forward_` figures are None, and `trials` is the steps done times the trials of a step.
    """
    return [
        _row(state, best_trials.get(state.optimization_id), (ledgers or {}).get(state.optimization_id))
        for state in states
    ]


def reading(metrics: Mapping[str, float], figure: str) -> str:
    """What the best trial's figures say, in one sentence. `figure` is what was optimized: `sharpe` or `calmar`."""
    names = (figure, f"equal_weight_{figure}", f"out_of_sample_{figure}", f"out_of_sample_equal_weight_{figure}")
    if not all(name in metrics for name in names):
        return "cannot be judged: a figure of it or of equal weight is undefined"
    inside, inside_equal, outside, outside_equal = (metrics[name] for name in names)
    ahead, title = outside - outside_equal, figure.capitalize()
    against = f"{title} {outside:.2f} against {outside_equal:.2f}"
    if inside <= inside_equal:
        tail = (
            f"ahead of it afterwards ({against}), which nothing in sample foretold"
            if ahead > 0
            else f"nor afterwards ({against})"
        )
        return f"no better than equal weight in sample, {tail}"
    if ahead <= 0:
        return f"did not hold out of sample: {against} of equal weight"
    return f"beat equal weight out of sample by {ahead:.2f} ({against}), {_doubt(metrics, figure)}"


def _doubt(metrics: Mapping[str, float], figure: str) -> str:
    if figure != "sharpe":
        return "but a largest drawdown is one event: weak evidence"
    return (
        "more than chance gives" if metrics.get("out_of_sample_z", 0.0) > CLEAR_Z else "still within what chance gives"
    )


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


def _row(state: OptimizationState, best: Trial | None, ledger: Sequence[Trial] | None) -> DemoRow:
    figure = next((p.figure for p in _PLANS if p.objective == state.metadata.get("objective")), "sharpe")
    metrics = best.metrics if best is not None else {}
    walked, walked_equal = _walk_forward_sharpes(ledger or ())
    counted = state.completed_steps * int(state.metadata.get("trials_per_step", 1))
    return DemoRow(
        optimization_id=state.optimization_id,
        strategy=state.name,
        trials=counted if ledger is None else len(ledger),
        figure=figure,
        in_sample_sharpe=metrics.get("sharpe"),
        out_of_sample_sharpe=metrics.get("out_of_sample_sharpe"),
        equal_weight_sharpe=metrics.get("equal_weight_sharpe"),
        out_of_sample_equal_weight_sharpe=metrics.get("out_of_sample_equal_weight_sharpe"),
        buy_and_hold_sharpe=metrics.get("buy_and_hold_sharpe"),
        out_of_sample_buy_and_hold_sharpe=metrics.get("out_of_sample_buy_and_hold_sharpe"),
        out_of_sample_max_drawdown=metrics.get("out_of_sample_max_drawdown"),
        out_of_sample_equal_weight_max_drawdown=metrics.get("out_of_sample_equal_weight_max_drawdown"),
        turnover=metrics.get("turnover"),
        walk_forward_sharpe=walked,
        walk_forward_equal_weight_sharpe=walked_equal,
        reading=f"no trial to judge: it ended {state.status.value}" if best is None else reading(metrics, figure),
    )


def _walk_forward_sharpes(ledger: Sequence[Trial]) -> tuple[float | None, float | None]:
    """Of switching to the best until then, and of equal weight on the same days."""
    series = [trial.returns for trial in ledger if trial.returns is not None]
    if not series:
        return None, None
    prices = sp500()
    split = split_days(len(prices.closes))
    walked = sharpe_ratio(reselected(np.array(series, dtype=np.float64).T, split))
    equal = sharpe_ratio(baseline_returns(prices, "equal_weight")[0][split.folds[1].start - split.start :])
    return (walked if math.isfinite(walked) else None), equal
