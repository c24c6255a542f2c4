"""Nodes on one store: each change reaches all of them once and in order; positions, and lost nodes."""

from __future__ import annotations

import asyncio
import json
import os
import signal
import sqlite3
import subprocess
import threading
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import AsyncExitStack, ExitStack
from pathlib import Path
from typing import Any

import o9_testing
import pytest
import zygote
from o9_testing import new
from sqlalchemy import Connection, update

from o9.lifecycle.processes import PROCESS, identity
from o9.store import queries
from o9.store.optimizations.transitions import Create
from o9.store.queue.claims import Heartbeat
from o9.store.schema.optimizations import NODE
from o9.store.store import Store
from OptimizationStateAggregator import (
    AsyncStateSynchronizer,
    OptimizationError,
    OptimizationSyncError,
    OptimizationValidationError,
)

pytestmark = pytest.mark.xdist_group("timing")
Wait = Callable[..., Awaitable[Any]]
# URL INTERVAL: an aggregator; each line of its input is a method of its synchronizer and arguments, as JSON.
NODE_PROGRAM = """
import asyncio, json, sys
from OptimizationStateAggregator import OptimizationStateAggregator

def say(kind, *what):
    print(json.dumps([kind, *what], default=str), flush=True)

async def main(url, interval):
    aggregator = OptimizationStateAggregator(storage_path=url, sync_interval=interval)
    synchronizer = aggregator.synchronizer
    synchronizer.register_callback("synced", lambda change: say("synced", change["update"], change["node"]))
    for event in ("node_joined", "node_lost"):
        synchronizer.register_callback(event, lambda node, event=event: say(event, node["node_id"]))
    async with aggregator:
        say("ready")
        while line := await asyncio.to_thread(sys.stdin.readline):
            method, *arguments = json.loads(line)
            say("answer", await getattr(synchronizer, method)(*arguments))

asyncio.run(main(sys.argv[1], float(sys.argv[2])))
"""


@pytest.fixture(params=["store_url", "postgres_url"])
def store(request: pytest.FixtureRequest) -> Iterator[Store]:
    with Store(request.getfixturevalue(request.param)) as opened:
        hold(opened, "a")
        yield opened


def hold(store: Store, name: str) -> None:
    """An optimization that is never started."""
    store.write(Create(new(name, objective="branin"), hold=True))


@pytest.fixture
async def join(store: Store) -> AsyncIterator[Callable[..., Awaitable[AsyncStateSynchronizer]]]:
    """`await join(heard)` returns a started synchronizer, whose events go to the list `heard`."""
    async with AsyncExitStack() as opened:

        async def join_one(heard: list[Any] | None = None, interval: float = 0.1) -> AsyncStateSynchronizer:
            synchronizer = AsyncStateSynchronizer(interval, store=store)
            into = [] if heard is None else heard
            synchronizer.register_callback("synced", into.append)
            for event in ("node_joined", "node_lost"):
                synchronizer.register_callback(event, lambda node, event=event: into.append((event, node["node_id"])))
            await synchronizer.start()
            opened.push_async_callback(synchronizer.cleanup)
            return synchronizer

        yield join_one


Join = Callable[..., Awaitable[AsyncStateSynchronizer]]


def updates(heard: list[Any]) -> list[Any]:
    return [change["update"] for change in heard if isinstance(change, dict) and change["update"] is not None]


async def lags(synchronizer: AsyncStateSynchronizer) -> dict[str, int | None]:
    return {node["node_id"]: node["lag"] for node in await synchronizer.get_nodes()}


# In one process


async def test_synchronizer_without_aggregator_is_a_node(store: Store, join: Join, async_wait_until: Wait) -> None:
    heard: list[Any] = []
    one = await join(heard)
    two = await join()
    assert {node["node_id"] for node in await one.get_nodes() if node["living"]} == {one.node_id, two.node_id}
    await async_wait_until(lambda: heard == [("node_joined", two.node_id)])
    await two.stop()
    await async_wait_until(lambda: heard[1:] == [("node_lost", two.node_id)])
    assert [node["node_id"] for node in await one.get_nodes()] == [one.node_id]
    await two.start()
    await async_wait_until(lambda: heard[2:] == [("node_joined", two.node_id)])


