"""The single door to strategies: from an optimization's state to an object that runs its steps.

Contract. `create_strategy` reads `state.metadata`, imports what it names (as far as allowed) and runs nothing. It
returns a StepAttempt or a CoroutineAttempt, distinguished by `kind`, which serves one attempt in one event loop and is
closed at its end. `settle` makes the same checks at submission, without evaluating anything or starting a process.
Errors name the field: `metadata.strategy`, `metadata.objective`, `metadata.search_space.…`.
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
from o9.strategies.evaluation import Evaluator, RemoteEvaluator
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
from o9.workers.measured_objective import MeasuredObjective
from o9.workers.objective_data import ObjectiveData
from o9.workers.pool import processors
from o9.workers.scores import Score

StepAttempt = OptunaStrategy | UserSteps


def create_strategy(
    state: OptimizationState, *, allowed_imports: tuple[str, ...] | None = None, remote: RemoteEvaluator | None = None
) -> StepAttempt | CoroutineAttempt:
    """Make the strategy that `state.metadata` names. Raises OptimizationValidationError.

    remote: evaluates the built-in strategy's trials; None: this process and its children do.
    """
    strategy = strategy_of(state, allowed_imports)
    match strategy.kind:
        case StrategyKind.OPTUNA:
            objective = _objective(state, allowed_imports)
            plan = make_plan(state, objective)
            return OptunaStrategy(plan, objective, _evaluator(objective, plan, allowed_imports, remote=remote))
        case StrategyKind.STEPS:
            return UserSteps(strategy, step_count(strategy, state))
        case StrategyKind.COROUTINE:
            return CoroutineAttempt(strategy, state.total_steps)


def settle(
    state: OptimizationState,
    *,
    allowed_imports: tuple[str, ...] | None = None,
    strategy: ResolvedStrategy | None = None,
    metadata: Metadata | None = None,
) -> OptimizationState:
    """Check a submission, and return a copy with the values that it fixes. Raises OptimizationValidationError.

    For the built-in strategy, a missing seed is drawn, so that every ledger can be reproduced, and the objective's
    direction is recorded. Without an objective and a search space, the demonstration objective of its type is used, and
    marked by `metadata.demonstration`. `warnings` gets a note of that, and of warm-start parameters outside the search
    space. Optuna is not imported, and no process is started. `strategy`, `metadata`: the resolved ones, if known.
    """
    settled, faults = copy.copy(state), Faults()
    fixed = settled.metadata = dict(state.metadata)
    warnings = settled.warnings = list(state.warnings)
    strategy = strategy or strategy_of(state, allowed_imports)
    for name in ("hold_out", "score", "warm_start"):
        if fixed.get(name) and strategy.kind is not StrategyKind.OPTUNA:
            problem = f"strategy {strategy.name!r} makes its own evaluations (with hold_out_returns); leave this out"
            faults.add(OptimizationValidationError(f"metadata.{name}", problem))
    if strategy.kind is StrategyKind.STEPS:
        with faults:
            step_count(strategy, state)
    if strategy.kind is StrategyKind.OPTUNA:
        if fixed.get("objective") is None and fixed.get("search_space") is None:
            fixed |= {"objective": DEMONSTRATIONS[state.optimization_type], DEMONSTRATION: True}
            warnings.append(demonstration_warning(fixed["objective"]))
        if fixed.get("seed") is None:
            fixed["seed"] = secrets.randbits(SEED_BITS)
        metadata = metadata or read_metadata(state.metadata)
        plan = _plan(settled, metadata, allowed_imports, faults)
        fixed["direction"] = plan.direction if plan else None
        if plan and metadata.warm_start_from and (warning := warm_start_warning(metadata.warm_start_from, plan)):
            warnings.append(warning)
    faults.refuse()
    return settled


def _plan(
    state: OptimizationState, metadata: Metadata, allowed_imports: tuple[str, ...] | None, faults: Faults
) -> Plan | None:
    """Make the plan, or add all that is wrong to `faults`."""
    objective = None
    with faults:
        objective = _objective(state, allowed_imports)
    with faults:
        _score_function(metadata.score or "", allowed_imports)
    if objective is not None:
        with faults:
            return make_plan(state, objective, metadata)
    elif metadata.search_space is not None:
        with faults:
            check_sampler(metadata.sampler, SearchSpace.of(metadata.search_space))
    return None


def provenance_of(state: OptimizationState, attempt: int) -> Ran:
    """Return what an attempt runs: the name, the fingerprints of code and data, and the search space.

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
    """Make an evaluator that evaluates as its strategy does; imports what it names, as far as allowed.

    token: identifies the attempt, whose evaluators share the data that a process has loaded; "" shares nothing.
    Raises OptimizationValidationError if the objective is unknown or not allowed here, or the strategy makes its own
    evaluations.
    """
    strategy = strategy_of(state, allowed_imports)
    if strategy.kind is not StrategyKind.OPTUNA:
        raise OptimizationValidationError("metadata.strategy", f"strategy {strategy.name!r} makes its own evaluations")
    objective = _objective(state, allowed_imports)
    return objective, _evaluator(objective, make_plan(state, objective), allowed_imports, token)


def search_space_of(state: OptimizationState, ran: Sequence[Ran] = ()) -> SearchSpace | None:
    """Return its own search space, or that of its objective if registered here, or that of the newest attempt of `ran`.

    Imports nothing by import path.
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
    """Turn OptimizationStrategyError into OptimizationValidationError of this field."""
    try:
        yield
    except OptimizationStrategyError as error:
        raise OptimizationValidationError(field, str(error)) from error


def strategy_of(state: OptimizationState, allowed_imports: tuple[str, ...] | None) -> ResolvedStrategy:
    """Resolve its strategy. Raises OptimizationValidationError if it is unknown or not allowed."""
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
    remote: RemoteEvaluator | None = None,
) -> Evaluator:
    # An async objective mostly waits; a sync one needs a processor to itself. The number of threads affects a library's
    # rounding, so it follows from the plan and not from the machine.
    metadata, placebo = plan.metadata, objective.placebo if plan.is_placebo else None
    token = token or secrets.token_hex(8)
    data = ObjectiveData(objective.data, token, placebo, metadata.seed or 0) if objective.takes_data else None
    score = metadata.score or ""
    function = _score_function(score, allowed_imports)
    measured = MeasuredObjective(objective.function, objective.truncatable, data, score, function, metadata.hold_out)
    return Evaluator(
        objective,
        workers=plan.trials_per_step if objective.is_async or remote else min(plan.trials_per_step, processors()),
        single_threaded=plan.trials_per_step > 1,
        measured=measured,
        timeout_seconds=metadata.trial_timeout_seconds,
        remote=remote,
    )
