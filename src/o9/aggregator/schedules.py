"""The flows that run on a schedule: one list, for aggregators that run them inside and for deployments alike.

An aggregator that is given schedules claims each run through the store, by a lease (`o9.store.leadership`) that lasts
as long as the interval: so it happens once in an interval over all nodes, and neither a restart nor a node that dies
makes it happen early. Deployments know nothing of that; these flows do no harm when two of them meet.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from typing import Any

from prefect import Flow
from prefect.flows import load_flow_from_entrypoint

from o9.store.unit import Row

DEPLOYMENT, TAGS = "o9", ("o9",)  # how deployments of these flows are called: `compute-statistics/o9`
CLAIMED_AT = " at "


@dataclass(frozen=True)
class Schedule:
    """`entrypoint`: the dotted path of a flow, as a worker imports it from any folder.

    every: None where it runs when somebody asks for it.
    in_nodes: False where an aggregator does the same all the time by itself.
    """

    entrypoint: str
    every: timedelta | None
    parameters: Mapping[str, Any] = field(default_factory=dict)
    in_nodes: bool = True

    @property
    def name(self) -> str:
        """The flow's name."""
        return self.entrypoint.rpartition(".")[2].replace("_", "-")

    @property
    def lease(self) -> str:
        """The name of the lease by which its runs are claimed."""
        return f"schedule {self.name}"

    def load(self) -> Flow[..., Any]:
        """Raises where there is no such flow, or a module that it needs is missing."""
        return load_flow_from_entrypoint(self.entrypoint, use_placeholder_flow=False)


SCHEDULES = (
    Schedule("o9.flows.lifecycle.optimization_lifecycle", None, in_nodes=False),
    Schedule("o9.flows.compute_statistics.compute_statistics", timedelta(minutes=5)),
    Schedule("o9.flows.check_health.check_health", timedelta(minutes=5)),
    Schedule("o9.flows.prune_history.prune_history", timedelta(days=1)),
    Schedule("o9.flows.deliver_alerts.deliver_alerts", timedelta(minutes=1), in_nodes=False),
    Schedule("o9.flows.reconcile_states.reconcile_states", timedelta(minutes=1), in_nodes=False),
)
IN_NODES = tuple(schedule for schedule in SCHEDULES if schedule.in_nodes and schedule.every is not None)


def due_at(schedule: Schedule, held: Row | None, now: datetime) -> datetime:
    """When its next run can be claimed: at once where no lease says otherwise (`held`, see `leadership.leader`).

    Never later than an interval from now: a database whose clock is ahead must not hold it up.
    """
    assert schedule.every is not None
    if held is None:
        return now
    free = datetime.fromtimestamp(held["expires_at"], UTC)
    return min(max(now, free), now + schedule.every)


def runner_of(held: Row | None) -> str | None:
    """The node that claimed its last run."""
    return held["node"].rpartition(CLAIMED_AT)[0] if held is not None and held["node"] else None


def claimant(node: str, now: datetime) -> str:
    """Whom a lease is given to: no node, which might renew it after a restart, but one claim of its."""
    return f"{node}{CLAIMED_AT}{now.isoformat()}"
