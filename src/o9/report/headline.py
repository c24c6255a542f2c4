"""What a reader sees first: the verdict in words, four scores, key figures. Pure.

Contract. Nothing is decided here: `o9.health` decides, this words it. What is not known says so, with the reason.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from o9.health.checks import PARTS, THRESHOLDS, Check, part_score, part_status
from o9.health.grades import VERDICT, Grade, Verdict, verdict_of
from o9.health.moments import Moments
from o9.health.overfitting import minimum_backtest_length, minimum_track_record_length
from o9.health.unknown import Unknown
from o9.health.verdict import Evidence
from o9.health.verdict_words import GRADES, forecast_sentence
from o9.lifecycle.effect import direction_of, is_better
from o9.model.optimization import OptimizationState
from o9.model.states import ENDED, HealthStatus
from o9.report import words

TRACK_RECORD_CONFIDENCE = 0.95


@dataclass(frozen=True)
class Spoken:
    """A verdict as it is said: a `word` that cannot be misread, what it means, a mark; `tone` is its class of style."""

    word: str
    meaning: str
    mark: str
    tone: str


_TONES = {
    Grade.VOID: "overfit", Grade.LOST: "overfit", Grade.CONFIRMED: "real", Grade.PLAUSIBLE: "luck",
    Grade.UNPROVEN: "unknown",
}  # fmt: skip
SPOKEN = {grade: Spoken(known.word, known.meaning, known.mark, _TONES[grade]) for grade, known in GRADES.items()}


@dataclass(frozen=True)
class Headline:
    """The banner: the grade, the reason, the finding itself, the forecast, how often that is wrong, and what to do."""

    spoken: Spoken
    reason: str
    because: str
    forecast: str
    errors: str
    remedy: str


@dataclass(frozen=True)
class CheckRow:
    """One check in words; `remedy` only where something is wrong or unknown."""

    title: str
    value: str
    told: str
    remedy: str


@dataclass(frozen=True)
class Score:
    """One of the four parts with its checks; `score` is None where it is unknown, with the `reason`."""

    part: str
    score: float | None
    reason: str
    status: HealthStatus
    threshold: float
    checks: Sequence[CheckRow]


@dataclass(frozen=True)
class Figure:
    title: str
    value: str
    note: str = ""


def headline(verdict: Verdict) -> Headline:
    return Headline(
        spoken=SPOKEN[verdict.grade],
        reason=verdict.headline,
        because=verdict.words,
        forecast=words.sentence(forecast_sentence(verdict)),
        errors=verdict.errors,
        remedy=words.sentence(verdict.remedy),
    )


def spoken_of(checks: Sequence[Mapping[str, Any]]) -> Spoken | None:
    """The grade in a stored report's checks; None where there is none."""
    verdict = verdict_of(checks)
    return SPOKEN[verdict.grade] if verdict else None


def scores(checks: Sequence[Check]) -> list[Score]:
    found = []
    for part in PARTS:
        score, threshold = part_score(checks, part), THRESHOLDS[f"{part}_threshold"]
        mine = [_check_row(check, threshold) for check in checks if check.part == part]
        status = part_status(score, threshold)
        known = None if isinstance(score, Unknown) else score
        reason = score.reason if isinstance(score, Unknown) else ""
        found.append(Score(part, known, reason, status, threshold, mine))
    return found


def _check_row(check: Check, threshold: float) -> CheckRow:
    title = check.name.partition(".")[2].replace("_", " ")
    told = "The verdict above." if check.name == VERDICT else _bare(check.words)
    if isinstance(check.score, Unknown):
        return CheckRow(title, "unknown", told, words.sentence(check.remedy))
    remedy = words.sentence(check.remedy) if check.score < threshold else ""
    return CheckRow(title, f"{check.score:.2f}", told, remedy)


def _bare(told: str) -> str:
    return words.sentence(told.removeprefix("unknown: "))


