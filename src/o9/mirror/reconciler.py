"""Compares the record with Prefect's: records missing states, and ends dead runs in Prefect.

Contract. It compares every run that is open in the store; an error in one is logged, and does not stop the others. It
may run at any time, also while another node reconciles. It never ends a run that may be alive: see
`o9.mirror.decisions`. Raises PrefectAwayError where Prefect does not answer at all.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable, Sequence
from contextlib import nullcontext
from dataclasses import dataclass, field, replace
from datetime import timedelta
from typing import Any, TypeVar
from uuid import UUID

import httpx
from prefect import get_client
from prefect.client.orchestration import PrefectClient
from prefect.client.schemas import filters
from prefect.client.schemas.objects import FlowRun, State, StateType
from prefect.exceptions import PrefectException
from prefect.states import Cancelled, Crashed

from o9.mirror.decisions import RunDecision, RunFacts, RunReason, decide_run
from o9.mirror.ingest import Ingested, Request, ingest
from o9.mirror.observed_state import FLOW, SUBFLOW, TASK, TERMINAL, ObservedState, Run, observed_state
from o9.model.errors import OptimizationCoordinationError, OptimizationError
from o9.model.optimization import utc_now
from o9.model.settings import settings
from o9.model.states import ENDED, Intent, OptimizationStatus
from o9.model.urls import public_text, public_url
from o9.store import queries
from o9.store.optimizations.prefect_runs import CloseRun, RenewHandOver
from o9.store.optimizations.transitions import Cause
from o9.store.queue.claims import MIRRORED
from o9.store.store import Store

T = TypeVar("T")
logger = logging.getLogger(__name__)
PAGE = 200  # the most that Prefect's server returns by default
AT_ONCE = 8
SETTLE_SECONDS = 10.0  # Prefect's server writes task runs a while after their events
QUIET_SECONDS = 10.0


class PrefectAwayError(OptimizationCoordinationError):
    """Prefect's server does not answer; nothing was compared."""


@dataclass
class Report:
    """What was compared and done; `str()` of it is one line for the log."""

    runs: int = 0
    states: int = 0
    closed: int = 0
    crashed: int = 0
    cancelled: int = 0
    errors: int = 0
    missing: list[str] = field(default_factory=list)
    heard: list[str] = field(default_factory=list)  # optimizations with an intent from Prefect
    swept: list[str] = field(default_factory=list)
    unrecorded: list[str] = field(default_factory=list)  # runs that died or failed before they were recorded
    dispatched: list[str] = field(default_factory=list)  # handed over to flow runs that workers start
    delivered: int = 0

    def __str__(self) -> str:
        counted = {name: value if isinstance(value, int) else ", ".join(value) for name, value in vars(self).items()}
        return "; ".join(f"{name}: {value}" for name, value in counted.items() if value) or "no open runs"


async def reconcile(
    store: Store,
    node: str,
    *,
    request: Request,
    client: PrefectClient | None = None,
    settle_seconds: float = SETTLE_SECONDS,
    quiet_seconds: float = QUIET_SECONDS,
) -> Report:
    """Compare all open runs with Prefect. Raises PrefectAwayError, and OptimizationStoreError where the store is away.

    settle_seconds: how long after the end of a mirrored run Prefect may still report task runs. quiet_seconds: how long
    an optimization must be unchanged before a run of it without a lease counts as dead, unless it was swept.
    """
    async with nullcontext(client) if client is not None else get_client() as server:
        if (problem := await server.api_healthcheck()) is not None:
            where, why = public_url(str(server.api_url)), public_text(str(problem))
            raise PrefectAwayError(f"Prefect's server at {where} does not answer, nothing was compared: {why}")
        work, after = _Work(store, node, request, server, settle_seconds, quiet_seconds), ""
        while rows := await store.read_async(queries.open_runs, after=after, limit=PAGE):
            after = rows[-1]["run_id"]
            await work.page(rows)
    return work.report


