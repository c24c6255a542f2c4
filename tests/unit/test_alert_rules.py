"""Rules: each built-in one where it happens and where it nearly does; how long, how clear, and what the file says."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from alert_scripts import faults_of
from hypothesis import given
from hypothesis import strategies as st

from o9.alerts.config.rules import BUILT_IN
from o9.alerts.config.schema import load
from o9.alerts.pipeline.alert import RuleReason as R
from o9.alerts.pipeline.alert import labels_of
from o9.alerts.rules.metrics import INSTANTS, Reading, Scope, condition_of, reading
from o9.alerts.rules.rules import AFTER_INSTANT, Rule, RuleEngine, SubjectFacts, apply_rule, decide, format_figure
from o9.model.optimization import OptimizationAlert
from o9.model.states import AlertLevel
from o9.model.validation import validate_alert

START = datetime(2026, 3, 2, 9, tzinfo=UTC)
MINUTE = timedelta(minutes=1)
HOUR = 60 * MINUTE
OF = {rule.name: rule for rule in BUILT_IN}

ENDED: dict[str, float | None] = {"completed": 1.0, "failed": 0.0, "timed_out": 0.0, "current_performance": 1.5}
GOOD_REPORT: dict[str, float | None] = {
    "completed": 1.0, "validity_critical": 0.0, "look_ahead_found": 0.0, "risk_limits_broken": 0.0,
    "verdict_void": 0.0, "verdict_lost": 0.0,
}  # fmt: skip
# By rule: what happens, and what nearly does.
CASES: dict[str, tuple[dict[str, float | None], dict[str, float | None]]] = {
    "failed": ({"failed": 1.0, "refused": 0.0}, {"failed": 0.0, "refused": 0.0, "cancelled": 1.0}),
    "refused": ({"failed": 1.0, "refused": 1.0}, {"failed": 1.0, "refused": 0.0}),
    "timed_out": ({"timed_out": 1.0}, {"timed_out": 0.0, "failed": 1.0}),
    "started": ({"started": 1.0, "on_start": 1.0}, {"started": 1.0, "on_start": 0.0}),
    "completed": (ENDED | {"on_completion": 1.0}, ENDED | {"on_completion": 0.0}),
    "crashed": ({"deaths": 1.0}, {"deaths": 0.0}),
    "worse_than_baseline": (ENDED | {"improvement": -0.001}, ENDED | {"improvement": 0.0}),
    "worse_than_usual": (ENDED | {"worse_than_usual": 3.1}, ENDED | {"worse_than_usual": 3.0}),
    "target_missed": (ENDED | {"short_of_target": 0.01}, ENDED | {"short_of_target": 0.0}),
    "many_failed_trials": (
        ENDED | {"failed_share": 0.2, "failed_trials": 5.0},
        ENDED | {"failed_share": 0.8, "failed_trials": 4.0},
    ),
    "validity_critical": (
        GOOD_REPORT | {"validity_critical": 1.0},
        GOOD_REPORT | {"validity_critical": 1.0, "completed": 0.0},
    ),
    "verdict_void": (
        GOOD_REPORT | {"validity_critical": 1.0, "verdict_void": 1.0},
        GOOD_REPORT | {"verdict_void": 1.0, "completed": 0.0},
    ),
    "verdict_lost": (
        GOOD_REPORT | {"validity_critical": 1.0, "verdict_lost": 1.0},
        GOOD_REPORT | {"verdict_lost": 1.0, "completed": 0.0},
    ),
    "look_ahead_found": (GOOD_REPORT | {"validity_critical": 1.0, "look_ahead_found": 1.0}, GOOD_REPORT),
    "risk_limit_broken": (GOOD_REPORT | {"risk_limits_broken": 1.0}, GOOD_REPORT),
    "node_lost": ({"silent_leases": 3.1}, {"silent_leases": 3.0}),
    "node_died": ({"died": 1.0}, {"died": 0.0}),
    "queue_too_long": ({"longest_wait_seconds": 3601.0}, {"longest_wait_seconds": 3600.0}),
    "schedule_missed": ({"late_seconds": 601.0}, {"late_seconds": 600.0}),
    "prefect_away": ({"prefect_away_seconds": 61.0}, {"prefect_away_seconds": 60.0}),
    "store_away": ({"store_away_seconds": 31.0}, {"store_away_seconds": 30.0}),
    "channel_failing": ({"failing_seconds": 301.0}, {"failing_seconds": 300.0}),
}


def rule(scope: Scope = Scope.GLOBAL, **fields: Any) -> Rule:
    standard: dict[str, Any] = {"when": condition_of("failure_rate > 0.2", Scope.GLOBAL), "level": AlertLevel.WARNING}
    return Rule("many", "Many", scope, **(standard | fields))


def fires(
    engine: RuleEngine, made: Rule, figures: dict[str, float | None], after: timedelta = timedelta(0)
) -> list[str]:
    changes = engine.evaluate(made.scope, [SubjectFacts("it", figures)], START)
    changes += engine.evaluate(made.scope, [SubjectFacts("it", figures)], START + after) if after else []
    return [change.rule for change in changes if change.alert is not None]


def test_each_rule_that_judges_has_its_cases() -> None:
    assert set(CASES) == {each.name for each in BUILT_IN if each.when is not None}


@pytest.mark.parametrize("name", CASES)
def test_a_built_in_rule_where_it_happens_and_where_it_nearly_does(name: str) -> None:
    made, (happens, nearly) = OF[name], CASES[name]
    assert fires(RuleEngine([made]), made, happens, made.lasts) == [name]
    assert fires(RuleEngine([made]), made, nearly, made.lasts) == []
    assert made.when is not None
    for figure in made.when.figures:  # what is not known is nothing to tell of
        assert fires(RuleEngine([made]), made, happens | {figure: None}, made.lasts) == []
    if made.lasts:
        assert fires(RuleEngine([made]), made, happens, made.lasts - timedelta(seconds=1)) == []


@pytest.mark.parametrize("name", CASES)
def test_what_happens_makes_one_alert(name: str) -> None:
    made, (happens, _) = OF[name], CASES[name]
    others = [each for each in BUILT_IN if each.scope is made.scope]
    assert set(fires(RuleEngine(others), made, happens, made.lasts)) == {name}


@pytest.mark.parametrize("name", CASES)
def test_what_is_told_can_be_sent(name: str) -> None:
    """A valid alert with its rule's label, whose words name all that they want to."""
    made, (happens, _) = OF[name], CASES[name]
    about = {each: each for each in ("node", "schedule", "channel")}  # what their facts are labelled with
    words = {each: each for each in ("name", "detail", "host", "validity", "look_ahead", "risk", "verdict")}
    figures: dict[str, float | None] = dict.fromkeys(
        ("execution_time", "baseline_performance", "target_performance", "trials", "silent_seconds", "queued"), 1.0
    )  # fmt: skip
    engine = RuleEngine([made])
    facts = SubjectFacts("it", figures | happens, about, "opt-1", words)
    (change,) = [
        *engine.evaluate(made.scope, [facts], START),
        *engine.evaluate(made.scope, [facts], START + made.lasts),
    ]
    assert change.alert is not None
    validate_alert(change.alert)
    assert "{" not in change.alert.title + change.alert.message + change.alert.metadata["remedy"]
    assert labels_of(change.alert)["rule"] == name
    assert change.alert.metadata["evidence"]


