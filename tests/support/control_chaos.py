"""What the tests of control under chaos share: processes that can be killed, and what must be true of every record."""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import json
import os
import signal
import socket
import sqlite3
import subprocess
import sys
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from datetime import datetime
from functools import cache
from pathlib import Path
from typing import Any

import ledgers
import o9_testing
import psutil
import zygote
from control_scripts import AGGREGATOR, DESK, FLOW, PROBE
from o9_testing import path_of

from o9.lifecycle.submission import prepared
from o9.model.optimization import OptimizationState
from o9.model.specification import new_optimization
from o9.model.states import Intent
from o9.store import queries
from o9.store.core import unit
from o9.store.core.column_types import content_hash, moment
from o9.store.optimizations.intents import SetIntent
from o9.store.optimizations.transitions import Create
from o9.store.queue.order import AGING_SECONDS_PER_PRIORITY
from o9.store.store import Store
from o9.workers import worker as child

SPACE = {name: {"type": "float", "low": 0.0, "high": 1.0} for name in "xy"}
ENDED = ("completed", "failed", "cancelled", "timeout")
ACTIVE = ("initializing", "running")


# Several samplers, one and more trials a step, in processes of their own and in the event loop: what any ledger may be.
KINDS: list[tuple[str, str, int]] = [
    ("tpe", "sync", 1), ("cmaes", "asynchronous", 3), ("random", "sync", 2), ("qmc", "asynchronous", 1),
]  # fmt: skip
GATED = {"sync": "gated_sync", "asynchronous": "gated"}


def plan(optimization_id: str, objective: str, steps: int, *, priority: int = 2, **metadata: Any) -> dict[str, Any]:
    """The fields of an optimization that may die as often as it likes."""
    metadata = {"objective": f"desk:{objective}", "search_space": SPACE, "seed": 11, "max_attempts": 1000} | metadata
    return {
        "optimization_id": optimization_id, "total_steps": steps, "priority": priority, "metadata": metadata,
        "parameters": {"me": optimization_id},
    }  # fmt: skip


def plan_of(kind: tuple[str, str, int], optimization_id: str, steps: int, *, gated: bool = False) -> dict[str, Any]:
    """The fields of an optimization of one of KINDS."""
    sampler, objective, trials = kind
    name = GATED[objective] if gated else objective
    return plan(optimization_id, name, steps, sampler=sampler, trials_per_step=trials)


