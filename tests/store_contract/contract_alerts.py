"""The contract of alerts: alerts as received, their episodes, the cursor of readers, silences and pruning."""

from __future__ import annotations

import json
import random
from datetime import UTC, datetime, timedelta
from typing import Any

from contract_outbox import OutboxContract, begin, end, notice
from contract_steps import OpenStore, refused

from o9.model.errors import OptimizationConflictError, OptimizationError, OptimizationValidationError
from o9.model.optimization import utc_now
from o9.store import queries
from o9.store.alerts.episodes import AcknowledgeAlert, ExpireAlerts, NewAlert, RaiseAlerts, Recorded, ResolveAlert
from o9.store.alerts.outbox import CommitDecisions, Suppressed
from o9.store.alerts.pruning import PruneAlerts, PrunedAlerts
from o9.store.alerts.queries import Episode
from o9.store.alerts.silences import AddSilence, EndSilence
from o9.store.core.column_types import moment
from o9.store.queue.leader_election import AcquireLeadership
from o9.store.store import Store

START = datetime(2026, 1, 1, tzinfo=UTC)


class AlertContract(OutboxContract):
    """Ids, episodes, cursors and silences."""

    def test_alerts_read_back_page_by_page(self, open_store: OpenStore) -> None:
        store, other = open_store(), open_store()
        sent = [
            new_alert("oldest", title="1", at=datetime(1, 1, 1, tzinfo=UTC), level="error", optimization_id=""),
            new_alert(
                "名字-🚀", 1, title="交叉 🚀", message="Zeilen\nund\tTabs", metadata={"a": [1, 2.5, None, "日本"]}
            ),
            new_alert("b", 1, title="2", optimization_id="other"),
            new_alert("newest", title="3", at=datetime(9999, 12, 31, tzinfo=UTC), level="error"),
        ]
        answers = store.write(RaiseAlerts(sent))
        assert answers == [Recorded(each.alert_id, began=True, ended=False) for each in sent]
        order = ["newest", "名字-🚀", "b", "oldest"]
        assert ids(other.read(queries.alerts)) == order
        whole = store.read(queries.alert, "名字-🚀")
        assert whole is not None
        for name in ("title", "message", "level", "optimization_id", "at"):
            assert whole[name] == getattr(sent[1], name)
        assert whole["metadata"] == json.loads(sent[1].metadata)
        assert (whole["resolved_at"], whole["ends_at"], whole["acknowledged_at"]) == (None, None, None)
        assert whole["notifications"] == 1
        seen: list[str] = []
        before = None
        while rows := store.read(queries.alerts, limit=1, before=before):
            seen += ids(rows)
            before = rows[-1]["at"], rows[-1]["alert_id"]
        assert seen == order
        assert ids(store.read(queries.alerts, level="error")) == ["newest", "oldest"]
        assert ids(store.read(queries.alerts, optimization_id="other")) == ["b"]
        assert ids(store.read(queries.alerts, optimization_id="o", level="warning")) == ["名字-🚀"]
        assert store.read(queries.alert, "ghost") is None
        for limit in (0, 1001, True):
            with refused(OptimizationValidationError, "limit"):
                store.read(queries.alerts, limit=limit)

    def test_one_id_is_one_alert(self, open_store: OpenStore) -> None:
        store = open_store()
        first = new_alert("a")
        began, same = Recorded("a", began=True, ended=False), Recorded("a", began=False, ended=False)
        assert store.write(RaiseAlerts([first, first])) == [began, same]
        assert open_store().write(RaiseAlerts([first])) == [same]
        assert episode(store, "a").notifications == 1
        assert counter(store) == {("begun", "warning"): 1, ("received", "warning"): 1}
        for name, value in (
            ("message", "x"),
            ("title", "x"),
            ("level", "info"),
            ("optimization_id", "x"),
            ("metadata", "[1]"),
        ):
            other = NewAlert(**(first._asdict() | {name: value}))
            answer, neighbour = store.write(RaiseAlerts([other, new_alert(f"b-{name}", title=name)]))
            assert isinstance(answer, OptimizationConflictError)
            assert answer.field == "alert_id"
            assert all(word in str(answer) for word in ("'a'", name))
            assert isinstance(neighbour, Recorded)
        assert store.read(queries.alert, "a")["message"] == first.message  # type: ignore[index]
        within = store.write(RaiseAlerts([new_alert("c", title="c"), new_alert("c", title="d")]))
        assert [type(answer) for answer in within] == [Recorded, OptimizationConflictError]
        # Sent again unchanged, it changes nothing; sent again with a later time, it extends the episode.
        before = store.read(queries.last_change)
        store.write(RaiseAlerts([first]))
        assert store.read(queries.last_change) == before
        store.write(RaiseAlerts([first._replace(at=at(60))]))
        assert (episode(store, "a").notifications, episode(store, "a").last_notified_at) == (2, at(60))
        # After it is resolved, an exact repetition is answered, but a later time needs a new id.
        assert store.write(ResolveAlert("a", "ann"))
        assert store.write(RaiseAlerts([first])) == [Recorded("a", began=False, ended=False)]
        late = first._replace(at=moment(utc_now() + timedelta(seconds=60)))
        (answer,) = store.write(RaiseAlerts([late]))
        assert isinstance(answer, OptimizationConflictError)
        assert all(word in str(answer) for word in ("alert_id", "'a' was resolved at"))

    def test_equal_labels_form_one_episode_until_it_is_resolved(self, open_store: OpenStore) -> None:
        store, other = open_store(), open_store()
        (began,) = store.write(RaiseAlerts([new_alert("a", 10)]))
        joined = other.write(
            RaiseAlerts([new_alert("b", 5, message="earlier"), new_alert("c", 20), new_alert("z", title="z")])
        )
        assert began == Recorded("a", began=True, ended=False)
        assert joined[:2] == [Recorded("a", began=False, ended=False)] * 2
        whole = episode(store, "a")
        assert (whole.starts_at, whole.notifications, whole.last_notified_at) == (at(5), 3, at(20))
        assert (whole.message, whole.title) == (new_alert("c").message, "slow")
        assert ids(store.read(queries.alerts)) == ["c", "a", "b", "z"]
        assert store.read(queries.firing_alerts) == {"warning": 2}
        assert store.write(ResolveAlert("b", "ann"))
        assert not store.write(ResolveAlert("c", "bob"))
        for name in ("a", "b", "c"):
            row = store.read(queries.alert, name)
            assert row is not None
            assert (row["episode"], row["resolved_by"], row["notifications"]) == ("a", "ann", 3)
        assert store.read(queries.firing_alerts) == {"warning": 1}
        assert store.write(RaiseAlerts([new_alert("d", 30)])) == [Recorded("d", began=True, ended=False)]
        assert store.read(queries.alert, "c")["resolved_by"] == "ann"  # type: ignore[index]
        assert counter(store) == {("begun", "warning"): 3, ("received", "warning"): 5, ("resolved", "warning"): 1}
        with refused(OptimizationError, "'ghost'", "o9 alerts"):
            store.write(ResolveAlert("ghost", "ann"))

    def test_ends_given_by_the_source(self, open_store: OpenStore) -> None:
        store = open_store()
        assert store.write(RaiseAlerts([new_alert("a", ends=30)])) == [Recorded("a", began=True, ended=True)]
        row = store.read(queries.alert, "a")
        assert row is not None
        assert (row["resolved_at"], row["resolved_by"]) == (at(30), "o9:source")
        future = moment(utc_now() + timedelta(days=1))
        store.write(RaiseAlerts([new_alert("b", 40)]))
        store.write(RaiseAlerts([new_alert("b", 41)._replace(ends_at=future)]))
        assert (episode(store, "b").ends_at, episode(store, "b").resolved_at) == (future, None)
        # An alert that begins after that end starts a new episode, even before ExpireAlerts runs.
        later = new_alert("c")._replace(at=moment(utc_now() + timedelta(days=2)))
        assert store.write(RaiseAlerts([later])) == [Recorded("c", began=True, ended=False)]
        assert store.read(queries.alert, "b")["resolved_at"] == future  # type: ignore[index]
        assert store.write(RaiseAlerts([later._replace(ends_at=at(99))])) == [Recorded("c", began=False, ended=True)]
        assert store.read(queries.firing_alerts) == {}

    def test_an_expected_end_is_a_timeout_that_repetitions_extend(self, open_store: OpenStore) -> None:
        store, now = open_store(), utc_now()

        def repeated(name: str, seconds: float) -> NewAlert:
            until = moment(now + timedelta(seconds=seconds))
            return new_alert(name, title=name)._replace(ends_at=until, expected_end=1)

        store.write(RaiseAlerts([repeated("a", -60), repeated("b", 600), repeated("c", 900)]))
        store.write(RaiseAlerts([new_alert("d", title="d")]))
        # An end in the past was given by the source.
        assert store.read(queries.alert, "a")["resolved_by"] == "o9:source"  # type: ignore[index]
        assert store.read(queries.next_end) == moment(now + timedelta(seconds=600))
        assert store.write(ExpireAlerts()) == []
        store.write(RaiseAlerts([repeated("b", 1200)]))
        assert store.read(queries.next_end) == moment(now + timedelta(seconds=900))
        store.write(RaiseAlerts([new_alert("b2", title="b")]))  # without an end
        assert episode(store, "b").ends_at is None
        _let_pass(store, "c")
        after = store.read(queries.last_change)
        assert store.write(ExpireAlerts()) == ["c"]
        (over,) = store.read(queries.open_episodes, (after + 1, ""))
        assert (over.alert_id, over.resolved_at, over.resolved_by) == ("c", at(10), "o9:not_repeated")
        # A late repetition reopens the episode.
        assert store.write(RaiseAlerts([repeated("c", 900)])) == [Recorded("c", began=False, ended=False)]
        assert (episode(store, "c").resolved_at, episode(store, "c").notifications) == (None, 2)
        assert store.read(queries.firing_alerts) == {"warning": 3}
        _let_pass(store, "c")
        assert store.write(RaiseAlerts([repeated("e", 900)._replace(fingerprint="c")])) == [Recorded("e", True, False)]
        assert store.read(queries.alert, "c")["resolved_by"] == "o9:not_repeated"  # type: ignore[index]

    def test_the_leader_reads_what_changed_after_its_cursor(self, open_store: OpenStore) -> None:
        store, other = open_store(), open_store()
        assert store.read(queries.open_episodes) == []
        store.write(RaiseAlerts([new_alert(f"a{n}", title=f"t{n}") for n in range(5)]))
        store.write(RaiseAlerts([new_alert("b", title="t2"), new_alert("c", title="c")]))
        seen: list[str] = []
        after = (0, "")
        while rows := other.read(queries.open_episodes, after, limit=2):
            seen += [one.alert_id for one in rows]
            after = rows[-1].changed, rows[-1].alert_id
        assert seen == ["a0", "a1", "a3", "a4", "a2", "c"]
        assert store.read(queries.last_change) == after[0]
        store.write(AcknowledgeAlert("a1", "ann"))
        store.write(ResolveAlert("b", "bob"))
        acknowledged, resolved = other.read(queries.open_episodes, after)
        assert (acknowledged.alert_id, acknowledged.acknowledged_by) == ("a1", "ann")
        assert (resolved.alert_id, resolved.resolved_by, resolved.labels) == ("a2", "bob", '{"title": "t2"}')
        assert [row["kind"] for row in store.read(queries.changes, 0)] == ["alert"] * 4

    def test_an_episode_is_acknowledged_once(self, open_store: OpenStore) -> None:
        store = open_store()
        store.write(RaiseAlerts([new_alert("a"), new_alert("b")]))
        assert store.write(AcknowledgeAlert("b", "ann \0"))
        assert not store.write(AcknowledgeAlert("a", "bob"))
        assert store.read(queries.alert, "a")["acknowledged_by"] == "ann \ufffd"  # type: ignore[index]
        store.write(ResolveAlert("a", "ann"))
        store.write(RaiseAlerts([new_alert("c", 5)]))
        assert store.read(queries.alert, "c")["acknowledged_by"] is None  # type: ignore[index]
        store.write(ResolveAlert("c", "ann"))
        assert not store.write(AcknowledgeAlert("c", "bob"))
        assert store.read(queries.alert, "c")["acknowledged_by"] is None  # type: ignore[index]
        assert counter(store)["acknowledged", "warning"] == 1

    def test_random_batches_agree_with_a_model(self, open_store: OpenStore) -> None:
        """Ids are unique, a title has one episode at a time, and the counts add up."""
        store, chance = open_store(), random.Random(20260131)
        firing: dict[str, str] = {}
        episodes: dict[str, str] = {}
        for round_ in range(30):
            batch = []
            for n in range(chance.randrange(1, 12)):
                title = f"t{chance.randrange(4)}"
                name = chance.choice([*episodes, f"new-{round_}-{n}"]) if chance.random() < 0.3 else f"{round_}-{n}"
                batch.append(new_alert(name, round_, title=title, ends=99 if chance.random() < 0.2 else None))
            titles = {row["alert_id"]: row["title"] for row in all_alerts(store)}
            for sent, answer in zip(batch, store.write(RaiseAlerts(batch)), strict=True):
                if titles.setdefault(sent.alert_id, sent.title) != sent.title:
                    assert isinstance(answer, OptimizationConflictError)
                    continue
                assert isinstance(answer, Recorded)
                if sent.alert_id not in episodes:
                    assert answer.began == (sent.title not in firing)
                    firing.setdefault(sent.title, sent.alert_id)
                    episodes[sent.alert_id] = firing[sent.title]
                assert answer.episode == episodes[sent.alert_id]
                if sent.ends_at is not None and firing.get(sent.title) == answer.episode:
                    del firing[sent.title]
            if firing and chance.random() < 0.5:
                title = chance.choice(sorted(firing))
                assert store.write(ResolveAlert(firing.pop(title), "ann"))
            rows = all_alerts(store)
            assert {row["alert_id"]: row["episode"] for row in rows} == episodes
            assert {row["episode"] for row in rows if row["resolved_at"] is None} == set(firing.values())
        counts = counter(store)
        assert counts["received", "warning"] == len(episodes)
        assert counts["begun", "warning"] == len(set(episodes.values()))
        assert counts["resolved", "warning"] == counts["begun", "warning"] - len(firing)

    def test_old_alerts_are_pruned_unless_they_fire(self, open_store: OpenStore) -> None:
        store, other = open_store(), open_store()
        for name in ("fires", "over", "open", "late"):
            store.write(RaiseAlerts([new_alert(f"{name}{n}", n, title=name) for n in range(3)]))
        for name in ("over1", "open2"):
            store.write(ResolveAlert(name, "ann"))
        store.write(RaiseAlerts([new_alert("future", title="f", at=datetime(9000, 1, 1, tzinfo=UTC), ends=1)]))
        fence = store.write(AcquireLeadership("alerts", "one", 600.0))
        assert fence is not None
        sent = [notice(1), notice(2), notice(1, "h")]
        held = [Suppressed("over0", "r", "silenced", "s", at(n)) for n in range(5)]
        close = ["over0", "future"]
        store.write(CommitDecisions("alerts", fence, store.read(queries.last_change), {}, {}, sent, held, close))
        store.write(end(begin(store, "one")))
        now = utc_now()
        for name, until in (("past", now - timedelta(1)), ("stands", now + timedelta(9))):
            store.write(AddSilence(name, now - timedelta(2), until, pattern="x"))

        def prune(before: str) -> list[PrunedAlerts]:
            done = [other.write(PruneAlerts(before, seconds=0.0, piece=3))]
            while (cursor := done[-1].cursor) is not None:
                done.append(other.write(PruneAlerts(before, cursor, 0.0, 3)))
            return done

        assert [vars(done) for done in prune(at(-1))] == [vars(PrunedAlerts(cursor=None))]
        done = prune(moment(now + timedelta(hours=1)))
        assert len(done) > 4  # each transaction is short
        # The first and newest alerts of episodes that fire or are still open stay.
        kept = {"fires0", "fires2", "late0", "late2", "open0", "open2", "future"}
        assert {row["alert_id"] for row in all_alerts(store)} == kept
        assert sum(each.alerts for each in done) == 13 - len(kept)
        assert sum(each.suppressed for each in done) == 5
        assert sum(each.silences for each in done) == 1
        assert ids(store.read(queries.silences), "silence_id") == ["stands"]
        assert [(row["group_key"], row["number"]) for row in store.read(queries.notifications)] == [("h", 1), ("g", 2)]
        assert counter(store)["received", "warning"] == 13
        assert store.write(ResolveAlert("fires0", "ann"))
        assert store.write(RaiseAlerts([new_alert("over0", title="new")])) == [
            Recorded("over0", began=True, ended=False)
        ]

    def test_silences_last_until_their_end_or_until_they_are_ended(self, open_store: OpenStore) -> None:
        store, now = open_store(), utc_now()
        hour = timedelta(hours=1)
        store.write(AddSilence("past", now - 2 * hour, now - hour))
        store.write(AddSilence("later", now + hour, now + 3 * hour, pattern="slow", author="ann \0", comment="维护 🚀"))
        store.write(AddSilence("now", now - hour, now + hour, '{title="slow", level=~"info|warning"}'))
        first, second = store.read(queries.silences)
        assert (first["silence_id"], first["matchers"]) == ("now", '{title="slow", level=~"info|warning"}')
        assert (second["silence_id"], second["pattern"], second["author"]) == ("later", "slow", "ann \ufffd")
        assert second["comment"] == "维护 🚀"
        added = store.read(queries.last_change)
        assert store.write(EndSilence("now", "bob"))
        assert not store.write(EndSilence("now", "bob"))
        assert not store.write(EndSilence("past", "bob"))
        assert ids(store.read(queries.silences), "silence_id") == ["later"]
        with refused(OptimizationError, "'ghost'", "o9 alerts silence list"):
            store.write(EndSilence("ghost", "bob"))
        assert [row["kind"] for row in store.read(queries.changes, 0)] == ["silence"] * 4
        assert ids(store.read(queries.changed_silences, 0, limit=2), "silence_id") == ["past", "later"]
        (lifted,) = store.read(queries.changed_silences, added)
        assert (lifted["silence_id"], lifted["ended_by"]) == ("now", "bob")


