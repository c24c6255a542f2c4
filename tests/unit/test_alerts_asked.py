"""What callers give the alert system: refused by its argument, whatever it is, and nothing else is ever raised."""

from __future__ import annotations

from collections.abc import Callable
from datetime import UTC, datetime, timedelta, timezone
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from o9.alerts.pipeline.matchers import written
from o9.alerts.service import arguments as asked
from o9.model.errors import OptimizationValidationError
from o9.model.optimization import OptimizationAlert
from o9.model.states import AlertLevel
from o9.model.validation import alert_level

ANYTHING = st.one_of(
    st.none(), st.booleans(), st.integers(), st.floats(), st.text(), st.binary(), st.datetimes(), st.timedeltas(),
    st.datetimes(timezones=st.just(timezone(timedelta(hours=14)))), st.lists(st.integers()),
    st.dictionaries(st.text(), st.integers()), st.builds(object),
    st.sampled_from(["\ud800", "a\0b", "慢 🚀", 10**400, datetime.min, datetime.max, timedelta.max, timedelta.min]),
)  # fmt: skip
FUNCTIONS: dict[str, Callable[[Any], Any]] = {
    "by": lambda value: asked.text("by", value),
    "alert_id": lambda value: asked.exact("alert_id", value),
    "level": alert_level,
    "duration": lambda value: asked.span("duration", value),
    "starts_at": lambda value: asked.instant("starts_at", value),
    "matchers": asked.matchers,
    "before": asked.cursor,
    "alerts": asked.alerts,
    "notification_channels": asked.channels,
    "alerts_file": lambda value: asked.path("alerts_file", value),
}


@pytest.mark.parametrize("field", FUNCTIONS)
@given(ANYTHING)
def test_whatever_it_is_it_is_taken_or_refused_by_its_argument(field: str, value: Any) -> None:
    said = ""
    try:
        FUNCTIONS[field](value)
    except OptimizationValidationError as error:
        said = str(error)
    assert not said or said.startswith(f"{field}: ")
    assert len(said) < 500


def test_what_is_meant() -> None:
    minute = timedelta(minutes=1)
    assert tuple(asked.span("duration", each) for each in (60, 0.5, minute)) == (minute, minute / 120, minute)
    assert alert_level("error") is AlertLevel.ERROR
    local = datetime(2026, 1, 31, 9, 30)
    assert asked.instant("starts_at", local) == local.astimezone(UTC)
    assert written(asked.matchers('title="慢 🚀"')) == '{title="慢 🚀"}'
    assert asked.matchers("") == ()
    assert list(asked.alerts(iter("ab"))) == ["a", "b"]
    assert (asked.path("alerts_file", ""), asked.path("alerts_file", None)) == (None, None)
    alert = OptimizationAlert("a", "o", AlertLevel.INFO, "t", "m", local)
    place = asked.cursor(alert)
    assert place is not None
    assert place[1] == "a"
    alert.timestamp = None  # type: ignore[assignment]
    with pytest.raises(OptimizationValidationError, match=r"before\.timestamp: expected a datetime"):
        asked.cursor(alert)


@pytest.mark.parametrize(
    ("function", "wrong", "said"),
    [
        (FUNCTIONS["duration"], None, "duration: expected a timedelta.*, got NoneType"),
        (FUNCTIONS["duration"], True, "duration: expected a timedelta.*, got bool"),
        (FUNCTIONS["duration"], timedelta(0), "duration: .* is not above 0 and at most 3,660 days"),
        (FUNCTIONS["duration"], float("nan"), "duration: nan is not above 0"),
        (FUNCTIONS["duration"], timedelta.max, "duration: .* is not above 0 and at most 3,660 days"),
        (FUNCTIONS["duration"], -1, "duration: -1 is not above 0"),
        (FUNCTIONS["duration"], 10**400, "duration: .* at most 3,660 days"),
        (asked.alerts, "ab", "alerts: expected a list of OptimizationAlert, got str"),
        (asked.matchers, 'title="\ud800"', "matchers: .* holds a character that nothing stored has"),
    ],
)
def test_what_is_said_of_it(function: Callable[[Any], Any], wrong: Any, said: str) -> None:
    with pytest.raises(OptimizationValidationError, match=said):
        function(wrong)
