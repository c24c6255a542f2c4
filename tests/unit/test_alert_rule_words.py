"""The words of rules: what may stand in braces, what becomes of it, and what of a rule of the file cannot be told."""

from __future__ import annotations

import json
import re
from datetime import UTC, datetime

import pytest
from alert_scripts import faults_of
from hypothesis import example, given
from hypothesis import strategies as st

from o9.alerts.config.rules import BUILT_IN
from o9.alerts.config.schema import load
from o9.alerts.pipeline.alert import labels_of
from o9.alerts.rules.metrics import DETAILS, LABELS, OPEN, QUANTITIES, Scope, checked_text, placeholders
from o9.alerts.rules.rules import TITLE_LIMIT, Rule, RuleEngine, SubjectFacts, apply_rule, fill, format_figure
from o9.model.optimization import OptimizationAlert
from o9.model.states import AlertLevel
from o9.model.validation import validate_alert

START = datetime(2026, 3, 2, 9, tzinfo=UTC)
SCOPES = [scope for scope in Scope if QUANTITIES[scope]]


def names_of(scope: Scope) -> list[str]:
    opened = [f"{each}own" for each in OPEN] if scope in (Scope.OPTIMIZATION, Scope.END) else []
    return [*QUANTITIES[scope], *LABELS[scope], *DETAILS.get(scope, ()), *opened]


@pytest.mark.parametrize("rule", BUILT_IN, ids=lambda rule: rule.name)
def test_the_words_of_built_in_rules_name_what_there_is(rule: Rule) -> None:
    for text in (rule.title, rule.message, rule.remedy):
        assert checked_text(text, rule.scope) == text
    assert set(rule.figures) <= set(QUANTITIES[rule.scope])


@given(st.sampled_from([(scope, name) for scope in SCOPES for name in names_of(scope)]))
def test_each_name_of_each_scope_may_stand_in_braces(of: tuple[Scope, str]) -> None:
    scope, name = of
    text = f"a {{{name}}}, {{{name}}}"
    assert checked_text(text, scope) == text
    assert placeholders(text) == (name,)
    assert fill(text, scope, {name: "x"}, {}) == "a x, x"
    assert fill(text, scope, {}, {}) == "a unknown, unknown"
    if name in QUANTITIES[scope]:
        told = format_figure(name, scope, 0.5)
        assert fill(text, scope, {}, {name: 0.5}) == f"a {told}, {told}"


@given(st.sampled_from(list(Scope)), st.text(st.sampled_from("{}{}abn .:!queued_rate%"), max_size=30))
@example(Scope.GLOBAL, "{queued")
@example(Scope.GLOBAL, "{{queued}}")
@example(Scope.GLOBAL, "}{queued}")
@example(Scope.GLOBAL, "{queued:.2f}")
def test_what_is_taken_leaves_no_brace_in_the_message(scope: Scope, text: str) -> None:
    said = ""
    try:
        checked_text(text, scope)
    except ValueError as error:
        said = str(error)
    assert bool(re.search(r"[{}]", text if said else fill(text, scope, {}, {}))) == bool(said)


@pytest.mark.parametrize(
    ("text", "scope", "told"),
    [
        ("{nam} ended", Scope.END, "{nam}: `each end` has no name 'nam'; did you mean name?"),
        ("{failure_rate}", Scope.END, "{failure_rate}: `each end` has no name 'failure_rate'; `scope: global` has it"),
        ("{strategy}", Scope.GLOBAL, "`scope: each strategy` has it"),
        ("{queued:.2f}", Scope.GLOBAL, "did you mean queued?"),
        ("{{queued}}", Scope.GLOBAL, "write a figure as {failure_rate}"),
        ("{queued", Scope.GLOBAL, "write a figure as {failure_rate}"),
        ("queued}", Scope.NODE, "write a figure as {silent_seconds}"),
        ("{}", Scope.CHANNEL, "`each channel` has no name ''; available: channel, detail, failing_seconds"),
        ("{x}", Scope.FINDING, "`each finding` has no name 'x'; available: name, optimization"),
        ("{optimization}", Scope.GLOBAL, "`scope: each optimization` has it"),
    ],
)
def test_what_would_be_sent_as_it_is_written_is_refused(text: str, scope: Scope, told: str) -> None:
    with pytest.raises(ValueError, match=r".") as refused:
        checked_text(text, scope)
    assert told in str(refused.value)


