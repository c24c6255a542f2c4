"""Conditions over figures, as people write them: `failure_rate > 20% and last_hour.ended >= 10`.

A condition is a comparison, or several joined by `and` and `or`, with parentheses. A limit is a number, a share in
percent, or a duration, which means its seconds; it has to suit the figure's unit and lie within its bounds.
`o9.alerts.rules.metrics` has the figures of each scope. An unknown figure makes a condition unknown, not false. Pure.
"""

from __future__ import annotations

import ast
import math
import operator
import re
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from enum import Enum

from o9.alerts.config.fields import span_of
from o9.alerts.rules.metrics import FLAG, QUANTITIES, Quantity, Scope, Unit, is_figure, quantity_of
from o9.text.format import percent

Figures = Mapping[str, float | None]


class Reading(str, Enum):
    """What the figures say of a rule."""

    HOLDS = "holds"
    BETWEEN = "between"
    """Its condition does not hold, and it is not clear yet."""
    CLEAR = "clear"
    UNKNOWN = "unknown"


@dataclass(frozen=True, slots=True)
class Comparison:
    figure: str
    sign: str
    limit: float

    def holds(self, figures: Figures) -> bool | None:
        """None where the figure is not known, or no number."""
        value = figures.get(self.figure)
        return None if value is None or math.isnan(value) else _SIGNS[self.sign](value, self.limit)

    def comparisons(self) -> Iterator[Comparison]:
        yield self


@dataclass(frozen=True, slots=True)
class Joined:
    """By `and`, or with `either` by `or`."""

    parts: tuple[Comparison | Joined, ...]
    either: bool = False

    def holds(self, figures: Figures) -> bool | None:
        """None where what is not known decides."""
        answers = [part.holds(figures) for part in self.parts]
        if self.either in answers:  # one such answer is enough
            return self.either
        return None if None in answers else not self.either

    def comparisons(self) -> Iterator[Comparison]:
        for part in self.parts:
            yield from part.comparisons()


@dataclass(frozen=True, slots=True)
class Condition:
    """`text` is how it was written."""

    text: str
    expression: Comparison | Joined

    def holds(self, figures: Figures) -> bool | None:
        """None where what is not known decides."""
        return self.expression.holds(figures)

    @property
    def comparisons(self) -> tuple[Comparison, ...]:
        return tuple(self.expression.comparisons())

    @property
    def figures(self) -> tuple[str, ...]:
        return tuple(dict.fromkeys(each.figure for each in self.comparisons))


def reading(when: Condition, clear: Condition | None, figures: Figures) -> Reading:
    """`clear` None: it is clear where `when` does not hold. What holds is not clear, whatever `clear` says."""
    holds = when.holds(figures)
    if holds:
        return Reading.HOLDS
    cleared = True if clear is None else clear.holds(figures)
    if holds is None or cleared is None:
        return Reading.UNKNOWN
    return Reading.CLEAR if cleared else Reading.BETWEEN


def condition_of(text: str, scope: Scope) -> Condition:
    """What is written in `text`. Raises ValueError, with the remedy."""
    return Condition(text.strip(), _expression(_parsed(text, scope), scope, text))


def contradiction(when: Condition, clear: Condition) -> str | None:
    """Why `clear` cannot belong to `when`, where both are one comparison of the same figure; else None."""
    first, second = when.expression, clear.expression
    if not isinstance(first, Comparison) or not isinstance(second, Comparison) or first.figure != second.figure:
        return None
    if first.sign[0] not in "<>" or second.sign[0] not in "<>":
        return None
    if first.sign[0] == second.sign[0]:
        other = f"`{first.figure} {first.sign.translate(_MIRRORED)} {first.limit:g}`"
        return f"it looks the same way as `when: {when.text}`; clear is the other side, such as {other}"
    if second.limit > first.limit if first.sign[0] == ">" else second.limit < first.limit:
        return f"between its limit and that of `when: {when.text}` both hold; clear begins at {first.limit:g} or beyond"
    return None


_SIGNS: dict[str, Callable[[float, float], bool]] = {
    ">": operator.gt, ">=": operator.ge, "<": operator.lt, "<=": operator.le, "==": operator.eq, "!=": operator.ne,
}  # fmt: skip
_WRITTEN: dict[type[ast.cmpop], str] = {
    ast.Gt: ">", ast.GtE: ">=", ast.Lt: "<", ast.LtE: "<=", ast.Eq: "==", ast.NotEq: "!=",
}  # fmt: skip
_MIRRORED = str.maketrans("<>", "><")
_WORD = re.compile(r"[^\s<>=!()]+(?:\s+%)?")
_NUMBER = re.compile(r"([+-]?(?:\d[\d_]*\.?\d*|\.\d+)(?:[eE][+-]?\d+)?)\s*(%?)")
_WRITTEN_AS = {
    Unit.SHARE: ("20%", "0.2"), Unit.PERCENT: ("80%", "80"), Unit.SECONDS: ("10m", "1h30m", "90"), Unit.COUNT: ("10",),
    Unit.NUMBER: ("0.5",), Unit.MEBIBYTES: ("2048",), Unit.OWN: ("0.5", "20%", "10m"),
}  # fmt: skip
_TAKES = {
    Unit.SHARE: {Unit.NUMBER, Unit.SHARE}, Unit.PERCENT: {Unit.NUMBER, Unit.SHARE},
    Unit.SECONDS: {Unit.NUMBER, Unit.SECONDS}, Unit.COUNT: {Unit.NUMBER}, Unit.NUMBER: {Unit.NUMBER},
    Unit.MEBIBYTES: {Unit.NUMBER}, Unit.OWN: {Unit.NUMBER, Unit.SHARE, Unit.SECONDS},
}  # fmt: skip


