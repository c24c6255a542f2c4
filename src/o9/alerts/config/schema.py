"""The alerts' configuration: the file at `O9_ALERTS_FILE`, and the defaults.

`load` reads the YAML, or refuses it with all its faults, each with its line; `read` returns warnings, too, of what is
likely a mistake. An empty text is a fault; `{}` has the defaults. Alertmanager's fields mean what they mean there.
Without a file, or without a `route`, all alerts go to the receiver `default`, which has `log`, `console`, `file` and
every channel that is registered, unless the file defines it.
"""

from __future__ import annotations

import errno
import logging
from collections import Counter
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from datetime import timedelta
from pathlib import Path
from typing import Annotated, Any, NamedTuple

from pydantic import AfterValidator, BeforeValidator, Field, PlainValidator

from o9.alerts.config.fields import Name, Several, Span, SpanOrZero, Words, as_text, one_of
from o9.alerts.config.rules import BUILT_IN, RuleEntry, rules_in_force
from o9.alerts.messages.render import check_template, checked_link
from o9.alerts.pipeline.matchers import Matcher, Matchers, parse, unfit, written, written_out
from o9.alerts.pipeline.routing import Route
from o9.alerts.pipeline.stages import Damping, InhibitRule, Throttle
from o9.alerts.pipeline.time_intervals import TimeInterval, TimeIntervals
from o9.alerts.rules.metrics import LABELS
from o9.alerts.rules.rules import Rule
from o9.config.document import Document, DocumentError, Fault
from o9.config.document import read as read_model
from o9.model.errors import Faults, OptimizationAlertError, OptimizationError, OptimizationValidationError
from o9.model.faults import Flag, Typed
from o9.text.suggest import did_you_mean, near, suggestion

logger = logging.getLogger(__name__)
EVERY_CHANNEL = "*"
DEFAULT_RECEIVER = "default"
BUILT_IN_CHANNELS = ("log", "console", "file")
BLOCK = "block:"

OF_O9 = frozenset({"title", "level", "optimization", "rule"}).union(*LABELS.values())
_PROMETHEUS = {"severity": "level", "alertname": "title"}
ALL_LABELS = "..."


# Fields


def _known(kind: str) -> AfterValidator:
    """The field names a `kind` that is defined elsewhere in the file."""
    return AfterValidator(lambda name, info: one_of(name, info.context[kind], kind))


def _matchers(value: Any) -> Matchers:
    found = parse(as_text(value), "")
    if (why := unfit(found)) is not None:
        raise ValueError(why)
    return found


def _compatible(texts: tuple[Matchers, ...]) -> tuple[Matchers, ...]:
    if (why := unfit(sum(texts, ()))) is not None:
        raise ValueError(why)
    return texts


def _not_empty(problem: str) -> AfterValidator:
    def check(items: tuple[Any, ...]) -> tuple[Any, ...]:
        if not any(items):
            raise ValueError(problem)
        return items

    return AfterValidator(check)


def _channel(text: str) -> str:
    if not text.strip():
        raise ValueError("it is empty; name a channel, or give an address")
    if text.startswith(BLOCK) and not all(text.removeprefix(BLOCK).split("/", 1)):
        raise ValueError("a block is named as block:NAME, or as block:TYPE/NAME")
    return text


def _templates(sources: dict[str, str]) -> dict[str, str]:
    faults = Faults()
    for name, source in sources.items():
        with faults:
            check_template(name, source)
    faults.refuse()
    return sources


def _damping(value: Any) -> Any:
    if value is None or value is True:
        raise ValueError("write `false`, or a mapping with changes, within and quiet")
    return None if value is False else value


def _unique_names(items: tuple[Any, ...]) -> tuple[Any, ...]:
    faults, seen = Faults(), set[str]()
    for index, item in enumerate(items):
        if item.name in seen:
            faults.add(OptimizationValidationError(f"[{index}].name", f"there is another {item.name!r:.80}"))
        seen.add(item.name)
    faults.refuse()
    return items


MatcherTexts = Annotated[Several[Annotated[Matchers, PlainValidator(_matchers)]], AfterValidator(_compatible)]
"""The matchers of each text; all have to hold."""
SomeMatchers = Annotated[MatcherTexts, _not_empty("there are none; say which alerts are meant")]
ReceiverName = Annotated[Words, _known("receiver")]
IntervalNames = Several[Annotated[Words, _known("time interval")]]
Templates = Annotated[dict[str, Words], AfterValidator(_templates)]


