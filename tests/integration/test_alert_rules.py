"""Rules over a real record: what has happened is told once, whoever judges, and whatever dies in between."""

from __future__ import annotations

import logging
import math
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable, Iterator
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from contract_steps import at_work, put, sweep
from o9_testing import new
from rule_subjects import commit, complete, fail, report, told
from sqlalchemy import event, update
from verdicts import FORECAST, keep_verdict, verdict

from o9.alerts.rules.evaluator import LOOK_BACK, RULES, RuleService
from o9.alerts.rules.facts import report_facts
from o9.alerts.rules.metrics import QUANTITIES, Scope, Unit, quantity_of
from o9.alerts.rules.rules import AlertChange, RuleEngine, SubjectFacts
from o9.alerts.service.system import AlertNotificationSystem
from o9.health.grades import Grade
from o9.model.errors import StaleAttemptError, StoreUnavailableError
from o9.model.optimization import OptimizationAlert, utc_now
from o9.model.states import AlertLevel
from o9.model.states import OptimizationStatus as S
from o9.monitor.findings import Finding
from o9.monitor.monitor import OptimizationMonitor, alert_of
from o9.store import queries
from o9.store.alerts.rule_state import SaveRuleStates
from o9.store.core.column_types import moment
from o9.store.optimizations.transitions import Cause, Transition
from o9.store.queue.claims import Claim, Claimed, Heartbeat, Leave
from o9.store.queue.leader_election import AcquireLeadership
from o9.store.schema.optimizations import NODE, TRANSITION
from o9.store.store import Store

HOUR = timedelta(hours=1)
Watch = Callable[..., Awaitable[RuleService]]


@pytest.fixture
def store(store_url: str) -> Iterator[Store]:
    with Store(store_url) as opened:
        yield opened


class Clock:
    """What the judge takes for now; it stands still until it is moved."""

    def __init__(self) -> None:
        self.now = utc_now()


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    made = Clock()
    monkeypatch.setattr("o9.alerts.rules.evaluator.utc_now", lambda: made.now)
    return made


@pytest.fixture
async def watch(store: Store, tmp_path: Path, clock: Clock) -> AsyncIterator[Watch]:
    """`await watch(rules)`: a judge of its own; whoever was before it is dead. Nobody is told: only recorded."""
    systems: list[AlertNotificationSystem] = []

    async def make(rules: str = "{}", *, node: str = "node", **more: Any) -> RuleService:
        path = tmp_path / f"alerts-{len(systems)}.yaml"
        path.write_text(rules, encoding="utf-8")
        system = AlertNotificationSystem(store=store, alerts_file=str(path))
        systems.append(system)
        await system.initialize()
        made = RuleService(system, **more)
        await made.use(store, 600.0)
        made._node = node
        await made.evaluate()
        return made

    yield make
    for system in systems:
        await system.cleanup()


# What happens to optimizations


def was_long_ago(store: Store) -> None:
    """All that has happened did so before what a first evaluator looks at."""
    with store._engine.begin() as connection:
        connection.execute(update(TRANSITION).values(at=moment(utc_now() - LOOK_BACK - timedelta(seconds=1))))


async def test_what_ends_badly_is_told_once_and_what_ended_long_before_is_not(
    store: Store, watch: Watch, clock: Clock
) -> None:
    fail(store, "before")
    was_long_ago(store)
    fail(store, "just before")
    judge = await watch()
    fail(store, "a")
    at_work(store, "slow")
    store.write(Transition("slow", S.TIMEOUT, Cause.PERSON, "after 60 s"))
    complete(store, "fine", target_performance=1.0, baseline_performance=0.5)
    put(store, "unwanted")
    store.write(Transition("unwanted", S.CANCELLED, Cause.PERSON))
    for _ in range(3):
        await judge.evaluate()
    assert told(store) == [("failed", "a", False), ("failed", "just before", False), ("timed_out", "slow", False)]
    (row,) = store.read(queries.alerts, optimization_id="a")
    assert row["message"] == "name failed: ValueError: no data"
    assert row["metadata"]["labels"] == {
        "name": "name", "series": "name", "type": "parameter_tuning", "strategy": "default", "error": "ValueError",
    }  # fmt: skip
    assert row["at"] == store.read(queries.transitions, "a")[-1]["at"]
    clock.now += HOUR + timedelta(seconds=1)
    await judge.evaluate()
    assert [over for *_, over in told(store)] == [True, True, True]


