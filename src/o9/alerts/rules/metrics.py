"""What rules look at: the figures of each scope with their units and bounds, and what else its alerts can say.

`QUANTITIES` names the figures that there are, `OPEN` those whose names are partly the desk's own, `LABELS` and `WORDS`
what the alerts of a scope are labelled with and may say. `placeholders` reads the names in a rule's words. Pure.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from enum import Enum
from math import inf

from o9.model.states import OptimizationPriority, OptimizationStatus, OptimizationType
from o9.text.suggest import hint_of, suggestion

SHOWN = 20


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


class Unit(str, Enum):
    """Of a figure, and of what it is compared with."""

    SHARE = "a share"
    PERCENT = "in percent of one core"
    SECONDS = "a time"
    COUNT = "a count"
    NUMBER = "a plain number"
    MEBIBYTES = "in MiB"
    OWN = "whatever the desk means by it"


@dataclass(frozen=True, slots=True)
class Quantity:
    """Its values lie in `low` to `high`, both included."""

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


@dataclass(frozen=True, slots=True)
class Open:
    """Figures named by `start` and something behind it: one of `names`, or with none of them anything."""

    start: str
    quantity: Quantity
    names: tuple[str, ...] = ()

    def lacks(self, behind: str) -> str | None:
        """Why there is no such figure, with what was probably meant; None where there may be."""
        if not self.names or behind in self.names:
            return None
        return f"`{self.start}` has no {behind!r:.80}{suggestion(behind, self.names)}"


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
           for name, of in {"count": COUNT, "longest_seconds": SECONDS, "mean_seconds": SECONDS,
                            "median_seconds": SECONDS}.items()},
    },
    Scope.TYPE: {"count": COUNT, **_OF_ENDED},
    Scope.STRATEGY: {"count": COUNT, **_OF_ENDED},
    Scope.OPTIMIZATION: _OF_STATE,
    Scope.END: {
        **_OF_STATE, **dict.fromkeys(_ENDS, FLAG), "improvement": CHANGE, "short_of_target": NUMBER,
        "worse_than_usual": MEASURE, "trials": COUNT, "failed_trials": COUNT, "failed_share": SHARE,
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
_RESULTS = (Open("metrics.", OWN), Open("results.", OWN))
OPEN: Mapping[Scope, tuple[Open, ...]] = {
    Scope.GLOBAL: (
        Open("by_status.", COUNT, tuple(each.value for each in OptimizationStatus)),
        Open("by_type.", COUNT, tuple(each.value for each in OptimizationType)),
        Open("by_strategy.", COUNT),
        Open("by_priority.", COUNT, tuple(each.name.lower() for each in OptimizationPriority)),
    ),
    Scope.OPTIMIZATION: _RESULTS,
    Scope.END: _RESULTS,
}  # fmt: skip
_OF_ONE = ("optimization", "type", "strategy")
LABELS: Mapping[Scope, tuple[str, ...]] = {
    Scope.GLOBAL: (), Scope.TYPE: ("type",), Scope.STRATEGY: ("strategy",), Scope.OPTIMIZATION: _OF_ONE,
    Scope.END: (*_OF_ONE, "error"), Scope.DEATH: _OF_ONE, Scope.REPORT: _OF_ONE, Scope.FINDING: ("optimization",),
    Scope.NODE: ("node",), Scope.NODE_DEATH: ("node",), Scope.THIS_NODE: ("node",), Scope.CHANNEL: ("channel",),
    Scope.SCHEDULE: ("schedule",),
}  # fmt: skip
WORDS: Mapping[Scope, tuple[str, ...]] = {
    Scope.OPTIMIZATION: ("name",), Scope.END: ("name", "detail"), Scope.DEATH: ("name", "detail"),
    Scope.REPORT: ("name", "validity", "look_ahead", "risk", "verdict"),
    Scope.NODE: ("host",), Scope.NODE_DEATH: ("host",),
    Scope.THIS_NODE: ("detail",), Scope.CHANNEL: ("detail",),
}  # fmt: skip


def quantity_of(name: str, scope: Scope) -> Quantity:
    """What a figure measures. Raises ValueError where the scope has none of this name, with what was probably meant."""
    known = QUANTITIES[scope].get(name)
    if known is not None:
        return known
    for each in OPEN.get(scope, ()):
        behind = name.removeprefix(each.start)
        if name.startswith(each.start) and behind:
            if (why := each.lacks(behind)) is not None:
                raise ValueError(why)
            return each.quantity
    elsewhere = [other.value for other, names in QUANTITIES.items() if name in names]
    if elsewhere:
        raise ValueError(f"`{scope.value}` has no figure {name!r}; `scope: {elsewhere[0]}` has it")
    raise ValueError(f"`{scope.value}` has no figure {name!r:.80}{_likely(name, tuple(QUANTITIES[scope]), scope)}")


def is_figure(name: str, scope: Scope) -> bool:
    try:
        quantity_of(name, scope)
    except ValueError:
        return False
    return True


PLACEHOLDER = re.compile(r"\{([^{}]*)\}")
_BRACES = re.compile(r"\{([^{}]*)\}|[{}]")


def placeholders(text: str) -> tuple[str, ...]:
    """The names in braces in a rule's words, each once."""
    return tuple(dict.fromkeys(PLACEHOLDER.findall(text)))


def checked_words(text: str, scope: Scope) -> str:
    """The words. Raises ValueError for braces that would be sent as they are written."""
    if "{{" in text or "}}" in text:
        raise ValueError(f"one brace is enough here, as in {_example(scope)}; only `templates` are written in Jinja")
    known = (*LABELS[scope], *WORDS.get(scope, ()))
    wrong: dict[str, str] = {}
    for found in _BRACES.finditer(text):
        name = found[1]
        if name is None:
            where = text[max(0, found.start() - 10) : found.end() + 10]
            wrong[where] = f"a brace without its other half: {where!r}; a figure is written as {_example(scope)}"
        elif name not in known and not is_figure(name, scope):
            bare = re.split(r"[\s:!|(\[]", name.strip(), maxsplit=1)[0]
            meant_name = bare != name and (bare in known or is_figure(bare, scope))
            why = f"only a name stands in braces; write {{{bare}}}" if meant_name else _unknown(name.strip(), scope)
            wrong[name] = f"{found[0]!r:.80}: {why}"
    if wrong:
        raise ValueError("; and ".join(wrong.values()))
    return text


def _example(scope: Scope) -> str:
    return f"{{{next(iter((*QUANTITIES[scope], *LABELS[scope])))}}}"


def _unknown(name: str, scope: Scope) -> str:
    for each in OPEN.get(scope, ()):
        if name.startswith(each.start) and (why := each.lacks(name.removeprefix(each.start))) is not None:
            return why
    names = {each: (*LABELS[each], *WORDS.get(each, ()), *QUANTITIES[each]) for each in Scope}
    elsewhere = [other.value for other in Scope if name in names[other]]
    if elsewhere:
        return f"`{scope.value}` has no such name; `scope: {elsewhere[0]}` has it"
    return f"`{scope.value}` has no such name{_likely(name, names[scope], scope)}"


def _likely(name: str, names: Sequence[str], scope: Scope) -> str:
    """What was probably meant, to go on a sentence; else what there is."""
    if hint := hint_of(name, names):
        return hint
    known = [*(f"{each.start}…" for each in OPEN.get(scope, ())), *names]
    more = ", …" if len(known) > SHOWN else ""
    return f"; there are {', '.join(known[:SHOWN])}{more}" if known else ", and no other"
