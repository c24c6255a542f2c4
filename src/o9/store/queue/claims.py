"""Nodes, claims and leases, and the sweep that frees the leases of dead nodes.

A lease's expiry is written in seconds of the database's clock; the node that looks for dead ones waits by its own
monotonic clock (`o9.lifecycle.lease_expiry`). A claim raises the fence, so that a former holder can no longer write.
At most `limit` leases are held at once, counted over all nodes.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from sqlalchemy import (
    ColumnElement,
    Connection,
    Executable,
    Select,
    TextClause,
    and_,
    bindparam,
    delete,
    insert,
    select,
    text,
    update,
)

from o9.model.errors import OptimizationCoordinationError
from o9.model.states import (
    ACTIVE,
    ENDED,
    INTENDED_END,
    RESTS,
    Intent,
    OptimizationStatus,
    at_rest,
    decide_transition,
)
from o9.store.core.column_types import to_json
from o9.store.core.reading import rows
from o9.store.core.unit import OnOptimization, Operation, Row, UnitOfWork
from o9.store.optimizations.intents import SetIntent
from o9.store.optimizations.transitions import Cause, Transition, move, refusal
from o9.store.queue.policies import has_room, policies
from o9.store.schema import optimizations as tables
from o9.store.schema.optimizations import NODE, OPTIMIZATION
from o9.store.statistics.rollups import write_rollups

MIRRORED = "mirrored"  # the strategy of a flow that O9 watches but does not run
DEFAULT_LIMIT = 10  # if no node has announced one
_CLOCK = {
    "sqlite": text("SELECT (julianday('now') - 2440587.5) * 86400.0"),
    "postgresql": text("SELECT extract(epoch FROM clock_timestamp())"),
}


@dataclass(frozen=True)
class Claimed:
    """The right to run one attempt until the lease expires."""

    optimization_id: str
    attempt: int
    fence: int
    suspended_run_id: str | None = None  # a suspended flow run to resume for this attempt, instead of creating one
    deployment_id: str | None = None  # the Prefect deployment whose workers run this attempt


@dataclass(frozen=True)
class HeldLease:
    """A lease as it was read; renewing it changes `expires_at`."""

    optimization_id: str
    node: str
    fence: int
    expires_at: float


@dataclass(frozen=True)
class Leases:
    """All leases in force, and the database's time at which they were read."""

    at: float
    held: tuple[HeldLease, ...]

    @property
    def run_out(self) -> tuple[HeldLease, ...]:
        """Those that have expired by the database's clock. It may have jumped: check that they are not renewed."""
        return tuple(lease for lease in self.held if lease.expires_at <= self.at)


@dataclass(frozen=True)
class Claim(Operation[Claimed | None]):
    """Claim the first optimization in the queue, or `optimization_id`, if the limits allow it; else return None.

    limit: how many claims may be held at once over all nodes, in addition to the policies' limits; None takes the
        limit that the living nodes announced. A slot stays in use until its lease is released or swept, so that a
        holder that was unreachable for a while does not come back to a slot that another holder has taken.
    only: consider only these ids.
    elsewhere: skip optimizations of these deployments.

    Raises OptimizationCoordinationError if `optimization_id` is not waiting.
    """

    node: str
    limit: int | None
    lease_seconds: float
    optimization_id: str | None = None
    only: Collection[str] | None = None
    elsewhere: Collection[str] = ()

    def apply(self, unit: UnitOfWork) -> Claimed | None:
        write_rollups(unit)  # the query of the queue reads the counts
        unit.flush()
        now = database_now(unit)
        if self.optimization_id is not None:
            named = _checked(unit.existing(self.optimization_id), now)
            waiting = [(0.0, self.optimization_id, named["optimization_type"], named["strategy"])]
        else:
            found = unit.connection.execute(self._queue(unit.connection.dialect.name))
            waiting = sorted((key, name, kind, strategy) for name, key, kind, strategy in found)
        if not waiting:
            return None
        limit = announced_limit(unit, now) if self.limit is None else self.limit
        limits, held = policies(unit.connection), _held_slots(unit)
        for _, name, kind, strategy in waiting:
            if has_room(limits, held, limit, kind, strategy):
                return self._take(unit, unit.existing(name), now)
        return None

    def _queue(self, dialect: str) -> Executable:
        if self.only is not None:
            return _waiting_of(self.only)
        if self.elsewhere:
            return _WAITING_HERE[dialect].bindparams(elsewhere=tuple(self.elsewhere))
        return _FIRST_WAITING[dialect]

    def _take(self, unit: UnitOfWork, row: Row, now: float) -> Claimed:
        unit.update(
            row,
            attempt=row["attempt"] + 1,
            fence=row["fence"] + 1,
            lease_node=self.node,
            lease_expires_at=now + self.lease_seconds,
            prefect_state_at=None,
        )
        return Claimed(
            row["optimization_id"], row["attempt"], row["fence"], row["suspended_run_id"], row["deployment_id"]
        )


