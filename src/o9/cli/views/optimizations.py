"""The pages of `list`, `show` and `trials`, and the results at the end of a run. Pure: from records to renderables."""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime

from rich.cells import cell_len
from rich.console import RenderableType
from rich.table import Table
from rich.text import Text

from o9.cli.console import Cells, facts_table, indented, plain_table, table_of
from o9.cli.session.follow import HALTED, Nodes, is_watched, way_to_continue
from o9.cli.views import words
from o9.cli.views.history import Event, first_line, intent_text, merged
from o9.health.grades import Verdict
from o9.health.series_runs import SeriesRun
from o9.health.wording import NOT_JUDGED, forecast_sentence, paragraphs
from o9.model.optimization import OptimizationState, baseline_of, strategy_of
from o9.model.states import ENDED, Intent, OptimizationStatus, TrialState
from o9.model.strategy import DEMONSTRATION, PLACEBO
from o9.model.trial import Trial
from o9.store.optimizations.queries import Holding
from o9.store.optimizations.transitions import was_refused
from o9.text.escape import shown
from o9.text.format import NOTHING, duration, local_moment, local_time, number, percent, ratio, sentence, value_text

WIDE = 118  # columns of a terminal in which the whole table fits
NARROWEST_REST = 40  # columns beside the ids
MOST_RESULTS = 10  # that are printed with their reasons; of more, the table has the grades


@dataclass(frozen=True)
class Details:
    """Everything that is shown of one optimization."""

    state: OptimizationState
    holding: Holding | None = None
    transitions: Sequence[Event] = ()
    trial_counts: Mapping[str, int] = field(default_factory=dict)
    best: Trial | None = None
    intents: Sequence[Event] = ()
    nodes: Nodes = field(default_factory=Nodes)
    store: str = ""
    option: str = ""
    verdict: Verdict | None = None


def list_view(runs: Sequence[SeriesRun], width: int, lost: Collection[str] = (), *, series: bool = False) -> Table:
    """The runs in the given order. A narrow terminal hides type and time, then shortens the name, but never an id.

    lost: ids of those whose node is gone. series: they are the runs of one recurring optimization, with their changes.
    """
    hidden = {"name", "type", "steps", "created"} if series else {"due", "change", "hold-out"}
    hidden |= set() if width >= WIDE else {"type", "created"}
    hidden |= set() if any(run.verdict for run in runs) else {"result"}
    hidden |= set() if any(run.hold_out is not None for run in runs) else {"hold-out"}
    rows: list[Cells] = [
        {
            "id": run.state.optimization_id,
            "name": Text(shown(_name(run.state)), no_wrap=True, overflow="ellipsis"),
            "due": local_time(run.at),
            "type": run.state.optimization_type.value,
            "status": words.status(run.state.status, doubtful=run.state.optimization_id in lost),
            "steps": words.steps(run.state),
            "best": number(words.best_value(run.state)),
            "change": number(run.change, sign=True),
            "hold-out": ratio(run.hold_out),
            "result": words.grade(run.verdict),
            "created": local_time(run.state.created_at),
        }
        for run in runs
    ]
    longest = max(cell_len(shown(run.state.optimization_id)) for run in runs)
    folded = {"name"} if longest <= width - NARROWEST_REST else {"id", "name"}
    numbers = ("steps", "best", "change", "hold-out")
    return table_of(rows, hidden, right=numbers, fixed=rows[0].keys() - folded, times=("due", "created"))


def _name(state: OptimizationState) -> str:
    return f"{state.name} (demonstration)" if strategy_of(state.metadata) == DEMONSTRATION else state.name


def trials_view(best: Trial | None, trials: Sequence[Trial]) -> Table:
    """The trials in the given order, the best marked with a star, and put first if it is not among them."""
    numbers = ("trial", "step", "value", "time")
    outside = best is not None and all(trial.number != best.number for trial in trials)
    listed = [best, *trials] if best is not None and outside else trials
    fixed = ("", "trial", "step", "state", "value", "time")
    table = plain_table(*fixed, "parameters", right=numbers, fixed=fixed)
    for trial in listed:
        is_best = best is not None and trial.number == best.number
        place = ("★" if is_best else "", str(trial.number), str(trial.step))
        outcome = (trial.state.value, number(trial.value), duration(trial.duration_seconds))
        tried = words.parameters(trial.parameters)
        tried += f"  {shown(words.failure(trial.error))}" if trial.error else ""
        style = "bold green" if is_best else _STYLES.get(trial.state, "red")
        table.add_row(*place, *outcome, Text(tried), style=style, end_section=outside and is_best)
    return table


