"""Verdicts made by hand, and reports that hold them, for tests of what shows them."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from o9.health.checks.check import THRESHOLDS, Check, report_of
from o9.health.grades import VERDICT, Forecast, Grade, GradeReason, Verdict
from o9.model.optimization import utc_now
from o9.store import queries
from o9.store.optimizations.health_reports import RecordHealthReport
from o9.store.store import Store

FORECAST = Forecast(mean=0.412, low=-0.104, high=0.923, claimed=1.318, held_out=0.5, years=5.0)
_SCORES = {
    Grade.CONFIRMED: 1.0, Grade.PLAUSIBLE: 0.8, Grade.UNPROVEN: 0.5, Grade.LOST: 0.1, Grade.VOID: 0.0,
}  # fmt: skip
REASONS = {
    Grade.CONFIRMED: GradeReason.HOLD_OUT_AND_FAMILY,
    Grade.PLAUSIBLE: GradeReason.FAMILY,
    Grade.UNPROVEN: GradeReason.NO_BASELINE,
    Grade.LOST: GradeReason.HOLD_OUT_NEGATIVE,
    Grade.VOID: GradeReason.LOOK_AHEAD,
}


def verdict(grade: Grade = Grade.CONFIRMED, **fields: Any) -> Verdict:
    made = Verdict(
        grade=grade,
        reason=REASONS[grade],
        headline=f"the headline of {grade.value}",
        words="Alpha over the baseline 0.65, beta 0.69.",
        errors="Wrong in 1 of 100.",
        remedy="test it on paper",
        score=_SCORES[grade],
        forecast=None if grade is Grade.VOID else FORECAST,
        figures={"looks": 1},
    )
    return replace(made, **fields)


def check_of(made: Verdict) -> Check:
    score = 0.5 if made.score is None else made.score
    return Check(VERDICT, score, made.words, made.remedy, True, {"verdict": made.to_dict()})


def keep_verdict(store: Store, optimization_id: str, made: Verdict, *others: Check) -> None:
    """A valid report with the verdict `made`."""
    state = store.read(queries.get, optimization_id)
    assert state is not None
    checks = [check_of(made), *others]
    report = report_of(optimization_id, utc_now(), checks, THRESHOLDS)
    store.write(RecordHealthReport(report, [check.to_dict() for check in checks], state))
