"""Run optimizations in this process and show their progress: what `run`, `resume --here` and `demo` share.

Contract. The first Ctrl-C pauses what runs and waits until it has paused. The second exits at once, as if the process
had died: what was acknowledged is kept, and `resume --here` continues. SIGTERM shuts down cleanly: what runs waits for
its next attempt. Prefect is imported here.
"""

from __future__ import annotations

import asyncio
import os
from collections.abc import Callable, Coroutine, Sequence
from contextlib import suppress
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, TypeVar

from rich.text import Text

from o9.cli import failures
from o9.cli.answers import who
from o9.cli.batch import import_from_here
from o9.cli.commands.inspect import read_record, record_document
from o9.cli.console import results, show, write_json
from o9.cli.failures import DONE, INTERRUPTED, NOT_COMPLETED, Interrupted
from o9.cli.open_store import existing_store, option_for, store_url
from o9.cli.session.follow import HALTED, POLL_SECONDS, Follower
from o9.cli.session.progress import Display
from o9.cli.session.signals import Interrupts
from o9.cli.views import words
from o9.cli.views.history import first_line
from o9.cli.views.optimizations import Details, results_view, summary_view
from o9.cli.views.words import Next
from o9.lifecycle.control import control_of
from o9.model.errors import OptimizationStateError
from o9.model.optimization import OptimizationState, utc_now
from o9.model.settings import DEFAULT_STORE, settings
from o9.model.states import ENDED, OptimizationStatus
from o9.store import queries
from o9.tasks.attempt import has_abandoned_code
from o9.text.escape import one_line, shown

if TYPE_CHECKING:
    from o9.aggregator.aggregator import OptimizationStateAggregator
    from o9.alerts.pipeline.alert import Alert

T = TypeVar("T")
EVALUATION_SECONDS = 10.0  # to evaluate the best parameters of one again at the end of its run
FAREWELL = "stopped; `o9 resume --here ID` continues after the last committed step"


def run_session(
    url: str | None,
    ids: Sequence[str],
    submitted: Sequence[OptimizationState] = (),
    max_concurrent: int = 10,
    *,
    prints: bool = True,
) -> bool:
    """Run the optimizations with these ids until all have ended or are paused; return whether Ctrl-C ended it.

    Those in `submitted` are submitted if they are new; an id that is recorded with other content is refused before
    Prefect starts, which takes seconds. Other queued optimizations are left alone. `prints`: whether to show what
    objectives print.
    """
    import_from_here()
    with Interrupts(FAREWELL) as interrupts, Display() as display:
        display.waiting_for("starting")
        path = storage_path(url)
        return run_loop(_run_session(path, ids, submitted, max_concurrent, prints, interrupts, display))


def run_loop(main: Coroutine[Any, Any, T]) -> T:
    """Run as asyncio.run does, but exit without waiting for what hangs in the loop."""
    runner = asyncio.Runner()
    try:
        return runner.run(main)
    finally:
        if not has_abandoned_code():
            runner.close()


def storage_path(url: str | None) -> str:
    """Return the store for an aggregator. The default path is made absolute, or O9_STORE_URL would override it."""
    return os.path.abspath(url) if url == DEFAULT_STORE else store_url(url)


async def unless_interrupted(work: Coroutine[Any, Any, object], asked: asyncio.Event) -> bool:
    """Await `work` and return True; if Ctrl-C comes first, cancel it and return False."""
    task, interrupt = asyncio.ensure_future(work), asyncio.ensure_future(asked.wait())
    await asyncio.wait({task, interrupt}, return_when=asyncio.FIRST_COMPLETED)
    interrupt.cancel()
    if not task.done():
        task.cancel()
        await asyncio.wait({task})
        return False
    await task
    return True


async def start(aggregator: OptimizationStateAggregator, report: Callable[[str], None], asked: asyncio.Event) -> None:
    """Start the aggregator. Raises Interrupted if Ctrl-C comes first."""
    if not await unless_interrupted(aggregator.start(report=report), asked):
        raise Interrupted("interrupted before anything started")


def conclude(url: str | None, ids: Sequence[str], interrupted: bool, *, as_json: bool) -> int:
    """Print the results and what to type next, and return the exit code."""
    with existing_store(url) as store:
        records = [read_record(store, name) for name in ids]
    if as_json:
        write_json([record_document(record) for record in records])
    else:
        show("", *results_view(records), summary_view(records, results().width), "", *_what_went_wrong(records))
        show(Next(what_next(records, option_for(url))))
    return exit_code(records, interrupted)


def _what_went_wrong(records: Sequence[Details]) -> list[Text]:
    lines = []
    for state in (record.state for record in records):
        failed = state.issues and state.status is not OptimizationStatus.COMPLETED
        remarks = [(state.issues[-1], "red")] if failed else []
        for remark, style in [*remarks, *((warning, "yellow") for warning in state.warnings)]:
            text = first_line(str(remark))
            lines.append(Text(shown(f"{state.optimization_id}: {text}"), style=style))
    return [*lines, Text()] if lines else []


def exit_code(records: Sequence[Details], interrupted: bool) -> int:
    if interrupted:
        return INTERRUPTED
    completed = all(record.state.status is OptimizationStatus.COMPLETED for record in records)
    return DONE if completed else NOT_COMPLETED


