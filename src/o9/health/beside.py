"""What stands beside the verdict: how long the record is and must be, and what is left where the best was not chosen.

Contract. Pure. These checks decide nothing: the verdict weighs the same figures by a rule whose errors are measured.
The weakest that they say is a warning, but where the verdict itself rests on what they look at. Where the returns
cannot be judged at all, `validity.luck` says why, and they are left out.

Source of the two lengths: Bailey and López de Prado 2012; Bailey, Borwein, López de Prado and Zhu 2014.
"""

from __future__ import annotations

from o9.health.checks import Check, unknown
from o9.health.moments import Moments, annualised
from o9.health.overfitting import (
    BacktestOverfitting,
    minimum_backtest_length,
    minimum_track_record_length,
    probabilistic_sharpe_ratio,
)
from o9.health.unknown import Unknown
from o9.health.verdict import Evidence, Verdict, hold_out, split_sample

TRACK_RECORD, BACKTEST_LENGTH = "validity.track_record", "validity.backtest_length"
OVERFITTING, OUT_OF_SAMPLE = "validity.overfitting", "validity.out_of_sample"
DOUBTFUL = 0.7  # below the threshold: a warning, by itself no verdict
CONTRADICTED = 0.5  # at most, where the verdict is that it is overfit
CONFIDENCE = 0.95
LEAST_LEFT = 0.5  # less of the Sharpe ratio in sample is a warning, but where it can be told from zero
_LONGER = "test it on more data, or go on with it on paper, before it is traded"
_FEWER = "search fewer variants, or on more data"
_GIVE_HOLD_OUT = (
    "let the objective answer Evaluation(…, hold_out_returns=…): those of the same parameters on periods that its "
    "value knows nothing of"
)


def beside(evidence: Evidence | Unknown) -> list[Check]:
    if isinstance(evidence, Unknown) or isinstance(evidence.best, Unknown):
        return []
    best = evidence.best
    return [
        track_record(best, evidence),
        backtest_length(best, evidence),
        overfitting(evidence),
        out_of_sample(best, evidence),
    ]


def track_record(best: Moments, evidence: Evidence) -> Check:
    """Are there returns enough to tell the best's Sharpe ratio from zero, were it alone?"""
    over = " over the baseline" if evidence.over_benchmark else ""
    told = f"a Sharpe ratio of {_told(best.sharpe, evidence)}{over}"
    known = {"observations": best.observations, "sharpe": best.sharpe, "over_baseline": evidence.over_benchmark}
    needed = minimum_track_record_length(
        best.sharpe, confidence=CONFIDENCE, skewness=best.skewness, kurtosis=best.kurtosis
    )
    if isinstance(needed, Unknown):
        words = f"{told} is not above zero: no record is long enough to show that it is"
        return Check(TRACK_RECORD, DOUBTFUL, words, "search elsewhere", evidence=known)
    words = f"{told} takes {_length(needed, evidence)} to be told from zero with {CONFIDENCE:.0%} confidence; there "
    words += f"are {_length(best.observations, evidence)}"
    enough = best.observations >= needed
    return Check(
        TRACK_RECORD, 1.0 if enough else DOUBTFUL, words, "" if enough else _LONGER, evidence=known | {"needed": needed}
    )


def backtest_length(best: Moments, evidence: Evidence) -> Check:
    """Is the backtest long enough for so many tries not to reach the best's Sharpe ratio by luck?

    The formula is for independent tries: it is the effective number that is judged by, where it is known, and the words
    give what all of them would need.
    """
    if evidence.periods_per_year is None:
        return unknown(
            BACKTEST_LENGTH, "how many periods a year has is not known", "give Evaluation(…, periods_per_year=…)"
        )
    annual, years = annualised(best.sharpe, evidence.periods_per_year), best.observations / evidence.periods_per_year
    tries = evidence.counted if isinstance(evidence.effective, Unknown) else evidence.effective
    needed = minimum_backtest_length(tries, annual)
    known = {"years": years, "annual_sharpe": annual, "counted": evidence.counted, "independent": tries}
    if isinstance(needed, Unknown):
        words = f"the best of any number of worthless trials reaches its {annual:.2f} a year by luck at any length"
        return Check(BACKTEST_LENGTH, DOUBTFUL, words, "search elsewhere", evidence=known)
    words = f"the best of {tries:,.0f} independent worthless trials is expected to reach its {annual:.2f} a year by "
    words += f"luck within {needed:.1f} years; the backtest has {years:.1f}"
    of_all = minimum_backtest_length(evidence.counted, annual)
    if tries != evidence.counted and not isinstance(of_all, Unknown):
        words += f" (within {of_all:.1f} if none of the {evidence.counted:,} trials were correlated)"
        known |= {"needed_of_counted": of_all}
    enough = years >= needed
    return Check(
        BACKTEST_LENGTH,
        1.0 if enough else DOUBTFUL,
        words,
        "" if enough else _FEWER,
        evidence=known | {"needed": needed},
    )


