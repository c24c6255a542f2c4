"""The outcome of a send, and what an error means for the next try.

Contract. `Failed.reason` is for people, in one line, without secrets. `retry_after` is what the service asked for.
`permanent` is true only if the same send cannot succeed: the service refuses the message or its sender. If a send was
cut off or its answer was lost, it is unknown whether the message arrived, and the reason says so.
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
LONGEST_WAIT = timedelta(days=1)  # that a service may ask for
PASSES = frozenset({408, 421, 423, 425, 429})  # of the 4xx: the same message may be accepted later


@dataclass(frozen=True, slots=True)
class Sent:
    """The service accepted it."""


@dataclass(frozen=True, slots=True)
class Failed:
    """It did not, or that is unknown: then it is `in_doubt`, and the next try may make a duplicate."""

    reason: str
    retry_after: timedelta | None = None
    permanent: bool = False
    in_doubt: bool = False


class Channel(Protocol):
    """One place to send to. `send` never raises, nor takes longer than the channel's time limit."""

    @property
    def name(self) -> str: ...

    async def send(self, message: Message, notice: Notice) -> Sent | Failed: ...


class MessageChannel(ABC):
    """A channel that sends what a message says, in a thread: by `_write`, and whatever that raises is a failure.

    It needs no more of a notice than its first alerts and how many there are.
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
        """None: it was sent."""

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
    doubt = UNKNOWN if in_doubt else ""
    said = cut(chat_line(redacted(reason, secrets)), REASON_LIMIT - len(doubt))
    return Failed(f"{said}{doubt}", retry_after, permanent, in_doubt)


async def outcome_of(
    calls: Calls, send: Callable[[], Any], seconds: float, secrets: Secrets = NONE_KNOWN, *, awaits: bool = False
) -> Sent | Failed:
    """What `send` returns, raises, or means by not coming back. False is a failure; all but a Failed is a success.

    awaits: it is a coroutine function.
    """
    try:
        answer = await calls.run(send, seconds, awaits=awaits)
    except Busy as error:
        return failed(f"busy: {error}", retry_after=timedelta(seconds=error.seconds))
    except Unanswered as error:
        return failed(str(error), in_doubt=True)
    except Exception as error:  # noqa: BLE001 - a library's or a user's: whatever it raises is the answer
        return failure_of(error, secrets, now=utc_now())
    if isinstance(answer, Failed):
        return answer
    return failed("it returned False") if answer is False else Sent()


def failure_of(error: BaseException, secrets: Secrets = NONE_KNOWN, *, now: datetime) -> Failed:
    """What an exception means: by the HTTP response that it carries, SMTP's codes, or the network's errors."""
    chain = list(_chain(error))
    for each in chain:
        if isinstance(each, smtplib.SMTPException):
            return _of_smtp(each, secrets)
        if (answered := _of_http(each, secrets, now)) is not None:
            return answered
    network = [each for each in chain if isinstance(each, OSError)]  # the innermost one says it in the fewest words
    return failed(_words(network[-1] if network else error), secrets, in_doubt=_in_doubt(error))


def _of_http(error: BaseException, secrets: Secrets, now: datetime) -> Failed | None:
    """Of an error that carries an HTTP response, of requests, httpx, aiohttp or urllib; None for any other.

    A status 4xx is permanent, but for PASSES.
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
    except (OSError, RuntimeError):  # of a response whose body was not read
        body = ""
    reason = f"HTTP {status}" + (f": {body}" if body and not body.lstrip().startswith("<") else "")
    permanent = 400 <= status < 500 and status not in PASSES
    return failed(reason, secrets, retry_after=_asked_to_wait(header("Retry-After"), now), permanent=permanent)


def _of_smtp(error: smtplib.SMTPException, secrets: Secrets) -> Failed:
    answers: list[tuple[int, bytes | str]] = []
    if isinstance(error, smtplib.SMTPRecipientsRefused):
        answers = list(error.recipients.values())
    elif isinstance(error, smtplib.SMTPResponseException):
        answers = [(error.smtp_code, error.smtp_error)]
    if answers:
        code, said = max(answers)
        text = said.decode("utf-8", "replace") if isinstance(said, bytes) else said
        return failed(f"SMTP {code}: {text}", secrets, permanent=min(answers)[0] >= 500)
    permanent = isinstance(error, smtplib.SMTPNotSupportedError)
    return failed(_words(error), secrets, permanent=permanent, in_doubt=not permanent and _in_doubt(error))


def _asked_to_wait(retry_after: str | None, now: datetime) -> timedelta | None:
    """Seconds, or a date."""
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


def _words(error: BaseException) -> str:
    if isinstance(error, ssl.SSLCertVerificationError):
        return f"the certificate of the server is not trusted: {error.verify_message}"
    if isinstance(error, OSError) and error.strerror:
        return str(error.strerror).lower()
    if "timeout" in (kind := type(error).__name__.lower()):
        return "no connection in time" if "connect" in kind else "no answer in time"
    said = chat_line(str(error))
    return f"{type(error).__name__}: {said}" if said else type(error).__name__


def _in_doubt(error: BaseException) -> bool:
    """A connection that was refused carried nothing; one that broke may have carried the message."""
    for each in _chain(error):
        if isinstance(each, ConnectionRefusedError) or "gaierror" in type(each).__name__:
            return False
        if isinstance(each, ConnectionResetError | BrokenPipeError | smtplib.SMTPServerDisconnected) or (
            "timeout" in type(each).__name__.lower() and "connect" not in type(each).__name__.lower()
        ):
            return True
    return False
