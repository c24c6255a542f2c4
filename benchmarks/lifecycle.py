"""The cost of an optimization, compared with a bare Prefect flow of the same work. `python benchmarks/lifecycle.py`

O9's side: an optimization of 20 steps, run by an aggregator that is already started, from `submit_optimization` until
it has ended. Yardstick: a bare async Prefect flow with 20 tasks, in the same process, against the same server (the
local one that the aggregator started), with the same work in each task. The bare flow keeps nothing and can neither be
paused nor resumed. Work: an async objective of a few milliseconds, and a sync one of the same, which O9 evaluates in a
child process (so does the bare flow, in a process pool). Both sides run once before the clock starts.

Through a deployment: the process that a worker starts for each run, from its start to its end, with its children. The
bare flow does sync work in its own process there, and both sides import what they need; the last line has steps of ten
backtests of 20 ms. Modules are compiled, as those of an installed package are.
`--only WORD` runs the lines whose name contains it. Figures are milliseconds; the ratio is O9 over Prefect.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import itertools
import logging
import multiprocessing
import os
import resource
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from concurrent.futures import ProcessPoolExecutor
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

from measure import Pair, Result, compare, heading, note, verdict
from work import TRIALS

from o9.store import queries

if TYPE_CHECKING:
    from o9.aggregator.aggregator import OptimizationStateAggregator

STEPS = 20
AT_ONCE = 5
PAIRS = 9
PROCESSES = 7  # pairs of runs through a deployment
POLL_SECONDS = 0.02  # between two checks for the end; it counts against O9
SPACE = [{"name": "x", "type": "float", "low": -5.0, "high": 5.0}]
AVERAGES = [{"name": name, "type": "int", "low": low, "high": 2 * low} for name, low in (("fast", 5), ("slow", 50))]
numbers = itertools.count()


class Both:
    """Both sides, in one event loop, so that only the work differs."""

    def __init__(self, aggregator: OptimizationStateAggregator, pool: ProcessPoolExecutor) -> None:
        import bare

        bare.pool = pool
        self.aggregator = aggregator
        self.first_step_seconds: list[float] = []
        self._flow = bare.bare_flow

    async def ours(self, kind: str) -> None:
        name, now = f"{kind}-{next(numbers)}", datetime.now(UTC)
        state = _state(name, kind, now)
        began = time.perf_counter()
        await self.aggregator.submit_optimization(state)
        store, begun = self.aggregator.store, False
        while True:
            seen = store.read(queries.get, name)
            assert seen is not None
            if seen.completed_steps and not begun:
                begun = True
                self.first_step_seconds.append(time.perf_counter() - began)
            if seen.status.value in ("completed", "failed", "cancelled", "timeout"):
                assert seen.status.value == "completed", seen.issues
                return
            await asyncio.sleep(POLL_SECONDS)

    async def bare(self, kind: str) -> None:
        from o9.aggregator.prefect_server import prefect_client_settings

        assert self.aggregator._node is not None
        with prefect_client_settings(self.aggregator._node.server):
            await self._flow(kind, STEPS)


class Deployed:
    """Both sides as deployments. A run is the process that a worker starts for it."""

    def __init__(self, server: Any, folder: str) -> None:
        self._server = server
        self._ids: dict[str, Any] = {}
        self.processor_seconds: dict[str, list[float]] = {}
        access = {"PREFECT_API_URL": server.api_url, "PREFECT_API_AUTH_STRING": server.auth_string}
        path = os.pathsep.join([str(Path(__file__).parent), *filter(None, [os.environ.get("PYTHONPATH")])])
        self._environment = {**os.environ, **access, "PYTHONPATH": path, "O9_STORE_URL": f"{folder}/deployed.db"}
        self._environment["O9_ALLOWED_IMPORTS"] = "work"
        self._environment.pop("PYTHONDONTWRITEBYTECODE", None)

    async def deploy(self) -> None:
        from bare import bare_flow
        from prefect.types.entrypoint import EntrypointType

        from o9.aggregator.prefect_server import prefect_client_settings
        from o9.flows.lifecycle import optimization_lifecycle

        with prefect_client_settings(self._server):
            for name, flow in (("o9", optimization_lifecycle), ("bare", bare_flow)):
                made: Any = await flow.ato_deployment(name, entrypoint_type=EntrypointType.MODULE_PATH)
                self._ids[name] = await made.aapply()

    async def ours(self, kind: str) -> float:
        return await self._run("o9", kind, {"spec": {"total_steps": STEPS, "metadata": _metadata(kind)}})

    async def bare(self, kind: str) -> float:
        return await self._run("bare", kind, {"kind": kind, "steps": STEPS})

    async def _run(self, name: str, kind: str, parameters: dict[str, Any]) -> float:
        from prefect import get_client

        from o9.aggregator.prefect_server import prefect_client_settings

        with prefect_client_settings(self._server):
            async with get_client() as client:
                run = await client.create_flow_run_from_deployment(self._ids[name], parameters=parameters)
                environment = self._environment | {"PREFECT__FLOW_RUN_ID": str(run.id)}
                before, began = _of_children(), time.perf_counter()
                await asyncio.to_thread(subprocess.run, [sys.executable, "-m", "prefect.engine"], env=environment)
                took = time.perf_counter() - began
                self.processor_seconds.setdefault(f"{name}, {kind}", []).append(_of_children() - before)
                assert (await client.read_flow_run(run.id)).state_name == "Completed"
                return took


def _of_children() -> float:
    """The processor time of all processes below this one that have ended."""
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    return used.ru_utime + used.ru_stime


def _metadata(kind: str) -> dict[str, Any]:
    asked = {"objective": f"work:{kind}_computation", "direction": "minimize", "sampler": "random", "seed": 1}
    if kind == "backtest":
        return asked | {"search_space": AVERAGES, "trials_per_step": TRIALS}
    return asked | {"search_space": SPACE}


def _state(name: str, kind: str, now: datetime) -> Any:
    from o9.model.optimization import OptimizationState
    from o9.model.states import OptimizationPriority, OptimizationStatus, OptimizationType

    return OptimizationState(
        name, name, "", OptimizationType.PARAMETER_TUNING, OptimizationStatus.CREATED, OptimizationPriority.NORMAL,
        now, now, total_steps=STEPS, metadata=_metadata(kind),
    )  # fmt: skip


@contextlib.asynccontextmanager
async def started(folder: str) -> AsyncIterator[tuple[Both, float, float]]:
    """A started aggregator, and the seconds of its first start and of a later one."""
    from OptimizationStateAggregator import OptimizationStateAggregator

    took = []
    for _ in range(2):
        began = time.perf_counter()
        aggregator = OptimizationStateAggregator(
            max_concurrent_optimizations=AT_ONCE, storage_path=f"{folder}/o9.db", monitoring_interval=0.5
        )
        await aggregator.start()
        took.append(time.perf_counter() - began)
        if len(took) == 1:
            assert aggregator._node is not None
            server = aggregator._node.server
            await aggregator.cleanup()
            # The next aggregator must not find it still running.
            while server.local and not server.gone():  # noqa: ASYNC110 - there is no event for another process's end
                await asyncio.sleep(POLL_SECONDS)
    # Neither a sync objective's children nor the yardstick's are forks of this process.
    pool = ProcessPoolExecutor(2, mp_context=multiprocessing.get_context("spawn"))
    try:
        yield Both(aggregator, pool), took[0], took[1]
    finally:
        pool.shutdown()
        await aggregator.cleanup()


def run(folder: str, only: str) -> list[Result]:
    """All lines. The pairs are measured from a thread, and the sides run in the loop."""

    async def main() -> list[Result]:
        async with started(folder) as (both, first, later):
            loop = asyncio.get_running_loop()

            def timed(side: Callable[[str], Awaitable[None]], kind: str, count: int) -> Callable[[], float]:
                async def together() -> float:
                    began = time.perf_counter()
                    await asyncio.gather(*[side(kind) for _ in range(count)])
                    return time.perf_counter() - began

                return lambda: asyncio.run_coroutine_threadsafe(together(), loop).result()

            lines = [
                (f"{STEPS} steps, async objective", "async", 1, 1.25),
                (f"{STEPS} steps, sync objective in child processes", "sync", 1, 1.25),
                (f"{AT_ONCE} at once, async objective", "async", AT_ONCE, None),
            ]
            heading(f"{STEPS} steps against a bare flow of {STEPS} tasks", "o9", "Prefect")
            results, alone = [], []
            for name, kind, count, target in lines:
                if only in name:
                    pair = Pair(
                        name, timed(both.ours, kind, count), timed(both.bare, kind, count),
                        target=target, at_least=False,
                    )  # fmt: skip
                    results.append(await asyncio.to_thread(compare, pair, PAIRS))
                if count == 1:
                    alone = list(both.first_step_seconds)
            assert both.aggregator._node is not None
            deployed = Deployed(both.aggregator._node.server, folder)
            await deployed.deploy()

            def process_of(side: Callable[[str], Awaitable[float]], kind: str) -> Callable[[], float]:
                async def once() -> float:
                    return await side(kind)

                return lambda: asyncio.run_coroutine_threadsafe(once(), loop).result()

            for kind in ("async", "sync", "backtest"):
                if only in (name := f"through a deployment, {kind} objective"):
                    pair = Pair(
                        name, process_of(deployed.ours, kind), process_of(deployed.bare, kind),
                        target=1.25, at_least=False,
                    )  # fmt: skip
                    results.append(await asyncio.to_thread(compare, pair, PROCESSES))
            for name, seconds in deployed.processor_seconds.items():
                if seconds:
                    note(f"processor time of a deployment's run, {name}", _milliseconds(seconds))
            print()
            if alone:
                note("from submitting to the first step's commit", _milliseconds(alone))
            note("start of the aggregator, the first ever", f"{first:.1f} s")
            note("start of the aggregator, later", f"{later:.1f} s")
            return results

    return asyncio.run(main())


def imports() -> None:
    """Time of whole new processes, medians."""
    commands = {
        "python -c pass": [sys.executable, "-c", "pass"],
        "import prefect": [sys.executable, "-c", "import prefect"],
        "from OptimizationStateAggregator import …": [
            sys.executable, "-c", "from OptimizationStateAggregator import OptimizationStateAggregator",
        ],
        "o9 --help": [str(Path(sys.executable).with_name("o9")), "--help"],
    }  # fmt: skip
    for name, command in commands.items():
        took = []
        for _ in range(PAIRS):
            began = time.perf_counter()
            subprocess.run(command, stdout=subprocess.DEVNULL, check=True)
            took.append(time.perf_counter() - began)
        note(name, _milliseconds(took))


def _milliseconds(seconds: list[float]) -> str:
    return f"{statistics.median(seconds) * 1000:,.0f} ms"


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--only", default="")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="o9-benchmark-") as folder:
        # Both are read when Prefect is imported: a new home with a server of its own, and its logs out of the table.
        os.environ |= {"PREFECT_HOME": f"{folder}/prefect", "PREFECT_LOGGING_LEVEL": "WARNING"}
        logging.getLogger("o9").setLevel(logging.WARNING)
        results = run(folder, options.only)
        if not options.only:
            imports()
    verdict(results)


if __name__ == "__main__":
    main()
