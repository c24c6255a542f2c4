"""What templates can show of a notice: texts and figures, ready to print. Pure.

Contract. Every text in a `NoticeView` has passed `o9.text.escape.chat_line` or `chat_lines`; templates only escape it
for their format.
"""

from __future__ import annotations

import re
import shlex
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from urllib.parse import quote

from o9.alerts.messages.markdown import Address, Prose
from o9.alerts.pipeline.alert import Alert, Notice, NoticeKind
from o9.alerts.rules.metrics import FLAG, LABELS, QUANTITIES, Scope
from o9.model.states import AlertLevel
from o9.text.cut import cut, cut_naming
from o9.text.escape import chat_line, chat_lines
from o9.text.format import count, duration, figure, moment

NAME_LIMIT = 200  # of titles, ids and labels, in UTF-16 units
LABELLED_LIMIT, HEADLINE_LABELLED_LIMIT, VALUE_LIMIT = 160, 60, 40
FIGURES = 12
UNTITLED = "Untitled alert"
# They differ in brightness, too, and are dark enough for white text.
_COLOURS = {
    AlertLevel.CRITICAL: "#8f1029",
    AlertLevel.ERROR: "#b5451b",
    AlertLevel.WARNING: "#8a6100",
    AlertLevel.INFO: "#1f6aa8",
}
_RESOLVED = "#0f7a5c"
_REASON_FIRST = (NoticeKind.FLAPPING, NoticeKind.ESCALATION)
_RAW_LIMIT = 20_000  # characters of a text that are used
CLOCKS_DIFFER = timedelta(minutes=5)  # how far a source's clock may be ahead


@dataclass(frozen=True)
class Detail:
    """How much is shown: the number of alerts, the units of each text, and whether only titles and times (`bare`)."""

    alerts: int
    text: int
    bare: bool = False


@dataclass(frozen=True)
class AlertView:
    """An alert."""

    title: str
    message: str  # may have several lines
    brief: str  # the message on one line; of a traceback the last line
    level: str
    state: str  # firing or resolved
    news: str  # "new" if others were known
    badge: str  # CRITICAL, RESOLVED
    optimization: str
    subject: str  # the optimization's name and id
    since: str
    lasting: str
    ended: str  # empty while it fires
    when: str  # since, lasting and ended in one text
    figures: Mapping[str, str]
    evidence: str  # the figures on one line
    remedy: Prose
    link: str
    run: str  # the URL of its run in Prefect
    report: str  # the URL of its report
    command: str
    labels: Mapping[str, str]
    labelled: str  # the labels that no other field shows, on one line


@dataclass(frozen=True)
class NoticeView:
    """A notice."""

    kind: str
    badge: str
    colour: str
    headline: str
    lead: str  # what is new, in one sentence
    reason: str
    may_be_double: bool
    receiver: str
    group: Mapping[str, str]
    at: str
    level: str
    firing: int
    new: int  # of the firing alerts
    resolved: int
    remedy: Prose  # common to all alerts shown, apart from the optimization's id
    alerts: Sequence[AlertView]
    more: int


def view_of(notice: Notice, detail: Detail, link: str | None) -> NoticeView:
    """Return the view of a notice with its first alerts: new, resolved, then known ones."""
    everything, new = notice.news_first, len(notice.new)
    over = range(new, new + len(notice.resolved))
    shown = tuple(
        _alert_view(each, n not in over, "new" if n < new and notice.known else "", notice.at, detail, link)
        for n, each in enumerate(everything[: detail.alerts])
    )
    level = worst_of(notice)
    return NoticeView(
        kind=notice.kind.value,
        badge=_badge(notice.kind, level),
        colour=_RESOLVED if notice.kind is NoticeKind.RESOLVED else _COLOURS[level],
        headline=_headline(notice, everything),
        lead=_lead(notice, everything),
        reason="" if notice.kind in _REASON_FIRST else cut(chat_line(notice.reason), detail.text),
        may_be_double=notice.may_be_double,
        receiver=_name(notice.receiver),
        group={_name(name): _name(value) for name, value in notice.group_labels.items()},
        at=moment(notice.at),
        level=level.value,
        firing=len(notice.firing),
        new=new,
        resolved=len(notice.resolved),
        remedy=_remedy_of(shown),
        alerts=shown,
        more=len(everything) - len(shown),
    )


def worst_of(notice: Notice) -> AlertLevel:
    """Return the worst level of the firing alerts, or of the resolved ones if none fires."""
    levels = list(AlertLevel)
    return max((each.level for each in notice.firing or notice.resolved), key=levels.index, default=AlertLevel.INFO)


