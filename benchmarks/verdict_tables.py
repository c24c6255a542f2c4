"""Rates with standard errors, targets, and the tables of `benchmarks/verdict.py`.

Contract. Pure. `Figures` are of one search: shares of its draws and means over them, 0 to 1, or annual Sharpe ratios.
A target is met if the figure is on its right side, open if it is on the wrong side by at most two standard errors, and
missed beyond.
"""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

from verdict_families import HELD, SHORT_HELD, Maker
from verdict_rivals import RIVALS

STANDARD_ERRORS = 2.0
PLAUSIBLE_AT_MOST = 0.05
COVERED = (0.75, 0.85)
SPANS = (0, HELD, SHORT_HELD)  # years held out
NAMES = ("O9", *RIVALS)

Figures = dict[str, float]


@dataclass(frozen=True)
class Row:
    """One truth. make: the search of a number and its generator. count: the searches; draws: the futures of each.

    at_most, at_least: the share that may, or must, be CONFIRMED with five years held out. worthless: there is no edge.
    covered: the forecast's interval must hold. group: which searches are one observation, for the standard error.
    """

    part: str
    name: str
    make: Callable[[Any, int], Any]
    count: int
    draws: int = 20
    at_most: float | None = None
    at_least: float | None = None
    worthless: bool = True
    covered: bool = True
    group: Callable[[int], Any] = field(default=lambda number: number)


Measured = Sequence[tuple[Row, Sequence[Figures]]]


@dataclass(frozen=True)
class Rate:
    """A mean over searches and its standard error."""

    mean: float
    error: float

    def __str__(self) -> str:
        return f"{100 * self.mean:.1f} ± {100 * self.error:.1f}"


@dataclass(frozen=True)
class Target:
    """excess: how far the measured figure is on the wrong side, in its own unit; at most 0: met. of_forecast: else of
    the grade."""

    words: str
    excess: float
    error: float
    of_forecast: bool = False

    @property
    def missed(self) -> bool:
        return self.excess > STANDARD_ERRORS * self.error

    def __str__(self) -> str:
        return f"{self.words}: {'MISSED' if self.missed else 'open' if self.excess > 0 else 'met'}"


def of(maker: Maker) -> Callable[[Any, int], Any]:
    """For a row whose searches differ by their generator alone."""
    return lambda rng, number: maker(rng)


def rate(row: Row, found: Sequence[Figures], name: str) -> Rate:
    known = [(row.group(number), each[name]) for number, each in enumerate(found) if name in each]
    if not known:
        return Rate(math.nan, math.nan)
    mean = math.fsum(figure for _, figure in known) / len(known)
    rests: dict[Any, float] = defaultdict(float)
    for group, figure in known:
        rests[group] += figure - mean
    return Rate(mean, math.sqrt(math.fsum(rest**2 for rest in rests.values())) / len(known))


def targets(row: Row, found: Sequence[Figures]) -> list[Target]:
    """What is demanded of one row."""
    confirmed, plausible = rate(row, found, f"confirmed {HELD}"), rate(row, found, "plausible 0")
    covers = rate(row, found, f"O9 {HELD} covers")
    wanted = []
    if row.at_most is not None:
        wanted.append(Target(f"CONFIRMED at most {row.at_most:.0%}", confirmed.mean - row.at_most, confirmed.error))
    if row.at_least is not None:
        wanted.append(Target(f"CONFIRMED at least {row.at_least:.0%}", row.at_least - confirmed.mean, confirmed.error))
    if row.worthless:
        least = plausible.mean - PLAUSIBLE_AT_MOST
        wanted.append(Target(f"PLAUSIBLE at most {PLAUSIBLE_AT_MOST:.0%}", least, plausible.error))
    if row.covered:
        beyond = max(COVERED[0] - covers.mean, covers.mean - COVERED[1])
        wanted.append(Target("covers 75 to 85 %", beyond, covers.error, of_forecast=True))
    return wanted


