"""The alerts' configuration: the file at `O9_ALERTS_FILE`, and the defaults.

`load` and `read` parse the YAML, or refuse it with all its faults and their lines; `read` also returns warnings of
likely mistakes. An empty file is a fault; `{}` has the defaults. Fields that Alertmanager has mean the same here.
Without a file, or without a `route`, all alerts go to the receiver `default`. Unless the file defines it, that has
`log`, `console`, `file` and every registered channel.
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

from pydantic import AfterValidator, BeforeValidator, Field, PlainValidator, ValidationInfo, field_validator

from o9.alerts.config.fields import Name, Several, Span, SpanOrZero, Words, as_text, one_of
from o9.alerts.config.rules import BUILT_IN, RuleEntry, rules_in_force
from o9.alerts.messages.render import check_template, checked_link
from o9.alerts.pipeline.matchers import Matcher, Matchers, format_matchers, literal_values, parse, why_unsatisfiable
from o9.alerts.pipeline.routing import Route
from o9.alerts.pipeline.stages import Damping, InhibitRule, Throttle
from o9.alerts.pipeline.time_intervals import TimeInterval, TimeIntervals
from o9.alerts.rules.metrics import LABELS, unsatisfiable_figure
from o9.alerts.rules.rules import Rule
from o9.config.document import Document, DocumentError, Fault
from o9.config.document import read as read_model
from o9.model.errors import Faults, OptimizationAlertError, OptimizationError
from o9.model.faults import Flag, Text, Typed
from o9.text.suggest import hint_of, near, suggestion

logger = logging.getLogger(__name__)
EVERY_CHANNEL = "*"
DEFAULT_RECEIVER = "default"
BUILT_IN_CHANNELS = ("log", "console", "file")
BLOCK = "block:"

OF_O9 = frozenset({"title", "level", "optimization", "rule"}).union(*LABELS.values())
_PROMETHEUS = {"severity": "level", "alertname": "title"}
ALL_LABELS = "..."


# Fields


def _context(info: ValidationInfo) -> dict[str, Any]:
    """Return what `read` knows beside the field: `_names_in` the file, and `address_problem`."""
    context: dict[str, Any] = info.context or {}
    return context


def _known(kind: str) -> AfterValidator:
    """The value is the name of a `kind` that the file defines."""
    return AfterValidator(lambda name, info: one_of(name, _context(info)[kind], kind))


def _matchers(value: Any) -> Matchers:
    found = parse(as_text(value), "")
    if (why := why_unsatisfiable(found)) is not None:
        raise ValueError(why)
    return found


def _compatible(texts: tuple[Matchers, ...]) -> tuple[Matchers, ...]:
    if (why := why_unsatisfiable(sum(texts, ()))) is not None:
        raise ValueError(why)
    return texts


def _not_empty(problem: str) -> AfterValidator:
    def check(items: tuple[Any, ...]) -> tuple[Any, ...]:
        if not any(items):
            raise ValueError(problem)
        return items

    return AfterValidator(check)


def _channel(text: str, info: ValidationInfo) -> str:
    if not text.strip():
        raise ValueError("it is empty; write a channel's name or an address")
    address_problem = _context(info).get("address_problem")
    if "://" in text and address_problem is not None and (problem := address_problem(text)):
        raise ValueError(problem)
    if text.startswith(BLOCK) and not all(text.removeprefix(BLOCK).split("/", 1)):
        raise ValueError("write a block as block:NAME or block:TYPE/NAME")
    return text


def _templates(sources: dict[str, str]) -> dict[str, str]:
    faults = Faults()
    for name, source in sources.items():
        with faults:
            check_template(name, source)
    faults.refuse()
    return sources


def _has_channels(receiver: str, info: ValidationInfo) -> str:
    if receiver in _context(info)["without channels"]:
        raise ValueError(f"the receiver {receiver!r} has no channels")
    return receiver


def _damping(value: Any) -> Any:
    if value is None or value is True:
        raise ValueError("write `false`, or a mapping with changes, within and quiet")
    return None if value is False else value


MatcherTexts = Annotated[Several[Annotated[Matchers, PlainValidator(_matchers)]], AfterValidator(_compatible)]
"""The matchers of each text; all of them must match."""
SomeMatchers = Annotated[MatcherTexts, _not_empty("it is empty; write which alerts it matches")]
ReceiverName = Annotated[Words, _known("receiver")]
IntervalNames = Several[Annotated[Words, _known("time interval")]]
Templates = Annotated[dict[str, Words], AfterValidator(_templates)]


class Receiver(Typed):
    """A name for channels: registered names, Apprise URLs, ``block:NAME``, or ``*`` for all."""

    name: Name
    channels: Several[Annotated[Text, AfterValidator(_channel)]] = ()
    send_resolved: Flag = True
    templates: Templates = Field(default_factory=dict)
    throttle: Throttle | None = None
    """For each of its channels; overrides the configuration's."""


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
    escalate_to: Annotated[ReceiverName, AfterValidator(_has_channels)] | None = None
    routes: tuple[_Route, ...] = ()


