"""What somebody wrote, made harmless for a terminal. Needs nothing but the standard library."""

from __future__ import annotations

import re

# What turns the direction of reading, and C1 controls, which JSON leaves as they are; joiners of emoji stay.
STEERING = "\x7f-\x9f\u061c\u200e\u200f\u2028\u2029\u202a-\u202e\u2066-\u2069\ud800-\udfff"
_UNPRINTABLE = re.compile(f"[\x00-\x1f{STEERING}]")


def shown(text: str) -> str:
    r"""`text` on one line that cannot steer the terminal: `\u202e`, `\n` in the place of such characters."""
    return _UNPRINTABLE.sub(lambda found: found[0].encode("unicode_escape").decode(), text)
