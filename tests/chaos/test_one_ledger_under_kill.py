"""`kill -9` at random instants, in the middle of optimizations: the ledger is the one of a run that nobody disturbed.

What lies between two instants is decided by the machine.
"""

from __future__ import annotations

import json
import random
import signal
import sqlite3
import subprocess
import time
from collections.abc import Callable, Iterator
from functools import cache
from pathlib import Path
from typing import Any

import o9_testing
import psutil
import pytest
import zygote
from control_chaos import evaluations_of, kill_alive
from o9_testing import ledger, path_of

from o9.store.store import Store

DESK = """
import asyncio, time

def value(parameters):
    x, y = parameters["x"], parameters["y"]
    if int(x * 1000) % 9 == 0:
        raise ValueError("no quotes at this point")
    return -((x - 0.3) ** 2) - (y - 0.7) ** 2

def sync(parameters):
    time.sleep(0.01)
    return value(parameters)

async def asynchronous(parameters):
    await asyncio.sleep(0.01)
    return value(parameters)
"""
STEPS = 40
Ledgers = dict[str, list[tuple[Any, ...]]]
SPACE = {name: {"type": "float", "low": 0.0, "high": 1.0} for name in "xy"}
WORKER = """
import asyncio, sys
from o9.lifecycle.submission import new_optimization
from OptimizationStateAggregator import OptimizationStateAggregator

async def main(plans):
    async with OptimizationStateAggregator(storage_path="store.db", monitoring_interval=0.1) as aggregator:
        for plan in plans:
            await aggregator.submit_optimization(new_optimization(plan))
        print("at work", flush=True)
        while any(state.completed_at is None for state in await aggregator.get_all_optimizations()):
            await asyncio.sleep(0.1)

asyncio.run(main({plans!r}))
"""


def plans(steps: int) -> list[dict[str, Any]]:
    """Several samplers, one and more trials a step, failing trials everywhere."""
    ways: list[tuple[str, str, int]] = [
        ("tpe", "sync", 1),
        ("cmaes", "asynchronous", 3),
        ("random", "sync", 3),
        ("qmc", "asynchronous", 1),
    ]
    return [
        {
            "optimization_id": f"{sampler}-{trials}",
            "total_steps": steps,
            "metadata": {
                "objective": f"desk:{objective}",
                "search_space": SPACE,
                "sampler": sampler,
                "seed": 11,
                "trials_per_step": trials,
                "max_attempts": 1000,
            },
        }
        for sampler, objective, trials in ways
    ]


class Desk:
    """A folder in which one worker after the other runs the same optimizations, until they have ended."""

    def __init__(self, folder: Path, environment: dict[str, str], steps: int) -> None:
        folder.mkdir()
        (folder / "desk.py").write_text(DESK)
        (folder / "worker.py").write_text(WORKER.format(plans=plans(steps)))
        self.folder = folder
        self.store = Store(str(folder / "store.db"))
        self.names = [plan["optimization_id"] for plan in plans(steps)]
        self._environment = environment
        self._process: zygote.Process | None = None

    def start(self) -> zygote.Process:
        with (self.folder / "worker.log").open("a") as log:
            self._process = zygote.start(
                ["worker.py"], cwd=self.folder, env=self._environment, stdout=subprocess.PIPE, stderr=log
            )
        return self._process

    def wait_for_work(self) -> None:
        assert self._process is not None
        assert self._process.stdout is not None
        assert self._process.stdout.readline() == "at work\n", self.log()

    def finish(self, seconds: float = 120.0) -> None:
        """Let the worker, or a new one, come to the end."""
        process = self._process if self._process is not None and self._process.poll() is None else self.start()
        process.communicate(timeout=seconds)
        assert process.returncode == 0, self.log()

    def kill(self) -> None:
        assert self._process is not None
        self._process.kill()
        self._process.communicate()

    def steps_done(self) -> int:
        return sum(state.completed_steps for name in self.names if (state := self.store.get(name)))

    def ledgers(self) -> Ledgers:
        return {name: ledger(self.store, name) for name in self.names}

    def log(self) -> str:
        return (self.folder / "worker.log").read_text()[-4000:]

    def close(self) -> None:
        if self._process is not None and self._process.poll() is None:
            self._process.kill()
            self._process.communicate()
        self.store.close()


@pytest.fixture
def open_desk(tmp_path: Path) -> Iterator[Callable[..., Desk]]:
    """`open_desk(name, steps, **environment)`; no process of any desk may be left in the end."""
    desks: list[Desk] = []
    with o9_testing.no_process_left() as environment:

        def open_one(name: str, steps: int, **more: str) -> Desk:
            desks.append(Desk(tmp_path / name, environment | more, steps))
            return desks[-1]

        yield open_one
        for desk in desks:
            desk.close()


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory: pytest.TempPathFactory) -> Callable[[int], Ledgers]:
    """The ledgers of a run that nobody disturbs, by its number of steps."""

    @cache
    def ledgers(steps: int) -> Ledgers:
        o9_testing.session_server()
        with o9_testing.no_process_left() as environment:
            desk = Desk(tmp_path_factory.mktemp("undisturbed") / "desk", environment, steps)
            try:
                desk.finish()
                assert_whole(desk)
                return desk.ledgers()
            finally:
                desk.close()

    return ledgers


def assert_whole(desk: Desk) -> None:
    """What must be true of the record however often it was hit."""
    assert desk.store.check() == []
    for name in desk.names:
        trials = desk.store.trials(name)
        assert [trial.number for trial in trials] == list(range(len(trials)))
        attempts = [trial.attempt for trial in trials]
        assert attempts == sorted(attempts)
        path = path_of(desk.store, name)
        assert path[-1] == "completed"
        assert path.count("completed") == 1


