"""`watch`: follow one optimization, or all of them, through the store, whichever process works on them.

What is shown: each transition with its cause, and each intent with who had it. Nothing here imports Prefect.
"""

from __future__ import annotations

import time

from rich.text import Text

from o9.cli.commands.inspect import read_record, record_document
from o9.cli.console import emit, results, say, write_json, write_json_line
from o9.cli.failures import DONE, NOT_COMPLETED, Interrupted
from o9.cli.open_store import existing_optimization, existing_store, option_for
from o9.cli.session.follow import POLL_SECONDS, Follower, crew_of, is_parked, nobody_works_on
from o9.cli.session.progress import Display
from o9.cli.views.history import Event, News, event_line, merged
from o9.cli.views.optimizations import results_view, summary_view
from o9.cli.views.words import aligned, command
from o9.model.optimization import OptimizationState
from o9.model.states import ENDED, Intent, OptimizationStatus
from o9.store import queries
from o9.store.store import Store

IDLE_CHECK_SECONDS = 5.0


def watch_optimization(url: str | None, optimization_id: str, *, as_json: bool) -> int:
    """Until it has ended; `as_json` says nothing until then, and prints what `show --json` does."""
    with existing_store(url) as store:
        existing_optimization(store, optimization_id)
        follower = Follower(store, [optimization_id])
        try:
            if as_json:
                while follower.look()[0].status not in ENDED:
                    time.sleep(POLL_SECONDS)
            else:
                _watch(store, follower, option_for(url))
        except KeyboardInterrupt:
            raise Interrupted(f"stopped watching; {optimization_id} itself was not touched") from None
        record = read_record(store, optimization_id)
        if as_json:
            write_json(record_document(record))
        else:
            console = results()
            emit(console, Text(), *results_view([record]), summary_view([record], console.width), Text())
            shows = (command("show", [optimization_id], option_for(url)), "the result and its history")
            emit(console, *map(Text, aligned([shows], console.width)))
    return DONE if record.state.status is OptimizationStatus.COMPLETED else NOT_COMPLETED


def watch_all(url: str | None, *, as_json: bool) -> int:
    """What happens from now on, to whichever optimization; until Ctrl-C. As JSON, a document a line."""
    with existing_store(url) as store:
        news = News(store)
        if not as_json:
            say(f"{_counted(store)}; what changes is shown until Ctrl-C")
        try:
            while True:
                for event in news.look():
                    if as_json:
                        write_json_line(event)
                    else:
                        emit(results(), Text(event_line(event, of_many=True)))
                        results().file.flush()
                time.sleep(POLL_SECONDS)
        except KeyboardInterrupt:
            raise Interrupted("stopped watching; nothing was touched") from None


def _watch(store: Store, follower: Follower, option: str) -> None:
    told: set[tuple[str, int]] = set()
    warned, checked = "", 0.0
    with Display() as display:
        while True:
            state = follower.look()[0]
            for event in _events(store, state.optimization_id, told):
                display.say(event_line(event))
            display.update([state])
            if state.status in ENDED:
                return
            if time.monotonic() - checked > IDLE_CHECK_SECONDS:
                checked = time.monotonic()
                hint = _hint(store, state, option)
                if hint != warned:
                    warned = hint
                    display.say(hint)
            time.sleep(POLL_SECONDS)


def _events(store: Store, name: str, told: set[tuple[str, int]]) -> list[Event]:
    """What has happened to it that was not `told` yet; it is from now on."""
    fresh = []
    for event in merged(store.read(queries.transitions, name), store.read(queries.intents, name)):
        key = ("intent" if "intent" in event else "transition", event["id"])
        if key not in told:
            told.add(key)
            fresh.append(event)
    return fresh


def _hint(store: Store, state: OptimizationState, option: str) -> str:
    resume = f"`{command('run --resume', [state.optimization_id], option)}` goes on with it"
    crew = crew_of(store)
    if is_parked(state) and crew.takers(state.optimization_id):
        return f"it is {state.status.value}; `{command('resume', [state.optimization_id], option)}` queues it again"
    if is_parked(state):
        return f"it is {state.status.value}; {resume}"
    holding = store.read(queries.holding, state.optimization_id)
    if holding is not None and holding.intent == Intent.HOLD.value:
        return f"it was not started yet; `{command('start', [state.optimization_id], option)}` queues it"
    problem = nobody_works_on(state.status, holding, crew, state.optimization_id)
    return f"{problem}; {resume}" if problem else ""


def _counted(store: Store) -> str:
    tally: dict[str, int] = {}
    for row in store.read(queries.counts):
        tally[row["status"]] = tally.get(row["status"], 0) + row["count"]
    return ", ".join(f"{count} {status}" for status, count in sorted(tally.items())) or "nothing in the record yet"