def pooled(measured: Measured, years: int) -> tuple[dict[str, float], list[Target]]:
    """RMSE of each forecast over all rows that are covered, each of the same weight; O9's is to be the least."""
    rows = [(row, found) for row, found in measured if row.covered]
    squares = {
        name: math.fsum(rate(row, found, f"{name} {years} square").mean for row, found in rows) / len(rows)
        for name in NAMES
    }
    wanted = []
    for rival in RIVALS:
        errors = [rate(row, [_worse(each, rival, years) for each in found], "worse").error for row, found in rows]
        error = math.sqrt(math.fsum(each**2 for each in errors)) / len(rows)
        wanted.append(Target(f"RMSE no worse than {rival}", squares["O9"] - squares[rival], error, of_forecast=True))
    return {name: math.sqrt(square) for name, square in squares.items()}, wanted


def _worse(figures: Figures, rival: str, years: int) -> Figures:
    if f"O9 {years} square" not in figures:
        return {}
    return {"worse": figures[f"O9 {years} square"] - figures[f"{rival} {years} square"]}


def grades_table(measured: Measured) -> Iterator[str]:
    yield (
        "| truth | searches | CONFIRMED, 5 years held out | live, of what they claimed | CONFIRMED, 2 years | LOST, 5 "
        "years | PLAUSIBLE, none | targets |"
    )
    yield "| --- | --- | --- | --- | --- | --- | --- | --- |"
    for row, found in measured:
        names = (f"confirmed {HELD}", f"confirmed {SHORT_HELD}", f"lost {HELD}", "plausible 0")
        shown = [str(rate(row, found, name)) for name in names]
        earned = [rate(row, found, f"{name}, confirmed").mean for name in ("live", "claimed")]
        shown.insert(1, "" if math.isnan(earned[0]) else f"{earned[0]:.2f} of {earned[1]:.2f}")
        graded = [each for each in targets(row, found) if not each.of_forecast]
        yield f"| {' | '.join([row.name, f'{len(found):,}', *shown, _words(graded)])} |"


def forecasts_table(measured: Measured) -> Iterator[str]:
    yield (
        f"| truth | claimed, forecast, live | covers: {HELD} years held out, {SHORT_HELD}, none | RMSE, {HELD} years: "
        + (f"{', '.join(NAMES)} | RMSE, none | target |")
    )
    yield "| --- | --- | --- | --- | --- | --- |"
    for row, found in measured:
        means = [rate(row, found, name).mean for name in ("claimed", f"O9 {HELD} mean", f"live {HELD}")]
        covers = [str(rate(row, found, f"O9 {years} covers")) for years in (HELD, SHORT_HELD, 0)]
        errors = [
            ", ".join(f"{math.sqrt(rate(row, found, f'{name} {years} square').mean):.2f}" for name in NAMES)
            for years in (HELD, 0)
        ]
        wanted = [each for each in targets(row, found) if each.of_forecast]
        cells = [row.name, ", ".join(f"{each:.2f}" for each in means), ", ".join(covers), *errors, _words(wanted)]
        yield f"| {' | '.join(cells)} |"


def quarters_table(row: Row, found: Sequence[Figures]) -> Iterator[str]:
    """By quarter of the forecast: what was claimed, forecast and realised."""
    names = ("claimed", f"O9 {HELD} mean", f"live {HELD}")
    known = sorted((each for each in found if names[1] in each), key=lambda each: each[names[1]])
    yield "| quarter by forecast | claimed | forecast | realised |"
    yield "| --- | --- | --- | --- |"
    for quarter in range(4):
        part = known[len(known) * quarter // 4 : len(known) * (quarter + 1) // 4]
        yield f"| {quarter + 1} | {' | '.join(f'{rate(row, part, name).mean:.2f}' for name in names)} |"


def _words(wanted: Sequence[Target]) -> str:
    """Those that do not hold; nothing where nothing was wanted."""
    return "; ".join(str(each) for each in wanted if each.excess > 0) or ("met" if wanted else "")