async def test_all_nodes_receive_each_change_once_and_in_order(
    store: Store, join: Join, async_wait_until: Wait
) -> None:
    before = await join()
    await before.broadcast_optimization_update("a", {"n": "before the others joined"})
    heards: list[list[Any]] = [[], []]
    nodes = [await join(heard) for heard in heards]
    rounds = 130  # of each; more than two pages
    calls = [
        node.broadcast_optimization_update("a", {"n": [k, n]}) for n in range(rounds) for k, node in enumerate(nodes)
    ]
    assert all(await asyncio.gather(*calls))
    await async_wait_until(lambda: [len(updates(heard)) for heard in heards] == [2 * rounds] * 2)
    assert updates(heards[0]) == updates(heards[1])
    assert {tuple(told["n"]) for told in updates(heards[0])} == {(k, n) for n in range(rounds) for k in (0, 1)}
    first = next(change for change in heards[1] if isinstance(change, dict))
    assert (first["optimization_id"], first["state"].optimization_id, first["node"]) == ("a", "a", nodes[0].node_id)
    assert store.read(queries.get, "a").updated_at <= first["at"]
    told = await nodes[0].get_sync_statistics()
    assert told["sync_stats"] == {"confirmed": 0, "unconfirmed": 0, "broadcasts": rounds, "heard": 2 * rounds}
    assert store.read(queries.holding, "a").version == 0  # nothing of it was changed


async def test_sync_waits_until_all_nodes_have_read(store: Store, join: Join, async_wait_until: Wait) -> None:
    heard: list[Any] = []
    one, two = await join(interval=1.0), await join(heard, interval=1.0)
    assert await one.sync_optimization_state("a")
    assert [change["state"].optimization_id for change in heard if isinstance(change, dict)] == ["a"]
    assert await one.sync_optimization_state("a", [two.node_id])
    told = await one.get_sync_statistics()
    assert (told["sync_stats"]["confirmed"], told["active_nodes"], told["total_nodes"]) == (2, 2, 2)
    assert told["last_sync"] is not None
    await async_wait_until(lambda: no_lag(one))


async def no_lag(synchronizer: AsyncStateSynchronizer) -> bool:
    return set((await lags(synchronizer)).values()) == {0}


async def test_concurrent_syncs_take_the_time_of_one(store: Store, join: Join) -> None:
    for n in range(40):
        hold(store, f"many-{n}")
    one, _ = await join(interval=2.0), await join(interval=2.0)
    async with asyncio.timeout(o9_testing.PATIENCE * 6.0):
        assert all(await asyncio.gather(*[one.sync_optimization_state(f"many-{n}") for n in range(40)]))


async def test_node_that_does_not_read_is_named(
    store: Store, join: Join, async_wait_until: Wait, caplog: pytest.LogCaptureFixture
) -> None:
    busy, stuck = asyncio.Event(), asyncio.Event()

    async def hangs(change: Any) -> None:
        busy.set()
        await stuck.wait()

    one, two = await join(), await join()
    two.register_callback("synced", hangs)
    await one.broadcast_optimization_update("a", {})
    await busy.wait()
    for targets in (None, [two.node_id], ["nobody"], [one.node_id, "nobody"]):
        caplog.clear()
        assert not await one.sync_optimization_state("a", targets)
        assert (two.node_id if targets is None or two.node_id in targets else "nobody") in caplog.text
    assert (await lags(one))[two.node_id] == 5
    assert next(node for node in await one.get_nodes() if node["node_id"] == two.node_id)["lag_seconds"] > 0
    stuck.set()
    await async_wait_until(lambda: no_lag(one))
    told = (await one.get_sync_statistics())["sync_stats"]
    assert (told["confirmed"], told["unconfirmed"]) == (0, 4)


