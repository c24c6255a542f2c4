"""What callers give the alert system: refused by its argument, whatever it is."""

from __future__ import annotations

from datetime import timedelta
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from o9.alerts.service.system import span, text
from o9.model.errors import OptimizationValidationError

ANYTHING = st.one_of(
    st.none(), st.booleans(), st.integers(), st.floats(), st.text(), st.binary(), st.datetimes(), st.timedeltas(),
    st.builds(object), st.sampled_from(["\ud800", "a\0b", 10**400, timedelta.max, timedelta.min]),
)  # fmt: skip


@pytest.mark.parametrize("function", [text, span])
@given(ANYTHING)
def test_whatever_it_is_it_is_taken_or_refused_by_its_argument(function: Any, value: Any) -> None:
    said = ""
    try:
        function("field", value)
    except OptimizationValidationError as error:
        said = str(error)
    assert not said or said.startswith("field: ")
    assert len(said) < 500


def test_a_span_is_a_timedelta_or_seconds() -> None:
    minute = timedelta(minutes=1)
    assert tuple(span("duration", each) for each in (60, 0.5, minute)) == (minute, minute / 120, minute)


@pytest.mark.parametrize(
    ("wrong", "said"),
    [
        (None, "None is not a number of seconds above 0"),
        (True, "True is not a number of seconds above 0"),
        (timedelta(0), "is not above 0 and at most 3,660 days"),
        (float("nan"), "nan is not a number of seconds above 0"),
        (timedelta.max, "at most 3,660 days"),
        (-1, "-1 is not a number of seconds above 0"),
        (10**400, "is not a number of seconds above 0"),
    ],
)
def test_what_is_no_span(wrong: Any, said: str) -> None:
    with pytest.raises(OptimizationValidationError, match=f"^duration: .*{said}"):
        span("duration", wrong)
