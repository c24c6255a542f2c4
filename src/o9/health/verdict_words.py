"""How a verdict reads: the one place that words it for terminals, pages, HTTP, alerts and Prefect. Pure, no numpy.

Contract. Nothing is decided here. Every surface shows `GRADES[grade].word`, the verdict's own headline and words, and
`forecast_sentence`. Where there is no verdict yet, `NOT_JUDGED` stands in its place.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from o9.health.grades import Forecast, Grade, Verdict
from o9.text.escape import unmarked
from o9.text.format import sentence

NOT_JUDGED = "not judged yet"


@dataclass(frozen=True)
class GradeWords:
    """`word` cannot be misread; `meaning` is a short sentence; `mark` is one character."""

    word: str
    meaning: str
    mark: str


GRADES: Mapping[Grade, GradeWords] = {
    Grade.CONFIRMED: GradeWords("CONFIRMED", "Holds on data that the search never saw", "✓"),
    Grade.PLAUSIBLE: GradeWords("PLAUSIBLE", "More than luck explains, and not confirmed out of sample", "≈"),
    Grade.UNPROVEN: GradeWords("UNPROVEN", "Not shown to be more than luck", "?"),
    Grade.LOST: GradeWords("LOST", "Did not hold on data that the search never saw", "✕"),
    Grade.VOID: GradeWords("VOID", "The backtest itself is at fault: nothing of it counts", "⊘"),
}


def marked(verdict: Verdict | None) -> str:
    """`✓ CONFIRMED`"""
    return f"{GRADES[verdict.grade].mark} {GRADES[verdict.grade].word}" if verdict else NOT_JUDGED


def headline(verdict: Verdict | None) -> str:
    """`✓ CONFIRMED: held out, it earned 0.62 a year`"""
    return f"{marked(verdict)}: {verdict.headline}" if verdict else NOT_JUDGED


def forecast_sentence(verdict: Verdict | None) -> str:
    """`forecast Sharpe ratio 0.41 a year (80%: -0.10 to 0.92); claimed 1.32; held out 0.50`; "" without one."""
    found = verdict.forecast if verdict else None
    if found is None:
        return ""
    said = (
        f"forecast Sharpe ratio {sharpe(found.mean)} {unit(found)} ({interval(found)}); claimed {sharpe(found.claimed)}"
    )
    said += f"; held out {sharpe(found.held_out)}" if found.held_out is not None else "; nothing held out"
    said += "; too high, as the search followed its results" if found.too_high else ""
    if verdict and verdict.figures.get("over_baseline") is False and not verdict.figures.get("market_neutral"):
        said += "; the market's own rise included"
    return said + ("; a crash that no return has shown yet is not in it" if found.hidden_crash else "")


def interval(found: Forecast) -> str:
    """`80%: -0.10 to 0.92`"""
    return f"80%: {sharpe(found.low)} to {sharpe(found.high)}"


def unit(found: Forecast) -> str:
    return "a year" if found.annual else "a period"


def sharpe(value: float, decimals: int = 2) -> str:
    """With a real minus; none before a zero."""
    shown = f"{value:.{decimals}f}"
    return shown.removeprefix("-") if float(shown) == 0 else shown.replace("-", "\u2212")


def paragraphs(verdict: Verdict) -> list[str]:
    """What stands below the headline, in this order: the finding, the forecast, the rule's errors, what to do."""
    forecast = forecast_sentence(verdict)
    return [each for each in (verdict.words, sentence(forecast), verdict.errors, _to_do(verdict)) if each]


def _to_do(verdict: Verdict) -> str:
    return f"What to do: {verdict.remedy.rstrip('.')}." if verdict.remedy else ""


def document(verdict: Verdict | None) -> dict[str, Any]:
    """For JSON: `grade`, and the whole `verdict`; both None where there is none."""
    return {"grade": verdict.grade.value if verdict else None, "verdict": verdict.to_dict() if verdict else None}


def markdown(verdict: Verdict) -> str:
    """One paragraph of Markdown."""
    below = " ".join(map(unmarked, paragraphs(verdict)))
    return f"**{marked(verdict)}**: {unmarked(verdict.headline)}\n\n{below}"
