"""The single door to strategies: from an optimization's state to something that runs its steps.

Contract. `create_strategy` reads `state.metadata`, imports what it names (as far as allowed) and runs nothing. It gives
a StepAttempt or a CoroutineAttempt, which `kind` tells apart. One object serves one attempt of one optimization, in one
event loop, and is closed at its end. `settle` makes the same checks at submission: nothing is evaluated, no process
started. Errors name the field: `metadata.strategy`, `metadata.objective`, `metadata.search_space.…`.
"""

from __future__ import annotations

import copy
import json
import secrets
from collections.abc import Iterator, Sequence
from contextlib import contextmanager

from o9.demo.catalogue import DEMONSTRATIONS, demonstration_warning
from o9.model.errors import Faults, OptimizationError, OptimizationStrategyError, OptimizationValidationError
from o9.model.optimization import OptimizationState
from o9.model.search_space import SearchSpace
from o9.model.specification import Metadata, read_metadata
from o9.model.strategy import DEMONSTRATION
from o9.model.trial import Ran
from o9.strategies.coroutine import CoroutineAttempt
from o9.strategies.evaluation import Elsewhere, Evaluator
from o9.strategies.fingerprints import code_fingerprint
from o9.strategies.optuna_strategy import SEED_BITS, OptunaStrategy
from o9.strategies.plan import Plan, check_sampler, make_plan, warm_start_warning
from o9.strategies.registry import (
    Objective,
    ResolvedStrategy,
    StrategyKind,
    resolve_objective,
    resolve_score,
    resolve_strategy,
)
from o9.strategies.user_steps import UserSteps, step_count
from o9.workers.given import Given
from o9.workers.measured import Measured
from o9.workers.pool import processors
from o9.workers.scores import Score

StepAttempt = OptunaStrategy | UserSteps  # what is asked for one step at a time


def create_strategy(
    state: OptimizationState, *, allowed_imports: tuple[str, ...] | None = None, elsewhere: Elsewhere | None = None
) -> StepAttempt | CoroutineAttempt:
    """The strategy that `state.metadata` asks for. Raises OptimizationValidationError, naming the field.

    elsewhere: who evaluates what the built-in strategy draws; None: this process and its children.
    """
    strategy = strategy_of(state, allowed_imports)
    match strategy.kind:
        case StrategyKind.OPTUNA:
            objective = _objective(state, allowed_imports)
            plan = make_plan(state, objective)
            return OptunaStrategy(plan, objective, _evaluator(objective, plan, allowed_imports, elsewhere=elsewhere))
        case StrategyKind.STEPS:
            return UserSteps(strategy, step_count(strategy, state))
        case StrategyKind.COROUTINE:
            return CoroutineAttempt(strategy, state.total_steps)


def settle(
    state: OptimizationState,
    *,
    allowed_imports: tuple[str, ...] | None = None,
    strategy: ResolvedStrategy | None = None,
    asked: Metadata | None = None,
) -> OptimizationState:
    """A checked copy with what a submission fixes for good; raises OptimizationValidationError for what can never run.

    A seed is drawn where the built-in strategy has none, so that every ledger can be had again; the objective's own
    direction is written down. Where neither an objective nor a search space is given, the demonstration objective of
    its type takes their place, marked by `metadata.demonstration`. `warnings` says so, and what of a warm start is
    outside the search space. No Optuna is imported, no process started. `strategy`, `asked`: its own, and its metadata,
    where they are known already.
    """
    settled, faults = copy.copy(state), Faults()
    metadata = settled.metadata = dict(state.metadata)
    warnings = settled.warnings = list(state.warnings)
    strategy = strategy or strategy_of(state, allowed_imports)
    for name in ("hold_out", "score", "warm_start"):
        if metadata.get(name) and strategy.kind is not StrategyKind.OPTUNA:
            problem = (
                f"strategy {strategy.name!r} evaluates by itself: leave it out; its trials may have hold_out_returns"
            )
            faults.add(OptimizationValidationError(f"metadata.{name}", problem))
    if strategy.kind is StrategyKind.STEPS:
        with faults:
            step_count(strategy, state)
    if strategy.kind is StrategyKind.OPTUNA:
        if metadata.get("objective") is None and metadata.get("search_space") is None:
            metadata |= {"objective": DEMONSTRATIONS[state.optimization_type], DEMONSTRATION: True}
            warnings.append(demonstration_warning(metadata["objective"]))
        if metadata.get("seed") is None:
            metadata["seed"] = secrets.randbits(SEED_BITS)
        asked = asked or read_metadata(state.metadata)
        plan = _plan(settled, asked, allowed_imports, faults)
        metadata["direction"] = plan.direction if plan else None
        if plan and asked.warm_start_from and (warning := warm_start_warning(asked.warm_start_from, plan)):
            warnings.append(warning)
    faults.refuse()
    return settled


