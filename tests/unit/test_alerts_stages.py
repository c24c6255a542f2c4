"""Each stage alone: a function of what it is about, the time and what is known, that answers with a named reason."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from o9.alerts.pipeline.alert import Alert, NotifyReason, RuleReason, ended_by_rule, is_expired
from o9.alerts.pipeline.matchers import parse
from o9.alerts.pipeline.routing import Route, group_key, routes_of
from o9.alerts.pipeline.stages import (
    GOES_ON,
    Damping,
    GroupContext,
    Inhibitions,
    InhibitRule,
    Silence,
    StageDecision,
    by_intervals,
    changes_of,
    is_flapping,
    recent_changes,
    suppressed,
    validated_silence,
    worth_notifying,
)
from o9.alerts.pipeline.time_intervals import TimeInterval
from o9.model.errors import OptimizationValidationError
from o9.model.states import AlertLevel

NOW = datetime(2026, 1, 5, 12, tzinfo=UTC)
HOUR = timedelta(hours=1)


def seconds(number: float) -> timedelta:
    return timedelta(seconds=number)


def alert(ends_at: datetime | None = None, **labels: str) -> Alert:
    return Alert(
        labels=labels,
        starts_at=NOW - HOUR,
        alert_id="",
        optimization_id=labels.get("optimization", ""),
        level=AlertLevel.WARNING,
        title=labels.get("title", ""),
        message=labels.get("message", ""),
        ends_at=ends_at,
    )


def facts(
    of: Alert,
    *,
    rules: Sequence[InhibitRule] = (),
    sources: Sequence[Alert] = (),
    silences: Sequence[Silence] = (),
    interval: StageDecision = GOES_ON,
    changes: Sequence[datetime] = (),
) -> GroupContext:
    inhibitions = Inhibitions(rules)
    for source in (*sources, of):
        inhibitions.update(source, firing=True)
    return GroupContext(
        inhibitions,
        silences,
        interval,
        {of.fingerprint: changes},
        Damping(changes=3, within=HOUR, quiet=HOUR),
    )


RULE = InhibitRule(parse("level=critical"), parse("level=~warning|critical"), ("book",))
CRITICAL = alert(title="Away", level="critical", book="a")


@pytest.mark.parametrize(
    ("target", "sources", "by"),
    [
        (alert(level="warning", book="a"), [CRITICAL], "Away"),
        (alert(level="warning", book="b"), [CRITICAL], ""),
        (alert(level="warning"), [CRITICAL], ""),
        (alert(level="warning"), [alert(title="Away", level="critical")], "Away"),
        (alert(level="info", book="a"), [CRITICAL], ""),
        (alert(level="warning", book="a"), [replace(CRITICAL, ends_at=NOW)], ""),
        (alert(level="warning", book="a"), [replace(CRITICAL, ends_at=NOW + seconds(1))], "Away"),
        (CRITICAL, [alert(title="Other", level="critical", book="a")], ""),
        (CRITICAL, [], ""),
    ],
)
def test_inhibited(target: Alert, sources: list[Alert], by: str) -> None:
    decision = suppressed(target, NOW, facts(target, rules=[RULE], sources=sources))
    assert decision == (StageDecision(NotifyReason.INHIBITED, by) if by else GOES_ON)


def test_of_two_rules_either_inhibits() -> None:
    target = alert(level="info", book="a")
    rules = [InhibitRule(parse("x=y"), parse("level=info")), InhibitRule(parse("level=critical"), parse("level=info"))]
    assert suppressed(target, NOW, facts(target, rules=rules, sources=[CRITICAL])).reason is NotifyReason.INHIBITED


def silence(start: float = -60, end: float = 60, **fields: Any) -> Silence:
    return Silence("s1", NOW + seconds(start), NOW + seconds(end), **fields)


@pytest.mark.parametrize(
    ("made", "silent"),
    [
        (silence(matchers=parse("book=a")), True),
        (silence(matchers=parse("book=b")), False),
        (silence(matchers=parse("book=a,title=Other")), False),
        (silence(0, 60, matchers=parse("book=a")), True),
        (silence(1, 60, matchers=parse("book=a")), False),
        (silence(-60, 0, matchers=parse("book=a")), False),
        (silence(pattern="MEMORY"), True),
        (silence(pattern="12 %"), True),
        (silence(pattern="opt-1"), True),
        (silence(pattern="opt"), False),
        (silence(pattern="opt-*"), True),
        (silence(pattern="OPT-*"), False),
        (silence(pattern="memory*"), False),
        (silence(pattern="low memory*"), True),
        (silence(pattern="*memory*"), True),
        (silence(pattern="Low memory on node ?"), True),
        (silence(pattern="Low memory on node ??"), False),
        (silence(pattern="*"), True),
        (silence(pattern="(.*"), False),
    ],
)
def test_silenced(made: Silence, silent: bool) -> None:
    target = alert(book="a", title="Low memory on node 7", optimization="opt-1", message="only 12 % left")
    decision = suppressed(target, NOW, facts(target, silences=[made]))
    assert decision == (StageDecision(NotifyReason.SILENCED, "s1") if silent else GOES_ON)


@pytest.mark.parametrize(
    ("made", "field"),
    [
        (silence(), "matchers"),
        (silence(pattern="  "), "matchers"),
        (silence(pattern="x", matchers=parse("a=b")), "pattern"),
        (silence(matchers=parse('a!=b,c=~".*"')), "matchers"),
        (silence(pattern="x" * 1001), "pattern"),
        (silence(pattern="x", comment="x" * 10_001), "comment"),
        (silence(5, 5, pattern="x"), "ends_at"),
        (silence(-60, -1, pattern="x"), "ends_at"),
        (silence(-60, 0, pattern="x"), "ends_at"),
        (silence(0, 86_400 * 4000, pattern="x"), "ends_at"),
    ],
)
def test_a_silence_that_mutes_nothing_everything_or_never_is_refused(made: Silence, field: str) -> None:
    with pytest.raises(OptimizationValidationError) as refused:
        validated_silence(made, NOW)
    assert refused.value.field == field


def test_a_silence_in_the_future_is_one() -> None:
    made = silence(3600, 7200, pattern="x")
    assert validated_silence(made, NOW) is made


MORNING = {
    name: (TimeInterval.model_validate({"times": [{"start_time": start, "end_time": end}]}),)
    for name, start, end in (("morning", "00:00", "12:00"), ("noon", "12:00", "13:00"))
}


@pytest.mark.parametrize(
    ("route", "reason", "by"),
    [
        (Route("r"), NotifyReason.GOES_ON, ""),
        (Route("r", mute_time_intervals=("morning",)), NotifyReason.GOES_ON, ""),
        (Route("r", mute_time_intervals=("morning", "noon")), NotifyReason.MUTED, "noon"),
        (Route("r", active_time_intervals=("morning",)), NotifyReason.NOT_ACTIVE, "morning"),
        (Route("r", active_time_intervals=("morning", "noon")), NotifyReason.GOES_ON, ""),
        (Route("r", active_time_intervals=("noon",), mute_time_intervals=("noon",)), NotifyReason.MUTED, "noon"),
    ],
)
def test_muted(route: Route, reason: NotifyReason, by: str) -> None:
    decision = by_intervals(route, NOW, MORNING)
    assert (decision.reason, decision.by) == (reason, by)
    target = alert(a="b")
    assert suppressed(target, NOW, facts(target, interval=decision)) is decision


@pytest.mark.parametrize(
    ("changes", "by"),
    [
        ([], ""),
        ([-20, -10], ""),
        ([-30, -20, -10], "3 changes in 20 s"),
        ([-40, -30, -20, -10], "4 changes in 30 s"),
        ([-3620, -20, -10], ""),
        ([-3605, -20, -10], "3 changes in 59 min 55 s"),
        ([-3610, -20, -10], "3 changes in 1 h"),
        ([-3700, -3650, -3599], "3 changes in 1 min 41 s"),
        ([-3700, -3650, -3600], ""),
    ],
)
def test_damped(changes: list[float], by: str) -> None:
    target = alert(a="b")
    moments = [NOW + seconds(change) for change in changes]
    decision = suppressed(target, NOW, facts(target, changes=moments))
    assert decision == (StageDecision(NotifyReason.FLAPPING, by) if by else GOES_ON)


def test_the_first_reason_that_holds_back_is_given() -> None:
    target = alert(level="warning", book="a")
    given: dict[str, Any] = {
        "rules": [RULE], "sources": [CRITICAL], "silences": [silence(matchers=parse("book=a"))],
        "interval": StageDecision(NotifyReason.MUTED), "changes": [NOW] * 3,
    }  # fmt: skip
    reasons = []
    for without in ("rules", "silences", "interval", "changes"):
        reasons.append(suppressed(target, NOW, facts(target, **given)).reason)
        del given[without]
    assert reasons == [NotifyReason.INHIBITED, NotifyReason.SILENCED, NotifyReason.MUTED, NotifyReason.FLAPPING]


@given(st.lists(st.integers(0, 5000)), st.integers(0, 9000))
def test_what_is_kept_of_changes_decides_as_all_of_them_do(changes: list[int], later: int) -> None:
    damping = Damping(changes=4, within=seconds(600), quiet=seconds(300))
    moments = [NOW + seconds(change) for change in sorted(changes)]
    now = (moments[-1] if moments else NOW) + seconds(later)
    assert is_flapping(recent_changes(moments, now, damping), now, damping) == is_flapping(moments, now, damping)


def test_when_an_alert_changed_is_read_from_its_episodes() -> None:
    def episode(start: float, end: float | None) -> Alert:
        return replace(
            alert(a="b"), starts_at=NOW + seconds(start), ends_at=None if end is None else NOW + seconds(end)
        )

    found = changes_of([episode(-20, None), episode(-60, -50), episode(-40, -30)], NOW)
    assert [(moment - NOW).total_seconds() for moment in found] == [-50, -40, -30, -20]
    assert changes_of([episode(-20, None)], NOW) == ()
    assert changes_of([episode(-20, 5)], NOW) == ()


A, B = alert(name="a"), alert(name="b")


@pytest.mark.parametrize(
    ("firing", "over", "told", "at", "expected"),
    [
        ([A], [], [], None, NotifyReason.FIRST),
        ([A, B], [], [A], -5, NotifyReason.NEW_ALERTS),
        ([B], [A], [A], -5, NotifyReason.NEW_ALERTS),
        ([A], [B], [A, B], -5, NotifyReason.SOME_RESOLVED),
        ([], [A], [A], -5, NotifyReason.ALL_RESOLVED),
        ([A], [], [A, B], -5, NotifyReason.NOTHING_NEW),
        ([A], [], [A], -99, NotifyReason.NOTHING_NEW),
        ([A], [], [A], -100, NotifyReason.REPEATED),
        ([], [], [A], -100, NotifyReason.NOTHING_NEW),
        ([], [], [], None, NotifyReason.NOTHING_NEW),
    ],
)
def test_worth_telling(
    firing: list[Alert], over: list[Alert], told: list[Alert], at: float | None, expected: NotifyReason
) -> None:
    decision = worth_notifying(
        firing, over, NOW, reported={each.fingerprint for each in told}, at=None if at is None else NOW + seconds(at),
        repeat_interval=seconds(100), send_resolved=True, acknowledged=False,
    )  # fmt: skip
    assert decision.reason is expected


def test_who_wants_no_resolved_messages_is_still_told_again_and_who_acknowledged_is_not() -> None:
    def decided(firing: list[Alert], over: list[Alert], *, acknowledged: bool = False) -> StageDecision:
        return worth_notifying(
            firing, over, NOW, reported={A.fingerprint}, at=NOW - HOUR, repeat_interval=HOUR, send_resolved=False,
            acknowledged=acknowledged,
        )  # fmt: skip

    assert decided([], [A]).reason is NotifyReason.NOTHING_NEW
    assert decided([A], [B]) == StageDecision(NotifyReason.REPEATED, "1 h")
    assert decided([A], [B], acknowledged=True).reason is NotifyReason.ACKNOWLEDGED
    assert decided([A, B], [], acknowledged=True).reason is NotifyReason.NEW_ALERTS


def test_routes() -> None:
    leaf = Route("leaf", matchers=parse("level=critical"))
    middle = Route("middle", matchers=parse("book=a"), routes=(leaf,))
    first = Route("first", matchers=parse('title=~".+"'), continues=True)
    never = Route("never", matchers=parse("book=a"))
    root = Route("root", routes=(first, middle, never))

    def found(**labels: str) -> list[str]:
        return [route.receiver for route in routes_of(root, labels)]

    assert found(x="y") == ["root"]
    assert found(title="t") == ["first"]
    assert found(title="t", book="a") == ["first", "middle"]
    assert found(book="a", level="critical") == ["leaf"]


def test_a_group_is_named_by_its_route_receiver_and_labels() -> None:
    keys = {
        group_key(Route("r"), ()),
        group_key(Route("s"), ()),
        group_key(Route("r", key="x"), ()),
        group_key(Route("r"), (("a", "b"),)),
        group_key(Route("r"), (("a", ""), ("b", ""))),
        group_key(Route("r"), (("a", "\xffb"),)),
    }
    assert len(keys) == 6
    by_all = Route("r", group_by=None)
    assert by_all.grouping({"b": "2", "a": "1"}) == (("a", "1"), ("b", "2"))
    assert Route("r", group_by=("a", "c")).grouping({"b": "2", "a": "1"}) == (("a", "1"),)


# Reasons are codes


def test_a_reason_is_read_by_its_code() -> None:
    assert {NotifyReason(each.value) for each in NotifyReason} == set(NotifyReason)
    with pytest.raises(ValueError, match="no such"):
        NotifyReason("no such")


@pytest.mark.parametrize(
    ("resolved_by", "expired"),
    [
        (None, False), ("", False), ("ann", False), ("o9:end_reached", False),
        (ended_by_rule("failed", RuleReason.EXPIRED), True), (ended_by_rule("failed", RuleReason.CLEAR), False),
    ],
)  # fmt: skip
def test_what_ended_only_because_time_passed_is_told_apart(resolved_by: str | None, expired: bool) -> None:
    assert is_expired(resolved_by) is expired
