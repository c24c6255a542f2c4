"""Whose attempt a flow run of Prefect's is; runs that O9 only watches; runs that are suspended until they are admitted.

A suspended run is one of a deployment, and Suspended in Prefect: it holds no worker, and becomes the next attempt when
it is resumed. The node that claims its optimization hands the lease over to it (`HandOver`), and the run takes it up
where it starts (`Begin`); should it never start, the lease runs out like any other.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass
from enum import Enum

from sqlalchemy import delete, update

from o9.model.errors import OptimizationConflictError
from o9.model.optimization import OptimizationState
from o9.model.states import ACTIVE, ENDED, FINAL_INTENTS, Intent, OptimizationStatus
from o9.store.core.unit import OnOptimization, Operation, UnitOfWork
from o9.store.optimizations.intents import SetIntent
from o9.store.optimizations.transitions import Create
from o9.store.queue.claims import MIRRORED, Claim, Claimed, database_now, free
from o9.store.schema.optimizations import OPTIMIZATION, PREFECT_RUN

ATTEMPT = "attempt"
PRUNED = ""  # the optimization of a run whose own is pruned; the run is still to be deleted in Prefect


@dataclass(frozen=True)
class RegisterRun(Operation[None]):
    """A flow run of Prefect's is an attempt at an optimization; a resumed run is one more attempt."""

    run_id: str
    optimization_id: str
    attempt: int
    kind: str = ATTEMPT

    def apply(self, unit: UnitOfWork) -> None:
        unit.upsert(PREFECT_RUN, [asdict(self) | {"is_open": 1}])


@dataclass(frozen=True)
class CloseRun(Operation[None]):
    """Everything that Prefect reports of this run is recorded."""

    run_id: str

    def apply(self, unit: UnitOfWork) -> None:
        unit.flush()
        unit.connection.execute(update(PREFECT_RUN).where(PREFECT_RUN.c.run_id == self.run_id).values(is_open=0))


@dataclass(frozen=True)
class ForgetRuns(Operation[None]):
    """These runs of pruned optimizations are gone in Prefect, or were never ours to delete there."""

    run_ids: tuple[str, ...]

    def apply(self, unit: UnitOfWork) -> None:
        unit.flush()
        pruned = (PREFECT_RUN.c.optimization_id == PRUNED, PREFECT_RUN.c.run_id.in_(self.run_ids))
        unit.connection.execute(delete(PREFECT_RUN).where(*pruned))


@dataclass(frozen=True)
class Adopt(Operation[Claimed]):
    """Record a flow run that O9 does not run as an optimization, held by `node` from the start.

    Adopting the same run again gives the same answer, and takes the lease again where the run had rested. A mirrored
    run never waits in the queue, takes no slot, and fails when its holder is lost.
    """

    state: OptimizationState
    run_id: str
    node: str
    lease_seconds: float

    @property
    def targets(self) -> tuple[str, ...]:
        return (self.state.optimization_id,)

    def apply(self, unit: UnitOfWork) -> Claimed:
        name = self.state.optimization_id
        row = unit.row(name)
        if row is not None:
            if row["strategy"] != MIRRORED:
                raise OptimizationConflictError("optimization_id", f"{name!r} is no mirrored flow; choose another id")
            if row["lease_node"] is None and OptimizationStatus(row["status"]) not in ENDED:
                unit.update(row, lease_node=self.node, lease_expires_at=database_now(unit) + self.lease_seconds)
            return Claimed(name, row["attempt"], row["fence"])
        Create(self.state, self.node).apply(unit)
        row = unit.existing(name)
        unit.update(
            row,
            attempt=1,
            fence=1,
            max_attempts=1,
            lease_node=self.node,
            lease_expires_at=database_now(unit) + self.lease_seconds,
        )
        RegisterRun(self.run_id, name, 1, MIRRORED).apply(unit)
        return Claimed(name, 1, 1)