_STYLES = {TrialState.COMPLETED: "", TrialState.INFEASIBLE: "dim"}


def summary_view(records: Sequence[Details], width: int) -> Table:
    """The outcome of each optimization. A narrow terminal hides baseline and improvement, but never an id."""
    from o9.report.headline import gain_text

    hidden = [] if any(record.verdict for record in records) else ["result"]
    hidden += [] if width >= WIDE else ["baseline", "improvement"]
    rows: list[Cells] = [
        {
            "id": record.state.optimization_id,
            "status": words.status(record.state.status),
            "result": words.grade(record.verdict),
            "best": number(words.best_value(record.state)),
            "baseline": number(baseline_of(record.state)),
            "improvement": gain_text(record.state) if words.has_gain(record.state) else NOTHING,
            "trials": words.of_trials(record.trial_counts),
            "time": duration(record.state.execution_time or None),
        }
        for record in records
    ]
    return table_of(rows, hidden, right=("best", "baseline", "improvement", "trials", "time"))


def results_view(records: Sequence[Details]) -> list[RenderableType]:
    """How far each can be trusted: its grade and the reason; for a single one, also what that is based on."""
    judged = [record for record in records if record.verdict is not None]
    if not judged or len(judged) > MOST_RESULTS:
        return []
    page: list[RenderableType] = []
    titles = Counter(words.title(record.state) for record in judged)
    for record in judged:
        assert record.verdict is not None
        line = words.result(record.verdict)
        if len(records) > 1:
            title = words.title(record.state)
            line = Text(f"{title if titles[title] == 1 else shown(record.state.optimization_id)}  ").append_text(line)
        page.append(line)
        below = paragraphs(record.verdict)
        if len(records) > 1:
            below = [record.verdict.words, sentence(forecast_sentence(record.verdict))]
        page += [indented(text) for text in below if text]
    return [*page, Text()]


def record_view(record: Details) -> list[RenderableType]:
    """The page of `o9 show`."""
    state = record.state
    page: list[RenderableType] = [Text(words.title(state), style="bold")]
    if state.description:
        page += [Text(shown(line)) for line in state.description.splitlines()]
    page += [Text(), *results_view([record]), facts_table(_facts(record)), Text()]
    for title, entries, style in (("Issues", state.issues, "red"), ("Warnings", state.warnings, "yellow")):
        if entries:
            page += [
                Text(title, style=f"bold {style}"),
                *[indented(line) for entry in entries for line in str(entry).strip().splitlines()],
                Text(),
            ]
    if record.transitions:
        page += [Text("History", style="bold"), _history(merged(record.transitions, record.intents)), Text()]
    return [*page, words.Next(next_commands(record))]


def next_commands(record: Details) -> list[tuple[str, str]]:
    """Return the commands that a reader of this page would type next, and what they do."""
    state, refused = record.state, any(map(was_refused, record.transitions))
    going = way_to_continue(state, record.holding, record.nodes, refused=refused)
    commands = [] if refused else [("trials", "lists the trials")]
    if state.status in ENDED:
        commands += [going] if going else []
    else:
        commands.insert(0, going or ("watch", "follows the progress"))
    return [(words.command(verb, [state.optimization_id], record.option), meaning) for verb, meaning in commands]


