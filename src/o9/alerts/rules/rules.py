"""Rules: which alerts begin and end, decided from facts and the time. Pure.

Contract. Facts are about a subject: an optimization, a node, a channel. Each rule has a state for each subject: pending
while its condition holds, firing once it has held for `lasts`, resolved once it has been clear for `keep_firing`. An
unknown figure changes nothing. A `RuleEngine` holds the states and returns the alerts that begin or end.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Iterable, Mapping
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
    """An alert rule. Without `when`, it changes the monitor's finding of its name: an empty title or a level of None
    keeps that of the finding.

    Texts may contain `{name}`, with the name of a figure, a label or a detail.

    lasts: how long the condition must hold (`for`). keep_firing: how long the alert fires after it is clear.
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
    message: str = ""
    remedy: str = ""

    @property
    def figures(self) -> frozenset[str]:
        """The figures in its conditions and texts."""
        names = placeholders("\n".join((self.title, self.message, self.remedy)))
        compared = [each.figures for each in (self.when, self.clear) if each]
        return frozenset((*sum(compared, ()), *(name for name in names if quantity_of(name, self.scope))))

    @property
    def lingers(self) -> timedelta:
        """How long it fires after it is clear; for an instant AFTER_INSTANT unless the rule says otherwise."""
        return self.keep_firing or (AFTER_INSTANT if self.scope in INSTANTS else NOTHING)


@dataclass(frozen=True, slots=True)
class SubjectFacts:
    """Facts about a subject, which `key` identifies within its scope.

    labels: the labels of its alerts. details: other texts that rules may name, such as `detail`, an error's text. at:
    the time of an event; None means now. provisional: the facts may begin an alert, but end none.
    """

    key: str
    figures: Figures
    labels: Mapping[str, str] = field(default_factory=dict)
    optimization_id: str = ""
    details: Mapping[str, str] = field(default_factory=dict)
    at: datetime | None = None
    provisional: bool = False


@dataclass(frozen=True, slots=True)
class RuleState:
    """The state of a rule for a subject: pending or firing.

    clear_since: set while it lingers. alert_id: set while it fires. runs: the number of consecutive runs of a series
    for which it has fired; `run` is the last one.
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
    """Return the next state, None if neither pending nor firing. `now_reads` None means that the subject is gone."""
    instant = rule.scope in INSTANTS
    if known is None or not known.firing:
        if now_reads is not Reading.HOLDS:
            return None, RuleReason.QUIET if known is None else RuleReason.TOO_SHORT
        since = now if known is None else min(known.since, now)  # a clock may be set back
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
        lingers = max(lingers, AFTER_INSTANT)  # it has ended, which does not solve the problem
    if now - since < lingers:
        return replace(known, clear_since=since), RuleReason.LINGERS
    if now_reads is None:
        return None, RuleReason.GONE
    return None, RuleReason.EXPIRED if instant else RuleReason.CLEAR


@dataclass(frozen=True, slots=True)
class AlertChange:
    """An alert that begins (`alert`) or ends (`ended`, its id), by a rule, for the subject `key`."""

    rule: str
    key: str
    why: RuleReason
    alert: OptimizationAlert | None = None
    ended: str = ""


StateKey = tuple[str, str]
"""A rule's name, and a subject's key."""


class RuleEngine:
    """The rules and their states. `drain` returns the changed states, which are to be stored.

    states: the stored ones; `set_rules` ends those of other rules.
    """

    def __init__(self, rules: Iterable[Rule] = (), states: Mapping[StateKey, str] | None = None) -> None:
        self._rules = {rule.name: rule for rule in rules}
        self._states = {key: _AS_JSON.validate_json(text) for key, text in (states or {}).items()}
        self._changed: dict[StateKey, RuleState | None] = {}

    def scopes(self) -> frozenset[Scope]:
        """Return the scopes of the rules that have a condition."""
        return frozenset(rule.scope for rule in self._rules.values() if rule.when is not None)

    def figures(self, scope: Scope) -> frozenset[str]:
        """Return the figures that the rules of a scope use."""
        return frozenset(name for rule in self._rules.values() if rule.scope is scope for name in rule.figures)

    def set_rules(self, rules: Iterable[Rule]) -> list[AlertChange]:
        """Replace the rules, and end the alerts of those that are gone."""
        self._rules = {rule.name: rule for rule in rules}
        gone = [key for key in self._states if key[0] not in self._rules]
        return [change for key in gone for change in self._put(key, None, RuleReason.NO_RULE)]

    def evaluate(
        self, scope: Scope, facts: Iterable[SubjectFacts], now: datetime, *, complete: bool = False
    ) -> list[AlertChange]:
        """Evaluate the scope's rules. `complete`: subjects without facts are gone."""
        changes: list[AlertChange] = []
        seen: set[str] = set()
        rules = [rule for rule in self._rules.values() if rule.scope is scope and rule.when is not None]
        for each in facts:
            seen.add(each.key)
            for rule in rules:
                changes += self._evaluate(rule, each, now)
        if complete:
            names = {rule.name: rule for rule in rules}
            for key in [key for key in self._states if key[0] in names and key[1] not in seen]:
                changes += self._put(key, *decide(names[key[0]], self._states[key], None, now))
        return changes

    def expire(self, now: datetime) -> list[AlertChange]:
        """End alerts about instants and reports that have lingered long enough; they are not evaluated again."""
        changes: list[AlertChange] = []
        for key, state in list(self._states.items()):
            rule = self._rules[key[0]]
            if (rule.scope in INSTANTS or rule.scope is Scope.REPORT) and state.clear_since is not None:
                changes += self._put(key, *decide(rule, state, Reading.CLEAR, now))
        return changes

    def resolve(self, subject: str, scopes: Collection[Scope] = INSTANTS) -> list[AlertChange]:
        """End the alerts about a subject in these scopes, since their cause was fixed."""
        keys = [key for key in self._states if key[1] == subject and self._rules[key[0]].scope in scopes]
        return [change for key in keys for change in self._put(key, None, RuleReason.FIXED)]

    def subjects(self, scope: Scope) -> tuple[str, ...]:
        """Return the subjects of a scope for which a rule is pending or firing."""
        return tuple(dict.fromkeys(subject for name, subject in self._states if self._rules[name].scope is scope))

    def drain(self) -> dict[StateKey, str | None]:
        """Return the states that changed since the last call, as JSON; None if removed."""
        changed, self._changed = self._changed, {}
        return {key: None if each is None else _AS_JSON.dump_json(each).decode() for key, each in changed.items()}

    def _evaluate(self, rule: Rule, facts: SubjectFacts, now: datetime) -> list[AlertChange]:
        assert rule.when is not None
        key = rule.name, facts.key
        known = self._states.get(key)
        reads = reading(rule.when, rule.clear, facts.figures)
        if facts.provisional and reads is not Reading.HOLDS:
            reads = Reading.UNKNOWN
        state, why = decide(rule, known, reads, now)
        another = rule.scope is Scope.REPORT and reads is Reading.HOLDS and known and known.run != facts.optimization_id
        if state is None or not (another or why is RuleReason.FIRES):
            return self._put(key, state, why)
        state = replace(state, run=facts.optimization_id, runs=state.runs + 1)
        alert = alert_of(rule, facts, state.since if facts.at is None else facts.at, state.runs)
        self._put(key, replace(state, alert_id=alert.alert_id), why)
        return [AlertChange(rule.name, facts.key, why, alert)]

    def _put(self, key: StateKey, state: RuleState | None, why: RuleReason) -> list[AlertChange]:
        known = self._states.get(key)
        if state == known:
            return []
        self._changed[key] = state
        if state is not None:
            self._states[key] = state
            return []
        del self._states[key]
        return [AlertChange(*key, why, ended=known.alert_id)] if known is not None and known.firing else []


