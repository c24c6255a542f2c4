"""A channel for any service that Apprise supports, by its URL.

Contract. The URL is a secret: no output, error or log shows more of it than the scheme and the host. Apprise only
returns whether a send succeeded. The reason of a failure is the error that the plugin was handling when it logged, or
else its log message; the send is retried unless the error means that it cannot succeed.

Each send uses a new plugin, since plugins keep state. A URL with several targets is one channel: if one target fails,
all are notified again.
"""

from __future__ import annotations

import logging
import re
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from apprise import Apprise, AppriseAsset, NotifyBase, NotifyFormat, NotifyType
from apprise.manager_plugins import NotificationManager
from markupsafe import escape
from pydantic import SecretStr

from o9.alerts.channels.outcome import Failed, MessageChannel, failed, failure_of
from o9.alerts.channels.redaction import Secrets, guarded, host_in, is_host, redacted, secret_parts
from o9.alerts.messages.markdown import markdown_text
from o9.alerts.messages.render import TITLE_LIMIT, Form, Message
from o9.model.errors import OptimizationValidationError
from o9.model.optimization import utc_now
from o9.model.states import AlertLevel
from o9.text.cut import size
from o9.text.escape import chat_line
from o9.text.suggest import hint_of

SECONDS = 30.0
READ_SECONDS = 15.0  # for an answer, unless the URL has `rto`; Apprise's 4 s cause duplicates at slow services
URL_LIMIT = 8_000
_SPARE = 10  # units that Apprise inserts between a title and a body

_KINDS = {AlertLevel.INFO: NotifyType.INFO, AlertLevel.WARNING: NotifyType.WARNING}  # others: FAILURE
# Services that accept a whole HTML page; others that accept HTML support only a few tags.
_LETTERS = frozenset({
    "azure", "brevo", "mailersend", "mailgun", "mailto", "mailtos", "o365", "postmark", "resend", "sendgrid",
    "sendpulse", "ses", "smtp2go", "sparkpost",
})  # fmt: skip
# Services that show Markdown although Apprise's default for them is plain text.
_IN_MARKDOWN = frozenset({"discord"})


class AppriseChannel(MessageChannel):
    """Raises OptimizationValidationError for a URL that Apprise does not accept."""

    def __init__(self, name: str, url: str | SecretStr, seconds: float = SECONDS) -> None:
        self._url = url if isinstance(url, SecretStr) else SecretStr(url)
        plugin = _plugin(name, self._url.get_secret_value())
        host = plugin.host or ""  # may be a token
        shown = is_host(host) and "host" in plugin.template_tokens
        self._host = (f"{host}:{plugin.port}" if plugin.port else host) if shown else ""
        super().__init__(name, seconds, _secrets(self._url.get_secret_value(), plugin, self._host))

    @property
    def address(self) -> str:
        """The scheme, and the host if the URL has one, for display."""
        scheme = self._url.get_secret_value().partition("://")[0].lower()
        return f"{scheme}://{self._host or '…'}"

    def _write(self, message: Message) -> Failed | None:
        with guarded(self._secrets):
            plugin = _plugin(self.name, self._url.get_secret_value())
            log = _PluginLog(plugin)
            title, body = _written(plugin, message)
            # Markdown is passed as HTML: Apprise converts it to CommonMark, and plugins to their service's dialect.
            given = plugin.notify_format
            given = NotifyFormat.HTML if given == NotifyFormat.MARKDOWN else given
            kind = NotifyType.SUCCESS if message.over else _KINDS.get(message.level, NotifyType.FAILURE)
            if plugin.notify(body=body, title=title, notify_type=kind, body_format=given):
                return None
        return log.failure(self._secrets)

    def __repr__(self) -> str:
        return f"<AppriseChannel {self.name!r} {self.address}>"


class _PluginLog(logging.Handler):
    """The last message that a plugin logged, and the last error that it was handling meanwhile."""

    def __init__(self, plugin: NotifyBase) -> None:
        super().__init__(logging.WARNING)
        self._error: BaseException | None = None
        self._message = ""
        # Apprise's own logger writes whole URLs at DEBUG. `trace` and `deprecate` are levels of Apprise.
        plugin_logger = logging.Logger("apprise", logging.WARNING)
        plugin_logger.addHandler(self)
        plugin_logger.trace = plugin_logger.deprecate = lambda *args, **kwargs: None  # type: ignore[attr-defined]
        plugin.logger = plugin_logger

    def emit(self, record: logging.LogRecord) -> None:
        self._message = record.getMessage()
        self._error = sys.exc_info()[1] or self._error

    def failure(self, secrets: Secrets) -> Failed:
        if self._error is not None:
            return failure_of(self._error, secrets, now=utc_now())
        return failed(self._message or "Apprise could not send it and logged no reason", secrets)