def _facts(record: Details) -> Iterator[tuple[str, str | Text]]:
    from o9.report.headline import performance_figures  # a list does not need it

    state, holding = record.state, record.holding
    yield "id", shown(state.optimization_id)
    yield "type", f"{state.optimization_type.value}, priority {state.priority.name.lower()}"
    yield "objective", _objective(state)
    yield "status", _status(state, holding, record.nodes)
    yield "progress", percent(state.progress)
    yield "created", local_moment(state.created_at)
    if state.started_at:
        yield "started", local_moment(state.started_at)
    if state.completed_at:
        yield "ended", local_moment(state.completed_at)
    metrics = record.best.metrics if record.best else {}
    for figure in performance_figures(state, words.best_value(state), record.trial_counts, metrics):
        yield figure.title.lower(), figure.value + (f" ({figure.note})" if figure.note else "")
    if record.best is not None:
        yield "best trial", str(record.best.number)
    if state.optimized_parameters:
        yield "parameters", "\n".join(f"{shown(n)} = {value_text(v)}" for n, v in state.optimized_parameters.items())
    if record.verdict is None and record.trial_counts and state.status in ENDED:
        judge = words.command("health", [state.optimization_id], record.option)
        yield "result", f"{NOT_JUDGED}; `{judge}` judges it"
    if series := state.metadata.get("series"):
        begun = state.metadata.get("warm_start_from")
        yield "series", shown(f"{series}, warm start from {begun['optimization_id']}" if begun else series)
    if holding and holding.prefect_run_id:
        yield "Prefect run", f"{holding.prefect_run_id} (attempt {holding.attempt})"
    yield "store", record.store


def _objective(state: OptimizationState) -> str:
    strategy = strategy_of(state.metadata)
    parts = [str(state.metadata.get("objective", "refused; see the issues"))]
    if strategy == DEMONSTRATION:
        parts[0] += " (a demonstration: no objective was given)"
    elif strategy == PLACEBO:
        parts[0] += f" (a placebo run of {state.metadata['placebo_of']})"
    elif strategy not in ("default", "optuna"):
        return f"strategy {strategy}"
    parts += [str(state.metadata.get("direction", "maximize")), f"sampler {state.metadata.get('sampler', 'tpe')}"]
    for name, label in (("seed", "seed"), ("hold_out", "hold-out")):
        parts += [f"{label} {value_text(state.metadata[name])}"] if name in state.metadata else []
    return ", ".join(parts)


def _status(state: OptimizationState, holding: Holding | None, nodes: Nodes) -> Text:
    lost = nodes.lost(holding)
    text = words.status(state.status, doubtful=bool(lost))
    if holding is None or state.status in ENDED:
        return text
    remarks = []
    if lost:
        then = "records how it ended" if is_watched(state) else "continues it"
        remarks.append(f"{lost}; the next aggregator that runs {then}")
    elif holding.lease_node:
        remarks.append(f"held by {holding.lease_node}")
    if holding.unmet:
        remarks.append(f"waits for {holding.unmet} other{'s' if holding.unmet > 1 else ''} to complete")
    if holding.intent == Intent.HOLD.value:
        remarks.append("held back until `o9 start`")
    elif holding.intent != Intent.RUN.value and state.status not in HALTED:
        by = f" by {holding.intent_by}" if holding.intent_by else ""
        remarks.append(f"{holding.intent} requested{by}")
    return text.append(shown("".join(f", {remark}" for remark in remarks)), style="default")


def _history(events: Sequence[Event]) -> Table:
    """One line for each event, with its message below. Fits 80 columns with whole Prefect run ids."""
    table = plain_table("time", "status", "cause", "Prefect run", times=("time",))
    moments = [datetime.fromisoformat(row["at"]).astimezone() for row in events]
    one_day = len({at.date() for at in moments}) == 1
    for row, at in zip(events, moments, strict=True):
        when = local_time(at, milliseconds=True)
        when = when[11:] if one_day else when
        if "intent" in row:
            table.add_row(when, "", "", Text(intent_text(row), style="dim"))
            continue
        remarks = Text(row["prefect_run_id"] or "")
        attempt = f"attempt {row['attempt']}" if row["attempt"] > 1 else ""
        if remark := ": ".join(part for part in (attempt, first_line(row["message"])) if part):
            remarks.append(("\n" if remarks else "") + shown(remark), style="dim")
        table.add_row(when, words.status(OptimizationStatus(row["to_status"])), row["cause"], remarks)
    return table