class Receiver(Typed):
    """A name for channels, which are registered names, Apprise URLs, ``block:NAME``, or ``*`` for all."""

    name: Name
    channels: Several[Annotated[Words, AfterValidator(_channel)]] = ()
    send_resolved: Flag = True
    templates: Templates = Field(default_factory=dict)
    throttle: Throttle | None = None
    """For each of its channels, instead of the configuration's."""


class _Route(Typed):
    receiver: ReceiverName | None = None
    matchers: MatcherTexts = ()
    continues: Flag = Field(False, alias="continue")
    group_by: Several[Words] | None = None
    group_wait: SpanOrZero | None = None
    group_interval: Span | None = None
    repeat_interval: Span | None = None
    mute_time_intervals: IntervalNames = ()
    active_time_intervals: IntervalNames = ()
    escalate_after: Span | None = None
    escalate_to: ReceiverName | None = None
    routes: tuple[_Route, ...] = ()


class _InhibitRule(Typed):
    name: Words = ""
    source_matchers: SomeMatchers
    target_matchers: SomeMatchers
    equal: Several[Words] = ()


class _NamedIntervals(Typed):
    name: Name
    time_intervals: Annotated[
        tuple[TimeInterval, ...], _not_empty("there are none, so that it would never hold; say when")
    ]


class _File(Typed):
    route: _Route = _Route()
    receivers: Annotated[tuple[Receiver, ...], AfterValidator(_unique_names)] = ()
    inhibit_rules: tuple[_InhibitRule, ...] = ()
    time_intervals: Annotated[tuple[_NamedIntervals, ...], AfterValidator(_unique_names)] = ()
    flapping: Annotated[Damping | None, BeforeValidator(_damping)] = Damping()
    throttle: Throttle | None = None
    resolve_timeout: Span | None = None
    templates: Templates = Field(default_factory=dict)
    link: Annotated[Words, AfterValidator(checked_link)] | None = None
    rules: Annotated[tuple[RuleEntry, ...], AfterValidator(_unique_names)] = ()


_DEFAULT = Receiver(name=DEFAULT_RECEIVER, channels=(EVERY_CHANNEL,))


@dataclass(frozen=True, slots=True)
class Configuration:
    """`load` has checked that all names in it are defined."""

    route: Route = field(default_factory=lambda: Route(DEFAULT_RECEIVER))
    receivers: Mapping[str, Receiver] = field(default_factory=lambda: {DEFAULT_RECEIVER: _DEFAULT})
    inhibit_rules: tuple[InhibitRule, ...] = ()
    time_intervals: TimeIntervals = field(default_factory=dict)
    flapping: Damping | None = field(default_factory=Damping)
    throttle: Throttle | None = None
    resolve_timeout: timedelta | None = None
    """An alert that is not repeated for this long is resolved; None: only when it is resolved explicitly."""
    templates: Mapping[str, str] = field(default_factory=dict)
    link: str | None = None
    rules: tuple[Rule, ...] = BUILT_IN

    def throttle_of(self, receiver: str) -> Throttle | None:
        return self.receivers[receiver].throttle or self.throttle


class Read(NamedTuple):
    """Warnings are in the order of their lines."""

    configuration: Configuration
    warnings: tuple[Fault, ...]
    addresses: Mapping[str, Fault]
    """The channels' addresses, each with its first place."""


def load(text: str | bytes, source: str = "the alerts file") -> Configuration:
    """The configuration in `text`. Raises DocumentError with all its faults."""
    return read(text, source).configuration


def read(text: str | bytes, source: str = "the alerts file") -> Read:
    """The same, with warnings of likely mistakes."""
    document = Document.parse(text, source)
    if document.data is None and not document.faults:
        # An editor or a full disk may have cut it off.
        raise DocumentError(source, [Fault(1, "", "it says nothing at all; write `{}` where O9's defaults are meant")])
    file = read_model(_File, document, context=_names_in(document.data))
    try:
        configuration = _configuration(file)
    except OptimizationValidationError as error:
        raise DocumentError(source, document.placed(error)) from None

    def placed(path: str, problem: str) -> Fault:
        return Fault(document.line_of(path), path, problem)

    warnings = sorted(placed(*each) for each in _warnings(file, configuration.rules, document))
    channels = _channels_in(file)
    addresses = {each: placed(path, "") for each, path in channels.items() if "://" in each}
    return Read(configuration, tuple(warnings), addresses)


