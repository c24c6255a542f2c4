"""Users' code that holds the event loop: real code that does not await, in a real loop.

Code here works for so long in time of its own thread, so that a busy machine makes no difference to what is tested.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
import random
import re
import signal
import subprocess
import sys
import threading
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from pathlib import Path
from typing import Any

import psutil
import pytest
from contract_steps import new, wait_for

from o9.model.errors import OptimizationStrategyError
from o9.model.ids import bound
from o9.model.optimization import OptimizationState
from o9.model.states import TrialState
from o9.strategies.coroutine import run_coroutine
from o9.strategies.evaluation import Evaluator
from o9.strategies.registry import Objective, ResolvedStrategy, StrategyKind
from o9.strategies.user_steps import UserSteps
from o9.strategies.watchdog import Verdict, Watchdog, decide, run_user_code

WARN, GIVE_UP = 0.1, 0.3
LONG = 3.0  # of work: what is not interrupted ends by then, so that a broken watchdog fails its test and hangs nothing
HANGS = 60.0  # by the clock: what has not happened by then never will


def system_tells() -> bool:
    path = Path("/proc/self/schedstat")
    return path.exists() and path.read_text().split()[:2] != ["0", "0"]


@pytest.fixture
async def watchdog() -> AsyncIterator[Watchdog]:
    one = Watchdog(asyncio.get_running_loop(), WARN, GIVE_UP)
    one.start()
    try:
        yield one
    finally:
        one.stop()


def hold(seconds: float = LONG) -> None:
    deadline = time.thread_time() + seconds
    while time.thread_time() < deadline:
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
    began = time.thread_time()
    with bound(optimization="opt-7"):
        outcomes = await evaluator.evaluate([{"x": x} for x in range(3)], range(3))
    await evaluator.close()
    assert time.thread_time() - began < LONG / 2
    assert [outcome.state for outcome in outcomes] == [TrialState.COMPLETED, TrialState.FAILED, TrialState.COMPLETED]
    error = outcomes[1].error
    assert error is not None
    assert re.search(
        r"objective 'tested' \(trial 1\) held the event loop for \d+ s without awaiting: let it await", error
    )
    assert "hold()" in error  # with the lines of the user's code
    assert "strategies/watchdog.py" not in error

    def said() -> list[logging.LogRecord]:
        return [record for record in caplog.records if record.name == "o9.strategies.watchdog"]

    await until(lambda: len(said()) >= 2)  # it says that it interrupted when it has
    warning, interrupted = said()[:2]
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
    deadline = time.thread_time() + LONG
    while time.thread_time() < deadline:
        with contextlib.suppress(Exception):
            hold(0.01)


async def keeps_everything_once() -> None:
    try:
        hold()
    except BaseException:  # noqa: BLE001 - what is tested
        hold()


async def in_a_group() -> None:
    async with asyncio.TaskGroup() as group:
        group.create_task(asyncio.sleep(HANGS))
        await asyncio.sleep(0)
        hold()


@pytest.mark.parametrize("function", [keeps_exceptions, keeps_everything_once, in_a_group])
async def test_what_swallows_exceptions_ends_as_well(
    watchdog: Watchdog, function: Callable[[], Awaitable[None]]
) -> None:
    began = time.thread_time()
    with pytest.raises(OptimizationStrategyError, match="this held the event loop"):
        await run_user_code("this", function)
    assert time.thread_time() - began < LONG / 2
    await settled(watchdog)


@pytest.mark.parametrize("goes_on", [True, False])
async def test_what_blocks_in_c_is_known_as_blocked_and_fails_when_it_returns(
    watchdog: Watchdog, caplog: pytest.LogCaptureFixture, goes_on: bool
) -> None:
    observer = Observer(watchdog)

    async def blocks() -> None:
        await asyncio.sleep(0)
        assert not watchdog.is_blocked
        observer.start()
        if goes_on:
            observer.block()
        else:  # it returns, and the interpreter has had no chance to raise anything in it
            for _ in iter(observer.block, True):
                pass

    with pytest.raises(OptimizationStrategyError, match="this held the event loop for"):
        await run_user_code("this", blocks)
    observer.join()
    assert observer.blocked_seconds >= GIVE_UP
    said = [record.levelname for record in caplog.records]
    assert said.count("ERROR") == 2  # interrupted, and blocked; each once
    await settled(watchdog)


@pytest.mark.parametrize("how", ["works", "blocks in C"])
async def test_what_is_no_users_code_is_never_interrupted(
    watchdog: Watchdog, caplog: pytest.LogCaptureFixture, how: str
) -> None:
    observer = Observer(watchdog)
    await asyncio.sleep(0)
    assert not watchdog.is_blocked
    observer.start()
    if how == "works":
        deadline = time.thread_time() + LONG
        while observer.is_alive() and time.thread_time() < deadline:
            pass
    else:
        observer.block()  # raises nothing
    observer.join()
    assert observer.blocked_seconds > 0.0
    said = [record.getMessage() for record in caplog.records]
    assert any("something holds the event loop" in message and __file__ in message for message in said)
    assert any("blocked by what cannot be interrupted" in message for message in said)
    assert not any("interrupted this" in message for message in said)
    await settled(watchdog)


async def test_what_awaits_is_left_alone(watchdog: Watchdog, caplog: pytest.LogCaptureFixture) -> None:
    async def awaits() -> str:
        for _ in range(6):
            hold(GIVE_UP / 3)
            await asyncio.sleep(0)
        return "whole"

    assert await run_user_code("this", awaits) == "whole"
    assert watchdog.is_blocked is False
    assert not [record for record in caplog.records if record.levelno > logging.WARNING]


async def test_many_that_hold_it_in_turn_are_not_interrupted(
    watchdog: Watchdog, caplog: pytest.LogCaptureFixture
) -> None:
    async def a_while() -> None:
        await asyncio.sleep(0)
        hold(GIVE_UP / 2)

    await asyncio.gather(*[run_user_code(f"number {n}", a_while) for n in range(5)])
    said = [record.getMessage() for record in caplog.records]
    assert any("holds the event loop" in message for message in said)
    assert not [record for record in caplog.records if record.levelno > logging.WARNING]
    await settled(watchdog)


@pytest.mark.skipif(not system_tells(), reason="only Linux tells how long a thread has waited for a CPU")
async def test_a_wait_for_a_cpu_does_not_count(caplog: pytest.LogCaptureFixture) -> None:
    """Users' code that is merely slow, and code that does hold the loop, on a CPU that others keep busy."""
    loop = asyncio.get_running_loop()
    watchdog = Watchdog(loop, WARN, GIVE_UP)

    async def honest() -> float:
        began = time.monotonic()
        hold(GIVE_UP / 2)
        return time.monotonic() - began

    with one_busy_cpu(others=4):
        watchdog.start()
        try:
            assert await run_user_code("this", honest) > GIVE_UP
            assert not [record for record in caplog.records if record.levelno > logging.WARNING]
            began = time.thread_time()
            with pytest.raises(OptimizationStrategyError, match="this held the event loop"):
                await run_user_code("this", holds)
            assert time.thread_time() - began < LONG / 2
        finally:
            watchdog.stop()


