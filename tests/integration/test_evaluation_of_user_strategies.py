"""Users' own strategies: classes with `step()` in this process and in a child, and coroutines."""

from __future__ import annotations

import asyncio
import dataclasses
import os
import signal
import sys
import threading
import time
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest
from evaluations import children, run_coroutine, wait_until
from o9_testing import PATIENCE

from o9.model.errors import OptimizationStrategyError, OptimizationValidationError
from o9.model.optimization import OptimizationState
from o9.model.states import OptimizationStatus, TrialState
from o9.model.strategy import StepResult
from o9.model.trial import Trial
from o9.strategies import registry
from o9.strategies.coroutine import CoroutineAttempt
from o9.strategies.factory import create_strategy, settle
from o9.strategies.registry import register_strategy
from o9.strategies.user_steps import UserSteps
from o9.workers.pool import POOL
from o9.workers.step_results import check_result


@pytest.fixture(autouse=True)
def _clean(monkeypatch: pytest.MonkeyPatch) -> Any:
    monkeypatch.setitem(registry._registered, "strategy", {})
    yield
    POOL.shut_down()


def make_state(**fields: Any) -> OptimizationState:
    now = datetime.now(UTC)
    metadata = {"strategy": "mine"} | fields.pop("metadata", {})
    return OptimizationState(
        "id",
        "name",
        "",
        "parameter_tuning",  # type: ignore[arg-type]
        "created",  # type: ignore[arg-type]
        2,  # type: ignore[arg-type]
        now,
        now,
        metadata=metadata,
        **fields,
    )


def make_attempt(thing: Any, **fields: Any) -> tuple[UserSteps, OptimizationState]:
    register_strategy("mine", thing)
    state = make_state(**{"total_steps": 3} | fields)
    attempt = create_strategy(state)
    assert isinstance(attempt, UserSteps)
    return attempt, state


class Counting:
    """A sync strategy that keeps something between steps, and says where it lives."""

    total_steps = 7

    def __init__(self) -> None:
        self.steps = 0
        self.first = 0

    def open(self, state: OptimizationState, ledger: list[Trial]) -> None:
        self.first = len(ledger)

    def step(self, state: OptimizationState, step: int, checkpoint: dict[str, Any] | None) -> StepResult:
        self.steps += 1
        seen = (checkpoint or {"seen": 0})["seen"]
        trial = Trial(self.first + self.steps - 1, step, TrialState.COMPLETED, {"pid": os.getpid()}, float(self.steps))
        return StepResult([trial], {"seen": seen + 1}, done=seen == 2, metrics={"steps": float(self.steps)})


class CountingHere(Counting):
    """The same, async."""

    async def step(self, *arguments: Any) -> StepResult:  # type: ignore[override]
        return super().step(*arguments)


@pytest.mark.parametrize(("thing", "here"), [(Counting, False), (Counting(), False), (CountingHere, True)])
async def test_a_class_or_an_object_with_step(thing: Any, here: bool) -> None:
    for _ in range(2):  # each attempt gets a fresh object
        attempt, state = make_attempt(thing, total_steps=0)
        assert attempt.total_steps == 7
        ledger = [Trial(0, 0, TrialState.FAILED, {}, error="earlier")]
        attempt.open(state, ledger)
        results = []
        checkpoint = None
        for step in range(1, 4):
            results.append(await attempt.step(state, step, checkpoint))
            checkpoint = results[-1].checkpoint
        await attempt.close()
        trials = [trial for result in results for trial in result.trials]
        assert [(trial.number, trial.step, trial.value) for trial in trials] == [(1, 1, 1.0), (2, 2, 2.0), (3, 3, 3.0)]
        assert {trial.parameters["pid"] == os.getpid() for trial in trials} == {here}
        assert [result.done for result in results] == [False, False, True]


async def test_a_hanging_sync_step_is_cancelled_with_its_child() -> None:
    class Hanging:
        def step(self, state: Any, step: int, checkpoint: Any) -> None:
            print("hangs", flush=True)
            while True:
                pass

    attempt, state = make_attempt(Hanging)
    attempt.open(state, [])
    task = asyncio.ensure_future(attempt.step(state, 0, None))
    await asyncio.sleep(0.3)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    await attempt.close()
    await wait_until(lambda: not children())


