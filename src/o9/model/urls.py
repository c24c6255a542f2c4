"""Redacting the passwords in URLs of stores and servers. Pure.

Contract. Output, logs and responses show a URL by `public_url`, and a text that may contain one by `public_text`. They
work on the text, because a URL that cannot be parsed may contain a password, too. URLs of alert channels show less: see
`o9.alerts.channels.redaction`.
"""

from __future__ import annotations

import re

HIDDEN = "***"
# The query arguments to show; drivers take passwords and keys under several names.
_SHOWN_IN_A_QUERY = frozenset({
    "application_name", "connect_timeout", "dbname", "host", "hostaddr", "port", "sslmode", "target_session_attrs",
    "user",
})  # fmt: skip
_SCHEME = re.compile(r"[\w+.\-]*")
_PLACE = re.compile(r"(\[[^\]/]*\]|[^:/\[\]]*)(:\d*)?(/.*)?", re.DOTALL)
_IN_A_TEXT = re.compile(r"""(?<![\w+.\-])[\w+.\-]*://[^\s"'<>]*[^\s"'<>.,;:)\]]""")


def public_url(url: str) -> str:
    """`url` without its password and the query arguments that may be secret; a path is unchanged."""
    scheme, is_url, rest = url.partition("://")
    if not is_url:
        return url
    rest, asked, query = rest.partition("?")
    user, at, place = rest.rpartition("@")
    if rest.startswith("/") and ":" not in user:  # a file path, which may contain an @
        user, at, place = "", "", rest
    # An unencoded password may extend beyond where it seems to begin or end: hide everything.
    if not _SCHEME.fullmatch(scheme) or not _PLACE.fullmatch(place) or "@" in query:
        return f"{scheme if _SCHEME.fullmatch(scheme) else HIDDEN}://{HIDDEN}"
    shown = "&".join(map(_public_argument, query.split("&")))
    return f"{scheme}://{_public_user(scheme, user)}{at}{place}{asked}{shown if query else ''}"


def public_text(text: str) -> str:
    """`text` with each URL in it as `public_url` shows it."""
    return _IN_A_TEXT.sub(lambda found: public_url(found[0]), text) if "://" in text else text


def _public_user(scheme: str, user: str) -> str:
    if not user or (scheme.startswith("postgres") and not re.search("[:@/]", user)):
        return user
    return f"{re.split('[:@/]', user)[0]}:{HIDDEN}" if scheme.startswith("postgres") else HIDDEN


def _public_argument(argument: str) -> str:
    name, equals, _ = argument.partition("=")
    if equals and name in _SHOWN_IN_A_QUERY:
        return argument
    return f"{name}={HIDDEN}" if equals and name.isidentifier() else HIDDEN
