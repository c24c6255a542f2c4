"""`pause`, `resume`, `cancel`, `start`: record what a person wants; whoever runs the optimization carries it out.

Contract. What is at rest is moved at once, by the store; what runs hears of it through the store, in whichever
process that is. `answer_to` is pure, and says what is true then, never more. Asking for
what is so already, or was asked for already, is no error. Each id is answered for itself; one that is unknown or
forbids it makes the exit code 1 and keeps nothing from the others. Nothing here imports Prefect.
"""

from __future__ import annotations

import asyncio
import getpass
import os
import socket
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from enum import Enum

from rich.text import Text

from o9.cli.console import emit, results, say, write_json
from o9.cli.failures import DONE, ERROR, Interrupted
from o9.cli.open_store import existing_store, option_for, unknown_id
from o9.cli.session.follow import PARKED, POLL_SECONDS, Crew, crew_of, is_watched
from o9.cli.views.words import command
from o9.lifecycle.control import Verb, control_of
from o9.model.errors import OptimizationStateError
from o9.model.states import ACTIVE, ENDED, Intent, OptimizationStatus
from o9.store import queries
from o9.store.optimizations.queries import Holding
from o9.store.store import Store
from o9.text.escape import one_line, shown


class Outcome(str, Enum):
    """What became of it."""

    DONE = "done"
    ASKED = "asked"
    ALREADY = "already"
    REFUSED = "refused"
    UNKNOWN = "unknown"
    TOO_LATE = "too late"
    NOT_IN_TIME = "not in time"


_BECOMES = {Verb.PAUSE: "paused", Verb.CANCEL: "cancelled"}
FINE = frozenset({Outcome.DONE, Outcome.ASKED, Outcome.ALREADY})


@dataclass(frozen=True)
class Answer:
    """One line for one id; the fields are those of `--json`."""

    optimization_id: str
    asked: str
    outcome: str
    status: str | None
    message: str


def control(url: str | None, ids: Sequence[str], verb: Verb, *, wait_seconds: float | None, as_json: bool) -> int:
    """Ask, say what will happen, and wait for it where that is wanted."""
    with existing_store(url) as store:
        option, answers = option_for(url), []
        for name in dict.fromkeys(ids):
            answers.append(_ask(store, name, verb, option))
            _tell(answers[-1], as_json=as_json)
        if wait_seconds is not None:
            answers = _wait(store, answers, verb, wait_seconds, as_json=as_json)
    if as_json:
        write_json([asdict(answer) for answer in answers])
    return DONE if all(Outcome(answer.outcome) in FINE for answer in answers) else ERROR


def answer_to(
    verb: Verb,
    name: str,
    before: Holding,
    after: OptimizationStatus,
    crew: Crew,
    option: str = "",
    *,
    watched: bool = False,
) -> tuple[Outcome, str]:
    """What `verb` has done or will do. `before`: what was known when it was asked; `after`: the status since."""
    status = OptimizationStatus(before.status)
    if after in ENDED or (verb is Verb.PAUSE and after in PARKED):
        return _at_rest(verb, before, status, after)
    lost = crew.lost(before)
    known = before.intent == verb.intent.value
    if verb.intent is Intent.RUN:
        if after is OptimizationStatus.CREATED and before.lease_node is None:
            return _queued(name, before, status, crew, option)
        goes = "it goes on" if known else "it goes on: the pause that was asked for is taken back"
        if lost:
            return Outcome.ASKED, f"{after.value}, but {lost}; {goes} when an aggregator runs"
        return (Outcome.ALREADY if known else Outcome.DONE), f"{_working(after)}{' already' if known else f'; {goes}'}"
    outcome = Outcome.ALREADY if known else Outcome.ASKED
    if watched:
        none = "" if crew.takes_work else ", and none runs now"
        return outcome, f"{after.value}; O9 only watches it: an aggregator asks Prefect to cancel it{none}"
    if lost:
        return outcome, f"{after.value}, but {lost}; it will be {_BECOMES[verb]} when an aggregator runs"
    if verb is Verb.CANCEL:
        return outcome, f"{_working(after)}; its step is being cut off, the best so far is kept"
    step = "its step" if after is OptimizationStatus.RUNNING else "its first step"
    return outcome, f"{_working(after)}; it will pause when {step} is committed"


def carried_out(verb: Verb, status: OptimizationStatus) -> bool | None:
    """Is it so? None: it never will be."""
    if verb is Verb.PAUSE:
        return None if status in ENDED else status in PARKED
    if verb is Verb.CANCEL:
        return status is OptimizationStatus.CANCELLED or (None if status in ENDED else False)
    return None if status is OptimizationStatus.CANCELLED else status in ACTIVE or status in ENDED


