"""How the values of an optimization read in a terminal: statuses, verdicts, errors, commands. Pure."""

from __future__ import annotations

import re
import shlex
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import PurePath
from typing import Any

from rich.cells import cell_len
from rich.console import Console, ConsoleOptions, RenderResult
from rich.text import Text

from o9.health.grades import Grade, Verdict
from o9.health.wording import GRADES, marked
from o9.model.optimization import OptimizationState, baseline_of
from o9.model.states import OptimizationStatus
from o9.text.escape import one_line, shown
from o9.text.format import NOTHING, value_text

IDS_SHOWN = 10  # in a suggested command
_RAISED = re.compile(r'^  File "(.+)", line (\d+)', re.MULTILINE)
_STYLES = {
    OptimizationStatus.CREATED: "dim",
    OptimizationStatus.INITIALIZING: "cyan",
    OptimizationStatus.RUNNING: "cyan",
    OptimizationStatus.PAUSED: "yellow",
    OptimizationStatus.SUSPENDED: "yellow",
    OptimizationStatus.COMPLETED: "green",
    OptimizationStatus.FAILED: "red",
    OptimizationStatus.CANCELLED: "magenta",
    OptimizationStatus.TIMEOUT: "red",
}

_GRADES = {
    Grade.CONFIRMED: "green",
    Grade.PLAUSIBLE: "cyan",
    Grade.UNPROVEN: "yellow",
    Grade.LOST: "red",
    Grade.VOID: "red",
}


def parameters(values: Mapping[str, Any]) -> str:
    """`fast=12 slow=200 band=0.0123`"""
    return " ".join(f"{shown(name)}={value_text(value)}" for name, value in values.items()) or NOTHING


def status(value: OptimizationStatus, *, doubtful: bool = False) -> Text:
    """`running`; `running?` if its node is gone."""
    return Text(f"{value.value}?" if doubtful else value.value, style="yellow" if doubtful else _STYLES[value])


def grade(verdict: Verdict | None) -> Text:
    """`✓ confirmed`"""
    if verdict is None:
        return Text(NOTHING, style="dim")
    return Text(f"{GRADES[verdict.grade].mark} {verdict.grade.value}", style=_GRADES[verdict.grade])


def result(verdict: Verdict) -> Text:
    """`✓ CONFIRMED: held out, it earned 0.62 a year`"""
    return Text(f"{marked(verdict)}: ", style=f"bold {_GRADES[verdict.grade]}").append(
        shown(verdict.headline), style="bold"
    )


def title(state: OptimizationState) -> str:
    return shown(state.name or state.optimization_id)


def failure(error: str) -> str:
    """A trial's error on one line, with where it was raised: `ValueError: no prices (desk.py:6)`."""
    message, _, _ = error.partition('\n  File "')
    line = one_line(message)[:160]
    raised = _RAISED.findall(error)
    return f"{line} ({PurePath(raised[-1][0]).name}:{raised[-1][1]})" if raised else line


def command(verb: str, ids: Sequence[str], option: str = "") -> str:
    """A command to type: `o9 show 'an id' --store x.db`; `o9 show ID…` if there are many ids."""
    if len(ids) > IDS_SHOWN:
        return shown(f"o9 {verb} ID…{option}")
    names = " ".join(shlex.quote(name) for name in ids)
    return shown(f"o9 {verb} {names}{option}")


def best_value(state: OptimizationState) -> float | None:
    """The best so far; None while no trial has succeeded, which 0.0 alone does not tell."""
    reached = state.current_performance != 0 or state.optimized_parameters
    return state.current_performance if reached else None


def steps(state: OptimizationState) -> str:
    """`12/40`; `12` if the number of steps is unknown."""
    if not state.total_steps:
        return str(state.completed_steps)
    return f"{state.completed_steps}/{state.total_steps}"


def of_trials(counts: Mapping[str, int]) -> str:
    """`240`, or `240 (3 failed)`."""
    total = sum(counts.values())
    bad = ", ".join(f"{count} {state}" for state, count in sorted(counts.items()) if state != "completed" and count)
    return f"{total} ({bad})" if bad else str(total)


def has_gain(state: OptimizationState) -> bool:
    return best_value(state) is not None and baseline_of(state) is not None


@dataclass(frozen=True)
class Next:
    """`Next: command what it does`, one below the other; without the descriptions if they do not fit."""

    commands: Sequence[tuple[str, str]]

    def __rich_console__(self, _console: Console, options: ConsoleOptions) -> RenderResult:
        wide = max(cell_len(command) for command, _ in self.commands)
        fits = len("Next:  ") + wide + 3 + max(len(meaning) for _, meaning in self.commands) <= options.max_width
        for place, (command, meaning) in enumerate(self.commands):
            beside = f"{' ' * (wide - cell_len(command))}   {meaning}" if fits else ""
            yield Text(f"{'     ' if place else 'Next:'} {command}{beside}")
