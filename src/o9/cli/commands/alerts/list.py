"""`alerts list`, `show`, `history` and `silences`: read the record of alerts, print a page or JSON.

Contract. What is said of an alert comes from the store alone, and so is the same for everybody who shares it. Listing
costs what fires, showing one what was sent since it began. Nothing here imports Prefect, or the channels.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator
from dataclasses import asdict
from datetime import datetime
from itertools import islice
from typing import Any

from rich.text import Text

from o9.alerts.pipeline.groups import held_in
from o9.alerts.pipeline.reasons import Reason
from o9.alerts.service.leader import LEASE
from o9.alerts.service.repository import history
from o9.cli.commands.inspect import LIST_LIMIT, PAGE_WIDTH
from o9.cli.console import emit, results, say, write_json, write_json_list
from o9.cli.failures import DONE
from o9.cli.open_store import existing_store, option_for, place_of
from o9.cli.views.alerts import (
    Listed,
    Notifications,
    Notified,
    Shown,
    alert_view,
    alerts_view,
    history_view,
    silences_view,
)
from o9.model.errors import OptimizationError
from o9.model.optimization import utc_now
from o9.model.states import AlertLevel
from o9.store import queries
from o9.store.alerts.queries import PAGE_LIMIT, Episode
from o9.store.core.column_types import moment
from o9.store.core.unit import Row
from o9.store.store import Store
from o9.text.escape import shown
from o9.text.suggest import did_you_mean, near

NEAR_AMONG = 1_000  # how many of the newest ids are searched for one like a mistyped id
SHORTEST_HINT = 3  # letters, by which titles are searched
LAST_NOTICES = 4  # of a group, that are searched for receivers: escalations go to others
NOBODY_DECIDES = "no node delivers alerts now: new ones wait for `o9 serve`, an aggregator or the flow deliver_alerts"


def list_alerts(
    url: str | None,
    level: AlertLevel | None,
    optimization_id: str | None,
    limit: int | None,
    *,
    everything: bool,
    resolved: bool,
    as_json: bool,
) -> int:
    """What fires, the newest first; then, or instead, what is over."""
    now, wanted = utc_now(), None if as_json else LIST_LIMIT
    with existing_store(url) as store:
        firing = [] if resolved else fires(store, now, level, optimization_id)
        shown_firing = firing[: limit or wanted]
        over: Iterator[Episode] = iter(())
        if (everything or resolved) and (limit is None or len(shown_firing) < limit):
            over = _over(store, now, level, optimization_id)
        room = None if limit is None else limit - len(shown_firing)
        listed = with_notifications(store, shown_firing)
        if as_json:
            ended = (_document(Listed(episode), now) for episode in islice(over, room))
            write_json_list([*(_document(each, now) for each in listed), *ended])
            return DONE
        ended_shown = list(islice(over, LIST_LIMIT if room is None else room))
        more = len(firing) > len(shown_firing) or next(over, None) is not None
        waits = any(_waits(each.notifications) for each in listed)
        waits = waits and not _somebody_decides(store)
    console = results()
    tables = [alerts_view(part, console.width, now) for part in (listed, list(map(Listed, ended_shown))) if part]
    for number, table in enumerate(tables):
        emit(console, *([Text()] if number else []), table)
    if not tables:
        what = "no such alert" if level or optimization_id else "nothing"
        state = "is over" if resolved else "fires or is over" if everything else "fires; --all shows what is over"
        say(f"{what} {state}")
    if waits:
        say(NOBODY_DECIDES)
    if more:
        say(f"the newest {len(shown_firing) + len(ended_shown)}; there are more: --limit N shows them")
    return DONE


def show_alert(url: str | None, alert_id: str, *, as_json: bool) -> int:
    """Everything that is known of one."""
    now = utc_now()
    with existing_store(url) as store:
        row = store.read(queries.alert, alert_id)
        if row is None:
            raise OptimizationError(unknown_alert(store, alert_id))
        episode, metadata = store.read(queries.episodes, [row["episode"]])[row["episode"]]
        labels = json.loads(episode.labels)
        since = min(row["notified_at"], episode.starts_at)
        listed = with_notifications(store, [episode])[0] if over_at(episode, now) is None else Listed(episode)
        page = Shown(
            listed=listed,
            row=row,
            labels=labels,
            metadata=metadata,
            notices=store.read(queries.notices_about, episode.alert_id, labels, since),
            suppressed=store.read(queries.suppressed, alert_id=episode.alert_id, limit=PAGE_LIMIT),
            waits=not _somebody_decides(store),
            known=bool(episode.optimization_id) and store.read(queries.get, episode.optimization_id) is not None,
            store=place_of(store),
            option=option_for(url),
        )
    if as_json:
        out = {"metadata": metadata, "notices": page.notices, "suppressed": page.suppressed}
        write_json(_document(listed, now) | out | {"acknowledged_at": row["acknowledged_at"]})
        return DONE
    console = results()
    console.width = min(console.width, PAGE_WIDTH)
    emit(console, *alert_view(page, console.width, now))
    return DONE


def show_history(url: str | None, limit: int | None, *, as_json: bool) -> int:
    """What was sent, and what was not and why, newest first."""
    wanted = limit or (PAGE_LIMIT if as_json else LIST_LIMIT)
    with existing_store(url) as store:
        read = min(PAGE_LIMIT, wanted + 1)
        entries = history(store, read)
        ids = {name for entry in entries for name in _named_in(entry)}
        titles = {name: each.title for name, (each, _) in store.read(queries.episodes, sorted(ids)).items()}
    if as_json:
        write_json(entries[:wanted])
        return DONE
    if not entries:
        say("no notification was sent yet")
        return DONE
    console = results()
    emit(console, history_view(entries[:wanted], titles, console.width))
    if len(entries) > wanted:
        say(f"the newest {wanted}; there are more: --limit N shows them, up to {PAGE_LIMIT}")
    return DONE


def show_silences(url: str | None, *, as_json: bool) -> int:
    with existing_store(url) as store:
        rows = store.read(queries.silences)
        muted = [] if as_json or not rows else fires(store, utc_now(), None, None)
    if as_json:
        write_json(rows)
    elif rows:
        console = results()
        emit(console, silences_view(rows, muted, console.width, utc_now()))
    else:
        say("nothing is silenced, and will not be; `o9 alerts silence 'title=\"…\"' --for 2h` does it")
    return DONE


def fires(
    store: Store, now: datetime, level: AlertLevel | None = None, optimization_id: str | None = None
) -> list[Episode]:
    """What fires now, the newest first."""
    found, after = [], (0, "")
    while page := store.read(queries.open_episodes, after, limit=PAGE_LIMIT):
        after = page[-1].changed, page[-1].alert_id
        found += [
            each
            for each in page
            if over_at(each, now) is None
            and (level is None or each.level == level.value)
            and (optimization_id is None or each.optimization_id == optimization_id)
        ]
    return sorted(found, key=lambda each: (each.starts_at, each.alert_id), reverse=True)


def over_at(episode: Episode, now: datetime) -> str | None:
    """Since when it is over; None while it fires."""
    if episode.resolved_at is not None:
        return episode.resolved_at
    return episode.ends_at if episode.ends_at is not None and episode.ends_at <= moment(now) else None


def with_notifications(store: Store, episodes: list[Episode]) -> list[Listed]:
    """Each with the receivers that were notified, and why others are not, as the groups are now."""
    if not episodes:
        return []
    out: dict[str, list[tuple[str, int]]] = {}
    held: dict[str, set[tuple[str, str]]] = {}
    asked = {episode.fingerprint for episode in episodes}
    for key, (_, text) in store.read(queries.alert_groups).items():
        state = json.loads(text)
        for _, names in state["notified"]:
            for name in asked.intersection(names):
                out.setdefault(name, []).append((key, state["number"]))
        for reason, by, names in held_in(state):
            for name in asked.intersection(names):
                held.setdefault(name, set()).add((reason.value, by))
    groups = {each for names in out.values() for each in names}
    last = [(key, number - back) for key, number in groups for back in range(LAST_NOTICES)]
    notices: dict[str, list[Row]] = {}
    for row in store.read(queries.last_notices, last):
        notices.setdefault(row["group_key"], []).append(row)
    suppressed = store.read(queries.suppressed_of, [episode.alert_id for episode in episodes])
    listed = []
    for episode in episodes:
        mine = [row for key, _ in out.get(episode.fingerprint, ()) for row in notices.get(key, ())]
        about = [row for row in mine if _tells_of(row, episode.alert_id)] or mine
        by_receiver: dict[str, Notified] = {}
        for row in about:  # the newest first
            by_receiver.setdefault(row["receiver"], Notified(row["receiver"], row["at"], _outcome(row), _channels(row)))
        now_held = held.get(episode.fingerprint, set())
        why = [
            row
            for row in suppressed.get(episode.alert_id, {}).values()
            if (row["reason"], row["by"]) in now_held or (row["reason"] == Reason.QUARANTINED.value and not mine)
        ]
        listed.append(Listed(episode, Notifications(tuple(by_receiver.values()), tuple(why))))
    return listed


def unknown_alert(store: Store, alert_id: str) -> str:
    """With those that are like it among the newest: by id, title or optimization."""
    newest = store.read(queries.alerts, limit=NEAR_AMONG)
    ids = [row["alert_id"] for row in newest]
    wanted = alert_id.casefold()
    likely = [each for each in ids if wanted and each.casefold().startswith(wanted)]
    if len(wanted) >= SHORTEST_HINT:
        likely += [
            row["alert_id"] for row in newest if wanted in f"{row['title']}\n{row['optimization_id']}".casefold()
        ]
    hint = did_you_mean(likely + near(alert_id, ids, n=3)) or "`o9 alerts list --all` shows them"
    return f"there is no alert {shown(repr(alert_id))} in {store.name}; {hint}"


def _over(store: Store, now: datetime, level: AlertLevel | None, optimization_id: str | None) -> Iterator[Episode]:
    before = None
    wanted = None if level is None else level.value
    while page := store.read(
        queries.alerts, optimization_id=optimization_id, level=wanted, limit=PAGE_LIMIT, before=before
    ):
        before = page[-1]["at"], page[-1]["alert_id"]
        firsts = [row["alert_id"] for row in page if row["alert_id"] == row["episode"]]
        found = store.read(queries.episodes, firsts)
        yield from (found[name][0] for name in firsts if name in found and over_at(found[name][0], now) is not None)


def _somebody_decides(store: Store) -> bool:
    held = store.read(queries.leader, LEASE)
    return held is not None and held["node"] is not None and store.read(queries.seconds_left, held["expires_at"]) > 0


def _waits(notifications: Notifications) -> bool:
    """Whether a notification of it is still to be sent."""
    if not notifications.notified:
        return not notifications.held
    return any(channel["status"] == "pending" for each in notifications.notified for channel in each.channels)


def _tells_of(row: Row, alert_id: str) -> bool:
    return alert_id in row["firing"] or alert_id in row["resolved"] or row["firing_count"] > len(row["firing"])


def _outcome(row: Row) -> str:
    """Of a notice over its channels: one that was sent is enough."""
    statuses = [send["status"] for send in row["sends"]]
    return next((status for status in ("sent", "pending", "failed") if status in statuses), "no channel")


def _channels(row: Row) -> tuple[dict[str, Any], ...]:
    return tuple({name: send[name] for name in ("channel", "status", "error", "ended_at")} for send in row["sends"])


def _named_in(entry: Row) -> Iterable[str]:
    return [entry["alert_id"]] if entry["status"] == "suppressed" else [*entry["firing"][:1], *entry["resolved"][:1]]


def _document(listed: Listed, now: datetime) -> dict[str, Any]:
    """`notified` and `suppressed` are null where it is over: `alerts show` has them."""
    episode = listed.episode
    over, notifications = over_at(episode, now), listed.notifications
    return {
        "alert_id": episode.alert_id,
        "optimization_id": episode.optimization_id,
        "level": episode.level,
        "title": episode.title,
        "message": episode.message,
        "labels": json.loads(episode.labels),
        "starts_at": episode.starts_at,
        "ends_at": episode.ends_at,
        "resolved": over is not None,
        "resolved_at": over,
        "resolved_by": episode.resolved_by,
        "acknowledged_by": episode.acknowledged_by,
        "count": episode.notifications,
        "notified": None if over else [asdict(each) for each in notifications.notified],
        "suppressed": None if over else [dict(each) for each in notifications.held],
    }
