"""What the command line draws: pure functions from states and trials to text, at any width."""

from __future__ import annotations

import io
from collections.abc import Sequence
from datetime import UTC, datetime
from functools import partial
from typing import Any

import pytest
from rich.cells import cell_len
from rich.console import Console, RenderableType
from verdicts import verdict

from o9.cli.commands.demo import demo_view
from o9.cli.session.progress import Display, progress_line
from o9.cli.views import words
from o9.cli.views.optimizations import Details, list_view, record_view, summary_view, trials_view
from o9.health.series_runs import SeriesRun
from o9.health.wording import forecast_sentence, headline
from o9.model.optimization import OptimizationState
from o9.model.states import OptimizationPriority, OptimizationStatus, OptimizationType, TrialState
from o9.model.trial import Trial
from o9.text.format import NOTHING, local_zone

NOON = datetime(2026, 1, 31, 12, tzinfo=UTC)
AWKWARD = ("横截面排序 🚀 动量策略", "Risk limits [bold]x[/bold] :smile:", "A name far too long for any table " * 3)


def state(name: str = "Trend", status: str = "running", **fields: Any) -> OptimizationState:
    given: dict[str, Any] = {
        "optimization_id": f"{name[:3]}-1", "description": "", "created_at": NOON, "updated_at": NOON,
        "optimization_type": OptimizationType.PARAMETER_TUNING, "priority": OptimizationPriority.NORMAL,
        "total_steps": 40, "completed_steps": 12, "progress": 0.3, "execution_time": 12.34,
    }  # fmt: skip
    return OptimizationState(name=name, status=OptimizationStatus(status), **(given | fields))


def trial(number: int, value: float | None, **fields: Any) -> Trial:
    how = TrialState.FAILED if value is None else TrialState.COMPLETED
    return Trial(number, number, how, {"fast": number, "band": 0.01234567}, value, **fields)


def drawn(renderable: RenderableType, width: int = 80) -> str:
    console = Console(file=io.StringIO(), width=width, highlight=False, markup=False, emoji=False)
    console.print(renderable)
    assert isinstance(console.file, io.StringIO)
    return console.file.getvalue()


def page(record: Details, width: int = 80) -> str:
    return "".join(drawn(part, width) for part in record_view(record))


@pytest.mark.parametrize("width", [80, 100, 160])
def test_a_list_fits_keeps_ids_whole_and_aligns_wide_characters(width: int) -> None:
    states = [state(name, optimization_id=f"trend-following-20260131-120000-{i:04x}") for i, name in enumerate(AWKWARD)]
    lines = drawn(list_view(list(map(SeriesRun, states)), width), width).splitlines()
    assert len(lines) == 2 + len(states)
    assert all(cell_len(line) <= width for line in lines)
    for one, line in zip(states, lines[2:], strict=True):
        assert line.startswith(one.optimization_id)
    columns = {cell_len(line[: line.index("running")]) for line in lines[2:]}
    assert len(columns) == 1


def test_columns_of_times_name_the_zone() -> None:
    assert f"created ({local_zone()})" in drawn(list_view([SeriesRun(state())], 160), 160).splitlines()[0]
    assert f"2026-01-31 {NOON.astimezone():%H:%M:%S %Z}" in page(Details(state()))


def test_what_users_wrote_is_not_markup() -> None:
    assert "[bold]x[/bold] :smile:" in drawn(list_view([SeriesRun(state(AWKWARD[1]))], 160), 160)
    assert "[bold]x[/bold] :smile:" in page(Details(state(AWKWARD[1])))


RAISED = (
    'ValueError: no\n  data\n  File "/desk/desk.py", line 6, in crossover\n    raise ValueError("no data")\n    ^^^^'
)


def test_the_best_trial_is_marked_and_shown_even_where_it_is_not_among_the_last() -> None:
    trials = [trial(5, 0.2), trial(6, None, error=RAISED), trial(7, 0.4)]
    text = drawn(trials_view(trial(1, 0.9), trials), 100)
    lines = [line for line in text.splitlines()[2:] if line.strip()]
    assert [line.split()[1 if line.startswith("★") else 0] for line in lines] == ["1", "5", "6", "7"]
    assert [line for line in lines if line.startswith("★")] == [lines[0]]
    assert lines[2].endswith("ValueError: no data (desk.py:6)")
    assert "band=0.0123457" in lines[0]


def test_a_page_says_where_it_stands_against_baseline_and_target_and_what_to_type() -> None:
    done = state(
        status="completed", current_performance=1.25, baseline_performance=1.0, target_performance=1.2,
        performance_improvement=0.25, optimized_parameters={"fast": 5}, issues=["one"], warnings=["two"],
        completed_at=NOON, metadata={"objective": "branin", "seed": 3},
    )  # fmt: skip
    transition = {
        "at": NOON.isoformat(),
        "to_status": "completed",
        "cause": "hook",
        "attempt": 2,
        "message": "all done",
    }
    run = "01234567-89ab-cdef-0123-456789abcdef"
    text = page(
        Details(done, None, [transition | {"prefect_run_id": run}], {"completed": 7, "failed": 1}, trial(4, 1.25))
    )
    for told in (
        "1.2500 (higher is better)", "+25% (over the baseline, 1.0000)", "1.2000 (reached)", "fast = 5", "8 (1 failed)",
        "one", "two", run, "attempt 2: all done", "seed 3", "Next: o9 trials Tre-1",
    ):  # fmt: skip
        assert told in " ".join(text.split())
    assert all(cell_len(line) <= 80 for line in text.splitlines())


