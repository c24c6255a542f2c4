"""What others wrote, made harmless for readers of a message, and cut without breaking a character. Pure.

Contract. `line` and `lines` leave nothing that steers a terminal, a mail's headers or the direction of reading, and
nothing that calls everybody to a chat. `cut` never ends inside a character as people see it (an accent, a flag, a
family), and counts UTF-16 units, in which no service counts more than in its own.
"""

from __future__ import annotations

import math
from datetime import UTC, datetime, timedelta
from typing import Any

import regex

ELLIPSIS = "…"
_CHARACTER = regex.compile(r"\X")
_ENDS_OF_LINES = regex.compile("\r\n|[\n\r\x0b\x0c\x1c-\x1e\x85\u2028\u2029]")
# Controls, what turns the direction of reading, invisible tags, halves of characters, what is none.
_STEERING = regex.compile(
    "[\x00-\x08\x0e-\x1f\x7f-\x9f\u061c\u200e\u200f\u202a-\u202e\u2066-\u2069\ufeff\ufff9-\ufffb\ufffe\uffff"
    "\ud800-\udfff\U000e0000-\U000e001f]"
)
# What Slack, Discord and Teams take for a call to people, or a link under another name; a space without width behind
# its first character undoes it.
_CALLS = regex.compile(r"(?i)@(?=(?:everyone|here|channel|all)\b)|<(?=[@!#&]|/?at\b|[a-z][a-z0-9+.\-]*:)")
_NO_WIDTH = "\u200b"
_LONGEST_CHARACTER = 64  # code points; beyond that it is no character but a stunt


def line(text: str) -> str:
    """On one line."""
    return " ".join(_harmless(_ENDS_OF_LINES.sub(" ", text)).split())


def lines(text: str) -> str:
    """With its lines, none of which ends in a blank, and never more than one empty one after another."""
    out = [_harmless(each.replace("\t", "    ")).rstrip() for each in _ENDS_OF_LINES.split(text)]
    return "\n".join(each for n, each in enumerate(out) if each or (n and out[n - 1])).strip("\n")


def size(text: str) -> int:
    """In UTF-16 units: a character outside the basic plane counts two."""
    return len(text) if text.isascii() else len(text) + sum(each > "\uffff" for each in text)


def cut(text: str, limit: int) -> str:
    """At most `limit` units of `text`, with an ellipsis where something is missing."""
    if len(text) <= limit and size(text) <= limit:
        return text
    if limit <= 0:
        return ""
    kept, room = 0, limit - size(ELLIPSIS)
    for found in _CHARACTER.finditer(text, 0, limit + _LONGEST_CHARACTER):
        room -= size(found[0])
        if room < 0 or found.end() == limit + _LONGEST_CHARACTER:
            break
        kept = found.end()
    return text[:kept].rstrip() + ELLIPSIS


def cut_naming(text: str, limit: int, rest: str) -> str:
    """As `cut`, with `rest`, which says where all of it is, behind the ellipsis; not where it would take much of it."""
    if not rest or size(text) <= limit or size(rest) * 3 > limit:
        return cut(text, limit)
    return f"{cut(text, limit - size(rest) - 1)} {rest}"


def cut_lines(text: str, limit: int) -> str:
    """At most `limit` units, whole lines of them where there is one that fits."""
    if size(text) <= limit:
        return text
    kept: list[str] = []
    room = limit - size(ELLIPSIS)
    for each in text.split("\n"):
        room -= size(each) + 1
        if room < 0:
            break
        kept.append(each)
    while kept and not kept[-1]:
        kept.pop()
    return "\n".join([*kept, ELLIPSIS]) if kept else cut(text, limit)


def moment(at: datetime) -> str:
    """`2026-01-31 09:30:00 UTC`"""
    return at.astimezone(UTC).strftime("%Y-%m-%d %H:%M:%S UTC")


def duration(of: timedelta) -> str:
    """`42 s`, `4 min`, `1 h 02 min`, `3 d 01 h`"""
    seconds = max(0, round(of.total_seconds()))
    if seconds < 60:
        return f"{seconds} s"
    minutes = seconds // 60
    if minutes < 60:
        return f"{minutes} min"
    hours, minutes = divmod(minutes, 60)
    return f"{hours} h {minutes:02} min" if hours < 24 else f"{hours // 24} d {hours % 24:02} h"


def figure(value: Any) -> str:
    """A figure as people read it: four significant digits, at most five values of a list."""
    if value is None or isinstance(value, bool):
        return {None: "unknown", True: "yes", False: "no"}[value]
    if isinstance(value, int):
        return f"{value:,}"
    if isinstance(value, float):
        return f"{value:.4g}" if math.isfinite(value) and not 1_000 <= abs(value) < 1e15 else f"{value:,.0f}"
    if isinstance(value, (list, tuple)):
        return ", ".join(figure(each) for each in value[:5]) + (f", {ELLIPSIS}" if len(value) > 5 else "")
    return line(str(value))


def _harmless(text: str) -> str:
    out: str = _STEERING.sub(lambda found: found[0].encode("unicode_escape", "surrogatepass").decode(), text)
    called: str = _CALLS.sub(lambda found: found[0] + _NO_WIDTH, out)
    return called
