"""What `state.metadata` asks the built-in strategy for, read and checked once.

Contract. Pure: nothing is imported, evaluated or started. Every refusal is an OptimizationValidationError that names
the dotted field and the remedy.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from importlib.util import find_spec
from typing import Any, Literal

from o9.model.errors import Faults, OptimizationValidationError
from o9.model.optimization import OptimizationState
from o9.strategies.parameters import CategoricalParameter, is_int
from o9.strategies.registry import Objective
from o9.strategies.search_space import SearchSpace
from o9.text.suggest import hint_of
from o9.workers.hold_out import FIELD as HOLD_OUT
from o9.workers.hold_out import HoldOut, parse_hold_out
from o9.workers.scores import SCORES

SAMPLERS = ("tpe", "random", "grid", "qmc", "cmaes", "gp", "nsga2")
BLIND_SAMPLERS = frozenset({"random", "grid", "qmc"})  # those that do not look at results
DIRECTIONS = ("maximize", "minimize")
DEFAULT_TRIALS = 100
LARGEST_SEED = 2**63 - 1  # what every store's integer holds
LARGEST_DEFAULT_GRID = 1_000_000
LARGEST_TRIALS_PER_STEP = 10_000


@dataclass(frozen=True)
class Plan:
    """`seed` is None where none was given. `total_trials` is set where the sampler runs out of sets to try.

    score: what makes a value of returns; "" where nothing was asked for. is_placebo: its data are without an edge.
    """

    space: SearchSpace
    direction: Literal["minimize", "maximize"]
    sampler: str
    seed: int | None
    trials_per_step: int
    total_steps: int
    total_trials: int | None
    family: str | None
    hold_out: HoldOut | None = None
    score: str = ""
    is_placebo: bool = False
    trial_timeout_seconds: float | None = None


def make_plan(state: OptimizationState, objective: Objective) -> Plan:
    """Read the state's metadata, with the objective's own defaults beneath."""
    metadata = state.metadata
    faults = Faults()
    with faults:
        space = _search_space(metadata.get("search_space"), objective)
    with faults:
        sampler = _one_of(metadata.get("sampler", "tpe"), SAMPLERS, "metadata.sampler")
    with faults:
        trials_per_step = _trials_per_step(metadata.get("trials_per_step", objective.trials_per_step))
    with faults:
        direction = _direction(metadata.get("direction", objective.direction or "maximize"))
    with faults:
        seed = _seed(metadata.get("seed"))
    with faults:
        family = _family(metadata.get("family"))
    with faults:
        hold_out = _hold_out(metadata.get("hold_out"), objective)
    with faults:
        score = _score(metadata.get("score"), metadata.get("direction", objective.direction))
    with faults:
        is_placebo = _is_placebo(metadata.get("placebo_of"), objective)
    faults.refuse()
    _check_sampler(sampler, space)
    total_trials = space.grid_size() if sampler == "grid" else None
    return Plan(
        space=space,
        direction=direction,
        sampler=sampler,
        seed=seed,
        trials_per_step=trials_per_step,
        total_steps=_total_steps(state.total_steps, objective, trials_per_step, total_trials),
        total_trials=total_trials,
        family=family,
        hold_out=hold_out,
        score=score,
        is_placebo=is_placebo,
        trial_timeout_seconds=metadata.get("trial_timeout_seconds"),
    )


def is_adaptive(strategy: str, sampler: str) -> bool:
    """Does a search choose trials by the results of others? Yes where it is not known that it does not.

    strategy, sampler: as the metadata name them; "" for none.
    """
    return strategy not in ("", "default", "optuna") or sampler not in BLIND_SAMPLERS


def _direction(value: Any) -> Literal["minimize", "maximize"]:
    _one_of(value, DIRECTIONS, "metadata.direction")
    return "maximize" if value == "maximize" else "minimize"


def _search_space(raw: Any, objective: Objective) -> SearchSpace:
    if raw is not None:
        return SearchSpace.parse(raw)
    if objective.search_space is None:
        raise OptimizationValidationError(
            "metadata.search_space",
            f"missing, and objective {objective.name!r} brings none; give the parameters to search",
        )
    return SearchSpace.parse(objective.search_space, f"@objective({objective.name!r}).search_space")


def _check_sampler(sampler: str, space: SearchSpace) -> None:
    if sampler == "gp" and find_spec("torch") is None:
        raise OptimizationValidationError(
            "metadata.sampler", "gp needs PyTorch, which is not installed: pip install 'prefect-o9[gp]'"
        )
    if sampler == "cmaes":
        _check_cmaes(space)


def _check_cmaes(space: SearchSpace) -> None:
    """It samples at random, without a word, what is no number, and everything where there is but one number."""
    chosen = [parameter.name for parameter in space.parameters if isinstance(parameter, CategoricalParameter)]
    if chosen:
        raise OptimizationValidationError(
            "metadata.sampler", f"cmaes searches numbers alone, and {', '.join(chosen)} is categorical; take tpe"
        )
    varied = [parameter.name for parameter in space.parameters if parameter.grid_size() != 1]
    if len(varied) < 2:
        raise OptimizationValidationError(
            "metadata.sampler", f"cmaes needs two parameters that vary, and there is {varied or 'none'}; take tpe"
        )


def _trials_per_step(value: Any) -> int:
    if not is_int(value) or not 1 <= value <= LARGEST_TRIALS_PER_STEP:
        raise OptimizationValidationError(
            "metadata.trials_per_step", f"expected a whole number from 1 to {LARGEST_TRIALS_PER_STEP:,}, got {value!r}"
        )
    return int(value)


def _seed(value: Any) -> int | None:
    if value is None:
        return None
    if not is_int(value) or not 0 <= value <= LARGEST_SEED:
        raise OptimizationValidationError(
            "metadata.seed", f"expected a whole number from 0 to 2**63 - 1, or none at all, got {value!r}"
        )
    return int(value)


def _total_steps(value: Any, objective: Objective, trials_per_step: int, total_trials: int | None) -> int:
    if not is_int(value) or value < 0:
        raise OptimizationValidationError(
            "total_steps", f"expected a whole number, 0 for the strategy's own default, got {value!r}"
        )
    if value > 0:
        return int(value)
    if total_trials is None:
        return objective.total_steps or math.ceil(DEFAULT_TRIALS / trials_per_step)
    if total_trials > LARGEST_DEFAULT_GRID:
        raise OptimizationValidationError(
            "total_steps", f"the grid has {total_trials:,} points; give the number of steps, or make the grid coarser"
        )
    return math.ceil(total_trials / trials_per_step)


def _hold_out(value: Any, objective: Objective) -> HoldOut | None:
    hold_out = parse_hold_out(value)
    if hold_out is not None and objective.gives_value and not objective.truncatable:
        raise OptimizationValidationError(
            HOLD_OUT,
            f"objective {objective.name!r} gives a value that may know the periods held out, and cannot be truncated: "
            "leave metadata.hold_out out",
        )
    return hold_out


def _is_placebo(value: Any, objective: Objective) -> bool:
    if value is not None and not objective.takes_data:
        raise OptimizationValidationError(
            "metadata.placebo_of",
            f"objective {objective.name!r} is not given its data, so that they cannot be resampled: declare "
            "@objective(…, data=load) above def function(parameters, data), where load() gives prices or returns",
        )
    return value is not None


def _score(value: Any, direction: Any) -> str:
    if value is None:
        return ""
    if not isinstance(value, str) or not value:
        raise OptimizationValidationError("metadata.score", f"expected the name of a score, got {value!r:.60}")
    if value in SCORES and direction == "minimize":
        raise OptimizationValidationError(
            "metadata.direction", f"more is better of the score {value!r}; leave metadata.direction out"
        )
    return value


def _family(value: Any) -> str | None:
    if value is not None and (not isinstance(value, str) or not value.strip()):
        raise OptimizationValidationError("metadata.family", f"expected a name that is not empty, got {value!r}")
    return value


def _one_of(value: Any, known: tuple[str, ...], field: str) -> str:
    if value not in known:
        raise OptimizationValidationError(field, f"{value!r} is not one of {', '.join(known)}{hint_of(value, known)}")
    return str(value)