async def test_what_ends_before_it_is_interrupted_is_left_alone(
    watchdog: Watchdog, monkeypatch: pytest.MonkeyPatch
) -> None:
    go_on, has_ended = threading.Lock(), threading.Event()
    go_on.acquire()

    def decide_late(held: float, **limits: Any) -> tuple[Verdict, bool]:
        verdict, again = decide(held, **limits)
        if verdict is Verdict.INTERRUPT:
            go_on.release()
            assert has_ended.wait(HANGS)
        return verdict, again

    monkeypatch.setattr("o9.strategies.watchdog.decide", decide_late)

    async def blocks() -> str:
        await asyncio.sleep(0)
        assert go_on.acquire(timeout=HANGS)
        return "whole"

    assert await run_user_code("this", blocks) == "whole"
    has_ended.set()
    hold(GIVE_UP)  # nothing is raised here instead
    await settled(watchdog)


async def test_an_interruption_hits_users_code_or_nothing() -> None:
    """Code that returns or awaits at the very moment: the loop lives, and no callback of the loop's own breaks."""
    loop = asyncio.get_running_loop()
    broken: list[dict[str, Any]] = []
    loop.set_exception_handler(lambda _, context: broken.append(context))
    watchdog = Watchdog(loop, 0.002, 0.004)
    interval = sys.getswitchinterval()
    sys.setswitchinterval(0.0005)  # the watchdog looks when it is due, and not only at every fifth millisecond
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
        for _ in range(60):
            both = asyncio.gather(*[one(chance.uniform(0.002, 0.012)) for _ in range(2)])
            await asyncio.wait_for(both, HANGS)
    finally:
        watchdog.stop()
        sys.setswitchinterval(interval)
    assert broken == []
    assert sum(ends.values()) == 120
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
    end = time.thread_time() + seconds
    while time.thread_time() < end:
        pass

