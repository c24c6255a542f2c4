"""Evaluations that hang are killed at once, and none survives, however the parent ends."""

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

import psutil
import pytest
from evaluations import MakeEvaluator, alive, children, evaluate, evaluators, wait_until

from o9.workers import worker as child_module
from o9.workers.pool import PATIENCE_SECONDS


@pytest.fixture
async def evaluator() -> AsyncIterator[MakeEvaluator]:
    async with evaluators() as make:
        yield make


# Code of users, as text too, because scripts of tests need it: starts processes that try to get away, one each way.
START_GRANDCHILDREN = """
import os, signal, subprocess, sys
plain = subprocess.Popen(["sleep", "1000"])
in_a_session_of_its_own = subprocess.Popen(["sleep", "1000"], start_new_session=True)
daemon = "import subprocess; print(subprocess.Popen(['sleep', '1000'], stdout=subprocess.DEVNULL).pid)"
started = subprocess.run([sys.executable, "-c", daemon], stdout=subprocess.PIPE, start_new_session=True)
double_forked = int(started.stdout)
forked = os.fork()
if forked == 0:
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    os.setsid()
    while True:
        signal.pause()
with open(path + ".new", "w") as file:
    print(os.getpid(), plain.pid, in_a_session_of_its_own.pid, double_forked, forked, file=file)
os.rename(path + ".new", path)
"""
STARTED = 5


def start_grandchildren(path: str) -> None:
    exec(START_GRANDCHILDREN, {"path": path})


def pids_in(*paths: Path) -> list[int]:
    """What the objective and its grandchildren are, once all of them run."""
    return [int(pid) for path in paths if path.exists() for pid in path.read_text().split()]


# Cutting off


def hang(parameters: dict[str, Any]) -> float:
    start_grandchildren(parameters["path"])
    while parameters["loop"]:
        pass
    re.match(r"(a+)+$", "a" * 40 + "b")  # holds the interpreter's lock for ages
    return 1.0


@pytest.mark.parametrize("loop", [True, False], ids=["python loop", "holding the interpreter's lock"])
async def test_a_cancellation_kills_at_once_without_blocking_the_loop(
    evaluator: MakeEvaluator, tmp_path: Path, loop: bool
) -> None:
    paths = [tmp_path / "0", tmp_path / "1"]
    one = evaluator(hang, workers=2)
    task = asyncio.ensure_future(evaluate(one, *[{"path": str(path), "loop": loop} for path in paths]))
    await wait_until(lambda: len(pids_in(*paths)) == 2 * STARTED)
    pids = pids_in(*paths)
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
    await one.close()  # returns when all is gone
    assert not any(map(alive, pids))
    assert time.monotonic() - began < 10.0


async def test_kill_returns_at_once_and_wait_when_all_has_ended(evaluator: MakeEvaluator, tmp_path: Path) -> None:
    path = tmp_path / "pids"
    task = asyncio.ensure_future(evaluate(evaluator(hang), {"path": str(path), "loop": True}))
    await wait_until(lambda: len(pids_in(path)) == STARTED)
    guardian = psutil.Process(pids_in(path)[0]).ppid()
    began = time.monotonic()
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert time.monotonic() - began < 10.0
    await wait_until(lambda: not alive(guardian), 20)
    assert not any(map(alive, pids_in(path)))


@pytest.mark.filterwarnings("ignore:This process:DeprecationWarning")  # Python 3.12: it has threads, and forks
async def test_a_forked_copy_of_the_parent_does_not_keep_children_alive(
    evaluator: MakeEvaluator, tmp_path: Path
) -> None:
    path = tmp_path / "pids"
    task = asyncio.ensure_future(evaluate(evaluator(hang), {"path": str(path), "loop": True}))
    await wait_until(lambda: len(pids_in(path)) == STARTED)
    copy = os.fork()  # it holds all pipes open
    if copy == 0:
        signal.pause()
    try:
        task.cancel()
        await wait_until(lambda: not any(map(alive, pids_in(path))), 20)
    finally:
        os.kill(copy, signal.SIGKILL)
        await asyncio.to_thread(os.waitpid, copy, 0)


async def test_a_stopped_guardian_is_killed_with_its_group(evaluator: MakeEvaluator, tmp_path: Path) -> None:
    path = tmp_path / "pids"
    task = asyncio.ensure_future(evaluate(evaluator(hang), {"path": str(path), "loop": True}))
    await wait_until(lambda: len(pids_in(path)) == STARTED)
    objective, plain, *away = pids_in(path)
    guardian = psutil.Process(objective).ppid()
    os.kill(guardian, signal.SIGSTOP)
    task.cancel()
    try:
        await wait_until(lambda: not any(map(alive, (guardian, objective, plain))), PATIENCE_SECONDS + 2.0)
    finally:
        for pid in away:
            os.kill(pid, signal.SIGKILL)


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