def overfitting(evidence: Evidence) -> Check:
    """How often the best of one half of the time falls below the median in the other (PBO).

    By itself that is no harm: of trials that are all equally good it is one half and more. With loss it is the verdict.
    """
    found = evidence.overfitting
    if isinstance(found, Unknown):
        return unknown(OVERFITTING, found, "keep the returns of all trials")
    known = _figures(found)
    if split_sample(evidence).says is Verdict.OVERFIT:
        words = f"PBO is {found.pbo:.2f}, and what was chosen lost in {found.probability_of_loss:.0%} of the splits"
        return Check(OVERFITTING, min(CONTRADICTED, 1 - found.pbo), words, _FEWER, evidence=known)
    words = f"PBO is {found.pbo:.2f} over {len(found.logits):,} splits of {found.trials:,} trials; what was chosen "
    words += f"in one half lost in {found.probability_of_loss:.0%} of the other halves"
    return Check(OVERFITTING, 1.0, words, evidence=known)


def out_of_sample(best: Moments, evidence: Evidence) -> Check:
    """What is left of the best's Sharpe ratio on data that had no part in the choice.

    Less than half of it, and not to be told from zero, is a warning. Where not even all of it could be told from zero
    over so few periods, the words say that they are too few.
    """
    fresh = evidence.out_of_sample
    if isinstance(fresh, Unknown):
        return unknown(OUT_OF_SAMPLE, fresh, _GIVE_HOLD_OUT)
    words = f"the Sharpe ratio is {_told(fresh.sharpe, evidence)} over {_length(fresh.observations, evidence)} out of "
    words += f"sample and {_told(best.sharpe, evidence)} over {_length(best.observations, evidence)} in sample"
    known = {
        "in_sample": best.sharpe, "out_of_sample": fresh.sharpe, "observations_out_of_sample": fresh.observations,
    }  # fmt: skip
    leg = hold_out(evidence)
    if leg.says is Verdict.OVERFIT and not isinstance(leg.value, Unknown):
        return Check(OUT_OF_SAMPLE, min(CONTRADICTED, leg.value), words, "do not trade on it", evidence=known)
    if best.sharpe > 0:
        known |= {"kept": fresh.sharpe / best.sharpe}
    words += ": nothing of it is left" if fresh.sharpe <= 0 else ""
    words += f": {fresh.sharpe / best.sharpe:.0%} of it" if fresh.sharpe > 0 and best.sharpe > 0 else ""
    if fresh.sharpe > 0 and (fresh.sharpe >= LEAST_LEFT * best.sharpe or _above_zero(fresh)):
        return Check(OUT_OF_SAMPLE, 1.0, words, evidence=known)
    if fresh.sharpe > 0:
        words += ", which cannot be told from nothing"
    needed = minimum_track_record_length(
        best.sharpe, confidence=CONFIDENCE, skewness=best.skewness, kurtosis=best.kurtosis
    )
    if not isinstance(needed, Unknown) and fresh.observations < needed:
        known |= {"needed": needed}
        words += f"; it is too short to tell: even all of it would take {_length(needed, evidence)}"
    return Check(OUT_OF_SAMPLE, DOUBTFUL, words, _LONGER, evidence=known)


def _above_zero(fresh: Moments) -> bool:
    likely = probabilistic_sharpe_ratio(
        fresh.sharpe, observations=fresh.observations, skewness=fresh.skewness, kurtosis=fresh.kurtosis
    )
    return not isinstance(likely, Unknown) and likely >= CONFIDENCE


def _figures(found: BacktestOverfitting) -> dict[str, float | int | None]:
    return {
        "pbo": found.pbo, "probability_of_loss": found.probability_of_loss, "slope": found.slope,
        "splits": len(found.logits), "trials": found.trials, "periods": found.periods,
    }  # fmt: skip


def _told(sharpe: float, evidence: Evidence) -> str:
    if evidence.periods_per_year is None:
        return f"{sharpe:.4f} a period"
    return f"{annualised(sharpe, evidence.periods_per_year):.2f} a year"


def _length(observations: float, evidence: Evidence) -> str:
    told = f"{observations:,.0f} periods"
    if evidence.periods_per_year is None:
        return told
    return f"{told} ({observations / evidence.periods_per_year:.1f} years)"