class _Root(_Route):
    """The route that takes every alert."""

    @field_validator("matchers", "continues")
    @classmethod
    def _takes_every_alert(cls, value: Any) -> Any:
        if value:
            raise ValueError("the root route takes every alert; write it in a route below `routes`")
        return value


class _InhibitRule(Typed):
    name: Words = ""
    source_matchers: SomeMatchers
    target_matchers: SomeMatchers
    equal: Several[Words] = ()


class _NamedIntervals(Typed):
    name: Name
    time_intervals: Annotated[
        tuple[TimeInterval, ...], _not_empty("it is empty and would never hold; write at least one interval")
    ]


class _File(Typed):
    route: _Root = _Root()
    receivers: tuple[Receiver, ...] = ()
    inhibit_rules: tuple[_InhibitRule, ...] = ()
    time_intervals: tuple[_NamedIntervals, ...] = ()
    flapping: Annotated[Damping | None, BeforeValidator(_damping)] = Damping()
    throttle: Throttle | None = None
    resolve_timeout: Span | None = None
    templates: Templates = Field(default_factory=dict)
    link: Annotated[Words, AfterValidator(checked_link)] | None = None
    rules: tuple[RuleEntry, ...] = ()


_DEFAULT = Receiver(name=DEFAULT_RECEIVER, channels=(EVERY_CHANNEL,))


@dataclass(frozen=True, slots=True)
class Configuration:
    """A valid configuration: all names that it refers to are defined."""

    route: Route = field(default_factory=lambda: Route(DEFAULT_RECEIVER))
    receivers: Mapping[str, Receiver] = field(default_factory=lambda: {DEFAULT_RECEIVER: _DEFAULT})
    inhibit_rules: tuple[InhibitRule, ...] = ()
    time_intervals: TimeIntervals = field(default_factory=dict)
    flapping: Damping | None = field(default_factory=Damping)
    throttle: Throttle | None = None
    resolve_timeout: timedelta | None = None
    """How long after its last repetition an alert is resolved; None: only explicitly."""
    templates: Mapping[str, str] = field(default_factory=dict)
    link: str | None = None
    rules: tuple[Rule, ...] = BUILT_IN

    def throttle_of(self, receiver: str) -> Throttle | None:
        return self.receivers[receiver].throttle or self.throttle


class Read(NamedTuple):
    """Warnings are in the order of their lines."""

    configuration: Configuration
    warnings: tuple[Fault, ...]


def load(text: str | bytes, source: str = "the alerts file") -> Configuration:
    """Return the configuration in `text`. Raises DocumentError with all its faults."""
    return read(text, source).configuration


def read(
    text: str | bytes, source: str = "the alerts file", address_problem: Callable[[str], str] | None = None
) -> Read:
    """Return the configuration with warnings of likely mistakes.

    address_problem: returns what is wrong with a channel's address; empty if nothing is.
    """
    document = Document.parse(text, source)
    if document.data is None and not document.faults:
        # An editor or a full disk may have cut it off.
        raise DocumentError(source, [Fault(1, "", "the file is empty; write `{}` to use O9's defaults")])

    def placed(problems: Iterable[PathProblem]) -> list[Fault]:
        return sorted(Fault(document.line_of(path), path, problem) for path, problem in problems)

    document = replace(document, faults=(*document.faults, *placed(_conflicts(document.data))))
    file = read_model(_File, document, context=_names_in(document.data) | {"address_problem": address_problem})
    configuration = _configuration(file)
    return Read(configuration, tuple(placed(_warnings(file, configuration.rules, document))))


