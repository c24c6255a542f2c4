"""Prefect's server is killed in the middle, more than once: all complete, and the record agrees with Prefect's own.

That the ledgers are the undisturbed ones is in test_one_ledger_under_kill.py.
"""

from __future__ import annotations

import asyncio
import json
import random
import sqlite3
import time
from contextlib import closing
from pathlib import Path
from uuid import UUID

import control_chaos
import o9_testing
import psutil
from control_chaos import assert_whole, plan, wait_for
from prefect.client.orchestration import PrefectClient

from o9.mirror.reconciler import Report, reconcile
from o9.store.store import Store

NAMES = [f"o-{n}" for n in range(8)]
KILLS = 2


def test_the_record_agrees_with_prefect_after_its_server_was_killed(tmp_path: Path, chaos_seed: int) -> None:
    o9_testing.session_server()
    chance = random.Random(chaos_seed)
    home = tmp_path / "home"
    home.mkdir()
    with (
        closing(sqlite3.connect(o9_testing.HOME / "prefect" / "prefect.db")) as source,
        closing(sqlite3.connect(home / "prefect.db")) as copy,
    ):
        source.backup(copy)  # a machine on which Prefect has been before
    with control_chaos.floor(tmp_path / "floor", limit=3, PREFECT_HOME=str(home)) as floor:
        store = floor.store
        worker = floor.aggregator()
        for number, name in enumerate(NAMES):
            floor.submit(plan(name, "quick" if number % 2 else "quick_sync", 20, sampler="random"))
        floor.wait_ready(worker)
        for _ in range(KILLS):
            done = steps_done(store)
            wait_for(lambda done=done: steps_done(store) >= done + 15)
            time.sleep(chance.uniform(0.0, 1.0))
            kill_server(home)
        floor.wait_ended(seconds=150)
        for name in NAMES:
            assert store.get(name).status.value == "completed"  # type: ignore[union-attr]
            assert_whole(store, name, 20)

        histories, report = asyncio.run(compared(store, url_of(home)))
        print(report)
        assert (report.errors, report.missing) == (0, [])
        recorded = {
            row["run_id"]: [] for name in NAMES for row in store.prefect_states(name) if row["run_kind"] == "flow"
        }
        for name in NAMES:
            for row in store.prefect_states(name):
                if row["run_kind"] == "flow":
                    recorded[row["run_id"]].append((row["state_id"], row["state_type"], row["state_name"]))
        assert {run: sorted(states) for run, states in recorded.items()} == histories
        assert store.open_runs() == [], "a run of what has ended is still open"
        assert o9_testing.session_server() is not None
        floor.stop(worker)


async def compared(store: Store, url: str) -> tuple[dict[str, list[tuple[str, str, str]]], Report]:
    """Prefect's histories of the lifecycle's runs, after a reconciliation."""
    async with PrefectClient(url) as client:
        report = await reconcile(store, "the test", client=client, quiet_seconds=0.0)
        runs = {row["run_id"] for name in NAMES for row in store.prefect_states(name) if row["run_kind"] == "flow"}
        histories = {}
        for run in runs:
            states = await client.read_flow_run_states(UUID(run))
            histories[run] = sorted((str(state.id), state.type.value, state.name) for state in states)
        return histories, report


def steps_done(store: Store) -> int:
    return sum(state.completed_steps for name in NAMES if (state := store.get(name)))


def server_of(home: Path) -> dict[str, object]:
    [state] = home.glob("o9/server-*/server.json")
    found: dict[str, object] = json.loads(state.read_text())
    return found


def url_of(home: Path) -> str:
    return f"http://127.0.0.1:{server_of(home)['port']}/api"


def kill_server(home: Path) -> None:
    """The one that is alive now; it may be about to be replaced."""

    def living() -> psutil.Process | None:
        try:
            process = psutil.Process(int(str(server_of(home)["pid"])))
            return process if process.status() != psutil.STATUS_ZOMBIE else None
        except (ValueError, psutil.Error, json.JSONDecodeError):
            return None

    process = wait_for(living)
    process.kill()
    process.wait(10)
