"""`list`, `show`, `trials` and `logs`: read the record, print a page, JSON or CSV. Nothing here imports Prefect."""

from __future__ import annotations

import sys
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from enum import Enum
from itertools import islice
from typing import Annotated, Any, TypeAlias

import typer

from o9.cli import failures
from o9.cli.options import Id, Json, Limit, Since, Statuses, StoreUrl, Type
from o9.model.errors import OptimizationError
from o9.model.states import ACTIVE, OptimizationStatus

if not failures.help_only:
    from rich.text import Text

    from o9.cli.console import page_width, results, say, write_json, write_json_list
    from o9.cli.console import show as show_
    from o9.cli.open_store import existing_optimization, existing_store, option_for, place_of
    from o9.cli.session.follow import crew_of
    from o9.cli.views import words
    from o9.cli.views.optimizations import Details, list_view, record_view, series_view, trials_view
    from o9.cli.views.words import command
    from o9.health.grades import Verdict
    from o9.health.kept import kept_verdict, kept_verdicts
    from o9.health.series_runs import with_changes
    from o9.health.wording import document
    from o9.lifecycle.effect import direction_of
    from o9.model.optimization import OptimizationState
    from o9.model.trial import Trial
    from o9.statistics import frames, rows
    from o9.store import queries
    from o9.store.core.column_types import moment
    from o9.store.core.unit import Row
    from o9.store.optimizations.outputs import OF_NO_TRIAL
    from o9.store.optimizations.queries import Filter
    from o9.store.store import Store
    from o9.text.escape import shown
    from o9.text.format import NOTHING


LIST_LIMIT = 50
TRIALS_LIMIT = 20
PAGE = 500
Judged: TypeAlias = "tuple[OptimizationState, Verdict | None]"


class Sort(str, Enum):
    """By what `list` sorts."""

    CREATED = "created"
    ENDED = "ended"
    NAME = "name"
    STATUS = "status"
    BEST = "best"
    IMPROVEMENT = "improvement"
    TIME = "time"


class TrialSort(str, Enum):
    """By what `trials` sorts."""

    NUMBER = "number"
    VALUE = "value"
    TIME = "time"


# The newest, the largest and the alphabetically first come first; what has none comes last.
_SORTED: dict[Sort, Callable[[OptimizationState], Any]] = {
    Sort.ENDED: lambda state: -state.completed_at.timestamp() if state.completed_at else None,
    Sort.NAME: lambda state: state.name.casefold(),
    Sort.STATUS: lambda state: state.status.value,
    Sort.BEST: lambda state: None if (best := words.best_value(state)) is None else -best,
    Sort.IMPROVEMENT: lambda state: None if words.improvement(state) == NOTHING else -state.performance_improvement,
    Sort.TIME: lambda state: -state.execution_time or None,
}


def list_(
    status: Statuses = None,
    kind: Type = None,
    name: Annotated[
        str | None, typer.Option("--name", metavar="TEXT", help="Filter by part of the name or id.")
    ] = None,
    objective: Annotated[
        str | None, typer.Option("--objective", metavar="TEXT", help="Filter by part of the objective.")
    ] = None,
    family: Annotated[str | None, typer.Option("--family", metavar="FAMILY", help="Filter by family.")] = None,
    series: Annotated[
        str | None, typer.Option("--series", metavar="NAME", help="The runs of a recurring optimization, with changes.")
    ] = None,
    since: Since = None,
    sort: Annotated[
        Sort, typer.Option("--sort", metavar="KEY", help=f"Sort by {', '.join(Sort)}.", case_sensitive=False)
    ] = Sort.CREATED,
    everything: Annotated[bool, typer.Option("--all", help="Include placebo runs.")] = False,
    limit: Limit = None,
    store: StoreUrl = None,
    json: Json = False,
) -> int:
    """Newest first; the first 50, unless --limit or --json. Filters add up. `?` behind a status: its node is gone."""
    statuses = status or []
    wanted = Filter(
        status=statuses[0] if len(statuses) == 1 else None, optimization_type=kind, family=family, series=series,
        text=name, created_after=moment(since) if since else None, placebos=everything,
    )  # fmt: skip
    filtered = wanted != Filter(placebos=everything) or objective is not None or bool(statuses)
    with existing_store(store) as opened:
        room = limit or LIST_LIMIT
        whole = json or objective is not None or len(statuses) > 1 or sort is not Sort.CREATED
        found = _newest_first(opened, wanted, PAGE if whole else min(PAGE, room + 1))
        if len(statuses) > 1:
            found = (each for each in found if each[0].status in statuses)
        if objective is not None:
            found = (each for each in found if objective.casefold() in _objective(each[0]).casefold())
        if sort is not Sort.CREATED:
            found = _sorted(found, _SORTED[sort])
        if json:
            write_json_list(state.to_dict() | {"grade": _grade(verdict)} for state, verdict in islice(found, limit))
            return 0
        judged = list(islice(found, room + 1))
        if not judged:
            say("none matches" if filtered else "none yet; `o9 demo` or `o9 run FILE.yaml` makes some")
            return 0
        runs = with_changes(judged) if series is not None and sort is Sort.CREATED else []
        more = len(judged) > room
        judged = judged[:room]
        states = [state for state, _ in judged]
        lost = _lost(opened, states)
        verdicts = {state.optimization_id: verdict for state, verdict in judged if verdict is not None}
        show_(series_view(runs[:room], lost) if runs else list_view(states, results().width, lost, verdicts))
        if lost:
            again = command("resume --here", list(lost), option_for(store))
            why = "; ".join(dict.fromkeys(lost.values()))
            say(f"?  {why}: `{again}`, or any aggregator, goes on with what it held")
        if more:
            say(f"the first {room}; there are more: --limit N shows them")
    return 0


