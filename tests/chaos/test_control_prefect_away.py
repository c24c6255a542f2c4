"""Prefect's server is killed in the middle: what is at work goes on, what waits gets another server.

The ledgers are those of runs that nobody disturbed, and the record agrees with Prefect's own.
"""

from __future__ import annotations

import asyncio
import json
import random
import sqlite3
import time
from collections.abc import Iterable
from contextlib import closing
from pathlib import Path
from uuid import UUID

import control_chaos
import o9_testing
import psutil
import pytest
from control_chaos import KINDS, assert_completed, assert_whole, has_ended, plan_of, wait_for
from prefect.client.orchestration import PrefectClient

from o9.lifecycle.control import control_of
from o9.mirror.reconciler import Report, reconcile
from o9.store import queries
from o9.store.store import Store

pytestmark = pytest.mark.slow


Histories = dict[str, list[tuple[str, str, str | None]]]  # by flow run, its states
LIMIT = 3


@pytest.mark.long  # `test_mirror_away.py` kills it as well
@pytest.mark.parametrize("kills", [1, 8])
def test_the_record_agrees_with_prefect_after_its_server_was_killed(
    tmp_path: Path, chaos_seed: int, kills: int
) -> None:
    chance, steps = random.Random(chaos_seed), 5
    home = tmp_path / "home"
    copy_of_the_session_home(home)
    with control_chaos.floor(tmp_path / "floor", limit=LIMIT, PREFECT_HOME=str(home)) as floor:
        worker = floor.aggregator()
        floor.hold()
        trials = {f"o-{n:02}": KINDS[n % len(KINDS)][2] for n in range(kills * LIMIT + 1)}
        names = list(trials)
        for n, name in enumerate(names):
            floor.submit(plan_of(KINDS[n % len(KINDS)], name, steps, gated=True))
        for at_work in (names[n : n + LIMIT] for n in range(0, kills * LIMIT, LIMIT)):
            for name in at_work:
                floor.wait_running(name)
                floor.let_go(name, 2 * trials[name])
            wait_for(lambda at_work=at_work: all(floor.state(name).completed_steps for name in at_work))  # type: ignore[misc]
            time.sleep(chance.uniform(0.0, 0.3))
            kill_server(home)
            acknowledged = {name: floor.ledger(name) for name in at_work}
            for name in at_work:
                assert floor.state(name).status == "running"
                floor.let_go(name, steps * trials[name])
            floor.wait_ended(at_work)
            for name, rows in acknowledged.items():
                assert floor.ledger(name)[: len(rows)] == rows
        floor.let_all_go()
        floor.wait_ended()
        assert_completed(floor.states())
        for name in names:
            assert_whole(floor.store, name)
            assert floor.ledger(name) == floor.undisturbed(name)

        recorded = recorded_of(floor.store, names)
        histories, report = asyncio.run(compared(floor.store, recorded, client_of(home)))
        print(report)
        assert (report.errors, report.missing) == (0, [])
        assert recorded_of(floor.store, names) == histories
        assert floor.store.read(queries.open_runs) == [], "a run of what has ended is still open"
        floor.stop(worker)


def copy_of_the_session_home(home: Path) -> None:
    """A machine on which Prefect has been before, and whose server nobody else needs."""
    o9_testing.session_server()
    home.mkdir()
    with (
        closing(sqlite3.connect(o9_testing.HOME / "prefect" / "prefect.db")) as source,
        closing(sqlite3.connect(home / "prefect.db")) as copy,
    ):
        source.backup(copy)


def recorded_of(store: Store, names: list[str]) -> Histories:
    """By flow run of the lifecycle, the states that the record has."""
    runs: Histories = {}
    for name in names:
        for row in store.read(queries.prefect_states, name):
            if row["run_kind"] == "flow":
                runs.setdefault(row["run_id"], []).append((row["state_id"], row["state_type"], row["state_name"]))
    return {run: sorted(states) for run, states in runs.items()}


async def compared(
    store: Store, runs: Iterable[str], prefect: PrefectClient
) -> tuple[dict[str, list[tuple[str, str, str | None]]], Report]:
    """Prefect's histories of these runs, after a reconciliation."""
    async with prefect as client:
        report = await reconcile(store, "the test", request=control_of(store).request, client=client, quiet_seconds=0.0)
        histories = {}
        for run in runs:
            states = await client.read_flow_run_states(UUID(run))
            histories[run] = sorted((str(state.id), state.type.value, state.name) for state in states)
        return histories, report


def server_of(home: Path) -> dict[str, object]:
    [state] = home.glob("o9/server-*/server.json")
    found: dict[str, object] = json.loads(state.read_text())
    return found


def client_of(home: Path) -> PrefectClient:
    [auth] = home.glob("o9/server-*/server.auth")
    return PrefectClient(f"http://127.0.0.1:{server_of(home)['port']}/api", auth_string=auth.read_text())


def kill_server(home: Path) -> None:
    """The one that is alive now; it may be about to be replaced."""

    def living() -> psutil.Process | None:
        try:
            process = psutil.Process(int(str(server_of(home)["pid"])))
        except (ValueError, psutil.NoSuchProcess, json.JSONDecodeError):
            return None
        return None if has_ended(process) else process

    process = wait_for(living)
    process.kill()
    wait_for(lambda: has_ended(process))
