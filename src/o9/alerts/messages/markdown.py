"""Markdown, in which messages are written: text escaped for it, and it as HTML and as plain text. Pure.

Contract. `markdown_text` is shown as it is by CommonMark and the services' dialects of it, with its lines and their
indentation, and mentions nobody. `html_of` and `text_of` take CommonMark; its line ends are line ends in both.
"""

from __future__ import annotations

import re
from collections.abc import Iterable

from markdown_it import MarkdownIt
from markdown_it.token import Token

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
