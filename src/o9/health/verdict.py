"""What may be believed of the best of a family of trials? One pure function, `judge`, from evidence to a `Verdict`.

Contract. Pure. `judge` never raises for poor evidence: what is unknown stays unknown, and a rule that needs it does not
apply. `RULES` is the whole rule, the first that applies decides; a worse hold-out or more looks at it never give a
better grade.

    VOID       the objective looks ahead, does not repeat itself, or gives returns that do not fit its value
    LOST       hold-out Sharpe ratio ≤ 0, or less than the forecast from the sample alone makes likely (5%)
    CONFIRMED  family p ≤ 0.2, a hold-out above zero at 5 % (3 % after a search that follows results) / (looks + trials
               that saw it), and a baseline or a market-neutral strategy; or placebo p ≤ 0.05 and such a hold-out
    PLAUSIBLE  no hold-out, or one that is too short to tell: family p ≤ 0.035, a search that does not look at results,
               and a baseline or a market-neutral strategy; or placebo p ≤ 0.05
    UNPROVEN   the rest

The family test treats its trials as fixed in advance. A search that follows results (TPE, CMA-ES) makes its p-value too
small, by how much no formula on the trials tells; only data that it never saw, or the same search on data without an
edge, can. Deflated Sharpe ratio, probability of backtest overfitting and minimum track record are among the figures and
decide nothing. `benchmarks/verdict.py` measures how often each grade is wrong.
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

# Resampling is a little bold: at 0.05, and in some families at 0.04, more than 5 of 100 worthless ones would pass.
FAMILY_LEVEL = 0.035
WITH_HOLD_OUT = 0.2  # of the family test, where a hold-out has the last word
HOLD_OUT_LEVEL = 0.05  # of a hold-out, over all looks at those of the family
SEARCHED_LEVEL = 0.03  # the same after a search that follows results, for its family test says less than it seems to
PLACEBO_LEVEL = 0.05
LEAST_PLACEBO_RUNS = 19  # fewer cannot give a p-value of PLACEBO_LEVEL
BELOW_FORECAST = 0.05
DEFLATED_LEVEL = 0.95
OVERFITTING_LEVEL = 0.5
# What `validity` makes of a grade: critical, critical, a warning, a warning, healthy.
SCORES = {Grade.VOID: 0.0, Grade.LOST: 0.3, Grade.UNPROVEN: 0.7, Grade.PLAUSIBLE: 0.78, Grade.CONFIRMED: 1.0}
T = TypeVar("T")
_UNKNOWN = frozenset({GradeReason.NO_TRIALS, GradeReason.NO_RETURNS, GradeReason.NO_FAMILY_TEST})


@dataclass(frozen=True)
class Evidence:
    """What is known of a family, and of the trial chosen from it.

    counted: every trial ever tried on this objective and data, the failed and cancelled ones too; 0: none completed.
    kept: how many of them have returns that took part in what follows.
    best: of the chosen trial's returns in sample, over the benchmark where there is one.
    luck: the Sharpe ratio per period that luck gives the best of `counted` (`expected_maximum_sharpe`).
    deflated: the deflated Sharpe ratio with N = counted; `deflated_effective` with N = effective.
    effective: how many independent trials the counted ones amount to.
    family: the p-value of the family test over the kept ones.
    out_of_sample: of the chosen trial's returns on data that had no part in any choice.
    over_benchmark: everything is measured over a baseline's returns; else over zero, where the market's own rise counts
        as an edge. beta: how much of the baseline the chosen trial holds, which is taken off.
    over_cash: the baseline has no risk, so that the market's own rise counts as an edge there, too.
    periods_per_year: for annual figures; None leaves them per period.
    sharpes: the kept ones' Sharpe ratios per period, over the benchmark where there is one.
    claim: the chosen trial's true annual Sharpe ratio were its edge to live on, from the sample alone.
    variance_ratio: of the trials' mean first autocorrelation (`o9.health.statistics.forecast`).
    hidden_crash: skewness or a concave payoff hints at losses that no return has shown.
    void: why nothing can be believed, where that is known.
    adaptive: the search chose trials by the results of others, or it is not known that it did not.
    market_neutral: declared so: zero is the baseline.
    looks: how often a hold-out of this family was evaluated, this time included.
    seen: how many trials of the family were valued on data that are held out from the chosen one, or may have been.
    placebo: the same search on data without an edge.
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
        """Of a family whose returns say nothing; `given`: what is known all the same."""
        return cls(counted, 0, why, why, why, why, why, why, why, why, sharpes=why, claim=why, **given)

    @property
    def over_market(self) -> bool:
        """Is everything measured over a baseline that has risk?"""
        return self.over_benchmark and not self.over_cash

    @property
    def p_value(self) -> float | Unknown:
        """Of the family test, for all trials counted."""
        if isinstance(self.family, Unknown):
            return self.family
        return p_value_of_all(self.family, self.kept, self.counted)


