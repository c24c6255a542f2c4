"""`health`: judge one optimization now, which keeps the report, or list the last ones. Nothing here imports Prefect."""

from __future__ import annotations

import asyncio
from typing import Any

from rich.text import Text

from o9.cli.batch import import_from_here
from o9.cli.commands.inspect import LIST_LIMIT, PAGE_WIDTH
from o9.cli.console import emit, results, say, write_json
from o9.cli.failures import DONE, NOT_COMPLETED
from o9.cli.open_store import existing_optimization, existing_store, option_for
from o9.cli.views.health import health_view, reports_view
from o9.cli.views.optimizations import list_view
from o9.cli.views.words import aligned, command
from o9.health.checker import OptimizationHealthChecker
from o9.health.grades import Verdict, verdict_of
from o9.health.verdict_words import document
from o9.model.optimization import OptimizationHealthReport
from o9.model.states import ENDED, HealthStatus
from o9.store import queries
from o9.store.store import Store

NEWEST = 10


def judge_optimization(url: str | None, optimization_id: str, *, evaluate: bool, exit_code: bool, as_json: bool) -> int:
    """Judge it now. `evaluate`: after its objective has evaluated the best once more, imported as `o9 run` does.

    exit_code: answer 3 where it is critical, for scripts; else 0 whatever it is.
    """
    if evaluate:
        import_from_here()
    with existing_store(url) as store:
        state = existing_optimization(store, optimization_id)
        report, checks = asyncio.run(_judged(store, optimization_id, evaluate))
    if as_json:
        write_json(report.to_dict() | document(verdict_of(checks)) | {"checks": checks})
    else:
        console = results()
        console.width = min(console.width, PAGE_WIDTH)
        emit(console, *health_view(state, report, checks), Text())
        if not evaluate and state.status in ENDED:
            again = command("health --evaluate", [optimization_id], option_for(url))
            emit(
                console, *map(Text, aligned([(again, "lets its objective evaluate the best once more")], console.width))
            )
    return NOT_COMPLETED if exit_code and report.overall_status is HealthStatus.CRITICAL else DONE


def list_reports(url: str | None, limit: int | None, *, as_json: bool) -> int:
    """The last stored reports; where there are none yet, the newest optimizations, none of which was judged."""
    with existing_store(url) as store:
        console, wanted = results(), limit or LIST_LIMIT
        read = limit if as_json else wanted + 1
        reports = asyncio.run(OptimizationHealthChecker(store=store).get_all_health_reports(read))
        rows = store.read(queries.health_verdicts, [report.optimization_id for report in reports])
        judged = {name: Verdict.from_dict(row["verdict"]) for name, row in rows.items() if row["verdict"]}
        if as_json:
            write_json([report.to_dict() | document(judged.get(report.optimization_id)) for report in reports])
            return DONE
        if reports:
            emit(console, reports_view(reports[:wanted], console.width, judged))
            if len(reports) > wanted:
                say(f"the newest {wanted}; there are more: --limit N shows them")
            return DONE
        newest = store.read(queries.page, limit=min(wanted, NEWEST)).items
        if not newest:
            say("none yet; `o9 demo` or `o9 run FILE.yaml` makes some")
            return DONE
        emit(console, list_view(newest, console.width))
        judge = command("health", [newest[0].optimization_id], option_for(url))
        say(f"none of them was judged yet; `{judge}` judges one now, the flow check_health all that need it")
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
