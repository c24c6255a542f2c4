"""Conditions: what is refused because it cannot be meant, and how what is taken is joined."""

from __future__ import annotations

import contextlib
import math

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from o9.alerts.config.rules import BUILT_IN
from o9.alerts.rules.metrics import (
    DETAILS,
    FLAG,
    LABELS,
    QUANTITIES,
    Quantity,
    Scope,
    Unit,
    condition_of,
    contradiction,
    quantity_of,
    unsatisfiable_figure,
)

SCOPES = [scope for scope in Scope if QUANTITIES[scope]]
SIGNS = (">", ">=", "<", "<=", "==", "!=")
FIGURES = [(scope, name) for scope in SCOPES for name in QUANTITIES[scope]]
HALVES = (-1 / 16, 0.0, 1 / 16)
UNITS = {Unit.SHARE: "%", Unit.PERCENT: "%", Unit.SECONDS: "s"}


def test_each_scope_has_its_figures_labels_and_words() -> None:
    assert set(QUANTITIES) == set(LABELS) == set(Scope)
    assert set(DETAILS) <= set(Scope)
    for scope, name in FIGURES:
        quantity = quantity_of(name, scope)
        assert quantity.low < quantity.high
        assert name not in (*LABELS[scope], *DETAILS.get(scope, ()))


@pytest.mark.parametrize(("scope", "name"), FIGURES)
def test_a_figure_is_measured_as_its_name_says(scope: Scope, name: str) -> None:
    quantity = quantity_of(name, scope)
    if name.endswith(("_rate", "_share", "_score", "progress")):
        assert quantity == Quantity(Unit.SHARE, 0.0, 1.0)
    elif name.endswith((".count", "count", "_optimizations", "_trials", "_steps", "ended")):
        assert quantity == Quantity(Unit.COUNT, 0.0)
    elif "_seconds" in name or name == "execution_time":
        assert quantity == Quantity(Unit.SECONDS, 0.0)
    else:
        assert quantity.unit is not Unit.SECONDS
        assert quantity.unit is not Unit.SHARE or "improvement" in name


@given(st.sampled_from(FIGURES), st.data())
def test_a_limit_within_the_bounds_is_taken(of: tuple[Scope, str], data: st.DataObject) -> None:
    """Of each figure of each scope, in each way in which its unit is written."""
    scope, name = of
    quantity = quantity_of(name, scope)
    low, high = max(quantity.low, -1000), min(quantity.high, 1000)
    limit = data.draw(
        st.floats(low, high, exclude_min=True, exclude_max=True, allow_subnormal=False)
        | st.sampled_from([(low + high) / 2, low + 0.25])
    )
    sign = data.draw(st.sampled_from([">", ">=", "<", "<="]))
    assert condition_of(f"{name} {sign} {limit!r}", scope).comparisons[0].limit == limit
    if quantity.unit in (Unit.SHARE, Unit.PERCENT):
        percent = limit if quantity.unit is Unit.PERCENT else limit * 100
        assert condition_of(f"{name} {sign} {percent!r} %", scope).comparisons[0].limit == pytest.approx(limit)
    if quantity.unit is Unit.SECONDS:
        assert condition_of(f"{name} {sign} 1h30m", scope).comparisons[0].limit == 5400


def _values(quantity: Quantity) -> list[float]:
    """Some of what it can be: all of it, where it is a whole number or a flag up to 20."""
    low, high = max(quantity.low, -20.0), min(quantity.high, 20.0)
    step = 1.0 if quantity.unit is Unit.COUNT else 0.125
    within = [low + step * number for number in range(int((high - low) / step) + 1)]
    far = [each for each in (-1e300, 1e300) if quantity.low <= each <= quantity.high]
    return [*within, *far]


LIMITS = st.integers(-16, 160).map(lambda eighth: eighth / 8)


@given(st.sampled_from(FIGURES), st.sampled_from(SIGNS), LIMITS)
@example((Scope.GLOBAL, "queued"), ">=", 0.0)
@example((Scope.GLOBAL, "queued"), "==", 2.5)
@example((Scope.GLOBAL, "failure_rate"), "<=", 1.0)
@example((Scope.END, "failed"), "!=", 2.0)
@example((Scope.END, "failed"), "<", 0.5)
@example((Scope.SCHEDULE, "late_seconds"), "<=", 0.0)
def test_never_and_always_are_said_exactly_where_it_is_so(of: tuple[Scope, str], sign: str, limit: float) -> None:
    """Against trying all values, of limits that lie on them or between them."""
    scope, name = of
    quantity = quantity_of(name, scope)
    assert quantity is not None
    apart = {">": float.__gt__, ">=": float.__ge__, "<": float.__lt__, "<=": float.__le__, "==": float.__eq__}
    apart["!="] = lambda left, right: left != right
    answers = {apart[sign](value, limit) for value in _values(quantity)}
    expected = {frozenset({True}): "always holds", frozenset({False}): "never holds"}.get(frozenset(answers), "")
    said = ""
    try:
        condition_of(f"{name} {sign} {limit!r}", scope)
    except ValueError as error:
        said = str(error)
    assert (expected in said) if expected else not said


