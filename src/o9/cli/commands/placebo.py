"""`placebo`: the same search on data whose edge was destroyed. With `--here` it runs here, and the p-value is said."""

from __future__ import annotations

import asyncio
from typing import Annotated, Any

import typer

from o9.cli.batch import import_from_here
from o9.cli.console import show, write_json
from o9.cli.failures import DONE, INTERRUPTED, NOT_COMPLETED
from o9.cli.open_store import existing_optimization, existing_store, option_for
from o9.cli.options import Id, Json, StoreUrl
from o9.cli.views.words import Next, command, result
from o9.health.grades import Placebo, Verdict
from o9.health.placebo import placebo_of_runs
from o9.health.verdict import LEAST_PLACEBO_RUNS, PLACEBO_LEVEL
from o9.lifecycle.control import control_of
from o9.lifecycle.effect import direction_of
from o9.lifecycle.placebos import RUNS, waiting
from o9.store import queries
from o9.store.optimizations.placebos import PlaceboRuns
from o9.store.store import Store


def placebo(
    optimization_id: Id,
    runs: Annotated[
        int, typer.Option("--runs", min=1, metavar="K", help="How many; p is 1 / (K + 1) at the least.")
    ] = RUNS,
    here: Annotated[
        bool, typer.Option("--here", help="Run them in this process, with progress, then judge the optimization.")
    ] = False,
    store: StoreUrl = None,
    json: Json = False,
) -> int:
    """Queues it K times, each with a seed of its own, on data that are resampled so that no edge is left in them. How
    often the best there is at least as good is how often luck alone explains the result, whatever the search does.
    Asked again, it queues what is missing. The objective has to take its data: @objective(…, data=load).
    """
    import_from_here()
    with existing_store(store) as opened:
        name = existing_optimization(opened, optimization_id).optimization_id
        queued = waiting(asyncio.run(control_of(opened).placebo(name, runs)))
    interrupted = False
    if here and queued:
        from o9.cli.session.session import run_session  # imports Prefect

        interrupted = run_session(store, queued, prints=False).interrupted
    with existing_store(store) as opened:
        origin = existing_optimization(opened, name)
        verdict = asyncio.run(_verdict(opened, name)) if here and not interrupted else None
        found = opened.read(queries.placebos, name)
        left = waiting(
            [state for each in found.run_ids.values() if (state := opened.read(queries.get, each)) is not None]
        )
    known = placebo_of_runs(origin.current_performance, found, direction_of(origin))
    if json:
        write_json(_document(found, known, verdict, left))
    else:
        _print(name, found, known, verdict, left, option_for(store))
    return INTERRUPTED if interrupted else NOT_COMPLETED if here and left else DONE


async def _verdict(store: Store, optimization_id: str) -> Verdict | None:
    from o9.health.checker import OptimizationHealthChecker

    checker = OptimizationHealthChecker(store=store)
    await checker.check_optimization_health(optimization_id)
    return await checker.get_verdict(optimization_id)


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


def _print(
    name: str, found: PlaceboRuns, placebo: Placebo | None, verdict: Verdict | None, left: list[str], option: str
) -> None:
    queued = len(found.run_ids)
    if placebo is None:
        text = f"{name}: {queued} placebo runs, none of which has finished"
    else:
        text = f"{name}: of {placebo.runs} placebo runs {placebo.as_good} are at least as good"
        without = queued - placebo.runs
        text += f", and {without} without a result count as such" if without else ""
        text += f": p = {placebo.p_value:.3f}"
        if placebo.runs < LEAST_PLACEBO_RUNS:
            text += f"; it takes {LEAST_PLACEBO_RUNS} for p to be {PLACEBO_LEVEL}"
    commands = [(command("show", [name], option), "the result and its history")]
    if left:
        again = command("placebo", [name], f" --runs {queued} --here{option}")
        commands.insert(0, (again, f"runs the {len(left)} that wait, here; so does any node that serves"))
    show("", text, *([result(verdict)] if verdict else []), "", Next(commands))
