"""Shared by all benchmarks: measuring pairs in turn, so that a busy machine slows both sides equally, and tables.

Contract. A `Pair` has two ways to do the same amount of work; `compare` runs them A B A B …, one uncounted round
first, and returns the medians of each side and of the rounds' ratios, with the smallest and the largest. Benchmarks
use no network, and keep their data in temporary folders, which are deleted at the end.
"""

from __future__ import annotations

import os
import platform
import statistics
import sys
from collections.abc import Callable
from dataclasses import dataclass

ROUNDS = 7


@dataclass(frozen=True)
class Pair:
    """`ours` and `yardstick` do the work once and return the seconds it took.

    work: the number of units; the table then shows units a second, else milliseconds. target: the lower (`at_least`) or
    upper bound of the ratio; None: for information. The ratio is ours over the yardstick, of the figures shown.
    """

    name: str
    ours: Callable[[], float]
    yardstick: Callable[[], float]
    work: int | None = None
    target: float | None = None
    at_least: bool = True


@dataclass(frozen=True)
class Result:
    """Medians of both sides in the unit shown, and the rounds' ratios."""

    pair: Pair
    ours: float
    yardstick: float
    ratios: tuple[float, ...]

    @property
    def ratio(self) -> float:
        return statistics.median(self.ratios)

    @property
    def met(self) -> bool | None:
        if self.pair.target is None:
            return None
        return self.ratio >= self.pair.target if self.pair.at_least else self.ratio <= self.pair.target


def compare(pair: Pair, rounds: int = ROUNDS) -> Result:
    """Measure both sides in turn and print one line as soon as it is known."""
    pair.ours()
    pair.yardstick()
    ours, yardstick = [], []
    for number in range(rounds):
        # The first side may find the machine in another state: alternate the order, too.
        if number % 2:
            yardstick.append(pair.yardstick())
            ours.append(pair.ours())
        else:
            ours.append(pair.ours())
            yardstick.append(pair.yardstick())
    shown = [[_shown(seconds, pair.work) for seconds in side] for side in (ours, yardstick)]
    ratios = tuple(a / b for a, b in zip(*shown, strict=True))
    result = Result(pair, statistics.median(shown[0]), statistics.median(shown[1]), ratios)
    print(_line(result), flush=True)
    return result


def heading(title: str, ours: str, yardstick: str) -> None:
    """Begin a table with its title and the names of its two columns."""
    print(f"\n{title}")
    print(f"{'':46} {ours:>13} {yardstick:>13} {'ratio':>7} {'min':>6} {'max':>6}  target")


def note(name: str, text: str) -> None:
    """A figure for information, without a yardstick."""
    print(f"{name:46} {text:>13}", flush=True)


def machine() -> str:
    """A description of the machine."""
    return f"{os.cpu_count()} cores, {platform.system()}, Python {platform.python_version()}"


def verdict(results: list[Result]) -> None:
    """Print the missed targets, and exit with 1 if there are any."""
    missed = [result.pair.name for result in results if result.met is False]
    print(f"\n{machine()}. " + (f"Missed: {'; '.join(missed)}" if missed else "All targets met."))
    sys.exit(1 if missed else 0)


def _shown(seconds: float, work: int | None) -> float:
    return seconds * 1000 if work is None else work / seconds


def _line(result: Result) -> str:
    pair, unit = result.pair, "ms" if result.pair.work is None else "/s"
    ours, yardstick = (f"{figure:,.{2 if figure < 100 else 0}f} {unit}" for figure in (result.ours, result.yardstick))
    sign = "≥" if pair.at_least else "≤"
    target = "" if pair.target is None else f"{sign} {pair.target:g} {'met' if result.met else 'MISSED'}"
    return (
        f"{pair.name:46} {ours:>13} {yardstick:>13} {result.ratio:7.2f} "
        f"{min(result.ratios):6.2f} {max(result.ratios):6.2f}  {target}"
    ).rstrip()
