"""How alert rules stand to what they look at, written down by the one node that judges.

Contract. States and positions are kept in one transaction, under a fence: what an old holder of the lease believes
changes nothing. Nothing is kept of what neither is pending nor fires.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from sqlalchemy import Connection, delete, select

from o9.store.core.column_types import free_text
from o9.store.core.unit import Operation, Row, UnitOfWork
from o9.store.queue.leader_election import held
from o9.store.schema.alerts import POSITION, RULE_STATE


@dataclass(frozen=True)
class KeepRuleStates(Operation[None]):
    """Keep these, by rule and subject; None: forget it. Raises StaleAttemptError where the lease is lost."""

    lease: str
    fence: int
    states: Mapping[tuple[str, str], str | None] = field(default_factory=dict)
    positions: Mapping[str, int] = field(default_factory=dict)

    def apply(self, unit: UnitOfWork) -> None:
        held(unit, self.lease, self.fence)
        kept: list[Row] = []
        for (rule, subject), state in self.states.items():
            key = {"rule": free_text(rule), "subject": free_text(subject)}
            if state is None:
                gone = (RULE_STATE.c[name] == value for name, value in key.items())
                unit.connection.execute(delete(RULE_STATE).where(*gone))
            else:
                kept.append(key | {"state": free_text(state)})
        if kept:
            unit.upsert(RULE_STATE, kept)
        if self.positions:
            unit.upsert(POSITION, [{"name": name, "position": each} for name, each in self.positions.items()])


def rule_states(connection: Connection) -> dict[tuple[str, str], str]:
    """By rule and subject; costs what is pending or fires."""
    return {(rule, subject): text for rule, subject, text in connection.execute(select(RULE_STATE))}


def rule_positions(connection: Connection) -> dict[str, int]:
    """How far the rules have read, by table."""
    return {name: int(position) for name, position in connection.execute(select(POSITION))}