H, B, C, U, GONE = Reading.HOLDS, Reading.BETWEEN, Reading.CLEAR, Reading.UNKNOWN, None


@pytest.mark.parametrize(
    ("fields", "readings", "expected"),
    [
        ({}, [C, H, H, B, U, C, H], "quiet fires on between unknown clear fires"),
        ({"lasts": 2 * MINUTE}, [H, H, H, H], "begins lasts fires on"),
        ({"lasts": 2 * MINUTE}, [H, H, C, H, H, H], "begins lasts let-go begins lasts fires"),
        ({"lasts": 2 * MINUTE}, [H, B, H, U, H, H, GONE], "begins let-go begins let-go begins lasts let-go"),
        ({"keep_firing": 2 * MINUTE}, [H, C, C, C, C], "fires lingers lingers clear quiet"),
        ({"keep_firing": 2 * MINUTE}, [H, C, C, H, C, U, GONE], "fires lingers lingers on lingers lingers gone"),
        ({}, [H, GONE, GONE], "fires gone quiet"),
    ],
)
def test_pending_firing_over(fields: dict[str, Any], readings: list[Reading | None], expected: str) -> None:
    """A reading a minute."""
    made, state, told = rule(**fields), None, []
    for minute, reads in enumerate(readings):
        state, why = decide(made, state, reads, START + minute * MINUTE)
        told.append(_SHORT[why])
    assert " ".join(told) == expected


