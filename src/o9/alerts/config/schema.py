"""The alerts' configuration: what `O9_ALERTS_FILE` says, and what holds without one.

`load` reads the YAML, or refuses it with all its faults, each with its line; `read` has warnings, too: what is
allowed, and likely a mistake. A text that says nothing is a fault; `{}` has the defaults. Fields that Alertmanager has
mean what they mean there. Without a file, or without a `route`, all alerts go to the receiver `default`, which has
`log`, `console`, `file` and every channel that is registered, unless the file defines it. Pure.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import timedelta
from functools import partial
from types import MappingProxyType
from typing import Any, NamedTuple

from o9.alerts.config.builtin_rules import BUILT_IN
from o9.alerts.config.reading import Fault, Node, Reader, all_faults
from o9.alerts.config.rules import read_rules
from o9.alerts.messages.render import NAMES, Messages
from o9.alerts.pipeline.flapping import Damping
from o9.alerts.pipeline.inhibition import InhibitRule
from o9.alerts.pipeline.matchers import Matcher, Matchers, parse, unfit, written, written_out
from o9.alerts.pipeline.routing import Route
from o9.alerts.pipeline.stages import Throttle
from o9.alerts.pipeline.time_intervals import (
    TimeInterval,
    TimeIntervals,
    day_range,
    exchange,
    minute_of,
    month_range,
    time_range,
    time_zone,
    weekday_range,
    year_range,
)
from o9.alerts.rules.metrics import LABELS
from o9.alerts.rules.rules import Rule
from o9.model.errors import OptimizationAlertError
from o9.text.suggest import did_you_mean, near, suggestion

EVERY_CHANNEL = "*"
DEFAULT_RECEIVER = "default"
STANDING = ("log", "console", "file")
BLOCK = "block:"

OF_EACH = ("title", "level", "optimization", "rule")
OF_O9 = frozenset(OF_EACH).union(*LABELS.values())
_PROMETHEUS = {"severity": "level", "alertname": "title"}


@dataclass(frozen=True, slots=True)
class Receiver:
    """A name for channels, which are registered names, Apprise URLs, ``block:NAME``, or ``*`` for all."""

    name: str
    channels: tuple[str, ...]
    send_resolved: bool = True
    templates: Mapping[str, str] = field(default_factory=dict)
    throttle: Throttle | None = None
    """Of each of its channels, instead of the configuration's."""


_DEFAULT = Receiver(DEFAULT_RECEIVER, (EVERY_CHANNEL,))
_DEFAULT_ROUTE = Route(DEFAULT_RECEIVER)
_DEFAULT_DAMPING = Damping()


@dataclass(frozen=True, slots=True)
class Configuration:
    """Everything is by name; `load` has checked that every name there is one of something."""

    route: Route = _DEFAULT_ROUTE
    receivers: Mapping[str, Receiver] = field(default_factory=lambda: {DEFAULT_RECEIVER: _DEFAULT})
    inhibit_rules: tuple[InhibitRule, ...] = ()
    time_intervals: TimeIntervals = field(default_factory=dict)
    flapping: Damping | None = _DEFAULT_DAMPING
    throttle: Throttle | None = None
    resolve_timeout: timedelta | None = None
    """After it an alert without an end is resolved unless it is repeated; None: only when it is resolved explicitly."""
    templates: Mapping[str, str] = field(default_factory=dict)
    link: str | None = None
    rules: tuple[Rule, ...] = BUILT_IN

    def throttle_of(self, receiver: str) -> Throttle | None:
        return self.receivers[receiver].throttle or self.throttle


class Read(NamedTuple):
    """With faults, `configuration` means nothing. Faults and warnings are in the order of their lines."""

    configuration: Configuration
    faults: tuple[Fault, ...]
    warnings: tuple[Fault, ...] = ()
    addresses: Mapping[str, Node] = MappingProxyType({})
    """Those of channels, each with its first place."""