def queue_outlook(name: str, holding: Holding, crew: Crew, option: str) -> str:
    """When what waits in the queue will start, as far as that can be said."""
    when = "it starts when a slot is free"
    if holding.unmet:
        others = "another has" if holding.unmet == 1 else f"{holding.unmet} others have"
        when = f"it starts when {others} completed"
    if crew.takers(name):
        return when
    return f"{when}; nobody runs what is queued now, `{command('run --resume', [name], option)}` does"


def who() -> str:
    """Who asks, for the record."""
    try:
        user = getpass.getuser()
    except (OSError, KeyError):  # a container's user may have no name
        user = str(os.getuid())
    return f"o9, {user}@{socket.gethostname()}"


def _at_rest(verb: Verb, before: Holding, status: OptimizationStatus, after: OptimizationStatus) -> tuple[Outcome, str]:
    if status is OptimizationStatus.SUSPENDED and after is status:
        return Outcome.ALREADY, "suspended; it stays so until somebody resumes it"
    if status is after:
        return Outcome.ALREADY, f"{after.value} already"
    if status in ACTIVE:
        return Outcome.DONE, f"{after.value}; nobody was at work on it"
    if before.attempt == 0:
        return Outcome.DONE, f"{after.value}; it had not begun"
    return Outcome.DONE, f"{after.value}; {'the best so far is kept' if verb is Verb.CANCEL else 'it was waiting'}"


def _queued(name: str, before: Holding, status: OptimizationStatus, crew: Crew, option: str) -> tuple[Outcome, str]:
    when = queue_outlook(name, before, crew, option)
    if status in PARKED:
        return Outcome.ASKED, f"queued again; {when}"
    if before.intent == Intent.RUN.value:
        return Outcome.ALREADY, f"queued already; {when}"
    return Outcome.ASKED, f"queued; {when}"


def _working(status: OptimizationStatus) -> str:
    return "running" if status is OptimizationStatus.RUNNING else "about to start"


def _ask(store: Store, name: str, verb: Verb, option: str) -> Answer:
    state, before = store.read(queries.get, name), store.read(queries.holding, name)
    if state is None or before is None:
        return Answer(name, verb.value, Outcome.UNKNOWN.value, None, unknown_id(store, name))
    watched = is_watched(state)
    if watched and verb is not Verb.CANCEL:  # that one Prefect can be asked for
        text = f"{name}: O9 only watches this flow; {verb.value} its run {before.prefect_run_id} in Prefect"
        return Answer(name, verb.value, Outcome.REFUSED.value, before.status, text)
    try:
        after = asyncio.run(control_of(store).carry_out(verb, name, who()))
    except OptimizationStateError as error:
        text = one_line(str(error)).removeprefix(f"optimization {name!r}: ")
        return Answer(name, verb.value, Outcome.REFUSED.value, _status_of(store, name).value, f"{name}: {text}")
    outcome, text = answer_to(verb, name, before, after, crew_of(store), option, watched=watched)
    return Answer(name, verb.value, outcome.value, after.value, f"{name}: {text}")


def _wait(store: Store, answers: Sequence[Answer], verb: Verb, seconds: float, *, as_json: bool) -> list[Answer]:
    """Until each that was asked is as wanted, or the time is over."""
    deadline = time.monotonic() + seconds
    done = dict(enumerate(answers))
    open_ends = [index for index, answer in done.items() if Outcome(answer.outcome) in FINE]
    try:
        while open_ends:
            in_time = time.monotonic() < deadline
            for index in list(open_ends):
                asked = answers[index]
                status = _status_of(store, asked.optimization_id)
                so = carried_out(verb, status)
                if so is False and in_time:
                    continue
                open_ends.remove(index)
                done[index] = ended = _after_waiting(asked, status, so, seconds)
                if ended != asked:
                    _tell(ended, as_json=as_json)
            if open_ends:
                time.sleep(POLL_SECONDS)
    except KeyboardInterrupt:
        raise Interrupted("stopped waiting; what was asked for stays asked for") from None
    return list(done.values())


def _after_waiting(asked: Answer, status: OptimizationStatus, so: bool | None, seconds: float) -> Answer:
    name = asked.optimization_id
    if so and asked.status == status.value:
        return asked
    if so:
        return Answer(name, asked.asked, Outcome.DONE.value, status.value, f"{name}: {status.value}")
    if so is None:
        text = f"{name}: it ended as {status.value} before it could {asked.asked}"
        return Answer(name, asked.asked, Outcome.TOO_LATE.value, status.value, text)
    text = f"{name}: still {status.value} after {seconds:g} s; what was asked for stays asked for"
    return Answer(name, asked.asked, Outcome.NOT_IN_TIME.value, status.value, text)


def _status_of(store: Store, name: str) -> OptimizationStatus:
    holding = store.read(queries.holding, name)
    assert holding is not None, "what is recorded stays recorded"
    return OptimizationStatus(holding.status)


def _tell(answer: Answer, *, as_json: bool) -> None:
    if Outcome(answer.outcome) not in FINE:
        say(f"o9: {shown(answer.message)}")
    elif not as_json:
        emit(results(), Text(shown(answer.message)))
