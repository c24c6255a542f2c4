"""The flows that run on a schedule: one list, for aggregators and for deployments.

An aggregator claims each run by a lease in the store (`o9.store.queue.leader_election`) that lasts as long as the
interval. So a flow runs once in an interval over all nodes, and neither a restart nor a dead node makes it run early.
Deployments do not use the lease: two runs of one of these flows may overlap without harm.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime, timedelta
from typing import Any

from prefect import Flow
from prefect.flows import load_flow_from_entrypoint

from o9.model.errors import OptimizationValidationError
from o9.model.loops import MIN_INTERVAL_SECONDS
from o9.store.core.unit import Row

TAGS = ("o9",)  # of deployments of these flows


@dataclass(frozen=True)
class Schedule:
    """When a flow runs.

    entrypoint: the dotted path of the flow. every: None for a flow that runs on request only. name: by default the
    flow's with the parameters: `check-health`, `check-health limit=50`. after: how long a node waits after its start
    before the first run.
    """

    entrypoint: str
    every: timedelta | None
    parameters: Mapping[str, Any] = field(default_factory=dict)
    name: str = ""
    after: timedelta = timedelta(0)

    def __post_init__(self) -> None:
        given = (f"{name}={value!r}" for name, value in sorted(self.parameters.items()))
        object.__setattr__(self, "name", self.name or " ".join((self.flow_name, *given)))

    @property
    def flow_name(self) -> str:
        return self.entrypoint.rpartition(".")[2].replace("_", "-")

    @property
    def lease(self) -> str:
        """The name of the lease by which its runs are claimed."""
        return f"schedule {self.name}"

    def load(self) -> Flow[..., Any]:
        """Import the flow. Raises where it, or a module that it needs, is missing."""
        return load_flow_from_entrypoint(self.entrypoint, use_placeholder_flow=False)


SCHEDULES = (
    Schedule("o9.flows.lifecycle.optimization_lifecycle", None),
    Schedule("o9.flows.compute_statistics.compute_statistics", timedelta(minutes=5)),
    Schedule("o9.flows.check_health.check_health", timedelta(minutes=5)),
    Schedule("o9.flows.prune_history.prune_history", timedelta(days=1)),
    Schedule("o9.flows.deliver_alerts.deliver_alerts", timedelta(minutes=1)),
    Schedule("o9.flows.reconcile_states.reconcile_states", timedelta(minutes=1)),
)
MOST_SECONDS = 366 * 86_400.0
# Programs that end within seconds run none of them, and what is submitted at a node's start is not delayed.
FIRST_AFTER, APART = timedelta(seconds=10), timedelta(seconds=5)


def in_nodes(health_check_interval: float = 30.0) -> tuple[Schedule, ...]:
    """What an aggregator runs by default, with the health checks at its own interval.

    It needs no flows to deliver alerts and to compare the record with Prefect. It prunes every hour, because each run
    of a flow leaves something in Prefect.
    """
    own = {
        "compute-statistics": timedelta(minutes=5),
        "check-health": timedelta(seconds=min(max(health_check_interval, MIN_INTERVAL_SECONDS), MOST_SECONDS)),
        "prune-history": timedelta(hours=1),
    }
    mine = [schedule for schedule in SCHEDULES if schedule.name in own]
    return tuple(
        replace(schedule, every=own[schedule.name], after=FIRST_AFTER + n * APART) for n, schedule in enumerate(mine)
    )


IN_NODES = in_nodes()


def checked_schedules(schedules: Sequence[Schedule]) -> tuple[Schedule, ...]:
    """The schedules, if all of them recur and have names of their own; else raises OptimizationValidationError."""
    names = set()
    for schedule in schedules:
        if not isinstance(schedule, Schedule):
            raise OptimizationValidationError("schedules", f"{schedule!r:.80} is not a Schedule")
        if schedule.every is None or schedule.every <= timedelta(0):
            raise OptimizationValidationError("schedules", f"{schedule.name!r} has no interval; give it one in `every`")
        if schedule.name in names:
            raise OptimizationValidationError(
                "schedules", f"two are called {schedule.name!r}: each run would count for both; give one a `name`"
            )
        names.add(schedule.name)
    return tuple(schedules)


def due_at(schedule: Schedule, held: Row | None, now: datetime) -> datetime:
    """When the next run can be claimed, given the lease that is `held` now, if any.

    Never later than an interval from now: a database whose clock is ahead must not delay it.
    """
    assert schedule.every is not None
    if held is None:
        return now
    free = datetime.fromtimestamp(held["expires_at"], UTC)
    return min(max(now, free), now + schedule.every)
