"""What an attempt ran."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Ran:
    """What an attempt ran: `objective` or strategy by name, and fingerprints of its code and data; "" is not known.

    Attempt 0 is what a retry took over.
    """

    attempt: int
    objective: str
    code: str
    data: str
