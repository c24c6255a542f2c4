"""A program of one's own that is told to end while it runs flows."""

from __future__ import annotations

import signal
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import o9_testing
import pytest
import zygote

from o9.store import queries
from o9.store.store import Store

pytestmark = pytest.mark.slow
PROGRAM = """
import asyncio, signal, sys, time
from o9_testing import LINE, new
from OptimizationStateAggregator import OptimizationStateAggregator, objective

@objective("busy", search_space=LINE)
async def busy(parameters):  # the signal hits one of its tasks, and not the event loop that waits
    until = time.thread_time() + 0.05
    while time.thread_time() < until:
        pass
    return parameters["x"]

@objective("idle", search_space=LINE)
async def idle(parameters):  # it hits the loop
    await asyncio.sleep(1.0)
    return parameters["x"]

async def main(name, told):
    if told:
        asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, told.set)
    async with OptimizationStateAggregator(storage_path="store.db") as aggregator:
        for n in range(4):
            await aggregator.submit_optimization(new(f"o-{n}", objective=name, total_steps=10_000))
        await (told or asyncio.Event()).wait()

asyncio.run(main(sys.argv[1], asyncio.Event() if sys.argv[2:] else None))
"""


@pytest.mark.parametrize(("given", "code"), [(["busy"], -signal.SIGTERM), (["idle", "a handler of its own"], 0)])
def test_sigterm_ends_it(tmp_path: Path, wait_until: Callable[..., Any], given: list[str], code: int) -> None:
    with o9_testing.no_process_left() as environment:
        environment |= {**o9_testing.prefect_environment(), "PYTHONPATH": str(Path(o9_testing.__file__).parent)}
        process = zygote.start(["-c", PROGRAM, *given], cwd=tmp_path, env=environment, stderr=subprocess.DEVNULL)

        def all_at_work() -> bool:
            if not (tmp_path / "store.db").exists():
                return False
            with Store(str(tmp_path / "store.db")) as store:
                return len([state for state in store.read(queries.page).items if state.completed_steps > 2]) == 4

        wait_until(all_at_work, 60)
        process.send_signal(signal.SIGTERM)
        assert process.wait(60) == code
