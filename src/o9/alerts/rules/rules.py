"""Rules: from facts to alerts that begin and end, as pure decisions over a time that is passed in.

Contract. Facts are about a subject: an optimization, a node, a channel. Each rule has a state for each subject: pending
while its condition holds, firing after `lasts`, and over `keep_firing` after it is clear. An unknown figure begins
nothing and ends nothing. A `Board` holds the states; `take` returns what begins to fire and what is over, each with its
reason.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace
from datetime import datetime, timedelta
from typing import Any

from pydantic import TypeAdapter

from o9.alerts.pipeline.alert import RuleReason, digest
from o9.alerts.rules.metrics import (
    INSTANTS,
    PLACEHOLDER,
    Condition,
    Figures,
    Reading,
    Scope,
    Unit,
    placeholders,
    quantity_of,
    reading,
)
from o9.model.optimization import OptimizationAlert
from o9.model.states import AlertLevel
from o9.text.format import duration, percent

AFTER_INSTANT = timedelta(hours=1)
NOTHING = timedelta(0)
TITLE_LIMIT = 200
UNKNOWN = "unknown"


@dataclass(frozen=True, slots=True)
class Rule:
    """`when` None: the monitor evaluates it, and an empty title or a level of None keeps that of its finding.

    `title`, `says` and `remedy` may hold `{name}`, the name of a figure, or of a label or word of the facts.

    lasts: how long its condition has to hold (`for`). keep_firing: how long it fires after it is clear.
    """

    name: str
    title: str
    scope: Scope
    level: AlertLevel | None
    when: Condition | None = None
    clear: Condition | None = None
    lasts: timedelta = NOTHING
    keep_firing: timedelta = NOTHING
    labels: Mapping[str, str] = field(default_factory=dict)
    says: str = ""
    remedy: str = ""

    @property
    def figures(self) -> frozenset[str]:
        """Those in its conditions and texts."""
        named = placeholders("\n".join((self.title, self.says, self.remedy)))
        asked = [each.figures for each in (self.when, self.clear) if each]
        return frozenset((*sum(asked, ()), *(name for name in named if quantity_of(name, self.scope))))

    @property
    def lingers(self) -> timedelta:
        """How long it fires after it is clear; an instant fires for AFTER_INSTANT."""
        return self.keep_firing or (AFTER_INSTANT if self.scope in INSTANTS else NOTHING)


@dataclass(frozen=True, slots=True)
class SubjectFacts:
    """What is known of a subject, which `key` identifies in its scope.

    labels: those of its alerts. words: what else the texts of rules may name, such as the `detail` of an error.
    at: the time of an event; None: now. provisional: it may begin something, and ends nothing.
    """

    key: str
    figures: Figures
    labels: Mapping[str, str] = field(default_factory=dict)
    optimization_id: str = ""
    words: Mapping[str, str] = field(default_factory=dict)
    at: datetime | None = None
    provisional: bool = False


@dataclass(frozen=True, slots=True)
class RuleState:
    """Of a rule and a subject: pending or firing. `clear_since` is set while it lingers, `alert_id` while it fires.

    runs: for how many runs of a series in a row, `run` being the last one.
    """

    since: datetime
    firing: bool = False
    clear_since: datetime | None = None
    alert_id: str = ""
    run: str = ""
    runs: int = 0


_AS_JSON = TypeAdapter(RuleState)


def decide(
    rule: Rule, known: RuleState | None, now_reads: Reading | None, now: datetime
) -> tuple[RuleState | None, RuleReason]:
    """The next state; None: neither pending nor firing. `now_reads` None: the subject is gone."""
    instant = rule.scope in INSTANTS
    if known is None or not known.firing:
        if now_reads is not Reading.HOLDS:
            return None, RuleReason.QUIET if known is None else RuleReason.TOO_SHORT
        since = now if known is None else min(known.since, now)  # a clock that is set back
        if now - since < rule.lasts:
            return RuleState(since), RuleReason.BEGINS if known is None else RuleReason.LASTS
        return RuleState(since, True, now if instant else None), RuleReason.FIRES
    if now_reads is Reading.HOLDS:
        return replace(known, clear_since=now if instant else None), RuleReason.GOES_ON
    if now_reads is Reading.UNKNOWN and known.clear_since is None:
        return known, RuleReason.UNKNOWN
    if now_reads is Reading.BETWEEN and known.clear_since is None:
        return known, RuleReason.BETWEEN
    since = known.clear_since or now
    lingers = rule.lingers
    if now_reads is None and rule.scope is Scope.OPTIMIZATION:
        lingers = max(lingers, AFTER_INSTANT)  # it ended, which corrects nothing
    if now - since < lingers:
        return replace(known, clear_since=since), RuleReason.LINGERS
    if now_reads is None:
        return None, RuleReason.GONE
    return None, RuleReason.EXPIRED if instant else RuleReason.CLEAR


@dataclass(frozen=True, slots=True)
class Turn:
    """A subject begins to fire (`alert`), or is over (`ended`: the alert's id)."""

    rule: str
    key: str
    why: RuleReason
    alert: OptimizationAlert | None = None
    ended: str = ""


Place = tuple[str, str]


class Board:
    """The rules and their states. Changes gather until `drain`, which returns what to write down.

    states: as they were written down; `use` then ends those of other rules.
    """

    def __init__(self, rules: Iterable[Rule] = (), states: Mapping[Place, str] | None = None) -> None:
        self._rules = {rule.name: rule for rule in rules}
        self._states = {place: _AS_JSON.validate_json(text) for place, text in (states or {}).items()}
        self._changed: dict[Place, RuleState | None] = {}

    def scopes(self) -> frozenset[Scope]:
        """Those that rules with a condition have."""
        return frozenset(rule.scope for rule in self._rules.values() if rule.when is not None)

    def figures(self, scope: Scope) -> frozenset[str]:
        """Those that the rules of a scope use."""
        return frozenset(name for rule in self._rules.values() if rule.scope is scope for name in rule.figures)

    def use(self, rules: Iterable[Rule]) -> list[Turn]:
        """Evaluate these rules from now on; what fires of any other is over."""
        self._rules = {rule.name: rule for rule in rules}
        lost = [place for place in self._states if place[0] not in self._rules]
        return [turn for place in lost for turn in self._put(place, None, RuleReason.NO_RULE)]

    def take(self, scope: Scope, facts: Iterable[SubjectFacts], now: datetime, *, complete: bool = False) -> list[Turn]:
        """Evaluate the scope's rules. `complete`: subjects that are not among these are gone."""
        turns: list[Turn] = []
        seen: set[str] = set()
        rules = [rule for rule in self._rules.values() if rule.scope is scope and rule.when is not None]
        for each in facts:
            seen.add(each.key)
            for rule in rules:
                turns += self._evaluate(rule, each, now)
        if complete:
            names = {rule.name: rule for rule in rules}
            for place in [place for place in self._states if place[0] in names and place[1] not in seen]:
                state, why = decide(names[place[0]], self._states[place], None, now)
                turns += self._put(place, state, why)
        return turns

    def pass_time(self, now: datetime) -> list[Turn]:
        """End what has lingered long enough of instants and reports, which are not evaluated again."""
        turns: list[Turn] = []
        for place, state in list(self._states.items()):
            rule = self._rules[place[0]]
            if (rule.scope in INSTANTS or rule.scope is Scope.REPORT) and state.clear_since is not None:
                turns += self._put(place, *decide(rule, state, Reading.CLEAR, now))
        return turns

    def fix(self, key: str, scopes: Iterable[Scope] = INSTANTS) -> list[Turn]:
        """The cause of what fires for this subject in these scopes was fixed."""
        wanted = set(scopes)
        places = [place for place in self._states if place[1] == key and self._rules[place[0]].scope in wanted]
        return [turn for place in places for turn in self._put(place, None, RuleReason.FIXED)]

    def keys(self, scope: Scope) -> tuple[str, ...]:
        """The subjects of a scope for which a rule is pending or fires."""
        return tuple(dict.fromkeys(key for name, key in self._states if self._rules[name].scope is scope))

    def drain(self) -> dict[Place, str | None]:
        """The states that changed since the last call, as JSON; None: removed."""
        changed, self._changed = self._changed, {}
        return {place: None if each is None else _AS_JSON.dump_json(each).decode() for place, each in changed.items()}

    def _evaluate(self, rule: Rule, facts: SubjectFacts, now: datetime) -> list[Turn]:
        assert rule.when is not None
        place = rule.name, facts.key
        known = self._states.get(place)
        reads = reading(rule.when, rule.clear, facts.figures)
        if facts.provisional and reads is not Reading.HOLDS:
            reads = Reading.UNKNOWN
        state, why = decide(rule, known, reads, now)
        another = rule.scope is Scope.REPORT and reads is Reading.HOLDS and known and known.run != facts.optimization_id
        if state is None or not (another or why is RuleReason.FIRES):
            return self._put(place, state, why)
        state = replace(state, run=facts.optimization_id, runs=state.runs + 1)
        alert = alert_of(rule, facts, state.since if facts.at is None else facts.at, state.runs)
        self._put(place, replace(state, alert_id=alert.alert_id), why)
        return [Turn(rule.name, facts.key, why, alert)]

    def _put(self, place: Place, state: RuleState | None, why: RuleReason) -> list[Turn]:
        known = self._states.get(place)
        if state == known:
            return []
        self._changed[place] = state
        if state is not None:
            self._states[place] = state
            return []
        del self._states[place]
        return [Turn(*place, why, ended=known.alert_id)] if known is not None and known.firing else []


def alert_of(rule: Rule, facts: SubjectFacts, at: datetime, runs: int = 1) -> OptimizationAlert:
    """The alert of a subject that begins to fire, or that still does for `runs` runs in a row.

    Its id is derived from the rule, the subject and `at`.
    """
    assert rule.when is not None
    assert rule.level is not None
    about = {**facts.labels, **facts.words, "optimization": facts.optimization_id}
    evidence = {name: value for name in rule.when.figures if (value := facts.figures.get(name)) is not None}
    if runs > 1:
        evidence["runs in a row"] = float(runs)
    metadata: dict[str, Any] = {"rule": rule.name, "evidence": evidence}
    if rule.remedy:
        metadata["remedy"] = filled(rule.remedy, rule.scope, about, facts.figures)
    if labels := {**facts.labels, **rule.labels}:
        metadata["labels"] = labels
    return OptimizationAlert(
        alert_id=f"{rule.name}-{digest((rule.name, facts.key, at.isoformat()))}",
        optimization_id=facts.optimization_id,
        level=rule.level,
        title=_title(rule, about, facts.figures) or rule.name,
        message=_message(rule, facts, about),
        timestamp=at,
        metadata=metadata,
    )


def with_rule(rule: Rule, alert: OptimizationAlert) -> OptimizationAlert:
    """A finding of the monitor, as the rule of its name changes it."""
    labels = alert.metadata.get("labels", {})
    metadata = alert.metadata | {"rule": rule.name, "labels": {**labels, **rule.labels}}
    title = _title(rule, {**labels, "optimization": alert.optimization_id}, {}) or alert.title
    return replace(alert, title=title, level=rule.level or alert.level, metadata=metadata)


def filled(text: str, scope: Scope, about: Mapping[str, str], figures: Figures) -> str:
    """`text` with the words and figures that it names; `unknown` for a missing one."""

    def put(found: re.Match[str]) -> str:
        name = found[1]
        if name in about:
            return about[name]
        value = figures.get(name)
        return UNKNOWN if value is None else written(name, scope, value)

    return PLACEHOLDER.sub(put, text)


def _title(rule: Rule, about: Mapping[str, str], figures: Figures) -> str:
    """Empty if all that it names is."""
    return filled(rule.title, rule.scope, about, figures)[:TITLE_LIMIT].strip()


def written(name: str, scope: Scope, value: float) -> str:
    """A figure in its unit, for people."""
    quantity = quantity_of(name, scope)
    unit = quantity.unit if quantity else Unit.OWN
    if unit is Unit.SECONDS:
        return duration(value)
    if unit is Unit.SHARE:
        return percent(value)
    return f"{value:.6g}"


def _message(rule: Rule, facts: SubjectFacts, about: Mapping[str, str]) -> str:
    assert rule.when is not None
    if rule.says:
        return filled(rule.says, rule.scope, about, facts.figures)
    known = [
        f"{name} is {written(name, rule.scope, value)}"
        for name in rule.when.figures
        if (value := facts.figures.get(name)) is not None
    ]
    lasted = f" for {duration(rule.lasts)}" if rule.lasts else ""
    more = "".join(f"\n{text}" for name, text in facts.words.items() if name != "name" and text)
    return f"{', '.join(known)}; the rule is: {rule.when.text}{lasted}{more}"
