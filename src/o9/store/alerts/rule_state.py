"""The states of alert rules, written by the node that evaluates them.

Contract. States and read positions are written in one transaction under a fence, so that a former leader changes
nothing. A state exists only while its rule is pending or fires.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from sqlalchemy import Connection, delete, select

from o9.store.core.column_types import free_text
from o9.store.core.unit import Operation, Row, UnitOfWork
from o9.store.queue.leader_election import require_lease
from o9.store.schema.alerts import POSITION, RULE_STATE


@dataclass(frozen=True)
class SaveRuleStates(Operation[None]):
    """Write states by rule and subject; None deletes one. Raises StaleAttemptError if the lease is lost."""

    lease: str
    fence: int
    states: Mapping[tuple[str, str], str | None] = field(default_factory=dict)
    positions: Mapping[str, int] = field(default_factory=dict)

    def apply(self, unit: UnitOfWork) -> None:
        require_lease(unit, self.lease, self.fence)
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
    """Return the states by rule and subject. The cost grows with what is pending or fires."""
    return {(rule, subject): text for rule, subject, text in connection.execute(select(RULE_STATE))}


def rule_positions(connection: Connection) -> dict[str, int]:
    """Return the id up to which the rules have read each table."""
    return {name: int(position) for name, position in connection.execute(select(POSITION))}