async def test_what_is_worse_than_it_should_be(store: Store, watch: Watch) -> None:
    judge = await watch()
    complete(store, "worse", 0.5, baseline_performance=0.8)
    complete(store, "short", 0.5, target_performance=0.8, name="other")
    complete(store, "down", 0.9, target_performance=0.8, name="costs", metadata={"direction": "minimize"})
    complete(store, "shaky", 0.5, failed=5, name="shaky")
    complete(store, "nearly", 0.5, failed=4, name="nearly")
    await judge.evaluate()
    assert told(store) == [
        ("many_failed_trials", "shaky", False), ("target_missed", "down", False), ("target_missed", "short", False),
        ("worse_than_baseline", "worse", False),
    ]  # fmt: skip


async def test_worse_than_its_own_last_runs(store: Store, watch: Watch) -> None:
    judge = await watch()
    for number, value in enumerate([1.0, 1.1, 0.9, 1.05, 0.2, 0.85, 0.3]):
        complete(store, f"run-{number}", value, name="nightly")
        complete(store, f"else-{number}", 0.01, name=f"another {number}")
        await judge.evaluate()
    # The fifth had too few before it; the sixth is no worse than that; the seventh neither.
    assert told(store) == []
    complete(store, "last", 0.05, name="nightly")
    await judge.evaluate()
    assert told(store) == [("worse_than_usual", "last", False)]


async def test_worse_than_last_runs_that_were_all_the_same(store: Store, watch: Watch) -> None:
    judge = await watch()
    for number in range(6):
        complete(store, f"run-{number}", 0.5, name="nightly")
    complete(store, "as ever", 0.5 - 1e-9, name="nightly")
    complete(store, "last", 0.1, name="nightly")
    await judge.evaluate()
    assert told(store) == [("worse_than_usual", "last", False)]


async def test_an_attempt_that_died_is_told_until_the_optimization_completes(store: Store, watch: Watch) -> None:
    judge = await watch()
    at_work(store, "a", lease_seconds=-1.0)
    sweep(store, "node-2")
    await judge.evaluate()
    assert told(store) == [("crashed", "a", False)]
    claimed = _go_on(store, "a")
    commit(store, "a", claimed)
    store.write(Transition("a", S.COMPLETED, Cause.HOOK, fence=claimed.fence))
    await judge.evaluate()
    assert told(store) == [("crashed", "a", True)]


async def test_an_attempt_whose_node_left_in_good_order_did_not_die(store: Store, watch: Watch, clock: Clock) -> None:
    judge = await watch()
    at_work(store, "a", lease_seconds=-1.0)
    sweep(store, "node-2")
    await judge.evaluate()
    clock.now += 2 * HOUR
    _go_on(store, "a")
    store.write(Leave("node-1"))
    await judge.evaluate()
    assert told(store) == [("crashed", "a", True)]


def _go_on(store: Store, name: str) -> Claimed:
    claimed = store.write(Claim("node-1", 1000, 600.0, name))
    assert claimed is not None
    for status in (S.INITIALIZING, S.RUNNING):
        store.write(Transition(name, status, Cause.HOOK, fence=claimed.fence))
    return claimed


async def test_a_retry_that_succeeds_ends_what_failed(store: Store, watch: Watch) -> None:
    judge = await watch()
    fail(store, "a")
    fail(store, "b")
    fail(store, "again", metadata={"retry_of": "a"})
    await judge.evaluate()
    assert [over for *_, over in told(store)] == [False] * 3
    complete(store, "third", metadata={"retry_of": "again"})
    await judge.evaluate()
    assert told(store) == [("failed", "a", True), ("failed", "again", True), ("failed", "b", False)]


# Who judges


