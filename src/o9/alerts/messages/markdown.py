"""Markdown, the source format of messages: escaping, templates, and conversion to HTML and plain text. Pure.

Contract. CommonMark and the services' dialects of it show the result of `markdown_text` literally, with its lines and
their indentation; it mentions nobody. `html_of` and `text_of` convert CommonMark and keep its line breaks. Templates
are Jinja in its immutable sandbox, with a limit on their output. Operators write them, not attackers: the limits are
against accidents.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Collection, Iterable, Mapping
from typing import Any

from jinja2 import StrictUndefined, meta
from jinja2.exceptions import TemplateError as JinjaError
from jinja2.sandbox import ImmutableSandboxedEnvironment
from markdown_it import MarkdownIt
from markdown_it.token import Token

from o9.model.errors import OptimizationValidationError
from o9.text.cut import cut
from o9.text.suggest import suggestion

_MARKDOWN = MarkdownIt("commonmark", {"breaks": True})
_AT_WORD = re.compile(r"(?<![^\W_])_|_(?![^\W_])")  # an underscore inside a word is no emphasis
_ANYWHERE = re.compile(r"[\\`*\[\]<>|]|~(?=~)|&(?=#?\w+;)")
_MENTION = re.compile(r"@(?=[&0-9a-z])", re.IGNORECASE)  # Apprise turns each into a ping, for Discord
_AT_LINE = re.compile(r"^(\s*)(?:([#>=+-])|(\d{1,9})([.)]))", re.MULTILINE)
_INDENTATION = re.compile(r"^ +(?=\S)", re.MULTILINE)  # Markdown drops it, or takes it for code
_NO_BREAK = "\u00a0"
_CODE = re.compile(r"`([^`]+)`")


def markdown_text(text: str) -> str:
    """Return `text`, escaped for Markdown."""
    out = _AT_WORD.sub(r"\\_", _ANYWHERE.sub(r"\\\g<0>", text))
    out = _MENTION.sub("@\u200b", out)
    out = _AT_LINE.sub(lambda at: f"{at[1]}\\{at[2]}" if at[2] else f"{at[1]}{at[3]}\\{at[4]}", out)
    return _INDENTATION.sub(lambda found: _NO_BREAK * len(found[0]), out)


def markdown_prose(text: str) -> str:
    """Return `text`, escaped for Markdown except for code in backticks."""
    parts = _CODE.split(text)
    return "".join(f"`{part}`" if place % 2 else markdown_text(part) for place, part in enumerate(parts))


def html_of(source: str) -> str:
    rendered: str = _MARKDOWN.render(source)
    return rendered


def text_of(source: str) -> str:
    """Return Markdown as plain text, without emphasis; lists keep their marks."""
    lines: list[str] = []
    marks: list[str] = []  # of the open list items; blanks after the first line of each
    for token in _MARKDOWN.parse(source):
        if token.type == "list_item_open":
            marks.append(f"{token.info}. " if token.info else "- ")
        elif token.type == "list_item_close":
            marks.pop()
        elif token.type == "inline":
            for line in _inline(token.children or ()).split("\n"):
                lines.append("".join(marks) + line)
                marks = [" " * len(mark) for mark in marks]
        elif token.content:  # code
            lines += ["".join(marks) + line for line in token.content.rstrip("\n").split("\n")]
        if token.type.endswith("_close") and not token.hidden and token.type != "list_item_close" and not marks:
            lines.append("")
    return "\n".join(lines).replace(_NO_BREAK, " ")


def _inline(tokens: Iterable[Token]) -> str:
    out = []
    address = ""
    for token in tokens:
        if token.type in ("softbreak", "hardbreak"):
            out.append("\n")
        elif token.type == "link_open":
            address = str(token.attrs["href"])
        elif token.type == "link_close":
            out.append("" if out and out[-1] == address else f" ({address})")
        elif token.type == "code_inline":
            out.append(f"`{token.content}`")
        else:
            out.append(token.content)
    return "".join(out)


SOURCE_LIMIT = 20_000  # characters
OUTPUT_LIMIT = 200_000  # characters


class TemplateError(Exception):
    """A template failed while it was rendered."""


class Address(str):
    """A URL without characters that have a meaning in Markdown."""

    __slots__ = ()


class Prose(str):
    """A text with code in backticks, which Markdown shows as code."""

    __slots__ = ()


class Template:
    """A template, checked and compiled. `names`: the variables that it may use.

    A missing key of a mapping is an empty text. Output into Markdown is escaped. Raises OptimizationValidationError,
    with the field and the line, for invalid Jinja and unknown names.
    """

    def __init__(self, source: str, field: str, *, markdown: bool, names: Collection[str]) -> None:
        self.field = field
        environment = _WRITES_MARKDOWN if markdown else _WRITES_TEXT
        if not isinstance(source, str) or len(source) > SOURCE_LIMIT:
            raise OptimizationValidationError(field, f"expected a template of at most {SOURCE_LIMIT:,} characters")
        try:
            self._template = environment.from_string(source)
            unknown = meta.find_undeclared_variables(environment.parse(source)) - {*names, *environment.globals}
        except (JinjaError, RecursionError, MemoryError, SyntaxError, OverflowError, ValueError) as error:
            at = getattr(error, "lineno", None)
            where = f"line {at}: " if at else ""
            problem = (isinstance(error, JinjaError) and error.message) or f"it cannot be compiled: {error}"
            raise OptimizationValidationError(field, f"{where}{problem}") from None
        for name in sorted(unknown):
            line = next(n for n, text in enumerate(source.split("\n"), 1) if re.search(rf"\b{re.escape(name)}\b", text))
            problem = f"line {line}: {name!r:.80} is not defined{suggestion(name, names)}"
            raise OptimizationValidationError(field, problem)

    def render(self, values: Mapping[str, Any]) -> str:
        """Return the text, at most OUTPUT_LIMIT characters. Raises TemplateError."""
        text = ""
        try:
            for piece in self._template.generate(values):
                text += piece
                if len(text) > OUTPUT_LIMIT:
                    raise OverflowError(f"its output exceeds {OUTPUT_LIMIT:,} characters")
        except Exception as error:  # noqa: BLE001 - any error in a user's template
            raise TemplateError(str(error) or type(error).__name__) from None
        return text


class _Environment(ImmutableSandboxedEnvironment):
    def __init__(self, finalize: Callable[[Any], str]) -> None:
        super().__init__(undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True, finalize=finalize)
        self.filters["cut"] = lambda value, limit: cut(str(value), limit)

    def getattr(self, obj: Any, attribute: str) -> Any:
        return self.getitem(obj, attribute) if isinstance(obj, Mapping) else super().getattr(obj, attribute)

    def getitem(self, obj: Any, argument: Any) -> Any:
        if isinstance(obj, Mapping) and argument != "items":
            return obj.get(argument, "")
        return super().getitem(obj, argument)


def _in_text(value: Any) -> str:
    return "" if value is None else str(value)


def _in_markdown(value: Any) -> str:
    if isinstance(value, Address):
        return value
    return markdown_prose(value) if isinstance(value, Prose) else markdown_text(_in_text(value))


_WRITES_TEXT, _WRITES_MARKDOWN = _Environment(_in_text), _Environment(_in_markdown)
