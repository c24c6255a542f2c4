"""What was decided arrives, in order, whatever the other side does; and the log tells each try."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import AsyncIterator, Callable, Iterator, Sequence
from contextlib import AsyncExitStack
from datetime import datetime, timedelta
from typing import Any

import pytest
from bad_server import bad_server
from contract_alerts import new_alert
from contract_outbox import decided, notice
from sqlalchemy import Connection

from o9.alerts.channels.outcome import Failed, Sent
from o9.alerts.channels.registry import FunctionChannel, channel_of
from o9.alerts.config.schema import Configuration, load
from o9.alerts.messages.render import Form, Message
from o9.alerts.pipeline.alert import Notice
from o9.alerts.service.delivery import Delivery
from o9.alerts.service.repository import MAY_BE_DOUBLE, notice_in
from o9.model.errors import StoreUnavailableError
from o9.model.loops import Backoff
from o9.store import queries
from o9.store.alerts.episodes import RaiseAlerts
from o9.store.alerts.outbox import CommitDecisions, EndTry
from o9.store.alerts.queries import Episode
from o9.store.queue.leader_election import AcquireLeadership
from o9.store.store import Store


class Scripted:
    """A channel that answers as it is told, and keeps what it was sent."""

    def __init__(self, *answers: Sent | Failed | Exception) -> None:
        self.name = "log"
        self.answers = list(answers)
        self.sent: list[tuple[str, int, str]] = []

    async def send(self, message: Message, notice: Notice) -> Sent | Failed:
        await asyncio.sleep(0)
        answer = self.answers.pop(0) if self.answers else Sent()
        if isinstance(answer, Exception):
            raise answer
        if isinstance(answer, Sent):
            self.sent.append((notice.group_key, notice.number, notice.reason))
        return answer


@pytest.fixture
def store(store_url: str, monkeypatch: pytest.MonkeyPatch) -> Iterator[Store]:
    monkeypatch.setattr("o9.alerts.service.delivery.FIRST_PAUSE", timedelta(milliseconds=20))
    with Store(store_url) as opened:
        opened.write(RaiseAlerts([new_alert("a", title="慢"), new_alert("b", title="gone")]))
        yield opened


@pytest.fixture
async def deliver(store: Store) -> AsyncIterator[Callable[..., Delivery]]:
    async with AsyncExitStack() as stack:

        def make(channels: dict[str, Any], node: str = "one", lease: float = 600.0, **more: Any) -> Delivery:
            delivery = Delivery(store, node, lease, more.get("tried"))
            delivery.use(channels, (), more.get("configuration", Configuration()))
            stack.push_async_callback(delivery.stop)
            return delivery

        yield make


async def until_sent(delivery: Delivery, store: Store, seconds: float = 20.0) -> None:
    async with asyncio.timeout(seconds):
        while any(row["status"] == "pending" for row in store.read(queries.notifications)):
            await delivery.send_due()
            await asyncio.sleep(0.01)


def tries_of(store: Store) -> dict[tuple[str, int], list[str]]:
    """By group and number: how each try ended."""
    rows = store.read(queries.notifications, limit=1000)
    return {(row["group_key"], row["number"]): [one["error"] or one["outcome"] for one in row["tries"]] for row in rows}


async def test_a_server_that_fails_in_every_way_gets_everything_in_order(
    store: Store, deliver: Callable[..., Delivery]
) -> None:
    with bad_server() as server:
        server.answers = [500, 429, "reset", 200, "hang", 503, 200, "reset", 200]
        decided(
            lambda: store,
            [notice(n, group)._replace(kind="repeat", reason=f"{group}{n}") for n in (1, 2, 3) for group in "gh"],
        )
        tried: list[dict[str, Any]] = []
        channel = channel_of("log", f"json://{server.url}/hook?rto=0.3")
        delivery = deliver({"log": channel}, tried=tried.append)
        await until_sent(delivery, store)
        await delivery.idle()
        said = [body["message"].rsplit("Why now: ", 1)[1].strip() for body in server.taken()]
        arrived = [each.removeprefix(MAY_BE_DOUBLE) for each in said]
    assert sorted(arrived) == ["g1", "g2", "g3", "h1", "h2", "h3"]
    for group in "gh":
        assert [each for each in arrived if each[0] == group] == [f"{group}{n}" for n in (1, 2, 3)]
    told = tries_of(store)
    errors = [error for tries in told.values() for error in tries[:-1]]
    assert all(tries[-1] == "sent" for tries in told.values())
    assert len(errors) == 6
    for expected in ("error=500", "error=429", "error=503", "connection reset"):
        assert any(expected in error for error in errors), (expected, errors)
    assert sum("whether it arrived is unknown" in error for error in errors) == 3  # two resets, one that hung
    assert [entry["status"] for entry in tried].count("sent") == 6
    assert {entry["status"] for entry in tried} == {"sent", "pending"}
    # What may have arrived and was sent again is a possible double, and the next message says so.
    doubles = {name for name, tries in told.items() if any("whether it arrived" in error for error in tries)}
    assert {row["count"] for row in store.read(queries.alert_counts) if row["what"] == "possible_double"} == {3}
    outcomes = [one["outcome"] for row in store.read(queries.notifications) for one in row["tries"]]
    assert sorted(outcomes) == ["failed"] * 3 + ["possible_double"] * 3 + ["sent"] * 6
    assert {name for name in told if f"{MAY_BE_DOUBLE}{name[0]}{name[1]}" in said} == doubles


async def test_what_is_refused_for_good_is_failed_and_the_next_one_goes(
    store: Store, deliver: Callable[..., Delivery], caplog: pytest.LogCaptureFixture
) -> None:
    decided(lambda: store, [notice(1), notice(2)])
    channel = Scripted(Failed("HTTP 401", permanent=True))
    await until_sent(deliver({"log": channel}), store)
    assert [number for _, number, _ in channel.sent] == [2]
    assert tries_of(store) == {("g", 1): ["HTTP 401 (given up: a retry cannot succeed)"], ("g", 2): ["sent"]}
    assert "log (default): given up: HTTP 401" in caplog.text
    assert {row["status"] for row in store.read(queries.notifications)} == {"sent", "failed"}


async def test_a_channel_that_breaks_its_contract_fails_like_any_other(
    store: Store, deliver: Callable[..., Delivery], caplog: pytest.LogCaptureFixture
) -> None:
    decided(lambda: store, [notice(1)])
    channel = Scripted(RuntimeError("secret"))
    await until_sent(deliver({"log": channel}), store)
    assert tries_of(store) == {("g", 1): ["it raised RuntimeError", "sent"]}
    assert "the channel 'log' raised" in caplog.text


async def test_one_that_hangs_holds_up_itself_alone(
    store: Store, deliver: Callable[..., Delivery], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("o9.alerts.service.delivery.STOP_GRACE_SECONDS", 0.1)
    monkeypatch.setattr("o9.alerts.service.delivery.FIRST_PAUSE", timedelta(minutes=1))
    decided(lambda: store, [notice(n, channels=("hangs", "log")) for n in (1, 2)])
    released = threading.Event()
    quick = Scripted()
    channels = {"hangs": FunctionChannel("hangs", lambda _: released.wait(20.0)), "log": quick}
    delivery = deliver(channels)
    async with asyncio.timeout(5.0):
        while len(quick.sent) < 2:
            await delivery.send_due()
            await asyncio.sleep(0.01)
        await delivery.stop()
    released.set()
    rows = {row["id"]: row for row in store.read(queries.notifications) if row["channel"] == "hangs"}
    cut_off = rows[min(rows)]["tries"][0]
    assert cut_off["error"] == "cut off when its node stopped; whether it arrived is unknown"
    # It is another node's to send, at once.
    other = Scripted()
    await until_sent(deliver({"hangs": other}, "two"), store)
    assert [number for _, number, _ in other.sent] == [1, 2]
    assert [reason.startswith(MAY_BE_DOUBLE) for *_, reason in other.sent] == [True, False]


async def test_a_message_that_cannot_be_made_holds_up_no_other(
    store: Store,
    deliver: Callable[..., Delivery],
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    decided(lambda: store, [notice(1, "poison"), notice(1, "g"), notice(2, "poison")])
    channel, poisonous = Scripted(), True

    def made(row: Any, episodes: Any) -> Notice:
        if row["group_key"] == "poison" and poisonous:
            raise KeyError("level")
        return notice_in(row, episodes)

    monkeypatch.setattr("o9.alerts.service.delivery.notice_in", made)
    delivery = deliver({"log": channel})
    await delivery.idle()
    assert [group for group, *_ in channel.sent] == ["g"]
    assert "could not render a message to log (default)" in caplog.text
    poisonous = False
    await until_sent(delivery, store)
    assert [each[:2] for each in channel.sent[1:]] == [("poison", 1), ("poison", 2)]
    assert set(tries_of(store)["poison", 1][:-1]) == {"the message could not be rendered: KeyError"}


async def test_nodes_share_the_work_and_take_over_from_the_dead(
    store: Store, store_url: str, deliver: Callable[..., Delivery], async_wait_until: Callable[..., Any]
) -> None:
    with Store(store_url) as elsewhere:
        decided(lambda: store, [notice(1, group) for group in "abcdefgh"])
        stuck, living = asyncio.Event(), Scripted()

        class Dies(Scripted):
            async def send(self, message: Message, notice: Notice) -> Sent | Failed:
                answer = await super().send(message, notice)
                await stuck.wait()  # it arrived, and its node dies before it can say so
                return answer

        dead = Dies()
        one = deliver({"log": dead}, "one", lease=0.5)
        await one.send_due()
        await async_wait_until(lambda: dead.sent)
        two = Delivery(elsewhere, "two", 600.0)
        two.use({"log": living}, (), Configuration())
        await until_sent(two, store)
        assert dead.sent[0][:2] == ("a", 1)
        assert sorted(group for group, _, _ in living.sent) == list("abcdefgh")
        assert {reason for group, _, reason in living.sent if group == "a"} == {f"{MAY_BE_DOUBLE}it fires"}
        assert {reason for group, _, reason in living.sent if group != "a"} == {"it fires"}
        lost, sent = tries_of(store)["a", 1]
        assert (" one " in lost, sent) == (True, "sent")
        counts = {(row["what"], row["name"]): row["count"] for row in store.read(queries.alert_counts)}
        assert counts["possible_double", "log"] == 1
        stuck.set()  # it lived after all
        await one.idle()
        assert tries_of(store)["a", 1] == ["sent", "sent"]
        await two.stop()


async def test_what_is_being_sent_stays_with_its_node_while_that_lives(
    store: Store, deliver: Callable[..., Delivery]
) -> None:
    decided(lambda: store, [notice(1)])
    released = asyncio.Event()

    class Slow(Scripted):
        async def send(self, message: Message, notice: Notice) -> Sent | Failed:
            await released.wait()
            return await super().send(message, notice)

    slow, other = Slow(), Scripted()
    one, two = deliver({"log": slow}, "one", lease=0.3), deliver({"log": other}, "two", lease=0.3)
    await one.send_due()
    for _ in range(8):
        await one.keep()
        await two.send_due()
        await asyncio.sleep(0.1)
    released.set()
    await one.idle()
    assert (len(slow.sent), other.sent) == (1, [])


async def test_a_store_that_is_away_hears_of_the_end_when_it_is_back(
    store: Store, deliver: Callable[..., Delivery], monkeypatch: pytest.MonkeyPatch
) -> None:
    decided(lambda: store, [notice(1)])
    monkeypatch.setattr("o9.alerts.service.delivery.STORE_AWAY", Backoff(0.01, 0.01))
    away, write = [3], store.write_async

    def write_async(operation: Any) -> Any:
        if isinstance(operation, EndTry) and away[0]:
            away[0] -= 1
            raise StoreUnavailableError("the store is away")
        return write(operation)

    monkeypatch.setattr(store, "write_async", write_async)
    channel = Scripted()
    await until_sent(deliver({"log": channel}), store)
    assert (away, len(channel.sent), tries_of(store)) == ([0], 1, {("g", 1): ["sent"]})


async def test_what_is_over_by_now_fired_when_it_was_decided(store: Store, deliver: Callable[..., Delivery]) -> None:
    store.write(RaiseAlerts([new_alert("c", title="c"), new_alert("c2", title="c", ends=-60)]))
    decided(lambda: store, [notice(1)._replace(firing=["c"])])
    heard: list[Any] = []
    await until_sent(deliver({"log": FunctionChannel("log", heard.append)}), store)
    assert [(alert.alert_id, alert.resolved) for alert in heard] == [("c", False)]


async def test_a_function_hears_only_of_the_news_and_of_all_that_it_missed(
    store: Store, deliver: Callable[..., Delivery], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("o9.alerts.service.delivery.TRIED_FOR", timedelta(milliseconds=50))
    names = [f"n{number}" for number in range(4)]
    store.write(RaiseAlerts([new_alert(name, title=name) for name in names]))
    heard: list[str] = []
    news: list[list[str]] = []

    def function(alert: Any) -> bool:
        heard.append(alert.alert_id)
        return not (alert.alert_id == "n2" and len(news) == 1)

    told = [
        notice(1)._replace(firing=["n0", "n1"]),
        notice(2)._replace(firing=["n2", "n0", "n1"], known=2),  # is given up
        notice(3)._replace(firing=["n3", "n0", "n1", "n2"], known=3),
        notice(4)._replace(firing=["n0", "n2", "n3"], known=3, resolved=["n1"]),
        notice(5)._replace(firing=["n0", "n2", "n3"], known=3, kind="repeat"),
    ]
    fence = store.write(AcquireLeadership("alerts", "one", 600.0))
    assert fence is not None
    for each in told:
        store.write(CommitDecisions("alerts", fence, 0, notices=[each]))
        await until_sent(deliver({"log": FunctionChannel("log", function)}), store)  # as another process
        news.append(list(heard))
        heard.clear()
    assert [sorted(set(each)) for each in news] == [["n0", "n1"], ["n2"], names, ["n1"], ["n0", "n2", "n3"]]
    assert [row["status"] for row in store.read(queries.notifications)][::-1] == [
        "sent",
        "failed",
        "sent",
        "sent",
        "sent",
    ]


async def test_a_throttle_holds_back_what_is_too_much(store: Store, deliver: Callable[..., Delivery]) -> None:
    decided(lambda: store, [notice(n) for n in (1, 2, 3)])
    configuration = load("throttle: {messages: 2, every: 1s}")
    channel = Scripted()
    delivery = deliver({"log": channel}, configuration=configuration)
    await delivery.idle()
    assert len(channel.sent) == 2
    wait = delivery.wait_seconds()
    assert wait is not None
    assert 0.0 < wait <= 1.0
    await until_sent(delivery, store)
    begun = sorted(datetime.fromisoformat(row["tries"][0]["started_at"]) for row in store.read(queries.notifications))
    assert begun[2] - begun[0] >= timedelta(seconds=1)


async def test_a_group_of_thousands_is_told_whole(store: Store, deliver: Callable[..., Delivery]) -> None:
    names = [f"n{number:04}" for number in range(2_500)]
    store.write(RaiseAlerts([new_alert(name, title=name) for name in names]))
    told = notice(1)._replace(firing=names[:2_000], resolved=[*names[2_000:], "pruned"])
    decided(lambda: store, [told])
    heard: list[Any] = []
    await until_sent(deliver({"log": FunctionChannel("log", heard.append)}), store, 60.0)
    assert [alert.alert_id for alert in heard] == names
    assert {alert.resolved for alert in heard[:2_000]} == {False}
    (row,) = store.read(queries.notifications)
    assert (len(row["firing"]), row["firing_count"], row["resolved_count"]) == (10, 2_000, 501)


async def test_of_a_large_group_only_what_is_shown_is_read_whole(
    store: Store, deliver: Callable[..., Delivery], monkeypatch: pytest.MonkeyPatch
) -> None:
    """What it says is the same, in every form and with a user's template; a user's channel gets all of it."""
    names = [f"n{number:04}" for number in range(2_000)]
    tellings = [
        new_alert(
            name, title=f"t{n % 7}", level="error" if n % 3 else "info", metadata={"evidence": {"n": n}, "remedy": "x"}
        )
        for n, name in enumerate(names)
    ]
    store.write(RaiseAlerts([each._replace(fingerprint=each.alert_id) for each in tellings]))
    sides: dict[str, Any] = {"firing": [names[5], *names[20:]], "resolved": [*names[:5], *names[6:20]]}
    told = [notice(1)._replace(**sides), notice(1, "h")._replace(firing=["pruned", *names]), notice(1, "i")]
    decided(lambda: store, [each._replace(channels=("log", "mine")) for each in told])
    read: list[int] = []
    episodes = queries.episodes

    def counted(connection: Connection, ids: Sequence[str]) -> dict[str, tuple[Episode, dict[str, Any]]]:
        read.append(len(ids))
        return episodes(connection, ids)

    monkeypatch.setattr(queries, "episodes", counted)
    template = "{% for each in alerts %}{{ each.title }} {{ each.figures.n }} {% endfor %}{{ firing }} {{ level }}"
    configuration = load(f"templates: {{body: '{template}'}}")
    sent: dict[str, dict[str, Any]] = {"log": {}, "mine": {}}

    class Says:
        def __init__(self, name: str, shows_the_first: bool) -> None:
            self.name, self.shows_the_first = name, shows_the_first

        async def send(self, message: Message, notice: Notice) -> Sent | Failed:
            said = {form: message.body(form) for form in Form} | {"title": message.title, "level": message.level}
            sent[self.name][notice.group_key] = said, len(notice.firing), len(notice.resolved)
            if not self.shows_the_first:
                assert len({each.alert_id for each in (*notice.firing, *notice.resolved)}) == len(
                    (*notice.firing, *notice.resolved)
                )
            return Sent()

    await deliver({"log": Says("log", True)}, configuration=configuration).idle()
    shown, read[:] = list(read), []
    await deliver({"mine": Says("mine", False)}, "two", configuration=configuration).idle()
    assert sent["log"] == sent["mine"]
    assert sent["log"].keys() == {"g", "h", "i"}
    assert (shown, read) == ([10, 10, 2_001, 2], [2_000, 2_001, 2])  # where one of the first is gone, all are read
