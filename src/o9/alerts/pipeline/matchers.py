"""Matchers: conditions on an alert's labels, in Alertmanager's syntax. Pure.

    title="Drawdown", level=~"critical|error", optimization!="opt-7", desk!~"eu-.*"

`parse` reads one or more, with or without braces. A name or value needs no quotes unless it contains blanks or one of
``{}!=~,\\"'` ``. Within quotes ``\\"``, ``\\\\``, ``\\n``, ``\\t``, ``\\r`` and ``\\uXXXX`` are escapes, and any other
backslash is literal, so that regular expressions need no doubled ones. These are anchored at both ends, a dot matches
every character, and RE2 runs them in linear time. A missing label counts as empty. Levels match in any case.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from functools import lru_cache
from typing import Literal, cast

import re2

from o9.alerts.pipeline.alert import LEVELS, Labels
from o9.model.errors import OptimizationValidationError
from o9.store.core.column_types import free_text
from o9.text.suggest import suggestion

TEXT_LIMIT = 20_000
LEVEL = "level"

Operator = Literal["=", "!=", "=~", "!~"]


@dataclass(frozen=True, slots=True)
class Matcher:
    """A condition on a label. `str()` returns text that `parse` reads as the same matcher."""

    name: str
    operator: Operator
    value: str
    test: Callable[[str], bool] = field(init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        if self.name == LEVEL and self.value.lower() in LEVELS:
            object.__setattr__(self, "value", self.value.lower())
        if "~" in self.operator:
            matches = regular_expression(self.value, any_case=self.name == LEVEL)
            test = matches if self.operator == "=~" else lambda text: not matches(text)
        else:
            test = self.value.__eq__ if self.operator == "=" else self.value.__ne__
        object.__setattr__(self, "test", test)

    def __str__(self) -> str:
        name = self.name if _UNQUOTED.fullmatch(self.name) else _quoted(self.name)
        return f"{name}{self.operator}{_quoted(self.value)}"


Matchers = tuple[Matcher, ...]


def match(matchers: Matchers, labels: Labels) -> bool:
    """Return whether all matchers match."""
    return all(matcher.test(labels.get(matcher.name, "")) for matcher in matchers)


def format_matchers(matchers: Matchers) -> str:
    """Return text that `parse` reads: ``{title="Drawdown",level=~"critical|error"}``."""
    return "{" + ",".join(map(str, matchers)) + "}"


def why_unsatisfiable(matchers: Matchers) -> str | None:
    """Return why no alert can match all of them, with the remedy; None if one can."""
    wrong = next(filter(None, map(_wrong_level, matchers)), None)
    return _contradiction(matchers) if wrong is None else wrong


def literal_values(matcher: Matcher) -> tuple[str, ...]:
    """Return the values that it names; none if its regular expression has more than words and `|`."""
    if matcher.operator in ("=", "!="):
        return (matcher.value,)
    words = matcher.value.removeprefix("(").removesuffix(")").split("|")
    return tuple(words) if all(map(_WORD.fullmatch, words)) else ()


def _wrong_level(matcher: Matcher) -> str | None:
    if matcher.name != LEVEL or (matcher.operator in ("!=", "!~") and not matcher.value):
        return None
    wrong = next((value for value in literal_values(matcher) if value.lower() not in LEVELS), None)
    if wrong is not None:
        return f"no level is called {wrong!r:.80}{suggestion(wrong, LEVELS)}"
    if matcher.operator in ("=", "!="):
        return None
    matched = [matcher.test(level) == (matcher.operator == "=~") for level in LEVELS]
    if not any(matched):
        return f"{matcher.value!r:.80} matches none of the levels {', '.join(LEVELS)}; it must match the whole word"
    if all(matched) and matcher.operator == "!~":
        return f"{matcher.value!r:.80} excludes every level, so no alert can match; remove some"
    return None


def _contradiction(matchers: Matchers) -> str | None:
    exact = {each.name: each for each in reversed(matchers) if each.operator == "="}
    for other in matchers:
        wanted = exact.get(other.name)
        if wanted is not None and not other.test(wanted.value):
            plain = other.operator == "=" and not _SPECIAL.search(wanted.value + other.value)
            either = f'; to match either write {wanted.name}=~"{wanted.value}|{other.value}"' if plain else ""
            return f"no alert can match both {wanted} and {other}, and all matchers must match{either}"
    return None


def parse(text: str, field: str = "matchers") -> Matchers:
    """Parse matchers. Raises OptimizationValidationError with the position of the error."""
    if len(text) > TEXT_LIMIT:
        raise OptimizationValidationError(field, f"{len(text):,} characters; at most {TEXT_LIMIT:,} are allowed")
    text, at = free_text(text), 0
    matchers: list[Matcher] = []

    def take(expected: str, pattern: re.Pattern[str]) -> str:
        nonlocal at
        if (found := pattern.match(text, at)) is None:
            raise OptimizationValidationError(field, _unexpected(text, at, expected))
        at = found.end()
        return found[1]

    braces = take("", _BRACE)
    while _TEXT.match(text, at):
        name = take("a label's name", _TEXT)
        if name == '""':
            raise OptimizationValidationError(field, f"character {at - 1}: a label's name is empty")
        operator, value = take("one of = != =~ !~", _OPERATOR), take("a value", _TEXT)
        try:
            matchers.append(Matcher(_unquoted(name), cast(Operator, operator), _unquoted(value)))
        except ValueError as error:
            wrong = f"character {at - len(value) + 1}: {_unquoted(value)!r:.200}"
            raise OptimizationValidationError(field, f"{wrong} is not a regular expression: {error}") from None
        if not take("", _COMMA):
            break
    if braces:
        take("a comma or a closing brace" if matchers else "a label's name or a closing brace", _CLOSING)
    take("a comma or the end" if matchers else "a label's name", _END)
    return tuple(matchers)


def _unexpected(text: str, at: int, expected: str) -> str:
    """Say what was found instead, with a hint."""
    found = _ANYTHING.match(text, at)
    assert found is not None
    place, shown, hint = found.start(1) + 1, found[1], ""
    if shown == '"':
        return f"character {place}: the quote is not closed"
    if shown == "'":
        hint = "; use double quotes"
    elif _UNQUOTED.fullmatch(shown) and expected.startswith("a comma"):
        hint = "; put a value with blanks in double quotes"
    return f"character {place}: expected {expected}, found {repr(shown[:40]) if shown else 'the end'}{hint}"


def _unquoted(text: str) -> str:
    if not text.startswith('"'):
        return text
    return free_text(_ESCAPE.sub(lambda found: _ESCAPED[found[2]] if found[2] else chr(int(found[1], 16)), text[1:-1]))


def parse_all(texts: Iterable[str], field: str = "matchers") -> Matchers:
    """Parse the matchers in all of `texts`."""
    return tuple(matcher for index, text in enumerate(texts) for matcher in parse(text, f"{field}[{index}]"))


@lru_cache(maxsize=4096)
def regular_expression(pattern: str, *, any_case: bool = False) -> Callable[[str], bool]:
    """Return a test for whether a whole text matches `pattern`. Raises ValueError with RE2's reason."""
    options = re2.Options()
    options.log_errors, options.dot_nl, options.never_capture = False, True, True
    options.case_sensitive = not any_case
    try:
        compiled = re2.compile(pattern, options)
    except re2.error as error:
        reason = error.args[0] if error.args else error
        raise ValueError(reason.decode("utf-8", "replace") if isinstance(reason, bytes) else str(reason)) from None
    known: dict[str, bool] = {}

    def test(value: str) -> bool:
        answer = known.get(value)
        if answer is None:
            answer = compiled.fullmatch(value.encode("utf-8", "replace")) is not None
            if len(known) < _ANSWERS_KEPT and len(value) < 200:
                known[value] = answer
        return answer

    return test


