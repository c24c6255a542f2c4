"""The plan of the built-in strategy: `state.metadata`, completed by the objective's defaults and checked.

Contract. Pure: nothing is imported, evaluated or started. Invalid metadata raise OptimizationValidationError, which
names the dotted field and the remedy.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from importlib.util import find_spec
from typing import Any

from o9.model.errors import Faults, OptimizationValidationError
from o9.model.hold_out import FIELD as HOLD_OUT
from o9.model.optimization import OptimizationState
from o9.model.search_space import CategoricalParameter, SearchSpace
from o9.model.specification import Direction, Metadata, WarmStart, read_metadata
from o9.model.strategy import BUILT_IN_STRATEGIES
from o9.strategies.registry import Objective
from o9.text.format import value_text
from o9.text.suggest import suggestion
from o9.workers.scores import SCORES

BLIND_SAMPLERS = frozenset({"random", "grid", "qmc"})  # they ignore results
DEFAULT_TRIALS = 100
LARGEST_DEFAULT_GRID = 1_000_000


@dataclass(frozen=True)
class Plan:
    """The other fields take the objective's defaults where `metadata` has no value.

    total_trials: the number of all parameter sets, if the sampler has a limited number. first_trial: the parameters
    fixed in the first trial; the sampler draws the others.
    """

    metadata: Metadata
    space: SearchSpace
    direction: Direction
    trials_per_step: int
    total_steps: int
    total_trials: int | None = None
    first_trial: Mapping[str, Any] = field(default_factory=dict)

    @property
    def is_placebo(self) -> bool:
        """Whether it searches data whose edge was destroyed."""
        return self.metadata.placebo_of is not None


def make_plan(state: OptimizationState, objective: Objective, metadata: Metadata | None = None) -> Plan:
    """Make the plan of the state's metadata and the objective's defaults. `metadata`: if already read."""
    metadata = metadata or read_metadata(state.metadata)
    given = metadata.model_fields_set
    trials_per_step = metadata.trials_per_step if "trials_per_step" in given else objective.trials_per_step
    direction = metadata.direction
    if "direction" not in given and objective.direction == "minimize":
        direction = "minimize"
    faults = Faults()
    with faults:
        space = _search_space(metadata, objective)
        check_sampler(metadata.sampler, space)
        total_trials = space.grid_size() if metadata.sampler == "grid" else None
        total_steps = _total_steps(state.total_steps, objective, trials_per_step, total_trials)
    what = f"objective {objective.name!r}"
    if metadata.hold_out is not None and objective.gives_value and not objective.truncatable:
        problem = f"{what} returns a value that may use the held-out periods, and is not truncatable; leave this out"
        faults.add(OptimizationValidationError(HOLD_OUT, problem))
    if metadata.score in SCORES and direction == "minimize":
        problem = f"the score {metadata.score!r} is maximized; leave metadata.direction out"
        faults.add(OptimizationValidationError("metadata.direction", problem))
    if metadata.warm_start and metadata.sampler == "grid":
        problem = "the grid sampler tries all points in a fixed order; leave this out"
        faults.add(OptimizationValidationError("metadata.warm_start", problem))
    if metadata.placebo_of is not None and not objective.takes_data:
        problem = (
            f"{what} does not take its data, so no data can be resampled: declare @objective(…, data=load) above "
            "def function(parameters, data), where load() returns prices or returns"
        )
        faults.add(OptimizationValidationError("metadata.placebo_of", problem))
    faults.refuse()
    first_trial = space.within(metadata.warm_start_from.parameters) if metadata.warm_start_from else {}
    return Plan(metadata, space, direction, trials_per_step, total_steps, total_trials, first_trial)


def warm_start_warning(begun: WarmStart, plan: Plan) -> str:
    """Say which parameters of the warm start are outside the present search space; "" if all are inside."""
    outside = {name: value for name, value in begun.parameters.items() if name not in plan.first_trial}
    drawn = [name for name in plan.space.names if name not in plan.first_trial]
    parts = [f"{name} = {value_text(value)} is outside the search space" for name, value in outside.items()]
    parts += [f"the sampler draws {name}" for name in drawn]
    return f"warm start from {begun.optimization_id}: {'; '.join(parts)}" if parts else ""


def is_adaptive(strategy: str, sampler: str) -> bool:
    """Whether a search chooses trials by the results of others, or may do so.

    strategy, sampler: as in the metadata; "" for none.
    """
    return strategy not in ("", *BUILT_IN_STRATEGIES) or sampler not in BLIND_SAMPLERS


def _search_space(metadata: Metadata, objective: Objective) -> SearchSpace:
    if metadata.search_space is None and objective.search_space is None:
        raise OptimizationValidationError(
            "metadata.search_space",
            f"it is missing, and objective {objective.name!r} declares none; give the parameters to search",
        )
    if metadata.search_space is None:
        return SearchSpace.parse(objective.search_space, f"@objective({objective.name!r}).search_space")
    space, faults = SearchSpace.of(metadata.search_space), Faults()
    for name in space.names:
        if objective.takes is not None and name not in objective.takes:
            problem = f"objective {objective.name!r} takes no such parameter{suggestion(name, objective.takes)}"
            faults.add(OptimizationValidationError(f"metadata.search_space.{name}", problem))
    faults.refuse()
    return space


def check_sampler(sampler: str, space: SearchSpace) -> None:
    """Raise OptimizationValidationError if the sampler cannot search this space."""
    if sampler == "gp" and find_spec("torch") is None:
        raise OptimizationValidationError(
            "metadata.sampler", "gp needs PyTorch, which is not installed: pip install 'prefect-o9[gp]'"
        )
    if sampler != "cmaes":
        return
    # Optuna's CMA-ES silently samples at random what is not a number, and everything if only one parameter varies.
    chosen = [parameter.name for parameter in space.parameters if isinstance(parameter, CategoricalParameter)]
    if chosen:
        raise OptimizationValidationError(
            "metadata.sampler", f"cmaes searches only numbers, and {', '.join(chosen)} is categorical; use tpe"
        )
    varied = [parameter.name for parameter in space.parameters if parameter.grid_size() != 1]
    if len(varied) < 2:
        raise OptimizationValidationError(
            "metadata.sampler", f"cmaes needs two parameters that vary, got {varied or 'none'}; use tpe"
        )


def _total_steps(requested: int, objective: Objective, trials_per_step: int, total_trials: int | None) -> int:
    if requested > 0:
        return requested
    if total_trials is None:
        return objective.total_steps or math.ceil(DEFAULT_TRIALS / trials_per_step)
    if total_trials > LARGEST_DEFAULT_GRID:
        raise OptimizationValidationError(
            "total_steps", f"the grid has {total_trials:,} points; give the number of steps, or make the grid coarser"
        )
    return math.ceil(total_trials / trials_per_step)