def load(text: str, source: str = "the alerts file") -> Configuration:
    """The configuration in `text`. Raises OptimizationAlertError with its faults, as `all_told` writes them."""
    configuration, faults, *_ = read(text)
    if faults:
        raise OptimizationAlertError(all_faults(source, faults))
    return configuration


def read(text: str) -> Read:
    """The configuration in `text`, or what is wrong with it."""
    reader = Reader(text)
    if reader.root is None:
        return Read(Configuration(), tuple(reader.faults) or (Fault(1, "", _SAYS_NOTHING),))
    labels, channels = LabelReading(reader), ChannelReading(reader)
    found = reader.mapping(reader.root, _FIELDS)
    receivers = _receivers(reader, channels, found.get("receivers"))
    intervals = _time_intervals(reader, found.get("time_intervals"))
    routes = _Routes(reader, labels, receivers, intervals)
    configuration = Configuration(
        route=routes.read(found["route"], None) if "route" in found else _DEFAULT_ROUTE,
        receivers=receivers,
        inhibit_rules=tuple(_inhibit_rule(reader, labels, node) for node in reader.items(found.get("inhibit_rules"))),
        time_intervals=intervals,
        flapping=_damping(reader, found.get("flapping")),
        throttle=_throttle(reader, found.get("throttle")),
        resolve_timeout=reader.span(found.get("resolve_timeout")),
        templates=_templates(reader, found.get("templates")),
        link=reader.understood(found.get("link"), _link),
        rules=read_rules(reader, found.get("rules")),
    )
    if reader.faults:
        return Read(configuration, tuple(sorted(reader.faults)))
    warnings = sorted((*labels.warnings(configuration.rules), *channels.warnings(), *routes.warnings))
    return Read(configuration, (), tuple(warnings), channels.addresses)


# As a file is that an editor or a full disk has cut off.
_SAYS_NOTHING = "it says nothing at all; write `{}` where O9's defaults are meant"
_FIELDS = (
    "route", "receivers", "inhibit_rules", "time_intervals", "flapping", "throttle", "resolve_timeout", "templates",
    "link", "rules",
)  # fmt: skip
_ROUTE_FIELDS = (
    "receiver", "matchers", "continue", "group_by", "group_wait", "group_interval", "repeat_interval",
    "mute_time_intervals", "active_time_intervals", "escalate_after", "escalate_to", "routes",
)  # fmt: skip


def _receivers(reader: Reader, channels: ChannelReading, node: Node | None) -> dict[str, Receiver]:
    receivers: dict[str, Receiver] = {DEFAULT_RECEIVER: _DEFAULT}
    lines: dict[str, int] = {}
    for item in reader.items(node):
        found = reader.mapping(item, ("name", "channels", "send_resolved", "templates", "throttle"), ("name",))
        name = reader.name(found.get("name"))
        send_resolved = reader.flag(found.get("send_resolved"))
        receiver = Receiver(
            name or "",
            channels.channels(found.get("channels")),
            send_resolved is not False,
            _templates(reader, found.get("templates")),
            _throttle(reader, found.get("throttle")),
        )
        if name is not None and _first(reader, found["name"], name, lines):
            receivers[name] = receiver
    return receivers


