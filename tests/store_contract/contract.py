"""The contract of a store as a test suite, for the stores of O9 and for your own.

Subclass `StoreContract` in a test module and give it a pytest fixture `open_store`: a function that opens the same
store, which is empty at first, and returns a new handle. Two handles in a test stand for two processes. The fixture
closes what it opened.

    class TestMyStore(StoreContract):
        @pytest.fixture
        def open_store(self, tmp_path):
            with contextlib.ExitStack() as opened:
                yield lambda: opened.enter_context(MyStore(tmp_path / "store"))

The parts:

- this module: a status changes only as the table allows, together with its transition, change and counts; a failure
  does not affect others; writes share transactions; the change feed is in commit order; pages are stable.
- `contract_work`: the ledger (ordered steps, unique numbers, exact floats), leases, Prefect states.
- `contract_control`, `contract_runs`: intents, limits, order of the queue, dependencies; retries and flow runs.
- `contract_judging`, `contract_reports`, `contract_pruning`: families, hold-outs; health reports; deletion.
- `contract_alerts`, `contract_outbox`: alerts and their delivery.
"""

from __future__ import annotations

import asyncio
import random
import threading
import time
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta, timezone
from typing import Any

from contract_alerts import AlertContract
from contract_control import ControlContract
from contract_judging import JudgingContract
from contract_pruning import PruningContract
from contract_reports import ReportContract
from contract_steps import (
    OpenStore,
    assert_counts_are_true,
    at_work,
    bring_to,
    new,
    put,
    record_of,
    refused,
    together,
    trial,
)
from contract_work import LeaseContract, LedgerContract

from o9.model.errors import (
    OptimizationConflictError,
    OptimizationError,
    OptimizationStateError,
    OptimizationStoreError,
    OptimizationValidationError,
    StaleAttemptError,
)
from o9.model.optimization import OptimizationState
from o9.model.states import TRANSITIONS, Intent, OptimizationStatus, OptimizationType, TransitionReason
from o9.store import queries
from o9.store.core.unit import Operation, UnitOfWork
from o9.store.optimizations.commit_step import Amend, CommitStep
from o9.store.optimizations.intents import SetIntent
from o9.store.optimizations.queries import Filter
from o9.store.optimizations.transitions import Cause, Create, Transition
from o9.store.queue.claims import Claim

S = OptimizationStatus


