"""Time intervals in which a route is muted, or outside of which it is. Alertmanager's fields, and a trading calendar.

An interval holds at a time if all its fields do; a field holds if one of its ranges does. Times are in the time zone
`location`, by default UTC. `calendar` is the code of an exchange (`XNYS`), and holds while that exchange trades:
exchange-calendars knows its holidays, early closes and breaks.
"""

from __future__ import annotations

import calendar as months_of
import contextlib
import importlib.util
import re
import warnings
from collections.abc import Callable, Mapping
from datetime import UTC, date, datetime
from functools import lru_cache
from typing import Annotated, Any
from zoneinfo import ZoneInfo

from pydantic import AfterValidator, PlainValidator

from o9.alerts.config.fields import Several, Words, as_text
from o9.model.faults import Typed, validated
from o9.model.optimization import utc_now
from o9.text.suggest import suggestion

Range = tuple[int, int]
"""Minutes of the day (end excluded), or weekdays (0 is Sunday), days, months or years (end included)."""

WEEKDAYS = ("sunday", "monday", "tuesday", "wednesday", "thursday", "friday", "saturday")
MONTHS = (
    "january", "february", "march", "april", "may", "june",
    "july", "august", "september", "october", "november", "december",
)  # fmt: skip
_TIME = re.compile(r"(?:([01][0-9]|2[0-3]):([0-5][0-9]))|24:00")


# Fields; each raises ValueError


class _Times(Typed):
    start_time: Words
    end_time: Words


def _time_range(data: Any) -> Range:
    given = validated(_Times, data)
    first, last = _minute(given.start_time), _minute(given.end_time)
    if first >= last:
        start, end = given.start_time, given.end_time
        raise ValueError(
            f"{start} is not before {end}; split a range across midnight in two: {start} to 24:00, 00:00 to {end}"
        )
    return first, last


def _minute(text: str) -> int:
    """Parse a time from ``00:00`` to ``24:00`` into the minute of the day."""
    found = _TIME.fullmatch(text)
    if found is None:
        raise ValueError(f'{text!r:.80} is not a time of day; write one such as "09:30", in quotes, up to "24:00"')
    return int(found[1]) * 60 + int(found[2]) if found[1] else 24 * 60


def _index(word: str, names: tuple[str, ...], kind: str) -> int:
    try:
        return names.index(word.lower())
    except ValueError:
        raise ValueError(f"{word!r:.80} is not a {kind}; use {', '.join(names)}") from None


def _number(word: str, low: int, high: int) -> int:
    if not re.fullmatch(r"-?[0-9]{1,4}", word) or not low <= int(word) <= high:
        raise ValueError(f"{word!r:.80} is not a number from {low} to {high}")
    return int(word)


def _month(word: str) -> int:
    return _number(word, 1, 12) if word[:1] in "-0123456789" else _index(word, MONTHS, "month") + 1


def _both(value: Any, member: Callable[[str], int]) -> Range:
    text = as_text(value)
    first, colon, last = text.strip().partition(":")
    if not colon and "-" in first[1:]:
        raise ValueError(f"{text!r:.80}: write a range with a colon, such as 1:7 or monday:friday")
    return member(first.strip()), member((last if colon else first).strip())


def _range(member: Callable[[str], int]) -> PlainValidator:
    """Parse ``2027`` or ``2026:2028``, ``saturday`` or ``monday:friday``."""

    def read(value: Any) -> Range:
        first, last = _both(value, member)
        if first > last:
            raise ValueError(f"{value}: the end is before the start; split a range that wraps around in two")
        return first, last

    return PlainValidator(read)


def _days(value: Any) -> Range:
    """Parse ``1:7``, ``-1`` or ``25:-1``. A range that is empty in every month is refused."""
    first, last = _both(value, lambda word: _number(word, -31, 31))
    if first == 0 or last == 0:
        raise ValueError("days of the month are 1 to 31, or -31 to -1 counted from its end")
    if first < 0 < last:
        raise ValueError(f"{value}: if the first day counts from the end of the month, the last must, too")
    if (28 + first if first < 0 else first) > (28 + last if last < 0 else last):
        raise ValueError(f"{value}: the last day is before the first")
    return first, last


