"""Live progress of one or many optimizations: bars on a terminal, an occasional line elsewhere.

`progress_table`, `progress_line` and `StepTimes` are pure. `Display` owns stderr while it is open: what is logged or
printed meanwhile appears above the bars.
"""

from __future__ import annotations

import time
from collections import Counter, deque
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from itertools import pairwise
from statistics import fmean
from types import TracebackType
from typing import Self

from rich.cells import cell_len
from rich.console import Console, Group, RenderableType
from rich.live import Live
from rich.progress_bar import ProgressBar
from rich.spinner import Spinner
from rich.table import Table
from rich.text import Text

from o9.cli import failures
from o9.cli.console import emit, messages
from o9.cli.views import words
from o9.lifecycle.trends import without_outliers
from o9.model.optimization import OptimizationState
from o9.model.states import ACTIVE, ENDED, OptimizationStatus
from o9.text.format import duration, number

LINE_SECONDS = 10.0  # between two lines about the same optimization, where there are no bars
REDRAWS_PER_SECOND = 8
STATUS_WIDTH, VALUE_WIDTH, TIME_WIDTH = 12, 10, 8
NARROWEST_BAR, WIDEST_BAR = 8, 30
LEAST_STEPS = 3
LEAST_SECONDS = 1.0
LOOKS_KEPT = 200
_ROUNDED_TO = ((90, 10), (90 * 60, 60), (48 * 3_600, 1_800))  # below the first, to a multiple of the second, in seconds


def progress_table(
    states: Sequence[OptimizationState],
    width: int,
    height: int,
    extra_seconds: Mapping[str, float] | None = None,
    left: Mapping[str, str] | None = None,
) -> RenderableType:
    """One row for each: name, status, bar, steps, best value, elapsed, time left. What does not fit is counted below.

    extra_seconds: time that has passed, for those that run, since their state was read. left: in words, where known.
    """
    shown = visible(states, max(1, height - 3))
    extra = extra_seconds or {}
    names = max((cell_len(words.title(state)) for state in shown), default=0)
    steps = max((len(words.steps(state)) for state in shown), default=0)
    fixed = STATUS_WIDTH + steps + VALUE_WIDTH + TIME_WIDTH + 5
    left_width = max((len(text) + 1 for text in (left or {}).values()), default=0)
    if fixed + left_width + 12 + NARROWEST_BAR > width:  # no room for it
        left, left_width = {}, 0
    fixed += left_width
    name_width = min(names, max(12, width - fixed - NARROWEST_BAR))
    table = Table.grid(padding=(0, 1))
    table.add_column(width=name_width, no_wrap=True, overflow="ellipsis")
    table.add_column(width=STATUS_WIDTH, no_wrap=True)
    table.add_column(width=max(NARROWEST_BAR, min(WIDEST_BAR, width - fixed - name_width)))
    for column in (steps, VALUE_WIDTH, TIME_WIDTH, max(0, left_width - 1)):
        table.add_column(width=column, no_wrap=True, justify="right")
    for state in shown:
        value, seconds = words.best_value(state), state.execution_time + extra.get(state.optimization_id, 0.0)
        table.add_row(
            Text(words.title(state)),
            words.status(state.status),
            _bar(state),
            words.steps(state),
            "" if value is None else number(value),
            duration(seconds) if seconds else "",
            (left or {}).get(state.optimization_id, ""),
        )
    hidden = [state for state in states if all(state is not other for other in shown)]
    return Group(table, Text(_counted(hidden), style="dim")) if hidden else table


def visible(states: Sequence[OptimizationState], room: int) -> list[OptimizationState]:
    """Those to show where there is room for `room`: what runs first, what has ended last; in their order."""
    if len(states) <= room:
        return list(states)
    rank = {status: 2 if status in ENDED else 0 if status in ACTIVE else 1 for status in OptimizationStatus}
    chosen = sorted(range(len(states)), key=lambda index: (rank[states[index].status], index))[:room]
    return [states[index] for index in sorted(chosen)]


def progress_line(state: OptimizationState, left: str = "") -> str:
    """`Trend following  running  12/40  best 1.0234  12.3 s  about 30 s left`"""
    value = words.best_value(state)
    parts = (
        words.title(state),
        state.status.value,
        words.steps(state) if state.total_steps or state.completed_steps else "",
        "" if value is None else f"best {number(value)}",
        duration(state.execution_time) if state.execution_time else "",
        left,
    )
    return "  ".join(filter(None, parts))