class Floor:
    """A folder, a store, and the processes that work on it; all of them end with `close`."""

    def __init__(self, folder: Path, environment: dict[str, str], *, limit: int, url: str = "") -> None:
        folder.mkdir(parents=True, exist_ok=True)
        (folder / "desk.py").write_text(DESK)
        self.folder = folder
        self.url = url or str(folder / "store.db")
        (folder / "aggregator.py").write_text(AGGREGATOR)
        (folder / "flow.py").write_text(FLOW)
        path = os.pathsep.join([str(folder), *filter(None, [os.environ.get("PYTHONPATH")])])
        self.environment = environment | {
            "O9_STORE_URL": self.url, "O9_SPOOL_FOLDER": str(folder / "spool"), "PYTHONPATH": path,
        }  # fmt: skip
        sys.path.insert(0, str(folder))  # what is submitted is checked here, too
        sys.modules.pop("desk", None)
        self.store = Store(self.url)
        self.processes: list[zygote.Process] = []
        self.killed: Counter[str] = Counter()
        self._limit = limit
        self._ready: set[int] = set()
        self._tokens = itertools.count()

    def aggregator(self, **more: str) -> zygote.Process:
        return self._start("aggregator.py", str(self._limit), self.url, **more)

    def flow(self, optimization_id: str) -> zygote.Process:
        """A process in which Prefect's flow is called as Prefect calls it."""
        return self._start("flow.py", optimization_id, **o9_testing.prefect_environment())

    def _start(self, *command: str, **more: str) -> zygote.Process:
        environment = self.environment | more
        with (self.folder / "log").open("a") as log:
            process = zygote.start(list(command), cwd=self.folder, env=environment, stdout=subprocess.PIPE, stderr=log)
        self.processes.append(process)
        return process

    def wait_ready(self, process: zygote.Process) -> None:
        if process.pid not in self._ready:
            assert process.stdout is not None
            assert process.stdout.readline() == "ready\n", self.log()
            self._ready.add(process.pid)

    def kill(self, process: zygote.Process, kind: str = "aggregator") -> bool:
        """Whether it was still there to be killed."""
        lived = process.poll() is None
        process.kill()
        process.communicate()
        self.killed[kind] += lived
        return lived

    def kill_children(self, parents: list[zygote.Process]) -> bool:
        """All evaluation processes of `parents` at one blow: of one alone, chance would mostly take an idle one.
        Whether any of them lived."""
        hit = [kill_alive(found) for parent in parents for found in evaluations_of(parent)]
        self.killed["child"] += any(hit)
        return any(hit)

    def stop(self, process: zygote.Process, seconds: float = 60.0) -> None:
        """In good order."""
        process.terminate()
        process.communicate(timeout=seconds)
        assert process.returncode == 0, f"{process.returncode}\n{self.log()}"

    def submit(self, fields: dict[str, Any], *, hold: bool = False) -> str:
        asked = new_optimization(fields)
        state, _ = self.store.write(Create(prepared(asked), "chaos", content_hash(asked), hold))
        return state.optimization_id

    def release(self, optimization_id: str) -> None:
        """Queue one that was held back for a run that died before it asked for it."""
        self.store.write(SetIntent(optimization_id, Intent.RUN, "chaos"))

    def states(self) -> dict[str, OptimizationState]:
        found: dict[str, OptimizationState] = {}
        cursor = None
        while True:
            page = self.store.read(queries.page, limit=500, cursor=cursor)
            found |= {state.optimization_id: state for state in page.items}
            cursor = page.next_cursor
            if cursor is None:
                return found

    def hold(self) -> None:
        """From now on each gated evaluation waits, see DESK."""
        (self.folder / "hold").touch()

    def let_all_go(self) -> None:
        (self.folder / "hold").unlink()

    def let_go(self, optimization_id: str, evaluations: int) -> None:
        """So many of one that is held up."""
        for _ in range(evaluations):
            (self.folder / f"token-{optimization_id}-{next(self._tokens)}").touch()

    def let_process_go(self, process: zygote.Process) -> None:
        """All that is held up in it and in its evaluation processes."""
        (self.folder / f"go-{process.pid}").touch()

    def wait_at_gate(self, optimization_id: str, process: zygote.Process, steps: int) -> None:
        """Until that process has committed so many steps of it and evaluates the next one, held up."""
        gate = self.folder / f"gate-{optimization_id}-{process.pid}"
        wait_for(gate.exists, what=f"{optimization_id} at the gate")
        wait_for(lambda: self.state(optimization_id).completed_steps == steps)

    def state(self, optimization_id: str) -> OptimizationState:
        state = self.store.read(queries.get, optimization_id)
        assert state is not None
        return state

    def wait_running(self, optimization_id: str) -> None:
        wait_for(lambda: self.state(optimization_id).status == "running", what=f"{optimization_id} running")

    def steps_done(self) -> int:
        return sum(state.completed_steps for state in self.states().values())

    def ledger(self, optimization_id: str) -> list[ledgers.Row]:
        return ledgers.rows(self.store.read(queries.trials, optimization_id))

    def undisturbed(self, optimization_id: str) -> list[ledgers.Row]:
        """What its ledger is where nobody disturbs it: by its strategy alone, in this process."""
        state = self.state(optimization_id)
        given = ("search_space", "seed", "sampler", "trials_per_step")
        metadata = {name: state.metadata[name] for name in given if name in state.metadata}
        return _undisturbed(json.dumps(metadata), state.total_steps)

    def let_leases_run_out(self, node: str) -> None:
        """Those of a node that can renew none; nobody waits for their time then."""
        with contextlib.closing(sqlite3.connect(self.url, timeout=60)) as connection, connection:
            connection.execute("UPDATE optimization SET lease_expires_at = 0 WHERE lease_node = ?", [node])

    def wait_ended(self, names: list[str] | None = None, seconds: float = 300.0) -> None:
        deadline = time.monotonic() + seconds
        while True:
            states = {name: state for name, state in self.states().items() if not names or name in names}
            left = {name: state.status.value for name, state in states.items() if state.completed_at is None}
            if not left:
                return
            assert time.monotonic() < deadline, f"after {seconds} s still {left}\n{self.log()}"
            time.sleep(0.1)

    def rows(self, sql: str) -> list[tuple[Any, ...]]:
        """One statement, in one snapshot."""
        with self.store._engine.connect() as connection:
            return [tuple(row) for row in connection.exec_driver_sql(sql).all()]

    def probe(self) -> None:
        with contextlib.closing(sqlite3.connect(self.url, timeout=60)) as connection:
            connection.executescript(PROBE)

    def log(self, characters: int = 6000) -> str:
        path = self.folder / "log"
        return path.read_text()[-characters:] if path.exists() else ""

    def close(self) -> None:
        for process in self.processes:
            if process.poll() is None:
                process.kill()
            process.wait()
            if process.stdout is not None:
                process.stdout.close()
        self.store.close()
        with contextlib.suppress(ValueError):
            sys.path.remove(str(self.folder))
        sys.modules.pop("desk", None)


