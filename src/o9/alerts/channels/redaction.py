"""Redaction: the secrets of channels, and texts about channels without them.

Contract. `Secrets` holds what is secret in a channel's address, and is never shown. Every text about a channel passes
`redacted` before anybody sees it: an error, a server's answer, a line of a log. Inside `guarded`, what Apprise and the
HTTP libraries log in that thread or task is redacted, too. Apprise's own `url(privacy=True)` is not enough: it shows a
webhook's path, and the headers that a URL adds.

A password and a service's private tokens are hidden whatever their length (those of one to three characters only as
words of their own); any other part of an address from six characters on.

The time of redaction is linear in the text's length: the texts come from strangers, and `re` holds up every thread.
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

LONG_ENOUGH = 6  # of a part of an address that is not known to be a secret
_STANDS_ALONE = 4  # shorter ones are hidden only as words of their own
_LONGEST_TEXT = 20_000

# Apprise's own words in a query, with what they are set to; of any other one its name.
_OPTIONS = re.compile(
    r"[?&](?:(?:format|overflow|mode|method|verify|redirect|image|footer|rto|cto|retry|wait|tz|emojis)=[^&]*|[^=&]*=)",
    re.IGNORECASE,
)
_URL = re.compile(r"""://([^\s"'<>]*[^\s"'<>.,;:)\]])""")  # behind its scheme, which is shown as it is
_PATH = re.compile(r"(with url: )\S+", re.IGNORECASE)  # as urllib3 says what it could not reach
_NAMED = re.compile(
    r"""\b(authorization|passw(?:or)?d|pwd|secret|token|api[-_]?key|access[-_]?key|sig|signature|credentials?)"""
    r"""(["']?\s*[:=]\s*["']?)(?:(?:bearer|basic)\s+)?[^\s"',;&)\]}]+""",
    re.IGNORECASE,
)


class Secrets:
    """What is secret in an address, in each form in which it may turn up in a text."""

    def __init__(self, secrets: Iterable[str] = ()) -> None:
        forms = {form for secret in secrets for form in _forms(secret)}
        patterns = [_pattern(form) for form in sorted(forms, key=len, reverse=True)]
        self._found = re.compile("|".join(patterns), re.IGNORECASE) if patterns else None

    def hide(self, text: str) -> str:
        return self._found.sub(HIDDEN, text) if self._found else text

    def __repr__(self) -> str:
        return f"Secrets({HIDDEN})"


NONE_KNOWN = Secrets()


def parts_of(url: str, private: Iterable[str] = (), shown: str = "") -> set[str]:
    """What is secret in a channel's URL: all of it but its scheme and `shown`, the host if it has one."""
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
    """`text` without `secrets`, what follows the host in any URL, and values that are named as secrets."""
    out = secrets.hide(text[:_LONGEST_TEXT])
    out = _URL.sub(_bare, out)
    out = _PATH.sub(rf"\1{HIDDEN}", out)
    return _NAMED.sub(rf"\1\2{HIDDEN}", out)


@contextmanager
def guarded(secrets: Secrets) -> Iterator[None]:
    """Redact what LIBRARIES log in this thread or task meanwhile."""
    before = _guard.set(secrets)
    try:
        yield
    finally:
        _guard.reset(before)


def _redact(record: logging.LogRecord) -> bool:
    """A filter. Apprise's DEBUG lines, which are whole URLs and their parts one by one, never pass."""
    secrets = _guard.get()
    if record.name == "apprise" and record.levelno < logging.INFO:
        return False
    if secrets is not None or record.name == "apprise":  # it also sends in threads of its own
        _clean(record, secrets or NONE_KNOWN)
    return True


_guard: ContextVar[Secrets | None] = ContextVar("o9_guarded_secrets", default=None)
LIBRARIES = ("apprise", "httpx", "urllib3.connectionpool", "urllib3.util.retry")  # whose loggers name addresses
for _name in LIBRARIES:
    logging.getLogger(_name).addFilter(_redact)


def _clean(record: logging.LogRecord, secrets: Secrets) -> None:
    try:
        said = record.getMessage()
    except (TypeError, ValueError, KeyError):  # wrong arguments: logging would report them all
        said = str(record.msg)
    if record.exc_info and record.exc_info[0] is not None:
        said += "\n" + "".join(traceback.format_exception(*record.exc_info)).rstrip()
        record.exc_info = None
    record.msg, record.args = redacted(said, secrets), ()


def _bare(found: re.Match[str]) -> str:
    host = host_in(f"x{found[0]}")
    if not host:
        return f"://{HIDDEN}"
    return f"://{host}" if host.lower() == found[1].lower().rstrip("/") else f"://{host}/{HIDDEN}"


def host_in(url: str) -> str:
    """The host in a URL, with its port; empty if a token stands in its place."""
    try:
        parts = urlsplit(url)
        host, port = parts.hostname or "", parts.port
    except ValueError:
        return ""
    return f"{host}:{port}" if is_host(host) and port else host if is_host(host) else ""


def is_host(text: str) -> bool:
    """Whether this names a server, and is no token in its place."""
    return text == "localhost" or bool(
        re.fullmatch(r"[a-z0-9_\-]+(\.[a-z0-9_\-]+)+|[0-9a-f:.]*:[0-9a-f:.]+", text, re.I)
    )


def _forms(secret: str) -> set[str]:
    """As it is written in a URL (also one within another), in HTML, in JSON, and by Python."""
    spoken = {form for each in (secret, unquote(secret)) for form in _quoted(each)}
    for each in tuple(spoken):
        spoken |= {html.escape(each), json.dumps(each)[1:-1], json.dumps(each, ensure_ascii=False)[1:-1]}
        spoken |= {repr(each)[1:-1], repr(each.encode("utf-8", "replace"))[2:-1]}
    return {each for each in spoken if each.strip() and each.strip("*")}


def _quoted(text: str) -> set[str]:
    encoded = text.encode("utf-8", "replace")
    return {text, quote(encoded, safe=""), quote(encoded), quote_plus(encoded), quote_plus(encoded, safe="")}


def _pattern(form: str) -> str:
    if len(form) >= _STANDS_ALONE:
        return re.escape(form)
    return rf"(?<!\w){re.escape(form)}(?!\w)"
