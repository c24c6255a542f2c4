"""The engine: whatever happens, and in whatever order, what it tells keeps to these rules."""

from __future__ import annotations

import os
import time
from collections import defaultdict
from dataclasses import replace
from datetime import datetime, timedelta

import pytest
from alert_scripts import FULL, LABELS, PLAIN, START, Player, Step, alert, steps, why
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from o9.alerts.config.schema import Configuration, load
from o9.alerts.pipeline.alert import Alert, Notice, NoticeKind, NotifyReason
from o9.alerts.pipeline.engine import Engine, Snapshot
from o9.alerts.pipeline.groups import TrackedAlert
from o9.model.states import AlertLevel

EITHER = st.sampled_from(["plain", "full"])
CONFIGURATIONS = {"plain": PLAIN, "full": FULL}
LONG = timedelta(minutes=5)


def many(examples: int) -> settings:
    """So many examples where long tests are asked for, a quarter where not."""
    examples = examples if os.environ.get("O9_LONG_TESTS") else examples // 4
    return settings(max_examples=examples, deadline=None, suppress_health_check=[HealthCheck.too_slow])


def second(number: float) -> timedelta:
    return timedelta(seconds=number)


@pytest.mark.slow
@many(300)
@given(EITHER, steps)
def test_restarts_at_every_instant_change_nothing(name: str, steps: list[Step]) -> None:
    undisturbed, restarting = Player(CONFIGURATIONS[name]), Player(CONFIGURATIONS[name], restarts=True)
    for player in (undisturbed, restarting):
        player.play(steps)
        player.until(player.now + LONG)
    assert restarting.notices == undisturbed.notices
    assert sorted(restarting.held, key=repr) == sorted(undisturbed.held, key=repr)


@many(200)
@given(EITHER, steps)
def test_what_is_drained_is_all_that_a_store_needs(name: str, steps: list[Step]) -> None:
    player = Player(CONFIGURATIONS[name])
    for step in steps:
        player.play([step])
        assert player.stored == dict(player.engine.snapshot().groups)


@many(300)
@given(EITHER, steps)
def test_what_is_told_is_news_and_not_too_soon(name: str, steps: list[Step]) -> None:
    player = Player(CONFIGURATIONS[name])
    player.play(steps)
    player.until(player.now + LONG)
    by_group: dict[tuple[str, str], list[Notice]] = defaultdict(list)
    for notice in player.notices:
        by_group[notice.group_key, notice.receiver].append(notice)
    for (_, receiver), notices in by_group.items():
        numbers = [notice.number for notice in notices]
        assert numbers == sorted(set(numbers))
        if receiver != "head":
            resolved_is_told = CONFIGURATIONS[name].receivers[receiver].send_resolved
            _is_news(notices, player.overs, resolved_is_told=resolved_is_told)


def _is_news(notices: list[Notice], overs: dict[str, list[datetime]], *, resolved_is_told: bool) -> None:
    """Of one group, in order: each says something new, or repeats what it is time to repeat."""
    believed: set[str] = set()  # to fire
    last: set[str] = set()  # what the last message told as firing
    before: Notice | None = None
    for notice in notices:
        firing, over = _names(notice.firing), _names(notice.resolved)
        if notice.kind is NoticeKind.FLAPPING:
            believed |= firing | over
            last -= firing | over
            continue
        assert firing or over
        assert not firing & over
        assert over <= believed, "told to be over, but never told to fire"
        if before is not None and not before.kind.value.startswith(("resolved", "flapping")):
            assert notice.at - before.at >= second(10), "within group_interval" if resolved_is_told else ""
        if notice.kind is NoticeKind.REPEAT:
            assert before is not None
            assert firing <= last
            assert notice.at - before.at >= second(35), "before repeat_interval"
            assert not notice.new
        else:
            assert firing - last <= _names(notice.new), "new, and not said to be"
            for known in [each for each in notice.new if each.fingerprint in last]:
                assert before is not None
                began_anew = any(before.at <= at <= notice.at for at in overs.get(known.fingerprint, ()))
                assert known.starts_at >= before.at or began_anew, "it was known"
            assert over or firing - last or not resolved_is_told, "nothing new"
        believed = (believed | firing) - over
        last = firing
        before = notice


def _names(alerts: tuple[Alert, ...]) -> set[str]:
    return {each.fingerprint for each in alerts}