@given(
    st.sampled_from(FIGURES),
    st.lists(st.tuples(st.sampled_from(SIGNS), LIMITS), min_size=2, max_size=3),
)
@example((Scope.GLOBAL, "queued"), [(">", 3.0), ("<", 4.0)])
@example((Scope.GLOBAL, "queued"), [("<", 2.0), ("!=", 0.0)])
@example((Scope.GLOBAL, "failure_rate"), [(">", 0.5), ("<", 0.625)])
@example((Scope.END, "improvement"), [("<", 0.0), ("<", 1.0)])
def test_comparisons_that_exclude_each_other_never_hold(of: tuple[Scope, str], limits: list[tuple[str, float]]) -> None:
    """Against trying all values."""
    scope, name = of
    quantity = quantity_of(name, scope)
    assert quantity is not None
    try:
        joined = condition_of(" and ".join(f"{name} {sign} {limit!r}" for sign, limit in limits), scope)
        either = condition_of(" or ".join(f"{name} {sign} {limit!r}" for sign, limit in limits), scope)
    except ValueError:
        return
    steps = [
        value + half for value in _values(quantity) for half in ((0.0,) if quantity.unit is Unit.COUNT else HALVES)
    ]
    possible = any(joined.holds({name: value}) for value in steps if quantity.low <= value <= quantity.high)
    assert (unsatisfiable_figure(joined, scope) is None) == possible
    assert unsatisfiable_figure(either, scope) is None


SIDES = [
    ("queued > 1", "queued > 2", False), ("queued > 1", "queued >= 1", False), ("queued < 5", "queued < 2", False),
    ("queued > 1", "queued < 1", True), ("queued > 1", "queued < 2", False), ("queued < 5", "queued > 4", False),
    ("queued > 1", "failure_rate > 5%", True), ("queued == 1", "queued == 1", True),
    ("queued > 1 and failure_rate > 5%", "queued > 1", True),
]  # fmt: skip


@pytest.mark.parametrize(("when", "clear", "fine"), SIDES)
def test_a_clear_that_belongs_to_another_rule_is_refused(when: str, clear: str, fine: bool) -> None:
    first, second = (condition_of(each, Scope.GLOBAL) for each in (when, clear))
    assert (contradiction(first, second) is None) == fine


@pytest.mark.parametrize(
    ("text", "queued", "rate", "holds"),
    [
        ("queued > 1 and failure_rate > 5%", 2.0, 0.1, True), ("queued > 1 and failure_rate > 5%", 2.0, 0.0, False),
        ("queued > 1 AND failure_rate > 5%", None, 0.0, False), ("queued > 1 and failure_rate > 5%", None, 0.1, None),
        ("queued > 1 or failure_rate > 5%", None, 0.1, True), ("queued > 1 or failure_rate > 5%", None, 0.0, None),
        ("queued > 1 and failure_rate > 5% or queued > 5", 6.0, 0.0, True),
        ("queued > 1 and (failure_rate > 5% or queued > 5)", 0.0, 0.1, False),
        ("(queued > 1)", 2.0, None, True), ("queued>1 and(failure_rate>5%)", 2.0, 0.1, True),
    ],
)  # fmt: skip
def test_conditions_join(text: str, queued: float | None, rate: float | None, holds: bool | None) -> None:
    assert condition_of(text, Scope.GLOBAL).holds({"queued": queued, "failure_rate": rate}) is holds


