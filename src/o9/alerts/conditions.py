"""Conditions over figures, as people write them: `failure_rate > 20% and last_hour.ended >= 10`.

A condition is one comparison, or several that are joined by `and` or by `or`. A limit is a number, a share in percent,
or a duration, which means its seconds, and has to suit the figure's unit; what could never hold, and what holds
whatever happens, is refused. `o9.alerts.figures` has the figures of each scope. A figure that is not known makes a
condition unknown, not false. Pure.
"""

from __future__ import annotations

import math
import operator
import re
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, replace
from enum import Enum
from itertools import pairwise

from o9.alerts.figures import FLAG, QUANTITIES, Quantity, Scope, Unit, is_figure, quantity_of
from o9.alerts.reading import span_of

Figures = Mapping[str, float | None]


class Reading(str, Enum):
    """What the figures say of a rule."""

    HOLDS = "its condition holds"
    BETWEEN = "its condition does not hold, and it is not clear yet"
    CLEAR = "it is clear"
    UNKNOWN = "a figure of it is not known"


@dataclass(frozen=True, slots=True)
class Comparison:
    figure: str
    sign: str
    limit: float

    def holds(self, figures: Figures) -> bool | None:
        """None where the figure is not known, or no number."""
        value = figures.get(self.figure)
        return None if value is None or math.isnan(value) else _SIGNS[self.sign](value, self.limit)


@dataclass(frozen=True, slots=True)
class Condition:
    """All of `parts`, or with `either` one of them; `text` is how it was written."""

    text: str
    parts: tuple[Comparison, ...]
    either: bool = False

    def holds(self, figures: Figures) -> bool | None:
        """None where what is not known decides."""
        answers = [part.holds(figures) for part in self.parts]
        decides = self.either  # one such answer is enough
        if decides in answers:
            return decides
        return None if None in answers else not decides

    @property
    def figures(self) -> tuple[str, ...]:
        return tuple(dict.fromkeys(part.figure for part in self.parts))


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
    pieces = _JOINT.split(text.strip())
    joints = {joint.lower() for joint in pieces[1::2]}
    if len(joints) > 1:
        raise ValueError("it joins by `and` and by `or`; take one of them, and write another rule for the rest")
    parts = tuple(_comparison(piece.strip(), scope) for piece in pieces[::2])
    made = Condition(text.strip(), parts, joints == {"or"})
    if (figure := _settled(made, scope)) is not None:
        raise ValueError(
            f"it always holds: each `{figure}` is some of this; join by `and`"
            if made.either
            else f"it never holds: no `{figure}` is all of this at once; join by `or`, or write two rules"
        )
    return made


def contradiction(when: Condition, clear: Condition, scope: Scope) -> str | None:
    """Why `clear` cannot belong to `when`, where that can be seen: where they are about the same figure; else None."""
    if when.figures != clear.figures or len(when.figures) > 1:
        return None
    if len(when.parts) == len(clear.parts) == 1 and (why := _not_opposite(when, clear)) is not None:
        return why
    (figure,) = when.figures
    values = _values(quantity_of(figure, scope), (*when.parts, *clear.parts))
    if not any(clear.holds({figure: value}) and not when.holds({figure: value}) for value in values):
        return f"it holds only where `when: {when.text}` does, too, and what holds is not clear; take the other side"
    return None


_SIGNS: dict[str, Callable[[float, float], bool]] = {
    ">": operator.gt, ">=": operator.ge, "<": operator.lt, "<=": operator.le, "==": operator.eq, "!=": operator.ne,
}  # fmt: skip
_MIRRORED = str.maketrans("<>", "><")
_JOINT = re.compile(r"\s+(and|or)\s+", re.IGNORECASE)
_COMPARISON = re.compile(r"([^\s<>=!]+)\s*(>=|<=|==|!=|>|<)\s*([^\s<>=!]+(?:\s+%)?)")
_SWAPPED = re.compile(r"=([<>])")
_WORD = re.compile(r"[\w.]+")
_ASSIGNMENT = re.compile(r"([^\s<>=!]+)\s*=\s*([^\s<>=!]+)")
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


