"""`alerts list`, `show` and `history`: read the record of alerts, and print a page or JSON.

Contract. Everything is read from the store, so all who share it see the same. Listing costs as much as there are firing
alerts; showing one, as much as was sent since it began. Nothing here imports Prefect or the channels.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import asdict
from datetime import datetime
from functools import partial
from itertools import chain, islice
from json import loads
from operator import itemgetter
from typing import Annotated, Any

import typer

from o9.cli.failures import help_only
from o9.cli.options import Json, Limit, PageLimit, StoreUrl
from o9.model.states import AlertLevel

if not help_only:
    from o9.alerts.pipeline.alert import NotifyReason
    from o9.alerts.pipeline.groups import suppressions_in
    from o9.alerts.service import repository
    from o9.alerts.service.leader import LEASE
    from o9.cli import console
    from o9.cli.commands.inspect import LIST_LIMIT
    from o9.cli.console import page_width, results, say, say_more, write_json, write_json_list
    from o9.cli.open_store import NEAR_AMONG, existing_store, option_for, pick, place_of
    from o9.cli.views.alerts import Listed, Notified, Shown, alert_view, alerts_view, history_view, over_at
    from o9.model.optimization import utc_now
    from o9.store import queries
    from o9.store.alerts.queries import Episode
    from o9.store.core.column_types import moment
    from o9.store.core.reading import PAGE_LIMIT, paged
    from o9.store.core.unit import Row
    from o9.store.store import Store


LAST_NOTICES = 4  # of a group, searched for receivers, since escalations go to others
NOT_DELIVERED = "no node delivers alerts now: new ones wait for `o9 serve`, an aggregator or the flow deliver_alerts"
_LEVELS = ", ".join(level.value for level in AlertLevel)


def list_(
    level: Annotated[
        AlertLevel | None, typer.Option(case_sensitive=False, metavar="LEVEL", help=f"Filter by level: {_LEVELS}.")
    ] = None,
    optimization: Annotated[str | None, typer.Option(metavar="ID", help="Filter by optimization.")] = None,
    everything: Annotated[bool, typer.Option("--all", help="Include resolved alerts.")] = False,
    resolved: Annotated[bool, typer.Option("--resolved", help="List resolved alerts only.")] = False,
    limit: Limit = None,
    store: StoreUrl = None,
    json: Json = False,
) -> None:
    """Shows who was notified of each, or why not. Prints the newest 50, unless --limit or --json is given."""
    if everything and resolved:
        raise typer.BadParameter("--all includes what --resolved lists: give only one of them")
    now, room = utc_now(), limit or (None if json else LIST_LIMIT)
    with existing_store(store) as opened:
        firing = [] if resolved else fires(opened, now, level, optimization)
        listed = with_notifications(opened, firing[:room])
        over = _over(opened, now, level, optimization) if everything or resolved else iter(())
        ended = map(Listed, islice(over, None if room is None else room - len(listed)))
        if json:
            write_json_list(_document(each, now) for each in chain(listed, ended))
            return
        past = list(ended)
        tables = [alerts_view(part, results().width, now) for part in (listed, past) if part]
        found = len(firing) + len(past) + sum(1 for _ in islice(over, 1))
        waits = any(map(_waits, listed)) and not _has_leader(opened)
    console.show(*[each for table in tables for each in ("", table)][1:])
    if not tables:
        state = "" if everything else "resolved " if resolved else "firing "
        matching = "matching " if level or optimization else ""
        say(f"no {matching}{state}alerts{'' if everything or resolved else '; --all includes resolved ones'}")
    if waits:
        say(NOT_DELIVERED)
    say_more(found, room)


def show(
    alert_id: Annotated[str, typer.Argument(metavar="ID", help="Id of an alert, or a unique prefix of it.")],
    store: StoreUrl = None,
    json: Json = False,
) -> None:
    """Prints everything that is known about it, uncut."""
    now = utc_now()
    with existing_store(store) as opened:
        row = existing_alert(opened, alert_id)
        episode, metadata = opened.read(queries.episodes, [row["episode"]])[row["episode"]]
        labels = loads(episode.labels)
        since = min(row["notified_at"], episode.starts_at)
        listed = with_notifications(opened, [episode])[0] if over_at(episode, now) is None else Listed(episode)
        page = Shown(
            listed=listed,
            row=row,
            labels=labels,
            metadata=metadata,
            notices=opened.read(queries.notices_about, episode.alert_id, labels, since),
            suppressed=opened.read(queries.suppressed, alert_id=episode.alert_id, limit=PAGE_LIMIT),
            waits=not _has_leader(opened),
            known=bool(episode.optimization_id) and opened.read(queries.get, episode.optimization_id) is not None,
            store=place_of(opened),
            option=option_for(store),
        )
    if json:
        document = {"metadata": metadata, "notices": page.notices, "suppressed": page.suppressed}
        write_json(_document(listed, now) | document | {"acknowledged_at": row["acknowledged_at"]})
    else:
        console.show(*alert_view(page, now), width=page_width())


def history(limit: PageLimit = None, store: StoreUrl = None, json: Json = False) -> None:
    """Prints the newest 50, or the newest 1000 with --json, unless --limit is given. The newest comes first."""
    wanted = limit or (PAGE_LIMIT if json else LIST_LIMIT)
    with existing_store(store) as opened:
        entries = repository.history(opened, min(PAGE_LIMIT, wanted + 1))
        ids = {name for entry in entries for name in _named_in(entry)}
        titles = {name: each.title for name, (each, _) in opened.read(queries.episodes, sorted(ids)).items()}
    if json:
        write_json(entries[:wanted])
    elif not entries:
        say("no notification was sent yet")
    else:
        console.show(history_view(entries[:wanted], titles, results().width))
        say_more(len(entries), wanted)


def existing_alert(store: Store, typed: str) -> Row:
    """Return the alert with this id, or the only recent one whose id begins with it. Raises OptimizationError."""
    row = store.read(queries.alert, typed)
    if row is None:
        newest = store.read(queries.alerts, limit=NEAR_AMONG)
        known = {each["alert_id"]: f"{each['title']} {each['optimization_id']}" for each in newest}
        row = store.read(queries.alert, pick(typed, known, "alert", "o9 alerts list --all", store))
        assert row is not None, "it was read in this moment"
    return row


def fires(
    store: Store, now: datetime, level: AlertLevel | None = None, optimization_id: str | None = None
) -> list[Episode]:
    """Return what fires now, newest first."""
    found = [
        each
        for each in repository.all_open(store)
        if over_at(each, now) is None
        and (level is None or each.level == level.value)
        and (optimization_id is None or each.optimization_id == optimization_id)
    ]
    return sorted(found, key=lambda each: (each.starts_at, each.alert_id), reverse=True)


def with_notifications(store: Store, episodes: list[Episode]) -> list[Listed]:
    """Return each with the receivers that were notified, and why others are not, as the groups are now."""
    if not episodes:
        return []
    out: dict[str, list[tuple[str, int]]] = {}
    held: dict[str, set[tuple[str, str]]] = {}
    wanted = {episode.fingerprint for episode in episodes}
    for key, (_, text) in store.read(queries.alert_groups).items():
        state = loads(text)
        for _, names in state["notified"]:
            for name in wanted.intersection(names):
                out.setdefault(name, []).append((key, state["number"]))
        for reason, by, names in suppressions_in(state):
            for name in wanted.intersection(names):
                held.setdefault(name, set()).add((reason.value, by))
    groups = {each for names in out.values() for each in names}
    last = [(key, number - back) for key, number in groups for back in range(LAST_NOTICES)]
    notices: dict[str, list[Row]] = {}
    for row in store.read(queries.notices, last):
        notices.setdefault(row["group_key"], []).append(row)
    suppressed = store.read(queries.suppressed_of, [episode.alert_id for episode in episodes])
    listed = []
    for episode in episodes:
        mine = [row for key, _ in out.get(episode.fingerprint, ()) for row in notices.get(key, ())]
        about = [row for row in mine if _is_about(row, episode.alert_id)] or mine
        by_receiver: dict[str, Notified] = {}
        for row in about:  # the newest first
            by_receiver.setdefault(row["receiver"], Notified(row["receiver"], row["at"], _outcome(row), _channels(row)))
        now_held = held.get(episode.fingerprint, set())
        why = [
            row
            for row in suppressed.get(episode.alert_id, {}).values()
            if (row["reason"], row["by"]) in now_held or (row["reason"] == NotifyReason.QUARANTINED.value and not mine)
        ]
        listed.append(Listed(episode, tuple(by_receiver.values()), tuple(why)))
    return listed


def _over(store: Store, now: datetime, level: AlertLevel | None, optimization_id: str | None) -> Iterator[Episode]:
    read = partial(store.read, queries.alerts, optimization_id, None if level is None else level.value, PAGE_LIMIT)
    received = paged(read, itemgetter("at", "alert_id"))
    while page := list(islice(received, PAGE_LIMIT)):
        firsts = [row["alert_id"] for row in page if row["alert_id"] == row["episode"]]
        found = store.read(queries.episodes, firsts)
        yield from (found[name][0] for name in firsts if name in found and over_at(found[name][0], now) is not None)


def _has_leader(store: Store) -> bool:
    held = store.read(queries.leader, LEASE)
    return held is not None and held["node"] is not None and store.read(queries.seconds_left, held["expires_at"]) > 0


def _waits(listed: Listed) -> bool:
    """Return whether a notification of it is still to be sent."""
    if not listed.notified:
        return not listed.held
    return any(channel["status"] == "pending" for each in listed.notified for channel in each.channels)


def _is_about(row: Row, alert_id: str) -> bool:
    return alert_id in row["firing"] or alert_id in row["resolved"] or row["firing_count"] > len(row["firing"])


def _outcome(row: Row) -> str:
    """The status of a notice over all its channels: one that was sent is enough."""
    statuses = [send["status"] for send in row["sends"]]
    return next((status for status in ("sent", "pending", "failed") if status in statuses), "no channel")


def _channels(row: Row) -> tuple[dict[str, Any], ...]:
    return tuple({name: send[name] for name in ("channel", "status", "error", "ended_at")} for send in row["sends"])


def _named_in(entry: Row) -> Iterable[str]:
    return [entry["alert_id"]] if entry["status"] == "suppressed" else [*entry["firing"][:1], *entry["resolved"][:1]]


def _document(listed: Listed, now: datetime) -> dict[str, Any]:
    """`notified` and `suppressed` are null if it is over: `alerts show` has them."""
    episode = listed.episode
    over = over_at(episode, now)
    return {name: getattr(episode, name) for name in _KEYS} | {
        "labels": loads(episode.labels),
        "resolved": over is not None,
        "resolved_at": moment(over) if over else None,
        "count": episode.notifications,
        "notified": None if over else [asdict(each) for each in listed.notified],
        "suppressed": None if over else [dict(each) for each in listed.held],
    }


_KEYS = (
    "alert_id", "optimization_id", "level", "title", "message", "starts_at", "ends_at", "resolved_by",
    "acknowledged_by",
)  # fmt: skip
