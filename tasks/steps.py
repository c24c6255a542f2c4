"""The steps of an optimization as Prefect tasks: `prepare`, `run_step` for each step, `hold_out`, `finalize`.

Each takes and returns JSON-ready data. A step is committed in one transaction, whose answer has the present intent, so
that `run_step` can return what follows. An error in a strategy fails the task, the flow and the optimization; an error
in an objective fails its trial only.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Mapping, Sequence
from typing import Any

from prefect import task
from prefect.cache_policies import NO_CACHE
from prefect.runtime import flow_run
from sqlalchemy import Connection

from o9.lifecycle.effect import (
    BEST,
    CPU,
    MEMORY,
    STEP_SECONDS,
    TRIALS,
    Best,
    best_of,
    direction_of,
    improvement,
    is_better,
    is_hopeless,
    streak_of,
)
from o9.mirror.recorder import mirror_task_state
from o9.model.errors import OptimizationStrategyError
from o9.model.logs import bound
from o9.model.optimization import OptimizationState, baseline_of
from o9.model.states import Intent, OptimizationStatus, TrialState
from o9.model.strategy import StepResult
from o9.model.trial import Trial
from o9.monitor.resources import Meter
from o9.store import queries
from o9.store.optimizations.commit_step import Acknowledged, Amend, CommitStep, RecordCutOff
from o9.store.optimizations.hold_outs import RecordHoldOut
from o9.store.optimizations.intents import Requeue
from o9.store.optimizations.placebos import RecordPlaceboValue
from o9.store.optimizations.provenance import RecordProvenance
from o9.store.optimizations.transitions import Cause, Transition
from o9.store.statistics.rankings import BEST_METRICS
from o9.strategies.baseline import baseline_value
from o9.strategies.coroutine import CoroutineAttempt
from o9.strategies.factory import create_strategy, provenance_of
from o9.strategies.optuna_strategy import OptunaStrategy
from o9.tasks.attempt import INTENDED, Attempt, Continuation, StepInterrupted, attempt_of, continuation, deadline_of
from o9.tasks.reported import ReportedSteps
from o9.tasks.trials import TrialsOnRunner

logger = logging.getLogger(__name__)

_MIRRORED: dict[str, Any] = {
    "on_running": [mirror_task_state],
    "on_completion": [mirror_task_state],
    "on_failure": [mirror_task_state],
    # Nothing is cached or persisted: the store has the results, and a committed step is never run again.
    "cache_policy": NO_CACHE,
    "persist_result": False,
}


@task(name="prepare", **_MIRRORED)
async def prepare(optimization_id: str) -> dict[str, Any]:
    """Prepare the strategy to continue after the last committed step. Returns that next step, and what follows."""
    attempt = _attempt()
    state, ledger, attempt.checkpoint = await attempt.read(_committed_so_far, optimization_id)
    attempt.state = state
    remote = None if attempt.task_runner is None else TrialsOnRunner(attempt.task_runner, state)
    attempt.strategy = create_strategy(state, remote=remote)
    attempt.meter = Meter(attempt.strategy.team)
    ran = await asyncio.to_thread(provenance_of, state, attempt.claimed.attempt)
    await attempt.write(RecordProvenance(optimization_id, ran))
    attempt.best = best_of(ledger, direction_of(state)) or _reported_best(state)
    attempt.streak = streak_of(ledger)
    attempt.deadline = deadline_of(state)
    if attempt.strategy.kind == "steps":
        # Rebuilding the state of a search from a long ledger takes a while.
        await asyncio.to_thread(attempt.strategy.open, state, ledger)
    if state.total_steps == 0 and attempt.strategy.total_steps:
        await attempt.amend(total_steps=attempt.strategy.total_steps)
    if attempt.best is not None and not state.optimized_parameters:  # a retry's, from the ledger of its origin
        value = attempt.best.value
        await attempt.amend(
            current_performance=value,
            performance_improvement=improvement(value, state.baseline_performance, direction_of(state)),
            optimized_parameters=attempt.best.parameters,
        )
    logger.info("attempt %d of %s: from step %d of %d", attempt.claimed.attempt, state.name, state.completed_steps,
                state.total_steps)  # fmt: skip
    for warning in state.warnings:
        logger.warning("%s", warning)
    holding = await attempt.read(queries.holding, optimization_id)
    assert holding is not None
    # An earlier attempt may have died between its last step and its end; and the intent may have changed since.
    done = bool(state.total_steps and state.completed_steps >= state.total_steps)
    done = done or is_hopeless(attempt.streak, state.metadata)
    following = continuation(Intent(holding.intent), stopping=attempt.stopping, done=done)
    return {"step": state.completed_steps, "following": following.value}


@task(name="run_step", task_run_name="step-{step}", **_MIRRORED)
async def run_step(optimization_id: str, step: int) -> str:
    """Run and commit one step. Returns a Continuation's value."""
    attempt = _attempt()
    state = attempt.state
    assert state is not None
    assert attempt.strategy is not None
    with bound(optimization=optimization_id, attempt=attempt.claimed.attempt, step=step):
        try:
            if attempt.strategy.kind == "coroutine":
                return (await _reported_step(attempt, attempt.strategy, state, step)).value
            began = time.perf_counter()
            result = await attempt.interruptible(attempt.strategy.step(state, step, attempt.checkpoint))
            acknowledged = await _commit(attempt, state, step, result, time.perf_counter() - began)
        except StepInterrupted as interrupted:
            logger.info("step %d was cut off: %s", step, interrupted.following.value)
            # Trials that will be evaluated again are not recorded as cut off.
            again = interrupted.following in (Continuation.SUSPEND, Continuation.REQUEUE, Continuation.REPLACED)
            if not again and isinstance(attempt.strategy, OptunaStrategy):
                await _keep(attempt, state, attempt.strategy.interrupted())
            return interrupted.following.value
    if result.trials and all(trial.state is TrialState.FAILED for trial in result.trials):
        why = (result.trials[0].error or "no error recorded").partition("\n")[0]
        level = logging.WARNING if len(result.trials) > 1 else logging.INFO  # one trial may be bad luck
        logger.log(level, "step %d: all %d trials failed; first error: %s", step, len(result.trials), why)
    done = result.done or bool(state.total_steps and acknowledged.completed_steps >= state.total_steps)
    done = done or is_hopeless(attempt.streak, state.metadata)
    return continuation(acknowledged.intent, stopping=attempt.stopping, done=done).value


