"""The names of the ways to destroy the edge of data, without numpy; `o9.workers.resampling` does it."""

from __future__ import annotations

import re
from typing import Any

SHUFFLE, SHIFT = "shuffle", "shift"
_KIND = re.compile(r"shuffle|bootstrap(:(auto|[1-9]\d*))?|shift")


def is_kind(kind: Any) -> bool:
    """May it stand in `@objective(…, placebo=…)`?"""
    return callable(kind) or (isinstance(kind, str) and _KIND.fullmatch(kind) is not None)
