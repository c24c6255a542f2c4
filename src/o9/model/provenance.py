"""What an attempt ran."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Ran:
    """What an attempt ran: `objective` or strategy by name, and fingerprints of its code and data; "" is not known.

    Attempt 0 is what a retry took over. search_space: what the built-in strategy searched, as JSON.
    """

    attempt: int
    objective: str
    code: str
    data: str
    search_space: str = ""
