"""Rollups and rankings equal a recomputation after random histories, which also prune, and after drift was repaired."""

from __future__ import annotations

import asyncio
import json
import math
import os
import shutil
import sqlite3
import tempfile
from collections import Counter, defaultdict
from contextlib import suppress
from datetime import UTC, datetime, timedelta
from functools import cache
from pathlib import Path
from statistics import fmean, stdev
from typing import Any

import pytest
from contract_pruning import plain_sharpe_ratios, whole
from contract_steps import at_work, put, sweep, trial
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st

from o9.model.errors import OptimizationError
from o9.model.states import ENDED, Intent, OptimizationPriority, OptimizationType
from o9.model.states import OptimizationStatus as S
from o9.statistics.maintenance import maintain_rollups
from o9.statistics.summary import global_summary
from o9.store import queries
from o9.store.core import unit
from o9.store.core.column_types import unpack_returns
from o9.store.optimizations.commit_step import Amend, CommitStep
from o9.store.optimizations.intents import SetIntent
from o9.store.optimizations.pruning import Prune
from o9.store.optimizations.transitions import Cause, Transition
from o9.store.queue.claims import AbandonClaim, Claim
from o9.store.statistics.repair import RepairRollups
from o9.store.statistics.rollups import SPANS, Key, Sums, bucket_centre, bucket_of, quantiles
from o9.store.store import Store

BEGAN = datetime(2026, 3, 30, 22, 0, tzinfo=UTC)
SUMS = ["count", "ran", "improved", "waited", "steps_sum", "duration_sum", "improvement_sum", "wait_sum"]
BY = ["optimization_type", "strategy", "priority", "status"]
KEYS = [f"opt-{number}" for number in range(6)]
VALUES = st.sampled_from([0.0, -0.0, 1.5, -2.25, 1e-300, 1e6, 0.1])
ACTION = st.tuples(
    st.sampled_from([
        "create", "hold", "claim", "step", "pause", "resume", "end", "kill", "cancel", "amend", "life", "life", "prune",
    ]),
    st.integers(0, 5),
    VALUES,
    st.sampled_from([0, 1, 59, 3_600, 30_000, 86_400]),
)  # fmt: skip


