"""Health: can a result be trusted, or was the search merely lucky?"""

from __future__ import annotations

import asyncio

import numpy as np
from numpy.typing import NDArray

from o9.health.grades import verdict_of
from OptimizationStateAggregator import (
    Evaluation,
    OptimizationHealthReport,
    OptimizationStateAggregator,
    new_optimization,
    objective,
)

SPACE = {"rule": {"type": "int", "low": 0, "high": 199}}


def evaluated(returns: NDArray[np.float64]) -> Evaluation:
    """The value is the annual Sharpe ratio of the first 1,000 days; the last 500 are the hold-out."""
    past, held_out = returns[:1000], returns[1000:]
    return Evaluation(
        float(past.mean() / past.std() * 252**0.5),
        returns=past.tolist(),
        hold_out_returns=held_out.tolist(),
        periods_per_year=252,
    )


@objective("coin flips", search_space=SPACE, data="coins")
async def coin_flips(parameters: dict[str, int]) -> Evaluation:
    """No rule has an edge, but the best of many seems to have one."""
    return evaluated(np.random.default_rng([1, parameters["rule"]]).normal(0.0, 0.01, 1500))


@objective("an edge", search_space=SPACE, data="an edge")
async def an_edge(parameters: dict[str, int]) -> Evaluation:
    """Every rule has an edge, some a larger one."""
    edge = 0.002 - parameters["rule"] * 2e-6
    return evaluated(np.random.default_rng(1).normal(edge, 0.01, 1500))


async def no_more_than_three(optimization_id: str, report: OptimizationHealthReport) -> None:
    """A health rule, which may change the report."""
    if len(report.issues) > 3:
        report.recommendations.append("look at the issues one by one")


async def main() -> None:
    async with OptimizationStateAggregator(storage_path="examples.db", monitoring_interval=0.2) as aggregator:
        aggregator.health_checker.register_health_rule(no_more_than_three)
        aggregator.health_checker.set_health_threshold("validity_threshold", 0.9)
        for name in ("coin flips", "an edge"):
            optimization_id = await aggregator.submit_optimization(
                new_optimization(
                    {
                        "name": name,
                        "total_steps": 10,
                        "metadata": {
                            "objective": name,
                            "sampler": "random",
                            "seed": 7,
                            "trials_per_step": 8,
                            "market_neutral": True,  # they hold no market exposure
                        },
                    }
                )
            )
            while (state := await aggregator.get_optimization_status(optimization_id)).completed_at is None:
                await asyncio.sleep(0.1)
            report = await aggregator.get_optimization_health(optimization_id)
            assert report is not None
            checks = await aggregator.health_checker.get_health_checks(optimization_id)
            verdict = verdict_of(checks)
            assert verdict is not None
            print(f"{name}: Sharpe ratio {state.current_performance:.2f}, {verdict.grade.value}: {verdict.headline}")
            for check in checks:
                if check["name"].startswith("validity.") and check["score"] is not None:
                    print(f"  {check['score']:.2f} {check['words']}")


asyncio.run(main())
