"""A named check, and how checks become a health report. Pure.

Contract. A check's score is 0 to 1, or `Unknown` with the reason. A part (validity, completeness, …) has the score of
the weakest of its known checks; it is unknown if an essential check is, or if all are.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from datetime import datetime
from typing import Any

from o9.health.unknown import Unknown
from o9.model.optimization import OptimizationHealthReport
from o9.model.states import HealthStatus

PARTS = ("validity", "completeness", "security", "performance")
THRESHOLDS: dict[str, float] = {
    "validity_threshold": 0.8,
    "completeness_threshold": 0.9,
    "security_threshold": 0.95,
    "performance_threshold": 0.7,
}
HEALTHY_FROM, WARNING_FROM = 0.9, 0.7
SHOWN = 5  # examples in a finding
# A part is a warning down to the same share of its threshold as the overall status.
WARNING_SHARE = WARNING_FROM / HEALTHY_FROM


@dataclass(frozen=True)
class Check:
    """`name` begins with its part: `validity.verdict`. `words` is the finding with its figures, `remedy` what to do.

    essential: if this check is unknown, so is its part.
    """

    name: str
    score: float | Unknown
    words: str
    remedy: str = ""
    essential: bool = False
    evidence: Mapping[str, Any] = field(default_factory=dict)

    @property
    def part(self) -> str:
        return self.name.partition(".")[0]

    def to_dict(self) -> dict[str, Any]:
        """JSON-ready; an unknown score is None, with the reason in `unknown`."""
        unknown = self.score.reason if isinstance(self.score, Unknown) else None
        return asdict(self) | {"score": None if unknown else self.score, "unknown": unknown}


def examples(named: Sequence[object]) -> str:
    """Return the first few as text: `3, 4, 5, …`."""
    shown = ", ".join(map(str, named[:SHOWN]))
    return f"{shown}, …" if len(named) > SHOWN else shown


def unknown(name: str, why: str | Unknown, remedy: str = "", *, essential: bool = False, **evidence: Any) -> Check:
    """Return a check whose score is unknown."""
    reason = why if isinstance(why, Unknown) else Unknown(why)
    return Check(name, reason, reason.reason, remedy, essential, evidence)


def part_score(checks: Iterable[Check], part: str) -> float | Unknown:
    """Return the weakest known score of the part; see the module."""
    mine = [check for check in checks if check.part == part]
    for check in mine:
        if check.essential and isinstance(check.score, Unknown):
            return check.score
    known = [check.score for check in mine if not isinstance(check.score, Unknown)]
    return min(known) if known else Unknown(f"no check of its {part} can be made")


def part_status(score: float | Unknown, threshold: float) -> HealthStatus:
    if isinstance(score, Unknown):
        return HealthStatus.UNKNOWN
    if score >= threshold:
        return HealthStatus.HEALTHY
    return HealthStatus.WARNING if score >= WARNING_SHARE * threshold else HealthStatus.CRITICAL


def overall_status(scores: Iterable[float | Unknown]) -> HealthStatus:
    """Return the status of the weakest known score: healthy from 0.9, warning from 0.7, else critical.

    It is unknown if every known score is healthy and another is unknown.
    """
    scores = list(scores)
    known = [score for score in scores if not isinstance(score, Unknown)]
    if not known:
        return HealthStatus.UNKNOWN
    if min(known) < WARNING_FROM:
        return HealthStatus.CRITICAL
    if min(known) < HEALTHY_FROM:
        return HealthStatus.WARNING
    return HealthStatus.HEALTHY if len(known) == len(scores) else HealthStatus.UNKNOWN


def report_of(
    optimization_id: str, now: datetime, checks: Sequence[Check], thresholds: Mapping[str, float]
) -> OptimizationHealthReport:
    """Make the report. A check that is unknown or below its part's threshold is an issue.

    `issues` and `recommendations` begin with the check's name. The score of an unknown part is None.
    """
    scores = {part: part_score(checks, part) for part in PARTS}
    found = [check for check in checks if _is_issue(check, thresholds)]
    fields: dict[str, Any] = {
        "optimization_id": optimization_id,
        "timestamp": now,
        "overall_status": overall_status(scores.values()),
        "issues": [f"{check.name}: {check.words}" for check in found],
        "recommendations": [f"{check.name}: {check.remedy}" for check in found if check.remedy],
    }
    for part, score in scores.items():
        fields[f"{part}_status"] = part_status(score, thresholds[f"{part}_threshold"])
        fields[f"{part}_score"] = None if isinstance(score, Unknown) else score
    return OptimizationHealthReport.from_dict(fields)


def _is_issue(check: Check, thresholds: Mapping[str, float]) -> bool:
    return isinstance(check.score, Unknown) or check.score < thresholds[f"{check.part}_threshold"]