class AlertsFile:
    """The configuration in force: the file's, read again at each look. Used by one thread at a time.

    A file that cannot be read or has faults is refused, with its lines and reasons, and what was in force before stays
    so; where nothing was, the first `look` raises. A fault is logged once, and again when it is another. `check` may
    refuse a configuration for more than what is written in it, by an OptimizationError.
    """

    def __init__(self, path: str | None, check: Callable[[Configuration], object] = lambda _: None) -> None:
        self._path = None if path is None else Path(path).expanduser()
        self._check = check
        self._text: bytes | None = None
        self.configuration = Configuration()
        self.fault = ""  # why the file as it is now is not in force; empty where it is

    def look(self) -> bool:
        """Read the file. Returns whether another configuration is in force since."""
        if self._path is None:
            return False
        first = self._text is None
        try:
            text = read_file(self._path)
            changed = text != self._text
            if changed:
                configuration = load(text.decode(), str(self._path))
                self._check(configuration)
                self._text, self.configuration = text, configuration
        except (OSError, UnicodeDecodeError, OptimizationError) as error:
            why = str(error) if isinstance(error, OptimizationError) else f"{self._path} cannot be read: {error}"
            if first:
                raise OptimizationAlertError(f"O9_ALERTS_FILE: {why}") from error
            if why != self.fault:
                logger.error("%s; what was in force before stays so", why)
            self.fault = why
            return False
        if changed or self.fault:
            logger.log(logging.DEBUG if first else logging.INFO, "%s is in force", self._path)
        self.fault = ""
        return changed and not first


def read_file(path: Path) -> bytes:
    """Raises OSError, also for what is no regular file: a pipe would be waited for."""
    if path.exists() and not path.is_file():
        raise OSError(errno.EINVAL, "not a regular file", str(path))
    return path.read_bytes()


def _names_in(data: Any) -> dict[str, Collection[str]]:
    """The names that may be referred to, in data that were not checked yet."""

    def names(field: str) -> list[str]:
        items = data.get(field) if isinstance(data, dict) else None
        given = [each.get("name") for each in items if isinstance(each, dict)] if isinstance(items, list) else []
        return [str(name) for name in given if isinstance(name, (str, int, float))]

    return {"receiver": [*names("receivers"), DEFAULT_RECEIVER], "time interval": names("time_intervals")}


def _configuration(file: _File) -> Configuration:
    """Raises OptimizationValidationError with all faults of its routes."""
    receivers = {DEFAULT_RECEIVER: _DEFAULT} | {each.name: each for each in file.receivers}
    return Configuration(
        route=_tree(file.route, receivers),
        receivers=receivers,
        inhibit_rules=tuple(
            InhibitRule(sum(each.source_matchers, ()), sum(each.target_matchers, ()), each.equal, each.name)
            for each in file.inhibit_rules
        ),
        time_intervals={each.name: each.time_intervals for each in file.time_intervals},
        **{name: getattr(file, name) for name in ("flapping", "throttle", "resolve_timeout", "templates", "link")},
        rules=rules_in_force(file.rules),
    )


def _tree(root: _Route, receivers: Mapping[str, Receiver]) -> Route:
    """The routes; each inherits what it does not set. Routes with the same matchers under one parent are numbered."""
    faults = Faults()
    keys: Counter[str] = Counter()

    def refuse(path: str, problem: str) -> None:
        faults.add(OptimizationValidationError(path, problem))

    def made(given: _Route, above: Route, path: str) -> Route:
        matchers: Matchers = sum(given.matchers, ())
        group_by = above.group_by
        if given.group_by is not None:
            group_by = None if ALL_LABELS in given.group_by else tuple(sorted({*given.group_by}))
        key = f"{above.key}/{written(matchers)}".removeprefix("/")
        keys[key] += 1
        inherited = ("group_wait", "group_interval", "repeat_interval", "escalate_after", "receiver", "escalate_to")
        route = Route(
            **{name: getattr(above if getattr(given, name) is None else given, name) for name in inherited},
            key=key if keys[key] == 1 else f"{key}#{keys[key]}",
            matchers=matchers,
            continues=given.continues,
            group_by=group_by,
            mute_time_intervals=given.mute_time_intervals,
            active_time_intervals=given.active_time_intervals,
        )
        said = [name for name in ("escalate_after", "escalate_to") if getattr(given, name) is not None]
        if said and not (route.escalate_after and route.escalate_to):
            refuse(f"{path}.{said[0]}", "`escalate_after` and `escalate_to` need each other")
        if given.escalate_to and not receivers[given.escalate_to].channels:
            refuse(f"{path}.escalate_to", f"the receiver {given.escalate_to!r} has no channels")
        below = (made(each, route, f"{path}.routes[{index}]") for index, each in enumerate(given.routes))
        return replace(route, routes=tuple(below))

    if root.matchers or root.continues:
        where = "matchers" if root.matchers else "continue"
        refuse(f"route.{where}", "the root takes every alert; write it at a route below `routes`")
    route = made(root, Route(DEFAULT_RECEIVER, key=""), "route")
    faults.refuse()
    return route


