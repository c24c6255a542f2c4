"""`o9 alerts config simulate`: a script of alerts against a configuration: who would be notified of what, and why not.

    start: 2026-01-05 09:00:00+00:00      # optional; it matters where there are time intervals
    until: 2h                             # optional; an hour after the last thing that happens
    happens:
      - {at: 0s, fires: {title: Drawdown, level: critical, optimization: opt-1}, message: 12 % below the peak}
      - {at: 90s, resolved: {title: Drawdown, level: critical, optimization: opt-1}}
      - {at: 2m, silence: 'level="warning"', for: 1h, author: ana, comment: known}
      - {at: 3m, suppress: 'memory', for: 10m}        # as `suppress_alert`
      - {at: 5m, acknowledged: {title: Drawdown, level: critical, optimization: opt-1}, author: ana}

Each alert has a `title`, and is a warning unless its `level` says otherwise. `fires` may have a `since`, how long it
has fired already, and a `for`: then it is over after that without a word. What happens at the same moment happens in
the order of the file, and before anyone is notified. What cannot happen is refused: the end of something that never
began, or a time outside the script's. The engine is the one that runs in earnest, over the script's clock. Pure.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta
from functools import partial

from o9.alerts.config.reading import Node, Reader, all_faults, level_of, span_of
from o9.alerts.config.schema import Configuration
from o9.alerts.pipeline.alert import Alert, expected_to_end, merged
from o9.alerts.pipeline.engine import Engine
from o9.alerts.pipeline.engine_state import Held
from o9.alerts.pipeline.matchers import parse
from o9.alerts.pipeline.notice import Notice
from o9.alerts.pipeline.silences import Silence, checked
from o9.model.errors import OptimizationAlertError, OptimizationValidationError
from o9.model.optimization import as_utc
from o9.model.states import AlertLevel
from o9.text.escape import chat_line
from o9.text.format import duration

START = datetime(2026, 1, 5, tzinfo=UTC)
AFTERWARDS = timedelta(hours=1)
LOOKS_LIMIT = 100_000
ALERTS_SHOWN = 10
YEARS = range(1970, 3001)


@dataclass(frozen=True, slots=True)
class Happening:
    """`what` is fires, resolved, acknowledged (of `alert`) or silence; `note` says why nothing comes of it."""

    at: datetime
    what: str
    alert: Alert | None = None
    silence: Silence | None = None
    author: str = ""
    note: str = ""


@dataclass(frozen=True, slots=True)
class Script:
    start: datetime
    until: datetime
    happenings: tuple[Happening, ...]


@dataclass(frozen=True, slots=True)
class Entry:
    """One line of a timeline: what happened, a notification, or why there was none."""

    at: datetime
    what: Happening | Notice | Held


def load_script(text: str, source: str = "the script") -> Script:
    """Raises OptimizationAlertError with all its faults, a line for each."""
    reader = Reader(text)
    script = Script(START, START, ())
    if reader.root is not None:
        script = _script(reader, reader.mapping(reader.root, ("start", "until", "happens"), ("happens",)))
    if reader.faults:
        raise OptimizationAlertError(all_faults(source, reader.faults))
    return script


def simulate(configuration: Configuration, script: Script) -> Iterator[Entry]:
    """Everything that happens until the script's end, in order. Raises OptimizationAlertError for one without end."""
    engine = Engine(configuration)
    known: dict[str, Alert] = {}
    coming = list(reversed(script.happenings))
    for _ in range(LOOKS_LIMIT):
        due = engine.due()
        now = min((at for at in (due, coming[-1].at if coming else None) if at is not None), default=None)
        if now is None or now > script.until:
            return
        while coming and coming[-1].at <= now:
            happening = coming.pop()
            yield Entry(now, _noted(happening, known, configuration.resolve_timeout))
            apply(engine, happening)
        notices = sorted(
            engine.advance(now), key=lambda each: (each.receiver, [*each.group_labels.items()], each.number)
        )
        yield from (Entry(now, notice) for notice in notices)
        held = sorted(engine.drain().held, key=lambda each: (each.receiver, named(each.alert)))
        yield from (Entry(now, each) for each in held)
    raise OptimizationAlertError(f"after {LOOKS_LIMIT:,} looks there is no end; give the script an earlier `until`")


def for_people(notices: Iterable[Notice]) -> list[Notice]:
    """Those of one moment by receiver and group; an engine has them in the order of its keys."""
    return sorted(notices, key=lambda each: (each.receiver, sorted(each.group_labels.items()), each.number))