class AlertsFile:
    """The configuration in force, reloaded from its file. Used by one thread at a time.

    A file that cannot be read or has faults is refused, and the previous configuration stays in force; the first
    `reload` raises instead. A fault is logged once, and again when it changes. `check` may refuse a configuration for
    other reasons by raising OptimizationError.
    """

    def __init__(self, path: str | None, check: Callable[[Configuration], object] = lambda _: None) -> None:
        self._path = None if path is None else Path(path).expanduser()
        self._check = check
        self._text: bytes | None = None
        self.configuration = Configuration()
        self.fault = ""  # why the present file is not in force; empty if it is

    def reload(self) -> bool:
        """Reload the file if it has changed. Returns whether that replaced a configuration."""
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
                logger.error("%s; the previous configuration stays in force", why)
            self.fault = why
            return False
        if changed or self.fault:
            logger.log(logging.DEBUG if first else logging.INFO, "%s is in force", self._path)
        self.fault = ""
        return changed and not first


def read_file(path: Path) -> bytes:
    """Read a file. Raises OSError, also for anything but a regular file, since reading a pipe would block."""
    if path.exists() and not path.is_file():
        raise OSError(errno.EINVAL, "not a regular file", str(path))
    return path.read_bytes()


PathProblem = tuple[str, str]
"""The path of a field, and what is wrong with it."""


# Checks across fields. They read data before validation, so that one fault hides no other.


def _mappings(data: Any, field: str) -> Iterator[tuple[str, dict[str, Any]]]:
    """Yield the mappings in the list `field`, each with its path."""
    items = data.get(field) if isinstance(data, dict) else None
    for index, each in enumerate(items if isinstance(items, list) else ()):
        if isinstance(each, dict):
            yield f"{field}[{index}]", each


def _names(data: Any, field: str) -> Iterator[tuple[str, str]]:
    """Yield the names in the list `field`, each with its path."""
    for path, each in _mappings(data, field):
        if isinstance(name := each.get("name"), (str, int, float)):
            yield f"{path}.name", str(name)


def _names_in(data: Any) -> dict[str, Any]:
    """Return the names that fields may refer to."""
    receivers = {name for _, name in _names(data, "receivers")}
    with_channels = {str(each.get("name")) for _, each in _mappings(data, "receivers") if each.get("channels")}
    return {
        "receiver": [*sorted(receivers), DEFAULT_RECEIVER],
        "without channels": receivers - with_channels,
        "time interval": [name for _, name in _names(data, "time_intervals")],
    }


def _conflicts(data: Any) -> Iterator[PathProblem]:
    for section in ("receivers", "time_intervals", "rules"):
        seen = set[str]()
        for path, name in _names(data, section):
            if name in seen:
                yield path, f"{name!r:.80} is already used; use another name"
            seen.add(name)
    if isinstance(data, dict) and isinstance(data.get("route"), dict):
        yield from _half_escalations("route", data["route"], frozenset())


def _half_escalations(path: str, route: dict[str, Any], inherited: frozenset[str]) -> Iterator[PathProblem]:
    given = [name for name in ("escalate_after", "escalate_to") if route.get(name) is not None]
    known = inherited.union(given)
    if given and len(known) == 1:
        yield f"{path}.{given[0]}", "`escalate_after` and `escalate_to` need each other"
    for inside, each in _mappings(route, "routes"):
        yield from _half_escalations(f"{path}.{inside}", each, known)


# After validation


def _configuration(file: _File) -> Configuration:
    receivers = {DEFAULT_RECEIVER: _DEFAULT} | {each.name: each for each in file.receivers}
    return Configuration(
        route=_tree(file.route),
        receivers=receivers,
        inhibit_rules=tuple(
            InhibitRule(sum(each.source_matchers, ()), sum(each.target_matchers, ()), each.equal, each.name)
            for each in file.inhibit_rules
        ),
        time_intervals={each.name: each.time_intervals for each in file.time_intervals},
        **{name: getattr(file, name) for name in ("flapping", "throttle", "resolve_timeout", "templates", "link")},
        rules=rules_in_force(file.rules),
    )