def _alert_view(alert: Alert, firing: bool, news: str, now: datetime, detail: Detail, link: str | None) -> AlertView:
    remedy = alert.metadata.get("remedy")
    todo = chat_line(remedy[:_RAW_LIMIT]) if isinstance(remedy, str) else ""
    lines = chat_lines(alert.message[:_RAW_LIMIT])
    line, brief = chat_line(lines), chat_line(_without_traceback(lines))
    if todo and line.endswith(todo):  # the monitor's messages end with the remedy
        lines, brief = (each.removesuffix(todo).rstrip(" :;,.-") for each in (line, brief))
    ended = None if firing else alert.ends_at
    since, lasting = moment(alert.starts_at), duration(max(timedelta(0), (ended or now) - alert.starts_at))
    figures = _figures(alert, detail)
    return AlertView(
        title=_name(alert.title) or UNTITLED,
        message=cut_naming(lines, detail.text, _full_text_hint(alert)),
        brief="" if detail.bare else cut_naming(brief, min(detail.text, 300), _full_text_hint(alert)),
        level=alert.level.value,
        state="firing" if firing else "resolved",
        news=news,
        badge=alert.level.value.upper() if firing else "RESOLVED",
        optimization=_name(alert.optimization_id),
        subject=subject_of(alert.labels, alert.optimization_id),
        since=since,
        lasting=lasting,
        ended=moment(ended) if ended else "",
        when=f"{since}, {_when(alert.starts_at, ended, now)}",
        figures=figures,
        evidence="; ".join(f"{name} {value}" for name, value in figures.items()),
        remedy=Prose("" if detail.bare else cut(todo, detail.text)),
        link="" if detail.bare else _address(alert, link),
        run="" if detail.bare else _given_address(alert, "run"),
        report="" if detail.bare else _given_address(alert, "report"),
        command=f"o9 show {shlex.quote(_name(alert.optimization_id))}" if alert.optimization_id else "",
        labels={_name(name): _name(value) for name, value in alert.labels.items()},
        labelled=cut(_labelled(alert), min(detail.text, LABELLED_LIMIT)),
    )


def _full_text_hint(alert: Alert) -> str:
    """Return which command shows the whole text; nothing if the alert's id is not shown literally."""
    out = _name(alert.alert_id)
    return f"(all of it: o9 alerts show {shlex.quote(out)})" if out and out == alert.alert_id else ""


def subject_of(labels: Mapping[str, str], optimization: str) -> str:
    """Return the name, or the series, and the id, such as `Momentum · momentum-7f3a`; empty without an optimization."""
    name = labels.get("name") or labels.get("series") or optimization
    return " · ".join(dict.fromkeys((_name(name), _name(optimization)))) if optimization else ""


def labelled(labels: Mapping[str, str], title: str, level: str, optimization: str) -> str:
    """Return the labels that are not shown otherwise, by the other arguments, the subject or the rule: `book=a`."""
    shown = {"title": title, "level": level, "optimization": optimization}
    shown |= {
        name: labels.get(name, "")
        for name in ("rule", *(LABELS[Scope.END] if "rule" in labels and optimization else ()))
    }
    others = [(name, value) for name, value in sorted(labels.items()) if shown.get(name) != value]
    return ", ".join(f"{_name(name)}={cut(_name(value), VALUE_LIMIT)}" for name, value in others)


def _labelled(alert: Alert) -> str:
    return labelled(alert.labels, alert.title, alert.level.value, alert.optimization_id)


def _when(begins: datetime, ended: datetime | None, now: datetime) -> str:
    """Return how long it has fired, or did. If its source's clock is wrong, the start may be in the future."""
    if ended is not None:
        return f"ended before that, at {moment(ended)}" if ended < begins else f"ended after {duration(ended - begins)}"
    if begins - now > CLOCKS_DIFFER:
        return f"{duration(begins - now)} in the future"
    return f"for {duration(max(timedelta(0), now - begins))}"


def _badge(kind: NoticeKind, level: AlertLevel) -> str:
    word = level.value.upper()
    return {
        NoticeKind.RESOLVED: "RESOLVED",
        NoticeKind.FLAPPING: f"{word}, FLAPPING",
        NoticeKind.ESCALATION: f"{word}, ESCALATED",
        NoticeKind.REPEAT: f"{word}, STILL FIRING",
    }.get(kind, word)


