"""Random lives of alerts for the engine's property tests: configurations, what happens, and a player that notes all."""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime, timedelta

from hypothesis import strategies as st

from o9.alerts.config.schema import Configuration, load
from o9.alerts.pipeline import stages
from o9.alerts.pipeline.alert import Alert, Notice, NotifyReason
from o9.alerts.pipeline.engine import Engine, Snapshot
from o9.alerts.pipeline.groups import Suppression
from o9.alerts.pipeline.matchers import parse
from o9.alerts.pipeline.simulation import Script, TimelineEntry, columns
from o9.alerts.pipeline.stages import Silence
from o9.config.document import DocumentError, Fault
from o9.model.states import AlertLevel

START = datetime(2026, 1, 5, 9, 0, 30, tzinfo=UTC)


def faults_of(text: str) -> tuple[Fault, ...]:
    """Those for which a configuration is refused."""
    try:
        load(text)
    except DocumentError as error:
        return error.faults
    return ()


PLAIN = load("""
flapping: false
route: {receiver: desk, group_by: [title], group_wait: 5s, group_interval: 10s, repeat_interval: 35s}
receivers: [{name: desk, channels: [log]}]
""")
# On in each other minute.
_TIMES = ", ".join(f'{{start_time: "09:{minute:02}", end_time: "09:{minute + 1:02}"}}' for minute in range(0, 59, 2))
FULL = load(f"""
flapping: {{changes: 3, within: 40s, quiet: 20s}}
route:
  receiver: desk
  group_by: [title]
  group_wait: 5s
  group_interval: 10s
  repeat_interval: 35s
  escalate_after: 17s
  escalate_to: head
  routes:
    - {{receiver: log, continue: true, group_by: [book], group_wait: 0s}}
    - {{receiver: night, matchers: ['level="warning"'], active_time_intervals: [odd minutes], continue: true}}
    - {{receiver: quiet, matchers: ['level="warning"'], mute_time_intervals: [odd minutes], group_by: ['...']}}
    - {{receiver: nobody, matchers: [title=C]}}
receivers:
  - {{name: desk, channels: [log]}}
  - {{name: head, channels: [log]}}
  - {{name: log, channels: [log], send_resolved: false}}
  - {{name: night, channels: [log]}}
  - {{name: quiet, channels: [log]}}
  - {{name: nobody}}
inhibit_rules:
  - {{source_matchers: ['level="critical"'], target_matchers: ['level=~"warning|critical"'], equal: [book]}}
time_intervals:
  - {{name: odd minutes, time_intervals: [{{times: [{_TIMES}]}}]}}
""")

LABELS = [
    {"title": title, "level": level, "book": book}
    for title in ("A", "B", "C")
    for level in ("warning", "critical")
    for book in ("a", "b")
]


def written(script: Script, entries: Iterable[TimelineEntry]) -> str:
    """A timeline as a table: a line for each entry, with the time since the start; or its date where that was given."""
    given = [columns(script, entry) for entry in entries]
    width = max((len(column) for _, column, _ in given), default=0)
    return "".join(f"{at}  {column:<{width}}  {text}\n" for at, column, text in given)


@dataclass(frozen=True)
class Step:
    """After `pause` seconds: of the alert with these labels, or a silence."""

    pause: int
    what: str
    number: int
    lasts: int


steps = st.lists(
    st.builds(
        Step,
        pause=st.sampled_from([0, 1, 2, 3, 5, 8, 13, 30]),
        what=st.sampled_from(["fires"] * 5 + ["resolved"] * 4 + ["for", "old", "silence", "suppress", "acknowledged"]),
        number=st.integers(0, len(LABELS) - 1),
        lasts=st.sampled_from([2, 7, 15, 40]),
    ),
    min_size=1,
    max_size=25,
)