def apply(engine: Engine, happening: Happening) -> None:
    """Lets it happen."""
    now, alert = happening.at, happening.alert
    if happening.silence is not None:
        engine.put_silence(happening.silence)
    elif alert is not None and happening.what == "acknowledged":
        engine.acknowledge(alert.fingerprint, happening.author)
    elif alert is not None:
        engine.take([expected_to_end(alert, now, engine.configuration.resolve_timeout)], now)


def written(script: Script, entries: Iterator[Entry]) -> str:
    """As a table for people: a line for each entry, with the time since the start; or its date where that was given."""
    given = [columns(script, entry) for entry in entries]
    width = max((len(column) for _, column, _ in given), default=0)
    return "".join(f"{at}  {column:<{width}}  {text}\n" for at, column, text in given)


def columns(script: Script, entry: Entry) -> tuple[str, str, str]:
    """When, who or what, and what of it; each on one line that steers no terminal."""
    what = entry.what
    if isinstance(what, Notice):
        column, text = f"→ {what.receiver}", _notice(what)
    elif isinstance(what, Held):
        by = f": {what.decision.by}" if what.decision.by else ""
        column, text = f"✗ {what.receiver}", f"{named(what.alert)} ({what.decision.reason.text}{by})"
    else:
        column, text = what.what, _happened(what)
    return _time(script, entry.at), chat_line(column), chat_line(text)


def named(alert: Alert) -> str:
    """Short, for a line: the title, and the other labels in braces."""
    labels = ", ".join(f"{name}={value}" for name, value in sorted(alert.labels.items()) if name != "title")
    return (alert.title + (f"{{{labels}}}" if labels else "")) or "{}"


# What may stand beside `at` in an entry of each kind.
_KINDS = {
    "fires": ("since", "for", "message"), "resolved": (), "acknowledged": ("author",),
    "silence": ("for", "author", "comment"), "suppress": ("for", "author", "comment"),
}  # fmt: skip


def _script(reader: Reader, found: Mapping[str, Node]) -> Script:
    start = reader.understood(found.get("start"), _moment)
    moment = partial(_at, start)
    read = [(node, each) for node in reader.items(found.get("happens")) if (each := _happening(reader, node, moment))]
    read.sort(key=lambda each: each[1].at)
    begins = start or START
    last = max((each.at for _, each in read), default=begins)
    said = reader.understood(found.get("until"), moment)
    until = said or last + AFTERWARDS
    script = Script(begins, until, tuple(each for _, each in read))
    if said is not None and said < begins:
        reader.fault(found["until"], f"it lies before `start`, {begins}")
        return script
    for node, each in read:
        if each.at < begins:
            reader.fault(node, f"it lies before `start`, {begins}")
        elif each.at > until:
            reader.fault(node, f"it lies behind `until`, {_time(script, until).strip()}; it would not be seen")
    _check_ends(reader, read, script)
    return script


def _check_ends(reader: Reader, read: Sequence[tuple[Node, Happening]], script: Script) -> None:
    """What is resolved or acknowledged has to have fired; `read` is in the order of time."""
    fired = [(node, each.alert) for node, each in read if each.what == "fires" and each.alert is not None]
    begun: set[str] = set()
    for node, each in read:
        if each.alert is None:
            continue
        mark = each.alert.fingerprint
        if each.what == "fires":
            begun.add(mark)
        elif mark not in begun:
            hints = [
                f"line {other.line} fires {named(alert)}" + (f" at {_time(script, alert.starts_at).strip()}" * same)
                for same in (True, False)
                for other, alert in fired
                if (alert.fingerprint == mark if same else alert.title == each.alert.title)
            ]
            hint = f"; {hints[0]}" if hints else ""
            reader.fault(node, f"{named(each.alert)} has not fired by then{hint}")


def _noted(happening: Happening, known: dict[str, Alert], resolve_timeout: timedelta | None) -> Happening:
    """With a note, where it is about what is over; `known`, by fingerprint, learns of it."""
    now, alert = happening.at, happening.alert
    if alert is None:
        return happening
    before = known.get(alert.fingerprint)
    if happening.what != "acknowledged":
        given = expected_to_end(alert, now, resolve_timeout)
        known[alert.fingerprint] = given if before is None else merged(before, given, now)
    if happening.what != "fires" and before is not None and before.resolved(now):
        return replace(happening, note="it is over already")
    return happening


