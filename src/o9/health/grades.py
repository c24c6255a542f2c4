"""The data of a verdict: grades, reasons, forecast; and reading one from the store. Imports no numpy.

Contract. `o9.health.verdict.judge` makes a `Verdict`, and the check `validity.verdict` keeps it as JSON in its
evidence. Every surface reads it back with `verdict_of`, or from the store with `kept_verdict`, so that all show the
same. Nothing is decided here. The Sharpe ratios of a `Forecast` are annual.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from enum import Enum
from typing import Any

from o9.model.optimization import OptimizationState
from o9.store import queries
from o9.store.store import Store

VERDICT = "validity.verdict"  # the check that holds it
REPEATABLE = "validity.repeatable"  # the check of re-evaluating the best trial


class Grade(str, Enum):
    """How far a result can be trusted."""

    VOID = "void"
    LOST = "lost"
    CONFIRMED = "confirmed"
    PLAUSIBLE = "plausible"
    UNPROVEN = "unproven"


class GradeReason(str, Enum):
    """Why a result has its grade. `o9.health.wording` has the texts."""

    # void
    LOOK_AHEAD = "look_ahead"
    NOT_REPEATABLE = "not_repeatable"
    VALUE_DOES_NOT_FIT = "value_does_not_fit"
    # lost
    HOLD_OUT_NEGATIVE = "hold_out_negative"
    HOLD_OUT_BELOW_FORECAST = "hold_out_below_forecast"
    # confirmed
    HOLD_OUT_AND_FAMILY = "hold_out_and_family"
    HOLD_OUT_AND_PLACEBO = "hold_out_and_placebo"
    # plausible
    FAMILY = "family"
    PLACEBO = "placebo"
    # unproven
    NO_TRIALS = "no_trials"
    NO_RETURNS = "no_returns"
    NO_FAMILY_TEST = "no_family_test"
    LIKELY_LUCK = "likely_luck"
    NO_BASELINE = "no_baseline"
    HOLD_OUT_SEEN = "hold_out_seen"
    HOLD_OUT_UNCERTAIN = "hold_out_uncertain"
    ADAPTIVE_SEARCH = "adaptive_search"


@dataclass(frozen=True)
class Placebo:
    """The outcome of the placebo runs: the same search on data without an edge.

    p_value: (1 + as_good + without_result) / (1 + runs + without_result), over all runs that were ever queued.
    runs: those with a result. as_good: those at least as good as the real search.
    requests: how often runs were requested. Requesting more until p is small makes p too small.
    others: trials of the family from other searches. p does not account for the choice among those.
    """

    p_value: float
    runs: int
    as_good: int = 0
    without_result: int = 0
    requests: int = 1
    others: int = 0


@dataclass(frozen=True)
class Forecast:
    """The live Sharpe ratio to expect over `years`: the mean, and an interval that holds it with probability 0.8.

    claimed: in sample, over the baseline if there is one. held_out: of the hold-out, or None.
    hidden_crash: skewness or a concave payoff hints at larger losses than any so far; the interval is then too narrow.
    too_high: the search was adaptive, which the forecast does not account for, and nothing was held out.
    """

    mean: float
    low: float
    high: float
    claimed: float
    held_out: float | None
    years: float
    hidden_crash: bool = False
    too_high: bool = False


@dataclass(frozen=True)
class Verdict:
    """The judgement of a result, the same on every surface.

    headline: the reason in one short sentence. words: the finding with its figures, two or three sentences.
    errors: how often this rule is wrong, as measured by `benchmarks/verdict.py`; "" if nothing was decided.
    remedy: what to do next; "" for nothing.
    score: 0 to 1, for the check `validity.verdict`; None for unknown.
    figures: JSON values by name; an unknown one is None or missing.
    """

    grade: Grade
    reason: GradeReason
    headline: str
    words: str
    errors: str = ""
    remedy: str = ""
    score: float | None = None
    forecast: Forecast | None = None
    figures: Mapping[str, Any] = field(default_factory=dict)

    def to_dict(self) -> dict[str, Any]:
        """JSON-ready; the inverse of `from_dict`."""
        return asdict(self) | {"grade": self.grade.value, "reason": self.reason.value, "figures": dict(self.figures)}

    @classmethod
    def from_dict(cls, data: Mapping[str, Any]) -> Verdict:
        forecast = data.get("forecast")
        known = {**data, "grade": Grade(data["grade"]), "reason": GradeReason(data["reason"])}
        return cls(**known | {"forecast": Forecast(**forecast) if forecast else None})


def verdict_of(checks: Sequence[Mapping[str, Any]]) -> Verdict | None:
    """Return the verdict in a stored report's checks, or None."""
    check = next((each for each in checks if each["name"] == VERDICT), None)
    found = check["evidence"].get("verdict") if check else None
    return Verdict.from_dict(found) if isinstance(found, Mapping) else None


def kept_verdict(store: Store, state: OptimizationState) -> Verdict | None:
    """Return the verdict of the newest report, if that was made for the present status."""
    return kept_verdicts(store, [state]).get(state.optimization_id)


def kept_verdicts(store: Store, states: Sequence[OptimizationState]) -> dict[str, Verdict]:
    """Return the verdicts by id, with one query; see `kept_verdict`."""
    rows = store.read(queries.health_verdicts, [state.optimization_id for state in states])
    return {
        state.optimization_id: Verdict.from_dict(row["verdict"])
        for state in states
        if (row := rows.get(state.optimization_id)) and row["verdict"] and row["status"] == state.status.value
    }
