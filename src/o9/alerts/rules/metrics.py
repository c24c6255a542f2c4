"""Figures, and conditions over them such as `failure_rate > 20% and last_hour.ended >= 10`. Pure.

`QUANTITIES` has the figures of each scope with their units and bounds, `LABELS` the labels of its alerts, `DETAILS` the
other names that its texts may contain. A condition is a comparison, or several joined by `and`, `or` and parentheses. A
limit is a number, a share in percent, or a duration, which is converted to seconds; it must suit the figure's unit and
bounds. An unknown figure makes a condition unknown, not false.
"""

from __future__ import annotations

import ast
import math
import operator
import re
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass
from enum import Enum
from itertools import pairwise
from math import inf

from o9.alerts.config.fields import span_of
from o9.text.format import percent
from o9.text.suggest import suggestion


class Scope(str, Enum):
    """What a rule is about. An instant is evaluated once; a report holds until the next one."""

    GLOBAL = "global"
    TYPE = "each type"
    STRATEGY = "each strategy"
    OPTIMIZATION = "each optimization"
    START = "each start"
    END = "each end"
    DEATH = "each death"
    REPORT = "each report"
    FINDING = "each finding"
    NODE = "each node"
    NODE_DEATH = "each node's death"
    THIS_NODE = "this node"
    CHANNEL = "each channel"
    SCHEDULE = "each schedule"


INSTANTS = frozenset({Scope.START, Scope.END, Scope.DEATH, Scope.NODE_DEATH})


class Unit(str, Enum):
    """The unit of a figure or a limit."""

    SHARE = "a share"
    PERCENT = "in percent of one core"
    SECONDS = "a time"
    COUNT = "a count"
    NUMBER = "a plain number"
    MEBIBYTES = "in MiB"
    OWN = "in a unit of its own"


@dataclass(frozen=True, slots=True)
class Quantity:
    """The unit of a figure, and its smallest and largest possible value."""

    unit: Unit
    low: float = -inf
    high: float = inf


SHARE = Quantity(Unit.SHARE, 0.0, 1.0)
CHANGE = Quantity(Unit.SHARE)
SECONDS = Quantity(Unit.SECONDS, 0.0)
COUNT = Quantity(Unit.COUNT, 0.0)
FLAG = Quantity(Unit.COUNT, 0.0, 1.0)
MEASURE = Quantity(Unit.NUMBER, 0.0)
NUMBER = Quantity(Unit.NUMBER)
PERCENT = Quantity(Unit.PERCENT, 0.0)
MEBIBYTES = Quantity(Unit.MEBIBYTES, 0.0)
OWN = Quantity(Unit.OWN)