_SHORT = {
    R.QUIET: "quiet", R.BEGINS: "begins", R.LASTS: "lasts", R.TOO_SHORT: "let-go", R.FIRES: "fires", R.GOES_ON: "on",
    R.BETWEEN: "between", R.UNKNOWN: "unknown", R.LINGERS: "lingers", R.CLEAR: "clear", R.GONE: "gone",
}  # fmt: skip


@given(
    values=st.lists(st.none() | st.sampled_from([0.05, 0.1, 0.15, 0.2, 0.25]), max_size=40),
    lasts=st.integers(0, 4),
    restarts=st.sets(st.integers(0, 40)),
)
def test_it_fires_and_ends_as_the_words_say(values: list[float | None], lasts: int, restarts: set[int]) -> None:
    """Against another way of counting, and over restarts at any moment."""
    made = rule(lasts=lasts * MINUTE, clear=condition_of("failure_rate < 0.1", Scope.GLOBAL))
    written_down: dict[Any, Any]
    engine, written_down = RuleEngine([made]), {}
    held, firing, expected, told = 0, False, [], []
    for minute, value in enumerate(values):
        held = held + 1 if value is not None and value > 0.2 else 0
        if not firing and held > lasts:
            firing = True
            expected.append((minute, "fires"))
        elif firing and value is not None and value < 0.1:
            firing = False
            expected.append((minute, "ends"))
        if minute in restarts:
            engine = RuleEngine([made], written_down)
        changes = engine.evaluate(
            Scope.GLOBAL, [SubjectFacts("", {"failure_rate": value})], START + minute * MINUTE, complete=True
        )
        told += [(minute, "fires" if change.alert else "ends") for change in changes]
        for place, state in engine.drain().items():
            written_down.pop(place, None)
            if state is not None:
                written_down[place] = state
    assert told == expected


def test_nothing_is_written_down_where_nothing_changes() -> None:
    engine = RuleEngine([rule(lasts=MINUTE)])
    for minute, value in enumerate([0.1, 0.3, 0.3, 0.3, 0.3, 0.1, 0.1]):
        engine.evaluate(
            Scope.GLOBAL, [SubjectFacts("", {"failure_rate": value})], START + minute * MINUTE, complete=True
        )
        assert bool(engine.drain()) == (minute in (1, 2, 5)), minute


def test_an_instant_fires_for_a_while_and_ends_by_itself() -> None:
    engine = RuleEngine([OF["failed"]])
    facts = SubjectFacts("opt-1", CASES["failed"][0], {}, "opt-1", {"detail": "it broke"}, START - MINUTE)
    (began,) = engine.evaluate(Scope.END, [facts], START)
    assert began.alert is not None
    assert began.alert.timestamp == START - MINUTE
    assert engine.expire(START + AFTER_INSTANT - MINUTE) == []
    (over,) = engine.expire(START + AFTER_INSTANT)
    assert (over.ended, over.why) == (began.alert.alert_id, R.EXPIRED)


