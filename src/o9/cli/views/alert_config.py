"""The page of `o9 alerts config check`: what a configuration means. Pure.

Contract. Of an address only the scheme and the host are shown. A route shows only what differs from its parent.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator

from rich.console import RenderableType
from rich.text import Text
from rich.tree import Tree

from o9.alerts.channels.redaction import redacted
from o9.alerts.config.rules import BUILT_IN
from o9.alerts.config.schema import BUILT_IN_CHANNELS, EVERY_CHANNEL, Configuration, Receiver, needs_no_registration
from o9.alerts.pipeline.matchers import Matchers
from o9.alerts.pipeline.routing import Route
from o9.alerts.pipeline.stages import Throttle
from o9.alerts.pipeline.time_intervals import MONTHS, WEEKDAYS, Range, TimeInterval
from o9.alerts.rules.rules import Rule
from o9.cli.console import facts_table
from o9.text.escape import shown
from o9.text.format import NOTHING, count, duration

Rows = Iterator[tuple[str, str]]


def configuration_view(configuration: Configuration) -> list[RenderableType]:
    page: list[RenderableType] = [Text("Routes", style="bold"), _tree(configuration.route, None)]
    sections = {
        "Receivers": _receivers(configuration),
        "Inhibitions": _inhibitions(configuration),
        "Time intervals": _intervals(configuration),
        "Rules": _rules(configuration),
        "For all": _general(configuration),
    }
    for title, rows in sections.items():
        if listed := list(rows):
            page += [Text(), Text(title, style="bold"), facts_table(listed, indent=2)]
    return page


def interval_words(interval: TimeInterval) -> str:
    """`monday to friday, 09:00 to 17:30 (America/New_York)`"""

    def clock(minute: int) -> str:
        return f"{minute // 60:02}:{minute % 60:02}"

    parts = [_spans(interval.weekdays, lambda day: WEEKDAYS[day])]
    parts += [f"day {days} of the month" if (days := _spans(interval.days_of_month, str)) else ""]
    parts += [_spans(interval.months, lambda month: MONTHS[month - 1]), _spans(interval.years, str)]
    parts += [", ".join(f"{clock(start)} to {clock(end)}" for start, end in interval.times)]
    parts += [f"while {interval.calendar} trades" if interval.calendar else ""]
    out = ", ".join(filter(None, parts))
    return f"{out} ({interval.location or 'UTC'})" if out else "always"


def _spans(ranges: tuple[Range, ...], name: Callable[[int], str]) -> str:
    return ", ".join(name(first) if first == last else f"{name(first)} to {name(last)}" for first, last in ranges)


def _tree(route: Route, parent: Route | None, tree: Tree | None = None) -> Tree:
    text = Text(shown("everything else" if parent is None else _matchers(route.matchers)))
    text.append(" → ").append(shown(route.receiver), style="bold")
    own = _route_words(route)
    known = {} if parent is None else _route_words(parent)
    for name, words in own.items():
        if words and (name == "continues" or words != known.get(name)):
            text.append(f"\n  {shown(words)}", style="dim")
    grown = Tree(text, guide_style="dim") if tree is None else tree.add(text)
    for each in route.routes:
        _tree(each, route, grown)
    return grown


def _matchers(matchers: Matchers) -> str:
    return ", ".join(map(str, matchers)) or "everything"


def _route_words(route: Route) -> dict[str, str]:
    """Describe the settings of a route, by name. An empty text says nothing."""
    by = "all labels" if route.group_by is None else ", ".join(route.group_by) or "nothing: all in one group"
    after = route.escalate_after
    return {
        "group_by": f"grouped by {by}",
        "group_wait": f"waits {duration(route.group_wait)} for others (group_wait)",
        "group_interval": f"sends changes of a group every {duration(route.group_interval)} (group_interval)",
        "repeat_interval": f"repeated every {duration(route.repeat_interval)} (repeat_interval)",
        "escalate": f"to {route.escalate_to} if not acknowledged for {duration(after)}" if after is not None else "",
        "mute": f"mute: {', '.join(route.mute_time_intervals)}" if route.mute_time_intervals else "",
        "only": f"only: {', '.join(route.active_time_intervals)}" if route.active_time_intervals else "",
        "continues": "continues with the routes below" if route.continues else "",
    }


def _receivers(configuration: Configuration) -> Rows:
    used = {name for route in configuration.route.walk() for name in (route.receiver, route.escalate_to)}
    for each in configuration.receivers.values():
        unused = [] if each.name in used else ["no route leads here"]
        if not unused or (each.channels and each.name != "default"):
            yield each.name, "\n".join([*_receiver_words(each), *unused])


def _receiver_words(receiver: Receiver) -> Iterator[str]:
    for channel in receiver.channels:
        if channel == EVERY_CHANNEL:
            yield f"{', '.join(BUILT_IN_CHANNELS)}, and every channel that a program registers"
        else:
            yield redacted(channel) if needs_no_registration(channel) else f"{channel} (a program must register it)"
    if not receiver.channels:
        yield "no channel: never notified"
    if not receiver.send_resolved:
        yield "no resolved messages"
    if receiver.templates:
        yield f"own {', '.join(sorted(receiver.templates))}"
    if receiver.throttle:
        yield _throttle(receiver.throttle)


def _inhibitions(configuration: Configuration) -> Rows:
    for rule in configuration.inhibit_rules:
        verb = "is" if len(rule.equal) == 1 else "are"
        equal = f", where {' and '.join(rule.equal)} {verb} equal" if rule.equal else ""
        yield rule.name or NOTHING, f"{_matchers(rule.source)} mutes {_matchers(rule.target)}{equal}"


def _intervals(configuration: Configuration) -> Rows:
    for name, each in configuration.time_intervals.items():
        yield name, "; or ".join(map(interval_words, each)) or "never"


def _rules(configuration: Configuration) -> Rows:
    """The rules that are changed or new; then those that are off, and the number of the built-in ones."""
    changed = [rule for rule in configuration.rules if rule not in BUILT_IN]
    for rule in changed:
        yield rule.name, _rule_words(rule)
    kept = {rule.name for rule in configuration.rules}
    if off := [rule.name for rule in BUILT_IN if rule.name not in kept]:
        yield "off", ", ".join(off)
    yield "built in", f"{len(configuration.rules) - len(changed)} of {len(BUILT_IN)} unchanged"


def _rule_words(rule: Rule) -> str:
    """`error, each optimization, when drawdown > 0.2 for 5 min; ends when drawdown < 0.1`"""
    when = f", when {rule.when.text}" if rule.when else ""
    lasts = f" for {duration(rule.lasts)}" if rule.lasts else ""
    clear = f"; ends when {rule.clear.text}" if rule.clear else ""
    lingers = f"; keeps firing for {duration(rule.lingers)}" if rule.lingers else ""
    level = rule.level.value if rule.level else "of the finding's level"
    return f"{level}, {rule.scope.value}{when}{lasts}{clear}{lingers}"


def _general(configuration: Configuration) -> Rows:
    timeout, damping = configuration.resolve_timeout, configuration.flapping
    yield "ends", "when it is resolved" + (f", or not repeated for {duration(timeout)}" if timeout else "")
    if damping is None:
        yield "flapping", "not damped"
    else:
        within, quiet = duration(damping.within), duration(damping.quiet)
        changes = f"it changes {damping.changes} times within {within}"
        yield "flapping", f"reported once if {changes}, until it is quiet for {quiet}"
    if configuration.throttle:
        yield "throttle", _throttle(configuration.throttle)
    if configuration.templates:
        yield "templates", ", ".join(sorted(configuration.templates))
    if configuration.link:
        yield "link", configuration.link


def _throttle(throttle: Throttle) -> str:
    return f"at most {count(throttle.messages, 'message')} in {duration(throttle.every)}"