class History:
    """A store with a clock of its own, and random operations on six optimizations.

    gone: the rows of pruned optimizations.
    tried: all trials ever made, by state.
    sharpes: the Sharpe ratios of those with returns.
    """

    def __init__(self, store: Store) -> None:
        self.store = store
        self.now = BEGAN
        self.gone: list[dict[str, Any]] = []
        self.tried: Counter[str] = Counter()
        self.sharpes: list[float] = []

    def now_text(self) -> str:
        return self.now.isoformat(timespec="microseconds")

    def act(self, what: str, number: int, value: float, seconds: int) -> None:
        self.now += timedelta(seconds=seconds)
        with suppress(OptimizationError):  # transitions that the table forbids
            getattr(self, what)(f"opt-{number}", number, value)

    def create(self, key: str, number: int, value: float) -> None:
        put(
            self.store, key, priority=list(OptimizationPriority)[number % 4], total_steps=3,
            optimization_type=list(OptimizationType)[number % 2], baseline_performance=value,
            metadata={"strategy": ["a", "b"][number % 2], "direction": ["minimize", "maximize"][number % 2]},
        )  # fmt: skip

    def hold(self, key: str, number: int, value: float) -> None:
        self.store.write(SetIntent(key, Intent.RUN, "ann"))

    def claim(self, key: str, number: int, value: float) -> None:
        self.store.write(Claim("node", 100, -1.0, key))
        for status in (S.INITIALIZING, S.RUNNING):
            self.now += timedelta(seconds=number)
            self.store.write(Transition(key, status, Cause.HOOK))

    def step(self, key: str, number: int, value: float) -> None:
        holding, state = self.store.read(queries.holding, key), self.store.read(queries.get, key)
        if holding is not None and state is not None:
            best = {"x": 1} if number % 3 else None
            step = state.completed_steps
            returns = None if number % 4 == 1 else (0.01, 0.01 * number, -0.001 * step)
            tried = trial(step, step=step, family="f", returns=returns)
            commit_ = CommitStep(
                key, holding.fence, step, [tried], {}, {"best_value": value, "sharpe": 2 * value}, "", value, value / 2,
                best,
            )  # fmt: skip
            self.store.write(commit_)
            self.tried[tried.state.value] += 1
            if returns is not None:
                self.sharpes.append(fmean(returns) / stdev(returns))

    def life(self, key: str, number: int, value: float) -> None:
        for what in ("create", "claim", "step", "step", "end"):
            self.act(what, number, value, number)

    def pause(self, key: str, number: int, value: float) -> None:
        self.store.write(Transition(key, S.PAUSED, Cause.PERSON))

    def resume(self, key: str, number: int, value: float) -> None:
        self.store.write(Transition(key, S.CREATED, Cause.PERSON))

    def end(self, key: str, number: int, value: float) -> None:
        self.store.write(Transition(key, [S.COMPLETED, S.FAILED, S.TIMEOUT][number % 3], Cause.HOOK))

    def cancel(self, key: str, number: int, value: float) -> None:
        self.store.write(SetIntent(key, Intent.CANCEL, "ann"))

    def kill(self, key: str, number: int, value: float) -> None:
        holding = self.store.read(queries.holding, key)
        if number % 2 and holding is not None:
            self.store.write(AbandonClaim(key, holding.fence, "node"))
        else:
            sweep(self.store, "node")

    def prune(self, key: str, number: int, value: float) -> None:
        before = (self.now - timedelta(seconds=[0, 1, 3_600, 86_400][number % 4])).isoformat(timespec="microseconds")
        rows, others = ended(self.store.url), {name: whole(self.store, name) for name in KEYS}
        cursor: tuple[str, str] | None = ("", "")
        while cursor is not None:
            cursor = self.store.write(Prune(before, plain_sharpe_ratios, cursor, 0.0 if number % 2 else 1.0)).cursor
        left = {row["optimization_id"] for row in ended(self.store.url)}
        gone = [row for row in rows if row["optimization_id"] not in left]
        self.gone += gone
        names = {row["optimization_id"] for row in gone}
        assert all(row["completed_at"] < before for row in gone)
        assert {name: whole(self.store, name) for name in KEYS if name not in names} == {
            name: result for name, result in others.items() if name not in names
        }
        for name in names:
            assert self.store.read(queries.get, name) is None
            with pytest.raises(OptimizationError, match="there is no optimization"):
                self.store.write(SetIntent(name, Intent.RUN, "ann"))

    def amend(self, key: str, number: int, value: float) -> None:
        state = self.store.read(queries.get, key)
        if state is not None and state.status not in ENDED:  # for an ended one that is drift, see below
            self.store.write(Amend(key, {"performance_improvement": value, "current_performance": value}))


@pytest.mark.slow
@given(st.lists(ACTION, min_size=15, max_size=60), st.randoms(use_true_random=False))
@settings(
    max_examples=250 if os.environ.get("O9_LONG_TESTS") else 8, deadline=None, phases=[Phase.explicit, Phase.generate],
    suppress_health_check=[HealthCheck.too_slow, HealthCheck.function_scoped_fixture],
)  # fmt: skip
def test_rollups_equal_a_recomputation_and_drift_is_repaired(actions: list[Any], chance: Any) -> None:
    with tempfile.TemporaryDirectory() as folder, pytest.MonkeyPatch.context() as patch:
        path = shutil.copy(empty_store(), folder)
        with Store(path) as store:
            history = History(store)
            patch.setattr(unit, "now_text", history.now_text)
            for number in range(6):
                history.act("create", number, 1.0, 1)
            for action in actions:
                history.act(*action)
            assert_rollups_are_true(path, history.gone)
            assert_rankings_are_true(path)
            assert_families_are_true(store, history)
            assert store.read(queries.priorities) == priorities(path)
            assert all(not store.read(queries.differences, span, starts) for span, starts in windows(path))
            drift(path, store, chance)
            days = (history.now - BEGAN).days + 2
            asyncio.run(maintain_rollups(store, history.now, days))
            assert_rollups_are_true(path, history.gone)
            assert asyncio.run(maintain_rollups(store, history.now, days)).corrections == []
            assert_global_statistics_agree(store, len(history.gone))