@task(name="hold-out", **_MIRRORED)
async def hold_out(optimization_id: str) -> str:
    """Evaluate the best on the held-out periods, and keep the returns. Returns a Continuation's value.

    If that fails, the results have the reason, and the optimization completes without it.
    """
    attempt = _attempt()
    state, strategy, best = attempt.state, attempt.strategy, attempt.best
    assert state is not None
    assert isinstance(strategy, OptunaStrategy)
    if best is None or best.number is None:
        return Continuation.DONE.value
    trial = await attempt.read(queries.trial, optimization_id, best.number)
    assert trial is not None
    if trial.hold_out_returns is not None:  # by an earlier attempt
        return Continuation.DONE.value
    try:
        found = await attempt.interruptible(strategy.held_out(state, trial, attempt.checkpoint or {}))
    except StepInterrupted as interrupted:
        return interrupted.following.value
    if found.returns is None:
        logger.warning("the hold-out of %s could not be evaluated: %s", state.name, found.error)
        await attempt.amend(results={**state.results, "hold_out_error": found.error})
    else:
        fence, number = attempt.claimed.fence, trial.number
        await attempt.write(RecordHoldOut(optimization_id, fence, number, found.returns, found.baseline, found.dates))
    return Continuation.DONE.value


def _why_none(counted: Mapping[str, int], first: str) -> str:
    """Why no trial succeeded. first: the error of the first one, or why it was infeasible."""
    total, infeasible = sum(counted.values()), counted.get(TrialState.INFEASIBLE.value, 0)
    if total == 1:
        return f"the only trial {'was infeasible' if infeasible else 'failed'}: {first}"
    if infeasible == total:
        return f"all {total} trials were infeasible; the first: {first}"
    some = f" ({infeasible} were infeasible); the first" if infeasible else "; first error"
    return f"none of the {total} trials succeeded{some}: {first}"


