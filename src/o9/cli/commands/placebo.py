"""`placebo`: the same search on data whose edge was destroyed. With `--wait` it runs here, and the p-value is said."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any

from rich.text import Text

from o9.cli.batch import import_from_here
from o9.cli.commands.control import who
from o9.cli.console import emit, results, write_json
from o9.cli.failures import DONE, INTERRUPTED, NOT_COMPLETED
from o9.cli.open_store import existing_optimization, existing_store, option_for
from o9.cli.views.words import aligned, command, result
from o9.health.grades import Placebo, Verdict
from o9.health.placebo import placebo_of
from o9.health.verdict import LEAST_PLACEBO_RUNS, PLACEBO_LEVEL
from o9.lifecycle.control import control_of
from o9.lifecycle.effect import direction_of
from o9.lifecycle.placebos import waiting
from o9.model.optimization import OptimizationState
from o9.model.states import Intent
from o9.store import queries
from o9.store.optimizations.placebos import PlaceboRuns
from o9.store.store import Store
from o9.text.escape import shown

if TYPE_CHECKING:
    from o9.aggregator.aggregator import OptimizationStateAggregator
    from o9.cli.session.progress import Display


def run_placebos(url: str | None, optimization_id: str, runs: int, *, wait: bool, as_json: bool) -> int:
    """Queue those that are not there yet; `wait`: run them here, then judge the optimization once more."""
    import_from_here()
    with existing_store(url) as store:
        existing_optimization(store, optimization_id)
        queued = waiting(asyncio.run(control_of(store).placebo(optimization_id, runs)))
    interrupted = _run(url, queued) if wait and queued else False
    with existing_store(url) as store:
        origin = existing_optimization(store, optimization_id)
        verdict = asyncio.run(_verdict(store, optimization_id)) if wait and not interrupted else None
        found = store.read(queries.placebos, optimization_id)
        left = waiting(
            [state for name in found.run_ids.values() if (state := store.read(queries.get, name)) is not None]
        )
    placebo = _placebo(origin, found)
    if as_json:
        write_json(_document(found, placebo, verdict, left))
    else:
        _tell(optimization_id, found, placebo, verdict, left, option_for(url))
    return INTERRUPTED if interrupted else NOT_COMPLETED if wait and left else DONE


def _run(url: str | None, ids: list[str]) -> bool:
    """In this process, with progress; whether Ctrl-C ended it."""
    from o9.cli.session.session import conduct

    async def begin(aggregator: OptimizationStateAggregator, display: Display) -> list[str]:
        for name in ids:
            holding = await aggregator.store.read_async(queries.holding, name)
            if holding is not None and holding.intent == Intent.PAUSE.value:
                await aggregator.resume_optimization(name, who())
        return ids

    return conduct(url, begin, ids, prints=False).interrupted


async def _verdict(store: Store, optimization_id: str) -> Verdict | None:
    from o9.health.checker import OptimizationHealthChecker

    checker = OptimizationHealthChecker(store=store)
    await checker.check_optimization_health(optimization_id)
    return await checker.get_verdict(optimization_id)


def _placebo(origin: OptimizationState, found: PlaceboRuns) -> Placebo | None:
    maximize = direction_of(origin) == "maximize"
    return placebo_of(origin.current_performance, list(found.values.values()), maximize=maximize)


def _document(found: PlaceboRuns, placebo: Placebo | None, verdict: Verdict | None, left: list[str]) -> dict[str, Any]:
    return {
        "runs": [
            {"number": number, "optimization_id": name, "value": found.values[number]}
            for number, name in sorted(found.run_ids.items())
        ],
        "finished": len(found.finished),
        "waiting": len(left),
        "p_value": placebo.p_value if placebo else None,
        "grade": verdict.grade.value if verdict else None,
    }


def _tell(
    name: str, found: PlaceboRuns, placebo: Placebo | None, verdict: Verdict | None, left: list[str], option: str
) -> None:
    console = results()
    all_runs = len(found.run_ids)
    if placebo is None:
        words = f"{name}: {all_runs} placebo runs, none of which has finished"
    else:
        words = f"{name}: of {placebo.runs} placebo runs {placebo.as_good} are at least as good"
        without = all_runs - placebo.runs
        words += f", and {without} without a result count as such" if without else ""
        words += f": p = {placebo.p_value:.3f}"
        if placebo.runs < LEAST_PLACEBO_RUNS:
            words += f"; it takes {LEAST_PLACEBO_RUNS} for p to be {PLACEBO_LEVEL}"
    emit(console, Text(), Text(shown(words)))
    if verdict is not None:
        emit(console, result(verdict))
    commands = [(command("show", [name], option), "the result and its history")]
    if left:
        again = command("placebo", [name], f" --runs {all_runs} --wait{option}")
        commands.insert(0, (again, f"runs the {len(left)} that wait, here; so does any node that serves"))
    emit(console, Text(), *map(Text, aligned(commands, console.width)))
