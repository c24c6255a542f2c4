"""Answers and misbehaviour of objectives, in real child processes and in the event loop."""

from __future__ import annotations

import asyncio
import contextlib
import os
import pickle
import re
import signal
import sys
import time
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Any

import pytest
from evaluations import MakeEvaluator, evaluate, evaluators
from o9_testing import PATIENCE

from o9.model.dates import iso_dates
from o9.model.states import TrialState
from o9.model.trial import Evaluation, Infeasible
from o9.workers.answers import ERROR_LENGTH


@pytest.fixture
async def evaluator() -> AsyncIterator[MakeEvaluator]:
    async with evaluators() as make:
        yield make


# What an objective may answer


def good_answers(parameters: dict[str, Any]) -> Any:
    import numpy as np

    series: Any = np.array([0.01, -0.02])
    answers: dict[str, Callable[[], Any]] = {
        "float": lambda: 1.5,
        "int": lambda: 2,
        "numpy float32": lambda: np.float32(0.5),
        "numpy int": lambda: np.int64(3),
        "numpy 0-d": lambda: np.array(2.5),
        "evaluation": lambda: Evaluation(
            np.float64(1.25),
            series,
            np.int64(252),  # type: ignore[arg-type]
            {"turnover": np.float64(3.0), "换手": 1},
            "prices-v1",
        ),
        "list": lambda: Evaluation(1.0, returns=[1, 0.5]),
        "tuple of numpy": lambda: Evaluation(1.0, returns=tuple(series)),
    }
    return answers[parameters["case"]]()


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
    "evaluation of nothing": (lambda: Evaluation(), "neither a value nor returns"),
    "nan in returns": (lambda: Evaluation(1.0, [0.0, float("nan")]), "number 1 is nan"),
    "text as returns": (lambda: Evaluation(1.0, "abc"), "returns as 'abc'"),  # type: ignore[arg-type]
    "text in returns": (lambda: Evaluation(1.0, ["a"]), "returns that are not numbers"),  # type: ignore[list-item]
    "empty returns": (lambda: Evaluation(1.0, []), "empty returns"),
    "nested returns": (lambda: Evaluation(1.0, [[1.0]]), "returns that are not numbers"),  # type: ignore[list-item]
    "nan in a hold-out": (
        lambda: Evaluation(1.0, [0.1], hold_out_returns=[float("inf"), -float("inf")]),
        "hold_out_returns of which number 0 is inf",
    ),
    "hold-out alone": (lambda: Evaluation(1.0, hold_out_returns=[0.1]), "hold_out_returns without returns"),
    "baseline alone": (lambda: Evaluation(1.0, baseline_returns=[0.1]), "baseline_returns without returns"),
    "long baseline": (
        lambda: Evaluation(1.0, [0.1], baseline_returns=[0.1, 0.2]),
        "2 baseline_returns and 1 returns",
    ),
    "baseline's hold-out alone": (
        lambda: Evaluation(1.0, [0.1], baseline_returns=[0.1], baseline_hold_out_returns=[0.1]),
        "baseline_hold_out_returns without hold_out_returns",
    ),
    "inf in metrics": (lambda: Evaluation(1.0, metrics={"m": float("inf")}), "metric 'm' inf"),
    "text in metrics": (lambda: Evaluation(1.0, metrics={"m": "x"}), "metric 'm' 'x'"),  # type: ignore[dict-item]
    "too many metrics": (lambda: Evaluation(1.0, metrics={str(n): 1.0 for n in range(501)}), "501 metrics"),
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


async def test_invalid_answers_fail_their_trial_and_are_quoted(evaluator: MakeEvaluator) -> None:
    outcomes = await evaluate(evaluator(bad_answers), *[{"case": case} for case in BAD_ANSWERS])
    for outcome, (case, (_, said)) in zip(outcomes, BAD_ANSWERS.items(), strict=True):
        assert outcome.state is TrialState.FAILED, case
        assert outcome.value is None
        assert said in (outcome.error or ""), case
        assert "\n" not in (outcome.error or ""), "what was returned is no matter of a traceback"
    cases = ["complex64", "bool", "vector", "date", "two-dimensional"]
    for outcome in await evaluate(evaluator(bad_numpy_answers), *[{"case": case} for case in cases]):
        assert outcome.state is TrialState.FAILED