class StatusContract:
    """Creating optimizations and changing their status."""

    def test_a_created_optimization_reads_back(self, open_store: OpenStore) -> None:
        store, other = open_store(), open_store()
        created_at = datetime(2026, 1, 31, 9, 30, 0, 1, tzinfo=timezone(timedelta(hours=8)))
        state = new("名字-🚀", name="双均线 🚀", description="Zeilen\nund\tTabs", created_at=created_at)
        state.parameters = {"größe": 1, "nested": {"list": [1, 2.5, None, True, "日本"], "tiny": 5e-324, "zero": -0.0}}
        state.baseline_performance = 1e308
        answer, is_new = store.write(Create(state))
        assert is_new
        for read in (answer, store.read(queries.get, "名字-🚀"), other.read(queries.get, "名字-🚀")):
            assert read is not None
            assert read.created_at == created_at
            assert read.created_at.tzinfo is UTC
            assert repr(read.parameters) == repr(state.parameters)
            state.updated_at = read.updated_at
            assert read == state
        assert store.read(queries.get, "no such one") is None

    def test_creating_twice_is_once(self, open_store: OpenStore) -> None:
        store = open_store()
        put(store, "a", baseline_performance=1.0)
        before = record_of(store, "a")
        again, is_new = store.write(Create(new("a", baseline_performance=1, created_at=datetime.now())))
        assert (again.optimization_id, is_new) == ("a", False)
        with refused(OptimizationConflictError, "optimization_id", "'a'", "other content"):
            store.write(Create(new("a", baseline_performance=2.0)))
        with refused(OptimizationValidationError, "status"):
            store.write(Create(new("b", status=S.RUNNING)))
        assert record_of(store, "a") == before
        assert store.read(queries.get, "b") is None

    def test_every_transition_of_the_table(self, open_store: OpenStore) -> None:
        store = open_store()
        for current in S:
            for target in S:
                key = f"{current.value}-{target.value}"
                bring_to(store, key, current)
                before = record_of(store, key)
                move = Transition(key, target, Cause.PERSON, "because", "node-1")
                if target is current:
                    assert store.write(move) is TransitionReason.ALREADY_THERE
                    assert record_of(store, key) == before
                elif target in TRANSITIONS[current]:
                    assert store.write(move) is TransitionReason.ALLOWED
                    last = store.read(queries.transitions, key)[-1]
                    assert (last["from_status"], last["to_status"]) == (current.value, target.value)
                    assert (last["cause"], last["message"], last["node"]) == ("person", "because", "node-1")
                    assert len(store.read(queries.transitions, key)) == len(before.transitions) + 1
                else:
                    words = sorted(status.value for status in TRANSITIONS[current]) or ["has ended", "new id"]
                    with refused(OptimizationStateError, key, current.value, target.value, *words):
                        store.write(move)
                    assert record_of(store, key) == before
        assert_counts_are_true(store)

    def test_an_unknown_optimization_cannot_move(self, open_store: OpenStore) -> None:
        with refused(OptimizationError, "'ghost'", "o9 list"):
            open_store().write(Transition("ghost", S.INITIALIZING, Cause.HOOK))

    def test_an_old_fence_and_an_old_version_are_refused(self, open_store: OpenStore) -> None:
        store = open_store()
        claimed = at_work(store, "a")
        before = record_of(store, "a")
        for fence in (claimed.fence - 1, claimed.fence + 1):
            with refused(StaleAttemptError, "fence"):
                store.write(Transition("a", S.PAUSED, Cause.HOOK, fence=fence))
        assert before.holding is not None
        with refused(OptimizationStateError, "version", "read it again"):
            store.write(Transition("a", S.PAUSED, Cause.PERSON, version=before.holding.version - 1))
        assert record_of(store, "a") == before
        version = before.holding.version
        store.write(Transition("a", S.PAUSED, Cause.PERSON, fence=claimed.fence, version=version))
        holding = store.read(queries.holding, "a")
        assert holding is not None
        assert holding.version == version + 1
        with refused(OptimizationStateError, "version"):  # of two that read the same version, one wins
            store.write(Transition("a", S.CANCELLED, Cause.PERSON, version=version))

    def test_a_move_is_written_whole_or_not_at_all(self, open_store: OpenStore) -> None:
        store, other = open_store(), open_store()
        for key in ("first", "second"):
            at_work(store, key)

        def ending(key: str) -> Transition:
            return Transition(key, S.FAILED, Cause.HOOK, issue="it broke", prefect_state_id="only-once")

        store.write(ending("first"))
        assert other.read(queries.get, "first").issues == ["it broke"]  # type: ignore[union-attr]
        assert sum(sums.count for _, sums in other.read(queries.totals)) == 1
        before, counts, totals = record_of(store, "second"), store.read(queries.counts), store.read(queries.totals)
        with refused(OptimizationStoreError):  # the transition's row violates a constraint
            store.write(ending("second"))
        for handle in (store, other):
            assert record_of(handle, "second") == before
            assert (handle.read(queries.counts), handle.read(queries.totals)) == (counts, totals)
        assert_counts_are_true(store)

    def test_times_of_a_run(self, open_store: OpenStore) -> None:
        store = open_store()
        at_work(store, "a")
        first = store.read(queries.get, "a")
        assert first is not None
        assert first.started_at is not None
        store.write(Transition("a", S.PAUSED, Cause.PERSON))
        store.write(Transition("a", S.RUNNING, Cause.PERSON))
        store.write(Transition("a", S.COMPLETED, Cause.HOOK))
        last = store.read(queries.get, "a")
        assert last is not None
        assert last.completed_at is not None
        assert last.started_at == first.started_at <= last.completed_at
        assert last.progress == 1.0
        spent = (last.completed_at - first.started_at).total_seconds()
        assert 0.0 <= last.execution_time <= spent
        ((_, ran),) = store.read(queries.totals)
        assert (ran.count, ran.duration_sum, ran.durations.total()) == (1, last.execution_time, 1)

    def test_an_intent_is_recorded_until_the_end(self, open_store: OpenStore) -> None:
        store = open_store()
        at_work(store, "a")
        for intent in (Intent.PAUSE, Intent.CANCEL):
            assert store.write(SetIntent("a", intent, "ann")) is S.RUNNING
            holding = store.read(queries.holding, "a")
            assert holding is not None
            assert (holding.intent, holding.intent_by) == (intent.value, "ann")
        store.write(Transition("a", S.COMPLETED, Cause.HOOK))
        with refused(OptimizationStateError, "'a'", "completed"):
            store.write(SetIntent("a", Intent.PAUSE, "ann"))