@task(name="finalize", **_MIRRORED)
async def finalize(optimization_id: str, following: str) -> dict[str, Any]:
    """Write the results, and an end for which Prefect calls no hook. Raises where none of the trials succeeded."""
    attempt, how = _attempt(), Continuation(following)
    counted = await attempt.read(queries.trial_counts, optimization_id)
    state = await attempt.read(_existing, optimization_id)
    if attempt.strategy is not None and attempt.strategy.kind == "coroutine":
        attempt.best = _reported_best(state)
    results = _results(attempt, state, counted)
    if attempt.best is not None and attempt.best.number is not None:
        best = await attempt.read(queries.trial, optimization_id, attempt.best.number)
        if best is not None and best.metrics:
            results[BEST_METRICS] = best.metrics
    await attempt.write(Amend(optimization_id, {"results": results}, fence=attempt.claimed.fence, ending=True))
    if how is Continuation.DONE and counted and not counted.get(TrialState.COMPLETED.value):
        first = (await attempt.read(queries.trials, optimization_id, limit=1))[0]
        raise OptimizationStrategyError(_why_none(counted, first.error or "no reason given"))
    if how is Continuation.DONE and is_hopeless(attempt.streak, state.metadata):
        raise OptimizationStrategyError(
            f"ended early after {attempt.streak.failures} failed trials in a row; first error: "
            f"{attempt.streak.first_error}"
        )
    if how is Continuation.DONE and "placebo_of" in state.metadata and attempt.best is not None:
        await attempt.write(RecordPlaceboValue(optimization_id, attempt.best.value))
    if how is Continuation.DONE and attempt.guard is not None:
        await attempt.guard(optimization_id, OptimizationStatus.COMPLETED)
    holding = await attempt.read(queries.holding, optimization_id)
    assert holding is not None
    if Intent(holding.intent) in INTENDED:
        attempt.asked_by = holding.intent_by
    if how is Continuation.REQUEUE or how in _ENDS:
        await record_end(attempt, how)
    return results


async def record_end(attempt: Attempt, how: Continuation) -> None:
    """Record one of the ends for which Prefect calls no hook, before the flow run returns it."""
    name, fence, run_id = attempt.claimed.optimization_id, attempt.claimed.fence, str(flow_run.id)
    if how is Continuation.REQUEUE:
        await attempt.write(Requeue(name, fence, "its node could not continue", attempt.node, run_id))
        return
    to, cause, message = _ENDS[how]
    if attempt.asked_by:
        message += f", asked by {attempt.asked_by}"
    await attempt.write(Transition(name, to, cause, message, attempt.node, fence=fence, prefect_run_id=run_id))


_ENDS = {
    Continuation.PAUSE: (OptimizationStatus.PAUSED, Cause.PERSON, "paused"),
    Continuation.SUSPEND: (OptimizationStatus.SUSPENDED, Cause.NODE, "suspended"),
    Continuation.CANCEL: (OptimizationStatus.CANCELLED, Cause.PERSON, "cancelled"),
}


async def _commit(
    attempt: Attempt, state: OptimizationState, step: int, result: StepResult, seconds: float
) -> Acknowledged:
    direction = direction_of(state)
    await _fill_baseline(attempt, state, result.trials)
    best = best_of(result.trials, direction, attempt.best)
    if result.best_value is not None and (best is None or is_better(result.best_value, best.value, direction)):
        best = Best(result.best_value, result.best_parameters or {})
    usage = attempt.meter.measure() if attempt.meter else {}
    metrics = {STEP_SECONDS: seconds, TRIALS: float(len(result.trials)), **usage, **result.metrics}
    if best is not None:
        metrics[BEST] = best.value
    commit = CommitStep(
        optimization_id=state.optimization_id,
        fence=attempt.claimed.fence,
        step=step,
        trials=result.trials,
        checkpoint=result.checkpoint,
        metrics=metrics,
        current_step=f"step {step + 1}" + (f" of {state.total_steps}" if state.total_steps else ""),
        **_effect(best, state),
        cpu_usage=usage.get(CPU),
        memory_usage=usage.get(MEMORY),
        output=result.output,
        retry_of=state.metadata.get("retry_of", ""),
    )
    acknowledged = await attempt.write(commit)
    # After the commit: a step that is not committed must leave no trace, or its repetition would differ.
    _advance(state, commit, acknowledged.completed_steps)
    attempt.best, attempt.checkpoint = best, dict(result.checkpoint)
    attempt.streak = streak_of(result.trials, attempt.streak)
    return acknowledged


