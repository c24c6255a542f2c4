"""Who evaluates parameter sets: the event loop for async objectives, child processes for sync ones, or other machines.

Contract. An Evaluator serves one attempt, in one event loop, one `evaluate` at a time, and is closed at its end. An
objective that raises, answers nonsense, exits, crashes, is killed or takes longer than it may makes its own trial
failed, with the error as text; the others go on. Cancelling the task that awaits `evaluate` cuts it off: children in
flight are killed at once with what they started, and `finished` has what had finished. Outcomes come in the order of
the numbers given. OptimizationStrategyError is raised only where no trial could succeed: the objective cannot be sent
to a child or loaded there.
"""

from __future__ import annotations

import asyncio
import contextlib
import copy
import time
from collections.abc import Coroutine, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from enum import Enum
from functools import cached_property
from typing import Any, Protocol

from o9.model.errors import OptimizationStrategyError
from o9.model.loops import cancel_and_wait
from o9.model.states import TrialState
from o9.model.trial import Output
from o9.strategies.registry import Objective
from o9.user_code.watchdog import run_user_code
from o9.workers.answers import SERIES, BadAnswer, answer_from_json, failure_text, infeasible_text
from o9.workers.cores import CORES
from o9.workers.measured import Measured, Refused
from o9.workers.output import PrintedLines, captured
from o9.workers.pool import BrokenAnswer, Child, ChildDied
from o9.workers.team import Shipment, Team

CUT_OFF_SECONDS = 5.0
EVALUATION_TRIES = 3  # of a trial whose process dies


@dataclass(frozen=True)
class TrialOutcome:
    """How one evaluation ended: completed with a value, failed with an error, or infeasible with a reason (`error`).

    total: how many returns there were before a hold-out was cut off here; None where nothing was cut.
    scored: O9 made the value of the returns.
    """

    number: int
    state: TrialState
    value: float | None = None
    metrics: dict[str, float] = field(default_factory=dict)
    returns: tuple[float, ...] | None = None
    hold_out_returns: tuple[float, ...] | None = None
    baseline_returns: tuple[float, ...] | None = None
    baseline_hold_out_returns: tuple[float, ...] | None = None
    periods_per_year: float | None = None
    data_fingerprint: str | None = None
    dates: tuple[float, ...] | None = None
    hold_out_dates: tuple[float, ...] | None = None
    total: int | None = None
    scored: bool = False
    error: str | None = None
    started_at: datetime | None = None
    duration_seconds: float = 0.0


@dataclass(frozen=True)
class How:
    """periods: how many returns the data are cut to. whole: nothing is held out. quiet: not as a trial of a step."""

    periods: int | None = None
    whole: bool = False
    quiet: bool = False

    def label(self, number: int) -> str | None:
        return None if self.quiet else f"trial {number}"


Evaluated = tuple[TrialOutcome, Output | None]  # and what was printed


class Elsewhere(Protocol):
    """Evaluates on other machines, as an Evaluator there does."""

    async def evaluate(self, number: int, parameters: Mapping[str, Any], how: How) -> Evaluated:
        """Evaluate one trial. Cancelling it ends the evaluation there.

        Raises OptimizationStrategyError where the objective cannot be had there, and where no worker has evaluated it.
        """


_Queue = Iterator[tuple[int, Mapping[str, Any]]]


class _TooLong(Exception):
    """An evaluation took longer than it may."""


class _Child(Enum):
    """The state of a child after an evaluation."""

    READY = "ready"
    WORN_OUT = "worn out"
    DIED = "died"


