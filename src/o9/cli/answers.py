"""The answers of a command that acts on several ids: one for each.

Contract. An id that is unknown, or whose state forbids the action, makes the exit code 1; the others are acted on all
the same. What already holds is no error.
"""

from __future__ import annotations

import getpass
import os
import socket
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from enum import Enum

from o9.cli.console import complain, show, write_json
from o9.cli.failures import DONE, ERROR


class Outcome(str, Enum):
    """What became of it."""

    DONE = "done"
    ASKED = "asked"
    ALREADY = "already"
    REFUSED = "refused"
    UNKNOWN = "unknown"
    TOO_LATE = "too late"
    NOT_IN_TIME = "not in time"


FINE = frozenset({Outcome.DONE, Outcome.ASKED, Outcome.ALREADY})


@dataclass(frozen=True)
class Answer:
    """One line for one id; the fields are those of `--json`. `status`: an optimization's, afterwards."""

    id: str
    outcome: Outcome
    message: str
    status: str | None = None


def tell(answer: Answer, *, as_json: bool) -> None:
    """Print it as it comes; with `as_json` only what went wrong."""
    if answer.outcome not in FINE:
        complain(answer.message)
    elif not as_json:
        show(answer.message)


def conclude(answers: Sequence[Answer], *, as_json: bool) -> int:
    """Print them as JSON, where that is wanted; the exit code."""
    if as_json:
        write_json([asdict(answer) for answer in answers])
    return DONE if all(answer.outcome in FINE for answer in answers) else ERROR


def who() -> str:
    """Who asks, for the record."""
    try:
        user = getpass.getuser()
    except (OSError, KeyError):  # a container's user may have no name
        user = str(os.getuid())
    return f"o9, {user}@{socket.gethostname()}"