async def test_close_calls_the_users_close_and_kills_its_processes(tmp_path: Path) -> None:
    path = tmp_path / "closed"

    class Closing:
        def step(self, state: Any, step: int, checkpoint: Any) -> StepResult:
            return StepResult()

        def close(self) -> None:
            path.touch()

    attempt, state = make_attempt(Closing)
    await attempt.close()
    assert not path.exists(), "what was never made is not closed"
    attempt, state = make_attempt(Closing)
    attempt.open(state, [])
    await attempt.step(state, 0, None)
    await attempt.close()
    assert path.exists()
    await wait_until(lambda: not children())


@pytest.mark.parametrize("here", [True, False])
@pytest.mark.parametrize(
    ("act", "said"),
    [
        (lambda: 1 / 0, r"strategy 'mine'.* failed.*: ZeroDivisionError: division by zero"),
        (lambda: None, r"strategy 'mine': step\(\) must return a StepResult, not NoneType"),
        (lambda: StepResult(checkpoint={"x": {1}}), "the checkpoint must be JSON"),
    ],
)
async def test_a_step_that_raises_is_reported(here: bool, act: Callable[[], Any], said: str) -> None:
    class Broken:
        def step(self, state: Any, step: int, checkpoint: Any) -> Any:
            return act()

    class BrokenHere:
        async def step(self, state: Any, step: int, checkpoint: Any) -> Any:
            return act()

    attempt, state = make_attempt(BrokenHere if here else Broken)
    attempt.open(state, [])
    with pytest.raises(OptimizationStrategyError, match=said):
        await attempt.step(state, 0, None)
    await attempt.close()


async def test_a_sync_step_that_kills_its_process_is_reported() -> None:
    class Dying:
        def step(self, state: Any, step: int, checkpoint: Any) -> Any:
            os.kill(os.getpid(), signal.SIGSEGV)

    attempt, state = make_attempt(Dying)
    attempt.open(state, [])
    with pytest.raises(OptimizationStrategyError, match=r"strategy 'mine' did not survive: .*SIGSEGV"):
        await attempt.step(state, 0, None)
    await attempt.close()


async def test_an_object_that_cannot_be_sent_is_reported() -> None:
    class Locked:
        def __init__(self) -> None:
            self.lock = threading.Lock()

        def step(self, state: Any, step: int, checkpoint: Any) -> Any: ...

    attempt, state = make_attempt(Locked())
    attempt.open(state, [])
    with pytest.raises(OptimizationStrategyError, match="strategy 'mine' cannot be sent"):
        await attempt.step(state, 0, None)
    await attempt.close()


class OwnTrial(Trial):
    """A user's class, for whatever reason."""


class OwnText(str): ...


class OwnResult(StepResult): ...


STARTED = datetime(2026, 1, 2, 3, 4, 5, 678901, UTC)
FULL = Trial(
    0, 0, TrialState.COMPLETED, {"x": 0.1, "choice": [1, None, "换手"]}, -0.0, {"turnover": 1 / 3}, None, STARTED,
    0.1, 1, "prices-v1", (0.1, -0.0, 5e-324, 1e308), 252.0, (1 / 3,), (0.2, 0.1, 0.0, -0.0), (1e-300,),
)  # fmt: skip


async def test_step_results_are_transferred_bit_for_bit() -> None:
    class Giving:
        def step(self, state: Any, step: int, checkpoint: Any) -> StepResult:
            import numpy as np

            done: Any = np.bool_(True)
            arrays: dict[str, Any] = {"returns": np.array(FULL.returns), "metrics": {OwnText("turnover"): 1 / 3}}
            own = OwnTrial(**{**vars(FULL), **arrays})
            failed = Trial(1, 0, TrialState.FAILED, {"x": 1}, error="no \ud800 market\n")
            own_best: dict[str, Any] = {OwnText("x"): OwnText("y")}
            return OwnResult([own, failed], {"a": (1, 2)}, done, {"m": np.float64(0.5)}, 1, own_best)

    attempt, state = make_attempt(Giving)
    attempt.open(state, [])
    result = await attempt.step(state, 0, None)
    await attempt.close()
    assert (type(result), type(result.trials[0])) == (StepResult, Trial)
    assert repr(result.trials[0]) == repr(FULL)
    assert result.trials[1].error == "no \ud800 market\n"
    assert (result.checkpoint, result.done, result.metrics) == ({"a": [1, 2]}, True, {"m": 0.5})
    assert (result.best_value, result.best_parameters) == (1, {"x": "y"})
    texts = [*result.trials[0].metrics, *(result.best_parameters or {}), (result.best_parameters or {})["x"]]
    assert {type(text) for text in texts} == {str}


