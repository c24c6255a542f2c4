"""Trials on the workers of a Prefect task runner, Dask's or Ray's: one Prefect task for each, in parallel.

Contract. Parameters are drawn, and results committed, in the flow's process; a worker receives the optimization and one
set of parameters. It finds the objective as a node does, within its own O9_ALLOWED_IMPORTS, and evaluates it as a node
does, in a child process and within the trial's time limit. So the ledger is the same as without a task runner. A trial
that is cut off ends on its worker, too: Ray kills the worker; a Dask worker sees that Dask has dropped the task, which
also happens when the flow's process dies.
"""

from __future__ import annotations

import asyncio
import json
import secrets
import socket
import sys
from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import asynccontextmanager, suppress
from functools import lru_cache
from typing import Any

from prefect import task
from prefect.cache_policies import NO_CACHE
from prefect.client.schemas.objects import State, StateType
from prefect.futures import PrefectWrappedFuture
from prefect.task_runners import TaskRunner, ThreadPoolTaskRunner

from o9.model.errors import OptimizationError, OptimizationStrategyError, OptimizationValidationError
from o9.model.optimization import OptimizationState
from o9.model.settings import settings
from o9.strategies.evaluation import Evaluated, EvaluationOptions, Evaluator
from o9.strategies.factory import evaluator_of
from o9.tasks.run_logs import forward_to_prefect
from o9.user_code.import_paths import find

LOOK_SECONDS = 0.25  # how often a Dask worker checks whether the task was dropped


def configured_runner() -> TaskRunner[Any] | None:
    """The task runner that O9_TASK_RUNNER names, if any. Raises OptimizationValidationError for a wrong name."""
    if not (path := settings().task_runner):
        return None
    try:
        found = find(path)
        runner = found() if isinstance(found, type) else found
    except Exception as error:
        raise OptimizationValidationError("O9_TASK_RUNNER", f"{path!r}: {type(error).__name__}: {error}") from error
    if not isinstance(runner, TaskRunner):
        remedy = "name one such as prefect_dask:DaskTaskRunner, or a configured one in your own module"
        raise OptimizationValidationError("O9_TASK_RUNNER", f"{path!r} is not a task runner of Prefect's; {remedy}")
    return runner.duplicate()


@asynccontextmanager
async def started_runner(of_flow: TaskRunner[Any]) -> AsyncIterator[TaskRunner[Any] | None]:
    """The task runner that the flow was given by `with_options`, else the configured one, if any."""
    if not isinstance(of_flow, ThreadPoolTaskRunner):  # Prefect's default
        yield of_flow
    elif (runner := configured_runner()) is None:
        yield None
    else:  # in a thread, because starting a cluster takes seconds
        await asyncio.to_thread(runner.__enter__)
        try:
            yield runner
        finally:
            await asyncio.to_thread(runner.__exit__, None, None, None)


class TrialsOnRunner:
    """A `RemoteEvaluator` for one attempt at the optimization `state`."""

    def __init__(self, runner: TaskRunner[Any], state: OptimizationState) -> None:
        self._runner = runner
        self._document = json.dumps(state.to_dict())
        self._token = secrets.token_hex(8)
        self._submitting = asyncio.Lock()  # the first one connects

    async def evaluate(self, number: int, parameters: Mapping[str, Any], options: EvaluationOptions) -> Evaluated:
        """Evaluate one trial; see `RemoteEvaluator`."""
        loop, done = asyncio.get_running_loop(), asyncio.Event()
        what = {"number": number, "parameters": dict(parameters), "options": options}
        async with self._submitting:
            given = {"document": self._document, "token": self._token, **what}
            future = await asyncio.to_thread(self._runner.submit, evaluate_trial, given)
        future.add_done_callback(lambda _: loop.call_soon_threadsafe(done.set))
        try:
            await done.wait()
        except asyncio.CancelledError:
            await asyncio.to_thread(_cut_off, future)
            raise
        try:
            outcome: Evaluated = await asyncio.to_thread(future.result)
        except OptimizationStrategyError:
            raise
        except Exception as error:
            raise OptimizationStrategyError(
                f"trial {number} was not evaluated by {type(self._runner).__name__}: {type(error).__name__}: {error}"
            ) from error
        return outcome


# Without hooks, which the worker would call.
@task(name="trial", task_run_name="trial-{number}", cache_policy=NO_CACHE, persist_result=False)
async def evaluate_trial(
    document: str, token: str, number: int, parameters: dict[str, Any], options: EvaluationOptions
) -> Evaluated | State[Any]:
    """Evaluate a trial on a worker. Returns a Cancelled state if it is cut off."""
    forward_to_prefect()
    is_dropped = dask_dropped()
    try:
        evaluator = (await asyncio.to_thread(_evaluator, document, token)).for_another_loop()
    except OptimizationError as error:
        raise OptimizationStrategyError(f"the worker on {socket.gethostname()}: {error}") from error
    evaluation = asyncio.create_task(evaluator.evaluate_one(number, parameters, options))
    try:
        while not evaluation.done():
            await asyncio.wait({evaluation}, timeout=LOOK_SECONDS)
            if is_dropped():
                evaluation.cancel()
        return await evaluation
    except asyncio.CancelledError:
        return State(type=StateType.CANCELLED, message="its step was cut off")
    finally:
        await evaluator.close()


@lru_cache(maxsize=8)
def _evaluator(document: str, token: str) -> Evaluator:
    """The evaluator for all trials of an attempt on this worker, so that its children keep their data."""
    return evaluator_of(OptimizationState.from_dict(json.loads(document)), token=token)[1]


def dask_dropped() -> Callable[[], bool]:
    """A function that returns whether Dask has dropped the present task; always False for tasks that are not Dask's."""
    if (distributed := sys.modules.get("distributed")) is None:
        return lambda: False
    with suppress(ValueError):  # not on a worker
        worker = distributed.get_worker()
        key = worker.get_current_task()

        def dropped() -> bool:
            found = worker.state.tasks.get(key)
            return found is None or found.state == "cancelled"

        return dropped
    return lambda: False


def _cut_off(future: PrefectWrappedFuture[Any, Any]) -> None:
    work = future.wrapped_future
    if hasattr(work, "cancel"):
        work.cancel()
    else:
        sys.modules["ray"].cancel(work, force=True)