async def test_changes_are_delivered_after_a_store_outage(
    store: Store, join: Join, async_wait_until: Wait, monkeypatch: pytest.MonkeyPatch
) -> None:
    heard: list[Any] = []
    one, get, failures = await join(heard), queries.get, iter(range(3))

    def fails_three_times(connection: Connection, name: str) -> Any:
        if next(failures, None) is not None:
            raise sqlite3.OperationalError("disk I/O error")
        return get(connection, name)

    monkeypatch.setattr(queries, "get", fails_three_times)
    for n in range(3):
        await one.broadcast_optimization_update("a", {"n": n})
    await async_wait_until(lambda: updates(heard) == [{"n": n} for n in range(3)])
    assert next(failures, None) is None


async def test_publishing_is_limited_to_the_sync_workers(store_url: str) -> None:
    with Store(store_url) as store, ExitStack() as locks:
        hold(store, "a")
        synchronizer = AsyncStateSynchronizer(max_sync_workers=2, store=store)
        await synchronizer.initialize()
        other = sqlite3.connect(store_url, isolation_level=None)
        locks.callback(other.close)
        other.execute("BEGIN IMMEDIATE")
        calls = [asyncio.ensure_future(synchronizer.broadcast_optimization_update("a", {"n": n})) for n in range(5)]
        await asyncio.sleep(0)
        assert (await synchronizer.get_sync_statistics())["queue_size"] == 3
        other.execute("COMMIT")
        assert await asyncio.gather(*calls) == [True] * 5
        assert (await synchronizer.get_sync_statistics())["queue_size"] == 0
        assert [change["update"]["n"] for change in store.read(queries.published, 0).changes] == list(range(5))
        await synchronizer.cleanup()


async def test_registered_nodes(store: Store, join: Join) -> None:
    one = await join()
    assert await one.register_node("planned", {"rack": 1})
    assert await one.register_node("planned", {"rack": 2})
    assert await one.register_node(one.node_id, {"rack": 3})
    store.write(Heartbeat("dead", "another-host", 1, 1.0, 30.0))
    with store._engine.begin() as connection:
        connection.execute(update(NODE).where(NODE.c.node_id == "dead").values(heartbeat_at=1.0, cursor=1))
    told = {node["node_id"]: (node["living"], node["expected"]) for node in await one.get_nodes()}
    assert told == {
        "dead": (False, None), "planned": (False, {"rack": 2}), one.node_id: (True, {"rack": 3}),
    }  # fmt: skip
    statistics = await one.get_sync_statistics()
    assert (statistics["active_nodes"], statistics["total_nodes"]) == (1, 3)
    with pytest.raises(OptimizationSyncError, match=one.node_id):
        await one.unregister_node(one.node_id)
    assert await one.unregister_node("planned")
    assert await one.unregister_node("dead")
    assert not await one.unregister_node("planned")
    assert [node["node_id"] for node in await one.get_nodes()] == [one.node_id]


async def test_dead_process_is_detected_at_once(store: Store, join: Join) -> None:
    one = await join()
    here = {"lease_seconds": 60.0, PROCESS: identity(os.getpid())}
    store.write(Heartbeat("alive", "host", os.getpid(), 0.0, 60.0, here))
    store.write(Heartbeat("gone", "host", os.getpid(), 0.0, 60.0, here | {PROCESS: f"{here[PROCESS]}0"}))
    store.write(Heartbeat("elsewhere", "host", 1, 0.0, 60.0, {"lease_seconds": 60.0}))
    told = {node["node_id"]: node["living"] for node in await one.get_nodes()}
    assert told == {"alive": True, "gone": False, "elsewhere": True, one.node_id: True}


