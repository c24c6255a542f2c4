"""Evaluations that hang: cut off at once, and never left behind, however their parent ends."""

from __future__ import annotations

import asyncio
import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest

from o9.strategies import child as child_module

sys.path.insert(0, str(Path(__file__).parents[1] / "support"))

from evaluations import MakeEvaluator, alive, evaluate, evaluators, wait_until


@pytest.fixture
async def evaluator() -> AsyncIterator[MakeEvaluator]:
    async with evaluators() as make:
        yield make


# Cutting off


def hang(parameters: dict[str, Any]) -> float:
    grandchild = subprocess.Popen(["sleep", "1000"])
    Path(parameters["path"]).write_text(f"{os.getpid()} {grandchild.pid}")
    while parameters["loop"]:
        pass
    re.match(r"(a+)+$", "a" * 40 + "b")  # holds the interpreter's lock for ages
    return 1.0


@pytest.mark.parametrize("loop", [True, False], ids=["python loop", "holding the interpreter's lock"])
async def test_a_cut_off_kills_at_once_and_the_event_loop_never_stops(
    evaluator: MakeEvaluator, tmp_path: Path, loop: bool
) -> None:
    paths = [tmp_path / "0", tmp_path / "1"]
    one = evaluator(hang, workers=2)
    task = asyncio.ensure_future(evaluate(one, *[{"path": str(path), "loop": loop} for path in paths]))
    await wait_until(lambda: all(path.exists() and path.read_text() for path in paths))
    pids = [int(pid) for path in paths for pid in path.read_text().split()]
    lags = []
    for _ in range(20):
        before = time.monotonic()
        await asyncio.sleep(0.01)
        lags.append(time.monotonic() - before)
    assert sorted(lags)[10] < 0.1
    assert all(map(alive, pids))
    began = time.monotonic()
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    await one.close()
    assert time.monotonic() - began < 2.0
    await wait_until(lambda: not any(map(alive, pids)), 2.0)


SCRIPT = '''
"""A user's script, without any guard, as users write them."""
import asyncio, os, sys
from o9.strategies.evaluation import Evaluator
from o9.strategies.registry import objective, resolve_objective

print("TOP LEVEL", flush=True)
FACTOR = 3.0

@objective("scripted")
def scripted(parameters):
    {body}
    return FACTOR * parameters["x"]

async def main():
    evaluator = Evaluator(resolve_objective("scripted"), workers=2)
    for outcome in await evaluator.evaluate([{{"x": 1.0}}, {{"x": 2.0}}], [0, 1]):
        print("VALUE", outcome.value, outcome.error, flush=True)
    await evaluator.close()

asyncio.run(main())
'''


def test_a_script_without_a_guard_runs_once(tmp_path: Path) -> None:
    script = tmp_path / "script.py"
    script.write_text(SCRIPT.format(body="pass"))
    done = subprocess.run(
        [sys.executable, "-W", "error", "-X", "dev", str(script)],
        capture_output=True,
        text=True,
        check=False,
        timeout=60,
    )
    assert done.stdout.splitlines() == ["TOP LEVEL", "VALUE 3.0 None", "VALUE 6.0 None"]
    assert (done.returncode, done.stderr) == (0, "")


@pytest.mark.parametrize(
    "body",
    ["while True: pass", "import re; re.match(r'(a+)+$', 'a' * 40 + 'b')", "import time; time.sleep(1000)"],
    ids=["python loop", "holding the interpreter's lock", "asleep"],
)
def test_kill_9_of_the_parent_leaves_no_orphan(tmp_path: Path, body: str) -> None:
    script = tmp_path / "script.py"
    grandchild = (
        "import subprocess; g = subprocess.Popen(['sleep', '1000']); open(f'{os.getpid()}.pid', 'w').write(str(g.pid))"
    )
    script.write_text(SCRIPT.format(body=f"{grandchild}; {body}" if ":" not in body else f"{grandchild}\n    {body}"))
    parent = subprocess.Popen([sys.executable, str(script)], cwd=tmp_path, stdout=subprocess.DEVNULL)

    def started() -> list[int]:
        files = list(tmp_path.glob("*.pid"))
        return [int(text) for file in files for text in (file.stem, file.read_text() or "0")]

    end = time.monotonic() + 30
    while len(pids := started()) < 4 or 0 in pids:
        assert time.monotonic() < end
        time.sleep(0.01)
    assert all(map(alive, pids))
    parent.kill()
    parent.wait()
    end = time.monotonic() + 5
    while any(map(alive, pids)):
        assert time.monotonic() < end, f"orphans: {[pid for pid in pids if alive(pid)]}"
        time.sleep(0.01)


async def test_a_child_that_exits_by_itself_leaves_nothing_that_it_started(
    evaluator: MakeEvaluator, tmp_path: Path
) -> None:
    record = tmp_path / "pid"

    def desert(parameters: dict[str, Any]) -> float:
        record.write_text(str(subprocess.Popen(["sleep", "1000"]).pid))
        os._exit(3)

    (outcome,) = await evaluate(evaluator(desert), {})
    assert "exit code 3" in (outcome.error or "")
    await wait_until(lambda: not alive(int(record.read_text())), 2.0)


def test_a_child_whose_parent_is_gone_before_it_is_up_ends_too() -> None:
    lifeline, parents_end = os.pipe()
    requests, kept_open = os.pipe()
    os.close(parents_end)
    child = subprocess.Popen(
        [sys.executable, "-P", child_module.__file__, str(requests), "1", str(lifeline)],
        pass_fds=[requests, lifeline],
        start_new_session=True,
        stdout=subprocess.DEVNULL,
    )
    try:
        assert child.wait(10) == -signal.SIGKILL
    finally:
        for descriptor in (lifeline, requests, kept_open):
            os.close(descriptor)