@many(300)
@given(EITHER, steps)
def test_of_every_firing_alert_each_receiver_is_told_or_there_is_a_reason(name: str, steps: list[Step]) -> None:
    player = Player(CONFIGURATIONS[name])
    player.play(steps)
    now = player.now
    for number in range(len(LABELS)):
        fingerprint = alert(number, now).fingerprint
        for receiver, reason in why(player.engine, fingerprint, now):
            if reason is None:
                due = player.engine.due()
                assert due is not None
                assert now <= due <= now + second(10)
            elif reason is NotifyReason.NOTHING_NEW:
                told = [
                    each for each in player.notices if each.receiver == receiver and fingerprint in _names(each.firing)
                ]
                assert told, "said to be told, and was not"
            else:
                assert reason in (
                    NotifyReason.INHIBITED, NotifyReason.SILENCED, NotifyReason.MUTED, NotifyReason.NOT_ACTIVE,
                    NotifyReason.FLAPPING,
                )  # fmt: skip


@many(200)
@given(steps)
def test_what_lasts_and_nothing_holds_back_is_told_within_group_wait_or_interval(steps: list[Step]) -> None:
    steps = [step for step in steps if step.what in ("fires", "resolved", "for", "old")]
    player = Player(PLAIN)
    player.play(steps)
    fires = {
        name
        for number in range(len(LABELS))
        if why(player.engine, name := alert(number, player.now).fingerprint, player.now)
        and (known := player.engine._known[name]).firing
        and not known.alert.resolved(player.now + second(10))
    }
    player.until(player.now + second(10.5))
    told = {name for notice in player.notices for name in _names(notice.firing)}
    assert fires <= told


@many(200)
@given(EITHER, steps)
def test_when_all_is_over_everybody_who_was_told_knows_and_nothing_is_left(name: str, steps: list[Step]) -> None:
    player = Player(CONFIGURATIONS[name])
    player.play(steps)
    player.engine.take([alert(number, player.now, ends_at=player.now) for number in range(len(LABELS))], player.now)
    player.until(player.now + LONG)
    player.engine.advance(player.now)
    believed: dict[str, set[tuple[str, str]]] = defaultdict(set)
    for notice in player.notices:
        known = {(notice.group_key, fingerprint) for fingerprint in _names(notice.firing)}
        over = {(notice.group_key, fingerprint) for fingerprint in _names(notice.resolved)}
        if notice.kind is NoticeKind.FLAPPING:
            known, over = known | over, set()
        believed[notice.receiver] = (believed[notice.receiver] | known) - over
    assert not {receiver: names for receiver, names in believed.items() if names and receiver != "log"}
    assert player.engine.snapshot() == Snapshot((), (), {})
    assert player.engine.due() is None


def other(text: str, receiver: str = "desk") -> Configuration:
    intervals = "group_wait: 5s, group_interval: 10s, repeat_interval: 35s"
    receivers = f"[{{name: {receiver}, channels: [log]}}]"
    return load(f"flapping: false\nroute: {{receiver: {receiver}, {intervals}, {text}}}\nreceivers: {receivers}")


OTHERS = [
    PLAIN,
    other("group_by: [title, level]"),
    other("group_by: ['...']"),
    other("group_by: [title], routes: [{matchers: [book=a], group_by: [level]}]"),
]


@many(300)
@given(steps, st.lists(st.sampled_from(OTHERS), min_size=25, max_size=25))
def test_whatever_the_file_becomes_what_was_told_is_told_to_be_over_and_not_told_again(
    steps: list[Step], files: list[Configuration]
) -> None:
    player = Player(PLAIN)
    for step, configuration in zip(steps, files, strict=False):
        if step.what in ("fires", "resolved", "for", "old"):
            player.configure(configuration)
            player.play([step])
    player.engine.take([alert(number, player.now, ends_at=player.now) for number in range(len(LABELS))], player.now)
    player.until(player.now + LONG)
    believed: dict[str, datetime] = {}
    for notice in player.notices:
        for each in notice.new:
            if (told_at := believed.get(each.fingerprint)) is not None:
                assert any(told_at <= at <= notice.at for at in player.overs.get(each.fingerprint, ())), "told again"
        believed |= dict.fromkeys(_names(notice.firing), notice.at)
        assert _names(notice.resolved) <= set(believed)
        believed = {name: at for name, at in believed.items() if name not in _names(notice.resolved)}
    assert not believed
    assert player.engine.snapshot() == Snapshot((), (), {})


