"""The cost of reads, a claim and memory at 1,000 and at 1,000,000 optimizations.

`python benchmarks/scale.py [--large N]` builds two SQLite stores, measures each thing in both in turn, and ends. The
rows are loaded in bulk by SQL, into the store's own schema, with correct counters: every row is complete, types and
statuses are mixed, and most have ended. The memory is that of an idle aggregator process, without its Prefect server;
`--no-prefect` measures an open store with its heartbeat instead. Two more stores contain only queued optimizations, to
claim one of many and one of a thousand (`--queue` measures only that). Figures are milliseconds; the ratio is large
over small.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import sqlite3
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Iterator
from datetime import UTC, datetime, timedelta
from functools import partial
from pathlib import Path
from typing import Any

import psutil
from measure import ROUNDS, Pair, Result, compare, heading, note, verdict

from o9.api.health import store_health
from o9.model.optimization import OptimizationState
from o9.model.states import OptimizationPriority, OptimizationStatus, OptimizationType
from o9.store import queries
from o9.store.optimizations.transitions import Cause, Create, Transition
from o9.store.queue.claims import AbandonClaim, Claim, Heartbeat
from o9.store.queue.policies import SetPolicy
from o9.store.store import Store

SMALL, LARGE = 1_000, 1_000_000
BEGAN = datetime(2026, 1, 1, tzinfo=UTC)
# Of twenty: most have ended, a few are queued, one runs, one is paused.
STATUSES = ("completed",) * 13 + ("failed", "failed", "cancelled", "created", "created", "running", "paused")
RARE = OptimizationType.RISK_OPTIMIZATION
RARE_COUNT = 400  # the oldest ones, in both stores: a page of them lies at the far end
NEVER = OptimizationType.PARAMETER_TUNING
TYPES = tuple(kind.value for kind in OptimizationType if kind is not RARE)


def build(path: str, count: int, statuses: tuple[str, ...] = STATUSES) -> None:
    """Build a store of `count` optimizations: the store creates one, and the others are copies of it."""
    with Store(path) as store:
        store.write(Create(_first()))
    connection = sqlite3.connect(path, isolation_level=None)
    connection.row_factory = sqlite3.Row
    pattern = dict(connection.execute("SELECT * FROM optimization").fetchone())
    names = list(pattern)
    connection.execute("PRAGMA synchronous=OFF")  # while it is being built; the setting is not kept in the file
    connection.execute("BEGIN")
    connection.executemany(
        f"INSERT INTO optimization ({', '.join(names)}) VALUES ({', '.join('?' * len(names))})",
        (tuple(row[name] for name in names) for row in _rows(pattern, count, statuses)),
    )
    counts = Counter((_type(n), "default", statuses[n % len(statuses)]) for n in range(1, count))
    connection.execute("DELETE FROM status_counter")
    counts[pattern["optimization_type"], "default", "created"] += 1
    connection.executemany("INSERT INTO status_counter VALUES (?, ?, ?, ?)", [(*key, n) for key, n in counts.items()])
    connection.execute("COMMIT")
    connection.execute("PRAGMA wal_checkpoint(TRUNCATE)")
    connection.close()


def _first() -> OptimizationState:
    return OptimizationState(
        "optimization-0000000", "momentum search", "", OptimizationType.PARAMETER_TUNING, OptimizationStatus.CREATED,
        OptimizationPriority.NORMAL, BEGAN, BEGAN, total_steps=20, parameters={"fee": 0.001},
        metadata={"objective": "branin", "sampler": "tpe", "seed": 1, "trials_per_step": 4},
    )  # fmt: skip


def _rows(pattern: dict[str, Any], count: int, statuses: tuple[str, ...]) -> Iterator[dict[str, Any]]:
    results = json.dumps({"best_value": 1.5, "best_parameters": {"fast": 12, "slow": 60}, "best_trial": 40})
    for n in range(1, count):
        status, at = statuses[n % len(statuses)], (BEGAN + timedelta(seconds=n)).isoformat(timespec="microseconds")
        began = status != "created"
        ended = status in ("completed", "failed", "cancelled")
        yield pattern | {
            "optimization_id": f"optimization-{n:07d}", "optimization_type": _type(n), "status": status,
            "priority": 1 + n % 4, "created_at": at, "updated_at": at, "content_hash": f"{n:032x}",
            "queue_key": BEGAN.timestamp() + n, "started_at": at if began else None,
            "completed_at": at if ended else None, "running_since": at if status == "running" else None,
            "results": results if ended else "{}", "attempt": int(began), "fence": int(began), "version": 3 * began,
        }  # fmt: skip


def _type(number: int) -> str:
    return RARE.value if number <= RARE_COUNT else TYPES[number % len(TYPES)]


def repeated(act: Callable[[], Any], times: int) -> float:
    """Seconds of one call, over `times` of them."""
    began = time.perf_counter()
    for _ in range(times):
        act()
    return (time.perf_counter() - began) / times


def reads(store: Store, count: int) -> dict[str, Callable[[], float]]:
    """The calls to measure on one store of `count` optimizations."""
    middle = count // 2
    cursor = _cursor_behind(store, middle)
    claim, completed = Claim("node", 1_000_000, 60.0), OptimizationStatus.COMPLETED

    def claimed() -> None:
        taken = store.write(claim)
        assert taken is not None
        store.write(AbandonClaim(taken.optimization_id, taken.fence, "node"))

    return {
        "get": partial(repeated, lambda: store.read(queries.get, f"optimization-{middle:07d}"), 50),
        "list, first page of 100": partial(repeated, lambda: store.read(queries.page, limit=100), 5),
        "list, by status": partial(
            repeated, lambda: store.read(queries.page, queries.Filter(status=completed), limit=100), 5
        ),
        "list, by status, from the middle": partial(
            repeated, lambda: store.read(queries.page, queries.Filter(status=completed), limit=100, cursor=cursor), 5
        ),
        "list, by type": partial(
            repeated,
            lambda: store.read(
                queries.page, queries.Filter(optimization_type=OptimizationType.PARAMETER_TUNING), limit=100
            ),
            5,
        ),
        "list, by a type that is rare": partial(
            repeated, lambda: store.read(queries.page, queries.Filter(optimization_type=RARE), limit=100), 5
        ),
        # Nothing of this type is running: finding the empty page must not cost a read of all.
        "list, by status and type that never meet": partial(
            repeated,
            lambda: store.read(
                queries.page, queries.Filter(status=OptimizationStatus.RUNNING, optimization_type=NEVER), limit=100
            ),
            5,
        ),
        "list, from the middle": partial(repeated, lambda: store.read(queries.page, limit=100, cursor=cursor), 5),
        "global counts": partial(repeated, partial(store.read, queries.counts), 50),
        "what `/health` reads": partial(repeated, lambda: store_health(store), 20),
        "claim the first of the queue, and give it back": partial(repeated, claimed, 20),
    }


def claims(store: Store) -> dict[str, Callable[[], float]]:
    """Ways to claim from a queue with limits."""
    store.write(Heartbeat("node", "host", os.getpid(), 0.0, 3600.0, {"limit": 1_000}))
    for name in ("all", "default", NEVER.value):
        store.write(SetPolicy(name, {"max_concurrent_optimizations": 500}))

    def given_back(optimization_id: str | None = None) -> None:
        taken = store.write(Claim("node", None, 3600.0, optimization_id))
        assert taken is not None
        store.write(AbandonClaim(taken.optimization_id, taken.fence, "node"))

    def ended() -> None:
        taken = store.write(Claim("node", None, 3600.0))
        assert taken is not None
        store.write(Transition(taken.optimization_id, OptimizationStatus.CANCELLED, Cause.PERSON))

    return {
        "claim the first of the queue, give it back": partial(repeated, given_back, 50),
        "claim one by its id, give it back": partial(repeated, lambda: given_back("optimization-0000500"), 50),
        "claim the first of the queue, end it": partial(repeated, ended, 10),
    }


def _cursor_behind(store: Store, number: int) -> str:
    """A cursor in the middle: the `next_cursor` of a page that ends there."""
    from o9.store.core.reading import write_cursor

    at = (BEGAN + timedelta(seconds=number)).isoformat(timespec="microseconds")
    return write_cursor(at, f"optimization-{number:07d}")


def resident_mebibytes(path: str, prefect: bool) -> float:
    """The memory of another process, two seconds after its start."""
    command = [sys.executable, __file__, "--idle", path, *([] if prefect else ["--no-prefect"])]
    done = subprocess.run(command, capture_output=True, text=True, timeout=180, check=True)
    return float(done.stdout.split()[-1])


async def idle(path: str, prefect: bool) -> None:
    """The process whose memory is measured."""
    if prefect:
        from OptimizationStateAggregator import OptimizationStateAggregator

        # Start nothing: the queued optimizations have no real objective.
        aggregator = OptimizationStateAggregator(max_concurrent_optimizations=1, storage_path=path)
        await aggregator.initialize()
        await asyncio.to_thread(_occupy, path)
        await aggregator.start()
        await asyncio.sleep(2.0)
        print(psutil.Process(os.getpid()).memory_info().rss / 2**20, flush=True)
        await aggregator.cleanup()
        return
    from o9.lifecycle.heartbeat import NodeHeartbeat

    with Store(path) as store:
        heartbeat = NodeHeartbeat(store, "idle", 30.0)
        heartbeat.start()
        await asyncio.sleep(2.0)
        print(psutil.Process(os.getpid()).memory_info().rss / 2**20, flush=True)
        heartbeat.stop()


def _occupy(path: str) -> None:
    """Take the only slot, so that the aggregator has nothing to do."""
    with Store(path) as store:
        store.write(Claim("elsewhere", 1_000_000, 3600.0))


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--large", type=int, default=LARGE)
    parser.add_argument("--no-prefect", action="store_true")
    parser.add_argument("--queue", action="store_true", help="only the stores of queued optimizations")
    parser.add_argument("--idle", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.idle:
        asyncio.run(idle(options.idle, not options.no_prefect))
        return
    results = [] if options.queue else everything(options.large, prefect=not options.no_prefect)
    verdict(results + queue(options.large))


def everything(count: int, *, prefect: bool) -> list[Result]:
    """Reads, a claim and memory, on stores of all statuses."""
    with tempfile.TemporaryDirectory(prefix="o9-benchmark-") as folder:
        os.environ.setdefault("PREFECT_HOME", str(Path(folder) / "prefect"))
        small, large = stores(folder, count, STATUSES)
        with Store(small) as one, Store(large) as other:
            results = in_turn(reads(other, count), reads(one, SMALL))
        weigh(large, small, prefect=prefect)
    return results


def queue(count: int) -> list[Result]:
    """Claims, on stores of queued optimizations."""
    with tempfile.TemporaryDirectory(prefix="o9-benchmark-") as folder:
        small, large = stores(folder, count, ("created",))
        with Store(small) as one, Store(large) as other:
            return in_turn(claims(other), claims(one))


def stores(folder: str, count: int, statuses: tuple[str, ...]) -> tuple[str, str]:
    """Build both, and open the table."""
    small, large = f"{folder}/small.db", f"{folder}/large.db"
    began = time.perf_counter()
    build(small, SMALL, statuses)
    build(large, count, statuses)
    size = Path(large).stat().st_size / 2**20
    print(f"\nbuilt in {time.perf_counter() - began:.0f} s; the large store has {size:,.0f} MiB")
    what = "optimizations" if statuses is STATUSES else "queued"
    heading(f"{count:,} {what} against {SMALL:,}", "large", "small")
    return small, large


def in_turn(many: dict[str, Callable[[], float]], few: dict[str, Callable[[], float]]) -> list[Result]:
    return [compare(Pair(name, many[name], few[name], target=1.5, at_least=False), rounds=3 * ROUNDS) for name in few]


def weigh(large: str, small: str, prefect: bool) -> None:
    """Print the memory at both sizes, the median of three processes each."""
    weights = {path: [resident_mebibytes(path, prefect) for _ in range(3)] for path in (large, small)}
    what = "an idle aggregator" if prefect else "an open store with its heartbeat"
    few, many = (sorted(weights[path])[1] for path in (small, large))
    note(f"memory of {what}, large", f"{many:,.1f} MiB")
    note(f"memory of {what}, small", f"{few:,.1f} MiB")
    print(f"the difference is {many - few:+.1f} MiB")


if __name__ == "__main__":
    main()