def _waiting_of(only: Collection[str]) -> Select[tuple[str, float, str, str]]:
    """Select those of `only` that wait."""
    columns = (OPTIMIZATION.c[name] for name in ("optimization_id", "queue_key", "optimization_type", "strategy"))
    mine = OPTIMIZATION.c.optimization_id.in_(only), OPTIMIZATION.c.strategy != MIRRORED
    return select(*columns).where(text(tables.WAITING), *mine)


def _checked(row: Row, now: float) -> Row:
    """Return the row, or raise OptimizationCoordinationError if it is not waiting to be claimed."""
    name = row["optimization_id"]
    if row["status"] != OptimizationStatus.CREATED.value or row["lease_node"] is not None:
        raise OptimizationCoordinationError(
            f"optimization {name!r} is not waiting to start: it is {row['status']}"
            + (f", held by {row['lease_node']}" if row["lease_node"] else "")
        )
    if row["strategy"] == MIRRORED:
        raise OptimizationCoordinationError(f"optimization {name!r} is a mirrored flow: run it in Prefect")
    if row["unmet"]:
        raise OptimizationCoordinationError(f"optimization {name!r} waits for {row['unmet']} others to complete first")
    if row["intent"] != Intent.RUN.value:
        raise OptimizationCoordinationError(
            f"optimization {name!r} cannot start: {Intent(row['intent']).verb} was requested; `o9 start` starts it"
        )
    return row


def announced_limit(unit: UnitOfWork, now: float) -> int:
    """Return the smallest limit that a living node has announced."""
    found = unit.connection.execute(select(NODE.c.info, NODE.c.heartbeat_at)).all()
    living = [info for text, at in found if at + (info := json.loads(text)).get("lease_seconds", 0.0) > now]
    return min((limit for info in living if isinstance(limit := info.get("limit"), int)), default=DEFAULT_LIMIT)


def _held_slots(unit: UnitOfWork) -> Mapping[tuple[str, str], int]:
    """Count the slots in use by type and strategy. Mirrored flows use none."""
    columns = OPTIMIZATION.c.optimization_type, OPTIMIZATION.c.strategy
    taken = select(*columns).where(OPTIMIZATION.c.lease_expires_at.is_not(None), OPTIMIZATION.c.strategy != MIRRORED)
    return Counter((kind, strategy) for kind, strategy in unit.connection.execute(taken))


@dataclass(frozen=True)
class AbandonClaim(OnOptimization[bool]):
    """Give up one of this node's claims, because its flow run died or was never created.

    The optimization is swept as if its node had died. With `died` False, that does not count as a death.
    """

    optimization_id: str
    fence: int
    node: str
    died: bool = True

    def apply(self, unit: UnitOfWork) -> bool:
        """Return whether the claim was still held."""
        mine = (OPTIMIZATION.c.optimization_id == self.optimization_id) & (OPTIMIZATION.c.fence == self.fence)
        return bool(free_leases(unit, mine, self.node, died=self.died))


@dataclass(frozen=True)
class RejectClaim(OnOptimization[None]):
    """Pause a claimed optimization that cannot start, and add the reason to `issues`. A resume tries again."""

    optimization_id: str
    fence: int
    node: str
    why: str

    def apply(self, unit: UnitOfWork) -> None:
        row = unit.existing(self.optimization_id)
        to = INTENDED_END.get(Intent(row["intent"]), OptimizationStatus.PAUSED)
        decision = decide_transition(OptimizationStatus(row["status"]), to, fence=self.fence, held_fence=row["fence"])
        if not decision.allowed:
            raise refusal(self.optimization_id, to, decision)
        if Intent(row["intent"]) is Intent.RUN:
            SetIntent(self.optimization_id, Intent.PAUSE, self.node).apply(unit)
        move(unit, row, Transition(self.optimization_id, to, Cause.NODE, self.why, self.node, issue=self.why))