def says_where(channel: str) -> bool:
    """Whether it is built in, an address or a block, so that no program has to register it."""
    return "://" in channel or channel in BUILT_IN_CHANNELS or channel.startswith(BLOCK)


# Warnings: each is the path of a field, and what is likely wrong with it.

Doubt = tuple[str, str]


def likely_label(name: str, known: Collection[str]) -> str | None:
    """The label that was probably meant."""
    return _PROMETHEUS.get(name.lower()) or next(iter(near(name, known)), None)


def _warnings(file: _File, rules: Iterable[Rule], document: Document) -> Iterator[Doubt]:
    for channel, path in _channels_in(file).items():
        if not says_where(channel) and (doubt := _doubtful_channel(channel)):
            yield path, doubt
    routes = dict(_walk(file.route, "route"))
    matchers = [each for path, route in routes.items() for each in _placed(f"{path}.matchers", route.matchers)]
    labels = [(f"{path}.group_by", name) for path, route in routes.items() for name in route.group_by or ()]
    for index, rule in enumerate(file.inhibit_rules):
        path = f"inhibit_rules[{index}]"
        matchers += _placed(f"{path}.source_matchers", rule.source_matchers)
        matchers += _placed(f"{path}.target_matchers", rule.target_matchers)
        labels += [(f"{path}.equal", name) for name in rule.equal]
    in_force = list(rules)
    known = OF_O9.union({ALL_LABELS}, *(rule.labels for rule in in_force))
    for path, name in [*((path, each.name) for path, each in matchers), *labels]:
        if name in known:
            continue
        likely = likely_label(name, known)
        more = f"did you mean {likely}?" if likely else "only alerts of your own programs can have it"
        yield path, f"neither O9 nor a rule of this file sets the label {name!r:.80}; {more}"
    names = {"", *(rule.name for rule in (*BUILT_IN, *in_force))}
    for path, name in [(path, name) for path, each in matchers if each.name == "rule" for name in written_out(each)]:
        if name not in names:
            yield path, f"no rule is called {name!r:.80}{suggestion(name, names - {''})}"
    for path, route in routes.items():
        yield from _never_reached(path, route, document)


def _channels_in(file: _File) -> dict[str, str]:
    """Each with its first place."""
    found: dict[str, str] = {}
    for index, receiver in enumerate(file.receivers):
        for number, channel in enumerate(receiver.channels):
            found.setdefault(channel, f"receivers[{index}].channels[{number}]")
    return found


def _doubtful_channel(channel: str) -> str:
    if ":" in channel:
        return "an address has `://` in it; as it is, a program has to register a channel of this name"
    if any(each in channel for each in ", "):
        return "one text is one channel; write several as a list, such as [log, desk]"
    hint = did_you_mean(near(channel, BUILT_IN_CHANNELS))
    return f"{hint} A program has to register {channel!r:.80}" if hint else ""


def _walk(route: _Route, path: str) -> Iterator[tuple[str, _Route]]:
    yield path, route
    for index, each in enumerate(route.routes):
        yield from _walk(each, f"{path}.routes[{index}]")


def _placed(path: str, texts: Iterable[Matchers]) -> list[tuple[str, Matcher]]:
    return [(f"{path}[{index}]", each) for index, matchers in enumerate(texts) for each in matchers]


def _never_reached(path: str, parent: _Route, document: Document) -> Iterator[Doubt]:
    """Routes whose alerts all match an earlier route under the same parent that does not `continue`."""
    ends: list[tuple[int, frozenset[Matcher]]] = []
    for number, route in enumerate(parent.routes):
        matchers = frozenset(sum(route.matchers, ()))
        before = next((place for place, others in ends if others <= matchers), None)
        if before is not None:
            line = document.line_of(f"{path}.routes[{before}]")
            yield (
                f"{path}.routes[{number}]",
                f"no alert gets here: the route in line {line} has them all; put this one before it, or write "
                "`continue: true` there",
            )
        elif not route.continues:
            ends.append((number, matchers))
