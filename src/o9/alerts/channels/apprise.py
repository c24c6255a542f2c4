"""Any service that Apprise knows, by its URL.

Contract. The URL is a secret: this channel shows, raises, logs and returns no more of it than the scheme and the host.
Apprise itself returns only whether a send succeeded. The reason of a failure is the error that the plugin was handling
when it logged, else what it logged; the send is retried unless the error means that it cannot succeed.

Each send has a plugin of its own, since plugins keep state. A URL with several targets is one channel: if one of them
fails, all are notified again.
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
from markupsafe import escape
from pydantic import SecretStr

from o9.alerts.channels.outcome import Failed, MessageChannel, failed, failure_of
from o9.alerts.channels.redaction import Secrets, guarded, host_in, is_host, parts_of, redacted
from o9.alerts.messages.markdown import markdown_text
from o9.alerts.messages.render import TITLE_LIMIT, Form, Message
from o9.model.errors import OptimizationValidationError
from o9.model.optimization import utc_now
from o9.model.states import AlertLevel
from o9.text.cut import size
from o9.text.escape import chat_line

SECONDS = 30.0
READ_SECONDS = 15.0  # for an answer, if the URL has no `rto`; after Apprise's 4 s a slow service is sent doubles
URL_LIMIT = 8_000
_SPARE = 10  # units that Apprise puts between a title and a body

_KINDS = {AlertLevel.INFO: NotifyType.INFO, AlertLevel.WARNING: NotifyType.WARNING}  # the others: a failure
# Services that take a whole HTML page; others that take HTML know a few tags of it.
_LETTERS = frozenset({
    "azure", "brevo", "mailersend", "mailgun", "mailto", "mailtos", "o365", "postmark", "resend", "sendgrid",
    "sendpulse", "ses", "smtp2go", "sparkpost",
})  # fmt: skip
# Services to which Apprise sends plain text by default, and that show Markdown.
_IN_MARKDOWN = frozenset({"discord"})


class AppriseChannel(MessageChannel):
    """Raises OptimizationValidationError for a URL that Apprise does not accept."""

    def __init__(self, name: str, url: str | SecretStr, seconds: float = SECONDS) -> None:
        self._url = url if isinstance(url, SecretStr) else SecretStr(url)
        plugin = _plugin(name, self._url.get_secret_value())
        host = plugin.host or ""  # which may be a token
        shown = is_host(host) and "host" in plugin.template_tokens
        self._host = (f"{host}:{plugin.port}" if plugin.port else host) if shown else ""
        super().__init__(name, seconds, _secrets(self._url.get_secret_value(), plugin, self._host))

    @property
    def address(self) -> str:
        """For people: the scheme, and the host where the URL has one."""
        scheme = self._url.get_secret_value().partition("://")[0].lower()
        return f"{scheme}://{self._host or '…'}"

    def _write(self, message: Message) -> Failed | None:
        with guarded(self._secrets):
            plugin = _plugin(self.name, self._url.get_secret_value())
            complaints = _Complaints(plugin)
            title, body = _written(plugin, message)
            # Markdown is passed as HTML, which Apprise converts to CommonMark, and plugins to their service's form.
            given = plugin.notify_format
            given = NotifyFormat.HTML if given == NotifyFormat.MARKDOWN else given
            kind = NotifyType.SUCCESS if message.over else _KINDS.get(message.level, NotifyType.FAILURE)
            if plugin.notify(body=body, title=title, notify_type=kind, body_format=given):
                return None
        return complaints.failure(self._secrets)

    def __repr__(self) -> str:
        return f"<AppriseChannel {self.name!r} {self.address}>"


class _Complaints(logging.Handler):
    """What a plugin logs, and the error that it is handling at that time."""

    def __init__(self, plugin: NotifyBase) -> None:
        super().__init__(logging.WARNING)
        self._error: BaseException | None = None
        self._said = ""
        listening = logging.Logger("apprise", logging.WARNING)
        listening.addHandler(self)
        # The process's logger has whole URLs in its DEBUG lines; `trace` and `deprecate` are Apprise's own levels.
        listening.trace = listening.deprecate = lambda *args, **kwargs: None  # type: ignore[attr-defined]
        plugin.logger = listening

    def emit(self, record: logging.LogRecord) -> None:
        self._said = record.getMessage()
        self._error = sys.exc_info()[1] or self._error

    def failure(self, secrets: Secrets) -> Failed:
        if self._error is not None:
            return failure_of(self._error, secrets, now=utc_now())
        return failed(self._said or "Apprise could not send it, and logged no reason", secrets)


def _plugin(name: str, url: str) -> NotifyBase:
    field = f"channels.{name}"
    if len(url) > URL_LIMIT or not url.isprintable():
        raise OptimizationValidationError(
            field, f"an Apprise URL has at most {URL_LIMIT:,} characters, none of them a control character"
        )
    secrets = Secrets(parts_of(url, shown=host_in(url)))
    with guarded(secrets), _overheard() as said:
        try:
            plugin = Apprise.instantiate(url, asset=_ASSET, suppress_exceptions=False)
        except Exception as error:  # noqa: BLE001 - a plugin's own, of any kind
            problem = redacted(chat_line(str(error)), secrets)
            raise OptimizationValidationError(field, f"Apprise does not take its URL: {problem}") from None
    if not isinstance(plugin, NotifyBase):
        raise OptimizationValidationError(field, _refusal(url, redacted(" ".join(said), secrets)))
    if not re.search(r"[?&]format=", url, re.IGNORECASE) and set(plugin.schemas()) & _IN_MARKDOWN:  # type: ignore[no-untyped-call]
        plugin.notify_format = NotifyFormat.MARKDOWN
    if not re.search(r"[?&]rto=", url, re.IGNORECASE):
        plugin.socket_read_timeout = READ_SECONDS
    return plugin


def _refusal(url: str, said: str) -> str:
    scheme = url.partition("://")[0].lower()
    if scheme in ("http", "https"):
        return (
            "Apprise knows no service at this address; for a webhook of your own take json://HOST/PATH, "
            "or jsons://HOST/PATH with TLS"
        )
    if "disabled" in said:
        return f"Apprise cannot use {scheme}:// here, for want of a library; its documentation names the one to install"
    hint = "a URL is SERVICE://…, for example mailtos://user:password@host, slack://…, jsons://host/path"
    return f"Apprise does not take its URL{f' ({said})' if said else ''}; {hint}"


def _written(plugin: NotifyBase, message: Message) -> tuple[str, str]:
    """Title and body in the plugin's form and within the service's length."""
    form = Form(plugin.notify_format.value)
    title = message.short_title(min(TITLE_LIMIT, plugin.title_maxlen if plugin.title_maxlen > 0 else TITLE_LIMIT))
    limit = plugin.body_maxlen
    if plugin.title_maxlen <= 0:  # it becomes the body's first line
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
    return Secrets(parts_of(url, [each for each in texts if isinstance(each, str) and each], host))


# No pictures: services would fetch Apprise's from elsewhere.
_ASSET = AppriseAsset(
    app_id="O9", app_desc="O9", app_url="https://www.prefect.io", image_url_mask="", image_url_logo="",
    image_path_mask="", secure_logging=True,
)  # fmt: skip


@contextmanager
def _overheard() -> Iterator[list[str]]:
    """Collects what Apprise logs in this thread, and keeps it out of the logs."""
    said: list[str] = []
    here = threading.get_ident()

    def keep(record: logging.LogRecord) -> bool:
        if record.thread == here and record.levelno >= logging.WARNING:
            said.append(record.getMessage())
        return record.thread != here

    listened = logging.getLogger("apprise")
    listened.addFilter(keep)
    try:
        yield said
    finally:
        listened.removeFilter(keep)