def dated(parameters: dict[str, Any], periods: int | None = None) -> Evaluation:
    import numpy as np
    import pandas as pd

    days = pd.date_range("2026-01-01", periods=periods or 4)
    values = [0.1, -0.1, 1e308, 1e308][:periods]
    match parameters["case"]:
        case "a series":
            return Evaluation(1.0, pd.Series(values, days))
        case "an array":
            return Evaluation(1.0, values, dates=days.to_numpy().astype("datetime64[D]"))
        case "too few":
            return Evaluation(1.0, values, dates=["2026-01-01"])
    return Evaluation(1.0, np.array(values))  # type: ignore[arg-type]


async def test_dates_and_truncation_of_an_evaluation(evaluator: MakeEvaluator) -> None:
    one = evaluator(dated)
    days = ("2026-01-01", "2026-01-02", "2026-01-03", "2026-01-04")
    for case in ("a series", "an array"):
        whole, cut = [await one.evaluate_again(7, {"case": case}, periods) for periods in (None, 2)]
        assert (whole.number, whole.error, whole.returns) == (7, None, (0.1, -0.1, 1e308, 1e308))
        assert iso_dates(whole.dates or ()) == days
        assert (cut.returns, iso_dates(cut.dates or ())) == ((0.1, -0.1), days[:2])
    assert "1 dates and 4 returns" in ((await one.evaluate_again(0, {"case": "too few"})).error or "")
    assert (await one.evaluate_again(0, {"case": "bare"})).dates is None
    plain = (await evaluate(one, {"case": "an array"}))[0]
    assert (plain.error, iso_dates(plain.dates or ())) == (None, days)
    assert "1 dates and 4 returns" in ((await evaluate(one, {"case": "too few"}))[0].error or "")


OWN_CLASSES = """
import enum

class Metric(str, enum.Enum):
    TURNOVER = "turnover"

class Data(str): ...

class Number(float): ...
"""


def with_classes_of_its_own(parameters: dict[str, Any]) -> Evaluation:
    sys.path.insert(0, parameters["folder"])
    import classes_of_the_child_alone as own  # type: ignore[import-not-found]

    metrics = {own.Metric.TURNOVER: own.Number(2.0)}
    return Evaluation(own.Number(1.0), [own.Number(0.1)], 252, metrics, own.Data("prices-v1"))


async def test_an_answer_is_read_without_the_users_classes(evaluator: MakeEvaluator, tmp_path: Path) -> None:
    (tmp_path / "classes_of_the_child_alone.py").write_text(OWN_CLASSES)
    evaluating = evaluate(evaluator(with_classes_of_its_own), {"folder": str(tmp_path)})
    (outcome,) = await asyncio.wait_for(evaluating, 10 * PATIENCE)
    assert outcome.error is None
    assert (outcome.value, outcome.returns, outcome.metrics) == (1.0, (0.1,), {"turnover": 2.0})
    texts = [*outcome.metrics, outcome.data_fingerprint]
    assert {type(value) for value in (*texts, *outcome.metrics.values(), *(outcome.returns or ()))} == {str, float}


NUMBERS = [0.1, 1 / 3, -0.0, 5e-324, 1.7976931348623157e308, -2.2250738585072014e-308, 1e16, 123456789.12345679]


async def test_numbers_are_transferred_bit_for_bit(evaluator: MakeEvaluator) -> None:
    def whole(parameters: dict[str, Any]) -> Evaluation:
        numbers = parameters["numbers"]
        metrics = {str(position): number for position, number in enumerate(numbers)}
        return Evaluation(numbers[0], numbers, 1 / 3, metrics, "换手", numbers[1:], numbers[::-1], numbers[:0:-1])

    for first in range(len(NUMBERS)):
        numbers = NUMBERS[first:] + NUMBERS[:first]
        (outcome,) = await evaluate(evaluator(whole), {"numbers": numbers})
        assert repr((outcome.value, outcome.periods_per_year, outcome.data_fingerprint)) == repr(
            (numbers[0], 1 / 3, "换手")
        )
        assert repr([*outcome.metrics.values()]) == repr(numbers)
        assert repr((outcome.returns, outcome.baseline_returns)) == repr((tuple(numbers), tuple(numbers[::-1])))
        assert repr(outcome.hold_out_returns) == repr(tuple(numbers[1:]))
        assert repr(outcome.baseline_hold_out_returns) == repr(tuple(numbers[:0:-1]))