class GroupContract:
    """Writes that share a transaction, and what readers see of them."""

    def test_concurrent_writes_share_transactions(self, open_store: OpenStore) -> None:
        store = open_store()
        units: list[UnitOfWork] = []

        async def write_all() -> None:
            await asyncio.gather(*(store.write_async(Spy(Create(new(f"a{n}")), units)) for n in range(100)))

        asyncio.run(write_all())
        transactions = len({id(unit) for unit in units})
        assert len(units) == 100
        assert transactions <= 50, f"{transactions} transactions for 100 writes"
        assert len(store.read(queries.page, limit=200).items) == 100

    def test_a_failing_operation_does_not_affect_its_group(self, open_store: OpenStore) -> None:
        store = open_store()
        fences = {key: at_work(store, key).fence for key in ("a", "b", "c", "d")}

        def step(key: str, number: int) -> Operation[Any]:
            return CommitStep(key, fences[key], 0, [trial(number)], {"of": key})

        twice = CommitStep("b", fences["b"], 0, [trial(0), trial(0)], {})  # only the database rejects this
        group: list[Operation[Any]] = [
            step("a", 0), twice, Bug(), Transition("c", S.CREATED, Cause.HOOK, version=-1), step("c", 7),
            Create(new("e")), Transition("e", S.COMPLETED, Cause.HOOK), step("d", 1), Amend("d", {"progress": "much"}),
        ]  # fmt: skip
        answers = together(store, group)
        kinds = [type(answer).__name__ for answer in answers]
        assert kinds == [
            "Acknowledged", "OptimizationStoreError", "ZeroDivisionError", "OptimizationStateError", "Acknowledged",
            "tuple", "OptimizationStateError", "Acknowledged", "OptimizationValidationError",
        ]  # fmt: skip
        assert [(key, len(store.read(queries.trials, key))) for key in fences] == [
            ("a", 1),
            ("b", 0),
            ("c", 1),
            ("d", 1),
        ]
        assert [store.read(queries.checkpoint, key) for key in fences] == [{"of": "a"}, None, {"of": "c"}, {"of": "d"}]
        assert store.write(step("b", 0)).completed_steps == 1
        assert_counts_are_true(store)

    def test_operations_of_a_group_see_each_other(self, open_store: OpenStore) -> None:
        store = open_store()
        answers = together(store, [
            Create(new("a")), Create(new("a")), Claim("node", 1, 60.0), Transition("a", S.INITIALIZING, Cause.HOOK),
            Transition("a", S.RUNNING, Cause.HOOK), Amend("a", {"issues": ["slow"]}),
            Transition("a", S.FAILED, Cause.HOOK, issue="broke"), Transition("a", S.RUNNING, Cause.HOOK),
        ])  # fmt: skip
        assert [answers[0][1], answers[1][1], answers[2].optimization_id] == [True, False, "a"]
        assert isinstance(answers[-1], OptimizationStateError)
        state = store.read(queries.get, "a")
        assert state is not None
        assert (state.status, state.issues) == (S.FAILED, ["slow", "broke"])
        assert [row["to_status"] for row in store.read(queries.transitions, "a")] == [
            "created",
            "initializing",
            "running",
            "failed",
        ]
        assert_counts_are_true(store)

    def test_the_change_feed_is_in_commit_order(self, open_store: OpenStore) -> None:
        """A reader that asks for what follows the last id it has seen misses nothing."""
        handles = [open_store(), open_store()]
        reader = open_store()
        writers = [
            threading.Thread(target=lambda h=handle, w=number: [put(h, f"{w}-{n}") for n in range(40)])
            for number, handle in enumerate([*handles, *handles])
        ]
        for writer in writers:
            writer.start()
        seen: list[int] = []
        while True:
            over = not any(writer.is_alive() for writer in writers)
            seen += [row["id"] for row in reader.read(queries.changes, seen[-1] if seen else 0, limit=7)]
            if over and seen and seen[-1] == reader.read(queries.last_change):
                break
            time.sleep(0.001)  # a busy loop would starve the writers
        assert seen == [row["id"] for row in reader.read(queries.changes, 0, limit=1000)]
        assert len(seen) == 160

    def test_a_closed_store_says_so(self, open_store: OpenStore) -> None:
        store = open_store()
        put(store, "a")
        store.close()
        store.close()
        with refused(OptimizationStoreError, "closed"):
            put(store, "b")
        assert open_store().read(queries.get, "a") is not None


