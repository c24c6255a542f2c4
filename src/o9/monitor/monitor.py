"""Progress, effect and problems of running optimizations.

Contract. Every answer is computed from the record, so it is the same on every node and after every restart. Only alerts
live in this object, and only while it is started. It belongs to one event loop; reads and checks run in a thread. A
check costs what is new since the last one, however long the optimization has been running. An unknown figure is None
and comes with a reason. Times in the record come from the clocks of the nodes that wrote it.
"""

from __future__ import annotations

import asyncio
import logging
import uuid
from collections import deque
from dataclasses import dataclass, field, replace
from typing import Any

from o9.model.errors import OptimizationError
from o9.model.optimization import OptimizationAlert, OptimizationMetrics, OptimizationState, series_of, utc_now
from o9.model.states import ENDED, AlertLevel, OptimizationStatus
from o9.model.validation import alert_level, validate_seconds, validate_whole
from o9.monitor.figures import metrics_of, snapshots
from o9.monitor.findings import Finding, find_problems, stalled
from o9.monitor.window import Window, read_window
from o9.store import queries
from o9.store.core.component import StoreComponent, all_optimizations
from o9.store.store import Store
from o9.strategies.factory import search_space_of

logger = logging.getLogger(__name__)
MOST_SNAPSHOTS = 1_000
MOST_METRICS = 10_000
KEPT_ALERTS = 1_000


@dataclass
class _Watch:
    """What the last check found about one optimization. `was_stalled`: the check before that found it stalled, too."""

    window: Window
    findings: list[Finding]
    firing: dict[str, OptimizationAlert] = field(default_factory=dict)
    was_stalled: bool = False


