"""Hands claims over to flow runs that Prefect's workers start: a suspended run, or a new one of a deployment.

Contract. The holder of the claim calls `hand_over`: a node's dispatcher, or `dispatch_queued` for the scheduled flow
`reconcile_states`; neither runs such an attempt itself. A run that was handed a claim keeps it for RESERVED_SECONDS,
and `o9.mirror.reconciler` renews it until a worker starts the run.
"""

from __future__ import annotations

import asyncio
import logging
from uuid import UUID, uuid4

from prefect.client.orchestration import PrefectClient
from prefect.exceptions import ObjectNotFound

from o9.flows.run_artifacts import run_name, run_tags
from o9.lifecycle.heartbeat import WORKERS, claims, living_nodes
from o9.model.errors import OptimizationCoordinationError
from o9.model.settings import settings
from o9.store import queries
from o9.store.optimizations.prefect_runs import RESERVED_SECONDS, HandOver, SetSuspendedRun
from o9.store.queue.claims import AbandonClaim, Claim, Claimed
from o9.store.queue.leader_election import AcquireLeadership
from o9.store.store import Store

logger = logging.getLogger(__name__)
LIFECYCLE = "optimization-lifecycle"  # the name of the flow
DEFAULT_DEPLOYMENT = f"{LIFECYCLE}/{LIFECYCLE}"  # which `o9 deploy` makes
CALLED_SECONDS = 15.0  # for a run that waits in its own process, and asks for its turn every second
WORKERS_SECONDS = 180.0  # how long after a dispatch queued work counts as dispatched to workers


class NoDeploymentError(OptimizationCoordinationError):
    """Prefect's server has no such deployment."""


async def hand_over(
    store: Store, client: PrefectClient, claimed: Claimed, node: str, default: str | None = None
) -> None:
    """Make a Prefect run the attempt, or release the claim where a node must run the next attempt itself.

    default: the id of the deployment for optimizations without one, or whose own was deleted. Raises NoDeploymentError
    where the deployment was deleted and there is no default.
    """
    name, deployment_id = claimed.optimization_id, claimed.deployment_id
    if deployment_id is not None and not await _exists(client, deployment_id):
        if default is None:
            raise NoDeploymentError(f"the deployment of {name!r} is not on this Prefect server")
        deployment_id = None
    if claimed.suspended_run_id is not None and await _resumed(store, client, claimed, claimed.suspended_run_id):
        return
    deployment_id = deployment_id or default
    if deployment_id is None:
        await store.write_async(SetSuspendedRun(name, None))
        await store.write_async(AbandonClaim(name, claimed.fence, node))
        return
    state = await store.read_async(queries.get, name)
    assert state is not None
    flow_run = await client.create_flow_run_from_deployment(
        UUID(deployment_id),
        parameters={"optimization_id": name, "retry_of": ""},
        name=run_name(state, claimed.attempt),
        tags=run_tags(state),
        idempotency_key=uuid4().hex,  # Prefect's client repeats a request whose answer was lost
    )
    await store.write_async(HandOver(name, claimed.fence, str(flow_run.id), is_new=True))
    logger.info("created the flow run %s of a deployment for %s", flow_run.name, name)


async def _exists(client: PrefectClient, deployment_id: str) -> bool:
    try:
        await client.read_deployment(UUID(deployment_id))
    except ObjectNotFound:
        return False
    return True


async def _resumed(store: Store, client: PrefectClient, claimed: Claimed, run_id: str) -> bool:
    """Hand the claim over to the run that waits in Prefect; returns False where it no longer waits."""
    name, kind, seconds = claimed.optimization_id, "gone", RESERVED_SECONDS
    try:
        run = await client.read_flow_run(UUID(run_id))
        kind = run.state.type.value if run.state is not None else "PENDING"
        if run.state is not None and kind == "PAUSED" and not run.state.state_details.pause_reschedule:
            kind = "paused in a process that has ended"  # a resume would mark it as running, and start nothing
    except ObjectNotFound:
        pass
    if kind == "RUNNING":  # it waits in its own process, unless that did not answer the last call
        known, seconds = await store.read_async(queries.prefect_run, run_id), CALLED_SECONDS
        if known is None or known["attempt"] < claimed.attempt - 1:
            kind = "dead"
    # Scheduled or pending: a person resumed it, or a worker is starting it.
    if kind not in ("PAUSED", "SCHEDULED", "PENDING", "RUNNING"):
        logger.warning("the flow run %s of %s is %s, so a new one is created", run_id, name, kind.lower())
        return False
    await store.write_async(HandOver(name, claimed.fence, run_id, seconds))
    if kind == "PAUSED":
        await client.resume_flow_run(UUID(run_id))
        logger.info("resumed the flow run %s for %s", run.name, name)
    return True


async def dispatch_queued(store: Store, client: PrefectClient, node: str) -> list[str]:
    """Hand over what waits for workers: everything of deployments, and what no living node claims. Returns the ids."""
    await store.write_async(AcquireLeadership(WORKERS, WORKERS, WORKERS_SECONDS))
    alive = await asyncio.to_thread(living_nodes, store)
    waiting = [
        row["optimization_id"]
        for row in await store.read_async(queries.waiting)
        if row["deployment_id"] is not None or not any(claims(info, row["optimization_id"]) for info in alive.values())
    ]
    if not waiting:
        return []
    try:
        default = str((await client.read_deployment_by_name(DEFAULT_DEPLOYMENT)).id)
    except ObjectNotFound:
        default = None
    handed_over = []
    while claimed := await store.write_async(Claim(node, None, settings().lease_seconds, only=waiting)):
        waiting.remove(claimed.optimization_id)
        try:
            await hand_over(store, client, claimed, node, default)
        except BaseException:
            await store.write_async(AbandonClaim(claimed.optimization_id, claimed.fence, node, died=False))
            raise
        handed_over.append(claimed.optimization_id)
    return handed_over