@dataclass
class _Work:
    store: Store
    node: str
    request: Request
    client: PrefectClient
    settle_seconds: float
    quiet_seconds: float
    report: Report = field(default_factory=Report)
    _turns: asyncio.Semaphore = field(default_factory=lambda: asyncio.Semaphore(AT_ONCE))

    async def page(self, rows: Sequence[dict[str, Any]]) -> None:
        ids = filters.FlowRunFilterId(any_=[UUID(row["run_id"]) for row in rows])
        try:
            found = await self.client.read_flow_runs(flow_run_filter=filters.FlowRunFilter(id=ids), limit=PAGE)
        except (httpx.HTTPError, PrefectException) as error:
            raise PrefectAwayError(f"Prefect's server stopped answering: {public_text(str(error))}") from error
        flow_runs = {str(flow_run.id): flow_run for flow_run in found}
        await asyncio.gather(*(self._guarded(row, flow_runs.get(row["run_id"])) for row in rows))

    async def _guarded(self, row: dict[str, Any], flow_run: FlowRun | None) -> None:
        self.report.runs += 1
        try:
            await self._one(row, flow_run)
        except (OptimizationError, httpx.HTTPError, PrefectException):
            self.report.errors += 1
            logger.exception("could not compare the flow run %s with Prefect", row["run_id"])

    async def _one(self, row: dict[str, Any], flow_run: FlowRun | None) -> None:
        run, ingested = Run.of_row(row), Ingested()
        if flow_run is not None:
            ingested = await self._take_missing(run, flow_run)
            self.report.states += ingested.states
            if ingested.intents:
                self.report.heard.append(run.optimization_id)
        decision = decide_run(await self._view(row, flow_run, fresh=ingested.states > 0))
        if decision.because is RunReason.GONE:
            self.report.missing.append(run.run_id)
        if decision.set_to is not None:
            assert flow_run is not None
            await self._set_in_prefect(run, flow_run, decision)
        if decision.waits and flow_run is not None:
            await self.store.write_async(RenewHandOver(run.optimization_id, run.run_id))
        if decision.close:
            await self.store.write_async(CloseRun(run.run_id))
            self.report.closed += 1

    async def _view(self, row: dict[str, Any], flow_run: FlowRun | None, *, fresh: bool) -> RunFacts:
        """fresh: whether something was recorded since `row` was read."""
        if fresh:
            holding = await self.store.read_async(queries.holding, row["optimization_id"])
            assert holding is not None
            row = row | {
                name: getattr(holding, name) for name in ("status", "intent", "lease_node", "suspended_run_id")
            }
            row["current_attempt"] = holding.attempt
        status, state = OptimizationStatus(row["status"]), flow_run.state if flow_run else None
        mirrored = row["kind"] == MIRRORED
        view = RunFacts(
            owner=row["kind"],
            attempt=row["attempt"],
            current_attempt=row["current_attempt"],
            status=status,
            intent=Intent(row["intent"]),
            leased=row["lease_node"] is not None,
            suspended=row["suspended_run_id"] == row["run_id"],
            prefect_type=state.type.value if state else None,
            settled=not mirrored
            or state is None
            or utc_now() - state.timestamp >= timedelta(seconds=self.settle_seconds),
        )
        if view.prefect_type in TERMINAL or view.leased or state is None:
            return view
        # The rest is read only for runs that look dead.
        optimization = await self.store.read_async(queries.get, row["optimization_id"])
        assert optimization is not None
        moves = await self.store.read_async(queries.transitions, row["optimization_id"])
        swept = not mirrored and bool(moves) and moves[-1]["cause"] == Cause.SWEEPER.value
        quiet = swept or utc_now() - optimization.updated_at >= timedelta(seconds=self.quiet_seconds)
        lives = mirrored and status in ENDED and await self._holder_lives(moves)
        return replace(view, quiet=quiet, holder_lives=lives)

    async def _holder_lives(self, moves: Sequence[dict[str, Any]]) -> bool:
        """Whether the node whose hook recorded this flow's last move still has a heartbeat."""
        holder = next((row["node"] for row in reversed(moves) if row["cause"] == Cause.HOOK.value), None)
        nodes = await self.store.read_async(queries.nodes)
        # Only the database's clock counts: this machine's may be wrong, and a user's flow must not be ended for that.
        newest = max((node["heartbeat_at"] for node in nodes), default=0.0)
        alive = (node for node in nodes if newest - node["heartbeat_at"] <= 2 * settings().lease_seconds)
        return any(node["node_id"] == holder for node in alive)

    async def _take_missing(self, run: Run, flow_run: FlowRun) -> Ingested:
        over = flow_run.state is not None and flow_run.state.type.value in TERMINAL
        states = await self._history(FLOW, flow_run)
        if run.owner == MIRRORED:
            known = await self.store.read_async(queries.known_states, run.optimization_id)
            states += await self._of_tasks(flow_run.id, known, over)
            if over:  # a subflow that is mirrored itself is registered by then, and its states are its own
                states += await self._of_subflows(flow_run.id, known)
        return await ingest(self.store, self.node, run, states, Cause.RECONCILER, request=self.request)

    async def _of_tasks(self, flow_run_id: UUID, known: set[str], over: bool) -> list[ObservedState]:
        """The states of its task runs. While the flow runs, only of those whose present state is unknown."""
        mine = filters.FlowRunFilter(id=filters.FlowRunFilterId(any_=[flow_run_id]))
        tasks = await all_pages(self.client.read_task_runs, flow_run_filter=mine)
        unknown = (task_run for task_run in tasks if over or str(task_run.state_id) not in known)
        histories = await asyncio.gather(*(self._history(TASK, task_run) for task_run in unknown))
        return [observed for history in histories for observed in history]

    async def _of_subflows(self, flow_run_id: UUID, known: set[str]) -> list[ObservedState]:
        states: list[ObservedState] = []
        mine = filters.FlowRunFilter(parent_flow_run_id=filters.FlowRunFilterParentFlowRunId(any_=[flow_run_id]))
        for subflow in await all_pages(self.client.read_flow_runs, flow_run_filter=mine):
            if await self.store.read_async(queries.prefect_run, str(subflow.id)) is None:
                states += await self._history(SUBFLOW, subflow)
                states += await self._of_tasks(subflow.id, known, True)
                states += await self._of_subflows(subflow.id, known)
        return states

    async def _history(self, kind: str, run: Any) -> list[ObservedState]:
        read = self.client.read_task_run_states if kind == TASK else self.client.read_flow_run_states
        async with self._turns:
            return [observed_state(kind, run, state) for state in await read(run.id)]

    async def _set_in_prefect(self, run: Run, flow_run: FlowRun, decision: RunDecision) -> None:
        message = f"O9: {decision.because.value} (optimization {run.optimization_id}, attempt {run.attempt})"
        state: State[Any]
        if decision.set_to == "CANCELLING":
            state = State(type=StateType.CANCELLING, message=message)
        else:
            state = (Cancelled if decision.set_to == "CANCELLED" else Crashed)(message=message)
        # Forced for a dead run; one that is asked to end follows Prefect's rules.
        await self.client.set_flow_run_state(flow_run.id, state, force=decision.set_to != "CANCELLING")
        logger.warning("flow run %s is %s in Prefect now: %s", flow_run.name, decision.set_to, decision.because.value)
        self.report.crashed += decision.set_to == "CRASHED"
        self.report.cancelled += decision.set_to != "CRASHED"
        states = await self._history(FLOW, flow_run)
        ingested = await ingest(self.store, self.node, run, states, Cause.RECONCILER, request=self.request)
        self.report.states += ingested.states


async def all_pages(read: Callable[..., Awaitable[list[T]]], **filters: Any) -> list[T]:
    """What a paged method of Prefect's client finds, to the last page."""
    found: list[T] = []
    while page := await read(**filters, limit=PAGE, offset=len(found)):
        found += page
    return found
