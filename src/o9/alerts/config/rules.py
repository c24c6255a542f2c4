"""`rules` of the alerts file: changes to the built-in ones by their names, and the user's own rules; the built-in ones.

Each is a mapping with `name`; the user's own also have `when`. Texts may name only what exists, and labels are valid
for an alert. `builtin_rules.yaml` has the built-in ones in the same form.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from dataclasses import replace
from functools import cached_property
from importlib.resources import files
from typing import Annotated, Any, Self

from pydantic import AfterValidator, Field, PlainValidator, model_validator

from o9.alerts.config.fields import Level, Name, SpanOrZero, Words, as_text, one_of
from o9.alerts.pipeline.alert import VALUE_LIMIT
from o9.alerts.rules.metrics import INSTANTS, LABELS, Scope, checked_words, condition_of, contradiction
from o9.alerts.rules.rules import TITLE_LIMIT, Rule
from o9.config.document import Document
from o9.model.errors import Faults, OptimizationValidationError
from o9.model.faults import Flag, Typed, validated
from o9.model.fields import not_blank
from o9.model.states import AlertLevel
from o9.text.suggest import suggestion

LABELS_LIMIT = 50
NAME_LIMIT = 150
_OWN_FIELDS = {"level": "level", "title": "title", "rule": "name"}
_SCOPES = {scope.value: scope for scope in Scope if scope is not Scope.FINDING}
_BUILT_IN: dict[str, Rule] = {}  # filled below, by entries that change nothing
_TEXTS: dict[str, Callable[[str, Scope], Any]] = {
    "when": condition_of, "clear": condition_of, "title": checked_words, "message": checked_words,
    "remedy": checked_words,
}  # fmt: skip


def _begins_an_id(name: str) -> str:
    """The ids of a rule's alerts begin with its name."""
    if "/" in name or name != name.strip():
        raise ValueError(f"{name!r} cannot begin an alert's id; take '-' instead of '/', and no blanks around it")
    return name


def _label(name: str) -> str:
    if name in _OWN_FIELDS:
        raise ValueError(f"the rule's own `{_OWN_FIELDS[name]}` says it; write it there")
    return name


Label = Annotated[Name, AfterValidator(_label)]
ScopeName = Annotated[Scope, PlainValidator(lambda value: _SCOPES[one_of(as_text(value), _SCOPES, "scope")])]
Value = Annotated[Words, Field(max_length=VALUE_LIMIT)]


def _without(scope: Scope) -> dict[str, str]:
    """Fields that rules of this scope cannot have, and why."""
    if scope is Scope.FINDING:
        why = "the monitor knows when this begins and is over; change its level, title, labels, or switch it off"
        return dict.fromkeys(("when", "clear", "lasts", "keep_firing_for", "message", "remedy"), why)
    if scope in INSTANTS:
        why = f"`{scope.value}` is one instant, without a length; `keep_firing_for` says how long it fires"
        return {"lasts": why, "clear": why}
    if scope is Scope.REPORT:
        return {"lasts": "a report holds until the next one; leave it out"}
    return {}


class RuleEntry(Typed):
    """An entry of the file: the change of a built-in rule, or a rule."""

    name: Annotated[Name, Field(max_length=NAME_LIMIT), AfterValidator(_begins_an_id)]
    when: Words | None = None
    clear: Words | None = None
    lasts: SpanOrZero | None = Field(None, alias="for")
    keep_firing_for: SpanOrZero | None = None
    scope: ScopeName | None = None
    level: Level | None = None
    title: Annotated[Words, Field(max_length=TITLE_LIMIT), AfterValidator(not_blank)] | None = None
    message: Words | None = None
    remedy: Words | None = None
    labels: Annotated[dict[Label, Value], Field(max_length=LABELS_LIMIT)] | None = None
    enabled: Flag = True

    @model_validator(mode="after")
    def _makes_a_rule(self) -> Self:
        _ = self.rule
        return self

    @cached_property
    def rule(self) -> Rule:
        """Raises OptimizationValidationError with all faults."""
        base, faults = _BUILT_IN.get(self.name), Faults()
        scope = self.scope or (Scope.GLOBAL if base is None else base.scope)
        if base is not None and scope is not base.scope:
            raise OptimizationValidationError(
                "scope", f"{self.name!r} is built in and looks at {base.scope.value}; give a rule of another name"
            )
        misplaced = {name: why for name, why in _without(scope).items() if name in self.model_fields_set}
        for name, why in misplaced.items():
            faults.add(OptimizationValidationError("for" if name == "lasts" else name, why))
        made: dict[str, Any] = {}
        for name, check in _TEXTS.items():
            text = getattr(self, name)
            if text is not None and name not in misplaced:
                try:
                    made[name] = check(text, scope)
                except ValueError as error:
                    faults.add(OptimizationValidationError(name, str(error)))
        for name in {*(self.labels or ())}.intersection(("optimization", *LABELS[scope])):
            problem = "O9 sets it, to what the alert is about; take another name"
            faults.add(OptimizationValidationError(f"labels.{name}", problem))
        when, clear = made.pop("when", None), made.pop("clear", None)
        if base is None:
            if self.when is None:
                near = suggestion(self.name, _BUILT_IN)
                why = f"it is missing, and no built-in rule that brings one is called {self.name!r:.80}{near}"
                faults.add(OptimizationValidationError("when", why))
            base = Rule(self.name, self.name.replace("_", " ").capitalize(), scope, AlertLevel.WARNING, when, clear)
        elif when:  # what was clear beside another condition, and what was said of it, need not suit this one
            base = replace(base, when=when, clear=clear, says="")
        elif clear:
            base = replace(base, clear=clear)
        if base.when is not None and clear is not None and (wrong := contradiction(base.when, clear)) is not None:
            faults.add(OptimizationValidationError("clear", wrong))
        faults.refuse()
        changed: dict[str, Any] = {
            "level": self.level, "title": made.get("title"), "says": made.get("message"), "remedy": made.get("remedy"),
            "labels": self.labels, "lasts": self.lasts, "keep_firing": self.keep_firing_for,
        }  # fmt: skip
        return replace(base, **{name: value for name, value in changed.items() if value is not None})


def _built_in() -> Iterator[Rule]:
    text = files("o9.alerts.config").joinpath("builtin_rules.yaml").read_text(encoding="utf-8")
    for entry in Document.parse(text, "the built-in rules").data:
        yield validated(RuleEntry, entry).rule
    # What the monitor finds in what runs: it decides when that begins and is over.
    for name in (
        "stalled", "failing_trials", "nan_values", "diverging", "memory_growing", "slower_than_before",
        "plateaued", "best_at_edge",
    ):  # fmt: skip
        yield Rule(name, "", Scope.FINDING, None)


BUILT_IN = tuple(_built_in())
_BUILT_IN |= {rule.name: rule for rule in BUILT_IN}


def rules_in_force(entries: Iterable[RuleEntry]) -> tuple[Rule, ...]:
    """The built-in ones as they are changed, then those of the file."""
    rules = dict(_BUILT_IN)
    for entry in entries:
        if entry.enabled:
            rules[entry.name] = entry.rule
        else:
            rules.pop(entry.name, None)
    return tuple(rules.values())