async def test_invalid_arguments_are_refused(store: Store, join: Join) -> None:
    one = await join()
    with pytest.raises(OptimizationError, match="nobody"):
        await one.sync_optimization_state("nobody")
    with pytest.raises(OptimizationError, match="nobody"):
        await one.broadcast_optimization_update("nobody", {})
    bad: list[tuple[str, Callable[[], Awaitable[Any]]]] = [
        ("target_nodes", lambda: one.sync_optimization_state("a", [])),
        ("target_nodes", lambda: one.sync_optimization_state("a", "one")),
        ("target_nodes", lambda: one.sync_optimization_state("a", 1)),  # type: ignore[arg-type]
        ("target_nodes[1]", lambda: one.sync_optimization_state("a", ["x", ""])),
        ("update", lambda: one.broadcast_optimization_update("a", [1])),  # type: ignore[arg-type]
        ("update.x", lambda: one.broadcast_optimization_update("a", {"x": float("nan")})),
        ("update.x", lambda: one.broadcast_optimization_update("a", {"x": "\0"})),
        ("node_id", lambda: one.register_node(" ", {})),
        ("node_id", lambda: one.unregister_node(7)),  # type: ignore[arg-type]
        ("node_id", lambda: one.unregister_node("\0")),
        ("node_info", lambda: one.register_node("x", None)),  # type: ignore[arg-type]
        ("node_info.x", lambda: one.register_node("x", {"x": {1}})),
    ]
    for field, call in bad:
        with pytest.raises(OptimizationValidationError) as refused:
            await call()
        assert refused.value.field == field
    for field, value in (("sync_interval", 0.0), ("sync_interval", True), ("max_sync_workers", 0)):
        with pytest.raises(OptimizationValidationError) as refused:
            AsyncStateSynchronizer(**{field: value})  # type: ignore[arg-type]
        assert refused.value.field == field
    assert store.read(queries.published, 0).changes == []


async def test_synchronizer_before_start(store: Store) -> None:
    synchronizer = AsyncStateSynchronizer(store=store)
    with pytest.raises(OptimizationError, match=r"initialize\(\)"):
        await AsyncStateSynchronizer().get_nodes()
    await synchronizer.initialize()
    assert await synchronizer.get_nodes() == []
    assert await synchronizer.broadcast_optimization_update("a", {})
    with pytest.raises(OptimizationSyncError, match=r"start\(\)"):
        await synchronizer.sync_optimization_state("a")
    assert (await synchronizer.get_sync_statistics())["last_sync"] is None


# Aggregators, each in its own process


class NodeProcess:
    """An aggregator on `url` with its own node id."""

    def __init__(self, folder: Path, url: str, name: str, environment: dict[str, str]) -> None:
        (folder / "node.py").write_text(NODE_PROGRAM, encoding="utf-8")
        self.events: list[list[Any]] = []
        self._answers: list[Any] = []
        with (folder / f"{name}.log").open("a") as log:
            self.process = zygote.start(
                ["node.py", url, "0.5"], cwd=folder, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=log,
                env=environment | o9_testing.prefect_environment() | {"O9_NODE_ID": name},
            )  # fmt: skip
        self._reader = threading.Thread(target=self._read, daemon=True)
        self._reader.start()

    def __enter__(self) -> NodeProcess:
        return self

    def __exit__(self, *_: object) -> None:
        self.process.kill()
        self._reader.join()
        self.end_input()

    def end_input(self) -> None:
        assert self.process.stdin is not None
        self.process.stdin.close()

    def _read(self) -> None:
        assert self.process.stdout is not None
        with self.process.stdout as lines:
            for line in lines:
                kind, *what = json.loads(line)
                if kind == "answer":
                    self._answers += what
                else:
                    self.events.append([kind, *what])

    async def call(self, wait: Wait, *call: Any) -> Any:
        assert self.process.stdin is not None
        self.process.stdin.write(json.dumps(call) + "\n")
        await wait(lambda: self._answers)
        return self._answers.pop()

    def updates(self) -> list[Any]:
        return [event[1] for event in self.events if event[0] == "synced" and event[1] is not None]


