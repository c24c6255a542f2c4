"""What became of a send, and what an error says of the next try.

Contract. `Failed.reason` is for people, in one line, without secrets. `retry_after` is what the service asked for.
`permanent` is true only where the same send cannot succeed: the service refuses the message, or who sends it. Whether a
send that was cut off or whose answer was lost has arrived is unknown, and its reason says so.
"""

from __future__ import annotations

import json
import re
import smtplib
import ssl
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from email.utils import parsedate_to_datetime
from typing import Any, Protocol

from o9.alerts.messages import Message
from o9.alerts.notice import Notice
from o9.alerts.redaction import NONE_KNOWN, Secrets, redacted
from o9.alerts.text import cut, line

REASON_LIMIT = 300
UNKNOWN = "; whether it arrived is unknown"
LONGEST_WAIT = timedelta(days=1)  # what a service may ask for
PASSES = frozenset({408, 421, 423, 425, 429})  # of the 4xx: the same may be taken later


@dataclass(frozen=True, slots=True)
class Sent:
    """The service took it."""


@dataclass(frozen=True, slots=True)
class Failed:
    """It did not, or nobody knows: then it is `in_doubt`, and who is told again may be told twice."""

    reason: str
    retry_after: timedelta | None = None
    permanent: bool = False
    in_doubt: bool = False


class Channel(Protocol):
    """One place to send to. `send` never raises, nor takes longer than the channel's time limit."""

    @property
    def name(self) -> str: ...

    async def send(self, message: Message, notice: Notice) -> Sent | Failed: ...


def failed(
    reason: str,
    secrets: Secrets = NONE_KNOWN,
    *,
    retry_after: timedelta | None = None,
    permanent: bool = False,
    in_doubt: bool = False,
) -> Failed:
    doubt = UNKNOWN if in_doubt else ""
    said = cut(line(redacted(reason, secrets)), REASON_LIMIT - len(doubt))
    return Failed(f"{said}{doubt}", retry_after, permanent, in_doubt)


def failure_of(error: BaseException, secrets: Secrets = NONE_KNOWN, *, now: datetime) -> Failed:
    """What an exception of a channel means: an HTTP answer that it carries, SMTP's codes, the network's errors."""
    for each in _chain(error):
        if isinstance(each, smtplib.SMTPException):
            return _of_smtp(each, secrets)
        if (answer := answer_in(each)) is not None:
            return failure_of_answer(answer, secrets, now=now)
    innermost = _innermost(error)
    return failed(_words(innermost), secrets, in_doubt=_in_doubt(error))


@dataclass(frozen=True, slots=True)
class Answer:
    """An HTTP answer, as far as it matters."""

    status: int
    retry_after: str | None = None
    body: str = ""


def answer_in(thing: Any) -> Answer | None:
    """The answer that `thing` is or carries: one of requests, httpx, aiohttp or urllib."""
    if isinstance(thing, BaseException):
        answer = getattr(thing, "response", None)
        thing = answer if answer is not None else thing
    status = next((code for name in ("status_code", "status", "code") if _is_code(code := getattr(thing, name, 0))), 0)
    header = getattr(getattr(thing, "headers", None), "get", None)
    if not status or header is None:
        return None
    try:
        body = getattr(thing, "text", "")
    except (OSError, RuntimeError):  # of an answer whose body nobody has read
        body = ""
    return Answer(status, header("Retry-After"), body if isinstance(body, str) else "")


def failure_of_answer(answer: Answer, secrets: Secrets = NONE_KNOWN, *, now: datetime) -> Failed:
    """By the status: 4xx is permanent unless it says otherwise, all else may pass."""
    status = answer.status
    reason = f"HTTP {status}" + (f": {said}" if (said := _said(answer.body)) else "")
    permanent = 400 <= status < 500 and status not in PASSES
    return failed(reason, secrets, retry_after=_asked_to_wait(answer, now), permanent=permanent)