async def test_a_restart_neither_repeats_nor_loses(store: Store, watch: Watch, clock: Clock) -> None:
    rules = "rules: [{name: many, when: queued > 1, clear: queued < 1, for: 10m}]"
    await watch(rules)
    fail(store, "a")
    put(store, "w1"), put(store, "w2")
    await watch(rules)
    assert told(store) == [("failed", "a", False)]
    clock.now += timedelta(minutes=6)
    fail(store, "b")
    await watch(rules)
    clock.now += timedelta(minutes=4)
    await watch(rules)
    expected = [("failed", "a", False), ("failed", "b", False), ("many", "", False)]
    assert told(store) == expected
    store.write(Transition("w1", S.CANCELLED, Cause.PERSON))
    await watch(rules)
    assert told(store) == expected  # one waits: it is neither too many nor clear
    store.write(Transition("w2", S.CANCELLED, Cause.PERSON))
    clock.now += HOUR
    await watch(rules)
    assert [over for *_, over in told(store)] == [True, True, True]
    assert store.read(queries.rule_states) == {}


@pytest.mark.parametrize("fails_at", [0, 1])
async def test_a_judge_that_dies_between_telling_and_writing_down(
    store: Store, watch: Watch, monkeypatch: pytest.MonkeyPatch, fails_at: int
) -> None:
    judge = await watch()
    fail(store, "a")
    fail(store, "b")
    real, calls = AlertNotificationSystem.send_alert, iter(range(100))
    written = store.write_async

    async def dying(system: AlertNotificationSystem, alert: OptimizationAlert, **more: Any) -> Any:
        if next(calls) == fails_at:
            raise StoreUnavailableError("it died")
        return await real(system, alert, **more)

    with monkeypatch.context() as patched:
        patched.setattr(AlertNotificationSystem, "send_alert", dying)
        with pytest.raises(StoreUnavailableError):
            await judge.evaluate()
    with monkeypatch.context() as patched:

        def no_rule_states(operation: Any) -> Any:
            if isinstance(operation, SaveRuleStates):
                raise StoreUnavailableError("it died")
            return written(operation)

        patched.setattr(store, "write_async", no_rule_states)
        with pytest.raises(StoreUnavailableError):
            await judge.evaluate()
    await judge.evaluate()
    await watch()
    assert told(store) == [("failed", "a", False), ("failed", "b", False)]
    assert [row["notifications"] for row in store.read(queries.alerts)] == [1, 1]


async def test_one_node_judges_and_another_takes_over_when_it_stops(
    store: Store, watch: Watch, monkeypatch: pytest.MonkeyPatch
) -> None:
    first = await watch(node="first")
    second = await watch(node="second")
    fail(store, "a")
    asked = statements(store)
    with monkeypatch.context() as patched:
        patched.setattr(store, "write", lambda _: pytest.fail("a node in waiting only looks"))
        await second.evaluate()
    assert told(store) == []
    assert len(asked) < 8
    await first.stop()
    await second.evaluate()
    assert told(store) == [("failed", "a", False)]


async def test_what_an_old_judge_believes_is_not_written(store: Store, watch: Watch) -> None:
    judge = await watch(node="first")
    held = store.read(queries.leader, RULES)
    assert held is not None
    assert store.write(AcquireLeadership(RULES, "second", 600.0, ("first",))) == held["fence"] + 1
    with pytest.raises(StaleAttemptError):
        store.write(SaveRuleStates(RULES, held["fence"], {("a", "b"): "{}"}))
    fail(store, "a")
    await judge.evaluate()
    assert store.read(queries.rule_states) == {}


@pytest.mark.parametrize("database", ["store_url", "postgres_url"])
def test_rule_states_read_back(database: str, request: pytest.FixtureRequest) -> None:
    with Store(request.getfixturevalue(database)) as store:
        fence = store.write(AcquireLeadership(RULES, "node", 600.0))
        assert fence is not None
        kept: dict[tuple[str, str], str | None] = {("慢", "a\x00"): "1", ("r", "b"): "2", ("r", "c"): "3"}
        store.write(SaveRuleStates(RULES, fence, kept, {"transition": 2**40}))
        store.write(SaveRuleStates(RULES, fence, {("r", "b"): None, ("r", "c"): "4"}, {"transition": 2**40 + 1}))
        assert sorted(store.read(queries.rule_states).values()) == ["1", "4"]
        assert store.read(queries.rule_positions) == {"transition": 2**40 + 1}