def test_a_receiver_that_hears_no_more_of_an_alert_is_on_the_record() -> None:
    player = Player(other("group_by: [title]", "head"))
    player.play([Step(0, "fires", 0, 0)])
    player.until(START + second(6))
    player.configure(load("route: {receiver: desk}\nreceivers: [{name: desk, channels: [console]}]"))
    (held,) = player.engine.drain().held
    assert (held.receiver, held.decision.reason) == ("head", NotifyReason.NOT_ROUTED)


def test_an_alert_told_over_and_over_is_one_alert() -> None:
    engine = Engine(PLAIN)
    for _ in range(3):
        engine.take([alert(0, START), alert(0, START)], START)
    (notice,) = engine.advance(START + second(5))
    assert len(notice.firing) == 1


def test_two_alerts_of_one_id_are_two_where_their_labels_differ() -> None:
    engine = Engine(PLAIN)
    engine.take([alert(0, START, alert_id="x"), alert(4, START, alert_id="x")], START)
    assert len(engine.advance(START + second(5))) == 2


def test_the_end_of_what_was_never_told_is_noted() -> None:
    engine = Engine(PLAIN)
    engine.take([alert(0, START, ends_at=START)], START)
    changes = engine.drain()
    assert [held.decision.reason for held in changes.held] == [NotifyReason.NEVER_NOTIFIED]
    assert changes.closed == (alert(0, START).alert_id,)
    assert engine.due() is None


def test_of_what_lapses_nobody_is_told_and_it_begins_anew_as_news() -> None:
    engine = Engine(PLAIN)
    engine.take([alert(0, START), alert(4, START)], START)
    told = {name for notice in engine.advance(START + second(5)) for name in _names(notice.firing)}
    assert told == {alert(0, START).fingerprint, alert(4, START).fingerprint}
    ends_at = START + second(20)
    engine.take([replace(alert(0, START, ends_at=ends_at), expired=True), alert(4, START, ends_at=ends_at)], ends_at)
    engine = Engine.restored(PLAIN, engine.snapshot(), ends_at)
    (notice,) = engine.advance(START + second(30))
    assert (_names(notice.resolved), notice.firing) == ({alert(4, START).fingerprint}, ())
    assert [held.decision.reason for held in engine.drain().held] == [NotifyReason.EXPIRED]
    assert engine.due() is None
    engine.take([alert(0, START + second(40), alert_id="again")], START + second(40))
    (notice,) = engine.advance(START + second(50))
    assert [each.alert_id for each in notice.new] == ["again"]


def test_an_end_in_the_past_is_over_and_a_start_in_the_future_fires() -> None:
    engine = Engine(PLAIN)
    engine.take([alert(0, START - LONG, ends_at=START - second(100))], START)
    engine.take([alert(1, START + LONG)], START)
    (notice,) = engine.advance(START + second(5))
    assert _names(notice.firing) == {alert(1, START).fingerprint}


def test_a_silence_that_ends_early_lets_go() -> None:
    player = Player(PLAIN)
    player.play([Step(0, "silence", 0, 40), Step(0, "fires", 0, 0)])
    player.until(START + second(6))
    assert not player.notices
    assert [held.decision.reason for held in player.held] == [NotifyReason.SILENCED]
    player.engine.end_silence("s")
    player.until(START + second(20))
    assert len(player.notices) == 1


def test_what_is_held_back_is_noted_once() -> None:
    player = Player(PLAIN)
    player.play([Step(0, "silence", 0, 40), Step(0, "fires", 0, 0)])
    player.until(START + second(39))
    assert len(player.held) == 1


def test_changed_words_are_silenced_by_a_pattern_that_fits_them_now() -> None:
    engine = Engine(PLAIN)
    player = Player(PLAIN)
    player.engine = engine
    engine.put_silence(_pattern("memory"))
    engine.take([alert(0, START, message="plenty")], START)
    assert why(engine, alert(0, START).fingerprint, START) == [("desk", None)]
    engine.take([alert(0, START, message="out of Memory")], START)
    assert why(engine, alert(0, START).fingerprint, START) == [("desk", NotifyReason.SILENCED)]


def _pattern(text: str):  # type: ignore[no-untyped-def]
    from o9.alerts.pipeline.stages import Silence

    return Silence("p", START, START + LONG, pattern=text)


