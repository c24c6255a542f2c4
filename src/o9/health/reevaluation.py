"""Re-evaluates the best trial of an optimization, on all and on truncated data, which runs the objective's code.

Contract. The objective runs as in a trial: in a child process, which is killed at the time limit with everything it
started, or in the event loop if it is async. The caller decides which import paths are allowed. Each best trial is
re-evaluated once for each version of its code, and the outcome is stored
(`o9.store.optimizations.provenance.Repetition`) for later checks. If it cannot be evaluated here, the reason is stored,
and the next check tries again.
"""

from __future__ import annotations

import asyncio
import math
from dataclasses import dataclass, field
from typing import Any

from o9.health.checks.check import Check, unknown
from o9.health.checks.repeatability import LEAST_RETURNS, LOOK_AHEAD, cuts_of, look_ahead, repeatable, same
from o9.health.facts import read_best
from o9.health.grades import REPEATABLE
from o9.model.errors import OptimizationError
from o9.model.loops import cancel_and_wait
from o9.model.optimization import OptimizationState
from o9.model.states import ENDED, TrialState
from o9.model.trial import Ran, Trial
from o9.store import queries
from o9.store.core.column_types import to_json
from o9.store.optimizations.provenance import RecordRepetition
from o9.store.store import Store
from o9.strategies.evaluation import CUT_OFF_SECONDS, Evaluator, TrialOutcome
from o9.strategies.factory import evaluator_of
from o9.strategies.fingerprints import code_fingerprint
from o9.strategies.registry import Objective

_OPT_IN = (
    "declare @objective(…, truncatable=True), and accept `periods` in the function: compute as if the data ended "
    "there, and return exactly that many returns"
)


async def evaluate_again(
    store: Store,
    state: OptimizationState,
    *,
    seconds: float,
    allowed_imports: tuple[str, ...] | None,
    most_seconds_each: float = math.inf,
) -> None:
    """Re-evaluate the best trial of an ended optimization within `seconds`, unless that was done.

    Does nothing if the optimization is not ended, has no best trial, or its best trial took longer than
    `most_seconds_each`. `allowed_imports` None: any import path is allowed unless O9_ALLOWED_IMPORTS is set, for
    callers that run code here anyway.
    """
    if state.status not in ENDED:
        return
    best = (await asyncio.to_thread(read_best, store, state))[1]
    if best is None or best.duration_seconds > most_seconds_each:
        return
    kept = await store.read_async(queries.repetition, state.optimization_id)
    try:
        objective, evaluator = await asyncio.to_thread(evaluator_of, state, allowed_imports=allowed_imports)
    except OptimizationError as error:
        if kept is None or kept.number != best.number:
            await _keep(store, state, best, "", _unknown(str(error)))
        return
    try:
        if objective.truncatable and state.metadata.get("hold_out") is not None and best.returns is not None:
            evaluator.periods = len(best.returns)  # without the held-out periods
        code = code_fingerprint(objective.function)
        if kept is not None and (kept.number, kept.code) == (best.number, code) and code:
            return
        if best.duration_seconds > seconds:
            why = f"its trial took {best.duration_seconds:.3g} s, and re-evaluation is limited to {seconds:.3g} s"
            await _keep(store, state, best, "", _unknown(why))
            return
        ran = await store.read_async(queries.provenance, state.optimization_id)
        checks = await _checks(objective, evaluator, state, best, _changed(objective, code, best, ran), seconds)
        await _keep(store, state, best, code, checks)
    finally:
        await evaluator.close()


@dataclass
class _Found:
    """The outcomes so far. `truncated`: pairs of a number of returns and the outcome; `cuts`: all planned numbers."""

    whole: list[TrialOutcome] = field(default_factory=list)
    truncated: list[tuple[int, TrialOutcome]] = field(default_factory=list)
    cuts: list[int] = field(default_factory=list)


async def _checks(
    objective: Objective, evaluator: Evaluator, state: OptimizationState, best: Trial, changed: str, seconds: float
) -> list[Check]:
    found = _Found()
    work = asyncio.ensure_future(_evaluate(objective, evaluator, state.parameters | best.parameters, best, found))
    try:
        await asyncio.wait({work}, timeout=seconds)
        if work.done():
            work.result()
        found = _Found([*found.whole], [*found.truncated], found.cuts)  # without what arrives during the cancellation
    except OptimizationError as error:  # it cannot be loaded in a child
        return _unknown(str(error))
    finally:  # an async objective that swallows its cancellation is abandoned
        await cancel_and_wait(work, seconds=CUT_OFF_SECONDS)
    if not found.whole:
        return _unknown(f"the re-evaluation took longer than {seconds:.3g} s")
    if not objective.truncatable:
        ahead = unknown(LOOK_AHEAD, "the objective cannot run on truncated data", _OPT_IN)
    elif found.cuts:
        ahead = look_ahead(found.whole[0], found.truncated, len(found.cuts))
    else:
        ahead = unknown(LOOK_AHEAD, _why_not_cut(found.whole))
    return [repeatable(best, found.whole, changed), ahead]


async def _evaluate(
    objective: Objective, evaluator: Evaluator, parameters: dict[str, Any], best: Trial, found: _Found
) -> None:
    found.whole.append(await evaluator.evaluate_again(best.number, parameters))
    if found.whole[0].state is TrialState.COMPLETED and not same(best, found.whole[0]):
        found.whole.append(await evaluator.evaluate_again(best.number, parameters))
    returns = found.whole[0].returns
    if not objective.truncatable or returns is None or len(returns) < LEAST_RETURNS:
        return
    if same(found.whole[0], found.whole[-1]):
        found.cuts = cuts_of(len(returns))
        for periods in found.cuts:
            found.truncated.append((periods, await evaluator.evaluate_again(best.number, parameters, periods)))


def _why_not_cut(whole: list[TrialOutcome]) -> str:
    if any(outcome.state is not TrialState.COMPLETED for outcome in whole):
        return "it failed on re-evaluation"
    returns = whole[0].returns
    if returns is None:
        return "there are no returns to compare"
    if len(returns) < LEAST_RETURNS:
        return f"{len(returns)} returns are too few to truncate: at least {LEAST_RETURNS} are needed"
    return "the returns differ each time, so look-ahead cannot be distinguished from chance"


def _changed(objective: Objective, code: str, best: Trial, ran: list[Ran]) -> str:
    """Return what is known to have changed since the best was evaluated; "" for nothing."""
    then = next((one for one in ran if one.attempt == best.attempt), None)
    if then is None:
        return ""
    if then.code and then.code != code:
        return "its code has changed"
    return "its data have changed" if then.data and then.data != objective.data_fingerprint else ""


def _unknown(why: str) -> list[Check]:
    return [unknown(name, why) for name in (REPEATABLE, LOOK_AHEAD)]


async def _keep(store: Store, state: OptimizationState, best: Trial, code: str, checks: list[Check]) -> None:
    kept = to_json([check.to_dict() for check in checks])
    await store.write_async(RecordRepetition(state.optimization_id, best.number, code, kept))
