"""The field `rules` of the alerts file: changes of built-in rules, by their names, and the user's own rules.

Each entry is a mapping with `name`; the user's own also have `when`. Texts may name only figures, labels and details
of the rule's scope. `builtin_rules.yaml` has the built-in rules in the same form.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from dataclasses import replace
from functools import cached_property
from importlib.resources import files
from typing import Annotated, Any

from pydantic import AfterValidator, Field, PlainValidator, ValidationInfo

from o9.alerts.config.fields import Level, Name, SpanOrZero, Words, as_text, one_of
from o9.alerts.pipeline.alert import VALUE_LIMIT
from o9.alerts.rules.metrics import INSTANTS, LABELS, Condition, Scope, checked_text, condition_of, contradiction
from o9.alerts.rules.rules import TITLE_LIMIT, Rule
from o9.config.document import Document
from o9.model.errors import Faults, OptimizationValidationError
from o9.model.faults import Flag, Typed, validated
from o9.model.fields import addressable, not_blank
from o9.model.states import AlertLevel
from o9.text.suggest import suggestion

LABELS_LIMIT = 50
NAME_LIMIT = 150
_OWN_FIELDS = {"level": "level", "title": "title", "rule": "name"}
_SCOPES = {scope.value: scope for scope in Scope if scope is not Scope.FINDING}
_BUILT_IN: dict[str, Rule] = {}  # filled below; while the built-in rules are read, none is known


def _label(name: str) -> str:
    if name in _OWN_FIELDS:
        raise ValueError(f"not allowed as a label; set the rule's field `{_OWN_FIELDS[name]}`")
    return name


def _as_built_in(scope: Scope, info: ValidationInfo) -> Scope:
    base = _BUILT_IN.get(info.data.get("name", ""))
    if base is not None and scope is not base.scope:
        raise ValueError(f"the built-in rule {base.name!r} has the scope {base.scope.value}; use another name")
    return scope


def _scope_in(info: ValidationInfo) -> Scope | None:
    """Return the scope of the rule that is being validated; None if its name or scope has a fault."""
    if not {"name", "scope"} <= info.data.keys():
        return None
    base = _BUILT_IN.get(info.data["name"])
    return info.data["scope"] or (Scope.GLOBAL if base is None else base.scope)


def _without(scope: Scope) -> dict[str, str]:
    """Return the fields that rules of this scope cannot have, and why."""
    if scope is Scope.FINDING:
        why = "the monitor decides when this begins and ends; change its level, title or labels, or disable it"
        return dict.fromkeys(("when", "clear", "lasts", "keep_firing_for", "message", "remedy"), why)
    if scope in INSTANTS:
        why = f"`{scope.value}` is an instant and has no duration; `keep_firing_for` sets how long it fires"
        return {"lasts": why, "clear": why}
    if scope is Scope.REPORT:
        return {"lasts": "a report holds until the next one; remove it"}
    return {}


def _of_scope(check: Callable[[Any, Scope], Any] = lambda value, _: value) -> AfterValidator:
    """Check that the rule's scope has this field, and its value by `check`."""

    def checked(value: Any, info: ValidationInfo) -> Any:
        if (scope := _scope_in(info)) is None:
            return value
        if (why := _without(scope).get(info.field_name or "")) is not None:
            raise ValueError(why)
        return check(value, scope)

    return AfterValidator(checked)


def _own_labels(labels: dict[str, str], scope: Scope) -> dict[str, str]:
    faults = Faults()
    for name in {*labels}.intersection(("optimization", *LABELS[scope])):
        faults.add(OptimizationValidationError(name, "O9 sets this label; use another name"))
    faults.refuse()
    return labels


def _needed(when: Condition | None, info: ValidationInfo) -> Condition | None:
    name = info.data.get("name")
    if when is None and name is not None and name not in _BUILT_IN:
        why = f"it is missing, and there is no built-in rule {name!r:.80}{suggestion(name, _BUILT_IN)}"
        raise OptimizationValidationError("when", why)
    return when


