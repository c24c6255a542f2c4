"""How often the verdict is wrong, in both directions, and how good its forecast is. `python benchmarks/verdict.py`

Searches whose truth is known, each judged by the product's own rule, `o9.health.verdict.judge`, as a report does it:
ten years in sample, then five (and two) held out, then five live. An hour on one core; `--parts NAME` measures some,
`--short` a few in seconds. Results are kept in `build/verdict`, and used again as long as their code is unchanged. So
an interrupted run continues.

- fixed: sets of worthless strategies, as random, grid and quasi-random searches try them
- timing: random timings of a rising market, simulated and on real prices, with and without a baseline
- adaptive: the product's samplers, which follow results, over spaces without an edge
- edges: one of 200 has an edge, which persists or dies; all have a little; premiums before an unseen crash
- prices: rules on real prices, chosen before 2013, realised after
- placebo: the p-values of placebo runs of worthless searches, which should be uniform

The years after the sample are drawn several times for each search, so that an error rate is the mean over searches of
a share, with the standard error of this mean. Seeded: the same arguments give the same tables. The exit code is 1 if a
target is missed by more than two standard errors.
"""

from __future__ import annotations

import argparse
import ast
import hashlib
import inspect
import json
import math
import pickle
import sys
import time
import zlib
from collections import defaultdict
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from functools import lru_cache
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import verdict_families as families
import verdict_placebo
import verdict_prices as prices
import verdict_rivals
from measure import machine
from verdict_families import HELD, IN_SAMPLE, LIVE, SHORT_HELD, Search, family, linear, nonlinear, searched, timing
from verdict_rivals import RIVALS, InSample, interval
from verdict_tables import (
    SPANS,
    Figures,
    Measured,
    Row,
    forecasts_table,
    grades_table,
    of,
    pooled,
    quarters_table,
    rate,
    targets,
)

import o9.health.placebo
import o9.health.statistics.evidence
import o9.health.statistics.forecast
import o9.health.statistics.moments
import o9.health.statistics.overfitting
import o9.health.statistics.spa
import o9.health.verdict
import o9.workers.resampling
from o9.health.grades import Grade
from o9.health.statistics.evidence import examine, subtract
from o9.health.statistics.moments import Moments, moments
from o9.health.unknown import Unknown
from o9.health.verdict import WITH_HOLD_OUT, Evidence, judge

RESULTS = Path("build/verdict")
WORTHLESS_AT_MOST, ADAPTIVE_AT_MOST, DEAD_AT_MOST, FOUND_AT_LEAST = 0.02, 0.05, 0.05, 0.9
RULES = 135  # families of rules on real prices
SHORT_SHARE = 0.03
SHORT = (
    "normal",
    "simulated, no baseline",
    "cmaes, linear, 10 parameters, 200 trials",
    "edge 1.5 that dies",
    "edge 1.5 that persists",
)


@dataclass(frozen=True)
class After:
    """The chosen trial's returns over its baseline in one draw of the future: held out, the first of it, and live."""

    held: Moments | Unknown
    short: Moments | Unknown
    live: float | None


@dataclass(frozen=True)
class Case:
    evidence: Evidence
    parameters: int | None
    after: tuple[After, ...]


