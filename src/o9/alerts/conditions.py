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
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from enum import Enum

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
    if joints == {"and"} and (figure := _excluded(parts)) is not None:
        raise ValueError(f"it never holds: no `{figure}` is all of this at once; join by `or`, or write two rules")
    return Condition(text.strip(), parts, joints == {"or"})


def contradiction(when: Condition, clear: Condition) -> str | None:
    """Why `clear` cannot belong to `when`, where that can be seen; else None."""
    if len(when.parts) > 1 or len(clear.parts) > 1 or when.figures != clear.figures:
        return None
    above, below = when.parts[0], clear.parts[0]
    if above.sign[0] not in "<>" or below.sign[0] not in "<>":
        return None
    if above.sign[0] == below.sign[0]:
        return f"it looks the same way as `when: {when.text}`; clear is the other side, such as " + _other_side(above)
    if (below.limit > above.limit) if above.sign[0] == ">" else (below.limit < above.limit):
        return f"between its limit and that of `when: {when.text}` both hold; clear begins at {above.limit:g} or beyond"
    return None


_SIGNS: dict[str, Callable[[float, float], bool]] = {
    ">": operator.gt, ">=": operator.ge, "<": operator.lt, "<=": operator.le, "==": operator.eq, "!=": operator.ne,
}  # fmt: skip
_MIRRORED = str.maketrans("<>", "><")
_JOINT = re.compile(r"\s+(and|or)\s+", re.IGNORECASE)
_COMPARISON = re.compile(r"([^\s<>=!]+)\s*(>=|<=|==|!=|>|<)\s*([^\s<>=!]+(?:\s+%)?)")
_ASSIGNMENT = re.compile(r"([^\s<>=!]+)\s*=\s*([^\s<>=!]+)")
_NUMBER = re.compile(r"([+-]?(?:\d[\d_]*\.?\d*|\.\d+)(?:[eE][+-]?\d+)?)\s*(%?)")
_WRITTEN_AS = {
    Unit.SHARE: ("20%", "0.2"), Unit.PERCENT: ("80%", "80"), Unit.SECONDS: ("10m", "1h30m", "90"), Unit.COUNT: ("10",),
    Unit.NUMBER: ("0.5",), Unit.MEBIBYTES: ("2048",),
}  # fmt: skip
_TAKES = {
    Unit.SHARE: {Unit.NUMBER, Unit.SHARE}, Unit.PERCENT: {Unit.NUMBER, Unit.SHARE},
    Unit.SECONDS: {Unit.NUMBER, Unit.SECONDS}, Unit.COUNT: {Unit.NUMBER}, Unit.NUMBER: {Unit.NUMBER},
    Unit.MEBIBYTES: {Unit.NUMBER}, Unit.OWN: {Unit.NUMBER, Unit.SHARE, Unit.SECONDS},
}  # fmt: skip


def _comparison(text: str, scope: Scope) -> Comparison:
    found = _COMPARISON.fullmatch(text)
    if found is None:
        meant = _ASSIGNMENT.fullmatch(text)
        remedy = f"{meant[1]} == {meant[2]}" if meant else _example(scope)
        raise ValueError(f"{text!r:.80} is no comparison; write it as `{remedy}`")
    figure, sign, told = found.groups()
    if _NUMBER.fullmatch(figure) and is_figure(told, scope):
        raise ValueError(f"the figure comes first; write it as `{told} {sign.translate(_MIRRORED)} {figure}`")
    quantity = quantity_of(figure, scope)
    if is_figure(told, scope):
        raise ValueError(f"`{told}` is a figure, too; a figure is compared with a number, a share or a duration only")
    limit, unit = _limit(told)
    if unit not in _TAKES[quantity.unit]:
        raise ValueError(
            f"`{figure}` is {quantity.unit.value}, and {told!r:.80} is {unit.value}; write it as "
            f"{' or '.join(_WRITTEN_AS[quantity.unit])}"
        )
    if unit is Unit.SHARE and quantity.unit is not Unit.PERCENT:
        limit /= 100
    made = Comparison(figure, sign, limit)
    _check_bounds(made, quantity, told)
    return made


def _example(scope: Scope) -> str:
    figure, quantity = next(iter((QUANTITIES[scope] or QUANTITIES[Scope.GLOBAL]).items()))
    return f"{figure} > {_WRITTEN_AS[quantity.unit][0]}"


def _limit(text: str) -> tuple[float, Unit]:
    """A share in percent."""
    found = _NUMBER.fullmatch(text)
    try:
        if found is None:
            return span_of(text, zero=True).total_seconds(), Unit.SECONDS
        limit = float(found[1])
    except ValueError:
        raise ValueError(f"{text!r:.80} is no number, share or duration; write it as 0.2, 20% or 10m") from None
    if not math.isfinite(limit):
        raise ValueError(f"{text!r:.80} is beyond all numbers")
    return limit, Unit.SHARE if found[2] else Unit.NUMBER


def _check_bounds(part: Comparison, quantity: Quantity, told: str) -> None:
    """Raises ValueError where no value of the quantity makes it true, or where each does, as the limit is none."""
    limit, low, high = part.limit, quantity.low, quantity.high
    never = {
        ">": limit >= high, ">=": limit > high, "<": limit <= low, "<=": limit < low, "!=": False,
        "==": not low <= limit <= high or (quantity.unit is Unit.COUNT and not limit.is_integer()),
    }[part.sign]  # fmt: skip
    always = {
        ">": limit < low, ">=": limit < low, "<": limit > high, "<=": limit > high, "==": False,
        "!=": not low <= limit <= high or (quantity.unit is Unit.COUNT and not limit.is_integer()),
    }[part.sign]  # fmt: skip
    if not never and not always:
        return
    if low <= limit <= high and part.sign in ("==", "!="):
        lies = "is a whole number"
    elif quantity == FLAG:
        lies = "is 0 or 1"
    elif high == math.inf:
        lies = f"is never below {low:g}"
    else:
        lies = f"lies between {low:g} and {high:g}"
    percent = quantity.unit is Unit.SHARE and 1 < limit <= 100 and "%" not in told
    remedy = f"; did you mean `{part.figure} {part.sign} {told}%`?" if percent else ""
    holds = "never holds" if never else "always holds"
    raise ValueError(f"`{part.figure} {part.sign} {told}` {holds}: `{part.figure}` {lies}{remedy}")


def _excluded(parts: tuple[Comparison, ...]) -> str | None:
    """The figure of which no value fits all parts, if there is one."""
    for figure in dict.fromkeys(part.figure for part in parts):
        of = [part for part in parts if part.figure == figure]
        lows = [(part.limit, part.sign == ">") for part in of if part.sign in (">", ">=", "==")]
        highs = [(part.limit, part.sign == "<") for part in of if part.sign in ("<", "<=", "==")]
        if not lows or not highs:
            continue
        (low, above), (high, below) = max(lows), min(highs, key=lambda each: (each[0], not each[1]))
        if low > high or (low == high and (above or below)):
            return figure
    return None


def _other_side(part: Comparison) -> str:
    return f"`{part.figure} {part.sign.translate(_MIRRORED)} {part.limit:g}`"