@dataclass(frozen=True)
class ReleaseClaims(Operation[list[str]]):
    """Free all that `node` holds except `kept`: claims whose answer never arrived. Returns the freed ids."""

    node: str
    kept: Sequence[str]

    def apply(self, unit: UnitOfWork) -> list[str]:
        strays = (OPTIMIZATION.c.lease_node == self.node) & OPTIMIZATION.c.optimization_id.not_in(self.kept)
        return free_leases(unit, strays, self.node, died=True)


@dataclass(frozen=True)
class Heartbeat(Operation[float]):
    """Record that a node is alive, and renew all its leases.

    Expired leases are renewed too unless they were swept, so that an outage of the store costs no node its work.
    """

    node: str
    host: str
    pid: int
    process_started: float
    lease_seconds: float
    info: Mapping[str, Any] = field(default_factory=dict)

    def apply(self, unit: UnitOfWork) -> float:
        """Return the database's time of this heartbeat."""
        unit.flush()
        now = database_now(unit)
        values: Row = {
            "host": self.host, "pid": self.pid, "process_started": self.process_started, "heartbeat_at": now,
            "info": to_json({"lease_seconds": self.lease_seconds, **self.info}),
        }  # fmt: skip
        if not unit.connection.execute(update(NODE).where(NODE.c.node_id == self.node).values(**values)).rowcount:
            unit.connection.execute(insert(NODE).values(node_id=self.node, cursor=0, **values))
        mine = (OPTIMIZATION.c.lease_node == self.node) & OPTIMIZATION.c.lease_expires_at.is_not(None)
        unit.connection.execute(update(OPTIMIZATION).where(mine).values(lease_expires_at=now + self.lease_seconds))
        return now


@dataclass(frozen=True)
class Leave(Operation[list[str]]):
    """Remove a node that shuts down cleanly, and free what it still held. Returns the freed ids.

    Mirrored flows stay held: Prefect reports how they end, or their leases expire.
    """

    node: str

    def apply(self, unit: UnitOfWork) -> list[str]:
        mine = (OPTIMIZATION.c.lease_node == self.node) & (OPTIMIZATION.c.strategy != MIRRORED)
        swept = free_leases(unit, mine, self.node, died=False)
        unit.connection.execute(delete(NODE).where(NODE.c.node_id == self.node))
        return swept


@dataclass(frozen=True)
class Sweep(Operation[list[str]]):
    """Free all leases of `dead_nodes`, and those of `run_out` that were not renewed since. Returns the freed ids.

    An optimization that was running is queued for its next attempt, or fails after its last one. A pause or
    cancellation that the attempt did not carry out takes effect now.
    """

    node: str
    dead_nodes: Sequence[str] = ()
    run_out: Sequence[HeldLease] = ()

    def apply(self, unit: UnitOfWork) -> list[str]:
        found = free_leases(unit, OPTIMIZATION.c.lease_node.in_(self.dead_nodes), self.node, died=True)
        for lease in self.run_out:
            unrenewed = and_(
                OPTIMIZATION.c.optimization_id == lease.optimization_id,
                OPTIMIZATION.c.fence == lease.fence,
                OPTIMIZATION.c.lease_expires_at == lease.expires_at,
            )
            found += free_leases(unit, unrenewed, self.node, died=True)
        for node_id in self.dead_nodes:
            unit.connection.execute(delete(NODE).where(NODE.c.node_id == node_id))
        return found


