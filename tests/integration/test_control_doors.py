"""Every door of control, every verb: the same result, the same hooks, the same errors."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Awaitable, Callable
from typing import Any
from uuid import uuid4

import pytest
from contract_steps import at_work
from o9_testing import new

from o9.cli.main import main
from o9.lifecycle.control import Verb, control_of
from o9.mirror.ingest import ingest
from o9.mirror.observed_state import FLOW, ObservedState, Run
from o9.model.optimization import utc_now
from o9.model.states import Intent
from o9.store import queries
from o9.store.optimizations.transitions import Cause
from o9.store.store import Store
from OptimizationStateAggregator import (
    OptimizationError,
    OptimizationLifecycleError,
    OptimizationNotFoundError,
    OptimizationStateAggregator,
    OptimizationStateError,
)

pytestmark = pytest.mark.slow
Open = Callable[..., Awaitable[OptimizationStateAggregator]]
Ask = Callable[[Verb, str], Awaitable[int]]
DONE, UNKNOWN, REFUSED = 200, 404, 409
ERRORS = {OptimizationNotFoundError: UNKNOWN, OptimizationStateError: REFUSED, OptimizationLifecycleError: REFUSED}

# What it is, what is asked: the status and the intent afterwards, and the `before` hook that was called.
CASES = [
    ("held back", Verb.START, "created", "run", None),
    ("held back", Verb.PAUSE, "paused", "pause", "before_paused"),
    ("held back", Verb.CANCEL, "cancelled", "cancel", "before_cancelled"),
    ("queued", Verb.RESUME, "created", "run", None),
    ("paused", Verb.RESUME, "created", "run", "before_created"),
    ("paused", Verb.START, "created", "run", "before_created"),
    ("paused", Verb.PAUSE, "paused", "pause", None),
    ("by hand", Verb.START, "running", "hold", "before_running"),
    ("running", Verb.PAUSE, "running", "pause", "before_paused"),
    ("running", Verb.CANCEL, "running", "cancel", "before_cancelled"),
]


async def python(ask: Callable[[str], Awaitable[bool]], name: str) -> int:
    try:
        assert await ask(name) is True
    except tuple(ERRORS) as error:
        return ERRORS[type(error)]
    return DONE


def doors(aggregator: OptimizationStateAggregator, url: str, capsys: pytest.CaptureFixture[str]) -> dict[str, Ask]:
    def of(part: Any) -> Ask:
        return lambda verb, name: python(getattr(part, f"{verb.value}_optimization"), name)

    async def api(verb: Verb, name: str) -> int:
        answer = await aggregator.handle_api_request(f"/optimizations/{name}/{verb.value}", "POST")
        return DONE if answer["success"] else int(answer["code"])

    async def command_line(verb: Verb, name: str) -> int:
        await asyncio.to_thread(main, [verb.value, name, "--store", url, "--json"])
        outcome = json.loads(capsys.readouterr().out)[0]["outcome"]
        return {"unknown": UNKNOWN, "refused": REFUSED}.get(outcome, DONE)

    parts = {"aggregator": aggregator, "coordinator": aggregator.coordinator, "manager": aggregator.lifecycle_manager}
    return {name: of(part) for name, part in parts.items()} | {"api": api, "command line": command_line}


async def busy(open_aggregator: Open, url: str, name: str) -> OptimizationStateAggregator:
    """An aggregator whose only slot is taken by `name`, which another node works on."""
    with Store(url) as store:
        await asyncio.to_thread(at_work, store, name)
    return await open_aggregator(max_concurrent_optimizations=1)


async def prepare(aggregator: OptimizationStateAggregator, what: str, name: str) -> None:
    if what == "running":
        await asyncio.to_thread(at_work, aggregator.store, name)
        return
    manager = aggregator.lifecycle_manager
    await manager.create_optimization(new(name, objective="branin"))
    if what == "by hand":
        await manager.initialize_optimization(name)
    elif what == "paused":
        await manager.pause_optimization(name)
    elif what == "queued":
        await manager.start_optimization(name)
    elif what == "ended":
        await manager.cancel_optimization(name)


async def test_every_door_and_every_verb(
    open_aggregator: Open, store_url: str, capsys: pytest.CaptureFixture[str]
) -> None:
    aggregator = await busy(open_aggregator, store_url, "takes-the-only-slot")
    called: list[tuple[str, str]] = []
    for status in ("created", "running", "paused", "cancelled"):
        event = f"before_{status}"
        aggregator.lifecycle_manager.register_lifecycle_hook(
            event, lambda name, event=event: called.append((event, name))
        )
    for door, ask in doors(aggregator, store_url, capsys).items():
        for number, (what, verb, status, intent, hook) in enumerate(CASES):
            name = f"{door}-{number}".replace(" ", "-")
            await prepare(aggregator, what, name)
            called.clear()
            assert await ask(verb, name) == DONE, (door, what, verb)
            holding = aggregator.store.read(queries.holding, name)
            assert holding is not None
            assert (holding.status, holding.intent) == (status, intent), (door, what, verb)
            # Hooks are code, and live in the process that registered them.
            expected = [] if hook is None or door == "command line" else [(hook, name)]
            assert called == expected, (door, what, verb)
        ended = f"{door}-ended".replace(" ", "-")
        await prepare(aggregator, "ended", ended)
        for verb in Verb:
            assert await ask(verb, "nobody") == UNKNOWN, (door, verb)
            assert await ask(verb, ended) == (DONE if verb is Verb.CANCEL else REFUSED), (door, verb)


async def test_a_hook_forbids_at_every_door(
    open_aggregator: Open, store_url: str, capsys: pytest.CaptureFixture[str]
) -> None:
    aggregator = await busy(open_aggregator, store_url, "a")

    def forbid(name: str) -> None:
        raise RuntimeError("the market is closed")

    for event in ("before_paused", "before_cancelled"):
        aggregator.lifecycle_manager.register_lifecycle_hook(event, forbid)
    for door, ask in doors(aggregator, store_url, capsys).items():
        if door != "command line":
            for verb in (Verb.PAUSE, Verb.CANCEL):
                assert await ask(verb, "a") == REFUSED, (door, verb)
    with pytest.raises(OptimizationLifecycleError):
        await aggregator.coordinator.pause_optimization("a")
    for state in ("PAUSED Paused", "CANCELLING Cancelling"):
        await heard(aggregator.store, aggregator.lifecycle_manager.control.request, "a", state)
    assert aggregator.store.read(queries.holding, "a").intent == "run"
    await heard(aggregator.store, control_of(aggregator.store).request, "a", "PAUSED Paused")
    assert aggregator.store.read(queries.holding, "a").intent == "pause"


async def heard(store: Store, request: Callable[[str, Intent, str], Awaitable[Any]], name: str, state: str) -> None:
    """Prefect's event stream says that the run of `name` has come to `state`."""
    kind, state_name = state.split()
    seen = ObservedState(FLOW, f"run-{name}", "run", str(uuid4()), kind, state_name, "", utc_now())
    await ingest(store, "node", Run(f"run-{name}", name, 1), [seen], Cause.EVENT, request=request)


