"""The cost of statistics over all optimizations, and of a health check of one, at two sizes.

`python benchmarks/statistics.py [--large N] [--trials N]`: 1,000 against 100,000, or against 1,000,000 for the figures
in docs/performance.md, with ten trials each, all of one family. `scale.py` builds the two SQLite stores; this adds ends
over the last 90 days, rollups, rankings of six metrics, trials, and the family's counts. The first trials of the family
have returns, as many as a check reads. The store's own code counts the rollups from the record, and the results are
checked.
"""

from __future__ import annotations

import argparse
import asyncio
import os
import sqlite3
import tempfile
import time
from collections.abc import Callable, Coroutine
from datetime import UTC, datetime, timedelta
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from measure import ROUNDS, Pair, compare, heading, note, verdict
from scale import SMALL, build, repeated

from o9.health.checker import OptimizationHealthChecker
from o9.statistics.maintenance import maintain_rollups
from o9.statistics.statistics import OptimizationStatistics
from o9.store import queries
from o9.store.statistics.families import FAMILY_SERIES
from o9.store.statistics.rankings import STATE_FIGURES
from o9.store.statistics.rollups import Key, Sums, keys_of
from o9.store.store import Store

LARGE = 100_000
FAMILY, PERIODS = "momentum", 250
WITH_RETURNS = "optimization-0000600"  # those before it
ONE = "optimization-0000500"
SPREAD_SECONDS = 90 * 86_400
RANKED = ("current_performance", "performance_improvement", "execution_time", "completed_steps", "sharpe", "turnover")


def finish(path: str, trials: int) -> None:
    """Add ends, trials, rollups and rankings to a store of `scale.build`."""
    now = datetime.now(UTC)
    connection = sqlite3.connect(path, isolation_level=None)
    connection.row_factory = sqlite3.Row
    connection.create_function("ended_at", 1, partial(_ended_at, now), deterministic=True)
    connection.execute("PRAGMA synchronous=OFF")
    connection.execute("BEGIN")
    connection.execute(
        "UPDATE optimization SET completed_at = CASE WHEN completed_at IS NULL THEN NULL ELSE ended_at(rowid) END, "
        "execution_time = 1 + rowid * 7919 % 100003 / 7.0, current_performance = (rowid * 104729 % 1000003) / 1e6, "
        "performance_improvement = (rowid * 15485863 % 1000003) / 1e6 - 0.3, completed_steps = 20, "
        "waited_seconds = rowid * 31 % 977"
    )
    for metric in RANKED:
        direction = STATE_FIGURES.get(metric) or "maximize"
        value = metric if metric in STATE_FIGURES else f"(rowid * {len(metric) * 1299709} % 1000003) / 1e5"
        connection.execute(
            f"INSERT INTO ranking SELECT optimization_id, '{metric}', '{direction}', {value} FROM optimization "
            "WHERE completed_at IS NOT NULL ORDER BY optimization_id"
        )
    connection.execute(
        "INSERT INTO transition (optimization_id, to_status, cause, message, node, attempt, at) "
        "SELECT optimization_id, status, 'hook', '', '', 1, created_at FROM optimization WHERE completed_at IS NULL"
    )
    connection.execute(
        "INSERT INTO priority_counter SELECT priority, count(*) FROM optimization GROUP BY priority "
        "ON CONFLICT (priority) DO UPDATE SET count = excluded.count"
    )
    if trials:
        connection.execute(
            "WITH RECURSIVE n(i) AS (SELECT 0 UNION ALL SELECT i + 1 FROM n WHERE i < ?) INSERT INTO trial "
            "(optimization_id, number, step, attempt, state, parameters, value, metrics, duration_seconds, family) "
            "SELECT optimization_id, i, i, 1, 'completed', '{\"fast\":' || i || '}', i * 0.1, '{}', 0.1, ? "
            "FROM optimization, n WHERE true ORDER BY optimization_id, i",
            (trials - 1, FAMILY),
        )
        connection.create_function("returns_of", 2, _returns, deterministic=True)
        connection.execute(
            "INSERT INTO trial_returns (optimization_id, number, periods_per_year, data) "
            "SELECT optimization_id, number, 252, returns_of(optimization_id, number) FROM trial "
            "WHERE optimization_id < ?",
            (WITH_RETURNS,),
        )
        connection.execute("UPDATE optimization SET family = ?", (FAMILY,))
        connection.execute(
            "INSERT INTO family_counter SELECT family, state, count(*), 0, 0, 0, 0 FROM trial GROUP BY family, state"
        )
    sums: dict[Key, Sums] = {}
    for row in connection.execute("SELECT * FROM optimization WHERE completed_at IS NOT NULL"):
        for key in keys_of(row, row["status"]):
            sums.setdefault(key, Sums()).add_ended(row)
    rows = [{**key._asdict(), **each.as_row()} for key, each in sums.items()]
    names = ", ".join(rows[0])
    connection.executemany(
        f"INSERT INTO rollup ({names}) VALUES ({', '.join('?' * len(rows[0]))})", [tuple(row.values()) for row in rows]
    )
    connection.execute("COMMIT")
    connection.execute("PRAGMA wal_checkpoint(TRUNCATE)")
    connection.close()


