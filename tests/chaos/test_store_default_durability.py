"""SQLite as it is opened where nobody says how: what was acknowledged survives `kill -9`, and nothing is there by half.

`test_store_durability.py` asks the same of durability "power", with more kills and with takeovers. Run as a program,
this file is a process that has imported all that a writer needs, and forks writers.
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
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, Literal

import pytest
from contract_steps import assert_counts_are_true, new, trial

from o9.model.settings import Settings
from o9.model.states import OptimizationStatus as S
from o9.store import queries
from o9.store.core.engine import CHECKPOINT_PAGES
from o9.store.optimizations.commit_step import CommitStep
from o9.store.optimizations.transitions import Cause, Create, Transition
from o9.store.queue.claims import Claim
from o9.store.store import Store

KILLS = 8
AT_ONCE = 4  # coroutines in a writer, so that groups form
STEPS = 3
PAGE_BYTES = 4096
# Random, so that it cannot be packed small: the log is soon long enough to be copied into the file, under fire too.
RETURNS = tuple(random.Random(7).gauss(0.0, 0.01) for _ in range(30_000))


@pytest.fixture(autouse=True)
def _default(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("O9_STORE_DURABILITY", raising=False)
    assert Settings().store_durability == "process"


def test_the_default_is_the_documented_one(store_url: str) -> None:
    normal, full = 1, 2
    expected: dict[Literal["process", "power"] | None, int] = {None: normal, "process": normal, "power": full}
    for durability, synchronous in expected.items():
        with Store(store_url, durability=durability) as store, store._engine.connect() as connection:
            assert connection.exec_driver_sql("PRAGMA synchronous").scalar() == synchronous
            assert connection.exec_driver_sql("PRAGMA journal_mode").scalar() == "wal"


def test_kill_9_takes_nothing_that_was_acknowledged(
    new_store_url: str, tmp_path: Path, wait_until: Callable[..., Any]
) -> None:
    chance = random.Random(20260215)
    acknowledged: list[dict[str, Any]] = []
    with subprocess.Popen(
        [sys.executable, __file__, new_store_url], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True,
        env=os.environ | {"PYTHONPATH": os.pathsep.join(sys.path)},
    ) as nursery:  # fmt: skip
        assert nursery.stdin is not None
        assert nursery.stdout is not None
        for life in range(KILLS):
            said = tmp_path / f"said-{life}"
            nursery.stdin.write(f"{said}\n")
            nursery.stdin.flush()
            pid = int(nursery.stdout.readline())
            if life % 5:  # else it is killed while it opens the store
                enough = chance.randrange(20, 80)
                wait_until(lambda said=said, enough=enough: len(acknowledgements(said)) >= enough)
            time.sleep(0.01 * chance.random())  # the instant of death, not a wait
            os.kill(pid, signal.SIGKILL)
            assert nursery.stdout.readline() == f"{-signal.SIGKILL}\n"
            acknowledged += acknowledgements(said)
    copied = Path(new_store_url).stat().st_size  # nobody has closed the store yet
    with Store(new_store_url) as store:
        assert store.check() == []
        assert_all_is_there(store, acknowledged)
        assert_nothing_is_half(store)
    assert len(acknowledged) > 20 * KILLS / 2
    assert copied > CHECKPOINT_PAGES * PAGE_BYTES / 2, "the log was never copied into the file under fire"


def acknowledgements(said: Path) -> list[dict[str, Any]]:
    lines = said.read_text().splitlines(keepends=True) if said.exists() else []
    return [json.loads(line) for line in lines if line.endswith("\n")]


def assert_all_is_there(store: Store, acknowledged: list[dict[str, Any]]) -> None:
    for key, acks in itertools.groupby(sorted(acknowledged, key=lambda ack: ack["id"]), lambda ack: ack["id"]):
        statuses = [row["to_status"] for row in store.read(queries.transitions, key)]
        values = {t.number: t.value for t in store.read(queries.trials, key)}
        for ack in acks:
            if "to" in ack:
                assert ack["to"] in statuses, ack
            else:
                assert values.get(ack["step"]) == ack["step"], ack
                assert store.read(queries.checkpoint, key, ack["step"]) == {"done": ack["step"] + 1}, ack


def assert_nothing_is_half(store: Store) -> None:
    assert_counts_are_true(store)
    for state in store.read(queries.page, limit=1000).items:
        key, done = state.optimization_id, state.completed_steps
        assert [t.step for t in store.read(queries.trials, key)] == list(range(done))
        assert [row["step"] for row in store.read(queries.metrics, key)] == list(range(done))
        assert store.read(queries.checkpoint, key, done) is None
        for number in range(done):
            whole = store.read(queries.trial, key, number)
            assert whole is not None
            assert whole.returns == RETURNS
        chain = [row["to_status"] for row in store.read(queries.transitions, key)]
        assert chain == ["created", "initializing", "running", "completed"][: len(chain)]
        assert chain[-1] == state.status.value


async def write(url: str, said: str) -> None:
    """`AT_ONCE` coroutines, each of which takes one optimization after the other through its life, until the kill."""
    file = os.open(said, os.O_WRONLY | os.O_CREAT | os.O_APPEND)
    with Store(url) as store:

        def say(key: str, **what: Any) -> None:
            os.write(file, (json.dumps({"id": key} | what) + "\n").encode())

        async def work(worker: int) -> None:
            for number in itertools.count():
                key = f"{Path(said).name}-{worker}-{number}"
                await store.write_async(Create(new(key, total_steps=STEPS)))
                say(key, to="created")
                claimed = await store.write_async(Claim(f"node-{os.getpid()}", 1000, 600.0, key))
                assert claimed is not None
                for status in (S.INITIALIZING, S.RUNNING):
                    await store.write_async(Transition(key, status, Cause.HOOK, fence=claimed.fence))
                    say(key, to=status.value)
                for step in range(STEPS):
                    one = trial(step, step=step, returns=RETURNS, periods_per_year=252.0)
                    commit = CommitStep(key, claimed.fence, step, [one], {"done": step + 1}, {"m": step})
                    await store.write_async(commit)
                    say(key, step=step)
                await store.write_async(Transition(key, S.COMPLETED, Cause.HOOK, fence=claimed.fence))
                say(key, to="completed")

        await asyncio.gather(*(work(worker) for worker in range(AT_ONCE)))


if __name__ == "__main__":
    for line in sys.stdin:
        child = os.fork()
        if child == 0:
            asyncio.run(write(sys.argv[1], line.strip()))
        print(child, flush=True)
        print(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]), flush=True)
