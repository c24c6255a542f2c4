"""`o9 alerts config simulate`: plays a script of alerts against a configuration, and shows who would be notified. Pure.

    start: 2026-01-05 09:00:00+00:00      # optional; only time intervals depend on it
    until: 2h                             # default: an hour after the last event
    happens:
      - {at: 0s, fires: {title: Drawdown, level: critical, optimization: opt-1}, message: 12% below the peak}
      - {at: 90s, resolved: {title: Drawdown, level: critical, optimization: opt-1}}
      - {at: 2m, silence: 'level="warning"', for: 1h, author: ana, comment: known}
      - {at: 3m, suppress: 'memory', for: 10m}        # as `suppress_alert`
      - {at: 5m, acknowledged: {title: Drawdown, level: critical, optimization: opt-1}, author: ana}

Each alert has a `title`; its default `level` is warning. `fires` may have `since`, how long the alert has fired, and
`for`, after which it ends. Events at the same time are applied in the order of the file, before notifications. Events
that cannot happen are refused: the end of an alert that never fired, or anything after `until`. The script is played
by the real engine on a simulated clock.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta
from typing import Annotated, Any

from pydantic import AfterValidator, Field, PlainValidator, model_validator

from o9.alerts.config.fields import Span, SpanOrZero, Words, as_text, level_of
from o9.alerts.config.schema import Configuration
from o9.alerts.pipeline.alert import Alert, Notice
from o9.alerts.pipeline.engine import Engine
from o9.alerts.pipeline.groups import Suppression
from o9.alerts.pipeline.matchers import parse
from o9.alerts.pipeline.stages import Silence, validated_silence
from o9.config.document import Document, DocumentError, read
from o9.model.errors import Faults, OptimizationAlertError, OptimizationValidationError
from o9.model.faults import Typed
from o9.model.optimization import as_utc
from o9.model.states import AlertLevel
from o9.text.escape import chat_line
from o9.text.format import duration

START = datetime(2026, 1, 5, tzinfo=UTC)
AFTERWARDS = timedelta(hours=1)
STEPS_LIMIT = 100_000
ALERTS_SHOWN = 10
YEARS = range(1970, 3001)


@dataclass(frozen=True, slots=True)
class ScriptEvent:
    """Something that happens: `what` is fires, resolved or acknowledged, with `alert`, or silence."""

    at: datetime
    what: str
    alert: Alert | None = None
    silence: Silence | None = None
    author: str = ""


@dataclass(frozen=True, slots=True)
class Script:
    start: datetime
    until: datetime
    events: tuple[ScriptEvent, ...]


@dataclass(frozen=True, slots=True)
class TimelineEntry:
    """A line of a timeline: an event, a notification, or why there was none."""

    at: datetime
    what: ScriptEvent | Notice | Suppression


def simulate(configuration: Configuration, script: Script) -> Iterator[TimelineEntry]:
    """Yield the timeline up to the script's end. Raises OptimizationAlertError if it takes too many steps."""
    engine = Engine(configuration)
    coming = list(reversed(script.events))
    for _ in range(STEPS_LIMIT):
        due = engine.due()
        now = min((at for at in (due, coming[-1].at if coming else None) if at is not None), default=None)
        if now is None or now > script.until:
            return
        while coming and coming[-1].at <= now:
            event = coming.pop()
            yield TimelineEntry(now, event)
            apply(engine, event)
        yield from (TimelineEntry(now, notice) for notice in by_receiver(engine.advance(now)))
        held = sorted(engine.drain().held, key=lambda each: (each.receiver, named(each.alert)))
        yield from (TimelineEntry(now, each) for each in held)
    raise OptimizationAlertError(f"it has not ended after {STEPS_LIMIT:,} steps; give the script an earlier `until`")


def by_receiver(notices: Iterable[Notice]) -> list[Notice]:
    """Return the notices of one time in the order of receivers and groups."""
    return sorted(notices, key=lambda each: (each.receiver, sorted(each.group_labels.items()), each.number))


