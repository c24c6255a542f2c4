"""Users' code that holds the event loop: real code that does not await, in a real loop."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import random
import re
import signal
import subprocess
import sys
import threading
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from pathlib import Path
from typing import Any

import psutil
import pytest

from o9.model.errors import OptimizationStrategyError
from o9.model.ids import bound
from o9.model.optimization import OptimizationState
from o9.model.states import TrialState
from o9.store.contract_steps import new, wait_for
from o9.strategies.coroutine import run_coroutine
from o9.strategies.evaluation import Evaluator
from o9.strategies.registry import Objective, ResolvedStrategy, StrategyKind
from o9.strategies.user_steps import UserSteps
from o9.strategies.watchdog import Watchdog, run_user_code

WARN, GIVE_UP = 0.2, 0.6
LONG = 20.0  # what is not interrupted ends by then, so that a broken watchdog fails its test and hangs nothing


@pytest.fixture
async def watchdog() -> AsyncIterator[Watchdog]:
    one = Watchdog(asyncio.get_running_loop(), WARN, GIVE_UP)
    one.start()
    try:
        yield one
    finally:
        one.stop()


def hold(seconds: float = LONG) -> None:
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline:
        pass


async def holds(*_: Any) -> float:
    hold()
    return 1.0


async def test_an_async_objective_that_never_awaits_fails_its_trial_alone(
    watchdog: Watchdog, caplog: pytest.LogCaptureFixture
) -> None:
    async def objective(parameters: dict[str, Any]) -> float:
        await asyncio.sleep(0)
        if parameters["x"] == 1:
            hold()
        return float(parameters["x"])

    evaluator = Evaluator(Objective("tested", objective))
    began = time.monotonic()
    with bound(optimization="opt-7"):
        outcomes = await evaluator.evaluate([{"x": x} for x in range(3)], range(3))
    await evaluator.close()
    assert time.monotonic() - began < LONG / 2
    assert [outcome.state for outcome in outcomes] == [TrialState.COMPLETED, TrialState.FAILED, TrialState.COMPLETED]
    error = outcomes[1].error
    assert error is not None
    assert re.search(
        r"objective 'tested' \(trial 1\) held the event loop for \d+ s without awaiting: let it await", error
    )
    assert "hold()" in error  # with the lines of the user's code
    assert "strategies/watchdog.py" not in error
    warning, interrupted = [record for record in caplog.records if record.name == "o9.strategies.watchdog"][:2]
    assert (warning.levelname, interrupted.levelname) == ("WARNING", "ERROR")
    who = "objective 'tested' (trial 1) of optimization 'opt-7' holds the event loop"
    for words in (who, f"{__file__}:", "in hold: "):
        assert words in warning.getMessage()
    assert getattr(warning, "o9", {}) == {"optimization": "opt-7"}
    await settled(watchdog)


@pytest.mark.parametrize("kind", ["coroutine", "steps"])
async def test_a_strategy_that_never_awaits_fails_its_optimization(watchdog: Watchdog, kind: str) -> None:
    class Steps:
        total_steps = 1

        async def step(self, *_: Any) -> None:
            hold()

    async def observe(_: OptimizationState) -> None:
        pass

    ticks = 0

    async def another() -> None:
        nonlocal ticks
        while True:
            await asyncio.sleep(0.01)
            ticks += 1

    other = asyncio.create_task(another())
    running: Awaitable[Any]
    if kind == "steps":
        running = UserSteps(ResolvedStrategy("greedy", StrategyKind.STEPS, Steps), 1).step(new("a"), 0, None)
    else:
        running = run_coroutine(holds, new("a"), observe, 0.05, name="greedy")
    with pytest.raises(OptimizationStrategyError, match=r"strategy 'greedy'.* held the event loop for \d+ s") as failed:
        await running
    before = ticks
    await until(lambda: ticks > before + 3)  # the loop goes on
    other.cancel()
    assert kind == "steps" or "hold()" in str(failed.value)
    await settled(watchdog)


async def keeps_exceptions() -> None:
    deadline = time.monotonic() + LONG
    while time.monotonic() < deadline:
        with contextlib.suppress(Exception):
            hold(0.01)


async def keeps_everything_once() -> None:
    try:
        hold()
    except BaseException:  # noqa: BLE001 - what is tested
        hold()


async def in_a_group() -> None:
    async with asyncio.TaskGroup() as group:
        group.create_task(asyncio.sleep(LONG))
        await asyncio.sleep(0)
        hold()


@pytest.mark.parametrize("function", [keeps_exceptions, keeps_everything_once, in_a_group])
async def test_what_swallows_exceptions_ends_as_well(
    watchdog: Watchdog, function: Callable[[], Awaitable[None]]
) -> None:
    began = time.monotonic()
    with pytest.raises(OptimizationStrategyError, match="this held the event loop"):
        await run_user_code("this", function)
    assert time.monotonic() - began < LONG / 2
    await settled(watchdog)


async def test_what_blocks_in_c_is_known_as_blocked_and_fails_when_it_returns(
    watchdog: Watchdog, caplog: pytest.LogCaptureFixture
) -> None:
    seen: list[tuple[bool, float]] = []
    observer = threading.Thread(target=lambda: observe(watchdog, seen))

    async def sleeps() -> None:
        await asyncio.sleep(0)
        observer.start()
        time.sleep(3.0)  # noqa: ASYNC251 - what is tested

    with pytest.raises(OptimizationStrategyError, match="this held the event loop for"):
        await run_user_code("this", sleeps)
    observer.join()
    assert seen[0][0] is False
    blocked = [seconds for is_blocked, seconds in seen if is_blocked]
    assert blocked
    assert min(blocked) >= GIVE_UP
    said = [record.levelname for record in caplog.records]
    assert said.count("ERROR") == 2  # interrupted, and blocked; each once
    await settled(watchdog)


@pytest.mark.parametrize("blocking", [hold, time.sleep])
async def test_what_is_no_users_code_is_never_interrupted(
    watchdog: Watchdog, caplog: pytest.LogCaptureFixture, blocking: Callable[[float], None]
) -> None:
    seen: list[tuple[bool, float]] = []
    observer = threading.Thread(target=lambda: observe(watchdog, seen))
    observer.start()
    await asyncio.sleep(0)
    blocking(3.0)  # raises nothing
    observer.join()
    assert any(is_blocked for is_blocked, _ in seen)
    said = [record.getMessage() for record in caplog.records]
    assert any("something holds the event loop" in message and __file__ in message for message in said)
    assert any("blocked by what cannot be interrupted" in message for message in said)
    assert not any("interrupted this" in message for message in said)
    await settled(watchdog)


async def test_what_awaits_is_left_alone(watchdog: Watchdog, caplog: pytest.LogCaptureFixture) -> None:
    async def awaits() -> int:
        deadline = time.monotonic() + 3 * GIVE_UP
        turns = 0
        while time.monotonic() < deadline:
            hold(0.01)
            await asyncio.sleep(0)
            turns += 1
        return turns

    assert min(await asyncio.gather(*[run_user_code("this", awaits) for _ in range(3)])) > 3
    assert watchdog.is_blocked is False
    assert not [record for record in caplog.records if record.levelno > logging.WARNING]


async def test_many_that_hold_it_in_turn_are_not_interrupted(
    watchdog: Watchdog, caplog: pytest.LogCaptureFixture
) -> None:
    async def a_while() -> None:
        await asyncio.sleep(0)
        hold(GIVE_UP / 2)

    await asyncio.gather(*[run_user_code(f"number {n}", a_while) for n in range(8)])
    said = [record.getMessage() for record in caplog.records]
    assert any("holds the event loop" in message for message in said)
    assert not [record for record in caplog.records if record.levelno > logging.WARNING]
    await settled(watchdog)


async def test_an_interruption_hits_users_code_or_nothing() -> None:
    """Code that returns or awaits at the very moment: the loop lives, and no callback of the loop's own breaks."""
    loop = asyncio.get_running_loop()
    broken: list[dict[str, Any]] = []
    loop.set_exception_handler(lambda _, context: broken.append(context))
    watchdog = Watchdog(loop, 0.01, 0.02)
    watchdog.start()
    chance = random.Random(5)
    ends = {"returned": 0, "interrupted": 0}

    async def around_the_limit(seconds: float) -> str:
        hold(seconds)
        await asyncio.sleep(0)
        hold(seconds / 2)
        return "returned"

    async def one(seconds: float) -> None:
        try:
            ends[await run_user_code("this", around_the_limit, seconds)] += 1
        except OptimizationStrategyError:
            ends["interrupted"] += 1

    try:
        for _ in range(100):
            await asyncio.wait_for(asyncio.gather(*[one(chance.uniform(0.01, 0.08)) for _ in range(2)]), LONG)
    finally:
        watchdog.stop()
    assert broken == []
    assert sum(ends.values()) == 200
    assert min(ends.values()) > 0