_RATES = dict.fromkeys(("failure_rate", "success_rate"), SHARE)
_ENDS = ("completed", "failed", "timed_out", "cancelled")
_SPREADS = {"duration_seconds": SECONDS, "performance_improvement": CHANGE, "waiting_seconds": SECONDS}
_OF_ENDED = {
    **_RATES,
    "cancelled_rate": SHARE,
    **{f"{what}.count": COUNT for what in _SPREADS},
    **{f"{what}.{name}": of for what, of in _SPREADS.items() for name in ("mean", "p10", "median", "p90")},
    **{
        f"{window}.{name}": of
        for window in ("last_hour", "last_day")
        for name, of in {**dict.fromkeys(("ended", *_ENDS), COUNT), **_RATES}.items()
    },
}
_OF_STATE = {
    "progress": SHARE, "total_steps": COUNT, "completed_steps": COUNT, "current_performance": NUMBER,
    "baseline_performance": NUMBER, "target_performance": NUMBER, "performance_improvement": CHANGE,
    "cpu_usage": PERCENT, "memory_usage": MEBIBYTES, "execution_time": SECONDS,
}  # fmt: skip
QUANTITIES: Mapping[Scope, Mapping[str, Quantity]] = {
    Scope.GLOBAL: {
        **_OF_ENDED, "queued": COUNT, "longest_wait_seconds": SECONDS, "total_optimizations": COUNT,
        "active_optimizations": COUNT, "completed_optimizations": COUNT, "failed_optimizations": COUNT,
        "pruned_optimizations": COUNT,
        **{f"now.{status}.{name}": of for status in ("created", "initializing", "running", "paused", "suspended")
           for name, of in (("count", COUNT), ("longest_seconds", SECONDS))},
    },
    Scope.TYPE: {"count": COUNT, **_OF_ENDED},
    Scope.STRATEGY: {"count": COUNT, **_OF_ENDED},
    Scope.OPTIMIZATION: _OF_STATE,
    Scope.START: {"started": FLAG, "on_start": FLAG},
    Scope.END: {
        **_OF_STATE, **dict.fromkeys((*_ENDS, "refused"), FLAG), "improvement": CHANGE, "short_of_target": NUMBER,
        "worse_than_usual": MEASURE, "trials": COUNT, "failed_trials": COUNT, "failed_share": SHARE,
        "on_completion": FLAG,
    },
    Scope.DEATH: {"deaths": COUNT, "attempt": COUNT},
    Scope.REPORT: {
        "validity_score": SHARE, "completeness_score": SHARE, "security_score": SHARE, "performance_score": SHARE,
        "completed": FLAG, "validity_critical": FLAG, "look_ahead_found": FLAG, "risk_limits_broken": COUNT,
        "verdict_void": FLAG, "verdict_lost": FLAG, "verdict_unproven": FLAG, "verdict_plausible": FLAG,
        "verdict_confirmed": FLAG, "forecast": NUMBER, "forecast_low": NUMBER, "forecast_high": NUMBER,
    },
    Scope.FINDING: {},
    Scope.NODE: {"silent_seconds": SECONDS, "silent_leases": MEASURE},
    Scope.NODE_DEATH: {"died": FLAG},
    Scope.THIS_NODE: {"prefect_away_seconds": SECONDS, "store_away_seconds": SECONDS},
    Scope.CHANNEL: {"failing_seconds": SECONDS},
    Scope.SCHEDULE: {"late_seconds": SECONDS},
}  # fmt: skip
OPEN = ("metrics.", "results.")
"""Prefixes of the figures that objectives return; the scopes `each optimization` and `each end` have them."""
_OF_ONE = ("optimization", "name", "series", "type", "strategy")
LABELS: Mapping[Scope, tuple[str, ...]] = {
    Scope.GLOBAL: (), Scope.TYPE: ("type",), Scope.STRATEGY: ("strategy",), Scope.OPTIMIZATION: _OF_ONE,
    Scope.START: _OF_ONE, Scope.END: (*_OF_ONE, "error"), Scope.DEATH: _OF_ONE, Scope.REPORT: _OF_ONE,
    Scope.FINDING: ("optimization", "name", "series"),
    Scope.NODE: ("node",), Scope.NODE_DEATH: ("node",), Scope.THIS_NODE: ("node",), Scope.CHANNEL: ("channel",),
    Scope.SCHEDULE: ("schedule",),
}  # fmt: skip
DETAILS: Mapping[Scope, tuple[str, ...]] = {
    Scope.END: ("detail",), Scope.DEATH: ("detail",), Scope.REPORT: ("validity", "look_ahead", "risk", "verdict"),
    Scope.NODE: ("host",), Scope.NODE_DEATH: ("host",),
    Scope.THIS_NODE: ("detail",), Scope.CHANNEL: ("detail",),
}  # fmt: skip


def quantity_of(name: str, scope: Scope) -> Quantity | None:
    """Return the quantity of a figure; None if the scope has no figure of this name."""
    if scope in (Scope.OPTIMIZATION, Scope.END) and name.startswith(OPEN) and name not in OPEN:
        return OWN
    return QUANTITIES[scope].get(name)


PLACEHOLDER = re.compile(r"\{([^{}]*)\}")


def placeholders(text: str) -> tuple[str, ...]:
    """Return the names in braces, each once."""
    return tuple(dict.fromkeys(PLACEHOLDER.findall(text)))


def checked_text(text: str, scope: Scope) -> str:
    """Return `text`. Raises ValueError for unpaired braces and unknown names, which would be sent literally."""
    example = f"{{{next(iter((*QUANTITIES[scope], *LABELS[scope])))}}}"
    if re.search("[{}]", PLACEHOLDER.sub("", text)):
        raise ValueError(f"a brace is unpaired or doubled; write a figure as {example}")
    names = {each: (*LABELS[each], *DETAILS.get(each, ()), *QUANTITIES[each]) for each in Scope}
    for name in placeholders(text):
        if name not in names[scope] and quantity_of(name, scope) is None:
            raise ValueError(f"{{{name:.80}}}: {_unknown(name.strip(), scope, 'name', names)}")
    return text


def _unknown(name: str, scope: Scope, kind: str, known: Mapping[Scope, Collection[str]]) -> str:
    """Say that the scope has no such figure or name, and suggest another scope or a similar name."""
    elsewhere = next((f"; `scope: {other.value}` has it" for other in Scope if name in known[other]), None)
    return f"`{scope.value}` has no {kind} {name!r:.80}{elsewhere or suggestion(name, known[scope])}"