# Health, house and statistics


@pytest.mark.parametrize(("grade", "rule"), [(Grade.LOST, "verdict_lost"), (Grade.VOID, "verdict_void")])
async def test_a_result_that_was_lost_or_void_is_told_once_by_its_grade(
    store: Store, watch: Watch, grade: Grade, rule: str
) -> None:
    complete(store, "a")
    at_work(store, "runs")
    judge = await watch()
    keep_verdict(store, "runs", verdict(grade))
    keep_verdict(store, "a", verdict(grade))
    await judge.evaluate()
    assert told(store) == [(rule, "a", False)]
    assert f"the headline of {grade.value}" in store.read(queries.alerts)[0]["message"]
    keep_verdict(store, "a", verdict(Grade.CONFIRMED))
    await judge.evaluate()
    assert told(store) == [(rule, "a", True)]


async def test_a_rule_may_ask_for_the_grade_and_the_forecast(store: Store) -> None:
    complete(store, "a")
    keep_verdict(store, "a", verdict(Grade.UNPROVEN))
    (row,) = store.read(queries.health_reports_since, 0)
    state = store.read(queries.get, "a")
    assert state is not None
    facts = report_facts(row, state)
    grades = {name: value for name, value in facts.figures.items() if name.startswith("verdict_")}
    assert grades == {f"verdict_{grade.value}": float(grade is Grade.UNPROVEN) for grade in Grade}
    assert [facts.figures[name] for name in ("forecast", "forecast_low", "forecast_high")] == [
        FORECAST.mean, FORECAST.low, FORECAST.high,
    ]  # fmt: skip
    assert facts.figures.keys() <= QUANTITIES[Scope.REPORT].keys()


async def test_what_reports_say_holds_until_the_next_one(store: Store, watch: Watch) -> None:
    complete(store, "a")
    at_work(store, "runs")
    judge = await watch()
    luck = {"name": "validity.verdict", "score": 0.1, "words": "luck is enough", "evidence": {}}
    ahead = {"name": "validity.look_ahead", "score": 0.0, "words": "it knew"}
    unknown = {"name": "validity.look_ahead", "score": None, "words": "not known"}
    risk = {"name": "security.risk_limits.drawdown", "score": 0.0, "words": "0.3, the limit is 0.2"}
    report(store, "runs", [luck], "critical")  # it may yet get better
    report(store, "a", [luck, unknown], "critical")
    await judge.evaluate()
    assert told(store) == [("validity_critical", "a", False)]
    assert store.read(queries.alerts)[0]["message"] == "its result cannot be trusted: luck is enough"
    report(store, "a", [luck, ahead, risk], "critical")
    await judge.evaluate()
    assert told(store) == [
        ("look_ahead_found", "a", False), ("risk_limit_broken", "a", False), ("validity_critical", "a", True),
    ]  # fmt: skip
    report(store, "a", [])
    await judge.evaluate()
    assert [over for *_, over in told(store)] == [True] * 3


def beat(store: Store, node: str, seconds_ago: float, lease: float = 30.0) -> None:
    store.write(Heartbeat(node, "elsewhere", 1, 1.0, lease))
    with store._engine.begin() as connection:
        where = NODE.c.node_id == node
        connection.execute(update(NODE).where(where).values(heartbeat_at=NODE.c.heartbeat_at - seconds_ago))


async def test_a_node_without_a_sign_of_life_is_lost_one_that_took_leave_is_not(store: Store, watch: Watch) -> None:
    judge = await watch()
    for name, ago in (("lost", 100.0), ("late", 80.0), ("long-gone", 90_000.0), ("leaves", 100.0), ("x#flows", 100.0)):
        beat(store, name, ago)
    store.write(Leave("leaves"))
    await judge.evaluate()
    assert told(store) == []  # this judge has only begun: nobody had time to say that he lives
    judge._evaluator._heartbeats_certain_at = 0.0
    await judge.evaluate()
    assert told(store) == [("node_lost", "lost", False)]
    beat(store, "lost", 40.0)
    await judge.evaluate()
    assert told(store) == [("node_lost", "lost", False)]
    beat(store, "lost", 0.0)
    await judge.evaluate()
    assert told(store) == [("node_lost", "lost", True)]


