"""Errors and logs: invalid input, failed trials, and JSON logs with the ids of the optimization and the attempt."""

from __future__ import annotations

import asyncio
import json
import logging
import sys

from o9.model.logs import JsonFormatter
from o9.store import queries
from OptimizationStateAggregator import (
    OptimizationError,
    OptimizationStateAggregator,
    OptimizationStateError,
    OptimizationValidationError,
    new_optimization,
    objective,
)

log = logging.getLogger("desk")
handler = logging.StreamHandler(sys.stdout)
handler.setFormatter(JsonFormatter())  # `configure_logging` in the same module shows O9's own logs
log.addHandler(handler)


@objective("fragile", search_space={"x": {"type": "int", "low": 0, "high": 5}})
async def fragile(parameters: dict[str, int]) -> float:
    log.warning("evaluating %s", json.dumps(parameters))  # with the ids of the optimization, attempt and step
    return 1.0 / (parameters["x"] - 2)


async def main() -> None:
    async with OptimizationStateAggregator(storage_path="examples.db", monitoring_interval=0.2) as aggregator:
        try:
            await aggregator.submit_optimization(new_optimization({"name": "wrong", "total_steps": -3}))
        except OptimizationValidationError as error:
            print(f"refused: {error.field}: {error.problem}")
        try:
            await aggregator.submit_optimization(
                new_optimization({"name": "wrong", "metadata": {"objective": "fragil"}})
            )
        except OptimizationError as error:  # the base class of all errors of O9
            print(f"refused: {error}")

        optimization_id = await aggregator.submit_optimization(
            new_optimization({"name": "fragile", "metadata": {"objective": "fragile", "sampler": "grid"}})
        )
        while (state := await aggregator.get_optimization_status(optimization_id)).completed_at is None:
            await asyncio.sleep(0.1)
        print(f"{state.status.value}: {state.results['trials']}, the best {state.optimized_parameters}")
        for trial in aggregator.store.read(queries.trials, optimization_id):
            if trial.error:
                print(f"trial {trial.number} at {trial.parameters}: {trial.error.splitlines()[0]}")

        try:
            await aggregator.resume_optimization(optimization_id)
        except OptimizationStateError as error:
            print(f"refused: {error}")
    try:
        await aggregator.get_all_optimizations()
    except OptimizationError as error:
        print(f"refused: {error}")


asyncio.run(main())