def apply(engine: Engine, event: ScriptEvent) -> None:
    """Apply an event to the engine."""
    now, alert = event.at, event.alert
    if event.silence is not None:
        engine.put_silence(event.silence)
    elif alert is not None and event.what == "acknowledged":
        engine.acknowledge(alert.fingerprint, event.author)
    elif alert is not None:
        timeout = engine.configuration.resolve_timeout
        if timeout is not None and alert.ends_at is None:  # its source does not repeat it
            alert = replace(alert, ends_at=now + timeout, expected_end=True)
        engine.take([alert], now)


def columns(script: Script, entry: TimelineEntry) -> tuple[str, str, str]:
    """Return the time, the event or receiver, and the details, each on one line without control characters."""
    what = entry.what
    if isinstance(what, Notice):
        column, text = f"→ {what.receiver}", _notice_text(what)
    elif isinstance(what, Suppression):
        by = f": {what.decision.by}" if what.decision.by else ""
        column, text = f"✗ {what.receiver}", f"{named(what.alert)} ({what.decision.reason.text}{by})"
    else:
        column, text = what.what, _event_text(what)
    return _time(script, entry.at), chat_line(column), chat_line(text)


def named(alert: Alert) -> str:
    """Return an alert's title, with the other labels in braces."""
    labels = ", ".join(f"{name}={value}" for name, value in sorted(alert.labels.items()) if name != "title")
    return (alert.title + (f"{{{labels}}}" if labels else "")) or "{}"


# The script's file

_KINDS = {
    "fires": ("since", "for", "message"), "resolved": (), "acknowledged": ("author",),
    "silence": ("for", "author", "comment"), "suppress": ("for", "author", "comment"),
}  # fmt: skip
"""The kinds of entries, and the fields that each may have beside `at`."""


def _labels(labels: dict[str, str]) -> dict[str, str]:
    if not labels.get("title", "").strip():
        raise OptimizationValidationError("title", "it is missing; write in a few words what happens")
    try:
        level = level_of(labels.get("level", AlertLevel.WARNING.value))
    except ValueError as error:
        raise OptimizationValidationError("level", str(error)) from None
    return {name: value for name, value in labels.items() if value} | {"level": level.value}


def _moment(value: Any) -> datetime:
    try:
        at = datetime.fromisoformat(as_text(value))
    except ValueError:
        raise ValueError(f"{value!r:.80} is not a time; write one such as 2026-01-05 09:00:00+00:00") from None
    if at.year not in YEARS:
        raise ValueError(f"{value!r:.80} is not between the years {YEARS[0]} and {YEARS[-1]}")
    return as_utc(at)


Labels = Annotated[dict[str, Words], AfterValidator(_labels)]


class _Entry(Typed):
    at: SpanOrZero
    fires: Labels | None = None
    resolved: Labels | None = None
    acknowledged: Labels | None = None
    silence: Words | None = None
    suppress: Words | None = None
    since: Span | None = None
    lasts: Span | None = Field(None, alias="for")
    message: Words = ""
    author: Words = ""
    comment: Words = ""

    @property
    def kind(self) -> str:
        return next(kind for kind in _KINDS if getattr(self, kind) is not None)

    @model_validator(mode="after")
    def _is_one_thing(self) -> _Entry:
        given = {"for" if name == "lasts" else name for name in self.model_fields_set}
        kinds = [kind for kind in _KINDS if getattr(self, kind) is not None]
        if len(kinds) != 1:
            raise ValueError(f"it needs one of {', '.join(_KINDS)}" + (f", and has {len(kinds)}" if kinds else ""))
        faults = Faults()
        for name in given - {"at", kinds[0], *_KINDS[kinds[0]]}:
            faults.add(OptimizationValidationError(name, f"it has no meaning with `{kinds[0]}`; remove it"))
        if kinds[0] in ("silence", "suppress") and self.lasts is None:
            faults.add(OptimizationValidationError(kinds[0], "write its duration in `for`"))
        faults.refuse()
        return self