def alert_of(rule: Rule, facts: SubjectFacts, at: datetime, runs: int = 1) -> OptimizationAlert:
    """Return the alert of a rule about a subject, which has fired for `runs` consecutive runs.

    Its id is derived from the rule, the subject and `at`.
    """
    assert rule.when is not None
    assert rule.level is not None
    texts = {**facts.labels, **facts.details, "optimization": facts.optimization_id}
    evidence = {name: value for name in rule.when.figures if (value := facts.figures.get(name)) is not None}
    if runs > 1:
        evidence["runs in a row"] = float(runs)
    metadata: dict[str, Any] = {"rule": rule.name, "evidence": evidence}
    if rule.remedy:
        metadata["remedy"] = fill(rule.remedy, rule.scope, texts, facts.figures)
    if labels := {**facts.labels, **rule.labels}:
        metadata["labels"] = labels
    return OptimizationAlert(
        alert_id=f"{rule.name}-{digest((rule.name, facts.key, at.isoformat()))}",
        optimization_id=facts.optimization_id,
        level=rule.level,
        title=_title(rule, texts, facts.figures) or rule.name,
        message=_message(rule, facts, texts),
        timestamp=at,
        metadata=metadata,
    )


def apply_rule(rule: Rule, alert: OptimizationAlert) -> OptimizationAlert:
    """Return a finding of the monitor with the changes of the rule of its name."""
    labels = alert.metadata.get("labels", {})
    metadata = alert.metadata | {"rule": rule.name, "labels": {**labels, **rule.labels}}
    title = _title(rule, {**labels, "optimization": alert.optimization_id}, {}) or alert.title
    return replace(alert, title=title, level=rule.level or alert.level, metadata=metadata)


def fill(text: str, scope: Scope, texts: Mapping[str, str], figures: Figures) -> str:
    """Return `text` with its placeholders replaced; by `unknown` if there is no value."""

    def replacement(found: re.Match[str]) -> str:
        name = found[1]
        if name in texts:
            return texts[name]
        value = figures.get(name)
        return UNKNOWN if value is None else format_figure(name, scope, value)

    return PLACEHOLDER.sub(replacement, text)


def _title(rule: Rule, texts: Mapping[str, str], figures: Figures) -> str:
    return fill(rule.title, rule.scope, texts, figures)[:TITLE_LIMIT].strip()


def format_figure(name: str, scope: Scope, value: float) -> str:
    """Return a figure in its unit, for people."""
    quantity = quantity_of(name, scope)
    unit = quantity.unit if quantity else Unit.OWN
    if unit is Unit.SECONDS:
        return duration(value)
    if unit is Unit.SHARE:
        return percent(value)
    return f"{value:.6g}"


def _message(rule: Rule, facts: SubjectFacts, texts: Mapping[str, str]) -> str:
    assert rule.when is not None
    if rule.message:
        return fill(rule.message, rule.scope, texts, facts.figures)
    known = [
        f"{name} is {format_figure(name, rule.scope, value)}"
        for name in rule.when.figures
        if (value := facts.figures.get(name)) is not None
    ]
    lasted = f" for {duration(rule.lasts)}" if rule.lasts else ""
    more = "".join(f"\n{text}" for name, text in facts.details.items() if name != "name" and text)
    return f"{', '.join(known)}; the rule is: {rule.when.text}{lasted}{more}"