async def honest():
    await asyncio.sleep(0.1)
    work(0.4)  # the watchdog has seen it hold the loop, and waits for a tick
    os.kill(os.getpid(), signal.SIGSTOP)
    work(0.2)
    return "whole"

async def main():
    watchdog = Watchdog(asyncio.get_running_loop(), 0.4, 1.2)
    watchdog.start()
    print(await run_user_code("this", honest), flush=True)
    watchdog.stop()

asyncio.run(main())
"""


def test_a_process_that_was_frozen_did_not_hold_its_loop(tmp_path: Path) -> None:
    script = tmp_path / "frozen.py"
    script.write_text(FROZEN)
    with subprocess.Popen([sys.executable, str(script)], stdout=subprocess.PIPE, text=True) as process:
        wait_for(lambda: psutil.Process(process.pid).status() == psutil.STATUS_STOPPED, HANGS)
        time.sleep(1.5)  # for longer than it may hold the loop
        process.send_signal(signal.SIGCONT)
        assert process.stdout is not None
        assert process.stdout.read() == "whole\n"
        assert process.wait(HANGS) == 0


class Observer(threading.Thread):
    """Looks at the watchdog from another thread, as a node's presence does, until it says that the loop is blocked."""

    def __init__(self, watchdog: Watchdog) -> None:
        super().__init__(daemon=True)
        self.blocked_seconds = 0.0
        self._watchdog = watchdog
        self._unseen = threading.Lock()
        self._unseen.acquire()
        self.block = self._unseen.acquire  # blocks in C until it is seen, then returns True

    def run(self) -> None:
        deadline = time.monotonic() + HANGS
        while not self._watchdog.is_blocked and time.monotonic() < deadline:
            time.sleep(0.01)
        self.blocked_seconds = self._watchdog.blocked_seconds
        self._unseen.release()


@contextlib.contextmanager
def one_busy_cpu(others: int) -> Iterator[None]:
    """This thread, those that it starts, and `others` that always work have one CPU together."""
    allowed = os.sched_getaffinity(0)
    os.sched_setaffinity(0, {min(allowed)})
    with contextlib.ExitStack() as stack:
        stack.callback(os.sched_setaffinity, 0, allowed)
        for _ in range(others):
            busy = stack.enter_context(
                subprocess.Popen(
                    [sys.executable, "-S", "-c", "print(flush=True)\nwhile True: pass"], stdout=subprocess.PIPE
                )
            )
            stack.callback(busy.kill)
            assert busy.stdout is not None
            assert busy.stdout.readline()
        yield


async def until(condition: Callable[[], bool]) -> None:
    deadline = time.monotonic() + HANGS
    while not condition():
        assert time.monotonic() < deadline
        await asyncio.sleep(0.01)


async def settled(watchdog: Watchdog) -> None:
    """Afterwards nothing is blocked any more."""
    await until(lambda: watchdog.blocked_seconds == 0.0 and not watchdog.is_blocked)
