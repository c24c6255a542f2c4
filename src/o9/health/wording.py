"""The texts of verdicts, for terminals, pages, HTTP, alerts and Prefect alike. Pure; imports no numpy.

Contract. Nothing is decided here. Every surface shows `GRADES[grade].word`, the verdict's own headline and words, and
`forecast_sentence`; without a verdict, `NOT_JUDGED`. Each reason has a headline, a finding with its figures, a remedy
and its error rates. The finding is made from `Verdict.figures` alone; `ERRORS` states what `benchmarks/verdict.py`
measured.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from o9.health.grades import Forecast, Grade, GradeReason, Verdict
from o9.text.escape import unmarked
from o9.text.format import sentence

Figures = Mapping[str, Any]

CRASH_FROM = 3.0  # times the worst loss in sample, which normal returns never come near
NOT_JUDGED = "not judged yet"


@dataclass(frozen=True)
class GradeWords:
    """`meaning` is a short sentence; `mark` is one character."""

    word: str
    meaning: str
    mark: str


GRADES: Mapping[Grade, GradeWords] = {
    Grade.CONFIRMED: GradeWords("CONFIRMED", "Holds on data that the search never saw", "✓"),
    Grade.PLAUSIBLE: GradeWords("PLAUSIBLE", "More than luck explains, and not confirmed out of sample", "≈"),
    Grade.UNPROVEN: GradeWords("UNPROVEN", "Not shown to be more than luck", "?"),
    Grade.LOST: GradeWords("LOST", "Did not hold on data that the search never saw", "✕"),
    Grade.VOID: GradeWords("VOID", "The backtest itself is wrong and proves nothing", "⊘"),
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
    text = f"forecast Sharpe ratio {sharpe(found.mean)} a year ({interval(found)}); claimed {sharpe(found.claimed)}"
    text += f"; held out {sharpe(found.held_out)}" if found.held_out is not None else "; nothing held out"
    text += "; too high, because the search followed its results" if found.too_high else ""
    if verdict and verdict.figures.get("over_baseline") is False and not verdict.figures.get("market_neutral"):
        text += "; the market's own rise included"
    return text + ("; not prepared for a loss larger than any so far" if found.hidden_crash else "")


def interval(found: Forecast) -> str:
    """`80%: -0.10 to 0.92`"""
    return f"80%: {sharpe(found.low)} to {sharpe(found.high)}"


def sharpe(value: float, decimals: int = 2) -> str:
    """Format with a typographic minus sign, and none before zero."""
    shown = f"{value:.{decimals}f}"
    return shown.removeprefix("-") if float(shown) == 0 else shown.replace("-", "\u2212")


def paragraphs(verdict: Verdict) -> list[str]:
    """Return what goes below the headline: the finding, the forecast, the rule's error rates, the remedy."""
    forecast = forecast_sentence(verdict)
    return [each for each in (verdict.words, sentence(forecast), verdict.errors, _to_do(verdict)) if each]


def _to_do(verdict: Verdict) -> str:
    return f"What to do: {verdict.remedy.rstrip('.')}." if verdict.remedy else ""


def document(verdict: Verdict | None) -> dict[str, Any]:
    """Return `grade` and the whole `verdict` for JSON; both are None without one."""
    return {"grade": verdict.grade.value if verdict else None, "verdict": verdict.to_dict() if verdict else None}


def markdown(verdict: Verdict) -> str:
    """Return the headline and one paragraph, as Markdown."""
    below = " ".join(map(unmarked, paragraphs(verdict)))
    return f"**{marked(verdict)}**: {unmarked(verdict.headline)}\n\n{below}"


