"""Text cut to what a service takes, without breaking a character. Pure.

Contract. A cut never ends inside a character as people see it (an accent, a flag, a family). Sizes are in UTF-16 units,
in which no service counts more than in its own.
"""

from __future__ import annotations

from functools import cache
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import regex

ELLIPSIS = "…"
_LONGEST_CHARACTER = 64  # code points; beyond that it is no character but a stunt


@cache
def _character() -> regex.Pattern[str]:
    import regex  # a tenth of a second, and most processes cut nothing

    return regex.compile(r"\X")


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
    for found in _character().finditer(text, 0, limit + _LONGEST_CHARACTER):
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


def first_line(text: str, limit: int) -> str:
    """The first line of `text`, at most `limit` characters."""
    return text.partition("\n")[0][:limit]


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
