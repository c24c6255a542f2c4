"""How far can the best of a family of trials be trusted? The pure function `judge` makes a `Verdict` of the evidence.

Contract. Pure. `judge` does not raise for poor evidence: a rule that needs an unknown figure does not apply. The first
of `RULES` that applies decides. A worse hold-out, or more looks at it, never give a better grade.

    VOID       the objective looks ahead, is not repeatable, or its returns do not fit its value
    LOST       hold-out Sharpe ratio ≤ 0, or so low that its probability is at most 5% by the forecast from the sample
    CONFIRMED  family p ≤ 0.2, a hold-out above zero at the level 5% (3% after an adaptive search) / (looks + trials
               that saw it), and a baseline or a market-neutral strategy; or placebo p ≤ 0.05 and such a hold-out
    PLAUSIBLE  no hold-out or one that is too short to decide, and family p ≤ 0.035 of a search that is not adaptive,
               with a baseline or a market-neutral strategy; or placebo p ≤ 0.05
    UNPROVEN   all others

The family test treats its trials as fixed in advance. An adaptive search (TPE, CMA-ES) chooses trials by the results of
others, which makes the p-value too small. No formula on the trials corrects that; only data that the search never saw,
or the same search on data without an edge, can. The deflated Sharpe ratio, the probability of backtest overfitting and
the minimum track record length are among the figures, but decide nothing. `benchmarks/verdict.py` measures how often
each grade is wrong.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, field, fields
from functools import cached_property
from typing import Any, TypeVar

from o9.health.grades import Forecast, Grade, GradeReason, Placebo, Verdict
from o9.health.statistics.forecast import Mixture, forecast_of
from o9.health.statistics.moments import Floats, Moments
from o9.health.statistics.overfitting import (
    BacktestOverfitting,
    minimum_backtest_length,
    minimum_track_record_length,
    probabilistic_sharpe_ratio,
)
from o9.health.statistics.spa import p_value_of_all
from o9.health.unknown import Unknown
from o9.health.wording import ERRORS, headline_of, remedy_of, words_of

# The resampled p-value is slightly too small: at 0.05, and for some kinds of families at 0.04, more than 5% of families
# without an edge would pass.
FAMILY_LEVEL = 0.035
WITH_HOLD_OUT = 0.2  # of the family test, if a hold-out decides
HOLD_OUT_LEVEL = 0.05  # of the hold-out, shared by all looks at those of the family
ADAPTIVE_LEVEL = 0.03  # the same after an adaptive search, whose family test is too lenient
PLACEBO_LEVEL = 0.05
LEAST_PLACEBO_RUNS = 19  # fewer cannot reach PLACEBO_LEVEL
BELOW_FORECAST = 0.05
DEFLATED_LEVEL = 0.95
OVERFITTING_LEVEL = 0.5
# For the check `validity.verdict`: critical, critical, warning, warning, healthy.
SCORES = {Grade.VOID: 0.0, Grade.LOST: 0.3, Grade.UNPROVEN: 0.7, Grade.PLAUSIBLE: 0.78, Grade.CONFIRMED: 1.0}
T = TypeVar("T")
_UNKNOWN = frozenset({GradeReason.NO_TRIALS, GradeReason.NO_RETURNS, GradeReason.NO_FAMILY_TEST})


@dataclass(frozen=True)
class Evidence:
    """What is known of a family and of the trial chosen from it. "Over the benchmark" applies if there is one.

    counted: all trials ever run on this objective and data, failed and cancelled ones included; 0 if none completed.
    kept: the number of trials with usable returns, from which the other figures are computed.
    best: moments of the chosen trial's returns in sample, over the benchmark.
    luck: the Sharpe ratio per period that luck gives the best of `counted` (`expected_maximum_sharpe`).
    deflated: the deflated Sharpe ratio with N = counted; `deflated_effective` with N = effective.
    effective: the number of independent trials that the counted ones amount to.
    family: the p-value of the family test over the kept trials.
    out_of_sample: moments of the chosen trial's returns on data that took no part in any choice.
    over_benchmark: everything is measured over a baseline's returns. Otherwise it is measured over zero, so that the
        market's own rise counts as an edge. beta: the chosen trial's beta to the baseline, which is subtracted.
    over_cash: the baseline has no risk, so that the market's own rise counts as an edge, too.
    periods_per_year: for annual figures; with None they are per period.
    sharpes: the kept trials' Sharpe ratios per period, over the benchmark.
    claim: the chosen trial's true annual Sharpe ratio if its edge lasts, from the sample alone.
    variance_ratio: of the trials' mean first autocorrelation (`o9.health.statistics.forecast`).
    hidden_crash: skewness or a concave payoff hints at larger losses than any so far.
    void: why the result is void, or None.
    adaptive: the search chose trials by the results of others, or may have.
    market_neutral: declared so; zero is then the baseline.
    looks: the number of looks at held-out data of this family, including this one.
    seen: the number of trials of the family that were, or may have been, valued on the chosen trial's held-out data.
    placebo: the outcome of the placebo runs.
    """

    counted: int
    kept: int
    best: Moments | Unknown
    luck: float | Unknown
    deflated: float | Unknown
    deflated_effective: float | Unknown
    effective: float | Unknown
    family: float | Unknown
    overfitting: BacktestOverfitting | Unknown
    out_of_sample: Moments | Unknown
    over_benchmark: bool = False
    over_cash: bool = False
    beta: float | None = None
    periods_per_year: float | None = None
    sharpes: Floats | Unknown = field(default=Unknown("they were not computed"), compare=False, repr=False)
    claim: Mixture | Unknown = field(default=Unknown("it was not computed"))
    variance_ratio: float = 1.0
    hidden_crash: bool = False
    void: GradeReason | None = None
    adaptive: bool = True
    market_neutral: bool = False
    looks: int = 1
    seen: int = 0
    placebo: Placebo | None = None

    @classmethod
    def nothing(cls, counted: int, why: Unknown, **given: Any) -> Evidence:
        """Return evidence whose figures are unknown, but for those in `given`."""
        return cls(counted, 0, why, why, why, why, why, why, why, why, sharpes=why, claim=why, **given)

    @property
    def over_market(self) -> bool:
        """Whether everything is measured over a baseline that has risk."""
        return self.over_benchmark and not self.over_cash

    @property
    def p_value(self) -> float | Unknown:
        """The p-value of the family test for all trials counted."""
        if isinstance(self.family, Unknown):
            return self.family
        return p_value_of_all(self.family, self.kept, self.counted)


@dataclass(frozen=True)
class Findings:
    """The figures that the rules compare. An unknown figure is None, and no rule that needs it applies."""

    evidence: Evidence

    @property
    def p(self) -> float | None:
        return known(self.evidence.p_value)

    @property
    def hold_out(self) -> Moments | None:
        return known(self.evidence.out_of_sample)

    @property
    def adaptive(self) -> bool:
        """Whether trials were chosen by the results of others. A single trial was not."""
        return self.evidence.adaptive and self.evidence.counted > 1

    @property
    def has_baseline(self) -> bool:
        """Whether a strategy without an edge has a Sharpe ratio of zero."""
        return self.evidence.over_market or self.evidence.market_neutral

    @property
    def level(self) -> float:
        """The probability of being above zero that a hold-out needs for a confirmation."""
        level = ADAPTIVE_LEVEL if self.adaptive else HOLD_OUT_LEVEL
        return 1 - level / (max(self.evidence.looks, 1) + self.evidence.seen)

    @property
    def hold_out_was_searched(self) -> bool:
        """Whether an adaptive search has seen the held-out data, which may have led it to the chosen trial."""
        return self.hold_out is not None and self.evidence.seen > 0 and self.adaptive

    @cached_property
    def above_zero(self) -> float | None:
        """The probability that the hold-out's true Sharpe ratio is above zero, corrected for serial correlation."""
        if self.hold_out is None:
            return None
        return known(
            probabilistic_sharpe_ratio(
                self.hold_out.sharpe,
                observations=max(2.0, self.hold_out.observations / max(1.0, self.evidence.variance_ratio)),
                skewness=self.hold_out.skewness,
                kurtosis=self.hold_out.kurtosis,
            )
        )

    @cached_property
    def measured(self) -> tuple[float, float] | None:
        """The hold-out's annual Sharpe ratio, and the variance of its error."""
        year = self.evidence.periods_per_year
        if self.hold_out is None or year is None:
            return None
        sharpe = self.hold_out.sharpe
        shape = 1 - self.hold_out.skewness * sharpe + (self.hold_out.kurtosis - 1) * sharpe**2 / 4
        if not shape > 0:
            return None
        return sharpe * math.sqrt(year), self.evidence.variance_ratio * shape * year / self.hold_out.observations

    @cached_property
    def hold_out_quantile(self) -> float | None:
        """The probability of a hold-out this low or lower if the edge lasts, by the forecast from the sample alone."""
        claim = known(self.evidence.claim)
        if claim is None or self.measured is None:
            return None
        return claim.cdf(*self.measured)

    @cached_property
    def track_record(self) -> float | None:
        """The number of periods until the Sharpe ratio in sample, if true, differs from zero with 95% confidence."""
        best = known(self.evidence.best)
        if best is None:
            return None
        return known(
            minimum_track_record_length(
                best.sharpe, confidence=1 - HOLD_OUT_LEVEL, skewness=best.skewness, kurtosis=best.kurtosis
            )
        )

    @property
    def worst_loss(self) -> float | None:
        """The hold-out's worst loss over the sample's worst loss; None if the sample has no loss."""
        best = known(self.evidence.best)
        if best is None or self.hold_out is None or not best.worst < 0:
            return None
        return max(0.0, self.hold_out.worst / best.worst)

    @property
    def hold_out_confirms(self) -> bool:
        return self.above_zero is not None and self.above_zero >= self.level and not self.hold_out_was_searched

    @property
    def hold_out_is_too_short(self) -> bool:
        """Whether there is no hold-out, or even the full Sharpe ratio in sample would not differ from zero over it."""
        if self.hold_out is None:
            return True
        return self.track_record is None or self.hold_out.observations < self.track_record

    @property
    def beats_placebo(self) -> bool:
        return self.evidence.placebo is not None and self.evidence.placebo.p_value <= PLACEBO_LEVEL

    @property
    def fails_placebo(self) -> bool:
        placebo = self.evidence.placebo
        return placebo is not None and placebo.runs >= LEAST_PLACEBO_RUNS and placebo.p_value > PLACEBO_LEVEL

    @cached_property
    def forecast(self) -> Forecast | None:
        claim, best, year = known(self.evidence.claim), known(self.evidence.best), self.evidence.periods_per_year
        if claim is None or best is None or year is None or self.evidence.void:
            return None
        return forecast_of(
            claim,
            claimed=best.annual_sharpe(year),
            ratio=self.evidence.variance_ratio,
            held_out=self.measured,
            hidden_crash=self.evidence.hidden_crash,
            adaptive=self.adaptive,
        )


