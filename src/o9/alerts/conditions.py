"""Conditions over figures, as people write them: `failure_rate > 20% and last_hour.ended >= 10`.

A condition is one comparison, or several that are joined by `and` or by `or`. A limit is a number, a share in percent,
or a duration, which means its seconds. What is compared are the figures of a scope: of all optimizations together, of
each of them, of each node, …; `FIGURES` names those that there are. A figure that is not known makes a condition
unknown, not false. Pure.
"""

from __future__ import annotations

import math
import operator
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from enum import Enum

from o9.alerts.reading import meant, span_of

Figures = Mapping[str, float | None]


class Scope(str, Enum):
    """What a rule looks at. Those of an instant are looked at once; a report holds until the next one."""

    GLOBAL = "global"
    TYPE = "each type"
    STRATEGY = "each strategy"
    OPTIMIZATION = "each optimization"
    END = "each end"
    DEATH = "each death"
    REPORT = "each report"
    FINDING = "each finding"
    NODE = "each node"
    NODE_DEATH = "each node's death"
    THIS_NODE = "this node"
    CHANNEL = "each channel"
    SCHEDULE = "each schedule"


INSTANTS = frozenset({Scope.END, Scope.DEATH, Scope.NODE_DEATH})


class Reading(str, Enum):
    """What the figures say of a rule."""

    HOLDS = "its condition holds"
    BETWEEN = "its condition does not hold, and it is not clear yet"
    CLEAR = "it is clear"
    UNKNOWN = "a figure of it is not known"


_WINDOW = ("ended", "completed", "failed", "timed_out", "cancelled", "success_rate", "failure_rate")
_SPREAD = ("count", "mean", "p10", "median", "p90")
_OF_ENDED = (
    "success_rate", "failure_rate", "cancelled_rate",
    *(f"{what}.{name}" for what in ("duration_seconds", "performance_improvement", "waiting_seconds")
      for name in _SPREAD),
    *(f"{window}.{name}" for window in ("last_hour", "last_day") for name in _WINDOW),
)  # fmt: skip
_OF_STATE = (
    "progress", "total_steps", "completed_steps", "current_performance", "baseline_performance", "target_performance",
    "performance_improvement", "cpu_usage", "memory_usage", "execution_time",
)  # fmt: skip
FIGURES: dict[Scope, tuple[str, ...]] = {
    Scope.GLOBAL: (
        *_OF_ENDED, "queued", "longest_wait_seconds", "total_optimizations", "active_optimizations",
        "completed_optimizations", "failed_optimizations", "pruned_optimizations",
        *(f"now.{status}.{name}" for status in ("created", "initializing", "running", "paused", "suspended")
          for name in ("count", "longest_seconds", "mean_seconds", "median_seconds")),
    ),
    Scope.TYPE: ("count", *_OF_ENDED),
    Scope.STRATEGY: ("count", *_OF_ENDED),
    Scope.OPTIMIZATION: _OF_STATE,
    Scope.END: (
        *_OF_STATE, "completed", "failed", "timed_out", "cancelled", "improvement", "short_of_target",
        "worse_than_usual", "trials", "failed_trials", "failed_share",
    ),
    Scope.DEATH: ("deaths", "attempt"),
    Scope.REPORT: (
        "validity_score", "completeness_score", "security_score", "performance_score", "completed",
        "validity_critical", "look_ahead_found", "risk_limits_broken",
    ),
    Scope.FINDING: (),
    Scope.NODE: ("silent_seconds", "silent_leases"),
    Scope.NODE_DEATH: ("died",),
    Scope.THIS_NODE: ("prefect_away_seconds", "store_away_seconds"),
    Scope.CHANNEL: ("failing_seconds",),
    Scope.SCHEDULE: ("late_seconds",),
}  # fmt: skip
# What is behind these is the desk's own: statuses, types, strategies, metrics.
OPEN: dict[Scope, tuple[str, ...]] = {
    Scope.GLOBAL: ("by_status.", "by_type.", "by_strategy.", "by_priority."),
    Scope.OPTIMIZATION: ("metrics.", "results."),
    Scope.END: ("metrics.", "results."),
}


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
    parts = tuple(_comparison(piece, scope) for piece in pieces[::2])
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


def figure_of(name: str, scope: Scope) -> str:
    """`name`, where the scope has such a figure. Raises ValueError with what was probably meant."""
    if name in FIGURES[scope] or any(
        name.startswith(start) and len(name) > len(start) for start in OPEN.get(scope, ())
    ):
        return name
    more = "".join(f", {start}…" for start in OPEN.get(scope, ()))
    elsewhere = [other.value for other, names in FIGURES.items() if name in names]
    if elsewhere:
        raise ValueError(f"`{scope.value}` has no figure {name!r}; `scope: {elsewhere[0]}` has it")
    raise ValueError(f"`{scope.value}` has no figure {name!r:.80}{meant(name, FIGURES[scope])}{more}")


_SIGNS: dict[str, Callable[[float, float], bool]] = {
    ">": operator.gt, ">=": operator.ge, "<": operator.lt, "<=": operator.le, "==": operator.eq, "!=": operator.ne,
}  # fmt: skip
_JOINT = re.compile(r"\s+(and|or)\s+", re.IGNORECASE)
_COMPARISON = re.compile(r"\s*([^\s<>=!]+)\s*(>=|<=|==|!=|>|<)\s*([^\s<>=!]+)\s*")
_NUMBER = re.compile(r"([+-]?(?:\d[\d_]*\.?\d*|\.\d+)(?:[eE][+-]?\d+)?)(%?)")


def _comparison(text: str, scope: Scope) -> Comparison:
    found = _COMPARISON.fullmatch(text)
    if found is None:
        raise ValueError(f"{text.strip()!r:.80} is no comparison; write it as `failure_rate > 0.2`")
    figure, sign, limit = found.groups()
    return Comparison(figure_of(figure, scope), sign, _limit(limit))


def _limit(text: str) -> float:
    found = _NUMBER.fullmatch(text)
    try:
        if found is None:
            return span_of(text, zero=True).total_seconds()
        limit = float(found[1]) / (100 if found[2] else 1)
    except ValueError:
        raise ValueError(f"{text!r:.80} is no number, share or duration; write it as 0.2, 20% or 10m") from None
    if not math.isfinite(limit):
        raise ValueError(f"{text!r:.80} is beyond all numbers")
    return limit


def _other_side(part: Comparison) -> str:
    sign = part.sign.replace("<", "~").replace(">", "<").replace("~", ">")
    return f"`{part.figure} {sign} {part.limit:g}`"