@dataclass(frozen=True)
class LostRun(OnOptimization[bool]):
    """The process of a flow run is gone, according to Prefect; nothing happens where it is no longer the attempt."""

    run_id: str
    optimization_id: str
    attempt: int
    node: str
    evidence: str

    def apply(self, unit: UnitOfWork) -> bool:
        """Whether it was the attempt, and its lease is free now."""
        row = unit.existing(self.optimization_id)
        if row["attempt"] != self.attempt or row["lease_node"] is None:
            return False
        mine = OPTIMIZATION.c.optimization_id == self.optimization_id
        return bool(free(unit, mine, self.node, died=True, evidence=self.evidence))


@dataclass(frozen=True)
class SetSuspendedRun(OnOptimization[None]):
    """The next attempt is this run of Prefect's, once it is resumed; None: it is a new run again."""

    optimization_id: str
    run_id: str | None

    def apply(self, unit: UnitOfWork) -> None:
        unit.update(unit.existing(self.optimization_id), suspended_run_id=self.run_id)


@dataclass(frozen=True)
class HandOver(OnOptimization[bool]):
    """Give a claim to a suspended run; it has `seconds` to take it up."""

    optimization_id: str
    fence: int
    run_id: str
    seconds: float

    def apply(self, unit: UnitOfWork) -> bool:
        """Whether the claim was still there to give."""
        row = unit.existing(self.optimization_id)
        if row["fence"] != self.fence or row["lease_node"] is None:
            return False
        unit.update(row, lease_node=_holder(self.run_id), lease_expires_at=database_now(unit) + self.seconds)
        return True


class Admission(str, Enum):
    """Why a run that has started may go on, or may not."""

    TAKEN = "it is this run's turn"
    NO_ROOM = "all slots are taken"
    WAITS = "it waits for others to complete"
    CALLED = "its turn has come, and it is about to be handed over"
    HELD = "another run works on it"
    ENDED = "it has ended"


@dataclass(frozen=True)
class Begin(OnOptimization[tuple[Admission, Claimed | None]]):
    """A flow run that Prefect started wants to be the next attempt: take up what was handed over to it, or claim.

    Starting it is asking for it: what was held back or paused is queued again, by `by`. Where it is not its turn yet,
    the run is suspended: it becomes the attempt when its turn comes, and no other run does.
    """

    optimization_id: str
    run_id: str
    node: str
    lease_seconds: float
    by: str = "prefect"

    def apply(self, unit: UnitOfWork) -> tuple[Admission, Claimed | None]:
        row = unit.existing(self.optimization_id)
        if OptimizationStatus(row["status"]) in ENDED:
            return Admission.ENDED, None
        if row["lease_node"] == _holder(self.run_id):
            unit.update(
                row,
                fence=row["fence"] + 1,
                lease_node=self.node,
                lease_expires_at=database_now(unit) + self.lease_seconds,
                suspended_run_id=None,
            )
            return self._known(unit, Admission.TAKEN, Claimed(self.optimization_id, row["attempt"], row["fence"]))
        if OptimizationStatus(row["status"]) in ACTIVE:
            return Admission.HELD, None
        if row["lease_node"] is not None:
            return Admission.CALLED if row["suspended_run_id"] == self.run_id else Admission.HELD, None
        if Intent(row["intent"]) not in FINAL_INTENTS:
            SetIntent(self.optimization_id, Intent.RUN, self.by).apply(unit)
        claimed = None
        if not row["unmet"]:
            claimed = Claim(self.node, None, self.lease_seconds, self.optimization_id).apply(unit)
        unit.update(row, suspended_run_id=None if claimed else self.run_id)
        if claimed:
            return self._known(unit, Admission.TAKEN, claimed)
        return self._known(unit, Admission.WAITS if row["unmet"] else Admission.NO_ROOM, None)

    def _known(
        self, unit: UnitOfWork, admission: Admission, claimed: Claimed | None
    ) -> tuple[Admission, Claimed | None]:
        attempt = unit.existing(self.optimization_id)["attempt"]
        RegisterRun(self.run_id, self.optimization_id, attempt).apply(unit)
        return admission, claimed


def _holder(run_id: str) -> str:
    return f"prefect:{run_id}"
