"""Text cut to the limits of services. Pure.

Contract. A cut never splits a character. Sizes are in UTF-16 code units: no service counts more in its own unit.
"""

from __future__ import annotations

ELLIPSIS = "…"


def size(text: str) -> int:
    """The size in UTF-16 code units: a character outside the basic plane counts two."""
    return len(text) if text.isascii() else len(text) + sum(each > "\uffff" for each in text)


def cut(text: str, limit: int) -> str:
    """At most `limit` units of `text`, with an ellipsis if something is missing."""
    if len(text) <= limit and size(text) <= limit:
        return text
    if limit <= 0:
        return ""
    units = text[:limit].encode("utf-16-le", "surrogatepass")[: 2 * (limit - size(ELLIPSIS))]
    return units.decode("utf-16-le", "ignore").rstrip() + ELLIPSIS


def cut_naming(text: str, limit: int, rest: str) -> str:
    """As `cut`, then `rest`, which says where the whole text is, unless that takes more than a third of `limit`."""
    if not rest or size(text) <= limit or size(rest) * 3 > limit:
        return cut(text, limit)
    return f"{cut(text, limit - size(rest) - 1)} {rest}"


def first_line(text: str, limit: int) -> str:
    """The first line of `text`, at most `limit` characters."""
    return text.partition("\n")[0][:limit]


def cut_lines(text: str, limit: int) -> str:
    """At most `limit` units, cut between two lines if the first line fits."""
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
