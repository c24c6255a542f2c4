"""The dates of a series of returns, as seconds since 1970: read from users' objects, and written as ISO 8601.

Contract. Standard library only; numpy and pandas objects are recognized by their methods. Dates and times without a
time zone are taken as they are. With a time zone, a series of midnights stays a series of days, and anything else
becomes UTC. Dates must be ascending and unique. `seconds_of` raises ValueError that names the wrong date.
"""

from __future__ import annotations

from array import array
from collections.abc import Iterable
from datetime import date, datetime, timedelta
from typing import Any

EPOCH = datetime(1970, 1, 1)
KINDS = "dates, datetimes, datetime64 or ISO 8601 texts"


def seconds_of(labels: Any) -> array[float]:
    """The seconds of each label. Raises ValueError."""
    seconds = array("d", _vector(labels) if _is_datetime64(labels) else _each(labels))
    for place in range(1, len(seconds)):
        if not seconds[place] > seconds[place - 1]:
            before, after = iso_date(seconds[place - 1]), iso_date(seconds[place])
            how = "is a duplicate" if before == after else f"follows {before}"
            raise ValueError(f"{after} {how} (number {place}); give the dates in order, each once")
    return seconds


def second_of(label: Any) -> float:
    """The seconds of one date, datetime or text such as `2019-01-01`. Raises ValueError."""
    return seconds_of([label])[0]


def iso_date(second: float) -> str:
    """`2019-01-31`, or `2019-01-31T09:30:00` where it is not midnight."""
    moment = EPOCH + timedelta(seconds=second)
    return moment.isoformat().removesuffix("T00:00:00")


def iso_dates(seconds: Iterable[float]) -> tuple[str, ...]:
    return tuple(map(iso_date, seconds))


def index_of(series: Any) -> Any:
    """The index of a pandas Series if it holds dates, else None."""
    index = getattr(series, "index", None)
    if index is None or callable(index) or not len(index):
        return None
    return index if _is_datetime64(index) or hasattr(index, "to_timestamp") or isinstance(index[0], date) else None


def _is_datetime64(labels: Any) -> bool:
    return getattr(getattr(labels, "dtype", None), "kind", "") == "M"


def _vector(labels: Any) -> list[float]:
    """The seconds of an array of datetime64, or of a pandas index or column of them."""
    if getattr(labels.dtype, "tz", None) is not None:
        zoned = getattr(labels, "dt", labels)
        wall = zoned.tz_localize(None)
        seconds = _vector(wall)
        return seconds if _are_days(seconds) else _vector(zoned.tz_convert(None))
    moments = labels.to_numpy() if hasattr(labels, "to_numpy") else labels
    micros = moments.astype("datetime64[us]").astype("int64").tolist()
    if not isinstance(micros, list):
        raise ValueError(f"expected a sequence of dates, got one date; give {KINDS}")
    if (missing := -(2**63)) in micros:
        raise ValueError(f"number {micros.index(missing)} is missing (NaT); give each return its date")
    return [micro / 1e6 for micro in micros]


def _each(labels: Any) -> list[float]:
    if hasattr(labels, "to_timestamp"):  # a pandas index of periods: the start of each
        return _vector(labels.to_timestamp())
    moments = [_moment(label, number) for number, label in enumerate(labels)]
    zoned = {moment.tzinfo is not None for moment in moments}
    if len(zoned) > 1:
        raise ValueError("some dates have a time zone and some do not; give all of them a time zone, or none")
    wall = [(moment.replace(tzinfo=None) - EPOCH).total_seconds() for moment in moments]
    if zoned != {True} or _are_days(wall):
        return wall
    return [
        second - offset.total_seconds()
        for second, moment in zip(wall, moments, strict=True)
        if (offset := moment.utcoffset()) is not None
    ]


def _moment(label: Any, number: int) -> datetime:
    if _is_datetime64(label):
        label = label.astype("datetime64[us]").item()
    if isinstance(label, str):
        try:
            label = datetime.fromisoformat(label)
        except ValueError:
            raise ValueError(f"number {number}, {label[:40]!r}, is not a date; give {KINDS}") from None
    if isinstance(label, datetime) and label == label:  # NaT is a datetime that equals nothing
        return label
    if isinstance(label, date) and not isinstance(label, datetime):
        return datetime(label.year, label.month, label.day)
    raise ValueError(f"number {number} is {str(label)[:40]!r} ({type(label).__name__}); give {KINDS}")


def _are_days(seconds: list[float]) -> bool:
    return all(second % 86_400 == 0 for second in seconds)