def _advance(state: OptimizationState, commit: CommitStep, completed_steps: int) -> None:
    """Apply the commit to `state`, so that no step has to read the whole record."""
    state.completed_steps, state.current_step, state.metrics = completed_steps, commit.current_step, {**commit.metrics}
    if state.total_steps:
        state.progress = min(1.0, completed_steps / state.total_steps)
    for field, value in (
        ("current_performance", commit.performance),
        ("performance_improvement", commit.improvement),
        ("optimized_parameters", commit.optimized_parameters),
        ("cpu_usage", commit.cpu_usage),
        ("memory_usage", commit.memory_usage),
    ):
        if value is not None:
            setattr(state, field, value)


async def _fill_baseline(attempt: Attempt, state: OptimizationState, trials: Sequence[Trial]) -> None:
    """Without a given baseline, set it to the score of the baseline's returns, once that is known."""
    if baseline_of(state) is not None:
        return
    for trial in trials:
        if trial.value is None or trial.returns is None or trial.baseline_returns is None:
            continue
        found = baseline_value(trial.value, trial.returns, trial.baseline_returns, trial.periods_per_year)
        if found is not None:
            await attempt.amend(baseline_performance=found)
            return


async def _keep(attempt: Attempt, state: OptimizationState, trials: Sequence[Trial]) -> None:
    """Record the trials of a step that was cut off and will not be repeated."""
    best = best_of(trials, direction_of(state), attempt.best)
    new = best if best is not attempt.best else None
    await attempt.write(RecordCutOff(state.optimization_id, attempt.claimed.fence, trials, **_effect(new, state)))
    attempt.best = best


def _effect(best: Best | None, state: OptimizationState) -> dict[str, Any]:
    """What a commit records of the best."""
    if best is None:
        return {}
    gain = improvement(best.value, state.baseline_performance, direction_of(state))
    return {"performance": best.value, "improvement": gain, "optimized_parameters": best.parameters}


async def _reported_step(
    attempt: Attempt, strategy: CoroutineAttempt, state: OptimizationState, step: int
) -> Continuation:
    """Wait for the report of a coroutine strategy's step; the first of its tasks starts the strategy."""
    if attempt.reported is None:
        attempt.reported = ReportedSteps(attempt, strategy, state)
    try:
        return await attempt.interruptible(attempt.reported.step(step))
    except StepInterrupted:
        await attempt.end_reported()
        if (ended := attempt.reported.ended()) is None:
            raise
        return ended


def _results(attempt: Attempt, state: OptimizationState, counted: dict[str, int]) -> dict[str, Any]:
    """The results: the best, the trial that found it, and the counts of trials."""
    results: dict[str, Any] = {**state.results, "direction": direction_of(state), "trials": counted}
    if attempt.best is not None:
        results |= {"best_value": attempt.best.value, "best_parameters": attempt.best.parameters}
        if attempt.best.number is not None:
            results["best_trial"] = attempt.best.number
    return results


def _reported_best(state: OptimizationState) -> Best | None:
    return Best(state.current_performance, state.optimized_parameters) if state.optimized_parameters else None


def _committed_so_far(
    connection: Connection, optimization_id: str
) -> tuple[OptimizationState, list[Trial], dict[str, Any] | None]:
    """The state, the ledger and the checkpoint."""
    state = _existing(connection, optimization_id)
    if not state.completed_steps:
        return state, [], None
    return state, queries.trials(connection, optimization_id), queries.checkpoint(connection, optimization_id)


def _existing(connection: Connection, optimization_id: str) -> OptimizationState:
    state = queries.get(connection, optimization_id)
    if state is None:
        raise OptimizationStrategyError(f"optimization {optimization_id!r} is no longer in the store")
    return state


def _attempt() -> Attempt:
    return attempt_of(flow_run.id)
