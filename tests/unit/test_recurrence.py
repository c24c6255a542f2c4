"""Runs of a schedule that are late: which of them begin."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from datetime import UTC, datetime, timedelta
from types import SimpleNamespace
from typing import Any

import pytest
from command_line import create, work
from prefect.schedules import Cron

from o9.aggregator.deployments import of_optimization
from o9.flows.recurrence import REPLACE, Missed, ScheduleReason, decide_run, replace_earlier_runs
from o9.model.states import Intent, OptimizationStatus
from o9.store import queries
from o9.store.optimizations.intents import SetIntent
from o9.store.optimizations.transitions import Cause, Transition
from o9.store.store import Store

NOON = datetime(2026, 1, 5, 12, tzinfo=UTC)


@pytest.mark.parametrize(
    ("policy", "following", "late", "reason"),
    [
        (Missed.ALL, [1, 2], 600, ScheduleReason.DUE),
        (Missed.ONCE, [], 600, ScheduleReason.DUE),
        (Missed.ONCE, [60, 120], 59, ScheduleReason.DUE),
        (Missed.ONCE, [120, 60], 60, ScheduleReason.LATER_ONE_DUE),
        (Missed.NONE, [], 600, ScheduleReason.DUE),
        (Missed.NONE, [60], 30, ScheduleReason.DUE),
        (Missed.NONE, [120, 60], 31, ScheduleReason.MISSED),
    ],
)
def test_which_begin(policy: Missed, following: list[int], late: int, reason: ScheduleReason) -> None:
    others = [NOON + timedelta(minutes=minutes) for minutes in following]
    assert decide_run(policy, NOON, others, NOON + timedelta(minutes=late)) is reason


OVERLAP = {  # Prefect's limit of one run, what it does with the next one, and the tag that O9 reads
    "queue": (1, "ENQUEUE", set()),
    "skip": (1, "CANCEL_NEW", set()),
    "replace": (None, None, {REPLACE}),
    "together": (None, None, set()),
}


@pytest.mark.parametrize("missed", Missed)
@pytest.mark.parametrize("overlap", OVERLAP)
def test_what_a_deployment_says_of_its_policies(overlap: str, missed: Missed) -> None:
    spec = {"name": "Carry", "total_steps": 3, "metadata": {"objective": "branin"}}
    made = of_optimization(spec, Cron("0 22 * * *"), overlap=overlap, missed=missed.value)
    limit, strategy, tags = OVERLAP[overlap]
    options = made.concurrency_options
    assert (made.concurrency_limit, options.collision_strategy.value if options else None) == (limit, strategy)
    assert set(made.tags) == {"o9"} | tags | ({missed.tag} if missed is not Missed.ALL else set())


@pytest.mark.parametrize(("intent", "then"), [(None, Intent.CANCEL), (Intent.TIME_OUT, Intent.TIME_OUT)])
async def test_what_is_about_to_end_is_replaced_as_well(store_url: str, intent: Intent | None, then: Intent) -> None:
    with Store(store_url) as store:
        create(store, "before", metadata={"objective": "branin", "series": "nightly"})
        work(store, "before", 1)
        if intent is not None:
            store.write(SetIntent("before", intent, "o9"))
        for name, hours in (("this", 0), ("later", 1)):
            due = (NOON + timedelta(hours=hours)).isoformat()
            create(store, name, metadata={"objective": "branin", "series": "nightly", "scheduled_at": due})
        this = store.read(queries.get, "this")
        assert this is not None

        async def begins(*tags: str) -> dict[str, str]:
            run: Any = SimpleNamespace(auto_scheduled=True, tags=[*tags])
            await replace_earlier_runs(store, run, this)
            holdings = {name: store.read(queries.holding, name) for name in ("before", "this", "later")}
            return {name: holding.intent for name, holding in holdings.items() if holding is not None}

        as_it_was = {"before": (intent or Intent.RUN).value, "this": Intent.RUN.value, "later": Intent.RUN.value}
        assert await begins() == as_it_was
        assert await begins(REPLACE) == as_it_was | {"before": then.value, "this": Intent.CANCEL.value}


async def test_what_replaces_begins_once_the_other_has_ended(
    store_url: str, async_wait_until: Callable[..., Awaitable[Any]]
) -> None:
    with Store(store_url) as store:
        create(store, "before", metadata={"objective": "branin", "series": "nightly"})
        fence = work(store, "before", 1)
        create(store, "this", metadata={"objective": "branin", "series": "nightly", "scheduled_at": NOON.isoformat()})
        this = store.read(queries.get, "this")
        assert this is not None
        run: Any = SimpleNamespace(auto_scheduled=True, tags=[REPLACE])
        begins = asyncio.create_task(replace_earlier_runs(store, run, this))

        def asked_to_end() -> bool:
            holding = store.read(queries.holding, "before")
            return holding is not None and holding.intent == Intent.CANCEL.value

        await async_wait_until(asked_to_end, 10)
        with pytest.raises(TimeoutError):
            await asyncio.wait_for(asyncio.shield(begins), 0.5)
        store.write(Transition("before", OptimizationStatus.CANCELLED, Cause.HOOK, fence=fence))
        await asyncio.wait_for(begins, 10)
