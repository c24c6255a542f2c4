"""The speed of pruning, and its cost for concurrent writers.

`python benchmarks/pruning.py [--optimizations N]` builds two SQLite stores: one with many small optimizations (of 20
steps, 100 trials with a year of daily returns each), one with a single large one of half as many trials. Each is pruned
to the end while another process writes one row at a time. The table compares the latency of these writes with that
without pruning.
"""

from __future__ import annotations

import argparse
import asyncio
import multiprocessing
import sqlite3
import statistics
import sys
import tempfile
import time
from multiprocessing.queues import Queue
from multiprocessing.synchronize import Event
from pathlib import Path

from measure import machine, note

from o9.health.statistics.pruned import sharpe_ratios_of
from o9.lifecycle.retention import prune
from o9.model.optimization import utc_now
from o9.model.states import OptimizationStatus
from o9.store.core.column_types import moment
from o9.store.optimizations.commit_step import Amend, CommitStep
from o9.store.optimizations.pruning import owned
from o9.store.optimizations.transitions import Cause, Transition
from o9.store.store import Store

sys.path.insert(0, str(Path(__file__).parents[1] / "tests" / "store_contract"))

from contract_steps import at_work, trial

STEPS, A_STEP, PERIODS = 20, 5, 252
PAUSE_SECONDS = 0.002
ALONE_SECONDS = 5.0


def build(path: str, copies: int, steps: int, a_step: int) -> None:
    """Create one optimization by the store, and `copies` of it by SQL."""
    returns = tuple(0.001 * (n * 7919 % 101 - 50) for n in range(PERIODS))
    with Store(path) as store:
        fence = at_work(store, "o", total_steps=steps).fence
        for step in range(steps):
            numbers = range(step * a_step, (step + 1) * a_step)
            trials = [trial(n, step=step, family="f", returns=returns, periods_per_year=252.0) for n in numbers]
            store.write(CommitStep("o", fence, step, trials, {"drawn": list(range(200))}, {"best": 1.0}))
        store.write(Transition("o", OptimizationStatus.COMPLETED, Cause.HOOK))
        at_work(store, "runs")
    with sqlite3.connect(path) as direct:
        direct.execute("PRAGMA synchronous=OFF")
        for table in ("optimization", *(table.name for table in owned())):
            columns = [row[1] for row in direct.execute(f"PRAGMA table_info({table})") if row[1] != "id"]
            copied = ("'o' || i" if name == "optimization_id" else name for name in columns)
            direct.execute(
                "WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n WHERE i < ?) "
                f"INSERT INTO {table} ({', '.join(columns)}) SELECT {', '.join(copied)} FROM n, {table} "
                "WHERE ? AND optimization_id = 'o'",
                (copies, copies > 0),
            )
        direct.execute("UPDATE status_counter SET count = count + ? WHERE status = 'completed'", (copies,))
        direct.execute("UPDATE priority_counter SET count = count + ?", (copies,))
        direct.execute("UPDATE family_counter SET count = count * ?", (copies + 1,))


def write(path: str, over: Event, into: Queue[list[float]]) -> None:
    """In another process: consecutive writes, and the seconds of each."""
    took: list[float] = []
    with Store(path) as store:
        while not over.is_set():
            began = time.perf_counter()
            store.write(Amend("runs", {"progress": len(took) % 100 / 100}))
            took.append(time.perf_counter() - began)
            time.sleep(PAUSE_SECONDS)
    into.put(took)


class Writer:
    """Write while the block runs; `waited` is set afterwards."""

    def __init__(self, path: str) -> None:
        self._into: Queue[list[float]]
        self._over, self._into = multiprocessing.Event(), multiprocessing.Queue()
        self._process = multiprocessing.Process(target=write, args=(path, self._over, self._into))
        self.waited: list[float] = []

    def __enter__(self) -> Writer:
        self._process.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._over.set()
        self.waited = sorted(self._into.get())
        self._process.join()


def shown(waited: list[float]) -> str:
    figures = statistics.median(waited), waited[int(0.99 * len(waited))], waited[-1]
    return "{:.2f} / {:.0f} / {:.0f} ms".format(*(1000 * seconds for seconds in figures))


def measure(name: str, path: str) -> None:
    print(f"\n{name}, {Path(path).stat().st_size / 2**20:,.0f} MiB")
    with Writer(path) as alone:
        time.sleep(ALONE_SECONDS)
    note("a write alone: median / 99 % / longest", shown(alone.waited))
    with Store(path) as store, Writer(path) as beside:
        began, before = time.perf_counter(), moment(utc_now())
        removed = asyncio.run(prune(store, before, sharpe_ratios_of))
        seconds = time.perf_counter() - began
    note("a write beside the prune", shown(beside.waited))
    note("its longest transaction, and its wait", f"{1000 * removed.longest_seconds:.0f} ms")
    note("pruned", f"{removed.optimizations:,} in {seconds:.1f} s, {removed.rows / seconds:,.0f} rows a second")


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--optimizations", type=int, default=500)
    many = parser.parse_args().optimizations
    with tempfile.TemporaryDirectory(prefix="o9-benchmark-") as folder:
        small, large = f"{folder}/small.db", f"{folder}/large.db"
        build(small, many, STEPS, A_STEP)
        measure(f"{many:,} optimizations of {STEPS * A_STEP} trials", small)
        build(large, 0, STEPS, many * A_STEP // 2)
        measure(f"one optimization of {STEPS * (many * A_STEP // 2):,} trials", large)
    print(f"\n{machine()}.")


if __name__ == "__main__":
    main()