def _plugin(name: str, url: str) -> NotifyBase:
    field = f"channels.{name}"
    if len(url) > URL_LIMIT or not url.isprintable():
        raise OptimizationValidationError(
            field, f"an Apprise URL has at most {URL_LIMIT:,} characters, none of them a control character"
        )
    secrets = Secrets(secret_parts(url, shown=host_in(url)))
    with guarded(secrets), _captured_log() as messages:
        try:
            plugin = Apprise.instantiate(url, asset=_ASSET, suppress_exceptions=False)
        except Exception as error:  # noqa: BLE001 - plugins raise errors of any kind
            problem = redacted(chat_line(str(error)), secrets)
            raise OptimizationValidationError(field, f"Apprise does not accept its URL: {problem}") from None
    if not isinstance(plugin, NotifyBase):
        raise OptimizationValidationError(field, _refusal(url, redacted(" ".join(messages), secrets)))
    if not re.search(r"[?&]format=", url, re.IGNORECASE) and set(plugin.schemas()) & _IN_MARKDOWN:  # type: ignore[no-untyped-call]
        plugin.notify_format = NotifyFormat.MARKDOWN
    if not re.search(r"[?&]rto=", url, re.IGNORECASE):
        plugin.socket_read_timeout = READ_SECONDS
    return plugin


def _refusal(url: str, reason: str) -> str:
    """Say why, and what to write. Placeholders are in angle brackets, which `redacted` takes for no part of a URL."""
    scheme, is_url, _ = url.partition("://")
    scheme, known = scheme.lower(), NotificationManager().schemas()  # type: ignore[no-untyped-call]
    if scheme in ("http", "https"):
        return (
            "Apprise knows no service at this address; for your own webhook write json://<host>/<path>, "
            "or jsons://<host>/<path> with TLS"
        )
    if "disabled" in reason:
        return f"Apprise needs a library for {scheme}://; its documentation names the one to install"
    example = "; write it as slack://<tokens>, mailtos://<user>:<password>@<host>, jsons://<host>/<path>"
    if not is_url:
        return f"it is not a URL{example}"
    if scheme not in known:
        return f"Apprise has no service {scheme!r:.80}{hint_of(scheme, known) or example}"
    return f"Apprise does not accept its URL{f' ({reason})' if reason else ''}{example}"


def _written(plugin: NotifyBase, message: Message) -> tuple[str, str]:
    """Return the title and body in the plugin's format, within the service's length limits."""
    form = Form(plugin.notify_format.value)
    title = message.short_title(min(TITLE_LIMIT, plugin.title_maxlen if plugin.title_maxlen > 0 else TITLE_LIMIT))
    limit = plugin.body_maxlen
    if plugin.title_maxlen <= 0:  # the title becomes the body's first line
        escapes: dict[Form, Any] = {Form.TEXT: str, Form.MARKDOWN: markdown_text, Form.HTML: escape}
        if size(title) * 2 > limit:
            title = message.short_title(limit // 2)
        title = str(escapes[form](title))
        limit = max(0, limit - size(title) - _SPARE)
    if form is Form.HTML and set(plugin.schemas()) & _LETTERS:  # type: ignore[no-untyped-call]
        form = Form.PAGE
    return title, message.body(form, limit) or title


def _secrets(url: str, plugin: NotifyBase, host: str) -> Secrets:
    private = [spec.get("map_to", name) for name, spec in plugin.template_tokens.items() if spec.get("private")]
    held = [getattr(plugin, str(name), None) for name in private]
    texts = [each for value in held for each in (value if isinstance(value, (list, tuple)) else [value])]
    return Secrets(secret_parts(url, [each for each in texts if isinstance(each, str) and each], host))


# Without images: services would download Apprise's.
_ASSET = AppriseAsset(
    app_id="O9", app_desc="O9", app_url="https://www.prefect.io", image_url_mask="", image_url_logo="",
    image_path_mask="", secure_logging=True,
)  # fmt: skip


@contextmanager
def _captured_log() -> Iterator[list[str]]:
    """Capture what Apprise logs in this thread, and keep it out of the logs."""
    messages: list[str] = []
    thread = threading.get_ident()

    def capture(record: logging.LogRecord) -> bool:
        if record.thread == thread and record.levelno >= logging.WARNING:
            messages.append(record.getMessage())
        return record.thread != thread

    apprise_logger = logging.getLogger("apprise")
    apprise_logger.addFilter(capture)
    try:
        yield messages
    finally:
        apprise_logger.removeFilter(capture)
