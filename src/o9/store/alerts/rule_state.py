"""How alert rules stand to what they look at, written down by the one node that judges.

Contract. Standings and positions are kept in one transaction, under a fence: what an old holder of the lease believes
changes nothing. Nothing is kept of what neither is pending nor fires.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from sqlalchemy import Connection, delete, select
from sqlalchemy.dialects import postgresql, sqlite

from o9.store.core.base import table_of
from o9.store.core.column_types import free_text
from o9.store.core.unit import Operation, Row, UnitOfWork
from o9.store.queue.leader_election import held
from o9.store.schema import alert_rules as rule_tables

STANDING = table_of(rule_tables.RuleStanding)
POSITION = table_of(rule_tables.ReadUpTo)


@dataclass(frozen=True)
class KeepStandings(Operation[None]):
    """Keep these, by rule and subject; None: forget it. Raises StaleAttemptError where the lease is lost."""

    lease: str
    fence: int
    standings: Mapping[tuple[str, str], str | None] = field(default_factory=dict)
    positions: Mapping[str, int] = field(default_factory=dict)

    def apply(self, unit: UnitOfWork) -> None:
        held(unit, self.lease, self.fence)
        connection = unit.connection
        insert = (sqlite if connection.dialect.name == "sqlite" else postgresql).insert
        kept: list[Row] = []
        for (rule, subject), standing in self.standings.items():
            rule, subject = free_text(rule), free_text(subject)
            if standing is None:
                connection.execute(delete(STANDING).where(STANDING.c.rule == rule, STANDING.c.subject == subject))
            else:
                kept.append({"rule": rule, "subject": subject, "standing": free_text(standing)})
        if kept:
            upsert = insert(STANDING)
            changed = {"standing": upsert.excluded.standing}
            connection.execute(upsert.on_conflict_do_update(index_elements=["rule", "subject"], set_=changed), kept)
        for name, position in self.positions.items():
            put = insert(POSITION).values(name=name, position=position)
            changed = {"position": put.excluded.position}
            connection.execute(put.on_conflict_do_update(index_elements=["name"], set_=changed))


def rule_standings(connection: Connection) -> dict[tuple[str, str], str]:
    """By rule and subject; costs what is pending or fires."""
    return {(rule, subject): text for rule, subject, text in connection.execute(select(STANDING))}


def rule_positions(connection: Connection) -> dict[str, int]:
    """How far the rules have read, by table."""
    return {name: int(position) for name, position in connection.execute(select(POSITION))}
