"""The article of one optimization: what each section shows, or why it shows nothing. Pure."""

from __future__ import annotations

from datetime import datetime
from typing import Any

from o9.health.checks.validity import unpacked
from o9.health.unknown import Unknown
from o9.model.optimization import strategy_of
from o9.model.search_space import CategoricalParameter, Parameter
from o9.model.states import ENDED, TrialState
from o9.report.charts import life as life_plots
from o9.report.charts import luck as luck_plots
from o9.report.charts import search as search_plots
from o9.report.charts.equity import equity
from o9.report.charts.figure import Plot
from o9.report.charts.series_trend import trend
from o9.report.facts import OneFacts
from o9.report.headline import performance_figures, scores
from o9.report.verdict_section import forecast_plot, grounds
from o9.text.escape import shortened
from o9.text.format import NOTHING, duration, value_text

SHOWN_ERRORS = 5
SHOWN_TRANSITIONS = 100
LONGEST_NAME = 200

Drawn = Plot | Unknown


def article(found: OneFacts, now: datetime) -> dict[str, Any]:
    """The context of `templates/optimizations.html` for one optimization, top to bottom."""
    facts, state = found.facts, found.state
    best, evidence = facts.best, found.evidence
    number = best.number if best else None
    order = list(found.importance["parameters"] or ())
    slices = search_plots.slices(facts.trials, facts.space, order, number, facts.direction)
    performance = performance_figures(state, facts.value, found.counts, best.metrics if best else {})
    return {
        "state": state,
        "name": shortened(state.name or state.optimization_id, LONGEST_NAME),
        "made_of": _made_of(found),
        "so_far": "" if state.status in ENDED else ", so far",
        "verdict": found.verdict,
        "grounds": grounds(found.verdict),
        "forecast": forecast_plot(found.verdict),
        "scores": scores(found.checks),
        "performance": performance,
        "improvement": next((each.value for each in performance if each.title == "Improvement"), NOTHING),
        "counts": found.counts,
        "history": search_plots.history(facts.trials, facts.direction, facts.bests),
        "looked_at": len(facts.trials),
        "importance": search_plots.importance_bars(found.importance),
        "slices": slices,
        "parameters_left_out": len({name for trial in facts.trials for name in trial.parameters}) - len(slices),
        "equity": _equity(found),
        "sharpes": evidence if isinstance(evidence, Unknown) else luck_plots.sharpe_distribution(evidence),
        "logits": evidence if isinstance(evidence, Unknown) else luck_plots.rank_logits(evidence.overfitting),
        "timeline": life_plots.timeline(facts.transitions, now),
        "transitions": facts.transitions[-SHOWN_TRANSITIONS:],
        "transitions_left_out": max(0, len(facts.transitions) - SHOWN_TRANSITIONS),
        "parameters": _parameters(found),
        "errors": [trial for trial in facts.trials if trial.state is TrialState.FAILED][-SHOWN_ERRORS:][::-1],
        "series": found.series,
        "trend": trend(found.series),
    }


def _made_of(found: OneFacts) -> list[tuple[str, str]]:
    """The facts below the title: what was searched, and how."""
    state = found.state
    strategy = strategy_of(state.metadata)
    rows = [("Strategy", strategy)] if strategy not in ("default", "optuna") else []
    for title, key in (("Objective", "objective"), ("Sampler", "sampler"), ("Seed", "seed"), ("Retry of", "retry_of")):
        if state.metadata.get(key) is not None:
            rows.append((title, shortened(str(state.metadata[key]), 120)))
    rows.append(("Direction", found.facts.direction))
    if begun := state.metadata.get("warm_start_from"):
        rows.append(("Warm start", shortened(f"the best of {begun['optimization_id']}", 120)))
    if found.facts.family is not None and found.facts.family.name:
        rows.append(("Family", shortened(found.facts.family.name, 120)))
    if found.waited_seconds is not None:
        rows.append(("Waited", duration(found.waited_seconds)))
    return rows


def _equity(found: OneFacts) -> Drawn:
    best = found.facts.best
    if best is None:
        return Unknown("no trial has completed" if found.facts.trials else "the ledger has no trials")
    baseline = found.facts.family.baseline if found.facts.family else None
    return equity(
        best.returns,
        periods_per_year=best.periods_per_year,
        hold_out=best.hold_out_returns,
        baseline=unpacked(baseline.returns) if baseline else None,
        baseline_hold_out=unpacked(baseline.hold_out) if baseline and baseline.hold_out is not None else None,
        dates=best.dates,
        hold_out_dates=best.hold_out_dates,
    )


def _parameters(found: OneFacts) -> list[tuple[str, Any, str]]:
    """The best parameters, each with the range that was searched. Fixed ones come last."""
    space = {each.name: each for each in found.facts.space.parameters} if found.facts.space else None
    rows = []
    for name, value in found.state.optimized_parameters.items():
        searched = "unknown" if space is None else _searched(space[name]) if name in space else "fixed"
        rows.append((name, value, searched))
    return sorted(rows, key=lambda row: row[2] == "fixed")


def _searched(parameter: Parameter) -> str:
    if isinstance(parameter, CategoricalParameter):
        return f"one of {', '.join(value_text(choice) for choice in parameter.choices)}"
    text = f"{value_text(parameter.low)} to {value_text(parameter.high)}"
    if parameter.log:
        return f"{text}, logarithmic"
    return f"{text}, step {value_text(parameter.step)}" if parameter.step not in (None, 1) else text
