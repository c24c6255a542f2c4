"""`watch`: follow one optimization, or all of them, through the store, whichever process works on them.

What is shown: each transition with its cause, and each intent with who had it. Nothing here imports Prefect.
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
    from o9.cli.session.follow import POLL_SECONDS, Follower, counted, crew_of, going_on, nobody_works_on
    from o9.cli.session.progress import Display
    from o9.cli.views.history import Event, News, event_line, merged
    from o9.cli.views.optimizations import results_view, summary_view
    from o9.cli.views.words import Next, command
    from o9.model.optimization import OptimizationState
    from o9.store import queries
    from o9.store.store import Store


IDLE_CHECK_SECONDS = 5.0


def watch(optimization_id: OptionalId = None, store: StoreUrl = None, json: Json = False) -> int:
    """Works whichever process runs it. With ID the history comes first; exits 3 if it did not complete. Without ID it
    follows all until Ctrl-C. --json prints each event as a JSON document on its own line, and at the end what `o9
    show` prints.
    """
    with existing_store(store) as opened:
        if optimization_id is None:
            return _watch_all(opened, as_json=json)
        name = existing_optimization(opened, optimization_id).optimization_id
        try:
            state = _watch(opened, name, option_for(store), as_json=json)
        except KeyboardInterrupt:
            raise Interrupted(f"stopped watching; {name} itself was not touched") from None
        record = read_record(opened, name)
        if json:
            write_json_line(record_document(record))
        else:
            show("", *results_view([record]), summary_view([record], results().width), "")
            show(Next([(command("show", [name], option_for(store)), "the result and its history")]))
    return DONE if state.status is OptimizationStatus.COMPLETED else NOT_COMPLETED


def _watch_all(store: Store, *, as_json: bool) -> int:
    """What happens from now on, to whichever optimization."""
    news = News(store)
    if not as_json:
        say(f"{counted(store) or 'nothing in the record yet'}; what changes is shown until Ctrl-C")
    try:
        while True:
            for event in news.look():
                if as_json:
                    write_json_line(event)
                else:
                    show(event_line(event, of_many=True))
                    results().file.flush()
            time.sleep(POLL_SECONDS)
    except KeyboardInterrupt:
        raise Interrupted("stopped watching; nothing was touched") from None


def _watch(store: Store, name: str, option: str, *, as_json: bool) -> OptimizationState:
    """Until it has ended; the state then."""
    follower = Follower(store, [name])
    before: OptimizationState | None = None
    past: list[Event] = []
    hinted, checked = "", 0.0
    with Display(silent=as_json) as display:
        while True:
            (state,) = follower.look()
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
    """Why nothing happens, and what makes it go on; empty where something does."""
    crew, holding = crew_of(store), store.read(queries.holding, state.optimization_id)
    if (going := going_on(state, holding, crew)) is None:
        return ""
    why = nobody_works_on(state.status, holding, crew, state.optimization_id) or f"it is {state.status.value}"
    return f"{why}; `{command(going[0], [state.optimization_id], option)}` {going[1]}"
