"""`demo`: optimize four real strategies on real prices, side by side, and show how far each result can be trusted."""

from __future__ import annotations

from collections.abc import Sequence
from importlib.util import find_spec
from pathlib import Path
from typing import Annotated

import typer

from o9.cli.failures import help_only
from o9.cli.options import StoreUrl
from o9.model.errors import OptimizationError

if not help_only:
    from rich.console import RenderableType
    from rich.text import Text

    from o9.cli.commands.inspect import read_record
    from o9.cli.console import plain_table, say, show
    from o9.cli.open_store import existing_store, option_for, place_of
    from o9.cli.session.session import exit_code, run_session, what_next
    from o9.cli.versions import install_command
    from o9.cli.views.optimizations import Details, results_view
    from o9.cli.views.words import Next
    from o9.health.wording import sharpe
    from o9.report.write import report_of, write
    from o9.text.format import NOTHING


LEGEND = (
    "20 large US stocks, daily; Sharpe ratios are annual, net of trading costs. Parameters were chosen in sample only "
    "({in_sample}); the search never saw the days held out ({held_out}). Alpha is what a strategy earned beyond its "
    "exposure to equal weight; the result and the forecast are about alpha."
)

REPORT = "o9-report-demo.html"

# Notes on the objectives that do not maximize a Sharpe ratio.
OTHER_GOALS = {
    "sp500_risk_limits": "* This search maximized the Calmar ratio (annual return over maximum drawdown), which is the "
    "best value in `o9 list` and `o9 show`; the Sharpe ratios above are those of its best parameters."
}


def demo(
    seed: Annotated[int, typer.Option(metavar="N", help="Seed; the same seed gives the same trials.")] = 7,
    small: Annotated[bool, typer.Option("--small", help="Run a few trials each: seconds instead of a minute.")] = False,
    store: StoreUrl = None,
) -> int:
    """Runs them side by side, with progress, and prints the verdicts. Needs the extra [quant]."""
    if find_spec("skfolio") is None:
        raise OptimizationError(
            f"the demonstration needs skfolio, which contains the prices: {install_command('quant')}"
        )

    say("reading 33 years of prices of 20 large US stocks")
    from o9.demo.demonstration import demo_optimizations  # numpy and skfolio

    states = demo_optimizations(seed, small)

    ids = [state.optimization_id for state in states]
    return _conclude(store, ids, run_session(store, ids, states))


def demo_view(records: Sequence[Details], days: tuple[str, str]) -> list[RenderableType]:
    """The results, a table of the figures, and how to read them. Fits 80 columns.

    days: in sample and held out, `1994-01 to 2014-02`.
    """
    figures = ("Sharpe\nin sample", "Sharpe\nheld out", "alpha\nin sample", "alpha\nheld out", "alpha\nforecast")
    table = plain_table("strategy", "trials", *figures, right=("trials", *figures))
    goals = [record.state.metadata.get("objective", "") for record in records]
    measured = [record.best.metrics if record.best else {} for record in records]
    for record, goal, metrics in zip(records, goals, measured, strict=True):
        name, count = record.state.name + (" *" if goal in OTHER_GOALS else ""), sum(record.trial_counts.values())
        forecast = record.verdict.forecast if record.verdict else None
        alphas = (forecast.claimed, forecast.held_out, forecast.mean) if forecast else (None, None, None)
        ratios = (metrics.get("sharpe"), metrics.get("out_of_sample_sharpe"), *alphas)
        table.add_row(name, str(count), *map(_ratio, ratios), end_section=record is records[-1])
    # Every row was judged on the same prices, days and costs, so the baselines are the same for all.
    for name, baseline in (("Equal weight (baseline)", "equal_weight"), ("Buy and hold", "buy_and_hold")):
        inside, outside = f"{baseline}_sharpe", f"out_of_sample_{baseline}_sharpe"
        table.add_row(name, "", _ratio(measured[0].get(inside)), _ratio(measured[0].get(outside)), style="dim")
    legend = LEGEND.format(in_sample=days[0], held_out=days[1])
    notes = [note for goal, note in OTHER_GOALS.items() if goal in goals]
    return [*results_view(records), table, "", *(Text(note, style="dim") for note in [legend, *notes])]


def _conclude(url: str | None, ids: Sequence[str], interrupted: bool) -> int:
    from o9.cli.prefect_side import where_prefect_records

    option = option_for(url)
    with existing_store(url) as store:
        records = [read_record(store, name, option) for name in ids]
        show("", *demo_view(records, _periods()), "")
        show(f"The record:       {place_of(store)}", f"Prefect's record: {where_prefect_records()}")
        if not interrupted:
            show(f"The report:       {write(report_of(store, ids), Path(REPORT))}")
    show("")
    everything = [(f"o9 list{option}", "everything in the record"), *what_next(records, option)]
    show(Next(everything))
    return exit_code(records, interrupted)


def _periods() -> tuple[str, str]:
    """The days in sample and those held out, `1994-01 to 2014-02`."""
    from o9.demo.market.prices import sp500, split_days

    dates = [str(day)[:7] for day in sp500().dates]
    split = split_days(len(dates))
    spans = (dates[split.in_sample], dates[split.out_of_sample])
    return f"{spans[0][0]} to {spans[0][-1]}", f"{spans[1][0]} to {spans[1][-1]}"


def _ratio(value: float | None) -> str:
    return NOTHING if value is None else sharpe(value)
