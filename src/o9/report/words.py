"""How single values read in a report: numbers, shares, durations, moments, and what somebody else wrote. Pure.

Contract. Moments are told in UTC, since a report travels. What is not known is a dash; what others wrote (names, ids,
errors, parameters) passes `plain`, and is escaped by whoever puts it into HTML.
"""

from __future__ import annotations

import json
import math
import re
from collections.abc import Mapping
from datetime import UTC, datetime
from typing import Any

NOTHING = "\u2013"
# Control characters (but for the line's end and the tab), what turns the direction of reading, halves of characters.
_UNPRINTABLE = re.compile(
    "[\x00-\x08\x0b-\x1f\x7f-\x9f\u061c\u200e\u200f\u202a-\u202e\u2066-\u2069\ud800-\udfff\ufffe\uffff]"
)


def number(value: float | None) -> str:
    """Four decimals where that is enough and not too many, else four significant digits."""
    if value is None or not math.isfinite(value):
        return NOTHING if value is None else f"{value}"
    if value == 0 or 0.001 <= abs(value) < 100_000:
        return _signed(f"{value:.4f}")
    return _signed(f"{value:.4g}")


def ratio(value: float | None) -> str:
    """A Sharpe ratio, a probability: two or three decimals."""
    if value is None or not math.isfinite(value):
        return NOTHING
    return _signed(f"{value:.3f}" if abs(value) < 1 else f"{value:.2f}")


def share(value: float | None, *, sign: bool = False) -> str:
    """`12.3%`; more digits are noise."""
    if value is None or not math.isfinite(value):
        return NOTHING
    shown = 100 * value
    digits = 0 if abs(shown) >= 1_000 else 1
    return _signed(f"{shown:{'+' if sign else ''},.{digits}f}%")


def duration(seconds: float | None) -> str:
    """`0.042 s`, `12.3 s`, `4 min 07 s`, `1 h 02 min`, `3 d 01 h`, without a place to break the line."""
    if seconds is None:
        return NOTHING
    if seconds < 60:
        told = f"{seconds:.3f} s" if seconds < 1 else f"{seconds:.1f} s"
    else:
        minutes, rest = divmod(int(seconds), 60)
        hours, minutes = divmod(minutes, 60)
        days, hours_left = divmod(hours, 24)
        if days:
            told = f"{days} d {hours_left:02} h"
        else:
            told = f"{hours} h {minutes:02} min" if hours else f"{minutes} min {rest:02} s"
    return told.replace(" ", "\u00a0")


def moment(at: datetime | str | None) -> str:
    """`2026-01-31 09:30:00 UTC`"""
    if at is None:
        return NOTHING
    known = datetime.fromisoformat(at) if isinstance(at, str) else at
    return known.astimezone(UTC).strftime("%Y-%m-%d %H:%M:%S UTC")


def count(of: int, one: str, many: str | None = None) -> str:
    """`1 trial`, `12,000 trials`"""
    return f"{of:,} {one if of == 1 else many or one + 's'}"


def states(counts: Mapping[str, int]) -> str:
    """`180 trials, 3 of them failed`"""
    bad = ", ".join(f"{n:,} {state}" for state, n in sorted(counts.items()) if state != "completed" and n)
    told = count(sum(counts.values()), "trial")
    return f"{told} ({bad})" if bad else told


def times(of: int) -> str:
    return {1: "once", 2: "twice"}.get(of, f"{of:,} times")


def brief(value: float) -> str:
    """Four significant digits."""
    return _signed(f"{value:.4g}")


def value_of(value: Any) -> str:
    """A parameter's value, on one line."""
    if isinstance(value, bool) or value is None:
        return json.dumps(value)
    if isinstance(value, float):
        return _signed(f"{value:.6g}")
    return plain(value if isinstance(value, str) else json.dumps(value, ensure_ascii=False))


def plain(text: str) -> str:
    r"""`text` without what steers a reader's page: `\u202e` in the place of such characters."""
    return _UNPRINTABLE.sub(lambda found: found[0].encode("unicode_escape", "surrogatepass").decode(), text)


def shortened(text: str, limit: int) -> str:
    """At most `limit` characters of it, on one line."""
    line = " ".join(text.split())
    return line if len(line) <= limit else f"{line[: limit - 1]}…"


def sentence(text: str) -> str:
    """With a capital first and a stop at the end."""
    text = text.strip()
    return f"{text[:1].upper()}{text[1:]}{'' if text[-1:] in '.!?…' else '.'}" if text else ""


def _signed(text: str) -> str:
    """A real minus, which lines up with digits and cannot be taken for a hyphen; none before a zero."""
    if text.startswith("-"):
        return f"\u2212{text[1:]}" if re.search("[1-9]", text) else text[1:]
    return text