def _not_contradicting(clear: Condition | None, info: ValidationInfo) -> Condition | None:
    if clear is None or _scope_in(info) is None or "when" not in info.data:
        return clear
    base = _BUILT_IN.get(info.data["name"])
    when = info.data["when"] or (base.when if base else None)
    if when is not None and (wrong := contradiction(when, clear)) is not None:
        raise ValueError(wrong)
    return clear


Label = Annotated[Name, AfterValidator(_label)]
ScopeName = Annotated[
    Scope, PlainValidator(lambda value: _SCOPES[one_of(as_text(value), _SCOPES, "scope")]), AfterValidator(_as_built_in)
]
Value = Annotated[Words, Field(max_length=VALUE_LIMIT)]
ScopedText = Annotated[Words, _of_scope(checked_text)]
ScopedSpan = Annotated[SpanOrZero, _of_scope()]
ScopedCondition = Annotated[Condition, PlainValidator(as_text), _of_scope(condition_of)]


class RuleEntry(Typed):
    """A change of a built-in rule, or a rule. The ids of its alerts begin with its name.

    Other fields are checked after `name` and `scope`, on which they depend.
    """

    name: Annotated[Name, Field(max_length=NAME_LIMIT), AfterValidator(addressable)]
    scope: ScopeName | None = None
    when: Annotated[ScopedCondition | None, AfterValidator(_needed)] = Field(None, validate_default=True)
    clear: Annotated[ScopedCondition | None, AfterValidator(_not_contradicting)] = None
    lasts: ScopedSpan | None = Field(None, alias="for")
    keep_firing_for: ScopedSpan | None = None
    level: Level | None = None
    title: Annotated[ScopedText, Field(max_length=TITLE_LIMIT), AfterValidator(not_blank)] | None = None
    message: ScopedText | None = None
    remedy: ScopedText | None = None
    labels: Annotated[dict[Label, Value], Field(max_length=LABELS_LIMIT), _of_scope(_own_labels)] = Field(
        default_factory=dict
    )
    enabled: Flag = True

    @cached_property
    def rule(self) -> Rule:
        base, when, clear = _BUILT_IN.get(self.name), self.when, self.clear
        if base is None:
            title, scope = self.name.replace("_", " ").capitalize(), self.scope or Scope.GLOBAL
            base = Rule(self.name, title, scope, AlertLevel.WARNING, when, clear)
        elif when:  # the built-in `clear` and `message` need not suit another condition
            base = replace(base, when=when, clear=clear, message="")
        elif clear:
            base = replace(base, clear=clear)
        changed: dict[str, Any] = {
            "level": self.level, "title": self.title, "message": self.message, "remedy": self.remedy,
            "labels": self.labels or None, "lasts": self.lasts, "keep_firing": self.keep_firing_for,
        }  # fmt: skip
        return replace(base, **{name: value for name, value in changed.items() if value is not None})


def _built_in() -> Iterator[Rule]:
    text = files("o9.alerts.config").joinpath("builtin_rules.yaml").read_text(encoding="utf-8")
    for entry in Document.parse(text, "the built-in rules").data:
        yield validated(RuleEntry, entry).rule
    # The monitor's findings; it decides when they begin and end.
    for name in (
        "stalled", "failing_trials", "nan_values", "diverging", "memory_growing", "slower_than_before",
        "plateaued", "best_at_edge",
    ):  # fmt: skip
        yield Rule(name, "", Scope.FINDING, None)


BUILT_IN = tuple(_built_in())
_BUILT_IN |= {rule.name: rule for rule in BUILT_IN}


def rules_in_force(entries: Iterable[RuleEntry]) -> tuple[Rule, ...]:
    """Return the built-in rules with their changes, followed by those of the file."""
    rules = dict(_BUILT_IN)
    for entry in entries:
        if entry.enabled:
            rules[entry.name] = entry.rule
        else:
            rules.pop(entry.name, None)
    return tuple(rules.values())
