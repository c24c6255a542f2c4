"""Conversion between alerts, silences and notices, and the store's rows."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from typing import Any

from o9.alerts.messages.view import CLOCKS_DIFFER
from o9.alerts.pipeline.alert import Alert, Notice, NoticeKind, fingerprint_of, is_expired, labels_of
from o9.alerts.pipeline.groups import TrackedAlert
from o9.alerts.pipeline.matchers import format_matchers, parse
from o9.alerts.pipeline.stages import Damping, Silence, changes_of, recent_changes
from o9.model.errors import OptimizationValidationError
from o9.model.optimization import OptimizationAlert, as_utc, utc_now
from o9.model.states import AlertLevel
from o9.model.validation import validate_alert
from o9.store import queries
from o9.store.alerts.episodes import NewAlert
from o9.store.alerts.outbox import NewNotice
from o9.store.alerts.queries import Episode
from o9.store.alerts.silences import AddSilence
from o9.store.core.column_types import free_text, moment, to_json
from o9.store.core.unit import Row
from o9.store.store import Store

MESSAGE_LIMIT = 20_000
PAGE = 5_000
MAY_BE_DOUBLE = "it may be a duplicate, as it is unknown whether this arrived before: "
_SENT = (
    "id", "status", "receiver", "channel", "kind", "reason", "group_key", "number", "labels", "firing", "resolved",
    "firing_count", "resolved_count", "ended_at", "error", "tries",
)  # fmt: skip
_NOTHING: Mapping[str, Any] = {}
_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_LEVELS = {level.value: level for level in AlertLevel}


def new_alert_of(given: OptimizationAlert, resolve_timeout: timedelta | None) -> NewAlert:
    """Return the alert in the form that the store keeps. A message that is too long is cut, with a note.

    resolve_timeout: after which it is resolved unless it is repeated. Raises OptimizationValidationError.
    """
    if isinstance(given, OptimizationAlert) and not isinstance(given.level, AlertLevel):
        given = replace(given)  # converts a level that was assigned as text
    validate_alert(given)
    if len(given.message) > MESSAGE_LIMIT:
        cut = f"\n[cut: the first {MESSAGE_LIMIT:,} of {len(given.message):,} characters]"
        given = replace(given, message=given.message[:MESSAGE_LIMIT] + cut)
    labels = labels_of(given)
    ends_at = _ended(given) if given.resolved else None
    expected = ends_at is None and resolve_timeout is not None
    if expected and resolve_timeout is not None:
        ends_at = utc_now() + resolve_timeout
    return NewAlert(
        given.alert_id, fingerprint_of(labels), to_json(labels), given.optimization_id, given.level._value_,
        free_text(given.title), free_text(given.message), to_json(given.metadata), moment(given.timestamp),
        None if ends_at is None else moment(ends_at), int(expected),
    )  # fmt: skip


def _ended(given: OptimizationAlert) -> datetime:
    """Return the end of a resolved alert, at most now: another machine's clock may be ahead."""
    ends_at, now = as_utc(given.resolved_at or given.timestamp), utc_now()
    if ends_at > now + CLOCKS_DIFFER:
        raise OptimizationValidationError(
            "resolved_at", f"{ends_at} is in the future; send the alert as resolved once it is over"
        )
    return min(ends_at, now)


def alert_in(episode: Episode, metadata: Mapping[str, Any] | None = None, *, fires: bool = False) -> Alert:
    """Return the alert of an episode. fires: as it was before its end."""
    ends_at = None if fires else episode.resolved_at or episode.ends_at
    return Alert(
        json.loads(episode.labels),
        datetime.fromisoformat(episode.starts_at),
        episode.alert_id,
        episode.optimization_id,
        _LEVELS[episode.level],
        episode.title,
        episode.message,
        None if ends_at is None else datetime.fromisoformat(ends_at),
        bool(episode.expected_end) and episode.resolved_at is None,
        metadata or {},
        episode.fingerprint,
        not fires and is_expired(episode.resolved_by),
    )


def all_open(store: Store) -> Iterator[Episode]:
    """Yield the episodes that fire or whose end has not been processed. Blocks."""
    after = (0, "")
    while episodes := store.read(queries.open_episodes, after, limit=PAGE):
        yield from episodes
        after = episodes[-1].changed, episodes[-1].alert_id


