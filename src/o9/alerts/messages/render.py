"""Messages: a notice as a title and a body, in plain text, Markdown or HTML, within a service's length limit. Pure.

Contract. A `Message` is rendered when a channel asks for it, in its format and length, by O9's templates or the user's.
It omits details and alerts before it cuts text, and never cuts within a character. The body is written in Markdown and
converted from that. A user's template that fails in spite of `check_template` is replaced by O9's own, with a note. The
present time is the notice's.

Messages show an alert's metadata: `evidence` (figures by name), `remedy` (what to do), and `link` (a URL).
"""

from __future__ import annotations

import logging
import re
from collections.abc import Mapping
from dataclasses import fields, replace
from datetime import UTC, datetime, timedelta
from enum import Enum
from functools import cache, cached_property, lru_cache
from importlib.resources import files
from typing import Final

import jinja2
from markupsafe import Markup, escape

from o9.alerts.messages.markdown import Template, TemplateError, html_of, text_of
from o9.alerts.messages.view import Detail, NoticeView, address, view_of, worst_of
from o9.alerts.pipeline.alert import Alert, Notice, NoticeKind
from o9.model.errors import OptimizationValidationError
from o9.model.states import AlertLevel
from o9.text.cut import cut, cut_lines, size
from o9.text.escape import chat_line, chat_lines

logger = logging.getLogger(__name__)
TITLE_LIMIT = 200
NAMES = ("title", "body")

SHOWN = 10  # alerts of a group
# What is omitted, step by step, to fit a service's limit; in a group, details before alerts.
_WHOLE: Final = Detail(SHOWN, 2_000)
_OF_ONE: Final = (_WHOLE, Detail(1, 400), Detail(1, 200), Detail(1, 80), Detail(1, 80, bare=True))
_BARE: Final = tuple(Detail(n, 80, bare=True) for n in (SHOWN, 7, 5, 3, 2, 1))
_OF_MANY: Final = (_WHOLE, Detail(SHOWN, 400), Detail(SHOWN, 160), *_BARE)


class Form(str, Enum):
    """The format of a body."""

    TEXT = "text"
    MARKDOWN = "markdown"
    HTML = "html"
    PAGE = "page"
    """A whole HTML mail; HTML itself has only the few tags that chats support."""


@cache
def _samples() -> dict[str, Notice]:
    """Return the notices on which templates are tried: a complete alert, a bare one, a group, and a resolved one."""
    at = datetime(2026, 1, 30, 14, 5, tzinfo=UTC)
    labels = {"title": "Drawdown", "level": "critical", "optimization": "carry", "rule": "sample", "desk": "fx"}
    metadata = {
        "evidence": {"drawdown": 0.2341},
        "remedy": "halve the leverage",
        "link": "https://o9.example.com/carry",
    }
    one = Alert(
        labels, at - timedelta(minutes=4), "sample", "carry", AlertLevel.CRITICAL, "Drawdown", "It fell by 23.4%.",
        metadata=metadata,
    )  # fmt: skip
    bare = Alert({"title": "Store away"}, at, "bare", "", AlertLevel.INFO, "Store away")
    over = replace(one, ends_at=at)
    alone = Notice("desk", "sample", 1, {"title": "Drawdown"}, NoticeKind.FIRING, at, (one,), (), "new")
    return {
        "one alert": alone,
        "an alert of no optimization": replace(alone, firing=(bare,)),
        "a group of which some are new": replace(alone, firing=(one, bare) * 7, resolved=(over,), known=10),
        "resolved": replace(alone, kind=NoticeKind.RESOLVED, firing=(), resolved=(over,), reason="it is over"),
    }


def check_template(name: str, source: str) -> None:
    """Raises OptimizationValidationError for the field `name` if the template is invalid or fails on a sample."""
    if name not in NAMES:
        raise OptimizationValidationError(name, f"there is no such template; use {', '.join(NAMES)}")
    template = _compiled(name, source)
    for what, sample in _samples().items():
        try:
            template.render({**vars(view_of(sample, _WHOLE, None)), "fault": ""})
        except TemplateError as error:
            raise OptimizationValidationError(name, f"it fails on a sample ({what}): {error}") from None