def new_alert(alert_id: str, seconds: float = 0.0, *, ends: float | None = None, **fields: Any) -> NewAlert:
    """An alert whose fingerprint is its title."""
    title = fields.pop("title", "slow")
    when = fields.pop("at", None)
    metadata = json.dumps(fields.pop("metadata", {}), ensure_ascii=False, separators=(",", ":"))
    standard: dict[str, Any] = {
        "fingerprint": title, "labels": json.dumps({"title": title}, ensure_ascii=False), "optimization_id": "o",
        "level": "warning", "title": title, "message": "it takes long", "metadata": metadata,
        "at": at(seconds) if when is None else moment(when), "ends_at": None if ends is None else at(ends),
    }  # fmt: skip
    return NewAlert(alert_id, **(standard | fields))


def _let_pass(store: Store, alert_id: str) -> None:
    """Move the end of an episode into the past."""
    with store._engine.connect() as connection:
        connection.exec_driver_sql(f"UPDATE alert SET ends_at = '{at(10)}' WHERE alert_id = '{alert_id}'")


def at(seconds: float) -> str:
    return moment(START + timedelta(seconds=seconds))


def ids(rows: list[dict[str, Any]], name: str = "alert_id") -> list[str]:
    return [row[name] for row in rows]


def episode(store: Store, alert_id: str) -> Episode:
    return next(one for one in store.read(queries.open_episodes) if one.alert_id == alert_id)


def all_alerts(store: Store) -> list[dict[str, Any]]:
    return store.read(queries.alerts, limit=1000)


def counter(store: Store) -> dict[tuple[str, str], int]:
    return {(row["what"], row["name"]): row["count"] for row in store.read(queries.alert_counts)}