class _Routes:
    """Reads the tree; each route has what it does not say from its parent."""

    def __init__(
        self, reader: Reader, labels: LabelReading, receivers: Mapping[str, Receiver], intervals: TimeIntervals
    ) -> None:
        self._reader = reader
        self._labels = labels
        self._receivers = receivers
        self._intervals = intervals
        self._keys: dict[str, int] = {}
        self.warnings: list[Fault] = []

    def read(self, node: Node, parent: Route | None) -> Route:
        reader, above = self._reader, parent or Route(DEFAULT_RECEIVER, key="")
        found = reader.mapping(node, _ROUTE_FIELDS)
        matchers = self._labels.matchers(found.get("matchers"))
        if parent is None:
            for name in ("matchers", "continue"):
                if name in found:
                    reader.fault(found[name], "the root takes every alert; write it at a route below `routes`")
        route = Route(
            receiver=reader.one_of(found.get("receiver"), self._receivers, "receiver") or above.receiver,
            key=self._key(f"{above.key}/{written(matchers)}" if parent else written(matchers)),
            matchers=matchers,
            continues=bool(reader.flag(found.get("continue"))),
            group_by=self._group_by(found.get("group_by"), above.group_by),
            group_wait=_or(reader.span(found.get("group_wait"), zero=True), above.group_wait),
            group_interval=_or(reader.span(found.get("group_interval")), above.group_interval),
            repeat_interval=_or(reader.span(found.get("repeat_interval")), above.repeat_interval),
            mute_time_intervals=reader.some_of(found.get("mute_time_intervals"), self._intervals, "time interval"),
            active_time_intervals=reader.some_of(found.get("active_time_intervals"), self._intervals, "time interval"),
            escalate_after=_or(reader.span(found.get("escalate_after")), above.escalate_after),
            escalate_to=reader.one_of(found.get("escalate_to"), self._receivers, "receiver") or above.escalate_to,
        )
        after, to = found.get("escalate_after"), found.get("escalate_to")
        given = after or to
        if given and not ((after or above.escalate_after) and (to or above.escalate_to)):
            reader.fault(given, "`escalate_after` and `escalate_to` need each other")
        if "escalate_to" in found and route.escalate_to and not self._receivers[route.escalate_to].channels:
            reader.fault(found["escalate_to"], f"the receiver {route.escalate_to!r} has no channels")
        nodes = reader.items(found.get("routes"))
        route = replace(route, routes=tuple(self.read(each, route) for each in nodes))
        self.warnings += _never_reached(list(zip(nodes, route.routes, strict=True)))
        return route

    def _key(self, key: str) -> str:
        """Routes with the same matchers under one parent are numbered."""
        self._keys[key] = self._keys.get(key, 0) + 1
        return key if self._keys[key] == 1 else f"{key}#{self._keys[key]}"

    def _group_by(self, node: Node | None, above: tuple[str, ...] | None) -> tuple[str, ...] | None:
        names = self._labels.names(node)
        if names is None:
            return above
        if node is not None and len(set(names)) < len(names):
            self._reader.fault(node, "a label is named twice")
        if node is not None and "..." in names and len(names) > 1:
            self._reader.fault(node, "`...` means all labels; leave the others out")
        return None if "..." in names else tuple(sorted(names))


class _End(NamedTuple):
    """A route that lets nothing go on to those behind it."""

    number: int
    matchers: frozenset[Matcher]
    line: int


def _never_reached(routes: Sequence[tuple[Node, Route]]) -> Iterator[Fault]:
    """Of those side by side: what fits a later one fits an earlier one, too, which goes on to none."""
    often = Counter(each for _, route in routes for each in route.matchers)
    ends: dict[Matcher | None, list[_End]] = {}  # by the matcher that the fewest have: of many routes few are looked at
    for number, (node, route) in enumerate(routes):
        matchers = frozenset(route.matchers)
        likely = (end for key in (None, *matchers) for end in ends.get(key, ()))
        before = min((end for end in likely if end.matchers <= matchers), default=None)
        if before is not None:
            yield node.fault_of(
                f"no alert gets here: the route in line {before.line} has them all; put this one before it, or write "
                "`continue: true` there"
            )
        elif not route.continues:
            rarest = min(matchers, key=often.__getitem__, default=None)
            ends.setdefault(rarest, []).append(_End(number, matchers, node.line))


def _inhibit_rule(reader: Reader, labels: LabelReading, node: Node) -> InhibitRule:
    found = reader.mapping(
        node, ("name", "source_matchers", "target_matchers", "equal"), ("source_matchers", "target_matchers")
    )
    sides = {}
    for name in ("source_matchers", "target_matchers"):
        faults = len(reader.faults)
        sides[name] = labels.matchers(found.get(name))
        if name in found and not sides[name] and len(reader.faults) == faults:
            reader.fault(found[name], "there are none; say which alerts are meant")
    return InhibitRule(
        sides["source_matchers"],
        sides["target_matchers"],
        labels.names(found.get("equal")) or (),
        reader.text(found.get("name")) or "",
    )


