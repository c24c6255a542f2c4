"""Hold-out and placebo runs: is the result better than the same search on noise?"""

from __future__ import annotations

import asyncio

import numpy as np
from numpy.typing import NDArray

from OptimizationStateAggregator import Evaluation, OptimizationStateAggregator, new_optimization, objective

Floats = NDArray[np.float64]


def load() -> Floats:
    """Daily returns with a little momentum; put yours here."""
    found = np.random.default_rng(3).normal(0.0, 0.01, 2000)
    for day in range(1, len(found)):
        found[day] += 0.2 * found[day - 1]
    return found


@objective("follow", data=load, search_space={"days": {"type": "int", "low": 1, "high": 40}})
async def follow(parameters: dict[str, int], data: Floats) -> Evaluation:
    """Follow the trend of the last days. It gives only returns: O9 cuts off the hold-out, and scores the rest."""
    mean = np.convolve(data, np.ones(parameters["days"]))[: len(data)]
    return Evaluation(returns=np.append(0.0, np.sign(mean[:-1]) * data[1:]).tolist(), periods_per_year=252)


async def ended(aggregator: OptimizationStateAggregator, *ids: str) -> None:
    for name in ids:
        while (await aggregator.get_optimization_status(name)).completed_at is None:
            await asyncio.sleep(0.1)


async def main() -> None:
    async with OptimizationStateAggregator(storage_path="examples.db", monitoring_interval=0.2) as aggregator:
        for seed in (1, 2):  # a second search on the same data looks at the same hold-out
            name = await aggregator.submit_optimization(
                new_optimization({
                    "name": "follow",
                    "total_steps": 2,
                    "metadata": {
                        "objective": "follow", "hold_out": 0.3, "score": "sharpe", "market_neutral": True,
                        "trials_per_step": 4, "seed": seed,
                    },
                })
            )  # fmt: skip
            await ended(aggregator, name)
            await aggregator.get_optimization_health(name)
            verdict = await aggregator.health_checker.get_verdict(name)
            assert verdict is not None
            print(f"{verdict.grade.value}: look {verdict.figures['looks']} at the hold-out")
        await ended(aggregator, *await aggregator.submit_placebos(name, runs=4))
        await aggregator.health_checker.check_optimization_health(name)
        verdict = await aggregator.health_checker.get_verdict(name)
        assert verdict is not None
        print(f"of {verdict.figures['placebo_runs']} placebo runs: p = {verdict.figures['placebo_p_value']:.2f}")


asyncio.run(main())
