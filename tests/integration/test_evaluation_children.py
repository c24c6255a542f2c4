"""Child processes: loading code, context, output, and the pool."""

from __future__ import annotations

import asyncio
import functools
import itertools
import logging
import os
import re
import signal
import sys
import threading
import time
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest
from evaluations import MakeEvaluator, alive, children, evaluate, evaluators, wait_until
from o9_testing import PATIENCE

from o9.model.errors import OptimizationStrategyError
from o9.model.trial import Evaluation
from o9.strategies import evaluation
from o9.strategies.evaluation import Evaluator
from o9.strategies.registry import Objective
from o9.workers.cores import Cores
from o9.workers.output import KEPT_BYTES, LINE_LENGTH, LINES_PER_EVALUATION
from o9.workers.pool import THREAD_VARIABLES


@pytest.fixture
async def evaluator() -> AsyncIterator[MakeEvaluator]:
    async with evaluators() as make:
        yield make


# Printing


def chatter(parameters: dict[str, Any]) -> float:
    print("fast is", parameters["n"])
    print("to the error stream \x1b[31m快\r", file=sys.stderr)
    os.write(1, b"\xff raw bytes\n")
    return 1.0


async def test_printed_output_is_logged(evaluator: MakeEvaluator, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO, "o9.objective")
    await evaluate(evaluator(chatter), {"n": 5}, {"n": 6})
    assert [record.getMessage() for record in caplog.records] == [
        f"trial {number}: {line}"
        for number in (0, 1)
        for line in (f"fast is {5 + number}", "to the error stream �[31m快", "� raw bytes")
    ]


async def test_excessive_output_is_limited(evaluator: MakeEvaluator, caplog: pytest.LogCaptureFixture) -> None:
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
    assert re.search(r"\d+ more bytes were printed", caplog.records[-1].getMessage())


async def test_printed_output_is_stored_by_trial(evaluator: MakeEvaluator) -> None:
    def talks(parameters: dict[str, Any]) -> float:
        import logging

        print("first")
        logging.getLogger("desk").info("second")
        print("third", file=sys.stderr)
        if parameters["n"] == 1:
            sys.stdout.flush()
            for _ in range(100):
                os.write(1, bytes(range(256)) * 4096)
        if parameters["n"] == 2:
            os._exit(3)
        return 1.0

    one = evaluator(talks, workers=2)
    outcomes = await evaluate(one, {"n": 0}, {"n": 1}, {"n": 2})
    assert [outcome.value for outcome in outcomes] == [1.0, 1.0, None]
    said = "first\nINFO desk: second\nthird\n"
    assert [one.printed[number].text[: len(said)] for number in range(3)] == [said] * 3
    assert (one.printed[0].cut, one.printed[2].cut) == (0, 0)
    assert len(one.printed[1].text.encode()) <= KEPT_BYTES < 100_000_000 < one.printed[1].cut


# Processors


async def test_evaluators_share_the_processors(evaluator: MakeEvaluator, monkeypatch: pytest.MonkeyPatch) -> None:
    def busy(parameters: dict[str, Any]) -> Evaluation:
        import time

        began = time.time()
        end = time.process_time() + 0.1
        while time.process_time() < end:
            pass
        return Evaluation(1.0, metrics={"began": began, "ended": time.time()})

    def hangs(parameters: dict[str, Any]) -> float:
        import time

        time.sleep(600)
        return 1.0

    monkeypatch.setattr(evaluation, "CORES", Cores(1))
    several = [evaluator(busy, workers=2) for _ in range(3)]
    found = await asyncio.gather(*(evaluate(one, {}, {}) for one in several))
    spans = sorted((o.metrics["began"], o.metrics["ended"]) for outcomes in found for o in outcomes)
    assert len(spans) == 6
    assert all(after[0] >= before[1] for before, after in itertools.pairwise(spans))

    hanging = asyncio.create_task(evaluate(evaluator(hangs), {}))
    await asyncio.sleep(0)
    (outcome,) = await asyncio.wait_for(evaluate(several[0], {}), 30 * PATIENCE)
    assert outcome.value == 1.0
    hanging.cancel()
    await asyncio.wait({hanging})


# How code and surroundings get there


async def test_children_have_the_parents_present_context(
    evaluator: MakeEvaluator, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def look(parameters: dict[str, Any]) -> float:
        import module_of_this_test  # type: ignore[import-not-found]

        return float(open("number").read()) + float(os.environ["TESTED"]) + float(module_of_this_test.NUMBER)

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
    import o9.demo.functions as functions

    one = evaluator(functions.branin, locator="o9.demo.functions:branin")
    (outcome,) = await evaluate(one, {"x": 3.14159265, "y": 2.275})
    assert outcome.value == pytest.approx(1.0, abs=1e-4)


async def test_partials_closures_and_objects_are_pickled(evaluator: MakeEvaluator) -> None:
    factor = 7.0

    class Callable:
        def __call__(self, parameters: dict[str, Any]) -> float:
            return factor

    for function in (lambda parameters: factor, Callable(), functools.partial(lambda two, p: two * 3.5, 2)):
        (outcome,) = await evaluate(evaluator(function), {})
        assert outcome.value == 7.0


async def test_an_objective_that_cannot_be_sent_raises(evaluator: MakeEvaluator) -> None:
    lock = threading.Lock()
    with pytest.raises(OptimizationStrategyError, match=r"objective 'tested' cannot be sent "):
        await evaluate(evaluator(lambda parameters: lock.locked()), {})


async def test_an_objective_that_cannot_be_loaded_raises(evaluator: MakeEvaluator) -> None:
    one = evaluator(chatter, locator="o9.demo.nowhere:function")
    with pytest.raises(OptimizationStrategyError, match=r"cannot be loaded .*No module named 'o9\.demo\.nowhere'"):
        await evaluate(one, {})


def threads(parameters: dict[str, Any]) -> Evaluation:
    return Evaluation(1.0, metrics={name: float(os.environ.get(name, 0)) for name in THREAD_VARIABLES})


async def test_concurrent_evaluations_use_single_threaded_libraries(
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


async def test_a_child_is_reused_in_any_event_loop(evaluator: MakeEvaluator) -> None:
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


async def test_a_child_imports_nothing_heavy(evaluator: MakeEvaluator) -> None:
    def modules(parameters: dict[str, Any]) -> float:
        heavy = {"optuna", "numpy", "sqlalchemy", "pydantic", "prefect"} & set(sys.modules)
        return float(len(heavy))

    (outcome,) = await evaluate(evaluator(modules), {})
    assert outcome.value == 0.0


async def test_a_child_that_died_idle_is_replaced(evaluator: MakeEvaluator) -> None:
    one = evaluator(own_pid)
    (first,) = await evaluate(one, {})
    os.kill(int(first.value or 0), signal.SIGKILL)
    await wait_until(lambda: not alive(int(first.value or 0)))
    (second,) = await evaluate(one, {})
    assert second.error is None
    assert second.value != first.value


async def test_surplus_idle_children_are_killed(evaluator: MakeEvaluator, monkeypatch: pytest.MonkeyPatch) -> None:
    many = (os.cpu_count() or 1) + 3
    monkeypatch.setattr(evaluation, "CORES", Cores(many))
    one = evaluator(lambda parameters: time.sleep(0.3) or 1.0, workers=many)  # type: ignore[func-returns-value]
    await evaluate(one, *[{}] * many)
    assert len(children()) >= many
    await one.close()
    await wait_until(lambda: len(children()) <= (os.cpu_count() or 1))