# What an objective may write where O9 reads


class Trace:
    """A process that unpickles it leaves a file."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> Any:
        return open, (str(self.path), "w")


def framed(payload: bytes) -> bytes:
    return len(payload).to_bytes(8, "big") + payload


WRITTEN: dict[str, bytes] = {
    "bytes": bytes(range(256)) * 10,
    "text": b"fast is 5",
    "a line": b"fast is 5\n",
    "an empty line": b"\n",
    "half an answer": b'["value", 1795830017.9, 0.1, {"value": 1.5',
    "a length": (1000).to_bytes(8, "big"),
    "a mapping": b'{"value": 1.0}\n',
    "no status": b"[1.0]\n",
    "no outcome": b'["value"]\n',
    "no times": b'["value", "now", "later", {"value": 1.0}]\n',
    "a time that is none": b'["value", Infinity, 0.1, {"value": 1.0}]\n',
    "no number": b'["value", 1.0, 0.1, {"value": "1.0"}]\n',
    "not finite": b'["value", 1.0, 0.1, {"value": NaN}]\n',
    "no value": b'["value", 1.0, 0.1, {}]\n',
    "no fields": b'["value", 1.0, 0.1, [1.0]]\n',
    "returns that are nowhere": b'["value", 1.0, 0.1, {"value": 1.0, "returns": 0}]\n',
    "returns that are no place": b'["value", 1.0, 0.1, {"value": 1.0, "returns": "x"}, "AAAAAAAA8D8="]\n',
    "returns that are not numbers": b'["value", 1.0, 0.1, {"value": 1.0, "returns": 0}, "AAAA"]\n',
    "metrics that are none": b'["value", 1.0, 0.1, {"value": 1.0, "metrics": [1.0]}]\n',
    "an error that is no text": b'["failed", 1.0, 0.1, null, false]\n',
    "too deep": b"[" * 100_000 + b"\n",
    "too long a number": b"[" + b"9" * 10_000 + b"]\n",
}


def write_where_o9_reads(parameters: dict[str, Any]) -> float:
    if written := parameters["written"]:
        os.write(int(sys.argv[2]), bytes.fromhex(written))  # worker.py REQUESTS REPLIES LIFELINE
        time.sleep(0.05)  # so that it arrives before the answer
    return float(os.getpid())


# Each costs a child, and a second.
@pytest.mark.parametrize(
    "names",
    [
        ("bytes", "half an answer", "no value", "too deep"),
        pytest.param(tuple(WRITTEN), id="each", marks=pytest.mark.long),
    ],
)
async def test_a_broken_answer_fails_its_trial_and_replaces_the_child(
    evaluator: MakeEvaluator, names: tuple[str, ...], tmp_path: Path
) -> None:
    path = tmp_path / "unpickled"
    objects = {"an object": framed(pickle.dumps(("value", 1.0, 0.1, {"value": Trace(path)})))}
    bad = {name: WRITTEN[name] for name in names} | objects
    cases = [text for written in bad.values() for text in (written.hex(), "")]
    evaluating = evaluate(evaluator(write_where_o9_reads), *[{"written": written} for written in cases])
    outcomes = await asyncio.wait_for(evaluating, 60 * PATIENCE)
    for case, broken, whole in zip(bad, outcomes[::2], outcomes[1::2], strict=True):
        assert (broken.state, broken.value) == (TrialState.FAILED, None), case
        assert "answer" in (broken.error or ""), case
        assert (whole.state, whole.error) == (TrialState.COMPLETED, None), case
    pids = [outcome.value for outcome in outcomes[1::2]]
    assert len(set(pids)) == len(pids)
    assert not path.exists()


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


@pytest.mark.parametrize("workers", [pytest.param(1, marks=pytest.mark.long), 2])
async def test_misbehaviour_fails_only_its_own_trial(evaluator: MakeEvaluator, workers: int) -> None:
    cases = [case for bad in MISBEHAVIOUR for case in (bad, "fine")]
    outcomes = await evaluate(evaluator(misbehave, workers), *[{"case": case} for case in cases])
    assert [outcome.number for outcome in outcomes] == list(range(len(cases)))
    for case, outcome in zip(cases, outcomes, strict=True):
        assert (outcome.value, outcome.error) == (2.0, None) if case == "fine" else outcome.value is None
        assert MISBEHAVIOUR.get(case, "") in (outcome.error or "")
        assert len(outcome.error or "") <= ERROR_LENGTH
        (outcome.error or "").encode()


async def test_an_error_has_the_users_traceback(evaluator: MakeEvaluator) -> None:
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


async def test_large_parameters_and_returns_are_transferred(evaluator: MakeEvaluator) -> None:
    def long(parameters: dict[str, Any]) -> Evaluation:
        return Evaluation(float(len(parameters["text"])), returns=[0.5] * 300_000)

    (outcome,) = await evaluate(evaluator(long), {"text": "x" * 5_000_000})
    assert outcome.value == 5_000_000.0
    assert len(outcome.returns or ()) == 300_000


# Async objectives


async def test_async_objectives_run_concurrently_in_this_process(evaluator: MakeEvaluator) -> None:
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


async def test_async_misbehaviour_fails_only_its_own_trial(evaluator: MakeEvaluator) -> None:
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
async def test_async_objectives_are_cancelled(evaluator: MakeEvaluator, workers: int) -> None:
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


# What cannot be, and what takes too long


def infeasible(parameters: dict[str, Any]) -> Any:
    match parameters["case"]:
        case "raised":
            raise Infeasible("fast >= slow")
        case "no reason":
            raise Infeasible
        case "returned":
            return Evaluation(feasible=False)
        case "with figures":
            return Evaluation(float("nan"), returns=[], feasible=False)
        case "no flag":
            return Evaluation(1.0, feasible="yes")  # type: ignore[arg-type]
        case "no value":
            return Evaluation()
    return 1.0


async def infeasible_async(parameters: dict[str, Any]) -> Any:
    return infeasible(parameters)


@pytest.mark.parametrize("objective", [infeasible, infeasible_async])
async def test_infeasible_parameters_are_not_a_failure(evaluator: MakeEvaluator, objective: Callable[..., Any]) -> None:
    cases = ["raised", "no reason", "returned", "with figures", "no flag", "no value", "good"]
    outcomes = await evaluate(evaluator(objective), *[{"case": case} for case in cases])
    assert [outcome.state for outcome in outcomes] == [
        *[TrialState.INFEASIBLE] * 4, TrialState.FAILED, TrialState.FAILED, TrialState.COMPLETED,
    ]  # fmt: skip
    assert outcomes[0].error == "fast >= slow"
    assert all(outcome.error and outcome.value is None for outcome in outcomes[:6])


def late(parameters: dict[str, Any]) -> float:
    time.sleep(parameters["seconds"])
    return 1.0


async def late_async(parameters: dict[str, Any]) -> float:
    await asyncio.sleep(parameters["seconds"])
    return 1.0


@pytest.mark.parametrize("objective", [late, late_async])
async def test_only_the_trial_over_its_time_limit_is_cut_off(
    evaluator: MakeEvaluator, objective: Callable[..., Any]
) -> None:
    one = evaluator(objective, workers=2, timeout_seconds=0.4)
    outcomes = await evaluate(one, *[{"seconds": seconds} for seconds in (3600, 0, 3600, 0.05)])
    assert [outcome.state.value for outcome in outcomes] == ["failed", "completed", "failed", "completed"]
    assert "trial_timeout_seconds" in str(outcomes[0].error)
    assert outcomes[0].duration_seconds >= 0.4
