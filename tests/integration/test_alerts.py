"""The alert system as its users have it: alone with a store, several of them on one, and inside an aggregator."""

from __future__ import annotations

import asyncio
import contextlib
import threading
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AsyncExitStack
from datetime import UTC, datetime, timedelta
from functools import partial
from pathlib import Path
from typing import Any

import pytest
from bad_server import bad_server
from quick_alerts import QUICK, alert, leader

from o9.alerts.pipeline.alert import RuleReason, ended_by_rule
from o9.alerts.service.system import AlertNotificationSystem
from o9.model.errors import (
    OptimizationAlertError,
    OptimizationConflictError,
    OptimizationError,
    OptimizationValidationError,
)
from o9.model.optimization import OptimizationAlert, utc_now
from o9.model.states import AlertLevel
from o9.store import queries

Wait = Callable[..., Awaitable[Any]]
START = datetime(2026, 1, 31, 9, 30, tzinfo=UTC)


def write(path: Path, text: str) -> None:
    path.write_text(text, encoding="utf-8")


@pytest.fixture
async def make(store_url: str, quick: Path) -> AsyncIterator[Callable[..., Awaitable[AlertNotificationSystem]]]:
    """Makes a system on the test's store; each opens it for itself, as another process would."""
    async with AsyncExitStack() as stack:

        async def made(channels: dict[str, Any] | None = None, *, start: bool = True) -> AlertNotificationSystem:
            system = AlertNotificationSystem(channels, storage_path=store_url)
            stack.push_async_callback(system.cleanup)
            await (system.start() if start else system.initialize())
            return system

        yield made


Make = Callable[..., Awaitable[AlertNotificationSystem]]


async def test_who_registered_is_told_of_what_begins_and_of_its_end(make: Make, async_wait_until: Wait) -> None:
    told: list[OptimizationAlert] = []
    events: list[tuple[str, Any]] = []

    async def webhook(each: OptimizationAlert) -> None:
        told.append(each)

    system = await make({"mine": told.append})
    await system.register_notification_channel("webhook", webhook)  # with await, and
    system.register_notification_channel("log", lambda each: None)  # without
    for event in system.events:
        system.register_callback(event, lambda about, event=event: events.append((event, about)))
    first = alert("a", metadata={"evidence": {"loss": 0.12}})
    assert await system.send_alert(first) == "a"
    await async_wait_until(lambda: len(told) == 2)
    assert told == [first, first]
    assert await system.resolve_alert("a", "ann")
    assert not await system.resolve_alert("a", "bob")
    await async_wait_until(lambda: len(told) == 4)
    assert [(each.alert_id, each.resolved) for each in told[2:]] == [("a", True)] * 2
    (kept,) = await system.get_alerts()
    assert kept.resolved
    assert kept.resolved_at is not None
    assert (kept.metadata, kept.timestamp, kept.level) == (first.metadata, first.timestamp, AlertLevel.WARNING)
    await async_wait_until(lambda: len([1 for event, _ in events if event == "notification"]) == 10)
    assert [about.alert_id for event, about in events if event in ("alert", "resolved")] == ["a", "a"]

    history = await system.get_notification_history()
    assert [entry["status"] for entry in history] == ["sent"] * 10
    everybody = ("mine", "webhook", "log", "console", "file")
    assert {(entry["channel"], entry["kind"]) for entry in history} == {
        (channel, kind) for channel in everybody for kind in ("firing", "resolved")
    }
    assert [try_["outcome"] for try_ in history[0]["tries"]] == ["sent"]
    assert len(await system.get_notification_history(limit=2)) == 2
    figures = await system.get_alert_statistics()
    assert (figures["received"], figures["resolved"], figures["firing"]) == ({"warning": 1}, {"warning": 1}, {})
    assert figures["sent"] == dict.fromkeys(everybody, 2)
    assert figures["possible_doubles"] == figures["failed"] == {}
    assert figures["leader"] is not None


