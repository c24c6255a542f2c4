"""What the tests of evaluations share: evaluators that are closed, and a look at which processes live."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from typing import Any

import psutil

from o9.model.optimization import OptimizationState
from o9.strategies.coroutine import CoroutineAttempt, Observe
from o9.strategies.evaluation import Evaluator, TrialOutcome
from o9.strategies.registry import Objective, ResolvedStrategy, StrategyKind
from o9.workers import worker as child_module
from o9.workers.pool import POOL

MakeEvaluator = Callable[..., Evaluator]


@asynccontextmanager
async def evaluators() -> AsyncIterator[MakeEvaluator]:
    """Makes evaluators. At the end all are closed, the pool is empty, and no child is left."""
    made: list[Evaluator] = []

    def make(
        function: Callable[..., Any], workers: int = 1, locator: str | None = None, timeout_seconds: float | None = None
    ) -> Evaluator:
        one = Objective("tested", function, locator=locator)
        apart = workers > 1
        made.append(Evaluator(one, workers=workers, single_threaded=apart, timeout_seconds=timeout_seconds))
        return made[-1]

    yield make
    for one in made:
        await one.close()
    POOL.shut_down()
    await wait_until(lambda: not children(), 20)


async def evaluate(one: Evaluator, *parameters: dict[str, Any]) -> list[TrialOutcome]:
    """Evaluate them as trials 0, 1, 2, …"""
    return await one.evaluate(parameters, range(len(parameters)))


async def run_coroutine(
    function: Callable[[OptimizationState], Any], state: OptimizationState, observe: Observe, interval: float
) -> bool:
    """Run a coroutine strategy called `coroutine`. Returns whether it asked for a pause."""
    strategy = ResolvedStrategy("coroutine", StrategyKind.COROUTINE, function)
    return await CoroutineAttempt(strategy, 1).run(state, observe, interval)


def children() -> list[int]:
    """Return the evaluation processes that are alive."""
    found: list[int] = []
    for process in psutil.Process().children():
        try:
            if child_module.__file__ in process.cmdline():
                found.append(process.pid)
        except (psutil.NoSuchProcess, psutil.ZombieProcess):
            continue
    return found


def alive(pid: int) -> bool:
    """Whether it runs; a zombie does not."""
    try:
        return bool(psutil.Process(pid).status() != psutil.STATUS_ZOMBIE)
    except psutil.NoSuchProcess:
        return False


async def wait_until(condition: Callable[[], Any], seconds: float = 10.0) -> None:
    """Poll until it is true, and fail after `seconds`."""
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end, "it did not come true in time"
        await asyncio.sleep(0.01)
