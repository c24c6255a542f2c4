"""Evaluates parameter sets: async objectives in the event loop, sync ones in child processes, or all on other machines.

Contract. An Evaluator serves one attempt, in one event loop, one `evaluate` at a time, and is closed at its end. If an
objective raises, returns an invalid result, exits, crashes, is killed or exceeds its time limit, its trial has failed,
with the error as text; other trials continue. Cancelling `evaluate` kills the children in use at once, with everything
they started; `finished` then has the trials that had finished. OptimizationStrategyError is raised only if no trial
could succeed, because the objective cannot be sent to a child, loaded there, or measured as asked.
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
from o9.workers.measured_objective import MeasuredObjective, Refused
from o9.workers.output import PrintedLines, captured
from o9.workers.pool import BrokenAnswer, Child, ChildDied
from o9.workers.team import Shipment, Team

CUT_OFF_SECONDS = 5.0
EVALUATION_TRIES = 3  # of a trial whose process dies


@dataclass(frozen=True)
class TrialOutcome:
    """The outcome of one evaluation: completed with a value, failed with an error, or infeasible (`error` says why).

    total: the number of returns before the hold-out was cut off here; None if nothing was cut.
    scored: O9 computed the value from the returns.
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
class EvaluationOptions:
    """periods: truncate the data to this number of returns. whole: hold nothing out. quiet: do not log its output."""

    periods: int | None = None
    whole: bool = False
    quiet: bool = False

    def label(self, number: int) -> str | None:
        return None if self.quiet else f"trial {number}"


Evaluated = tuple[TrialOutcome, Output | None]  # the outcome, and the printed output


class RemoteEvaluator(Protocol):
    """Evaluates on other machines, by an Evaluator there."""

    async def evaluate(self, number: int, parameters: Mapping[str, Any], options: EvaluationOptions) -> Evaluated:
        """Evaluate one trial. Cancelling it ends the evaluation on the other machine.

        Raises OptimizationStrategyError if the objective is not available there, or no worker evaluated the trial.
        """


_Parameters = Mapping[str, Any]
_Queue = Iterator[tuple[int, _Parameters]]
_Outcomes = dict[int, TrialOutcome]


class _TimeLimitExceeded(Exception):
    """An evaluation exceeded its time limit."""


class _Child(Enum):
    """The state of a child after an evaluation. A worn-out one is alive, but cannot be used again."""

    READY = "ready"
    WORN_OUT = "worn out"
    DIED = "died"