async def test_log_console_and_file_are_told_by_default(
    make: Make,
    async_wait_until: Wait,
    capsys: pytest.CaptureFixture[str],
    caplog: pytest.LogCaptureFixture,
    tmp_path: Path,
    set_o9: Callable[..., None],
) -> None:
    set_o9(alerts_log=tmp_path / "told.log")
    system = await make()
    await system.send_alert(alert("a"))

    async def sent() -> dict[str, int]:
        counted: dict[str, int] = (await system.get_alert_statistics())["sent"]
        return counted

    async def all_three() -> bool:
        return await sent() == {"log": 1, "console": 1, "file": 1}

    await async_wait_until(all_three)
    assert "[WARNING] Drawdown: opt-1" in capsys.readouterr().err
    assert "[WARNING] Drawdown: opt-1" in (tmp_path / "told.log").read_text(encoding="utf-8")
    assert [record.levelname for record in caplog.records if record.name == "o9.alerts"] == ["WARNING"]


async def test_a_function_is_called_once_for_each_alert_of_a_group_and_once_for_its_end(
    make: Make, async_wait_until: Wait
) -> None:
    told: list[tuple[str, bool]] = []
    system = await make({"mine": lambda each: told.append((each.alert_id, each.resolved))})
    names = [f"a{n}" for n in range(5)]
    for n, name in enumerate(names, 1):
        await system.send_alert(alert(name, metadata={"labels": {"book": name}}))
        await async_wait_until(lambda n=n: len(told) >= n)
    await system.resolve_alert("a2")
    await async_wait_until(lambda: len(told) >= 6)
    for name in names:
        await system.resolve_alert(name)
    await async_wait_until(lambda: len(told) >= 10)
    assert [each for each in told if not each[1]] == [(name, False) for name in names]
    assert told[5] == ("a2", True)
    assert sorted(each for each in told if each[1]) == [(name, True) for name in names]


async def test_that_time_has_passed_mends_nothing_and_nobody_is_told_so(make: Make, async_wait_until: Wait) -> None:
    told: list[tuple[str, bool]] = []
    system = await make({"mine": lambda each: told.append((each.alert_id, each.resolved))})
    for name in ("lapses", "mended"):
        await system.send_alert(alert(name, title=name))
    await async_wait_until(lambda: len(told) == 2)
    await system.resolve_alert("lapses", ended_by_rule("failed", RuleReason.EXPIRED))
    await async_wait_until(partial(system.store.read, queries.suppressed))
    await system.resolve_alert("mended", ended_by_rule("failed", RuleReason.FIXED))

    await async_wait_until(lambda: ("mended", True) in told)
    assert told[2:] == [("mended", True)]
    history = await system.get_notification_history()
    suppressed = [(row["alert_id"], row["reason"]) for row in history if row["status"] == "suppressed"]
    assert suppressed == [("lapses", "expired")]


async def test_what_is_not_sent_again_ends_by_itself(make: Make, async_wait_until: Wait) -> None:
    ended: list[tuple[str, bool]] = []
    system = await make()
    system.register_callback("resolved", lambda about: ended.append((about.alert_id, about.resolved)))
    await system.send_alert(alert("a"), resolve_timeout=timedelta(milliseconds=300))
    await system.send_alert(alert("b", title="b", resolved=True))  # over when it is told
    await async_wait_until(lambda: sorted(ended) == [("a", True), ("b", True)])
    assert (await system.get_alert_statistics())["firing"] == {}


async def test_alerts_are_listed_newest_first(make: Make) -> None:
    system = await make(start=False)
    minute = timedelta(minutes=1)
    for number, level in enumerate(("info", "error", "info")):
        await system.send_alert(alert(f"a{number}", level=level, timestamp=START + number * minute))
    await system.send_alert(alert("b", optimization_id="", timestamp=START - minute))
    assert [each.alert_id for each in await system.get_alerts()] == ["a2", "a1", "a0", "b"]
    assert [each.alert_id for each in await system.get_alerts(level="info")] == ["a2", "a0"]
    assert [each.alert_id for each in await system.get_alerts("opt-1", AlertLevel.ERROR)] == ["a1"]
    assert [each.alert_id for each in await system.get_alerts("nobody")] == []
    page = await system.get_alerts(limit=2)
    assert [each.alert_id for each in await system.get_alerts(limit=2, before=page[-1])] == ["a0", "b"]
    for wrong, field in (({"level": "loud"}, "level"), ({"limit": 0}, "limit"), ({"limit": 1001}, "limit")):
        with pytest.raises(OptimizationValidationError, match=field):
            await system.get_alerts(**wrong)


