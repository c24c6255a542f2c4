"""Statistics: counts, rates, trends, rankings, importance of parameters, and pandas frames."""

from __future__ import annotations

import asyncio
from datetime import timedelta

from OptimizationStateAggregator import OptimizationStateAggregator, OptimizationStatistics, new_optimization, objective


@objective(
    "reversal",
    search_space={
        "days": {"type": "int", "low": 1, "high": 20},
        "cost": {"type": "float", "low": 0.0, "high": 0.001},
    },
)
async def reversal(parameters: dict[str, float]) -> float:
    return 1.0 - abs(parameters["days"] - 5) / 10 - 20 * parameters["cost"]  # put your backtest here


async def run() -> list[str]:
    async with OptimizationStateAggregator(storage_path="examples.db", monitoring_interval=0.2) as aggregator:
        ids = [
            await aggregator.submit_optimization(
                new_optimization(
                    {
                        "name": f"reversal, seed {seed}",
                        "total_steps": 10,
                        "baseline_performance": 0.5,
                        "metadata": {"objective": "reversal", "seed": seed, "trials_per_step": 4},
                    }
                )
            )
            for seed in range(3)
        ]
        for optimization_id in ids:
            while (await aggregator.get_optimization_status(optimization_id)).completed_at is None:
                await asyncio.sleep(0.1)
        return ids


async def main() -> None:
    ids = await run()
    # The rest needs no aggregator and no Prefect: it reads the record.
    async with OptimizationStatistics("examples.db") as statistics:
        everything = await statistics.get_global_statistics()
        print(f"{everything['total_optimizations']} in all, {everything['success_rate']:.0%} of what ended completed")
        for row in await statistics.get_optimization_rankings("current_performance", limit=3):
            print(f"{row['rank']}. {row['name']}: {row['value']:.3f}")
        trends = await statistics.get_performance_trends(timedelta(days=1))
        print(f"ended by the hour: {[window['count'] for window in trends['windows']][-3:]}")
        mattered = await statistics.get_parameter_importance(ids[0])
        for name, figures in mattered["parameters"].items():
            print(f"{name} explains {figures['importance']:.0%} of the values")

        frame = await statistics.frame("optimizations")
        print(frame.loc[frame["optimization_id"].isin(ids), ["name", "status", "performance_improvement"]])
        trials = await statistics.frame("trials", ids[0])
        print(f"{trials.groupby('parameter.days')['value'].max().idxmax():.0f} days are the best")
        print("written:", await statistics.export("trials.csv", "trials", ids[0]))


asyncio.run(main())
