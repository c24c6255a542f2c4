"""Everything that goes wrong, for as long as one likes, on SQLite or PostgreSQL: `hour` asserts and returns figures.

Two aggregators work on one store. Now and then one of them is killed or stopped, its evaluations are killed, its clock
jumps, or its descriptors are used up; or their store is locked, out of space, cut off, silent, read-only or down. After
each blow every ledger must begin with what it was before, and in the end be the one of a run that nobody disturbed.
"""

from __future__ import annotations

import contextlib
import random
import resource
import signal
import sqlite3
import subprocess
import time
from collections import Counter
from collections.abc import Callable, Iterator
from datetime import datetime
from pathlib import Path
from typing import Any

import o9_testing
import zygote
from clock_shim import ClockShim
from control_chaos import Floor, assert_completed, floor, node_of, wait_for
from control_scenarios import Crowd, Postgres, assert_no_slot_lost
from o9_testing import PATIENCE
from postgres_proxy import PostgresProxy, proxied

from o9.model.errors import StoreUnavailableError
from o9.store import queries

LIMIT = 5
LEASE_SECONDS = 9.0
RENEWED_SECONDS = 8.0  # within which a node that is well renews its leases, and one that was hit is well
SHORT = 3.0  # no disturbance in which nobody dies is longer: a lease that runs out would be a death of another kind
DISK_MIB = 256
# What the product waits for, made short, so that an hour holds many of each.
FASTER = (
    '{"o9.store.core.postgres.ANSWER_SECONDS": 4.0, "o9.store.core.postgres.LOCK_SECONDS": 3.0, '
    '"o9.store.core.postgres.IDLE_SECONDS": 2.0}'
)


def hour(
    folder: Path, *, seconds: float, seed: int, steps: int = 30, postgres: Postgres | None = None
) -> dict[str, Any]:
    """`seconds` of blows to optimizations of `steps` each, then rest, until all has ended."""
    o9_testing.session_server()
    chance, began = random.Random(seed), time.monotonic()
    with contextlib.ExitStack() as stack:
        proxy = stack.enter_context(proxied(postgres.new_url())) if postgres else None
        disk = None if postgres else stack.enter_context(small_disk(folder / "disk"))
        url = proxy.url if proxy else str((disk or folder) / "store.db")
        environment = {"O9_LEASE_SECONDS": str(LEASE_SECONDS), "CHAOS_SET": FASTER}
        one = stack.enter_context(floor(folder / "floor", limit=LIMIT, url=url, **environment))
        blows = Blows(one, chance, postgres, proxy, disk)
        crowd = Crowd(one, steps, chance)
        until = time.monotonic() + seconds
        while time.monotonic() < until:
            wait_for_store(lambda: crowd.fill(LIMIT + 1))
            blows.strike()
            time.sleep(chance.uniform(0.0, 1.0))
            wait_for_store(crowd.look)
        one.wait_ended(seconds=120.0)
        wait_for_store(lambda: assert_no_slot_lost(one, LIMIT))
        states = one.states()
        assert_completed(states)
        assert {name for name in states if not name.startswith("fresh")} == set(crowd.kind_of)
        crowd.assert_undisturbed()
        deaths = sum(held.deaths for name in crowd.kind_of if (held := one.store.read(queries.holding, name)))
        for worker in blows.workers:
            one.wait_ready(worker)
            one.stop(worker)
        assert one.store.read(queries.nodes) == []
        assert one.store.check() == []
        return {
            "seed": seed, "database": "postgresql" if postgres else "sqlite", "optimizations": len(states),
            "seconds": round(time.monotonic() - began), "blows": dict(sorted(blows.struck.items())),
            "lives taken": blows.lives, "deaths": deaths,
        }  # fmt: skip


def wait_for_store(do: Callable[[], Any]) -> None:
    """Until the store is back: this process is at the same end of the network as the aggregators."""
    deadline = time.monotonic() + 60.0
    while True:
        try:
            do()
            return
        except StoreUnavailableError:
            assert time.monotonic() < deadline, "the store does not come back"
            time.sleep(0.1)


@contextlib.contextmanager
def small_disk(path: Path) -> Iterator[Path | None]:
    """A disk of DISK_MIB; None where this user may mount none."""
    path.mkdir(parents=True)
    mounted = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", f"size={DISK_MIB}m", "tmpfs", str(path)], capture_output=True, check=False
    )
    if mounted.returncode:
        yield None
        return
    try:
        yield path
    finally:
        subprocess.run(["umount", "--lazy", str(path)], check=True)