async def test_one_id_is_one_alert(make: Make) -> None:
    system, other = await make(start=False), await make(start=False)
    first = alert("a")
    answers = await asyncio.gather(*[each.send_alert(first) for each in (system, system, other)])
    assert answers == ["a"] * 3
    assert (await system.get_alert_statistics())["received"] == {"warning": 1}
    together = [alert("a", message="another"), alert("b", title="b"), alert("c", metadata={"x": float("nan")})]
    wrong, good, bad = await asyncio.gather(*[system.send_alert(each) for each in together], return_exceptions=True)
    assert isinstance(wrong, OptimizationConflictError)
    assert str(wrong).startswith("alert_id: 'a' was sent before with another message")
    assert good == "b"
    assert isinstance(bad, OptimizationValidationError)
    assert str(bad).startswith("metadata.x: nan")
    assert [each.message for each in await system.get_alerts() if each.alert_id == "a"] == ["it fell"]
    together[1:1] = [alert("d", title="d"), first]
    wrong, new, again, known, bad = await system.send_alerts(together)
    assert [type(each) for each in (wrong, bad)] == [OptimizationConflictError, OptimizationValidationError]
    assert (new, again, known) == ("d", "a", "b")
    assert await system.send_alerts([]) == []


async def test_rules_drop_and_the_history_says_so(make: Make, async_wait_until: Wait) -> None:
    told: list[str] = []
    system = await make({"mine": lambda each: told.append(each.title)})

    async def no_drill(each: OptimizationAlert) -> Any:
        return each.title != "drill" and None  # False for one, no opinion of the others

    def raises(each: OptimizationAlert) -> None:
        raise RuntimeError("a rule that is wrong")

    await system.register_alert_rule(no_drill)
    system.register_alert_rule(raises)
    assert await system.send_alert(alert("a", title="drill")) is None
    assert await system.send_alert(alert("b", title="fire")) == "b"
    await async_wait_until(lambda: told == ["fire"])
    assert [each.alert_id for each in await system.get_alerts()] == ["b"]
    (dropped,) = [each for each in await system.get_notification_history() if each["status"] == "suppressed"]
    assert (dropped["alert_id"], dropped["reason"]) == ("a", "dropped_by_rule")
    assert dropped["by"].endswith("no_drill")
    assert (await system.get_alert_statistics())["suppressed"] == {"dropped_by_rule": 1}


async def test_what_a_rule_sends_goes_out_without_waiting_for_that_rule(make: Make, async_wait_until: Wait) -> None:
    told: list[str] = []
    system = await make({"mine": lambda each: told.append(each.title)})

    async def sends(each: OptimizationAlert) -> bool:
        await system.send_alert(alert("of the rule", title="of the rule"))
        return False

    await system.register_alert_rule(sends)
    assert await asyncio.wait_for(system.send_alert(alert("a", title="a")), 5.0) is None
    await async_wait_until(lambda: told == ["of the rule"])


