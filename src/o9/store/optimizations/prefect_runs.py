"""Prefect flow runs: which attempt each one is, mirrored runs, and deployment runs that wait for their turn.

A run that waits is suspended in Prefect, or was created there for a waiting optimization; it occupies no worker. The
node that claims the optimization hands the lease over to the run (`HandOver`), and the run takes it when it starts
(`BeginRun`). If the worker cannot run it, the optimization is queued again (`RejectRun`). If the run never starts, the
lease expires like any other.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass
from enum import Enum

from sqlalchemy import delete, select, update

from o9.model.errors import OptimizationConflictError
from o9.model.optimization import OptimizationState
from o9.model.states import ACTIVE, ENDED, FINAL_INTENTS, Intent, OptimizationStatus
from o9.store.core.unit import OnOptimization, Operation, UnitOfWork
from o9.store.optimizations.intents import HANDED_OVER, SetIntent
from o9.store.optimizations.transitions import Cause, Create, Transition, append_issue
from o9.store.queue.claims import MIRRORED, Claim, Claimed, database_now, free_leases
from o9.store.queue.order import queue_key
from o9.store.schema.optimizations import OPTIMIZATION, PREFECT_RUN

ATTEMPT = "attempt"
RESERVED_SECONDS = 300.0  # a worker polls every 15 s, and then starts a process or a container
MAX_REJECTIONS = 10
NO_ATTEMPT = 0
PRUNED = ""  # the optimization id of runs whose optimization was pruned, until they are deleted in Prefect


@dataclass(frozen=True)
class RegisterRun(Operation[None]):
    """Record which attempt a Prefect flow run is. A resumed run is a new attempt."""

    run_id: str
    optimization_id: str
    attempt: int
    kind: str = ATTEMPT

    def apply(self, unit: UnitOfWork) -> None:
        unit.upsert(PREFECT_RUN, [asdict(self) | {"is_open": 1}])


@dataclass(frozen=True)
class CloseRun(Operation[None]):
    """Record that all states of this run are recorded, so that it is no longer polled."""

    run_id: str

    def apply(self, unit: UnitOfWork) -> None:
        unit.flush()
        unit.connection.execute(update(PREFECT_RUN).where(PREFECT_RUN.c.run_id == self.run_id).values(is_open=0))


@dataclass(frozen=True)
class DeletePrunedRuns(Operation[None]):
    """Delete the records of pruned optimizations' runs, once the runs are deleted in Prefect or are not ours to."""

    run_ids: tuple[str, ...]

    def apply(self, unit: UnitOfWork) -> None:
        unit.flush()
        pruned = (PREFECT_RUN.c.optimization_id == PRUNED, PREFECT_RUN.c.run_id.in_(self.run_ids))
        unit.connection.execute(delete(PREFECT_RUN).where(*pruned))


