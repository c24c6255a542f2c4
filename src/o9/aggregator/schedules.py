"""The flows that run on a schedule: one list, for aggregators that run them inside and for deployments alike.

Whose turn it is and when are pure decisions. Of the nodes that keep a schedule, the living one whose name sorts first
runs it: no claim has to be written, and a node that dies, leaves or hangs is followed by the next. When it ran last is
what Prefect says, so that neither a restart nor another node runs it early. Two nodes may both believe for a moment
that it is theirs: these flows do no harm when two of them meet.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from typing import Any

from prefect import Flow
from prefect.flows import load_flow_from_entrypoint

from o9.store.commit import Row

DEPLOYMENT, TAGS = "o9", ("o9",)  # how deployments of these flows are called: `compute-statistics/o9`
KEPT = "schedules"  # under which a node tells the others which ones it keeps


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

    def load(self) -> Flow[..., Any]:
        """Raises where there is no such flow, or a module that it needs is missing."""
        return load_flow_from_entrypoint(self.entrypoint, use_placeholder_flow=False)


SCHEDULES = (
    Schedule("o9.flows.lifecycle.optimization_lifecycle", None, in_nodes=False),
    Schedule("o9.flows.compute_statistics.compute_statistics", timedelta(minutes=5)),
    Schedule("o9.flows.check_health.check_health", timedelta(minutes=5)),
    Schedule("o9.flows.reconcile_states.reconcile_states", timedelta(minutes=1), in_nodes=False),
)
IN_NODES = tuple(schedule for schedule in SCHEDULES if schedule.in_nodes and schedule.every is not None)


def keeper(schedule: Schedule, nodes: Sequence[Row], dead: Collection[str], now: float) -> str | None:
    """The node that runs it: of those that keep it and give a sign of life, the first by name. None: nobody does.

    nodes: `Store.nodes()`; dead: those of which it is known without waiting for their signs of life.
    """
    return min(
        (
            node["node_id"]
            for node in nodes
            if schedule.name in node["info"].get(KEPT, ())
            and node["node_id"] not in dead
            and node["heartbeat_at"] + node["info"].get("lease_seconds", 0.0) > now
        ),
        default=None,
    )


def due_at(schedule: Schedule, last_started: datetime | None, now: datetime) -> datetime:
    """When it is to run: one interval after it was started last, and at once where that is past or it never was.

    Never later than an interval from now: a clock that is ahead elsewhere must not hold it up.
    """
    assert schedule.every is not None
    if last_started is None:
        return now
    return min(max(now, last_started + schedule.every), now + schedule.every)