def _time_zone(value: Any) -> ZoneInfo:
    name = as_text(value)
    try:
        return ZoneInfo(name)
    except (KeyError, ValueError, OSError):
        raise ValueError(f"{name!r:.80} is not a time zone; write one such as America/New_York") from None


def _exchange(name: str) -> str:
    """Check an exchange's code, and that its calendar covers this year."""
    if importlib.util.find_spec("exchange_calendars") is None:
        raise ValueError(f"the calendar {name} needs a package: pip install 'prefect-o9[calendars]'")
    from exchange_calendars import get_calendar_names

    if name not in get_calendar_names():
        raise ValueError(f"{name!r:.80} is not an exchange's code{suggestion(name, get_calendar_names())}")
    if trades(name, utc_now()) is None:
        raise ValueError(f"the installed exchange-calendars does not know when {name} trades this year")
    return name


class TimeInterval(Typed):
    """An empty field always holds. Negative days of the month count from its end; -1 is the last."""

    times: tuple[Annotated[Range, PlainValidator(_time_range)], ...] = ()
    weekdays: Several[Annotated[Range, _range(lambda word: _index(word, WEEKDAYS, "weekday"))]] = ()
    days_of_month: Several[Annotated[Range, PlainValidator(_days)]] = ()
    months: Several[Annotated[Range, _range(_month)]] = ()
    years: Several[Annotated[Range, _range(lambda word: _number(word, 1, 9999))]] = ()
    location: Annotated[ZoneInfo | None, PlainValidator(_time_zone)] = None
    calendar: Annotated[Words, AfterValidator(_exchange)] = ""

    def holds(self, now: datetime) -> bool | None:
        """Return whether it holds at `now`; None if its calendar does not cover that time."""
        local = now.astimezone(self.location or UTC)
        minute = local.hour * 60 + local.minute
        by_clock = (
            (not self.times or any(start <= minute < end for start, end in self.times))
            and _within(self.weekdays, local.isoweekday() % 7)
            and (not self.days_of_month or any(_on_day(days, local) for days in self.days_of_month))
            and _within(self.months, local.month)
            and _within(self.years, local.year)
        )
        return trades(self.calendar, now) if by_clock and self.calendar else by_clock


TimeIntervals = Mapping[str, tuple[TimeInterval, ...]]
"""By name; a name holds if one of its intervals does."""


def trades(name: str, now: datetime) -> bool | None:
    """Return whether the exchange is open at `now`; None if its calendar does not cover that time."""
    minute = now.astimezone(UTC).replace(second=0, microsecond=0)
    calendar = _calendar(name, minute.year)
    with contextlib.suppress(ValueError):  # the minute is out of bounds
        return None if calendar is None else bool(calendar.is_open_on_minute(minute, ignore_breaks=False))
    return None


@lru_cache(maxsize=64)
def _calendar(name: str, year: int) -> Any:
    """Return the calendar that begins in the year before; None if exchange-calendars has no such years."""
    from exchange_calendars import get_calendar

    # Calendars raise different errors for years without known holidays; pandas warns of deprecations.
    with contextlib.suppress(ValueError, NotImplementedError, LookupError), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        calendar = get_calendar(name, start=date(year - 1, 12, 1))
        calendar.is_open_on_minute(calendar.first_minute)  # computes and caches the minutes
        return calendar
    return None


def _within(ranges: tuple[Range, ...], value: int) -> bool:
    return not ranges or any(first <= value <= last for first, last in ranges)


def _on_day(days: Range, local: datetime) -> bool:
    length = months_of.monthrange(local.year, local.month)[1]
    first, last = (length + day + 1 if day < 0 else day for day in days)
    return first <= local.day <= last