@contextlib.contextmanager
def floor(folder: Path, *, limit: int, url: str = "", **environment: str) -> Iterator[Floor]:
    """A floor none of whose processes, nor any descendant, is left in the end."""
    with o9_testing.no_process_left() as clean:
        one = Floor(folder, clean | environment, limit=limit, url=url)
        try:
            yield one
        finally:
            one.close()


@cache
def _undisturbed(metadata: str, steps: int) -> list[ledgers.Row]:
    fields = plan("undisturbed", "at_once", steps, **json.loads(metadata))
    trials, _ = asyncio.run(ledgers.run(prepared(new_optimization(fields)), range(steps)))
    return ledgers.rows(trials)


def node_of(process: zygote.Process) -> str:
    return f"{socket.gethostname()}:{process.pid}"


def evaluations_of(parent: zygote.Process) -> list[psutil.Process]:
    """The processes below `parent` that evaluate or wait for work, those that guard them included."""

    def evaluates(process: psutil.Process) -> bool:
        with contextlib.suppress(psutil.NoSuchProcess):
            return child.__file__ in process.cmdline()
        return False

    with contextlib.suppress(psutil.NoSuchProcess):
        return [process for process in psutil.Process(parent.pid).children(recursive=True) if evaluates(process)]
    return []


def kill_alive(process: psutil.Process) -> bool:
    """Whether it lived when it was killed; a stopped process cannot end before the blow."""
    with contextlib.suppress(psutil.NoSuchProcess):
        process.suspend()
        wait_for(lambda: process.status() == psutil.STATUS_STOPPED or has_ended(process))
        lived = not has_ended(process)
        process.kill()
        return lived
    return False


def has_ended(process: psutil.Process) -> bool:
    """Whoever has to wait for it may not have done so yet."""
    try:
        return process.status() in (psutil.STATUS_ZOMBIE, psutil.STATUS_DEAD)
    except psutil.NoSuchProcess:
        return True


def wait_for(condition: Callable[[], Any], seconds: float = 120.0, what: str = "it") -> Any:
    pauses, deadline = o9_testing.poll_pauses(), time.monotonic() + seconds
    while not (answer := condition()):
        assert time.monotonic() < deadline, f"{what} did not come true within {seconds} s"
        time.sleep(next(pauses))
    return answer


@contextlib.contextmanager
def submitted_ago(seconds: float) -> Iterator[None]:
    """What is submitted inside has waited for so long."""
    true_now = unit.now_text  # type: ignore[attr-defined]
    unit.now_text = lambda: moment(datetime.fromtimestamp(time.time() - seconds).astimezone())  # type: ignore[attr-defined]
    try:
        yield
    finally:
        unit.now_text = true_now  # type: ignore[attr-defined]


