"""Is the best of a family of trials real? One pure function, `judge`, from what is known to a verdict in words.

Contract. Pure. `judge` never raises for poor evidence: what is unknown stays unknown, and a verdict that needs it says
so. The rule, the first leg that speaks decides:

    hold_out       returns that had no part in the choice contradict the claim                      overfit
    split_sample   chosen in one half it falls below the median in the other, and loses money       overfit
    family_test    chance makes the best of such a family look so good with p ≤ 0.04                real
    family_test    … with p > 0.04                                                                  luck
    deflated       without a family test: the deflated Sharpe ratio is above 0.95                   real
    deflated       … is not                                                                         luck
    none           neither is known                                                                 unknown

Why two legs: the deflated Sharpe ratio is what the field expects to see, and too shy to decide; the family test holds
its level under dependence. `benchmarks/verdict.py` measures the figures in `ERRORS`.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from enum import Enum

from o9.health.family import FamilyTest, p_value_of_all
from o9.health.moments import Floats, Moments
from o9.health.overfitting import BacktestOverfitting, probabilistic_sharpe_ratio
from o9.health.unknown import Unknown

# A little under 0.05: resampling is a trifle bold, and the whole rule is to err in at most 5 of 100 worthless families.
FAMILY_LEVEL = 0.04
DEFLATED_LEVEL = 0.95
OVERFITTING_LEVEL = 0.5
CONTRADICTION_LEVEL = 0.05
# As measured by `python benchmarks/verdict.py`: families of 200 over 2,520 days and four kinds of returns, one of them
# in the second figure with a true annual Sharpe ratio of 1.5.
_MEASURED = (
    "Of 100 families of 200 worthless strategies over ten years, {false} are called real by this rule; of 100 in which "
    "one has a true annual Sharpe ratio of 1.5, {found} are found."
)
ERRORS = {
    "hold_out": "Of 100 real edges fewer than 5 are contradicted like this.",
    "split_sample": "Of 100 families of 200 in which one has a true annual Sharpe ratio of 1.5 over ten years, fewer "
    "than 5 are called overfit; of weaker edges more.",
    "family_test": _MEASURED.format(false="at most 5", found="at least 85"),
    "deflated": _MEASURED.format(false="at most 2", found="57 to 78")
    + " Returns that depend on the day before were not allowed for in its formula.",
}


class Verdict(str, Enum):
    """What is to be believed of the best trial of a family."""

    REAL = "real"
    LUCK = "not distinguishable from luck"
    OVERFIT = "overfit"
    UNKNOWN = "unknown"


@dataclass(frozen=True)
class Evidence:
    """What is known of a family, and of the trial chosen from it.

    counted: every trial ever tried on this objective and data, the failed and cancelled ones too.
    kept: how many of them have returns that took part in what follows.
    best: of the chosen trial's returns in sample, over the benchmark where there is one.
    luck: the Sharpe ratio per period that luck gives the best of `counted` (`expected_maximum_sharpe`).
    deflated: the deflated Sharpe ratio with N = counted; `deflated_effective` with N = effective, beside it.
    effective: how many independent trials the counted ones amount to.
    out_of_sample: of the chosen trial's returns on data that had no part in any choice.
    over_benchmark: everything is measured over a baseline's returns; else over zero, where the market's own rise counts
        as an edge. beta: how much of the baseline the chosen trial holds, which is taken off.
    periods_per_year: to tell annual figures; None tells them per period.
    sharpes: the kept ones' Sharpe ratios per period, over the benchmark where there is one.
    """

    counted: int
    kept: int
    best: Moments | Unknown
    luck: float | Unknown
    deflated: float | Unknown
    deflated_effective: float | Unknown
    effective: float | Unknown
    family: FamilyTest | Unknown
    overfitting: BacktestOverfitting | Unknown
    out_of_sample: Moments | Unknown
    over_benchmark: bool = False
    beta: float | None = None
    periods_per_year: float | None = None
    sharpes: Floats | Unknown = field(default=Unknown("they were not computed"), compare=False, repr=False)

    @property
    def p_value(self) -> float | Unknown:
        """Of the family test, for all trials counted."""
        if isinstance(self.family, Unknown):
            return self.family
        return p_value_of_all(self.family.p_value, self.kept, self.counted)


@dataclass(frozen=True)
class Leg:
    """One way to look at it: what it measured, where it draws the line, and what it says by itself.

    `says` is None where it has nothing to say against or for; `words` is a sentence for a person.
    """

    name: str
    value: float | Unknown
    threshold: float
    says: Verdict | None
    words: str


@dataclass(frozen=True)
class Judgement:
    """`decided_by` names the leg; `words` say what that means, `errs` how often this rule is wrong, both ways.

    score: by the leg that decided, 0 to 1, how little chance explains the claim: 1 - p, or the deflated Sharpe ratio,
        or 1 - PBO, or the chance that the hold-out leaves the claim. Not comparable between legs; None for unknown.
    """

    verdict: Verdict
    decided_by: str
    score: float | None
    words: str
    errs: str
    legs: tuple[Leg, ...]


def judge(evidence: Evidence) -> Judgement:
    """The verdict; see the module for the rule."""
    legs = (hold_out(evidence), split_sample(evidence), family_test(evidence), deflated(evidence))
    against = next((leg for leg in legs[:2] if leg.says is Verdict.OVERFIT), None)
    speaks = next((leg for leg in legs[2:] if leg.says is not None), None)
    decisive = against or speaks
    if decisive is None or decisive.says is None or isinstance(decisive.value, Unknown):
        why = "; ".join(f"{leg.name}: {leg.value.reason}" for leg in legs[2:] if isinstance(leg.value, Unknown))
        words = f"Whether this is more than luck is unknown. {why}."
        return Judgement(Verdict.UNKNOWN, "none", None, words, "Nothing was decided.", legs)
    return Judgement(
        verdict=decisive.says,
        decided_by=decisive.name,
        score=decisive.value if decisive.name in _CONFIDENCES else 1.0 - decisive.value,
        words=" ".join(filter(None, (decisive.words, _cost_of_what_is_missing(evidence)))),
        errs=ERRORS[decisive.name],
        legs=legs,
    )


def hold_out(evidence: Evidence) -> Leg:
    """Do returns that had no part in the choice leave anything of what was claimed?

    Claimed is what is left of the Sharpe ratio in sample after the luck of the best: if all of that luck was had. It is
    contradicted where the probability of at least that much, seen out of sample, is below 0.05. A real edge, whose
    claim is then too modest, is contradicted in fewer than 5 of 100.
    """

    def leg(value: float | Unknown, says: Verdict | None, words: str) -> Leg:
        return Leg("hold_out", value, CONTRADICTION_LEVEL, says, words)

    best, fresh, luck = evidence.best, evidence.out_of_sample, evidence.luck
    for known in (fresh, best, luck):
        if isinstance(known, Unknown):
            return leg(known, None, f"Out of sample: {known}.")
    assert not isinstance(best, Unknown)
    assert not isinstance(fresh, Unknown)
    assert not isinstance(luck, Unknown)
    shown, said = _told(fresh.sharpe, evidence), _told(best.sharpe, evidence)
    claim = best.sharpe - luck
    if claim <= 0:
        return leg(Unknown("nothing is claimed beyond luck"), None, f"Out of sample {shown}; in sample {said}.")
    left = probabilistic_sharpe_ratio(
        fresh.sharpe,
        observations=fresh.observations,
        skewness=fresh.skewness,
        kurtosis=fresh.kurtosis,
        benchmark=claim,
    )
    if isinstance(left, Unknown):
        return leg(left, None, f"Out of sample: {left}.")
    if left < CONTRADICTION_LEVEL:
        return leg(
            left,
            Verdict.OVERFIT,
            f"Out of sample the Sharpe ratio is {shown}; in sample it was {said}, of which {_told(claim, evidence)} "
            f"should remain even if all luck is taken off. That much is left with probability {left:.3f}.",
        )
    return leg(left, None, f"Out of sample the Sharpe ratio is {shown}, in sample {said}: no contradiction.")


def split_sample(evidence: Evidence) -> Leg:
    """Did choosing the best in one half of the time help in the other half?"""

    def leg(value: float | Unknown, says: Verdict | None, words: str) -> Leg:
        return Leg("split_sample", value, OVERFITTING_LEVEL, says, words)

    found = evidence.overfitting
    if isinstance(found, Unknown):
        return leg(found, None, f"Probability of backtest overfitting: {found}.")
    told = (
        f"Over {len(found.logits):,} ways to split the time in two, the best of one half was below the median of the "
        f"other in {found.pbo:.0%}, and lost in {found.probability_of_loss:.0%}"
    )
    # All equally good trials have a high PBO too; only where the choice also loses money is it harmful.
    if found.pbo >= OVERFITTING_LEVEL and found.probability_of_loss >= OVERFITTING_LEVEL:
        return leg(found.pbo, Verdict.OVERFIT, f"{told}: choosing by the past did not help, it is fitted to noise.")
    return leg(found.pbo, None, f"{told}.")


def family_test(evidence: Evidence) -> Leg:
    """Is the best better than the benchmark beyond the luck of choosing it?"""

    def leg(value: float | Unknown, says: Verdict | None, words: str) -> Leg:
        return Leg("family_test", value, FAMILY_LEVEL, says, words)

    p = evidence.p_value
    if isinstance(p, Unknown):
        return leg(p, None, f"Hansen's test of the family: {p}.")
    told = (
        f"{_best(evidence)}: among {evidence.counted:,} trials without any edge the best looks as good as this with "
        f"probability {p:.3f}"
    )
    if p <= FAMILY_LEVEL:
        return leg(p, Verdict.REAL, f"{told}, so it is more than luck.")
    return leg(p, Verdict.LUCK, f"{told}, which is not rare enough (at most {FAMILY_LEVEL}) to tell it from luck.")


def deflated(evidence: Evidence) -> Leg:
    """Is the Sharpe ratio above what luck gives the best of so many?"""

    def leg(value: float | Unknown, says: Verdict | None, words: str) -> Leg:
        return Leg("deflated", value, DEFLATED_LEVEL, says, words)

    ratio, luck = evidence.deflated, evidence.luck
    if isinstance(ratio, Unknown) or isinstance(luck, Unknown):
        unknown = ratio if isinstance(ratio, Unknown) else Unknown("what luck gives is unknown")
        return leg(unknown, None, f"Deflated Sharpe ratio: {unknown}.")
    told = (
        f"{_best(evidence)}; luck alone gives the best of {evidence.counted:,} trials {_told(luck, evidence)}. It is "
        f"truly above that with probability {ratio:.3f} (deflated Sharpe ratio{_effective(evidence)})"
    )
    if ratio > DEFLATED_LEVEL:
        return leg(ratio, Verdict.REAL, f"{told}, so it is more than luck.")
    return leg(ratio, Verdict.LUCK, f"{told}, which is not enough (above {DEFLATED_LEVEL}) to tell it from luck.")


# Legs whose value is itself the confidence in the claim; of the others it is one minus the value.
_CONFIDENCES = frozenset({"hold_out", "deflated"})


def _best(evidence: Evidence) -> str:
    if isinstance(evidence.best, Unknown):
        return "The best Sharpe ratio is unknown"
    over = "" if evidence.beta is None else f" over the baseline (of which it holds {evidence.beta:.2f})"
    shown = _told(evidence.best.sharpe, evidence)
    return f"The best Sharpe ratio{over} is {shown} from {evidence.best.observations:,} returns"


def _told(sharpe: float, evidence: Evidence) -> str:
    if evidence.periods_per_year is None:
        return f"{sharpe:.4f} a period"
    return f"{sharpe * math.sqrt(evidence.periods_per_year):.2f} a year"


def _effective(evidence: Evidence) -> str:
    if isinstance(evidence.effective, Unknown) or isinstance(evidence.deflated_effective, Unknown):
        return ""
    return f"; {evidence.deflated_effective:.3f} if correlated trials count as {evidence.effective:,.0f}"


def _cost_of_what_is_missing(evidence: Evidence) -> str:
    """What it costs that not every trial's returns are there; nothing where they are."""
    missing = evidence.counted - evidence.kept
    if missing <= 0 or isinstance(evidence.family, Unknown):
        return ""
    return (
        f"The returns of {missing:,} of {evidence.counted:,} trials are not there; they count as luckless independent "
        f"tries, which raises the probability of luck from {evidence.family.p_value:.3f} to {evidence.p_value:.3f}."
    )
