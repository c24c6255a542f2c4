"""What Prefect shows of an optimization's run: its name, tags, best trials and result, as text and tables. Pure.

Contract. Names, errors and parameters are escaped, so that they are never rendered as Markdown.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Mapping, Sequence
from typing import Any

from o9.health.grades import Verdict
from o9.health.series_runs import SeriesRun
from o9.health.wording import markdown as verdict_markdown
from o9.model.optimization import OptimizationState, series_of, strategy_of
from o9.model.trial import Trial
from o9.report.headline import performance_figures
from o9.text.cut import first_line
from o9.text.escape import unmarked
from o9.text.format import moment, number, ratio, value_text

PARAMETERS_SHOWN = 12
KEY_LENGTH = 70  # without the prefix `o9-` and the suffix `-trials`


def run_name(state: OptimizationState, attempt: int = 1) -> str:
    """`Momentum on S&P 500 · momentum-7f3a`, from the second attempt on with its number."""
    again = f" · attempt {attempt}" if attempt > 1 else ""
    return f"{state.name} · {state.optimization_id}{again}"


def run_tags(state: OptimizationState) -> list[str]:
    """Tags to filter runs by: `o9`, `type:…`, `strategy:…`, and `series:…` in a series."""
    tags = ["o9", f"type:{state.optimization_type.value}", f"strategy:{strategy_of(state.metadata)}"]
    return [*tags, f"series:{series}"] if (series := state.metadata.get("series")) else tags


def artifact_key(state: OptimizationState) -> str:
    """The artifact key for the results of a series, or of a name without one, which are versions of each other.

    `Nightly carry` has `o9-nightly-carry`; other spellings have a digest behind the words, so that no two names share a
    key.
    """
    name = series_of(state)
    slug = re.sub(r"[^a-z0-9]+", "-", name.lower()).strip("-")
    if name == slug.replace("-", " ").capitalize() and len(slug) <= KEY_LENGTH:
        return f"o9-{slug}"
    digest = hashlib.sha256(name.encode()).hexdigest()[:8]
    return "-".join(part for part in ("o9", slug[: KEY_LENGTH - len(digest)].strip("-"), digest) if part)


def trials_table(trials: Sequence[Trial]) -> list[dict[str, Any]]:
    """One row for each trial, in the order given."""
    names = list(dict.fromkeys(name for trial in trials for name in trial.parameters))[:PARAMETERS_SHOWN]
    return [
        {
            "trial": trial.number,
            "value": number(trial.value),
            **{name: value_text(trial.parameters[name]) if name in trial.parameters else "" for name in names},
            "seconds": round(trial.duration_seconds, 3),
        }
        for trial in trials
    ]


def result_line(state: OptimizationState, verdict: Verdict | None) -> str:
    """`completed, best 0.31, unproven · Momentum · momentum-7f3a`; Prefect's UI cuts off the end."""
    best = f"best {number(state.current_performance)}" if state.optimized_parameters else ""
    grade = verdict.grade.value if verdict else ""
    return f"{', '.join(filter(None, (state.status.value, best, grade)))} · {run_name(state)}"


def result_markdown(
    state: OptimizationState,
    *,
    counts: Mapping[str, int],
    failed: Sequence[Trial],
    verdict: Verdict | None,
    series: Sequence[SeriesRun] = (),
    report: str = "",
) -> str:
    """The best, its parameters, the baseline, the verdict with its reason, and the failures.

    failed: the first failed trials; `counts` has the number of all. series: the newest runs of its series. report: the
    address of its report, if there is one.
    """
    value = state.current_performance if state.optimized_parameters else None
    lines = [f"# {unmarked(state.name)}", "", f"`{state.optimization_id}` is **{state.status.value}**.", ""]
    if verdict is not None:
        lines += [verdict_markdown(verdict), ""]
    elif value is not None:
        lines += [f"Not judged yet: `o9 health {state.optimization_id}` judges it.", ""]
    figures = performance_figures(state, value, counts, state.results.get("best_metrics", {}))
    lines += ["| figure | value | |", "| --- | --- | --- |"]
    lines += [f"| {unmarked(each.title)} | **{unmarked(each.value)}** | {unmarked(each.note)} |" for each in figures]
    if state.optimized_parameters:
        lines += ["", "## Best parameters", "", "| parameter | value |", "| --- | --- |"]
        lines += [
            f"| {unmarked(name)} | {unmarked(value_text(chosen))} |"
            for name, chosen in state.optimized_parameters.items()
        ]
    if len(series) > 1:
        lines += ["", f"## The last runs of {unmarked(str(state.metadata.get('series')))}", ""]
        lines += ["| due | run | status | best | change | hold-out | verdict |", f"|{' --- |' * 7}"]
        lines += [_series_row(run) for run in series]
    for title, entries in (("Issues", state.issues), ("Warnings", state.warnings)):
        if entries:
            lines += ["", f"## {title}", "", *(f"- {unmarked(str(entry))}" for entry in entries)]
    if failed:
        lines += ["", "## Failed trials", ""]
        lines += [
            f"- trial {trial.number}: {unmarked(first_line(trial.error or 'no error recorded', 300))}"
            for trial in failed
        ]
        if (more := counts.get("failed", 0) - len(failed)) > 0:
            lines.append(f"- and {more:,} more: `o9 trials {state.optimization_id}`")
    where = f"<{report}>" if report else f"`o9 report {state.optimization_id}`"
    lines += ["", f"Full report with charts: {where}"]
    return "\n".join(lines) + "\n"


def _series_row(run: SeriesRun) -> str:
    grade = run.verdict.grade.value if run.verdict else ""
    cells = [moment(run.at), run.state.optimization_id, run.state.status.value, number(run.best)]
    cells += [number(run.change, sign=True), ratio(run.hold_out), grade]
    return f"| {' | '.join(map(unmarked, cells))} |"