def test_what_is_put_right_ends_the_alert() -> None:
    engine = RuleEngine([OF["failed"], OF["validity_critical"]])
    engine.evaluate(Scope.END, [SubjectFacts(name, CASES["failed"][0], {}, name) for name in ("a", "b")], START)
    engine.evaluate(Scope.REPORT, [SubjectFacts("a", GOOD_REPORT | {"validity_critical": 1.0}, {}, "a")], START)
    assert [(change.rule, change.key, change.why) for change in engine.resolve("a")] == [("failed", "a", R.FIXED)]
    assert (engine.subjects(Scope.END), engine.subjects(Scope.REPORT)) == (("b",), ("a",))


def test_a_report_holds_until_the_next_one_of_the_same() -> None:
    engine = RuleEngine([OF["validity_critical"]])
    bad, good = SubjectFacts("a", GOOD_REPORT | {"validity_critical": 1.0}), SubjectFacts("a", GOOD_REPORT)
    assert len(engine.evaluate(Scope.REPORT, [bad], START)) == 1
    assert engine.evaluate(Scope.REPORT, [SubjectFacts("b", GOOD_REPORT)], START + HOUR) == []
    assert engine.expire(START + 100 * HOUR) == []
    assert len(engine.evaluate(Scope.REPORT, [good], START + 101 * HOUR)) == 1


def test_what_ended_is_told_of_for_a_while_though_nobody_looks_at_it_any_more() -> None:
    made = rule(Scope.OPTIMIZATION, when=condition_of("metrics.sharpe < 1", Scope.OPTIMIZATION))
    engine = RuleEngine([made])
    assert len(engine.evaluate(made.scope, [SubjectFacts("a", {"metrics.sharpe": 0.5})], START, complete=True)) == 1
    assert engine.evaluate(made.scope, [], START + MINUTE, complete=True) == []
    assert [change.why for change in engine.evaluate(made.scope, [], START + 2 * HOUR, complete=True)] == [R.GONE]


def test_a_rule_that_is_no_more_ends_what_it_told() -> None:
    engine = RuleEngine([rule()])
    (began,) = engine.evaluate(Scope.GLOBAL, [SubjectFacts("", {"failure_rate": 1.0})], START)
    (over,) = engine.set_rules([])
    assert began.alert is not None
    assert (over.ended, over.why) == (began.alert.alert_id, R.NO_RULE)


def test_a_clock_that_is_set_back_lasts_no_longer_for_it() -> None:
    made = rule(lasts=2 * MINUTE)
    state, _ = decide(made, None, H, START)
    state, why = decide(made, state, H, START - HOUR)
    assert why is R.LASTS
    assert decide(made, state, H, START - HOUR + 2 * MINUTE)[1] is R.FIRES


def test_a_rule_s_state_reads_back() -> None:
    made, engine = rule(keep_firing=MINUTE), RuleEngine([rule(keep_firing=MINUTE)])
    for minute, value in enumerate([0.3, 0.1]):
        engine.evaluate(Scope.GLOBAL, [SubjectFacts("", {"failure_rate": value})], START + minute * MINUTE)
        written_down = {place: text for place, text in engine.drain().items() if text is not None}
        assert RuleEngine([made], written_down).subjects(Scope.GLOBAL) == ("",)


