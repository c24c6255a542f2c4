"""A value, or the reason why there is none.

Contract. Every judgement of this room answers with what it promises or with an `Unknown`; it never raises for data that
is merely poor, never answers NaN, and never makes up a number. Ask `isinstance(answer, Unknown)` before using one.
"""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Unknown:
    """There is no value. `reason` is a clause in plain words, fit to stand after "unknown: "."""

    reason: str

    def __str__(self) -> str:
        return f"unknown: {self.reason}"
