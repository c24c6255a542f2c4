"""Every flow of O9's that Prefect can start, deployed and run from this one process: `python deployments/serve.py`.

The list is `o9.aggregator.schedules.SCHEDULES`. Runs are processes below this one; they find the record by O9_STORE_URL
and Prefect's server by PREFECT_API_URL, which must both be set. Ctrl-C ends it, and pauses the schedules until the next
start.
"""

from __future__ import annotations

import os
import sys

from prefect import serve
from prefect.client.schemas.objects import ConcurrencyLimitConfig, ConcurrencyLimitStrategy
from prefect.deployments.runner import RunnerDeployment
from prefect.types.entrypoint import EntrypointType

from o9.aggregator.schedules import DEPLOYMENT, SCHEDULES, TAGS, Schedule


def main() -> None:
    missing = [name for name in ("PREFECT_API_URL", "O9_STORE_URL") if not os.environ.get(name)]
    if missing:
        sys.exit(f"set {' and '.join(missing)}: the server that starts the flows, and the record that they work on")
    serve(*map(deployed, SCHEDULES))


def deployed(schedule: Schedule) -> RunnerDeployment:
    """The deployment of one schedule, by its module: a run imports it, whatever folder it begins in."""
    one_at_a_time = ConcurrencyLimitConfig(limit=1, collision_strategy=ConcurrencyLimitStrategy.CANCEL_NEW)
    deployment = schedule.load().to_deployment(
        name=DEPLOYMENT,
        tags=list(TAGS),
        interval=schedule.every,
        parameters=dict(schedule.parameters),
        concurrency_limit=None if schedule.every is None else one_at_a_time,
        entrypoint_type=EntrypointType.MODULE_PATH,
    )
    assert isinstance(deployment, RunnerDeployment)
    return deployment


if __name__ == "__main__":
    main()