FAULTY = """\
rules:
  - {name: failed, message: "{nam}", title: "{", remedy: "{{detail}}"}
  - {name: stalled, title: "{failure_rate}"}
  - {name: a, when: queued > 1, title: " "}
  - {name: b, when: queued > 1, labels: {level: x, title: x, rule: x, "": x}}
  - {name: b2, when: queued > 1, labels: {desk: [x]}}
  - {name: c, when: count > 1, scope: each strategy, labels: {strategy: x, optimization: x, desk: y}}
  - {name: d/e, when: queued > 1}
  - {name: " f", when: queued > 1}
  - {name: "g\\nh", when: queued > 1}
  - {name: i, when: queued > 5, clear: queued > 6}
  - {name: j, when: queued < 3, clear: queued > 2}
  - {name: k, when: died == 1, scope: END, level: fatal}
  - {name: l, when: queued > 1, level: CRITICAL, labels: {desk: ""}}
"""


def test_what_could_not_be_told_is_refused_by_its_field() -> None:
    faults = [(each.line, each.field.partition(".")[2], each.problem) for each in faults_of(FAULTY)]
    expected = [
        (2, "message", "did you mean name?"), (2, "remedy", "write a figure as"), (2, "title", "write a figure as"),
        (3, "title", "`each finding` has no name"), (4, "title", "it is empty"),
        (5, "labels.", "printable text"), (5, "labels.level", "the rule's field `level`"),
        (5, "labels.rule", "the rule's field `name`"), (5, "labels.title", "the rule's field `title`"),
        (6, "labels.desk", "expected text, got a list"),
        (7, "labels.optimization", "O9 sets this label"), (7, "labels.strategy", "O9 sets this label"),
        (8, "name", "use '-' instead of '/'"), (9, "name", "space"),
        (10, "name", "printable text of 1 to 200"),
        (11, "clear", "`when: queued > 5`; compare in the other direction"),
        (12, "clear", "`when: queued < 3`: between the two limits"),
        (13, "level", "no level is called 'fatal'"), (13, "scope", "no scope is called 'END'; did you mean each end?"),
    ]  # fmt: skip
    assert [(line, field) for line, field, _ in faults] == [(line, field) for line, field, _ in expected]
    for (_, _, problem), (_, _, told) in zip(faults, expected, strict=True):
        assert told in problem


def test_levels_are_read_in_any_case() -> None:
    *_, made = load("rules: [{name: a, when: queued > 1, level: CRITICAL}]").rules
    assert made.level is AlertLevel.CRITICAL


@given(
    name=st.text(max_size=170),
    detail=st.sampled_from(["", " ", "it broke", "x" * 500, "a\0b"]),
    title=st.sampled_from(["", "{detail}", "{name} ended", "Ended: {metrics.sharpe}", "{error}{type}"]),
)
@example("x" * 150, "", "{detail}")
@example("慢 🚀", "", "{detail}")
@example("a/b", "", "")
@example("-", "", "")
def test_a_rule_that_is_taken_makes_alerts_that_are_taken(name: str, detail: str, title: str) -> None:
    """Whatever its facts say: an alert that is refused when it fires would be lost."""
    rule = {"name": name, "when": "failed == 1", "scope": "each end"} | ({"title": title} if title else {})
    text = f"rules: [{json.dumps(rule)}]"
    if faults_of(text):
        return
    *_, made = load(text).rules
    facts = SubjectFacts("opt-1", {"failed": 1.0}, {"type": "parameter"}, "opt-1", {"name": "n", "detail": detail})
    (change,) = RuleEngine([made]).evaluate(Scope.END, [facts], START)
    assert change.alert is not None
    validate_alert(change.alert)
    assert 0 < len(change.alert.title) <= TITLE_LIMIT
    assert labels_of(change.alert)["rule"] == name


def test_a_title_of_nothing_is_the_rules_name() -> None:
    *_, made = load('rules: [{name: broke, when: failed == 1, scope: each end, title: "{detail}"}]').rules
    (change,) = RuleEngine([made]).evaluate(
        Scope.END, [SubjectFacts("a", {"failed": 1.0}, {}, "a", {"detail": " "})], START
    )
    assert change.alert is not None
    assert change.alert.title == "broke"
    found = OptimizationAlert("1", "opt-1", AlertLevel.ERROR, "Stalled", "no step", START)
    (stalled,) = (each for each in BUILT_IN if each.name == "stalled")
    assert apply_rule(stalled, found).title == "Stalled"
