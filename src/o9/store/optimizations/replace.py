"""Changing a specification: all of it before the first attempt, afterwards only what no trial depends on."""

from __future__ import annotations

from dataclasses import dataclass

from o9.model.errors import OptimizationStateError
from o9.model.optimization import OptimizationState
from o9.model.specification import Role, keys_of
from o9.model.states import ACTIVE, ENDED, OptimizationStatus
from o9.store.core.column_types import state_to_row
from o9.store.core.unit import Operation, Row, UnitOfWork
from o9.store.optimizations.transitions import STATUSES, metadata_columns
from o9.store.queue.order import AGING_SECONDS_PER_PRIORITY
from o9.store.statistics.rollups import count_changed

# Names of fields and, as `metadata.seed`, of metadata keys: those that may always change, and those until the end.
WORDS = frozenset({"name", "description", *(f"metadata.{key}" for key in keys_of(Role.WORDS))})
LATER = WORDS | {"priority", *(f"metadata.{key}" for key in keys_of(Role.LATER))}
SEARCH = frozenset({
    "optimization_type", "total_steps", "parameters", "baseline_performance", "target_performance", "metadata",
})  # fmt: skip
REPLACEABLE = SEARCH | {"name", "description", "priority"}


@dataclass(frozen=True)
class Replace(Operation[None]):
    """Set the fields `changed` of an optimization to their values in `state`; metadata is replaced as a whole.

    content: the `content_hash` of the new specification.
    version: the version that `state` is based on.

    Raises OptimizationStateError if the version has changed, if an attempt is running, or for a field that may no
    longer change, naming it.
    """

    state: OptimizationState
    changed: frozenset[str]
    content: str
    version: int

    @property
    def targets(self) -> tuple[str, ...]:
        return (self.state.optimization_id,)

    def apply(self, unit: UnitOfWork) -> None:
        row = unit.existing(self.state.optimization_id)
        self._check(row)
        new = state_to_row(self.state)
        fields = fields_of(self.changed)
        changes: Row = {name: new[name] for name in fields}
        changes["content_hash"] = self.content
        if fields & SEARCH:  # the metadata and warnings that follow from it
            changes |= {name: new[name] for name in ("metadata", "warnings")}
            changes |= metadata_columns(self.state.metadata)
        if "priority" in self.changed:
            levels = int(row["priority"]) - int(new["priority"])
            changes["queue_key"] = row["queue_key"] + levels * AGING_SECONDS_PER_PRIORITY
        before = dict(row)
        unit.update(row, **changes)
        count_changed(unit, before, row)
        unit.change(self.state.optimization_id, "amended")

    def _check(self, row: Row) -> None:
        name, status = row["optimization_id"], STATUSES[row["status"]]
        if status in ACTIVE or row["lease_expires_at"] is not None:
            raise OptimizationStateError(f"optimization {name!r} is {status.value}: pause it, or cancel it, first")
        check_version(name, self.version, row["version"])
        check_changeable(self.changed, status, row["attempt"])


def fields_of(changed: frozenset[str]) -> frozenset[str]:
    """Return the fields to which these names belong: `metadata` for `metadata.seed`."""
    return frozenset(name.partition(".")[0] for name in changed)


def check_version(optimization_id: str, expected: int | None, version: int) -> None:
    """Raise OptimizationStateError if the version is not `expected`; None accepts any."""
    if expected is not None and expected != version:
        raise OptimizationStateError(
            f"optimization {optimization_id!r} was read at version {expected} and is at {version}: read it again"
        )


def check_changeable(changed: frozenset[str], status: OptimizationStatus, attempt: int) -> None:
    """Raise OptimizationStateError, naming the field, if one of `changed` may no longer change."""
    if status in ENDED and (fixed := changed - WORDS):
        why = f"the optimization has ended ({status.value}); submit a new one with this change, under another id"
        raise OptimizationStateError(f"{min(fixed)}: {why}")
    if attempt and (fixed := changed - LATER):
        why = "the optimization has begun, and its trials depend on this; cancel it, and submit a new one"
        raise OptimizationStateError(f"{min(fixed)}: {why}")
