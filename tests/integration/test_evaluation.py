"""Evaluations in real child processes: what users' code may do there, and what it can never do."""

from __future__ import annotations

import asyncio
import contextlib
import functools
import logging
import os
import re
import signal
import subprocess
import sys
import threading
import time
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Any

import psutil
import pytest

from o9.model.errors import OptimizationStrategyError
from o9.model.states import TrialState
from o9.model.trial import Evaluation
from o9.strategies import child as child_module
from o9.strategies.answers import ERROR_LENGTH
from o9.strategies.children import POOL, THREAD_VARIABLES
from o9.strategies.evaluation import Evaluator, Outcome, prewarm
from o9.strategies.output import LINE_LENGTH, LINES_PER_EVALUATION
from o9.strategies.registry import Objective

MakeEvaluator = Callable[..., Evaluator]


@pytest.fixture
async def evaluator() -> AsyncIterator[MakeEvaluator]:
    made: list[Evaluator] = []

    def make(function: Callable[..., Any], workers: int = 1, locator: str | None = None) -> Evaluator:
        made.append(Evaluator(Objective("tested", function, locator=locator), workers=workers))
        return made[-1]

    yield make
    for one in made:
        await one.close()


@pytest.fixture(autouse=True)
def _nothing_stays() -> Any:
    yield
    POOL.shut_down()
    end = time.monotonic() + 2.0
    while left := [child for child in psutil.Process().children(recursive=True) if alive(child.pid)]:
        assert time.monotonic() < end, f"left behind: {left}"
        time.sleep(0.01)


async def evaluate(one: Evaluator, *parameters: dict[str, Any]) -> list[Outcome]:
    return await one.evaluate(parameters, range(len(parameters)))


def alive(pid: int) -> bool:
    try:
        return psutil.Process(pid).status() != psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return False


async def wait_until(condition: Callable[[], Any], seconds: float = 10.0) -> None:
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end, "it did not come true in time"
        await asyncio.sleep(0.01)


# What an objective may answer


def good_answers(parameters: dict[str, Any]) -> Any:
    import numpy as np

    series = np.array([0.01, -0.02])
    return {
        "float": lambda: 1.5,
        "int": lambda: 2,
        "numpy float32": lambda: np.float32(0.5),
        "numpy int": lambda: np.int64(3),
        "numpy 0-d": lambda: np.array(2.5),
        "evaluation": lambda: Evaluation(
            np.float64(1.25), series, np.int64(252), {"turnover": np.float64(3.0), "换手": 1}, "prices-v1"
        ),
        "list": lambda: Evaluation(1.0, returns=[1, 0.5]),
        "tuple of numpy": lambda: Evaluation(1.0, returns=tuple(series)),
    }[parameters["case"]]()


async def test_good_answers(evaluator: MakeEvaluator) -> None:
    cases = ["float", "int", "numpy float32", "numpy int", "numpy 0-d", "evaluation", "list", "tuple of numpy"]
    outcomes = await evaluate(evaluator(good_answers), *[{"case": case} for case in cases])
    assert [outcome.error for outcome in outcomes] == [None] * len(cases)
    assert [outcome.value for outcome in outcomes] == [1.5, 2.0, 0.5, 3.0, 2.5, 1.25, 1.0, 1.0]
    assert {type(outcome.value) for outcome in outcomes} == {float}
    whole = outcomes[5]
    assert whole.returns == (0.01, -0.02)
    assert whole.periods_per_year == 252.0
    assert whole.metrics == {"turnover": 3.0, "换手": 1.0}
    assert whole.data_fingerprint == "prices-v1"
    assert outcomes[6].returns == (1.0, 0.5)
    assert whole.started_at is not None
    assert whole.started_at.utcoffset() is not None