class Message:
    """A notice, to be rendered in the format and length of a channel.

    templates: by name, `title` and `body`, which is Markdown; the default is O9's own. link: a URL for alerts without
    one; `{optimization}` and `{alert}` are replaced by their ids.
    """

    def __init__(self, notice: Notice, templates: Mapping[str, str] | None = None, link: str | None = None) -> None:
        self.notice = notice
        self._templates = templates or {}
        self._link = link
        self._faults: dict[str, str] = {}
        self._views: dict[Detail, NoticeView] = {}

    def about(self, notice: Notice) -> Message:
        """Return the message for another notice, such as a part of this one."""
        return Message(notice, self._templates, self._link)

    @cached_property
    def level(self) -> AlertLevel:
        """The worst level of the firing alerts, or of the resolved ones if none fires."""
        return worst_of(self.notice)

    @cached_property
    def over(self) -> bool:
        """Whether all alerts are resolved."""
        return not self.notice.firing

    @cached_property
    def title(self) -> str:
        """One line."""
        return self.short_title(TITLE_LIMIT)

    def short_title(self, limit: int) -> str:
        return cut(chat_line(self._written("title", _WHOLE)), limit)

    def body(self, form: Form = Form.TEXT, limit: int | None = None) -> str:
        """Return the body, at most `limit` UTF-16 units."""
        out = ""
        for detail in _OF_ONE if len(self.notice.firing) + len(self.notice.resolved) == 1 else _OF_MANY:
            out = self._in(form, self._written("body", detail).strip("\n"))
            if limit is None or size(out) <= limit:
                return out
        assert limit is not None
        if form in (Form.HTML, Form.PAGE):  # cutting would break its tags; this is the shortest HTML
            out = f"<p>{escape(self.short_title(limit // 6))}</p>"
            return out if size(out) <= limit else ""
        return cut_lines(out, limit) if size(out.split("\n", 1)[0]) < limit else self.short_title(limit)

    def __repr__(self) -> str:
        return f"<Message {self.title!r}>"

    def _written(self, name: str, detail: Detail) -> str:
        own = None if name in self._faults else self._templates.get(name)
        values = {**vars(self._view(detail)), "fault": self._faults.get(name, "")}
        try:
            return _compiled(name, own or _source(f"{name}.j2")).render(values)
        except TemplateError as error:
            if own is None:
                raise
            self._faults[name] = f"templates.{name} failed: {error}"
            logger.warning("templates.%s failed, O9's own template is used: %s", name, error)
            return self._written(name, detail)

    def _in(self, form: Form, source: str) -> str:
        if form is Form.MARKDOWN:
            return source
        if form is Form.TEXT:
            return chat_lines(text_of(source))
        html = html_of(source)
        if form is Form.HTML:
            return html
        view = self._view(_WHOLE)
        return _mail().render(badge=view.badge, headline=view.headline, colour=view.colour, body=Markup(html))

    def _view(self, detail: Detail) -> NoticeView:
        if detail not in self._views:
            self._views[detail] = view_of(self.notice, detail, self._link)
        return self._views[detail]


@lru_cache(maxsize=100)
def _compiled(name: str, source: str) -> Template:
    return Template(source, name, markdown=name == "body", names=(*_READ, "fault"))


@cache
def _mail() -> jinja2.Template:
    return jinja2.Environment(autoescape=True, undefined=jinja2.StrictUndefined).from_string(_source("mail.html"))


@cache
def _source(file: str) -> str:
    return files("o9.alerts.messages").joinpath("templates", file).read_text(encoding="utf-8")


_READ = tuple(each.name for each in fields(NoticeView))


def checked_link(link: str) -> str:
    """Return `link`. Raises ValueError unless it is a URL with no placeholders but the known ones."""
    plain = link.replace("{optimization}", "x").replace("{alert}", "x")
    wrong = _BRACES.search(plain)
    if wrong or not address(plain):
        problem = f"{wrong[0]!r:.80} is not a placeholder" if wrong else "expected a URL with http or https"
        raise ValueError(f"{problem}; {{optimization}} and {{alert}} are replaced by their ids")
    return link


_BRACES = re.compile(r"\{[^{}]*\}?|\}")
