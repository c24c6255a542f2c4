"""`list`, `show`, `trials` and `logs`: read the record and print a page, JSON or CSV. Nothing here imports Prefect."""

from __future__ import annotations

import sys
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from enum import Enum
from itertools import islice
from operator import attrgetter, itemgetter
from typing import Annotated, Any

import typer

from o9.cli.failures import help_only
from o9.cli.options import Id, Json, Limit, Since, Statuses, StoreUrl, Type
from o9.model.errors import OptimizationError
from o9.model.states import ACTIVE, OptimizationStatus

if not help_only:
    from rich.text import Text

    from o9.cli.console import NONE_YET, page_width, results, say, say_more, write_json, write_json_list
    from o9.cli.console import show as show_
    from o9.cli.open_store import existing_optimization, existing_store, option_for, place_of
    from o9.cli.session.follow import nodes_of
    from o9.cli.views import words
    from o9.cli.views.optimizations import Details, list_view, record_view, trials_view
    from o9.cli.views.words import command
    from o9.health.grades import kept_verdict, kept_verdicts
    from o9.health.series_runs import RUNS, SeriesRun, with_changes
    from o9.health.wording import document
    from o9.lifecycle.effect import direction_of
    from o9.model.optimization import OptimizationState
    from o9.model.trial import Trial
    from o9.statistics import frames, rows
    from o9.store import queries
    from o9.store.core.column_types import moment
    from o9.store.core.component import all_optimizations
    from o9.store.core.reading import paged
    from o9.store.core.unit import Row
    from o9.store.optimizations.outputs import OF_NO_TRIAL
    from o9.store.optimizations.queries import Filter
    from o9.store.store import Store
    from o9.text.escape import shown


LIST_LIMIT = 50
TRIALS_LIMIT = 20
PAGE = 500


class Sort(str, Enum):
    """What `list` can sort by."""

    CREATED = "created"
    ENDED = "ended"
    NAME = "name"
    STATUS = "status"
    BEST = "best"
    IMPROVEMENT = "improvement"
    TIME = "time"


class TrialSort(str, Enum):
    """What `trials` can sort by."""

    NUMBER = "number"
    VALUE = "value"
    TIME = "time"


# The newest, the largest and the alphabetically first come first; missing values come last.
_SORTED: dict[Sort, Callable[[OptimizationState], Any]] = {
    Sort.ENDED: lambda state: -state.completed_at.timestamp() if state.completed_at else None,
    Sort.NAME: lambda state: state.name.casefold(),
    Sort.STATUS: lambda state: state.status.value,
    Sort.BEST: lambda state: None if (best := words.best_value(state)) is None else -best,
    Sort.IMPROVEMENT: lambda state: -state.performance_improvement if words.has_gain(state) else None,
    Sort.TIME: lambda state: -state.execution_time or None,
}