_ANSWERS_KEPT = 1000
_WORD = re.compile(r"[\w-]+")
_SPECIAL = re.compile(r"[\\.+*?()|\[\]{}^$\"]")
_UNQUOTED = re.compile(r"""[^\s{}!=~,\\"'`]+""")
_WRITTEN = r""""(?:[^"\\]|\\.)*"|[^\s{}!=~,\\"'`]+"""
_TEXT = re.compile(rf"\s*({_WRITTEN})", re.DOTALL)
_OPERATOR = re.compile(r"\s*(=~|!=|!~|=)")
_BRACE, _COMMA, _CLOSING, _END = (re.compile(rf"\s*({mark})") for mark in (r"\{?", ",?", r"\}", r"\Z"))
_ANYTHING = re.compile(rf"\s*({_WRITTEN}|=~|!=|!~|\S|\Z)", re.DOTALL)
_ESCAPE = re.compile(r"""\\(?:u([0-9a-fA-F]{4})|([ntr"\\]))""")
_ESCAPED = {"n": "\n", "t": "\t", "r": "\r", '"': '"', "\\": "\\"}


def _quoted(text: str) -> str:
    """Return `text` in quotes, with escapes."""
    return '"' + _TO_ESCAPE.sub(lambda found: _ESCAPES.get(found[0], f"\\u{ord(found[0]):04x}"), text) + '"'


_TO_ESCAPE = re.compile(r'["\\\x00-\x1f\x7f-\x9f]')
_ESCAPES = {value: f"\\{name}" for name, value in _ESCAPED.items()}