def freeze(process: zygote.Process, database: str) -> None:
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


# What must be true of every record


def assert_whole(store: Store, optimization_id: str, trials: int | None = None) -> None:
    """A chain of transitions, a ledger numbered 0..n-1 in order of attempts, every step committed once and whole."""
    path = path_of(store, optimization_id)
    assert sum(status in ENDED for status in path) == 1, f"{optimization_id}: {path}"
    assert path[-1] in ENDED, f"{optimization_id}: {path}"
    rows = store.read(queries.trials, optimization_id)
    assert [row.number for row in rows] == list(range(len(rows))), optimization_id
    assert trials is None or len(rows) == trials, f"{optimization_id}: {len(rows)} trials"
    assert [row.attempt for row in rows] == sorted(row.attempt for row in rows), optimization_id
    assert [row.step for row in rows] == sorted(row.step for row in rows), optimization_id
    attempts_of_step: dict[int, set[int]] = {}
    for row in rows:
        attempts_of_step.setdefault(row.step, set()).add(row.attempt)
    assert all(len(attempts) == 1 for attempts in attempts_of_step.values()), f"{optimization_id}: half a step"


def assert_completed(states: dict[str, OptimizationState]) -> None:
    others = {name: (state.status.value, state.issues) for name, state in states.items() if state.status != "completed"}
    assert not others, f"not completed: {others}"


def most_at_work(floor: Floor) -> int:
    """By the transitions alone: how many were initializing or running at once, in the order of commits."""
    now = most = 0
    for before, after in floor.rows('SELECT from_status, to_status FROM "transition" ORDER BY id'):
        now += (after in ACTIVE) - (before in ACTIVE)
        most = max(most, now)
    assert now == 0, "some are at work still"
    return most


def assert_leases(floor: Floor, limit: int) -> int:
    """By the probe: never more leases than the limit, all freed in the end. The most that were held."""
    rows = floor.rows("SELECT did, optimization_id, held FROM chaos_lease ORDER BY id")
    held: set[str] = set()
    most = 0
    for did, name, counted in rows:
        assert (name in held) is (did == "freed"), f"{name} was {did} twice"
        held = held - {name} if did == "freed" else held | {name}
        most = max(most, len(held), counted)
    assert not held, f"slots are lost: {held}"
    assert most <= limit, f"{most} leases at once, and the limit is {limit}"
    return most


def assert_order(floor: Floor) -> int:
    """By the probe: each claim took the first of the queue, whose key is as documented. How many claims there were."""
    at = dict(floor.rows("SELECT id, at FROM \"transition\" WHERE to_status = 'created'"))
    rows = floor.rows(
        "SELECT optimization_id, ahead, queue_key, priority, queued FROM chaos_lease WHERE did = 'taken' ORDER BY id"
    )
    for name, ahead, key, priority, queued in rows:
        assert ahead == 0, f"{name} was taken before {ahead} that came before it in the queue"
        formula = datetime.fromisoformat(at[queued]).timestamp() - AGING_SECONDS_PER_PRIORITY * priority
        assert abs(formula - key) < 1e-3, f"{name}: {key} is not {formula}"
    return len(rows)


class Watcher:
    """A third process's eyes on the store, all the time: the leases held, and what is at work without one."""

    def __init__(self, floor: Floor) -> None:
        self.most = 0
        self.samples = 0
        self.bare: set[str] = set()
        self._floor = floor
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._look, daemon=True)

    def __enter__(self) -> Watcher:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        self._thread.join()

    def _look(self) -> None:
        sql = (
            "SELECT optimization_id, lease_expires_at FROM optimization "
            "WHERE lease_expires_at IS NOT NULL OR status IN ('initializing', 'running')"
        )
        with contextlib.closing(sqlite3.connect(self._floor.url, timeout=60)) as connection:
            while not self._stop.wait(0.03):
                rows = connection.execute(sql).fetchall()
                self.most = max(self.most, sum(expires is not None for _, expires in rows))
                self.bare |= {name for name, expires in rows if expires is None}
                self.samples += 1