def after_loss(row: Row, holder: str, swept_by: str, *, died: bool, evidence: str = "") -> Transition | None:
    """Return the transition of an optimization that lost its holder; None if it had not begun and may wait again.

    `row` already counts this death. A clean shutdown is no death and costs no attempt.
    """
    status, intent = OptimizationStatus(row["status"]), Intent(row["intent"])
    cause = Cause.SWEEPER if died else Cause.SHUTDOWN
    if row["strategy"] == MIRRORED:
        to = INTENDED_END.get(intent, OptimizationStatus.FAILED)  # O9 cannot run the flow again
        message = evidence or f"its process is gone ({holder})"
        return None if status in ENDED else Transition(
            row["optimization_id"], to, cause, message, swept_by, issue=message
        )  # fmt: skip
    if status not in ACTIVE:
        belated = at_rest(status, intent, claimed=False) if status is OptimizationStatus.CREATED else None
        message = f"{intent.value} was requested before it began; node {holder} is gone"
        return Transition(row["optimization_id"], belated, cause, message, swept_by) if belated else None
    evidence = evidence or f"its process {'died' if died else 'ended'} with node {holder}"
    issue = None
    if (to_rest := (INTENDED_END | RESTS).get(intent)) is not None:
        to = to_rest
        message = f"{evidence}; {intent.value} was requested"
    elif died and row["deaths"] >= row["max_attempts"]:
        to, message = OptimizationStatus.FAILED, f"{evidence}; it was the last of {row['max_attempts']} attempts"
        issue = message
    else:
        to, message = OptimizationStatus.CREATED, f"{evidence}; queued for the next attempt"
    ran_until = row["updated_at"] if died else None
    return Transition(row["optimization_id"], to, cause, message, swept_by, issue=issue, ran_until=ran_until)


def free_leases(
    unit: UnitOfWork, which: ColumnElement[bool], node: str, *, died: bool, evidence: str = ""
) -> list[str]:
    """Revoke the leases that match `which`, and move each optimization as `after_loss` says. Returns their ids."""
    unit.flush()
    held = OPTIMIZATION.c.lease_expires_at.is_not(None) & which
    found = unit.connection.execute(select(OPTIMIZATION.c.optimization_id).where(held)).scalars().all()
    for optimization_id in found:
        row = unit.existing(optimization_id)
        deaths = row["deaths"] + (died and OptimizationStatus(row["status"]) in ACTIVE)
        wanted = after_loss(row | {"deaths": deaths}, row["lease_node"], node, died=died, evidence=evidence)
        unit.update(row, lease_node=None, lease_expires_at=None, fence=row["fence"] + 1, deaths=deaths)
        if wanted:
            move(unit, row, wanted)
    return list(found)


def leases(connection: Connection) -> Leases:
    columns = [OPTIMIZATION.c[name] for name in ("optimization_id", "lease_node", "fence", "lease_expires_at")]
    found = connection.execute(select(*columns).where(OPTIMIZATION.c.lease_expires_at.is_not(None)))
    held = tuple(HeldLease(*row) for row in found)
    return Leases(database_time(connection), held)


def waiting(connection: Connection, limit: int = 1_000) -> list[Row]:
    """Return the first `limit` optimizations that wait for a slot, each with its deployment."""
    columns = OPTIMIZATION.c.optimization_id, OPTIMIZATION.c.deployment_id
    queued = select(*columns).where(text(tables.WAITING), OPTIMIZATION.c.strategy != MIRRORED)
    return rows(connection, queued.order_by(OPTIMIZATION.c.queue_key).limit(limit))


def database_now(unit: UnitOfWork) -> float:
    """Return the seconds since 1970 by the database's clock, on which nodes with different clocks agree."""
    return database_time(unit.connection)


def database_time(connection: Connection) -> float:
    """Return the same as `database_now`, outside a unit of work."""
    return float(connection.execute(_CLOCK[connection.dialect.name]).scalar_one())


def _first_waiting(dialect: str, more: str = "") -> TextClause:
    """Select the first of each type and strategy. The cost depends on the number of these, not on how many wait."""
    # Without the hint, SQLite reads everything that is created by the index of statuses, and sorts it.
    hint = "INDEXED BY ix_optimization_queue" if dialect == "sqlite" else ""
    return text(f"""
        SELECT first.optimization_id, first.queue_key, first.optimization_type, first.strategy
        FROM status_counter AS counter JOIN optimization AS first ON first.optimization_id = (
            SELECT optimization_id FROM optimization {hint}
            WHERE optimization_type = counter.optimization_type AND strategy = counter.strategy
              AND {tables.WAITING} {more}
            ORDER BY queue_key, optimization_id LIMIT 1)
        WHERE counter.status = 'created' AND counter.count > 0 AND counter.strategy <> '{MIRRORED}'
    """)


_FIRST_WAITING = {dialect: _first_waiting(dialect) for dialect in _CLOCK}
_WAITING_HERE = {
    dialect: _first_waiting(dialect, "AND (deployment_id IS NULL OR deployment_id NOT IN :elsewhere)").bindparams(
        bindparam("elsewhere", expanding=True)
    )
    for dialect in _CLOCK
}
