"""How single values read: numbers, percentages, durations, times, counts. Pure.

Contract. An unknown value (None) is a dash. `moment` is in UTC, `local_moment` in the reader's own time zone; both name
the zone. `local_time` does not, so the heading of its column does (`local_zone`).
"""

from __future__ import annotations

import json
import math
import time
from datetime import UTC, datetime, timedelta
from typing import Any

from o9.text.escape import shown

NOTHING = "\u2013"
_LIST_SHOWN = 5
_UNITS = (("d", 86_400), ("h", 3_600), ("min", 60), ("s", 1))


def number(value: float | None, *, sign: bool = False) -> str:
    """`0.1234`, `1.235e-05`: four decimals, or four significant digits of a very small or large value."""
    if value is None:
        return NOTHING
    plus = "+" if sign and value else ""
    if value == 0 or 0.001 <= abs(value) < 100_000:
        return _unsigned_zero(f"{value:{plus}.4f}")
    return f"{value:{plus}.4g}"


def brief(value: float | None) -> str:
    """`0.5`, `12.35`, `12,346`: four significant digits, with separators of thousands."""
    if value is None:
        return NOTHING
    return f"{value:,.0f}" if 1_000 <= abs(value) < 1e15 else f"{value:.4g}"


def ratio(value: float | None) -> str:
    """`0.123`, `1.23`: a Sharpe ratio or a probability."""
    if value is None or not math.isfinite(value):
        return NOTHING
    return _unsigned_zero(f"{value:.3f}" if abs(value) < 1 else f"{value:.2f}")


def percent(share: float | None, *, sign: bool = False) -> str:
    """`12.3%`, `50%`, `0.04%`, `1,250%`, for a share such as 0.123."""
    if share is None or not math.isfinite(share):
        return NOTHING
    shown_as, plus = 100 * share, "+" if sign else ""
    size = abs(shown_as)
    if size >= 1e7:
        return f"{shown_as:{plus}.2g}%"
    if size >= 1_000:
        return f"{shown_as:{plus},.0f}%"
    text = f"{shown_as:{plus}.1f}".removesuffix(".0") if size >= 1 else f"{shown_as:{plus}.2g}"
    return f"{_unsigned_zero(text)}%"


def duration(span: timedelta | float | None) -> str:
    """`0.042 s`, `12.3 s`, `4 min 7 s`, `2 h`, `3 d 1 h`, for a timedelta or seconds: at most two units."""
    if span is None:
        return NOTHING
    seconds = span.total_seconds() if isinstance(span, timedelta) else span
    if abs(seconds) < 59.95:
        text = f"{seconds:.3f}".rstrip("0").rstrip(".") if abs(seconds) < 1 else f"{seconds:.3g}"
        return f"{_unsigned_zero(text)} s"
    whole = round(abs(seconds))
    parts = []
    for unit, length in _UNITS:
        count, whole = divmod(whole, length)
        parts.append(f"{count:,} {unit}" if count else "")
    first = next(index for index, part in enumerate(parts) if part)
    return ("-" if seconds < 0 else "") + " ".join(filter(None, parts[first : first + 2]))


def moment(at: datetime | str | None) -> str:
    """`2026-01-31 09:30:00 UTC`, for an aware datetime or its ISO form."""
    return NOTHING if at is None else f"{_parsed(at).astimezone(UTC):%Y-%m-%d %H:%M:%S UTC}"


def local_moment(at: datetime | str | None) -> str:
    """`2026-01-31 10:30:00 CET`"""
    return NOTHING if at is None else f"{_parsed(at).astimezone():%Y-%m-%d %H:%M:%S %Z}"


def local_time(at: datetime | str | None, *, milliseconds: bool = False) -> str:
    """`2026-01-31 10:30:00`"""
    if at is None:
        return NOTHING
    return f"{_parsed(at).astimezone():%Y-%m-%d %H:%M:%S.%f}"[: -3 if milliseconds else -7]


def local_zone() -> str:
    """`UTC`; `CET/CEST` in a zone with daylight saving time."""
    return "/".join(dict.fromkeys(time.tzname))


def count(of: int, one: str) -> str:
    """`1 trial`, `12,000 trials`"""
    return f"{of:,} {one}{'' if of == 1 else 's'}"


def value_text(value: Any) -> str:
    """`0.0123`, `true`, `[1, 2]`: the value of a parameter or a setting, on one line."""
    if isinstance(value, bool) or value is None:
        return json.dumps(value)
    if isinstance(value, float):
        return f"{value:.6g}"
    return shown(value if isinstance(value, str) else json.dumps(value, ensure_ascii=False))


def figure(value: Any) -> str:
    """`0.1235`, `yes`, `unknown`: any figure; at most five values of a list."""
    if value is None or isinstance(value, bool):
        return {None: "unknown", True: "yes", False: "no"}[value]
    if isinstance(value, int):
        return f"{value:,}"
    if isinstance(value, float):
        return brief(value)
    if isinstance(value, (list, tuple)):
        return ", ".join(figure(each) for each in value[:_LIST_SHOWN]) + (", …" if len(value) > _LIST_SHOWN else "")
    return str(value)


def sentence(text: str) -> str:
    """`text` with a capital first letter and a full stop."""
    text = text.strip()
    return f"{text[:1].upper()}{text[1:]}{'' if text[-1:] in '.!?…' else '.'}" if text else ""


def _parsed(at: datetime | str) -> datetime:
    return datetime.fromisoformat(at) if isinstance(at, str) else at


def _unsigned_zero(text: str) -> str:
    """`0.0000` for `-0.0000`."""
    return text[1:] if text.startswith(("-", "+")) and not any(each in "123456789" for each in text) else text
