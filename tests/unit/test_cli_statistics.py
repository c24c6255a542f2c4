"""What `stats`, `trends`, `rankings` and `health` draw: pure functions from figures to text, at any width."""

from __future__ import annotations

import io
from datetime import UTC, date, datetime
from typing import Any

import pytest
from rich.cells import cell_len
from rich.console import Console, RenderableType
from verdicts import check_of, verdict

from o9.cli.views.health import health_line, health_view, reports_view, result_lines
from o9.cli.views.statistics import best_view, fitted, rankings_view, sparkline, statistics_view, trends_view
from o9.health.checks.check import THRESHOLDS, Check, report_of, unknown
from o9.health.grades import Grade, verdict_of
from o9.health.wording import forecast_sentence, headline
from o9.model.optimization import OptimizationState
from o9.model.states import OptimizationPriority, OptimizationStatus, OptimizationType
from o9.statistics.summary import by_window, global_summary
from o9.statistics.trends import Windows, trends
from o9.store.statistics.rollups import Key, Sums

NOON = datetime(2026, 1, 31, 12, tzinfo=UTC)
TODAY = NOON.date()
WIDTHS = (60, 80, 200)
AWKWARD = ("横截面排序 🚀 动量策略", "Risk limits [bold]x[/bold] :smile:", "far too long for any table " * 3)


def drawn(*renderables: RenderableType, width: int = 80) -> str:
    console = Console(file=io.StringIO(), width=width, highlight=False, markup=False, emoji=False)
    console.print(*renderables, sep="\n")
    assert isinstance(console.file, io.StringIO)
    text = console.file.getvalue()
    assert all(cell_len(line.rstrip()) <= width for line in text.splitlines()), "wider than the terminal"
    return text


def words_of(*renderables: RenderableType, width: int = 80) -> str:
    return " ".join(drawn(*renderables, width=width).split())


# Sparklines


def test_a_sparkline_tells_nothing_from_little_and_from_unknown() -> None:
    assert sparkline([0, 0.01, 50, 100, None], 0, 100) == "▁▂▅█·"
    assert sparkline([5, 5], 5, 5) == "▄▄"
    assert sparkline([0, 0], 0, 0) == "▁▁"
    assert sparkline([-1e308, 1e308], -1e308, 1e308) == "▁█"


def test_many_values_are_fitted_by_means_of_those_that_are_known() -> None:
    assert fitted([1, 3, None, 5, None, None, 7], 4) == [2, 5, None, 7]
    assert fitted([1, None], 9) == [1, None]


# Statistics


def sums_of(count: int, seconds: float, improvement: float) -> Sums:
    whole = Sums()
    for _ in range(count):
        whole.add_ended(
            {
                "started_at": "x", "completed_at": "x", "execution_time": seconds, "completed_steps": 1,
                "current_performance": 1.0, "performance_improvement": improvement, "optimized_parameters": "{}",
                "baseline_performance": 1.0,
                "waited_seconds": 2.0, "status": "completed",
            }
        )  # fmt: skip
    return whole


def summary(strategies: tuple[str, ...] = ("default",), looked_at: int = 2) -> dict[str, Any]:
    """Of each strategy 90 completed and 10 failed, one runs and two wait, one of them for another."""
    counts, totals = [], []
    for strategy in strategies:
        for status, count in (("completed", 90), ("failed", 10), ("running", 1), ("created", 2)):
            kind = {"optimization_type": "risk_optimization", "strategy": strategy, "status": status, "count": count}
            counts.append(kind)
            if count >= 10:
                key = Key("all", "", "risk_optimization", strategy, 2, status)
                totals.append((key, sums_of(count, 75.0, 0.1)))
    counts.append({"optimization_type": "x", "strategy": "placebo", "status": "completed", "count": 19})
    priorities = [{"priority": 2, "status": "completed", "count": 103}, {"priority": 4, "status": "x", "count": 1}]
    day = {"starts": "2026-01-30", "status": "completed", "count": 3, "ran": 3, "improved": 0}
    return global_summary(counts, priorities, totals) | {
        "by_day": by_window([day | {"duration_sum": 9.0, "improvement_sum": 0.0}]),
        "now": {
            "created": {"count": 2, "looked_at": looked_at, "longest_seconds": 600.0},
            "running": {"count": 1, "looked_at": 1, "longest_seconds": 7200.0},
            "initializing": {"count": 0, "looked_at": 0, "longest_seconds": None},
        },
    }


