"""Re-evaluation of the best trial in a real child process: look-ahead, randomness, time limits, imports."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Callable, Iterator
from datetime import datetime
from typing import Any

import numpy as np
import pytest
from contract_steps import at_work
from o9_testing import LINE

from o9.health import checker
from o9.health import reevaluation as again
from o9.health.checker import OptimizationHealthChecker
from o9.health.grades import Grade, GradeReason, Verdict, verdict_of
from o9.model.errors import OptimizationError, OptimizationStrategyError
from o9.model.settings import settings
from o9.model.states import OptimizationStatus as S
from o9.model.states import TrialState
from o9.model.trial import Ran, Trial
from o9.store import queries
from o9.store.optimizations.commit_step import CommitStep
from o9.store.optimizations.provenance import RecordProvenance
from o9.store.optimizations.transitions import Cause, Transition
from o9.store.store import Store
from o9.strategies import registry
from o9.strategies.fingerprints import code_fingerprint
from o9.workers.pool import POOL
from OptimizationStateAggregator import Evaluation, objective

DAYS = 300
REPEATABLE, LOOK_AHEAD = "validity.repeatable", "validity.look_ahead"


def _market() -> Any:
    return np.random.default_rng(3).normal(0.0005, 0.01, DAYS)


def honest(parameters: dict[str, Any], *, periods: int | None = None) -> Evaluation:
    market = _market()[:periods]
    mean = np.convolve(market, np.full(10, 0.1))[: len(market)]
    returns = np.append(0.0, np.sign(mean[:-1])) * market
    dates = np.datetime64("2020-01-01") + np.arange(len(returns))
    return Evaluation(parameters["x"], returns.tolist(), 252.0, dates=dates)


def tomorrow(parameters: dict[str, Any], *, periods: int | None = None) -> Evaluation:
    market = _market()[:periods]
    mean = np.convolve(market, np.full(10, 0.1))[: len(market)]
    returns = np.append(np.sign(mean[1:]), 0.0) * market
    dates = np.datetime64("2020-01-01") + np.arange(len(returns))
    return Evaluation(parameters["x"], returns.tolist(), 252.0, dates=dates)


async def honest_async(parameters: dict[str, Any], *, periods: int | None = None) -> Evaluation:
    return honest(parameters, periods=periods)


def chance(parameters: dict[str, Any], *, periods: int | None = None) -> Evaluation:
    drawn = np.random.default_rng().normal(0, 0.01, periods or DAYS)
    return Evaluation(float(drawn.sum()), drawn.tolist())


def misfit(parameters: dict[str, Any], *, periods: int | None = None) -> Evaluation:
    """The value has nothing to do with the returns."""
    return Evaluation(1.0, chance(parameters, periods=periods).returns)


def hangs(parameters: dict[str, Any]) -> float:
    time.sleep(1000)
    return 1.0


async def swallows(parameters: dict[str, Any]) -> float:
    while True:
        try:
            await asyncio.sleep(1000)
        except asyncio.CancelledError:
            await asyncio.sleep(0.2)
            return 1.0


def breaks(parameters: dict[str, Any]) -> float:
    raise KeyError("prices")


def plain(parameters: dict[str, Any]) -> float:
    return float(parameters["x"]) + float(parameters["fixed"])


def brief(parameters: dict[str, Any], *, periods: int | None = None) -> Evaluation:
    return Evaluation(1.0, [0.1, 0.2, 0.3])


@pytest.fixture(scope="module", autouse=True)
def objectives() -> Iterator[None]:
    for function in (honest, tomorrow, honest_async, chance, misfit, brief):
        objective(f"again-{function.__name__}", truncatable=True)(function)
    for plain_one in (hangs, swallows, breaks, plain):
        objective(f"again-{plain_one.__name__}")(plain_one)
    yield
    for name in [name for name in registry._registered["objective"] if name.startswith("again-")]:
        del registry._registered["objective"][name]
    POOL.shut_down()


@pytest.fixture
async def health(store_url: str) -> AsyncIterator[OptimizationHealthChecker]:
    with Store(store_url) as store:
        checker = OptimizationHealthChecker(store=store)
        await checker.initialize()
        yield checker
        await checker.cleanup()


def ended(store: Store, name: str, best: Evaluation | float, **metadata: Any) -> None:
    """A completed optimization with a single trial, which returned `best`."""
    function = metadata.pop("function", name)
    metadata = {"objective": f"again-{function}", "search_space": LINE} | metadata
    claimed = at_work(store, name, total_steps=1, metadata=metadata, parameters={"fixed": 0.25})
    answer = best if isinstance(best, Evaluation) else Evaluation(best)
    returns = None if answer.returns is None else tuple(answer.returns)
    trial = Trial(0, 0, TrialState.COMPLETED, {"x": 0.5}, answer.value, returns=returns, duration_seconds=0.01)
    store.write(CommitStep(name, claimed.fence, 0, [trial], {}))
    store.write(Transition(name, S.COMPLETED, Cause.HOOK, fence=claimed.fence))


async def checks(health: OptimizationHealthChecker, name: str, *, evaluate: bool = True) -> dict[str, dict[str, Any]]:
    await health.check_optimization_health(name, evaluate=evaluate)
    return {check["name"]: check for check in await health.get_health_checks(name)}


def verdict_in(found: dict[str, dict[str, Any]]) -> Verdict:
    verdict = verdict_of(list(found.values()))
    assert verdict is not None
    return verdict


async def test_a_look_ahead_is_dated_and_its_correct_twin_passes(
    health: OptimizationHealthChecker,
) -> None:
    for strategy in (honest, tomorrow, honest_async):
        ended(health.store, strategy.__name__, honest({"x": 0.5}) if strategy is honest_async else strategy({"x": 0.5}))  # type: ignore[arg-type]
    for name in ("honest", "honest_async"):
        found = await checks(health, name)
        assert (found[REPEATABLE]["score"], found[LOOK_AHEAD]["score"]) == (1.0, 1.0), found[LOOK_AHEAD]
    found = await checks(health, "tomorrow")
    leak = found[LOOK_AHEAD]
    assert (found[REPEATABLE]["score"], leak["score"]) == (1.0, 0.0)
    first = min(cut["cut"] for cut in leak["evidence"]["leaks"])
    assert leak["evidence"]["first"] == str(np.datetime64("2020-01-01") + first - 1)
    assert leak["evidence"]["periods_ahead"] == 1
    report = await health.get_health_report("tomorrow")
    assert report is not None
    assert report.validity_status.value == "critical"
    assert any(f"{LOOK_AHEAD}: it looks ahead" in issue for issue in report.issues)
    verdict = verdict_in(found)
    assert (verdict.grade, verdict.reason, verdict.forecast) == (Grade.VOID, GradeReason.LOOK_AHEAD, None)
    assert verdict_in(await checks(health, "honest")).grade is not Grade.VOID


async def test_the_best_is_evaluated_once_and_on_request(
    health: OptimizationHealthChecker, monkeypatch: pytest.MonkeyPatch
) -> None:
    ended(health.store, "plain", 0.75)
    found = await checks(health, "plain", evaluate=False)
    assert found[REPEATABLE]["unknown"]
    assert health.store.read(queries.repetition, "plain") is None
    found = await checks(health, "plain")
    assert found[REPEATABLE]["score"] == 1.0
    assert "truncatable=True" in found[LOOK_AHEAD]["remedy"]
    kept = health.store.read(queries.repetition, "plain")
    assert kept is not None
    assert kept.code == code_fingerprint(plain)
    monkeypatch.setattr(again, "_checks", None)  # not called again
    for evaluate in (True, False):
        assert (await checks(health, "plain", evaluate=evaluate))[REPEATABLE]["score"] == 1.0
    assert health.store.read(queries.repetition, "plain") == kept


async def test_an_ended_optimization_is_judged_once_and_evaluated_if_quick(
    health: OptimizationHealthChecker,
) -> None:
    store = health.store
    ended(store, "tomorrow", tomorrow({"x": 0.5}))
    ended(store, "plain", 0.75)

    async def judged(name: str, seconds: float) -> datetime:
        return (await health.judge_ended(name, seconds=seconds, allowed_imports=None)).timestamp

    first = await judged("tomorrow", 10.0)
    assert (await health.get_verdict("tomorrow")).grade is Grade.VOID
    assert await judged("tomorrow", 10.0) == first
    assert [row["times"] for row in store.read(queries.health_history, "tomorrow")] == [1]
    assert await health.get_verdict("plain") is None
    await judged("plain", 0.05)  # a tenth of it is less than its trial took
    assert store.read(queries.repetition, "plain") is None
    verdict = await health.get_verdict("plain")
    assert (verdict.grade, verdict.reason) == (Grade.UNPROVEN, GradeReason.NO_RETURNS)
    kept = (await health.check_optimization_health("plain")).timestamp  # by whoever: it is used
    assert await judged("plain", 10.0) == kept
    with pytest.raises(OptimizationError):
        await judged("ghost", 10.0)


async def test_a_running_optimization_is_not_evaluated(health: OptimizationHealthChecker) -> None:
    claimed = at_work(health.store, "runs", total_steps=2, metadata={"objective": "again-plain", "search_space": LINE})
    health.store.write(CommitStep("runs", claimed.fence, 0, [Trial(0, 0, TrialState.COMPLETED, {"x": 0.5}, 1.0)], {}))
    assert (await checks(health, "runs"))[REPEATABLE]["unknown"]
    assert health.store.read(queries.repetition, "runs") is None


async def test_a_random_value_is_critical_but_no_look_ahead(health: OptimizationHealthChecker) -> None:
    ended(health.store, "chance", chance({}))
    found = await checks(health, "chance")
    assert (found[REPEATABLE]["score"], found[LOOK_AHEAD]["score"]) == (0.5, None)
    assert "each evaluation differs" in found[REPEATABLE]["words"]
    assert "cannot be distinguished from chance" in found[LOOK_AHEAD]["words"]
    assert (verdict_in(found).grade, verdict_in(found).reason) == (Grade.VOID, GradeReason.NOT_REPEATABLE)


async def test_the_same_value_with_other_returns_does_not_fit_them(health: OptimizationHealthChecker) -> None:
    ended(health.store, "misfit", misfit({}))
    found = await checks(health, "misfit")
    assert found[REPEATABLE]["score"] == 0.5
    assert (verdict_in(found).grade, verdict_in(found).reason) == (Grade.VOID, GradeReason.VALUE_DOES_NOT_FIT)


@pytest.mark.parametrize(
    ("function", "best", "reason"),
    [
        ("hangs", 1.0, "longer than 1 s"), ("swallows", 1.0, "longer than 1 s"),
        ("breaks", 1.0, "KeyError: 'prices'"),
        ("nobody", 1.0, "there is no objective 'again-nobody'"),
    ],
)  # fmt: skip
async def test_an_impossible_evaluation_is_unknown_with_a_reason(
    health: OptimizationHealthChecker, function: str, best: float, reason: str
) -> None:
    health.evaluation_seconds = 1.0 if function in ("hangs", "swallows") else 60.0
    ended(health.store, function, best)
    began = time.monotonic()
    found = await checks(health, function)
    assert time.monotonic() - began < 30
    assert found[REPEATABLE]["score"] is None
    assert reason in found[REPEATABLE]["words"], found[REPEATABLE]


async def test_slow_short_and_own_evaluations_are_unknown(health: OptimizationHealthChecker) -> None:
    ended(health.store, "brief", brief({}))
    assert "3 returns are too few" in (await checks(health, "brief"))[LOOK_AHEAD]["words"]
    ended(health.store, "slow", 0.75, function="plain")
    health.evaluation_seconds = 0.001
    assert "its trial took 0.01 s" in (await checks(health, "slow"))[REPEATABLE]["words"]
    health.evaluation_seconds = 60.0
    assert (await checks(health, "slow"))[REPEATABLE]["score"] == 1.0  # what was not evaluated is tried again

    class Own:
        total_steps = 1

        def step(self, state: Any, step: int, checkpoint: Any) -> None: ...

    registry.register_strategy("again-own", Own)
    ended(health.store, "own", 1.0, strategy="again-own")
    assert "strategy 'again-own'" in (await checks(health, "own"))[REPEATABLE]["words"]


async def test_import_paths_that_are_not_allowed_are_not_imported(
    health: OptimizationHealthChecker, monkeypatch: pytest.MonkeyPatch
) -> None:
    ended(health.store, "a", 1.0, objective="o9.demo.functions:branin")
    assert "O9_ALLOWED_IMPORTS" in (await checks(health, "a"))[REPEATABLE]["words"]
    monkeypatch.setattr(checker, "settings", lambda: settings().model_copy(update={"allowed_imports": ("o9",)}))
    assert "parameters.y: expected a finite number" in (await checks(health, "a"))[REPEATABLE]["words"]  # it ran


async def test_a_difference_explained_by_a_change_is_unknown(health: OptimizationHealthChecker) -> None:
    for name, ran in (("old code", Ran(1, "again-plain", "another", "")), ("same code", None)):
        ended(health.store, name, 1.0, function="plain")
        code = code_fingerprint(plain)
        health.store.write(RecordProvenance(name, ran or Ran(1, "again-plain", code, "")))
    found = await checks(health, "old code")
    assert found[REPEATABLE]["score"] is None
    assert "its code has changed since then" in found[REPEATABLE]["words"]
    found = await checks(health, "same code")
    assert found[REPEATABLE]["score"] == 0.5
    assert "had the value 1, now 0.75, the same each time" in found[REPEATABLE]["words"]


def test_a_truncatable_objective_takes_periods() -> None:
    def without(parameters: dict[str, Any]) -> float:
        return 1.0

    with pytest.raises(OptimizationStrategyError, match="takes the keyword `periods`"):
        objective("again-without", truncatable=True)(without)

    class Callable_:
        def __call__(self, parameters: dict[str, Any], periods: int | None = None) -> float:
            return 1.0

    keywords: Callable[..., float] = lambda parameters, **more: 1.0  # noqa: E731
    for one in (Callable_(), keywords):
        objective("again-with", truncatable=True)(one)
    assert registry.resolve_objective("again-with").truncatable


@pytest.mark.parametrize("name", ["sp500_trend", "sp500_cross_section", "sp500_risk_limits"])
async def test_the_market_objectives_do_not_look_ahead(health: OptimizationHealthChecker, name: str) -> None:
    from o9.strategies.registry import resolve_objective

    answer = resolve_objective(name).function({})
    claimed = at_work(health.store, "m", total_steps=1, metadata={"objective": name})
    assert isinstance(answer, Evaluation)
    trial = Trial(0, 0, TrialState.COMPLETED, {}, answer.value, returns=tuple(answer.returns or ()))
    health.store.write(CommitStep("m", claimed.fence, 0, [trial], {}))
    health.store.write(Transition("m", S.COMPLETED, Cause.HOOK, fence=claimed.fence))
    found = await checks(health, "m")
    assert (found[REPEATABLE]["score"], found[LOOK_AHEAD]["score"]) == (1.0, 1.0), found[LOOK_AHEAD]
