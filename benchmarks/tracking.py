"""Trials a second through the default strategy, against Optuna's own storages. `python benchmarks/tracking.py`

O9's side of the loop: the built-in strategy with the random sampler asks for a step's trials, evaluates a trivial
async objective, tells the sampler, and commits the step durably (trials, metrics, progress, checkpoint, change).
Optuna's side: `study.ask` with the same search space and sampler, the same arithmetic, `study.tell`, on a fresh study
in a SQLite RDBStorage or in a JournalStorage file. Neither side has Prefect in the loop: what its tasks cost is
measured by lifecycle.py. Optuna's storages flush the disk for each trial; O9 does so with durability "power" only,
which the last lines show. Creating the study, the store and the optimization is outside the clock on both sides.
"""

from __future__ import annotations

import asyncio
import itertools
import tempfile
import time
from collections.abc import Callable
from datetime import UTC, datetime
from functools import partial
from typing import Any

import optuna
from measure import Pair, compare, heading, verdict
from optuna.storages.journal import JournalFileBackend

from o9.model.optimization import OptimizationState
from o9.model.states import OptimizationPriority, OptimizationStatus, OptimizationType
from o9.store.optimizations.commit_step import CommitStep
from o9.store.optimizations.transitions import Cause, Create, Transition
from o9.store.queue.claims import Claim
from o9.store.store import Store
from o9.strategies.factory import create_strategy
from o9.strategies.registry import objective

SPACE = {name: {"type": "float", "low": -5.0, "high": 5.0} for name in ("x", "y", "z")}
DISTRIBUTIONS: dict[str, optuna.distributions.BaseDistribution] = {
    name: optuna.distributions.FloatDistribution(-5.0, 5.0) for name in SPACE
}
NUMBERS = itertools.count()
TRIALS = 500


def bowl(x: float, y: float, z: float) -> float:
    return x * x + y * y + z * z


@objective("benchmark_bowl", direction="minimize", search_space=SPACE)
async def benchmark_bowl(parameters: dict[str, Any]) -> float:
    return bowl(parameters["x"], parameters["y"], parameters["z"])


def through_o9(store: Store, steps: int, trials_per_step: int) -> float:
    """One optimization of `steps` steps. Returns the seconds that asking, evaluating, telling and committing took."""
    name, now = f"optimization-{next(NUMBERS)}", datetime.now(UTC)
    state = OptimizationState(
        name, name, "", OptimizationType.PARAMETER_TUNING, OptimizationStatus.CREATED, OptimizationPriority.NORMAL,
        now, now, total_steps=steps, parameters={},
        metadata={
            "objective": "benchmark_bowl", "sampler": "random", "seed": 1, "trials_per_step": trials_per_step,
        },
    )  # fmt: skip
    store.write(Create(state))
    claimed = store.write(Claim("node", 1_000_000, 3600.0, name))
    assert claimed is not None
    for to in (OptimizationStatus.INITIALIZING, OptimizationStatus.RUNNING):
        store.write(Transition(name, to, Cause.HOOK, fence=claimed.fence))

    async def run() -> float:
        strategy, checkpoint = create_strategy(state), None
        assert strategy.kind == "steps"
        began = time.perf_counter()
        strategy.open(state, [])
        for step in range(steps):
            result = await strategy.step(state, step, checkpoint)
            checkpoint = result.checkpoint
            await store.write_async(
                CommitStep(
                    name, claimed.fence, step, result.trials, checkpoint, result.metrics, f"step {step + 1}",
                    performance=result.best_value, optimized_parameters=result.best_parameters,
                )
            )  # fmt: skip
        seconds = time.perf_counter() - began
        await strategy.close()
        return seconds

    return asyncio.run(run())


def through_optuna(storage: Callable[[], Any], trials: int) -> float:
    """One study of `trials` trials. Returns the seconds for TRIALS at that rate."""
    study = optuna.create_study(storage=storage(), sampler=optuna.samplers.RandomSampler(seed=1), direction="minimize")
    began = time.perf_counter()
    for _ in range(trials):
        trial = study.ask(DISTRIBUTIONS)
        study.tell(trial, bowl(**trial.params))
    return (time.perf_counter() - began) * TRIALS / trials


def main() -> None:
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    with (
        tempfile.TemporaryDirectory(prefix="o9-benchmark-") as folder,
        Store(f"{folder}/o9.db", durability="process") as store,
        Store(f"{folder}/o9-power.db", durability="power") as flushing,
    ):
        fresh = itertools.count()

        def rdb() -> Any:
            return optuna.storages.RDBStorage(f"sqlite:///{folder}/optuna-{next(fresh)}.db")

        def journal() -> Any:
            return optuna.storages.JournalStorage(JournalFileBackend(f"{folder}/journal-{next(fresh)}.log"))

        # The same rate whatever the number of trials; Optuna's SQLite gets fewer, being slow.
        yardsticks: list[tuple[str, Callable[[], Any], int, float]] = [
            ("SQLite", rdb, TRIALS // 10, 20.0), ("journal file", journal, TRIALS, 1.0),
        ]  # fmt: skip
        ours = [(store, "", 1, True), (store, "", 10, True), (flushing, ", power", 1, False)]
        heading("Trials a second, random sampler, 3 parameters", "o9", "Optuna")
        results = []
        for (yardstick, storage, trials, target), (written, word, each, counts) in itertools.product(yardsticks, ours):
            pair = Pair(
                f"{each} a step{word}; Optuna on {yardstick}",
                partial(through_o9, written, TRIALS // each, each),
                partial(through_optuna, storage, trials),
                work=TRIALS,
                target=target if counts else None,
            )
            results.append(compare(pair, rounds=5))
    verdict(results)


if __name__ == "__main__":
    main()
