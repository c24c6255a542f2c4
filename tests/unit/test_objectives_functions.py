"""The demonstration objectives reach the optimum they claim, there and nowhere higher."""

from __future__ import annotations

import math
import random
import subprocess
import sys
from typing import Any

import pytest

from o9.demo import functions
from o9.demo.catalogue import BUILTIN, DEMONSTRATIONS, demonstration_warning
from o9.model.errors import OptimizationStrategyError, OptimizationValidationError
from o9.model.states import OptimizationType
from o9.strategies.registry import resolve_objective

HARTMANN_BEST = (0.20168951, 0.15001069, 0.47687397, 0.27533243, 0.31165162, 0.65730053)
OPTIMA: dict[str, list[dict[str, Any]]] = {
    "branin": [{"x": x, "y": y} for x, y in ((-math.pi, 12.275), (math.pi, 2.275), (3 * math.pi, 2.475))],
    "hartmann6": [{f"x{i}": x for i, x in enumerate(HARTMANN_BEST, 1)}],
    "tangency_portfolio": [functions.TANGENCY_WEIGHTS],
    "minimum_variance_hedge": [functions.BEST_HEDGE],
    "ackley": [functions.ACKLEY_OPTIMUM],
    "worker_fleet": [{"workers": functions.BEST_FLEET[0], "size": functions.BEST_FLEET[1]}],
}


def draw(space: Any, generator: random.Random) -> dict[str, Any]:
    """One uniform point of a search space."""
    point: dict[str, Any] = {}
    for name, axis in space.items():
        if axis["type"] == "categorical":
            point[name] = generator.choice(axis["choices"])
        elif axis["type"] == "int":
            point[name] = generator.randrange(axis["low"], axis["high"] + 1, axis.get("step", 1))
        else:
            point[name] = generator.uniform(axis["low"], axis["high"])
    return point


def inside(point: dict[str, Any], space: Any) -> bool:
    return all(
        point[name] in axis["choices"] if axis["type"] == "categorical" else axis["low"] <= point[name] <= axis["high"]
        for name, axis in space.items()
    )


def test_every_type_has_a_demonstration() -> None:
    assert set(DEMONSTRATIONS) == set(OptimizationType)
    assert set(DEMONSTRATIONS.values()) == set(OPTIMA)


@pytest.mark.parametrize("name", list(OPTIMA))
def test_the_known_optimum_scores_one(name: str) -> None:
    for point in OPTIMA[name]:
        assert resolve_objective(name).function(point) == pytest.approx(1.0, abs=1e-12)


@pytest.mark.parametrize("name", ["branin", "hartmann6", "minimum_variance_hedge", "ackley", "worker_fleet"])
def test_the_optimum_lies_in_the_search_space(name: str) -> None:
    assert all(inside(point, BUILTIN[name].search_space) for point in OPTIMA[name])


def test_the_tangency_weights_lie_in_the_search_space_once_scaled() -> None:
    largest = max(functions.TANGENCY_WEIGHTS.values())
    scaled = {name: weight / largest for name, weight in functions.TANGENCY_WEIGHTS.items()}
    assert inside(scaled, BUILTIN["tangency_portfolio"].search_space)


@pytest.mark.parametrize("name", list(OPTIMA))
def test_nothing_in_the_search_space_scores_higher(name: str) -> None:
    generator = random.Random(7)
    scores = [resolve_objective(name).function(draw(BUILTIN[name].search_space, generator)) for _ in range(500)]
    assert max(scores) <= 1.0 + 1e-12
    assert len(set(scores)) > 50


def test_published_values() -> None:
    # Branin at its minima is 5 / (4 pi) = 0.397887; the origin gives 55.602113 (both: Dixon and Szegoe).
    assert functions.branin({"x": 0, "y": 0}) == pytest.approx(1 / (1 + 55.602113 - 0.397887), rel=1e-6)
    assert pytest.approx(3.32236801, abs=1e-8) == functions.HARTMANN6_DEPTH


def test_erlang_c_against_a_published_case() -> None:
    # Gross and Harris: M/M/2 has L = a + a^3 / (4 - a^2); 40 an hour on two servers of 25 an hour: a = 1.6.
    functions_sizes = dict(functions.WORKER_SIZES)
    functions.WORKER_SIZES["test"] = (25.0, 0.0)
    try:
        expected = functions.DELAY_COST * (1.6 + 1.6**3 / (4 - 1.6**2))
        assert functions.fleet_cost(2, "test") == pytest.approx(expected, rel=1e-12)
    finally:
        functions.WORKER_SIZES.clear()
        functions.WORKER_SIZES.update(functions_sizes)


def test_a_fleet_that_cannot_keep_up_scores_nothing() -> None:
    assert functions.worker_fleet({"workers": 8, "size": "large"}) == 0.0


@pytest.mark.parametrize("value", [None, "1", True, math.nan, math.inf])
def test_a_parameter_that_is_no_number_is_named(value: Any) -> None:
    with pytest.raises(OptimizationValidationError, match=r"parameters\.y"):
        functions.branin({"x": 0.0, "y": value})


def test_a_foreign_parameter_is_ignored() -> None:
    assert functions.branin({"x": 0.0, "y": 0.0, "learning_rate": 0.01}) == functions.branin({"x": 0.0, "y": 0.0})


def test_an_unknown_name_lists_the_known_ones() -> None:
    with pytest.raises(OptimizationStrategyError, match="branin"):
        resolve_objective("brannin")


def test_the_warning_names_the_objective_and_the_remedy() -> None:
    for name in DEMONSTRATIONS.values():
        text = demonstration_warning(name)
        assert f"'{name}'" in text
        assert "'objective': 'package.module:function'" in text


@pytest.mark.slow
def test_reading_the_catalogue_imports_nothing_heavy() -> None:
    heavy = "{'numpy', 'scipy', 'pandas', 'skfolio', 'o9.demo.functions'}"
    code = f"import o9.demo.catalogue, sys; assert not {heavy} & set(sys.modules)"
    subprocess.run([sys.executable, "-c", code], check=True)