async def test_every_submission_calls_the_hooks(open_aggregator: Open, store_url: str) -> None:
    aggregator = await busy(open_aggregator, store_url, "takes-the-only-slot")
    created: list[str] = []
    aggregator.lifecycle_manager.register_lifecycle_hook(
        "on_create", lambda state: created.append(state.optimization_id)
    )
    await aggregator.submit_optimization(new("a", objective="branin"))
    await aggregator.coordinator.submit_optimization(new("b", objective="branin"))
    await aggregator.lifecycle_manager.create_optimization(new("c", objective="branin"))
    await aggregator.cancel_optimization("a")
    retried = [await part.retry_optimization("a") for part in (aggregator, aggregator.coordinator)]
    assert created == ["a", "b", "c", *retried]


async def test_a_call_from_another_event_loop_says_how_to_come_here_and_changes_nothing(
    open_aggregator: Open, store_url: str
) -> None:
    aggregator = await busy(open_aggregator, store_url, "a")
    here = asyncio.get_running_loop()
    calls: list[Callable[[], Awaitable[Any]]] = [
        lambda: aggregator.pause_optimization("a"),
        lambda: aggregator.coordinator.pause_optimization("a"),
        lambda: aggregator.lifecycle_manager.cancel_optimization("a"),
        lambda: aggregator.submit_optimization(new("b", objective="branin")),
        aggregator.coordinator.stop,
        aggregator.cleanup,
    ]
    for call in calls:

        async def elsewhere(call: Callable[[], Awaitable[Any]] = call) -> None:
            with pytest.raises(OptimizationError, match="run_coroutine_threadsafe"):
                await call()

        await asyncio.to_thread(asyncio.run, elsewhere())
    holding = aggregator.store.read(queries.holding, "a")
    assert (holding.intent, aggregator.store.read(queries.get, "b"), aggregator.is_running) == ("run", None, True)

    def from_a_thread() -> bool:
        return asyncio.run_coroutine_threadsafe(aggregator.pause_optimization("a"), here).result(30)

    assert await asyncio.to_thread(from_a_thread)
