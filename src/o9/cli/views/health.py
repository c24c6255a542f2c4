"""The page of `health`: the result first, then each part with its checks. Pure: from reports to renderables.

Contract. Fits 60 columns or more. A remedy follows its check; what users' health rules added comes last. Nothing is
printed twice.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from typing import Any

from rich.cells import cell_len
from rich.console import RenderableType
from rich.table import Table
from rich.text import Text

from o9.cli.console import Cells, indented, table_of
from o9.cli.views import words
from o9.health.checks.check import PARTS
from o9.health.grades import VERDICT, Verdict, verdict_of
from o9.health.wording import NOT_JUDGED, paragraphs
from o9.model.optimization import OptimizationHealthReport, OptimizationState
from o9.model.states import HealthStatus
from o9.text.escape import shown
from o9.text.format import NOTHING, local_time

PART_WIDTH = max(map(len, PARTS)) + 2
NAME_WIDTH = 34  # of a check; longer ones are folded
ROOM_FOR_SCORES = 84  # columns beside the ids, in which the scores of the parts and whole times fit
_COLOURS = {
    HealthStatus.HEALTHY: "green",
    HealthStatus.WARNING: "yellow",
    HealthStatus.CRITICAL: "red",
    HealthStatus.UNKNOWN: "dim",
}
Check = Mapping[str, Any]


def result_lines(verdict: Verdict | None) -> list[RenderableType]:
    """`result: ✓ CONFIRMED: held out, it earned 0.62 a year`, and below it what that is based on."""
    if verdict is None:
        return [Text(f"result: {NOT_JUDGED}", style="bold")]
    line = Text("result: ", style="bold").append_text(words.result(verdict))
    return [line, *(indented(text) for text in paragraphs(verdict))]


def health_line(report: OptimizationHealthReport) -> Text:
    """`health: critical, because of performance (0.00)`: the worst of four scores, one of which is the result's."""
    status, scores = report.overall_status, {part: getattr(report, f"{part}_score") for part in PARTS}
    unknown = [part for part, score in scores.items() if score is None]
    why = ""
    if status is HealthStatus.UNKNOWN and len(unknown) < len(PARTS):
        why = f": {' and '.join(unknown)} cannot be determined; the rest is healthy"
    elif status in (HealthStatus.WARNING, HealthStatus.CRITICAL):
        weakest = min((part for part in PARTS if scores[part] is not None), key=lambda part: scores[part])
        why = f", because of {weakest} ({scores[weakest]:.2f})"
        why += "" if weakest == "validity" else "; the result is judged separately"
    return Text.assemble(("health: ", "bold"), (status.value, f"bold {_COLOURS[status]}"), why)


def health_view(
    state: OptimizationState, report: OptimizationHealthReport, checks: Sequence[Check]
) -> list[RenderableType]:
    """The page of `o9 health ID`."""
    names = dict.fromkeys(filter(None, (state.name, state.optimization_id)))
    page: list[RenderableType] = [Text("  ".join(map(shown, names)))]
    page += [*result_lines(verdict_of(checks)), health_line(report), Text()]
    width = min(NAME_WIDTH, max((len(_short(check)) for check in checks), default=0))
    troubled = {str(issue).partition(": ")[0] for issue in report.issues}
    for part in PARTS:
        mine = [check for check in checks if check["name"].partition(".")[0] == part]
        page += [_part(report, part), _checks_of(mine, width, troubled), Text()]
    said = {f"{check['name']}: {check[key]}" for check in checks for key in ("words", "remedy")}
    for title, entries, style in (
        ("Issues", report.issues, "bold red"), ("Recommendations", report.recommendations, "bold"),
    ):  # fmt: skip
        if others := [str(entry) for entry in entries if str(entry) not in said]:
            lines = [indented(entry) for entry in others]
            page += [Text(title, style=style), *lines, Text()]
    return page[:-1]


def reports_view(
    reports: Sequence[OptimizationHealthReport], width: int, verdicts: Mapping[str, Verdict] | None = None
) -> Table:
    """The last report of each optimization, newest first. A narrow terminal hides the parts, but never an id.

    verdicts: by id, of those that were judged.
    """
    ids = max(cell_len(shown(report.optimization_id)) for report in reports)
    parts = PARTS if width >= ids + ROOM_FOR_SCORES else ()
    rows: list[Cells] = [
        {
            "id": report.optimization_id,
            "result": words.grade((verdicts or {}).get(report.optimization_id)),
            "health": Text(report.overall_status.value, style=_COLOURS[report.overall_status]),
            **{part: _score(getattr(report, f"{part}_score"), getattr(report, f"{part}_status")) for part in parts},
            "judged": local_time(report.timestamp)[0 if parts else len("YYYY-") : None if parts else -len(":SS")],
        }
        for report in reports
    ]
    return table_of(rows, right=parts, fixed=rows[0].keys() - {"id"}, times=("judged",))


def _part(report: OptimizationHealthReport, part: str) -> Text:
    """`validity      0.41  critical`"""
    score, status = getattr(report, f"{part}_score"), getattr(report, f"{part}_status")
    line = Text(part.ljust(PART_WIDTH), style="bold").append(_score(score, status))
    return line.append(f"  {status.value}", style=_COLOURS[status])


def _checks_of(checks: Sequence[Check], width: int, troubled: Collection[str]) -> Table:
    table = Table.grid(padding=(0, 2))
    table.add_column(width=width + 2, overflow="fold")
    table.add_column(width=len("unknown"), justify="right")
    table.add_column()
    for check in checks:
        said_above = check["name"] == VERDICT and verdict_of([check]) is not None
        text = Text("the result above" if said_above else shown(check["unknown"] or check["words"]))
        is_issue = check["name"] in troubled
        if is_issue and check["remedy"] and not said_above:
            text.append(f"\n→ {shown(check['remedy'])}", style="italic")
        score = Text("unknown" if check["score"] is None else f"{check['score']:.2f}")
        score.stylize("dim" if check["score"] is None else "yellow" if is_issue else "green")
        table.add_row(f"  {shown(_short(check))}", score, text)
    return table


def _short(check: Check) -> str:
    """The name without its part, under which it is listed."""
    return str(check["name"]).partition(".")[2]


def _score(score: float | None, status: HealthStatus) -> Text:
    return Text(f"{NOTHING:>4}" if score is None else f"{score:.2f}", style=_COLOURS[status])