class OptimizationMonitor(StoreComponent):
    """Checks everything that runs every `check_interval` seconds while it is started.

    Callbacks: `alert(alert)` for each new finding, `resolved(alert)` when it is gone. Its queries also work before
    `start()`.
    """

    events = ("alert", "resolved")

    def __init__(self, check_interval: float = 1.0, *, store: Store | None = None) -> None:
        super().__init__(store)
        self.check_interval = validate_seconds("check_interval", check_interval)
        self._watches: dict[str, _Watch] = {}
        self._wanted: set[str] = set()
        self._unwanted: set[str] = set()
        self._alerts: deque[OptimizationAlert] = deque(maxlen=KEPT_ALERTS)
        self._gate = asyncio.Lock()

    async def start_monitoring(self, optimization_id: str) -> bool:
        """Check it now, and from now on until it has ended, also while it does not run.

        Running optimizations are checked anyway. Later checks need `start()`. Raises OptimizationError for an unknown
        id.
        """
        state = await self.existing(optimization_id)
        self._unwanted.discard(optimization_id)
        self._wanted.add(optimization_id)
        await self._check([state])
        return True

    async def stop_monitoring(self, optimization_id: str) -> bool:
        """Stop checking it until `start_monitoring`. Returns whether it was monitored."""
        watched = self._watches.pop(optimization_id, None)
        was_wanted = optimization_id in self._wanted
        self._wanted.discard(optimization_id)
        if watched is None and not was_wanted:
            return False
        self._unwanted.add(optimization_id)
        if watched is not None:
            await self._resolve(watched, list(watched.firing))
        return True

    async def get_monitoring_data(self, optimization_id: str, limit: int = 100) -> list[dict[str, Any]]:
        """Return the newest `limit` snapshots, newest last: one as of each earlier step, and one as of now.

        `o9.monitor.figures.snapshot` lists the keys. Raises OptimizationError for an unknown id,
        OptimizationValidationError unless `limit` is 1 to MOST_SNAPSHOTS.
        """
        state = await self.existing(optimization_id)
        validate_whole("limit", limit, MOST_SNAPSHOTS)
        return await asyncio.to_thread(lambda: snapshots(self._window(state, limit), limit))

    async def get_optimization_metrics(
        self, optimization_id: str, limit: int = MOST_METRICS
    ) -> list[OptimizationMetrics]:
        """Return the metrics of the newest `limit` steps, oldest first; a figure that was not measured is None.

        Raises as `get_monitoring_data` does; `limit` is 1 to MOST_METRICS.
        """
        state = await self.existing(optimization_id)
        validate_whole("limit", limit, MOST_METRICS)

        def read() -> list[OptimizationMetrics]:
            window = self._window(state, limit)
            return metrics_of(window, window.steps[-limit:])

        return await asyncio.to_thread(read)

    async def get_alerts(
        self, optimization_id: str | None = None, level: AlertLevel | str | None = None
    ) -> list[OptimizationAlert]:
        """Return what this monitor has found, newest first; an alert is resolved once the finding is gone.

        The newest KEPT_ALERTS are kept, in memory. Raises OptimizationError for an unknown id,
        OptimizationValidationError for an unknown level.
        """
        wanted = None if level is None else alert_level(level)
        if optimization_id is not None:
            await self.existing(optimization_id)
        return [
            replace(alert)
            for alert in reversed(self._alerts)
            if optimization_id in (None, alert.optimization_id) and wanted in (None, alert.level)
        ]

    async def check(self) -> None:
        """Check everything that runs, and what `start_monitoring` named, once."""
        wanted = queries.Filter(status=OptimizationStatus.RUNNING)
        states = await asyncio.to_thread(lambda: list(all_optimizations(self.store, wanted)))
        running = {state.optimization_id for state in states}
        self._unwanted &= running
        for optimization_id in (self._watches.keys() | self._wanted) - running:
            state = await self.get_optimization_status(optimization_id)
            if state is None or state.status in ENDED:
                self._wanted.discard(optimization_id)
            if state is not None:
                states.append(state)
        await self._check(states)
        for optimization_id in self._watches.keys() - running - self._wanted:
            watch = self._watches.pop(optimization_id)
            await self._resolve(watch, list(watch.firing))

    async def _check(self, states: list[OptimizationState]) -> None:
        async with self._gate:
            for watch in await asyncio.to_thread(self._watches_of, states):
                if watch.window.state.optimization_id not in self._unwanted:  # `stop_monitoring` may have run meanwhile
                    self._watches[watch.window.state.optimization_id] = watch
                    await self._notify(watch)

    def _watches_of(self, states: list[OptimizationState]) -> list[_Watch]:
        """Blocks."""
        watches: list[_Watch] = []
        for state in states:
            if state.optimization_id in self._unwanted:
                continue
            try:
                watches.append(self._watch_of(state))
            except OptimizationError:
                raise
            except Exception:  # a failed check must not stop those of the others
                logger.exception("could not check %s", state.optimization_id)
        return watches

    def _watch_of(self, state: OptimizationState) -> _Watch:
        """Read what is new and check all of it. If nothing is new, only a stall can begin: that is checked alone."""
        known = self._watches.get(state.optimization_id)
        if known is not None and state.updated_at == known.window.state.updated_at:
            window = known.window.after((), (), state)
            was_stalled = any(finding.name == "stalled" for finding in known.findings)
            found = [stalled(window), *(finding for finding in known.findings if finding.name != "stalled")]
            return _Watch(window, [finding for finding in found if finding is not None], known.firing, was_stalled)
        window = known.window if known else Window(state, utc_now(), space=search_space_of(state))
        after = (window.steps[-1].number if window.steps else -1, window.trials[-1].number if window.trials else -1)
        news = self.store.read(read_window, state.optimization_id, state.completed_steps, after=after)
        window = window.after(*news, state)
        return _Watch(window, find_problems(window), known.firing if known else {})

    async def _notify(self, watch: _Watch) -> None:
        """Emit an alert for each finding that is new or has another level, and resolve those that are gone.

        A stall is reported after two checks in a row, since short silences of quick steps come and go.
        """
        found = {each.name: each for each in watch.findings if each.name != "stalled" or watch.was_stalled}
        firing = watch.firing.items()
        gone = [name for name, alert in firing if name not in found or found[name].level is not alert.level]
        await self._resolve(watch, gone)
        for name, finding in found.items():
            if name not in watch.firing:
                alert = alert_of(watch.window.state, finding)
                watch.firing[name] = alert
                self._alerts.append(alert)
                level = logging.INFO if finding.level is AlertLevel.INFO else logging.WARNING
                logger.log(level, "%s: %s", alert.optimization_id, alert.message)
                await self.emit("alert", replace(alert))

    async def _resolve(self, watch: _Watch, names: list[str]) -> None:
        for name in names:
            alert = watch.firing.pop(name)
            alert.resolved, alert.resolved_at = True, utc_now()
            await self.emit("resolved", replace(alert))

    def _window(self, state: OptimizationState, shown: int) -> Window:
        steps, trials = self.store.read(read_window, state.optimization_id, state.completed_steps, shown)
        return Window(state, utc_now(), steps, trials, search_space_of(state))

    async def _begin(self) -> None:
        self._repeat(self.check, self.check_interval, "checking what runs")


def alert_of(state: OptimizationState, finding: Finding) -> OptimizationAlert:
    """Return the finding as an alert. Its metadata has the code, evidence, remedy and labels."""
    labels = {"name": state.name or state.optimization_id, "series": series_of(state)}
    return OptimizationAlert(
        alert_id=uuid.uuid4().hex,
        optimization_id=state.optimization_id,
        level=finding.level,
        title=finding.name.replace("_", " "),
        message=f"{finding.summary}: {finding.remedy}",
        timestamp=utc_now(),
        metadata={"finding": finding.name, "evidence": finding.evidence, "remedy": finding.remedy, "labels": labels},
    )