@pytest.mark.parametrize(
    ("text", "scope", "told"),
    [
        # what was meant can be seen
        ("0.2 < failure_rate", Scope.GLOBAL, "write `failure_rate > 0.2`"),
        ("10m >= waiting_seconds.p90", Scope.TYPE, "write `waiting_seconds.p90 <= 10m`"),
        ("failure_rate = 20%", Scope.GLOBAL, "write `failure_rate > 20%`"),
        ("longest_wait_seconds > 10 min", Scope.GLOBAL, "write `longest_wait_seconds > 10m`"),
        ("not silent_seconds > 5", Scope.NODE, "write `silent_seconds > 10m`"),
        ("queued > 1 && queued < 5", Scope.GLOBAL, "write `queued > 10`"),
        ("1 < queued < 5", Scope.GLOBAL, "'1 < queued < 5'"),
        ("queued > 1 (", Scope.GLOBAL, "'queued > 1 ('"),
        ("queued > 1 and", Scope.GLOBAL, "'queued > 1 and'"),
        ("", Scope.NODE, "write `silent_seconds > 10m`"),
        ("x", Scope.FINDING, "write `failure_rate > 20%`"),
        ("metrics. > 1", Scope.END, "`each end` has no figure 'metrics.'"),
        ("failure_rate > success_rate", Scope.GLOBAL, "'success_rate'"),
        ("silent_seconds > 5", Scope.GLOBAL, "`scope: each node` has it"),
        # units
        ("duration_seconds.mean > 20%", Scope.GLOBAL, "'20%' is a share; `duration_seconds.mean` is a time"),
        ("queued > 10s", Scope.GLOBAL, "'10s' is a time; `queued` is a count; write it as 10"),
        ("failure_rate > 10s", Scope.GLOBAL, "'10s' is a time; `failure_rate` is a share; write it as 20% or 0.2"),
        ("memory_usage > 2GB", Scope.END, "`memory_usage` is in MiB; write it as 2048"),
        ("memory_usage > 50%", Scope.END, "'50%' is a share; `memory_usage` is in MiB"),
        ("silent_leases > 3m", Scope.NODE, "'3m' is a time; `silent_leases` is a plain number"),
        ("metrics.x > soon", Scope.END, "`metrics.x` is in a unit of its own; write it as 0.5 or 20% or 10m"),
        ("failure_rate > 0,2", Scope.GLOBAL, "'0,2'"),
        ("failure_rate > nan", Scope.GLOBAL, "'nan'"),
        ("queued > 1e999", Scope.GLOBAL, "'1e999'"),
        ("queued > 999999y", Scope.GLOBAL, "'999999y'"),
        # bounds
        ("failure_rate > 20", Scope.GLOBAL, "lies between 0% and 100%; did you mean `failure_rate > 20%`?"),
        ("failure_rate > 120%", Scope.GLOBAL, "never holds: `failure_rate` lies between 0% and 100%"),
        ("security_score < 50", Scope.REPORT, "always holds: `security_score` lies between 0% and 100%; did you mean"),
        ("queued >= 0", Scope.GLOBAL, "`queued >= 0` always holds: `queued` is never below 0"),
        ("queued == 2.5", Scope.GLOBAL, "never holds: `queued` is a whole number"),
        ("failed == 2", Scope.END, "`failed == 2` never holds: `failed` lies between 0 and 1"),
        ("late_seconds < 0", Scope.SCHEDULE, "never holds: `late_seconds` is never below 0"),
    ],
)  # fmt: skip
def test_what_cannot_be_meant_is_refused_with_the_remedy(text: str, scope: Scope, told: str) -> None:
    with pytest.raises(ValueError, match=r".") as refused:
        condition_of(text, scope)
    assert told in str(refused.value)


@pytest.mark.parametrize(
    ("text", "scope", "limit"),
    [
        ("cpu_usage > 150%", Scope.OPTIMIZATION, 150.0),  # of one core: there are more
        ("cpu_usage > 80", Scope.OPTIMIZATION, 80.0),
        ("improvement < -5%", Scope.END, -0.05),
        ("performance_improvement > 300%", Scope.END, 3.0),
        ("short_of_target > -1", Scope.END, -1.0),
        ("metrics.hit_rate > 55 %", Scope.END, 0.55),
        ("results.a/b.c > 2h", Scope.END, 7200.0),
        ("queued > 2.5", Scope.GLOBAL, 2.5),
        ("late_seconds <= 0", Scope.SCHEDULE, 0.0),
    ],
)
def test_what_can_be_meant_is_taken(text: str, scope: Scope, limit: float) -> None:
    assert condition_of(text, scope).comparisons[0].limit == pytest.approx(limit)


def test_built_in_rules_can_be_meant() -> None:
    for rule in BUILT_IN:
        if rule.when is not None:
            assert condition_of(rule.when.text, rule.scope) == rule.when
        if rule.when is not None and rule.clear is not None:
            assert contradiction(rule.when, rule.clear) is None


@given(st.text(max_size=30) | st.from_regex(r"\S{0,9} ?(>|<=|=>|!=) ?\S{0,6}( (and|or) .{0,9})?", fullmatch=True))
def test_any_text_is_taken_or_refused(text: str) -> None:
    for scope in Scope:
        with contextlib.suppress(ValueError):
            made = condition_of(text, scope)
            assert all(quantity_of(part.figure, scope) and math.isfinite(part.limit) for part in made.comparisons)


def test_a_flag_is_a_count_of_one() -> None:
    assert (FLAG.unit, FLAG.low, FLAG.high) == (Unit.COUNT, 0.0, 1.0)
