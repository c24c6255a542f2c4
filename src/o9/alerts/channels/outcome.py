"""The outcome of a send, and whether and when to retry it.

Contract. `Failed.reason` is one line for people, without secrets. `retry_after` is what the service asked for.
`permanent` is set only if the same send cannot succeed: the service refuses the message or its sender. If a send was
interrupted or its answer was lost, it is unknown whether the message arrived, and the reason says so.
"""

from __future__ import annotations

import re
import smtplib
import ssl
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from email.utils import parsedate_to_datetime
from typing import Any, Protocol

from o9.alerts.channels.redaction import NONE_KNOWN, Secrets, redacted
from o9.alerts.messages.render import Message
from o9.alerts.pipeline.alert import Notice
from o9.model.optimization import utc_now
from o9.text.cut import cut
from o9.text.escape import chat_line
from o9.user_code.calls import AT_ONCE, Busy, Calls, Unanswered

REASON_LIMIT = 300
UNKNOWN = "; whether it arrived is unknown"
LONGEST_WAIT = timedelta(days=1)  # limits the wait that a service may ask for
TEMPORARY = frozenset({408, 421, 423, 425, 429})  # statuses 4xx after which a retry may succeed


@dataclass(frozen=True, slots=True)
class Sent:
    """The service accepted it."""


@dataclass(frozen=True, slots=True)
class Failed:
    """The service did not accept it. `in_doubt`: it may have, so that a retry may cause a duplicate."""

    reason: str
    retry_after: timedelta | None = None
    permanent: bool = False
    in_doubt: bool = False


class Channel(Protocol):
    """A destination of messages. `send` never raises, and returns within the channel's time limit."""

    @property
    def name(self) -> str: ...

    async def send(self, message: Message, notice: Notice) -> Sent | Failed: ...


class MessageChannel(ABC):
    """A channel that sends a message by `_write`, in a thread; any exception is a failure.

    It needs only the first alerts of a notice, and the number of the others (`shows_the_first`).
    """

    shows_the_first = True

    def __init__(self, name: str, seconds: float, secrets: Secrets = NONE_KNOWN, at_once: int = AT_ONCE) -> None:
        self.name = name
        self._seconds = seconds
        self._secrets = secrets
        self._calls = Calls(f"channel {name}", at_once)

    async def send(self, message: Message, notice: Notice) -> Sent | Failed:
        return await outcome_of(self._calls, lambda: self._write(message), self._seconds, self._secrets)

    @abstractmethod
    def _write(self, message: Message) -> Failed | None:
        """Send the message. Returns None on success."""

    def __repr__(self) -> str:
        return f"<{type(self).__name__} {self.name!r}>"


def failed(
    reason: str,
    secrets: Secrets = NONE_KNOWN,
    *,
    retry_after: timedelta | None = None,
    permanent: bool = False,
    in_doubt: bool = False,
) -> Failed:
    suffix = UNKNOWN if in_doubt else ""
    shown = cut(chat_line(redacted(reason, secrets)), REASON_LIMIT - len(suffix))
    return Failed(f"{shown}{suffix}", retry_after, permanent, in_doubt)


async def outcome_of(
    calls: Calls, send: Callable[[], Any], seconds: float, secrets: Secrets = NONE_KNOWN, *, awaits: bool = False
) -> Sent | Failed:
    """Call `send` and return its outcome. An exception, a timeout, False and Failed are failures.

    awaits: whether `send` returns an awaitable.
    """
    try:
        answer = await calls.run(send, seconds, awaits=awaits)
    except Busy as error:
        return failed(f"busy: {error}", retry_after=timedelta(seconds=error.seconds))
    except Unanswered as error:
        return failed(str(error), in_doubt=True)
    except Exception as error:  # noqa: BLE001 - any error of a library or of user code is a failed send
        return failure_of(error, secrets, now=utc_now())
    if isinstance(answer, Failed):
        return answer
    return failed("it returned False") if answer is False else Sent()