def _tree(root: _Route) -> Route:
    """Build the routes; each inherits what it does not set. Equal siblings are numbered in their keys."""
    keys: Counter[str] = Counter()

    def build(given: _Route, above: Route) -> Route:
        matchers: Matchers = sum(given.matchers, ())
        group_by = above.group_by
        if given.group_by is not None:
            group_by = None if ALL_LABELS in given.group_by else tuple(sorted({*given.group_by}))
        key = f"{above.key}/{format_matchers(matchers)}".removeprefix("/")
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
        return replace(route, routes=tuple([build(each, route) for each in given.routes]))

    return build(root, Route(DEFAULT_RECEIVER, key=""))


def needs_no_registration(channel: str) -> bool:
    """Return whether it is a built-in channel, an address or a block, which needs no registration by a program."""
    return "://" in channel or channel in BUILT_IN_CHANNELS or channel.startswith(BLOCK)


# Warnings


def similar_label(name: str, known: Collection[str]) -> str | None:
    """Return the label that was probably meant."""
    return _PROMETHEUS.get(name.lower()) or next(iter(near(name, known)), None)


def _warnings(file: _File, rules: Iterable[Rule], document: Document) -> Iterator[PathProblem]:
    for index, receiver in enumerate(file.receivers):
        for number, channel in enumerate(receiver.channels):
            if channel != EVERY_CHANNEL and not needs_no_registration(channel):
                yield f"receivers[{index}].channels[{number}]", _doubtful_channel(channel)
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
        similar = similar_label(name, known)
        more = f"did you mean {similar}?" if similar else "only alerts of your own programs can have it"
        yield path, f"neither O9 nor a rule of this file sets the label {name!r:.80}; {more}"
    names = {"", *(rule.name for rule in (*BUILT_IN, *in_force))}
    for path, name in [(path, name) for path, each in matchers if each.name == "rule" for name in literal_values(each)]:
        if name not in names:
            yield path, f"no rule is called {name!r:.80}{suggestion(name, names - {''})}"
    for path, route in routes.items():
        yield from _never_reached(path, route, document)
    for index, entry in enumerate(file.rules):
        for name, condition in (("when", entry.when), ("clear", entry.clear)):
            if condition is not None and (figure := unsatisfiable_figure(condition, entry.rule.scope)) is not None:
                problem = f"it never holds: no value of `{figure}` satisfies each comparison; did you mean `or`?"
                yield f"rules[{index}].{name}", problem


def _doubtful_channel(channel: str) -> str:
    if ":" in channel:
        return "an address contains '://'; this is the name of a channel that a program must register"
    if any(each in channel for each in ", "):
        return "this names a single channel; write several as a list, such as [log, desk]"
    return f"{channel!r:.80} is not a built-in channel; a program must register it{hint_of(channel, BUILT_IN_CHANNELS)}"


def _walk(route: _Route, path: str) -> Iterator[tuple[str, _Route]]:
    yield path, route
    for index, each in enumerate(route.routes):
        yield from _walk(each, f"{path}.routes[{index}]")


def _placed(path: str, texts: Iterable[Matchers]) -> list[tuple[str, Matcher]]:
    return [(f"{path}[{index}]", each) for index, matchers in enumerate(texts) for each in matchers]


def _never_reached(path: str, parent: _Route, document: Document) -> Iterator[PathProblem]:
    """Find routes whose alerts all match an earlier sibling that does not `continue`."""
    ends: list[tuple[int, frozenset[Matcher]]] = []
    for number, route in enumerate(parent.routes):
        matchers = frozenset(sum(route.matchers, ()))
        before = next((place for place, others in ends if others <= matchers), None)
        if before is not None:
            line = document.line_of(f"{path}.routes[{before}]")
            yield (
                f"{path}.routes[{number}]",
                f"no alert reaches this route: the one in line {line} takes them all; put this one before it, or "
                "write `continue: true` there",
            )
        elif not route.continues:
            ends.append((number, matchers))