def _comparison(text: str, scope: Scope) -> Comparison:
    found = _COMPARISON.fullmatch(text)
    if found is None:
        raise ValueError(f"{text!r:.80} is no comparison; {_rewritten(text, scope)}")
    figure, sign, told = found.groups()
    if figure[0] in "0123456789.+-" and is_figure(told, scope):
        raise ValueError(f"the figure comes first; write it as `{told} {sign.translate(_MIRRORED)} {figure}`")
    quantity = quantity_of(figure, scope)
    if is_figure(told, scope):
        raise ValueError(f"`{told}` is a figure, too; a figure is compared with a number, a share or a duration only")
    limit, unit = _limit(told, figure, quantity)
    if unit not in _TAKES[quantity.unit]:
        raise ValueError(f"{_unit_of(figure, quantity)}, and {told!r:.80} is {unit.value}; {_written_as(quantity)}")
    if unit is Unit.SHARE and quantity.unit is not Unit.PERCENT:
        limit /= 100
    made = Comparison(figure, sign, limit)
    _check_bounds(made, quantity, told)
    return made


def _rewritten(text: str, scope: Scope) -> str:
    """The remedy for what is no comparison."""
    if "&&" in text or "||" in text:
        return "comparisons are joined by `and` or by `or`"
    if " for " in text:
        return "how long it has to hold stands in the rule's own field `for`"
    straight = _SWAPPED.sub(r"\1=", text)
    if assigned := _ASSIGNMENT.fullmatch(straight):
        straight = f"{assigned[1]} == {assigned[2]}"
    if straight == text or not _COMPARISON.fullmatch(straight):
        known = [name for name in (*_WORD.findall(text), *QUANTITIES[scope]) if is_figure(name, scope)]
        straight = (
            f"{known[0]} > {_WRITTEN_AS[quantity_of(known[0], scope).unit][0]}" if known else "failure_rate > 20%"
        )
    return f"write it as `{straight}`"


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


def _check_bounds(part: Comparison, quantity: Quantity, told: str) -> None:
    """Raises ValueError where no value of the quantity makes it true, or where each does."""
    answers = {part.holds({part.figure: value}) for value in _values(quantity, [part])}
    if len(answers) == 2:
        return
    limit, low, high = part.limit, quantity.low, quantity.high
    if low <= limit <= high and part.sign in ("==", "!="):
        lies = "is a whole number"
    elif quantity == FLAG:
        lies = "is 0 or 1"
    elif high == math.inf:
        lies = f"is never below {low:g}"
    elif quantity.unit is Unit.SHARE:
        lies = f"lies between {low:.0%} and {high:.0%}"
    else:
        lies = f"lies between {low:g} and {high:g}"
    percent = quantity.unit is Unit.SHARE and 1 < limit <= 100 and "%" not in told
    remedy = f"; did you mean `{part.figure} {part.sign} {told}%`?" if percent else ""
    holds = "always holds" if True in answers else "never holds"
    raise ValueError(f"`{part.figure} {part.sign} {told}` {holds}: `{part.figure}` {lies}{remedy}")


def _settled(condition: Condition, scope: Scope) -> str | None:
    """The figure, if there is one, by which alone it is false (or with `either` true) whatever its value is."""
    for figure in condition.figures:
        of_it = replace(condition, parts=tuple(part for part in condition.parts if part.figure == figure))
        answers = {of_it.holds({figure: value}) for value in _values(quantity_of(figure, scope), of_it.parts)}
        if answers == {condition.either}:
            return figure
    return None


def _values(quantity: Quantity, parts: Iterable[Comparison]) -> list[float]:
    """Of its values the limits of `parts`, and one of each stretch between them: no other is answered differently."""
    low, high = quantity.low, quantity.high
    edges = sorted({low, high, *(part.limit for part in parts if low <= part.limit <= high)})
    if quantity.unit is not Unit.COUNT:
        return [*edges, *(left / 2 + right / 2 for left, right in pairwise(edges))]
    around = {near for edge in edges if math.isfinite(edge) for near in _whole_around(edge)}
    return [value for value in (*around, math.inf) if low <= value <= high]


def _whole_around(limit: float) -> tuple[float, ...]:
    return float(math.ceil(limit)) - 1, float(math.floor(limit)), float(math.ceil(limit)), float(math.floor(limit)) + 1


def _not_opposite(when: Condition, clear: Condition) -> str | None:
    above, below = when.parts[0], clear.parts[0]
    if above.sign[0] not in "<>" or below.sign[0] not in "<>":
        return None
    if above.sign[0] == below.sign[0]:
        return f"it looks the same way as `when: {when.text}`; clear is the other side, such as {_other_side(above)}"
    if (below.limit > above.limit) if above.sign[0] == ">" else (below.limit < above.limit):
        return f"between its limit and that of `when: {when.text}` both hold; clear begins at {above.limit:g} or beyond"
    return None


def _other_side(part: Comparison) -> str:
    return f"`{part.figure} {part.sign.translate(_MIRRORED)} {part.limit:g}`"
