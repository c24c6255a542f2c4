"""Demonstration objectives: one real problem with a known optimum for each type of optimization.

Contract. Each function takes parameters by name and returns a score to maximize. The known optimum is 1.0, so that a
score of 0.9 is nine tenths of what is possible. Pure, deterministic, standard library only, microseconds each. Unknown
names are ignored, since an optimization's own `parameters` may hold notes; a missing or non-numeric parameter raises
OptimizationValidationError.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

from o9.model.errors import OptimizationValidationError


def branin(parameters: Mapping[str, Any]) -> float:
    """Parameter tuning: 1 / (1 + f - min f) of the Branin function; `x` in [-5, 10], `y` in [0, 15].

    f(x, y) = (y - 5.1/(4π²)·x² + 5/π·x - 6)² + 10·(1 - 1/(8π))·cos x + 10 has three minima of the same value,
    5/(4π) = 0.397887…, at (-π, 12.275), (π, 2.275) and (3π, 2.475). Source: Dixon and Szegő 1978.
    """
    x, y = _number(parameters, "x"), _number(parameters, "y")
    valley = y - 5.1 / (4 * math.pi**2) * x**2 + 5 / math.pi * x - 6
    excess = valley**2 + 10 * (1 - 1 / (8 * math.pi)) * (math.cos(x) + 1)
    return 1 / (1 + excess)


def hartmann6(parameters: Mapping[str, Any]) -> float:
    """Strategy optimization: the six-dimensional Hartmann function as a share of its minimum; `x1` to `x6` in [0, 1].

    f(x) = -Σᵢ αᵢ·exp(-Σⱼ Aᵢⱼ(xⱼ - Pᵢⱼ)²), six local minima, the lowest -3.32236801 at
    (0.20169, 0.150011, 0.476874, 0.275332, 0.311652, 0.6573). Source: Hartman 1973; Dixon and Szegő 1978.
    """
    point = [_number(parameters, f"x{i}") for i in range(1, 7)]
    depth = sum(
        alpha * math.exp(-sum(a * (x - p) ** 2 for a, x, p in zip(row, point, centre, strict=True)))
        for alpha, row, centre in zip(_HARTMANN_ALPHA, _HARTMANN_A, _HARTMANN_P, strict=True)
    )
    return depth / HARTMANN6_DEPTH


def tangency_portfolio(parameters: Mapping[str, Any]) -> float:
    """Portfolio optimization: Sharpe ratio of five weights as a share of the highest attainable one.

    `stocks`, `bonds`, `credit`, `gold` and `property` are in [0.01, 1] and are scaled to sum to one. Expected excess
    returns μ, volatilities and correlations are fixed (annual, in the constants below). The best portfolio is known
    in closed form: weights in proportion to Σ⁻¹μ, Sharpe ratio √(μᵀΣ⁻¹μ). Source: Tobin 1958; Merton 1972.
    """
    raw = [_number(parameters, name) for name in ASSETS]
    if not all(weight >= 0 for weight in raw) or sum(raw) <= 0:
        raise OptimizationValidationError("parameters", "the five weights must be at least 0, and one of them above 0")
    total = sum(raw)
    weights = [weight / total for weight in raw]
    variance = _dot(weights, _times(_COVARIANCE, weights))
    return _dot(weights, _MU) / math.sqrt(variance) / _MAXIMUM_SHARPE


def minimum_variance_hedge(parameters: Mapping[str, Any]) -> float:
    """Risk optimization: how much of the removable variance two hedges remove; `equity` and `rates` in [-1, 3].

    The hedged book is r - equity·f₁ - rates·f₂. Its variance is least at cov(f, f)⁻¹·cov(f, r),
    where the score is 1.0; unhedged it is 0.0; a hedge that adds risk scores below zero. Source: Johnson 1960.
    """
    hedge = [_number(parameters, "equity"), _number(parameters, "rates")]
    removed = 2 * _dot(hedge, _HEDGE_COVARIANCE) - _dot(hedge, _times(_FUTURES_COVARIANCE, hedge))
    return removed / _REMOVABLE_VARIANCE


def ackley(parameters: Mapping[str, Any]) -> float:
    """Performance optimization: 1 - f / 20 of the Ackley function; `x1`, `x2`, `x3` in [-5, 5].

    f(x) = -20·exp(-0.2·√(mean zᵢ²)) - exp(mean cos 2πzᵢ) + 20 + e with z = x - ACKLEY_OPTIMUM, so that the one best
    point, among many local ones, is not the centre where some samplers begin. Source: Ackley 1987.
    """
    z = [_number(parameters, name) - best for name, best in ACKLEY_OPTIMUM.items()]
    slope = 20 * (1 - math.exp(-0.2 * math.sqrt(sum(v * v for v in z) / len(z))))
    ripple = math.e - math.exp(sum(math.cos(2 * math.pi * v) for v in z) / len(z))
    return 1 - (slope + ripple) / 20


def worker_fleet(parameters: Mapping[str, Any]) -> float:
    """System optimization: least possible cost of a fleet of workers over the cost of this one.

    `workers` (1 to 60) and `size` (small, medium or large) are an M/M/c queue: 40 jobs an hour arrive, and each hour
    that a job spends waiting or running costs 2.0. Cost an hour = workers·price + 2.0·L, L the mean number of jobs
    in the system by Erlang's C formula. A fleet that cannot keep up has no finite cost and scores 0.0. The cheapest
    fleet is found by enumeration. Source: Erlang 1917; Gross and Harris 1998, section 2.3.
    """
    workers = _number(parameters, "workers")
    size = parameters.get("size")
    if size not in WORKER_SIZES:
        raise OptimizationValidationError("parameters.size", f"{size!r} is not one of {', '.join(WORKER_SIZES)}")
    if workers != int(workers) or workers < 1:
        raise OptimizationValidationError("parameters.workers", f"{workers} is not a whole number of at least 1")
    return _LEAST_FLEET_COST / fleet_cost(int(workers), size)


def fleet_cost(workers: int, size: str) -> float:
    """The cost per hour of `workers` machines of a size in WORKER_SIZES; inf if they cannot keep up."""
    jobs_an_hour, price = WORKER_SIZES[size]
    offered = ARRIVALS_AN_HOUR / jobs_an_hour
    if offered >= workers:
        return math.inf
    blocking = 1.0  # Erlang B by its recursion, which unlike a^c / c! cannot overflow
    for servers in range(1, workers + 1):
        blocking = offered * blocking / (servers + offered * blocking)
    waiting = blocking / (1 - offered / workers * (1 - blocking))
    in_system = waiting * offered / (workers - offered) + offered
    return workers * price + DELAY_COST * in_system


def _number(parameters: Mapping[str, Any], name: str) -> float:
    value = parameters.get(name)
    if isinstance(value, bool) or not isinstance(value, (int, float)) or not math.isfinite(value):
        raise OptimizationValidationError(f"parameters.{name}", f"expected a finite number, got {value!r}")
    return float(value)


def _dot(a: list[float], b: list[float]) -> float:
    return sum(x * y for x, y in zip(a, b, strict=True))


def _times(matrix: list[list[float]], vector: list[float]) -> list[float]:
    return [_dot(row, vector) for row in matrix]


_HARTMANN_ALPHA = (1.0, 1.2, 3.0, 3.2)
_HARTMANN_A = (
    (10.0, 3.0, 17.0, 3.5, 1.7, 8.0),
    (0.05, 10.0, 17.0, 0.1, 8.0, 14.0),
    (3.0, 3.5, 1.7, 10.0, 17.0, 8.0),
    (17.0, 8.0, 0.05, 10.0, 0.1, 14.0),
)
_HARTMANN_P = (
    (0.1312, 0.1696, 0.5569, 0.0124, 0.8283, 0.5886),
    (0.2329, 0.4135, 0.8307, 0.3736, 0.1004, 0.9991),
    (0.2348, 0.1451, 0.3522, 0.2883, 0.3047, 0.6650),
    (0.4047, 0.8828, 0.8732, 0.5743, 0.1091, 0.0381),
)
HARTMANN6_DEPTH = 3.3223680114155156

ASSETS = ("stocks", "bonds", "credit", "gold", "property")
_MU = [0.055, 0.018, 0.028, 0.020, 0.040]
_VOLATILITY = [0.16, 0.05, 0.08, 0.15, 0.14]
_CORRELATION = [
    [1.00, -0.10, 0.45, 0.05, 0.55],
    [-0.10, 1.00, 0.30, 0.15, 0.05],
    [0.45, 0.30, 1.00, 0.10, 0.40],
    [0.05, 0.15, 0.10, 1.00, 0.10],
    [0.55, 0.05, 0.40, 0.10, 1.00],
]
_COVARIANCE = [
    [rho * a * b for rho, b in zip(row, _VOLATILITY, strict=True)]
    for row, a in zip(_CORRELATION, _VOLATILITY, strict=True)
]
_TANGENCY = [
    1.9336235662988892,
    7.166763566011422,
    0.9106135265570916,
    0.33655772952112484,
    0.45321788694507903,
]  # Σ⁻¹μ
_MAXIMUM_SHARPE = math.sqrt(_dot(_MU, _TANGENCY))
TANGENCY_WEIGHTS = {name: weight / sum(_TANGENCY) for name, weight in zip(ASSETS, _TANGENCY, strict=True)}

# Annual covariances: of the two futures (equity index, government bonds), and of each with the book.
_FUTURES_COVARIANCE = [[0.0324, -0.0012], [-0.0012, 0.0036]]
_HEDGE_COVARIANCE = [0.0270, 0.0020]
_BEST_HEDGE = [0.8645833333333334, 0.8437500000000001]  # cov(f, f)⁻¹·cov(f, r)
_REMOVABLE_VARIANCE = _dot(_HEDGE_COVARIANCE, _BEST_HEDGE)
BEST_HEDGE = {"equity": _BEST_HEDGE[0], "rates": _BEST_HEDGE[1]}

ACKLEY_OPTIMUM = {"x1": 1.25, "x2": -2.5, "x3": 0.75}

ARRIVALS_AN_HOUR = 40.0
DELAY_COST = 2.0
MAXIMUM_WORKERS = 60
WORKER_SIZES = {"small": (1.0, 0.6), "medium": (2.2, 1.1), "large": (5.0, 2.9)}  # jobs an hour, price an hour
_LEAST_FLEET_COST, *BEST_FLEET = min(
    (fleet_cost(workers, size), workers, size) for size in WORKER_SIZES for workers in range(1, MAXIMUM_WORKERS + 1)
)