def show(optimization_id: Id, store: StoreUrl = None, json: Json = False) -> int:
    """What may be believed of the result, then the facts and the history."""
    with existing_store(store) as opened:
        record = read_record(opened, optimization_id, option_for(store))
    if json:
        write_json(record_document(record))
    else:
        show_(*record_view(record), width=page_width())
    return 0


def trials(
    optimization_id: Id,
    sort: Annotated[
        TrialSort | None,
        typer.Option("--sort", metavar="KEY", help="Sort by number, value (best first) or time (longest first)."),
    ] = None,
    top: Annotated[
        int | None, typer.Option("--top", min=1, metavar="N", help="The best N: --sort value --limit N.")
    ] = None,
    limit: Limit = None,
    csv: Annotated[bool, typer.Option("--csv", help="Print CSV, a column for each parameter and metric.")] = False,
    store: StoreUrl = None,
    json: Json = False,
) -> int:
    """The last 20 trials and the best, unless --limit, --top, --csv or --json."""
    if csv and json:
        raise typer.BadParameter("--csv and --json are two formats: give one of them")
    if top is not None and (limit is not None or sort not in (None, TrialSort.VALUE)):
        raise typer.BadParameter("--top N is --sort value --limit N: give it alone")
    sort, limit = (TrialSort.VALUE, top) if top is not None else (sort or TrialSort.NUMBER, limit)
    with existing_store(store) as opened:
        state = existing_optimization(opened, optimization_id)
        limit = limit if csv or json else limit or TRIALS_LIMIT
        chosen = _chosen(ledger(opened, state.optimization_id), state, sort, limit)
        if json:
            write_json_list(trial.to_dict() for trial in chosen)
            return 0
        listed, best = list(chosen), _best(opened, state)
        total = sum(opened.read(queries.trial_counts, state.optimization_id).values())
    if csv:
        frame = frames.frame_of("trials", [rows.trial(state.optimization_id, trial) for trial in listed])
        frame.to_csv(sys.stdout, index=False)
    elif not listed:
        say(f"{state.optimization_id} has no trials yet (it is {state.status.value})")
    else:
        show_(trials_view(best, listed))
        if total > len(listed):
            which = {TrialSort.NUMBER: "the last", TrialSort.VALUE: "the best", TrialSort.TIME: "the longest"}[sort]
            more = "--limit" if top is None else "--top"
            say(f"{which} {len(listed)} of {total} trials (★ is the best); {more} N shows more, --json all")
    return 0


def read_record(store: Store, optimization_id: str, option: str = "") -> Details:
    """All that `show` needs, read at once; `option` makes the commands that it suggests read the same store."""
    state = existing_optimization(store, optimization_id)
    optimization_id = state.optimization_id
    return Details(
        state=state,
        holding=store.read(queries.holding, optimization_id),
        transitions=store.read(queries.transitions, optimization_id),
        intents=store.read(queries.intents, optimization_id),
        trial_counts=store.read(queries.trial_counts, optimization_id),
        best=_best(store, state),
        crew=crew_of(store),
        store=place_of(store),
        option=option,
        verdict=kept_verdict(store, state),
    )


