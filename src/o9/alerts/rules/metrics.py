"""The figures that rules compare, by scope, with their units and bounds, and the names that alerts may use.

`QUANTITIES` has the figures, `LABELS` the labels of a scope's alerts, `WORDS` what else their texts may name. Pure.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from enum import Enum
from math import inf

from o9.text.suggest import suggestion


class Scope(str, Enum):
    """What a rule looks at. Facts of an instant are looked at once; a report holds until the next one."""

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
    """Of a figure, and of what it is compared with."""

    SHARE = "a share"
    PERCENT = "in percent of one core"
    SECONDS = "a time"
    COUNT = "a count"
    NUMBER = "a plain number"
    MEBIBYTES = "in MiB"
    OWN = "in a unit of its own"


@dataclass(frozen=True, slots=True)
class Quantity:
    """Its values lie between `low` and `high`, both included."""

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
           for name, of in {"count": COUNT, "longest_seconds": SECONDS, "mean_seconds": SECONDS,
                            "median_seconds": SECONDS}.items()},
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
"""Prefixes of the figures that objectives return: of one optimization, while it runs and at its end."""
_OF_ONE = ("optimization", "name", "series", "type", "strategy")
LABELS: Mapping[Scope, tuple[str, ...]] = {
    Scope.GLOBAL: (), Scope.TYPE: ("type",), Scope.STRATEGY: ("strategy",), Scope.OPTIMIZATION: _OF_ONE,
    Scope.START: _OF_ONE, Scope.END: (*_OF_ONE, "error"), Scope.DEATH: _OF_ONE, Scope.REPORT: _OF_ONE,
    Scope.FINDING: ("optimization", "name", "series"),
    Scope.NODE: ("node",), Scope.NODE_DEATH: ("node",), Scope.THIS_NODE: ("node",), Scope.CHANNEL: ("channel",),
    Scope.SCHEDULE: ("schedule",),
}  # fmt: skip
WORDS: Mapping[Scope, tuple[str, ...]] = {
    Scope.END: ("detail",), Scope.DEATH: ("detail",), Scope.REPORT: ("validity", "look_ahead", "risk", "verdict"),
    Scope.NODE: ("host",), Scope.NODE_DEATH: ("host",),
    Scope.THIS_NODE: ("detail",), Scope.CHANNEL: ("detail",),
}  # fmt: skip


def quantity_of(name: str, scope: Scope) -> Quantity:
    """Raises ValueError if the scope has no figure of this name, with what was probably meant."""
    if name in QUANTITIES[scope]:
        return QUANTITIES[scope][name]
    if scope in (Scope.OPTIMIZATION, Scope.END) and name.startswith(OPEN) and name not in OPEN:
        return OWN
    raise ValueError(_unknown(name, scope, "figure", QUANTITIES))


def is_figure(name: str, scope: Scope) -> bool:
    try:
        quantity_of(name, scope)
    except ValueError:
        return False
    return True


PLACEHOLDER = re.compile(r"\{([^{}]*)\}")


def placeholders(text: str) -> tuple[str, ...]:
    """The names in braces, each once."""
    return tuple(dict.fromkeys(PLACEHOLDER.findall(text)))


def checked_words(text: str, scope: Scope) -> str:
    """`text`. Raises ValueError for braces that would be sent as they are."""
    example = f"{{{next(iter((*QUANTITIES[scope], *LABELS[scope])))}}}"
    if re.search("[{}]", PLACEHOLDER.sub("", text)):
        raise ValueError(f"a brace without its other half, or one too many; a figure is written as {example}")
    names = {each: (*LABELS[each], *WORDS.get(each, ()), *QUANTITIES[each]) for each in Scope}
    for name in placeholders(text):
        if name not in names[scope] and not is_figure(name, scope):
            raise ValueError(f"{{{name:.80}}}: {_unknown(name.strip(), scope, 'name', names)}")
    return text


def _unknown(name: str, scope: Scope, kind: str, known: Mapping[Scope, Collection[str]]) -> str:
    """That a scope has no such figure or name, and what was probably meant."""
    elsewhere = next((f"; `scope: {other.value}` has it" for other in Scope if name in known[other]), None)
    return f"`{scope.value}` has no {kind} {name!r:.80}{elsewhere or suggestion(name, known[scope])}"