def what_next(records: Sequence[Details], option: str) -> list[tuple[str, str]]:
    """Return the commands to type next, and what they do."""
    halted = [record.state.optimization_id for record in records if record.state.status not in ENDED]
    again = [(words.command("resume --here", halted, option), "continues after the last committed step")]
    first = [records[0].state.optimization_id]
    return [
        *(again if halted else []),
        (words.command("show", first, option), "the result and its history"),
        (words.command("trials", first, option), "the trials"),
        (words.command("report", first, option), "the result as an HTML page, with plots"),
    ]


async def _run_session(
    url: str,
    ids: Sequence[str],
    submitted: Sequence[OptimizationState],
    max_concurrent: int,
    prints: bool,
    interrupts: Interrupts,
    display: Display,
) -> bool:
    interrupts.attach()
    from o9.aggregator.aggregator import OptimizationStateAggregator
    from o9.alerts.channels.registry import show_only
    from o9.cli.session.logs import log_through

    ours: set[str] = set()
    since = utc_now()

    def is_ours(alert: Alert) -> bool:
        """Accept alerts about these optimizations or this process, from now on; `o9 alerts list` has all."""
        mine = alert.optimization_id in ours or alert.labels.get("node") == settings().node_id
        return mine and alert.starts_at >= since

    show_only(is_ours)
    log_through(display.console, display.whose, prints=prints and not failures.quiet)
    aggregator = OptimizationStateAggregator(
        max_concurrent_optimizations=max_concurrent, storage_path=url, schedules=(), only=ids
    )
    try:
        await aggregator.initialize()
        store = aggregator.store
        known = {name for name in ids if store.read(queries.get, name) is not None}
        for state in submitted:
            if state.optimization_id in known:
                await control_of(store).submit(state)  # raises if the content differs
        await start(aggregator, display.waiting_for, interrupts.asked)
        for state in submitted:
            if state.optimization_id not in known:
                await aggregator.submit_optimization(state)
        for name in filter(known.__contains__, ids):
            await _resume(aggregator, name, display)
        ours.update(ids)
        session = _Session(aggregator, Follower(store, ids), display, interrupts)
        await session.follow()
        interrupted = interrupts.asked.is_set()
        if interrupts.terminated:
            display.say(
                "stopping: running steps get ten seconds to finish; unfinished runs wait for their next attempt"
            )
            await aggregator.stop()
            await asyncio.to_thread(session.follower.refresh)
        elif interrupted:
            await session.pause()
        else:
            await session.judge()
        return interrupted
    finally:
        await aggregator.cleanup()
        show_only(None)


async def _resume(aggregator: OptimizationStateAggregator, name: str, display: Display) -> None:
    """Queue it if it is paused or was held back. The start of the aggregator has queued what a crash interrupted."""
    state = await aggregator.get_optimization_status(name)
    assert state is not None
    if state.status in ENDED:
        again = words.command("retry", [name])
        display.say(f"{name} has already ended ({state.status.value}); `{again}` runs it again")
        return
    try:
        await aggregator.resume_optimization(name, who())
    except OptimizationStateError as error:  # it is being cancelled, or has just ended; the others continue
        display.say(one_line(str(error)))


@dataclass(frozen=True)
class _Session:
    """The aggregator of this process, and what shows its progress."""

    aggregator: OptimizationStateAggregator
    follower: Follower
    display: Display
    interrupts: Interrupts

    async def follow(self, *, pausing: bool = False) -> None:
        """Show progress until all have stopped; or, unless already `pausing`, until Ctrl-C."""
        asked = self.interrupts.asked
        while True:
            self.display.update(await asyncio.to_thread(self.follower.refresh))
            if self.follower.has_stopped(pausing=pausing) or (asked.is_set() and not pausing):
                return
            if pausing:
                await asyncio.sleep(POLL_SECONDS)
            else:
                with suppress(TimeoutError):
                    await asyncio.wait_for(asked.wait(), POLL_SECONDS)

    async def judge(self) -> None:
        """Judge what has completed, unless that was done. After Ctrl-C, `o9 health` can judge the rest."""
        checker, completed = self.aggregator.health_checker, OptimizationStatus.COMPLETED
        ended = [state for state in self.follower.states.values() if state.status is completed]
        for name in [state.optimization_id for state in ended if "placebo_of" not in state.metadata]:
            self.display.waiting_for("judging the results")
            judging = checker.judge_ended(name, seconds=EVALUATION_SECONDS, allowed_imports=None)
            try:
                if not await unless_interrupted(judging, self.interrupts.asked):
                    return
            except Exception as error:  # noqa: BLE001 - a user's health rule may raise anything; judge the others
                self.display.say(f"{name} could not be judged: {one_line(str(error))}")

    async def pause(self) -> None:
        self.display.say("pausing after the running steps; Ctrl-C again exits at once")
        await asyncio.to_thread(self.follower.refresh)
        for state in self.follower.states.values():
            if state.status not in ENDED | HALTED:
                try:
                    await self.aggregator.pause_optimization(state.optimization_id, f"Ctrl-C, {who()}")
                except OptimizationStateError:  # it has just ended; the next refresh reads how
                    continue
        await self.follow(pausing=True)
