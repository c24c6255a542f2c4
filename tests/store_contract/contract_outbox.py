"""The contract of notifications: leadership, decisions, tries to send, and takeover from dead nodes."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from contract_steps import OpenStore, refused
from sqlalchemy import event

from o9.model.errors import StaleAttemptError
from o9.store import queries
from o9.store.alerts.episodes import NewAlert, RaiseAlerts, ResolveAlert
from o9.store.alerts.outbox import (
    AnnounceChannels,
    BeginTry,
    CommitDecisions,
    EndTry,
    FailOldNotifications,
    NewNotice,
    Suppressed,
    WithdrawChannels,
)
from o9.store.core.unit import Row
from o9.store.queue.leader_election import AcquireLeadership, ReleaseLeadership
from o9.store.store import Store

AT = "2026-01-01T00:00:00.000000+00:00"


class OutboxContract:
    """Leadership, decisions and tries."""

    def test_one_node_leads_until_its_lease_runs_out(self, open_store: OpenStore) -> None:
        store, other = open_store(), open_store()
        assert store.read(queries.leader, "alerts") is None
        assert store.write(AcquireLeadership("alerts", "one", 600.0)) == 1
        assert other.write(AcquireLeadership("alerts", "two", 600.0)) is None
        assert other.write(AcquireLeadership("else", "two", 600.0)) == 1
        assert store.write(AcquireLeadership("alerts", "one", -1.0)) == 1  # renewed, but expired
        assert other.write(AcquireLeadership("alerts", "two", 600.0)) == 2
        assert store.write(AcquireLeadership("alerts", "one", 600.0)) is None
        assert store.write(AcquireLeadership("alerts", "one", 600.0, dead_nodes=["two"])) == 3
        store.write(ReleaseLeadership("alerts", 2))  # with another fence
        assert other.read(queries.leader, "alerts")["node"] == "one"  # type: ignore[index]
        store.write(ReleaseLeadership("alerts", 3))
        assert other.write(AcquireLeadership("alerts", "two", 600.0)) == 4

    def test_a_decision_is_written_whole_by_the_leader_alone(self, open_store: OpenStore) -> None:
        store = open_store()
        store.write(AcquireLeadership("alerts", "one", -1.0))
        store.write(AcquireLeadership("alerts", "two", 600.0))
        store.write(RaiseAlerts([_telling("a"), _telling("b"), _telling("c")]))
        cursor = store.read(queries.last_change)
        late, whole = (
            CommitDecisions(
                "alerts", fence, cursor, {"g": (AT, '{"n": 1}'), "h": (AT, "{}")}, {}, [notice(1, channels=("log",))],
                [Suppressed("a", "default", "silenced", "s1", AT)], ["a", "b"],
            )
            for fence in (1, 2)
        )  # fmt: skip
        with refused(StaleAttemptError, "alerts", "fence 1", "two", "Nothing was written"):
            store.write(late)
        assert (
            store.read(queries.alert_groups),
            store.read(queries.notifications),
            store.read(queries.suppressed),
        ) == ({}, [], [])
        assert store.read(queries.leader, "alerts")["cursor"] == 0  # type: ignore[index]
        for _ in range(2):  # as after a lost answer
            store.write(whole)
        assert store.read(queries.leader, "alerts")["cursor"] == cursor  # type: ignore[index]
        assert store.read(queries.alert_groups) == {"g": (AT, '{"n": 1}'), "h": (AT, "{}")}
        (result,) = store.read(queries.notifications)
        assert (result["number"], result["channel"], result["status"], result["tries"]) == (1, "log", "pending", [])
        assert (result["receiver"], result["kind"], result["reason"]) == ("default", "firing", "it fires")
        assert (result["firing"], result["firing_count"], result["labels"]) == (["a", "b"], 2, {"title": "慢"})
        assert store.read(queries.suppressed, alert_id="a")[0]["by"] == "s1"
        assert store.read(queries.suppressed, alert_id="b") == []
        # Neither firing episodes are closed, nor those that changed after the cursor.
        store.write(ResolveAlert("a", "ann"))
        store.write(CommitDecisions("alerts", 2, cursor, closed=["a", "b"]))
        assert [one.alert_id for one in store.read(queries.open_episodes)] == ["b", "c", "a"]
        store.write(
            CommitDecisions("alerts", 2, store.read(queries.last_change), {"h": None}, {"g": "2027"}, closed=["a", "b"])
        )
        assert [one.alert_id for one in store.read(queries.open_episodes)] == ["b", "c"]
        assert store.read(queries.alert_groups) == {"g": ("2027", '{"n": 1}')}

    def test_a_sent_notice_keeps_its_first_alerts(self, open_store: OpenStore) -> None:
        store = open_store()
        names = [f"a{n:02}" for n in range(30)]
        store.write(RaiseAlerts([_telling(name) for name in names]))
        result = notice(2**50, channels=("log", "mail"))._replace(firing=names[:25], resolved=names[25:])
        decided(lambda: store, [result])
        for channel, shown in (("log", 25), ("mail", 10)):
            row = begin(store, "one", channel=channel)
            assert (row["firing"], row["resolved"]) == (names[:25], names[25:])
            store.write(end(row))
            first = store.read(queries.notifications)[0]
            assert (len(first["firing"]), first["firing_count"], first["resolved"]) == (shown, 25, names[25:])
        assert store.read(queries.episodes, [*names[:3], "ghost"]).keys() == set(names[:3])

    def test_known_alerts_are_new_to_a_channel_that_was_not_notified(self, open_store: OpenStore) -> None:
        store = open_store()
        names = [f"a{n:02}" for n in range(30)]
        store.write(RaiseAlerts([_telling(name) for name in names]))
        last = notice(2, channels=("log", "mail", "late"))._replace(firing=names, known=27)
        flaps = notice(1)._replace(number=3, kind="flapping", firing=["a00"])
        after = last._replace(number=4, channels=("log", "mail"), known=30, resolved=["a29"])
        decided(lambda: store, [notice(1, channels=("log", "mail")), last, flaps, after])
        assert [begin(store, "one", channel=name)["known"] for name in ("log", "mail", "late")] == [0, 0, 0]
        store.write(end({"id": 1, "tries": 1, "claimed_by": "one"}))
        store.write(end({"id": 2, "tries": 1, "claimed_by": "one"}, error="gone"))
        for name, known in (("log", 27), ("mail", 0)):
            row = begin(store, "one", channel=name)
            assert (row["number"], row["firing"], row["known"], row["firing_count"]) == (2, names, known, 30)
            store.write(end(row))
        store.write(end({"id": 5, "tries": 1, "claimed_by": "one"}))
        kept = store.read(queries.notifications)
        assert {(row["known"], tuple(row["firing"])) for row in kept if row["number"] == 2} == {(7, tuple(names[:10]))}
        store.write(end(begin(store, "one")))  # that it flaps
        assert [begin(store, "one", channel=name)["known"] for name in ("log", "mail")] == [30, 30]

    def test_notifications_of_a_group_are_sent_in_order(self, open_store: OpenStore) -> None:
        store, other = (
            decided(open_store, [notice(n, group) for n in (1, 2) for group in ("g", "h")]),
            open_store(),
        )
        assert other.read(queries.due_channels, ["log", "mail"]) == ["log"]
        first, second = begin(store, "one"), begin(other, "two")
        assert [(row["group_key"], row["number"]) for row in (first, second)] == [("g", 1), ("h", 1)]
        assert store.read(queries.due_channels, ["log"]) == []
        assert store.write(BeginTry("log", "one", 600.0)) is None
        assert store.write(end(first, error="no \0 route", retry_in=600.0))
        assert store.write(BeginTry("log", "one", 600.0)) is None  # later ones of the group wait too
        assert store.write(end(second))
        third = begin(store, "one")
        assert (third["group_key"], third["number"]) == ("h", 2)
        assert store.write(end(third, error="no such channel"))  # for good
        result = {(row["group_key"], row["number"]): row for row in other.read(queries.notifications)}
        assert {key: row["status"] for key, row in result.items()} == {
            ("g", 1): "pending", ("g", 2): "pending", ("h", 1): "sent", ("h", 2): "failed",
        }  # fmt: skip
        assert [(one["outcome"], one["error"], one["node"]) for one in result["g", 1]["tries"]] == [
            ("failed", "no \ufffd route", "one")
        ]
        assert [row["id"] for row in store.read(queries.notifications, limit=2)] == [4, 3]
        assert [row["id"] for row in store.read(queries.notifications, limit=2, before=3)] == [2, 1]
        assert counts(store) == {("sent", "log"): 1, ("failed", "log"): 1}
        (channel,) = store.read(queries.alert_channels)
        assert channel["error"] == "no such channel"
        assert channel["failing_since"] is not None
        assert channel["last_sent_at"] is not None

    def test_there_is_no_repeat_while_a_message_is_pending(self, open_store: OpenStore) -> None:
        store = decided(open_store, [notice(1, channels=("log", "mail"))])
        assert store.write(end(begin(store, "one")))
        again = notice(2, channels=("log", "mail"))._replace(kind="repeat")
        store.write(CommitDecisions("alerts", 1, 0, notices=[again, notice(1, "other", ("mail",))]))
        waiting = [
            (row["channel"], row["number"]) for row in store.read(queries.notifications) if row["status"] == "pending"
        ]
        assert sorted(waiting) == [("log", 2), ("mail", 1), ("mail", 1)]

    def test_failed_notifications_are_sent_again_in_order(self, open_store: OpenStore) -> None:
        store = decided(open_store, [notice(n) for n in (1, 2)])
        order = []
        for error in ("500", "reset", None, None):
            row = begin(store, "one")
            order.append((row["number"], row["tries"], row["may_be_double"]))
            assert store.write(end(row, error=error, retry_in=0.0))
        assert order == [(1, 1, False), (1, 2, False), (1, 3, False), (2, 1, False)]
        assert ("possible_double", "log") not in counts(store)
        assert store.write(BeginTry("log", "one", 600.0)) is None
        assert store.read(queries.alert_channels)[0]["failing_since"] is None

    def test_a_channel_can_be_paused(self, open_store: OpenStore) -> None:
        store = decided(open_store, [notice(1, "g", ("log", "mail")), notice(1, "h")])
        store.write(end(begin(store, "one"), error="429", retry_in=0.0, pause=600.0))
        assert store.read(queries.due_channels, ["log", "mail"]) == ["mail"]
        assert store.write(BeginTry("log", "one", 600.0)) is None
        assert store.write(BeginTry("mail", "one", 600.0)) is not None

    def test_a_throttle_delays_notifications(self, open_store: OpenStore) -> None:
        store = decided(open_store, [notice(n, f"g{n}") for n in range(4)])
        for _ in range(2):
            row = store.write(BeginTry("log", "one", 600.0, throttles={"default": (2, 600.0)}))
            assert isinstance(row, dict)
            store.write(end(row))
        wait = store.write(BeginTry("log", "one", 600.0, throttles={"default": (2, 600.0)}))
        assert isinstance(wait, float)
        assert 590.0 < wait <= 600.0
        assert store.read(queries.notifications)[0]["tries"] == []
        begin(store, "one")
        assert isinstance(store.write(BeginTry("log", "one", 600.0, throttles={"default": (2, 0.0)})), dict)

    def test_notifications_of_dead_nodes_are_sent_again_and_marked(self, open_store: OpenStore) -> None:
        store, other = decided(open_store, [notice(1, "g"), notice(1, "h")]), open_store()
        hung = begin(store, "one", lease_seconds=-1.0)
        again = begin(other, "two")
        assert (again["id"], again["tries"], again["may_be_double"]) == (hung["id"], 2, True)
        assert not store.write(end(hung))  # the node was alive, but only its own try is written
        assert [row["status"] for row in store.read(queries.notifications)] == ["pending", "pending"]
        assert other.write(end(again))
        dead = begin(store, "one")
        assert begin(other, "two", dead_nodes=["one"])["may_be_double"]
        result = {
            row["id"]: [(one["node"], one["outcome"]) for one in row["tries"]]
            for row in other.read(queries.notifications)
        }
        assert result[hung["id"]] == [("one", "sent"), ("two", "sent")]
        assert result[dead["id"]] == [("one", "possible_double"), ("two", None)]
        assert counts(store)["possible_double", "log"] == 2

    def test_a_resend_of_what_may_have_arrived_is_a_possible_double(self, open_store: OpenStore) -> None:
        store = decided(open_store, [notice(1, "g")])
        hows: list[dict[str, Any]] = [
            {"error": "500", "retry_in": 0.0}, {"error": "no answer", "retry_in": 0.0, "in_doubt": True},
            {"error": "503", "retry_in": 0.0}, {},
        ]  # fmt: skip
        doubles = []
        for how in hows:
            row = begin(store, "one")
            doubles.append(row["may_be_double"])
            assert store.write(end(row, **how))
        assert doubles == [False, False, True, True]  # a failed try in between does not matter
        decided(lambda: store, [notice(1, "h")])
        given_up = begin(store, "one")
        assert store.write(end(given_up, error="no answer", in_doubt=True))  # not sent again, so no double
        result = {
            row["group_key"]: [one["outcome"] for one in row["tries"]] for row in store.read(queries.notifications)
        }
        assert result == {"g": ["failed", "possible_double", "failed", "sent"], "h": ["unknown"]}
        assert counts(store) == {("possible_double", "log"): 1, ("sent", "log"): 1, ("failed", "log"): 1}

    def test_old_notifications_fail(self, open_store: OpenStore) -> None:
        store = decided(open_store, [notice(1, "g", ("log", "gone")), notice(1, "h", ("gone",))])
        begin(store, "one")
        assert store.write(FailOldNotifications("2026-01-01", "no node")) == {}
        assert store.write(FailOldNotifications("9999-01-01", "no node")) == {"gone": 2}
        result = {
            (row["group_key"], row["channel"]): (row["status"], row["error"])
            for row in store.read(queries.notifications)
        }
        assert result == {
            ("g", "log"): ("pending", None), ("g", "gone"): ("failed", "no node"), ("h", "gone"): ("failed", "no node"),
        }  # fmt: skip
        assert counts(store) == {("failed", "gone"): 2}
        # The node that tried it died, and no other node has the channel.
        decided(lambda: store, [notice(2, "h", ("lost",))])
        row = begin(store, "one", channel="lost")
        assert store.write(FailOldNotifications("9999-01-01", "no node")) == {}
        store.write(end(row, error="500", retry_in=0.0))
        assert store.write(FailOldNotifications("2026-01-01", "no node")) == {}
        assert store.write(FailOldNotifications("9999-01-01", "no node")) == {"lost": 1}

    def test_nodes_announce_their_channels(self, open_store: OpenStore) -> None:
        store, other = decided(open_store, [notice(1)]), open_store()
        store.write(AnnounceChannels("one", ["log", "mail"], 600.0))
        other.write(AnnounceChannels("two", ["log", "chat"], 600.0))
        assert store.read(queries.sending_channels) == ["chat", "log", "mail"]
        store.write(AnnounceChannels("one", ["file"], 600.0))
        assert store.read(queries.sending_channels) == ["chat", "file", "log"]
        other.write(AnnounceChannels("two", ["chat"], -1.0))
        assert store.read(queries.sending_channels) == ["file"]
        row = begin(store, "one", lease_seconds=-1.0)
        store.write(AnnounceChannels("one", ["file"], 600.0, sending=[row["id"]]))
        assert other.read(queries.due_channels, ["log"]) == []
        other.write(AnnounceChannels("two", ["file"], -1.0, sending=[row["id"]]))  # without the claim
        assert other.read(queries.due_channels, ["log"]) == []
        store.write(WithdrawChannels("one"))
        assert store.read(queries.sending_channels) == []

    def test_a_thousand_alerts_cost_as_many_statements_as_one(self, open_store: OpenStore) -> None:
        store = open_store()
        spent = []
        for size in (2, 1000):
            batch = [_telling(f"{size}-{n}") for n in range(size)]
            spent.append(statements(store, RaiseAlerts(batch)) + statements(store, RaiseAlerts(batch[::-1])))
        assert spent[0] == spent[1], spent


def notice(number: int, group_key: str = "g", channels: Sequence[str] = ("log",)) -> NewNotice:
    return NewNotice(
        group_key, number, "default", "firing", "it fires", AT, '{"title":"慢"}', ["a", "b"], [], channels
    )  # fmt: skip


def decided(open_store: OpenStore, notices: Sequence[NewNotice]) -> Store:
    store = open_store()
    fence = store.write(AcquireLeadership("alerts", "one", 600.0))
    assert fence is not None
    store.write(CommitDecisions("alerts", fence, 0, notices=notices))
    return store


def begin(
    store: Store, node: str, *, lease_seconds: float = 600.0, dead_nodes: Sequence[str] = (), channel: str = "log"
) -> Row:
    row = store.write(BeginTry(channel, node, lease_seconds, dead_nodes))
    assert isinstance(row, dict)
    return row


def end(row: Row, **how: Any) -> EndTry:
    return EndTry(row["id"], row["tries"], row["claimed_by"], **how)


def counts(store: Store) -> dict[tuple[str, str], int]:
    levels = ("received", "begun")
    return {
        (row["what"], row["name"]): row["count"]
        for row in store.read(queries.alert_counts)
        if row["what"] not in levels
    }


def statements(store: Store, operation: RaiseAlerts) -> int:
    """Return the number of statements executed, counting an `executemany` as one."""
    counted: list[str] = []

    def hear(*args: Any) -> None:
        counted.append(args[2])

    event.listen(store._engine, "before_cursor_execute", hear)
    try:
        store.write(operation)
    finally:
        event.remove(store._engine, "before_cursor_execute", hear)
    return len(counted)


def _telling(name: str) -> NewAlert:
    return NewAlert(name, name, "{}", "", "warning", name, "", "{}", AT)
