"""Live progress of one or many optimizations: bars on a terminal, an occasional line elsewhere.

`Display` owns stderr while it is open: what is logged or printed meanwhile appears above the bars.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from datetime import datetime
from typing import Any, Self

from rich.console import Console, RenderableType
from rich.progress import BarColumn, Progress, ProgressColumn, Task, TaskID
from rich.spinner import Spinner
from rich.table import Column
from rich.text import Text

from o9.cli import failures
from o9.cli.console import emit, messages
from o9.cli.views import words
from o9.model.optimization import OptimizationState
from o9.model.states import ACTIVE, OptimizationStatus
from o9.text.format import duration, number

LINE_SECONDS = 10.0  # between two lines about an optimization, if there are no bars
SPEED_SECONDS = 600.0  # of recent steps, from which the time left is estimated
ROOM_FOR_TIME_LEFT = 80
NARROWEST_NAME = 12


class Display:
    """Shows the progress of optimizations until it is closed, unless `silent` or --quiet. `say` prints a remark."""

    def __init__(self, console: Console | None = None, *, silent: bool = False) -> None:
        self.console = console or messages()
        self._silent = silent or failures.quiet
        self._states: Sequence[OptimizationState] = ()
        self._said: dict[str, tuple[str, int, float]] = {}
        self._tasks: dict[str, TaskID] = {}
        self.bars = _Bars(
            *_columns(self.console.width), console=self.console, refresh_per_second=8,
            speed_estimate_period=SPEED_SECONDS,
        )  # fmt: skip

    def __enter__(self) -> Self:
        if self.console.is_interactive and not self._silent:
            self.bars.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.bars.waiting_for = ""
        if self.bars.live.is_started:
            self.bars.stop()

    def say(self, text: str) -> None:
        if not self._silent:
            emit(self.console, text)

    def whose(self, optimization_id: str) -> str:
        """Return what precedes the output of this optimization: its title; nothing if it is the only one."""
        if len(self._states) == 1 and self._states[0].optimization_id == optimization_id:
            return ""
        titles = (words.title(state) for state in self._states if state.optimization_id == optimization_id)
        return next(titles, optimization_id)

    def waiting_for(self, text: str) -> None:
        """Show what is waited for, with a spinner until `update` or the next call; as a line if there are no bars."""
        if self.bars.live.is_started:
            self.bars.waiting_for = text
        elif text:
            self.say(text)

    def update(self, states: Sequence[OptimizationState]) -> None:
        self.bars.waiting_for = ""
        self._states = states
        fits = len(states) < self.console.height
        for state in states:
            known = state.progress or state.total_steps or state.status not in ACTIVE
            now: dict[str, Any] = {"state": state, "read_at": time.monotonic(), "completed": state.progress}
            now["total"] = 1.0 if known else None
            if (task := self._tasks.get(state.optimization_id)) is None:
                task = self._tasks[state.optimization_id] = self.bars.add_task("", **now)
            elif self.bars.tasks[task].fields["state"] is not state:
                self.bars.update(task, **now)
            self.bars.update(task, visible=fits or state.status in ACTIVE)
            if not self.bars.live.is_started:
                self._say_line(self.bars.tasks[task], state)

    def _say_line(self, task: Task, state: OptimizationState) -> None:
        status, steps, at = self._said.get(state.optimization_id, ("", -1, 0.0))
        now = time.monotonic()
        if status != state.status.value or (steps != state.completed_steps and now - at >= LINE_SECONDS):
            self._said[state.optimization_id] = (state.status.value, state.completed_steps, now)
            self.say(f"{datetime.now():%H:%M:%S}  {progress_line(state, _left(task, state))}")


def progress_line(state: OptimizationState, left: str = "") -> str:
    """`Trend following  running  12/40  best 1.0234  12.3 s  30 s left`"""
    parts = (
        words.title(state),
        state.status.value,
        words.steps(state) if state.total_steps or state.completed_steps else "",
        f"best {best}" if (best := _best(state)) else "",
        duration(state.execution_time) if state.execution_time else "",
        left,
    )
    return "  ".join(filter(None, parts))


class _Bars(Progress):
    """A bar for each optimization, and below them what is waited for."""

    waiting_for = ""

    def get_renderables(self) -> Iterable[RenderableType]:
        yield from super().get_renderables()
        if self.waiting_for:
            yield Spinner("dots", Text(self.waiting_for))


class _Cell(ProgressColumn):
    """A cell computed from a task and its optimization's state at each redraw."""

    def __init__(self, of: Callable[[Task, OptimizationState], str | Text], **options: Any) -> None:
        super().__init__(Column(no_wrap=True, **options))
        self._of = of

    def render(self, task: Task) -> Text:
        cell = self._of(task, task.fields["state"])
        return Text(cell) if isinstance(cell, str) else cell


def _columns(width: int) -> Iterator[ProgressColumn]:
    """Name, status, bar, steps, best value, time, and the time left if there is room."""
    bar = 10 if width < 100 else 30
    name = max(NARROWEST_NAME, width - bar - (62 if width >= ROOM_FOR_TIME_LEFT else 44))
    yield _Cell(lambda _, state: words.title(state), overflow="ellipsis", max_width=name)
    yield _Cell(lambda _, state: words.status(state.status))
    yield BarColumn(bar)
    yield _Cell(lambda _, state: words.steps(state), justify="right")
    yield _Cell(lambda _, state: _best(state), justify="right")
    yield _Cell(_time, justify="right")
    if width >= ROOM_FOR_TIME_LEFT:
        yield _Cell(_left, justify="right")


def _best(state: OptimizationState) -> str:
    value = words.best_value(state)
    return "" if value is None else number(value)


def _time(task: Task, state: OptimizationState) -> str:
    seconds = state.execution_time
    if state.status is OptimizationStatus.RUNNING:
        seconds += time.monotonic() - task.fields["read_at"]
    return duration(seconds) if seconds else ""


def _left(task: Task, state: OptimizationState) -> str:
    runs = state.status is OptimizationStatus.RUNNING
    return f"{duration(task.time_remaining)} left" if runs and task.time_remaining else ""
