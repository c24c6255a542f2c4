"""The latency of control, and the cost of an idle node. `python benchmarks/control.py`

- cancel: from `cancel_optimization` until the slot is free (the lease is gone), for an async objective and for a sync
  one in a busy child process;
- submit: from `submit_optimization` until the first step is committed;
- pause: from `pause_optimization` until the slot is free, with steps of 50 ms;
- death: from `kill -9` of an aggregator until another one on the same machine has begun the next attempt;
- idle: the share of one core that an idle aggregator uses, with a record of 100 and of 20,000 optimizations.

There is no yardstick: medians of several tries, with the smallest and the largest.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
import signal
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import AsyncIterator, Callable
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import psutil
from measure import machine, note

from o9.store import queries

TRIES = 9
DEATHS = 5
IDLE_SECONDS = 20.0
POLL_SECONDS = 0.002
SPACE = {"x": {"type": "float", "low": -5.0, "high": 5.0}}
DESK = """
import asyncio, time

def endless(parameters):
    while True:
        pass

async def waits(parameters):
    await asyncio.sleep(3600)

async def short(parameters):
    await asyncio.sleep(0.05)
    return parameters["x"]
"""
VICTIM = """
import asyncio, sys
from OptimizationStateAggregator import OptimizationStateAggregator

async def main():
    async with OptimizationStateAggregator(storage_path=sys.argv[1], monitoring_interval=0.5) as aggregator:
        print("ready", flush=True)
        await asyncio.to_thread(sys.stdin.readline)