def record_document(record: Details) -> dict[str, Any]:
    """The state's fields, and what only the store knows."""
    held = vars(record.holding) if record.holding else {}
    return (
        record.state.to_dict()
        | {name: held.get(name) for name in ("intent", "unmet", "attempt", "prefect_run_id")}
        | {
            "held_by": held.get("lease_node"),
            "best_trial": record.best.number if record.best else None,
            "trial_counts": record.trial_counts,
            "transitions": record.transitions,
            "intents": record.intents,
        }
        | document(record.verdict)
    )


def ledger(store: Store, optimization_id: str) -> Iterator[Trial]:
    """Every trial in the order of numbers, read in pages."""
    after = -1
    while page := store.read(queries.trials, optimization_id, after=after, limit=PAGE):
        yield from page
        after = page[-1].number


def _lost(store: Store, states: Sequence[OptimizationState]) -> dict[str, str]:
    """Those recorded as running whose node is gone, with the reason."""
    active = [state.optimization_id for state in states if state.status in ACTIVE]
    if not active:
        return {}
    crew = crew_of(store)
    return {name: problem for name in active if (problem := crew.lost(store.read(queries.holding, name)))}


def _newest_first(store: Store, wanted: Filter, page_size: int) -> Iterator[Judged]:
    """Each with its verdict, which is read with its page; one that failed has no result to judge."""
    cursor = None
    while True:
        page = store.read(queries.page, wanted=wanted, limit=page_size, cursor=cursor)
        verdicts = kept_verdicts(store, page.items)
        for state in page.items:
            yield state, None if state.status is OptimizationStatus.FAILED else verdicts.get(state.optimization_id)
        cursor = page.next_cursor
        if cursor is None:
            return


def _best(store: Store, state: OptimizationState) -> Trial | None:
    return next(iter(store.read(queries.best_trials, state.optimization_id, direction_of(state), 1)), None)


def _chosen(trials: Iterable[Trial], state: OptimizationState, sort: TrialSort, limit: int | None) -> Iterable[Trial]:
    """At most `limit` of them, in order; what has no value comes last."""
    if sort is TrialSort.NUMBER:
        return trials if limit is None else deque(trials, maxlen=limit)
    sign = -1 if sort is TrialSort.TIME or direction_of(state) == "maximize" else 1

    def place(trial: Trial) -> tuple[bool, float]:
        value = trial.duration_seconds if sort is TrialSort.TIME else trial.value
        return value is None, sign * (value or 0.0)

    return sorted(trials, key=place)[:limit]


def _sorted(found: Iterable[Judged], key: Callable[[OptimizationState], Any]) -> Iterator[Judged]:
    return iter(sorted(found, key=lambda each: ((value := key(each[0])) is None, value)))


def _objective(state: OptimizationState) -> str:
    return str(state.metadata.get("objective", ""))


def _grade(verdict: Verdict | None) -> str | None:
    return verdict.grade.value if verdict else None


LOGS_KEYS = ("step", "trial", "text", "cut")


def logs(
    optimization_id: Id,
    trial: Annotated[int | None, typer.Option("--trial", min=0, metavar="N", help="Of this trial alone.")] = None,
    store: StoreUrl = None,
    json: Json = False,
) -> int:
    """Of each trial the first 64 KiB are kept, of an optimization 16 MiB."""
    with existing_store(store) as opened:
        state = existing_optimization(opened, optimization_id)
        if trial is not None and opened.read(queries.trial, state.optimization_id, trial) is None:
            count = sum(opened.read(queries.trial_counts, state.optimization_id).values())
            numbers = f"its trials are 0 to {count - 1}" if count else "it has none yet"
            raise OptimizationError(f"{state.optimization_id} has no trial {trial}; {numbers}")
        found = _outputs(opened, state.optimization_id, trial)
        if json:
            write_json_list({name: row[name] for name in LOGS_KEYS} for row in found)
            return 0
        nothing = True
        for row in found:
            nothing = False
            whose = "" if trial is not None else f"{_whose(row)}: "
            show_(*(Text(whose + shown(line.expandtabs())) for line in row["text"].splitlines()))
            if row["cut"]:
                say(f"{_whose(row)} printed {row['cut']:,} bytes more, which are not kept")
    if nothing:
        whose = "it has" if trial is None else f"its trial {trial} has"
        say(f"{state.optimization_id} is {state.status.value}; {whose} printed nothing")
    return 0


def _outputs(store: Store, optimization_id: str, trial: int | None) -> Iterator[Row]:
    after = (-1, OF_NO_TRIAL)
    while page := store.read(queries.outputs, optimization_id, number=trial, after=after, limit=PAGE):
        yield from page
        after = (page[-1]["step"], page[-1]["number"])


def _whose(row: Row) -> str:
    return f"step {row['step']}" if row["trial"] is None else f"trial {row['trial']}"
