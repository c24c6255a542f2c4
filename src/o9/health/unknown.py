"""The type of a value that cannot be computed.

Contract. The judgements of this room return their value or an `Unknown` with the reason. For poor data they neither
raise nor return NaN. Check `isinstance(answer, Unknown)` before using one.
"""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Unknown:
    """There is no value. `reason` is a clause that can follow "unknown: "."""

    reason: str

    def __str__(self) -> str:
        return f"unknown: {self.reason}"