@pytest.mark.parametrize("width", WIDTHS)
def test_the_statistics_page_has_every_figure_and_fits(width: int) -> None:
    told = words_of(*statistics_view(summary(), TODAY, width), width=width)
    for figure in (
        "103 optimizations: 1 active, 2 waiting; and 19 placebo runs",
        "2 created, 1 running, 90 completed, 10 failed",
        "Of 100 that ended: 90% completed, 10% failed or timed out, 0% cancelled",
        "risk_optimization 103 100 90%",
        "critical 1 0",
        "3, most 01-30",
        "running 1 2 h",
        "created 2 10 min",
    ):
        assert figure in told, figure
    # On a narrow terminal a cell takes two lines.
    for wide in ("improved", "run time 1 min 15 s", "improvement +10%", "wait in the queue 2 s"):
        assert (wide in told) == (width >= 80)


def test_the_last_thirty_days_end_today_and_have_a_gap_where_nothing_ended() -> None:
    lines = drawn(*statistics_view(summary(), TODAY, 80)).splitlines()
    ended, completed = (next(line.split()[1] for line in lines if line.startswith(f"  {n} ")) for n in _DAYS)
    assert ended == "▁" * 28 + "█▁"
    assert completed == "·" * 28 + "█·"
    assert "01-02                    01-31" in "\n".join(lines)


_DAYS = ("ended", "completed")


def test_what_was_not_looked_at_is_said_to_be_so() -> None:
    note = "only those created first"
    assert note in words_of(*statistics_view(summary(looked_at=1), TODAY, 80))
    assert note not in words_of(*statistics_view(summary(), TODAY, 80))


def test_many_strategies_and_awkward_names_keep_the_page() -> None:
    names = (*AWKWARD, *(f"strategy-{n:02}" for n in range(20)))
    for width in WIDTHS:
        told = drawn(*statistics_view(summary(names), TODAY, width), width=width)
        assert "… and 13 more (see --json)" in told
    assert "[bold]x[/bold] :smile:" in told


def test_what_nothing_is_known_of_is_not_made_up() -> None:
    nothing = global_summary([{"optimization_type": "a", "strategy": "b", "status": "created", "count": 1}], [], [])
    told = words_of(*statistics_view(nothing | {"by_day": {}, "now": {}}, TODAY, 80))
    assert "Nothing has ended yet, so there are no rates, durations or improvements." in told
    assert "none ended" in told
    assert " 0%" not in told


def test_a_figure_that_is_unknown_tells_why() -> None:
    counts = [{"optimization_type": "a", "strategy": "b", "status": "cancelled", "count": 1}]
    told = global_summary(counts, [], [(Key("all", "", "a", "b", 2, "cancelled"), Sums(count=1))])
    page = words_of(*statistics_view(told | {"by_day": {}, "now": {}}, TODAY, 80))
    assert "run time unknown: " in page


# Trends


def course(counts: list[int | None], span: str = "day") -> dict[str, Any]:
    if span == "day":
        starts = tuple(
            date.fromordinal(TODAY.toordinal() - len(counts) + 1 + n).isoformat() for n in range(len(counts))
        )
    else:
        starts = tuple(f"2026-01-30T{n:02}" for n in range(len(counts)))
    found = {
        at: {"count": n, "by_status": {}, "success_rate": n / 100, "mean_duration_seconds": n, "mean_improvement": n}
        for at, n in zip(starts, counts, strict=True)
        if n is not None
    }
    return trends(Windows(span, starts), found)


