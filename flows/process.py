"""Prepares a process for a flow run: each flow of O9 calls `run_begins` first.

It forwards logs to Prefect, and restores the handler of SIGTERM. While a flow runs, Prefect turns the signal into an
error in the main thread. That is right in a process that only runs the flow, but not in a node's, which therefore calls
`runs_in_node`; there Prefect handles the signal only while it reports that the run begins.
"""

from __future__ import annotations

import asyncio
import logging
import signal
import socket
import threading
from collections.abc import Awaitable, Callable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from datetime import timedelta
from importlib.metadata import version
from typing import Any

from prefect import Flow
from prefect.context import FlowRunContext
from prefect.utilities.engine import is_prefect_sigterm_handler_installed

from o9.blocks.store import store_is_named
from o9.model.errors import OptimizationCoordinationError, OptimizationStoreError
from o9.model.loops import ErrorBoundary
from o9.model.optimization import OptimizationAlert
from o9.model.settings import settings
from o9.model.states import AlertLevel
from o9.store.store import Store
from o9.tasks.run_logs import forward_to_prefect, hide_engine_messages
from o9.user_code.watchdog import Blocked, Watchdog

logger = logging.getLogger(__name__)
_RELEASE = "o9-"
BLOCKED_OVER_AFTER = timedelta(minutes=5)  # after the watchdog's last report
_in_node: ContextVar[bool] = ContextVar("o9-in-node", default=False)
_handled_before: Any = None


def runs_in_node(flow: Flow[..., Any]) -> None:
    """Leave SIGTERM to its present handler in the runs of `flow` that the caller's task begins from now on."""
    global _handled_before
    _in_node.set(True)
    hide_engine_messages(flow.name)
    if not is_prefect_sigterm_handler_installed():  # it is for a moment while another flow begins
        _handled_before = signal.getsignal(signal.SIGTERM)


def run_begins() -> None:
    """Prepare the process for the present flow run.

    For a run of a deployment, raises OptimizationStoreError where no store is named, because the record would be left
    in the run's own folder, and OptimizationCoordinationError where another release of O9 made the deployment.
    """
    forward_to_prefect()
    context = FlowRunContext.get()
    flow_run = context.flow_run if context is not None else None
    if flow_run is not None and flow_run.deployment_id is not None:
        if not store_is_named():
            raise OptimizationStoreError(
                "O9_STORE_URL is not set for this run: set it for the worker, or deploy with `o9 deploy`, which "
                "passes it on"
            )
        check_release(flow_run.deployment_version)
    if not _in_node.get() or _handled_before is None or threading.current_thread() is not threading.main_thread():
        return
    if is_prefect_sigterm_handler_installed():
        signal.signal(signal.SIGTERM, _handled_before)


def release() -> str:
    """The version that this release of O9 gives to deployments."""
    return f"{_RELEASE}{version('prefect-o9')}"


def check_release(deployed: str | None) -> None:
    """Raises OptimizationCoordinationError where `deployed` is of another minor release of O9."""
    if deployed is None or not deployed.startswith(_RELEASE):
        return
    theirs, ours = deployed.removeprefix(_RELEASE), release().removeprefix(_RELEASE)
    if theirs.split(".")[:2] != ours.split(".")[:2]:
        raise OptimizationCoordinationError(
            f"O9 {theirs} made this deployment, and O9 {ours} is installed on the worker, on {socket.gethostname()}: "
            f"install prefect-o9 {theirs} there, or run `o9 deploy` with {ours}"
        )


@contextmanager
def on_sigterm(end: Callable[[], Awaitable[None]]) -> Iterator[None]:
    """Call `end` once in the event loop on SIGTERM, instead of Prefect's handler, which makes the run crash."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    loop, before = asyncio.get_running_loop(), signal.getsignal(signal.SIGTERM)
    ending: list[asyncio.Future[None]] = []

    def handle() -> None:
        if not ending:
            ending.append(asyncio.ensure_future(end()))

    loop.add_signal_handler(signal.SIGTERM, handle)
    try:
        yield
    finally:
        loop.remove_signal_handler(signal.SIGTERM)
        signal.signal(signal.SIGTERM, before)


def watchdog_for(store: Store, node: str) -> Watchdog:
    """A watchdog that also records an alert, from its own thread, while the event loop is blocked."""
    boundary = ErrorBoundary(logger, "recording an alert about the blocked event loop")

    def on_blocked(blocked: Blocked) -> None:
        alert = OptimizationAlert(
            alert_id=f"event-loop-blocked-{blocked.since:%Y%m%dT%H%M%S.%f}",
            optimization_id=blocked.ids.get("optimization", ""),
            level=AlertLevel.ERROR,
            title="Event loop blocked",
            message=blocked.message,
            metadata={"rule": "event_loop_blocked", "labels": {"node": node}},
        )
        with boundary:
            asyncio.run(_sent(alert))

    async def _sent(alert: OptimizationAlert) -> None:
        # A flow's process needs it in this case only.
        from o9.alerts.service.system import AlertNotificationSystem

        await AlertNotificationSystem(store=store).send_alert(alert, resolve_timeout=BLOCKED_OVER_AFTER)

    # Once the event loop is blocked for as long as a lease, other nodes take over.
    return Watchdog(give_up_seconds=settings().lease_seconds, on_blocked=on_blocked)
