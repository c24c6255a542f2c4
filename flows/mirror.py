"""Any Prefect flow as an optimization that O9 tracks: `mirror_states` above `@flow`, or called with an existing flow.

    @mirror_states(optimization_type="strategy_optimization", priority="high")
    @flow(retries=2)
    def rebalance(universe: str) -> float: ...

Contract. The flow stays the same object with the same behaviour: O9 adds hooks, which never raise into it. Each run is
the optimization `run-<flow run id>`, recorded at its first hook; the states of its tasks come from Prefect's event
stream or from the reconciler. While the store is away, states go to the spool. For a store that hangs, the first hook
of a process waits `o9.mirror.spooling_writer.PATIENCE_SECONDS` at most, later ones do not wait.
"""

from __future__ import annotations

import asyncio
import atexit
import concurrent.futures
import contextvars
import logging
import threading
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, TypedDict, TypeVar, Unpack, overload

import httpx
from prefect import Flow, get_client
from prefect.exceptions import PrefectException

from o9.blocks.store import current_store, current_url
from o9.flows.membership import join_store, node_name
from o9.mirror.observed_state import FLOW, TERMINAL, ObservedState, Run, observed_state, operation_for
from o9.mirror.run_registry import RUNS, LiveRun
from o9.mirror.spooling_writer import SpoolingWriter, close_writers, writer_at
from o9.model.errors import OptimizationStateError, OptimizationValidationError
from o9.model.optimization import OptimizationState, utc_now
from o9.model.settings import settings
from o9.model.states import OptimizationPriority, OptimizationStatus, OptimizationType
from o9.model.validation import validate_new
from o9.store.core.column_types import free_text
from o9.store.optimizations.prefect_runs import Adopt
from o9.store.optimizations.transitions import Cause, Transition
from o9.store.queue.claims import MIRRORED
from o9.store.store import Store

logger = logging.getLogger(__name__)
F = TypeVar("F", bound=Flow[..., Any])
ASK_PREFECT_SECONDS = 2.0
_MARK = "o9_mirrors"
# Registered later, so called earlier: the spool is delivered before the heartbeat frees what the process holds.
atexit.register(close_writers)


class MirrorOptions(TypedDict, total=False):
    """The keyword arguments of `mirror_states`."""

    optimization_type: OptimizationType | str
    priority: OptimizationPriority | int | str
    name: str | None
    description: str
    metadata: Mapping[str, Any] | None


@overload
def mirror_states(flow: F, **options: Unpack[MirrorOptions]) -> F: ...


@overload
def mirror_states(flow: None = None, **options: Unpack[MirrorOptions]) -> Callable[[F], F]: ...


def mirror_states(
    flow: Any = None,
    *,
    optimization_type: OptimizationType | str = OptimizationType.STRATEGY_OPTIMIZATION,
    priority: OptimizationPriority | int | str = OptimizationPriority.NORMAL,
    name: str | None = None,
    description: str = "",
    metadata: Mapping[str, Any] | None = None,
) -> Any:
    """Track every run of `flow` from now on; returns the same flow. A second call replaces the first one's arguments.

    name: of the optimizations; None: the flow's and the run's name. Raises OptimizationValidationError, naming the
    field, at once.
    """
    if metadata is not None and not isinstance(metadata, Mapping):
        raise OptimizationValidationError("metadata", f"expected keys and values, got {type(metadata).__name__}")
    words = _Words(optimization_type, priority, name, description, dict(metadata or {}))
    words.check()
    if flow is None:
        return lambda decorated: _mirrored(decorated, words)
    return _mirrored(flow, words)


@dataclass(frozen=True)
class _Words:
    """What the user says of the optimizations."""

    optimization_type: Any
    priority: Any
    name: Any
    description: Any
    metadata: dict[str, Any] = field(default_factory=dict)

    def check(self) -> None:
        if "strategy" in self.metadata and self.metadata["strategy"] != MIRRORED:
            raise OptimizationValidationError("metadata.strategy", f"a mirrored flow has {MIRRORED!r}")
        for key in ("after", "objective", "max_attempts", "retry_of", "timeout_seconds"):
            if key in self.metadata:
                raise OptimizationValidationError(f"metadata.{key}", "O9 does not run a mirrored flow; leave it out")
        validate_new(self.optimization("run-example", "example"))

    def optimization(self, optimization_id: str, name: str) -> OptimizationState:
        now = utc_now()
        return OptimizationState(
            optimization_id=optimization_id,
            name=name if self.name is None else self.name,
            description=self.description,
            optimization_type=self.optimization_type,
            status=OptimizationStatus.CREATED,
            priority=self.priority,
            created_at=now,
            updated_at=now,
            metadata={**self.metadata, "strategy": MIRRORED},
        )


def _mirrored(flow: Any, words: _Words) -> Any:
    if not isinstance(flow, Flow):
        kind = type(flow).__name__
        raise OptimizationValidationError("flow", f"expected a Prefect flow, got {kind}; put mirror_states above @flow")
    hook = _hook(words)
    for event in ("on_running", "on_completion", "on_failure", "on_crashed", "on_cancellation"):
        # A list of its own: flow.with_options() lets flows share one.
        others = [other for other in getattr(flow, f"{event}_hooks") if not hasattr(other, _MARK)]
        setattr(flow, f"{event}_hooks", [*others, hook])
    return flow