HEADLINES = {
    GradeReason.LOOK_AHEAD: "The objective looks ahead",
    GradeReason.NOT_REPEATABLE: "On re-evaluation, the best has a different value",
    GradeReason.VALUE_DOES_NOT_FIT: "The returns do not fit the value",
    GradeReason.HOLD_OUT_NEGATIVE: "The held-out data show no edge",
    GradeReason.HOLD_OUT_BELOW_FORECAST: "The held-out data fall short of the forecast",
    GradeReason.HOLD_OUT_AND_FAMILY: "The held-out data confirm the edge",
    GradeReason.HOLD_OUT_AND_PLACEBO: "The held-out data and the placebo runs confirm the edge",
    GradeReason.FAMILY: "More than luck in sample, not confirmed on held-out data",
    GradeReason.PLACEBO: "Better than the same search on data without an edge, not confirmed on held-out data",
    GradeReason.NO_TRIALS: "There is nothing to judge",
    GradeReason.NO_RETURNS: "There are no returns to judge",
    GradeReason.NO_FAMILY_TEST: "The family cannot be tested",
    GradeReason.LIKELY_LUCK: "Luck can explain this result",
    GradeReason.NO_BASELINE: "Without a market baseline, the market's own rise can explain this result",
    GradeReason.HOLD_OUT_SEEN: "A search of the family has seen the held-out data",
    GradeReason.HOLD_OUT_UNCERTAIN: "The held-out data do not confirm the edge",
    GradeReason.ADAPTIVE_SEARCH: "The search followed its results, and no other data confirm the edge",
}
_HOLD_OUT = "set metadata.hold_out to confirm it on data that no trial has seen"
_DROP = "do not trade on it: try fewer variants, on more data"
REMEDIES = {
    GradeReason.LOOK_AHEAD: "do not trade on it: compute each day's position from data up to that day only",
    GradeReason.NOT_REPEATABLE: "do not trade on it: seed every random choice, and read data that do not change",
    GradeReason.VALUE_DOES_NOT_FIT: "do not trade on it: compute the value from the returns that the objective returns",
    GradeReason.HOLD_OUT_NEGATIVE: _DROP,
    GradeReason.HOLD_OUT_BELOW_FORECAST: _DROP,
    GradeReason.HOLD_OUT_AND_FAMILY: "",
    GradeReason.HOLD_OUT_AND_PLACEBO: "",
    GradeReason.FAMILY: _HOLD_OUT,
    GradeReason.PLACEBO: _HOLD_OUT,
    GradeReason.NO_TRIALS: "check the errors of the trials",
    GradeReason.NO_RETURNS: "return Evaluation(returns=…, periods_per_year=…) from the objective, all of one length",
    GradeReason.NO_FAMILY_TEST: "keep the returns of all trials, at least 60 of each, over the same periods",
    GradeReason.LIKELY_LUCK: f"{_DROP}, or hold data out",
    GradeReason.NO_BASELINE: "return the market's returns as baseline_returns, or declare metadata.market_neutral",
    GradeReason.HOLD_OUT_SEEN: "start metadata.hold_out after all data that a trial has seen, as with newer data",
    GradeReason.HOLD_OUT_UNCERTAIN: "hold out more data, or trade it on paper until its edge is clearly above zero",
    GradeReason.ADAPTIVE_SEARCH: "run the same search on data without an edge (`o9 placebo ID`), or set "
    "metadata.hold_out for the first search on new data",
}
_MORE = "hold out more data to confirm it"
WITH_HOLD_OUT = {GradeReason.LIKELY_LUCK: _DROP, GradeReason.FAMILY: _MORE, GradeReason.PLACEBO: _MORE}
# Percent, as measured by `benchmarks/verdict.py`; edges are annual Sharpe ratios over ten years in sample.
_CONFIRMED = (
    "Measured: 0.7 to 1.7% of families without an edge are CONFIRMED (0.3 to 4.7% after an adaptive search), and "
    "2 to 5% of edges that died after the sample. Of lasting edges of 1.0 / 1.5 / 2.0 a year, 42 / 90 / 96% are found "
    "with five years held out."
)
ERRORS = {
    GradeReason.HOLD_OUT_AND_FAMILY: _CONFIRMED,
    GradeReason.HOLD_OUT_AND_PLACEBO: _CONFIRMED,
    GradeReason.FAMILY: "Measured: 2 to 5% of families without an edge pass too.",
    GradeReason.PLACEBO: "By construction at most 5% of searches without an edge pass this test.",
}


def headline_of(reason: GradeReason) -> str:
    return f"{HEADLINES[reason]}."


def remedy_of(reason: GradeReason, figures: Figures) -> str:
    """Return what to do next. If data are held out already, it does not advise to hold data out."""
    held_out = figures["hold_out_sharpe"] is not None
    return WITH_HOLD_OUT.get(reason, REMEDIES[reason]) if held_out else REMEDIES[reason]


def words_of(reason: GradeReason, figures: Figures) -> str:
    """Return the finding with its figures: the claim, and the evidence for the reason."""
    return " ".join(filter(None, (each(figures) for each in _FINDINGS[reason])))


def sharpe_of(figures: Figures, name: str = "sharpe") -> str:
    """Format a Sharpe ratio of the figures, annual if the periods per year are known."""
    value, year = figures[name], figures["periods_per_year"]
    return f"{sharpe(value, 4)} a period" if year is None else f"{sharpe(value * math.sqrt(year))} a year"


def _claim(figures: Figures) -> str:
    if figures["sharpe"] is None:
        return ""
    what = f"a Sharpe ratio of {sharpe_of(figures)}"
    if figures["beta"] is not None:
        what = f"alpha over the baseline {sharpe_of(figures)} (Sharpe ratio), beta {sharpe(figures['beta'])}"
    if figures["counted"] == 1:
        return f"In sample, the only trial has {what}."
    return f"In sample, the best has {what}; {figures['counted']:,} trials were tried in its family."


def _family(figures: Figures) -> str:
    p = figures["p_value"]
    if p is None:
        return ""
    text = f"If no trial had an edge, the best of such a family would look as good with probability {p:.3f}"
    if figures["adaptive"]:
        text += ", or higher, because the sampler chose trials by earlier results"
    missing = figures["counted"] - figures["kept"]
    if missing == 1:
        text += "; the one trial without comparable returns counts as an independent trial without edge "
        text += f"({figures['p_value_of_kept']:.3f} without it)"
    elif missing:
        text += f"; the {missing:,} trials without comparable returns count as independent trials without edge "
        text += f"({figures['p_value_of_kept']:.3f} without them)"
    return f"{text}."


