"""The answers of commands that act on several ids: one answer for each id.

Contract. An unknown id, or one whose state forbids the action, makes the exit code 1; the command still acts on the
other ids. It is no error if nothing had to change.
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
    """The outcome for one id."""

    DONE = "done"
    ASKED = "asked"
    ALREADY = "already"
    REFUSED = "refused"
    UNKNOWN = "unknown"
    TOO_LATE = "too late"
    NOT_IN_TIME = "not in time"


SUCCESSFUL = frozenset({Outcome.DONE, Outcome.ASKED, Outcome.ALREADY})


@dataclass(frozen=True)
class Answer:
    """The answer for one id, printed on one line; `--json` prints the fields. `status`: the optimization's, now."""

    id: str
    outcome: Outcome
    message: str
    status: str | None = None


def print_answer(answer: Answer, *, as_json: bool) -> None:
    """Print one answer; with `as_json`, only if it is an error."""
    if answer.outcome not in SUCCESSFUL:
        complain(answer.message)
    elif not as_json:
        show(answer.message)


def conclude(answers: Sequence[Answer], *, as_json: bool) -> int:
    """Print all answers as JSON if asked to, and return the exit code."""
    if as_json:
        write_json([asdict(answer) for answer in answers])
    return DONE if all(answer.outcome in SUCCESSFUL for answer in answers) else ERROR


def who() -> str:
    """Return who gives the command, for the record: `o9, ann@desk`."""
    try:
        user = getpass.getuser()
    except (OSError, KeyError):  # a container's user may have no name
        user = str(os.getuid())
    return f"o9, {user}@{socket.gethostname()}"
