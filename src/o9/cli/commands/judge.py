"""`health`, `placebo` and `report`: judge an optimization, run its search on data without an edge, write a report.

Reports of health are stored. Only `placebo --here` imports Prefect.
"""

from __future__ import annotations

import asyncio
import webbrowser
from pathlib import Path
from typing import Annotated, Any

import typer

from o9.cli.failures import DONE, INTERRUPTED, NOT_COMPLETED, help_only
from o9.cli.options import Id, Json, Limit, OptionalId, StoreUrl, complete_ids
from o9.model.states import ENDED, HealthStatus

if not help_only:
    from o9.cli.batch import import_from_here
    from o9.cli.commands.inspect import LIST_LIMIT
    from o9.cli.console import answer, page_width, results, say, say_more, show, write_json
    from o9.cli.open_store import existing_ids, existing_optimization, existing_store, option_for
    from o9.cli.views.health import health_view, reports_view
    from o9.cli.views.words import Next, command, result
    from o9.health.checker import OptimizationHealthChecker
    from o9.health.grades import REPEATABLE, Placebo, Verdict, verdict_of
    from o9.health.placebo import placebo_of
    from o9.health.verdict import LEAST_PLACEBO_RUNS, PLACEBO_LEVEL
    from o9.health.wording import document
    from o9.lifecycle.control import control_of
    from o9.lifecycle.effect import direction_of
    from o9.lifecycle.placebos import RUNS, waiting
    from o9.model.optimization import OptimizationHealthReport
    from o9.store import queries
    from o9.store.store import Store


def health(
    optimization_id: OptionalId = None,
    evaluate: Annotated[
        bool, typer.Option("--evaluate", help="First re-evaluate the best parameters in this process.")
    ] = False,
    exit_code: Annotated[bool, typer.Option("--exit-code", help="Exit 3 if its health is critical.")] = False,
    limit: Limit = None,
    store: StoreUrl = None,
    json: Json = False,
) -> int:
    """Judges it now and stores the report: the verdict, the checks behind it and the remedies. Without ID, lists the
    last report of each optimization, newest first.
    """
    if optimization_id is None:
        if exit_code or evaluate:
            raise typer.BadParameter(f"--{'exit-code' if exit_code else 'evaluate'} requires an ID")
        _list_reports(store, limit, as_json=json)
        return DONE
    if limit is not None:
        raise typer.BadParameter("--limit applies to the list of reports: omit it or the ID")
    if evaluate:
        import_from_here()
    with existing_store(store) as opened:
        state = existing_optimization(opened, optimization_id)
        report, checks = asyncio.run(_judged(opened, state.optimization_id, evaluate))
    if json:
        write_json(report.to_dict() | document(verdict_of(checks)) | {"checks": checks})
    else:
        show(*health_view(state, report, checks), "", width=page_width())
        unknown = any(each["name"] == REPEATABLE and each["unknown"] for each in checks)
        if unknown and state.status in ENDED and not evaluate:
            again = command("health --evaluate", [state.optimization_id], option_for(store))
            show(Next([(again, "re-evaluates the best parameters")]))
    return NOT_COMPLETED if exit_code and report.overall_status is HealthStatus.CRITICAL else DONE


def _list_reports(url: str | None, limit: int | None, *, as_json: bool) -> None:
    wanted = limit or LIST_LIMIT
    with existing_store(url) as store:
        reports = asyncio.run(
            OptimizationHealthChecker(store=store).get_all_health_reports(limit if as_json else wanted + 1)
        )
        rows = store.read(queries.health_verdicts, [report.optimization_id for report in reports])
    judged = {name: Verdict.from_dict(row["verdict"]) for name, row in rows.items() if row["verdict"]}
    if as_json:
        write_json([report.to_dict() | document(judged.get(report.optimization_id)) for report in reports])
    elif reports:
        show(reports_view(reports[:wanted], results().width, judged))
        say_more(len(reports), wanted)
    else:
        say("no optimization has been judged yet; `o9 health ID` judges one, the flow check_health all that are due")


async def _judged(
    store: Store, optimization_id: str, evaluate: bool
) -> tuple[OptimizationHealthReport, list[dict[str, Any]]]:
    checker = OptimizationHealthChecker(store=store)
    if evaluate:
        from o9.health.reevaluation import evaluate_again

        seconds = checker.evaluation_seconds
        await evaluate_again(store, await checker.existing(optimization_id), seconds=seconds, allowed_imports=None)
    report = await checker.check_optimization_health(optimization_id)
    return report, await checker.get_health_checks(optimization_id)