asyncio.run(main())
"""


def new(name: str, objective: str) -> Any:
    from OptimizationStateAggregator import (
        OptimizationPriority,
        OptimizationState,
        OptimizationStatus,
        OptimizationType,
    )

    now = datetime.now(UTC)
    return OptimizationState(
        name, name, "", OptimizationType.PARAMETER_TUNING, OptimizationStatus.CREATED, OptimizationPriority.NORMAL,
        now, now, total_steps=10_000,
        metadata={"objective": f"benchmark_desk:{objective}", "search_space": SPACE, "sampler": "random", "seed": 1},
    )  # fmt: skip


async def until(condition: Callable[[], bool], seconds: float = 90.0) -> float:
    """Wait until it is true, and return the time."""
    deadline = time.perf_counter() + seconds
    while not condition():
        assert time.perf_counter() < deadline, "it did not come true"
        await asyncio.sleep(POLL_SECONDS)
    return time.perf_counter()


@contextlib.asynccontextmanager
async def aggregator_on(path: str) -> AsyncIterator[Any]:
    from OptimizationStateAggregator import OptimizationStateAggregator

    async with OptimizationStateAggregator(storage_path=path, monitoring_interval=0.5) as aggregator:
        yield aggregator


async def steering(aggregator: Any) -> None:
    store = aggregator.store
    for kind in ("waits", "endless"):
        took = []
        for n in range(TRIES):
            name = await aggregator.submit_optimization(new(f"cancel-{kind}-{n}", kind))
            await until(lambda name=name: store.read(queries.get, name).status.value == "running")  # type: ignore[misc]
            await asyncio.sleep(0.3)
            began = time.perf_counter()
            await aggregator.cancel_optimization(name)
            took.append(await until(lambda name=name: store.read(queries.holding, name).lease_node is None) - began)  # type: ignore[misc]
        note(f"cancel to free slot, {'async' if kind == 'waits' else 'sync, in a child process'}", _shown(took))
    first, paused = [], []
    for n in range(TRIES):
        began = time.perf_counter()
        name = await aggregator.submit_optimization(new(f"short-{n}", "short"))
        first.append(await until(lambda name=name: store.read(queries.get, name).completed_steps > 0) - began)  # type: ignore[misc]
        began = time.perf_counter()
        await aggregator.pause_optimization(name)
        paused.append(await until(lambda name=name: store.read(queries.holding, name).lease_node is None) - began)  # type: ignore[misc]
        await aggregator.cancel_optimization(name)
    note("submit to first committed step of 50 ms", _shown(first))
    note("pause to free slot, steps of 50 ms", _shown(paused))


async def deaths(aggregator: Any, path: str) -> None:
    """Other processes run the optimizations, since they are killed."""
    from o9.lifecycle.submission import submit
    from o9.model.states import Intent
    from o9.store.optimizations.intents import SetIntent
    from o9.store.store import Store

    await aggregator.cleanup()
    took = []
    with Store(path) as store:
        for n in range(DEATHS):
            nodes = [_victim(path) for _ in range(2)]
            name = f"death-{n}"
            await submit(store, new(name, "short"))
            await until(
                lambda name=name: (found := store.read(queries.get, name)) is not None and found.completed_steps > 3  # type: ignore[misc]
            )
            holder = store.read(queries.holding, name)
            assert holder is not None
            pid = int(str(holder.lease_node).rpartition(":")[2])
            began = time.perf_counter()
            os.kill(pid, signal.SIGKILL)
            took.append(await until(lambda name=name: _attempt_of(store, name) > 1) - began)  # type: ignore[misc]
            store.write(SetIntent(name, Intent.CANCEL, "benchmark"))
            await until(lambda name=name: store.read(queries.holding, name).lease_node is None)  # type: ignore[misc, union-attr]
            for node in nodes:
                _dismiss(node)
    note("kill -9 of a node to the next attempt, same machine", _shown(took))


def _attempt_of(store: Any, name: str) -> int:
    trials = store.read(queries.transitions, name)
    return max(int(row["attempt"]) for row in trials if row["to_status"] == "running")


def _victim(path: str) -> subprocess.Popen[str]:
    node = subprocess.Popen(
        [sys.executable, "-c", VICTIM, path], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )
    assert node.stdout is not None
    assert node.stdout.readline() == "ready\n"
    return node


def _dismiss(node: subprocess.Popen[str]) -> None:
    with contextlib.suppress(BrokenPipeError):  # the one that was killed
        node.communicate("go\n", timeout=60)


async def idle(folder: str, count: int) -> None:
    from o9.store.optimizations.transitions import Create
    from o9.store.store import Store

    path = f"{folder}/idle-{count}.db"
    with Store(path) as store:
        for start in range(0, count, 500):
            names = [f"held-{n}" for n in range(start, min(count, start + 500))]
            await asyncio.gather(*[store.write_async(Create(new(name, "short"), hold=True)) for name in names])
    node = _victim(path)
    await asyncio.sleep(5)  # skip the work at the start
    process = psutil.Process(node.pid)
    before, began = process.cpu_times(), time.perf_counter()
    await asyncio.sleep(IDLE_SECONDS)
    after = process.cpu_times()
    used = (after.user + after.system - before.user - before.system) / (time.perf_counter() - began)
    note(f"an idle aggregator beside {count:,} optimizations", f"{used:.2%} of a core")
    _dismiss(node)


def _shown(seconds: list[float]) -> str:
    ms = [value * 1000 for value in seconds]
    return f"{statistics.median(ms):,.0f} ms ({min(ms):,.0f} to {max(ms):,.0f})"


async def run(folder: str) -> None:
    path = f"{folder}/o9.db"
    async with aggregator_on(path) as aggregator:
        await steering(aggregator)
        await deaths(aggregator, path)
    for count in (100, 20_000):
        await idle(folder, count)


def main() -> None:
    with tempfile.TemporaryDirectory(prefix="o9-benchmark-") as folder:
        Path(folder, "benchmark_desk.py").write_text(DESK)
        os.environ |= {
            "PREFECT_HOME": f"{folder}/prefect",
            "PREFECT_LOGGING_LEVEL": "CRITICAL",
            "O9_LOG_LEVEL": "CRITICAL",
        }
        os.environ["PYTHONPATH"] = os.pathsep.join([folder, *filter(None, [os.environ.get("PYTHONPATH")])])
        sys.path.insert(0, folder)
        logging.getLogger("o9").setLevel(logging.CRITICAL)
        asyncio.run(run(folder))
    print(f"\n{machine()}.")


if __name__ == "__main__":
    main()
