"""Monitoring: the progress of an optimization, its improvement, and its problems."""

from __future__ import annotations

import asyncio

from OptimizationStateAggregator import OptimizationAlert, OptimizationStateAggregator, new_optimization, objective


@objective("momentum", search_space={"window": {"type": "int", "low": 2, "high": 60}})
async def momentum(parameters: dict[str, int]) -> float:
    await asyncio.sleep(0.05)  # put your backtest here
    if parameters["window"] > 30:
        raise ValueError("not enough history")
    return 1.0 - abs(parameters["window"] - 12) / 12


def tell(alert: OptimizationAlert) -> None:
    print(f"{alert.level.value}: {alert.metadata['finding']}: {alert.message}")


async def main() -> None:
    async with OptimizationStateAggregator(storage_path="examples.db", monitoring_interval=0.2) as aggregator:
        aggregator.monitor.register_callback("alert", tell)
        optimization_id = await aggregator.submit_optimization(
            new_optimization(
                {
                    "name": "momentum",
                    "total_steps": 15,
                    "baseline_performance": 0.5,
                    "target_performance": 1.0,
                    "metadata": {"objective": "momentum", "seed": 7, "sampler": "random", "trials_per_step": 2},
                }
            )
        )
        status = ""
        while status not in ("completed", "failed"):
            await asyncio.sleep(0.2)
            [now] = await aggregator.monitor.get_monitoring_data(optimization_id, limit=1)
            status, progress, effect = now["status"], now["progress"], now["effect"]
            left = progress["remaining_seconds"]
            print(
                f"{status}: {progress['completed_steps']} of {progress['total_steps']} steps,",
                f"best {effect['current']}, {'unknown' if left is None else f'{left:.1f} s'} left",
            )
        for finding in now["findings"]:
            print(f"found {finding['name']}: {finding['remedy']}")
        metrics = await aggregator.get_optimization_metrics(optimization_id)
        print(f"{len(metrics)} steps measured, the last at {metrics[-1].throughput:.0f} trials a second")


asyncio.run(main())
