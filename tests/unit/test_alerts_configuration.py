"""The configuration: what is read, and that every fault is told at once, with its line, its field and the remedy."""

from __future__ import annotations

import contextlib
import textwrap
from datetime import timedelta

import pytest
import yaml
from alert_scripts import faults_of
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from o9.alerts.config.fields import span_of
from o9.alerts.config.rules import BUILT_IN
from o9.alerts.config.schema import Configuration, load
from o9.alerts.pipeline.matchers import parse
from o9.alerts.pipeline.simulation import load_script
from o9.alerts.pipeline.stages import Damping, Throttle
from o9.config.document import DocumentError

WHOLE = """
route:
  receiver: desk
  group_by: [title]
  repeat_interval: 1d
  escalate_after: 15m
  escalate_to: head
  routes:
    - matchers: ['level="critical"', 'book=~"a|b"']
      receiver: head
      continue: true
      group_wait: 0s
      group_interval: 1m30s
    - matchers: level=info
      group_by: ['...']
      mute_time_intervals: [night]
      routes:
        - matchers: [book=c]
          active_time_intervals: [nyse]
receivers:
  - name: desk
    channels: [log, 'mailto://desk@example.com', block:desk]
    send_resolved: false
    throttle: {messages: 3, every: 1m}
    templates: {title: '{{ headline }}'}
  - name: head
    channels: log
inhibit_rules:
  - {name: away, source_matchers: [title=Away], target_matchers: ['title!=Away'], equal: [book]}
time_intervals:
  - name: night
    time_intervals:
      - times: [{start_time: 22:00, end_time: 24:00}, {start_time: 00:00, end_time: 06:30}]
        weekdays: ['monday:friday']
        days_of_month: [1, -1]
        months: [january, 3]
        years: [2026, '2028:2030']
        location: Europe/Berlin
      - weekdays: sunday
  - {name: nyse, time_intervals: [{calendar: XNYS}]}
flapping: {changes: 4, within: 10m, quiet: 5m}
throttle: {messages: 100, every: 1h}
resolve_timeout: 5m
templates: {body: '{{ headline }}: {{ reason }}'}
link: https://o9.example.com/optimizations/{optimization}
rules:
  - {name: slow, when: duration_seconds.mean > 3.5}
"""


def test_everything_is_read() -> None:
    made = load(WHOLE)
    root = made.route
    first, second = root.routes
    (third,) = second.routes
    assert (root.receiver, root.group_by, root.repeat_interval) == ("desk", ("title",), timedelta(days=1))
    assert (root.group_wait, root.group_interval) == (timedelta(seconds=20), timedelta(minutes=5))
    assert (first.receiver, first.matchers, first.continues) == ("head", parse('level="critical", book=~"a|b"'), True)
    assert (first.group_wait, first.group_interval) == (timedelta(0), timedelta(seconds=90))
    assert (first.group_by, first.escalate_after, first.escalate_to) == (("title",), timedelta(minutes=15), "head")
    assert (second.receiver, second.group_by, second.mute_time_intervals) == ("desk", None, ("night",))
    assert (third.group_by, third.mute_time_intervals, third.active_time_intervals) == (None, (), ("nyse",))
    assert len({route.key for route in root.walk()}) == 4
    desk, head = made.receivers["desk"], made.receivers["head"]
    assert desk.channels == ("log", "mailto://desk@example.com", "block:desk")
    assert (desk.send_resolved, head.send_resolved, head.channels) == (False, True, ("log",))
    assert made.throttle_of("desk") == Throttle(messages=3, every=timedelta(minutes=1))
    assert made.throttle_of("head") == Throttle(messages=100, every=timedelta(hours=1))
    assert made.inhibit_rules[0].equal == ("book",)
    night = made.time_intervals["night"]
    assert night[0].times == ((1320, 1440), (0, 390))
    assert (night[0].days_of_month, night[0].months, night[0].years) == (
        ((1, 1), (-1, -1)), ((1, 1), (3, 3)), ((2026, 2026), (2028, 2030)),
    )  # fmt: skip
    assert night[1].weekdays == ((0, 0),)
    assert made.flapping == Damping(changes=4, within=timedelta(minutes=10), quiet=timedelta(minutes=5))
    assert made.resolve_timeout == timedelta(minutes=5)
    assert (made.templates, desk.templates) == ({"body": "{{ headline }}: {{ reason }}"}, {"title": "{{ headline }}"})
    assert made.rules[-1].name == "slow"
    assert made.rules[:-1] == BUILT_IN


