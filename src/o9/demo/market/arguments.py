"""Reading a parameter set: the catalogue's search space says what each parameter may be."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

from o9.demo.catalogue import BUILTIN
from o9.demo.market.backtest import COST_BASIS_POINTS
from o9.model.errors import OptimizationValidationError


def read(objective: str, parameters: Mapping[str, Any], defaults: Mapping[str, Any]) -> dict[str, Any]:
    """`parameters` over `defaults`, each within the search space of `objective`, and `cost_basis_points`.

    Raises OptimizationValidationError, which names the parameter, for an unknown one or a value outside.
    """
    space = {**BUILTIN[objective].search_space, "cost_basis_points": {"type": "float", "low": 0.0, "high": 1000.0}}
    for name in parameters:
        if name not in space:
            raise OptimizationValidationError(f"parameters.{name}", f"unknown; there are {', '.join(space)}")
    given = {"cost_basis_points": COST_BASIS_POINTS, **defaults, **parameters}
    return {name: _checked(name, given[name], space[name]) for name in space}


def _checked(name: str, value: Any, axis: Mapping[str, Any]) -> Any:
    field = f"parameters.{name}"
    if axis["type"] == "categorical":
        if value not in axis["choices"]:
            raise OptimizationValidationError(field, f"{value!r} is not one of {axis['choices']}")
        return value
    if isinstance(value, bool) or not isinstance(value, (int, float)) or not math.isfinite(value):
        raise OptimizationValidationError(field, f"expected a finite number, got {value!r}")
    if not axis["low"] <= value <= axis["high"]:
        raise OptimizationValidationError(field, f"{value} is outside {axis['low']} to {axis['high']}")
    if axis["type"] == "float":
        return float(value)
    if value != int(value):
        raise OptimizationValidationError(field, f"{value} is not a whole number")
    return int(value)
