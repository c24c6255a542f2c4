"""The evaluation of alert rules on a node: every few seconds, for all if it is the leader, and of the node itself.

Contract. Owned by one event loop. A store that is away is said once, and judged when it is back.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable, Iterable, Mapping
from datetime import datetime

from o9.alerts.pipeline.reasons import Why
from o9.alerts.rules.evaluator import RuleEvaluator
from o9.alerts.rules.facts import deaths_notified, living
from o9.alerts.rules.metrics import Scope
from o9.alerts.rules.node_health import NodeHealth
from o9.alerts.rules.rules import Facts, Rule, Turn
from o9.alerts.service.system import AlertNotificationSystem
from o9.model.errors import OptimizationStoreError
from o9.model.optimization import utc_now
from o9.store.store import Store

logger = logging.getLogger(__name__)
PASS_SECONDS = 5.0


class RuleService:
    """It looks every `interval` seconds. `schedules`: what this node runs unless another one does, see Judge."""

    def __init__(
        self,
        alerts: AlertNotificationSystem,
        *,
        interval: float = PASS_SECONDS,
        schedules: Mapping[str, str] | None = None,
    ) -> None:
        self._alerts = alerts
        self._interval = interval
        self._evaluator = RuleEvaluator(alerts, schedules)
        self._itself = NodeHealth(self._evaluator.send, self._evaluator.end, self._living)
        self._node = ""
        self._rules: tuple[Rule, ...] = ()
        self._tasks: list[asyncio.Task[None]] = []

    async def use(self, store: Store, lease_seconds: float) -> None:
        """Evaluate what is in `store`; if that never happened, from now on."""
        self._store = store
        await self._evaluator.use(store, lease_seconds)

    async def is_back(self, node: str) -> None:
        """This node has joined under its name: alerts that it was found dead are resolved, before any is sent.

        Raises OptimizationStoreError.
        """
        rules = {rule.name for rule in self._alerts.configuration.rules if rule.scope is Scope.NODE_DEATH}
        for name, rule in await asyncio.to_thread(deaths_notified, self._store, node, rules):
            await self._evaluator.end(Turn(rule, node, Why.FIXED, ended=name))

    async def start(
        self,
        node: str,
        prefect_alive: Callable[[], Awaitable[bool]],
        late_runs: Callable[[datetime], Awaitable[list[Facts]]],
    ) -> None:
        """Goes with the alert system's, after `use`; returns after the first pass. Raises OptimizationError.

        node: under which name; prefect_alive: whether this node reaches Prefect; late_runs: what Prefect waits for.
        """
        self._node = node
        await self.look()
        probing = self._itself.keep_probing(prefect_alive, late_runs, lambda: self._evaluator.evaluates)
        self._tasks = [
            asyncio.create_task(self._keep_looking(), name="o9-rules"),
            asyncio.create_task(probing, name="o9-rules-prefect"),
        ]

    async def stop(self) -> None:
        for task in self._tasks:
            task.cancel()
        if self._tasks:
            await asyncio.wait(self._tasks)
        self._tasks = []
        await self._evaluator.leave()

    def node_died(self, names: Iterable[str]) -> None:
        """From any thread, and before `start`, too: these nodes of this host are found dead."""
        self._itself.node_died(names)

    async def look(self) -> None:
        """Judge. Raises OptimizationStoreError where the store is away."""
        now, rules = utc_now(), self._alerts.configuration.rules
        if rules is not self._rules:
            self._rules = rules
            self._itself.use(rules)
        await self._itself.look(self._node, now)
        await self._evaluator.look(self._node, now, self._itself.late)

    async def _living(self) -> set[str]:
        return await asyncio.to_thread(living, self._store)

    async def _keep_looking(self) -> None:
        while True:
            await asyncio.sleep(self._interval)
            try:
                await self.look()
                self._itself.store_is_back()
            except OptimizationStoreError as error:
                new = self._itself.store_is_away(str(error))
                logger.log(logging.WARNING if new else logging.DEBUG, "the rules are not judged: %s", error)
            except Exception:  # whatever it was, the watch goes on
                logger.exception("the rules could not be judged; trying again in %g s", self._interval)
