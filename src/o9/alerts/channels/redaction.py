"""Redaction of channels' secrets in texts about channels.

Contract. `Secrets` holds the secret parts of a channel's address and is never shown. Every text about a channel passes
`redacted` before anyone sees it: errors, servers' answers, log messages. Within `guarded`, what Apprise and the HTTP
libraries log in that thread or task is redacted, too. Apprise's own `url(privacy=True)` is not enough: it shows
webhooks' paths, and headers in a URL.

Passwords and a service's private tokens are hidden at any length (at one to three characters only as whole words),
other parts of an address from six characters on.

Redaction is linear in the text's length, since texts come from outside and `re` blocks every thread.
"""

from __future__ import annotations

import base64
import html
import json
import logging
import re
import traceback
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from urllib.parse import quote, quote_plus, unquote, urlsplit

from o9.model.urls import HIDDEN as HIDDEN

LONG_ENOUGH = 6  # the shortest part of an address that is hidden without being known as a secret
_WHOLE_WORD_BELOW = 4  # shorter secrets are hidden only as whole words
_LONGEST_TEXT = 20_000

# Parts of a query that are not secret: Apprise's options with their values, and the names of other parameters.
_OPTIONS = re.compile(
    r"[?&](?:(?:format|overflow|mode|method|verify|redirect|image|footer|rto|cto|retry|wait|tz|emojis)=[^&]*|[^=&]*=)",
    re.IGNORECASE,
)
_URL = re.compile(r"""://([^\s"'<>]*[^\s"'<>.,;:)\]])""")  # after the scheme, which is shown
_PATH = re.compile(r"(with url: )\S+", re.IGNORECASE)  # in urllib3's errors
_NAMED = re.compile(
    r"""\b(authorization|passw(?:or)?d|pwd|secret|token|api[-_]?key|access[-_]?key|sig|signature|credentials?)"""
    r"""(["']?\s*[:=]\s*["']?)(?:(?:bearer|basic)\s+)?[^\s"',;&)\]}]+""",
    re.IGNORECASE,
)


class Secrets:
    """The secret parts of an address, in every form in which they may occur in a text."""

    def __init__(self, secrets: Iterable[str] = ()) -> None:
        forms = {form for secret in secrets for form in _forms(secret)}
        patterns = [_pattern(form) for form in sorted(forms, key=len, reverse=True)]
        self._found = re.compile("|".join(patterns), re.IGNORECASE) if patterns else None

    def hide(self, text: str) -> str:
        return self._found.sub(HIDDEN, text) if self._found else text

    def __repr__(self) -> str:
        return f"Secrets({HIDDEN})"


NONE_KNOWN = Secrets()


def secret_parts(url: str, private: Iterable[str] = (), shown: str = "") -> set[str]:
    """Return the secret parts of a channel's URL: everything but the scheme and `shown`, the host if there is one.

    private: the service's tokens, if known.
    """
    _, is_url, rest = url.partition("://")
    if not is_url:
        return {url, *private}
    authority, behind = re.fullmatch(r"([^/?#]*)(.*)", rest, re.DOTALL).groups()  # type: ignore[union-attr]
    user, at, _ = authority.rpartition("@")
    path, _, query = behind.partition("?")
    units = {behind, path, query, user, *private, *user.split(":", 1)[1:]}
    if at:
        units.add(base64.b64encode(unquote(user).encode("utf-8", "replace")).decode())
    if at or behind.strip("/") or not shown:
        units |= {url, rest}
    pieces = re.split(r"[/:@?&=+,;#]", _OPTIONS.sub("&", rest))
    words = (word for piece in pieces for word in (piece, *unquote(piece).split()))
    out = {*units, *(each for each in words if len(unquote(each)) >= LONG_ENOUGH)}
    return {
        each for each in out if each.strip("/") and each.lower() not in (shown.lower(), shown.lower().split(":")[0])
    }


def redacted(text: str, secrets: Secrets = NONE_KNOWN) -> str:
    """Return `text` without `secrets`, what follows the host in any URL, and values that are named as secrets."""
    out = secrets.hide(text[:_LONGEST_TEXT])
    out = _URL.sub(_bare, out)
    out = _PATH.sub(rf"\1{HIDDEN}", out)
    return _NAMED.sub(rf"\1\2{HIDDEN}", out)


@contextmanager
def guarded(secrets: Secrets) -> Iterator[None]:
    """Redact what LIBRARIES log in this thread or task."""
    before = _guard.set(secrets)
    try:
        yield
    finally:
        _guard.reset(before)


def _redact(record: logging.LogRecord) -> bool:
    """A log filter. Apprise's DEBUG messages, which contain whole URLs, never pass."""
    secrets = _guard.get()
    if record.name == "apprise" and record.levelno < logging.INFO:
        return False
    if secrets is not None or record.name == "apprise":  # Apprise also sends in its own threads
        _clean(record, secrets or NONE_KNOWN)
    return True


_guard: ContextVar[Secrets | None] = ContextVar("o9_guarded_secrets", default=None)
LIBRARIES = ("apprise", "httpx", "urllib3.connectionpool", "urllib3.util.retry")  # their loggers write addresses
for _name in LIBRARIES:
    logging.getLogger(_name).addFilter(_redact)


def _clean(record: logging.LogRecord, secrets: Secrets) -> None:
    try:
        text = record.getMessage()
    except (TypeError, ValueError, KeyError):  # wrong arguments, which logging would print
        text = str(record.msg)
    if record.exc_info and record.exc_info[0] is not None:
        text += "\n" + "".join(traceback.format_exception(*record.exc_info)).rstrip()
        record.exc_info = None
    record.msg, record.args = redacted(text, secrets), ()


def _bare(found: re.Match[str]) -> str:
    host = host_in(f"x{found[0]}")
    if not host:
        return f"://{HIDDEN}"
    return f"://{host}" if host.lower() == found[1].lower().rstrip("/") else f"://{host}/{HIDDEN}"


def host_in(url: str) -> str:
    """Return the host in a URL, with its port; empty if there is a token in its place."""
    try:
        parts = urlsplit(url)
        host, port = parts.hostname or "", parts.port
    except ValueError:
        return ""
    return f"{host}:{port}" if is_host(host) and port else host if is_host(host) else ""


def is_host(text: str) -> bool:
    """Return whether this is the name or address of a server, not a token."""
    return text == "localhost" or bool(
        re.fullmatch(r"[a-z0-9_\-]+(\.[a-z0-9_\-]+)+|[0-9a-f:.]*:[0-9a-f:.]+", text, re.I)
    )


def _forms(secret: str) -> set[str]:
    """Return the secret as it is written in URLs (also within another one), HTML, JSON and Python."""
    forms = {form for each in (secret, unquote(secret)) for form in _quoted(each)}
    for each in tuple(forms):
        forms |= {html.escape(each), json.dumps(each)[1:-1], json.dumps(each, ensure_ascii=False)[1:-1]}
        forms |= {repr(each)[1:-1], repr(each.encode("utf-8", "replace"))[2:-1]}
    return {each for each in forms if each.strip() and each.strip("*")}


def _quoted(text: str) -> set[str]:
    encoded = text.encode("utf-8", "replace")
    return {text, quote(encoded, safe=""), quote(encoded), quote_plus(encoded), quote_plus(encoded, safe="")}


def _pattern(form: str) -> str:
    if len(form) >= _WHOLE_WORD_BELOW:
        return re.escape(form)
    return rf"(?<!\w){re.escape(form)}(?!\w)"