@pytest.mark.parametrize(
    ("kills", "steps"),
    [
        pytest.param(4, STEPS, id="four times"),
        pytest.param(20, 200, id="twenty times", marks=pytest.mark.long),
    ],
)
def test_killing_the_aggregator(
    open_desk: Callable[..., Desk], undisturbed: Callable[[int], Ledgers], chaos_seed: int, kills: int, steps: int
) -> None:
    o9_testing.session_server()
    instants = random.Random(chaos_seed)
    hit = open_desk("hit", steps)

    acknowledged: Ledgers = {name: [] for name in hit.names}
    for _ in range(kills):
        before = hit.steps_done()
        worker = hit.start()
        hit.wait_for_work()
        # A quarter may strike before anything was done; the others once this life has committed something.
        waits, instant = instants.random() > 0.25, instants.uniform(0.0, 0.8)
        while waits and hit.steps_done() == before and worker.poll() is None:
            time.sleep(0.005)
        time.sleep(instant)
        seen = hit.ledgers()
        assert worker.poll() is None, "it was done before the last blow"
        hit.kill()
        for name, rows in acknowledged.items():
            assert seen[name][: len(rows)] == rows
        acknowledged = seen
    hit.finish()

    assert hit.ledgers() == undisturbed(steps)
    assert all(len(rows) >= steps for rows in hit.ledgers().values())
    for name, rows in acknowledged.items():
        assert ledger(hit.store, name)[: len(rows)] == rows, "something acknowledged is missing"
    assert_whole(hit)
    deaths = [holding.deaths for name in hit.names if (holding := hit.store.holding(name))]
    assert 0 < max(deaths) <= kills
    assert {trial[2] for rows in hit.ledgers().values() for trial in rows} == {"completed", "failed"}


def test_one_that_was_frozen_and_replaced_writes_nothing_when_it_wakes(
    open_desk: Callable[..., Desk], undisturbed: Callable[[int], Ledgers]
) -> None:
    """A machine that sleeps, a process that is stopped: its leases run out, another goes on, and then it wakes."""
    o9_testing.session_server()
    hit = open_desk("hit", steps := STEPS, O9_LEASE_SECONDS="2")
    sleeper = hit.start()
    hit.wait_for_work()
    wait_for(lambda: hit.steps_done() > 8)
    freeze(sleeper, hit.folder / "store.db")
    frozen_at = hit.ledgers()
    other = hit.start()
    hit.wait_for_work()
    wait_for(lambda: hit.steps_done() > sum(len({row[1] for row in rows}) for rows in frozen_at.values()) + 8)
    sleeper.send_signal(signal.SIGCONT)
    for process in (other, sleeper):
        process.communicate(timeout=300)
        assert process.returncode == 0, hit.log()

    assert hit.ledgers() == undisturbed(steps)
    assert_whole(hit)
    assert "no longer holds it" in (hit.folder / "worker.log").read_text(), "it did try"


def wait_for(condition: Callable[[], Any], seconds: float = 200.0) -> None:
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.005)


def freeze(process: zygote.Process, database: Path) -> None:
    """Stop a process between two transactions: in the middle of one it would hold SQLite's lock, asleep."""
    for _ in range(100):
        process.send_signal(signal.SIGSTOP)
        connection = sqlite3.connect(database, timeout=0.2, isolation_level=None)
        try:
            connection.execute("BEGIN IMMEDIATE")
            connection.execute("ROLLBACK")
        except sqlite3.OperationalError:
            process.send_signal(signal.SIGCONT)
            time.sleep(0.01)
        else:
            return
        finally:
            connection.close()
    raise AssertionError("the process was in a transaction a hundred times")


def test_killing_the_child_changes_nothing(
    open_desk: Callable[..., Desk], undisturbed: Callable[[int], Ledgers]
) -> None:
    """What it evaluated is evaluated once more: somebody's kill, or a want of memory, is no fact about a strategy."""
    o9_testing.session_server()
    desk = open_desk("desk", STEPS)
    worker = desk.start()
    desk.wait_for_work()
    for _ in range(3):
        before = desk.steps_done()
        wait_for(lambda before=before: desk.steps_done() >= before + 8)
        assert worker.poll() is None, desk.log()
        hit = [kill_alive(evaluation) for evaluation in evaluations_of(worker)]
        assert any(hit)
    desk.finish()
    assert_whole(desk)
    assert desk.ledgers() == undisturbed(STEPS)
    assert {holding.deaths for name in desk.names if (holding := desk.store.holding(name))} == {0}


def test_killing_the_prefect_server(
    open_desk: Callable[..., Desk], undisturbed: Callable[[int], Ledgers], tmp_path: Path
) -> None:
    """The record never waits for Prefect: what was at work goes on, and what waits gets another server."""
    o9_testing.session_server()
    home = tmp_path / "home"
    home.mkdir()
    with (
        sqlite3.connect(o9_testing.HOME / "prefect" / "prefect.db") as source,
        sqlite3.connect(home / "prefect.db") as copy,
    ):
        source.backup(copy)  # a machine on which Prefect has been before
    source.close()
    copy.close()
    desk = open_desk("desk", STEPS, PREFECT_HOME=str(home))
    worker = desk.start()
    desk.wait_for_work()
    while desk.steps_done() < 20:
        assert worker.poll() is None, desk.log()
        time.sleep(0.01)
    [state] = home.glob("o9/server-*/server.json")
    server = psutil.Process(json.loads(state.read_text())["pid"])
    server.send_signal(signal.SIGKILL)
    server.wait(10)
    before = desk.ledgers()
    desk.finish(180)

    assert desk.ledgers() == undisturbed(STEPS)
    for name, rows in before.items():
        assert ledger(desk.store, name)[: len(rows)] == rows
    assert_whole(desk)
