"""The contract of control: intents, limits, the order of the queue, and dependencies. See `contract` for its use."""

from __future__ import annotations

import asyncio
import math
import threading
from collections import Counter
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Any

from contract_runs import RunContract
from contract_steps import OpenStore, at_work, new, put, record_of, refused, status_of, sweep, trial
from contract_work import in_threads
from sqlalchemy import select

from o9.model.errors import OptimizationCoordinationError, OptimizationStateError, OptimizationValidationError
from o9.model.states import Intent, OptimizationPriority, OptimizationStatus, OptimizationType
from o9.store import queries
from o9.store.core.column_types import moment
from o9.store.core.unit import Operation, UnitOfWork
from o9.store.optimizations.commit_step import CommitStep
from o9.store.optimizations.intents import SetIntent
from o9.store.optimizations.transitions import Cause, Create, Transition
from o9.store.queue.claims import DEFAULT_LIMIT, AbandonClaim, Claim, Claimed, Heartbeat, Leave, Sweep
from o9.store.queue.policies import ALL, LIMIT, SetPolicy
from o9.store.schema.optimizations import OPTIMIZATION
from o9.store.store import Store

S = OptimizationStatus
TUNING, RISK = OptimizationType.PARAMETER_TUNING, OptimizationType.RISK_OPTIMIZATION
START = datetime(2026, 1, 1, tzinfo=UTC)


class IntentContract:
    """Intents and their history."""

    def test_each_intent_is_recorded_with_author_and_time(self, open_store: OpenStore) -> None:
        store, other = open_store(), open_store()
        at_work(store, "a")
        for intent, by in [(Intent.PAUSE, "ann"), (Intent.PAUSE, "bob"), (Intent.RUN, "bob"), (Intent.CANCEL, "z\0")]:
            assert store.write(SetIntent("a", intent, by)) is S.RUNNING
        for wanted in (Intent.RUN, Intent.TIME_OUT):
            with refused(OptimizationStateError, "'a'", "cancel"):
                store.write(SetIntent("a", wanted, "ann"))
        asked = other.read(queries.intents, "a")
        assert [(row["intent"], row["by"]) for row in asked] == [
            ("pause", "ann"),
            ("run", "bob"),
            ("cancel", "z\ufffd"),
        ]
        assert [row["at"] for row in asked] == sorted(row["at"] for row in asked)
        assert [row["kind"] for row in other.read(queries.changes, 0)].count("intent") == 3
        store.write(Transition("a", S.CANCELLED, Cause.HOOK))
        before = record_of(store, "a")
        assert store.write(SetIntent("a", Intent.CANCEL, "ann")) is S.CANCELLED  # the requested end came
        with refused(OptimizationStateError, "cancelled", "o9 retry"):
            store.write(SetIntent("a", Intent.TIME_OUT, "ann"))
        assert (record_of(store, "a"), store.read(queries.intents, "a")) == (before, asked)

    def test_an_optimization_without_an_attempt_is_moved_at_once(self, open_store: OpenStore) -> None:
        store = open_store()
        intents = [
            (Intent.PAUSE, S.PAUSED), (Intent.RUN, S.CREATED), (Intent.PAUSE, S.PAUSED), (Intent.TIME_OUT, S.TIMEOUT),
        ]  # fmt: skip
        put(store, "a")
        for intent, status in intents:
            assert store.write(SetIntent("a", intent, "ann")) is status is status_of(store, "a")
            last = store.read(queries.transitions, "a")[-1]
            assert (last["cause"], last["to_status"]) == ("person", status.value)
            assert "ann" in last["message"]
        assert len(store.read(queries.intents, "a")) == len(intents)

    def test_a_held_optimization_is_queued_when_it_is_started(self, open_store: OpenStore) -> None:
        store = open_store()
        held = Create(new("held", priority=OptimizationPriority.CRITICAL), hold=True)
        store.write(At(held, START))
        assert store.write(Claim("node", 9, 60.0)) is None
        with refused(OptimizationCoordinationError, "'held'", "hold", "o9 start"):
            store.write(Claim("node", 9, 60.0, "held"))
        put(store, "queued", priority=OptimizationPriority.CRITICAL)
        with refused(OptimizationStateError, "pause it instead"):
            store.write(SetIntent("queued", Intent.HOLD, "ann"))
        assert store.write(SetIntent("held", Intent.RUN, "ann")) is S.CREATED
        assert claim_all(store) == ["queued", "held"]  # it has waited since its start, not since its creation

    def test_a_sweep_skips_leases_renewed_since(self, open_store: OpenStore) -> None:
        store = open_store()
        for key, node in [("late", "node-1"), ("dead", "node-2"), ("lost", "node-4"), ("again", "node-5")]:
            put(store, key)
            store.write(Claim(node, 9, -1.0, key))
        at_work(store, "alive")
        leases = store.read(queries.leases)
        assert {lease.optimization_id for lease in leases.run_out} == {"late", "dead", "lost", "again"}
        assert {(lease.optimization_id, lease.node, lease.fence) for lease in set(leases.held) - {*leases.run_out}} == {
            ("alive", "node-1", 1)
        }
        assert store.write(Sweep("node-3", dead_nodes=("node-2",))) == ["dead"]
        assert store.write(AbandonClaim("again", 1, "node-5"))
        store.write(Claim("node-5", 9, -1.0, "again"))
        store.write(Heartbeat("node-1", "host", 1, 1.0, 600.0))
        assert store.write(Sweep("node-3", run_out=leases.run_out)) == ["lost"]
        holding = store.read(queries.holding, "late")
        assert holding is not None
        assert (holding.lease_node, holding.fence) == ("node-1", 1)
        assert [lease.optimization_id for lease in store.read(queries.leases).run_out] == ["again"]


