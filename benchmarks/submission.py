"""Optimizations submitted a second. `python benchmarks/submission.py`

O9's side: `submit`, as the aggregator, the command line and the API call it: it is validated, gets a seed, is
durably recorded and queued. Yardsticks: the raw driver, which writes the same rows, prepared from a store that
O9 filled, into the same schema, in transactions of one or of 50, and checks nothing; and Optuna, which creates a study
in its SQLite storage and enqueues a trial.
`--only WORD` runs the lines whose name contains it.
"""

from __future__ import annotations

import argparse
import asyncio
import itertools
import shutil
import sqlite3
import tempfile
import time
from collections.abc import Callable
from contextlib import closing
from datetime import UTC, datetime
from functools import partial
from pathlib import Path

import optuna
from measure import Pair, compare, heading, verdict

from o9.lifecycle.submission import submit
from o9.model.optimization import OptimizationState
from o9.model.states import OptimizationPriority, OptimizationStatus, OptimizationType
from o9.store.store import Store

COUNT = 500
STUDIES = 10  # Optuna gets fewer, being slow
AT_ONCE = 50
SPACE = {"x": {"type": "float", "low": -5.0, "high": 10.0}, "y": {"type": "float", "low": 0.0, "high": 15.0}}
Row = tuple[object, ...]
numbers = itertools.count()


def new() -> OptimizationState:
    name, now = f"optimization-{next(numbers):07d}", datetime.now(UTC)
    metadata = {"objective": "branin", "sampler": "tpe", "seed": 3, "search_space": SPACE}
    return OptimizationState(
        name, name, "", OptimizationType.PARAMETER_TUNING, OptimizationStatus.CREATED, OptimizationPriority.NORMAL,
        now, now, total_steps=20, metadata=metadata,
    )  # fmt: skip


def through_o9(store: Store, at_once: int) -> float:
    states = [new() for _ in range(COUNT)]

    async def run() -> float:
        began = time.perf_counter()
        for first in range(0, COUNT, at_once):
            await asyncio.gather(*(submit(store, state) for state in states[first : first + at_once]))
        return time.perf_counter() - began

    return asyncio.run(run())


class Raw:
    """Writes the rows of the store at `path`, COUNT optimizations by O9, again, into copies of `empty`."""

    def __init__(self, empty: Path, path: Path) -> None:
        self._empty = empty
        self._copy = path.with_name("raw.db")
        with closing(sqlite3.connect(path)) as connection:
            tables = [name for (name,) in connection.execute("SELECT name FROM sqlite_master WHERE type = 'table'")]
            found = {name: connection.execute(f"SELECT * FROM {name}").fetchall() for name in tables}
        # One row for each optimization; of counters there is one for all.
        self._rows: dict[str, list[Row]] = {name: rows for name, rows in found.items() if len(rows) >= COUNT}
        self._counters = [name for name, rows in found.items() if name.endswith("_counter") and rows]

    def run(self, at_once: int) -> float:
        shutil.copyfile(self._empty, self._copy)
        with closing(sqlite3.connect(self._copy, isolation_level=None)) as connection:
            connection.execute("PRAGMA journal_mode=WAL")
            connection.execute("PRAGMA synchronous=NORMAL")
            cursor = connection.cursor()
            inserts = [
                (f"INSERT INTO {name} VALUES ({', '.join('?' for _ in rows[0])})", rows)
                for name, rows in self._rows.items()
            ]
            updates = [f"UPDATE {name} SET count = count + {at_once}" for name in self._counters]
            began = time.perf_counter()
            for first in range(0, COUNT, at_once):
                cursor.execute("BEGIN IMMEDIATE")
                for text, rows in inserts:
                    cursor.executemany(text, rows[first : first + at_once])
                for text in updates:
                    cursor.execute(text)
                cursor.execute("COMMIT")
            return time.perf_counter() - began


def through_optuna(storage: optuna.storages.RDBStorage) -> float:
    """The seconds for COUNT studies at the rate of STUDIES."""
    began = time.perf_counter()
    for _ in range(STUDIES):
        sampler = optuna.samplers.TPESampler(seed=3)
        study = optuna.create_study(storage=storage, sampler=sampler, study_name=f"study-{next(numbers)}")
        study.enqueue_trial({"x": 0.0, "y": 0.0})
    return (time.perf_counter() - began) * COUNT / STUDIES


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--only", default="")
    only = parser.parse_args().only
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    with tempfile.TemporaryDirectory(prefix="o9-benchmark-") as name:
        folder = Path(name)
        for each in ("empty.db", "filled.db"):
            with Store(str(folder / each)) as store:
                if each == "filled.db":
                    through_o9(store, AT_ONCE)
        raw = Raw(folder / "empty.db", folder / "filled.db")
        storage = optuna.storages.RDBStorage(f"sqlite:///{folder}/optuna.db")
        yardsticks: list[tuple[str, Callable[[int], float], float | None]] = [
            ("the raw driver", raw.run, None), ("Optuna on SQLite", lambda _: through_optuna(storage), 20.0),
        ]  # fmt: skip
        heading("Submissions a second", "o9", "yardstick")
        results = []
        with Store(str(folder / "o9.db")) as store:
            for (yardstick, theirs, target), at_once in itertools.product(yardsticks, (1, AT_ONCE)):
                called = f"{'one at a time' if at_once == 1 else f'{at_once} at once'}; {yardstick}"
                if only in called:
                    pair = Pair(
                        called, partial(through_o9, store, at_once), partial(theirs, at_once), work=COUNT, target=target
                    )
                    results.append(compare(pair, rounds=5))
        verdict(results)


if __name__ == "__main__":
    main()