Figures = Mapping[str, float | None]


class Reading(str, Enum):
    """The state of a rule's conditions."""

    HOLDS = "holds"
    BETWEEN = "between"
    """Neither `when` nor `clear` holds."""
    CLEAR = "clear"
    UNKNOWN = "unknown"


@dataclass(frozen=True, slots=True)
class Comparison:
    figure: str
    sign: str
    limit: float

    def holds(self, figures: Figures) -> bool | None:
        """Return None if the figure is unknown or NaN."""
        value = figures.get(self.figure)
        return None if value is None or math.isnan(value) else _SIGNS[self.sign](value, self.limit)


@dataclass(frozen=True, slots=True)
class Joined:
    """Conditions joined by `and`, or by `or` if `either` is set."""

    parts: tuple[Comparison | Joined, ...]
    either: bool = False

    def holds(self, figures: Figures) -> bool | None:
        """Return None if it depends on an unknown figure."""
        answers = [part.holds(figures) for part in self.parts]
        if self.either in answers:  # one answer decides
            return self.either
        return None if None in answers else not self.either


@dataclass(frozen=True, slots=True)
class Condition:
    """A condition as it was written, and parsed; `comparisons` are all those in `expression`."""

    text: str
    expression: Comparison | Joined
    comparisons: tuple[Comparison, ...]

    def holds(self, figures: Figures) -> bool | None:
        """Return None if it depends on an unknown figure."""
        return self.expression.holds(figures)

    @property
    def figures(self) -> tuple[str, ...]:
        return tuple(dict.fromkeys(each.figure for each in self.comparisons))


def reading(when: Condition, clear: Condition | None, figures: Figures) -> Reading:
    """Evaluate a rule's conditions. `when` takes precedence over `clear`; without `clear`, its opposite is clear."""
    holds = when.holds(figures)
    if holds:
        return Reading.HOLDS
    cleared = True if clear is None else clear.holds(figures)
    if holds is None or cleared is None:
        return Reading.UNKNOWN
    return Reading.CLEAR if cleared else Reading.BETWEEN


def condition_of(text: str, scope: Scope) -> Condition:
    """Parse `text`. Raises ValueError with the remedy."""
    text = text.strip()
    found: list[Comparison] = []

    def word(written: re.Match[str]) -> str:
        return written[0].lower() if written[0].lower() in ("and", "or") else f"_[{written[0]!r}]"

    def expression(node: ast.expr) -> Comparison | Joined:
        match node:
            case ast.BoolOp(op, parts):
                return Joined(tuple(map(expression, parts)), isinstance(op, ast.Or))
            case ast.Compare(
                ast.Subscript(slice=ast.Constant(figure)), [sign], [ast.Subscript(slice=ast.Constant(limit))]
            ) if type(sign) in _WRITTEN:
                found.append(_comparison(str(figure), _WRITTEN[type(sign)], str(limit), scope))
                return found[-1]
        raise SyntaxError

    try:
        # Figures and limits such as `20%` are not Python: each is quoted in a subscript before parsing.
        return Condition(text, expression(ast.parse(_WORD.sub(word, text), mode="eval").body), tuple(found))
    except (SyntaxError, RecursionError, MemoryError):
        names = (*_WORD.findall(text), *QUANTITIES[scope])
        known = ((name, quantity) for name in names if (quantity := quantity_of(name, scope)))
        figure, quantity = next(known, ("failure_rate", SHARE))
        example = f"`{figure} > {_EXAMPLES[quantity.unit].split()[0]}`"
        raise ValueError(
            f"{text!r:.80} is not a comparison, or several joined by `and` or `or`; write {example}"
        ) from None


def contradiction(when: Condition, clear: Condition) -> str | None:
    """Return why `clear` cannot belong to `when`, if each is a single comparison of the same figure."""
    first, second = when.expression, clear.expression
    if not isinstance(first, Comparison) or not isinstance(second, Comparison) or first.figure != second.figure:
        return None
    if first.sign[0] not in "<>" or second.sign[0] not in "<>":
        return None
    if first.sign[0] == second.sign[0]:
        other = f"`{first.figure} {first.sign.translate(_MIRRORED)} {first.limit:g}`"
        return f"it is on the same side as `when: {when.text}`; compare in the other direction, such as {other}"
    if second.limit > first.limit if first.sign[0] == ">" else second.limit < first.limit:
        return f"it overlaps with `when: {when.text}`: between the two limits both hold; use {first.limit:g} or beyond"
    return None