class _File(Typed):
    start: Annotated[datetime, PlainValidator(_moment)] = START
    until: Span | None = None
    happens: tuple[_Entry, ...]


def load_script(text: str | bytes, source: str = "the script") -> Script:
    """Parse a script. Raises DocumentError with all its faults and their lines."""
    document = Document.parse(text, source)
    given = read(_File, document)
    start, last = given.start, max((each.at for each in given.happens), default=timedelta(0))
    until = last + AFTERWARDS if given.until is None else given.until
    faults, events, fired = Faults(), list[ScriptEvent](), set[str]()
    for index, entry in sorted(enumerate(given.happens), key=lambda each: each[1].at):
        field = f"happens[{index}]"
        try:
            event = _event_of(entry, start, document.line_of(f"{field}.{entry.kind}"))
        except OptimizationValidationError as error:
            faults.add(OptimizationValidationError(f"{field}.{entry.kind}", error.problem))
            continue
        events.append(event)
        if entry.at > until:
            problem = f"it is after `until`, {duration(until)}, and would not be played"
            faults.add(OptimizationValidationError(field, problem))
        if event.what == "fires" and event.alert is not None:
            fired.add(event.alert.fingerprint)
        elif event.alert is not None and event.alert.fingerprint not in fired:
            problem = f"{named(event.alert)} has not fired by then"
            faults.add(OptimizationValidationError(field, problem))
    try:
        faults.refuse()
    except OptimizationValidationError as error:
        raise DocumentError(source, document.placed(error)) from None
    return Script(start, start + until, tuple(events))


def _event_of(entry: _Entry, start: datetime, line: int) -> ScriptEvent:
    """Raises OptimizationValidationError for an invalid silence."""
    at, kind, lasts = start + entry.at, entry.kind, entry.lasts
    if kind in ("silence", "suppress"):
        assert lasts is not None
        silence = Silence(
            f"line {line}", at, at + lasts, parse(entry.silence or ""), entry.suppress or "", entry.author,
            entry.comment,
        )  # fmt: skip
        return ScriptEvent(at, "silence", silence=validated_silence(silence, at), author=entry.author)
    labels: dict[str, str] = getattr(entry, kind)
    alert = Alert(
        labels=labels,
        starts_at=at - (entry.since or timedelta(0)),
        alert_id=f"line-{line}",
        optimization_id=labels.get("optimization", ""),
        level=AlertLevel(labels["level"]),
        title=labels["title"],
        message=entry.message,
        ends_at=at if kind == "resolved" else at + lasts if lasts is not None else None,
    )
    return ScriptEvent(at, kind, alert=alert, author=entry.author)


def _notice_text(notice: Notice) -> str:
    parts = [notice.kind.value, _listed(notice.firing)] if notice.firing else []
    if notice.resolved:
        parts += ["over" if notice.kind.value == "flapping" else "resolved", _listed(notice.resolved)]
    return f"{' '.join(parts)} ({notice.reason})"


def _listed(alerts: tuple[Alert, ...]) -> str:
    more = f" and {len(alerts) - ALERTS_SHOWN:,} more" if len(alerts) > ALERTS_SHOWN else ""
    return ", ".join(named(alert) for alert in alerts[:ALERTS_SHOWN]) + more


def _event_text(event: ScriptEvent) -> str:
    by = f" by {event.author}" if event.author else ""
    if event.silence is not None:
        return f"{event.silence} for {duration(event.silence.ends_at - event.silence.starts_at)}{by}"
    assert event.alert is not None
    alert, lasts = event.alert, ""
    if event.what == "fires" and alert.ends_at is not None:
        lasts = f" for {duration(alert.ends_at - event.at)}"
    return f"{named(alert)}{lasts}{by}"


def _time(script: Script, at: datetime) -> str:
    if script.start != START:
        return f"{at:%Y-%m-%d %H:%M:%S}"
    whole, rest = divmod((at - script.start) // timedelta(milliseconds=1), 1000)
    return f"{whole // 3600:>3}:{whole // 60 % 60:02}:{whole % 60:02}" + (f".{rest:03}" if rest else "    ")
