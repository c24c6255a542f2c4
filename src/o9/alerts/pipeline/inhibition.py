"""Inhibition: while one alert fires, others are suppressed. The semantics are Alertmanager's.

A rule mutes an alert that fits its target matchers while one that fits its source matchers fires and has the same
values in the labels `equal` (both without one are equal, too). An alert that fits both sides is muted only by one that
does not: so none mutes itself, and no two each other. Sources are found by their values, not by a search.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime

from o9.alerts.pipeline.alert import Alert, Labels
from o9.alerts.pipeline.matchers import Matchers, match


@dataclass(frozen=True, slots=True)
class InhibitRule:
    source: Matchers
    target: Matchers
    equal: tuple[str, ...] = ()
    name: str = ""

    def values(self, labels: Labels) -> tuple[str, ...]:
        return tuple(labels.get(name, "") for name in self.equal)


class Inhibitions:
    """The alerts that may mute others, by rule and values. Which rules concern an alert is looked up once."""

    def __init__(self, rules: Sequence[InhibitRule]) -> None:
        self._rules = tuple(rules)
        # By rule, values and whether they are targets too; then by fingerprint.
        self._firing: dict[tuple[int, tuple[str, ...], bool], dict[str, Alert]] = {}
        self._concerning: dict[str, Concerning] = {}
        self._shared: dict[Concerning, Concerning] = {}

    def put(self, alert: Alert, *, firing: bool) -> None:
        """An alert that fires, or does no more."""
        sources, targets = self._rules_of(alert)
        for number in sources:
            key = number, self._rules[number].values(alert.labels), number in targets
            known = self._firing.setdefault(key, {})
            if firing:
                known[alert.fingerprint] = alert
            else:
                known.pop(alert.fingerprint, None)
            if not known:
                del self._firing[key]

    def muting(self, alert: Alert, now: datetime) -> Alert | None:
        """An alert that mutes this one at `now`."""
        sources, targets = self._rules_of(alert)
        for number in targets:
            values = self._rules[number].values(alert.labels)
            for is_target in (False,) if number in sources else (False, True):
                for source in self._firing.get((number, values, is_target), {}).values():
                    if not source.resolved(now):
                        return source
        return None

    def forget(self, fingerprint: str) -> None:
        """An alert that does not fire."""
        self._concerning.pop(fingerprint, None)

    def _rules_of(self, alert: Alert) -> Concerning:
        if not self._rules:
            return _NONE
        found = self._concerning.get(alert.fingerprint)
        if found is None:
            sources = tuple(number for number, rule in enumerate(self._rules) if match(rule.source, alert.labels))
            targets = tuple(number for number, rule in enumerate(self._rules) if match(rule.target, alert.labels))
            found = self._shared.setdefault((sources, targets), (sources, targets))
            self._concerning[alert.fingerprint] = found
        return found


Concerning = tuple[tuple[int, ...], tuple[int, ...]]
"""The rules of which an alert is a source, and those of which it is a target."""
_NONE: Concerning = ((), ())
