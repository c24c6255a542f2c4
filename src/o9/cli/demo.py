"""`demo`: four optimizations of real strategies on real prices, side by side, and one table to judge them by."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING

from rich.console import RenderableType
from rich.table import Table
from rich.text import Text

from o9.cli import words
from o9.cli.conduct import Conducted, conduct, exit_code, what_next
from o9.cli.console import emit, plain_table, results, say
from o9.cli.open_store import existing_store, option_for, place_of
from o9.cli.progress import Display
from o9.cli.reading import ledger, read_record
from o9.cli.run import submit_all
from o9.cli.versions import install_command
from o9.model.errors import OptimizationError
from o9.model.trial import Trial
from o9.report.writing import report_of, write
from o9.store.store import Store

if TYPE_CHECKING:
    from o9.aggregator.aggregator import OptimizationStateAggregator
    from o9.model.optimization import OptimizationState
    from o9.objectives.demo import DemoRow

LEGEND = (
    "20 large US stocks, daily. Sharpe ratios are annual, net of trading costs. Parameters were chosen in sample alone "
    "({in_sample}); out of sample ({out_of_sample}) came after. Walk-forward, in the in-sample years, switches to the "
    "best parameters known at each fold."
)

REPORT = "o9-report-demo.html"

# By what was optimized where that is no Sharpe ratio.
OTHER_GOALS = {
    "calmar": "* Searched for the best Calmar ratio (a year's return over the worst fall), which is the best value "
    "that `o9 list` and `o9 show` give; the Sharpe ratios above are those of the parameters so found."
}


def demonstrate(url: str | None, *, seed: int, small: bool) -> int:
    if find_spec("skfolio") is None:
        raise OptimizationError(f"the demonstration needs skfolio, which brings the prices: {install_command('quant')}")

    async def begin(aggregator: OptimizationStateAggregator, display: Display) -> list[str]:
        display.waiting_for("reading 33 years of prices of 20 large US stocks")
        return await submit_all(aggregator, await asyncio.to_thread(_plan, seed, small), display)

    conducted = conduct(url, begin)
    return _conclude(url, conducted)


def demo_view(rows: Sequence[DemoRow], in_sample: str, out_of_sample: str) -> list[RenderableType]:
    """The table, what it says in a sentence for each strategy, and how to read it. Fits 80 columns."""
    columns = ("trials", "in\nsample", "walk-\nforward", "out of\nsample", "worst\nfall", "turnover\na year")
    table = plain_table("strategy", *columns, right=columns)
    for row in rows:
        beats = _beats(row.out_of_sample_sharpe, row.out_of_sample_equal_weight_sharpe)
        table.add_row(
            f"{row.strategy} *" if row.figure in OTHER_GOALS else row.strategy,
            str(row.trials),
            _ratio(row.in_sample_sharpe),
            _ratio(row.walk_forward_sharpe),
            Text(_ratio(row.out_of_sample_sharpe), style="" if beats is None else "green" if beats else "yellow"),
            _share(row.out_of_sample_max_drawdown),
            words.NOTHING if row.turnover is None else f"{row.turnover:.1f}",
            end_section=row is rows[-1],
        )
    # Every row was judged on the same prices, days and costs, so the baselines are the same for all.
    known = rows[0]
    table.add_row(
        "Equal weight (baseline)", "",
        _ratio(known.equal_weight_sharpe), _ratio(known.walk_forward_equal_weight_sharpe),
        _ratio(known.out_of_sample_equal_weight_sharpe), _share(known.out_of_sample_equal_weight_max_drawdown), "",
        style="dim",
    )  # fmt: skip
    table.add_row(
        "Buy and hold", "", _ratio(known.buy_and_hold_sharpe), "", _ratio(known.out_of_sample_buy_and_hold_sharpe),
        style="dim",
    )  # fmt: skip
    sentences = Table.grid(padding=(0, 2))
    sentences.add_column(no_wrap=True)
    sentences.add_column()
    for row in rows:
        sentences.add_row(Text(row.strategy), Text(row.reading))
    heading = Text("Sharpe ratios, and the worst fall from a high out of sample", style="bold")
    legend = LEGEND.format(in_sample=in_sample, out_of_sample=out_of_sample)
    notes = [OTHER_GOALS[figure] for figure in OTHER_GOALS if any(row.figure == figure for row in rows)]
    told = [Text(note, style="dim") for note in [legend, *notes]]
    return [heading, Text(), table, Text(), sentences, Text(), *told]


def _plan(seed: int, small: bool) -> list[OptimizationState]:
    from o9.objectives.demo import demo_optimizations  # numpy and skfolio

    return demo_optimizations(seed, small)


def _conclude(url: str | None, conducted: Conducted) -> int:
    from o9.cli.prefect_side import where_prefect_records
    from o9.objectives.demo import demo_table

    option = option_for(url)
    with existing_store(url) as store:
        records = [read_record(store, name, option) for name in conducted.ids]
        names = {record.state.optimization_id: record.best for record in records}
        ledgers = {name: _with_returns(store, name) for name in conducted.ids}
        rows = demo_table([record.state for record in records], names, ledgers)
        where = place_of(store)
        report = "" if conducted.interrupted else _report(store, conducted.ids)
    console = results()
    emit(console, Text(), *demo_view(rows, *_periods()), Text(), Text(f"The record:       {where}"))
    emit(console, Text(f"Prefect's record: {where_prefect_records()}"))
    if report:
        emit(console, Text(f"The report:       {report}"))
    emit(console, Text())
    emit(console, *(Text(line) for line in what_next(records, option, console.width, everything=True)))
    return exit_code(records, conducted.interrupted)


def _report(store: Store, ids: Sequence[str]) -> str:
    """Where it is, or why there is none; the demonstration is none the worse for it."""
    say("judging what was found")
    try:
        return str(write(report_of(store, ids), Path(REPORT)))
    except OptimizationError as error:
        return f"not written: {error}"


def _periods() -> tuple[str, str]:
    """The in-sample and the out-of-sample days, `1994-01 to 2014-02`."""
    from o9.objectives.market.prices import sp500
    from o9.objectives.market.walk_forward import split_days

    dates = [str(day)[:7] for day in sp500().dates]
    split = split_days(len(dates))
    spans = (dates[split.in_sample], dates[split.out_of_sample])
    return f"{spans[0][0]} to {spans[0][-1]}", f"{spans[1][0]} to {spans[1][-1]}"


def _with_returns(store: Store, name: str) -> list[Trial]:
    return [store.trial(name, trial.number) or trial for trial in ledger(store, name)]


def _beats(value: float | None, baseline: float | None) -> bool | None:
    return None if value is None or baseline is None else value > baseline


def _ratio(value: float | None) -> str:
    return words.NOTHING if value is None else f"{value:.2f}"


def _share(value: float | None) -> str:
    return words.NOTHING if value is None else f"{100 * value:.0f} %"