async def test_the_dead_of_this_host_are_told_by_whoever_finds_them(store: Store, watch: Watch) -> None:
    await watch(node="judge")
    other = await watch(node="other")
    other.node_died(("gone", "gone#flows"))
    await other.evaluate()
    await other.evaluate()
    assert told(store) == [("node_died", "gone", False)]


async def test_a_queue_that_is_too_long(store: Store, watch: Watch, clock: Clock) -> None:
    judge = await watch()
    put(store, "waits")
    clock.now += HOUR - timedelta(seconds=1)
    await judge.evaluate()
    assert store.read(queries.rule_states) == {}
    clock.now += timedelta(seconds=2)
    await judge.evaluate()
    clock.now += timedelta(minutes=5)
    await judge.evaluate()
    assert told(store) == [("queue_too_long", "", False)]
    assert store.read(queries.alerts)[0]["message"] == "1 optimizations wait for a slot, the first for 1 h 5 min"


async def test_a_schedule_that_nobody_claims(store: Store, watch: Watch) -> None:
    schedules = {"check-health": "schedule check-health"}
    judge = await watch("rules: [{name: schedule_missed, when: late_seconds > 0}]", schedules=schedules)
    await judge.evaluate()
    assert told(store) == [("schedule_missed", "check-health", False)]
    store.write(AcquireLeadership("schedule check-health", "node at now", 300.0))
    judge._late = []
    await judge.evaluate()
    assert told(store) == [("schedule_missed", "check-health", True)]
    judge._late = [SubjectFacts("1", {"late_seconds": 700.0}, {"schedule": "the deployment nightly"})]
    await judge.evaluate()
    assert ("schedule_missed", "the deployment nightly", False) in told(store)


async def test_a_store_and_a_prefect_that_were_away(store: Store, watch: Watch) -> None:
    names = ("prefect_away", "store_away")
    rules = f"rules: [{', '.join(f'{{name: {name}, when: {name}_seconds > 0}}' for name in names)}]"
    judge = await watch(rules)
    judge._store_gone = (0.0, "connection refused")
    judge._prefect_gone = 0.0
    await judge._pass()
    assert told(store) == [("prefect_away", "node", False), ("store_away", "node", False)]
    judge._prefect_gone = None
    await judge.evaluate()
    assert ("prefect_away", "node", True) in told(store)
    assert ("store_away", "node", False) in told(store)  # for a while yet


async def test_what_the_monitor_finds_is_repeated_until_it_is_gone(store: Store, watch: Watch, clock: Clock) -> None:
    monitor = OptimizationMonitor(store=store)
    judge = await watch(monitor=monitor)
    found = alert_of(new("a"), Finding("stalled", AlertLevel.ERROR, "no step for 9 s", "look at its log", {}))
    await monitor.emit("alert", found)
    assert told(store) == [("stalled", "a", False)]
    (before,) = store.read(queries.open_episodes)
    clock.now += timedelta(minutes=1)
    judge._sent_at = -math.inf
    await judge.evaluate()
    (after,) = store.read(queries.open_episodes)
    assert str(after.ends_at) > str(before.ends_at)
    await monitor.emit("resolved", found)
    assert told(store) == [("stalled", "a", True)]
    judge._sent_at = -math.inf
    await judge.evaluate()
    assert told(store) == [("stalled", "a", True)]


async def test_rules_of_ones_own_over_statistics_and_metrics(store: Store, watch: Watch) -> None:
    rules = (
        "rules:\n"
        "  - {name: failed, enabled: false}\n"
        "  - {name: rate, when: last_hour.failure_rate > 20% and last_hour.ended >= 3, scope: each type}\n"
        "  - {name: all_time, when: failure_rate >= 50%}\n"
        "  - {name: low, when: current_performance < 0.5, scope: each end}\n"
        "  - {name: runs_low, when: current_performance < 0.5, scope: each optimization}\n"
    )
    complete(store, "a", 0.1)
    fail(store, "b")
    was_long_ago(store)
    judge = await watch(rules)
    assert told(store) == [("all_time", "", False)]
    complete(store, "c", 0.4, name="poor")
    commit(store, "runs", at_work(store, "runs"), 0.3)
    await judge.evaluate()
    assert told(store) == [
        ("all_time", "", True), ("low", "c", False), ("rate", "parameter_tuning", False), ("runs_low", "c", False),
        ("runs_low", "runs", False),
    ]  # fmt: skip