@pytest.mark.parametrize(
    ("text", "figures", "expected"),
    [
        ("failure_rate > 20%", {"failure_rate": 0.21}, True),
        ("failure_rate > 20%", {"failure_rate": 0.2}, False),
        ("failure_rate>=.2", {"failure_rate": 0.2}, True),
        ("longest_wait_seconds > 1h30m", {"longest_wait_seconds": 5401.0}, True),
        ("queued == 1_000", {"queued": 1000.0}, True),
        ("queued != 0 and failure_rate > 1e-3", {"queued": 1.0, "failure_rate": 0.01}, True),
        ("queued != 0 and failure_rate > 1e-3", {"queued": 0.0, "failure_rate": None}, False),
        ("queued != 0 and failure_rate > 1e-3", {"queued": 1.0, "failure_rate": None}, None),
        ("queued > 5 or failure_rate > 0.5", {"queued": None, "failure_rate": 0.6}, True),
        ("queued > 5 OR failure_rate > 0.5", {"queued": None, "failure_rate": 0.5}, None),
        ("active_optimizations > 5", {}, None),
        ("queued > 5", {"queued": float("nan")}, None),
        ("queued > 5", {"queued": float("inf")}, True),
    ],
)
def test_what_a_condition_means(text: str, figures: dict[str, float | None], expected: bool | None) -> None:
    assert condition_of(text, Scope.GLOBAL).holds(figures) is expected


@pytest.mark.parametrize(
    ("value", "expected"), [(0.3, H), (0.2, B), (0.1, B), (0.09, C), (None, U)]
)  # fmt: skip
def test_between_the_two_limits_nothing_changes(value: float | None, expected: Reading) -> None:
    when, clear = (condition_of(text, Scope.GLOBAL) for text in ("failure_rate > 0.2", "failure_rate < 0.1"))
    assert reading(when, clear, {"failure_rate": value}) is expected


FAULTY = """\
rules:
  - {name: a, when: failure_rat > 0.2}
  - {name: b, when: failure_rate > 0.2, for: 10}
  - {name: c, when: failure_rate above 0.2}
  - {name: d, when: failure_rate > soon}
  - {name: e, when: failure_rate > 0.2, clear: failure_rate < 0.3}
  - {name: f, when: failure_rate > 0.2, clear: failure_rate > 0.1}
  - {name: g, when: 1 < queued < 5}
  - {name: h, when: queued > 1, scope: each type}
  - {name: i}
  - {name: failed, for: 10m}
  - {name: failed, level: info}
  - {name: stalled, when: queued > 1}
  - {name: node_lost, scope: global}
  - {name: k, when: queued > 1, level: bad, labels: [a], scope: each optimisation}
  - {name: l, when: queued > 1, levle: error}
  - {when: queued > 1}
"""


def test_every_fault_has_its_line_and_its_field() -> None:
    faults = faults_of(FAULTY)
    assert [(fault.line, fault.field.partition(".")[2], fault.problem) for fault in faults] == [
        (2, "when", ANY("did you mean failure_rate?")),
        (3, "for", ANY("it needs a unit")),
        (4, "when", ANY("write `failure_rate > 20%`")),
        (5, "when", ANY("'soon'")),
        (6, "clear", ANY("use 0.2 or beyond")),
        (7, "clear", ANY("such as `failure_rate < 0.2`")),
        (8, "when", ANY("'1 < queued < 5'")),
        (9, "when", ANY("`scope: global` has it")),
        (10, "when", ANY("it is missing, and there is no built-in rule")),
        (11, "for", ANY("is an instant")),
        (12, "name", ANY("'failed'")),
        (13, "when", ANY("the monitor decides")),
        (14, "scope", ANY("'node_lost' has the scope each node")),
        (15, "labels", ANY("expected a mapping")),
        (15, "level", ANY("no level is called 'bad'")),
        (15, "scope", ANY("did you mean each optimization?")),
        (16, "levle", ANY("did you mean level?")),
        (17, "name", ANY("it is missing")),
    ]


class ANY(str):
    """Equal to each text that has it."""

    def __eq__(self, other: object) -> bool:
        return isinstance(other, str) and str(self) in other

    __hash__ = str.__hash__