@pytest.mark.parametrize("text", ["{}", "# nothing\n---\n{}\n", "route: {}"])
def test_without_anything_all_goes_to_every_channel(text: str) -> None:
    made = load(text)
    assert made == Configuration()
    assert made.receivers[made.route.receiver].channels == ("*",)
    assert made.route.group_by == ("title", "level", "series")


def test_equal_routes_beside_each_other_are_two() -> None:
    made = load("""
route:
  routes:
    - {matchers: [a=b], continue: true}
    - {matchers: [a=b]}
    - {matchers: ['a="b"'], group_wait: 1s}
""")
    assert [route.key for route in made.route.walk()] == ["{}", '{}/{a="b"}', '{}/{a="b"}#2', '{}/{a="b"}#3']


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("rout: {}", "line 1: rout: there is no such field; did you mean route?"),
        ("route:\n  reciever: x", "line 2: route.reciever: there is no such field; did you mean receiver?"),
        (
            "route:\n  receiver: desc\nreceivers: [{name: desk}]",
            "line 2: route.receiver: no receiver is called 'desc'; did you mean desk?",
        ),
        ("route: {receiver: zzz}", "line 1: route.receiver: no receiver is called 'zzz'; available: default"),
        (
            "route: {matchers: [a=b]}",
            "line 1: route.matchers: the root route takes every alert; write it in a route below `routes`",
        ),
        (
            "route: {routes: [{matchers: [a=b, 'c']}]}",
            "line 1: route.routes[0].matchers[1]: character 2: expected one of = != =~ !~, found the end",
        ),
        (
            "route: {group_wait: 30}",
            "line 1: route.group_wait: '30' is not a duration; it needs a unit; write it as 30s, 5m, 1h30m or 2d",
        ),
        (
            "route: {group_wait: -5s}",
            "line 1: route.group_wait: '-5s' is not a duration; write it as 30s, 5m, 1h30m or 2d",
        ),
        ("route: {group_interval: 0s}", "line 1: route.group_interval: must be greater than 0"),
        (
            "route: {repeat_interval: 99999999d}",
            "line 1: route.repeat_interval: '99999999d' is longer than 3,660 days",
        ),
        (
            "route: {repeat_interval: 999999999y}",
            "line 1: route.repeat_interval: '999999999y' is longer than 3,660 days",
        ),
        (
            "route: {escalate_after: 5m}",
            "line 1: route.escalate_after: `escalate_after` and `escalate_to` need each other",
        ),
        (
            "route: {escalate_after: 5m, escalate_to: a}\nreceivers: [{name: a}]",
            "line 1: route.escalate_to: the receiver 'a' has no channels",
        ),
        ("route: {routes: [{continue: 5}]}", "line 1: route.routes[0].continue: expected true or false, got 5"),
        (
            "route: {mute_time_intervals: [night]}",
            "line 1: route.mute_time_intervals[0]: no time interval is called 'night'; there are none",
        ),
        (
            "route: []",
            "line 1: route: expected a mapping, got an empty list",
        ),
        ("receivers: {name: x}", "line 1: receivers: expected a list, got a mapping"),
        ("receivers: [{channels: [log]}]", "line 1: receivers[0].name: it is missing"),
        (
            "receivers:\n- name: a\n- name: b\n- name: a",
            "line 4: receivers[2].name: 'a' is already used; use another name",
        ),
        ("receivers: [{name: ' '}]", "line 1: receivers[0].name: a name must be printable text of 1 to 200 characters"),
        ("receivers: [{name: a, channels: [~]}]", "line 1: receivers[0].channels[0]: expected text, got nothing"),
        (
            "receivers: [{name: a, throttle: {messages: 0, every: 1m}}]",
            "line 1: receivers[0].throttle.messages: ",
        ),
        (
            "receivers: [{name: a, templates: {titel: x}}]",
            "line 1: receivers[0].templates.titel: there is no such template; use title, body",
        ),
        ("throttle: {messages: 5}", "line 1: throttle.every: it is missing"),
        ("flapping: true", "line 1: flapping: write `false`, or a mapping with changes, within and quiet"),
        ("flapping: {changes: 1}", "line 1: flapping.changes: "),
        ("route: {}\nroute: {}", "line 2: route: duplicate"),
        (
            "time_intervals: [{name: a, time_intervals: [{location: Mars}]}]",
            "line 1: time_intervals[0].time_intervals[0].location: 'Mars' is not a time zone; write one "
            "such as America/New_York",
        ),
        (
            "time_intervals: [{name: a, time_intervals: [{times: [{start_time: 10:00}]}]}]",
            "line 1: time_intervals[0].time_intervals[0].times[0].end_time: it is missing",
        ),
        (
            "inhibit_rules: [{source_matchers: [], target_matchers: [a=b]}]",
            "line 1: inhibit_rules[0].source_matchers: it is empty; write which alerts it matches",
        ),
        ("inhibit_rules: [{source_matchers: [a=b]}]", "line 1: inhibit_rules[0].target_matchers: it is missing"),
        (
            "a: b: c",
            "line 1: not YAML: mapping values are not allowed in this context; quote text with a colon, and check "
            "the indentation",
        ),
        (
            "route:\n\t- x",
            "line 2: not YAML: found character that cannot start any token; quote text that begins with it, and "
            "indent with spaces",
        ),
        ("route: {\n", "line 2: not YAML: did not find expected node content"),
        ("a\nb: \0", "line 1: not YAML in UTF-8: control characters are not allowed"),
        pytest.param("[" * 5000, "line 1: not YAML: exceeded maximum nesting depth", id="deep", marks=pytest.mark.slow),
        (
            "just text",
            "line 1: expected a mapping, got 'just text'",
        ),
        (
            "? [a]\n: b",
            "line 1: a field's name must be a string",
        ),
        ("x" * (1 << 20) + "y", "line 1: it is larger than 1 MiB"),
    ],
)
def test_a_fault_has_its_line_its_field_and_the_remedy(text: str, told: str) -> None:
    (fault,) = faults_of(text)
    assert str(fault).startswith(told)