def failure_of(error: BaseException, secrets: Secrets = NONE_KNOWN, *, now: datetime) -> Failed:
    """Return the failure that an exception means, by its HTTP response, SMTP code or network error."""
    chain = list(_chain(error))
    for each in chain:
        if isinstance(each, smtplib.SMTPException):
            return _of_smtp(each, secrets)
        if (answered := _of_http(each, secrets, now)) is not None:
            return answered
    network = [each for each in chain if isinstance(each, OSError)]  # the innermost has the shortest text
    return failed(_text_of(network[-1] if network else error), secrets, in_doubt=_in_doubt(error))


def _of_http(error: BaseException, secrets: Secrets, now: datetime) -> Failed | None:
    """Return the failure of an error with an HTTP response (requests, httpx, aiohttp, urllib); None for any other.

    A status 4xx is permanent unless it is TEMPORARY.
    """
    carried = getattr(error, "response", None)
    response: Any = error if carried is None else carried
    codes = (getattr(response, name, 0) for name in ("status_code", "status", "code"))
    status = next((code for code in codes if isinstance(code, int) and 100 <= code <= 599), 0)
    header = getattr(getattr(response, "headers", None), "get", None)
    if not status or header is None:
        return None
    try:
        body = str(getattr(response, "text", ""))
    except (OSError, RuntimeError):  # the body was not read
        body = ""
    reason = f"HTTP {status}" + (f": {body}" if body and not body.lstrip().startswith("<") else "")
    permanent = 400 <= status < 500 and status not in TEMPORARY
    return failed(reason, secrets, retry_after=_asked_to_wait(header("Retry-After"), now), permanent=permanent)


def _of_smtp(error: smtplib.SMTPException, secrets: Secrets) -> Failed:
    answers: list[tuple[int, bytes | str]] = []
    if isinstance(error, smtplib.SMTPRecipientsRefused):
        answers = list(error.recipients.values())
    elif isinstance(error, smtplib.SMTPResponseException):
        answers = [(error.smtp_code, error.smtp_error)]
    if answers:
        code, answer = max(answers)
        text = answer.decode("utf-8", "replace") if isinstance(answer, bytes) else answer
        return failed(f"SMTP {code}: {text}", secrets, permanent=min(answers)[0] >= 500)
    permanent = isinstance(error, smtplib.SMTPNotSupportedError)
    return failed(_text_of(error), secrets, permanent=permanent, in_doubt=not permanent and _in_doubt(error))


def _asked_to_wait(retry_after: str | None, now: datetime) -> timedelta | None:
    """Parse a `Retry-After` header: seconds, or a date."""
    if not retry_after:
        return None
    if re.fullmatch(r"\d{1,9}(\.\d{1,9})?", retry_after.strip()):
        asked = timedelta(seconds=float(retry_after))
    else:
        try:
            until = parsedate_to_datetime(retry_after)
        except ValueError:
            return None
        asked = (until if until.tzinfo else until.replace(tzinfo=UTC)) - now
    return min(max(timedelta(0), asked), LONGEST_WAIT)


def _chain(error: BaseException) -> Iterator[BaseException]:
    at: BaseException | None = error
    while at is not None:
        yield at
        at = at.__cause__ or at.__context__


def _text_of(error: BaseException) -> str:
    if isinstance(error, ssl.SSLCertVerificationError):
        return f"the server's certificate is not trusted: {error.verify_message}"
    if isinstance(error, OSError) and error.strerror:
        return str(error.strerror).lower()
    if "timeout" in (kind := type(error).__name__.lower()):
        return "the connection timed out" if "connect" in kind else "the answer timed out"
    text = chat_line(str(error))
    return f"{type(error).__name__}: {text}" if text else type(error).__name__


def _in_doubt(error: BaseException) -> bool:
    """Return whether the message may have arrived: a refused connection carried nothing, a broken one may have."""
    for each in _chain(error):
        if isinstance(each, ConnectionRefusedError) or "gaierror" in type(each).__name__:
            return False
        if isinstance(each, ConnectionResetError | BrokenPipeError | smtplib.SMTPServerDisconnected) or (
            "timeout" in type(each).__name__.lower() and "connect" not in type(each).__name__.lower()
        ):
            return True
    return False