@pytest.mark.parametrize(
    ("how", "said"),
    [
        ({"number": "0"}, "strategy 'mine': trial 0 has number '0'; it must be int"),
        ({"error": 3}, "strategy 'mine': trial 0 has error 3"),
        ({"started_at": "today"}, "has started_at 'today'"),
        ({"returns": ["up"]}, "strategy 'mine': the returns of trial 0 are not numbers"),
        ({"family": None}, "has family None"),
    ],
)
async def test_step_results_that_cannot_be_sent_are_reported(how: dict[str, Any], said: str) -> None:
    class Odd:
        def step(self, state: Any, step: int, checkpoint: Any) -> StepResult:
            return StepResult([Trial(**{**vars(FULL), **how})])

    attempt, state = make_attempt(Odd)
    attempt.open(state, [])
    with pytest.raises(OptimizationStrategyError) as caught:
        await attempt.step(state, 0, None)
    assert said in str(caught.value)
    await attempt.close()


@pytest.mark.parametrize(
    "written",
    [b"fast is 5\n", b"fast is 5", b'["value", {}]\n', b'["value", {"trials": [{"number": 0}]}]\n', b'["value"]\n'],
)
async def test_a_broken_answer_of_a_step_is_reported(written: bytes) -> None:
    class Writing:
        def step(self, state: Any, step: int, checkpoint: Any) -> StepResult:
            os.write(int(sys.argv[2]), written)  # worker.py REQUESTS REPLIES LIFELINE
            time.sleep(0.05)  # so that it arrives before the answer
            return StepResult()

    attempt, state = make_attempt(Writing)
    attempt.open(state, [])
    with pytest.raises(OptimizationStrategyError, match=r"strategy 'mine'.*process"):
        await asyncio.wait_for(attempt.step(state, 0, None), 10 * PATIENCE)
    await attempt.close()
    await wait_until(lambda: not children())


def test_a_number_of_steps_is_required() -> None:
    class Unending:
        def step(self, state: Any, step: int, checkpoint: Any) -> Any: ...

    register_strategy("mine", Unending)
    for check in (settle, create_strategy):
        with pytest.raises(OptimizationValidationError, match="total_steps: it is 0, and strategy 'mine'"):
            check(make_state())
    assert create_strategy(make_state(total_steps=2)).total_steps == 2


GOOD = Trial(0, 0, TrialState.COMPLETED, {"x": 1}, 1.0)


@pytest.mark.parametrize(
    ("result", "said"),
    [
        (StepResult([dataclasses.replace(GOOD, number=1)]), "has the number 1, but 0 is next"),
        (StepResult([dataclasses.replace(GOOD, value=None)]), "completed with value None"),
        (StepResult([dataclasses.replace(GOOD, value=float("nan"))]), "completed with value nan"),
        (StepResult([dataclasses.replace(GOOD, state=TrialState.FAILED)]), "failed with value 1.0"),
        (StepResult([dataclasses.replace(GOOD, state="completed")]), "state 'completed'"),  # type: ignore[arg-type]
        (StepResult([dataclasses.replace(GOOD, parameters={"x": {1}})]), "the parameters of trial 0 must be"),
        (StepResult([dataclasses.replace(GOOD, metrics={"m": float("inf")})]), "the metrics of trial 0 must map"),
        (StepResult([1]), "must be of the class Trial, not int"),  # type: ignore[list-item]
        (StepResult(checkpoint=[]), "the checkpoint must be a dict, not list"),  # type: ignore[arg-type]
        (StepResult(checkpoint={"x": float("nan")}), "the checkpoint must be JSON"),
        (StepResult(metrics={1: 1.0}), "metrics must map names"),  # type: ignore[dict-item]
        (StepResult(best_value=float("inf")), "best_value must be a finite number or None, not inf"),
        (StepResult(best_parameters={"x": object()}), "best_parameters must be"),
    ],
)
def test_invalid_step_results_are_refused(result: StepResult, said: str) -> None:
    with pytest.raises(OptimizationStrategyError) as caught:
        check_result(result, "strategy 'mine'", 0)
    assert said in str(caught.value)


def test_valid_step_results_are_unchanged() -> None:
    result = StepResult([GOOD, Trial(1, 0, TrialState.CANCELLED, {})], {"a": [None]}, best_value=1, best_parameters={})
    assert check_result(result, "strategy 'mine'", 0) is result


# Coroutines