async def test_suppressed_is_not_told_until_it_is_lifted(make: Make, async_wait_until: Wait) -> None:
    told: list[str] = []
    system = await make({"mine": lambda each: told.append(each.alert_id)})
    by_title = await system.suppress_alert("draw*", timedelta(hours=1), author="ann", comment="maintenance")
    await system.suppress_alert("opt-7", 3600)
    await system.silence_alerts('level="info"', 3600.0)
    for number, fields in enumerate(({}, {"title": "x", "optimization_id": "opt-7"}, {"title": "y", "level": "info"})):
        await system.send_alert(alert(f"a{number}", **fields))
    await system.send_alert(alert("b", title="another"))
    await async_wait_until(lambda: told == ["b"])

    async def held() -> bool:
        entries = [each for each in await system.get_notification_history() if each["status"] == "suppressed"]
        return sorted((each["alert_id"], each["reason"]) for each in entries) == [
            (f"a{number}", "silenced") for number in range(3)
        ]

    await async_wait_until(held)
    assert [silence["comment"] for silence in await system.get_silences()].count("maintenance") == 1
    assert await system.end_silence(by_title)
    assert not await system.end_silence(by_title)
    await async_wait_until(lambda: told == ["b", "a0"])
    for pattern, duration, field in (("", 60, "matchers"), ("x", -1, "duration"), ("x", "soon", "duration")):
        with pytest.raises(OptimizationValidationError, match=field):
            await system.suppress_alert(pattern, duration)  # type: ignore[arg-type]


WRONG: tuple[Any, ...] = (
    5, -1, float("nan"), float("inf"), 10**400, "x" * 100_000, "\ud800", "a\0b", b"x", True, [], object(),
    timedelta.max, timedelta(0), datetime.min, datetime.max,
)  # fmt: skip
ASKED: dict[str, Callable[[AlertNotificationSystem, Any], Any]] = {
    "send_alert.alert": lambda system, wrong: system.send_alert(wrong),
    "send_alert.resolve_timeout": lambda system, wrong: system.send_alert(alert("b"), resolve_timeout=wrong),
    "send_alerts.resolve_timeout": lambda system, wrong: system.send_alerts([alert("b")], resolve_timeout=wrong),
    "get_alerts.optimization_id": lambda system, wrong: system.get_alerts(wrong),
    "get_alerts.level": lambda system, wrong: system.get_alerts(level=wrong),
    "get_alerts.limit": lambda system, wrong: system.get_alerts(limit=wrong),
    "resolve_alert.alert_id": lambda system, wrong: system.resolve_alert(wrong),
    "resolve_alert.by": lambda system, wrong: system.resolve_alert("a", wrong),
    "acknowledge_alert.alert_id": lambda system, wrong: system.acknowledge_alert(wrong),
    "acknowledge_alert.by": lambda system, wrong: system.acknowledge_alert("a", wrong),
    "suppress_alert.pattern": lambda system, wrong: system.suppress_alert(wrong, 60),
    "suppress_alert.duration": lambda system, wrong: system.suppress_alert("x", wrong),
    "silence_alerts.matchers": lambda system, wrong: system.silence_alerts(wrong, 60),
    "silence_alerts.duration": lambda system, wrong: system.silence_alerts("a=b", wrong),
    "silence_alerts.author": lambda system, wrong: system.silence_alerts("a=b", 60, author=wrong),
    "silence_alerts.comment": lambda system, wrong: system.silence_alerts("a=b", 60, comment=wrong),
    "end_silence.silence_id": lambda system, wrong: system.end_silence(wrong),
    "end_silence.by": lambda system, wrong: system.end_silence("s", wrong),
    "get_notification_history.limit": lambda system, wrong: system.get_notification_history(wrong),
    "register_alert_rule.rule": lambda system, wrong: system.register_alert_rule(wrong),
    "register_notification_channel.channels": lambda system, wrong: system.register_notification_channel(wrong, print),
    "register_notification_channel.channels.x": lambda system, wrong: system.register_notification_channel("x", wrong),
    "register_callback.event": lambda system, wrong: system.register_callback(wrong, print),
    "register_callback.callback": lambda system, wrong: system.register_callback("alert", wrong),
}
FINE: dict[str, Any] = {  # what is no mistake, beside ids that nobody has
    "get_alerts.limit": 5,
    "suppress_alert.duration": 5, "silence_alerts.duration": 5, "send_alert.resolve_timeout": 5,
    "send_alerts.resolve_timeout": 5, "get_notification_history.limit": 5,
}  # fmt: skip


async def outcome(ask: Callable[..., Any], system: AlertNotificationSystem, wrong: Any) -> str:
    """`fine`, the field that is refused, or what else O9 said."""
    try:
        answer = ask(system, wrong)
        if isinstance(answer, Awaitable):
            await answer
    except OptimizationValidationError as error:
        return error.field
    except OptimizationError as error:
        return str(error)
    return "fine"


