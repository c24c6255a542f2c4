"""`rules` of the alerts file: changes to the built-in ones by their names, and rules of one's own. Pure.

Each rule is a mapping with `name`, and of one's own also `when`. Texts may name only what exists, and labels are such
as an alert may have.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import replace
from typing import Annotated, Any, NamedTuple, TypeVar

from pydantic import AfterValidator, Field, PlainValidator

from o9.alerts.config.builtin_rules import BUILT_IN
from o9.alerts.config.fields import Level, SpanOrZero, Words, as_text, one_of
from o9.alerts.pipeline.alert import NAME_LIMIT as LABEL_LIMIT
from o9.alerts.pipeline.alert import VALUE_LIMIT
from o9.alerts.rules.expressions import condition_of, contradiction
from o9.alerts.rules.metrics import INSTANTS, LABELS, Scope, checked_words
from o9.alerts.rules.rules import TITLE_LIMIT, Rule
from o9.config import Flag, Typed, validated
from o9.model.errors import Faults, OptimizationValidationError
from o9.model.states import AlertLevel
from o9.text.suggest import suggestion

LABELS_LIMIT = 50
NAME_LIMIT = 150
R = TypeVar("R")
_OWN_FIELDS = {"level": "level", "title": "title", "rule": "name"}
_SCOPES = {scope.value: scope for scope in Scope if scope is not Scope.FINDING}
_BUILT_IN = {rule.name: rule for rule in BUILT_IN}


class RuleChange(NamedTuple):
    """What the file says of the rule `name`; None switches it off."""

    name: str
    rule: Rule | None


def rules_in_force(changes: Iterable[RuleChange]) -> tuple[Rule, ...]:
    """The built-in ones as they are changed, then those of the file."""
    rules = dict(_BUILT_IN)
    for change in changes:
        if change.rule is None:
            rules.pop(change.name, None)
        else:
            rules[change.name] = change.rule
    return tuple(rules.values())


def rule_change(data: Any) -> RuleChange:
    """Raises OptimizationValidationError with all faults."""
    given = validated(_Fields, data)
    base, faults = _BUILT_IN.get(given.name), Faults()
    scope = given.scope or (Scope.GLOBAL if base is None else base.scope)
    if base is not None and scope is not base.scope:
        raise OptimizationValidationError(
            "scope", f"{given.name!r} is built in and looks at {base.scope.value}; give a rule of another name"
        )
    misplaced = {name: why for name, why in _without(scope).items() if name in given.given}
    for name, why in misplaced.items():
        faults.add(OptimizationValidationError(name, why))

    def checked(field: str, text: str | None, check: Callable[[str, Scope], R]) -> R | None:
        if text is None or field in misplaced:
            return None
        try:
            return check(text, scope)
        except ValueError as error:
            faults.add(OptimizationValidationError(field, str(error)))
            return None

    when, clear = checked("when", given.when, condition_of), checked("clear", given.clear, condition_of)
    changed: dict[str, Any] = {
        "level": given.level,
        "title": checked("title", given.title, _title),
        "says": checked("message", given.message, checked_words),
        "remedy": checked("remedy", given.remedy, checked_words),
        "labels": given.labels,
        "lasts": given.lasts,
        "keep_firing": given.keep_firing_for,
    }
    changed = {name: value for name, value in changed.items() if value is not None}
    _check_labels(given.labels or {}, scope, faults)
    if base is None:
        if given.when is None:
            near = suggestion(given.name, _BUILT_IN)
            why = f"it is missing, and no built-in rule that brings one is called {given.name!r:.80}{near}"
            faults.add(OptimizationValidationError("when", why))
        base = Rule(given.name, given.name.replace("_", " ").capitalize(), scope, AlertLevel.WARNING, when, clear)
    else:
        # What was clear beside another condition need not be so beside this one.
        base = replace(base, when=when or base.when, clear=clear or (None if when else base.clear))
        if when and given.message is None:
            base = replace(base, says="")
    if base.when is not None and clear is not None and (wrong := contradiction(base.when, clear)) is not None:
        faults.add(OptimizationValidationError("clear", wrong))
    faults.refuse()
    return RuleChange(given.name, replace(base, **changed) if given.enabled else None)


def _rule_name(text: str) -> str:
    """The ids of its alerts begin with it."""
    if not text.strip() or not text.isprintable() or len(text) > NAME_LIMIT:
        raise ValueError(f"a rule's name is printable text of 1 to {NAME_LIMIT} characters")
    if "/" in text or text != text.strip():
        raise ValueError(f"{text!r} cannot begin an alert's id; take '-' instead of '/', and no blanks around it")
    return text


class _Fields(Typed):
    name: Annotated[Words, AfterValidator(_rule_name)]
    when: Words | None = None
    clear: Words | None = None
    lasts: SpanOrZero | None = Field(None, alias="for")
    keep_firing_for: SpanOrZero | None = None
    scope: Annotated[Scope | None, PlainValidator(lambda value: _SCOPES[one_of(as_text(value), _SCOPES, "scope")])] = (
        None
    )
    level: Level | None = None
    title: Words | None = None
    message: Words | None = None
    remedy: Words | None = None
    labels: dict[str, Words] | None = None
    enabled: Flag = True

    @property
    def given(self) -> set[str]:
        """The fields that are written, by the names in the file."""
        return {"for" if name == "lasts" else name for name in self.model_fields_set}


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


def _title(text: str, scope: Scope) -> str:
    if not text.strip() or len(text) > TITLE_LIMIT:
        raise ValueError(f"a title is a text of 1 to {TITLE_LIMIT} characters")
    return checked_words(text, scope)


def _check_labels(labels: dict[str, str], scope: Scope, faults: Faults) -> None:
    for name, value in labels.items():
        problem = ""
        if not name.strip() or not name.isprintable() or len(name) > LABEL_LIMIT:
            problem = f"a label's name is printable text of 1 to {LABEL_LIMIT} characters"
        elif name in _OWN_FIELDS:
            problem = f"the rule's own `{_OWN_FIELDS[name]}` says it; write it there"
        elif name == "optimization" or name in LABELS[scope]:
            problem = "O9 sets it, to what the alert is about; take another name"
        elif len(value) > VALUE_LIMIT:
            problem = f"{len(value):,} characters; at most {VALUE_LIMIT:,} are allowed"
        if problem:
            faults.add(OptimizationValidationError(f"labels.{name}", problem))
    if len(labels) > LABELS_LIMIT:
        problem = f"{len(labels):,} labels; at most {LABELS_LIMIT} are allowed"
        faults.add(OptimizationValidationError("labels", problem))