def _hold_out(figures: Figures) -> str:
    if figures["hold_out_sharpe"] is None:
        return ""
    text = f"Held out: {sharpe_of(figures, 'hold_out_sharpe')} over {_length(figures)}"
    if figures["hold_out_above_zero"] is not None:
        text += f", above zero with probability {figures['hold_out_above_zero']:.3f}"
    text += f" (required: {figures['hold_out_level']:.5g}"
    if figures["looks"] > 1 or figures["hold_out_seen"]:
        text += f", because this is look {figures['looks']} at held-out data"
        text += f", and up to {figures['hold_out_seen']:,} trials have seen them" if figures["hold_out_seen"] else ""
    return f"{text}).{_crash(figures)}"


def _crash(figures: Figures) -> str:
    """Name a loss in the hold-out that is far larger than any in sample."""
    ratio = figures["hold_out_worst_loss"]
    if ratio is None or ratio < CRASH_FROM:
        return ""
    return f" Its worst loss there is {ratio:,.0f} times the worst in sample: a crash that the search never saw."


def _seen(_: Figures) -> str:
    return "Other trials of this family were, or may have been, valued on these data, and may have led to the best one."


def _lost(figures: Figures) -> str:
    return f"Held out: {sharpe_of(figures, 'hold_out_sharpe')} over {_length(figures)}.{_crash(figures)}"


def _below(figures: Figures) -> str:
    probability = figures["hold_out_as_forecast"]
    return f"If the edge had lasted, a hold-out this low would have a probability of {probability:.3f}."


def _placebo(figures: Figures) -> str:
    if figures["placebo_p_value"] is None:
        return ""
    p, as_good, without = (figures[name] for name in ("placebo_p_value", "placebo_as_good", "placebo_without_result"))
    found = f"{as_good:,} of {figures['placebo_runs'] + without:,} placebo runs were at least as good"
    found += f", and {without:,} without a result count as such" if without else ""
    return " ".join([f"{found} (p = {p:.3f}).", *placebo_limits(figures)])


def placebo_limits(figures: Figures) -> list[str]:
    """Return sentences on what the p-value of the placebo runs does not account for."""
    limits = []
    if (requests := figures["placebo_requests"]) > 1:
        limits.append(f"They were queued in {requests:,} requests: requesting more until p is small makes p too small.")
    if others := figures["placebo_others"]:
        trials = "1 trial" if others == 1 else f"{others:,} trials"
        limits.append(f"p is for this search alone; it does not account for {trials} of other searches of the family.")
    return limits


def _none_held_out(figures: Figures) -> str:
    if figures["hold_out_sharpe"] is None:
        return sentence(figures["unknown"]["hold_out_sharpe"])
    return f"{_hold_out(figures)} That is too short to decide: confirming the full claim needs {_needed(figures)}."


def _zero(_: Figures) -> str:
    return "The returns are measured over zero or cash, so that the market's own rise counts as an edge."


def _why(name: str) -> Callable[[Figures], str]:
    return lambda figures: sentence(figures["unknown"].get(name, ""))


def _length(figures: Figures) -> str:
    return length_of(figures["hold_out_observations"], figures["periods_per_year"])


def _needed(figures: Figures) -> str:
    needed = figures["track_record_needed"]
    return "more than any record" if needed is None else length_of(math.ceil(needed), figures["periods_per_year"])


def length_of(count: float, year: float | None) -> str:
    """Format a number of returns, in years if the periods per year are known."""
    return f"{count:,.0f} returns" if year is None else f"{count / year:,.1f} years"


_FINDINGS: dict[GradeReason, tuple[Callable[[Figures], str], ...]] = {
    GradeReason.LOOK_AHEAD: (_claim,),
    GradeReason.NOT_REPEATABLE: (_claim,),
    GradeReason.VALUE_DOES_NOT_FIT: (_claim,),
    GradeReason.HOLD_OUT_NEGATIVE: (_claim, _lost),
    GradeReason.HOLD_OUT_BELOW_FORECAST: (_claim, _lost, _below),
    GradeReason.HOLD_OUT_AND_FAMILY: (_claim, _family, _hold_out),
    GradeReason.HOLD_OUT_AND_PLACEBO: (_claim, _placebo, _hold_out),
    GradeReason.FAMILY: (_claim, _family, _none_held_out),
    GradeReason.PLACEBO: (_claim, _placebo, _none_held_out),
    GradeReason.NO_TRIALS: (_why("sharpe"),),
    GradeReason.NO_RETURNS: (_why("sharpe"),),
    GradeReason.NO_FAMILY_TEST: (_claim, _why("p_value"), _hold_out),
    GradeReason.LIKELY_LUCK: (_claim, _family, _placebo, _hold_out),
    GradeReason.NO_BASELINE: (_claim, _family, _zero, _hold_out),
    GradeReason.HOLD_OUT_SEEN: (_claim, _family, _hold_out, _seen),
    GradeReason.HOLD_OUT_UNCERTAIN: (_claim, _family, _hold_out),
    GradeReason.ADAPTIVE_SEARCH: (_claim, _family, _placebo),
}