def rows() -> list[Row]:
    """All truths that are judged."""
    return [
        _worthless("fixed", "normal", family(families.normal)),
        _worthless("fixed", "Student's t, 3 degrees", family(families.fat_tailed)),
        _worthless("fixed", "keeps 0.1 of the week before", family(families.keeping(0.1))),
        _worthless("fixed", "keeps -0.1 of the week before", family(families.keeping(-0.1))),
        _worthless("fixed", "volatility regimes", family(families.regimes)),
        _worthless("fixed", "GARCH", family(families.garch)),
        _worthless("fixed", "correlation 0.95", family(families.alike(0.95))),
        _worthless("fixed", "10 strategies", family(families.normal, strategies=10)),
        _worthless("fixed", "2,000 strategies", family(families.normal, strategies=2_000), 300),
        _worthless("fixed", "normal, daily", family(families.normal, a_year=families.DAYS), 200),
        _worthless("fixed", "GARCH, daily", family(families.garch, a_year=families.DAYS), 200),
        _worthless("fixed", "monthly, T = 120", family(families.normal, a_year=families.MONTHS)),
        _worthless("fixed", "monthly, keeps 0.3", family(families.keeping(0.3), a_year=families.MONTHS)),
        _worthless("timing", "simulated, baseline", timing(baseline=True), 300),
        _worthless("timing", "simulated, no baseline", timing(baseline=False), 200),
        _worthless("timing", "real prices, baseline", prices.random_timing(baseline=True), 300, draws=1),
        _worthless("timing", "real prices, no baseline", prices.random_timing(baseline=False), 200, draws=1),
        *(_adaptive("tpe", "linear", parameters) for parameters in (3, 5, 10, 20)),
        *(_adaptive("tpe", "nonlinear", parameters) for parameters in (3, 6)),
        *(_adaptive("cmaes", "linear", parameters) for parameters in (3, 5, 10, 20)),
        *(_adaptive("cmaes", "nonlinear", parameters) for parameters in (3, 6)),
        *(_adaptive("nsga2", "linear", parameters) for parameters in (3, 10, 20)),
        _adaptive("nsga2", "nonlinear", 6),
        *(_adaptive("gp", "linear", parameters, 60, 16) for parameters in (3, 10, 20)),
        _adaptive("gp", "nonlinear", 6, 60, 16),
        _adaptive("random", "linear", 5, count=300),
        *(_edge(size, persists) for size in (1.0, 1.5, 2.0) for persists in (False, True)),
        Row("edges", "all have 0.5", of(family(families.normal, edge=0.5, all_have_it=True)), 200, worthless=False),
        Row(
            "edges",
            "premium before an unseen crash",
            of(families.crash_to_come),
            200,
            worthless=False,
            covered=False,
        ),
        _on_prices(0),
        _on_prices(LIVE),
    ]


def _worthless(part: str, name: str, maker: families.Maker, count: int = 600, draws: int = 20) -> Row:
    return Row(part, name, of(maker), count, draws, at_most=WORTHLESS_AT_MOST)


def _adaptive(sampler: str, kind: str, parameters: int, trials: int = 200, count: int = 30) -> Row:
    space = {"linear": linear, "nonlinear": nonlinear}[kind]
    name = f"{sampler}, {kind}, {parameters} parameters, {trials} trials"
    at_most = WORTHLESS_AT_MOST if sampler == "random" else ADAPTIVE_AT_MOST
    return Row("adaptive", name, of(searched(sampler, space, parameters, trials)), count, at_most=at_most)


def _edge(size: float, persists: bool) -> Row:
    return Row(
        "edges",
        f"edge {size} that {'persists' if persists else 'dies'}",
        of(family(families.normal, edge=size, persists=persists)),
        200,
        at_most=None if persists else DEAD_AT_MOST,
        at_least=FOUND_AT_LEAST if persists and size == 1.5 else None,
        worthless=False,
    )


def _on_prices(live_from: int) -> Row:
    """Rules on one asset are one observation."""
    return Row(
        "prices",
        f"rules, live {2013 + live_from} to {2012 + live_from + LIVE}",
        lambda rng, number: prices.chosen_before(*_rules()[number][2:], live_from),
        RULES,
        draws=1,
        worthless=False,
        group=lambda number: _rules()[number][1],
    )


@lru_cache(maxsize=1)
def _rules() -> list[tuple[str, str, Any, Any, Any]]:
    return list(prices.rules())


# --- measuring ------------------------------------------------------------------------------------------------------


def simulated(row: Row, number: int) -> Case:
    """Search number `number` of a row, its evidence, and what came after."""
    rng = np.random.default_rng([zlib.crc32(row.name.encode()), number])
    search: Search = row.make(rng, number)
    evidence = examine(
        list(search.trials.T),
        benchmark=search.baseline,
        periods_per_year=search.a_year,
        adaptive=search.adaptive,
        market_neutral=search.market_neutral,
        blocks=2,  # PBO decides nothing
        seed=number,
    )
    return Case(evidence, search.parameters, tuple(followed(search, evidence, rng) for _ in range(row.draws)))


def followed(search: Search, evidence: Evidence, rng: np.random.Generator) -> After:
    assert not isinstance(evidence.sharpes, Unknown)
    returns, baseline = search.future(rng, int(evidence.sharpes.argmax()))
    series = np.array(returns, dtype=float)
    if baseline is not None:
        subtract(series[:, None], baseline, np.array([evidence.beta]))
    held, short = HELD * search.a_year, SHORT_HELD * search.a_year
    live = moments(series[held:])
    return After(
        moments(series[:held]),
        moments(series[:short]),
        None if isinstance(live, Unknown) else live.annual_sharpe(search.a_year),
    )