def _time_intervals(reader: Reader, node: Node | None) -> dict[str, tuple[TimeInterval, ...]]:
    intervals: dict[str, tuple[TimeInterval, ...]] = {}
    lines: dict[str, int] = {}
    for item in reader.items(node):
        found = reader.mapping(item, ("name", "time_intervals"), ("name", "time_intervals"))
        name = reader.name(found.get("name"))
        listed = reader.items(found.get("time_intervals"))
        if "time_intervals" in found and not listed and reader.is_list(found["time_intervals"]):
            reader.fault(found["time_intervals"], "there are none, so that it would never hold; say when")
        read = tuple(_time_interval(reader, each) for each in listed)
        if name is not None and _first(reader, found["name"], name, lines):
            intervals[name] = read
    return intervals


def _time_interval(reader: Reader, node: Node) -> TimeInterval:
    ranges = {"weekdays": weekday_range, "days_of_month": day_range, "months": month_range, "years": year_range}
    found = reader.mapping(node, ("times", *ranges, "location", "calendar"))
    times = []
    for item in reader.items(found.get("times")):
        both = reader.mapping(item, ("start_time", "end_time"), ("start_time", "end_time"))
        start, end = reader.text(both.get("start_time")), reader.text(both.get("end_time"))
        if start is None or end is None:
            continue
        if None not in [reader.understood(each, minute_of) for each in both.values()]:
            times.append(reader.understood(both["start_time"], partial(time_range, end=end)))
    read = {
        name: tuple(
            found_range
            for each in reader.one_or_more(found[name])
            if (found_range := reader.understood(each, understand)) is not None
        )
        for name, understand in ranges.items()
        if name in found
    }
    return TimeInterval(
        times=tuple(each for each in times if each is not None),
        location=reader.understood(found.get("location"), time_zone),
        calendar=reader.understood(found.get("calendar"), exchange) or "",
        **read,
    )


def _damping(reader: Reader, node: Node | None) -> Damping | None:
    """`flapping: false` is none."""
    if node is None:
        return Damping()
    if reader.is_text(node):
        if reader.flag(node):
            reader.fault(node, "write `false`, or a mapping with changes, within and quiet")
        return None
    found = reader.mapping(node, ("changes", "within", "quiet"))
    usual = Damping()
    return Damping(
        reader.count(found.get("changes"), 2, 1000) or usual.changes,
        reader.span(found.get("within")) or usual.within,
        reader.span(found.get("quiet")) or usual.quiet,
    )


def _throttle(reader: Reader, node: Node | None) -> Throttle | None:
    if node is None:
        return None
    found = reader.mapping(node, ("messages", "every"), ("messages", "every"))
    messages, every = reader.count(found.get("messages"), 1, 1_000_000), reader.span(found.get("every"))
    return None if messages is None or every is None else Throttle(messages, every)


def _templates(reader: Reader, node: Node | None) -> dict[str, str]:
    templates: dict[str, str] = {}
    for name, each in (reader.mapping(node, NAMES) if node is not None else {}).items():
        source = reader.text(each)
        if source is not None and reader.understood(each, partial(_template, name)) is not None:
            templates[name] = source
    return templates


def _template(name: str, source: str) -> str:
    Messages({name: source})
    return source


def _link(text: str) -> str:
    Messages(link=text)
    return text


def _first(reader: Reader, node: Node, name: str, lines: dict[str, int]) -> bool:
    """Whether the name is new; it is noted."""
    if name in lines:
        reader.fault(node, f"there is another {name!r:.80}, in line {lines[name]}")
        return False
    lines[name] = node.line
    return True


def _or(span: timedelta | None, above: Any) -> Any:
    return above if span is None else span