def unsatisfiable_figure(condition: Condition, scope: Scope) -> str | None:
    """Return a figure of which no value satisfies all the comparisons that the condition joins by `and`."""
    joined = condition.expression
    if isinstance(joined, Comparison) or joined.either:
        return None
    for figure in condition.figures:
        quantity = quantity_of(figure, scope) or OWN
        parts = [each for each in joined.parts if isinstance(each, Comparison) and each.figure == figure]
        whole = quantity.unit is Unit.COUNT
        # The truth changes only at a limit: the limits, and a value between each two of them, are all there is to try.
        limits = sorted({quantity.low, quantity.high, *(each.limit for each in parts)})
        between = [math.floor(low) + 1.0 if whole else low / 2 + high / 2 for low, high in pairwise(limits)]
        values = [value for value in (*limits, *between) if not whole or value.is_integer()]
        if not any(all(each.holds({figure: value}) for each in parts) for value in values):
            return figure
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
_EXAMPLES = {
    Unit.SHARE: "20% or 0.2", Unit.PERCENT: "80% or 80", Unit.SECONDS: "10m or 1h30m or 90", Unit.COUNT: "10",
    Unit.NUMBER: "0.5", Unit.MEBIBYTES: "2048", Unit.OWN: "0.5 or 20% or 10m",
}  # fmt: skip
# The units of limits that a figure may be compared with, beside plain numbers.
_TAKES = {
    Unit.SHARE: (Unit.SHARE,), Unit.PERCENT: (Unit.SHARE,), Unit.SECONDS: (Unit.SECONDS,),
    Unit.OWN: (Unit.SHARE, Unit.SECONDS),
}  # fmt: skip


def _comparison(figure: str, sign: str, given: str, scope: Scope) -> Comparison:
    quantity = quantity_of(figure, scope)
    if quantity is None and quantity_of(given, scope):
        raise ValueError(f"the figure must come first; write `{given} {sign.translate(_MIRRORED)} {figure}`")
    if quantity is None:
        raise ValueError(_unknown(figure, scope, "figure", QUANTITIES))
    suits = f"`{figure}` is {quantity.unit.value}; write it as {_EXAMPLES[quantity.unit]}"
    try:
        limit, unit = _limit(given)
    except ValueError:
        raise ValueError(f"{given!r:.80} is not a number, share or duration; {suits}") from None
    if unit is not Unit.NUMBER and unit not in _TAKES.get(quantity.unit, ()):
        raise ValueError(f"{given!r:.80} is {unit.value}; {suits}")
    made = Comparison(figure, sign, limit / 100 if unit is Unit.SHARE and quantity.unit is not Unit.PERCENT else limit)
    _check_bounds(made, quantity, given)
    return made


def _limit(text: str) -> tuple[float, Unit]:
    """Return the limit, a share in percent, and its unit. Raises ValueError."""
    found = _NUMBER.fullmatch(text)
    if found is None:
        return span_of(text, zero=True).total_seconds(), Unit.SECONDS
    if not math.isfinite(limit := float(found[1])):
        raise ValueError
    return limit, Unit.SHARE if found[2] else Unit.NUMBER


def _check_bounds(part: Comparison, quantity: Quantity, given: str) -> None:
    """Raises ValueError if the comparison holds for no value of the quantity, or for every value."""
    limit, low, high = part.limit, quantity.low, quantity.high
    within, equality = low <= limit <= high, part.sign in ("==", "!=")
    if equality and within and (quantity.unit is not Unit.COUNT or limit.is_integer()):
        return
    answers = {part.sign == "!="} if equality else {part.holds({part.figure: end}) for end in (low, high)}
    if len(answers) == 2:
        return
    ends = [percent(end) if quantity.unit is Unit.SHARE else f"{end:g}" for end in (low, high)]
    lies = f"lies between {' and '.join(ends)}" if high < math.inf else f"is never below {ends[0]}"
    if within and equality:
        lies = "is a whole number"
    is_percent = quantity.unit is Unit.SHARE and 1 < limit <= 100 and "%" not in given
    remedy = f"; did you mean `{part.figure} {part.sign} {given}%`?" if is_percent else ""
    holds = "always holds" if True in answers else "never holds"
    raise ValueError(f"`{part.figure} {part.sign} {given}` {holds}: `{part.figure}` {lies}{remedy}")