class Display:
    """Shows what it is given until it is closed, unless `silent` or --quiet. `say` prints a remark that stays."""

    def __init__(self, console: Console | None = None, *, silent: bool = False) -> None:
        self.console = console or messages()
        self._silent = silent or failures.quiet
        self._states: Sequence[OptimizationState] = ()
        self._read_at: dict[str, tuple[OptimizationState, float]] = {}
        self._waiting = ""
        self._step_times: dict[str, StepTimes] = {}
        self._said: dict[str, tuple[str, int, float]] = {}
        self._live = Live(
            get_renderable=self._render, console=self.console, refresh_per_second=REDRAWS_PER_SECOND, transient=False
        )

    def __enter__(self) -> Self:
        if self.console.is_terminal and not self._silent:
            self._live.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._waiting = ""
        if self._live.is_started:
            self._live.refresh()
            self._live.stop()

    def say(self, text: str) -> None:
        if not self._silent:
            emit(self.console, text)

    def whose(self, optimization_id: str) -> str:
        """What to say before what this one prints: nothing where it is the only one."""
        if len(self._states) == 1 and self._states[0].optimization_id == optimization_id:
            return ""
        titles = (words.title(state) for state in self._states if state.optimization_id == optimization_id)
        return next(titles, optimization_id)

    def waiting_for(self, text: str) -> None:
        """What it waits for now, said with a spinner until `update` or the next call; a line where there is none."""
        if self._live.is_started:
            self._waiting = text
        elif text:
            self.say(text)

    def update(self, states: Sequence[OptimizationState]) -> None:
        self._waiting = ""
        self._states = states
        now = time.monotonic()
        for state in states:
            known = self._read_at.get(state.optimization_id)
            if known is None or known[0] is not state:
                self._read_at[state.optimization_id] = (state, now)
            if state.status is OptimizationStatus.RUNNING:
                self._step_times.setdefault(state.optimization_id, StepTimes()).see(now, state.completed_steps)
            else:
                self._step_times.pop(state.optimization_id, None)
        if not self._live.is_started:
            self._say_lines(now)

    def _say_lines(self, now: float) -> None:
        left = self._left(now)
        for state in self._states:
            status, steps, at = self._said.get(state.optimization_id, ("", -1, 0.0))
            changed = status != state.status.value
            if changed or (steps != state.completed_steps and now - at >= LINE_SECONDS):
                self._said[state.optimization_id] = (state.status.value, state.completed_steps, now)
                self.say(f"{datetime.now():%H:%M:%S}  {progress_line(state, left.get(state.optimization_id, ''))}")

    def _left(self, now: float) -> dict[str, str]:
        totals = {state.optimization_id: state.total_steps for state in self._states}
        known = ((name, times) for name, times in self._step_times.items() if name in totals)
        return {name: text for name, times in known if (text := in_words(times.left(now, totals[name])))}

    def _render(self) -> RenderableType:
        parts: list[RenderableType] = []
        if self._states:
            now = time.monotonic()
            running = OptimizationStatus.RUNNING
            extra = {name: now - at for name, (state, at) in self._read_at.items() if state.status is running}
            parts.append(progress_table(self._states, self.console.width, self.console.height, extra, self._left(now)))
        if self._waiting:
            parts.append(Spinner("dots", Text(self._waiting)))
        return Group(*parts)


def _bar(state: OptimizationState) -> RenderableType:
    ended_badly = state.status in ENDED and state.status is not OptimizationStatus.COMPLETED
    waits = state.status is OptimizationStatus.CREATED and not state.completed_steps
    if not state.total_steps and state.status in ACTIVE and not state.progress:
        return ProgressBar(total=None, pulse=True)
    style = "red" if ended_badly else "grey50" if waits else "cyan"
    return ProgressBar(total=1.0, completed=state.progress, complete_style=style, finished_style="green")


def _counted(states: Sequence[OptimizationState]) -> str:
    """`… and 12 created, 5 completed`"""
    counts = Counter(state.status.value for state in states)
    return "… and " + ", ".join(f"{count} {status}" for status, count in counts.items())


@dataclass
class StepTimes:
    """The steps of one optimization by the moments, in seconds, in which they were seen to be done.

    What a resumed run did before counts for nothing, nor does the start of its processes; a pause is drawn in as an
    outlier.
    """

    seen: deque[tuple[float, int]] = field(default_factory=lambda: deque(maxlen=LOOKS_KEPT))

    def see(self, now: float, completed: int) -> None:
        if not self.seen or completed != self.seen[-1][1]:
            self.seen.append((now, completed))

    def left(self, now: float, total: int) -> float | None:
        """Seconds until `total` steps are done."""
        counted = list(self.seen)[1:]  # the first is no step's end: it began before
        if len(counted) < 2 or not total:
            return None
        (began, first), (ended, last) = counted[0], counted[-1]
        if last - first < LEAST_STEPS or ended - began < LEAST_SECONDS:
            return None
        times = [(after - before) / (later - earlier) for (before, earlier), (after, later) in pairwise(counted)]
        steps = [later - earlier for (_, earlier), (_, later) in pairwise(counted)]
        usual = without_outliers(times)
        a_step = fmean(usual, weights=steps)
        return max(0.0, (total - last) * a_step - min(now - ended, a_step))


def in_words(seconds: float | None) -> str:
    """`about 40 s left`, `about 3 min left`, `about 2 h 30 min left`; nothing where it is not known."""
    if seconds is None:
        return ""
    if seconds < 10:
        return "a few s left"
    step = next((step for below, step in _ROUNDED_TO if seconds < below), 86_400)
    return f"about {duration(step * max(1, round(seconds / step)))} left"
