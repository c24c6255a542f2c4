"""What can be seen to be a mistake, and what is only likely one: levels, labels, rules, channels, routes."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from alert_scripts import faults_of
from hypothesis import given
from hypothesis import strategies as st

from o9.alerts.config.fields import LONGEST
from o9.alerts.config.schema import OF_O9, load, read
from o9.alerts.pipeline.alert import LEVELS, Alert
from o9.alerts.pipeline.matchers import Matcher, Matchers, literal_values, match, parse, why_unsatisfiable
from o9.alerts.pipeline.stages import new_silence
from o9.cli.commands.alerts.respond import warnings_of
from o9.config.document import DocumentError
from o9.model.errors import OptimizationValidationError
from o9.model.states import AlertLevel

NOON = datetime(2026, 1, 31, 12, tzinfo=UTC)
HOUR = timedelta(hours=1)


# Levels, in matchers


@pytest.mark.parametrize("operator", ["=", "!=", "=~", "!~"])
@pytest.mark.parametrize("level", ["critical", "CRITICAL", "Critical"])
def test_a_level_is_matched_in_any_case(operator: str, level: str) -> None:
    (matcher,) = parse(f'level{operator}"{level}"')
    assert matcher.test("critical") is (operator in ("=", "=~"))
    assert parse(str(matcher)) == (matcher,)
    assert why_unsatisfiable((matcher,)) is None


def test_of_other_labels_the_case_counts() -> None:
    assert not match(parse('title="drawdown"'), {"title": "Drawdown"})
    assert not match(parse('title=~"drawdown"'), {"title": "Drawdown"})


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("level=warn", "no level is called 'warn'; did you mean warning?"),
        ("level!=fatal", "no level is called 'fatal'"),
        ('level=""', "no level is called ''"),
        ('level=~"warn|error"', "no level is called 'warn'; did you mean warning?"),
        ('level=~"(error|crit)"', "no level is called 'crit'"),
        ('level=~"warn.?"', "'warn.?' matches none of the levels info, warning, error, critical; it must"),
        ('level!~"warn.?"', "'warn.?' matches none of the levels"),
        ('level=~""', "'' matches none of the levels"),
        ('level!~".*"', "'.*' excludes every level"),
        ('level!~"info|warning|error|critical"', "excludes every level"),
        ("level=info, level=error", 'to match either write level=~"info|error"'),
        ("title=A, title!=A", 'no alert can match both title="A" and title!="A", and all matchers must match'),
        ('title=A, title=~"B.*"', 'no alert can match both title="A" and title=~"B.*"'),
        ('level=info, level=~"error|critical"', 'no alert can match both level="info" and level=~"error|critical"'),
        ('title="a.b", title="c"', 'no alert can match both title="a.b" and title="c", and all matchers must match'),
    ],
)  # fmt: skip
def test_what_no_alert_can_have_is_known(text: str, told: str) -> None:
    assert told in (why_unsatisfiable(parse(text)) or "")


@pytest.mark.parametrize(
    "text",
    ["level=info", "level!=info", 'level!=""', 'level!~""', 'level=~".*"', 'level=~"crit.*"', 'level=~"INFO|Error"',
     'level!~"(?i:INFO)"', "title=A, title=A", 'title=A, title=~"A|B"', "title!=A, title!=B", "", "desk=fatal"],
)  # fmt: skip
def test_what_an_alert_may_have_is_taken(text: str) -> None:
    assert why_unsatisfiable(parse(text)) is None


LEVEL_MATCHERS = st.builds(
    lambda operator, value: Matcher("level", operator, value),
    st.sampled_from(["=", "!=", "=~", "!~"]),
    st.sampled_from(
        [*LEVELS, "WARNING", "warn", "", ".*", ".+", "i.*|e.*", "info|error", "(info|error)", "[a-z]+", "x?"]
    ),
)


@given(st.lists(LEVEL_MATCHERS, min_size=1, max_size=3).map(tuple))
def test_what_is_taken_of_levels_fits_some_alert(matchers: Matchers) -> None:
    """One alone; of several what an exact one rules out."""
    fits = any(match(matchers, {"level": level}) for level in LEVELS)
    if len(matchers) == 1 or any(matcher.operator == "=" for matcher in matchers):
        assert fits or why_unsatisfiable(matchers) is not None


def test_what_is_written_out_is_seen() -> None:
    texts = ('a="b c"', 'a=~"(b|c-d)"', 'a!~"b"', 'a=~"b.*"', 'a=~"b|"')
    assert [literal_values(parse(text)[0]) for text in texts] == [
        ("b c",), ("b", "c-d"), ("b",), (), (),
    ]  # fmt: skip


# Silences


def test_a_new_silence_has_an_id_to_type_and_stands_from_now_on() -> None:
    made = [new_silence(NOON, HOUR, parse("title=A"), author="ann", comment="why") for _ in range(100)]
    assert len({each.silence_id for each in made}) == 100
    assert all(len(each.silence_id) == 12 and int(each.silence_id, 16) >= 0 for each in made)
    assert (made[0].starts_at, made[0].ends_at, made[0].author, made[0].comment) == (NOON, NOON + HOUR, "ann", "why")
    later = new_silence(NOON, HOUR, pattern="draw*", starts_at=NOON + HOUR)
    assert (later.starts_at, later.ends_at) == (NOON + HOUR, NOON + 2 * HOUR)
    assert not later.is_active(NOON)


@pytest.mark.parametrize(
    ("field", "fields", "told"),
    [
        ("matchers", {}, "there are no matchers and no pattern"),
        ("matchers", {"pattern": "  "}, "there are no matchers and no pattern"),
        ("matchers", {"matchers": parse('title=~".*"')}, "matches every alert"),
        ("matchers", {"matchers": parse("level=warn")}, "no level is called 'warn'"),
        ("matchers", {"matchers": parse("level=info, level=error")}, "no alert can match both"),
        ("pattern", {"matchers": parse("a=b"), "pattern": "x"}, "either matchers or a pattern"),
        ("pattern", {"pattern": "x" * 1001}, "at most 1,000 characters"),
        ("author", {"pattern": "x", "author": "x" * 1001}, "at most 1,000 characters"),
        ("comment", {"pattern": "x", "comment": "x" * 10_001}, "at most 10,000 characters"),
        ("ends_at", {"pattern": "x", "starts_at": NOON - 2 * HOUR}, "is in the past"),
        ("ends_at", {"pattern": "x", "lasts": -HOUR}, "is not after the start"),
        ("ends_at", {"pattern": "x", "lasts": LONGEST + HOUR}, "at most 3,660 days"),
        (
            "starts_at",
            {"pattern": "x", "starts_at": datetime.max.replace(tzinfo=UTC)},
            "later than the last possible date",
        ),
    ],
)
def test_a_silence_that_could_not_be_meant_is_refused_by_its_field(field: str, fields: Any, told: str) -> None:
    with pytest.raises(OptimizationValidationError, match=told) as refused:
        new_silence(NOON, **({"lasts": HOUR} | fields))
    assert refused.value.field == field


# The file


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("route: {routes: [{matchers: [level=warn]}]}", "route.routes[0].matchers[0]: no level is called 'warn'"),
        ("route: {routes: [{matchers: [level=info, level=error]}]}",
         'route.routes[0].matchers: no alert can match both level="info" and level="error"'),
        ('route: {routes: [{matchers: ["title=A, title=B"]}]}', "route.routes[0].matchers[0]: no alert can match both"),
        ("inhibit_rules: [{source_matchers: [level=fatal], target_matchers: [a=b]}]",
         "inhibit_rules[0].source_matchers[0]: no level is called 'fatal'"),
        ("receivers: [{name: a, channels: ['']}]", "receivers[0].channels[0]: it is empty"),
        ("receivers: [{name: a, channels: 'block:'}]", "receivers[0].channels: write a block as block:NAME"),
        ("receivers: [{name: a, channels: ['block:x/']}]", "write a block as block:NAME or block:TYPE/NAME"),
        ("time_intervals: [{name: a, time_intervals: []}]",
         "time_intervals[0].time_intervals: it is empty"),
        ("time_intervals: [{name: a, time_intervals: [{times: [{start_time: '09:00', end_time: '26:00'}]}]}]",
         "times[0]: '26:00' is not a time of day"),
        ("time_intervals: [{name: a, time_intervals: [{calendar: XNYZ}]}]", "'XNYZ' is not an exchange's code; did"),
        ("route: {escalate_after: soon, escalate_to: default}", "route.escalate_after: 'soon' is not a duration"),
        ("time_intervals: [{name: a, time_intervals: [{weekdays: [monday-friday]}]}]",
         "weekdays[0]: 'monday-friday': write a range with a colon"),
        ("time_intervals: [{name: a, time_intervals: [{days_of_month: '1-7'}]}]", "'1-7': write a range with a colon"),
        ("route: {routes: [&a {matchers: [a=b]}, &a {matchers: [a=c]}]}", "give each anchor a name of its own"),
        ("route: {receiver: default\nrules: []", "expected ',' or '}'; close each { and ["),
        ("flapping:", "flapping: write `false`, or a mapping"),
        ("link: desk/{optimization}", "link: expected a URL with http or https"),
        ("link: 'https://desk/{id}'", "link: '{id}' is not a placeholder; {optimization} and {alert}"),
        ("link: 'https://desk/{optimization'", "link: '{optimization' is not a placeholder"),
        ("link: 'https://desk/optimization}'", "link: '}' is not a placeholder"),
        ("route: {}\n---\nroute: {}", "2 documents; make them one list, or separate files"),
        ("receivers: [{name: a, channels: [*]}]", "quote text that begins with * or &"),
        ("rules: [{name: a, when: %20}]", "found character that cannot start any token; quote text that begins"),
        ("rules:\n  - name: a\n    message: {queued} wait", "quote text that begins with {, ["),
        ("route: {matchers: {level: info}}", "route.matchers: expected text, got a mapping"),
        ("rules: [{name: a, when: [queued > 1]}]", "expected text, got a list; put text that begins with { or ["),
    ],
)  # fmt: skip
def test_a_slip_is_one_fault_that_names_its_place_and_the_remedy(text: str, told: str) -> None:
    (fault,) = faults_of(text)
    assert told in str(fault)


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("route: {group_by: [titel, level]}",
         "line 1: route.group_by: neither O9 nor a rule of this file sets the label 'titel'; did you mean title?"),
        ("route:\n  routes: [{matchers: [desk=eu]}]",
         "line 2: route.routes[0].matchers[0]: neither O9 nor a rule of this file sets the label 'desk'; only alerts "
         "of your own programs can have it"),
        ("route: {routes: [{matchers: [severity=critical]}]}", "sets the label 'severity'; did you mean level?"),
        ("route: {routes: [{matchers: [alertname=A]}]}", "sets the label 'alertname'; did you mean title?"),
        ("route: {routes: [{matchers: [rule=fialed]}]}", "no rule is called 'fialed'; did you mean failed?"),
        ("route: {routes: [{matchers: ['rule=~\"failed|fialed\"']}]}", "no rule is called 'fialed'"),
        ("inhibit_rules: [{source_matchers: [title=A], target_matchers: [level=info], equal: [book]}]",
         "inhibit_rules[0].equal: neither O9 nor a rule of this file sets the label 'book'"),
        ("receivers: [{name: default, channels: [consol]}]", "console?"),
        ("receivers: [{name: default, channels: 'log, console'}]", "this names a single channel"),
        ("receivers: [{name: default, channels: ['slack:/secret12']}]", "receivers[0].channels[0]: an address"),
        ("route:\n  routes:\n  - {matchers: [level=info]}\n  - {matchers: [level=info, title=A]}",
         "line 4: route.routes[1]: no alert reaches this route: the one in line 3 takes them all"),
        ("route: {routes: [{}, {matchers: [level=info]}]}", "route.routes[1]: no alert reaches this route"),
    ],
)  # fmt: skip
def test_what_is_likely_a_mistake_is_a_doubt_with_its_place(text: str, told: str) -> None:
    (warning,) = map(str, read(text).warnings)
    assert told in warning
    assert "secret12" not in warning


@pytest.mark.parametrize(
    "text",
    [
        "route: {group_by: [title, level, optimization, name, series, rule, type, strategy, node, channel, schedule]}",
        "route: {group_by: ['...']}",
        "route: {group_by: [desk]}\nrules: [{name: failed, labels: {desk: eu}}]",
        "route: {routes: [{matchers: [rule=mine]}]}\nrules: [{name: mine, when: queued > 1}]",
        "route: {routes: [{matchers: ['rule=~\"fail.*\"', 'rule!=\"\"']}]}",
        "route: {routes: [{matchers: [rule=target_missed]}]}\nrules: [{name: target_missed, enabled: false}]",
        "receivers: [{name: default, channels: ['*', log, 'json://localhost/x', block:desk, block:slack/desk]}]",
        "route: {routes: [{matchers: [level=info], continue: true}, {matchers: [level=info]}]}",
        "route: {routes: [{matchers: [level=info, title=A]}, {matchers: [level=info]}]}",
    ],
)
def test_what_can_well_be_meant_is_no_doubt(text: str) -> None:
    assert read(text).warnings == ()


def test_a_label_is_doubted_where_it_stands_and_not_where_there_are_faults() -> None:
    routes = "routes: [{matchers: [desk=a]}, {matchers: [desk=b]}, {matchers: [book=b]}]"
    assert len(read(f"route: {{{routes}}}").warnings) == 3
    assert len(faults_of(f"route: {{group_wait: soon, {routes}}}")) == 1


def test_a_channel_that_only_a_program_can_have_gets_a_warning() -> None:
    found = read("receivers: [{name: default, channels: [log, desk, '*', 'json://a', block:b, lgo]}]").warnings
    assert [warning.field for warning in found] == ["receivers[0].channels[1]", "receivers[0].channels[5]"]


def test_an_address_with_a_problem_is_a_fault_of_its_place() -> None:
    text = "receivers:\n- name: default\n  channels:\n  - log\n  - 'json://a'\n- {name: b, channels: 'json://b'}"
    assert read(text).warnings == ()
    with pytest.raises(DocumentError) as refused:
        read(text, address_problem=lambda address: f"{address} is wrong" if address != "log" else "no address")
    assert [(fault.line, fault.field, fault.problem) for fault in refused.value.faults] == [
        (5, "receivers[0].channels[1]", "json://a is wrong"), (6, "receivers[1].channels", "json://b is wrong"),
    ]  # fmt: skip


# What is silenced


def test_a_silence_is_doubted_for_labels_and_rules_that_nothing_has() -> None:
    seen = {"desk": {"eu"}, "rule": {"mine"}}
    assert list(warnings_of(parse('desk=x, rule=mine, rule!="", level=info, title=~"x.*", rule=~"a.*"'), seen)) == []
    (label,) = warnings_of(parse("dsk=eu"), seen)
    assert label == "no alert so far has the label 'dsk', and O9 sets none of that name; did you mean desk?"
    (other,) = warnings_of(parse("venue=x"), {})
    assert other == "no alert so far has the label 'venue', and O9 sets none of that name"
    (severity,) = warnings_of(parse("severity=critical"), {})
    assert severity.endswith("did you mean level?")
    assert list(warnings_of(parse('rule=~"fialed|failed"'), seen)) == [
        "no alert so far is of the rule 'fialed'; did you mean failed?"
    ]


@given(st.lists(st.sampled_from(sorted(OF_O9)), min_size=1))
def test_nothing_that_o9_sets_is_doubted(names: list[str]) -> None:
    matchers = tuple(Matcher(name, "!=", "x") for name in names if name != "rule")
    assert list(warnings_of(matchers, {})) == []


def test_a_silence_of_a_level_in_any_case_silences() -> None:
    made = new_silence(NOON, HOUR, parse("level=CRITICAL"))
    alert = Alert({"level": "critical"}, NOON, "a", "", AlertLevel.CRITICAL, "A")
    assert made.matches(alert)
    assert load("route: {routes: [{matchers: [level=CRITICAL]}]}").route.routes[0].matchers == parse("level=critical")