def _headline(notice: Notice, everything: Sequence[Alert]) -> str:
    titles = {each.title for each in everything}
    title = _name(next(iter(titles))) if len(titles) == 1 else ""
    if len(everything) == 1:
        alert = everything[0]
        where = subject_of(alert.labels, alert.optimization_id)
        out = f"{title or UNTITLED}: {where}" if where else title or UNTITLED
        # An alert of a rule is identified by its title and subject.
        which = "" if "rule" in alert.labels else _labelled(alert)
        return f"{out} ({cut(which, HEADLINE_LABELLED_LIMIT)})" if which else out
    sides = _sides(notice)
    counts = [f"{len(alerts):,} {what}" for what, alerts in sides.items()]
    if title:
        title += f": {_name(series)}" if (series := notice.group_labels.get("series")) else ""
        return f"{title} ({', '.join(counts)})"
    (what, alerts), *_ = sides.items()
    return ", ".join([f"{count(len(alerts), 'alert')} {what}", *counts[1:]])


def _sides(notice: Notice) -> dict[str, Sequence[Alert]]:
    """Return the firing and resolved alerts; if some were known, the new, resolved and known ones."""
    if notice.kind is not NoticeKind.FIRING or not notice.known:
        sides = {"firing": notice.firing, "resolved": notice.resolved}
    else:
        sides = {"new": notice.new, "resolved": notice.resolved, "known": notice.firing[len(notice.new) :]}
    return {what: alerts for what, alerts in sides.items() if alerts}


def _lead(notice: Notice, everything: Sequence[Alert]) -> str:
    why = cut(chat_line(notice.reason), NAME_LIMIT) if notice.kind in _REASON_FIRST else ""
    parts = [f"{why[:1].upper()}{why[1:]}{'' if why[-1:] in '.!?' else '.'}"]
    if len(everything) > 1:
        parts += [f"{what.capitalize()}: {_levels(alerts)}." for what, alerts in _sides(notice).items()]
    return " ".join(filter(None, parts))


def _levels(alerts: Sequence[Alert]) -> str:
    of = Counter(each.level for each in alerts)
    return ", ".join(f"{of[level]:,} {level.value}" for level in reversed(AlertLevel) if of[level])


_FLAGS = frozenset(name for known in QUANTITIES.values() for name, quantity in known.items() if quantity is FLAG)


def _figures(alert: Alert, detail: Detail) -> dict[str, str]:
    """Return the evidence as texts; for an alert of a rule without its flags."""
    evidence, by_rule = alert.metadata.get("evidence"), "rule" in alert.metadata
    if detail.bare or not isinstance(evidence, Mapping):
        return {}
    out = [
        (name, value)
        for name, value in evidence.items()
        if not (by_rule and name in _FLAGS and isinstance(value, float) and value in (0.0, 1.0))
    ][:FIGURES]
    return {
        _name(str(name)).replace("_", " "): cut(chat_line(figure(value)), min(detail.text, 120)) for name, value in out
    }


_TRACEBACK = "Traceback (most recent call last):"


def _without_traceback(out: str) -> str:
    """Return the text before the first traceback, and the error after the last."""
    before, found, rest = out.partition(_TRACEBACK)
    if not found:
        return out
    after = rest.rpartition(_TRACEBACK)[2].split("\n")[1:]
    error = [n for n, each in enumerate(after) if each and not each[0].isspace()]
    return before + " ".join(after[error[0] :] if error else [])


def _remedy_of(shown: Sequence[AlertView]) -> Prose:
    out = [each for each in shown if each.remedy and not each.ended]
    ways = {each.remedy for each in out}
    if len(ways) > 1:
        names = {each.optimization: rf"(?<![\w-]){re.escape(each.optimization)}(?![\w-])" for each in out}
        ways = {Prose(re.sub(names[each.optimization], "ID", each.remedy)) for each in out if each.optimization}
    return next(iter(ways)) if len(out) > 1 and len(ways) == 1 else Prose()


def _address(alert: Alert, link: str | None) -> str:
    if given := _given_address(alert, "link"):
        return given
    if link is None or not alert.optimization_id:
        return ""
    ids = {"{optimization}": alert.optimization_id, "{alert}": alert.alert_id}
    for name, value in ids.items():
        link = link.replace(name, quote(value, safe=""))
    return address(link)


def _given_address(alert: Alert, name: str) -> Address | str:
    given = alert.metadata.get(name)
    return address(given) if isinstance(given, str) else ""


def address(text: str) -> Address | str:
    """Return a URL with characters escaped that have a meaning in Markdown or HTML; empty if it is not a URL."""
    text = text.strip()
    if len(text) > 2_000 or not re.match(r"https?://[^\s/]", text, re.IGNORECASE):
        return ""
    return Address(quote(text, safe=":/?#@!$&+,;=%-._~", encoding="utf-8", errors="replace"))


def _name(text: str) -> str:
    return cut(chat_line(text[:_RAW_LIMIT]), NAME_LIMIT)
