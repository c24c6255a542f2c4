"""Matchers: which labels an alert has to have. The syntax is Alertmanager's.

    title="Drawdown", level=~"critical|error", optimization!="opt-7", desk!~"eu-.*"

`parse` reads one or more, in braces or not. A name or value without reserved characters (blanks and ``{}!=~,\\"'` ``)
needs no quotes; within quotes ``\\"``, ``\\\\``, ``\\n``, ``\\t``, ``\\r`` and ``\\uXXXX`` are escapes, and any other
backslash stays as it is, so that regular expressions are written plainly. They are anchored at both ends, a dot matches
every character, and RE2 runs them in time linear in the text: none explodes. A label that an alert does not have
counts as empty. The label `level` has one of four values, in whatever case they are written here; `unfit` says what
then, and of any label, can never hold. Pure.
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
    """One condition on one label. `str()` writes it so that `parse` reads the same."""

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
    """Whether all of them hold; none is no condition."""
    return all(matcher.test(labels.get(matcher.name, "")) for matcher in matchers)


def written(matchers: Matchers) -> str:
    """As text that `parse` reads: ``{title="Drawdown",level=~"critical|error"}``."""
    return "{" + ",".join(map(str, matchers)) + "}"


def unfit(matchers: Matchers) -> str | None:
    """Why no alert can have what they ask for, or one of them asks for nothing, with the remedy; else None."""
    wrong = next(filter(None, map(_unfit_level, matchers)), None)
    return _unfit_together(matchers) if wrong is None else wrong


def written_out(matcher: Matcher) -> tuple[str, ...]:
    """The values that it names in full; none where its regular expression is more than words and `|`."""
    if matcher.operator in ("=", "!="):
        return (matcher.value,)
    words = matcher.value.removeprefix("(").removesuffix(")").split("|")
    return tuple(words) if all(map(_WORD.fullmatch, words)) else ()


def _unfit_level(matcher: Matcher) -> str | None:
    if matcher.name != LEVEL or (matcher.operator in ("!=", "!~") and not matcher.value):
        return None
    wrong = next((value for value in written_out(matcher) if value.lower() not in LEVELS), None)
    if wrong is not None:
        return f"no level is called {wrong!r:.80}{suggestion(wrong, LEVELS)}"
    if matcher.operator in ("=", "!="):
        return None
    fitted = [matcher.test(level) == (matcher.operator == "=~") for level in LEVELS]
    if not any(fitted):
        return f"{matcher.value!r:.80} fits none of the levels {', '.join(LEVELS)}; it has to fit the whole word"
    if all(fitted) and matcher.operator == "!~":
        return f"{matcher.value!r:.80} fits each level, so that no alert is left; leave some out"
    return None


def _unfit_together(matchers: Matchers) -> str | None:
    exact = {each.name: each for each in reversed(matchers) if each.operator == "="}
    for other in matchers:
        wanted = exact.get(other.name)
        if wanted is not None and not other.test(wanted.value):
            plain = other.operator == "=" and not _SPECIAL.search(wanted.value + other.value)
            either = f'; for either write {wanted.name}=~"{wanted.value}|{other.value}"' if plain else ""
            return f"no alert has both {wanted} and {other}, and all matchers have to hold{either}"
    return None


def parse(text: str, field: str = "matchers") -> Matchers:
    """The matchers in `text`. Raises OptimizationValidationError that says at which character it goes wrong."""
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
            raise OptimizationValidationError(field, f"{wrong} is no regular expression: {error}") from None
        if not take("", _COMMA):
            break
    if braces:
        take("a comma or a closing brace" if matchers else "a label's name or a closing brace", _CLOSING)
    take("a comma or the end" if matchers else "a label's name", _END)
    return tuple(matchers)


def _unexpected(text: str, at: int, expected: str) -> str:
    """What stands there instead, and what was probably meant."""
    found = _ANYTHING.match(text, at)
    assert found is not None
    place, shown, hint = found.start(1) + 1, found[1], ""
    if shown == '"':
        return f"character {place}: the quote is not closed"
    if shown == "'":
        hint = "; quotes are double ones"
    elif _UNQUOTED.fullmatch(shown) and expected.startswith("a comma"):
        hint = "; a value with blanks stands in double quotes"
    return f"character {place}: expected {expected}, found {repr(shown[:40]) if shown else 'the end'}{hint}"


def _unquoted(text: str) -> str:
    if not text.startswith('"'):
        return text
    return free_text(_ESCAPE.sub(lambda found: _ESCAPED[found[2]] if found[2] else chr(int(found[1], 16)), text[1:-1]))


def parse_all(texts: Iterable[str], field: str = "matchers") -> Matchers:
    """The matchers in all of `texts`: all have to hold."""
    return tuple(matcher for index, text in enumerate(texts) for matcher in parse(text, f"{field}[{index}]"))


@lru_cache(maxsize=4096)
def regular_expression(pattern: str, *, any_case: bool = False) -> Callable[[str], bool]:
    """Whether all of a text matches. Raises ValueError with RE2's reason where it is no regular expression."""
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
    """In quotes, so that `parse` reads `text` again."""
    return '"' + _TO_ESCAPE.sub(lambda found: _ESCAPES.get(found[0], f"\\u{ord(found[0]):04x}"), text) + '"'


_TO_ESCAPE = re.compile(r'["\\\x00-\x1f\x7f-\x9f]')
_ESCAPES = {value: f"\\{name}" for name, value in _ESCAPED.items()}