def _happening(reader: Reader, node: Node, moment: Callable[[str], datetime]) -> Happening | None:
    found = reader.mapping(node, ("at", *_KINDS, "since", "for", "message", "author", "comment"), ("at",))
    if not found:
        return None
    at = reader.understood(found.get("at"), moment)
    lasts, since = reader.span(found.get("for")), reader.span(found.get("since"))
    author, comment = reader.text(found.get("author")) or "", reader.text(found.get("comment")) or ""
    given = [kind for kind in _KINDS if kind in found]
    if len(given) != 1:
        reader.fault(node, f"it needs one of {', '.join(_KINDS)}" + (f", and has {len(given)}" if given else ""))
        return None
    kind = given[0]
    for name in found:
        if name not in ("at", kind, *_KINDS[kind]):
            reader.fault(found[name], f"it means nothing beside `{kind}`; leave it out")
    if at is None:
        return None
    if kind in ("silence", "suppress"):
        if "for" not in found:
            reader.fault(found[kind], "for how long? say it in `for`")
        silence = None if lasts is None else _silence(reader, found[kind], kind, at, lasts)
        if silence is None:
            return None
        return Happening(at, "silence", silence=replace(silence, author=author, comment=comment), author=author)
    alert = _alert(reader, found[kind], at, reader.text(found.get("message")) or "")
    if kind == "resolved":
        alert = replace(alert, ends_at=at)
    elif lasts is not None:
        alert = replace(alert, ends_at=at + lasts)
    if since is not None:
        alert = replace(alert, starts_at=at - since)
    return Happening(at, kind, alert=alert, author=author)


def _silence(reader: Reader, node: Node, kind: str, at: datetime, lasts: timedelta) -> Silence | None:
    text = reader.text(node)
    if text is None:
        return None
    try:
        silence = Silence(
            f"line-{node.line}",
            at,
            at + lasts,
            matchers=parse(text) if kind == "silence" else (),
            pattern=text if kind == "suppress" else "",
        )
        return checked(silence, at)
    except OptimizationValidationError as error:
        reader.fault(node, error.problem)
        return None


def _alert(reader: Reader, node: Node, at: datetime, message: str) -> Alert:
    found = reader.mapping(node, required=("title",))
    level = reader.understood(found.pop("level", None), level_of) or AlertLevel.WARNING
    read = {
        name: reader.understood(each, _said) if name == "title" else reader.text(each) for name, each in found.items()
    }
    labels = {name: value for name, value in read.items() if value} | {"level": level.value}
    return Alert(
        labels=labels,
        starts_at=at,
        alert_id=f"line-{node.line}",
        optimization_id=labels.get("optimization", ""),
        level=level,
        title=labels.get("title", ""),
        message=message,
    )


def _said(title: str) -> str:
    if not title.strip():
        raise ValueError("it is empty; say in a few words what happens")
    return title


def _at(start: datetime | None, text: str) -> datetime:
    """A moment, or the time since the start."""
    if text[4:5] != "-":
        return (start or START) + span_of(text, zero=True)
    moment = _moment(text)
    if start is None:
        raise ValueError("this is a date; say in `start` when the script begins, or write the time since, such as 90s")
    return moment


def _moment(text: str) -> datetime:
    try:
        moment = datetime.fromisoformat(text)
    except ValueError:
        raise ValueError(f"{text!r:.80} is no moment; write one such as 2026-01-05 09:00:00+00:00") from None
    if moment.year not in YEARS:
        raise ValueError(f"{text!r:.80} is not in the years {YEARS[0]} to {YEARS[-1]}")
    return as_utc(moment)


def _notice(notice: Notice) -> str:
    parts = [notice.kind.value, _listed(notice.firing)] if notice.firing else []
    if notice.resolved:
        parts += ["over" if notice.kind.value == "flapping" else "resolved", _listed(notice.resolved)]
    return f"{' '.join(parts)} ({notice.reason})"


def _listed(alerts: tuple[Alert, ...]) -> str:
    more = f" and {len(alerts) - ALERTS_SHOWN:,} more" if len(alerts) > ALERTS_SHOWN else ""
    return ", ".join(named(alert) for alert in alerts[:ALERTS_SHOWN]) + more


def _happened(happening: Happening) -> str:
    by = f" by {happening.author}" if happening.author else ""
    if happening.silence is not None:
        return f"{happening.silence} for {duration(happening.silence.ends_at - happening.silence.starts_at)}{by}"
    assert happening.alert is not None
    alert, lasts = happening.alert, ""
    if happening.what == "fires" and alert.ends_at is not None:
        lasts = f" for {duration(alert.ends_at - happening.at)}"
    return f"{named(alert)}{lasts}{by}" + (f" ({happening.note})" if happening.note else "")


def _time(script: Script, at: datetime) -> str:
    if script.start != START:
        return f"{at:%Y-%m-%d %H:%M:%S}"
    whole, rest = divmod((at - script.start) // timedelta(milliseconds=1), 1000)
    return f"{whole // 3600:>3}:{whole // 60 % 60:02}:{whole % 60:02}" + (f".{rest:03}" if rest else "    ")