def says_where(channel: str) -> bool:
    """Whether it is there, or says where it goes: no program has to register it."""
    return "://" in channel or channel in STANDING or channel.startswith(BLOCK)


class ChannelReading:
    """Reads for one file, and remembers which channels it names where."""

    def __init__(self, reader: Reader) -> None:
        self._reader = reader
        self._named: dict[str, Node] = {}

    def channels(self, node: Node | None) -> tuple[str, ...]:
        """A list of texts, or one text."""
        found: list[str] = []
        for each in self._reader.one_or_more(node):
            channel = self._reader.understood(each, _channel)
            if channel is not None:
                found.append(channel)
                self._named.setdefault(channel, each)
        return tuple(found)

    @property
    def addresses(self) -> dict[str, Node]:
        return {channel: node for channel, node in self._named.items() if "://" in channel}

    def warnings(self) -> Iterator[Fault]:
        for channel, node in self._named.items():
            if says_where(channel):
                continue
            if ":" in channel:
                yield node.fault_of(
                    "an address has `://` in it; as it is, a program has to register a channel of this name"
                )
            elif any(each in channel for each in ", "):
                yield node.fault_of("one text is one channel; write several as a list, such as [log, desk]")
            elif hint := did_you_mean(near(channel, STANDING)):
                yield node.fault_of(f"{hint} A program has to register {channel!r:.80}")


def _channel(text: str) -> str:
    if not text.strip():
        raise ValueError("it is empty; name a channel, or give an address")
    if text.startswith(BLOCK) and not all(text.removeprefix(BLOCK).split("/", 1)):
        raise ValueError("a block is named as block:NAME, or as block:TYPE/NAME")
    return text


def likely_label(name: str, known: Collection[str]) -> str | None:
    """What of it was probably meant."""
    return _PROMETHEUS.get(name.lower()) or next(iter(near(name, known)), None)


class LabelReading:
    """Reads for one file, and remembers which labels it names where."""

    def __init__(self, reader: Reader) -> None:
        self._reader = reader
        self._named: list[tuple[Node, str]] = []
        self._rules: list[tuple[Node, str]] = []

    def matchers(self, node: Node | None) -> Matchers:
        """A list of texts, or one text."""
        found: list[Matcher] = []
        wrong: str | None = None
        for each in self._reader.one_or_more(node):
            matchers = self._reader.understood(each, parse) or ()
            for matcher in matchers:
                self._named.append((each, matcher.name))
                if matcher.name == "rule":
                    self._rules += [(each, name) for name in written_out(matcher) if name]
            if (why := unfit(matchers)) is not None:
                self._reader.fault(each, why)
            wrong = wrong or why
            found += matchers
        if node is not None and wrong is None and (why := unfit(tuple(found))) is not None:
            self._reader.fault(node, why)
        return tuple(found)

    def names(self, node: Node | None) -> tuple[str, ...] | None:
        """A list of names, or one name."""
        names = self._reader.texts(node)
        if node is not None:
            self._named += [(node, name) for name in names or () if name != "..."]
        return names

    def warnings(self, rules: Iterable[Rule]) -> Iterator[Fault]:
        """Labels, and names of rules in matchers, that none of `rules` has."""
        in_force = list(rules)
        known = OF_O9.union(*(rule.labels for rule in in_force))
        for node, name in _first_named(self._named, known):
            likely = likely_label(name, known)
            more = f"did you mean {likely}?" if likely else "only alerts of your own programs can have it"
            yield node.fault_of(f"neither O9 nor a rule of this file sets the label {name!r:.80}; {more}")
        names = {rule.name for rule in (*BUILT_IN, *in_force)}
        for node, name in _first_named(self._rules, names):
            yield node.fault_of(f"no rule is called {name!r:.80}{suggestion(name, names)}")


def _first_named(named: Iterable[tuple[Node, str]], known: Collection[str]) -> Iterator[tuple[Node, str]]:
    """Of each name that is not known, where it stands first."""
    seen = set(known)
    for node, name in named:
        if name not in seen:
            seen.add(name)
            yield node, name