@pytest.mark.parametrize("database", ["store_url", "postgres_url"])
async def test_what_is_wrong_is_refused_by_its_argument_and_raises_nothing_else(
    database: str, request: pytest.FixtureRequest
) -> None:
    system = AlertNotificationSystem(storage_path=request.getfixturevalue(database))
    await system.initialize()
    await system.send_alert(alert("a"))
    words = ("by", "author", "comment", "optimization_id", "pattern")
    for name, ask in ASKED.items():
        field = name.partition(".")[2]
        for wrong in WRONG:
            if isinstance(wrong, str) and field in words:
                continue  # of words anything is kept, or looked for, that can be
            nobody = f"there is no {'silence' if 'silence' in name else 'alert'} "
            expected = "fine" if wrong == FINE.get(name, "-") else field
            refused = await outcome(ask, system, wrong)
            assert refused == expected or (isinstance(wrong, str) and refused.startswith(nobody)), (name, wrong)
    await system.cleanup()


async def test_what_is_resolved_is_over_and_not_to_come(make: Make) -> None:
    system, now = await make(start=False), utc_now()
    for wrong in ({"resolved_at": datetime(9999, 1, 1, tzinfo=UTC)}, {"timestamp": now + timedelta(hours=1)}):
        with pytest.raises(OptimizationValidationError, match=r"resolved_at: .* is in the future"):
            await system.send_alert(alert("a", resolved=True, **wrong))
    with pytest.raises(OptimizationValidationError, match="resolved: expected true or false, got "):
        await system.send_alert(alert("a", resolved="no"))
    # A clock that is ahead by a little says the same as one that is right.
    assert await system.send_alert(alert("b", title="b")) == "b"
    ahead = alert("b", title="b", resolved=True, resolved_at=now + timedelta(minutes=4))
    assert await system.send_alert(ahead) == "b"
    (kept,) = await system.get_alerts()
    assert kept.resolved
    assert (await system.get_alert_statistics())["firing"] == {}


@pytest.mark.parametrize("database", ["store_url", "postgres_url"])
async def test_the_same_id_at_another_time_is_the_same_alert_that_goes_on(
    database: str, request: pytest.FixtureRequest
) -> None:
    system, minute = AlertNotificationSystem(storage_path=request.getfixturevalue(database)), timedelta(minutes=1)
    await system.initialize()
    first = alert("a", timestamp=START)

    def episode() -> tuple[Any, ...]:
        (found,) = system.store.read(queries.open_episodes)
        return found.alert_id, found.starts_at[11:16], found.last_notified_at[11:16], found.notifications

    await system.send_alert(first)
    for at, expected in (
        (START, ("a", "09:30", "09:30", 1)),
        (START + 5 * minute, ("a", "09:30", "09:35", 2)),
        (START - 5 * minute, ("a", "09:25", "09:35", 3)),
        (START, ("a", "09:25", "09:35", 3)),
    ):
        assert await system.send_alert(alert("a", timestamp=at)) == "a"
        assert episode() == expected
    assert [each.timestamp for each in await system.get_alerts()] == [START]
    # With other words it is refused, whenever it is said to be of; under another id these are its newest words.
    for field, value in (("message", "it fell further"), ("title", "x"), ("level", "error"), ("metadata", {"x": 1})):
        with pytest.raises(OptimizationConflictError, match=f"another {field}"):
            await system.send_alert(alert("a", timestamp=START + 9 * minute, **{field: value}))
    assert episode() == ("a", "09:25", "09:35", 3)
    assert await system.send_alert(alert("a2", timestamp=START + 9 * minute, message="it fell further")) == "a"
    assert episode() == ("a", "09:25", "09:39", 4)
    assert system.store.read(queries.open_episodes)[0].message == "it fell further"
    await system.resolve_alert("a")
    with pytest.raises(OptimizationConflictError, match="'a' was resolved at "):
        await system.send_alert(alert("a"))
    await system.cleanup()