class Evaluator:
    """Evaluates an objective, up to `workers` parameter sets at a time, as far as the processors of the node allow.

    single_threaded: numerical libraries in the children use one thread each, unless the environment has other settings.
    measured: turns the objective's answers into values. timeout_seconds: the time limit of a trial. remote: evaluates
    instead. `periods`: the argument for a truncatable objective, once the number before the hold-out is known.
    """

    def __init__(
        self,
        objective: Objective,
        *,
        workers: int = 1,
        single_threaded: bool = False,
        measured: MeasuredObjective | None = None,
        timeout_seconds: float | None = None,
        remote: RemoteEvaluator | None = None,
    ) -> None:
        self.periods: int | None = None
        self._objective = objective
        self._measured = measured or MeasuredObjective(objective.function, objective.truncatable)
        self._workers = workers
        self._timeout_seconds = timeout_seconds
        self._remote = remote
        self._single_threaded = single_threaded
        self.finished: Mapping[int, TrialOutcome] = {}  # by number, of the last `evaluate`
        self._team = Team(single_threaded=single_threaded)
        self.printed: dict[int, Output] = {}  # by number, of the last `evaluate`, also of trials that were cut off

    async def evaluate(self, parameters: Sequence[_Parameters], numbers: Sequence[int]) -> list[TrialOutcome]:
        """Evaluate all, and return the outcomes in their order."""
        self.finished = outcomes = _Outcomes()
        self.printed = {}
        queue = iter(list(zip(numbers, parameters, strict=True)))
        options = EvaluationOptions(self.periods)
        work = [self._work(queue, outcomes, options) for _ in range(min(self._workers, len(numbers)))]
        await (work[0] if len(work) == 1 else _together(work))
        return [outcomes[number] for number in numbers]

    async def evaluate_again(
        self, number: int, parameters: _Parameters, periods: int | None = None, *, whole: bool = False
    ) -> TrialOutcome:
        """Evaluate trial `number` again, without logging its output.

        periods: on data that end with that many returns (only if truncatable). whole: on all data, held-out periods
        included; the value then has no meaning.
        """
        options = EvaluationOptions(None if whole else periods or self.periods, whole, quiet=True)
        return (await self.evaluate_one(number, parameters, options))[0]

    async def evaluate_one(self, number: int, parameters: _Parameters, options: EvaluationOptions) -> Evaluated:
        """Evaluate one trial."""
        outcomes: _Outcomes = {}
        await self._work(iter([(number, parameters)]), outcomes, options)
        return outcomes[number], self.printed.get(number)

    def for_another_loop(self) -> Evaluator:
        """Return a copy for another event loop, which shares the pickled objective."""
        if not self._objective.is_async:
            _ = self._shipment
        made = copy.copy(self)
        made.finished, made.printed, made._team = {}, {}, Team(single_threaded=self._single_threaded)
        return made

    @property
    def team(self) -> Team | None:
        """The child processes; None for an async objective, which runs in the event loop."""
        return None if self._objective.is_async else self._team

    async def close(self) -> None:
        """Return the children to the pool; busy ones are killed."""
        await self._team.close()

    async def _work(self, queue: _Queue, outcomes: _Outcomes, options: EvaluationOptions) -> None:
        here = self._work_here if self._objective.is_async else self._work_in_a_child
        await (here if self._remote is None else self._work_remotely)(queue, outcomes, options)

    async def _work_remotely(self, queue: _Queue, outcomes: _Outcomes, options: EvaluationOptions) -> None:
        assert self._remote is not None
        for number, parameters in queue:
            outcomes[number], output = await self._remote.evaluate(number, parameters, options)
            self._keep(number, output)

    async def _work_here(self, queue: _Queue, outcomes: _Outcomes, options: EvaluationOptions) -> None:
        if self._measured.data is not None:
            with contextlib.suppress(Exception):  # the evaluation raises it again, and reports it
                await asyncio.to_thread(self._measured.data.load)  # may take long
        for number, parameters in queue:
            outcomes[number] = await self._await_objective(number, parameters, options)

    async def _await_objective(self, number: int, parameters: _Parameters, options: EvaluationOptions) -> TrialOutcome:
        started, clock = time.time(), time.perf_counter()
        task = asyncio.current_task()
        assert task is not None
        lines = PrintedLines("")

        def ended(state: TrialState, text: str) -> TrialOutcome:
            return _outcome(number, state, started, time.perf_counter() - clock, error=text)

        try:
            what = f"objective {self._objective.name!r} (trial {number})"
            own = copy.deepcopy(dict(parameters))
            with captured(options.label(number)) as lines:
                given = await self._in_time(run_user_code(what, self._measured.call, own, options.periods))
            answer = self._measured.plain(given, periods=options.periods, whole=options.whole)
        except Refused as error:
            raise OptimizationStrategyError(f"objective {self._objective.name!r}: {error}") from error
        except _TimeLimitExceeded:
            return ended(TrialState.FAILED, self._time_limit_error())
        except BaseException as error:
            # A cancellation that this task was not sent is the objective's own, like sys.exit.
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
        """Await it, or raise _TimeLimitExceeded. A task that swallows its cancellation is abandoned."""
        if self._timeout_seconds is None:
            return await calling
        task = asyncio.create_task(calling)
        try:
            await asyncio.wait({task}, timeout=self._timeout_seconds)
            if task.done():
                return task.result()
            raise _TimeLimitExceeded
        finally:
            await cancel_and_wait(task, seconds=CUT_OFF_SECONDS)

    def _time_limit_error(self) -> str:
        return f"cut off after {self._timeout_seconds:g} s (metadata.trial_timeout_seconds)"

    async def _work_in_a_child(self, queue: _Queue, outcomes: _Outcomes, options: EvaluationOptions) -> None:
        shipment = self._shipment
        child: Child | None = None

        def used() -> float | None:
            return None if child is None else child.cpu_seconds()

        for number, parameters in queue:
            async with CORES.hold(self, used):
                for left in reversed(range(EVALUATION_TRIES)):
                    if child is None:
                        child = await self._team.acquire(shipment)
                    outcomes[number], state = await self._ask(child, shipment.key, number, parameters, options)
                    if state is not _Child.READY:
                        child.kill()
                        child = None
                    # Another process or the kernel (out of memory) may have killed it, and the ledger must not depend
                    # on that. An objective that kills its own process does so every time.
                    if state is not _Child.DIED or not left:
                        break
        if child is not None:
            self._team.release(child)

    async def _ask(
        self, child: Child, key: str, number: int, parameters: _Parameters, options: EvaluationOptions
    ) -> tuple[TrialOutcome, _Child]:
        started, clock = time.time(), time.perf_counter()
        request = ("evaluate", key, dict(parameters), options.periods, options.whole)
        try:
            async with asyncio.timeout(self._timeout_seconds):
                reply = await self._team.exchange(child, *request, label=options.label(number))
            match reply:
                case ["refused", str(text)]:
                    raise OptimizationStrategyError(f"objective {self._objective.name!r}: {text}")
            return _read(number, reply)
        except TimeoutError:
            text, left = self._time_limit_error(), _Child.WORN_OUT
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
    """Return the outcome that the child reports. Raises BrokenAnswer if O9's code in it did not write the reply."""
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
    raise BrokenAnswer(reply, "it is not the result of an evaluation")


async def _together(work: list[Coroutine[Any, Any, None]]) -> None:
    """Run all. The first error, or a cancellation, ends the others before it is raised."""
    tasks = [asyncio.create_task(part) for part in work]
    try:
        await asyncio.gather(*tasks)
    finally:
        await cancel_and_wait(*tasks, seconds=CUT_OFF_SECONDS)


def _completed(number: int, answer: dict[str, Any], started: float, duration: float) -> TrialOutcome:
    fields = {name: tuple(found) if name in SERIES and found is not None else found for name, found in answer.items()}
    return _outcome(number, TrialState.COMPLETED, started, duration, **fields)


def _outcome(number: int, state: TrialState, started: float, duration: float, **fields: Any) -> TrialOutcome:
    at = datetime.fromtimestamp(started, UTC)
    return TrialOutcome(number, state, started_at=at, duration_seconds=duration, **fields)