@pytest.mark.parametrize("width", WIDTHS)
def test_a_trend_has_its_course_its_bounds_and_its_direction_in_words(width: int) -> None:
    told = words_of(*trends_view(course([1, 2, 3, 4, 5, 6, 1]), 7, width), width=width)
    assert "The last 7 days, by day (UTC): 2026-01-25 to 2026-01-31" in told
    assert "ended ▂▃▅▆▇█▂ 1 to 6 rising: +1 a day (+1 to +1; 6 days)" in told
    assert "rising: +1.00 points a day (+1.00 to +1.00; 6 days)" in told
    assert "rising: +1 s a day" in told
    assert "left out of the slopes" in told


def test_unknown_windows_are_dots_and_long_ranges_are_fitted() -> None:
    told = drawn(*trends_view(course([1, None, 3]), 3, 80))
    assert "completed    ▂·▂" in told
    many = drawn(*trends_view(course([1] * 365), 365, 60), width=60)
    assert "Each mark is the mean of" in " ".join(many.split())


def test_one_reason_for_all_is_told_once() -> None:
    told = words_of(*trends_view(course([1, 2], "hour"), 1, 80))
    assert told.count("needs 5") == 1
    assert "The last day, by hour (UTC): 2026-01-30 00:00 to 2026-01-30 01:00" in told
    assert "unknown" not in told.partition("No slopes")[0]


# Rankings


def row(rank: int, value: float, name: str = "Trend", **fields: Any) -> dict[str, Any]:
    given: dict[str, Any] = {
        "rank": rank, "optimization_id": f"trend-following-20260131-{rank:04}", "name": name, "value": value,
        "status": "completed", "direction": "maximize",
    }  # fmt: skip
    return given | fields


@pytest.mark.parametrize("width", WIDTHS)
@pytest.mark.parametrize("name", AWKWARD)
def test_a_ranking_fits_and_keeps_ids_whole(width: int, name: str) -> None:
    rows = [row(n + 1, 10.0 - n, name) for n in range(3)]
    told = drawn(*rankings_view("sharpe", rows, width), width=width)
    lines = [line for line in told.splitlines() if "trend-following" in line]
    assert [line.split()[1] for line in lines] == [one["optimization_id"] for one in rows]
    assert len({cell_len(line.rstrip()) for line in lines}) == 1
    assert "The best 3 by sharpe. Higher is better." in told


def test_a_rank_that_several_share_is_marked() -> None:
    pair = words_of(*rankings_view("sharpe", [row(1, 2.0), row(1, 2.0), row(3, 1.0)], 80))
    assert pair.count("1= ") == 2


def test_values_read_as_what_they_are_and_negative_ones_say_so() -> None:
    improved = words_of(*rankings_view("performance_improvement", [row(1, 0.1), row(2, -0.05)], 80))
    assert "+10%" in improved
    assert "-5%" in improved
    less = words_of(*rankings_view("execution_time", [row(1, 75.0, direction="minimize")], 80))
    assert "By execution_time. Lower is better." in less
    assert "1 min 15 s" in less
    both = [row(1, 2.0), row(2, 1.0, direction="minimize")]
    assert "each is ranked by its own direction" in words_of(*rankings_view("current_performance", both, 80))
    assert drawn(*rankings_view("sharpe", [row(1, 0.0)], 60), width=60)


def test_the_best_of_each_figure_and_what_else_can_be_ranked() -> None:
    best = {"current_performance": [row(1, 2.0), row(2, 1.0)], "execution_time": [row(1, 75.0)]}
    told = words_of(*best_view(best, ["alpha of f@1", "alpha of f@2", "beta"]))
    first, second = (f"trend-following-20260131-000{rank}" for rank in (1, 2))
    assert f"current_performance the best value of the objective 1 {first} 2.0000 2 {second} 1.0000" in told
    assert f"execution_time run time 1 {first} 1 min 15 s" in told
    assert "Measured by objectives: alpha, beta Next: o9 rankings METRIC" in told


