"""The questions about alerts that a store answers: `Store.alerts`. Writing goes by the operations of `episodes`,
`silences`, `outbox` and `leadership`.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, Concatenate, ParamSpec, Protocol, TypeVar

from sqlalchemy import Connection

from o9.store.alerts import channels as alert_channels
from o9.store.alerts import outbox, silences
from o9.store.alerts import pruning as alert_pruning
from o9.store.alerts import queries as alert_reads
from o9.store.alerts import rule_state as rule_standings
from o9.store.alerts.pruning import PrunedAlerts
from o9.store.alerts.queries import Episode
from o9.store.core.column_types import now_text
from o9.store.core.unit import Row
from o9.store.queue import leader_election as leadership
from o9.store.queue.claims import database_time

P = ParamSpec("P")
R = TypeVar("R")


class Read(Protocol):
    """Runs a query on a connection."""

    def __call__(self, query: Callable[Concatenate[Connection, P], R], *args: P.args, **kwargs: P.kwargs) -> R: ...


class AlertRecord:
    """See the functions that each calls."""

    def __init__(self, read: Read) -> None:
        self._read = read

    def get(self, alert_id: str) -> Row | None:
        return self._read(alert_reads.alert, alert_id)

    def page(
        self,
        *,
        optimization_id: str | None = None,
        level: str | None = None,
        limit: int = 100,
        before: tuple[str, str] | None = None,
    ) -> list[Row]:
        """Alerts as they were received, newest first; `before` is `at` and `alert_id` of the last one seen."""
        return self._read(alert_reads.alert_page, optimization_id, level, limit, before)

    def open_episodes(self, after: tuple[int, str] = (0, ""), *, limit: int = 1000) -> list[Episode]:
        return self._read(alert_reads.open_episodes, after, limit)

    def episodes(self, ids: Sequence[str]) -> dict[str, tuple[Episode, dict[str, Any]]]:
        return self._read(alert_reads.episodes, ids)

    def words_of(self, ids: Sequence[str]) -> dict[str, tuple[str, str]]:
        """Level and title of these episodes, by id."""
        return self._read(alert_reads.words_of, ids)

    def ends_next(self) -> str | None:
        return self._read(alert_reads.ends_next)

    def counts(self) -> list[Row]:
        return self._read(alert_reads.alert_counts)

    def firing(self) -> dict[str, int]:
        """How many episodes fire now, by level."""
        return self._read(alert_reads.firing_counts)

    def notifications(self, *, limit: int = 100, before: int | None = None) -> list[Row]:
        return self._read(alert_reads.notification_history, limit, before)

    def suppressed(self, *, limit: int = 100, alert_id: str | None = None) -> list[Row]:
        return self._read(alert_reads.suppressed_history, limit, alert_id)

    def suppressed_of(self, alert_ids: Sequence[str]) -> dict[str, dict[str, Row]]:
        return self._read(alert_reads.suppressed_of, alert_ids)

    def last_notices(self, names: Iterable[tuple[str, int]]) -> list[Row]:
        return self._read(alert_reads.last_notices, names)

    def notices_about(self, alert_id: str, labels: Mapping[str, str], since: str) -> list[Row]:
        return self._read(alert_reads.notices_about, alert_id, labels, since)

    def silences(self) -> list[Row]:
        """Those that stand now, or will."""
        return self._read(silences.silences, now_text())

    def changed_silences(self, after: int, *, limit: int = 1000) -> list[Row]:
        return self._read(silences.changed_silences, after, limit)

    def leader(self, name: str) -> Row | None:
        return self._read(leadership.leader, name)

    def seconds_left(self, expires_at: float) -> float:
        """By the database's clock."""
        return expires_at - self._read(database_time)

    def groups(self) -> dict[str, tuple[str, str]]:
        return self._read(outbox.groups)

    def pending(self) -> bool:
        return self._read(outbox.pending)

    def claimed_by(self, notification_id: int, number: int) -> str | None:
        return self._read(outbox.claimed_by, notification_id, number)

    def due(self, channels: Iterable[str], dead_nodes: Sequence[str] = ()) -> list[str]:
        return self._read(outbox.due, channels, dead_nodes)

    def prunable(self, before: str) -> PrunedAlerts:
        return self._read(alert_pruning.outlook, before)

    def channels(self) -> list[Row]:
        return self._read(alert_channels.channels)

    def channels_of_nodes(self) -> list[str]:
        return self._read(alert_channels.channels_of_nodes)

    def rule_standings(self) -> dict[tuple[str, str], str]:
        """By rule and subject."""
        return self._read(rule_standings.standings)

    def read_up_to(self) -> dict[str, int]:
        """How far the rules have read, by table."""
        return self._read(rule_standings.positions)