class Evaluator:
    """Evaluates an objective, up to `workers` parameter sets at a time, as far as the processors of the node allow.

    single_threaded: the numerical libraries in the children use one thread each, unless the environment says otherwise.
    measured: how its answers become values. periods: what a truncatable one is called with, once it is known how many
    come before a hold-out. timeout_seconds: of a trial, which then has failed. elsewhere: who evaluates instead.
    """

    def __init__(
        self,
        objective: Objective,
        *,
        workers: int = 1,
        single_threaded: bool = False,
        measured: Measured | None = None,
        timeout_seconds: float | None = None,
        elsewhere: Elsewhere | None = None,
    ) -> None:
        self.periods: int | None = None
        self._objective = objective
        self._measured = measured or Measured(objective.function, objective.truncatable)
        self._workers = workers
        self._timeout_seconds = timeout_seconds
        self._elsewhere = elsewhere
        self._single_threaded = single_threaded
        self.finished: Mapping[int, TrialOutcome] = {}  # of those given last, by number
        self._team = Team(single_threaded=single_threaded)
        self.printed: dict[int, Output] = {}  # by number, of the last `evaluate`, also where it was cut off

    async def evaluate(self, parameters: Sequence[Mapping[str, Any]], numbers: Sequence[int]) -> list[TrialOutcome]:
        """Evaluate all, and answer in their order. Cancelling it kills what is in flight."""
        self.finished = outcomes = dict[int, TrialOutcome]()
        self.printed = {}
        queue = iter(list(zip(numbers, parameters, strict=True)))
        work = [self._work(queue, outcomes, How(self.periods)) for _ in range(min(self._workers, len(numbers)))]
        await (work[0] if len(work) == 1 else _together(work))
        return [outcomes[number] for number in numbers]

    async def evaluate_again(
        self, number: int, parameters: Mapping[str, Any], periods: int | None = None, *, whole: bool = False
    ) -> TrialOutcome:
        """Evaluate trial `number` once more.

        periods: on data that end with that many returns (`truncatable` alone). whole: on all data, held-out periods
        included; the value has no meaning then.
        """
        how = How(None if whole else periods or self.periods, whole, quiet=True)
        return (await self.evaluate_one(number, parameters, how))[0]

    async def evaluate_one(self, number: int, parameters: Mapping[str, Any], how: How) -> Evaluated:
        """Evaluate one trial."""
        outcomes: dict[int, TrialOutcome] = {}
        await self._work(iter([(number, parameters)]), outcomes, how)
        return outcomes[number], self.printed.get(number)

    def another(self) -> Evaluator:
        """The same for another event loop; what children are sent is made once for both."""
        if not self._objective.is_async:
            _ = self._shipment
        made = copy.copy(self)
        made.finished, made.printed, made._team = {}, {}, Team(single_threaded=self._single_threaded)
        return made

    async def close(self) -> None:
        """Give the children back to the pool. None stays busy."""
        await self._team.close()

    async def _work(self, queue: _Queue, outcomes: dict[int, TrialOutcome], how: How) -> None:
        here = self._work_here if self._objective.is_async else self._work_in_a_child
        await (here if self._elsewhere is None else self._work_elsewhere)(queue, outcomes, how)

    async def _work_elsewhere(self, queue: _Queue, outcomes: dict[int, TrialOutcome], how: How) -> None:
        assert self._elsewhere is not None
        for number, parameters in queue:
            outcomes[number], output = await self._elsewhere.evaluate(number, parameters, how)
            self._keep(number, output)

    async def _work_here(self, queue: _Queue, outcomes: dict[int, TrialOutcome], how: How) -> None:
        if self._measured.given is not None:
            with contextlib.suppress(Exception):  # the evaluation meets it again, and reports it
                await asyncio.to_thread(self._measured.given.data)  # which may take long
        for number, parameters in queue:
            outcomes[number] = await self._await_objective(number, parameters, how)

    async def _await_objective(self, number: int, parameters: Mapping[str, Any], how: How) -> TrialOutcome:
        started, clock = time.time(), time.perf_counter()
        task = asyncio.current_task()
        assert task is not None
        lines = PrintedLines("")

        def ended(state: TrialState, text: str) -> TrialOutcome:
            return _outcome(number, state, started, time.perf_counter() - clock, error=text)

        try:
            what = f"objective {self._objective.name!r} (trial {number})"
            own = copy.deepcopy(dict(parameters))
            with captured(how.label(number)) as lines:
                given = await self._in_time(run_user_code(what, self._measured.call, own, how.periods))
            answer = self._measured.plain(given, periods=how.periods, whole=how.whole)
        except Refused as error:
            raise OptimizationStrategyError(f"objective {self._objective.name!r}: {error}") from error
        except _TooLong:
            return ended(TrialState.FAILED, self._too_long())
        except BaseException as error:
            # A cancellation that was not requested of this task is the objective's own, like sys.exit.
            ours = isinstance(error, asyncio.CancelledError) and task.cancelling() > 0
            if ours or isinstance(error, (KeyboardInterrupt, GeneratorExit)):
                raise
            if (reason := infeasible_text(error)) is not None:
                return ended(TrialState.INFEASIBLE, reason)
            return ended(TrialState.FAILED, failure_text(error))
        finally:
            self._keep(number, lines.end())
        return _completed(number, answer, started, time.perf_counter() - clock)

    async def _in_time(self, calling: Coroutine[Any, Any, Any]) -> Any:
        """Its answer; raises _TooLong. A task that swallows its cancellation is abandoned."""
        if self._timeout_seconds is None:
            return await calling
        task = asyncio.create_task(calling)
        try:
            await asyncio.wait({task}, timeout=self._timeout_seconds)
            if task.done():
                return task.result()
            raise _TooLong
        finally:
            await cancel_and_wait(task, seconds=CUT_OFF_SECONDS)

    def _too_long(self) -> str:
        return f"cut off after {self._timeout_seconds:g} s, its metadata.trial_timeout_seconds"

    async def _work_in_a_child(self, queue: _Queue, outcomes: dict[int, TrialOutcome], how: How) -> None:
        shipment = self._shipment
        child: Child | None = None

        def used() -> float | None:
            return None if child is None else child.cpu_seconds()

        for number, parameters in queue:
            async with CORES.hold(self, used):
                for left in reversed(range(EVALUATION_TRIES)):
                    if child is None:
                        child = await self._team.join(shipment)
                    outcomes[number], state = await self._ask(child, shipment.key, number, parameters, how)
                    if state is not _Child.READY:
                        child.kill()
                        child = None
                    # It was killed from outside, or for want of memory: the ledger must not depend on that. An
                    # objective that kills its own process does so each time.
                    if state is not _Child.DIED or not left:
                        break
        if child is not None:
            self._team.rest(child)

    async def _ask(
        self, child: Child, key: str, number: int, parameters: Mapping[str, Any], how: How
    ) -> tuple[TrialOutcome, _Child]:
        started, clock = time.time(), time.perf_counter()
        request = ("evaluate", key, dict(parameters), how.periods, how.whole)
        try:
            async with asyncio.timeout(self._timeout_seconds):
                reply = await self._team.exchange(child, *request, label=how.label(number))
            match reply:
                case ["refused", str(text)]:
                    raise OptimizationStrategyError(f"objective {self._objective.name!r}: {text}")
            return _read(number, reply)
        except TimeoutError:
            text, left = self._too_long(), _Child.WORN_OUT
        except BrokenAnswer as error:
            text, left = f"the objective's answer cannot be read: {error}", _Child.WORN_OUT
        except ChildDied as error:
            text, left = f"the objective did not survive: {error}", _Child.DIED
        finally:
            self._keep(number, child.printed)
        return _outcome(number, TrialState.FAILED, started, time.perf_counter() - clock, error=text), left

    def _keep(self, number: int, output: Output | None) -> None:
        if output is not None:
            self.printed[number] = output

    @cached_property
    def _shipment(self) -> Shipment:
        objective = self._objective
        what = f"objective {objective.name!r}"
        if self._measured.is_plain:
            return Shipment(what, objective.function, objective.locator)
        return Shipment(what, self._measured, module=getattr(objective.function, "__module__", None))


