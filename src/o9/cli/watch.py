"""`watch`: follow one optimization through the store, whichever process works on it. Nothing here imports Prefect."""

from __future__ import annotations

import time
from datetime import datetime

from rich.text import Text

from o9.cli.console import emit, results, write_json
from o9.cli.failures import DONE, NOT_COMPLETED, Interrupted
from o9.cli.follow import POLL_SECONDS, Follower, is_parked, nobody_works_on
from o9.cli.open_store import existing_optimization, existing_store, option_for
from o9.cli.progress import Display
from o9.cli.reading import read_record, record_document
from o9.cli.views import summary_view
from o9.cli.words import aligned, moment
from o9.model.optimization import OptimizationState
from o9.model.states import ENDED, OptimizationStatus
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
            emit(console, Text(), summary_view([record], console.width), Text())
            meaning = "the result and its history"
            emit(
                console, *map(Text, aligned([(f"o9 show {optimization_id}{option_for(url)}", meaning)], console.width))
            )
    return DONE if record.state.status is OptimizationStatus.COMPLETED else NOT_COMPLETED


def _watch(store: Store, follower: Follower, option: str) -> None:
    told, warned, checked = 0, "", 0.0
    with Display() as display:
        while True:
            state = follower.look()[0]
            told = _tell_transitions(store, display, state, told)
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


def _tell_transitions(store: Store, display: Display, state: OptimizationState, told: int) -> int:
    """Print the transitions from number `told` on; how many there are now."""
    rows = store.transitions(state.optimization_id)
    for row in rows[told:]:
        at = moment(datetime.fromisoformat(row["at"]))
        why = f": {row['message']}" if row["message"] else ""
        display.say(f"{at}  {row['to_status']} ({row['cause']}){why}")
    return len(rows)


def _hint(store: Store, state: OptimizationState, option: str) -> str:
    resume = f"`o9 run --resume {state.optimization_id}{option}` goes on with it"
    if is_parked(state):
        return f"it is {state.status.value}; {resume}"
    problem = nobody_works_on(store, state)
    return f"{problem}; {resume}" if problem else ""