BAD_ANSWERS: dict[str, tuple[Callable[[], Any], str]] = {
    "None": (lambda: None, "returned None; an objective returns one finite number"),
    "text": (lambda: "1.5", "returned '1.5' (str)"),
    "complex": (lambda: 1 + 2j, "returned (1+2j) (complex)"),
    "bool": (lambda: True, "returned True (bool)"),
    "nan": (lambda: float("nan"), "returned nan"),
    "inf": (lambda: float("inf"), "returned inf"),
    "-inf": (lambda: -float("inf"), "returned -inf"),
    "list": (lambda: [1.0], "returned [1.0] (list)"),
    "too large": (lambda: 10**400, "float() of it failed"),
    "evaluation of None": (lambda: Evaluation(None), "returned None"),  # type: ignore[arg-type]
    "nan in returns": (lambda: Evaluation(1.0, [0.0, float("nan")]), "number 1 is nan"),
    "text as returns": (lambda: Evaluation(1.0, "abc"), "gave returns as 'abc'"),  # type: ignore[arg-type]
    "text in returns": (lambda: Evaluation(1.0, ["a"]), "returns that are no numbers"),  # type: ignore[list-item]
    "empty returns": (lambda: Evaluation(1.0, []), "empty returns"),
    "nested returns": (lambda: Evaluation(1.0, [[1.0]]), "returns that are no numbers"),  # type: ignore[list-item]
    "inf in metrics": (lambda: Evaluation(1.0, metrics={"m": float("inf")}), "metric 'm' inf"),
    "text in metrics": (lambda: Evaluation(1.0, metrics={"m": "x"}), "metric 'm' 'x'"),  # type: ignore[dict-item]
    "unnamed metric": (lambda: Evaluation(1.0, metrics={1: 1.0}), "metric named 1"),  # type: ignore[dict-item]
    "periods": (lambda: Evaluation(1.0, periods_per_year=0), "periods_per_year 0.0"),
    "fingerprint": (lambda: Evaluation(1.0, data_fingerprint=7), "data_fingerprint 7"),  # type: ignore[arg-type]
}


def bad_answers(parameters: dict[str, Any]) -> Any:
    return BAD_ANSWERS[parameters["case"]][0]()


def bad_numpy_answers(parameters: dict[str, Any]) -> Any:
    import numpy as np

    return {
        "complex64": np.complex64(1 + 1j),
        "bool": np.bool_(True),
        "vector": np.array([1.0]),
        "date": np.datetime64("2026-01-01"),
        "two-dimensional": Evaluation(1.0, returns=np.ones((2, 2))),  # type: ignore[arg-type]
    }[parameters["case"]]


async def test_bad_answers_fail_their_trial_and_say_what_was_returned(evaluator: MakeEvaluator) -> None:
    outcomes = await evaluate(evaluator(bad_answers), *[{"case": case} for case in BAD_ANSWERS])
    for outcome, (case, (_, said)) in zip(outcomes, BAD_ANSWERS.items(), strict=True):
        assert outcome.state is TrialState.FAILED, case
        assert outcome.value is None
        assert said in (outcome.error or ""), case
        assert "\n" not in (outcome.error or ""), "what was returned is no matter of a traceback"
    cases = ["complex64", "bool", "vector", "date", "two-dimensional"]
    for outcome in await evaluate(evaluator(bad_numpy_answers), *[{"case": case} for case in cases]):
        assert outcome.state is TrialState.FAILED


# What an objective may do


class Unprintable(Exception):
    def __str__(self) -> str:
        raise RuntimeError("no text")

    def __reduce__(self) -> Any:
        raise TypeError("no pickle")


def misbehave(parameters: dict[str, Any]) -> Any:
    case = parameters["case"]
    parameters.clear()
    if case == "raise":
        raise ValueError("no such \0 price \ud800" + "!" * 100_000)
    if case == "unprintable":
        raise Unprintable
    if case == "exit":
        sys.exit("enough")
    if case == "interrupt":
        raise KeyboardInterrupt
    if case == "_exit":
        os._exit(7)
    if case == "segfault":
        os.kill(os.getpid(), signal.SIGSEGV)
    if case == "killed":
        os.kill(os.getpid(), signal.SIGKILL)
    if case == "memory":
        raise MemoryError
    if case == "recursion":
        return misbehave({"case": case})
    if case == "close everything":
        os.closerange(3, 100)
    if case == "fork":
        if os.fork() == 0:
            raise SystemExit
        os.wait()
        return 4.0
    if case == "leave a fork":
        if os.fork() == 0:
            time.sleep(1000)
        os._exit(3)
    if case == "stdout":
        sys.stdout.close()
        return 3.0
    return 2.0


