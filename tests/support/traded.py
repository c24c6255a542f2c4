"""Optimizations with returns, written into a store as an attempt writes them, for what judges and shows them."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import numpy as np
from contract_steps import at_work
from numpy.typing import NDArray

from o9.lifecycle.effect import improvement
from o9.model.states import OptimizationStatus, TrialState
from o9.model.trial import Trial
from o9.store.optimizations.commit_step import Amend, CommitStep
from o9.store.optimizations.transitions import Cause, Transition
from o9.store.store import Store

Series = NDArray[np.float64]
Draw = Callable[[int, np.random.Generator], Series | None]
CHINESE = "横截面动量 · 沪深300"
PARAMETER = "快线"
SPACE: dict[str, Any] = {
    PARAMETER: {"type": "int", "low": 2, "high": 60},
    "stop": {"type": "float", "low": 1e-4, "high": 0.1, "log": True},
    "side": {"type": "categorical", "choices": ["long", "both", None]},
}
BASELINE = 0.4


def noise(days: int) -> Draw:
    """Returns without any edge."""
    return lambda _, random: random.normal(0.0, 0.01, days)


def trade(
    store: Store,
    optimization_id: str,
    draw: Draw,
    trials: int = 40,
    *,
    seed: int = 3,
    failing: int = 0,
    per_step: int = 20,
    error: str = "ValueError: no data",
    baseline: Series | None = None,
    hold_out: Draw | None = None,
    periods_per_year: float | None = 252.0,
    end: OptimizationStatus | None = OptimizationStatus.COMPLETED,
    **fields: Any,
) -> list[Trial]:
    """An optimization of so many trials, the last `failing` of which failed; a value is the annual Sharpe ratio."""
    random = np.random.default_rng(seed)
    metadata = {"objective": "desk:crossover", "search_space": SPACE, "seed": seed} | fields.pop("metadata", {})
    claimed = at_work(store, optimization_id, metadata=metadata, baseline_performance=BASELINE, **fields)
    made = [
        _trial(number, draw, random, optimization_id, baseline, hold_out, periods_per_year)
        if number < trials - failing
        else Trial(number, 0, TrialState.FAILED, _parameters(random), error=error, family=optimization_id)
        for number in range(trials)
    ]
    best: Trial | None = None
    for step, start in enumerate(range(0, trials, per_step)):
        some = made[start : start + per_step]
        best = max((t for t in (best, *some) if t is not None and t.value is not None), key=_value, default=None)
        store.write(
            CommitStep(
                optimization_id, claimed.fence, step, some, {}, {"best_value": _value(best)} if best else {},
                performance=best.value if best else None,
                improvement=improvement(_value(best), BASELINE, "maximize") if best else None,
                optimized_parameters=best.parameters if best else None,
            )
        )  # fmt: skip
    if end is not None:
        store.write(Amend(optimization_id, {"results": {"trials": trials}}, fence=claimed.fence))
        store.write(Transition(optimization_id, end, Cause.HOOK, fence=claimed.fence))
    return made


def _trial(
    number: int,
    draw: Draw,
    random: np.random.Generator,
    family: str,
    baseline: Series | None,
    hold_out: Draw | None,
    periods_per_year: float | None,
) -> Trial:
    parameters, returns = _parameters(random), draw(number, random)
    later = hold_out(number, random) if hold_out else None
    known = returns is not None and len(returns) > 1
    spread = float(np.nanstd(returns)) if known else 0.0  # type: ignore[arg-type]
    value = float(np.nanmean(returns)) / spread * math.sqrt(252) if spread > 1e-15 else float(number)  # type: ignore[arg-type]
    return Trial(
        number=number,
        step=0,
        state=TrialState.COMPLETED,
        parameters=parameters,
        value=value,
        family=family,
        returns=None if returns is None else tuple(map(float, returns)),
        periods_per_year=None if returns is None else periods_per_year,
        hold_out_returns=None if later is None else tuple(map(float, later)),
        baseline_returns=None if baseline is None else tuple(map(float, baseline)),
    )


def _parameters(random: np.random.Generator) -> dict[str, Any]:
    return {
        PARAMETER: int(random.integers(2, 61)),
        "stop": float(10 ** random.uniform(-4, -1)),
        "side": SPACE["side"]["choices"][int(random.integers(3))],
    }


def _value(trial: Trial) -> float:
    return trial.value or 0.0