Rule = Callable[[Findings], bool]
RULES: tuple[tuple[Grade, GradeReason, Rule], ...] = (
    (Grade.VOID, GradeReason.LOOK_AHEAD, lambda found: found.evidence.void is GradeReason.LOOK_AHEAD),
    (Grade.VOID, GradeReason.NOT_REPEATABLE, lambda found: found.evidence.void is GradeReason.NOT_REPEATABLE),
    (Grade.VOID, GradeReason.VALUE_DOES_NOT_FIT, lambda found: found.evidence.void is not None),
    (
        Grade.LOST,
        GradeReason.HOLD_OUT_NEGATIVE,
        lambda found: found.hold_out is not None and found.hold_out.sharpe <= 0,
    ),
    (Grade.LOST, GradeReason.HOLD_OUT_BELOW_FORECAST, lambda found: _at_most(found.hold_out_quantile, BELOW_FORECAST)),
    (
        Grade.CONFIRMED,
        GradeReason.HOLD_OUT_AND_FAMILY,
        lambda found: found.hold_out_confirms and found.has_baseline and _at_most(found.p, WITH_HOLD_OUT),
    ),
    (Grade.CONFIRMED, GradeReason.HOLD_OUT_AND_PLACEBO, lambda found: found.hold_out_confirms and found.beats_placebo),
    (
        Grade.PLAUSIBLE,
        GradeReason.FAMILY,
        lambda found: (
            found.hold_out_is_too_short
            and found.has_baseline
            and not found.adaptive
            and _at_most(found.p, FAMILY_LEVEL)
        ),
    ),
    (Grade.PLAUSIBLE, GradeReason.PLACEBO, lambda found: found.hold_out_is_too_short and found.beats_placebo),
    (Grade.UNPROVEN, GradeReason.NO_TRIALS, lambda found: not found.evidence.counted),
    (Grade.UNPROVEN, GradeReason.NO_RETURNS, lambda found: known(found.evidence.best) is None),
    (Grade.UNPROVEN, GradeReason.NO_FAMILY_TEST, lambda found: found.p is None),
    (Grade.UNPROVEN, GradeReason.LIKELY_LUCK, lambda found: not _at_most(found.p, WITH_HOLD_OUT)),
    (Grade.UNPROVEN, GradeReason.NO_BASELINE, lambda found: not found.has_baseline),
    (Grade.UNPROVEN, GradeReason.HOLD_OUT_SEEN, lambda found: found.hold_out_was_searched),
    (
        Grade.UNPROVEN,
        GradeReason.HOLD_OUT_UNCERTAIN,
        lambda found: found.hold_out is not None and not found.hold_out_confirms,
    ),
    (Grade.UNPROVEN, GradeReason.ADAPTIVE_SEARCH, lambda found: found.adaptive and not found.fails_placebo),
    (Grade.UNPROVEN, GradeReason.LIKELY_LUCK, lambda _: True),
)


