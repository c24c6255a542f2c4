"""`pause`, `resume`, `cancel`, `start` and `retry`: record an intent, which the node that runs the optimization carries
out.

Contract. The store changes the status of an optimization that does not run at once; one that runs learns of the intent
through the store, in whichever process. `answer_to` is pure, and claims only what is certain. Only `resume --here`
imports Prefect.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Sequence
from typing import Annotated

import typer

from o9.cli.failures import Interrupted, help_only
from o9.cli.options import Id, Ids, Json, MaxConcurrent, StoreUrl
from o9.model.errors import OptimizationError, OptimizationStateError
from o9.model.states import ACTIVE, ENDED, Intent, OptimizationStatus

if not help_only:
    from o9.cli.answers import SUCCESSFUL, Answer, Outcome, conclude, print_answer, who
    from o9.cli.batch import import_from_here
    from o9.cli.console import show, write_json
    from o9.cli.open_store import existing_optimization, existing_store, holding_of, option_for
    from o9.cli.session.follow import HALTED, POLL_SECONDS, Nodes, is_watched, nodes_of
    from o9.cli.views.words import Next, command
    from o9.lifecycle.control import Verb, control_of
    from o9.store import queries
    from o9.store.optimizations.queries import Holding
    from o9.store.store import Store
    from o9.text.escape import one_line


WAIT_SECONDS = 60.0
Wait = Annotated[bool, typer.Option("--wait", help="Wait until it takes effect; exit 1 after --timeout.")]
Timeout = Annotated[
    float | None,
    typer.Option("--timeout", min=0, metavar="SECONDS", help=f"How long to wait.  [default: {WAIT_SECONDS:g}]"),
]


def pause(ids: Ids, wait: Wait = False, timeout: Timeout = None, store: StoreUrl = None, json: Json = False) -> int:
    return _control(Verb.PAUSE, ids, wait, timeout, store, json)


def resume(
    ids: Ids,
    here: Annotated[
        bool, typer.Option("--here", help="Run them in this process, with progress, until they end.")
    ] = False,
    max_concurrent: MaxConcurrent = 10,
    wait: Wait = False,
    timeout: Timeout = None,
    store: StoreUrl = None,
    json: Json = False,
) -> int:
    """Resumed optimizations continue after their last committed step."""
    if not here:
        return _control(Verb.RESUME, ids, wait, timeout, store, json)
    if wait:
        raise typer.BadParameter("--here already waits for the end: omit --wait")
    from o9.cli.commands.run import resume_here

    return resume_here(ids, store, max_concurrent, as_json=json)


def cancel(ids: Ids, wait: Wait = False, timeout: Timeout = None, store: StoreUrl = None, json: Json = False) -> int:
    return _control(Verb.CANCEL, ids, wait, timeout, store, json)


def start(ids: Ids, wait: Wait = False, timeout: Timeout = None, store: StoreUrl = None, json: Json = False) -> int:
    return _control(Verb.START, ids, wait, timeout, store, json)


def _control(verb: Verb, ids: Sequence[str], wait: bool, timeout: float | None, url: str | None, as_json: bool) -> int:
    """Record the intent for each id, print what will happen, and wait for it if asked to."""
    if timeout is not None and not wait:
        raise typer.BadParameter("--timeout requires --wait")
    seconds = WAIT_SECONDS if timeout is None else timeout
    with existing_store(url) as store:
        answers = []
        for typed in dict.fromkeys(ids):
            answers.append(_ask(store, typed, verb, option_for(url)))
            print_answer(answers[-1], as_json=as_json)
        deadline = time.monotonic() + seconds
        for index, asked in enumerate(answers if wait else ()):
            if asked.outcome in SUCCESSFUL:
                answers[index] = _waited(store, asked, verb, deadline, seconds)
                if answers[index] != asked:
                    print_answer(answers[index], as_json=as_json)
    return conclude(answers, as_json=as_json)


def answer_to(
    verb: Verb,
    name: str,
    before: Holding,
    after: OptimizationStatus,
    nodes: Nodes,
    option: str = "",
    *,
    watched: bool = False,
) -> tuple[Outcome, str]:
    """Say what `verb` has done or will do. before: what was known when it was asked for; after: the status since."""
    known, runs = before.intent == verb.intent.value, verb.intent is Intent.RUN
    if after in ENDED or (verb is Verb.PAUSE and after in HALTED):
        if before.status == after.value:
            return Outcome.ALREADY, f"already {after.value}"
        return Outcome.DONE, after.value
    if runs and after is OptimizationStatus.CREATED and before.lease_node is None:
        already = known and OptimizationStatus(before.status) not in HALTED
        outlook = queue_outlook(name, before, nodes, option)
        return _asked(already), f"{'already ' if already else ''}queued; {outlook}"
    if watched:
        none = "" if any("limit" in info for info in nodes.alive.values()) else ", but none is running"
        return _asked(known), f"{after.value}; O9 only watches it; an aggregator cancels it through Prefect{none}"
    if lost := nodes.lost(before):
        then = f"the next aggregator that runs will {verb.value} it"
        return _asked(known and not runs), f"{after.value}, but {lost}; {then}"
    if runs:
        return (Outcome.ALREADY, f"already {after.value}") if known else (Outcome.DONE, f"{after.value}; it continues")
    if verb is Verb.PAUSE:
        return _asked(known), f"{after.value}; it will pause when its step is committed"
    return _asked(known), f"{after.value}; its running step is being stopped; the best so far is kept"


def _asked(already: bool) -> Outcome:
    return Outcome.ALREADY if already else Outcome.ASKED


def carried_out(verb: Verb, status: OptimizationStatus) -> bool | None:
    """Return whether it was carried out; None if it never will be."""
    if verb is Verb.PAUSE:
        return None if status in ENDED else status in HALTED
    if verb is Verb.CANCEL:
        return status is OptimizationStatus.CANCELLED or (None if status in ENDED else False)
    return None if status is OptimizationStatus.CANCELLED else status in ACTIVE or status in ENDED


def queue_outlook(name: str, holding: Holding, nodes: Nodes, option: str) -> str:
    """Say when a queued optimization will start, as far as that is known."""
    others = "another has" if holding.unmet == 1 else f"{holding.unmet} others have"
    when = f"it starts when {f'{others} completed' if holding.unmet else 'a slot is free'}"
    if nodes.takers(name):
        return when
    return f"{when}; no node runs queued optimizations now; `{command('resume --here', [name], option)}` runs it"


def _ask(store: Store, typed: str, verb: Verb, option: str) -> Answer:
    try:
        state = existing_optimization(store, typed)
    except OptimizationError as error:
        return Answer(typed, Outcome.UNKNOWN, str(error))
    name, before = state.optimization_id, holding_of(store, state.optimization_id)
    watched = is_watched(state)
    if watched and verb is not Verb.CANCEL:  # only Prefect can do that
        text = f"{name}: O9 only watches this flow; {verb.value} its run {before.prefect_run_id} in Prefect"
        return Answer(name, Outcome.REFUSED, text, before.status)
    try:
        after = asyncio.run(control_of(store).carry_out(verb, name, who()))
    except OptimizationStateError as error:
        text = one_line(str(error)).removeprefix(f"optimization {name!r}: ")
        return Answer(name, Outcome.REFUSED, f"{name}: {text}", _status_of(store, name).value)
    outcome, text = answer_to(verb, name, before, after, nodes_of(store), option, watched=watched)
    return Answer(name, outcome, f"{name}: {text}", after.value)


def _waited(store: Store, asked: Answer, verb: Verb, deadline: float, seconds: float) -> Answer:
    """Wait until it was carried out, never will be, or the time is up; return the new answer."""
    try:
        while (done := carried_out(verb, status := _status_of(store, asked.id))) is False:
            if time.monotonic() > deadline:
                break
            time.sleep(POLL_SECONDS)
    except KeyboardInterrupt:
        raise Interrupted("stopped waiting; the request remains pending") from None
    if done and asked.status == status.value:
        return asked
    outcome, text = Outcome.DONE, status.value
    if done is None:
        outcome, text = Outcome.TOO_LATE, f"it ended as {status.value} before it could {verb.value}"
    elif not done:
        outcome = Outcome.NOT_IN_TIME
        text = f"still {status.value} after {seconds:g} s; the request remains pending"
    return Answer(asked.id, outcome, f"{asked.id}: {text}", status.value)


def _status_of(store: Store, name: str) -> OptimizationStatus:
    return OptimizationStatus(holding_of(store, name).status)


def retry(
    optimization_id: Id,
    from_step: Annotated[
        int | None, typer.Option(min=0, metavar="N", help="Continue after step N; 0 starts from scratch.")
    ] = None,
    new_id: Annotated[str | None, typer.Option("--id", metavar="NEW", help="Id of the new optimization.")] = None,
    store: StoreUrl = None,
    json: Json = False,
) -> None:
    """The new optimization keeps the seed and the trials up to step N. By default, N is the last committed step, not
    counting steps at the end whose trials all failed, or 0 if the optimization completed.
    """
    import_from_here()
    with existing_store(store) as opened:
        origin = existing_optimization(opened, optimization_id)
        old = origin.optimization_id
        if is_watched(origin):
            raise OptimizationError(f"{old}: O9 only watched this flow; run it again in Prefect")
        if new_id is not None and opened.read(queries.get, new_id) is not None:
            raise OptimizationError(f"optimization {new_id!r} already exists; choose another --id, or omit it")
        state = asyncio.run(control_of(opened).retry(old, from_step, new_id))
        holding, nodes = holding_of(opened, state.optimization_id), nodes_of(opened)
    if json:
        write_json(state.to_dict())
        return
    new, steps, option = state.optimization_id, state.completed_steps, option_for(store)
    begins = f"continues after step {steps} of {old}, with its trials" if steps else "starts from scratch"
    show(f"{new}: queued; it {begins}", queue_outlook(new, holding, nodes, option), "")
    commands = (("watch", "follows the progress"), ("show", "shows the result"))
    show(Next([(command(verb, [new], option), meaning) for verb, meaning in commands]))