def _parsed(text: str, scope: Scope) -> ast.expr:
    """As Python would read it, were each figure and limit, which are no Python, a name in brackets."""

    def word(found: re.Match[str]) -> str:
        return found[0].lower() if found[0].lower() in ("and", "or") else f"_[{found[0]!r}]"

    try:
        return ast.parse(_WORD.sub(word, text.strip()), mode="eval").body
    except (SyntaxError, ValueError, RecursionError, MemoryError):
        raise ValueError(f"{text.strip()!r:.80} is no comparison; {_rewritten(text.strip(), scope)}") from None


def _expression(node: ast.expr, scope: Scope, text: str) -> Comparison | Joined:
    if isinstance(node, ast.BoolOp):
        return Joined(tuple(_expression(each, scope, text) for each in node.values), isinstance(node.op, ast.Or))
    if isinstance(node, ast.Compare) and len(node.ops) == 1:
        sign = _WRITTEN.get(type(node.ops[0]))
        left, right = _word(node.left), _word(node.comparators[0])
        if sign and left and right:
            return _comparison(left, sign, right, scope)
    raise ValueError(f"{text.strip()!r:.80} is no comparison; {_rewritten(text.strip(), scope)}")


def _word(node: ast.expr) -> str | None:
    if isinstance(node, ast.Subscript) and isinstance(node.slice, ast.Constant) and isinstance(node.value, ast.Name):
        return str(node.slice.value)
    return None


def _comparison(figure: str, sign: str, given: str, scope: Scope) -> Comparison:
    if figure[0] in "0123456789.+-" and is_figure(given, scope):
        raise ValueError(f"the figure comes first; write it as `{given} {sign.translate(_MIRRORED)} {figure}`")
    quantity = quantity_of(figure, scope)
    if is_figure(given, scope):
        raise ValueError(f"`{given}` is a figure, too; a figure is compared with a number, a share or a duration only")
    limit, unit = _limit(given, figure, quantity)
    if unit not in _TAKES[quantity.unit]:
        raise ValueError(f"{_unit_of(figure, quantity)}, and {given!r:.80} is {unit.value}; {_written_as(quantity)}")
    if unit is Unit.SHARE and quantity.unit is not Unit.PERCENT:
        limit /= 100
    made = Comparison(figure, sign, limit)
    _check_bounds(made, quantity, given)
    return made


def _rewritten(text: str, scope: Scope) -> str:
    """The remedy for what is no comparison."""
    if "&&" in text or "||" in text:
        return "comparisons are joined by `and` or by `or`"
    if " for " in text:
        return "how long it has to hold stands in the rule's own field `for`"
    straight = re.sub(r"(?<![<>=!])=(?![=<>])", "==", re.sub(r"=([<>])", r"\1=", text))
    if straight != text:
        return f"write it as `{straight}`"
    known = [name for name in (*_WORD.findall(text), *QUANTITIES[scope]) if is_figure(name, scope)]
    example = f"{known[0]} > {_WRITTEN_AS[quantity_of(known[0], scope).unit][0]}" if known else "failure_rate > 20%"
    return f"write it as `{example}`"


def _unit_of(figure: str, quantity: Quantity) -> str:
    return f"`{figure}` is {quantity.unit.value}"


def _written_as(quantity: Quantity) -> str:
    return f"write it as {' or '.join(_WRITTEN_AS[quantity.unit])}"


def _limit(text: str, figure: str, quantity: Quantity) -> tuple[float, Unit]:
    """A share in percent."""
    found = _NUMBER.fullmatch(text)
    try:
        if found is None:
            return span_of(text, zero=True).total_seconds(), Unit.SECONDS
        limit = float(found[1])
    except ValueError:
        raise ValueError(
            f"{text!r:.80} is no number, share or duration; {_unit_of(figure, quantity)}: {_written_as(quantity)}"
        ) from None
    if not math.isfinite(limit):
        raise ValueError(f"{text!r:.80} is beyond all numbers")
    return limit, Unit.SHARE if found[2] else Unit.NUMBER


def _check_bounds(part: Comparison, quantity: Quantity, given: str) -> None:
    """Raises ValueError where no value of the quantity makes it true, or where each does."""
    limit, low, high = part.limit, quantity.low, quantity.high
    within, equality = low <= limit <= high, part.sign in ("==", "!=")
    if equality and within and (quantity.unit is not Unit.COUNT or limit.is_integer()):
        return
    answers = {part.sign == "!="} if equality else {part.holds({part.figure: end}) for end in (low, high)}
    if len(answers) == 2:
        return
    if within and equality:
        lies = "is a whole number"
    elif quantity == FLAG:
        lies = "is 0 or 1"
    elif high == math.inf:
        lies = f"is never below {low:g}"
    elif quantity.unit is Unit.SHARE:
        lies = f"lies between {percent(low)} and {percent(high)}"
    else:
        lies = f"lies between {low:g} and {high:g}"
    is_percent = quantity.unit is Unit.SHARE and 1 < limit <= 100 and "%" not in given
    remedy = f"; did you mean `{part.figure} {part.sign} {given}%`?" if is_percent else ""
    holds = "always holds" if True in answers else "never holds"
    raise ValueError(f"`{part.figure} {part.sign} {given}` {holds}: `{part.figure}` {lies}{remedy}")
