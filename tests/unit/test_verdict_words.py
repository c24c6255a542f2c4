"""The texts of verdicts, the same on every surface."""

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


def test_grades_have_distinct_words_and_marks() -> None:
    assert set(GRADES) == set(Grade)
    assert [words.word for words in GRADES.values()] == [grade.value.upper() for grade in GRADES]
    assert len({words.mark for words in GRADES.values()}) == len({words.meaning for words in GRADES.values()}) == 5
    assert marked(verdict(Grade.LOST)) == f"{GRADES[Grade.LOST].mark} LOST"
    assert headline(verdict(Grade.LOST)).endswith("LOST: the headline of lost")
    assert marked(None) == headline(None) == NOT_JUDGED


def test_the_forecast_sentence_has_expected_claimed_and_held_out_ratios() -> None:
    made = verdict()
    said = "forecast Sharpe ratio 0.41 a year (80%: \u22120.10 to 0.92); claimed 1.32; held out 0.50"
    assert forecast_sentence(made) == said
    alone = forecast_sentence(replace(made, forecast=replace(FORECAST, held_out=None)))
    assert alone == said.replace("held out 0.50", "nothing held out")
    assert forecast_sentence(replace(made, forecast=replace(FORECAST, hidden_crash=True))).startswith(f"{said}; ")
    assert forecast_sentence(replace(made, forecast=None)) == forecast_sentence(None) == ""


def test_without_a_baseline_the_forecast_sentence_mentions_the_market() -> None:
    plain = forecast_sentence(verdict(figures={"over_baseline": True}))
    assert forecast_sentence(verdict(figures={"over_baseline": False})) == f"{plain}; the market's own rise included"
    neutral = verdict(figures={"over_baseline": False, "market_neutral": True})
    assert forecast_sentence(neutral) == plain


@pytest.mark.parametrize(
    ("value", "shown"), [(0.004, "0.00"), (-0.004, "0.00"), (-0.006, "\u22120.01"), (12.345, "12.35"), (0.0, "0.00")]
)
def test_a_sharpe_ratio_has_two_decimals_and_no_negative_zero(value: float, shown: str) -> None:
    assert sharpe(value) == shown


def test_paragraphs_leave_out_missing_parts() -> None:
    made = verdict()
    assert [text[:8] for text in paragraphs(made)] == ["Alpha ov", "Forecast", "Wrong in", "What to "]
    assert paragraphs(replace(made, errors="", remedy="", forecast=None)) == [made.words]


def test_the_json_document_has_the_grade_and_the_verdict() -> None:
    made = verdict(Grade.PLAUSIBLE)
    assert document(made) == {"grade": "plausible", "verdict": made.to_dict()}
    assert document(None) == {"grade": None, "verdict": None}


def test_markdown_escapes_the_texts() -> None:
    made = markdown(verdict(headline="*a* <b> [c](d)"))
    assert r"\*a\* \<b\> \[c\](d)" in made


def test_the_store_finds_the_check_that_holds_the_verdict() -> None:
    assert VERDICT_CHECK == VERDICT
