"""The part of the contract that is about work: the ledger, claims and leases, the sweep, and Prefect's states.

See `contract` for how to run it.
"""

from __future__ import annotations

import math
import struct
import threading
import uuid
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime, timedelta
from typing import Any

from contract_steps import OpenStore, at_work, intent_of, put, record_of, refused, status_of, sweep, trial

from o9.model.errors import (
    OptimizationCoordinationError,
    OptimizationError,
    OptimizationStateError,
    OptimizationStoreError,
    OptimizationValidationError,
    StaleAttemptError,
)
from o9.model.states import Decision, Intent, OptimizationPriority, OptimizationStatus, TransitionReason, TrialState
from o9.store import queries
from o9.store.core.unit import Operation
from o9.store.optimizations.commit_step import Amend, CommitStep
from o9.store.optimizations.intents import SetIntent
from o9.store.optimizations.transitions import Cause, RecordPrefectState, Transition
from o9.store.queue.claims import AbandonClaim, Claim, Claimed, Heartbeat, Leave, Sweep
from o9.store.queue.order import queue_key
from o9.store.store import Store

S = OptimizationStatus
AWKWARD = (5e-324, 2.2250738585072014e-308, 1e308, -1.7976931348623157e308, 0.1 + 0.2, 1 / 3, 1e16 + 2, 1.0)


