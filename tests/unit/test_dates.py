"""Dates of returns: read from what users have, checked, and written as ISO 8601."""

from __future__ import annotations

from collections import deque
from datetime import UTC, date, datetime, timedelta, timezone
from typing import Any

import numpy as np
import pandas as pd
import pytest

from o9.model.dates import index_of, iso_dates, second_of, seconds_of

DAYS = ("2026-01-30", "2026-01-31", "2026-02-02")
NEW_YORK = pd.DatetimeIndex(DAYS, tz="America/New_York")
EAST = timezone(timedelta(hours=2))


@pytest.mark.parametrize(
    "labels",
    [
        DAYS,
        deque(DAYS),
        [date.fromisoformat(day) for day in DAYS],
        [datetime.fromisoformat(day) for day in DAYS],
        [datetime.fromisoformat(day).replace(tzinfo=EAST) for day in DAYS],
        np.array(DAYS, "datetime64[D]"),
        list(np.array(DAYS, "datetime64[ns]")),
        pd.DatetimeIndex(DAYS),
        NEW_YORK,
        list(NEW_YORK),
        pd.Series(pd.DatetimeIndex(DAYS), index=[5, 6, 7]),
        pd.Series(NEW_YORK),
        pd.PeriodIndex(DAYS, freq="D"),
        [date(2026, 1, 30), "2026-01-31", datetime(2026, 2, 2)],
    ],
)
def test_days_are_read_in_whatever_form(labels: Any) -> None:
    assert iso_dates(seconds_of(labels)) == DAYS


@pytest.mark.parametrize(
    "labels",
    [
        ["2026-01-30T09:30:00", "2026-01-30T09:30:00.000001"],
        ["2026-01-30T11:30:00+02:00", "2026-01-30T11:30:00.000001+02:00"],
        pd.DatetimeIndex(["2026-01-30T11:30", "2026-01-30T11:30:00.000001"]).tz_localize(EAST),
        [datetime(2026, 1, 30, 9, 30, tzinfo=UTC), datetime(2026, 1, 30, 11, 30, 0, 1, tzinfo=EAST)],
    ],
)
def test_times_with_a_zone_become_utc(labels: Any) -> None:
    assert iso_dates(seconds_of(labels)) == ("2026-01-30T09:30:00", "2026-01-30T09:30:00.000001")


@pytest.mark.parametrize(
    ("labels", "named"),
    [
        (["2026-01-01", "2026-01-01"], "2026-01-01"),
        (["2026-01-02", "2026-01-01"], "2026-01-01"),
        (["2026-01-01", "soon"], "'soon'"),
        ([20260101], "20260101"),
        ([None], "None"),
        ([pd.NaT], "NaT"),
        (np.array(["2026-01-01", "NaT"], "datetime64[D]"), "number 1"),
        (np.datetime64("2026-01-01"), "sequence"),
        (["2026-01-01T00:00:00+00:00", "2026-01-02"], "zone"),
    ],
)
def test_what_is_wrong_is_named(labels: Any, named: str) -> None:
    with pytest.raises(ValueError, match=named):
        seconds_of(labels)


def test_only_an_index_of_dates_is_a_calendar() -> None:
    for numbered in (DAYS, range(3), [1.5, 2.5, 3.5]):
        assert index_of(pd.Series([0.1, 0.2, 0.3], list(numbered))) is None
    for index in (pd.DatetimeIndex(DAYS), pd.PeriodIndex(DAYS, freq="M"), [date.fromisoformat(day) for day in DAYS]):
        assert index_of(pd.Series([0.1, 0.2, 0.3], index)) is not None
    for none in (None, [0.1], np.array([0.1]), pd.Series([], dtype=float)):
        assert index_of(none) is None


def test_early_and_late_dates_come_back_as_they_were() -> None:
    ends = ("0001-01-01", "1969-12-31T23:59:59", "9999-12-31T23:59:59")
    assert iso_dates(seconds_of(ends)) == ends
    assert second_of("1970-01-02") == 86_400.0