def _of_smtp(error: smtplib.SMTPException, secrets: Secrets) -> Failed:
    if isinstance(error, smtplib.SMTPRecipientsRefused):
        answers = list(error.recipients.values())
        code, said = max(answers, default=(0, b""))
        return failed(f"SMTP {code}: {_text(said)}", secrets, permanent=all(each[0] >= 500 for each in answers))
    if isinstance(error, smtplib.SMTPResponseException):
        code = error.smtp_code
        return failed(f"SMTP {code}: {_text(error.smtp_error)}", secrets, permanent=code >= 500)
    permanent = isinstance(error, smtplib.SMTPNotSupportedError)
    return failed(_words(error), secrets, permanent=permanent, in_doubt=not permanent and _in_doubt(error))


def _asked_to_wait(answer: Answer, now: datetime) -> timedelta | None:
    seconds = _seconds(answer.retry_after, now) if answer.retry_after else _in_body(answer.body)
    return None if seconds is None else min(max(timedelta(0), timedelta(seconds=seconds)), LONGEST_WAIT)


def _seconds(told: str, now: datetime) -> float | None:
    if re.fullmatch(r"\d{1,9}(\.\d{1,9})?", told.strip()):
        return float(told)
    try:
        until = parsedate_to_datetime(told)
    except ValueError:
        return None
    return ((until if until.tzinfo else until.replace(tzinfo=UTC)) - now).total_seconds()


def _in_body(body: str) -> float | None:
    """Where Discord and Telegram tell it, too."""
    document = _document(body)
    told = document.get("retry_after", (document.get("parameters") or {}).get("retry_after"))
    return float(told) if isinstance(told, (int, float)) and 0 <= told < 1e9 else None


def _document(body: str) -> dict[str, Any]:
    try:
        document = json.loads(body[:10_000])
    except (ValueError, RecursionError):
        return {}
    parameters = document.get("parameters") if isinstance(document, dict) else None
    return document if isinstance(document, dict) and isinstance(parameters, dict | None) else {}


def _said(body: str) -> str:
    """What a service says in its answer, where that is for people to read."""
    document = _document(body)
    for name in ("error_description", "description", "message", "error", "detail", "reason"):
        if isinstance(said := document.get(name), str) and said.strip():
            return said
    return "" if body.lstrip()[:1] in ("<", "{", "[") else body


def _chain(error: BaseException) -> Iterator[BaseException]:
    seen: set[int] = set()
    at: BaseException | None = error
    while at is not None and id(at) not in seen:
        seen.add(id(at))
        yield at
        at = at.__cause__ or at.__context__


def _innermost(error: BaseException) -> BaseException:
    """The error of the network that lies at the bottom, which says it in the fewest words."""
    network = [each for each in _chain(error) if isinstance(each, OSError)]
    return network[-1] if network else error


def _words(error: BaseException) -> str:
    if isinstance(error, ssl.SSLCertVerificationError):
        return f"the certificate of the server is not trusted: {error.verify_message}"
    if isinstance(error, OSError) and error.strerror:
        return str(error.strerror).lower()
    if "timeout" in (kind := type(error).__name__.lower()):
        return "no connection in time" if "connect" in kind else "no answer in time"
    said = line(str(error))
    return f"{type(error).__name__}: {said}" if said else type(error).__name__


def _in_doubt(error: BaseException) -> bool:
    """A connection that was refused carried nothing; one that broke may have."""
    for each in _chain(error):
        if isinstance(each, ConnectionRefusedError) or "gaierror" in type(each).__name__:
            return False
        if isinstance(each, ConnectionResetError | BrokenPipeError | smtplib.SMTPServerDisconnected) or (
            "timeout" in type(each).__name__.lower() and "connect" not in type(each).__name__.lower()
        ):
            return True
    return False


def _text(said: bytes | str) -> str:
    return said.decode("utf-8", "replace") if isinstance(said, bytes) else said


def _is_code(code: Any) -> bool:
    return isinstance(code, int) and not isinstance(code, bool) and 100 <= code <= 599