def test_a_script_without_a_main_guard_runs_once(tmp_path: Path) -> None:
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
    # On a busy machine asyncio's debug mode tells of callbacks that took long.
    complaints = [line for line in done.stderr.splitlines() if not line.startswith("Executing <")]
    assert (done.returncode, complaints) == (0, [])


@pytest.mark.parametrize(
    "body",
    ["while True: pass", "import re; re.match(r'(a+)+$', 'a' * 40 + 'b')", "import time; time.sleep(1000)"],
    ids=["python loop", "holding the interpreter's lock", "asleep"],
)
def test_kill_9_of_the_parent_leaves_no_orphan(tmp_path: Path, body: str) -> None:
    script = tmp_path / "script.py"
    grandchildren = f"exec({START_GRANDCHILDREN!r}, {{'path': f'{{os.getpid()}}.pids'}})"
    script.write_text(SCRIPT.format(body=f"{grandchildren}\n    {body}"))
    parent = subprocess.Popen([sys.executable, str(script)], cwd=tmp_path, stdout=subprocess.DEVNULL)
    end = time.monotonic() + 30
    while len(pids := pids_in(*tmp_path.glob("*.pids"))) < 2 * STARTED:
        assert time.monotonic() < end
        time.sleep(0.01)
    assert all(map(alive, pids))
    parent.kill()
    parent.wait()
    end = time.monotonic() + 5
    while any(map(alive, pids)):
        assert time.monotonic() < end, f"orphans: {[pid for pid in pids if alive(pid)]}"
        time.sleep(0.01)


@pytest.mark.parametrize(
    ("end", "told"),
    [
        ("os._exit(3)", "exit code 3"),
        ("os.kill(os.getpid(), 11)", "SIGSEGV"),
        ("os.kill(os.getpid(), 15)", "SIGTERM"),
        ("os.killpg(0, 15)", "SIGTERM"),
        ("os.kill(os.getppid(), 9)", "SIGKILL"),
    ],
)
async def test_a_child_that_ends_itself_reports_how_and_leaves_no_process(
    evaluator: MakeEvaluator, tmp_path: Path, end: str, told: str
) -> None:
    path = tmp_path / "pids"

    def desert(parameters: dict[str, Any]) -> float:
        if not path.exists():  # it is evaluated once more where its process died
            start_grandchildren(str(path))
        exec(end, {"os": os})
        time.sleep(1000)
        return 1.0

    (outcome,) = await evaluate(evaluator(desert), {})
    assert told in (outcome.error or "")
    objective, plain, *away = pids_in(path)
    if "getppid" in end:  # without its guardian the group goes, and no more can be found
        await wait_until(lambda: not any(map(alive, (objective, plain))), 20)
        for pid in away:
            os.kill(pid, signal.SIGKILL)
    else:
        await wait_until(lambda: not any(map(alive, pids_in(path))), 20)


async def test_ended_subprocesses_of_an_objective_leave_no_zombies(evaluator: MakeEvaluator) -> None:
    def start_daemons(parameters: dict[str, Any]) -> float:
        for _ in range(5):
            daemon = "import os; os._exit(0) if os.fork() else os._exit(0)"
            subprocess.run([sys.executable, "-c", daemon], check=True)
        return 1.0

    one = evaluator(start_daemons)
    await evaluate(one, {})
    guardians = [psutil.Process(child) for child in children()]  # of a busy machine's second try, too
    assert guardians
    await wait_until(lambda: all(len(one.children(recursive=True)) == 1 for one in guardians if one.is_running()))


def test_a_child_ends_if_its_parent_ended_during_its_start() -> None:
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


@pytest.mark.skipif(sys.platform != "linux", reason="there is no guardian")
def test_the_guarded_process_ends_with_its_guardian() -> None:
    pipes = [os.pipe() for _ in range(3)]
    (requests, _), (_, replies), (lifeline, _) = pipes
    child = subprocess.Popen(
        [sys.executable, "-P", child_module.__file__, str(requests), str(replies), str(lifeline)],
        pass_fds=[requests, replies, lifeline],
        start_new_session=True,
    )
    try:
        end = time.monotonic() + 10
        while not (guarded := psutil.Process(child.pid).children()):
            assert time.monotonic() < end
            time.sleep(0.01)
        child.kill()
        child.wait()
        while alive(guarded[0].pid):
            assert time.monotonic() < end
            time.sleep(0.01)
    finally:
        for descriptor in (descriptor for pipe in pipes for descriptor in pipe):
            os.close(descriptor)