async def test_each_figure_that_a_condition_may_name_is_there_and_within_its_bounds(store: Store, watch: Watch) -> None:
    complete(store, "a", 0.4, failed=1, baseline_performance=0.3, target_performance=0.5)
    fail(store, "b")
    at_work(store, "c")
    seen: dict[Scope, list[tuple[str, float | None]]] = {scope: [] for scope in _READ}
    for scope in _READ:
        names = QUANTITIES[scope]
        rules = "rules: [" + ", ".join(
            f"{{name: r{n}, when: {name} > 0, scope: {scope.value}}}" for n, name in enumerate(names)
        ) + "]"  # fmt: skip
        judge = (await watch(rules))._evaluator
        assert judge._engine is not None

        class Keeps(RuleEngine):
            def evaluate(
                self, of: Scope, facts: Iterable[SubjectFacts], now: datetime, *, complete: bool = False
            ) -> list[AlertChange]:
                if of in seen:
                    seen[of] += [figure for each in facts for figure in each.figures.items()]
                return []

        engine = Keeps(judge._rules)
        judge._evaluate_facts(engine, utc_now(), None, await judge._read_statistics(engine))
        assert set(names) - {name for name, _ in seen[scope]} == set()
        for name, value in seen[scope]:
            if value is not None and quantity_of(name, scope):
                quantity = quantity_of(name, scope)
                assert quantity.low <= value <= quantity.high, name
                assert quantity.unit is not Unit.COUNT or float(value).is_integer(), name


_READ = (Scope.GLOBAL, Scope.TYPE, Scope.STRATEGY, Scope.OPTIMIZATION)


async def test_a_file_that_changes_changes_the_rules(store: Store, watch: Watch) -> None:
    judge = await watch("rules: [{name: many, when: queued > 0}]")
    put(store, "a")
    await judge.evaluate()
    assert told(store) == [("many", "", False)]
    await watch("{}")
    assert told(store) == [("many", "", True)]


async def test_a_pass_costs_the_same_at_any_history_and_writes_nothing(store: Store, watch: Watch) -> None:
    judge = await watch(schedules={"check-health": "schedule check-health"})
    asked = statements(store)
    counts = []
    for size in (5, 50):
        for number in range(size):
            complete(store, f"a-{size}-{number}")
            put(store, f"w-{size}-{number}")
        await judge.evaluate()
        asked.clear()
        await judge.evaluate()
        counts.append(len(asked))
        assert not [one for one in asked if not is_reading(one)]
    assert counts[0] == counts[1] <= 9, asked


def statements(store: Store) -> list[str]:
    """What the database is asked from now on."""
    asked: list[str] = []
    event.listen(store._engine, "before_cursor_execute", lambda *args: asked.append(args[2]))
    return asked


def is_reading(statement: str) -> bool:
    return statement.lstrip().upper().startswith("SELECT")


@pytest.mark.parametrize("minutes", [0, 20])
async def test_a_night_without_a_source_of_data_is_one_message(
    store: Store, watch: Watch, clock: Clock, minutes: int, caplog: pytest.LogCaptureFixture
) -> None:
    judge = await watch("route: {receiver: default, group_wait: 0s}")
    for number in range(20):
        fail(store, f"night-{number}", f"ConnectionError: the feed does not answer for {number / 7}")
        clock.now += timedelta(minutes=minutes / 20)
        await judge.evaluate()
    with caplog.at_level(logging.INFO):
        done = await judge._alerts.deliver_once()
    assert (done["notices"], done["sent"]) == (1, 3)
    for entry in await judge._alerts.get_notification_history():
        group = {"level": "error", "title": "Optimization failed", "series": "name"}
        assert (entry["firing_count"], entry["labels"]) == (20, group)
    assert {row["metadata"]["labels"]["error"] for row in store.read(queries.alerts)} == {"ConnectionError"}