def known_of(episodes: Sequence[Episode], cursor: int, now: datetime, damping: Damping | None) -> TrackedAlert:
    """Return the state of an alert in the engine, from its open episodes, in the order of their start.

    Its end has been processed if the engine had read it, which `cursor` shows.
    """
    *earlier, episode = episodes
    alert = alert_in(episode)
    ended = episode.resolved_at is not None and episode.changed <= cursor
    counted = [*(alert_in(each) for each in earlier), alert if ended else replace(alert, ends_at=None)]
    changes: tuple[datetime, ...] = ()
    if damping is not None:
        for at in changes_of(counted, now):
            changes = (*recent_changes(changes, at, damping), at)
    over = tuple((datetime.fromisoformat(each.resolved_at), each.alert_id) for each in earlier if each.resolved_at)
    return TrackedAlert(alert, (), not ended, episode.acknowledged_by or "", over, changes)


def alert_of_row(row: Row, now: datetime) -> OptimizationAlert:
    """Return an alert in its public form, from a row of `queries.alerts`."""
    ends_at = row["resolved_at"] or (row["ends_at"] if row["ends_at"] and row["ends_at"] <= moment(now) else None)
    return OptimizationAlert(
        alert_id=row["alert_id"],
        optimization_id=row["optimization_id"],
        level=_LEVELS[row["level"]],
        title=row["title"],
        message=row["message"],
        timestamp=datetime.fromisoformat(row["at"]),
        resolved=ends_at is not None,
        resolved_at=None if ends_at is None else datetime.fromisoformat(ends_at),
        metadata=row["metadata"],
    )


def new_notice(notice: Notice, channels: Sequence[str]) -> NewNotice:
    return NewNotice(
        notice.group_key, notice.number, notice.receiver, notice.kind.value, notice.reason, moment(notice.at),
        to_json(dict(notice.group_labels)), [alert.alert_id for alert in notice.firing],
        [alert.alert_id for alert in notice.resolved], channels, notice.known,
    )  # fmt: skip


def notice_in(
    row: Row,
    episodes: Mapping[str, tuple[Episode, Mapping[str, Any]]],
    counted: Mapping[str, tuple[str, str]] = _NOTHING,
) -> Notice:
    """Return the notice of a claimed notification, without alerts that have been pruned.

    counted: the levels and titles of alerts that are not shown.
    """
    alike = {of: Alert({}, _EPOCH, "", "", _LEVELS[of[0]], of[1], fingerprint="-") for of in {*counted.values()}}

    def alerts(names: Sequence[str], *, fires: bool) -> tuple[Alert, ...]:
        found = [
            alert_in(*episodes[name], fires=fires) if name in episodes else alike.get(counted.get(name, ("", "")))
            for name in names
        ]
        return tuple(alert for alert in found if alert is not None)

    begins = len(row["firing"]) - row["known"]
    known = alerts(row["firing"][begins:], fires=True)  # they fired when the notice was made
    return Notice(
        receiver=row["receiver"],
        group_key=row["group_key"],
        number=row["number"],
        group_labels=row["labels"],
        kind=NoticeKind(row["kind"]),
        at=datetime.fromisoformat(row["at"]),
        firing=(*alerts(row["firing"][:begins], fires=True), *known),
        resolved=alerts(row["resolved"], fires=False),
        reason=f"{MAY_BE_DOUBLE}{row['reason']}" if row["may_be_double"] else row["reason"],
        may_be_double=bool(row["may_be_double"]),
        known=len(known),
    )


def history(store: Store, limit: int) -> list[Row]:
    """Return notifications (sent, pending, failed) and suppressed alerts, newest first, JSON-ready. Blocks.

    `limit` is 1 to 1000; raises OptimizationValidationError.
    """
    sent = [
        {"at": row["created_at"]} | {name: row[name] for name in _SENT}
        for row in store.read(queries.notifications, limit=limit)
    ]
    reasons = [{**row, "status": "suppressed"} for row in store.read(queries.suppressed, limit=limit)]
    return sorted([*sent, *reasons], key=lambda entry: str(entry["at"]), reverse=True)[:limit]


def add_silence(silence: Silence) -> AddSilence:
    return AddSilence(
        silence.silence_id, silence.starts_at, silence.ends_at,
        format_matchers(silence.matchers) if silence.matchers else "", silence.pattern, silence.author, silence.comment,
    )  # fmt: skip


def silence_in(row: Row) -> Silence:
    return Silence(
        row["silence_id"],
        datetime.fromisoformat(row["starts_at"]),
        datetime.fromisoformat(row["ends_at"]),
        parse(row["matchers"]) if row["matchers"] else (),
        row["pattern"],
        row["author"],
        row["comment"],
    )