def list_(
    status: Statuses = None,
    kind: Type = None,
    name: Annotated[str | None, typer.Option(metavar="TEXT", help="Filter by part of the name or id.")] = None,
    objective: Annotated[str | None, typer.Option(metavar="TEXT", help="Filter by part of the objective.")] = None,
    family: Annotated[str | None, typer.Option(metavar="FAMILY", help="Filter by family.")] = None,
    series: Annotated[
        str | None, typer.Option(metavar="NAME", help="List the runs of one recurring optimization.")
    ] = None,
    since: Since = None,
    sort: Annotated[
        Sort, typer.Option(metavar="KEY", help=f"Sort by {', '.join(Sort)}.", case_sensitive=False)
    ] = Sort.CREATED,
    everything: Annotated[bool, typer.Option("--all", help="Include placebo runs.")] = False,
    limit: Limit = None,
    store: StoreUrl = None,
    json: Json = False,
) -> None:
    """Prints the newest 50, unless --limit or --json is given. Filters combine. A `?` after a status means that its
    node is gone.
    """
    statuses = status or []
    wanted = Filter(
        status=statuses[0] if len(statuses) == 1 else None, optimization_type=kind, family=family, series=series,
        text=name, created_after=moment(since) if since else None, placebos=everything,
    )  # fmt: skip
    with existing_store(store) as opened:
        room = limit or (None if json else LIST_LIMIT)
        picked = objective is not None or len(statuses) > 1 or sort is not Sort.CREATED
        size = PAGE if picked or room is None else min(PAGE, room + 1)
        found: Iterable[SeriesRun] = _newest_first(opened, wanted, size)
        if len(statuses) > 1:
            found = (run for run in found if run.state.status in statuses)
        if objective is not None:
            text = objective.casefold()
            found = (run for run in found if text in str(run.state.metadata.get("objective", "")).casefold())
        if sort is Sort.CREATED and room is not None:
            # More than are shown: to know whether there are more, and for the changes.
            found = islice(found, room + (1 if series is None else RUNS))
        if series is not None:
            found = with_changes(list(found))
        if sort is not Sort.CREATED:
            key = _SORTED[sort]
            found = sorted(found, key=lambda run: ((value := key(run.state)) is None, value))
        if json:
            write_json_list(_document(run, in_series=series is not None) for run in islice(found, limit))
            return
        runs = list(found)
        if not runs:
            filtered = wanted != Filter(placebos=everything) or objective is not None or statuses
            say("no optimization matches" if filtered else NONE_YET)
            return
        lost = _lost(opened, [run.state for run in runs[:room]])
        show_(list_view(runs[:room], results().width, lost, series=series is not None))
        if lost:
            again = command("resume --here", list(lost), option_for(store))
            why = "; ".join(dict.fromkeys(lost.values()))
            say(f"?  {why}; `{again}`, or any aggregator, continues its work")
        say_more(len(runs), room)


def show(optimization_id: Id, store: StoreUrl = None, json: Json = False) -> None:
    """Prints the verdict, the facts and the history."""
    with existing_store(store) as opened:
        record = read_record(opened, optimization_id, option_for(store))
    if json:
        write_json(record_document(record))
    else:
        show_(*record_view(record), width=page_width())


def trials(
    optimization_id: Id,
    sort: Annotated[
        TrialSort | None,
        typer.Option(metavar="KEY", help="Sort by number, value (best first) or time (longest first)."),
    ] = None,
    top: Annotated[
        int | None, typer.Option(min=1, metavar="N", help="Print the best N, like --sort value --limit N.")
    ] = None,
    limit: Limit = None,
    csv: Annotated[bool, typer.Option("--csv", help="Print CSV with a column for each parameter and metric.")] = False,
    store: StoreUrl = None,
    json: Json = False,
) -> None:
    """Prints the last 20 trials and the best one, unless --limit, --top, --csv or --json is given."""
    if csv and json:
        raise typer.BadParameter("--csv and --json exclude each other")
    if top is not None and (limit is not None or sort not in (None, TrialSort.VALUE)):
        raise typer.BadParameter("--top N means --sort value --limit N: omit those")
    sort, limit = (TrialSort.VALUE, top) if top is not None else (sort or TrialSort.NUMBER, limit)
    with existing_store(store) as opened:
        state = existing_optimization(opened, optimization_id)
        name, limit = state.optimization_id, limit if csv or json else limit or TRIALS_LIMIT
        ledger = paged(lambda after: opened.read(queries.trials, name, after, PAGE), attrgetter("number"), -1)
        chosen = _chosen(ledger, state, sort, limit)
        if json:
            write_json_list(trial.to_dict() for trial in chosen)
            return
        listed, best = list(chosen), _best(opened, state)
        total = sum(opened.read(queries.trial_counts, name).values())
    if csv:
        frames.frame_of("trials", [rows.trial(name, trial) for trial in listed]).to_csv(sys.stdout, index=False)
    elif not listed:
        say(f"{name} ({state.status.value}): no trials yet")
    else:
        show_(trials_view(best, listed))
        if total > len(listed):
            which = {TrialSort.NUMBER: "the last", TrialSort.VALUE: "the best", TrialSort.TIME: "the longest"}[sort]
            more = "--limit" if top is None else "--top"
            say(f"{which} {len(listed)} of {total} trials (★ is the best); {more} N shows more, --json shows all")