MISBEHAVIOUR = {
    "raise": "ValueError: no such \\x00 price \\ud800!!!",
    "unprintable": "Unprintable: <no message: its __str__ raised RuntimeError>",
    "exit": "the objective called sys.exit(enough)",
    "interrupt": "KeyboardInterrupt",
    "_exit": "exit code 7",
    "segfault": "ended by SIGSEGV",
    "killed": "ended by SIGKILL, as the kernel does when memory runs out",
    "memory": "MemoryError",
    "recursion": "RecursionError",
    "close everything": "did not survive",
    "leave a fork": "exit code 3",
}


@pytest.mark.parametrize("workers", [1, 2])
async def test_each_misbehaviour_fails_its_own_trial_only(evaluator: MakeEvaluator, workers: int) -> None:
    cases = [case for bad in MISBEHAVIOUR for case in (bad, "fine")]
    outcomes = await evaluate(evaluator(misbehave, workers), *[{"case": case} for case in cases])
    assert [outcome.number for outcome in outcomes] == list(range(len(cases)))
    for case, outcome in zip(cases, outcomes, strict=True):
        assert (outcome.value, outcome.error) == (2.0, None) if case == "fine" else outcome.value is None
        assert MISBEHAVIOUR.get(case, "") in (outcome.error or "")
        assert len(outcome.error or "") <= ERROR_LENGTH
        (outcome.error or "").encode()


async def test_an_error_shows_where_it_was_raised(evaluator: MakeEvaluator) -> None:
    (outcome,) = await evaluate(evaluator(misbehave), {"case": "raise"})
    assert re.search(r"line \d+, in misbehave", outcome.error or "")


async def test_the_copy_of_a_fork_never_answers(evaluator: MakeEvaluator) -> None:
    outcomes = await evaluate(evaluator(misbehave), {"case": "fork"}, {"case": "fine"}, {"case": "fork"})
    assert [outcome.value for outcome in outcomes] == [4.0, 2.0, 4.0]


async def test_an_objective_may_close_its_stdout(evaluator: MakeEvaluator) -> None:
    outcomes = await evaluate(evaluator(misbehave), {"case": "stdout"}, {"case": "fine"})
    assert [outcome.value for outcome in outcomes] == [3.0, 2.0]


async def test_parameters_are_the_objectives_own_copy(evaluator: MakeEvaluator) -> None:
    parameters = {"case": "fine"}
    await evaluate(evaluator(misbehave), parameters)

    async def clear(given: dict[str, Any]) -> float:
        given.clear()
        return 1.0

    await evaluate(evaluator(clear), parameters)
    assert parameters == {"case": "fine"}


async def test_outcomes_come_in_the_order_of_their_numbers(evaluator: MakeEvaluator) -> None:
    def slow_first(parameters: dict[str, Any]) -> float:
        time.sleep(0.2 if parameters["n"] == 0 else 0)
        return float(parameters["n"])

    outcomes = await evaluator(slow_first, 2).evaluate([{"n": n} for n in range(6)], range(10, 16))
    assert [(outcome.number, outcome.value) for outcome in outcomes] == [(10 + n, float(n)) for n in range(6)]


async def test_large_parameters_and_large_returns_go_through(evaluator: MakeEvaluator) -> None:
    def long(parameters: dict[str, Any]) -> Evaluation:
        return Evaluation(float(len(parameters["text"])), returns=[0.5] * 300_000)

    (outcome,) = await evaluate(evaluator(long), {"text": "x" * 5_000_000})
    assert outcome.value == 5_000_000.0
    assert len(outcome.returns or ()) == 300_000


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


# Printing


def chatter(parameters: dict[str, Any]) -> float:
    print("fast is", parameters["n"])
    print("to the error stream \x1b[31m快\r", file=sys.stderr)
    os.write(1, b"\xff raw bytes\n")
    return 1.0


async def test_what_is_printed_becomes_log_lines(evaluator: MakeEvaluator, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO, "o9.objective")
    await evaluate(evaluator(chatter), {"n": 5}, {"n": 6})
    assert [record.getMessage() for record in caplog.records] == [
        f"trial {number}: {line}"
        for number in (0, 1)
        for line in (f"fast is {5 + number}", "to the error stream �[31m快", "� raw bytes")
    ]


