"""Claims queued optimizations, creates and runs a flow run for each, and records its end.

Contract. Flow runs are created one after the other: a Prefect server on SQLite answers 503 to transactions that
collide, and Prefect's client then sleeps for seconds. A claim whose flow run cannot be created is released. When a flow
run ends, its last state is recorded, even if no hook has done so, and its slot is freed.
"""

from __future__ import annotations

import asyncio
import logging
from collections import deque
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass
from uuid import UUID

import httpx
from prefect import get_client
from prefect.client.orchestration import PrefectClient
from prefect.client.schemas.objects import FlowRun, State
from prefect.exceptions import PrefectException
from prefect.flow_engine import run_flow_async

from o9.flows.hand_over import NoDeploymentError, hand_over
from o9.flows.lifecycle import optimization_lifecycle
from o9.flows.process import runs_in_node
from o9.flows.run_artifacts import run_name, run_tags
from o9.flows.run_view import show_result
from o9.mirror.recorder import record_state
from o9.mirror.run_registry import RUNS, LiveRun
from o9.model.errors import OptimizationCoordinationError, OptimizationError, OptimizationStoreError
from o9.model.loops import Backoff, ErrorBoundary, cancel_and_wait, is_exhausted, periodic, with_retries
from o9.model.states import ENDED, Intent, OptimizationStatus
from o9.model.urls import public_text
from o9.store import queries
from o9.store.optimizations.prefect_runs import CloseRun, RegisterRun
from o9.store.optimizations.transitions import Cause
from o9.store.queue.claims import AbandonClaim, Claim, Claimed, RejectClaim, ReleaseClaims
from o9.store.store import Store
from o9.tasks.attempt import CUTS_OFF, Attempt, Continuation, Guard, wait_for_store
from o9.tasks.trials import configured_runner

logger = logging.getLogger(__name__)
# A busy Prefect server answers 503 for a moment; its own client would first wait for two seconds.
CREATION_TRIES = 40
CREATION_PAUSE_SECONDS = 0.05
EXHAUSTED_SECONDS = 1.0
STOP_GRACE_SECONDS = 10.0


@dataclass(frozen=True)
class _Running:
    attempt: Attempt
    flow_run_id: UUID
    task: asyncio.Task[None]


