"""Who may work on what: nodes, claims, leases, and the sweep that frees what the dead held.

A lease is measured by the database's clock, in seconds. A claim raises the fence, so that whoever held the
optimization before can write no more. At most `limit` leases are alive at once, counted over all nodes.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from sqlalchemy import ColumnElement, delete, func, or_, select, text, update
from sqlalchemy.dialects import postgresql, sqlite

from o9.model.errors import OptimizationCoordinationError
from o9.model.states import ACTIVE, Intent, OptimizationStatus
from o9.store import tables
from o9.store.codec import to_json
from o9.store.commit import OPTIMIZATION, Row, UnitOfWork
from o9.store.transitions import Cause, Transition, at_rest, existing, move

NODE = tables.table_of(tables.Node)
_CLOCK = {
    "sqlite": text("SELECT (julianday('now') - 2440587.5) * 86400.0"),
    "postgresql": text("SELECT extract(epoch FROM clock_timestamp())"),
}


@dataclass(frozen=True)
class Claimed:
    """The right to run one attempt, until the lease runs out."""

    optimization_id: str
    attempt: int
    fence: int


@dataclass(frozen=True)
class Claim:
    """Take the first of the queue while fewer than `limit` leases are alive, or the one named, whatever `limit` is.

    Answers None where nothing waits or all slots are taken. Raises OptimizationCoordinationError where the one
    named does not wait.
    """

    node: str
    limit: int
    lease_seconds: float
    optimization_id: str | None = None

    targets: tuple[str, ...] = ()

    def apply(self, unit: UnitOfWork) -> Claimed | None:
        unit.flush()
        now = database_now(unit)
        alive = select(func.count()).select_from(OPTIMIZATION).where(OPTIMIZATION.c.lease_expires_at > now)
        if self.optimization_id is None and unit.connection.execute(alive).scalar_one() >= self.limit:
            return None
        found = self.optimization_id or unit.connection.execute(_FIRST_WAITING[unit.connection.dialect.name]).scalar()
        if found is None:
            return None
        row = existing(unit, found)
        lease_lives = row["lease_expires_at"] is not None and row["lease_expires_at"] > now
        if row["status"] != OptimizationStatus.CREATED.value or lease_lives:
            raise OptimizationCoordinationError(
                f"optimization {found!r} does not wait for a start: it is {row['status']}"
                + (f", held by {row['lease_node']}" if row["lease_node"] else "")
            )
        unit.update(
            row,
            attempt=row["attempt"] + 1,
            fence=row["fence"] + 1,
            lease_node=self.node,
            lease_expires_at=now + self.lease_seconds,
            prefect_state_at=None,
        )
        return Claimed(found, row["attempt"], row["fence"])


@dataclass(frozen=True)
class Lost:
    """A claim of this node's came to nothing (no flow run, or one that died): as if the node had, for this one only."""

    optimization_id: str
    fence: int
    node: str

    @property
    def targets(self) -> tuple[str, ...]:
        return (self.optimization_id,)

    def apply(self, unit: UnitOfWork) -> bool:
        """Whether it still held the optimization."""
        mine = (OPTIMIZATION.c.optimization_id == self.optimization_id) & (OPTIMIZATION.c.fence == self.fence)
        return bool(_free(unit, mine, self.node, died=True))


@dataclass(frozen=True)
class Heartbeat:
    """Say that a node lives, and renew all its leases that have not run out."""

    node: str
    host: str
    pid: int
    process_started: float
    lease_seconds: float
    info: Mapping[str, Any] = field(default_factory=dict)

    targets: tuple[str, ...] = ()

    def apply(self, unit: UnitOfWork) -> float:
        """The database's time of this heartbeat."""
        unit.flush()
        now = database_now(unit)
        values: Row = {
            "host": self.host, "pid": self.pid, "process_started": self.process_started, "heartbeat_at": now,
            "info": to_json(dict(self.info)),
        }  # fmt: skip
        dialect = sqlite if unit.connection.dialect.name == "sqlite" else postgresql
        upsert = dialect.insert(NODE).values(node_id=self.node, cursor=0, **values)
        unit.connection.execute(upsert.on_conflict_do_update(index_elements=["node_id"], set_=values))
        mine = (OPTIMIZATION.c.lease_node == self.node) & (OPTIMIZATION.c.lease_expires_at > now)
        unit.connection.execute(update(OPTIMIZATION).where(mine).values(lease_expires_at=now + self.lease_seconds))
        return now


