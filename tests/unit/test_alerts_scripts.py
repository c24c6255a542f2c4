"""Scripts for `o9 alerts simulate`: what could not happen is refused, and what comes of nothing is noted."""

from __future__ import annotations

import contextlib
from datetime import UTC, datetime, timedelta

import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st

from o9.alerts.config.schema import Configuration, load
from o9.alerts.pipeline.simulation import START, YEARS, ScriptEvent, load_script, simulate
from o9.config.document import DocumentError
from o9.model.errors import OptimizationAlertError
from o9.model.states import AlertLevel


def faults(text: str) -> list[str]:
    with pytest.raises(DocumentError) as refused:
        load_script(text)
    return [str(fault) for fault in refused.value.faults]


ENDS = """\
happens:
  - {at: 0s, resolved: {title: A}}
  - {at: 1m, acknowledged: {title: A}}
  - {at: 2m, fires: {title: A}}
  - {at: 3m, resolved: {title: a}}
  - {at: 4m, resolved: {title: A, level: critical}}
  - {at: 5m, resolved: {title: A, level: WARNING}}
"""


def test_what_never_fired_cannot_end() -> None:
    assert faults(ENDS) == [
        "line 2: happens[0]: A{level=warning} has not fired by then",
        "line 3: happens[1]: A{level=warning} has not fired by then",
        "line 5: happens[3]: a{level=warning} has not fired by then",
        "line 6: happens[4]: A{level=critical} has not fired by then",
    ]


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("until: 1m\nhappens: [{at: 61s, fires: {title: A}}]",
         "line 2: happens[0]: it is after `until`, 1 min"),
        ("start: yesterday\nhappens: []", "line 1: start: 'yesterday' is not a time; write one such as 2026-01-05"),
        ("start: 1900-01-01\nhappens: []", "line 1: start: '1900-01-01' is not between the years 1970 and 3000"),
        ("happens: [{at: -5s, fires: {title: A}}]", "happens[0].at: '-5s' is not a duration"),
        ("happens: [{at: 5, fires: {title: A}}]", "happens[0].at: '5' is not a duration; it needs a unit"),
        ("happens: [{at: 0s, fires: {title: ' '}}]", "happens[0].fires.title: it is missing; write in a few words"),
        ("happens: [{at: 0s, fires: {level: error}}]", "happens[0].fires.title: it is missing"),
        ("happens: [{at: 0s, fires: {title: A, level: fatal}}]", "happens[0].fires.level: no level is called 'fatal'"),
        ("happens: [{at: 0s, fires: A}]", "happens[0].fires: expected a mapping, got 'A'"),
        ("happens: [{at: 0s, fires: {title: A}, author: ana}]",
         "happens[0].author: it has no meaning with `fires`"),
        ("happens: [{at: 0s, fires: {title: A}, resolved: {title: A}}]",
         "happens[0]: it needs one of fires, resolved, acknowledged, silence, suppress, and has 2"),
        ("happens: [~]", "happens[0]: expected a mapping, got nothing"),
        ("happens: [{at: 0s, silence: title=A}]", "happens[0].silence: write its duration in `for`"),
        ("happens: [{at: 0s, silence: title=A, for: 0s}]", "happens[0].for: must be greater than 0"),
        ("happens: [{at: 0s, silence: title=A, for: 100y}]", "happens[0].for: '100y' is longer than 3,660 days"),
        ("happens: [{at: 0s, silence: level=warn, for: 1h}]", "happens[0].silence: no level is called 'warn'"),
        ("happens: [{at: 0s, silence: 'level=info, level=error', for: 1h}]", "happens[0].silence: no alert can match"),
        ("happens: [{at: 0s, suppress: '', for: 1h}]", "there are no matchers and no pattern"),
        ("happens: [{at: 0s, silence: [title=A], for: 1h}]", "happens[0].silence: expected text, got a list"),
        ("happens: &h [*h]", "an alias that contains itself"),
    ],
)  # fmt: skip
def test_what_cannot_happen_is_one_fault_with_its_place(text: str, told: str) -> None:
    (fault,) = faults(text)
    assert told in fault


def test_edges_of_the_scripts_time_are_in_it() -> None:
    made = load_script("until: 1m\nhappens: [{at: 0s, fires: {title: A, level: CRITICAL}}, {at: 1m, resolved: "
                       "{title: A, level: critical}}]")  # fmt: skip
    assert (made.start, made.until, len(made.events)) == (START, START + timedelta(minutes=1), 2)
    assert made.events[0].alert is not None
    assert made.events[0].alert.level is AlertLevel.CRITICAL
    dated = load_script("start: 2026-01-05 09:00:00+09:00\nhappens: [{at: 5s, fires: {title: A}}]")
    assert dated.start == datetime(2026, 1, 5, tzinfo=UTC) == dated.events[0].at - timedelta(seconds=5)


def test_a_script_without_end_says_so(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("o9.alerts.pipeline.simulation.STEPS_LIMIT", 1_000)
    script = load_script("until: 9y\nhappens: [{at: 0s, fires: {title: A}}]")
    with pytest.raises(OptimizationAlertError, match="not ended after 1,000 steps; give the script an earlier `until`"):
        list(simulate(load("route: {repeat_interval: 1s, group_interval: 1s}"), script))


SPANS = st.sampled_from(["0s", "30s", "1m", "5m", "2h", "soon", "-1s", "2026-01-05", "2026-01-05 00:00:30+00:00", "9y"])
ALERTS = st.fixed_dictionaries({}, optional={"title": st.sampled_from(["A", "B", "", "慢🚀"]), "desk": st.just("eu"),
                                             "level": st.sampled_from(["critical", "ERROR", "fatal"])})  # fmt: skip
HAPPENINGS = st.fixed_dictionaries(
    {"at": SPANS},
    optional={"fires": ALERTS, "resolved": ALERTS, "acknowledged": ALERTS, "for": SPANS, "since": SPANS,
              "silence": st.sampled_from(["title=A", "level=warn", "x"]), "suppress": st.sampled_from(["a*", ""])},
)  # fmt: skip


@given(st.fixed_dictionaries({"happens": st.lists(HAPPENINGS, max_size=6)}, optional={"start": SPANS, "until": SPANS}))
def test_what_is_taken_can_happen(document: dict[str, object]) -> None:
    """All of it lies within the script's time, and what ends has begun."""
    script = None
    with contextlib.suppress(DocumentError):
        script = load_script(yaml.safe_dump(document))
    if script is None:
        return
    begun = set()
    for event in script.events:
        assert script.start <= event.at <= script.until
        assert event.at.year in YEARS
        if event.alert is not None and event.what == "fires":
            begun.add(event.alert.fingerprint)
        assert event.alert is None or event.alert.fingerprint in begun
        assert event.alert is None or event.alert.title.strip()
    assert [each.at for each in script.events] == sorted(each.at for each in script.events)
    if script.until - script.start < timedelta(days=1):
        told = [each for each in simulate(Configuration(), script) if isinstance(each.what, ScriptEvent)]
        assert [each.at for each in told] == [each.at for each in script.events]