def test_a_configuration_that_changes_keeps_the_groups_whose_routes_stay() -> None:
    player = Player(PLAIN)
    player.play([Step(0, "fires", 0, 0)])
    player.until(START + second(6))
    more = load("""
flapping: false
route:
  receiver: desk
  group_by: [title]
  group_wait: 5s
  group_interval: 10s
  repeat_interval: 35s
  routes: [{receiver: head, matchers: [title=B], group_wait: 1s}]
receivers: [{name: desk, channels: [log]}, {name: head, channels: [log]}]
""")
    engine = Engine.restored(more, player.engine.snapshot(), player.now)
    assert engine.advance(player.now + second(15)) == []
    engine.take([alert(4, player.now + second(15))], player.now + second(15))
    (notice,) = engine.advance(player.now + second(16))
    assert notice.receiver == "head"


def test_what_ends_by_its_time_before_anybody_was_told_is_done_with() -> None:
    engine = Engine(PLAIN)
    engine.take([alert(0, START), alert(1, START, ends_at=START + second(2))], START)
    engine.advance(START + second(5))
    changes = engine.drain()
    assert changes.closed == ("1-090030",)
    assert [held.decision.reason for held in changes.held] == [NotifyReason.NEVER_NOTIFIED]


def test_what_is_over_and_in_no_group_after_a_restart_is_done_with() -> None:
    over = alert(0, START, ends_at=START)  # while it was set aside, or in a group whose route is gone
    engine = Engine.restored(PLAIN, Snapshot((TrackedAlert(over, firing=False),), (), {}), START)
    assert engine.snapshot() == Snapshot((), (), {})
    assert engine.drain().closed == (over.alert_id,)


def test_a_receiver_that_is_new_in_the_configuration_is_told_of_what_fires() -> None:
    player = Player(PLAIN)
    player.play([Step(0, "fires", 0, 0)])
    player.until(START + second(6))
    other = load("route: {receiver: head}\nreceivers: [{name: head, channels: [console]}]")
    engine = Engine.restored(other, player.engine.snapshot(), player.now)
    (notice,) = engine.advance(player.now + second(30))
    assert notice.receiver == "head"


@pytest.mark.parametrize(
    "rule", ["{}", 'inhibit_rules: [{source_matchers: [a=~".*"], target_matchers: [a=~".*"], equal: [n]}]']
)
def test_ten_thousand_alerts_cost_no_search_among_each_other(rule: str) -> None:
    engine = Engine(load(rule))
    alerts = [
        Alert({"title": str(n % 10), "n": str(n), "a": "b"}, START, str(n), "", AlertLevel.ERROR, str(n % 10))
        for n in range(10_000)
    ]
    began = time.perf_counter()
    engine.take(alerts, START)
    notices = engine.advance(START + second(30))
    assert time.perf_counter() - began < 20.0  # half a second, usually; a search among all would take minutes
    assert sum(len(notice.firing) for notice in notices) == 10_000


def test_what_flapped_in_silence_and_is_over_is_told_to_nobody_when_the_silence_ends() -> None:
    player = Player(FULL)
    changes = [
        Step(pause, what, 0, 0) for pause, what in [(1, "fires"), (1, "resolved"), (1, "fires"), (1, "resolved")]
    ]
    player.play([Step(0, "silence", 0, 40), *changes])
    assert player.engine.snapshot().groups
    player.until(player.now + LONG)
    assert not player.notices
    assert not player.engine.snapshot().groups


def test_a_group_in_which_nothing_fires_any_more_is_stored_as_such_and_begins_anew_with_group_wait() -> None:
    player = Player(PLAIN)
    player.play([Step(0, "fires", 0, 0), Step(6, "silence", 0, 400)])
    player.until(START + second(16))  # it is held back and noted
    player.play([Step(0, "resolved", 0, 0)])
    player.until(START + second(26))
    assert [group["idle"] for _, group in player.stored.values()] == [True]
    assert player.stored == dict(player.engine.snapshot().groups)
    player.play([Step(0, "fires", 1, 0)])
    assert player.engine.due() == START + second(31)
    player.play([Step(0, "fires", 2, 0)])
    player.until(START + second(32))
    assert [(notice.at - START, len(notice.firing)) for notice in player.notices] == [(second(5), 1), (second(31), 1)]


def test_an_end_that_lies_before_the_beginning_is_counted_behind_it() -> None:
    player = Player(FULL)
    for _ in range(3):
        player.play([Step(1, "fires", 0, 0)])
        player.engine.take([alert(0, player.now, ends_at=START - LONG)], player.now)
        (kept,) = player.engine.snapshot().alerts
        assert kept.changes
        assert list(kept.changes) == sorted(kept.changes)
