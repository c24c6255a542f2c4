"""Suggestions for names that do not exist. Pure."""

from __future__ import annotations

import re
from collections.abc import Collection, Iterable
from difflib import get_close_matches

from o9.text.escape import shown

KNOWN_SHOWN = 20
_WORD = re.compile(r"[\s._]+")


def near(name: object, known: Iterable[str], n: int = 1, cutoff: float = 0.6) -> list[str]:
    """At most `n` of `known`, best first: those spelled alike, but for case, or with `name` as one of their words."""
    wanted = str(name).lower()
    by_lower = {each.lower(): each for each in known}
    found = get_close_matches(wanted, by_lower, n=n, cutoff=cutoff)
    found = found or [each for each in by_lower if wanted in _WORD.split(each)][:n]
    return [by_lower[each] for each in found]


def did_you_mean(names: Iterable[str]) -> str:
    """`did you mean a or b?`, for at most three names, each on one line; "" for none."""
    chosen = list(dict.fromkeys(names))[:3]
    return f"did you mean {' or '.join(map(shown, chosen))}?" if chosen else ""


def hint_of(name: object, known: Iterable[str], n: int = 1, cutoff: float = 0.6) -> str:
    """`; did you mean a?`, or "": the end of an error that lists what is available."""
    hint = did_you_mean(near(name, known, n, cutoff))
    return f"; {hint}" if hint else ""


def suggestion(name: object, known: Collection[str], n: int = 1, cutoff: float = 0.6) -> str:
    """`; did you mean a?`, or else what is available: the end of an error."""
    if hint := hint_of(name, known, n, cutoff):
        return hint
    more = f" … and {len(known) - KNOWN_SHOWN:,} more" if len(known) > KNOWN_SHOWN else ""
    return f"; available: {', '.join(sorted(known)[:KNOWN_SHOWN])}{more}" if known else "; there are none"