def test_a_rule_of_ones_own() -> None:
    *_, made = load(
        "rules:\n"
        "  - {name: many_fail, when: last_hour.failure_rate > 20%, clear: last_hour.failure_rate < 10%, for: 10m,\n"
        "     keep_firing_for: 5m, scope: each strategy, level: critical, labels: {team: research},\n"
        "     title: Many fail, message: '{strategy}: {last_hour.failure_rate} failed', remedy: look}\n"
    ).rules
    engine = RuleEngine([made])
    for minute in range(11):
        facts = SubjectFacts("tpe", {"last_hour.failure_rate": 0.25}, {"strategy": "tpe"})
        changes = engine.evaluate(Scope.STRATEGY, [facts], START + minute * MINUTE, complete=True)
    (change,) = changes
    assert change.alert is not None
    assert (change.alert.title, change.alert.level, change.alert.message) == (
        "Many fail", AlertLevel.CRITICAL, "tpe: 25% failed",
    )  # fmt: skip
    assert change.alert.metadata["labels"] == {"strategy": "tpe", "team": "research"}
    assert made.keep_firing == 5 * MINUTE


def test_a_rule_without_words_says_its_figures() -> None:
    *_, made = load("rules: [{name: many_fail, when: failure_rate > 20%}]").rules
    assert (made.title, made.scope, made.level) == ("Many fail", Scope.GLOBAL, AlertLevel.WARNING)
    (change,) = RuleEngine([made]).evaluate(Scope.GLOBAL, [SubjectFacts("", {"failure_rate": 0.5})], START)
    assert change.alert is not None
    assert change.alert.message == "failure_rate is 50%; the rule is: failure_rate > 20%"


def test_built_in_rules_are_changed_and_switched_off_by_their_names() -> None:
    made = {
        each.name: each
        for each in load(
            "rules:\n"
            "  - {name: queue_too_long, when: longest_wait_seconds > 4h, level: critical, labels: {team: ops}}\n"
            "  - {name: target_missed, enabled: false}\n"
            "  - {name: stalled, level: critical, labels: {team: ops}}\n"
        ).rules
    }
    assert set(OF) - set(made) == {"target_missed"}
    queue = made["queue_too_long"]
    assert (queue.level, queue.lasts, queue.clear) == (AlertLevel.CRITICAL, OF["queue_too_long"].lasts, None)
    found = OptimizationAlert("1", "opt-1", AlertLevel.ERROR, "stalled", "no step", START, metadata={"finding": "x"})
    told = apply_rule(made["stalled"], found)
    assert (told.title, told.level) == ("stalled", AlertLevel.CRITICAL)
    assert told.metadata == {"finding": "x", "rule": "stalled", "labels": {"team": "ops"}}


def test_built_in_rules_keep_to_what_the_file_allows() -> None:
    for each in BUILT_IN:
        if each.scope in INSTANTS:
            assert (each.lasts, each.clear) == (timedelta(0), None)
        if each.scope is Scope.REPORT:
            assert each.lasts == timedelta(0)
    assert len(OF) == len(BUILT_IN)


@pytest.mark.parametrize(
    ("scope", "name", "value", "expected"),
    [
        (Scope.GLOBAL, "failure_rate", 0.25, "25%"), (Scope.GLOBAL, "failure_rate", 0.004, "0.4%"),
        (Scope.SCHEDULE, "late_seconds", 61.0, "1 min 1 s"), (Scope.SCHEDULE, "late_seconds", 1200.0, "20 min"),
        (Scope.TYPE, "duration_seconds.p90", 9000.0, "2 h 30 min"), (Scope.TYPE, "duration_seconds.count", 90.0, "90"),
        (Scope.GLOBAL, "queued", 2000.0, "2000"), (Scope.END, "improvement", -0.5, "-50%"),
        (Scope.END, "performance_improvement", 0.25, "25%"), (Scope.END, "execution_time", 90.0, "1 min 30 s"),
        (Scope.END, "metrics.hit_rate", 0.25, "0.25"), (Scope.END, "worse_than_usual", float("inf"), "inf"),
    ],
)  # fmt: skip
def test_figures_as_people_read_them(scope: Scope, name: str, value: float, expected: str) -> None:
    assert format_figure(name, scope, value) == expected
