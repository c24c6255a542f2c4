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
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from functools import lru_cache
from typing import Literal, NamedTuple, cast

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
    tokens = [*_tokens(free_text(text), field)][::-1]

    def take(expected: str, *kinds: str) -> _Token:
        if tokens[-1].kind not in kinds:
            raise tokens[-1].refused(expected, field)
        return tokens.pop()

    braces = tokens[-1].kind == "{" and take("", "{")
    matchers: list[Matcher] = []
    while tokens[-1].kind in _TEXTS:
        name = take("a label's name", *_TEXTS)
        if not name.value:
            raise OptimizationValidationError(field, f"character {name.place}: a label's name is empty")
        operator, value = take("one of = != =~ !~", "operator"), take("a value", *_TEXTS)
        try:
            matchers.append(Matcher(name.value, cast(Operator, operator.value), value.value))
        except ValueError as error:
            problem = f"character {value.place}: {value.value!r:.200} is no regular expression: {error}"
            raise OptimizationValidationError(field, problem) from None
        if tokens[-1].kind != ",":
            break
        take("", ",")
    if braces:
        take("a comma or a closing brace" if matchers else "a label's name or a closing brace", "}")
    take("a comma or the end" if matchers else "a label's name", "end")
    return tuple(matchers)


class _Token(NamedTuple):
    kind: str
    """`{`, `}`, `,`, operator, text, quoted, other, end."""
    value: str
    shown: str
    place: int
    """Which character of the text it begins with, from 1."""

    def refused(self, expected: str, field: str) -> OptimizationValidationError:
        hint = ""
        if self.shown == "'":
            hint = "; quotes are double ones"
        elif self.kind == "text" and expected.startswith("a comma"):
            hint = "; a value with blanks stands in double quotes"
        found = "the end" if self.kind == "end" else repr(self.shown[:40])
        return OptimizationValidationError(field, f"character {self.place}: expected {expected}, found {found}{hint}")


def _tokens(text: str, field: str) -> Iterator[_Token]:
    """The last one is the end."""
    for found in _TOKEN.finditer(text):
        kind, shown = str(found.lastgroup), found[found.lastgroup or 0]
        place = found.start(kind) + 1
        if shown == '"':
            raise OptimizationValidationError(field, f"character {place}: the quote is not closed")
        value = free_text(_ESCAPE.sub(_unescaped, shown[1:-1])) if kind == "quoted" else shown
        yield _Token(shown if kind == "mark" else kind, value, shown, place)


def _unescaped(found: re.Match[str]) -> str:
    return _ESCAPED[found[2]] if found[2] else chr(int(found[1], 16))


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
_TEXTS = ("text", "quoted")
_TOKEN = re.compile(
    r"""\s*(?:(?P<mark>[{},])|(?P<operator>=~|!=|!~|=)|(?P<quoted>"(?:[^"\\]|\\.)*")|(?P<text>[^\s{}!=~,\\"'`]+)|"""
    r"""(?P<other>\S)|(?P<end>\Z))""",
    re.DOTALL,
)
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


def _quoted(text: str) -> str:
    """In quotes, so that `parse` reads `text` again."""
    return '"' + _TO_ESCAPE.sub(lambda found: _ESCAPES.get(found[0], f"\\u{ord(found[0]):04x}"), text) + '"'


_TO_ESCAPE = re.compile(r'["\\\x00-\x1f\x7f-\x9f]')
_ESCAPES = {value: f"\\{name}" for name, value in _ESCAPED.items()}
