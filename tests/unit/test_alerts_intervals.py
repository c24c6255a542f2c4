"""Time intervals: clocks in time zones, the ends of months, and exchanges' calendars."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Any

import pytest

from o9.alerts.pipeline.alert import NotifyReason
from o9.alerts.pipeline.routing import Route
from o9.alerts.pipeline.stages import by_intervals
from o9.alerts.pipeline.time_intervals import TimeInterval, trades
from o9.model.errors import OptimizationValidationError
from o9.model.faults import validated


def at(text: str) -> datetime:
    return datetime.fromisoformat(text).replace(tzinfo=UTC)


@pytest.mark.parametrize(
    ("fields", "holds", "holds_not"),
    [
        ({}, ["2026-01-05 00:00"], []),
        (
            {"times": [("09:00", "17:00")]},
            ["2026-01-05 09:00", "2026-01-05 16:59:59"],
            ["2026-01-05 17:00", "2026-01-05 08:59"],
        ),
        (
            {"times": [("22:00", "24:00"), ("00:00", "06:00")]},
            ["2026-01-05 23:59", "2026-01-05 00:00"],
            ["2026-01-05 06:00"],
        ),
        (
            {"weekdays": ["monday:friday"]},
            ["2026-01-05 00:00", "2026-01-09 23:59"],
            ["2026-01-04 23:59", "2026-01-10 00:00"],
        ),
        ({"weekdays": ["sunday", "Saturday"]}, ["2026-01-04 12:00", "2026-01-10 12:00"], ["2026-01-05 12:00"]),
        (
            {"days_of_month": ["-1"]},
            ["2026-02-28 12:00", "2028-02-29 12:00"],
            ["2028-02-28 12:00", "2026-01-30 12:00"],
        ),
        ({"days_of_month": ["1:7"]}, ["2026-01-01 12:00", "2026-01-07 12:00"], ["2026-01-08 12:00"]),
        ({"days_of_month": ["25:-1"]}, ["2026-02-25 12:00", "2026-02-28 12:00"], ["2026-02-24 12:00"]),
        ({"days_of_month": ["29:31"]}, ["2026-01-29 12:00"], ["2026-02-28 12:00"]),
        (
            {"days_of_month": ["-31:-28"]},
            ["2026-01-04 12:00", "2026-02-01 12:00"],
            ["2026-01-05 12:00", "2026-02-02 12:00"],
        ),
        ({"months": ["june:8"]}, ["2026-06-01 00:00", "2026-08-31 23:59"], ["2026-05-31 23:59", "2026-09-01 00:00"]),
        ({"years": ["2026:2027"]}, ["2026-01-01 00:00", "2027-12-31 23:59"], ["2028-01-01 00:00"]),
        (
            {"times": [("09:30", "16:00")], "location": "America/New_York"},
            ["2026-01-05 14:30", "2026-07-06 13:30"],
            ["2026-01-05 14:29", "2026-07-06 20:00"],
        ),
        # The clock goes forward on 8 March 2026, and back on 1 November: 02:30 is never, and 01:30 twice.
        ({"times": [("02:00", "03:00")], "location": "America/New_York"}, [], ["2026-03-08 06:59", "2026-03-08 07:00"]),
        (
            {"times": [("01:00", "02:00")], "location": "America/New_York"},
            ["2026-11-01 05:30", "2026-11-01 06:30"],
            ["2026-11-01 07:00"],
        ),
        ({"weekdays": ["monday"], "location": "Asia/Tokyo"}, ["2026-01-04 15:00"], ["2026-01-05 15:00"]),
    ],
)
def test_when_an_interval_holds(fields: dict[str, Any], holds: list[str], holds_not: list[str]) -> None:
    times = [{"start_time": start, "end_time": end} for start, end in fields.get("times", ())]
    made = TimeInterval.model_validate(fields | {"times": times})
    assert [moment for moment in holds if not made.holds(at(moment))] == []
    assert [moment for moment in holds_not if made.holds(at(moment))] == []


def times(start: str, end: str) -> list[dict[str, str]]:
    return [{"start_time": start, "end_time": end}]


@pytest.mark.parametrize(
    ("field", "value", "problem"),
    [
        ("weekdays", "mon", "'mon' is not a weekday"),
        ("weekdays", "friday:monday", "the end is before the start"),
        ("months", "13", "'13' is not a number from 1 to 12"),
        ("months", "may:april", "the end is before the start"),
        ("days_of_month", "0", "days of the month are 1 to 31"),
        ("days_of_month", "32", "'32' is not a number from -31 to 31"),
        ("days_of_month", "-1:5", "the last must, too"),
        ("days_of_month", "7:1", "the last day is before the first"),
        ("days_of_month", "1:", "'' is not a number"),
        ("days_of_month", "31:-30", "the last day is before the first"),
        ("years", "20x6", "'20x6' is not a number from 1 to 9999"),
        ("location", "Mars/Base", "'Mars/Base' is not a time zone"),
        ("location", "../../etc/passwd", "is not a time zone"),
        ("location", "\0", "is not a time zone"),
        ("location", "", "is not a time zone"),
        ("times", times("9:00", "24:00"), "'9:00' is not a time of day"),
        ("times", times("24:00", "24:00"), "24:00 is not before 24:00"),
        ("times", times("09:00", "24:01"), "'24:01' is not a time of day"),
        ("times", times("22:00", "06:00"), "22:00 to 24:00, 00:00 to 06:00"),
        ("calendar", "XNYZ", "'XNYZ' is not an exchange's code"),
        ("calendar", "24/8", "'24/8' is not an exchange's code"),
    ],
)
def test_what_is_no_range_is_refused(field: str, value: Any, problem: str) -> None:
    with pytest.raises(OptimizationValidationError, match=problem):
        validated(TimeInterval, {field: value})


@pytest.mark.parametrize(
    ("name", "moment", "open_"),
    [
        ("XNYS", "2026-01-05 14:30", True),
        ("XNYS", "2026-01-05 14:29:59", False),
        ("XNYS", "2026-01-05 21:00", False),
        ("XNYS", "2026-01-10 16:00", False),  # a Saturday
        ("XNYS", "2026-01-19 16:00", False),  # Martin Luther King Jr. Day
        ("XNYS", "2025-11-28 17:59", True),  # the day after Thanksgiving, until 13:00
        ("XNYS", "2025-11-28 18:00", False),
        ("XHKG", "2026-01-05 03:59", True),
        ("XHKG", "2026-01-05 04:30", False),  # the pause at noon
        ("XHKG", "2026-01-05 05:00", True),
        ("24/7", "2026-01-10 00:00", True),
        ("24/7", "2025-12-31 23:59:59", True),
        ("24/7", "2026-01-01 00:00", True),
    ],
)
def test_when_an_exchange_trades(name: str, moment: str, open_: bool) -> None:
    assert validated(TimeInterval, {"calendar": name}).calendar == name
    assert trades(name, at(moment)) is open_


def test_what_a_calendar_does_not_know_mutes_nobody() -> None:
    far = at("2090-01-05 03:00")
    assert trades("XHKG", far) is None
    hong_kong = {"open": (TimeInterval(calendar="XHKG"),)}
    mute, only = Route("r", mute_time_intervals=("open",)), Route("r", active_time_intervals=("open",))
    assert (
        by_intervals(mute, far, hong_kong).reason is by_intervals(only, far, hong_kong).reason is NotifyReason.GOES_ON
    )
    assert by_intervals(only, at("2026-01-05 04:30"), hong_kong).reason is NotifyReason.NOT_ACTIVE
    assert by_intervals(mute, at("2026-01-05 03:00"), hong_kong).reason is NotifyReason.MUTED


def test_the_clock_decides_before_a_calendar_is_asked() -> None:
    given = {"times": [{"start_time": "00:00", "end_time": "01:00"}], "calendar": "XHKG"}
    assert TimeInterval.model_validate(given).holds(at("2090-01-05 03:00")) is False
