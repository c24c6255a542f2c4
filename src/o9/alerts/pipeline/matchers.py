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
        object.__setattr__(self, "test", _test(self.operator, self.value, any_case=self.name == LEVEL))

    def __str__(self) -> str:
        name = self.name if _UNQUOTED.fullmatch(self.name) else _quoted(self.name)
        return f"{name}{self.operator}{_quoted(self.value)}"

    @property
    def exact(self) -> bool:
        return self.operator == "="


Matchers = tuple[Matcher, ...]


def match(matchers: Matchers, labels: Labels) -> bool:
    """Whether all of them hold; none is no condition."""
    return all(matcher.test(labels.get(matcher.name, "")) for matcher in matchers)


def written(matchers: Matchers) -> str:
    """As text that `parse` reads: ``{title="Drawdown",level=~"critical|error"}``."""
    return "{" + ",".join(map(str, matchers)) + "}"


def match_anything(matchers: Matchers) -> bool:
    """Whether an alert without any labels would match, and so presumably each: most likely a mistake."""
    return match(matchers, {})


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
    exact: dict[str, Matcher] = {}
    for matcher in matchers:
        if matcher.exact:
            exact.setdefault(matcher.name, matcher)
    for other in matchers:
        wanted = exact.get(other.name)
        if wanted is not None and not other.test(wanted.value):
            plain = other.exact and not _SPECIAL.search(wanted.value + other.value)
            either = f'; for either write {wanted.name}=~"{wanted.value}|{other.value}"' if plain else ""
            return f"no alert has both {wanted} and {other}, and all matchers have to hold{either}"
    return None


def parse(text: str, field: str = "matchers") -> Matchers:
    """The matchers in `text`. Raises OptimizationValidationError that says at which character it goes wrong."""
    if len(text) > TEXT_LIMIT:
        raise OptimizationValidationError(field, f"{len(text):,} characters; at most {TEXT_LIMIT:,} are allowed")
    tokens = _Tokens(free_text(text), field)
    braces = tokens.take("{")
    matchers: list[Matcher] = []
    while tokens.kind in ("text", "quoted"):
        matchers.append(_matcher(tokens))
        if not tokens.take(","):
            break
    if braces and not tokens.take("}"):
        raise tokens.wrong("a comma or a closing brace" if matchers else "a label's name or a closing brace")
    if tokens.kind != "end":
        raise tokens.wrong("a comma or the end" if matchers else "a label's name")
    return tuple(matchers)


def parse_all(texts: Iterable[str], field: str = "matchers") -> Matchers:
    """The matchers in all of `texts`: all have to hold."""
    return tuple(matcher for index, text in enumerate(texts) for matcher in parse(text, f"{field}[{index}]"))


@lru_cache(maxsize=4096)
def regular_expression(pattern: str, *, any_case: bool = False) -> Callable[[str], bool]:
    """Whether all of a text matches. Raises ValueError with RE2's reason where it is no regular expression."""
    try:
        compiled = re2.compile(pattern, _options(any_case))
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
_OPERATOR = re.compile("=~|!=|!~|=")
_ESCAPE = re.compile(r"""\\(?:u([0-9a-fA-F]{4})|([ntr"\\]))""")
_ESCAPED = {"n": "\n", "t": "\t", "r": "\r", '"': '"', "\\": "\\"}


def _options(any_case: bool) -> re2.Options:
    options = re2.Options()
    options.log_errors = False
    options.dot_nl = True
    options.never_capture = True
    options.case_sensitive = not any_case
    return options


def _test(operator: Operator, value: str, *, any_case: bool = False) -> Callable[[str], bool]:
    if operator == "=":
        return value.__eq__
    if operator == "!=":
        return value.__ne__
    matches = regular_expression(value, any_case=any_case)
    if operator == "=~":
        return matches
    return lambda text: not matches(text)


def _matcher(tokens: _Tokens) -> Matcher:
    name = tokens.text("a label's name")
    if not name:
        raise OptimizationValidationError(tokens.field, f"character {tokens.began + 1}: a label's name is empty")
    operator = tokens.text("one of = != =~ !~", kind="operator")
    value = tokens.text("a value")
    try:
        return Matcher(name, cast(Operator, operator), value)
    except ValueError as error:
        raise OptimizationValidationError(
            tokens.field, f"character {tokens.began + 1}: {value!r:.200} is no regular expression: {error}"
        ) from None


class _Tokens:
    """The text's parts, one at a time: `kind` and `value` are of the one that is next."""

    def __init__(self, text: str, field: str) -> None:
        self.field = field
        self.began = 0
        """Where the part that was taken last begins."""
        self._text = text
        self._next = 0
        self._end = 0
        self._advance()

    def take(self, kind: str) -> bool:
        if self.kind != kind:
            return False
        self._advance()
        return True

    def text(self, expected: str, kind: str = "") -> str:
        if self.kind != kind if kind else self.kind not in ("text", "quoted"):
            raise self.wrong(expected)
        value = self.value
        self._advance()
        return value

    def wrong(self, expected: str) -> OptimizationValidationError:
        found = "the end" if self.kind == "end" else repr(self._text[self._next : max(self._end, self._next + 1)][:40])
        hint = ""
        if self._text[self._next : self._next + 1] == "'":
            hint = "; quotes are double ones"
        elif self.kind == "text" and expected.startswith("a comma"):
            hint = "; a value with blanks stands in double quotes"
        return OptimizationValidationError(
            self.field, f"character {self._next + 1}: expected {expected}, found {found}{hint}"
        )

    def _advance(self) -> None:
        text, at = self._text, self._end
        while at < len(text) and text[at].isspace():
            at += 1
        self.began, self._next, self._end = self._next, at, at
        self.value = ""
        if at == len(text):
            self.kind = "end"
        elif text[at] in "{},":
            self.kind, self._end = text[at], at + 1
        elif found := _OPERATOR.match(text, at):
            self.kind, self.value, self._end = "operator", found[0], found.end()
        elif text[at] == '"':
            self.kind, self.value, self._end = "quoted", *self._quoted(at)
        elif found := _UNQUOTED.match(text, at):
            self.kind, self.value, self._end = "text", found[0], found.end()
        else:
            self.kind = "reserved"

    def _quoted(self, at: int) -> tuple[str, int]:
        end = at + 1
        while end < len(self._text) and self._text[end] != '"':
            end += 2 if self._text[end] == "\\" else 1
        if end >= len(self._text):
            raise OptimizationValidationError(self.field, f"character {at + 1}: the quote is not closed")
        inside = self._text[at + 1 : end]
        return free_text(
            _ESCAPE.sub(lambda found: _ESCAPED[found[2]] if found[2] else chr(int(found[1], 16)), inside)
        ), end + 1


def _quoted(text: str) -> str:
    """In quotes, so that `parse` reads `text` again."""
    return '"' + "".join(_as_escape(character) for character in text) + '"'


def _as_escape(character: str) -> str:
    if character in '"\\':
        return "\\" + character
    if character.isprintable() or ord(character) > 0xFFFF:
        return character
    return {"\n": "\\n", "\t": "\\t", "\r": "\\r"}.get(character, f"\\u{ord(character):04x}")
