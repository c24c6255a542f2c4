"""An alert's labels and fingerprint, the way from and to what users hold, and what two tellings of one make."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from o9.alerts.pipeline.alert import (
    Alert,
    fingerprint_of,
    labels_of,
    merged,
    optimization_alert_of,
    worst_first,
)
from o9.model.errors import OptimizationValidationError
from o9.model.optimization import OptimizationAlert
from o9.model.states import AlertLevel

NOW = datetime(2026, 1, 5, tzinfo=UTC)
MINUTE = timedelta(minutes=1)


def told(**fields: Any) -> OptimizationAlert:
    usual = {
        "alert_id": "a1",
        "optimization_id": "opt-1",
        "level": AlertLevel.ERROR,
        "title": "Drawdown",
        "message": "12 %",
        "timestamp": NOW,
    }
    return OptimizationAlert(**{**usual, **fields})


def alert(starts: float = 0, ends: float | None = None, **fields: Any) -> Alert:
    """Minutes from now."""
    ends_at = None if ends is None else NOW + ends * MINUTE
    return Alert({"a": "b"}, NOW + starts * MINUTE, "x", "", AlertLevel.INFO, "t", ends_at=ends_at, **fields)


def test_the_labels_of_an_alert_are_its_title_level_and_optimization_and_those_it_was_given() -> None:
    labels = {"book": "eu", "level": "warning"}
    assert labels_of(told(metadata={"rule": "dd", "labels": labels, "figures": {"x": 1}})) == {
        "title": "Drawdown",
        "level": "warning",
        "optimization": "opt-1",
        "rule": "dd",
        "book": "eu",
    }


def test_what_has_no_optimization_has_no_such_label() -> None:
    assert labels_of(told(optimization_id="")) == {"title": "Drawdown", "level": "error"}


def test_it_goes_there_and_back() -> None:
    for given_ in (told(), told(resolved=True, resolved_at=NOW + MINUTE, metadata={"labels": {"a": "b"}})):
        made = Alert(
            labels_of(given_), NOW, "a1", "opt-1", AlertLevel.ERROR, "Drawdown", "12 %", given_.resolved_at,
            metadata=given_.metadata,
        )  # fmt: skip
        assert optimization_alert_of(made, NOW + 2 * MINUTE) == given_


def test_what_no_database_holds_is_replaced() -> None:
    made = labels_of(told(title="a\0b\ud800", metadata={"labels": {"k": "a\0"}}))
    assert (made["title"], made["k"]) == ("a\ufffdb?", "a\ufffd")
    made["title"].encode()


@pytest.mark.parametrize(
    ("labels", "field", "problem"),
    [
        (["a"], "metadata.labels", "expected a mapping, got a list"),
        ({"": "x"}, "metadata.labels.", "a name must be printable text of 1 to 200 characters"),
        ({"a\n": "x"}, "metadata.labels.a\\n", "a name must be printable text of 1 to 200 characters"),
        ({1: "x"}, "metadata.labels[1]", "expected text, got 1"),
        (
            {"level": "bogus"},
            "metadata.labels.level",
            "no level is called 'bogus'",
        ),
        ({"n": 3}, "metadata.labels.n", "expected text, got 3"),
        ({"n": "x" * 10_001}, "metadata.labels.n", "10,001 characters; at most 10,000 allowed"),
        ({str(n): "" for n in range(65)}, "metadata.labels", "65 items; at most 64 allowed"),
    ],
)
def test_labels_that_are_none_are_refused(labels: Any, field: str, problem: str) -> None:
    with pytest.raises(OptimizationValidationError) as refused:
        labels_of(told(metadata={"labels": labels}))
    assert refused.value.field == field
    assert problem in refused.value.problem


@given(st.dictionaries(st.text(min_size=1), st.text()))
def test_a_fingerprint_is_equal_for_equal_labels_in_whatever_order(labels: dict[str, str]) -> None:
    assert fingerprint_of(labels) == fingerprint_of(dict(reversed(labels.items())))
    assert fingerprint_of(labels) != fingerprint_of({**labels, "one more": "x"})


def test_names_and_values_do_not_run_into_each_other() -> None:
    assert fingerprint_of({"a": "bc"}) != fingerprint_of({"ab": "c"})
    assert fingerprint_of({"a": "b", "c": "d"}) != fingerprint_of({"a": "b\xffc\xffd"})


@pytest.mark.parametrize(
    ("known", "then", "start", "end"),
    [
        pytest.param(alert(-9), alert(-1), -9, None, id="still firing: the earliest start"),
        pytest.param(alert(-9), alert(-1, 0), -9, 0, id="over: the start stays"),
        pytest.param(alert(-9, -5), alert(-1), -1, None, id="over before: a new episode"),
        pytest.param(alert(-9, -5), alert(-6), -9, None, id="overlapping: the same episode"),
        pytest.param(alert(-9, -1), alert(-9, -5), -9, -1, id="over twice: the latest end"),
        pytest.param(alert(-9, 9), alert(-1, 5), -9, 9, id="both have an end: the later one that was given"),
        pytest.param(alert(-9, 9, expected_end=True), alert(-1, 5), -9, 5, id="an end that was expected gives way"),
        pytest.param(alert(-9, 9), alert(-1, 0), -9, 0, id="over earlier than its end"),
        pytest.param(alert(-9, 9), alert(-1), -9, None, id="no end any more"),
    ],
)
def test_what_two_tellings_make(known: Alert, then: Alert, start: float, end: float | None) -> None:
    made = merged(known, then, NOW)
    assert made.starts_at == NOW + start * MINUTE
    assert made.ends_at == (None if end is None else NOW + end * MINUTE)


def test_the_worst_come_first_and_then_the_oldest() -> None:
    alerts = [
        Alert({"n": name}, NOW + start * MINUTE, name, "", level, name)
        for name, level, start in [
            ("late", AlertLevel.ERROR, 2),
            ("info", AlertLevel.INFO, 0),
            ("worst", AlertLevel.CRITICAL, 3),
            ("early", AlertLevel.ERROR, 1),
        ]
    ]
    assert [each.title for each in worst_first(alerts)] == ["worst", "early", "late", "info"]