async def observed(
    function: Callable[[OptimizationState], Any], interval: float = 0.02, **fields: Any
) -> tuple[list[OptimizationState], bool]:
    seen: list[OptimizationState] = []

    async def observe(changed: OptimizationState) -> None:
        seen.append(changed)

    end = await run_coroutine(function, make_state(**fields), observe, interval)
    return seen, end


async def test_the_example_coroutine_reports_and_asks_for_a_pause() -> None:
    async def custom_optimization_strategy(optimization: OptimizationState) -> None:
        for step in range(optimization.total_steps):
            await asyncio.sleep(0.05)
            optimization.progress = (step + 1) / optimization.total_steps
            optimization.current_performance = 1.0 + step
            if step == 3:
                optimization.status = OptimizationStatus.PAUSED
                break

    seen, asked_for_pause = await observed(custom_optimization_strategy, total_steps=10)
    assert [state.progress for state in seen] == [0.1, 0.2, 0.3, 0.4]
    assert [state.current_performance for state in seen] == [1.0, 2.0, 3.0, 4.0]
    assert [state.status for state in seen][-1] is OptimizationStatus.PAUSED
    assert asked_for_pause


async def test_observations_are_copies() -> None:
    async def change(optimization: OptimizationState) -> None:
        optimization.results["list"] = [1]
        await asyncio.sleep(0.1)
        optimization.results["list"].append(2)

    state = make_state()
    seen: list[OptimizationState] = []

    async def observe(changed: OptimizationState) -> None:
        seen.append(changed)

    asked_for_pause = await run_coroutine(change, state, observe, 0.01)
    assert [one.results["list"] for one in seen] == [[1], [1, 2]]
    assert state.results == {}
    assert not asked_for_pause


async def test_the_last_change_of_a_failing_or_busy_coroutine_is_observed() -> None:
    async def quick(optimization: OptimizationState) -> None:
        optimization.progress = 1.0

    seen, _ = await observed(quick, interval=60)
    assert [state.progress for state in seen] == [1.0]
    reported: list[OptimizationState] = []

    async def observe(changed: OptimizationState) -> None:
        reported.append(changed)

    for error in (ValueError("no market"), SystemExit(3), asyncio.CancelledError()):

        async def failing(optimization: OptimizationState, error: BaseException = error) -> None:
            optimization.progress += 0.5
            raise error

        with pytest.raises(OptimizationStrategyError, match="strategy 'coroutine' failed"):
            await run_coroutine(failing, make_state(), observe, 60)
    assert [state.progress for state in reported] == [0.5, 0.5, 0.5]


async def test_an_unchanged_state_with_nan_is_not_observed() -> None:
    async def idle(optimization: OptimizationState) -> None:
        await asyncio.sleep(0.1)

    seen, _ = await observed(idle, interval=0.01, metrics={"unknown": float("nan"), "array": (1, 2)})
    assert seen == []


async def test_cancelling_ends_the_coroutine_and_an_error_of_observe_does_too() -> None:
    ended: list[str] = []

    async def endless(optimization: OptimizationState) -> None:
        try:
            while True:
                optimization.progress += 0.001
                await asyncio.sleep(0.01)
        finally:
            ended.append("yes")

    async def observe(changed: OptimizationState) -> None:
        if changed.progress > 0.003:
            raise RuntimeError("the lease is lost")

    with pytest.raises(RuntimeError, match="the lease is lost"):
        await run_coroutine(endless, make_state(), observe, 0.01)
    assert ended == ["yes"]

    async def ignore(changed: OptimizationState) -> None: ...

    task = asyncio.ensure_future(run_coroutine(endless, make_state(), ignore, 0.01))
    await asyncio.sleep(0.05)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert ended == ["yes", "yes"]


async def test_a_state_that_cannot_be_copied_is_reported() -> None:
    async def locking(optimization: OptimizationState) -> None:
        optimization.results["lock"] = threading.Lock()

    with pytest.raises(OptimizationStrategyError, match=r"strategy 'coroutine' .* cannot be copied"):
        await observed(locking)


async def test_the_factory_distinguishes_coroutines() -> None:
    async def strategy(optimization: OptimizationState) -> None:
        optimization.progress = 1.0

    register_strategy("mine", strategy)
    attempt = create_strategy(make_state(total_steps=5))
    assert isinstance(attempt, CoroutineAttempt)
    assert (attempt.kind, attempt.total_steps) == ("coroutine", 5)
    seen: list[float] = []

    async def observe(changed: OptimizationState) -> None:
        seen.append(changed.progress)

    await attempt.run(make_state(), observe, 0.01)
    assert seen == [1.0]