async def test_it_may_start_and_stop_at_any_time() -> None:
    loop = asyncio.get_running_loop()
    watchdog = Watchdog(loop, WARN, GIVE_UP)
    watchdog.stop()
    for _ in range(3):
        watchdog.start()
        watchdog.start()
        watchdog.stop()
        watchdog.stop()
    assert not [thread for thread in threading.enumerate() if thread.name == "o9-watchdog"]
    other = asyncio.new_event_loop()
    over = Watchdog(other, WARN, GIVE_UP)
    over.start()
    other.close()
    await until(lambda: not [thread for thread in threading.enumerate() if thread.name == "o9-watchdog"])
    over.stop()


FROZEN = """
import asyncio, os, signal, time
from o9.strategies.watchdog import Watchdog, run_user_code

def work(seconds):
    end = time.process_time() + seconds  # of this process, and none while it is frozen
    while time.process_time() < end:
        pass

async def honest():
    await asyncio.sleep(0.1)
    work(1.7)  # the watchdog has seen it hold the loop, and waits for a tick
    os.kill(os.getpid(), signal.SIGSTOP)
    work(0.5)
    return "whole"

async def main():
    watchdog = Watchdog(asyncio.get_running_loop(), 2.0, 6.0)
    watchdog.start()
    print(await run_user_code("this", honest), flush=True)
    watchdog.stop()

asyncio.run(main())
"""


def test_a_process_that_was_frozen_did_not_hold_its_loop(tmp_path: Path) -> None:
    script = tmp_path / "frozen.py"
    script.write_text(FROZEN)
    with subprocess.Popen([sys.executable, str(script)], stdout=subprocess.PIPE, text=True) as process:
        wait_for(lambda: psutil.Process(process.pid).status() == psutil.STATUS_STOPPED, LONG)
        time.sleep(7.0)
        process.send_signal(signal.SIGCONT)
        assert process.stdout is not None
        assert process.stdout.read() == "whole\n"
        assert process.wait(LONG) == 0


def observe(watchdog: Watchdog, into: list[tuple[bool, float]], seconds: float = 2.0) -> None:
    """Look at it from another thread, as a node's presence does."""
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline:
        into.append((watchdog.is_blocked, watchdog.blocked_seconds))
        time.sleep(0.02)


async def until(condition: Callable[[], bool]) -> None:
    deadline = time.monotonic() + LONG
    while not condition():
        assert time.monotonic() < deadline
        await asyncio.sleep(0.01)


async def settled(watchdog: Watchdog) -> None:
    """Afterwards nothing is blocked any more."""
    await until(lambda: watchdog.blocked_seconds == 0.0 and not watchdog.is_blocked)