def judge(evidence: Evidence) -> Verdict:
    """Return the verdict by the first rule that applies."""
    found = Findings(evidence)
    grade, reason = next((grade, reason) for grade, reason, applies in RULES if applies(found))
    figures = figures_of(found)
    return Verdict(
        grade=grade,
        reason=reason,
        headline=headline_of(reason),
        words=words_of(reason, figures),
        errors=ERRORS.get(reason, ""),
        remedy=remedy_of(reason, figures),
        score=None if reason in _UNKNOWN else SCORES[grade],
        forecast=found.forecast,
        figures=figures,
    )


def figures_of(found: Findings) -> dict[str, Any]:
    """Return all figures as JSON values, Sharpe ratios per period; `unknown` has the reasons of missing ones."""
    evidence = found.evidence
    best, split = known(evidence.best), known(evidence.overfitting)
    year = evidence.periods_per_year
    backtest = minimum_backtest_length(_tries(evidence), best.annual_sharpe(year)) if best and year else None
    placebo = {f"placebo_{each.name}": getattr(evidence.placebo, each.name, None) for each in fields(Placebo)}
    figures = {
        "counted": evidence.counted, "kept": evidence.kept, "effective": known(evidence.effective),
        "adaptive": found.adaptive, "over_baseline": evidence.over_market,
        "beta": evidence.beta if evidence.over_market else None,
        "market_neutral": evidence.market_neutral, "periods_per_year": year,
        "sharpe": best.sharpe if best else None, "observations": best.observations if best else None,
        "p_value": found.p, "p_value_of_kept": known(evidence.family),
        "hold_out_sharpe": found.hold_out.sharpe if found.hold_out else None,
        "hold_out_observations": found.hold_out.observations if found.hold_out else None,
        "hold_out_worst_loss": found.worst_loss,
        "hold_out_above_zero": found.above_zero, "hold_out_level": found.level if found.hold_out else None,
        "hold_out_as_forecast": found.hold_out_quantile, "looks": evidence.looks if found.hold_out else None,
        "hold_out_seen": evidence.seen if found.hold_out else None,
        "luck": known(evidence.luck), "deflated": known(evidence.deflated),
        "deflated_effective": known(evidence.deflated_effective),
        "pbo": split.pbo if split else None, "probability_of_loss": split.probability_of_loss if split else None,
        "track_record_needed": found.track_record,
        "backtest_years_needed": None if backtest is None else known(backtest),
        "hidden_crash": evidence.hidden_crash,
    }  # fmt: skip
    why = {
        "sharpe": evidence.best, "p_value": evidence.p_value, "hold_out_sharpe": evidence.out_of_sample,
        "deflated": evidence.deflated, "pbo": evidence.overfitting, "forecast": evidence.claim,
    }  # fmt: skip
    return (
        figures | placebo | {"unknown": {name: each.reason for name, each in why.items() if isinstance(each, Unknown)}}
    )


def known(figure: T | Unknown) -> T | None:
    return None if isinstance(figure, Unknown) else figure


def _tries(evidence: Evidence) -> float:
    """The number of independent trials, which the formula expects; all trials if it is unknown."""
    effective = known(evidence.effective)
    return evidence.counted if effective is None else effective


def _at_most(figure: float | None, level: float) -> bool:
    return figure is not None and figure <= level