async def test_what_was_told_before_anybody_started_is_told_then(make: Make, async_wait_until: Wait) -> None:
    source = await make(start=False)
    await source.send_alert(alert("a"))
    await source.cleanup()
    told: list[str] = []
    system = await make({"mine": lambda each: told.append(each.alert_id)})
    await async_wait_until(lambda: told == ["a"])
    await system.stop()
    await system.send_alert(alert("b", title="meanwhile"))
    await system.start()
    await async_wait_until(lambda: told == ["a", "b"])


@pytest.mark.parametrize("start", [True, False])
async def test_what_is_being_told_when_it_is_closed_is_recorded(make: Make, start: bool) -> None:
    system = await make(start=start)
    telling = [asyncio.create_task(system.send_alert(alert(f"a{n}", title=f"t{n}"))) for n in range(20)]
    await asyncio.sleep(0)
    await system.cleanup()
    assert await asyncio.gather(*telling) == [f"a{n}" for n in range(20)]


async def test_channels_and_callbacks_that_hang_do_not_hold_up_a_stop(
    make: Make, async_wait_until: Wait, caplog: pytest.LogCaptureFixture
) -> None:
    released, begun = threading.Event(), set[str]()

    async def stubborn() -> None:
        while not released.is_set():
            with contextlib.suppress(asyncio.CancelledError):
                await asyncio.sleep(0.05)

    async def coroutine(_: OptimizationAlert) -> None:
        begun.add("coroutine")
        await stubborn()

    class Own:
        name = "own"

        async def send(self, message: Any, notice: Any) -> Any:
            begun.add("own")
            await stubborn()

    def function(_: OptimizationAlert) -> None:
        begun.add("function")
        released.wait(60.0)

    with bad_server() as server:
        server.answers = ["hang"]
        channels = {"url": f"json://{server.url}/", "function": function, "coroutine": coroutine, "own": Own()}
        system = await make(channels)
        system.register_callback("alert", lambda _: asyncio.sleep(60.0))
        await system.send_alert(alert("a"))
        await async_wait_until(lambda: begun == {"function", "coroutine", "own"} and server.heard)
        began = asyncio.get_running_loop().time()
        await system.cleanup()
        assert asyncio.get_running_loop().time() - began < 6.5
    assert "1 channels could not be stopped" in caplog.text
    assert "cancelled a callback that still ran 2 s after the stop" in caplog.text
    # Nothing is lost: the next one sends it again, and says that it may be a double.
    told: list[str] = []
    again = await make({name: lambda _, name=name: told.append(name) for name in channels})
    await async_wait_until(lambda: sorted(told) == sorted(channels))
    assert (await again.get_alert_statistics())["possible_doubles"] == dict.fromkeys(channels, 1)
    released.set()


async def test_one_node_leads_and_the_next_takes_over(make: Make, async_wait_until: Wait) -> None:
    told: list[tuple[str, str]] = []

    async def node(name: str) -> AlertNotificationSystem:
        return await make({"mine": lambda each: told.append((name, each.alert_id))})

    one = await node("one")
    await async_wait_until(lambda: leader(one))
    first = await leader(one)
    two = await node("two")
    await two.send_alert(alert("a"))
    await async_wait_until(lambda: [alert_id for _, alert_id in told] == ["a"])
    assert await leader(two) == first
    # In good order: at once.
    await one.stop()
    await async_wait_until(lambda: leader(two), 20)
    second = await leader(two)
    assert second != first
    # Dead: within its lease.
    await one.start()
    await kill(two)
    began = asyncio.get_running_loop().time()
    await one.send_alert(alert("b", title="b"))
    await async_wait_until(lambda: told[1:] == [("one", "b")], 10.0)
    assert asyncio.get_running_loop().time() - began < 4.0
    assert len(told) == 2


async def kill(system: AlertNotificationSystem) -> None:
    """As its process would die: nothing is given back."""
    running, system._running = system._running, None
    assert running is not None
    for task in running._tasks:
        task.cancel()
    await asyncio.wait(running._tasks)
    if running._tick is not None:
        await asyncio.wait({running._tick})


