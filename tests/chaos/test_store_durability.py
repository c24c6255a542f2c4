"""What was acknowledged is there, and nothing is there by half, whatever is killed when.

Run as a program, this file is a nursery of writers. A writer works on optimizations in a store, resumes what its
predecessors left, and appends each acknowledgement to a file as a JSON line.
"""

from __future__ import annotations

import asyncio
import itertools
import json
import os
import random
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import psycopg
import pytest
from contract_steps import assert_counts_are_true, at_work, new, put, status_of, trial

from o9.model.errors import OptimizationStoreError
from o9.model.states import OptimizationStatus as S
from o9.store import queries
from o9.store.core.unit import UnitOfWork
from o9.store.optimizations.commit_step import CommitStep
from o9.store.optimizations.transitions import Cause, Create, Transition
from o9.store.queue.claims import Claim, Sweep
from o9.store.store import Store

pytestmark = pytest.mark.slow
KILLS = 12
STEPS = 4
TRIALS_PER_STEP = 2
WRITERS_AT_ONCE = 6  # coroutines in a writer, so that groups form


def test_kill_9_takes_nothing_that_was_acknowledged(
    nursery: Nursery, new_store_url: str, tmp_path: Path, chaos_seed: int, wait_until: Callable[..., Any]
) -> None:
    chance = random.Random(chaos_seed)
    acknowledged: list[dict[str, Any]] = []
    for life in range(5 * KILLS):
        if life >= KILLS and resumed(new_store_url):
            break
        said = tmp_path / f"said-{life}"
        pid = nursery.start_writer(new_store_url, f"node-{life}", said)
        if life % 6:  # else it is killed while it opens the store or takes over
            enough = 10 + chance.randrange(50)
            wait_until(lambda said=said, enough=enough: len(acknowledgements(said)) >= enough)
        time.sleep(chance.choice([0.005, 0.02]) * chance.random())  # the instant of death, not a wait
        os.kill(pid, signal.SIGKILL)
        assert nursery.exit_codes() == [-signal.SIGKILL]
        acknowledged += acknowledgements(said)
    assert nursery.close() == ""
    with Store(new_store_url) as store:
        assert store.check() == []
        assert_all_is_there(store, acknowledged)
        assert_nothing_is_half(store)
    assert resumed(new_store_url), "no writer went on where a killed one had stopped"
    assert len(acknowledged) > 5 * KILLS


def resumed(store_url: str) -> list[str]:
    """What a writer went on with where a killed one had stopped."""
    with Store(store_url) as store:
        ids = [state.optimization_id for state in store.read(queries.page, limit=1000).items]
        return [key for key in ids if len({t.attempt for t in store.read(queries.trials, key)}) > 1]


def test_processes_share_one_sqlite_file(nursery: Nursery, new_store_url: str, tmp_path: Path) -> None:
    """They open it at once, too, while it does not exist yet."""
    said = [tmp_path / f"said-{n}" for n in range(3)]
    for n, path in enumerate(said):
        nursery.start_writer(new_store_url, f"peer-{n}", path, enough=60)
    assert nursery.exit_codes() == [0, 0, 0]
    assert nursery.close() == ""
    acknowledged = [ack for path in said for ack in acknowledgements(path)]
    assert len(acknowledged) >= 3 * 60
    with Store(new_store_url) as store:
        assert_all_is_there(store, acknowledged)
        assert_nothing_is_half(store)


async def test_sqlite_acknowledges_after_commit(store_url: str) -> None:
    acknowledged = threading.Event()
    too_early: list[bool] = []

    class Watched(Create):
        def apply(self, unit: UnitOfWork) -> Any:
            def trace(statement: str) -> None:
                if statement == "COMMIT":
                    too_early.append(acknowledged.wait(0.2))

            unit.connection.connection.driver_connection.set_trace_callback(trace)
            return super().apply(unit)

    with Store(store_url) as store:
        await store.write_async(Watched(new("a")))
        acknowledged.set()
    assert too_early == [False]


async def test_a_commit_that_fails_is_not_acknowledged(postgres_url: str) -> None:
    """PostgreSQL can refuse at the very end; the one that it refuses is told, and its neighbours are recorded."""
    with Store(postgres_url) as store:
        for key in ("good", "bad", "fine"):
            at_work(store, key)
        with psycopg.connect(postgres_url, autocommit=True) as connection:
            connection.execute(
                "CREATE FUNCTION refuse() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN "
                "IF NEW.optimization_id = 'bad' THEN RAISE EXCEPTION 'refused at the end'; END IF; RETURN NEW; END $$"
            )
            connection.execute(
                "CREATE CONSTRAINT TRIGGER refuse AFTER INSERT ON change DEFERRABLE INITIALLY DEFERRED "
                "FOR EACH ROW EXECUTE FUNCTION refuse()"
            )
        moves = [store.write_async(Transition(key, S.PAUSED, Cause.PERSON)) for key in ("good", "bad", "fine")]
        good, bad, fine = await asyncio.gather(*moves, return_exceptions=True)
        assert isinstance(bad, OptimizationStoreError)
        assert not isinstance(good, Exception)
        assert not isinstance(fine, Exception)
        assert [status_of(store, key) for key in ("good", "bad", "fine")] == [S.PAUSED, S.RUNNING, S.PAUSED]


def test_a_lost_connection_is_replaced(postgres_url: str) -> None:
    """The write that meets it goes on over a new one: nothing was written on the old one yet."""
    with Store(postgres_url) as store:
        put(store, "a")
        assert store.read(queries.get, "a") is not None
        with psycopg.connect(postgres_url, autocommit=True) as connection:
            connection.execute(
                "SELECT pg_terminate_backend(pid) FROM pg_stat_activity "
                "WHERE pid <> pg_backend_pid() AND datname = current_database()"
            )
        put(store, "b")
        assert store.read(queries.get, "b") is not None