def test_a_channel_is_text() -> None:
    found = faults_of("receivers:\n- name: a\n  channels: [log, 5, {x: y}, ~, 5.0]\n- {name: b, channels: 5}")
    assert [(fault.line, fault.field) for fault in found] == [
        (3, "receivers[0].channels[1]"), (3, "receivers[0].channels[2]"), (3, "receivers[0].channels[3]"),
        (3, "receivers[0].channels[4]"), (4, "receivers[1].channels"),
    ]  # fmt: skip


def test_all_faults_are_told_at_once_in_the_order_of_their_lines() -> None:
    with pytest.raises(DocumentError) as refused:
        load("route:\n  receiver: nobody\n  group_wait: soon\nreceivers: []\nflaping: false\n", "alerts.yaml")
    assert str(refused.value).splitlines() == [
        "alerts.yaml, line 2: route.receiver: no receiver is called 'nobody'; available: default",
        "alerts.yaml, line 3: route.group_wait: 'soon' is not a duration; write it as 30s, 5m, 1h30m or 2d",
        "alerts.yaml, line 5: flaping: there is no such field; did you mean flapping?",
    ]


FAULTY = """\
route:
  matchers: [a=b]
  group_wait: soon
  escalate_after: 5m
  routes:
    - {matchers: [c=d], escalate_to: empty}
    - {escalate_to: desk, receiver: nobody}
    - {routes: [{escalate_to: desk}]}
receivers:
  - {name: desk, channels: [log]}
  - {name: desk, send_resolved: 3}
  - {name: empty}
  - name: default
time_intervals: [{name: t, time_intervals: [{location: Mars}]}, {name: t, time_intervals: []}]
rules:
  - {name: x, scope: each end, when: faild == 1, for: soon, title: "{x}", labels: {type: x}, level: bad}
  - {name: y, when: queued > 3, clear: queued > 4}
  - {name: y, wen: queued > 3}
  - {name: node_lost, scope: global, when: nonsense, message: "{nonsense}"}
  - {name: z, level: panic}
  - {name: v, level: panic, when: queued > 3, clear: queued > 4}
flaping: false
"""


