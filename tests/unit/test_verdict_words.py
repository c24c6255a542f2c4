"""How a verdict reads, the same on every surface."""

from __future__ import annotations

from dataclasses import replace

import pytest
from verdicts import FORECAST, verdict

from o9.health.grades import VERDICT, Grade
from o9.health.wording import (
    GRADES,
    NOT_JUDGED,
    document,
    forecast_sentence,
    headline,
    markdown,
    marked,
    paragraphs,
    sharpe,
)
from o9.store.optimizations.health_reports import VERDICT_CHECK


def test_each_grade_has_a_word_and_a_mark_of_its_own() -> None:
    assert set(GRADES) == set(Grade)
    assert [words.word for words in GRADES.values()] == [grade.value.upper() for grade in GRADES]
    assert len({words.mark for words in GRADES.values()}) == len({words.meaning for words in GRADES.values()}) == 5
    assert marked(verdict(Grade.LOST)) == f"{GRADES[Grade.LOST].mark} LOST"
    assert headline(verdict(Grade.LOST)).endswith("LOST: the headline of lost")
    assert marked(None) == headline(None) == NOT_JUDGED


def test_the_forecast_gives_what_is_expected_claimed_and_held_out() -> None:
    made = verdict()
    said = "forecast Sharpe ratio 0.41 a year (80%: \u22120.10 to 0.92); claimed 1.32; held out 0.50"
    assert forecast_sentence(made) == said
    alone = forecast_sentence(replace(made, forecast=replace(FORECAST, held_out=None)))
    assert alone == said.replace("held out 0.50", "nothing held out")
    assert forecast_sentence(replace(made, forecast=replace(FORECAST, hidden_crash=True))).startswith(f"{said}; ")
    assert forecast_sentence(replace(made, forecast=None)) == forecast_sentence(None) == ""


def test_over_zero_the_forecast_says_that_the_market_is_in_it() -> None:
    plain = forecast_sentence(verdict(figures={"over_baseline": True}))
    assert forecast_sentence(verdict(figures={"over_baseline": False})) == f"{plain}; the market's own rise included"
    neutral = verdict(figures={"over_baseline": False, "market_neutral": True})
    assert forecast_sentence(neutral) == plain


@pytest.mark.parametrize(
    ("value", "shown"), [(0.004, "0.00"), (-0.004, "0.00"), (-0.006, "\u22120.01"), (12.345, "12.35"), (0.0, "0.00")]
)
def test_a_sharpe_ratio_has_two_decimals_and_no_minus_before_a_zero(value: float, shown: str) -> None:
    assert sharpe(value) == shown


def test_what_stands_below_the_headline_leaves_out_what_there_is_not() -> None:
    made = verdict()
    assert [text[:8] for text in paragraphs(made)] == ["Alpha ov", "Forecast", "Wrong in", "What to "]
    assert paragraphs(replace(made, errors="", remedy="", forecast=None)) == [made.words]


def test_for_a_program_it_is_the_grade_and_the_whole() -> None:
    made = verdict(Grade.PLAUSIBLE)
    assert document(made) == {"grade": "plausible", "verdict": made.to_dict()}
    assert document(None) == {"grade": None, "verdict": None}


def test_markdown_takes_nothing_in_it_for_markup() -> None:
    made = markdown(verdict(headline="*a* <b> [c](d)"))
    assert r"\*a\* \<b\> \[c\](d)" in made


def test_the_store_finds_the_verdict_by_the_check_that_holds_it() -> None:
    assert VERDICT_CHECK == VERDICT