@dataclass(eq=False, kw_only=True)
class Dispatcher:
    """Owned by one event loop. It looks for work every `interval` seconds, and at once after `wake`.

    on_failure: called when a flow run could not be created; Prefect's server may be gone, see `reconnect`. guard:
    called before a change of status, which it forbids by raising. blocked_reason: why nothing may be claimed now; empty
    if it may. only: the ids to claim; None: all.
    """

    store: Store
    node: str
    limit: int
    lease_seconds: float
    interval: float
    observe_seconds: float
    on_failure: Callable[[], None]
    guard: Guard
    blocked_reason: Callable[[], str]
    only: frozenset[str] | None = None

    def __post_init__(self) -> None:
        self._blocked = ""
        self._boundary = ErrorBoundary(logger, "starting what waits")
        self._unknown_deployments: set[str] = set()  # which this node's Prefect server does not have
        self._awaiting_hooks: dict[str, asyncio.Task[None]] = {}
        self._approved: deque[Claimed] = deque()
        self._running: dict[str, _Running] = {}
        self._showing: set[asyncio.Task[None]] = set()
        self._awake = asyncio.Event()
        self._loop_task: asyncio.Task[None] | None = None
        self._cursor = 0
        self._pass_failed = False
        self._client: PrefectClient | None = None

    @property
    def running(self) -> tuple[str, ...]:
        """The ids of the optimizations that run in this process."""
        return tuple(self._running)

    async def start(self) -> None:
        """Prefect's settings must already name a server. Raises OptimizationValidationError for O9_TASK_RUNNER."""
        configured_runner()
        self._cursor = await self.store.read_async(queries.last_change)
        await self._connect()

    async def reconnect(self) -> None:
        """Switch to the server that Prefect's settings name now. Running flows reconnect by themselves."""
        await self._disconnect()
        await self._connect()

    async def stop(self) -> None:
        """Claim nothing more; let running steps commit, and cut off those that exceed the grace period."""
        if self._loop_task is None:
            return
        await cancel_and_wait(self._loop_task, seconds=STOP_GRACE_SECONDS)
        for asking in list(self._awaiting_hooks.values()):
            asking.cancel()
        for running in self._running.values():
            running.attempt.stop_after_step()
        await self._all_ended(STOP_GRACE_SECONDS)
        for running in self._running.values():
            running.attempt.interrupt(Continuation.REQUEUE)
        if not await self._all_ended(STOP_GRACE_SECONDS):
            # Their leases are released, so their fences will be old.
            for name, running in self._running.items():
                logger.warning("abandoned the flow run of %s: it waits for Prefect, or its code does not end", name)
                running.task.cancel()
        if self._showing:
            await asyncio.wait(self._showing, timeout=STOP_GRACE_SECONDS)
        await self._disconnect()

    async def _all_ended(self, seconds: float) -> bool:
        tasks = [running.task for running in self._running.values()]
        return not tasks or not (await asyncio.wait(tasks, timeout=seconds))[1]

    def wake(self) -> None:
        self._awake.set()

    async def _connect(self) -> None:
        self._client = await get_client().__aenter__()
        # The task keeps the present Prefect settings, and so do the flow runs that it starts.
        passing = periodic(self._pass, self.interval, self._boundary, at_once=True, wake=self._awake)
        self._loop_task = asyncio.create_task(passing, name="o9-dispatch")

    async def _disconnect(self) -> None:
        if self._loop_task is None or self._client is None:
            return
        await cancel_and_wait(self._loop_task, seconds=STOP_GRACE_SECONDS)
        self._loop_task = None
        await self._client.__aexit__(None, None, None)
        self._client = None

    async def _pass(self) -> None:
        if self._boundary.error is not None:  # the last pass failed
            await asyncio.sleep(self.interval)
        try:
            await self._start_queued()
            await self._read_intents()
        except Exception as error:
            self._pass_failed = True
            if not isinstance(error, OptimizationStoreError):
                self.on_failure()
            raise

    async def _start_queued(self) -> None:
        if self._pass_failed:
            # A claim may have been written without its answer arriving: nobody runs what it holds.
            kept = (*self._running, *self._awaiting_hooks, *(claimed.optimization_id for claimed in self._approved))
            await self.store.write_async(ReleaseClaims(self.node, kept))
            self._pass_failed = False
        await self._start_approved()
        if not self._may_claim():
            return
        while claimed := await self._claim():
            logger.debug("claimed %s", claimed)
            # Workers run what belongs to a deployment, unless this process was started for it alone.
            is_workers = claimed.deployment_id is not None and self.only is None
            if is_workers or claimed.suspended_run_id is not None:
                await self._hand_over(claimed)
                continue
            name = claimed.optimization_id
            self._awaiting_hooks[name] = asyncio.create_task(self._ask_hooks(claimed), name=f"o9-ask-{name}")
            await asyncio.sleep(0)  # lets hooks that wait for nothing answer
            await self._start_approved()

    async def _claim(self) -> Claimed | None:
        return await self.store.write_async(
            Claim(self.node, self.limit, self.lease_seconds, only=self.only, elsewhere=tuple(self._unknown_deployments))
        )

    async def _hand_over(self, claimed: Claimed) -> None:
        assert self._client is not None
        try:
            async with self._released_on_error(claimed):
                await hand_over(self.store, self._client, claimed, self.node)
        except NoDeploymentError as error:
            assert claimed.deployment_id is not None
            self._unknown_deployments.add(claimed.deployment_id)
            logger.warning("%s; `reconcile-states` of its workers dispatches it", error)

    def _may_claim(self) -> bool:
        before, self._blocked = self._blocked, self.blocked_reason()
        if self._blocked and not before:
            logger.error("node %s starts nothing new: %s", self.node, self._blocked)
        elif before and not self._blocked:
            logger.warning("node %s starts optimizations again", self.node)
        return not self._blocked

    async def _ask_hooks(self, claimed: Claimed) -> None:
        """Call the `before` hooks without delaying other work; pause what they forbid, with the reason."""
        name = claimed.optimization_id
        try:
            for status in (OptimizationStatus.INITIALIZING, OptimizationStatus.RUNNING):
                await self.guard(name, status)
        except asyncio.CancelledError:  # its intent changed, or this node stops
            await self._release(claimed)
            raise
        except OptimizationError as error:
            logger.warning("%s is paused: %s", name, error)
            rejection = RejectClaim(name, claimed.fence, self.node, str(error))
            await wait_for_store(lambda: self.store.write_async(rejection), name)
        else:
            self._approved.append(claimed)
        finally:
            del self._awaiting_hooks[name]
            self.wake()

    async def _start_approved(self) -> None:
        while self._approved:
            claimed = self._approved.popleft()
            async with self._released_on_error(claimed):
                await self._start_run(claimed, await self._create_flow_run(claimed))

    async def _start_run(self, claimed: Claimed, flow_run: FlowRun) -> None:
        attempt = Attempt(self.store, claimed, self.node, observe_seconds=self.observe_seconds, guard=self.guard)
        live = attempt.live_run(flow_run.id)
        # Not awaited yet, so that one transaction takes both writes.
        registered = self.store.write_async(RegisterRun(live.run.run_id, claimed.optimization_id, claimed.attempt))
        await record_state(self.store, live, flow_run, flow_run.state, Cause.CLAIM)
        await registered
        RUNS.begin(live)
        task = asyncio.create_task(self._run(live, claimed, flow_run), name=f"o9-run-{claimed.optimization_id}")
        self._running[claimed.optimization_id] = _Running(attempt, flow_run.id, task)

    async def _run(self, live: LiveRun, claimed: Claimed, flow_run: FlowRun) -> None:
        name, died = claimed.optimization_id, True
        runs_in_node(optimization_lifecycle)
        try:
            state = await run_flow_async(
                optimization_lifecycle,
                flow_run=flow_run,
                parameters={"optimization_id": name, "spec": None, "retry_of": ""},
                return_type="state",
            )
            if isinstance(state, State):
                # Its hook has usually recorded it, but what is in the spool has not reached the store yet.
                if live.writer is None or live.writer.is_away or not RUNS.is_recorded(str(state.id)):
                    await wait_for_store(lambda: record_state(self.store, live, flow_run, state, Cause.NODE), name)
                if state.is_final():
                    await wait_for_store(lambda: self.store.write_async(CloseRun(live.run.run_id)), name)
        except Exception as error:  # the optimization must not be stuck, whatever ended the flow
            logger.exception("the flow run of %s ended with an internal error", name)
            if is_exhausted(error):
                died = False
                await asyncio.sleep(EXHAUSTED_SECONDS)  # holds its slot: the next attempt would end likewise
        finally:
            RUNS.end(flow_run.id)
        # This changes nothing if the flow's end was recorded; else it queues the optimization for its next attempt.
        try:
            if await self._release(claimed, died=died):
                logger.error("attempt %d of %s ended without a final state; it is queued again", claimed.attempt, name)
        finally:
            # Where the lease was lost, another attempt in this process may have taken its place.
            if (running := self._running.get(name)) is not None and running.flow_run_id == flow_run.id:
                del self._running[name]
            self.wake()
            self._show_result(name, flow_run)

    def _show_result(self, name: str, flow_run: FlowRun) -> None:
        """In a task of its own, because the slot is free already."""
        showing = asyncio.create_task(show_result(self.store, name, flow_run.id), name=f"o9-result-{name}")
        self._showing.add(showing)
        showing.add_done_callback(self._showing.discard)

    @asynccontextmanager
    async def _released_on_error(self, claimed: Claimed) -> AsyncIterator[None]:
        try:
            yield
        except BaseException:
            await self._release(claimed)
            raise

    async def _release(self, claimed: Claimed, *, died: bool = True) -> bool:
        """Release the claim, retrying until it is written; meanwhile this node would renew its lease."""
        abandon = AbandonClaim(claimed.optimization_id, claimed.fence, self.node, died)
        note = ErrorBoundary(logger, f"releasing {claimed}").note
        return await with_retries(
            lambda: self.store.write_async(abandon), Exception, Backoff(self.interval, self.interval), note
        )

    async def _create_flow_run(self, claimed: Claimed) -> FlowRun:
        assert self._client is not None
        client = self._client
        state = await self.store.read_async(queries.get, claimed.optimization_id)
        assert state is not None
        refusals = (httpx.HTTPStatusError, httpx.TransportError, PrefectException)

        def refused(error: Exception, failures: int) -> None:
            if failures == CREATION_TRIES:
                raise OptimizationCoordinationError(
                    f"Prefect's server would not create a flow run for {claimed.optimization_id!r}: "
                    f"{public_text(str(error))}"
                ) from error

        return await with_retries(
            lambda: client.create_flow_run(
                optimization_lifecycle,
                name=run_name(state, claimed.attempt),
                parameters={"optimization_id": claimed.optimization_id},
                tags=run_tags(state),
            ),
            refusals,
            Backoff(CREATION_PAUSE_SECONDS, CREATION_PAUSE_SECONDS),
            refused,
        )

    async def _read_intents(self) -> None:
        """Act on intents that other processes have recorded; the change feed names them."""
        if not self._running and not self._awaiting_hooks:
            self._cursor = await self.store.read_async(queries.last_change)
            return
        for change in await self.store.read_async(queries.changes, self._cursor):
            self._cursor = change["id"]
            name = change["optimization_id"]
            if change["kind"] not in ("intent", "ended") or not (name in self._running or name in self._awaiting_hooks):
                continue
            holding = await self.store.read_async(queries.holding, name)
            if holding is None:
                continue
            intent = Intent(holding.intent)
            if running := self._running.get(name):
                if OptimizationStatus(holding.status) in ENDED and intent not in CUTS_OFF:
                    running.attempt.interrupt(Continuation.REPLACED)  # it was ended by hand
                else:
                    running.attempt.apply_intent(intent)
            elif intent is not Intent.RUN and name in self._awaiting_hooks:
                self._awaiting_hooks[name].cancel()