class LimitContract:
    """How many may run, and in which order."""

    def test_concurrent_claims_never_exceed_a_limit(self, open_store: OpenStore) -> None:
        handles = [open_store(), open_store()]
        limits = {ALL: 5, TUNING.value: 2, "x": 2, "y": 2}
        for name, limit in limits.items():
            handles[0].write(SetPolicy(name, {LIMIT: limit}))
        for n in range(36):
            kind, strategy = (TUNING, RISK)[n % 2], "xyz"[n % 3]
            put(handles[0], f"a{n}", optimization_type=kind, metadata={"strategy": strategy})
        done: list[str] = []
        most: Counter[str] = Counter()
        lock = threading.Lock()

        def work(store: Store, node: str) -> None:
            while len(done) < 36:
                claimed, counts = store.write(CountedClaim(Claim(node, 6, 600.0)))
                with lock:
                    for name, count in counts.items():
                        most[name] = max(most[name], count)
                if claimed is not None:
                    for status in (S.INITIALIZING, S.FAILED):
                        store.write(Transition(claimed.optimization_id, status, Cause.HOOK, fence=claimed.fence))
                    done.append(claimed.optimization_id)

        in_threads([(work, handles[n % 2], f"node-{n}") for n in range(8)])
        assert sorted(done) == sorted(f"a{n}" for n in range(36))
        assert not {name: most[name] for name, limit in limits.items() if most[name] > limit}

    def test_reached_limits_hold(self, open_store: OpenStore) -> None:
        store, other = open_store(), open_store()
        for name, limit in {ALL: 5, TUNING.value: 2, "x": 2}.items():
            store.write(SetPolicy(name, {LIMIT: limit}))
        for n in range(24):
            kind, strategy = (TUNING, RISK)[n % 2], "xy"[n // 2 % 2]
            put(store, f"a{n:02}", optimization_type=kind, metadata={"strategy": strategy})
        # Strategies alternate x, x, y, y and types tuning, risk: x is full after two, so is tuning, and all after five.
        assert claim_all(other, limit=9) == ["a00", "a01", "a02", "a03", "a07"]
        for name in (ALL, TUNING.value):
            store.write(SetPolicy(name))
        assert claim_all(other, limit=9) == ["a06", "a10", "a11", "a14"]  # x is still full, and the limit is nine
        assert claim_all(other, limit=8) == []

    def test_the_living_nodes_announce_the_limit(self, open_store: OpenStore) -> None:
        store = open_store()
        for n in range(DEFAULT_LIMIT + 5):
            put(store, f"a{n}")
        store.write(Heartbeat("wide", "host", 1, 1.0, 60.0, {"limit": 4}))
        store.write(Heartbeat("tight", "host", 2, 1.0, 60.0, {"limit": 2}))
        assert len(claim_all(store, limit=None)) == 2
        store.write(Leave("tight"))
        assert len(claim_all(store, limit=None)) == 2
        store.write(Leave("wide"))
        assert len(claim_all(store, limit=None)) == DEFAULT_LIMIT - 4
        store.write(SetPolicy(ALL, {LIMIT: DEFAULT_LIMIT + 5}))  # a policy only narrows
        assert claim_all(store, limit=None) == []

    def test_a_policy_is_validated_replaced_and_removed(self, open_store: OpenStore) -> None:
        store, other = open_store(), open_store()
        kept = {LIMIT: 3, "timeout_seconds": 0.5, "max_attempts": 2}
        store.write(SetPolicy("x", {LIMIT: 1}))
        store.write(SetPolicy("x", kept))
        for key in kept:
            for value in (0, -1, True, "3", math.nan, math.inf, [1]):
                with refused(OptimizationValidationError, f"config.{key}", repr(value)):
                    store.write(SetPolicy("x", {key: value}))
        for key in (LIMIT, "max_attempts"):
            with refused(OptimizationValidationError, f"config.{key}", "1.5", "whole number"):
                store.write(SetPolicy("x", {key: 1.5}))
        with refused(OptimizationValidationError, "config.max_concurrent", LIMIT):
            store.write(SetPolicy("x", {"max_concurrent": 1}))
        nameless: Any = None
        for name in ("", "  ", nameless):
            with refused(OptimizationValidationError, "name"):
                store.write(SetPolicy(name, {LIMIT: 1}))
        nothing: Any = [1]
        with refused(OptimizationValidationError, "config", "list"):
            store.write(SetPolicy("x", nothing))
        assert other.read(queries.policies) == {"x": kept}
        store.write(SetPolicy("x", {LIMIT: None, "max_attempts": 5}))
        assert other.read(queries.policies) == {"x": {"max_attempts": 5}}
        store.write(SetPolicy("x"))
        store.write(SetPolicy("never there"))
        assert other.read(queries.policies) == {}

    def test_a_full_strategy_does_not_block_others(self, open_store: OpenStore) -> None:
        store = open_store()
        store.write(SetPolicy("x", {LIMIT: 1}))
        queue = [
            ("x-old", "x", 4), ("x-new", "x", 4), ("y-low", "y", 1), ("z", "z", 3), ("y", "y", 2), ("x-high", "x", 3),
        ]  # fmt: skip
        for name, strategy, priority in queue:
            put(store, name, priority=OptimizationPriority(priority), metadata={"strategy": strategy})
        assert claim_all(store) == ["x-old", "z", "y", "y-low"]
        for finished, following in [("x-old", ["x-new"]), ("y", []), ("x-new", ["x-high"])]:
            store.write(Transition(finished, S.FAILED, Cause.HOOK))
            assert claim_all(store) == following

    def test_the_lowest_priority_is_not_starved(self, open_store: OpenStore) -> None:
        """With one slot and a critical one each minute, the low one is claimed after 30 minutes."""
        store = open_store()
        store.write(At(Create(new("low", priority=OptimizationPriority.LOW)), START))
        for minute in range(60):
            created = Create(new(f"critical-{minute}", priority=OptimizationPriority.CRITICAL))
            store.write(At(created, START + timedelta(minutes=minute, seconds=1)))
            claimed = store.write(Claim("node", 1, 600.0))
            assert claimed is not None
            if claimed.optimization_id == "low":
                break
            store.write(Transition(claimed.optimization_id, S.FAILED, Cause.HOOK))
        assert minute == 30

    def test_a_node_whose_clock_is_an_hour_off(self, open_store: OpenStore) -> None:
        """Only the place of what it queues is off by an hour, or six levels of priority; leases use one clock."""
        store = open_store()
        now = datetime.now(UTC)
        hour = timedelta(hours=1)
        store.write(At(Create(new("ahead", priority=OptimizationPriority.CRITICAL)), now + hour))
        put(store, "low", priority=OptimizationPriority.LOW)
        put(store, "critical", priority=OptimizationPriority.CRITICAL)
        store.write(At(Create(new("behind", priority=OptimizationPriority.LOW)), now - hour))
        order: list[str] = []
        for drift in (hour, -hour, hour, -hour):
            claimed = store.write(At(Claim("node-1", 9, 60.0), now + drift))
            assert claimed is not None
            name, fence = claimed.optimization_id, claimed.fence
            order.append(name)
            assert store.read(queries.leases).run_out == ()  # by the database's clock
            store.write(At(Heartbeat("node-1", "host", 1, 1.0, 60.0), now - drift))
            # The node's clock jumps during the run.
            for status in (S.INITIALIZING, S.RUNNING):
                store.write(At(Transition(name, status, Cause.HOOK, fence=fence), now + drift))
            store.write(At(CommitStep(name, fence, 0, [trial(0)], {}), now - drift))
            store.write(At(Transition(name, S.COMPLETED, Cause.HOOK, fence=fence), now - drift))
            state = store.read(queries.get, name)
            assert state is not None
            assert (state.status, state.execution_time) == (S.COMPLETED, 0.0 if drift > timedelta(0) else 7200.0)
        assert order == ["behind", "critical", "low", "ahead"]
        put(store, "lost")
        assert store.write(At(Claim("node-1", 9, -1.0), now + hour)) is not None
        assert sweep(store, "node-2") == ["lost"]


class DependencyContract:
    """`metadata["after"]`."""

    def test_a_chain_and_a_diamond_run_in_order(self, open_store: OpenStore) -> None:
        store, other = open_store(), open_store()
        #      chain: a, b, c       diamond: d, (e, f), g
        for name, after in [("a", ""), ("b", "a"), ("c", "b"), ("d", ""), ("e", "d"), ("f", "d"), ("g", "ef")]:
            put(store, name, priority=OptimizationPriority.CRITICAL, metadata={"after": list(after)} if after else {})
        with refused(OptimizationCoordinationError, "'g'", "waits for 2"):
            store.write(Claim("node", 9, 60.0, "g"))
        seen = []
        while names := claim_all(other):
            seen.append(names)
            for name in names:
                for status in (S.INITIALIZING, S.RUNNING, S.COMPLETED):
                    store.write(Transition(name, status, Cause.HOOK))
        assert seen == [["a", "d"], ["b", "e", "f"], ["c", "g"]]

    def test_a_dependent_is_queued_when_its_dependencies_complete(self, open_store: OpenStore) -> None:
        store = open_store()
        at_work(store, "a")
        store.write(At(Create(new("late", metadata={"after": ["a"]})), START))
        store.write(At(Create(new("between")), START + timedelta(minutes=1)))
        store.write(At(Transition("a", S.COMPLETED, Cause.HOOK), START + timedelta(minutes=2)))
        store.write(At(Create(new("last")), START + timedelta(minutes=3)))
        assert claim_all(store) == ["between", "late", "last"]

    def test_a_failure_cancels_all_dependents(self, open_store: OpenStore) -> None:
        for end in (S.FAILED, S.CANCELLED, S.TIMEOUT):
            store = open_store()

            def named(name: str, end: S = end) -> str:
                return f"{end.value}-{name}"

            for name, after in [
                ("a", ""),
                ("b", "a"),
                ("c", "b"),
                ("d", "ac"),
                ("held", "a"),
                ("rests", "b"),
                ("o", ""),
            ]:
                state = new(named(name), metadata={"after": [named(other) for other in after]} if after else {})
                store.write(Create(state, hold=name == "held"))
            store.write(SetIntent(named("rests"), Intent.PAUSE, "ann"))
            store.write(Transition(named("a"), end, Cause.HOOK))
            for name, cause in [("b", "a"), ("c", "b"), ("d", "ac"), ("held", "a"), ("rests", "b")]:
                state = store.read(queries.get, named(name)) or state
                assert state.status is S.CANCELLED
                [issue] = state.issues
                assert any(f" {named(other)}, " in issue for other in cause)
                last = store.read(queries.transitions, named(name))[-1]
                assert (last["cause"], last["message"]) == ("dependency", issue)
            assert status_of(store, named("o")) is S.CREATED
            assert claim_all(store) == [named("o")]

    async def test_a_chain_may_be_long(self, open_store: OpenStore) -> None:
        store = open_store()
        put(store, "a0")
        chain = [new(f"a{n}", metadata={"after": [f"a{n - 1}"]}) for n in range(1, 500)]
        await asyncio.gather(*(store.write_async(Create(state)) for state in chain))
        store.write(Transition("a0", S.FAILED, Cause.HOOK))
        counts = {str(row["status"]): row["count"] for row in store.read(queries.counts)}
        assert counts == {"cancelled": 499, "failed": 1}
        assert "a498" in store.read(queries.transitions, "a499")[-1]["message"]

    def test_dependencies_that_have_ended_or_are_unknown(self, open_store: OpenStore) -> None:
        store = open_store()
        for name, end in [("good", S.COMPLETED), ("bad", S.FAILED)]:
            at_work(store, name)
            store.write(Transition(name, end, Cause.HOOK))
        put(store, "ready", metadata={"after": ["good"]})
        put(store, "forsaken", metadata={"after": ["good", "bad"]})
        assert claim_all(store) == ["ready"]
        state = store.read(queries.get, "forsaken")
        assert state is not None
        assert state.status is S.CANCELLED
        assert " bad," in state.issues[0]
        before = store.read(queries.last_change)
        with refused(OptimizationValidationError, "metadata.after", "'ghost'"):
            put(store, "lost", metadata={"after": ["good", "ghost"]})
        with refused(OptimizationValidationError, "metadata.after", "'self'"):
            put(store, "self", metadata={"after": ["self"]})
        assert (store.read(queries.get, "lost"), store.read(queries.get, "self"), store.read(queries.last_change)) == (
            None,
            None,
            before,
        )

    def test_a_repeated_dependency_counts_once(self, open_store: OpenStore) -> None:
        store = open_store()
        at_work(store, "a")
        for name, others in [("twice", ["a", "a"]), ("held", ["a"]), ("rests", ["a"]), ("over", ["a"])]:
            store.write(Create(new(name, metadata={"after": others}), hold=name == "held"))
        store.write(SetIntent("rests", Intent.PAUSE, "ann"))
        store.write(SetIntent("over", Intent.CANCEL, "ann"))
        over = store.read(queries.transitions, "over")
        store.write(Transition("a", S.COMPLETED, Cause.HOOK))
        assert claim_all(store) == ["twice"]
        for name in ("held", "rests"):
            assert store.write(SetIntent(name, Intent.RUN, "ann")) is S.CREATED
        assert claim_all(store) == ["held", "rests"]
        assert store.read(queries.transitions, "over") == over


class ControlContract(IntentContract, LimitContract, DependencyContract, RunContract):
    """Control and runs."""


@dataclass(frozen=True)
class At:
    """An operation of a node whose clock shows `now`."""

    operation: Operation[Any]
    now: datetime

    @property
    def targets(self) -> tuple[str, ...]:
        return self.operation.targets

    def apply(self, unit: UnitOfWork) -> Any:
        true_time, unit.now = unit.now, moment(self.now)
        try:
            return self.operation.apply(unit)
        finally:
            unit.now = true_time


@dataclass(frozen=True)
class CountedClaim:
    """A claim that counts the leases after it, in its transaction: all, by type and by strategy."""

    claim: Claim
    targets: tuple[str, ...] = ()

    def apply(self, unit: UnitOfWork) -> tuple[Claimed | None, Counter[str]]:
        claimed = self.claim.apply(unit)
        unit.flush()
        columns = OPTIMIZATION.c.optimization_type, OPTIMIZATION.c.strategy
        counts: Counter[str] = Counter()
        for held in unit.connection.execute(select(*columns).where(OPTIMIZATION.c.lease_node.is_not(None))):
            counts.update([ALL, *held])
        return claimed, counts


def claim_all(store: Store, *, limit: int | None = 100) -> list[str]:
    """Claim all that can be claimed, and return the ids in order."""
    names: list[str] = []
    while claimed := store.write(Claim("node", limit, 600.0)):
        names.append(claimed.optimization_id)
    return names
