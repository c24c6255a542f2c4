"""Escaping of text from users and programs (names, ids, errors) for where it is shown. Pure; standard library only.

Contract. The result cannot control a terminal, the headers of a mail or the direction of reading: such characters are
replaced by their escapes (`\\u202e`). The results of `chat_line` and `chat_lines` mention nobody in a chat, either.
Templates escape HTML.
"""

from __future__ import annotations

import re

# C1 controls, bidirectional controls, line separators other than \n, invisible tags, surrogates and noncharacters.
# JSON does not escape them. Joiners of emoji are not among them.
STEERING = (
    "\x7f-\x9f\u061c\u200e\u200f\u2028-\u202e\u2066-\u2069\ufeff\ufff9-\ufffb\ufffe\uffff\ud800-\udfff"
    "\U000e0000-\U000e001f"
)
_ON_ONE_LINE = re.compile(f"[\x00-\x1f{STEERING}]")
_WITH_LINES = re.compile(f"[\x00-\x08\x0b-\x1f{STEERING}]")
_ENDS_OF_LINES = re.compile("\r\n|[\n\r\x0b\x0c\x1c-\x1e\x85\u2028\u2029]")
# What Slack, Discord and Teams read as a mention, or as a link with another text. A zero-width space after its first
# character prevents that.
_MENTIONS = re.compile(r"(?i)@(?=(?:everyone|here|channel|all)\b)|<(?=[@!#&]|/?at\b|[a-z][a-z0-9+.\-]*:)")
_MARKUP = re.compile(r"[\\`*_{}\[\]<>#|~]")
_NO_WIDTH = "\u200b"


def shown(text: str) -> str:
    r"""Escape for one line: `\n` for a line break."""
    return _ON_ONE_LINE.sub(_escaped, text)


def plain(text: str) -> str:
    """Escape, but keep line breaks and tabs."""
    return _WITH_LINES.sub(_escaped, text)


def one_line(text: str) -> str:
    """Replace each run of whitespace by a single blank. Escapes nothing."""
    return " ".join(text.split())


def shortened(text: str, limit: int) -> str:
    """At most `limit` characters, on one line. Escapes nothing."""
    line = one_line(text)
    return line if len(line) <= limit else f"{line[: limit - 1]}…"


def unmarked(text: str) -> str:
    """Escape Markdown, on one line."""
    return _MARKUP.sub(r"\\\g<0>", one_line(text))


def chat_line(text: str) -> str:
    """Escape for one line of a chat message."""
    return one_line(_unmentioned(_ENDS_OF_LINES.sub(" ", text).replace("\t", " ")))


def chat_lines(text: str) -> str:
    """Escape for a chat message, without trailing blanks and without two empty lines in a row."""
    out = [_unmentioned(each.replace("\t", "    ")).rstrip() for each in _ENDS_OF_LINES.split(text)]
    return "\n".join(each for n, each in enumerate(out) if each or (n and out[n - 1])).strip("\n")


def _escaped(found: re.Match[str]) -> str:
    return found[0].encode("unicode_escape", "surrogatepass").decode()


def _unmentioned(text: str) -> str:
    return _MENTIONS.sub(lambda found: found[0] + _NO_WIDTH, shown(text))
