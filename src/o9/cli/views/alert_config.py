"""What a configuration of the alerts means. Pure.

Contract. Of an address the scheme and the host are shown, never more. A route says only what differs from its parent.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from typing import Any

from rich.console import RenderableType
from rich.table import Table
from rich.text import Text
from rich.tree import Tree

from o9.alerts.channels.redaction import redacted
from o9.alerts.config.builtin_rules import BUILT_IN
from o9.alerts.config.schema import BUILT_IN_CHANNELS, EVERY_CHANNEL, Configuration, Receiver, says_where
from o9.alerts.pipeline.inhibition import InhibitRule
from o9.alerts.pipeline.matchers import Matchers
from o9.alerts.pipeline.routing import Route
from o9.alerts.pipeline.stages import Throttle
from o9.alerts.pipeline.time_intervals import MONTHS, WEEKDAYS, Range, TimeInterval
from o9.alerts.rules.rules import Rule
from o9.cli.console import facts_table
from o9.text.escape import shown
from o9.text.format import NOTHING, duration

ALWAYS = "everything else"


def configuration_view(configuration: Configuration) -> list[RenderableType]:
    """The page of `o9 alerts config check`."""
    used = {name for route in configuration.route.walk() for name in (route.receiver, route.escalate_to) if name}
    page: list[RenderableType] = [Text("Routes", style="bold"), _tree(configuration.route)]
    receivers = [each for each in configuration.receivers.values() if each.name in used or len(each.channels) > 0]
    listed = [each for each in receivers if each.name in used or each.name != "default"]
    page += [Text(), Text("Receivers", style="bold"), _receivers(listed, used)]
    if configuration.inhibit_rules:
        page += [Text(), Text("Inhibitions", style="bold"), _listed(map(_inhibition, configuration.inhibit_rules))]
    if configuration.time_intervals:
        rows = (
            (name, "; or ".join(map(interval_words, each)) or "never")
            for name, each in configuration.time_intervals.items()
        )
        page += [Text(), Text("Time intervals", style="bold"), _listed(rows)]
    page += [Text(), Text("Rules", style="bold"), _listed(_rules(configuration.rules))]
    page += [Text(), Text("For all", style="bold"), _listed(_general(configuration))]
    return page


def channel_words(channel: str) -> str:
    """`mailtos://mail.desk/***`; a name as it is."""
    return redacted(channel) if "://" in channel else channel


def interval_words(interval: TimeInterval) -> str:
    """`monday to friday, 09:00 to 17:30 (America/New_York)`"""
    parts = [
        ", ".join(_span(each, lambda day: WEEKDAYS[day]) for each in interval.weekdays),
        ", ".join(f"day {_span(each, str)} of the month" for each in interval.days_of_month),
        ", ".join(_span(each, lambda month: MONTHS[month - 1]) for each in interval.months),
        ", ".join(_span(each, str) for each in interval.years),
        ", ".join(f"{_clock(start)} to {_clock(end)}" for start, end in interval.times),
        f"while {interval.calendar} trades" if interval.calendar else "",
    ]
    zone = str(interval.location) if interval.location else "UTC"
    out = ", ".join(part for part in parts if part)
    return f"{out or 'always'} ({zone})" if out else "always"


def _listed(rows: Iterable[tuple[str, str]]) -> Table:
    return facts_table(rows, indent=2)


def _tree(route: Route) -> Tree:
    tree = Tree(_route_words(route, None), guide_style="dim")
    _grow(tree, route)
    return tree


def _grow(tree: Tree, route: Route) -> None:
    for each in route.routes:
        _grow(tree.add(_route_words(each, route)), each)


def _route_words(route: Route, parent: Route | None) -> Text:
    matchers = ALWAYS if parent is None else _matchers(route.matchers)
    text = Text(shown(matchers)).append(" → ").append(shown(route.receiver), style="bold")
    out = [
        words
        for name, words in _differences(route).items()
        if parent is None or getattr(route, name) != getattr(parent, name)
    ]
    if route.escalate_to and (parent is None or _escalation(route) != _escalation(parent)):
        out.append(_escalation(route))
    out += [f"mute: {', '.join(route.mute_time_intervals)}"] if route.mute_time_intervals else []
    out += [f"only: {', '.join(route.active_time_intervals)}"] if route.active_time_intervals else []
    out += ["and goes on to the routes below"] if route.continues else []
    return text.append(shown("".join(f"\n  {each}" for each in out)).replace("\\n", "\n"), style="dim")


def _matchers(matchers: Matchers) -> str:
    return ", ".join(map(str, matchers)) or "everything"


def _differences(route: Route) -> dict[str, str]:
    by = "all labels" if route.group_by is None else ", ".join(route.group_by) or "nothing: all in one group"
    return {
        "group_by": f"grouped by {by}",
        "group_wait": f"waits {duration(route.group_wait)} for others (group_wait)",
        "group_interval": f"news of a group every {duration(route.group_interval)} (group_interval)",
        "repeat_interval": f"repeated every {duration(route.repeat_interval)} (repeat_interval)",
    }


def _escalation(route: Route) -> str:
    after = route.escalate_after
    return "" if after is None else f"to {route.escalate_to} if not acknowledged for {duration(after)}"


def _receivers(receivers: Sequence[Receiver], used: set[str]) -> Table:
    return _listed((each.name, "\n".join(_receiver_words(each, each.name in used))) for each in receivers)


def _receiver_words(receiver: Receiver, used: bool) -> list[str]:
    out = [_known(each) for each in receiver.channels] or ["no channel: never notified"]
    out += [] if receiver.send_resolved else ["no resolved messages"]
    out += [f"own {', '.join(sorted(receiver.templates))}"] if receiver.templates else []
    out += [_throttle_words(receiver.throttle)] if receiver.throttle else []
    return out + ([] if used else ["no route leads here"])


def _known(channel: str) -> str:
    if channel == EVERY_CHANNEL:
        return f"{', '.join(BUILT_IN_CHANNELS)}, and every channel that a program registers"
    if says_where(channel):
        return channel_words(channel)
    return f"{channel} (a program has to register it)"


def _inhibition(rule: InhibitRule) -> tuple[str, str]:
    equal = f", where {' and '.join(rule.equal)} {'is' if len(rule.equal) == 1 else 'are'} equal" if rule.equal else ""
    return rule.name or NOTHING, f"{_matchers(rule.source)} mutes {_matchers(rule.target)}{equal}"


def _rules(rules: Sequence[Rule]) -> Iterator[tuple[str, str]]:
    """Those that are not as they come, one by one."""
    changed = [rule for rule in rules if rule not in BUILT_IN]
    for rule in changed:
        yield rule.name, _rule_words(rule)
    if off := _switched_off(rules):
        yield "off", ", ".join(off)
    same = len(rules) - len(changed)
    yield "built in", f"{same} of {len(BUILT_IN)} as O9 brings them"


def _rule_words(rule: Rule) -> str:
    """`error, for each optimization, where drawdown > 0.2 for 5 m; over where drawdown < 0.1`"""
    where = f" where {rule.when.text}" if rule.when else ""
    lasts = f" for {duration(rule.lasts)}" if rule.lasts else ""
    clear = f"; over where {rule.clear.text}" if rule.clear else ""
    lingers = f"; fires for {duration(rule.lingers)} after that" if rule.lingers else ""
    level = rule.level.value if rule.level else "of the finding's level"
    return f"{level}, for {rule.scope.value}{where}{lasts}{clear}{lingers}"


def _switched_off(rules: Sequence[Rule]) -> list[str]:
    there = {rule.name for rule in rules}
    return [rule.name for rule in BUILT_IN if rule.name not in there]


def _general(configuration: Configuration) -> list[tuple[str, str]]:
    timeout = configuration.resolve_timeout
    rows = [
        (
            "over",
            f"when it is resolved, or not repeated for {duration(timeout)}" if timeout else "when it is resolved",
        ),
        ("flapping", _damping_words(configuration)),
    ]
    rows += [("throttle", _throttle_words(configuration.throttle))] if configuration.throttle else []
    rows += [("templates", ", ".join(sorted(configuration.templates)))] if configuration.templates else []
    rows += [("link", configuration.link)] if configuration.link else []
    return rows


def _damping_words(configuration: Configuration) -> str:
    damping = configuration.flapping
    if damping is None:
        return "not damped"
    within, quiet = duration(damping.within), duration(damping.quiet)
    return f"reported once if it changes {damping.changes} times within {within}, until it is quiet for {quiet}"


def _throttle_words(throttle: Throttle) -> str:
    return f"at most {throttle.messages:,} message{'s' * (throttle.messages > 1)} in {duration(throttle.every)}"


def _span(each: Range, name: Any) -> str:
    first, last = each
    return str(name(first)) if first == last else f"{name(first)} to {name(last)}"


def _clock(minute: int) -> str:
    return f"{minute // 60:02}:{minute % 60:02}"