async def test_floods_of_print_are_bounded(evaluator: MakeEvaluator, caplog: pytest.LogCaptureFixture) -> None:
    def flood(parameters: dict[str, Any]) -> float:
        print("x" * 1_000_000)
        for line in range(50_000):
            print("line", line)
        return 1.0

    caplog.set_level(logging.INFO, "o9.objective")
    (outcome,) = await evaluate(evaluator(flood), {})
    assert outcome.value == 1.0
    assert len(caplog.records) == LINES_PER_EVALUATION + 1
    assert max(len(record.getMessage()) for record in caplog.records) <= LINE_LENGTH + len("trial 0: ")
    assert re.search(r"printed \d+ bytes more, not shown", caplog.records[-1].getMessage())


# How code and surroundings get there


async def test_surroundings_are_those_of_the_parent_now(
    evaluator: MakeEvaluator, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def look(parameters: dict[str, Any]) -> float:
        import module_of_this_test

        return float(open("number").read()) + float(os.environ["TESTED"]) + module_of_this_test.NUMBER

    one = evaluator(look)
    await evaluate(evaluator(lambda parameters: 1.0), {})  # a child that started in other surroundings
    (tmp_path / "number").write_text("100")
    (tmp_path / "module_of_this_test.py").write_text("NUMBER = 20")
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(str(tmp_path))
    monkeypatch.setenv("TESTED", "3")
    (outcome,) = await evaluate(one, {})
    assert (outcome.value, outcome.error) == (123.0, None)


async def test_a_function_by_import_path_is_imported_by_name(evaluator: MakeEvaluator) -> None:
    import o9.objectives.functions as functions

    one = evaluator(functions.branin, locator="o9.objectives.functions:branin")
    (outcome,) = await evaluate(one, {"x": 3.14159265, "y": 2.275})
    assert outcome.value == pytest.approx(1.0, abs=1e-4)


async def test_partials_closures_and_objects_are_shipped(evaluator: MakeEvaluator) -> None:
    factor = 7.0

    class Callable:
        def __call__(self, parameters: dict[str, Any]) -> float:
            return factor

    for function in (lambda parameters: factor, Callable(), functools.partial(lambda two, p: two * 3.5, 2)):
        (outcome,) = await evaluate(evaluator(function), {})
        assert outcome.value == 7.0


async def test_what_cannot_be_sent_says_so(evaluator: MakeEvaluator) -> None:
    lock = threading.Lock()
    with pytest.raises(OptimizationStrategyError, match=r"objective 'tested' cannot be sent .*instead of closing over"):
        await evaluate(evaluator(lambda parameters: lock.locked()), {})


async def test_what_cannot_be_loaded_says_so(evaluator: MakeEvaluator) -> None:
    one = evaluator(chatter, locator="o9.objectives.nowhere:function")
    with pytest.raises(
        OptimizationStrategyError, match=r"cannot be loaded .*No module named 'o9\.objectives\.nowhere'"
    ):
        await evaluate(one, {})


def threads(parameters: dict[str, Any]) -> Evaluation:
    return Evaluation(1.0, metrics={name: float(os.environ.get(name, 0)) for name in THREAD_VARIABLES})


async def test_side_by_side_each_library_uses_one_thread(
    evaluator: MakeEvaluator, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in THREAD_VARIABLES:
        monkeypatch.delenv(name, raising=False)
    (alone,) = await evaluate(evaluator(threads, workers=1), {})
    assert set(alone.metrics.values()) == {0.0}
    both = await evaluate(evaluator(threads, workers=2), {}, {})
    assert {value for outcome in both for value in outcome.metrics.values()} == {1.0}
    monkeypatch.setenv("OMP_NUM_THREADS", "5")
    both = await evaluate(evaluator(threads, workers=2), {}, {})
    assert {outcome.metrics["OMP_NUM_THREADS"] for outcome in both} == {5.0}


# The pool


def own_pid(parameters: dict[str, Any]) -> float:
    return float(os.getpid())


def other_pid(parameters: dict[str, Any]) -> float:
    return os.getpid() + 0.5


async def test_a_child_is_used_again_by_the_next_optimization_in_any_event_loop(evaluator: MakeEvaluator) -> None:
    one = evaluator(own_pid)
    (first,) = await evaluate(one, {})
    await one.close()

    async def elsewhere() -> float | None:
        another = Evaluator(Objective("other", other_pid))
        (outcome,) = await evaluate(another, {})
        await another.close()
        return outcome.value

    second = await asyncio.to_thread(asyncio.run, elsewhere())
    assert second == (first.value or 0) + 0.5


async def test_a_warm_child_answers_at_once_and_has_nothing_heavy(evaluator: MakeEvaluator) -> None:
    prewarm(1)

    def modules(parameters: dict[str, Any]) -> float:
        heavy = {"optuna", "numpy", "sqlalchemy", "pydantic", "prefect"} & set(sys.modules)
        return float(len(heavy))

    (outcome,) = await evaluate(evaluator(modules), {})
    assert outcome.value == 0.0


async def test_starting_a_child_costs_little_more_than_starting_python(evaluator: MakeEvaluator) -> None:
    def bare() -> float:
        began = time.perf_counter()
        subprocess.run([sys.executable, "-c", "import pickle, threading, dataclasses"], check=True)
        return time.perf_counter() - began

    async def child() -> float:
        POOL.shut_down()
        began = time.perf_counter()
        one = evaluator(own_pid)
        await evaluate(one, {})
        await one.close()
        return time.perf_counter() - began

    # In turn, so that what else the machine does weighs on both alike. Measured: 1.3 times.
    times = [(await child(), await asyncio.to_thread(bare)) for _ in range(6)]
    assert min(own for own, _ in times) < 3 * min(python for _, python in times)


async def test_a_child_that_died_idle_is_replaced(evaluator: MakeEvaluator) -> None:
    one = evaluator(own_pid)
    (first,) = await evaluate(one, {})
    os.kill(int(first.value or 0), signal.SIGKILL)
    await wait_until(lambda: not alive(int(first.value or 0)))
    (second,) = await evaluate(one, {})
    assert second.error is None
    assert second.value != first.value


async def test_idle_children_beyond_the_processors_are_ended(evaluator: MakeEvaluator) -> None:
    many = (os.cpu_count() or 1) + 3
    one = evaluator(lambda parameters: time.sleep(0.3) or 1.0, workers=many)
    await evaluate(one, *[{}] * many)
    assert len(psutil.Process().children()) >= many
    await one.close()
    await wait_until(lambda: len([c for c in psutil.Process().children() if alive(c.pid)]) <= (os.cpu_count() or 1))


# Async objectives


async def test_async_objectives_run_here_and_side_by_side(evaluator: MakeEvaluator) -> None:
    running, most = 0, 0

    async def wait(parameters: dict[str, Any]) -> float:
        nonlocal running, most
        running += 1
        most = max(most, running)
        await asyncio.sleep(0.05 if parameters["n"] else 0.1)
        running -= 1
        return float(parameters["n"])

    outcomes = await evaluate(evaluator(wait, workers=3), *[{"n": n} for n in range(7)])
    assert [outcome.value for outcome in outcomes] == [float(n) for n in range(7)]
    assert most == 3


async def test_async_misbehaviour_fails_its_own_trial_only(evaluator: MakeEvaluator) -> None:
    async def act(parameters: dict[str, Any]) -> Any:
        match parameters["case"]:
            case "exit":
                sys.exit(3)
            case "cancelled":
                raise asyncio.CancelledError
            case "raise":
                raise Unprintable
            case "nan":
                return float("nan")
        return 1.0

    cases = ["exit", "cancelled", "raise", "nan", "fine"]
    for workers in (1, 3):
        outcomes = await evaluate(evaluator(act, workers), *[{"case": case} for case in cases])
        assert [outcome.value for outcome in outcomes] == [None] * 4 + [1.0]
        said = ["sys.exit(3)", "CancelledError", "Unprintable", "returned nan", ""]
        assert all(text in (outcome.error or "") for text, outcome in zip(said, outcomes, strict=True))


@pytest.mark.parametrize("workers", [1, 2])
async def test_async_objectives_are_cut_off(evaluator: MakeEvaluator, workers: int) -> None:
    cut: list[int] = []

    async def forever(parameters: dict[str, Any]) -> float:
        with contextlib.suppress(ZeroDivisionError):
            try:
                await asyncio.Event().wait()
            finally:
                cut.append(parameters["n"])
        return 1.0

    task = asyncio.ensure_future(evaluate(evaluator(forever, workers), {"n": 0}, {"n": 1}))
    await asyncio.sleep(0.05)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert cut == list(range(workers))
