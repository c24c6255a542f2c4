"""Dates that move in the specification of a recurring optimization."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Any

import pytest

from o9.lifecycle.submission import requested
from o9.model.errors import Faults, OptimizationValidationError
from o9.model.templates import fill_dates, series_name, with_time_zone

LATE = datetime(2026, 2, 1, 3, tzinfo=UTC)  # 22:00 of the day before in New York


@pytest.mark.parametrize(
    ("written", "becomes"),
    [
        ("{{ scheduled_date }}", "2026-02-01"),
        ("{{scheduled_date America/New_York}}", "2026-01-31"),
        ("from {{ scheduled_date - 365d }} to {{ scheduled_date }}", "from 2025-02-01 to 2026-02-01"),
        ("{{ scheduled_date America/New_York + 1w }}", "2026-02-07"),
        ("{{ scheduled_at - 3h }}", "2026-02-01T00:00:00+00:00"),
        ("{{ scheduled_at America/New_York }}", "2026-01-31T22:00:00-05:00"),
        ("{scheduled_date} 策略", "{scheduled_date} 策略"),
    ],
)
def test_what_is_written_becomes(written: str, becomes: str) -> None:
    given: Any = {"name": written, "metadata": {"space": [{"choices": [written, 7, None]}]}}
    made = {"name": becomes, "metadata": {"space": [{"choices": [becomes, 7, None]}]}}
    assert fill_dates(given, LATE) == made


@pytest.mark.parametrize(
    "wrong",
    [
        "yesterday",
        "",
        "scheduled_date Mars/Olympus",
        "scheduled_date -",
        "scheduled_date * 2d",
        "scheduled_date - 999999d",
        "scheduled_at + 999999999999999999w",
    ],
)
def test_anything_else_in_braces_is_refused_with_its_field(wrong: str) -> None:
    with pytest.raises(OptimizationValidationError) as refused:
        fill_dates({"metadata": {"tags": ["fine", f"{{{{ {wrong} }}}}"]}}, LATE)
    assert refused.value.field == "metadata.tags[1]"


def test_braces_that_nothing_closes_are_refused() -> None:
    for wrong in ("{{ scheduled_date }", "{{ scheduled_date }} and {{ scheduled_at"):
        with pytest.raises(OptimizationValidationError) as refused:
            fill_dates({"name": wrong}, LATE)
        assert refused.value.field == "name"


def test_all_wrong_templates_are_named_and_filling_the_others_goes_on() -> None:
    given = {"name": "{{ x }}", "metadata": {"tags": ["{{ y }}", "{{ scheduled_date }}"]}}
    with pytest.raises(OptimizationValidationError) as refused:
        fill_dates(given, LATE)
    assert [fault.field for fault in refused.value.faults] == ["name", "metadata.tags[0]"]
    faults = Faults()
    made = fill_dates(given, LATE, faults)
    assert made == {"name": "{{ x }}", "metadata": {"tags": ["{{ y }}", "2026-02-01"]}}
    assert faults.fields == ("name", "metadata.tags[0]")


def test_a_wrong_template_hides_no_other_fault() -> None:
    given = {"name": "{{ x }}", "total_steps": -1, "metadata": {"objective": "branin", "tags": ["{{ y }}"], "sead": 1}}
    with pytest.raises(OptimizationValidationError) as refused:
        requested(given, scheduled_for=LATE)
    assert {fault.field for fault in refused.value.faults} == {
        "name", "total_steps", "metadata.tags[0]", "metadata.sead",
    }  # fmt: skip
    with pytest.raises(OptimizationValidationError) as refused:
        requested({"name": "{{ x }}", "metadata": {"objective": "nosuch"}}, scheduled_for=LATE)
    assert [fault.field for fault in refused.value.faults] == ["name", "metadata.objective"]


def test_the_schedule_s_zone_is_that_of_templates_that_name_none() -> None:
    given = ["{{ scheduled_date }}", "{{ scheduled_date Asia/Tokyo - 1d }}", "{{scheduled_at + 1h}}"]
    zoned = with_time_zone(given, "America/New_York")
    assert zoned[1] == given[1]
    assert fill_dates(zoned, LATE) == ["2026-01-31", "2026-01-31", "2026-01-31T23:00:00-05:00"]


def test_across_a_clock_change_a_date_is_the_wall_s() -> None:
    """On 8 March 2026 New York's clocks go from 02:00 to 03:00."""
    before = datetime(2026, 3, 8, 4, 30, tzinfo=UTC)  # 23:30 on the 7th
    assert fill_dates("{{ scheduled_date America/New_York + 1d }}", before) == "2026-03-08"


@pytest.mark.parametrize(
    ("name", "series"),
    [
        ("carry-{{ scheduled_date }}", "carry"),
        ("{{ scheduled_date }} 夜间", "夜间"),
        ("carry {{ scheduled_date }} Monday", "carry Monday"),
        ("carry: {{ scheduled_date }}, {{ scheduled_at }} (EUR)", "carry (EUR)"),
        ("- {{ scheduled_at }}.", "branin"),
        ("_carry, v2.", "_carry, v2."),
    ],
)
def test_a_series_is_called_what_stays(name: str, series: str) -> None:
    assert series_name({"name": name, "metadata": {"objective": "branin"}}) == series