@dataclass(frozen=True)
class Leave:
    """A node ends in good order; what it still held is swept as if its lease had run out."""

    node: str

    targets: tuple[str, ...] = ()

    def apply(self, unit: UnitOfWork) -> list[str]:
        swept = _free(unit, OPTIMIZATION.c.lease_node == self.node, self.node, died=False)
        unit.connection.execute(delete(NODE).where(NODE.c.node_id == self.node))
        return swept


@dataclass(frozen=True)
class Sweep:
    """Free what the dead held: leases that ran out, and those of nodes known to be dead.

    What was at work is queued for its next attempt, or has failed where it had its last one; a wish to cancel or
    pause that came too late for the attempt is carried out. Answers with the ids that were freed.
    """

    node: str
    dead_nodes: Sequence[str] = ()

    targets: tuple[str, ...] = ()

    def apply(self, unit: UnitOfWork) -> list[str]:
        unit.flush()
        now = database_now(unit)
        dead = or_(OPTIMIZATION.c.lease_expires_at <= now, OPTIMIZATION.c.lease_node.in_(self.dead_nodes))
        found = _free(unit, dead, self.node, died=True)
        for node_id in self.dead_nodes:
            unit.connection.execute(delete(NODE).where(NODE.c.node_id == node_id))
        return found


def after_loss(row: Row, holder: str, swept_by: str, *, died: bool) -> Transition | None:
    """What becomes of an optimization whose holder is gone; None where it had not begun and may wait again.

    `row` counts this death already. A node that left in good order did not die, and costs nobody an attempt.
    """
    status = OptimizationStatus(row["status"])
    if status not in ACTIVE:
        to = _belated(row)
        message = f"{row['intent']}, before it began; node {holder} is gone"
        return Transition(row["optimization_id"], to, Cause.SWEEPER, message, swept_by) if to else None
    evidence = f"attempt {row['attempt']} {'died' if died else 'ended'} with node {holder}"
    issue = None
    if row["intent"] == Intent.CANCEL.value:
        to, message = OptimizationStatus.CANCELLED, f"{evidence}; it was to be cancelled"
    elif row["intent"] == Intent.PAUSE.value:
        to, message = OptimizationStatus.PAUSED, f"{evidence}; it was to be paused"
    elif died and row["deaths"] >= row["max_attempts"]:
        to, message = OptimizationStatus.FAILED, f"{evidence}; it was the last of {row['max_attempts']} lives"
        issue = message
    else:
        to, message = OptimizationStatus.CREATED, f"{evidence}; queued for the next attempt"
    ran_until = row["updated_at"] if died else None
    return Transition(row["optimization_id"], to, Cause.SWEEPER, message, swept_by, issue=issue, ran_until=ran_until)


def _free(unit: UnitOfWork, which: ColumnElement[bool], node: str, *, died: bool) -> list[str]:
    unit.flush()
    held = OPTIMIZATION.c.lease_expires_at.is_not(None) & which
    found = unit.connection.execute(select(OPTIMIZATION.c.optimization_id).where(held)).scalars().all()
    for optimization_id in found:
        row = existing(unit, optimization_id)
        deaths = row["deaths"] + (died and OptimizationStatus(row["status"]) in ACTIVE)
        wanted = after_loss(row | {"deaths": deaths}, row["lease_node"], node, died=died)
        unit.update(row, lease_node=None, lease_expires_at=None, fence=row["fence"] + 1, deaths=deaths)
        if wanted:
            move(unit, row, wanted)
    return list(found)


def _belated(row: Row) -> OptimizationStatus | None:
    """Where a wish takes what was claimed and never began, now that nobody holds it; None: it waits again."""
    status = OptimizationStatus(row["status"])
    return at_rest(status, Intent(row["intent"]), claimed=False) if status is OptimizationStatus.CREATED else None


def database_now(unit: UnitOfWork) -> float:
    """Seconds since 1970 by the database's own clock, so that nodes whose clocks differ agree."""
    return float(unit.connection.execute(_CLOCK[unit.connection.dialect.name]).scalar_one())


_WAITING = "status = 'created' AND intent = 'run' AND lease_expires_at IS NULL"  # the words of the queue's index
_FIRST_WAITING = {
    # Left alone, SQLite reads all that are created by the index of statuses, and sorts them.
    dialect: text(
        f"SELECT optimization_id FROM optimization {hint} WHERE {_WAITING} ORDER BY queue_key, optimization_id LIMIT 1"
    )
    for dialect, hint in (("sqlite", "INDEXED BY ix_optimization_queue"), ("postgresql", ""))
}