def judged(case: Case) -> Figures:
    """One search: what was said of it, what was forecast, and what came of it. Means over the draws."""
    gathered: dict[str, list[float]] = defaultdict(list)
    plain = judge(case.evidence)
    p, discounts = case.evidence.p_value, rivals(case)
    gathered["plausible 0"].append(plain.grade is Grade.PLAUSIBLE)
    gathered["family passes"].append(not isinstance(p, Unknown) and p <= WITH_HOLD_OUT)
    for after in case.after:
        for years, fresh in zip(SPANS, (None, after.held, after.short), strict=True):
            verdict = plain if fresh is None else judge(replace(case.evidence, out_of_sample=fresh))
            for grade in Grade:
                gathered[f"{grade.value} {years}"].append(verdict.grade is grade)
            # Without a hold-out its years are the live ones.
            live, held = after.live if years else annual(after.held, case.evidence), annual(fresh, case.evidence)
            if verdict.forecast is None or live is None or (years and held is None):
                continue
            forecasts = {"O9": (verdict.forecast.mean, verdict.forecast.low, verdict.forecast.high)}
            for name, discounted in discounts.items():
                forecasts[name] = interval(discounted, IN_SAMPLE, None if held is None else (held, years), LIVE)
            for name, (mean, low, high) in forecasts.items():
                gathered[f"{name} {years} covers"].append(low <= live <= high)
                gathered[f"{name} {years} square"].append((mean - live) ** 2)
                gathered[f"{name} {years} mean"].append(mean)
            gathered[f"live {years}"].append(live)
            gathered["claimed"].append(verdict.forecast.claimed)
            if verdict.grade is Grade.CONFIRMED and years == HELD:
                gathered["live, confirmed"].append(live)
                gathered["claimed, confirmed"].append(verdict.forecast.claimed)
                gathered["forecast, confirmed"].append(verdict.forecast.mean)
    return {name: float(np.mean(each)) for name, each in gathered.items()}


def rivals(case: Case) -> dict[str, float]:
    evidence = case.evidence
    assert not isinstance(evidence.sharpes, Unknown)
    assert evidence.periods_per_year is not None
    sharpes = evidence.sharpes * math.sqrt(evidence.periods_per_year)
    effective = float(len(sharpes)) if isinstance(evidence.effective, Unknown) else evidence.effective
    seen = InSample(sharpes, float(sharpes.max()), IN_SAMPLE, max(effective, 1.0), case.parameters)
    return {name: discount(seen) for name, discount in RIVALS.items()}


def annual(found: Moments | Unknown | None, evidence: Evidence) -> float | None:
    if found is None or isinstance(found, Unknown) or evidence.periods_per_year is None:
        return None
    return found.annual_sharpe(evidence.periods_per_year)


# --- what was measured before ---------------------------------------------------------------------------------------


def mark(*parts: ModuleType | Callable[..., Any]) -> str:
    """Of the code of these modules and functions, whatever is said in comments and docstrings."""
    found = hashlib.sha256()
    for part in parts:
        tree = ast.parse(inspect.getsource(part))
        for node in ast.walk(tree):
            if isinstance(node, ast.Module | ast.ClassDef | ast.FunctionDef) and ast.get_docstring(node):
                node.body = node.body[1:]
        found.update(ast.dump(tree).encode())
    return found.hexdigest()[:8]


@lru_cache(maxsize=1)
def evidence_mark() -> str:
    return mark(
        families,
        prices,
        o9.health.statistics.evidence,
        o9.health.statistics.spa,
        o9.health.statistics.forecast,
        o9.health.statistics.moments,
        o9.health.statistics.overfitting,
    )


@lru_cache(maxsize=1)
def verdict_mark() -> str:
    return evidence_mark() + mark(o9.health.verdict, verdict_rivals, judged)


def cases(row: Row, count: int, folder: Path) -> Iterator[Case]:
    """Those that lie in the folder, then new ones, which are put there."""
    path = folder / evidence_mark() / f"{row.part} {row.name}.pickle"
    path.parent.mkdir(parents=True, exist_ok=True)
    kept = list(_read(path))[:count]
    yield from kept
    for number in range(len(kept), count):
        case = simulated(row, number)
        with path.open("ab") as file:
            file.write(pickle.dumps(case))
        yield case


def _read(path: Path) -> Iterator[Case]:
    """Whole ones; what a kill left of one is cut off."""
    if not path.exists():
        return
    with path.open("r+b") as file:
        while True:
            at = file.tell()
            try:
                yield pickle.load(file)
            except (EOFError, pickle.UnpicklingError):
                file.truncate(at)
                return


