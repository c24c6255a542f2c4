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


@dataclass(frozen=True, slots=True)
class Inhibition:
    """Which rules concern an alert; equal labels have the same, so it is asked once."""

    sources: tuple[int, ...]
    targets: tuple[int, ...]


class Inhibitions:
    """The alerts that may mute others, by rule and values."""

    def __init__(self, rules: Sequence[InhibitRule]) -> None:
        self._rules = tuple(rules)
        # By rule, by values, by whether it is a target too, by fingerprint.
        self._firing: list[dict[tuple[str, ...], tuple[dict[str, Alert], dict[str, Alert]]]] = [{} for _ in rules]
        self._concerns: dict[Inhibition, Inhibition] = {}

    def concerning(self, labels: Labels) -> Inhibition:
        if not self._rules:
            return _UNCONCERNED
        found = Inhibition(
            tuple(number for number, rule in enumerate(self._rules) if match(rule.source, labels)),
            tuple(number for number, rule in enumerate(self._rules) if match(rule.target, labels)),
        )
        return self._concerns.setdefault(found, found)

    def put(self, alert: Alert, concerning: Inhibition, *, firing: bool) -> None:
        """Says how it stands with a source now."""
        for number in concerning.sources:
            by_values = self._firing[number]
            values = self._rules[number].values(alert.labels)
            both = by_values.setdefault(values, ({}, {}))
            side = both[number in concerning.targets]
            if firing:
                side[alert.fingerprint] = alert
            else:
                side.pop(alert.fingerprint, None)
                if not both[0] and not both[1]:
                    del by_values[values]

    def muting(self, alert: Alert, concerning: Inhibition, now: datetime) -> Alert | None:
        """An alert that mutes this one at `now`."""
        for number in concerning.targets:
            both = self._firing[number].get(self._rules[number].values(alert.labels))
            if both is None:
                continue
            for side in both[:1] if number in concerning.sources else both:
                for source in side.values():
                    if not source.resolved(now):
                        return source
        return None


_UNCONCERNED = Inhibition((), ())