class LedgerContract:
    """Steps, trials and amendments."""

    def test_a_step_is_written_whole(self, open_store: OpenStore) -> None:
        store, other = open_store(), open_store()
        fence = at_work(store, "a", total_steps=4).fence
        started = datetime(2026, 1, 1, 12, 0, 0, 5, tzinfo=UTC)
        good = trial(
            0, metrics={"turnover": 3.1, "bad": math.nan}, started_at=started, duration_seconds=0.25, family="f"
        )
        bad = trial(1, state=TrialState.FAILED, value=None, error="ZeroDivisionError: x\0y\ud800")
        answer = store.write(CommitStep(
            "a", fence, 0, [good, bad], {"seen": [1]}, {"best": 2.5, "no": math.inf}, "1/4", 2.5, 0.5, {"x": 0},
            cpu_usage=150.5, memory_usage=64.0,
        ))  # fmt: skip
        assert (answer.intent, answer.completed_steps) == (Intent.RUN, 1)
        state = other.read(queries.get, "a")
        assert state is not None
        assert (state.progress, state.completed_steps, state.current_step) == (0.25, 1, "1/4")
        assert (state.current_performance, state.performance_improvement) == (2.5, 0.5)
        assert (state.cpu_usage, state.memory_usage) == (150.5, 64.0)
        assert (state.optimized_parameters, state.metrics) == ({"x": 0}, {"best": 2.5})
        first, second = other.read(queries.trials, "a")
        assert (first.metrics, first.started_at, first.duration_seconds) == ({"turnover": 3.1}, started, 0.25)
        assert (first.family, first.attempt, second.state, second.value) == ("f", 1, TrialState.FAILED, None)
        assert second.error is not None
        assert second.error.startswith("ZeroDivisionError: x")
        assert other.read(queries.trial_counts, "a") == {"completed": 1, "failed": 1}
        assert other.read(queries.checkpoint, "a") == {"seen": [1]}
        assert [(row["name"], row["step"], row["value"]) for row in other.read(queries.metrics, "a")] == [
            ("best", 0, 2.5)
        ]
        assert other.read(queries.changes, 0)[-1]["kind"] == "step"

    def test_steps_come_in_order_and_once(self, open_store: OpenStore) -> None:
        store = open_store()
        fence = at_work(store, "a").fence
        for step in range(3):
            before = record_of(store, "a")
            for wrong in {0, step - 1, step + 1, step + 7} - {step}:
                with refused(OptimizationStateError, f"step {wrong}", f" {step}"):
                    store.write(CommitStep("a", fence, wrong, [trial(99)], {}))
            assert record_of(store, "a") == before
            store.write(CommitStep("a", fence, step, [trial(step, step=step)], {"at": step}, {"m": step}))
        assert [store.read(queries.checkpoint, "a", step) for step in (0, 1, 2, 3, None)] == [
            {"at": 0}, {"at": 1}, {"at": 2}, None, {"at": 2},
        ]  # fmt: skip
        assert [t.number for t in store.read(queries.trials, "a", after=0, limit=1)] == [1]
        assert [row["step"] for row in store.read(queries.metrics, "a", limit=2)] == [1, 2]

    def test_a_trial_number_is_there_once(self, open_store: OpenStore) -> None:
        store = open_store()
        fence = at_work(store, "a").fence
        store.write(CommitStep("a", fence, 0, [trial(0)], {}))
        before = record_of(store, "a")
        with refused(OptimizationStoreError):
            store.write(CommitStep("a", fence, 1, [trial(1), trial(0)], {"half": True}, {"m": 1.0}))
        assert record_of(store, "a") == before
        store.write(CommitStep("a", fence, 1, [trial(1)], {}))

    def test_numbers_read_back_bit_for_bit(self, open_store: OpenStore) -> None:
        """Except the sign of zero in values and metrics, which SQLite does not keep."""
        store, other = open_store(), open_store()
        fence = at_work(store, "a").fence
        trials = [
            trial(n, value=value, parameters={"x": value, "zero": -0.0, "参数🚀": "é\u0000\u2028", "big": 2**63 - 1})
            for n, value in enumerate(AWKWARD)
        ]
        returns = (*AWKWARD, -0.0, 0.0, math.inf, -math.inf, math.nan, struct.unpack("<d", b"\1\0\0\0\0\0\xf8\x7f")[0])
        trials.append(trial(len(AWKWARD), value=-0.0, returns=returns, periods_per_year=252.0))
        store.write(CommitStep("a", fence, 0, trials, {"rng": list(AWKWARD), "zero": -0.0}, {"m": 5e-324}))
        read = other.read(queries.trials, "a")
        assert [bits(t.value) for t in read] == [bits(value) for value in (*AWKWARD, 0.0)]
        assert repr([t.parameters for t in read]) == repr([t.parameters for t in trials])
        assert repr(other.read(queries.checkpoint, "a")) == repr({"rng": list(AWKWARD), "zero": -0.0})
        assert other.read(queries.metrics, "a")[0]["value"] == 5e-324
        last = other.read(queries.trial, "a", len(AWKWARD))
        assert last is not None
        assert last.returns is not None
        assert [bits(value) for value in last.returns] == [bits(value) for value in returns]
        assert last.periods_per_year == 252.0
        assert other.read(queries.trial, "a", 99) is None

    def test_a_performance_must_be_finite(self, open_store: OpenStore) -> None:
        store = open_store()
        fence = at_work(store, "a").fence
        before = record_of(store, "a")
        for value in (math.nan, math.inf, -math.inf):
            with refused(OptimizationValidationError, "performance"):
                store.write(CommitStep("a", fence, 0, [], {}, performance=value))
            with refused(OptimizationValidationError, "improvement"):
                store.write(CommitStep("a", fence, 0, [], {}, improvement=value))
        assert record_of(store, "a") == before

    def test_each_acknowledgement_carries_the_intent(self, open_store: OpenStore) -> None:
        store, other = open_store(), open_store()
        fence = at_work(store, "a").fence
        for step, intent in enumerate((Intent.PAUSE, Intent.RUN, Intent.CANCEL)):
            other.write(SetIntent("a", intent, "ann"))
            assert store.write(CommitStep("a", fence, step, [], {})).intent is intent
            assert store.write(Amend("a", {"progress": 0.1}, fence)).intent is intent

    def test_amendments(self, open_store: OpenStore) -> None:
        store = open_store()
        fence = at_work(store, "a").fence
        changes: dict[str, Any] = {
            "progress": 0.5, "current_step": "halb 🚀", "results": {"sharpe": 1.2}, "issues": ["ä"], "cpu_usage": 7,
        }  # fmt: skip
        store.write(Amend("a", changes, fence))
        state = store.read(queries.get, "a")
        assert state is not None
        assert {name: getattr(state, name) for name in changes} == changes
        before = record_of(store, "a")
        for wrong in ({"status": "completed"}, {"optimization_id": "b"}, {"fence": 9}):
            with refused(OptimizationStateError, *wrong):
                store.write(Amend("a", {"progress": 0.6} | wrong, fence))
        for field, value in [("progress", "x"), ("progress", math.nan), ("results", {1: 2}), ("metrics", {"a": {1}})]:
            with refused(OptimizationValidationError, field):
                store.write(Amend("a", {"current_step": "new", field: value}))
        assert record_of(store, "a") == before

    def test_an_attempt_that_was_replaced_writes_nothing(self, open_store: OpenStore) -> None:
        store, other = open_store(), open_store()
        old = at_work(store, "a", lease_seconds=-1.0)
        assert sweep(other, "node-2") == ["a"]
        with refused(StaleAttemptError, str(old.fence)):  # from the sweep on, before the next claim
            store.write(Transition("a", S.INITIALIZING, Cause.HOOK, fence=old.fence))
        taken = other.write(Claim("node-2", 5, 600.0))
        assert taken is not None
        assert (taken.attempt, taken.fence > old.fence) == (2, True)
        for status in (S.INITIALIZING, S.RUNNING):
            other.write(Transition("a", status, Cause.HOOK, fence=taken.fence))
        before = record_of(store, "a")
        late: list[Operation[Any]] = [
            CommitStep("a", old.fence, 0, [trial(0)], {}),
            Amend("a", {"progress": 0.9}, old.fence),
            Transition("a", S.COMPLETED, Cause.HOOK, fence=old.fence),
        ]
        for operation in late:
            with refused(StaleAttemptError, "'a'", str(old.fence)):
                store.write(operation)
        assert store.write(AbandonClaim("a", old.fence, "node-1")) is False
        assert record_of(store, "a") == before

    def test_an_attempt_that_was_stopped_commits_nothing(self, open_store: OpenStore) -> None:
        store = open_store()
        fence = at_work(store, "a").fence
        store.write(Transition("a", S.CANCELLED, Cause.PERSON))
        with refused(StaleAttemptError, "cancelled"):
            store.write(CommitStep("a", fence, 0, [trial(0)], {}))
        assert store.read(queries.trials, "a") == []


