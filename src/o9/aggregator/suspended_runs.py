"""Flow runs that are suspended in Prefect until they are admitted: hands the claim over to the run, and resumes it."""

from __future__ import annotations

import logging
from uuid import UUID

from prefect.client.orchestration import PrefectClient
from prefect.exceptions import ObjectNotFound

from o9.store.optimizations.prefect_runs import HandOver, SetSuspendedRun
from o9.store.queue.claims import AbandonClaim, Claimed
from o9.store.store import Store

logger = logging.getLogger(__name__)
# A worker looks for work every 15 s and starts a process or a container for it; the slot waits that long.
RESERVED_SECONDS = 300.0
# A run that waits in a process of its own looks every second.
CALLED_SECONDS = 15.0


class SuspendedRuns:
    """Belongs to one dispatcher. `client` is asked for anew each time, since Prefect's server may be replaced."""

    def __init__(self, store: Store, node: str) -> None:
        self._store = store
        self._node = node
        self._called: set[str] = set()

    async def resume(self, client: PrefectClient, claimed: Claimed) -> None:
        """Make the suspended run the attempt; where there is none any more, the next attempt is a new run.

        Raises httpx's errors where Prefect does not answer; the claim is to be given back then.
        """
        run_id = claimed.parked_run_id
        assert run_id is not None
        name = claimed.optimization_id
        seconds = CALLED_SECONDS
        try:
            run = await client.read_flow_run(UUID(run_id))
            kind = run.state.type.value if run.state is not None else "PENDING"
            if kind == "PAUSED":
                await self._store.write_async(HandOver(name, claimed.fence, run_id, RESERVED_SECONDS))
                await client.resume_flow_run(UUID(run_id))
                logger.info("resumed the flow run %s for %s", run.name, name)
                return
        except ObjectNotFound:
            kind = "gone"
        if kind in ("SCHEDULED", "PENDING"):
            seconds = RESERVED_SECONDS  # a person resumed it, and a worker is about to start it
        elif kind != "RUNNING" or run_id in self._called:
            # Ended, deleted, or called before without an answer: its process is gone.
            logger.warning("the flow run %s that was to run %s is %s; a new one will", run_id, name, kind.lower())
            await self._store.write_async(SetSuspendedRun(name, None))
            await self._store.write_async(AbandonClaim(name, claimed.fence, self._node))
            return
        if kind == "RUNNING":
            self._called.add(run_id)
        await self._store.write_async(HandOver(name, claimed.fence, run_id, seconds))
