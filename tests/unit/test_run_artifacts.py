"""The result of a run as Markdown and tables; what others wrote is never markup."""

from __future__ import annotations

import re

from o9_testing import new

from o9.flows.run_artifacts import artifact_key, result_markdown, run_name, run_tags, trials_table
from o9.health.grades import Grade, GradeReason, Verdict
from o9.model.states import OptimizationStatus, TrialState
from o9.model.trial import Trial


def trial(number: int, value: float | None, **parameters: object) -> Trial:
    state = TrialState.FAILED if value is None else TrialState.COMPLETED
    error = "ValueError: <b>bad</b>\n  File …" if value is None else None
    return Trial(number, 0, state, parameters, value, error=error)


def test_a_run_is_named_by_its_name_and_id() -> None:
    assert run_name(new("id-1", name="Momentum on S&P 500")) == "Momentum on S&P 500 · id-1"


def test_no_two_names_share_a_key() -> None:
    longest = "carry " * 30
    names = [
        "Nightly carry", "nightly carry", "Nightly Carry", "nightly-carry", "Nightly, carry", "Nightly carry ",
        "夜间动量 ETF", "晨间动量 ETF", "动量", f"{longest}US", f"{longest}EU",
    ]  # fmt: skip
    keys = [artifact_key(new("id-1", name=name)) for name in names]
    assert len(set(keys)) == len(names), keys
    assert all(re.fullmatch(r"o9-[a-z0-9-]{1,77}", key) for key in keys), keys
    assert keys[0] == "o9-nightly-carry"


def test_runs_of_a_series_share_a_tag_and_a_key() -> None:
    state = new("id-4", name="Carry, Monday", series="Nightly carry")
    assert artifact_key(state) == "o9-nightly-carry"
    assert "series:Nightly carry" in run_tags(state)


def test_the_table_has_a_column_for_each_parameter() -> None:
    rows = trials_table([trial(3, 1.5, fast=5, slow=20), trial(1, 1.25, fast=7)])
    assert [(row["trial"], row["value"], row["fast"], row["slow"]) for row in rows] == [
        (3, "1.5000", "5", "20"), (1, "1.2500", "7", ""),
    ]  # fmt: skip


def test_the_result_has_the_best_the_verdict_and_what_failed() -> None:
    state = new("a", name="*Bold*", baseline_performance=0.5)
    state.status = OptimizationStatus.COMPLETED
    state.current_performance, state.optimized_parameters = 1.5, {"fast|slow": 3}
    verdict = Verdict(Grade.UNPROVEN, GradeReason.NO_RETURNS, "no returns are kept", "It gave no returns.")
    text = result_markdown(state, counts={"completed": 5, "failed": 7}, failed=[trial(2, None)], verdict=verdict)
    assert "# \\*Bold\\*" in text
    assert "UNPROVEN" in text
    assert "| fast\\|slow | 3 |" in text
    assert "- trial 2: ValueError: \\<b\\>bad\\</b\\>" in text
    assert "- and 6 more" in text


def test_what_has_no_result_says_so() -> None:
    text = result_markdown(new("a"), counts={}, failed=[], verdict=None)
    assert "no result yet" in text
