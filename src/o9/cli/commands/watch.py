"""`watch`: follow one optimization, or all of them, through the store, in whichever process they run.

It shows each transition with its cause, and each intent with its author. Nothing here imports Prefect.
"""

from __future__ import annotations

import time

from o9.cli.failures import DONE, NOT_COMPLETED, Interrupted, help_only
from o9.cli.options import Json, OptionalId, StoreUrl
from o9.model.states import ENDED, OptimizationStatus

if not help_only:
    from o9.cli.commands.inspect import read_record, record_document
    from o9.cli.console import results, say, show, write_json_line
    from o9.cli.open_store import existing_optimization, existing_store, option_for
    from o9.cli.session.follow import POLL_SECONDS, Follower, nodes_of, status_counts, way_to_continue, why_idle
    from o9.cli.session.progress import Display
    from o9.cli.views.history import Event, EventFeed, event_line, merged
    from o9.cli.views.optimizations import results_view, summary_view
    from o9.cli.views.words import Next, command
    from o9.model.optimization import OptimizationState
    from o9.store import queries
    from o9.store.store import Store


IDLE_CHECK_SECONDS = 5.0


def watch(optimization_id: OptionalId = None, store: StoreUrl = None, json: Json = False) -> int:
    """Works for optimizations that run in any process. With ID, it prints the history first, and exits 3 if the
    optimization did not complete. Without ID, it follows all of them until Ctrl-C. --json prints each event as a JSON
    document on its own line and, at the end, what `o9 show` prints.
    """
    with existing_store(store) as opened:
        if optimization_id is None:
            return _watch_all(opened, as_json=json)
        name = existing_optimization(opened, optimization_id).optimization_id
        try:
            state = _watch(opened, name, option_for(store), as_json=json)
        except KeyboardInterrupt:
            raise Interrupted(f"stopped watching; {name} was not affected") from None
        record = read_record(opened, name)
        if json:
            write_json_line(record_document(record))
        else:
            show("", *results_view([record]), summary_view([record], results().width), "")
            show(Next([(command("show", [name], option_for(store)), "the result and its history")]))
    return DONE if state.status is OptimizationStatus.COMPLETED else NOT_COMPLETED


def _watch_all(store: Store, *, as_json: bool) -> int:
    """Print what happens to any optimization from now on."""
    feed = EventFeed(store)
    if not as_json:
        say(f"{status_counts(store) or 'no optimizations yet'}; showing changes until Ctrl-C")
    try:
        while True:
            for event in feed.read():
                if as_json:
                    write_json_line(event)
                else:
                    show(event_line(event, of_many=True))
                    results().file.flush()
            time.sleep(POLL_SECONDS)
    except KeyboardInterrupt:
        raise Interrupted("stopped watching; nothing was affected") from None


def _watch(store: Store, name: str, option: str, *, as_json: bool) -> OptimizationState:
    """Follow it until it has ended, and return its final state."""
    follower = Follower(store, [name])
    before: OptimizationState | None = None
    past: list[Event] = []
    hinted, checked = "", 0.0
    with Display(silent=as_json) as display:
        while True:
            (state,) = follower.refresh()
            if state is not before:
                events = merged(store.read(queries.transitions, name), store.read(queries.intents, name))
                for event in [each for each in events if each not in past]:
                    if as_json:
                        write_json_line(event)
                    else:
                        display.say(event_line(event))
                before, past = state, events
            display.update([state])
            if state.status in ENDED:
                return state
            if time.monotonic() - checked > IDLE_CHECK_SECONDS:
                checked, hint = time.monotonic(), _hint(store, state, option)
                if hint != hinted:
                    hinted = hint
                    display.say(hint)
            time.sleep(POLL_SECONDS)


def _hint(store: Store, state: OptimizationState, option: str) -> str:
    """Return why nothing happens, and what makes it continue; empty if something happens."""
    nodes, holding = nodes_of(store), store.read(queries.holding, state.optimization_id)
    if (going := way_to_continue(state, holding, nodes)) is None:
        return ""
    why = why_idle(state.status, holding, nodes, state.optimization_id) or f"it is {state.status.value}"
    return f"{why}; `{command(going[0], [state.optimization_id], option)}` {going[1]}"
