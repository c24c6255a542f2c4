"""The pages of alerts, notifications and silences. Pure: from rows of the store to renderables.

Contract. Fits 60 columns or more. An alert's id is never cut, and on the page of one alert nothing is. Text from people
and programs is escaped. Times are in the reader's time zone.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any

from rich.cells import cell_len
from rich.console import RenderableType
from rich.padding import Padding
from rich.table import Table
from rich.text import Text

from o9.alerts.messages.view import UNTITLED, labelled, subject_of
from o9.alerts.pipeline.alert import Alert, ended_by_text, reason_text
from o9.alerts.pipeline.stages import Silence
from o9.cli.console import Cells, facts_table, indented, plain_table, table_of
from o9.cli.views import words
from o9.model.states import AlertLevel
from o9.store.alerts.queries import Episode
from o9.store.core.unit import Row
from o9.text.cut import cut
from o9.text.escape import shown
from o9.text.format import duration, figure, local_moment, local_time

WIDE = 150  # columns of a terminal in which the whole table fits
TITLE_SHOWN = 90  # characters in a list; `show` prints all
LABELS_SHOWN = 80
BY_SHOWN = 13
IDS_WIDTH = 36
FIXED = ("level", "since")
ROOM_FOR_YEARS = 100
LEVELS = {
    AlertLevel.INFO.value: "cyan",
    AlertLevel.WARNING.value: "yellow",
    AlertLevel.ERROR.value: "red",
    AlertLevel.CRITICAL.value: "bold red",
}
_OUTCOMES = {"sent": "green", "pending": "yellow", "failed": "red", "no channel": "red"}
_NOT_SENT = {"pending": "not sent yet", "failed": "failed", "no channel": "no channel"}


@dataclass(frozen=True)
class Notified:
    """The last message to a receiver: its status, and the status of each channel."""

    receiver: str
    at: str
    status: str
    channels: tuple[Mapping[str, Any], ...] = ()


@dataclass(frozen=True)
class Listed:
    """An alert with the receivers that were notified while it fires, and the decisions that suppress it now."""

    episode: Episode
    notified: tuple[Notified, ...] = ()
    held: tuple[Row, ...] = ()


@dataclass(frozen=True)
class Shown:
    """The content of the page of one alert. `row` is the alert with the id that was asked for.

    waits: no node delivers alerts. known: its optimization is in this store.
    """

    listed: Listed
    row: Row
    labels: Mapping[str, str]
    metadata: Mapping[str, Any]
    notices: Sequence[Row]
    suppressed: Sequence[Row]
    waits: bool
    known: bool
    store: str
    option: str = ""


def alerts_view(listed: Sequence[Listed], width: int, now: datetime) -> Table:
    """The alerts in the given order; all of them fire, or all are over. A narrow terminal gets several lines each."""
    over, wide = over_at(listed[0].episode, now) is not None, width >= WIDE
    last = "ended" if over else "notified"
    rows = [_cells(each, now, last, bare=not wide) for each in listed]
    if wide:
        optional = ("optimization", "labels", "acknowledged")
        ids = ["id"] if max(cell_len(row["id"].plain) for row in rows) <= IDS_WIDTH else []
        hidden = [name for name in optional if not any(row[name] for row in rows)]
        table = table_of(rows, hidden, fixed=[*FIXED, *ids], times=["since", "ended"])
    else:
        table = plain_table("level", "alert", last, fixed=FIXED)
        for row in rows:
            alert = [row[name] for name in ("title", "optimization", "labels", "id") if row[name]]
            by: list[str | Text] = ["\nacknowledged by ", row["acknowledged"]] if row["acknowledged"] else []
            table.add_row(
                row["level"], Text("\n").join(alert), Text.assemble("since ", row["since"], "\n", row[last], *by)
            )
    return table


def _cells(listed: Listed, now: datetime, last: str, *, bare: bool) -> dict[str, Text]:
    """One row by heading, in the order of columns."""
    episode = listed.episode
    labels = json.loads(episode.labels)
    others = labelled(labels, episode.title, episode.level, episode.optimization_id)
    ended = last == "ended"
    return {
        "level": _level(episode.level),
        "title": Text(cut(_title(episode.title), TITLE_SHOWN), style="bold"),
        "optimization": Text(shown(subject_of(labels, episode.optimization_id))),
        "labels": Text(cut(shown(others), LABELS_SHOWN)),
        "since": _since(episode, now, short=True, bare=bare),
        "acknowledged": Text(shown(episode.acknowledged_by or "")),
        last: _ended(episode, now, short=True) if ended else notifications_text(listed, short=True),
        "id": Text(shown(episode.alert_id), style="dim"),
    }


def notifications_text(listed: Listed, *, short: bool = False) -> Text:
    """`desk, head (failed)`; `desk: silenced (3f2a9c)`; `not yet`. short: long ids are cut."""
    out = Text()
    for each in listed.notified:
        out.append(", " if out else "").append(shown(each.receiver))
        statuses = [(each.status, "")] if each.status in _NOT_SENT else []
        for status, channel in statuses or [(one["status"], f"{shown(one['channel'])}: ") for one in each.channels]:
            if status in _NOT_SENT:
                out.append(f" ({channel}{_NOT_SENT[status]})", style=_OUTCOMES[status])
    receivers = {each.receiver for each in listed.notified}
    for row in listed.held:
        now = "now " if row["receiver"] in receivers else ""
        why = why_not(row | {"by": cut(row["by"], BY_SHOWN) if short else row["by"]})
        out.append("; " if out else "").append(f"{shown(row['receiver'])}: {now}{why}", style="yellow")
    return out or Text("not yet", style="dim")


def why_not(row: Row) -> str:
    """`silenced (3f2a9c)`, `inhibited (Store away)`"""
    text = reason_text(row["reason"])
    return shown(f"{text} ({row['by']})" if row["by"] else text)


def alert_view(page: Shown, now: datetime) -> list[RenderableType]:
    """The page of `o9 alerts show`."""
    episode = page.listed.episode
    over = over_at(episode, now) is not None
    state = Text("resolved", style="green") if over else Text("firing", style=LEVELS[episode.level])
    head = Text.assemble(_level(episode.level), "  ", (_title(episode.title), "bold"), "  ", state)
    out: list[RenderableType] = [head, *[Text(shown(line)) for line in episode.message.splitlines()], Text()]
    out += [facts_table(_facts(page, now, over=over)), Text()]
    if page.notices:
        out += [Text("Notified", style="bold"), *(line for row in page.notices for line in _notice(row)), Text()]
    if page.suppressed:
        rows = ((local_moment(row["at"]), f"{row['receiver'] or 'all'}: {why_not(row)}") for row in page.suppressed)
        out += [Text("Suppressed", style="bold"), facts_table(rows, indent=2), Text()]
    if not page.notices and not page.suppressed:
        waits = "; no node delivers alerts now" if page.waits and not over else ""
        out += [Text(f"No notification was sent{' yet' * (not over)}{waits}"), Text()]
    return [*out, words.Next(_next(page, over=over))]


def history_view(entries: Sequence[Row], titles: Mapping[str, str], width: int) -> Table:
    """One line for each notification and each reason to suppress one, newest first."""
    rows: list[Cells] = []
    for entry in entries:
        if entry["status"] == "suppressed":
            what = Text(cut(_title(titles.get(entry["alert_id"], entry["alert_id"])), TITLE_SHOWN))
            outcome = Text("suppressed: ", style="yellow").append(why_not(entry), style="default")
        else:
            first = next(iter([*entry["firing"], *entry["resolved"]]), "")
            what = Text(f"{entry['kind']}: {cut(_title(titles.get(first, first)), TITLE_SHOWN)}{_and_more(entry)}")
            outcome = _send(entry)
        at = local_time(entry["at"])[0 if width >= ROOM_FOR_YEARS else len("2026-") :]
        rows.append({"time": at, "receiver": entry["receiver"] or "all", "what": what, "outcome": outcome})
    return table_of(rows, fixed=["time"], times=["time"])


def silences_view(silences: Sequence[Silence], firing: Sequence[Alert], now: datetime) -> Table:
    """The silences in the given order, each with the number of firing alerts that it matches."""
    rows: list[Cells] = [
        {
            "id": each.silence_id,
            "what": Text(shown(str(each))).append(f"\n{shown(each.comment)}" if each.comment else "", style="dim"),
            "from": Text(_short(each.starts_at, now), style="yellow" if each.starts_at > now else ""),
            "until": _short(each.ends_at, now),
            "matches": f"{sum(bool(each.matches(alert)) for alert in firing):,}",
            "by": each.author,
        }
        for each in silences
    ]
    return table_of(rows, right=["matches"], fixed=["from", "until"], times=["from", "until"])


def _facts(page: Shown, now: datetime, *, over: bool) -> Iterator[tuple[str, str | Text]]:
    episode, row, metadata = page.listed.episode, page.row, page.metadata
    yield "id", shown(episode.alert_id)
    if row["alert_id"] != episode.alert_id:
        yield "asked for", f"{shown(row['alert_id'])}, received {local_moment(row['at'])}: the same alert"
    if episode.optimization_id:
        yield "optimization", shown(episode.optimization_id)
    extra = {name: value for name, value in page.labels.items() if name not in ("title", "level", "optimization")}
    if extra:
        yield "labels", _equations(sorted(extra.items()))
    evidence = metadata.get("evidence")
    if isinstance(evidence, Mapping) and evidence:
        yield "figures", _equations((str(name), figure(each)) for name, each in evidence.items())
    for label, key in (("to do", "remedy"), ("run", "run"), ("link", "link")):
        if metadata.get(key):
            yield label, shown(str(metadata[key]))
    yield "since", _since(episode, now)
    times = episode.notifications
    yield "raised", f"{times} times, last {local_moment(episode.last_notified_at)}" if times > 1 else "once"
    if over:
        yield "ended", _ended(episode, now)
    elif episode.ends_at and page.labels.get("rule"):
        yield "ends", "when its rule clears, or when it is resolved"
    elif episode.ends_at:
        expected = " unless it is raised again" if episode.expected_end else ""
        yield "ends", local_moment(episode.ends_at) + expected
    if episode.acknowledged_by:
        yield "acknowledged", f"by {shown(episode.acknowledged_by)}, {local_moment(row['acknowledged_at'])}"
    if not over:
        yield "notified", notifications_text(page.listed)
    yield "store", page.store


def _equations(pairs: Iterable[tuple[str, str]]) -> str:
    return "\n".join(f"{shown(name)} = {shown(value)}" for name, value in pairs)


def _notice(row: Row) -> Iterator[Padding]:
    """`2026-01-31 12:00:03 UTC desk firing: first message of the group`, and below it each channel with its tries."""
    out = Text(f"{local_moment(row['at'])}  ").append(shown(row["receiver"]), style="bold")
    count = row["firing_count"] + row["resolved_count"]
    among = f", among {count:,} alerts" if count > 1 else ""
    unsure = "" if row["by_name"] else " (presumably: the log keeps only the first ids)"
    why = "" if row["reason"] == row["kind"] else f": {shown(row['reason'])}"
    yield indented(out.append(f"  {row['kind']}{among}{unsure}{why}"))
    for send in row["sends"]:
        yield indented(Text(shown(send["channel"])).append("  ").append(_send(send)), 6)
        if len(send["tries"]) == 1 and send["status"] == "sent":
            continue
        for each in send["tries"]:
            began = local_moment(each["started_at"])
            outcome = str(each["outcome"] or "under way, or its node died").replace("_", " ")
            error = f": {shown(each['error'])}" if each["error"] else ""
            yield indented(Text(f"{began}  try {each['number']}: {outcome}{error}", style="dim"), 8)
    if not row["sends"]:
        yield indented(Text("the receiver has no channel", style="red"), 6)


def _send(send: Row) -> Text:
    """`slack-12ab sent 12:00:04`, `failed: HTTP 404 (3 tries)`"""
    status, tries = str(send["status"]), len(send["tries"])
    named = f"{shown(send['channel'])} " if "receiver" in send else ""
    text = Text(named).append(_NOT_SENT.get(status, status), style=_OUTCOMES.get(status, ""))
    if status == "sent":
        text.append(f" {local_time(send['ended_at'])[11:]}")
    count = f" ({tries} tries)" if tries > 1 else ""
    error = f": {shown(send['error'])}" if send["error"] and status != "sent" else ""
    return text.append(f"{count}{error}")


def _next(page: Shown, *, over: bool) -> list[tuple[str, str]]:
    episode, option = page.listed.episode, page.option
    commands = []
    if not over and not episode.acknowledged_by:
        ack = words.command("alerts ack", [episode.alert_id], option)
        commands.append((ack, "acknowledges it: no repeats, no escalation"))
    if not over:
        commands.append((words.command("alerts resolve", [episode.alert_id], option), "resolves it"))
    if page.known:
        commands.append((words.command("show", [episode.optimization_id], option), "the optimization"))
    return commands or [(f"o9 alerts list{option}", "lists firing alerts")]


def _level(level: str) -> Text:
    return Text(level, style=LEVELS[level])


def _title(title: str) -> str:
    return shown(title).strip() or UNTITLED


def over_at(episode: Episode, now: datetime) -> datetime | None:
    """Return when it ended; None while it fires."""
    ends_at = episode.resolved_at or episode.ends_at
    at = None if ends_at is None else datetime.fromisoformat(ends_at)
    return at if at is not None and (episode.resolved_at or at <= now) else None


def _since(episode: Episode, now: datetime, *, short: bool = False, bare: bool = False) -> Text:
    """`2026-01-31 12:00:00 UTC, 2 h 4 min`.

    short: without the year and the seconds, and the zone, which the heading of the column names. bare: with the zone,
    and without the duration.
    """
    begins = datetime.fromisoformat(episode.starts_at)
    over = over_at(episode, now)
    lasting = (over or now) - begins
    out = f", {duration(lasting)}" if lasting >= timedelta(0) else ", ended before that" if over else ", in the future"
    text = _short(begins, now) if short else local_moment(begins)
    return Text(f"{text} {begins.astimezone():%Z}" if bare else text + out)


def _ended(episode: Episode, now: datetime, *, short: bool = False) -> Text:
    ended = over_at(episode, now)
    assert ended is not None
    by = f", {shown(ended_by_text(episode.resolved_by))}" if episode.resolved_by else ""
    return Text((_short(ended, now) if short else local_moment(ended)) + by)


def _and_more(entry: Row) -> str:
    more = entry["firing_count"] + entry["resolved_count"] - 1
    return f" and {more:,} more" if more > 0 else ""


def _short(at: datetime, now: datetime) -> str:
    """Without the seconds, and without the year if it is the present one."""
    text = local_time(at)[:-3]
    return text[5:] if at.astimezone().year == now.astimezone().year else text
