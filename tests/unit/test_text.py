"""Formatting of values and escaping of text."""

from __future__ import annotations

import time
from datetime import timedelta
from typing import Any

import pytest

from o9.text.escape import one_line, plain, shortened, shown
from o9.text.format import (
    brief,
    count,
    duration,
    figure,
    local_moment,
    local_time,
    local_zone,
    moment,
    number,
    percent,
    ratio,
    sentence,
    value_text,
)  # fmt: skip
from o9.text.suggest import did_you_mean, hint_of, near, suggestion


@pytest.mark.parametrize(
    ("span", "text"),
    [
        (None, "\u2013"), (0, "0 s"), (0.0421, "0.042 s"), (1e-5, "0 s"), (1.5, "1.5 s"), (12.34, "12.3 s"),
        (59.94, "59.9 s"), (59.96, "1 min"), (90, "1 min 30 s"), (247, "4 min 7 s"), (3_600, "1 h"),
        (3_723, "1 h 2 min"), (86_399.9, "1 d"), (266_400, "3 d 2 h"), (86_460, "1 d"), (-90, "-1 min 30 s"),
        (timedelta(minutes=5), "5 min"), (timedelta(days=3_660), "3,660 d"), (timedelta(milliseconds=500), "0.5 s"),
    ],
)  # fmt: skip
def test_durations_have_two_units_at_most(span: timedelta | float | None, text: str) -> None:
    assert duration(span) == text


def test_numbers() -> None:
    values = (None, 0.0, -0.0, -1.5, 1.23456, 1e-9, 123456.0)
    assert [number(value) for value in values] == [
        "\u2013", "0.0000", "0.0000", "-1.5000", "1.2346", "1e-09", "1.235e+05",
    ]  # fmt: skip
    assert [brief(value) for value in (None, 0.23412, 12345.678, 1e16)] == ["\u2013", "0.2341", "12,346", "1e+16"]
    assert [ratio(value) for value in (None, 0.12345, -1.234)] == ["\u2013", "0.123", "-1.23"]
    assert [count(n, "trial") for n in (0, 1, 12_000)] == ["0 trials", "1 trial", "12,000 trials"]


def test_percentages_show_no_more_digits_than_help() -> None:
    values = (None, 0.0, 0.5, 0.1234, 0.0004, 12.5, 1e9, float("nan"))
    assert [percent(value) for value in values] == [
        "\u2013", "0%", "50%", "12.3%", "0.04%", "1,250%", "1e+11%", "\u2013",
    ]  # fmt: skip
    assert [percent(value, sign=True) for value in (0.5, -0.123, 0.0)] == ["+50%", "-12.3%", "0%"]


def test_moments() -> None:
    assert moment("2026-01-31T09:30:00.5+08:00") == "2026-01-31 01:30:00 UTC"
    assert (moment(None), local_moment(None)) == ("\u2013", "\u2013")
    assert local_time("2026-01-31T09:30:00.5+00:00", milliseconds=True).endswith(":00.500")


def test_local_times_name_their_zone(monkeypatch: pytest.MonkeyPatch) -> None:
    with monkeypatch.context() as zone:
        zone.setenv("TZ", "Europe/Berlin")
        time.tzset()
        assert local_moment("2026-01-31T09:30:00+00:00") == "2026-01-31 10:30:00 CET"
        assert local_moment("2026-07-31T09:30:00+00:00") == "2026-07-31 11:30:00 CEST"
        assert (local_time("2026-01-31T09:30:00+00:00"), local_zone()) == ("2026-01-31 10:30:00", "CET/CEST")
    time.tzset()


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (0.23412, "0.2341"), (12345.678, "12,346"), (3, "3"), (1_000_000, "1,000,000"), (float("nan"), "nan"),
        (float("-inf"), "-inf"), (None, "unknown"), (True, "yes"), ([1, 2.5, 3, 4, 5, 6], "1, 2.5, 3, 4, 5, …"),
        ({"x": 1}, "{'x': 1}"),
    ],
)  # fmt: skip
def test_figures_are_rounded_for_reading(value: Any, text: str) -> None:
    assert figure(value) == text


def test_values_are_on_one_line() -> None:
    assert [value_text(value) for value in (True, None, 0.1 + 0.2, [1, "长"], "a\nb")] == [
        "true", "null", "0.3", '[1, "长"]', "a\\nb",
    ]  # fmt: skip


def test_what_others_wrote_steers_nothing() -> None:
    evil = "横截面 🚀\tok\n\x00\x1b[31m\u2066"
    assert plain(evil) == "横截面 🚀\tok\n\\x00\\x1b[31m\\u2066"
    assert shown(evil) == "横截面 🚀\\tok\\n\\x00\\x1b[31m\\u2066"
    assert (one_line(" a\n b "), shortened("a\nbcd", 4), sentence("it ends here")) == ("a b", "a b…", "It ends here.")


def test_what_was_probably_meant() -> None:
    known = ["optuna", "random", "each end", "Momentum"]
    assert near("optunna", known) == ["optuna"]
    assert near("end", known) == ["each end"]
    assert near("momentun", known) == ["Momentum"]
    assert (hint_of("optunna", known), hint_of("zzz", known)) == ("; did you mean optuna?", "")
    assert suggestion("zzz", ["b", "a"]) == "; available: a, b"
    assert suggestion("zzz", []) == "; there are none"
    assert "1,005 more" in suggestion("zzz", [f"a{number}" for number in range(1025)])
    assert "more" not in suggestion("zzz", [f"a{number}" for number in range(20)])
    assert did_you_mean(["a", "b", "a", "c", "d"]) == "did you mean a or b or c?"