def measured(row: Row, count: int, folder: Path) -> list[Figures]:
    """The figures of `count` searches of a row."""
    path = folder / verdict_mark() / f"{row.part} {row.name}.json"
    kept: list[Figures] = json.loads(path.read_text()) if path.exists() else []
    if len(kept) < count:
        kept = [judged(case) for case in cases(row, count, folder)]
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(json.dumps(kept))
    return kept[:count]


def measure(chosen: Sequence[Row], share: float, folder: Path) -> list[tuple[Row, list[Figures]]]:
    """`share` of each row's searches; a line as each row is done."""
    done = []
    for row in chosen:
        began = time.perf_counter()
        found = measured(row, max(2, round(row.count * share)), folder)
        done.append((row, found))
        confirmed, covers = rate(row, found, f"confirmed {HELD}"), rate(row, found, f"O9 {HELD} covers")
        took = time.perf_counter() - began
        print(f"{row.part:9} {row.name:45} CONFIRMED {confirmed}, covers {covers}, {took:.0f} s", flush=True)
    return done


def report(found: Measured) -> bool:
    """Print all tables; is no target missed?"""
    print(
        "\nPer cent of searches, ± one standard error.\n", *grades_table(found), "", *forecasts_table(found), sep="\n"
    )
    missed = [f"{row.name}: {target}" for row, each in found for target in targets(row, each) if target.missed]
    for name, part in {
        "simulated": [(row, each) for row, each in found if row.part != "prices"],
        "real prices": [(row, each) for row, each in found if row.part == "prices"],
    }.items():
        for years in SPANS if any(row.covered for row, _ in part) else ():
            errors, wanted = pooled(part, years)
            shown = ", ".join(f"{forecaster} {error:.3f}" for forecaster, error in errors.items())
            print(f"\nRMSE, {name}, each truth of equal weight, {years} years held out: {shown}")
            missed += [f"{name}, {years} years held out: {target}" for target in wanted if target.missed]
    for row, each in found:
        if row.part == "prices":
            print(f"\n{row.name}\n", *quarters_table(row, each), sep="\n")
    print("", *(missed or ["No target is missed."]), sep="\n")
    return not missed


def placebos(share: float, folder: Path) -> bool:
    """Measure the p-values of placebo runs and print their table; are they uniform?"""
    path = folder / mark(verdict_placebo, o9.workers.resampling, o9.health.placebo) / "placebo.json"
    path.parent.mkdir(parents=True, exist_ok=True)
    kept: dict[str, list[float]] = json.loads(path.read_text()) if path.exists() else {}
    table, held = [], True
    for row in verdict_placebo.ROWS:
        found = kept.setdefault(row.name, [])
        for number in range(len(found), max(2, round(verdict_placebo.COUNT * share))):
            found.append(verdict_placebo.p_value(row, number))
            path.write_text(json.dumps(kept))
        line, met = verdict_placebo.placebo_line(row, found)
        table.append(line)
        held = held and met
    print("\n| worthless searches, 19 placebos each | searches | p = 0.05, % | mean p | KS distance | its p | target |")
    print("| --- | --- | --- | --- | --- | --- | --- |", *table, sep="\n")
    return held


def main(arguments: Sequence[str] | None = None) -> int:
    known = rows()
    parts = [*dict.fromkeys(row.part for row in known), "placebo"]
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--parts", nargs="+", choices=parts, default=parts)
    parser.add_argument("--only", nargs="+", default=[""], help="rows whose name begins so")
    parser.add_argument("--share", type=float, default=1.0, help="of each row's searches")
    parser.add_argument("--results", type=Path, default=RESULTS, help="what was measured lies here")
    parser.add_argument("--short", action="store_true", help="a few rows, a twentieth of each")
    chosen = parser.parse_args(arguments)
    began = time.perf_counter()
    taken = [row for row in known if row.part in chosen.parts and row.name.startswith(tuple(chosen.only))]
    if chosen.short:
        taken = [row for row in taken if row.name in SHORT]
    met = not taken or report(measure(taken, SHORT_SHARE if chosen.short else chosen.share, chosen.results))
    if "placebo" in chosen.parts and not chosen.short:
        met = placebos(chosen.share, chosen.results) and met
    print(f"\n{machine()}. {time.perf_counter() - began:.0f} s.")
    return 0 if met else 1


if __name__ == "__main__":
    sys.exit(main())
