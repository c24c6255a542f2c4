"""The memory of an aggregator that runs thousands of short optimizations. `python benchmarks/soak.py --count 3000`

Every other one has an async objective and is evaluated in the aggregator's process, the others are evaluated in child
processes; some fail. At each thousand that has ended: memory, descriptors and threads of the aggregator's process, its
children, the memory of Prefect's local server, and the size of both databases. Memory is level if the last thousand
added less than a tenth of what the first one did; otherwise the exit code is 1.
"""

from __future__ import annotations

import argparse
import asyncio
import gc
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

from o9.store import queries

sys.path.insert(0, str(Path(__file__).parents[1] / "tests" / "support"))

import o9_testing  # gives this run its own Prefect home
import psutil

AT_ONCE = 8
IN_QUEUE = 100
SPACE = {"x": {"type": "float", "low": -5.0, "high": 5.0}}


async def quick(parameters: dict[str, Any]) -> float:
    if parameters["x"] > 4.5:
        raise ValueError("no data")
    return float(-(parameters["x"] ** 2))


def quick_sync(parameters: dict[str, Any]) -> float:
    return float(-(parameters["x"] ** 2))


def sample(ended: int, seconds: float, folder: Path) -> dict[str, float]:
    gc.collect()
    me = psutil.Process()
    return {
        "ended": ended,
        "a second": ended / seconds,
        "MiB": me.memory_info().rss / 2**20,
        "descriptors": me.num_fds(),
        "threads": me.num_threads(),
        "children": len(me.children(recursive=True)),
        "server MiB": sum(process.memory_info().rss for process in servers()) / 2**20,
        "store MiB": size(folder, "store.db*"),
        "Prefect MiB": size(o9_testing.HOME / "prefect", "prefect.db*"),
    }


def servers() -> list[psutil.Process]:
    """Prefect's local server of this run."""
    home = str(o9_testing.HOME)
    return [one for one in psutil.process_iter(["cmdline"]) if home in " ".join(one.info["cmdline"] or [])]


def size(folder: Path, pattern: str) -> float:
    return sum(path.stat().st_size for path in folder.glob(pattern)) / 2**20


async def soak(count: int, folder: Path, every: int) -> list[dict[str, float]]:
    from o9.strategies.registry import objective
    from OptimizationStateAggregator import OptimizationStateAggregator

    objective("soak_async", direction="maximize", search_space=SPACE)(quick)
    objective("soak_sync", direction="maximize", search_space=SPACE)(quick_sync)
    samples: list[dict[str, float]] = []
    async with OptimizationStateAggregator(AT_ONCE, storage_path=str(folder / "store.db")) as aggregator:
        began, submitted = time.monotonic(), 0
        while True:
            ended = sum(
                row["count"] for row in aggregator.store.read(queries.counts) if row["status"] in o9_testing.ENDED
            )
            while submitted < min(count, ended + IN_QUEUE):
                kind = "soak_sync" if submitted % 2 else "soak_async"
                await aggregator.submit_optimization(
                    o9_testing.new(f"soak-{submitted}", total_steps=2, metadata={"objective": kind, "seed": submitted})
                )
                submitted += 1
            if ended >= every * (len(samples) + 1) or ended == count:
                samples.append(sample(ended, time.monotonic() - began, folder))
                print("  ".join(f"{value:11.1f}" for value in samples[-1].values()), flush=True)
            if ended == count:
                return samples
            await asyncio.sleep(0.5)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--count", type=int, default=3000)
    parser.add_argument("--every", type=int, default=1000, help="print a line after this number of optimizations")
    asked = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="o9-soak-") as folder:
        print("  ".join(f"{name:>11}" for name in (
            "ended", "a second", "MiB", "descriptors", "threads", "children", "server MiB", "store MiB", "Prefect MiB",
        )))  # fmt: skip
        samples = asyncio.run(soak(asked.count, Path(folder), asked.every))
    first, last = samples[0], samples[-1]
    level = {
        "MiB": last["MiB"] - samples[-2]["MiB"] < first["MiB"] / 10,
        "descriptors": last["descriptors"] <= first["descriptors"] + 8,
        "threads": last["threads"] <= first["threads"] + 8,
    }  # fmt: skip
    print(", ".join(f"{name} {'level' if good else 'GROWS'}" for name, good in level.items()))
    return 0 if all(level.values()) else 1


if __name__ == "__main__":
    sys.exit(main())
