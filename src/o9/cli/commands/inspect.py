"""`list`, `show` and `trials`: read the record, print a page or JSON. Nothing here imports Prefect."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator, Sequence
from itertools import islice
from typing import Any

from o9.cli.console import emit, results, say, write_json, write_json_list
from o9.cli.open_store import existing_optimization, existing_store, option_for, place_of
from o9.cli.session.follow import crew_of, is_watched
from o9.cli.views import words
from o9.cli.views.optimizations import Record, list_view, record_view, trials_view
from o9.cli.views.words import command
from o9.health.grades import Verdict
from o9.health.kept import kept_verdict, kept_verdicts
from o9.health.verdict_words import document
from o9.lifecycle.effect import direction_of
from o9.model.optimization import OptimizationState
from o9.model.states import ACTIVE, OptimizationStatus, OptimizationType
from o9.model.trial import Trial
from o9.store import queries
from o9.store.optimizations.queries import Filter
from o9.store.store import Store
from o9.text.escape import shown

LIST_LIMIT = 50
TRIALS_LIMIT = 20
PAGE = 500
PAGE_WIDTH = 120  # beyond it, a page of text is hard to read


def list_optimizations(
    url: str | None,
    status: OptimizationStatus | None,
    kind: OptimizationType | None,
    limit: int | None,
    *,
    as_json: bool,
    placebos: bool = False,
) -> int:
    with existing_store(url) as store:
        wanted = limit or LIST_LIMIT
        fits = Filter(status, kind, placebos=placebos)
        found = _newest_first(store, fits, PAGE if as_json else min(PAGE, wanted + 1))
        if as_json:
            write_json_list(state.to_dict() | {"grade": _grade(verdict)} for state, verdict in islice(found, limit))
            return 0
        judged = list(islice(found, wanted))
        newest = [state for state, _ in judged]
        console = results()
        if not newest:
            say("none is so" if status or kind else "none yet; `o9 demo` or `o9 run FILE.yaml` makes some")
            return 0
        lost = _lost(store, newest)
        verdicts = {state.optimization_id: verdict for state, verdict in judged if verdict is not None}
        emit(console, list_view(newest, console.width, lost, verdicts))
        if lost:
            stuck = [state for state in newest if state.optimization_id in lost]
            ours = [state.optimization_id for state in stuck if not is_watched(state)]
            again = f"`{command('run --resume', ours, option_for(url))}`, or any aggregator, goes on with what it held"
            fails = "an aggregator, once one runs, records how it ended"
            say(f"?  {'; '.join(dict.fromkeys(lost.values()))}: {again if ours else fails}")
        if next(found, None) is not None:
            say(f"the newest {wanted}; there are more: --limit N shows them")
    return 0


def show_optimization(url: str | None, optimization_id: str, *, as_json: bool) -> int:
    with existing_store(url) as store:
        record = read_record(store, optimization_id, option_for(url))
        if as_json:
            write_json(record_document(record))
        else:
            console = results()
            console.width = min(console.width, PAGE_WIDTH)
            emit(console, *record_view(record, console.width))
    return 0


def show_trials(url: str | None, optimization_id: str, limit: int | None, *, as_json: bool) -> int:
    with existing_store(url) as store:
        state = existing_optimization(store, optimization_id)
        if as_json:
            trials = ledger(store, optimization_id) if limit is None else _best_and_last(store, state, limit)[1]
            write_json_list(trial.to_dict() for trial in trials)
            return 0
        best, last, total = _best_and_last(store, state, limit or TRIALS_LIMIT)
        if not total:
            say(shown(f"{optimization_id} has no trials yet (it is {state.status.value})"))
            return 0
        console = results()
        emit(console, trials_view(state, best, last, console.width))
        if total > len(last):
            say(f"the last {len(last)} of {total} trials and the best (★); --limit N shows more, --json all")
    return 0


def read_record(store: Store, optimization_id: str, option: str = "") -> Record:
    """All that `show` needs, read at once; `option` makes the commands that it suggests read the same store."""
    state = existing_optimization(store, optimization_id)
    best, _, _ = _best_and_last(store, state, 0)
    return Record(
        state=state,
        holding=store.read(queries.holding, optimization_id),
        transitions=store.read(queries.transitions, optimization_id),
        asked=store.read(queries.intents, optimization_id),
        trial_counts=store.read(queries.trial_counts, optimization_id),
        best=best,
        crew=crew_of(store),
        store=place_of(store),
        option=option,
        verdict=kept_verdict(store, state),
    )


def record_document(record: Record) -> dict[str, Any]:
    """The state's fields, and beside them what only the store knows."""
    holding = record.holding
    return (
        record.state.to_dict()
        | {
            "intent": holding.intent if holding else None,
            "unmet": holding.unmet if holding else None,
            "attempt": holding.attempt if holding else None,
            "held_by": holding.lease_node if holding else None,
            "prefect_run_id": holding.prefect_run_id if holding else None,
            "best_trial": record.best.number if record.best else None,
            "trial_counts": record.trial_counts,
            "transitions": record.transitions,
            "intents": record.asked,
        }
        | document(record.verdict)
    )


def ledger(store: Store, optimization_id: str) -> Iterator[Trial]:
    """Every trial in the order of numbers, read in pages."""
    after = -1
    while page := store.read(queries.trials, optimization_id, after=after, limit=PAGE):
        yield from page
        after = page[-1].number


def _grade(verdict: Verdict | None) -> str | None:
    return verdict.grade.value if verdict else None


def _lost(store: Store, states: Sequence[OptimizationState]) -> dict[str, str]:
    """Those of which the record says that they run, and whose node is gone; why it is thought so."""
    active = [state.optimization_id for state in states if state.status in ACTIVE]
    if not active:
        return {}
    crew = crew_of(store)
    return {name: problem for name in active if (problem := crew.lost(store.read(queries.holding, name)))}


def _newest_first(store: Store, wanted: Filter, page_size: int) -> Iterator[tuple[OptimizationState, Verdict | None]]:
    """Each with its verdict, which is read with its page."""
    cursor = None
    while True:
        page = store.read(queries.page, wanted=wanted, limit=page_size, cursor=cursor)
        verdicts = kept_verdicts(store, page.items)
        yield from ((state, verdicts.get(state.optimization_id)) for state in page.items)
        cursor = page.next_cursor
        if cursor is None:
            return


def _best_and_last(store: Store, state: OptimizationState, wanted: int | None) -> tuple[Trial | None, list[Trial], int]:
    """The best trial, the last `wanted` ones, and how many there are."""
    direction, total = direction_of(state), 0
    best: Trial | None = None
    last: deque[Trial] = deque(maxlen=wanted)
    for trial in ledger(store, state.optimization_id):
        best = words.better(best, trial, direction)
        last.append(trial)
        total += 1
    return best, list(last), total