def test_one_fault_hides_no_other() -> None:
    """Neither a field's own nor those between fields; only what depends on a field with a fault has to wait."""
    assert [(fault.line, fault.field) for fault in faults_of(FAULTY)] == [
        (2, "route.matchers"), (3, "route.group_wait"), (4, "route.escalate_after"),
        (6, "route.routes[0].escalate_to"), (7, "route.routes[1].receiver"),
        (11, "receivers[1].name"), (11, "receivers[1].send_resolved"),
        (14, "time_intervals[0].time_intervals[0].location"), (14, "time_intervals[1].name"),
        (14, "time_intervals[1].time_intervals"),
        (16, "rules[0].for"), (16, "rules[0].labels.type"), (16, "rules[0].level"), (16, "rules[0].title"),
        (16, "rules[0].when"), (17, "rules[1].clear"), (18, "rules[2].name"), (18, "rules[2].wen"),
        (18, "rules[2].when"),
        (19, "rules[3].scope"), (20, "rules[4].level"), (20, "rules[4].when"), (21, "rules[5].clear"),
        (21, "rules[5].level"), (22, "flaping"),
    ]  # fmt: skip


def test_a_template_that_fails_is_a_fault_of_its_line() -> None:
    (fault,) = faults_of("templates:\n  title: ok\n  body: '{{ nonsense }}'\n")
    assert (fault.line, fault.field) == (3, "templates.body")


@pytest.mark.slow
def test_anchors_that_blow_up_are_refused_at_once() -> None:
    levels = "".join(f"- &a{n} {{routes: [{', '.join([f'*a{n - 1}'] * 10)}]}}\n" for n in range(1, 12))
    (fault,) = faults_of(f"route:\n  routes:\n  - &a0 {{matchers: a=b}}\n{textwrap.indent(levels, '  ')}")
    assert "aliases expanded" in fault.problem


def test_an_anchor_within_itself_is_refused() -> None:
    assert faults_of("route: &r\n  routes: [*r]\n")


def test_an_anchor_is_good_for_saying_things_once() -> None:
    made = load("route: {routes: [&a {matchers: [a=b], continue: true}, *a]}")
    assert len(made.route.routes) == 2


VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text() | st.sampled_from(["30s", "a=b", "desk", "monday", "false"]),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(
        st.text() | st.sampled_from(["route", "routes", "receivers", "name", "matchers", "time_intervals", "times",
                                     "start_time", "flapping", "throttle", "group_wait", "rules", "at", "fires",
                                     "silence", "for", "happens", "start"]), inner, max_size=4),
    max_leaves=20,
)  # fmt: skip


@settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(VALUES | st.text())
def test_any_document_is_read_or_refused(value: object) -> None:
    for text in (yaml.safe_dump(value), value if isinstance(value, str) else yaml.safe_dump({"route": value})):
        for understand in (load, load_script):
            with contextlib.suppress(DocumentError):
                understand(text)


@pytest.mark.parametrize(
    ("text", "span"),
    [("30s", 30), ("1h30m", 5400), ("2d", 172_800), ("1w", 604_800), ("500ms", 0.5), ("1m0s", 60), ("1y", 31_536_000)],
)
def test_durations(text: str, span: float) -> None:
    assert span_of(text).total_seconds() == span


@pytest.mark.parametrize("text", ["", "s", "1", "1 s", "1h ", "30s1m", "1.5h", "-1s", "\uff11s", "0", "0s"])
def test_what_is_no_duration(text: str) -> None:
    with pytest.raises(ValueError, match=r"duration|greater"):
        span_of(text)


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("{}", "line 1: happens: it is missing"),
        ("happens: [{fires: {title: b}}]", "line 1: happens[0].at: it is missing"),
        (
            "happens: [{at: 5s}]",
            "line 1: happens[0]: it needs one of fires, resolved, acknowledged, silence, suppress",
        ),
        (
            "happens: [{at: soon, fires: {title: b}}]",
            "line 1: happens[0].at: 'soon' is not a duration; write it as 30s, 5m, 1h30m or 2d",
        ),
        (
            "happens: [{at: 2026-13-01, fires: {title: b}}]",
            "line 1: happens[0].at: '2026-13-01' is not a duration; write it as 30s, 5m, 1h30m or 2d",
        ),
        (
            "happens: [{at: 5s, fire: {title: b}}]",
            "line 1: happens[0].fire: there is no such field; did you mean fires?",
        ),
        ("happens: [{at: 5s, silence: a=b}]", "line 1: happens[0].silence: write its duration in `for`"),
        ("happens: [{at: 5s, silence: 'a!=b', for: 1h}]", "line 1: happens[0].silence: "),
    ],
)
def test_a_script_has_its_faults_told_alike(text: str, told: str) -> None:
    with pytest.raises(DocumentError) as refused:
        load_script(text)
    assert told in str(refused.value)