class ReadingContract:
    """Pages and counts."""

    def test_pages_are_stable_while_others_write(self, open_store: OpenStore) -> None:
        store = open_store()
        same_moment = datetime(2026, 1, 1, tzinfo=UTC)
        for n in range(25):
            put(store, f"a{n:02}", created_at=same_moment + timedelta(seconds=n // 5))  # five share each moment
        seen: list[str] = []
        page = store.read(queries.page, limit=4)
        while True:
            seen += [state.optimization_id for state in page.items]
            put(store, f"later{len(seen)}")  # newest, so on a page that the reader has passed
            if page.next_cursor is None:
                break
            page = store.read(queries.page, limit=4, cursor=page.next_cursor)
        assert seen == [f"a{n:02}" for n in reversed(range(25))]

    def test_pages_filter(self, open_store: OpenStore) -> None:
        store = open_store()
        risk = OptimizationType.RISK_OPTIMIZATION
        for n in range(12):
            put(store, f"a{n}", optimization_type=risk if n % 3 == 0 else OptimizationType.PARAMETER_TUNING)
            if n % 2 == 0:
                store.write(Transition(f"a{n}", S.FAILED, Cause.HOOK))
        for status, kind, expected in [(None, risk, 4), (S.FAILED, None, 6), (S.FAILED, risk, 2), (S.PAUSED, None, 0)]:
            found: list[OptimizationState] = []
            page = store.read(queries.page, queries.Filter(status=status, optimization_type=kind), limit=1)
            while page.items:
                found += page.items
                if page.next_cursor is None:
                    break
                page = store.read(
                    queries.page,
                    queries.Filter(status=status, optimization_type=kind),
                    limit=1,
                    cursor=page.next_cursor,
                )
            assert len({state.optimization_id for state in found}) == len(found) == expected
            assert all(status in (None, s.status) and kind in (None, s.optimization_type) for s in found)

    def test_runs_of_a_series_are_found(self, open_store: OpenStore) -> None:
        store = open_store()
        put(store, "monday", metadata={"series": "nightly", "scheduled_at": "2026-01-05T02:00:00+02:00"})
        put(store, "other")
        assert [state.optimization_id for state in store.read(queries.page, wanted=Filter(series="nightly")).items] == [
            "monday"
        ]
        assert store.read(queries.page, wanted=Filter(series="weekly")).items == []
        held = store.read(queries.holding, "monday")
        assert held is not None
        assert (held.series, held.scheduled_at) == ("nightly", "2026-01-05T00:00:00.000000+00:00")

    def test_invalid_limits_and_cursors(self, open_store: OpenStore) -> None:
        store = open_store()
        assert store.read(queries.page) == type(store.read(queries.page))([], None)
        for limit in (0, -1, 1001):
            with refused(OptimizationValidationError, "limit"):
                store.read(queries.page, limit=limit)
        for cursor in ("", "x", "{}", "W10=", "🚀", "bnVsbA=="):
            with refused(OptimizationValidationError, "cursor", "next_cursor"):
                store.read(queries.page, cursor=cursor)

    def test_counts_are_true_after_any_sequence(self, open_store: OpenStore) -> None:
        store, other = open_store(), open_store()
        chance = random.Random(7)
        kinds = list(OptimizationType)
        for n in range(20):
            put(store, f"a{n}", optimization_type=chance.choice(kinds), metadata={"strategy": chance.choice("xyz")})
        for _ in range(15):
            group: list[Operation[Any]] = [
                Transition(f"a{chance.randrange(20)}", chance.choice(list(S)), Cause.HOOK) for _ in range(20)
            ]
            together(chance.choice([store, other]), group)
            assert_counts_are_true(store)


class StoreContract(
    StatusContract, GroupContract, ReadingContract, LedgerContract, LeaseContract, ControlContract, JudgingContract,
    ReportContract, PruningContract, AlertContract,
):  # fmt: skip
    """The whole contract; see the module."""


@dataclass(frozen=True)
class Spy:
    """An operation that records its unit of work."""

    operation: Operation[Any]
    units: list[UnitOfWork]

    @property
    def targets(self) -> tuple[str, ...]:
        return self.operation.targets

    def apply(self, unit: UnitOfWork) -> Any:
        self.units.append(unit)  # a reference, so that no other unit gets the same id()
        return self.operation.apply(unit)


@dataclass(frozen=True)
class Bug:
    """An operation with a bug."""

    targets: tuple[str, ...] = field(default=())

    def apply(self, unit: UnitOfWork) -> float:
        return 1 / 0