class LeaseContract:
    """Claims, heartbeats, the sweep, and Prefect states."""

    def test_the_queue_goes_by_priority_and_age(self, open_store: OpenStore) -> None:
        store = open_store()
        for number, priority in enumerate((1, 3, 2, 4, 3)):
            put(store, f"a{number}", priority=OptimizationPriority(priority))
        put(store, "paused")
        store.write(SetIntent("paused", Intent.PAUSE, "ann"))
        claims = [store.write(Claim("node", 9, 60.0)) for _ in range(6)]
        order = [claim and claim.optimization_id for claim in claims]
        assert order == ["a3", "a1", "a4", "a2", "a0", None]

    def test_waiting_raises_a_priority(self) -> None:
        """A level of priority is worth ten minutes of waiting, so nothing starves."""
        start, low, critical = datetime(2026, 1, 1, tzinfo=UTC), OptimizationPriority.LOW, OptimizationPriority.CRITICAL

        def key(after: float, priority: OptimizationPriority) -> float:
            return queue_key((start + timedelta(minutes=after)).isoformat(), priority)

        assert key(29, critical) < key(0, low) < key(31, critical)
        assert key(0, low) < key(0.001, low)

    def test_there_are_never_more_leases_than_the_limit(self, open_store: OpenStore) -> None:
        handles = [open_store(), open_store()]
        for n in range(24):
            put(handles[0], f"a{n}")
        lock = threading.Lock()
        claims: list[Claimed | None] = []

        def claim_four(store: Store) -> None:
            claims.extend(store.write(Claim("node", 3, 60.0)) for _ in range(4))

        in_threads([(claim_four, handle) for handle in handles * 2])
        first = [claimed for claimed in claims if claimed is not None]
        assert (len(claims), len(first)) == (16, 3)
        for claimed in first:
            assert handles[1].write(AbandonClaim(claimed.optimization_id, claimed.fence, "node"))
        held: set[str] = set()
        done: list[str] = []
        most: list[int] = []

        def work(store: Store, node: str) -> None:
            while len(done) < 24:
                claimed = store.write(Claim(node, 3, 60.0))
                if claimed is None:
                    continue
                with lock:
                    assert claimed.optimization_id not in held
                    held.add(claimed.optimization_id)
                    most.append(len(held))
                store.write(Transition(claimed.optimization_id, S.INITIALIZING, Cause.HOOK, fence=claimed.fence))
                with lock:
                    held.remove(claimed.optimization_id)
                    done.append(claimed.optimization_id)
                store.write(Transition(claimed.optimization_id, S.FAILED, Cause.HOOK, fence=claimed.fence))

        in_threads([(work, handles[n % 2], f"node-{n}") for n in range(6)])
        assert sorted(done) == sorted(f"a{n}" for n in range(24))
        assert max(most) <= 3

    def test_a_claim_by_id_succeeds_once(self, open_store: OpenStore) -> None:
        store, other = open_store(), open_store()
        put(store, "a")
        assert store.write(Claim("node-1", 0, 60.0, "a")) is None
        assert store.write(Claim("node-1", 1, 60.0, "a")) == Claimed("a", 1, 1)
        with refused(OptimizationCoordinationError, "'a'", "node-1"):
            other.write(Claim("node-2", 9, 60.0, "a"))
        with refused(OptimizationError, "'ghost'"):
            store.write(Claim("node-1", 9, 60.0, "ghost"))
        assert store.write(Claim("node-1", 9, 60.0)) is None

    def test_a_node_may_claim_only_some_ids(self, open_store: OpenStore) -> None:
        store = open_store()
        for name in ("others", "mine", "also-mine"):
            put(store, name)
        only = frozenset({"also-mine", "mine", "unknown"})
        taken = [store.write(Claim("node-1", 10, 30.0, only=only)) for _ in range(3)]
        assert [claimed and claimed.optimization_id for claimed in taken] == ["mine", "also-mine", None]
        assert store.write(Claim("node-1", 10, 30.0, only=frozenset())) is None
        rest = store.write(Claim("node-2", 10, 30.0))
        assert rest is not None
        assert rest.optimization_id == "others"

    def test_a_claim_can_be_abandoned(self, open_store: OpenStore) -> None:
        store = open_store()
        put(store, "a")
        first = store.write(Claim("node-1", 1, 60.0))
        assert first is not None
        assert store.write(Claim("node-1", 1, 60.0)) is None
        assert store.write(AbandonClaim("a", first.fence, "node-1"))
        assert not store.write(AbandonClaim("a", first.fence, "node-1"))
        second = store.write(Claim("node-2", 1, 60.0))
        assert second is not None
        assert (second.attempt, second.fence > first.fence) == (2, True)
        assert not store.write(AbandonClaim("a", first.fence, "node-1"))
        store.write(SetIntent("a", Intent.CANCEL, "ann"))
        assert status_of(store, "a") is S.CREATED  # claimed, so the attempt carries it out
        assert store.write(AbandonClaim("a", second.fence, "node-1"))
        assert status_of(store, "a") is S.CANCELLED

    def test_a_heartbeat_renews_leases_that_were_not_swept(self, open_store: OpenStore) -> None:
        store, other = open_store(), open_store()
        for key, node, seconds in [("kept", "node-1", 0.5), ("lost", "node-2", -1.0), ("late", "node-1", -1.0)]:
            put(store, key)
            store.write(Claim(node, 9, seconds, key))
        store.write(Heartbeat("node-1", "host", 42, 1.5, 600.0, {"version": "1", "🚀": [1]}))
        assert sweep(other, "node-3") == ["lost"]  # an expired lease that was not swept still has its holder
        seen = other.read(queries.nodes)[0]
        assert [seen[name] for name in ("node_id", "host", "pid")] == ["node-1", "host", 42]
        assert seen["info"] == {"lease_seconds": 600.0, "version": "1", "🚀": [1]}
        assert store.write(Heartbeat("node-1", "host", 42, 1.5, 600.0)) > seen["heartbeat_at"]
        assert len(other.read(queries.nodes)) == 1

    def test_the_sweep_frees_leases_of_dead_nodes(self, open_store: OpenStore) -> None:
        store = open_store()
        wishes: dict[str, tuple[Intent, S]] = {
            "again": (Intent.RUN, S.CREATED), "pause": (Intent.PAUSE, S.PAUSED), "cancel": (Intent.CANCEL, S.CANCELLED),
        }  # fmt: skip
        for key, (intent, _) in wishes.items():
            at_work(store, key, lease_seconds=-1.0)
            put(store, f"{key}-unbegun")
            store.write(Claim("node-1", 9, -1.0, f"{key}-unbegun"))
            for each in (key, f"{key}-unbegun"):
                store.write(SetIntent(each, intent, "ann"))
        at_work(store, "alive")
        assert sorted(sweep(store, "node-2")) == sorted([*wishes, *(f"{key}-unbegun" for key in wishes)])
        for key, (_, status) in wishes.items():
            assert status_of(store, key) is status_of(store, f"{key}-unbegun") is status
            last = store.read(queries.transitions, key)[-1]
            assert (last["cause"], last["node"]) == ("sweeper", "node-2")
            assert "node-1" in last["message"]
        assert status_of(store, "alive") is S.RUNNING
        assert sweep(store, "node-2") == []

    def test_the_last_death_ends_in_failure(self, open_store: OpenStore) -> None:
        store = open_store()
        put(store, "a", metadata={"max_attempts": 2})
        for life in (1, 2):
            claimed = store.write(Claim("node-1", 9, -1.0, "a"))
            assert claimed is not None
            store.write(Transition("a", S.INITIALIZING, Cause.HOOK, fence=claimed.fence))
            assert sweep(store, "node-2") == ["a"]
            holding = store.read(queries.holding, "a")
            assert holding is not None
            assert (holding.deaths, holding.lease_node) == (life, None)
        state = store.read(queries.get, "a")
        assert state is not None
        assert state.status is S.FAILED
        assert " 2 " in state.issues[0]

    def test_dead_nodes_are_swept_at_once_and_leaving_is_no_death(self, open_store: OpenStore) -> None:
        store = open_store()
        ways: list[tuple[Operation[list[str]], int]] = [
            (Sweep("node-2", dead_nodes=("node-1",)), 1), (Leave("node-1"), 0),
        ]  # fmt: skip
        for operation, deaths in ways:
            key = type(operation).__name__
            at_work(store, key)
            store.write(Heartbeat("node-1", "host", 1, 1.0, 600.0))
            assert store.write(operation) == [key]
            assert store.read(queries.nodes) == []
            holding = store.read(queries.holding, key)
            assert holding is not None
            assert (status_of(store, key), holding.deaths, intent_of(store, key)) == (S.CREATED, deaths, Intent.RUN)
            store.write(Transition(key, S.CANCELLED, Cause.PERSON))

    def test_a_prefect_state_counts_once_and_never_undoes_a_newer(self, open_store: OpenStore) -> None:
        store, other = open_store(), open_store()
        put(store, "a")
        claimed = store.write(Claim("node-1", 9, 60.0))
        assert claimed is not None
        start = datetime(2026, 1, 1, tzinfo=UTC)

        def hear(seconds: float, to: S | None, state_id: str = "", attempt: int = 1) -> Decision | None:
            return store.write(
                RecordPrefectState(
                    "a", attempt, "flow", "run-1", "fast-fox", state_id or uuid.uuid4().hex, "TYPE", "Name", "m\0",
                    start + timedelta(seconds=seconds), Cause.EVENT, to,
                )
            )  # fmt: skip

        def reason(decision: Decision | None) -> TransitionReason:
            assert decision is not None
            return decision.reason

        assert reason(hear(1, S.INITIALIZING)) is TransitionReason.ALLOWED
        assert reason(hear(3, S.RUNNING, "running")) is TransitionReason.ALLOWED
        last = store.read(queries.transitions, "a")[-1]
        assert (last["cause"], last["prefect_run_id"], last["prefect_state_id"]) == ("event", "run-1", "running")
        before = record_of(store, "a")
        assert hear(3, S.RUNNING, "running") is None
        assert record_of(other, "a") == before
        assert reason(hear(2, S.PAUSED)) is TransitionReason.STALE_VERSION
        assert reason(hear(4, S.FAILED, attempt=0)) is TransitionReason.STALE_FENCE
        assert hear(5, None) is None
        assert status_of(other, "a") is S.RUNNING
        assert reason(hear(6, S.RUNNING)) is TransitionReason.ALREADY_THERE
        assert reason(hear(7, S.COMPLETED)) is TransitionReason.ALLOWED
        assert reason(hear(8, S.RUNNING)) is TransitionReason.ENDED
        assert len(other.read(queries.prefect_states, "a")) == 8
        with refused(OptimizationError, "'ghost'"):
            store.write(
                RecordPrefectState("ghost", 1, "flow", "r", "n", "s", "T", "N", "", start, Cause.HOOK, S.RUNNING)
            )


def in_threads(calls: list[tuple[Any, ...]]) -> None:
    """Call each function in its own thread, and raise what any of them raised."""
    with ThreadPoolExecutor(len(calls)) as executor:
        for future in [executor.submit(*call) for call in calls]:
            future.result()


def bits(value: float | None) -> bytes:
    assert value is not None
    return struct.pack("<d", value)