def placebo(
    optimization_id: Id,
    runs: Annotated[
        int | None,
        typer.Option(min=1, metavar="K", help="Number of runs; the smallest possible p is 1 / (K + 1).  [default: 19]"),
    ] = None,
    here: Annotated[
        bool, typer.Option("--here", help="Run them in this process, with progress, and then judge the optimization.")
    ] = False,
    store: StoreUrl = None,
    json: Json = False,
) -> int:
    """Queues the search K times, each with its own seed, on data that is resampled so that no edge is left. The p-value
    is how often the best of such a search is at least as good. If called again, it queues only the missing runs. The
    objective must declare its data: @objective(…, data=load).
    """
    import_from_here()
    with existing_store(store) as opened:
        name = existing_optimization(opened, optimization_id).optimization_id
        queued = waiting(asyncio.run(control_of(opened).placebo(name, runs or RUNS)))
    interrupted = False
    if here and queued:
        from o9.cli.session.session import run_session  # imports Prefect

        interrupted = run_session(store, queued, prints=False)
    with existing_store(store) as opened:
        origin = existing_optimization(opened, name)
        judged = here and not interrupted
        verdict = verdict_of(asyncio.run(_judged(opened, name, False))[1]) if judged else None
        found = opened.read(queries.placebos, name)
        left = waiting(
            [state for each in found.run_ids.values() if (state := opened.read(queries.get, each)) is not None]
        )
    known = placebo_of(origin.current_performance, found, direction_of(origin))
    if json:
        numbered = sorted(found.run_ids.items())
        write_json({
            "runs": [{"number": n, "optimization_id": name, "value": found.values[n]} for n, name in numbered],
            "finished": len(found.finished), "waiting": len(left), "p_value": known.p_value if known else None,
            "grade": verdict.grade.value if verdict else None,
        })  # fmt: skip
    else:
        option, number = option_for(store), len(found.run_ids)
        commands = [(command("show", [name], option), "the result and its history")]
        if left:
            again = command("placebo", [name], f" --runs {number} --here{option}")
            commands.insert(0, (again, f"runs the remaining {len(left)} here; a serving node does, too"))
        show("", _words(name, number, known), *([result(verdict)] if verdict else []), "", Next(commands))
    return INTERRUPTED if interrupted else NOT_COMPLETED if here and left else DONE


def _words(name: str, queued: int, placebo: Placebo | None) -> str:
    if placebo is None:
        return f"{name}: {queued} placebo runs, none finished"
    without = queued - placebo.runs
    failed = f", and {without} without a result count as such" if without else ""
    least = f"; at least {LEAST_PLACEBO_RUNS} are needed to reach {PLACEBO_LEVEL}"
    few = least if placebo.runs < LEAST_PLACEBO_RUNS else ""
    as_good = f"{placebo.as_good} of {placebo.runs} placebo runs are at least as good"
    return f"{name}: {as_good}{failed}: p = {placebo.p_value:.3f}{few}"


def report(
    ids: Annotated[
        list[str] | None,
        typer.Argument(
            metavar="ID", help="Ids of optimizations, or unique prefixes of them.", autocompletion=complete_ids
        ),
    ] = None,
    output: Annotated[
        Path | None,
        typer.Option("--output", "-o", metavar="FILE.html", help="File to write.  [default: o9-report-ID.html]"),
    ] = None,
    open_it: Annotated[bool, typer.Option("--open", help="Open the report in a browser.")] = False,
    store: StoreUrl = None,
    json: Json = False,
) -> None:
    """The report contains the verdict, health and plots; without ID, the counts, trends and rankings of all
    optimizations. It needs no network. Of existing files, only an earlier report is overwritten.
    """
    from o9.report.write import file_name, report_of, report_of_all, write  # imports plotly

    with existing_store(store) as opened:
        wanted = existing_ids(opened, ids or [])
        page = report_of(opened, wanted) if wanted else report_of_all(opened)
    path = write(page, output or Path(file_name(wanted)))
    answer({"report": str(path), "bytes": path.stat().st_size, "optimizations": wanted}, str(path), as_json=json)
    if open_it:
        webbrowser.open(path.as_uri())
