"""`health`: judge one optimization now, which keeps the report, or list the last ones. Nothing here imports Prefect."""

from __future__ import annotations

import asyncio
from typing import Annotated, Any

import typer

from o9.cli.batch import import_from_here
from o9.cli.commands.inspect import LIST_LIMIT
from o9.cli.console import page_width, results, say, show, write_json
from o9.cli.failures import DONE, NOT_COMPLETED
from o9.cli.open_store import existing_optimization, existing_store, option_for
from o9.cli.options import Json, Limit, OptionalId, StoreUrl
from o9.cli.views.health import health_view, reports_view
from o9.cli.views.words import Next, command
from o9.health.checker import OptimizationHealthChecker
from o9.health.grades import REPEATABLE, Verdict, verdict_of
from o9.health.wording import document
from o9.model.optimization import OptimizationHealthReport
from o9.model.states import ENDED, HealthStatus
from o9.store import queries
from o9.store.store import Store


def health(
    optimization_id: OptionalId = None,
    evaluate: Annotated[
        bool, typer.Option("--evaluate", help="Let its objective evaluate the best once more before: it runs here.")
    ] = False,
    exit_code: Annotated[bool, typer.Option("--exit-code", help="Exit 3 where it is critical, else 0.")] = False,
    limit: Limit = None,
    store: StoreUrl = None,
    json: Json = False,
) -> int:
    """Now, with the verdict, the checks behind it and what to do; the report is kept. Without ID: the last reports of
    all, newest first.
    """
    if optimization_id is None:
        if exit_code or evaluate:
            raise typer.BadParameter(f"--{'exit-code' if exit_code else 'evaluate'} is about one: give its ID")
        return _list_reports(store, limit, as_json=json)
    if limit is not None:
        raise typer.BadParameter("--limit is for the list of reports: leave it or the ID out")
    if evaluate:
        import_from_here()
    with existing_store(store) as opened:
        state = existing_optimization(opened, optimization_id)
        report, checks = asyncio.run(_judged(opened, state.optimization_id, evaluate))
    if json:
        write_json(report.to_dict() | document(verdict_of(checks)) | {"checks": checks})
    else:
        show(*health_view(state, report, checks), "", width=page_width())
        if state.status in ENDED and any(each["name"] == REPEATABLE and each["unknown"] for each in checks):
            again = command("health --evaluate", [state.optimization_id], option_for(store))
            show(Next([(again, "lets its objective evaluate the best once more")]))
    return NOT_COMPLETED if exit_code and report.overall_status is HealthStatus.CRITICAL else DONE


def _list_reports(url: str | None, limit: int | None, *, as_json: bool) -> int:
    wanted = limit or LIST_LIMIT
    with existing_store(url) as store:
        reports = asyncio.run(
            OptimizationHealthChecker(store=store).get_all_health_reports(limit if as_json else wanted + 1)
        )
        rows = store.read(queries.health_verdicts, [report.optimization_id for report in reports])
        newest = store.read(queries.page, limit=1).items
    judged = {name: Verdict.from_dict(row["verdict"]) for name, row in rows.items() if row["verdict"]}
    if as_json:
        write_json([report.to_dict() | document(judged.get(report.optimization_id)) for report in reports])
    elif reports:
        show(reports_view(reports[:wanted], results().width, judged))
        if len(reports) > wanted:
            say(f"the newest {wanted}; there are more: --limit N shows them")
    elif newest:
        judge = command("health", [newest[0].optimization_id], option_for(url))
        say(f"none was judged yet; `{judge}` judges one now, the flow check_health all that need it")
    else:
        say("none yet; `o9 demo` or `o9 run FILE.yaml` makes some")
    return DONE


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