def test_an_end_during_the_repair_is_counted_once(store_url: str) -> None:
    with Store(store_url) as store:
        for key in ("a", "b", "c"):
            at_work(store, key)
        store.write(Transition("a", S.COMPLETED, Cause.HOOK))
        with sqlite3.connect(store_url) as direct:
            direct.execute("UPDATE rollup SET count = 7, durations = '{}'")
        found = [starts for span, starts in windows(store_url) if span == "hour"]
        assert all(store.read(queries.differences, "hour", starts) for starts in found)
        store.write(Transition("b", S.COMPLETED, Cause.HOOK))
        assert [len(store.write(RepairRollups("hour", starts))) for starts in found] == [1]
        assert [store.write(RepairRollups("hour", starts)) for starts in found] == [{}]  # a second node
        store.write(Transition("c", S.COMPLETED, Cause.HOOK))
        asyncio.run(maintain_rollups(store, datetime.now(UTC)))
        assert_rollups_are_true(store_url)


def test_a_recount_of_all_days_rebuilds_lost_rollups(store_url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    with Store(store_url) as store:
        history = History(store)
        monkeypatch.setattr(unit, "now_text", history.now_text)
        for number in range(6):
            for what in ("create", "claim", "step", "end"):
                history.act(what, number, 1.5, 200_000)
        with sqlite3.connect(store_url) as direct:
            direct.execute("DELETE FROM rollup")
        mended = asyncio.run(maintain_rollups(store, history.now, 2))
        assert not mended.corrections or {each["starts"][:7] for each in mended.corrections} <= {
            "2026-04",
            "2026-05",
            "",
        }
        asyncio.run(maintain_rollups(store, history.now, 400))
        assert_rollups_are_true(store_url)


@pytest.mark.slow
def test_pruned_optimizations_stay_in_repaired_rollups(store_url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    with Store(store_url) as store:
        history = History(store)
        monkeypatch.setattr(unit, "now_text", history.now_text)
        for number in range(6):
            for what, seconds in (("create", 7_000), ("claim", 5), ("step", 5), ("end", 20_000)):
                history.act(what, number, 1.5, seconds)
        history.act("prune", 2, 0.0, 1)
        assert 3 < len(history.gone) < 6
        history.now += timedelta(days=40)
        assert asyncio.run(maintain_rollups(store, history.now, 400)).corrections == []
        assert_rollups_are_true(store_url, history.gone)
        with sqlite3.connect(store_url) as direct:
            direct.execute("UPDATE rollup SET count = count + 1 WHERE span = 'day'")
            direct.execute("DELETE FROM rollup WHERE span = 'month'")
        assert asyncio.run(maintain_rollups(store, history.now, 400)).corrections
        assert_rollups_are_true(store_url, history.gone)


def test_waiting_time_is_the_time_in_the_queue(store_url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    with Store(store_url) as store:
        history = History(store)
        monkeypatch.setattr(unit, "now_text", history.now_text)
        put(store, "a", priority=OptimizationPriority.CRITICAL)
        for pause in (100, 7):
            history.now += timedelta(seconds=pause)
            store.write(Claim("node", 100, 600.0, "a"))
            store.write(Transition("a", S.INITIALIZING, Cause.HOOK))
            history.now += timedelta(seconds=1_000)
            store.write(Transition("a", S.PAUSED, Cause.PERSON))
            history.now += timedelta(seconds=10_000)
            store.write(Transition("a", S.CREATED, Cause.PERSON))
        store.write(SetIntent("a", Intent.CANCEL, "ann"))
        ((_, sums),) = store.read(queries.totals)
        assert (sums.waited, sums.wait_sum, sums.ran) == (1, 107.0, 0)
        assert quantiles(sums.waits, (0.5,))[0] == pytest.approx(107.0, rel=0.101)


@pytest.mark.parametrize("share", [0.01, 0.1, 0.5, 0.9, 0.99])
def test_a_quantile_is_within_its_relative_error(share: float) -> None:
    from o9.store.statistics.rollups import RELATIVE_ERROR

    values = sorted(math.exp(0.01 * n) * (-1 if n % 3 == 0 else 1) for n in range(-500, 700))
    histogram: dict[str, int] = {}
    for value in values:
        histogram[bucket_of(value)] = histogram.get(bucket_of(value), 0) + 1
    true = values[math.ceil(share * len(values)) - 1]
    (found,) = quantiles(histogram, (share,))
    assert found is not None
    assert abs(found / true - 1) <= RELATIVE_ERROR + 1e-12


def test_buckets_cover_the_whole_range_of_floats() -> None:
    for value in (5e-324, 1.797e308, -1.797e308, 1.0, 0.0, -0.0):
        assert math.isfinite(bucket_centre(bucket_of(value)))
    assert quantiles({}, (0.5,)) == [None]


def test_without_a_measurement_there_is_no_improvement(store_url: str) -> None:
    with Store(store_url) as store:
        at_work(store, "none")
        store.write(Transition("none", S.FAILED, Cause.HOOK))
        ((_, sums),) = store.read(queries.totals)
        assert (sums.count, sums.ran, sums.improved) == (1, 1, 0)
        assert [row["metric"] for row in ranking_rows(store_url)] == [
            "completed_steps",
            "execution_time",
            "waited_seconds",
        ]


def drift(path: str, store: Store, chance: Any) -> None:
    """Amend ended optimizations, and edit the table of rollups by hand."""
    for state in store.read(queries.page).items:
        if state.status in ENDED and chance.random() < 0.5:
            store.write(Amend(state.optimization_id, {"performance_improvement": 77.0, "current_performance": 1.0}))
    with sqlite3.connect(path) as direct:
        # Sums of pruned optimizations are nowhere else, so no recount can repair them.
        keys = direct.execute("SELECT rowid FROM rollup WHERE span NOT LIKE 'pruned%'").fetchall()
        for (row,) in keys:
            roll = chance.random()
            if roll < 0.2:
                direct.execute("DELETE FROM rollup WHERE rowid = ?", (row,))
            elif roll < 0.4:
                direct.execute(
                    "UPDATE rollup SET count = count + 3, wait_sum = -5, improvements = '{\"+9\":2}' WHERE rowid = ?",
                    (row,),
                )
        day = BEGAN.strftime("%Y-%m-%d")
        direct.execute(
            "INSERT INTO rollup VALUES ('day', ?, 'parameter_tuning', 'ghost', 1, 'failed', 4, 0, 0, 0, 0, 0, 0, 0, "
            "'{}', '{}', '{}')",
            (day,),
        )


def assert_rollups_are_true(path: str, gone: list[dict[str, Any]] | None = None) -> None:
    """Compare all rollups with a recomputation; `gone` are the rows of pruned optimizations."""
    rows: dict[tuple[Any, ...], list[dict[str, Any]]] = defaultdict(list)
    for row in ended(path) + (gone or []):
        for span, length in SPANS.items():
            rows[span, row["completed_at"][:length], *(row[name] for name in BY)].append(row)
    with sqlite3.connect(path) as direct:
        direct.row_factory = sqlite3.Row
        held = direct.execute("SELECT * FROM rollup WHERE count <> 0 OR ran <> 0 OR improved <> 0 OR waited <> 0")
        result = {
            (row["span"], row["starts"], *(row[name] for name in BY)): row for row in held if row["span"] in SPANS
        }
    assert set(result) == set(rows)
    for key, mine in rows.items():
        ran = [row["execution_time"] for row in mine if row["started_at"] is not None]
        improved = [
            row["performance_improvement"] for row in mine
            if (row["current_performance"] != 0 or row["optimized_parameters"] != "{}")
            and row["baseline_performance"] != 0
        ]  # fmt: skip
        waited = [row["waited_seconds"] for row in mine if row["waited_seconds"] is not None]
        steps = sum(row["completed_steps"] for row in mine)
        sums = [len(mine), len(ran), len(improved), len(waited), steps, *map(math.fsum, (ran, improved, waited))]
        assert [result[key][name] for name in SUMS] == pytest.approx(sums, rel=1e-8, abs=1e-6), key
        for name, values in (("durations", ran), ("improvements", improved), ("waits", waited)):
            assert json.loads(result[key][name]) == Counter(map(bucket_of, values)), (key, name)


def assert_rankings_are_true(path: str) -> None:
    """Compare the rankings of ended optimizations with their states."""
    with sqlite3.connect(path) as direct:
        direct.row_factory = sqlite3.Row
        ended = direct.execute("SELECT * FROM optimization WHERE completed_at IS NOT NULL").fetchall()
    ranked = {(row["optimization_id"], row["metric"]): (row["direction"], row["value"]) for row in ranking_rows(path)}
    for row in ended:
        key = row["optimization_id"]
        own = json.loads(row["metadata"])["direction"]
        measured = row["current_performance"] != 0.0 or row["optimized_parameters"] != "{}"
        assert ranked.get((key, "current_performance")) == ((own, row["current_performance"]) if measured else None)
        ran = row["started_at"] is not None
        assert ranked.get((key, "execution_time")) == (("minimize", row["execution_time"]) if ran else None)
        sharpe = json.loads(row["metrics"]).get("sharpe")
        assert ranked.get((key, "sharpe")) == (None if sharpe is None else ("maximize", sharpe))


def ranking_rows(path: str) -> list[Any]:
    with sqlite3.connect(path) as direct:
        direct.row_factory = sqlite3.Row
        return direct.execute("SELECT * FROM ranking ORDER BY metric, optimization_id").fetchall()


def assert_families_are_true(store: Store, history: History) -> None:
    """Compare the counts and Sharpe ratios of the family with those of all trials ever made."""
    found = store.read(queries.family_trials, "f", "")
    assert found.counts == dict(history.tried)
    assert found.pruned.count + sum(len(store.read(queries.trials, name)) for name in KEYS) == history.tried.total()
    assert found.pruned.sharpes + len(found.returns) == len(history.sharpes)
    left = [fmean(returns) / stdev(returns) for returns in map(unpack_returns, found.returns.values())]
    assert found.pruned.sharpe_sum + sum(left) == pytest.approx(sum(history.sharpes))
    squares = found.pruned.sharpe_square_sum + sum(sharpe**2 for sharpe in left)
    assert squares == pytest.approx(sum(sharpe**2 for sharpe in history.sharpes))


def assert_global_statistics_agree(store: Store, pruned: int) -> None:
    """Compare the global statistics with the record and the number of pruned optimizations."""
    result = global_summary(store.read(queries.counts), store.read(queries.priorities), store.read(queries.totals))
    assert result["pruned_optimizations"] == pruned
    assert result["total_optimizations"] == sum(result["by_priority"].values()) == len(store.read(queries.page).items)
    there = sum(result["by_status"].get(status.value, 0) for status in ENDED)
    for by in ("type", "strategy", "priority", "status"):
        assert sum(each["count"] for each in result["ended"][by].values()) == there + pruned
    completed = result["ended"]["status"].get("completed", {"count": 0})["count"]
    assert result["success_rate"] == (completed / (there + pruned) if there + pruned else None)


def ended(path: str) -> list[dict[str, Any]]:
    with sqlite3.connect(path) as direct:
        direct.row_factory = sqlite3.Row
        return [dict(row) for row in direct.execute("SELECT * FROM optimization WHERE completed_at IS NOT NULL")]


def windows(path: str) -> list[tuple[str, str]]:
    with sqlite3.connect(path) as direct:
        found = direct.execute("SELECT DISTINCT span, starts FROM rollup").fetchall()
    return [(span, starts) for span, starts in found if span in SPANS]


def priorities(path: str) -> list[dict[str, int]]:
    with sqlite3.connect(path) as direct:
        found = Counter(priority for (priority,) in direct.execute("SELECT priority FROM optimization"))
    return [{"priority": priority, "count": count} for priority, count in sorted(found.items())]


@cache
def empty_store() -> str:
    path = str(Path(tempfile.mkdtemp(), "store.db"))
    Store(path).close()
    return path


def test_sums_add_and_subtract() -> None:
    row = {
        "completed_steps": 2, "started_at": "x", "execution_time": 3.0, "performance_improvement": -1.0,
        "current_performance": 1.0, "optimized_parameters": "{}", "waited_seconds": None,
        "baseline_performance": 1.0,
    }  # fmt: skip
    sums, other = Sums(), Sums()
    for each in (sums, sums, other):
        each.add_ended(row)
    assert sums.differs(other)
    sums.add(other, -1)
    assert not sums.differs(other)
    assert Key("all", "", "t", "s", 1, "failed")[2:] == ("t", "s", 1, "failed")