class Nursery:
    """A process that has imported all that a writer needs, and forks writers: a start costs no second then."""

    def __init__(self) -> None:
        self._process = subprocess.Popen(
            [sys.executable, __file__],
            stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
            env=os.environ | {"PYTHONPATH": os.pathsep.join(sys.path)},
        )  # fmt: skip

    def start_writer(self, store_url: str, node: str, said: Path, enough: int = sys.maxsize) -> int:
        """The pid of a new writer that appends its acknowledgements to `said`."""
        return int(self._ask(store_url, node, str(said), enough))

    def exit_codes(self) -> list[int]:
        """Of all writers that were started since, once they have ended."""
        return list(self._ask())

    def close(self) -> str:
        """What the writers complained about."""
        return self._process.communicate(timeout=60)[1]

    def _ask(self, *arguments: Any) -> Any:
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._process.stdin.write(json.dumps(arguments) + "\n")
        self._process.stdin.flush()
        return json.loads(self._process.stdout.readline())


@pytest.fixture
def nursery() -> Iterator[Nursery]:
    one = Nursery()
    yield one
    one.close()


def nurse() -> None:
    """The nursery: `[store, node, file, enough]` starts a writer, `[]` waits for all."""
    pids: list[int] = []
    for line in sys.stdin:
        if arguments := json.loads(line):
            pid = os.fork()
            if pid == 0:
                asyncio.run(write(*arguments))
                os._exit(0)
            pids.append(pid)
            print(pid, flush=True)
        else:
            print([os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) for pid in pids], flush=True)
            pids = []


def acknowledgements(said: Path) -> list[dict[str, Any]]:
    lines = said.read_text().splitlines(keepends=True) if said.exists() else []
    return [json.loads(line) for line in lines if line.endswith("\n")]


def assert_all_is_there(store: Store, acknowledged: list[dict[str, Any]]) -> None:
    for ack in acknowledged:
        key = ack["id"]
        if ack["did"] == "move":
            assert ack["to"] in [row["to_status"] for row in store.read(queries.transitions, key)], ack
        else:
            assert store.read(queries.checkpoint, key, ack["step"]) == ack["checkpoint"], ack
            assert [[t.number, t.value] for t in store.read(queries.trials, key) if t.step == ack["step"]] == ack[
                "trials"
            ], ack


def assert_nothing_is_half(store: Store) -> None:
    assert_counts_are_true(store)
    for state in store.read(queries.page, limit=1000).items:
        key, steps = state.optimization_id, range(state.completed_steps)
        assert [t.step for t in store.read(queries.trials, key)] == [
            step for step in steps for _ in range(TRIALS_PER_STEP)
        ]
        assert all((store.read(queries.checkpoint, key, step) or {})["done"] == step + 1 for step in steps)
        assert store.read(queries.checkpoint, key, len(steps)) is None
        assert [row["step"] for row in store.read(queries.metrics, key)] == list(steps)
        assert all(
            (store.read(queries.trial, key, t.number) or t).returns == (t.value, -0.0)
            for t in store.read(queries.trials, key)
        )
        chain = store.read(queries.transitions, key)
        assert chain[-1]["to_status"] == state.status.value
        assert all(a["to_status"] == b["from_status"] for a, b in itertools.pairwise(chain))


async def write(store_url: str, node: str, path: str, enough: int) -> None:
    """A writer: `WRITERS_AT_ONCE` coroutines, each taking one optimization after the other through its life."""
    with Store(store_url, durability="power") as store:  # whose commits take longest
        kind, number = node.split("-")
        if kind == "node":  # its predecessors are dead
            await store.write_async(Sweep(node, dead_nodes=[f"node-{n}" for n in range(int(number))]))
        file = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND)
        count = itertools.count(1)

        def say(key: str, did: str, **what: Any) -> bool:
            os.write(file, (json.dumps({"id": key, "did": did} | what) + "\n").encode())
            return next(count) >= enough

        async def work(worker: int) -> None:
            for number in itertools.count():
                claimed = await store.write_async(Claim(node, 1000, 600.0))
                if claimed is None:
                    key = f"{node}-{worker}-{number}"
                    await store.write_async(Create(new(key, metadata={"max_attempts": 1000})))
                    say(key, "move", to="created")
                elif await live(claimed.optimization_id, claimed.fence):
                    return

        async def live(key: str, fence: int) -> bool:
            for status in (S.INITIALIZING, S.RUNNING):
                await store.write_async(Transition(key, status, Cause.HOOK, fence=fence))
                say(key, "move", to=status.value)
            state = store.read(queries.get, key)
            assert state is not None
            for step in range(state.completed_steps, STEPS):
                numbers = range(step * TRIALS_PER_STEP, (step + 1) * TRIALS_PER_STEP)
                trials = [trial(n, step=step, returns=(float(n), -0.0)) for n in numbers]
                checkpoint = {"done": step + 1, "by": node}
                answer = await store.write_async(CommitStep(key, fence, step, trials, checkpoint, {"m": step}))
                assert answer.completed_steps == step + 1
                say(key, "step", step=step, checkpoint=checkpoint, trials=[[t.number, t.value] for t in trials])
            await store.write_async(Transition(key, S.COMPLETED, Cause.HOOK, fence=fence))
            return say(key, "move", to="completed")

        await asyncio.gather(*(work(worker) for worker in range(WRITERS_AT_ONCE)))


if __name__ == "__main__":
    nurse()
