"""The watchdog: real code that blocks a real event loop.

Code here works for so long in time of its own thread, so that a busy machine makes no difference to what is tested.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
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
from contract_steps import new, wait_for

from o9.alerts.service.system import AlertNotificationSystem
from o9.flows.process import watchdog_for
from o9.model.errors import OptimizationStrategyError
from o9.model.logs import bound
from o9.model.optimization import OptimizationState
from o9.model.states import AlertLevel, TrialState
from o9.store import queries
from o9.store.store import Store
from o9.strategies.coroutine import CoroutineAttempt
from o9.strategies.evaluation import Evaluator
from o9.strategies.registry import Objective, ResolvedStrategy, StrategyKind
from o9.strategies.user_steps import UserSteps
from o9.user_code.watchdog import Watchdog, run_user_code

WARN, GIVE_UP = 0.1, 0.3
LONG = 3.0  # of work: it ends by then, so that a broken watchdog fails its test and hangs nothing
HANGS = 60.0  # by the clock: what has not happened by then never will


@pytest.fixture
async def watchdog() -> AsyncIterator[Watchdog]:
    one = Watchdog(WARN, GIVE_UP)
    one.start()
    try:
        yield one
    finally:
        one.stop()


def hold(seconds: float = LONG) -> None:
    deadline = time.thread_time() + seconds
    while time.thread_time() < deadline:
        pass


async def holds() -> None:
    hold(2 * GIVE_UP)


async def test_the_blocking_code_is_named_and_not_interrupted(
    watchdog: Watchdog, caplog: pytest.LogCaptureFixture
) -> None:
    async def objective(parameters: dict[str, Any]) -> float:
        await asyncio.sleep(0)
        if parameters["x"] == 1:
            hold(2 * GIVE_UP)
        return float(parameters["x"])

    evaluator, observer = Evaluator(Objective("tested", objective)), Observer(watchdog)
    observer.start()
    with bound(optimization="opt-7"):
        outcomes = await evaluator.evaluate([{"x": x} for x in range(3)], range(3))
    await evaluator.close()
    observer.join()
    assert observer.was_blocked
    assert [outcome.state for outcome in outcomes] == [TrialState.COMPLETED] * 3
    await settled(watchdog)
    said = [record for record in caplog.records if record.name == "o9.user_code.watchdog"]
    assert [record.levelname for record in said[:2]] == ["WARNING", "ERROR"]
    for record in said[:2]:
        for words in ("objective 'tested' (trial 1) of optimization 'opt-7'", f"{__file__}:", "in hold: "):
            assert words in record.getMessage()
        assert getattr(record, "o9", {}) == {"optimization": "opt-7"}


@pytest.mark.parametrize("kind", ["coroutine", "steps"])
async def test_a_strategy_that_never_awaits_is_named(
    watchdog: Watchdog, caplog: pytest.LogCaptureFixture, kind: str
) -> None:
    class Steps:
        total_steps = 1

        async def step(self, *_: Any) -> None:
            hold(2 * WARN)

    async def greedy(_: OptimizationState) -> None:
        hold(2 * WARN)

    async def observe(_: OptimizationState) -> None:
        pass

    running: Awaitable[Any]
    if kind == "steps":
        running = UserSteps(ResolvedStrategy("greedy", StrategyKind.STEPS, Steps), 1).step(new("a"), 0, None)
    else:
        strategy = ResolvedStrategy("greedy", StrategyKind.COROUTINE, greedy)
        running = CoroutineAttempt(strategy, 1).run(new("a"), observe, 0.05)
    with contextlib.suppress(OptimizationStrategyError):  # a step has to return something
        await running
    await settled(watchdog)
    said = [record.getMessage() for record in caplog.records]
    assert any("strategy 'greedy'" in message and "in hold: " in message for message in said)


@pytest.mark.parametrize("how", ["works", "blocks in C"])
@pytest.mark.parametrize("users", [True, False])
async def test_a_blocked_loop_is_known_until_it_runs_again(
    watchdog: Watchdog, caplog: pytest.LogCaptureFixture, how: str, users: bool
) -> None:
    observer = Observer(watchdog)

    async def holds() -> str:
        await asyncio.sleep(0)
        assert not watchdog.is_blocked
        observer.start()
        deadline = time.thread_time() + LONG
        if how == "blocks in C":
            observer.block()
        while observer.is_alive() and time.thread_time() < deadline:
            pass
        return "whole"

    assert await (run_user_code("this", holds) if users else holds()) == "whole"
    observer.join()
    assert observer.was_blocked
    await settled(watchdog)
    said = [record for record in caplog.records if record.levelno >= logging.WARNING]
    assert [record.levelname for record in said[:2]] == ["WARNING", "ERROR"]
    assert all(record.getMessage().startswith("this" if users else "some code") for record in said[:2])


async def test_a_blocked_loop_raises_an_alert(store_url: str, set_o9: Callable[..., None]) -> None:
    set_o9(lease_seconds=1)
    found: list[Any] = []

    async def holds() -> None:
        deadline = time.thread_time() + 3 * LONG
        while not found and time.thread_time() < deadline:
            found.extend(store.read(queries.alerts, limit=10))

    with Store(store_url) as store:
        watchdog = watchdog_for(store, "desk-1")
        watchdog.start()
        try:
            with bound(optimization="opt-7"):
                await run_user_code("strategy 'greedy'", holds)
        finally:
            await asyncio.to_thread(watchdog.stop)
        (alert,) = await AlertNotificationSystem(store=store).get_alerts("opt-7")
    assert (alert.title, alert.level, alert.resolved) == ("Event loop blocked", AlertLevel.ERROR, False)
    assert alert.metadata["labels"] == {"node": "desk-1"}
    assert "strategy 'greedy'" in alert.message
    assert alert.alert_id == found[0]["alert_id"]


async def test_code_that_awaits_is_not_reported(watchdog: Watchdog, caplog: pytest.LogCaptureFixture) -> None:
    async def awaits() -> str:
        for _ in range(20):
            hold(GIVE_UP / 10)
            await asyncio.sleep(0)
        return "whole"

    assert await run_user_code("this", awaits) == "whole"
    assert watchdog.is_blocked is False
    assert not [record for record in caplog.records if record.levelno > logging.WARNING]


async def test_many_short_calls_do_not_block_the_loop(watchdog: Watchdog, caplog: pytest.LogCaptureFixture) -> None:
    async def a_while() -> None:
        await asyncio.sleep(0)
        hold(GIVE_UP / 6)

    await asyncio.gather(*[run_user_code(f"number {n}", a_while) for n in range(12)])
    said = [record.getMessage() for record in caplog.records]
    assert any("the event loop" in message for message in said)
    assert not [record for record in caplog.records if record.levelno > logging.WARNING]
    await settled(watchdog)


async def test_a_watchdog_may_start_and_stop_at_any_time() -> None:
    watchdog = Watchdog(WARN, GIVE_UP)
    watchdog.stop()
    for _ in range(3):
        watchdog.start()
        watchdog.start()
        watchdog.stop()
        watchdog.stop()
    assert not [thread for thread in threading.enumerate() if thread.name == "o9-watchdog"]
    over = Watchdog(WARN, GIVE_UP)

    async def begin() -> None:
        over.start()

    await asyncio.to_thread(lambda: asyncio.run(begin()))
    await until(lambda: not [thread for thread in threading.enumerate() if thread.name == "o9-watchdog"])
    over.stop()


FROZEN = """
import asyncio, os, signal, time
from o9.user_code.watchdog import Watchdog, run_user_code

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
    watchdog = Watchdog(0.4, 1.2)
    watchdog.start()
    print(await run_user_code("this", honest), flush=True)
    watchdog.stop()

asyncio.run(main())
"""


def test_a_frozen_process_does_not_block_its_loop(tmp_path: Path) -> None:
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
    """Polls the watchdog from another thread, as a node's heartbeat does, until it reports a blocked loop."""

    def __init__(self, watchdog: Watchdog) -> None:
        super().__init__(daemon=True)
        self.was_blocked = False
        self._watchdog = watchdog
        self._unseen = threading.Lock()
        self._unseen.acquire()
        self.block = self._unseen.acquire  # blocks in C until it is seen, then returns True

    def run(self) -> None:
        deadline = time.monotonic() + HANGS
        while not self._watchdog.is_blocked and time.monotonic() < deadline:
            time.sleep(0.01)
        self.was_blocked = self._watchdog.is_blocked
        self._unseen.release()


async def until(condition: Callable[[], bool]) -> None:
    deadline = time.monotonic() + HANGS
    while not condition():
        assert time.monotonic() < deadline
        await asyncio.sleep(0.01)


async def settled(watchdog: Watchdog) -> None:
    """Wait until nothing is blocked."""
    await until(lambda: not watchdog.is_blocked)