# Health

LOST = check_of(verdict(Grade.LOST, score=0.31, remedy="do not trade on it"))


def state(name: str = "Trend") -> OptimizationState:
    return OptimizationState(
        "trend-1", name, "", OptimizationType.PARAMETER_TUNING, OptimizationStatus.COMPLETED,
        OptimizationPriority.NORMAL, NOON, NOON,
    )  # fmt: skip


def judged(*checks: Check, width: int = 80, name: str = "Trend", **changes: Any) -> str:
    report = report_of("trend-1", NOON, checks, THRESHOLDS)
    for field, value in changes.items():
        setattr(report, field, value)
    return drawn(*health_view(state(name), report, [check.to_dict() for check in checks]), width=width)


WHOLE = Check("completeness.steps", 1.0, "all 3 steps are there", "never shown")
SAFE = Check("security.secrets", 1.0, "no value looks like a secret")
BASELESS = unknown("performance.baseline", "no baseline", "give one", essential=True)


@pytest.mark.parametrize("width", WIDTHS)
@pytest.mark.parametrize("name", AWKWARD)
def test_a_judgement_begins_with_its_verdict_and_has_each_check_with_its_remedy_once(width: int, name: str) -> None:
    told = judged(LOST, WHOLE, SAFE, BASELESS, width=width, name=name)
    flat = " ".join(told.split())
    made = verdict_of([LOST.to_dict()])
    assert f"result: {headline(made)}" in flat
    assert "health: critical, because of validity (0.31)" in flat
    assert flat.index("result:") < flat.index("health:") < flat.index("validity 0.31")
    assert flat.count(forecast_sentence(made)[1:]) == flat.count("Alpha over the baseline") == 1
    assert "verdict 0.31 the result above" in flat
    assert "steps 1.00 all 3 steps are there" in flat
    assert "baseline unknown no baseline → give one" in flat
    assert flat.count("o not trade on it") == flat.count("give one") == 1
    assert "never shown" not in flat
    assert "Issues" not in flat
    assert "Recommendations" not in flat
    assert "performance \u2013 unknown" in flat


def test_what_a_rule_has_added_is_told_behind_the_checks() -> None:
    told = judged(WHOLE, issues=["rule mine: too much\nleverage"], recommendations=["rule mine: use less"])
    flat = " ".join(told.split())
    assert "Issues rule mine: too much\\nleverage Recommendations rule mine: use less" in flat


def test_a_healthy_and_an_unknown_one_say_so() -> None:
    real = check_of(verdict(Grade.CONFIRMED))
    good = Check("performance.baseline", 1.0, "better")
    healthy = report_of("x", NOON, [real, WHOLE, SAFE, good], THRESHOLDS)
    assert health_line(healthy).plain == "health: healthy"
    none = report_of("x", NOON, [WHOLE, SAFE, BASELESS], THRESHOLDS)
    assert health_line(none).plain.startswith("health: unknown: validity and performance ")
    assert words_of(*result_lines(None)) == "result: not judged yet"


def test_a_list_of_reports_keeps_ids_whole() -> None:
    reports = [report_of(f"横截面排序-{n}", NOON, [LOST, WHOLE, SAFE, BASELESS], THRESHOLDS) for n in range(2)]
    for width in WIDTHS:
        told = drawn(reports_view(reports, width, {reports[0].optimization_id: verdict(Grade.LOST)}), width=width)
        rows = [line.split() for line in told.splitlines()[2:]]
        assert [row[0] for row in rows] == [f"横截面排序-{n}" for n in range(2)]
        assert (rows[0][2:4], rows[1][1:3]) == (["lost", "critical"], ["\u2013", "critical"])
        assert ("validity" in told) == (width == 200)