@pytest.mark.parametrize(
    ("status", "command"),
    [("created", "o9 resume --here"), ("paused", "o9 resume --here"), ("running", "o9 watch"), ("failed", "o9 trials")],
)
def test_the_next_command_fits_the_status(status: str, command: str) -> None:
    text = page(Details(state(status=status), option=" --store 'my store.db'"))
    assert f"Next: {command} Tre-1 --store 'my store.db'" in text


def test_a_suggested_command_names_no_more_ids_than_one_can_read() -> None:
    assert words.command("start", ["a", "b c"]) == "o9 start a 'b c'"
    assert words.command("start", [f"id-{n}" for n in range(2_000)], " --store x.db") == "o9 start ID… --store x.db"


def test_nothing_is_claimed_before_anything_succeeded() -> None:
    assert "no result yet" in page(Details(state()))
    assert "no result" in page(Details(state(status="failed")))
    summary = drawn(summary_view([Details(state(status="failed", baseline_performance=1.0))], 120), 120)
    assert summary.splitlines()[2].split()[:4] == ["Tre-1", "failed", NOTHING, "1.0000"]


def bars(states: Sequence[OptimizationState], width: int, height: int = 24) -> list[str]:
    display = Display(Console(file=io.StringIO(), width=width, height=height), silent=True)
    display.update(states)
    return drawn(display.bars.get_renderable(), width).splitlines()


@pytest.mark.parametrize("width", [60, 80, 200])
def test_progress_fits_the_terminal_and_aligns_wide_characters(width: int) -> None:
    lines = bars([state(name, current_performance=0.98765, optimized_parameters={"a": 1}) for name in AWKWARD], width)
    assert len(lines) == 3
    assert all(cell_len(line) <= width for line in lines)
    assert len({cell_len(line[: line.index("running")]) for line in lines}) == 1
    assert all("12/40" in line and "0.9877" in line and "12." in line for line in lines)


def test_where_not_all_fit_the_height_what_runs_is_shown() -> None:
    states = [state(f"n{i}", "completed") for i in range(20)] + [state("active"), state("queued", "created")]
    assert len(bars(states, 80)) == 22
    assert [line.split()[0] for line in bars(states, 80, height=10)] == ["active"]


def test_the_time_left_follows_from_the_steps_that_were_seen() -> None:
    display = Display(Console(file=io.StringIO(), width=100), silent=True)
    for at, steps in enumerate((16, 17, 18, 19)):
        display.bars.get_time = partial(float, at)
        display.update([state(completed_steps=steps, progress=steps / 64)])
    assert "45 s left" in drawn(display.bars.get_renderable(), 100)
    display.update([state(status="paused", completed_steps=13, progress=13 / 40)])
    assert "left" not in drawn(display.bars.get_renderable(), 100)


def test_elsewhere_than_on_a_terminal_there_is_a_line_for_each_change_and_no_control_characters() -> None:
    console = Console(file=io.StringIO(), width=10_000)
    with Display(console) as display:
        display.waiting_for("starting Prefect's local server")
        for one in (state(status="created"), state(), state(completed_steps=13), state(status="completed")):
            display.update([one])
    assert isinstance(console.file, io.StringIO)
    lines = console.file.getvalue().splitlines()
    assert [line.split()[2] for line in lines[1:]] == ["created", "running", "completed"]
    assert "\x1b" not in console.file.getvalue()


def test_a_progress_line_says_what_is_known() -> None:
    assert progress_line(state(current_performance=1.0)) == "Trend  running  12/40  best 1.0000  12.3 s"
    assert progress_line(state(), "3 min left").endswith("12.3 s  3 min left")
    fresh = state(status="created", total_steps=0, completed_steps=0, execution_time=0.0)
    assert progress_line(fresh) == "Trend  created"


DAYS = ("1994 to 2013", "2013 to 2022")


def test_the_demonstration_says_what_was_searched_for_where_that_is_no_sharpe_ratio() -> None:
    records = [
        Details(state(name, metadata={"objective": objective}))
        for name, objective in (("Trend", "sp500_trend"), ("Risk limits", "sp500_risk_limits"))
    ]
    drawn_rows = "".join(drawn(part) for part in demo_view(records, DAYS))
    assert "Risk limits *" in drawn_rows
    assert "Trend *" not in drawn_rows
    assert "This search maximized the Calmar ratio" in drawn_rows
    assert "*" not in "".join(drawn(part) for part in demo_view(records[:1], DAYS))


def test_the_demonstration_has_each_result_first_and_its_figures_in_a_table() -> None:
    measured = ("", "out_of_sample_", "equal_weight_", "out_of_sample_equal_weight_")
    best = trial(3, 0.5, metrics={f"{prefix}sharpe": 0.5 for prefix in measured})
    made = verdict()
    records = [
        Details(
            state("Trend", "completed", optimization_id="a"), trial_counts={"completed": 9}, best=best, verdict=made
        ),
        Details(state("Broken", "failed")),
    ]
    page = demo_view(records, DAYS)
    text = "".join(drawn(part) for part in page)
    assert all(cell_len(line) <= 80 for line in text.splitlines())
    assert " ".join(text.split()).startswith(f"Trend {headline(made)} {made.words}")
    assert forecast_sentence(made)[1:] in " ".join(text.split())
    lines = [line.split() for line in text.splitlines()]
    assert ["Trend", "9", "0.50", "0.50", "1.32", "0.50", "0.41"] in lines
    assert ["Broken", "0", *[NOTHING] * 5] in lines
    assert {"Equal", "Buy"} <= {line[0] for line in lines if line}


def test_commands_stand_alone_where_their_meaning_does_not_fit() -> None:
    following = words.Next([("o9 show abc", "the result"), ("o9 list", "everything")])
    assert drawn(following, 80).splitlines() == ["Next: o9 show abc   the result", "      o9 list       everything"]
    assert drawn(following, 20).splitlines() == ["Next: o9 show abc", "      o9 list"]
