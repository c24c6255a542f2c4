"""The contract of health reports: their history, and which optimizations are due for a check."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from datetime import datetime, timedelta
from typing import Any

from contract_steps import OpenStore, at_work, new, put, refused, trial

from o9.model.errors import OptimizationError, OptimizationValidationError
from o9.model.optimization import OptimizationHealthReport, OptimizationState, utc_now
from o9.model.states import HealthStatus
from o9.model.states import OptimizationStatus as S
from o9.store import queries
from o9.store.optimizations.commit_step import Amend, CommitStep
from o9.store.optimizations.health_reports import VERDICT_CHECK, RecordHealthReport
from o9.store.optimizations.transitions import Cause, Transition
from o9.store.store import Store


class ReportContract:
    """Reports, their history, and what is checked next."""

    def test_a_report_reads_back_and_one_with_the_same_content_adds_no_row(self, open_store: OpenStore) -> None:
        store, other = open_store(), open_store()
        put(store, "a")
        assert (
            other.read(queries.health_report, "a"),
            other.read(queries.health_history, "a"),
            other.read(queries.health_reports),
        ) == (None, [], [])
        first = healthy("a", issues=["性能 🚀", "a lone \ud800 surrogate, and \0"], validity_score=None)
        record_report(store, first, checks=[{"name": "one"}], judged_by="m")
        record_report(store, replace(first, timestamp=first.timestamp + timedelta(hours=1)), checks=[{"name": "two"}])
        second = replace(first, timestamp=first.timestamp + timedelta(hours=2), issues=["another"])
        latest = other.read(queries.health_report, "a")
        assert latest is not None
        assert (latest["times"], latest["checks"], latest["judged_by"]) == (2, [{"name": "two"}], "")
        record_report(other, second, judged_by="m")
        latest = store.read(queries.health_report, "a")
        assert latest is not None
        assert OptimizationHealthReport.from_dict(latest["report"]) == second
        assert (latest["times"], latest["checks"], latest["judged_by"], latest["status"]) == (1, [], "m", "created")
        newest, oldest = store.read(queries.health_history, "a")
        assert newest["report"] == latest["report"]
        assert [datetime.fromisoformat(oldest[name]) - first.timestamp for name in ("first_at", "last_at")] == [
            timedelta(0), timedelta(hours=1),
        ]  # fmt: skip
        assert (oldest["times"], oldest["report"]["issues"]) == (2, ["性能 🚀", "a lone ? surrogate, and \0"])
        assert oldest["report"]["validity_score"] is None
        assert store.read(queries.health_history, "a", limit=1) == [newest]
        assert store.read(queries.health_history, "a", before=newest["id"]) == [oldest]
        # A report does not change its optimization.
        assert store.read(queries.holding, "a").version == 0  # type: ignore[union-attr]
        with refused(OptimizationError, "'ghost'"):
            store.write(RecordHealthReport(healthy("ghost"), [], new("ghost")))
        for limit in (0, 1001, True):
            with refused(OptimizationValidationError, "limit"):
                store.read(queries.health_reports, limit=limit)

    def test_the_newest_of_each_come_page_by_page(self, open_store: OpenStore) -> None:
        store = open_store()
        began = utc_now()
        for number in range(7):
            put(store, f"a{number}")
            record_report(store, replace(healthy(f"a{number}"), timestamp=began + timedelta(seconds=number // 2)))
        record_report(store, replace(healthy("a0", issues=["worse"]), timestamp=began + timedelta(seconds=9)))
        seen: list[str] = []
        before = None
        while rows := store.read(queries.health_reports, limit=2, before=before):
            seen += [row["optimization_id"] for row in rows]
            before = rows[-1]["last_at"], rows[-1]["optimization_id"]
        assert seen == ["a0", "a6", "a5", "a4", "a3", "a2", "a1"]
        assert store.read(queries.health_reports)[0]["report"]["issues"] == ["worse"]

    def test_the_verdicts_of_many_are_read_at_once(self, open_store: OpenStore) -> None:
        store = open_store()
        for name in ("a", "b", "c", "d"):
            put(store, name)
        held = {"grade": "lost", "headline": "横截面"}
        checks = [{"name": "validity.other", "evidence": {}}, {"name": VERDICT_CHECK, "evidence": {"verdict": held}}]
        record_report(store, healthy("a"), checks=checks)
        record_report(store, healthy("b"), checks=checks)
        record_report(store, healthy("b", issues=["newer"]), checks=checks[:1])
        record_report(store, healthy("c"), checks=[{"name": VERDICT_CHECK, "evidence": {}}])
        found = store.read(queries.health_verdicts, ["a", "b", "c", "d", "ghost"])
        assert found == {
            "a": {"status": "created", "verdict": held},
            "b": {"status": "created", "verdict": None},
            "c": {"status": "created", "verdict": None},
        }
        assert store.read(queries.health_verdicts, []) == {}
        assert [row["verdict"] for row in store.read(queries.health_history, "b")] == [None, held]

    def test_an_ended_optimization_is_due_until_it_has_a_report(self, open_store: OpenStore) -> None:
        store = open_store()
        for name in ("a", "b", "c"):
            at_work(store, name)
        running = state_of(store, "a")
        record_report(store, healthy("a"), of=running)
        assert store.read(queries.health_due) == []
        for name in ("b", "a", "c"):
            store.write(Transition(name, S.COMPLETED, Cause.HOOK))
        assert store.read(queries.health_due) == ["b", "a", "c"]
        assert store.read(queries.health_due, limit=2) == ["b", "a"]
        record_report(store, healthy("a"), of=running)  # a slow check, of the state before the end
        assert store.read(queries.health_due) == ["b", "a", "c"]
        for name in ("a", "b"):
            record_report(store, healthy(name), of=state_of(store, name))
        assert store.read(queries.health_due) == ["c"]
        assert store.read(queries.health_report, "a")["status"] == "completed"  # type: ignore[index]
        store.write(Amend("b", {"results": {"late": 1}}))
        assert store.read(queries.health_due) == ["b", "c"]
        record_report(store, healthy("b"), of=state_of(store, "b"))
        record_report(store, healthy("a"), of=running)  # now the newest report is of an old state
        assert store.read(queries.health_due) == ["a", "c"]

    def test_running_ones_come_with_the_oldest_report_first(self, open_store: OpenStore) -> None:
        store = open_store()
        fence = {name: at_work(store, name).fence for name in ("runs", "rests", "new", "ended")}
        put(store, "waits")
        store.write(Transition("rests", S.PAUSED, Cause.PERSON))
        store.write(Transition("ended", S.FAILED, Cause.HOOK))
        assert sorted(store.read(queries.health_under_way)) == ["new", "rests", "runs"]
        began = utc_now()
        for seconds, name in enumerate(("rests", "runs", "new")):
            record_report(
                store,
                replace(healthy(name), timestamp=began + timedelta(seconds=seconds)),
                of=state_of(store, name),
            )
        assert store.read(queries.health_under_way) == ["runs", "new"]  # the paused one has not changed
        assert store.read(queries.health_under_way, limit=1) == ["runs"]
        store.write(Amend("rests", {"warnings": ["a word"]}))
        assert store.read(queries.health_under_way) == ["rests", "runs", "new"]
        store.write(CommitStep("new", fence["new"], 0, [trial(0)], {}))
        record_report(
            store, replace(healthy("runs"), timestamp=began + timedelta(seconds=5)), of=state_of(store, "runs")
        )
        assert store.read(queries.health_under_way) == ["rests", "new", "runs"]


def healthy(optimization_id: str, **fields: Any) -> OptimizationHealthReport:
    """A healthy report, except for `fields`."""
    standard: dict[str, Any] = {"overall_status": HealthStatus.HEALTHY}
    for part in ("validity", "completeness", "security", "performance"):
        standard |= {f"{part}_status": HealthStatus.HEALTHY, f"{part}_score": 1.0}
    return OptimizationHealthReport(optimization_id, utc_now(), **(standard | fields))


def record_report(
    store: Store,
    report: OptimizationHealthReport,
    *,
    checks: Sequence[Any] = (),
    of: OptimizationState | None = None,
    judged_by: str = "",
) -> None:
    store.write(RecordHealthReport(report, checks, of or state_of(store, report.optimization_id), judged_by))


def state_of(store: Store, optimization_id: str) -> OptimizationState:
    state = store.read(queries.get, optimization_id)
    assert state is not None
    return state
