"""Markdown, in which messages are written: text escaped for it, templates of it, and it as HTML or plain text. Pure.

Contract. `markdown_text` is shown as it is by CommonMark and the services' dialects of it, with its lines and their
indentation, and mentions nobody. `html_of` and `text_of` take CommonMark; its line ends are line ends in both.
Templates are Jinja in its immutable sandbox, with a bound on what they print. They are written by the operator, not by
an attacker; these are bounds against accidents.
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
_MENTION = re.compile(r"@(?=[&0-9a-z])", re.IGNORECASE)  # Apprise makes a ping of each, for Discord
_AT_LINE = re.compile(r"^(\s*)(?:([#>=+-])|(\d{1,9})([.)]))", re.MULTILINE)
_INDENTATION = re.compile(r"^ +(?=\S)", re.MULTILINE)  # which Markdown drops, or takes for code
_NO_BREAK = "\u00a0"
_TYPED = re.compile(r"`([^`]+)`")


def markdown_text(text: str) -> str:
    """`text`, escaped."""
    out = _AT_WORD.sub(r"\\_", _ANYWHERE.sub(r"\\\g<0>", text))
    out = _MENTION.sub("@\u200b", out)
    out = _AT_LINE.sub(lambda at: f"{at[1]}\\{at[2]}" if at[2] else f"{at[1]}{at[3]}\\{at[4]}", out)
    return _INDENTATION.sub(lambda found: _NO_BREAK * len(found[0]), out)


def markdown_prose(text: str) -> str:
    """The same for a text in which backticks mark what is typed: that stays code."""
    parts = _TYPED.split(text)
    return "".join(f"`{part}`" if place % 2 else markdown_text(part) for place, part in enumerate(parts))


def html_of(source: str) -> str:
    rendered: str = _MARKDOWN.render(source)
    return rendered


def text_of(source: str) -> str:
    """Without emphasis; lists keep their marks."""
    lines: list[str] = []
    marks: list[str] = []  # of the open items of lists: for the first line of each, and then as many blanks
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
PRINTED = 200_000  # characters


class TemplateError(Exception):
    """A template failed while it was rendered. The message says at what."""


class Address(str):
    """A URL in which nothing is left that means something in Markdown."""

    __slots__ = ()


class Prose(str):
    """A text in which backticks mark what is typed, which Markdown shows as code."""

    __slots__ = ()


class Template:
    """One template, checked and compiled. `names`: those that it may read; a key that a mapping lacks is an empty text.

    Raises OptimizationValidationError, which names the field, the line and the remedy, for what is no Jinja and for
    names that there are not. What is printed into Markdown is escaped for it.
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
            problem = f"line {line}: there is no name {name!r:.80} here{suggestion(name, names)}"
            raise OptimizationValidationError(field, problem)

    def render(self, values: Mapping[str, Any]) -> str:
        """The text, at most PRINTED characters. Raises TemplateError."""
        printed = ""
        try:
            for piece in self._template.generate(values):
                printed += piece
                if len(printed) > PRINTED:
                    raise OverflowError(f"it printed more than {PRINTED:,} characters")
        except Exception as error:  # noqa: BLE001 - a user's template: whatever it raises is its fault
            raise TemplateError(str(error) or type(error).__name__) from None
        return printed


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