class Blows:
    """What can happen to two aggregators and their store. Each is over when its method returns."""

    def __init__(
        self, one: Floor, chance: random.Random, postgres: Postgres | None, proxy: PostgresProxy | None,
        disk: Path | None,
    ) -> None:  # fmt: skip
        self.struck: Counter[str] = Counter()
        self.lives = 0
        self._floor = one
        self._clocks = [ClockShim(one.folder, f"clock-{n}") for n in range(2)]
        self.workers = [self._aggregator(n) for n in range(2)]
        for worker in self.workers:
            one.wait_ready(worker)
        self._chance = chance
        self._postgres = postgres
        self._disk = disk
        self._blows: list[Callable[[], None]] = [
            self.kill,
            self.kill_evaluations,
            self.stop,
            self.use_up_descriptors,
            self.step_a_clock,
        ]
        if postgres is not None and proxy is not None:
            self._proxy, self._postgres = proxy, postgres
            self._blows += [
                self.cut, self.lose_an_answer, self.swallow, self.take_no_writes, self.go_down,
            ]  # fmt: skip
        else:
            self._blows += [self.lock, *([self.fill_the_disk] if disk else [])]
        self._next: list[Callable[[], None]] = []

    def strike(self) -> None:
        """One of them; each comes as often as the others."""
        if not self._next:
            self._next = self._chance.sample(self._blows, len(self._blows))
        blow = self._next.pop()
        with (self._floor.folder / "log").open("a") as log:
            print(f"{datetime.now():%H:%M:%S.%f} --- {blow.__name__}", file=log)
        blow()
        self.struck[blow.__name__] += 1
        for worker in self.workers:
            assert worker.poll() is None, f"it ended after {blow.__name__}\n{self._floor.log()}"
            self._floor.wait_ready(worker)  # one that starts without its store ends, and says why
        wait_for_store(self._wait_renewed)
        wait_for_store(lambda: self._assert_no_life_lost(blow.__name__))

    def _wait_renewed(self) -> None:
        """Two blows to one lease would be a death of another kind; and whoever was hit must be well again."""
        before, ours = self._heartbeats(), [node_of(worker) for worker in self.workers]
        wait_for(
            lambda: (now := self._heartbeats()) and all(now[node] != before.get(node) for node in ours),
            RENEWED_SECONDS * PATIENCE, "a renewal of each node's leases",
        )  # fmt: skip

    def _heartbeats(self) -> dict[str, float]:
        return {node["node_id"]: node["heartbeat_at"] for node in self._floor.store.read(queries.nodes)}

    def _assert_no_life_lost(self, blow: str) -> None:
        [(deaths,)] = self._floor.rows("SELECT sum(deaths) FROM optimization")
        assert (deaths or 0) <= self.lives, f"{deaths} lives were lost by {blow}, and {self.lives} were taken"

    # The processes

    def kill(self) -> None:
        which = self._chance.randrange(2)
        worker = self.workers[which]
        time.sleep(self._chance.uniform(0.0, 2.0))
        worker.send_signal(signal.SIGSTOP)
        node = node_of(worker)
        found = ((name, self._floor.store.read(queries.holding, name)) for name in self._floor.states())
        held = [name for name, holding in found if holding is not None and holding.lease_node == node]
        self.lives += len(held)
        assert self._floor.kill(worker)
        self.workers[which] = self._aggregator(which)

    def kill_evaluations(self) -> None:
        self._floor.kill_children(self.workers)

    def stop(self) -> None:
        """Wherever it is: also in the middle of a transaction."""
        worker = self._chance.choice(self.workers)
        worker.send_signal(signal.SIGSTOP)
        try:
            self._pause()
        finally:
            worker.send_signal(signal.SIGCONT)

    def use_up_descriptors(self) -> None:
        worker = self._chance.choice(self.workers)
        limits = resource.prlimit(worker.pid, resource.RLIMIT_NOFILE)
        resource.prlimit(worker.pid, resource.RLIMIT_NOFILE, (3, limits[1]))
        try:
            self._pause()
        finally:
            resource.prlimit(worker.pid, resource.RLIMIT_NOFILE, limits)

    def step_a_clock(self) -> None:
        """It stays wrong until its next step."""
        self._chance.choice(self._clocks).jump(self._chance.choice([-3600, -60, 0, 60, 3600]))

    def _aggregator(self, which: int) -> zygote.Process:
        return self._floor.aggregator(**self._clocks[which].environment)

    # SQLite

    def lock(self) -> None:
        with contextlib.closing(sqlite3.connect(self._floor.url, timeout=60, isolation_level=None)) as other:
            other.execute("BEGIN IMMEDIATE")
            self._pause()
            other.execute("ROLLBACK")

    def fill_the_disk(self) -> None:
        assert self._disk is not None
        filler = self._disk / "filler"
        with contextlib.suppress(OSError), filler.open("wb", buffering=0) as file:
            while True:
                file.write(bytes(65536))
        try:
            self._pause()
        finally:
            filler.unlink()

    # PostgreSQL

    def cut(self) -> None:
        self._proxy.cut()

    def lose_an_answer(self) -> None:
        before = self._proxy.commits_cut
        self._proxy.cut_at_commit = "after"
        wait_for(lambda: self._proxy.commits_cut > before, what="a commit")

    def swallow(self) -> None:
        self._proxy.swallows = True
        try:
            self._pause()
        finally:
            self._proxy.swallows = False
            self._proxy.cut()  # what was swallowed does not come any more

    def take_no_writes(self) -> None:
        assert self._postgres is not None
        self._postgres.set("default_transaction_read_only", "on")
        try:
            self._pause()
        finally:
            self._postgres.set("default_transaction_read_only", "off")

    def go_down(self) -> None:
        assert self._postgres is not None
        self._postgres.down()
        self._pause()
        self._postgres.up()

    def _pause(self) -> None:
        time.sleep(self._chance.uniform(0.2, SHORT))