async def test_two_nodes_on_one_postgresql(tmp_path: Path, postgres_url: str, async_wait_until: Wait) -> None:
    o9_testing.session_server()
    with o9_testing.no_process_left() as environment, Store(postgres_url) as store, ExitStack() as started:

        def start(name: str) -> NodeProcess:
            return started.enter_context(NodeProcess(tmp_path, postgres_url, name, environment))

        hold(store, "a")
        one, two = start("one"), start("two")
        for node in (one, two):
            await async_wait_until(lambda node=node: ["ready"] in node.events, 60)

        async def synchronized(*targets: str) -> bool:
            return bool(await one.call(async_wait_until, "sync_optimization_state", "a", list(targets) or None))

        async def seen_of_two() -> dict[str, Any]:
            told = await one.call(async_wait_until, "get_sync_statistics")
            return next((node for node in told["nodes"] if node["node_id"] == "two"), {"living": None})

        # Each hears what both publish.
        await async_wait_until(synchronized)
        assert await two.call(async_wait_until, "register_node", "three", {"rack": 3})
        for n in range(10):
            for name, node in (("one", one), ("two", two)):
                assert await node.call(async_wait_until, "broadcast_optimization_update", "a", {"from": name, "n": n})
        sent = [{"from": name, "n": n} for n in range(10) for name in ("one", "two")]
        await async_wait_until(lambda: one.updates() == two.updates() == sent)

        async def two_has_read_all() -> bool:
            return bool((await seen_of_two())["lag"] == 0)

        # One that stands still falls behind, and catches up.
        await async_wait_until(two_has_read_all)  # stopped in the middle of a write, it would hold up all others
        two.process.send_signal(signal.SIGSTOP)
        assert await one.call(async_wait_until, "broadcast_optimization_update", "a", {"n": "late"})
        assert not await synchronized("two")
        behind = await seen_of_two()
        assert behind["lag"] >= 2
        assert behind["lag_seconds"] > 1.0
        two.process.send_signal(signal.SIGCONT)
        await async_wait_until(lambda: two.updates() == [*sent, {"n": "late"}])
        await async_wait_until(lambda: synchronized("two"))

        # One that is killed is missed, and waited for no more.
        two.process.kill()
        await async_wait_until(lambda: ["node_lost", "two"] in one.events)
        assert not (await seen_of_two())["living"]
        await async_wait_until(synchronized)
        assert not await synchronized("two")
        told = await one.call(async_wait_until, "get_sync_statistics")
        assert (told["active_nodes"], told["queue_size"]) == (1, 0)
        assert {node["node_id"] for node in told["nodes"] if node["expected"]} == {"three"}

        # Its next life hears what is published from then on.
        again = start("two")
        await async_wait_until(lambda: ["ready"] in again.events, 60)
        await async_wait_until(lambda: ["node_joined", "two"] in one.events)
        assert await one.call(async_wait_until, "broadcast_optimization_update", "a", {"n": "new"})
        await async_wait_until(lambda: again.updates() == [{"n": "new"}])
        await async_wait_until(lambda: one.updates() == [*sent, {"n": "late"}, {"n": "new"}])
        for node in (one, again):
            node.end_input()
            assert await asyncio.to_thread(node.process.wait, 60) == 0
        assert store.read(queries.nodes) == []


async def test_aggregators_delegate_to_their_synchronizers(
    open_aggregator: Callable[..., Awaitable[Any]], async_wait_until: Wait
) -> None:
    one, two = [await open_aggregator(sync_interval=0.5) for _ in range(2)]
    hold(one.store, "a")
    names = [node.synchronizer.node_id for node in (one, two)]
    assert names[0] != names[1]
    await async_wait_until(lambda: one.sync_optimization_state("a", names))
    assert await one.register_node("planned", {"rack": 1})
    lost: list[str] = []
    one.synchronizer.register_callback("node_lost", lambda node: lost.append(node["node_id"]))
    await two.stop()
    await async_wait_until(lambda: lost == [names[1]])
    await async_wait_until(lambda: one.sync_optimization_state("a"))
    told = await one.synchronizer.get_sync_statistics()
    assert (told["active_nodes"], told["total_nodes"]) == (1, 2)