def _plan(
    state: OptimizationState, asked: Metadata, allowed_imports: tuple[str, ...] | None, faults: Faults
) -> Plan | None:
    """Its plan, if it has one; all that keeps it from having one is added to `faults`."""
    objective = None
    with faults:
        objective = _objective(state, allowed_imports)
    with faults:
        _score_function(asked.score or "", allowed_imports)
    if objective is not None:
        with faults:
            return make_plan(state, objective, asked)
    elif asked.search_space is not None:
        with faults:
            check_sampler(asked.sampler, SearchSpace.of(asked.search_space))
    return None


def provenance_of(state: OptimizationState, attempt: int) -> Ran:
    """What an attempt runs: by name, as fingerprints of its code and data, and what it searches.

    Hashing large data takes a while.
    """
    strategy = strategy_of(state, None)
    if strategy.kind is not StrategyKind.OPTUNA:
        return Ran(attempt, strategy.name, code_fingerprint(strategy.target), "")
    objective = _objective(state, None)
    with _naming("metadata.objective"):
        data = objective.data_fingerprint or ""
    space = json.dumps(make_plan(state, objective).space.to_dict())
    return Ran(attempt, objective.name, code_fingerprint(objective.function), data, space)


def evaluator_of(
    state: OptimizationState, *, allowed_imports: tuple[str, ...] | None = None, token: str = ""
) -> tuple[Objective, Evaluator]:
    """What evaluates one more set of parameters as its strategy does; imports what it names, as far as allowed.

    token: of the attempt, whose evaluators share the data that a process has loaded; each has its own without one.
    Raises OptimizationValidationError where that is not known or not allowed here, and where its strategy evaluates by
    itself.
    """
    strategy = strategy_of(state, allowed_imports)
    if strategy.kind is not StrategyKind.OPTUNA:
        raise OptimizationValidationError("metadata.strategy", f"strategy {strategy.name!r} evaluates by itself")
    objective = _objective(state, allowed_imports)
    return objective, _evaluator(objective, make_plan(state, objective), allowed_imports, token)


def search_space_of(state: OptimizationState, ran: Sequence[Ran] = ()) -> SearchSpace | None:
    """The one that it gives, that of an objective known here by name, or that of the newest attempt of `ran`.

    No import path is followed for it.
    """
    raw = state.metadata.get("search_space")
    try:
        if raw is None and isinstance(name := state.metadata.get("objective"), str):
            raw = resolve_objective(name, allowed_imports=()).search_space
        if raw is not None:
            return SearchSpace.parse(raw)
    except OptimizationError:
        pass  # not known here
    recorded = ran[-1].search_space if ran else ""
    return SearchSpace.parse(json.loads(recorded)) if recorded else None


@contextmanager
def _naming(field: str) -> Iterator[None]:
    """What cannot be resolved is a fault of this field."""
    try:
        yield
    except OptimizationStrategyError as error:
        raise OptimizationValidationError(field, str(error)) from error


def strategy_of(state: OptimizationState, allowed_imports: tuple[str, ...] | None) -> ResolvedStrategy:
    """Raises OptimizationValidationError for one that is unknown or not allowed."""
    with _naming("metadata.strategy"):
        return resolve_strategy(state.metadata.get("strategy", "default"), allowed_imports=allowed_imports)


def _objective(state: OptimizationState, allowed_imports: tuple[str, ...] | None) -> Objective:
    name = state.metadata.get("objective")
    if name is None:
        remedy = "give a registered name or an import path such as package.module:function"
        raise OptimizationValidationError("metadata.objective", f"it is missing; {remedy}")
    with _naming("metadata.objective"):
        return resolve_objective(name, allowed_imports=allowed_imports)


def _score_function(score: str, allowed_imports: tuple[str, ...] | None) -> Score | None:
    if not score:
        return None
    with _naming("metadata.score"):
        return resolve_score(score, allowed_imports=allowed_imports)


def _evaluator(
    objective: Objective,
    plan: Plan,
    allowed_imports: tuple[str, ...] | None,
    token: str = "",
    elsewhere: Elsewhere | None = None,
) -> Evaluator:
    # An async objective waits more than it computes; a sync one needs a processor to itself. How many threads a
    # library uses decides how it rounds, so that follows from the plan and not from the machine.
    placebo = objective.placebo if plan.is_placebo else None
    token = token or secrets.token_hex(8)
    given = Given(objective.data, token, placebo, plan.asked.seed or 0) if objective.takes_data else None
    score = plan.asked.score or ""
    function = _score_function(score, allowed_imports)
    measured = Measured(objective.function, objective.truncatable, given, score, function, plan.asked.hold_out)
    return Evaluator(
        objective,
        workers=plan.trials_per_step if objective.is_async or elsewhere else min(plan.trials_per_step, processors()),
        single_threaded=plan.trials_per_step > 1,
        measured=measured,
        timeout_seconds=plan.asked.trial_timeout_seconds,
        elsewhere=elsewhere,
    )