async def test_a_channel_that_only_one_node_has_is_that_node_s(make: Make, async_wait_until: Wait) -> None:
    leads = await make()
    await async_wait_until(lambda: leader(leads))
    told: list[str] = []
    other = await make({"mine": lambda each: told.append(each.alert_id)})
    await other.send_alert(alert("a"))
    await async_wait_until(lambda: told == ["a"])
    await other.stop()
    await leads.send_alert(alert("b", title="b"))

    async def by_the_built_in_ones() -> bool:
        history = await leads.get_notification_history()
        told = sorted(entry["channel"] for entry in history if entry["firing"] == ["b"])
        return told == ["console", "file", "log"]

    await async_wait_until(by_the_built_in_ones)


async def test_the_file_is_taken_when_it_changes_and_refused_when_it_is_wrong(
    make: Make, quick: Path, async_wait_until: Wait, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("o9.alerts.service.system.MISSING_SECONDS", 3600.0)
    told: list[str] = []
    system = await make({"mine": lambda each: told.append(each.alert_id), "desk": lambda each: told.append("desk")})
    write(quick, "route:\n  receiver: nobody\n")
    await async_wait_until(lambda: "line 2" in caplog.text)
    assert caplog.text.count("the previous configuration stays in force") == 1
    await system.send_alert(alert("a"))
    await async_wait_until(lambda: sorted(told) == ["a", "desk"])
    write(quick, QUICK + "receivers: [{name: default, channels: [desk, nowhere]}]\n")
    await async_wait_until(lambda: "nowhere" in system.configuration.receivers["default"].channels)
    await system.send_alert(alert("b", title="b"))
    await async_wait_until(lambda: sorted(told) == ["a", "desk", "desk"])
    assert "which no node has" not in caplog.text, "not at once: a program registers its own after the start"
    monkeypatch.setattr("o9.alerts.service.system.MISSING_SECONDS", 1.0)
    system.register_notification_channel("other", lambda each: None)  # looks again
    await async_wait_until(lambda: "'default' names the channel 'nowhere', which no node has" in caplog.text)
    # It waits for whoever has it.
    late = await make({"nowhere": lambda each: told.append("late")})
    await async_wait_until(lambda: "late" in told)
    await late.stop()


async def test_a_faulty_file_is_an_error_in_the_beginning(store_url: str, tmp_path: Path) -> None:
    path = tmp_path / "alerts.yaml"
    path.write_text("route:\n  receiver: nobody\n", encoding="utf-8")
    system = AlertNotificationSystem(storage_path=store_url, alerts_file=str(path))
    with pytest.raises(OptimizationAlertError, match=r"alerts\.yaml, line 2: route\.receiver"):
        await system.start()
    with pytest.raises(OptimizationError, match="not open"):
        await system.send_alert(alert("a"))


async def test_a_storm_is_a_handful_of_messages(make: Make, async_wait_until: Wait, quick: Path) -> None:
    write(quick, QUICK.replace("0s", "1s").replace("100ms", "2s"))
    told: list[str] = []

    class Counts:
        name = "mine"

        async def send(self, message: Any, notice: Any) -> Any:
            from o9.alerts.channels.outcome import Sent

            told.append(message.title)
            return Sent()

    system = await make({"mine": Counts()})
    alerts = [alert(f"a{n}", title=f"t{n % 10}", optimization_id=f"opt-{n // 10}") for n in range(5_000)]
    for begin in range(0, 5_000, 500):
        assert None not in await asyncio.gather(*map(system.send_alert, alerts[begin : begin + 500]))

    async def all_told() -> bool:
        history = await system.get_notification_history(limit=1000)
        last: dict[str, int] = {}
        for entry in history:
            if entry["channel"] == "mine" and entry["status"] == "sent":
                last.setdefault(entry["group_key"], entry["firing_count"])
        return sum(last.values()) == 5_000

    await async_wait_until(all_told, 60.0)
    assert 10 <= len(told) <= 100  # the more, the longer the storm took
    assert (await system.get_alert_statistics())["firing"] == {"warning": 5_000}
