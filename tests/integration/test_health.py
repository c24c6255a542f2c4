"""Health checks on a real store: noise, an edge, unknown parts, bad input, rules and thresholds."""

from __future__ import annotations

import asyncio
import sqlite3
import threading
import time
from collections.abc import AsyncIterator, Sequence
from dataclasses import replace
from datetime import timedelta
from typing import Any

import numpy as np
import o9_testing
import pytest
from contract_steps import at_work, new
from o9_testing import LINE

from o9.health import checker as checker_module
from o9.health import rules
from o9.health.checker import OptimizationHealthChecker
from o9.health.facts import read_facts
from o9.health.grades import VERDICT, Grade, GradeReason, Verdict, verdict_of
from o9.model.errors import OptimizationError, OptimizationValidationError
from o9.model.optimization import OptimizationHealthReport
from o9.model.specification import new_optimization
from o9.model.states import HealthStatus, TrialState
from o9.model.states import OptimizationStatus as S
from o9.model.trial import Trial
from o9.store import queries
from o9.store.core.column_types import unpack_returns
from o9.store.optimizations.commit_step import Amend, CommitStep
from o9.store.optimizations.placebos import CreatePlacebo, RecordPlaceboValue
from o9.store.optimizations.retry import Retry
from o9.store.optimizations.transitions import Cause, Create, Transition
from o9.store.statistics import families
from o9.store.store import Store
from o9.strategies.fingerprints import code_fingerprint
from OptimizationStateAggregator import Evaluation, objective

DAYS = 1_260
UNKNOWN, CRITICAL, HEALTHY = HealthStatus.UNKNOWN, HealthStatus.CRITICAL, HealthStatus.HEALTHY


@pytest.fixture
async def health(store_url: str) -> AsyncIterator[OptimizationHealthChecker]:
    with Store(store_url) as store:
        checker = OptimizationHealthChecker(store=store)
        await checker.initialize()
        yield checker
        await checker.cleanup()


def noise(trials: int, *, days: int = DAYS, seed: int = 7) -> list[np.ndarray]:
    drawn = np.random.default_rng(seed).normal(0.0, 0.01, (trials, days))
    return list(drawn)


def annual_sharpe(returns: Sequence[float]) -> float:
    return float(np.mean(returns) / np.std(returns, ddof=1) * np.sqrt(252))


def finished(
    store: Store,
    name: str,
    series: Sequence[Any],
    *,
    family: str = "f",
    failed: int = 0,
    metrics: Any = None,
    hold_out: Any = None,
    **fields: Any,
) -> list[Trial]:
    """An optimization that completed with one step: a trial for each of `series`, and `failed` ones behind them.

    hold_out: the returns out of sample of each.
    """
    usual: dict[str, Any] = {"metadata": {"search_space": LINE}, "total_steps": 1, "baseline_performance": 0.01}
    claimed = at_work(store, name, **usual | fields)
    parameters = [{"x": number / max(1, len(series) + failed)} for number in range(len(series) + failed)]
    trials = []
    for number, returns in enumerate(series):
        value = float(number) if returns is None or np.std(returns) == 0 else annual_sharpe(returns)
        kept = None if returns is None else tuple(map(float, returns))
        trials.append(
            Trial(
                number, 0, TrialState.COMPLETED, parameters[number], value, metrics=metrics or {}, family=family,
                returns=kept, periods_per_year=252.0,
                hold_out_returns=None if hold_out is None else tuple(map(float, hold_out)),
            )
        )  # fmt: skip
    for number in range(len(series), len(series) + failed):
        trials.append(Trial(number, 0, TrialState.FAILED, parameters[number], error="no data"))
    best = max((t for t in trials if t.value is not None), key=lambda t: t.value or 0.0, default=None)
    store.write(
        CommitStep(
            name, claimed.fence, 0, trials, {}, {"step_seconds": 1.0},
            performance=best.value if best else None, optimized_parameters=best.parameters if best else None,
        )
    )  # fmt: skip
    store.write(Amend(name, {"results": {"trials": len(trials)}}, fence=claimed.fence))
    store.write(Transition(name, S.COMPLETED, Cause.HOOK))
    return trials


def named(report: OptimizationHealthReport, check: str) -> str:
    """The issue that names `check`."""
    return next(str(issue) for issue in report.issues if issue.startswith(check))


async def evidence(health: OptimizationHealthChecker, name: str, check: str) -> dict[str, Any]:
    return next(one for one in await health.get_health_checks(name) if one["name"] == check)