def alert(number: int, now: datetime, **fields: object) -> Alert:
    labels = LABELS[number]
    made = Alert(
        labels=labels,
        starts_at=now,
        alert_id=f"{number}-{now:%H%M%S}",
        optimization_id="",
        level=AlertLevel(labels["level"]),
        title=labels["title"],
    )
    return replace(made, **fields)  # type: ignore[arg-type]


def why(engine: Engine, fingerprint: str, now: datetime) -> list[tuple[str, NotifyReason | None]]:
    """By receiver: what holds the alert back, NOTHING_NEW where it was reported; None while it waits for its group."""
    known = engine._known.get(fingerprint)
    found: list[tuple[str, NotifyReason | None]] = []
    for slot in () if known is None else known.slots:
        group = slot.group
        if known is not None and group is not None and fingerprint in group.members:
            reason = stages.suppressed(known.alert, now, engine._context(slot.route, now)).reason
            waits = None if fingerprint not in group.firing else NotifyReason.NOTHING_NEW
            found.append((slot.route.receiver, waits if reason is NotifyReason.GOES_ON else reason))
    return found


@dataclass
class Player:
    """Plays steps; with `restarts`, with a new engine from the old one's snapshot before everything that happens."""

    configuration: Configuration
    restarts: bool = False
    notices: list[Notice] = field(default_factory=list)
    held: list[Suppression] = field(default_factory=list)
    stored: dict[str, tuple[datetime, dict[str, object]]] = field(default_factory=dict)
    """What a store would have of the groups, from `drain` alone."""
    overs: dict[str, list[datetime]] = field(default_factory=dict)
    """By fingerprint, the moments at which it was known to be over."""

    def __post_init__(self) -> None:
        self.now = START
        self.engine = Engine(self.configuration)

    def configure(self, configuration: Configuration) -> None:
        """Go on by another one."""
        self.configuration = configuration
        self.engine = Engine.restored(configuration, self.engine.snapshot(), self.now)

    def play(self, steps: Sequence[Step]) -> None:
        for step in steps:
            self.until(self.now + timedelta(seconds=step.pause))
            self._restart()
            self._do(step)
            self._advance()

    def until(self, end: datetime) -> None:
        while (due := self.engine.due()) is not None and due < end:
            self.now = max(due, self.now)
            self._restart()
            self._advance()
        self.now = end

    def _do(self, step: Step) -> None:
        now, engine = self.now, self.engine
        lasts = timedelta(seconds=step.lasts)
        if step.what == "silence":
            engine.put_silence(Silence("s", now, now + lasts, parse(f"book={LABELS[step.number]['book']}")))
        elif step.what == "suppress":
            engine.put_silence(Silence("p", now, now + lasts, pattern=LABELS[step.number]["title"]))
        elif step.what == "acknowledged":
            engine.acknowledge(alert(step.number, now).fingerprint, "ana")
        elif step.what == "resolved":
            engine.take([alert(step.number, now, ends_at=now)], now)
        elif step.what == "for":
            engine.take([alert(step.number, now, ends_at=now + lasts)], now)
        elif step.what == "old":
            engine.take([alert(step.number, now, starts_at=now - timedelta(hours=1))], now)
        else:
            engine.take([alert(step.number, now)], now)

    def _advance(self) -> None:
        self.notices += self.engine.advance(self.now)
        for name in (name for name, known in self.engine._known.items() if not known.firing):
            self.overs.setdefault(name, []).append(self.now)
        changes = self.engine.drain()
        self.held += changes.held
        for key, change in changes.groups.items():
            if change is None:
                self.stored.pop(key, None)
            else:
                self.stored[key] = change
        for key, due_at in changes.due.items():
            self.stored[key] = due_at, self.stored[key][1]

    def _restart(self) -> None:
        if self.restarts:
            snapshot = self.engine.snapshot()
            groups = {key: (due_at, json.loads(json.dumps(state))) for key, (due_at, state) in snapshot.groups.items()}
            snapshot = Snapshot(snapshot.alerts, snapshot.silences, groups)
            self.engine = Engine.restored(self.configuration, snapshot, self.now)