def performance_figures(state: OptimizationState, value: float | None, counts: Mapping[str, int]) -> list[Figure]:
    """What was reached, against what, with how many trials in what time."""
    best = Figure("Best value", words.number(value) if value is not None else "none", _against(state, value))
    figures = [best]
    if state.baseline_performance and value is not None:
        told = words.share(state.performance_improvement, sign=True)
        figures.append(Figure("Improvement", told, f"on the baseline, {words.number(state.baseline_performance)}"))
    elif not state.baseline_performance:
        figures.append(Figure("Improvement", "unknown", "no baseline_performance is given"))
    if state.target_performance:
        reached = value is not None and not is_better(state.target_performance, value, direction_of(state))
        told = "reached" if reached else "not reached"
        figures.append(Figure("Target", words.number(state.target_performance), told))
    bad = {name: n for name, n in counts.items() if name != "completed" and n}
    note = ", ".join(f"{n:,} {name}" for name, n in sorted(bad.items())) or ("all completed" if counts else "")
    figures.append(Figure("Trials", f"{sum(counts.values()):,}", note))
    steps = f"{state.completed_steps:,}" + (f" of {state.total_steps:,}" if state.total_steps else "")
    still = "" if state.status in ENDED else ", so far"
    figures.append(Figure("Worked", words.duration(state.execution_time or None), f"{steps} steps{still}"))
    return figures


def trust_figures(evidence: Evidence | Unknown) -> list[Figure]:
    """The figures that the field expects to see beside a Sharpe ratio."""
    if isinstance(evidence, Unknown):
        return [
            Figure(title, "unknown", evidence.reason)
            for title in ("Sharpe ratio of the best", "Deflated Sharpe ratio", "Probability of overfitting")
        ]
    year = evidence.periods_per_year
    unit = "a year" if year else "a period"
    scale = year**0.5 if year else 1.0
    found = []
    best, luck = evidence.best, evidence.luck
    if isinstance(best, Unknown):
        found.append(Figure("Sharpe ratio of the best", "unknown", best.reason))
    else:
        over = ", over zero" if evidence.beta is None else f", alpha over the baseline, beta {evidence.beta:.2f}"
        note = f"{unit}{over}, from {best.observations:,} returns"
        found.append(Figure("Sharpe ratio of the best", words.ratio(best.sharpe * scale), note))
    note = "the probability that it is truly above what luck gives" if not isinstance(luck, Unknown) else ""
    found.append(_known("Deflated Sharpe ratio", evidence.deflated, words.ratio, note))
    overfitting = evidence.overfitting
    pbo = overfitting if isinstance(overfitting, Unknown) else overfitting.pbo
    found.append(
        _known("Probability of overfitting", pbo, words.share, "of the choice of the best, by splitting the time")
    )
    if isinstance(best, Unknown):
        return found
    zero = "the baseline" if evidence.over_benchmark else "zero"
    has = f"for {TRACK_RECORD_CONFIDENCE:.0%} confidence; there are {_periods(best.observations, year)}"
    for name, benchmark in ((zero, 0.0), ("luck", luck)):
        needed = _track_record(best, benchmark)
        found.append(_known(f"Track record needed, above {name}", needed, lambda periods: _periods(periods, year), has))
    if not year:
        why = "how many periods a year has is not recorded"
        return [*found, Figure("Backtest needed", "unknown", why)]
    length = minimum_backtest_length(evidence.counted, best.annual_sharpe(year))
    note = f"until {evidence.counted:,} worthless trials no longer show such a Sharpe ratio; there are "
    note += _periods(best.observations, year)
    return [*found, _known("Backtest needed", length, lambda years: f"{years:,.1f} years", note)]


def _track_record(best: Moments, benchmark: float | Unknown) -> float | Unknown:
    """Periods that it takes to tell the best from `benchmark`."""
    if isinstance(benchmark, Unknown):
        return benchmark
    if best.sharpe <= benchmark:
        return Unknown("the best's Sharpe ratio is not above it, so that no record shows that it is")
    return minimum_track_record_length(
        best.sharpe,
        benchmark=benchmark,
        confidence=TRACK_RECORD_CONFIDENCE,
        skewness=best.skewness,
        kurtosis=best.kurtosis,
    )


def _known(title: str, value: float | Unknown, told: Callable[[float], str], note: str) -> Figure:
    return Figure(title, "unknown", value.reason) if isinstance(value, Unknown) else Figure(title, told(value), note)


def _periods(periods: float, per_year: float | None) -> str:
    return f"{periods / per_year:,.1f} years" if per_year else f"{periods:,.0f} periods"


def _against(state: OptimizationState, value: float | None) -> str:
    if value is None:
        return "nothing has succeeded" if state.status in ENDED else "nothing has succeeded yet"
    return "less is better" if direction_of(state) == "minimize" else "more is better"
