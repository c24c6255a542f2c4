"""The contract of what results are judged by: families of trials, hold-outs, baselines, provenance and output."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable

from contract_steps import OpenStore, at_work, new, trial
from sqlalchemy import func, select

from o9.model.states import OptimizationStatus as S
from o9.model.states import TrialState
from o9.model.trial import Output, Ran, Trial
from o9.store import queries
from o9.store.core.column_types import pack_returns
from o9.store.optimizations.commit_step import CommitStep, RecordCutOff
from o9.store.optimizations.hold_outs import CountLook, RecordHoldOut
from o9.store.optimizations.outputs import TOTAL_BYTES
from o9.store.optimizations.provenance import Baseline, RecordProvenance, RecordRepetition
from o9.store.optimizations.retry import Retry
from o9.store.optimizations.transitions import Cause, Create, Transition
from o9.store.queue.claims import Claim
from o9.store.schema.optimizations import CALENDAR
from o9.store.statistics.families import INHERITED
from o9.store.store import Store
from o9.strategies.plan import is_adaptive


class JudgingContract:
    """Families of trials, and what a result is compared with."""

    def test_a_family_counts_all_trials_ever_made(self, open_store: OpenStore) -> None:
        store = open_store()
        for name, family in (("a", "f"), ("b", "f"), ("c", "g")):
            fence = at_work(store, name, total_steps=3).fence
            # The family of failed trials is known once a trial succeeds.
            store.write(CommitStep(name, fence, 0, [_failed(0), _failed(1)], {}))
            store.write(CommitStep(name, fence, 1, [trial(2, step=1, family=family, returns=(0.1, 0.2))], {}))
            store.write(CommitStep(name, fence, 2, [_failed(3, 2), trial(4, step=2, family=family)], {}))
            cut_off = trial(5, step=3, state=TrialState.CANCELLED, value=None)
            for _ in range(2 if name == "a" else 0):  # as after a lost answer
                store.write(RecordCutOff(name, fence, [cut_off]))
        assert store.read(queries.family_trials, "f", "a").counts == {"completed": 4, "failed": 6, "cancelled": 1}
        assert list(store.read(queries.family_trials, "f", "a").returns) == [("a", 2), ("b", 2)]
        assert store.read(queries.family_trials, "g", "a").counts == {"completed": 2, "failed": 3}
        assert {t.family for t in store.read(queries.trials, "a")} == {"f"}
        assert_families_are_true(store, ["a", "b", "c"])

    def test_what_a_warm_start_begins_with_was_chosen_by_results(self, open_store: OpenStore) -> None:
        store, random = open_store(), {"sampler": "random"}
        for name, metadata in (("cold", random), ("warm", random | {"warm_start_from": {"optimization_id": "cold"}})):
            fence = at_work(store, name, metadata=metadata).fence
            store.write(CommitStep(name, fence, 0, [trial(0, family="f", returns=(0.1, 0.2))], {}))
        searches = store.read(queries.family_trials, "f", "warm").searches
        assert {name: is_adaptive(*each) for name, each in searches.items()} == {"cold": False, "warm": True}

    def test_inherited_trials_are_not_counted_twice(self, open_store: OpenStore) -> None:
        store = open_store()
        fence = at_work(store, "a", total_steps=2).fence
        store.write(CommitStep("a", fence, 0, [trial(0, family="f"), _failed(1)], {}))
        store.write(CommitStep("a", fence, 1, [trial(2, step=1, family="f")], {}))
        store.write(Transition("a", S.COMPLETED, Cause.HOOK))
        store.write(Retry(Create(new("again")), "a", 1))
        assert store.read(queries.family_trials, "f", "again").counts == {"completed": 2, "failed": 1}
        claimed = store.write(Claim("node-1", 1000, 600.0, "again"))
        assert claimed is not None
        for status in (S.INITIALIZING, S.RUNNING):
            store.write(Transition("again", status, Cause.HOOK, fence=claimed.fence))
        # The family is that of the inherited trials.
        store.write(CommitStep("again", claimed.fence, 1, [_failed(2, 1)], {}))
        assert store.read(queries.family_trials, "f", "again").counts == {"completed": 2, "failed": 2}
        assert_families_are_true(store, ["a", "again"])

    def test_repeated_trials_are_not_counted_twice(self, open_store: OpenStore) -> None:
        store = open_store()
        fence = at_work(store, "a", total_steps=2).fence
        store.write(CommitStep("a", fence, 0, [trial(0, family="f"), _failed(1)], {}))
        store.write(CommitStep("a", fence, 1, [trial(2, step=1, family="f")], {}))
        store.write(Transition("a", S.COMPLETED, Cause.HOOK))
        again = new("again", metadata={"retry_of": "a", "retry_from_step": 0})
        store.write(Retry(Create(again), "a", 0))
        claimed = store.write(Claim("node-1", 1000, 600.0, "again"))
        assert claimed is not None
        for status in (S.INITIALIZING, S.RUNNING):
            store.write(Transition("again", status, Cause.HOOK, fence=claimed.fence))
        for _ in range(2):  # as after a lost answer
            store.write(CommitStep("again", claimed.fence, 0, [trial(0, family="f"), _failed(1)], {}, retry_of="a"))
        assert store.read(queries.family_trials, "f", "again").counts == {"completed": 2, "failed": 1}
        other = trial(2, step=1, family="f", value=12.5)
        store.write(CommitStep("again", claimed.fence, 1, [other], {}, retry_of="a"))
        assert store.read(queries.family_trials, "f", "again").counts == {"completed": 3, "failed": 1}
        assert [one.attempt for one in store.read(queries.trials, "again")] == [0, 0, 1]
        assert_families_are_true(store, ["a", "again"])

    def test_data_that_change_begin_another_family(self, open_store: OpenStore) -> None:
        store = open_store()
        fence = at_work(store, "a", total_steps=2).fence
        store.write(CommitStep("a", fence, 0, [_failed(0), trial(1, family="monday")], {}))
        store.write(CommitStep("a", fence, 1, [_failed(2, 1), trial(3, step=1, family="tuesday"), _failed(4, 1)], {}))
        assert store.read(queries.family_trials, "monday", "a").counts == {"completed": 1, "failed": 2}
        assert store.read(queries.family_trials, "tuesday", "a").counts == {"completed": 1, "failed": 1}
        assert_families_are_true(store, ["a"])

    def test_trials_without_a_family_are_those_of_one_optimization(self, open_store: OpenStore) -> None:
        store = open_store()
        for name in ("a", "b"):
            fence = at_work(store, name).fence
            store.write(CommitStep(name, fence, 0, [trial(0), _failed(1)], {}))
        assert store.read(queries.family_trials, "", "a").counts == {"completed": 1, "failed": 1}

    def test_hold_outs_are_kept_and_the_first_baseline(self, open_store: OpenStore) -> None:
        store = open_store()
        fence = at_work(store, "a", total_steps=2).fence
        first = trial(0, returns=(0.1, 0.2), hold_out_returns=(0.3,))
        second = trial(1, returns=(0.1, 0.2), baseline_returns=(0.0, -0.01), baseline_hold_out_returns=(0.02,))
        later = trial(2, step=1, returns=(0.3, 5e-324), baseline_returns=(9.0, 9.0))
        assert store.read(queries.baseline, "a") is None
        store.write(CommitStep("a", fence, 0, [first, second], {}))
        store.write(CommitStep("a", fence, 1, [later], {}))
        kept = [store.read(queries.trial, "a", number) for number in range(3)]
        assert [(one.returns, one.hold_out_returns) for one in kept if one] == [
            ((0.1, 0.2), (0.3,)), ((0.1, 0.2), None), ((0.3, 5e-324), None),
        ]  # fmt: skip
        assert store.read(queries.baseline, "a") == Baseline(pack_returns((0.0, -0.01)), pack_returns((0.02,)))
        store.write(RecordProvenance("a", Ran(1, "crossover", "c1", "d1")))
        store.write(RecordProvenance("a", Ran(2, "crossover", "c2", "", '{"x":1}')))
        store.write(Transition("a", S.COMPLETED, Cause.HOOK))
        store.write(Retry(Create(new("again")), "a", 1))
        assert store.read(queries.baseline, "again") == store.read(queries.baseline, "a")
        taken_over = store.read(queries.trial, "again", 0)
        assert taken_over is not None
        assert taken_over.hold_out_returns == (0.3,)
        assert store.read(queries.provenance, "again") == [Ran(0, "crossover", "c2", "", '{"x":1}')]
        store.write(Retry(Create(new("from the beginning")), "a", 0))
        assert store.read(queries.provenance, "from the beginning") == []
        assert store.read(queries.baseline, "from the beginning") is None

    def test_equal_dates_are_kept_once_and_a_retry_has_them(self, open_store: OpenStore) -> None:
        store = open_store()
        fence = at_work(store, "a", total_steps=2).fence
        days = (0.0, 86_400.0)
        same = [
            trial(n, returns=(0.1, n / 8), dates=days, hold_out_returns=(0.3,), hold_out_dates=(9e9,)) for n in (0, 1)
        ]
        other = trial(2, step=1, returns=(0.1, 0.2), dates=(0.0, 3600.5))
        store.write(CommitStep("a", fence, 0, same, {}))
        store.write(CommitStep("a", fence, 1, [other], {}))
        kept = [store.read(queries.trial, "a", number) for number in range(3)]
        dates = [(one.dates, one.hold_out_dates) for one in kept if one]
        assert dates == [(days, (9e9,)), (days, (9e9,)), ((0.0, 3600.5), None)]
        with store._engine.connect() as connection:
            assert connection.execute(select(func.count()).select_from(CALENDAR)).scalar() == 3
        store.write(Transition("a", S.COMPLETED, Cause.HOOK))
        store.write(Retry(Create(new("again")), "a", 1))
        taken_over = store.read(queries.trial, "again", 1)
        assert taken_over is not None
        assert taken_over.dates == days

    def test_output_is_kept_by_trial_up_to_a_limit(self, open_store: OpenStore) -> None:
        store = open_store()
        fence = at_work(store, "a", total_steps=2).fence
        printed = [trial(0, output=Output("慢\0\n")), trial(1), trial(2, output=Output("x", 7))]
        store.write(CommitStep("a", fence, 0, printed, {}, output=Output("step\n")))
        half = "é" * (TOTAL_BYTES // 4)
        later = [trial(number, step=1, output=Output(half)) for number in (3, 4, 5)]
        store.write(RecordCutOff("a", fence, later))
        first = [
            (row["step"], row["number"], row["text"], row["cut"]) for row in store.read(queries.outputs, "a", limit=3)
        ]
        assert first == [(0, -1, "step\n", 0), (0, 0, "慢\ufffd\n", 0), (0, 2, "x", 7)]
        rest = store.read(queries.outputs, "a", after=(0, 2))
        assert [row["text"] == half for row in rest] == [True, False, False]
        assert rest[2]["text"] == ""
        kept = sum(len(row["text"].encode()) for row in store.read(queries.outputs, "a"))
        assert 0 <= TOTAL_BYTES - kept < 2
        assert sum(row["cut"] for row in rest) == 3 * len(half.encode()) - (kept - len("step\n慢\ufffd\nx".encode()))
        assert [row["step"] for row in store.read(queries.outputs, "a", number=4)] == [1]

    def test_what_each_attempt_ran_and_the_last_repetition(self, open_store: OpenStore) -> None:
        store = open_store()
        at_work(store, "a")
        for attempt, code in ((1, "c1"), (2, "c2"), (2, "c3")):
            store.write(RecordProvenance("a", Ran(attempt, "交叉 \0", code, "d")))
        assert store.read(queries.provenance, "a") == [
            Ran(1, "交叉 \ufffd", "c1", "d"),
            Ran(2, "交叉 \ufffd", "c2", "d"),
        ]
        assert store.read(queries.repetition, "a") is None
        for number, checks in ((3, "[]"), (4, '["x"]')):
            store.write(RecordRepetition("a", number, "c2", checks))
        found = store.read(queries.repetition, "a")
        assert found is not None
        assert (found.number, found.code, found.checks) == (4, "c2", '["x"]')

    def test_looks_are_counted_by_objective_and_data_whatever_the_family(self, open_store: OpenStore) -> None:
        store = open_store()
        fence = at_work(store, "a", total_steps=2, metadata={"objective": "trend"}).fence
        store.write(CommitStep("a", fence, 0, [trial(0, family="f", returns=(0.1, 0.2)), trial(1, family="f")], {}))
        assert store.read(queries.look, "a", 0) is None
        kept = RecordHoldOut("a", fence, 0, (0.3, 0.4), dates=(0.0, 86_400.0))
        for _ in range(2):  # as after a lost answer
            store.write(kept)
        found = store.read(queries.trial, "a", 0)
        assert found is not None
        assert (found.returns, found.hold_out_returns, found.hold_out_dates) == (
            (0.1, 0.2),
            (0.3, 0.4),
            (0.0, 86_400.0),
        )
        assert store.write(CountLook("a", 1)) is None  # without held-out returns
        # b: periods overlap; c: the same series is no new look; d: periods do not overlap; e: without dates they may.
        for name, family, hold_out, dates, count in (
            ("b", "f", (0.3, 0.5), (86_400.0, 2e6), 2),
            ("c", "anything-new", (0.3, 0.4), (0.0, 86_400.0), 2),
            ("d", "anything-new", (0.3, 0.6), (3e6, 4e6), 1),
            ("e", "", (0.3, 0.7), None, 4),
        ):
            fence = at_work(store, name, metadata={"objective": "trend"}).fence
            given = trial(0, family=family, returns=(0.1, 0.2), hold_out_returns=hold_out, hold_out_dates=dates)
            store.write(CommitStep(name, fence, 0, [given], {}))
            looks = [store.write(CountLook(name, 0)) for _ in range(2)]
            assert [each.count for each in looks if each] == [count, count]
        looks = [store.read(queries.look, name, 0) for name in "abcd"]
        assert [each.count for each in looks if each] == [3, 3, 3, 2]
        # Other data are another hold-out. With a family of the user's, only the attempt's provenance may tell which.
        for name, family, metadata, count in (
            ("k", "swing@gold", {}, 1),
            ("l", "swing@silver", {}, 1),
            ("m", "swing@gold", {}, 2),
            ("n", "swing@silver", {"family": "swing@silver"}, 4),
            ("o", "any", {"family": "any"}, 4),
        ):
            claimed = at_work(store, name, metadata={"objective": "swing"} | metadata)
            if name == "o":
                store.write(RecordProvenance(name, Ran(claimed.attempt, "swing", "c", "gold")))
            given = trial(0, family=family, returns=(0.1,), hold_out_returns=(0.4, ord(name) / 1e3))
            store.write(CommitStep(name, claimed.fence, 0, [given], {}))
            look = store.write(CountLook(name, 0))
            assert look is not None
            assert (name, look.count) == (name, count)
        for name, family, count in (("g", "f", 1), ("h", "f", 2), ("i", "", 1), ("j", "", 1)):  # without an objective
            fence = at_work(store, name).fence
            given = trial(0, family=family, returns=(0.1,), hold_out_returns=(0.2 + count,))
            store.write(CommitStep(name, fence, 0, [given], {}))
            look = store.write(CountLook(name, 0))
            assert look is not None
            assert look.count == count


def assert_families_are_true(store: Store, optimization_ids: Iterable[str]) -> None:
    """Each family's counts are those of the ledger."""
    recount: dict[str, Counter[str]] = {}
    for name in optimization_ids:
        for each in store.read(queries.trials, name):
            if each.family and each.attempt != INHERITED:
                recount.setdefault(each.family, Counter())[each.state.value] += 1
    for family, counts in recount.items():
        assert store.read(queries.family_trials, family, "").counts == dict(counts)


def _failed(number: int, step: int = 0) -> Trial:
    return trial(number, step=step, state=TrialState.FAILED, value=None, error="no data")
