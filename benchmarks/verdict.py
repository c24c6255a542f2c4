"""How often the verdict is wrong, both ways. `python benchmarks/verdict.py [--families N]`

Simulated families of 200 strategies over 2,520 days (ten years), then 504 days that had no part in the choice. Each is
judged by the whole rule, `o9.health.verdict.judge`, as a report does it. In half of them no strategy has an edge: every
"real" is a false alarm, at most 5 of 100. In the others one has a true annual Sharpe ratio of 1.5: at least 85 of 100
are to be found. Both within two standard errors of the simulation.

- normal: independent normal returns
- fat-tailed: independent, Student's t with 4 degrees of freedom
- autocorrelated: independent strategies, each day's return keeps 0.2 of the day before
- correlated: normal, any two strategies correlate at 0.5

The true Sharpe ratio is that of yearly returns: the daily mean over the long-run deviation (Lo 2002), which is the
ordinary one but for the autocorrelated. Seeded: the same arguments give the same table. Exit code 1 where missed.
"""

from __future__ import annotations

import argparse
import math
import sys
import time
from collections.abc import Callable
from typing import Any

import numpy as np
from measure import machine
from scipy.signal import lfilter

from o9.health.evidence import examine
from o9.health.grades import Grade
from o9.health.unknown import Unknown
from o9.health.verdict import DEFLATED_LEVEL, FAMILY_LEVEL, judge

DAYS, FRESH_DAYS, STRATEGIES, DAYS_A_YEAR = 2_520, 504, 200, 252
DAILY_VOLATILITY = 0.01
FALSE_ALARMS_AT_MOST, FOUND_AT_LEAST, EDGE = 0.05, 0.85, 1.5
STANDARD_ERRORS = 2.0
KEPT, WARM_UP = 0.2, 50
CORRELATION = 0.5
FREEDOM = 4

Family = Callable[[np.random.Generator], Any]


def normal(rng: np.random.Generator) -> Any:
    return rng.standard_normal((DAYS + FRESH_DAYS, STRATEGIES))


def fat_tailed(rng: np.random.Generator) -> Any:
    return rng.standard_t(FREEDOM, (DAYS + FRESH_DAYS, STRATEGIES)) * math.sqrt((FREEDOM - 2) / FREEDOM)


def autocorrelated(rng: np.random.Generator) -> Any:
    """Of long-run deviation one."""
    shocks = rng.standard_normal((WARM_UP + DAYS + FRESH_DAYS, STRATEGIES))
    return lfilter([1.0 - KEPT], [1.0, -KEPT], shocks, axis=0)[WARM_UP:]


def correlated(rng: np.random.Generator) -> Any:
    own = rng.standard_normal((DAYS + FRESH_DAYS, STRATEGIES))
    common = rng.standard_normal((DAYS + FRESH_DAYS, 1))
    return math.sqrt(CORRELATION) * common + math.sqrt(1 - CORRELATION) * own


FAMILIES: dict[str, Family] = {
    "normal": normal,
    "fat-tailed": fat_tailed,
    "autocorrelated": autocorrelated,
    "correlated": correlated,
}


def judged(family: Family, edge: float, seed: list[int]) -> dict[str, bool]:
    """One family: what the whole rule says, and two of its legs by themselves."""
    rng = np.random.default_rng(seed)
    returns = family(rng) * DAILY_VOLATILITY
    planted = int(rng.integers(STRATEGIES))
    returns[:, planted] += edge / math.sqrt(DAYS_A_YEAR) * DAILY_VOLATILITY
    past, future = returns[:DAYS], returns[DAYS:]
    best = int((past.mean(axis=0) / past.std(axis=0)).argmax())
    evidence = examine(
        list(past.T), out_of_sample=future[:, best], periods_per_year=DAYS_A_YEAR, market_neutral=True, seed=seed[-1]
    )
    verdict = judge(evidence).grade
    p_value, ratio = evidence.p_value, evidence.deflated
    return {
        "confirmed": verdict is Grade.CONFIRMED,
        "unproven": verdict is Grade.UNPROVEN,
        "lost": verdict is Grade.LOST,
        "family test": not isinstance(p_value, Unknown) and p_value <= FAMILY_LEVEL,
        "DSR": not isinstance(ratio, Unknown) and ratio > DEFLATED_LEVEL,
    }


def measure(name: str, edge: float, families: int, seed: int) -> bool:
    """Judge so many families, print their line, and say whether the target is met."""
    # The same noise with and without the edge: the two lines of a kind differ by the edge alone.
    results = [judged(FAMILIES[name], edge, [seed, list(FAMILIES).index(name), i]) for i in range(families)]
    share = {key: sum(result[key] for result in results) / families for key in results[0]}
    rate = share["confirmed"]
    met, target = held(edge, rate, families)
    error = math.sqrt(rate * (1 - rate) / families)
    figures = " ".join(f"{share[key]:11.1%}" for key in ("unproven", "lost", "family test", "DSR"))
    print(f"{name:15} {edge:5.1f} {rate:8.1%} ±{error:5.1%} {figures}   {target}", flush=True)
    return met


def held(edge: float, rate: float, families: int) -> tuple[bool, str]:
    """Is the target met, within the simulation's error, and in words; other edges than 0 and 1.5 have none."""
    if edge not in (0.0, EDGE):
        return True, ""
    wanted = FOUND_AT_LEAST if edge else FALSE_ALARMS_AT_MOST
    allowance = STANDARD_ERRORS * math.sqrt(wanted * (1 - wanted) / families)
    met = rate >= wanted - allowance if edge else rate <= wanted + allowance
    return met, f"{'at least' if edge else 'at most'} {wanted:.0%} {'met' if met else 'MISSED'}"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--families", type=int, default=200, help="of each kind, with and without an edge")
    parser.add_argument("--edges", type=float, nargs="+", default=[0.0, EDGE], help="true annual Sharpe ratios")
    parser.add_argument("--kinds", nargs="+", choices=FAMILIES, default=list(FAMILIES))
    parser.add_argument("--seed", type=int, default=0)
    chosen = parser.parse_args()
    print(f"{chosen.families} families of {STRATEGIES} strategies over {DAYS:,} days, a line; ± one standard error")
    print(f"{'returns':15} {'edge':>5} {'confirmed':>9} {'unproven':>16} {'lost':>11} {'family test':>11} {'DSR':>4}")
    began = time.perf_counter()
    met = [measure(name, edge, chosen.families, chosen.seed) for name in chosen.kinds for edge in chosen.edges]
    print(f"\n{machine()}. {time.perf_counter() - began:.0f} s. {'All targets met.' if all(met) else 'Missed.'}")
    sys.exit(0 if all(met) else 1)


if __name__ == "__main__":
    main()