@dataclass(frozen=True)
class Findings:
    """What the rules look at. An unknown figure is None, and no rule that needs it applies."""

    evidence: Evidence

    @property
    def p(self) -> float | None:
        return known(self.evidence.p_value)

    @property
    def hold_out(self) -> Moments | None:
        return known(self.evidence.out_of_sample)

    @property
    def searched(self) -> bool:
        """Were trials chosen by results? One trial was not."""
        return self.evidence.adaptive and self.evidence.counted > 1

    @property
    def has_zero(self) -> bool:
        """Is zero what the strategy without an edge earns?"""
        return self.evidence.over_market or self.evidence.market_neutral

    @property
    def level(self) -> float:
        """The probability that the hold-out must be above zero with."""
        level = SEARCHED_LEVEL if self.searched else HOLD_OUT_LEVEL
        return 1 - level / (max(self.evidence.looks, 1) + self.evidence.seen)

    @property
    def is_stale(self) -> bool:
        """Did a search that follows results use the held-out data? Then the chosen trial may follow from them."""
        return self.hold_out is not None and self.evidence.seen > 0 and self.searched

    @cached_property
    def above_zero(self) -> float | None:
        """The probability that the hold-out's true Sharpe ratio is above zero; serial correlation takes from it."""
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
    def as_forecast(self) -> float | None:
        """How probable at most such a hold-out is, were the edge to live on; the forecast knows the sample alone."""
        claim = known(self.evidence.claim)
        if claim is None or self.measured is None:
            return None
        return claim.cdf(*self.measured)

    @cached_property
    def track_record(self) -> float | None:
        """Periods until the Sharpe ratio in sample, if it is true, differs from zero with 95% confidence."""
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
        """The hold-out's worst loss in a period, in worst losses of the sample; None where one of them has none."""
        best = known(self.evidence.best)
        if best is None or self.hold_out is None or not best.worst < 0:
            return None
        return max(0.0, self.hold_out.worst / best.worst)

    @property
    def confirms(self) -> bool:
        return self.above_zero is not None and self.above_zero >= self.level and not self.is_stale

    @property
    def is_mute(self) -> bool:
        """No hold-out, or one over which not even all of the claim would differ from zero."""
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
            adaptive=self.searched,
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
    (Grade.LOST, GradeReason.HOLD_OUT_BELOW_FORECAST, lambda found: _at_most(found.as_forecast, BELOW_FORECAST)),
    (
        Grade.CONFIRMED,
        GradeReason.HOLD_OUT_AND_FAMILY,
        lambda found: found.confirms and found.has_zero and _at_most(found.p, WITH_HOLD_OUT),
    ),
    (Grade.CONFIRMED, GradeReason.HOLD_OUT_AND_PLACEBO, lambda found: found.confirms and found.beats_placebo),
    (
        Grade.PLAUSIBLE,
        GradeReason.FAMILY,
        lambda found: found.is_mute and found.has_zero and not found.searched and _at_most(found.p, FAMILY_LEVEL),
    ),
    (Grade.PLAUSIBLE, GradeReason.PLACEBO, lambda found: found.is_mute and found.beats_placebo),
    (Grade.UNPROVEN, GradeReason.NO_TRIALS, lambda found: not found.evidence.counted),
    (Grade.UNPROVEN, GradeReason.NO_RETURNS, lambda found: known(found.evidence.best) is None),
    (Grade.UNPROVEN, GradeReason.NO_FAMILY_TEST, lambda found: found.p is None),
    (Grade.UNPROVEN, GradeReason.LIKELY_LUCK, lambda found: not _at_most(found.p, WITH_HOLD_OUT)),
    (Grade.UNPROVEN, GradeReason.NO_BASELINE, lambda found: not found.has_zero),
    (Grade.UNPROVEN, GradeReason.HOLD_OUT_SEEN, lambda found: found.is_stale),
    (Grade.UNPROVEN, GradeReason.HOLD_OUT_UNCERTAIN, lambda found: found.hold_out is not None and not found.confirms),
    (Grade.UNPROVEN, GradeReason.ADAPTIVE_SEARCH, lambda found: found.searched and not found.fails_placebo),
    (Grade.UNPROVEN, GradeReason.LIKELY_LUCK, lambda _: True),
)


def judge(evidence: Evidence) -> Verdict:
    """The verdict; see the module for the rule."""
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
    """All that is known, JSON values by name. Sharpe ratios are per period; `unknown` has why others are missing."""
    evidence = found.evidence
    best, split = known(evidence.best), known(evidence.overfitting)
    year = evidence.periods_per_year
    backtest = minimum_backtest_length(_tries(evidence), best.annual_sharpe(year)) if best and year else None
    placebo = {f"placebo_{each.name}": getattr(evidence.placebo, each.name, None) for each in fields(Placebo)}
    figures = {
        "counted": evidence.counted, "kept": evidence.kept, "effective": known(evidence.effective),
        "adaptive": found.searched, "over_baseline": evidence.over_market,
        "beta": evidence.beta if evidence.over_market else None,
        "market_neutral": evidence.market_neutral, "periods_per_year": year,
        "sharpe": best.sharpe if best else None, "observations": best.observations if best else None,
        "p_value": found.p, "p_value_of_kept": known(evidence.family),
        "hold_out_sharpe": found.hold_out.sharpe if found.hold_out else None,
        "hold_out_observations": found.hold_out.observations if found.hold_out else None,
        "hold_out_worst_loss": found.worst_loss,
        "hold_out_above_zero": found.above_zero, "hold_out_level": found.level if found.hold_out else None,
        "hold_out_as_forecast": found.as_forecast, "looks": evidence.looks if found.hold_out else None,
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
    """Independent ones, for the formula is for those; all, where it is not known how many that are."""
    effective = known(evidence.effective)
    return evidence.counted if effective is None else effective


def _at_most(figure: float | None, level: float) -> bool:
    return figure is not None and figure <= level
