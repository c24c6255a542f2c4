"""`rules` of the alerts file: changes to the built-in ones by their names, and rules of one's own. Pure.

Each rule is a mapping with `name`, and of one's own also `when`. Faults go to the reader, each with its line and field.
Texts may name only what exists, and labels are such as an alert may have.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from functools import partial
from typing import Any

from o9.alerts.config.builtin_rules import BUILT_IN
from o9.alerts.config.reading import Node, Reader, level_of
from o9.alerts.pipeline.alert import NAME_LIMIT as LABEL_LIMIT
from o9.alerts.pipeline.alert import VALUE_LIMIT
from o9.alerts.rules.expressions import condition_of, contradiction
from o9.alerts.rules.metrics import INSTANTS, LABELS, Scope, checked_words
from o9.alerts.rules.rules import TITLE_LIMIT, Rule
from o9.model.states import AlertLevel
from o9.text.suggest import suggestion

LABELS_LIMIT = 50
NAME_LIMIT = 150
_OWN_FIELDS = {"level": "level", "title": "title", "rule": "name"}
_FIELDS = (
    "name", "when", "clear", "for", "keep_firing_for", "scope", "level", "title", "message", "remedy", "labels",
    "enabled",
)  # fmt: skip
_SCOPES = {scope.value: scope for scope in Scope if scope is not Scope.FINDING}


def read_rules(reader: Reader, node: Node | None, built_in: Sequence[Rule] = BUILT_IN) -> tuple[Rule, ...]:
    """All rules that are in force: the built-in ones as they are changed, then those of the file."""
    known = {rule.name: rule for rule in built_in}
    rules = dict(known)
    lines: dict[str, int] = {}
    for item in reader.items(node):
        found = reader.mapping(item, _FIELDS, ("name",))
        name = reader.understood(found.get("name"), _name)
        if name is None:
            continue
        if name in lines:
            reader.fault(found["name"], f"there is another {name!r:.80}, in line {lines[name]}")
            continue
        lines[name] = found["name"].line
        rule = _rule(reader, item, found, name, known.get(name))
        if rule is None or reader.flag(found.get("enabled")) is False:
            rules.pop(name, None)
        else:
            rules[name] = rule
    return tuple(rules.values())


def _rule(reader: Reader, item: Node, found: Mapping[str, Node], name: str, base: Rule | None) -> Rule | None:
    scope = _scope(reader, found.get("scope"), base)
    if scope is None:
        return None
    for field, why in _without(scope).items():
        if field in found:
            reader.fault(found[field], why)
    found = {field: node for field, node in found.items() if field not in _without(scope)}
    words = partial(checked_words, scope=scope)
    given: dict[str, Any] = {
        "level": reader.understood(found.get("level"), level_of),
        "title": reader.understood(found.get("title"), partial(_title, scope=scope)),
        "says": reader.understood(found.get("message"), words),
        "remedy": reader.understood(found.get("remedy"), words),
        "labels": _labels(reader, found.get("labels"), scope),
        "lasts": reader.span(found.get("for"), zero=True),
        "keep_firing": reader.span(found.get("keep_firing_for"), zero=True),
    }
    given = {field: value for field, value in given.items() if value is not None}
    when = reader.understood(found.get("when"), partial(condition_of, scope=scope))
    clear = reader.understood(found.get("clear"), partial(condition_of, scope=scope))
    if base is None:
        if "when" not in found:
            near = suggestion(name, [rule.name for rule in BUILT_IN])
            reader.fault(item, f"`when` is missing, and no built-in rule that brings one is called {name!r:.80}{near}")
        made = Rule(name, name.replace("_", " ").capitalize(), scope, AlertLevel.WARNING, when, clear)
    else:
        # What was clear beside another condition need not be so beside this one.
        made = replace(base, when=when or base.when, clear=clear or (None if when else base.clear))
        if when and "message" not in found:
            made = replace(made, says="")
    if made.when is not None and clear is not None and (wrong := contradiction(made.when, clear)) is not None:
        reader.fault(found["clear"], wrong)
    return replace(made, **given)


def _scope(reader: Reader, node: Node | None, base: Rule | None) -> Scope | None:
    said = reader.one_of(node, _SCOPES, "scope")
    if node is not None and said is None:
        return None
    if base is None:
        return Scope.GLOBAL if said is None else _SCOPES[said]
    if node is not None and said != base.scope.value:
        reader.fault(node, f"{base.name!r} is built in and looks at {base.scope.value}; give a rule of another name")
    return base.scope


def _without(scope: Scope) -> dict[str, str]:
    """Fields that rules of this scope cannot have, and why."""
    if scope is Scope.FINDING:
        why = "the monitor knows when this begins and is over; change its level, title, labels, or switch it off"
        return dict.fromkeys(("when", "clear", "for", "keep_firing_for", "message", "remedy"), why)
    if scope in INSTANTS:
        why = f"`{scope.value}` is one instant, without a length; `keep_firing_for` says how long it fires"
        return {"for": why, "clear": why}
    if scope is Scope.REPORT:
        return {"for": "a report holds until the next one; leave it out"}
    return {}


def _name(text: str) -> str:
    """The ids of its alerts begin with it."""
    if not text.strip() or not text.isprintable() or len(text) > NAME_LIMIT:
        raise ValueError(f"a rule's name is printable text of 1 to {NAME_LIMIT} characters")
    if "/" in text or text != text.strip():
        raise ValueError(f"{text!r} cannot begin an alert's id; take '-' instead of '/', and no blanks around it")
    return text


def _title(text: str, scope: Scope) -> str:
    if not text.strip() or len(text) > TITLE_LIMIT:
        raise ValueError(f"a title is a text of 1 to {TITLE_LIMIT} characters")
    return checked_words(text, scope)


def _labels(reader: Reader, node: Node | None, scope: Scope) -> dict[str, str] | None:
    if node is None:
        return None
    labels = {}
    for name, each in reader.mapping(node).items():
        value = reader.text(each)
        if not name.strip() or not name.isprintable() or len(name) > LABEL_LIMIT:
            reader.fault(each, f"a label's name is printable text of 1 to {LABEL_LIMIT} characters")
        elif name in _OWN_FIELDS:
            reader.fault(each, f"the rule's own `{_OWN_FIELDS[name]}` says it; write it there")
        elif name == "optimization" or name in LABELS[scope]:
            reader.fault(each, "O9 sets it, to what the alert is about; take another name")
        elif value is not None and len(value) > VALUE_LIMIT:
            reader.fault(each, f"{len(value):,} characters; at most {VALUE_LIMIT:,} are allowed")
        elif value is not None:
            labels[name] = value
    if len(labels) > LABELS_LIMIT:
        reader.fault(node, f"{len(labels):,} labels; at most {LABELS_LIMIT} are allowed")
    return labels
