"""A round of health checks as a table and words, for whoever shows it: Prefect's artifacts do. Pure."""

from __future__ import annotations

import re
from typing import Any

from o9.health.check_round import WORST_FIRST, Round
from o9.health.checks.check import PARTS
from o9.health.grades import Verdict
from o9.health.verdict_words import forecast_sentence, headline
from o9.model.optimization import OptimizationHealthReport
from o9.model.states import HealthStatus

TOLD = 50  # optimizations, and failures
ISSUES_TOLD = 3
UNKNOWN = "-"


def table(done: Round) -> list[dict[str, Any]]:
    """One row for each report, the worst first; an unknown score is a dash."""
    return [
        {
            "optimization": report.optimization_id,
            "result": headline(done.verdicts.get(report.optimization_id)),
            "overall": report.overall_status.value,
            **{part: _score(getattr(report, f"{part}_score")) for part in PARTS},
            "issues": len(report.issues),
            "first issue": str(report.issues[0]) if report.issues else "",
        }
        for report in worst_first(done.reports)
    ]


def markdown(done: Round) -> str:
    """The same in words, with what could not be checked."""
    counts = ", ".join(f"{count} {status}" for status, count in done.by_status().items() if count)
    lines = ["# Health", "", f"**{len(done.reports)}** checked{': ' if counts else ''}{counts}."]
    lines += ["", f"{done.under_way} are under way, {done.ended} have ended."]
    if done.more_due:
        lines += [
            "",
            "More have ended and are due for a check: the next runs make it, or one with a larger limit.",
        ]
    if done.failures:
        lines += ["", "## Could not be checked", ""]
        lines += [f"- **{_plain(name)}**: {_plain(why)}" for name, why in list(done.failures.items())[:TOLD]]
        lines += _beyond(len(done.failures))
    ill = [report for report in worst_first(done.reports) if report.overall_status is not HealthStatus.HEALTHY]
    if ill:
        lines += ["", "## The worst first", ""]
        for report in ill[:TOLD]:
            lines += _told(report, done.verdicts.get(report.optimization_id))
        lines += _beyond(len(ill))
    return "\n".join(lines) + "\n"


def worst_first(reports: list[OptimizationHealthReport]) -> list[OptimizationHealthReport]:
    return sorted(reports, key=lambda report: (WORST_FIRST.index(report.overall_status), _weakest(report)))


def _told(report: OptimizationHealthReport, verdict: Verdict | None) -> list[str]:
    scores = ", ".join(f"{part} {_score(getattr(report, f'{part}_score'))}" for part in PARTS)
    lines = [f"- **{_plain(report.optimization_id)}** is {report.overall_status.value} ({scores})"]
    if verdict is not None:
        told = filter(None, (headline(verdict), forecast_sentence(verdict)))
        lines.append(f"  - result: {_plain('; '.join(told))}")
    lines += [f"  - {_plain(str(issue))}" for issue in report.issues[:ISSUES_TOLD]]
    if len(report.issues) > ISSUES_TOLD:
        lines.append(f"  - and {len(report.issues) - ISSUES_TOLD} more")
    return lines


def _beyond(count: int) -> list[str]:
    return [f"- and {count - TOLD} more"] if count > TOLD else []


def _weakest(report: OptimizationHealthReport) -> float:
    known = [score for part in PARTS if (score := getattr(report, f"{part}_score")) is not None]
    return min(known, default=1.0)


def _score(score: float | None) -> str:
    return UNKNOWN if score is None else f"{score:.2f}"


def _plain(text: str) -> str:
    """Text that others wrote, on one line and never taken for markup."""
    return re.sub(r"([\\`*_{}\[\]<>#|~])", r"\\\1", " ".join(text.split()))