def verdict_in(checks: list[dict[str, Any]]) -> Verdict:
    found = verdict_of(checks)
    assert found is not None
    return found


async def test_noise_is_unproven(health: OptimizationHealthChecker) -> None:
    trials = finished(health.store, "noise", noise(200))
    assert max(trial.value or 0.0 for trial in trials) > 1.0
    report = await health.check_optimization_health("noise")
    assert (report.validity_status, report.overall_status) == (HealthStatus.WARNING, HealthStatus.WARNING)
    assert (report.completeness_status, report.security_status) == (HEALTHY, HEALTHY)
    assert any(advice.startswith(f"{VERDICT}: do not trade") for advice in report.recommendations)
    verdict = verdict_in(await health.get_health_checks("noise"))
    assert (verdict.grade, verdict.reason) == (Grade.UNPROVEN, GradeReason.LIKELY_LUCK)
    assert verdict.figures["deflated"] < 0.5


async def test_an_edge_is_plausible_or_confirmed(health: OptimizationHealthChecker) -> None:
    series = noise(200)
    for near in range(70, 131):  # a plateau: neighbours of trial 100 share most of its edge
        series[near] = 0.6 * series[near] + 0.8 * series[100] + 0.01 * 2.5 / np.sqrt(252)
    series[100] = series[100] - series[100].mean() + 0.01 * 3.5 / np.sqrt(252)
    hold_out = noise(1, seed=8)[0]
    hold_out += 0.01 * 3.0 / np.sqrt(252) - hold_out.mean()
    finished(health.store, "edge", series, hold_out=hold_out, metadata={"search_space": LINE, "market_neutral": True})
    report = await health.check_optimization_health("edge")
    assert report.validity_status is HEALTHY, report.issues
    verdict = verdict_in(await health.get_health_checks("edge"))
    assert (verdict.grade, verdict.reason) == (Grade.CONFIRMED, GradeReason.HOLD_OUT_AND_FAMILY)
    assert (verdict.figures["counted"], verdict.figures["kept"], verdict.figures["adaptive"]) == (200, 200, True)
    assert verdict.forecast is not None
    assert verdict.forecast.held_out == pytest.approx(3.0, abs=0.05)


async def test_an_adaptive_search_is_unproven(health: OptimizationHealthChecker) -> None:
    series = noise(20)
    series[7] = series[7] - series[7].mean() + 0.01 * 3.5 / np.sqrt(252)
    neutral: dict[str, Any] = {"search_space": LINE, "market_neutral": True}
    for name, metadata, reason in (
        ("random", {"sampler": "random"}, GradeReason.FAMILY),
        ("default", {}, GradeReason.ADAPTIVE_SEARCH),
        ("cmaes", {"sampler": "cmaes"}, GradeReason.ADAPTIVE_SEARCH),
        ("own", {"sampler": "random", "strategy": "mine"}, GradeReason.ADAPTIVE_SEARCH),
    ):
        finished(health.store, name, series, family=name, metadata=neutral | metadata)
        await health.check_optimization_health(name)
        assert verdict_in(await health.get_health_checks(name)).reason is reason
    # Trials of the family that another search chose are in the test, too.
    finished(health.store, "follows", noise(5, seed=3), family="random", metadata=neutral)
    await health.check_optimization_health("random")
    assert verdict_in(await health.get_health_checks("random")).reason is GradeReason.ADAPTIVE_SEARCH


async def test_an_isolated_best_is_a_warning(health: OptimizationHealthChecker) -> None:
    series = noise(200)
    series[17] = series[17] - series[17].mean() + 0.01 * 3.5 / np.sqrt(252)
    finished(health.store, "edge", series)
    report = await health.check_optimization_health("edge")
    assert report.validity_status is HealthStatus.WARNING
    assert "a peak" in named(report, "validity.neighbours")
    assert verdict_in(await health.get_health_checks("edge")).figures["sharpe"] == pytest.approx(
        3.5 / 252**0.5, abs=0.01
    )