def _hook(words: _Words) -> Callable[[Any, Any, Any], Any]:
    async def mirror_flow_run(flow: Any, flow_run: Any, state: Any) -> None:
        try:
            await _mirror(words, flow, flow_run, state)
        except Exception:  # nothing may disturb the flow
            logger.exception("could not record that the flow run %s is %s", flow_run.name, state.name)

    setattr(mirror_flow_run, _MARK, words)
    return mirror_flow_run


@dataclass
class _Watched:
    """A run in this process; `earlier` has Prefect's states of it up to its last start."""

    run: Run
    adopt: Adopt
    earlier: concurrent.futures.Future[list[ObservedState]]
    over: bool = False


# Prefect's runner calls the hooks for these in its own process, some of them with a state that Prefect has not
# recorded.
_FROM_OUTSIDE = frozenset({"CANCELLING", "CRASHED"})


async def _mirror(words: _Words, flow: Any, flow_run: Any, state: Any) -> None:
    observed, node = observed_state(FLOW, flow_run, state), node_name()
    live = RUNS.find(observed.run_id)
    watched = live.work if live is not None and isinstance(live.work, _Watched) and not live.work.over else None
    if watched is None and observed.state_type in _FROM_OUTSIDE:
        return  # another process ran it; the state comes with Prefect's events, or by the reconciler
    writer = writer_at(await asyncio.to_thread(current_url), _open_joined)
    history: list[ObservedState] = []
    if watched is None:
        watched = await _begin(words, flow, flow_run, writer, node)
    elif observed.state_type in _FROM_OUTSIDE:
        history = await _answer(_history(flow_run))
    elif observed.state_type in TERMINAL:
        history = await _answer(watched.earlier)
    else:
        watched.earlier = _history(flow_run)  # it runs again: no hook saw the states between
        await writer.write(watched.adopt)  # it may have lost its lease while it was paused
    for each in _to_record(history, observed):
        if not RUNS.is_recorded(each.state_id):
            await writer.write(operation_for(each, watched.run, Cause.HOOK, node))
            RUNS.remember(each.state_id)
    if observed.state_type in TERMINAL:
        watched.over = True
        if not writer.is_away:
            RUNS.end(observed.run_id)


async def _begin(words: _Words, flow: Any, flow_run: Any, writer: SpoolingWriter, node: str) -> _Watched:
    """Record the run as an optimization that this process holds, while its history is read from Prefect."""
    run = Run(str(flow_run.id), f"run-{flow_run.id}", 1, MIRRORED)
    name = free_text(f"{flow.name} / {flow_run.name}")  # Prefect allows characters that PostgreSQL does not
    optimization = words.optimization(run.optimization_id, name[:500])
    adopt = Adopt(optimization, run.run_id, node, settings().lease_seconds)
    watched = _Watched(run, adopt, _history(flow_run))
    await writer.write(adopt)
    try:
        await writer.write(
            Transition(run.optimization_id, OptimizationStatus.INITIALIZING, Cause.HOOK, "started", node)
        )
    except OptimizationStateError as error:
        logger.debug("another process recorded the start of flow run %s: %s", flow_run.name, error)
    RUNS.begin(LiveRun(run, node, watched, unrecorded=True))
    return watched


def _history(flow_run: Any) -> concurrent.futures.Future[list[ObservedState]]:
    """Read Prefect's states of the run on a thread, so that the flow does not wait."""
    answer: concurrent.futures.Future[list[ObservedState]] = concurrent.futures.Future()
    context = contextvars.copy_context()  # Prefect's settings are in it

    def ask() -> None:
        try:
            answer.set_result(context.run(asyncio.run, _states_so_far(flow_run)))
        except Exception as error:  # noqa: BLE001 - raised where it is awaited
            answer.set_exception(error)

    threading.Thread(target=ask, name="o9-history", daemon=True).start()
    return answer


async def _answer(history: concurrent.futures.Future[list[ObservedState]]) -> list[ObservedState]:
    try:
        return await asyncio.wait_for(asyncio.shield(asyncio.wrap_future(history)), ASK_PREFECT_SECONDS)
    except (TimeoutError, httpx.HTTPError, PrefectException, RuntimeError) as error:
        logger.info("Prefect did not return the states of a flow run, so the reconciler will read them: %s", error)
        return []


async def _states_so_far(flow_run: Any) -> list[ObservedState]:
    async with get_client() as client:
        return [observed_state(FLOW, flow_run, state) for state in await client.read_flow_run_states(flow_run.id)]


def _to_record(history: list[ObservedState], observed: ObservedState) -> list[ObservedState]:
    """Prefect's states, and the hook's, unless that is one that Prefect has not recorded."""
    is_known = any(each.state_id == observed.state_id for each in history)
    made_up = bool(history) and observed.state_type in _FROM_OUTSIDE
    return history if is_known or made_up else [*history, observed]


def _open_joined() -> Store:
    """The store, after announcing this process on it, so that its leases are renewed."""
    store = current_store()
    join_store(store)
    return store