@dataclass(frozen=True)
class Adopt(Operation[Claimed]):
    """Record a mirrored flow run as an optimization that `node` holds from the start.

    Adopting a run again gives the same answer; it renews the lease of a run that was paused. A mirrored run never
    waits in the queue, uses no slot, and fails if its holder is lost.
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
                raise OptimizationConflictError("optimization_id", f"{name!r} is not mirrored; choose another id")
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
class CreateRefused(Operation[None]):
    """Record a refused submission of a flow run as a failed optimization; `why` is the reason."""

    state: OptimizationState
    why: str
    node: str
    run_id: str

    @property
    def targets(self) -> tuple[str, ...]:
        return (self.state.optimization_id,)

    def apply(self, unit: UnitOfWork) -> None:
        name = self.state.optimization_id
        Create(self.state, self.node, hold=True).apply(unit)
        Transition(
            name, OptimizationStatus.FAILED, Cause.SUBMISSION, self.why, self.node, issue=self.why,
            prefect_run_id=self.run_id,
        ).apply(unit)  # fmt: skip
        RegisterRun(self.run_id, name, NO_ATTEMPT).apply(unit)


@dataclass(frozen=True)
class RecordLostRun(OnOptimization[bool]):
    """Free the lease of a flow run whose process is gone according to Prefect, if it is still the attempt."""

    run_id: str
    optimization_id: str
    attempt: int
    node: str
    evidence: str

    def apply(self, unit: UnitOfWork) -> bool:
        """Return whether it was the attempt and held a lease."""
        row = unit.existing(self.optimization_id)
        if row["attempt"] != self.attempt or row["lease_node"] is None:
            return False
        mine = OPTIMIZATION.c.optimization_id == self.optimization_id
        return bool(free_leases(unit, mine, self.node, died=True, evidence=self.evidence))


@dataclass(frozen=True)
class SetSuspendedRun(OnOptimization[None]):
    """Set the Prefect run that is resumed for the next attempt; None means a new run."""

    optimization_id: str
    run_id: str | None

    def apply(self, unit: UnitOfWork) -> None:
        unit.update(unit.existing(self.optimization_id), suspended_run_id=self.run_id)


@dataclass(frozen=True)
class HandOver(OnOptimization[bool]):
    """Hand a claim over to a run, which has `seconds` to take it; `is_new` if it was created for this attempt."""

    optimization_id: str
    fence: int
    run_id: str
    seconds: float = RESERVED_SECONDS
    is_new: bool = False

    def apply(self, unit: UnitOfWork) -> bool:
        """Return whether the claim was still held."""
        row = unit.existing(self.optimization_id)
        if row["fence"] != self.fence or row["lease_node"] is None:
            return False
        until = database_now(unit) + self.seconds
        unit.update(row, lease_node=_holder(self.run_id), lease_expires_at=until, suspended_run_id=self.run_id)
        if self.is_new:
            RegisterRun(self.run_id, self.optimization_id, row["attempt"]).apply(unit)
        return True


@dataclass(frozen=True)
class RenewHandOver(OnOptimization[None]):
    """Renew the lease of a run that no worker has started yet."""

    optimization_id: str
    run_id: str

    def apply(self, unit: UnitOfWork) -> None:
        row = unit.existing(self.optimization_id)
        if row["lease_node"] == _holder(self.run_id):
            unit.update(row, lease_expires_at=database_now(unit) + RESERVED_SECONDS)


@dataclass(frozen=True)
class RejectRun(OnOptimization[bool]):
    """Reject a run that cannot be the next attempt, and move its optimization to the end of the queue.

    After MAX_REJECTIONS that count, the optimization is paused. `issues` gets `why` at the first and the last of them.
    `fence` is that of the run's claim, if it has begun. `counts` is False if the worker is not at fault.
    """

    optimization_id: str
    run_id: str
    why: str
    node: str
    fence: int | None = None
    counts: bool = True

    def apply(self, unit: UnitOfWork) -> bool:
        """Return whether the run held the claim. If it did not, it only loses its place as the next attempt."""
        row = unit.existing(self.optimization_id)
        if row["suspended_run_id"] == self.run_id:
            unit.update(row, suspended_run_id=None)
        held = row["lease_node"] == _holder(self.run_id) if self.fence is None else row["fence"] == self.fence
        if not held or row["lease_node"] is None:
            return False
        rejections = row["rejections"] + self.counts
        last = rejections >= MAX_REJECTIONS and Intent(row["intent"]) is Intent.RUN
        if last:
            SetIntent(self.optimization_id, Intent.PAUSE, self.node).apply(unit)
        unit.update(row, rejections=0 if last else rejections, queue_key=queue_key(unit.now, row["priority"]))
        if last or (self.counts and rejections == 1):
            append_issue(unit, self.optimization_id, f"paused: {self.why}" if last else self.why)
        RegisterRun(self.run_id, self.optimization_id, NO_ATTEMPT).apply(unit)  # so its states move nothing
        mine = OPTIMIZATION.c.optimization_id == self.optimization_id
        free_leases(unit, mine, self.node, died=False, evidence=self.why)
        return True


class Admission(str, Enum):
    """Whether a run that has started may continue, and why not."""

    TAKEN = "it is this run's turn"
    NO_ROOM = "all slots are taken"
    WAITS = "it waits for others to complete"
    CALLED = "its turn has come, and it is about to be handed over"
    HELD = "another run works on it"
    ENDED = "it has ended"


@dataclass(frozen=True)
class BeginRun(OnOptimization[tuple[Admission, Claimed | None]]):
    """Make a flow run that Prefect started the next attempt: it takes the claim handed over to it, or claims.

    Starting the run sets the intent to run, with `by` as its author, so a paused or held optimization is queued again.
    If it cannot be claimed yet, the run is recorded as the one to resume when its turn comes. From then on, the
    optimization's attempts are runs of `deployment_id`.
    """

    optimization_id: str
    run_id: str
    node: str
    lease_seconds: float
    deployment_id: str | None = None
    by: str = "prefect"

    def apply(self, unit: UnitOfWork) -> tuple[Admission, Claimed | None]:
        row = unit.existing(self.optimization_id)
        status, holder = OptimizationStatus(row["status"]), row["lease_node"]
        if status in ENDED:
            return Admission.ENDED, None
        if holder == _holder(self.run_id):
            unit.update(
                row,
                deployment_id=self.deployment_id,
                fence=row["fence"] + 1,
                lease_node=self.node,
                lease_expires_at=database_now(unit) + self.lease_seconds,
                suspended_run_id=None,
            )
            return self._register(unit, Admission.TAKEN, Claimed(self.optimization_id, row["attempt"], row["fence"]))
        if status in ACTIVE:
            return Admission.HELD, None
        if holder is not None:
            # The node that has just claimed it may have created this run, and be about to hand the claim over.
            is_new = not holder.startswith(HANDED_OVER) and not self._is_registered(unit)
            is_called = is_new or row["suspended_run_id"] == self.run_id
            return Admission.CALLED if is_called else Admission.HELD, None
        if Intent(row["intent"]) not in FINAL_INTENTS:
            SetIntent(self.optimization_id, Intent.RUN, self.by).apply(unit)
        claimed = None
        if not row["unmet"]:
            claimed = Claim(self.node, None, self.lease_seconds, self.optimization_id).apply(unit)
        waiting = None if claimed else self.run_id
        unit.update(row, suspended_run_id=waiting, deployment_id=self.deployment_id)
        if claimed:
            return self._register(unit, Admission.TAKEN, claimed)
        return self._register(unit, Admission.WAITS if row["unmet"] else Admission.NO_ROOM, None)

    def _is_registered(self, unit: UnitOfWork) -> bool:
        unit.flush()
        found = select(PREFECT_RUN.c.run_id).where(PREFECT_RUN.c.run_id == self.run_id)
        return unit.connection.execute(found).first() is not None

    def _register(
        self, unit: UnitOfWork, admission: Admission, claimed: Claimed | None
    ) -> tuple[Admission, Claimed | None]:
        attempt = unit.existing(self.optimization_id)["attempt"]
        RegisterRun(self.run_id, self.optimization_id, attempt).apply(unit)
        return admission, claimed


def _holder(run_id: str) -> str:
    return HANDED_OVER + run_id