async def test_the_family_counts_without_trials_taken_over(health: OptimizationHealthChecker) -> None:
    store = health.store
    finished(store, "one", noise(20, seed=1), failed=5)
    finished(store, "two", noise(30, seed=2), failed=3)
    finished(store, "other", noise(10, seed=3), family="another")
    store.write(Retry(Create(new("again")), "two", 1))
    found = store.read(queries.family_trials, "f", "one")
    assert (found.counts, len(found.returns), found.complete) == ({"completed": 50, "failed": 8}, 50, True)
    first = store.read(queries.trial, "one", 0)
    assert first is not None
    assert unpack_returns(found.returns["one", 0]) == first.returns
    await health.check_optimization_health("one")
    assert verdict_in(await health.get_health_checks("one")).figures["counted"] == 58


def test_families_on_postgresql(postgres_url: str) -> None:
    with Store(postgres_url) as store:
        finished(store, "one", noise(3, days=50), failed=2)
        finished(store, "two", noise(2, days=50))
        found = store.read(queries.family_trials, "f", "one")
        assert (found.counts, len(found.returns), found.complete) == ({"completed": 5, "failed": 2}, 5, True)
        assert list(found.returns) == [("one", 0), ("one", 1), ("one", 2), ("two", 0), ("two", 1)]
        assert store.read(queries.family_trials, "", "one").counts == {}


