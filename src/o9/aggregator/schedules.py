"""The flows that run on a schedule: one list, for aggregators that run them inside and for deployments alike.

An aggregator claims each run through the store, by a lease (`o9.store.queue.leader_election`) that lasts as long as the
interval: so it happens once in an interval over all nodes, and neither a restart nor a node that dies makes it happen
early. Deployments know nothing of that; these flows do no harm when two of them meet, or meet what a node does all the
time.
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
    """`entrypoint`: the dotted path of a flow, as a worker imports it from any folder.

    every: None where it runs on request.
    name: of its own; left out, the flow's name with the parameters: `check-health`, `check-health limit=50`.
    after: how long after its start a node looks for the first time whether it is due.
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
        """Raises where there is no such flow, or a module that it needs is missing."""
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
# A program that ends within seconds starts none of them, and what is submitted at a node's start comes before them.
FIRST_AFTER, APART = timedelta(seconds=10), timedelta(seconds=5)


def in_nodes(health_check_interval: float = 30.0) -> tuple[Schedule, ...]:
    """What an aggregator runs by default, the health checks at its own interval.

    It delivers alerts and compares the record with Prefect all the time, and needs no flows for that. It prunes every
    hour, since each run of a flow leaves something in Prefect.
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
    """The same schedules. Raises OptimizationValidationError for one that does not recur, and for two of one name."""
    names = set()
    for schedule in schedules:
        if not isinstance(schedule, Schedule):
            raise OptimizationValidationError("schedules", f"{schedule!r:.80} is no Schedule")
        if schedule.every is None or schedule.every <= timedelta(0):
            raise OptimizationValidationError("schedules", f"{schedule.name!r} has no interval; give it one in `every`")
        if schedule.name in names:
            raise OptimizationValidationError(
                "schedules", f"two are called {schedule.name!r}: each run would count for both; give one a `name`"
            )
        names.add(schedule.name)
    return tuple(schedules)


def due_at(schedule: Schedule, held: Row | None, now: datetime) -> datetime:
    """When its next run can be claimed: at once where no lease says otherwise (`held`, see `leadership.leader`).

    Never later than an interval from now: a database whose clock is ahead must not hold it up.
    """
    assert schedule.every is not None
    if held is None:
        return now
    free = datetime.fromtimestamp(held["expires_at"], UTC)
    return min(max(now, free), now + schedule.every)