def read_record(store: Store, optimization_id: str, option: str = "") -> Details:
    """Read everything that `show` needs. option: added to the suggested commands, so that they use the same store."""
    state = existing_optimization(store, optimization_id)
    optimization_id = state.optimization_id
    return Details(
        state=state,
        holding=store.read(queries.holding, optimization_id),
        transitions=store.read(queries.transitions, optimization_id),
        intents=store.read(queries.intents, optimization_id),
        trial_counts=store.read(queries.trial_counts, optimization_id),
        best=_best(store, state),
        nodes=nodes_of(store),
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


def _lost(store: Store, states: Sequence[OptimizationState]) -> dict[str, str]:
    """Return those recorded as active whose node is gone, with the reason."""
    active = [state.optimization_id for state in states if state.status in ACTIVE]
    if not active:
        return {}
    nodes = nodes_of(store)
    return {name: problem for name in active if (problem := nodes.lost(store.read(queries.holding, name)))}


def _newest_first(store: Store, wanted: Filter, page_size: int) -> Iterator[SeriesRun]:
    """Yield the optimizations with their verdicts, read page by page. A failed one has no result to judge."""
    states = all_optimizations(store, wanted, page_size)
    while page := list(islice(states, page_size)):
        verdicts = kept_verdicts(store, [each for each in page if each.status is not OptimizationStatus.FAILED])
        yield from (SeriesRun(each, verdicts.get(each.optimization_id)) for each in page)


def _document(run: SeriesRun, *, in_series: bool) -> dict[str, Any]:
    found = run.state.to_dict() | {"grade": run.verdict.grade.value if run.verdict else None}
    return found | {"change": run.change, "hold_out": run.hold_out} if in_series else found


def _best(store: Store, state: OptimizationState) -> Trial | None:
    return next(iter(store.read(queries.best_trials, state.optimization_id, direction_of(state), 1)), None)


def _chosen(trials: Iterable[Trial], state: OptimizationState, sort: TrialSort, limit: int | None) -> Iterable[Trial]:
    """Return at most `limit` trials, sorted. Those without a value come last."""
    if sort is TrialSort.NUMBER:
        return trials if limit is None else deque(trials, maxlen=limit)
    sign = -1 if sort is TrialSort.TIME or direction_of(state) == "maximize" else 1

    def place(trial: Trial) -> tuple[bool, float]:
        value = trial.duration_seconds if sort is TrialSort.TIME else trial.value
        return value is None, sign * (value or 0.0)

    return sorted(trials, key=place)[:limit]


LOGS_KEYS = ("step", "trial", "text", "cut")


def logs(
    optimization_id: Id,
    trial: Annotated[int | None, typer.Option(min=0, metavar="N", help="Print only the output of trial N.")] = None,
    store: StoreUrl = None,
    json: Json = False,
) -> None:
    """O9 keeps the first 64 KiB of each trial, and 16 MiB of each optimization."""
    with existing_store(store) as opened:
        state = existing_optimization(opened, optimization_id)
        name = state.optimization_id
        if trial is not None and opened.read(queries.trial, name, trial) is None:
            count = sum(opened.read(queries.trial_counts, name).values())
            numbers = f"its trials are 0 to {count - 1}" if count else "it has none yet"
            raise OptimizationError(f"{name} has no trial {trial}; {numbers}")
        place, start = itemgetter("step", "number"), (-1, OF_NO_TRIAL)
        found = paged(lambda after: opened.read(queries.outputs, name, trial, after, PAGE), place, start)
        if json:
            write_json_list({key: row[key] for key in LOGS_KEYS} for row in found)
            return
        nothing = True
        for row in found:
            nothing = False
            whose = "" if trial is not None else f"{_whose(row)}: "
            show_(*(Text(whose + shown(line.expandtabs())) for line in row["text"].splitlines()))
            if row["cut"]:
                say(f"{_whose(row)} printed {row['cut']:,} more bytes, which are not kept")
    if nothing:
        whose = "" if trial is None else f" of trial {trial}"
        say(f"{name} ({state.status.value}): no output{whose}")


def _whose(row: Row) -> str:
    return f"step {row['step']}" if row["trial"] is None else f"trial {row['trial']}"