def test_trials_without_a_family_form_their_own(store_url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    with Store(store_url) as store:
        for name in ("one", "two"):
            finished(store, name, noise(3, days=50), family="", failed=1)
        assert store.read(queries.family_trials, "", "one").counts == {"completed": 3, "failed": 1}
        monkeypatch.setattr(families, "FAMILY_BYTES", 2 * 50 * 8)
        bounded = store.read(queries.family_trials, "", "one")
        assert (list(bounded.returns), bounded.complete) == ([("one", 0), ("one", 1)], False)


def test_a_large_family_without_returns_is_read_in_limits(store_url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(families, "FAMILY_LOOKED_AT", 8)
    with Store(store_url) as store:
        finished(store, "one", [*[None] * 5, *noise(5, days=50)])
        found = store.read(queries.family_trials, "f", "one")
        assert (list(found.returns), found.complete) == ([("one", 5), ("one", 6), ("one", 7)], False)
        assert found.counts == {"completed": 10}
        monkeypatch.setattr(families, "FAMILY_LOOKED_AT", 10)
        assert (
            len(store.read(queries.family_trials, "f", "one").returns),
            store.read(queries.family_trials, "f", "one").complete,
        ) == (5, True)


def test_a_changing_state_is_never_ahead_of_its_ledger(store_url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    with Store(store_url) as store:
        finished(store, "a", noise(2, days=50))
        state = store.read(queries.get, "a")
        assert state is not None
        seen = [replace(state, completed_steps=n, updated_at=state.updated_at + timedelta(seconds=n)) for n in range(9)]
        monkeypatch.setattr(queries, "get", lambda *_: seen.pop(0))
        assert read_facts(store, replace(state, updated_at=state.updated_at - timedelta(seconds=1))).state == (
            replace(state, completed_steps=1, updated_at=state.updated_at + timedelta(seconds=1))
        )


async def test_stored_baselines_and_hold_outs_are_judged(health: OptimizationHealthChecker) -> None:
    store, market = health.store, noise(1, seed=3)[0] + 0.002
    series = [market + 0.3 * one for one in noise(30)]
    finished(store, "over zero", series)
    claimed = at_work(store, "over the market", total_steps=1, metadata={"search_space": LINE})
    trials = [
        Trial(
            number, 0, TrialState.COMPLETED, {"x": number / 30}, annual_sharpe(one), family="f", periods_per_year=252.0,  # type: ignore[arg-type]
            returns=tuple(map(float, one)), hold_out_returns=tuple(map(float, one[:200])),
            baseline_returns=tuple(map(float, market)), baseline_hold_out_returns=tuple(map(float, market[:200])),
        )
        for number, one in enumerate(series)
    ]  # fmt: skip
    store.write(CommitStep("over the market", claimed.fence, 0, trials, {}))
    await health.check_optimization_health("over zero")
    verdict = verdict_in(await health.get_health_checks("over zero"))
    assert (verdict.reason, verdict.figures["hold_out_observations"]) == (GradeReason.NO_BASELINE, None)
    await health.check_optimization_health("over the market")
    verdict = verdict_in(await health.get_health_checks("over the market"))
    assert verdict.figures["hold_out_observations"] is None  # no best that changes yet is judged by it
    assert store.read(queries.look, "over the market", 0) is None
    store.write(Transition("over the market", S.COMPLETED, Cause.HOOK, fence=claimed.fence))
    await health.check_optimization_health("over the market")
    verdict = verdict_in(await health.get_health_checks("over the market"))
    assert verdict.figures["looks"] == 1
    assert verdict.grade in {Grade.LOST, Grade.UNPROVEN}
    assert verdict.reason is not GradeReason.NO_BASELINE
    assert (verdict.figures["over_baseline"], verdict.figures["hold_out_observations"]) == (True, 200)


async def test_above_the_limit_the_best_is_judged_and_all_trials_count(
    health: OptimizationHealthChecker, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(families, "FAMILY_SERIES", 10)
    series = noise(30)
    series[25] = series[25] - series[25].mean() + 0.002
    finished(health.store, "a", series)
    assert not health.store.read(queries.family_trials, "f", "a").complete
    await health.check_optimization_health("a")
    figures = verdict_in(await health.get_health_checks("a")).figures
    assert (figures["counted"], figures["kept"]) == (30, 11)
    assert figures["sharpe"] == pytest.approx(0.2, abs=0.02)


@pytest.mark.parametrize(
    ("series", "reason"),
    [
        ([None] * 8, "has no returns"),
        ([np.full(DAYS, 0.01)] * 8, "never vary"),
        ([], "no trial has completed"),
    ],
)
async def test_results_that_cannot_be_judged_are_unknown(
    health: OptimizationHealthChecker, series: list[Any], reason: str
) -> None:
    finished(health.store, "a", series, failed=2)
    report = await health.check_optimization_health("a")
    assert (report.validity_status, report.validity_score) == (UNKNOWN, None)
    assert report.overall_status is not HEALTHY
    assert reason in named(report, VERDICT).lower()


async def test_one_trial(health: OptimizationHealthChecker) -> None:
    finished(health.store, "a", [noise(1)[0] + 0.004])
    report = await health.check_optimization_health("a")
    assert report.validity_status is HealthStatus.WARNING
    verdict = verdict_in(await health.get_health_checks("a"))
    assert (verdict.reason, verdict.figures["counted"]) == (GradeReason.NO_BASELINE, 1)


async def test_unknown_ids_raise_and_a_missing_report_is_none(health: OptimizationHealthChecker) -> None:
    for ask in (health.check_optimization_health, health.get_health_report, health.recent_report):
        with pytest.raises(OptimizationError, match="there is no optimization 'nobody'"):
            await ask("nobody")
    at_work(health.store, "a")
    assert await health.get_health_report("a") is None
    assert await health.get_health_checks("a") == []
    assert await health.get_all_health_reports() == []
    assert (await health.check_optimization_health("a")).validity_status is UNKNOWN


async def test_gaps_in_ledger_and_history_are_found(health: OptimizationHealthChecker) -> None:
    finished(health.store, "a", noise(5))
    with sqlite3.connect(health.store.url) as direct:
        direct.execute("DELETE FROM trial WHERE number = 2")
        direct.execute("DELETE FROM transition WHERE to_status = 'initializing'")
    report = await health.check_optimization_health("a")
    assert report.completeness_status is CRITICAL
    assert "1 of 5 trials are not in the ledger: 2" in named(report, "completeness.trial_numbers")
    assert "initializing → running after created" in named(report, "completeness.transitions")


async def test_risk_limits_and_secrets(health: OptimizationHealthChecker) -> None:
    metadata = {"search_space": LINE, "risk_limits": {"max_drawdown": 0.2, "leverage": 3, "turnover": 5}}
    metrics = {"drawdown": -0.31, "leverage": 2.0}
    finished(health.store, "a", noise(2), metadata=metadata, metrics=metrics, parameters={"api_key": "hunter2"})
    report = await health.check_optimization_health("a")
    assert report.security_status is UNKNOWN
    assert "has no metric 'turnover'" in named(report, "security.risk_limits.turnover")
    assert "drawdown -0.31" in named(report, "security.risk_limits.max_drawdown")
    assert "parameters.api_key" in named(report, "security.secrets")
    assert not any("hunter2" in text for text in map(str, await health.get_health_checks("a")))


async def test_the_placebo_p_value_comes_with_its_limits(
    health: OptimizationHealthChecker,
) -> None:
    store = health.store
    finished(store, "a", noise(20), failed=2)
    for number, asked_at in ((1, "2026-01-01T00:00:00Z"), (2, "2026-01-01T00:00:00Z"), (3, "2026-01-02T00:00:00Z")):
        fields = {
            "optimization_id": f"p{number}",
            "created_at": asked_at,
            "metadata": {"objective": "branin", "placebo_of": "a"},
        }
        store.write(CreatePlacebo(Create(new_optimization(fields)), "a", number))
        store.write(RecordPlaceboValue(f"p{number}", 100.0 if number == 2 else -100.0))
    await health.check_optimization_health("a")
    figures = verdict_in(await health.get_health_checks("a")).figures
    assert [figures[f"placebo_{name}"] for name in ("p_value", "runs", "as_good", "requests", "others")] == [
        0.5, 3, 1, 2, 0,
    ]  # fmt: skip
    finished(store, "b", noise(5, seed=9))
    await health.check_optimization_health("a")
    verdict = verdict_in(await health.get_health_checks("a"))
    assert verdict.figures["placebo_others"] == 5
    assert "2 requests" in verdict.words
    assert "5 trials" in verdict.words


async def test_rules_change_reports_safely(health: OptimizationHealthChecker, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(checker_module, "apply_rule", _quickly)
    release = threading.Event()

    async def good(optimization_id: str, report: OptimizationHealthReport) -> None:
        report.issues.append(f"性能严重低于预期 {optimization_id}")

    def raises(_: str, report: OptimizationHealthReport) -> None:
        report.issues.clear()
        raise KeyError("x")

    def exits(_: str, report: OptimizationHealthReport) -> None:
        raise SystemExit

    async def exits_too(_: str, report: OptimizationHealthReport) -> None:
        raise SystemExit

    def hangs(_: str, report: OptimizationHealthReport) -> None:
        report.issues.clear()
        release.wait(30)

    async def hangs_too(_: str, report: OptimizationHealthReport) -> None:
        report.issues.clear()
        await asyncio.Event().wait()

    def spoils(_: str, report: Any) -> None:
        report.validity_score = 7

    def unstorable(_: str, report: Any) -> None:
        report.issues.append(object())

    for rule in (good, raises, exits, exits_too, hangs, hangs_too, spoils, unstorable):
        await health.register_health_rule(rule)
    finished(health.store, "a", [None])
    began = time.monotonic()
    report = await health.check_optimization_health("a")
    release.set()
    assert time.monotonic() - began < 10
    assert "性能严重低于预期 a" in report.issues
    assert report.validity_score is None
    for word, what in (
        ("raises", "raised KeyError"), ("exits", "SystemExit"), ("exits_too", "sys.exit"),
        ("hangs:", "took over 0.2 s"), ("hangs_too", "took over 0.2 s"), ("spoils", "validity_score"),
        ("unstorable", "invalid report"),
    ):  # fmt: skip
        assert any(word in issue and what in issue for issue in report.issues), word
    assert named(report, VERDICT)
    with pytest.raises(OptimizationValidationError, match="rule"):
        health.register_health_rule(None)  # type: ignore[arg-type]


async def _quickly(rule: rules.Rule, report: OptimizationHealthReport) -> OptimizationHealthReport:
    return await rules.apply_rule(rule, report, 0.2)


async def test_thresholds(health: OptimizationHealthChecker) -> None:
    finished(health.store, "a", [None] * 8, failed=2)
    assert (await health.recent_report("a")).performance_status is HEALTHY
    health.set_health_threshold("performance_threshold", 0.9)
    report = await health.recent_report("a")  # what was judged by another threshold is not taken
    assert (report.performance_status, report.performance_score) == (HealthStatus.WARNING, 0.8)
    assert named(report, "performance.failures: 2 of 10 trials failed")
    assert [one.timestamp for one in await health.get_all_health_reports()] == [report.timestamp]
    assert (await health.recent_report("a")).timestamp == report.timestamp
    report.issues.clear()
    assert (await health.get_health_report("a")).issues
    for name, value in (("speed", 0.5), ("validity_threshold", 1.1), ("validity_threshold", float("nan"))):
        with pytest.raises(OptimizationValidationError):
            health.set_health_threshold(name, value)
    with pytest.raises(OptimizationValidationError):
        health.set_health_threshold("validity_threshold", True)


async def test_reports_survive_the_process(store_url: str) -> None:
    with Store(store_url) as store:
        first = OptimizationHealthChecker(store=store)
        finished(store, "a", [None] * 8, failed=2)
        at_work(store, "b")

        def note(_: str, report: OptimizationHealthReport) -> None:
            report.issues.append("性能严重低于预期")

        first.register_health_rule(note)
        made = await first.check_optimization_health("a")
        assert store.read(queries.health_due) == []
        await first.check_optimization_health("b")
        checks = await first.get_health_checks("a")
    with Store(store_url) as store:
        later = OptimizationHealthChecker(store=store)
        assert await later.get_health_report("a") == made
        assert made.issues[-1] == "性能严重低于预期"
        assert await later.get_health_checks("a") == checks
        assert [report.optimization_id for report in await later.get_all_health_reports()] == ["b", "a"]
        assert [report.optimization_id for report in await later.get_all_health_reports(limit=1)] == ["b"]
        # It has no such rule, so that report is not what it would say.
        mine = await later.recent_report("a")
        assert (mine.issues, mine.timestamp > made.timestamp) == (made.issues[:-1], True)
        same = OptimizationHealthChecker(store=store)
        assert await same.recent_report("a") == mine
        await same.check_optimization_health("a")
        newest, oldest = await same.get_health_history("a")
        assert (newest["times"], newest["first_at"] < newest["last_at"], oldest["times"]) == (2, True, 1)
        assert oldest["report"] == made.to_dict()
        assert await same.get_health_history("a", limit=1) == [newest]


async def test_a_change_after_the_end_invalidates_the_report(health: OptimizationHealthChecker) -> None:
    finished(health.store, "a", [None])
    first = await health.recent_report("a")
    assert await health.recent_report("a") == first
    health.store.write(Amend("a", {"target_performance": 5.0}))
    again = await health.recent_report("a")
    assert (again.timestamp > first.timestamp, again.issues == first.issues) == (True, False)
    assert health.store.read(queries.health_due) == []


async def test_a_check_that_raises_makes_only_its_part_unknown(
    health: OptimizationHealthChecker, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fails(facts: Any) -> list[Any]:
        raise ArithmeticError("no such luck")

    finished(health.store, "a", noise(5))
    monkeypatch.setattr(checker_module, "performance", fails)
    report = await health.check_optimization_health("a")
    assert (report.performance_status, report.performance_score) == (UNKNOWN, None)
    assert "ArithmeticError: no such luck" in named(report, "performance.checking")
    assert (report.completeness_status, report.security_status) == (HEALTHY, HEALTHY)
    monkeypatch.undo()
    with sqlite3.connect(health.store.url) as direct:
        direct.execute("UPDATE trial SET parameters = '{' WHERE number = 2")
    report = await health.check_optimization_health("a")
    assert {report.overall_status, report.validity_status, report.completeness_status} == {UNKNOWN}
    assert "record cannot be read" in named(report, "completeness.checking")
    assert health.store.read(queries.health_due) == []


async def test_a_real_run_is_complete_by_python_and_http(aggregator: Any) -> None:
    objective("health-returns")(_with_returns)
    state = o9_testing.new("a", objective="health-returns", search_space=LINE, sampler="random", total_steps=12, seed=1)
    await aggregator.submit_optimization(state)
    await o9_testing.ended(aggregator, "a")
    report = await aggregator.get_optimization_health("a")
    assert report.completeness_status is HEALTHY, report.issues
    assert report.security_status is HEALTHY
    assert report.validity_status is not UNKNOWN
    ran = aggregator.store.read(queries.provenance, "a")
    assert [(one.attempt, one.objective, one.data) for one in ran] == [(1, "health-returns", "")]
    assert ran[0].code == code_fingerprint(_with_returns)
    await aggregator.health_checker.check_optimization_health("a", evaluate=True)
    checks = {one["name"]: one for one in await aggregator.health_checker.get_health_checks("a")}
    assert checks["validity.repeatable"]["score"] == 1.0
    assert checks["security.code"]["words"].startswith("health-returns has the fingerprint ")
    assert "data=…" in checks["security.data"]["remedy"]
    answer = await aggregator.handle_api_request("/health/a", "GET")
    verdict = verdict_in(list(checks.values()))
    judged = {"grade": verdict.grade.value, "verdict": verdict.to_dict()}
    assert answer["data"] == (await aggregator.get_optimization_health("a")).to_dict() | judged
    assert (await aggregator.handle_api_request("/health/b", "GET"))["code"] == 404


def _with_returns(parameters: dict[str, Any]) -> Evaluation:
    drawn = np.random.default_rng(int(parameters["x"] * 1e9)).normal(0.0, 0.01, 250)
    return Evaluation(annual_sharpe(drawn), returns=drawn.tolist(), periods_per_year=252)  # type: ignore[arg-type]