def _ended_at(now: datetime, row: int) -> str:
    return (now - timedelta(seconds=row * 7919 % SPREAD_SECONDS)).isoformat(timespec="microseconds")


def _returns(name: str, number: int) -> bytes:
    drawn = np.random.default_rng([int(name[-7:]), number]).normal(0.0, 0.01, PERIODS)
    return bytes(drawn.astype("<f8").tobytes())


def judging(store: Store, loop: asyncio.AbstractEventLoop, one: str) -> dict[str, Callable[[], float]]:
    """The calls to measure for one optimization and its family."""
    check = OptimizationHealthChecker(store=store).check_optimization_health
    return {
        "what was ever tried in a family": partial(repeated, lambda: store.read(queries.family_trials, FAMILY, one), 5),
        "health check of one": partial(repeated, lambda: loop.run_until_complete(check(one)), 1),
    }


def answers(store: Store, loop: asyncio.AbstractEventLoop) -> dict[str, Callable[[], float]]:
    """The calls to measure on one store."""
    statistics = OptimizationStatistics(store=store)

    def timed(times: int, ask: Callable[[], Coroutine[Any, Any, Any]]) -> Callable[[], float]:
        return partial(repeated, lambda: loop.run_until_complete(ask()), times)

    ranking, one = statistics.get_optimization_rankings, ONE
    return {
        "global statistics": timed(5, statistics.get_global_statistics),
        "trends, 7 days": timed(5, statistics.get_performance_trends),
        "trends, 1 day by hour": timed(5, lambda: statistics.get_performance_trends(timedelta(days=1))),
        "trends, 90 days": timed(3, lambda: statistics.get_performance_trends(timedelta(days=90))),
        "ranking by performance_improvement, 10": timed(10, lambda: ranking("performance_improvement")),
        "ranking by execution_time, 100": timed(5, lambda: ranking("execution_time", 100)),
        "ranking by a recorded metric, 10": timed(10, lambda: ranking("sharpe")),
        "ranking where all are tied, 10": timed(10, lambda: ranking("completed_steps")),
        "a metric that nothing has": timed(10, partial(_refused, statistics)),
        "statistics of one": timed(10, lambda: statistics.get_optimization_statistics(one)),
        "history of one": timed(10, lambda: statistics.get_optimization_history(one)),
    }


async def _refused(statistics: OptimizationStatistics) -> None:
    try:
        await statistics.get_optimization_rankings("sharp")
    except ValueError:
        return
    raise AssertionError("it was ranked")


def check(store: Store, count: int, trials: int, loop: asyncio.AbstractEventLoop) -> None:
    """Check that the measured results are correct."""
    found = loop.run_until_complete(OptimizationStatistics(store=store).get_global_statistics())
    assert found["total_optimizations"] == sum(found["by_priority"].values()) == count
    ended = sum(found["by_status"].get(status, 0) for status in ("completed", "failed", "cancelled", "timeout"))
    assert sum(each["count"] for each in found["ended"]["type"].values()) == ended
    tried = store.read(queries.family_trials, FAMILY, ONE)
    assert (tried.counts, len(tried.returns)) == ({"completed": count * trials}, FAMILY_SERIES)


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--large", type=int, default=LARGE, help="1000000 needs 5 GiB and a quarter of an hour")
    parser.add_argument("--trials", type=int, default=10, help="of each optimization")
    options = parser.parse_args()
    loop = asyncio.new_event_loop()
    with tempfile.TemporaryDirectory(prefix="o9-benchmark-") as folder:
        os.environ.setdefault("PREFECT_HOME", str(Path(folder) / "prefect"))
        small, large = f"{folder}/small.db", f"{folder}/large.db"
        began = time.perf_counter()
        for path, count in ((small, SMALL), (large, options.large)):
            build(path, count)
            finish(path, options.trials)
        size = Path(large).stat().st_size / 2**20
        print(f"\nbuilt in {time.perf_counter() - began:.0f} s; the large store has {size:,.0f} MiB")
        heading(f"{options.large:,} optimizations against {SMALL:,}", "large", "small")
        with Store(small) as one, Store(large) as other:
            check(one, SMALL, options.trials, loop)
            check(other, options.large, options.trials, loop)
            few, many = answers(one, loop), answers(other, loop)
            results = [
                compare(Pair(name, many[name], few[name], target=1.5, at_least=False), rounds=3 * ROUNDS)
                for name in few
            ]
            few, many = judging(one, loop, ONE), judging(other, loop, ONE)
            results += [compare(Pair(name, many[name], few[name], target=1.5, at_least=False), 5) for name in few]
            for name, store in (("small", one), ("large", other)):
                began = time.perf_counter()
                maintenance = loop.run_until_complete(maintain_rollups(store, datetime.now(UTC)))
                windows = store.read(queries.windows, "day", maintenance.days[0], "9999")
                ended = sum(row["count"] for row in windows)
                note(f"compute_statistics, {name}", f"{time.perf_counter() - began:,.2f} s")
                mended = len(maintenance.corrections)
                print(f"{maintenance.windows} windows, {ended:,} ends in {len(maintenance.days)} days, {mended} mended")
    loop.close()
    verdict(results)


if __name__ == "__main__":
    main()
