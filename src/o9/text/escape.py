"""What others wrote (names, ids, errors), made harmless for where it is shown. Pure; only the standard library.

Contract. Nothing that comes out steers a terminal, a mail's headers or the direction of reading: such characters are
replaced by their escapes (`\\u202e`). What comes out of `chat_line` and `chat_lines` calls nobody in a chat, either.
Escaping for HTML is up to the template.
"""

from __future__ import annotations

import re

# C1 controls, what turns the direction of reading, ends of lines beside \n, invisible tags, halves of characters and
# what is none. JSON leaves these as they are; joiners of emoji are not among them.
STEERING = (
    "\x7f-\x9f\u061c\u200e\u200f\u2028-\u202e\u2066-\u2069\ufeff\ufff9-\ufffb\ufffe\uffff\ud800-\udfff"
    "\U000e0000-\U000e001f"
)
_ON_ONE_LINE = re.compile(f"[\x00-\x1f{STEERING}]")
_WITH_LINES = re.compile(f"[\x00-\x08\x0b-\x1f{STEERING}]")
_ENDS_OF_LINES = re.compile("\r\n|[\n\r\x0b\x0c\x1c-\x1e\x85\u2028\u2029]")
# What Slack, Discord and Teams take for a call to people, or a link under another name; a space without width behind
# its first character undoes it.
_CALLS = re.compile(r"(?i)@(?=(?:everyone|here|channel|all)\b)|<(?=[@!#&]|/?at\b|[a-z][a-z0-9+.\-]*:)")
_MARKUP = re.compile(r"[\\`*_{}\[\]<>#|~]")
_NO_WIDTH = "\u200b"


def shown(text: str) -> str:
    r"""On one line: `\n` in the place of a line's end."""
    return _ON_ONE_LINE.sub(_escaped, text)


def plain(text: str) -> str:
    """With its lines and tabs."""
    return _WITH_LINES.sub(_escaped, text)


def one_line(text: str) -> str:
    """Its words, with one blank between any two. Nothing is escaped."""
    return " ".join(text.split())


def shortened(text: str, limit: int) -> str:
    """On one line, at most `limit` characters of it. Nothing is escaped."""
    line = one_line(text)
    return line if len(line) <= limit else f"{line[: limit - 1]}…"


def unmarked(text: str) -> str:
    """On one line of Markdown, never taken for markup."""
    return _MARKUP.sub(r"\\\g<0>", one_line(text))


def chat_line(text: str) -> str:
    """On one line of a message."""
    return one_line(_uncalled(_ENDS_OF_LINES.sub(" ", text).replace("\t", " ")))


def chat_lines(text: str) -> str:
    """With its lines, none of which ends in a blank, and never more than one empty one after another."""
    out = [_uncalled(each.replace("\t", "    ")).rstrip() for each in _ENDS_OF_LINES.split(text)]
    return "\n".join(each for n, each in enumerate(out) if each or (n and out[n - 1])).strip("\n")


def _escaped(found: re.Match[str]) -> str:
    return found[0].encode("unicode_escape", "surrogatepass").decode()


def _uncalled(text: str) -> str:
    return _CALLS.sub(lambda found: found[0] + _NO_WIDTH, shown(text))