def _read(number: int, reply: list[Any]) -> tuple[TrialOutcome, _Child]:
    """The outcome that the child reports. Raises BrokenAnswer where O9's code in it did not write that."""
    try:
        match reply:
            case ["value", float(began), float(duration), answer, *texts]:
                return _completed(number, answer_from_json(answer, texts), began, duration), _Child.READY
            case ["infeasible", float(began), float(duration), str(reason)]:
                return _outcome(number, TrialState.INFEASIBLE, began, duration, error=reason), _Child.READY
            case ["failed", float(began), float(duration), str(text), bool(worn_out)]:
                left = _Child.WORN_OUT if worn_out else _Child.READY
                return _outcome(number, TrialState.FAILED, began, duration, error=text), left
    except (BadAnswer, OSError, OverflowError, ValueError) as error:
        raise BrokenAnswer(reply, error) from error
    raise BrokenAnswer(reply, "it is not what an evaluation answers")


async def _together(work: list[Coroutine[Any, Any, None]]) -> None:
    """Run all; the first error, or a cut-off, ends the others before it is raised."""
    tasks = [asyncio.create_task(part) for part in work]
    try:
        await asyncio.gather(*tasks)
    finally:
        # An async objective that swallows its cancellation must not hold up the cut-off.
        await cancel_and_wait(*tasks, seconds=CUT_OFF_SECONDS)


def _completed(number: int, answer: dict[str, Any], started: float, duration: float) -> TrialOutcome:
    fields = {name: tuple(found) if name in SERIES and found is not None else found for name, found in answer.items()}
    return _outcome(number, TrialState.COMPLETED, started, duration, **fields)


def _outcome(number: int, state: TrialState, started: float, duration: float, **fields: Any) -> TrialOutcome:
    at = datetime.fromtimestamp(started, UTC)
    return TrialOutcome(number, state, started_at=at, duration_seconds=duration, **fields)
