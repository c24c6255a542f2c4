"""Alerts and groups that cause an error inside O9: they are quarantined, so that all others go on, and tried again.

Contract. `InternalErrors` says over which alerts and groups something was raised; the engine in which it was is
discarded, as it may be inconsistent. `Quarantine` remembers them, each for a pause that doubles while the error
persists, and says when to try again. Pure; a new leader remembers nothing, and tries at once.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime, timedelta

from o9.alerts.pipeline.alert import Alert
from o9.model.loops import Backoff

_BACKOFF = Backoff(60.0, 3_600.0)
FORGOTTEN_AFTER = timedelta(hours=1)


@dataclass(frozen=True, slots=True)
class Culprit:
    """What was raised, over which episodes; `receiver` is who was to be notified, where that is known."""

    error: Exception
    alert_ids: tuple[str, ...] = ()
    receiver: str = ""

    @property
    def words(self) -> str:
        return f"{type(self.error).__name__}: {self.error}"[:300]


@dataclass(eq=False)
class InternalErrors(Exception):
    """Alerts, by fingerprint, and groups, by key, over which something was raised."""

    alerts: dict[str, Culprit] = field(default_factory=dict)
    groups: dict[str, Culprit] = field(default_factory=dict)

    def __bool__(self) -> bool:
        return bool(self.alerts or self.groups)

    def __str__(self) -> str:
        return "; ".join(fault.words for fault in (*self.alerts.values(), *self.groups.values()))


def culprits(alerts: Sequence[Alert], decide: Callable[[Alert], object], receiver: str) -> dict[str, Culprit]:
    """Those of a group, by fingerprint, over which `decide` raises; none where it does so over several and over all."""
    found: dict[str, Culprit] = {}
    for alert in alerts:
        try:
            decide(alert)
        except Exception as error:  # noqa: BLE001 - the fault is what is asked for
            found[alert.fingerprint] = Culprit(error, (alert.alert_id,), receiver)
    return found if len(found) == 1 or len(found) < len(alerts) else {}


@dataclass(slots=True)
class _Pause:
    until: datetime
    tries: int
    over: bool = False


class Quarantine:
    """Of one leader."""

    def __init__(self) -> None:
        self._alerts: dict[str, _Pause] = {}
        self._groups: dict[str, _Pause] = {}

    def put(self, errors: InternalErrors, now: datetime) -> Iterator[tuple[Culprit, datetime, bool]]:
        """Each that is quarantined, until when, and whether for the first time."""
        for pauses, faults in ((self._alerts, errors.alerts), (self._groups, errors.groups)):
            for name, fault in faults.items():
                tries = pauses[name].tries + 1 if name in pauses else 1
                until = now + timedelta(seconds=_BACKOFF.pause(tries))
                pauses[name] = _Pause(until, tries)
                yield fault, until, tries == 1

    def holds(self, fingerprint: str) -> bool:
        return fingerprint in self._alerts and not self._alerts[fingerprint].over

    def groups(self) -> Mapping[str, datetime]:
        """By key, until when they are not flushed."""
        return {key: pause.until for key, pause in self._groups.items() if not pause.over}

    def next_at(self) -> datetime | None:
        return min((pause.until for pause in self._all() if not pause.over), default=None)

    def passed(self, now: datetime) -> bool:
        """Whether something is to be tried again from now on. What has been quiet for long enough is forgotten."""
        some = False
        for pause in self._all():
            if not pause.over and pause.until <= now:
                pause.over = some = True
        for pauses in (self._alerts, self._groups):
            for name in [name for name, pause in pauses.items() if pause.over and now - pause.until > FORGOTTEN_AFTER]:
                del pauses[name]
        return some

    def _all(self) -> list[_Pause]:
        return [*self._alerts.values(), *self._groups.values()]
