"""How checks become a report; and the checks of completeness, security and performance."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import replace
from datetime import UTC, datetime
from itertools import pairwise
from typing import Any

import pytest
from contract_steps import new

from o9.health.checks.check import THRESHOLDS, Check, overall_status, part_score, part_status, report_of, unknown
from o9.health.checks.completeness import completeness
from o9.health.checks.performance import performance
from o9.health.checks.security import security
from o9.health.checks.validity import validity
from o9.health.facts import HealthFacts, family_of
from o9.health.grades import Grade, GradeReason, verdict_of
from o9.health.unknown import Unknown
from o9.model.search_space import SearchSpace
from o9.model.states import HealthStatus, OptimizationStatus, TrialState
from o9.model.trial import Ran, Trial
from o9.store.core.column_types import pack_returns
from o9.store.optimizations.queries import Holding
from o9.store.statistics.families import FamilyTrials, PrunedTrials

NOW = datetime(2026, 1, 1, tzinfo=UTC)
SPACE = SearchSpace.parse({"x": {"type": "float", "low": 0.0, "high": 1.0}})
H, W, C, U = HealthStatus.HEALTHY, HealthStatus.WARNING, HealthStatus.CRITICAL, HealthStatus.UNKNOWN
NONE = Unknown("nobody knows")


def trial(number: int, value: float | None = 1.0, **fields: Any) -> Trial:
    standard: dict[str, Any] = {"state": TrialState.COMPLETED, "parameters": {"x": 0.5}}
    return Trial(number, 0, value=value, **(standard | fields))


def facts(*, state: dict[str, Any] | None = None, **fields: Any) -> HealthFacts:
    """A completed optimization with three good trials in one step, and a complete record."""
    path = [None, "created", "initializing", "running", "completed"]
    rows = [{"from_status": one, "to_status": other, "message": ""} for one, other in pairwise(path)]
    completed: dict[str, Any] = {
        "status": OptimizationStatus.COMPLETED, "completed_steps": 1, "current_performance": 1.0,
        "results": {"a": 1}, "optimized_parameters": {"x": 0.5},
    }  # fmt: skip
    standard: dict[str, Any] = {
        "state": new("a", **(completed | (state or {}))), "trials": [trial(n) for n in range(3)], "best": trial(0),
        "transitions": rows, "steps": frozenset({0}), "space": SPACE,
    }  # fmt: skip
    return HealthFacts(**(standard | fields))


def check(checks: list[Check], name: str) -> Check:
    return next(one for one in checks if one.name == name)


@pytest.mark.parametrize(
    ("score", "threshold", "status"),
    [(0.9, 0.9, H), (0.899, 0.9, W), (0.7, 0.9, W), (0.69, 0.9, C), (0.0, 0.0, H), (NONE, 0.9, U)],
)
def test_a_part_has_the_status_of_its_threshold(score: Any, threshold: float, status: HealthStatus) -> None:
    assert part_status(score, threshold) is status


@pytest.mark.parametrize(
    ("scores", "status"),
    [
        ((0.9, 1.0, 1.0, 1.0), H), ((0.89, 1.0, 1.0, 1.0), W), ((0.7, 1.0, 1.0, NONE), W), ((0.69, 1.0, 1.0, 1.0), C),
        ((1.0, 1.0, 1.0, NONE), U), ((0.0, NONE, NONE, NONE), C), ((NONE,) * 4, U),
    ],
)  # fmt: skip
def test_the_overall_status_is_that_of_the_weakest_part(scores: Any, status: HealthStatus) -> None:
    assert overall_status(scores) is status


def test_a_part_has_the_score_of_its_weakest_check() -> None:
    checks = [Check("validity.a", 0.9, "a"), Check("validity.b", 0.4, "b"), unknown("validity.c", "c")]
    assert part_score(checks, "validity") == 0.4
    assert part_score([*checks, unknown("validity.d", NONE, essential=True)], "validity") == NONE
    assert isinstance(part_score(checks, "security"), Unknown)


def test_a_report_lists_issues_and_unknown_checks() -> None:
    checks = [
        Check("validity.a", 0.5, "half", "do this"), Check("validity.b", 1.0, "fine", "never shown"),
        unknown("completeness.c", "gone"), Check("security.d", 1.0, "fine"),
    ]  # fmt: skip
    report = report_of("a", NOW, checks, THRESHOLDS)
    assert (report.overall_status, report.validity_status, report.completeness_status) == (C, C, U)
    assert report.issues == ["validity.a: half", "completeness.c: gone"]
    assert report.recommendations == ["validity.a: do this"]
    assert report.to_dict()["performance_score"] is None
    assert checks[2].to_dict() | {"evidence": {}} == {
        "name": "completeness.c", "score": None, "unknown": "gone", "words": "gone", "remedy": "",
        "essential": False, "evidence": {},
    }  # fmt: skip
    assert checks[0].to_dict()["score"] == 0.5
    assert Check("validity.zero", 0.0, "").to_dict()["score"] == 0.0


def test_a_complete_record_passes() -> None:
    for one in [*completeness(facts()), *security(facts())]:
        assert one.score == 1.0 or one.name == "completeness.prefect_state", one


@pytest.mark.parametrize(
    ("name", "broken", "words"),
    [
        ("steps", facts(state={"completed_steps": 4}), "3 of 4 steps have neither trials nor figures: 1, 2, 3"),
        ("trial_numbers", facts(trials=[trial(0), trial(3)]), "2 of 4 trials are not in the ledger: 1, 2"),
        ("transitions", facts(transitions=[]), "no transition"),
        (
            "transitions",
            facts(state={"status": OptimizationStatus.FAILED}),
            "leads to completed, but",
        ),
        ("results", facts(state={"results": {}}), "results are empty"),
        ("results", facts(state={"current_performance": 2.0}), "the best trial has 1.0, current_performance is 2.0"),
        ("results", facts(trials=[trial(0, None)]), "1 completed trials have no value: 0"),
    ],
)
def test_missing_records_are_found(name: str, broken: HealthFacts, words: str) -> None:
    found = check(completeness(broken), f"completeness.{name}")
    assert words in found.words
    assert not isinstance(found.score, Unknown)
    assert found.score < THRESHOLDS["completeness_threshold"]
    assert found.remedy


def test_a_forbidden_transition_breaks_the_history() -> None:
    rows = [{"from_status": None, "to_status": "created"}, {"from_status": "created", "to_status": "completed"}]
    assert check(completeness(facts(transitions=rows)), "completeness.transitions").score == 0.0


def test_the_final_state_of_the_flow_run() -> None:
    ended = {"run_id": "r", "state_type": "COMPLETED", "state_name": "Completed"}

    def score(run: Any, states: Any) -> Any:
        return check(completeness(facts(prefect_run=run, prefect_states=states)), "completeness.prefect_state").score

    assert score({"run_id": "r", "is_open": 0}, [ended]) == 1.0
    assert score({"run_id": "r", "is_open": 0}, [ended | {"run_id": "other"}]) == 0.0
    assert isinstance(score({"run_id": "r", "is_open": 1}, []), Unknown)
    assert isinstance(score(None, []), Unknown)
    running = facts(state={"status": OptimizationStatus.RUNNING})
    assert "completeness.prefect_state" not in [one.name for one in completeness(running)]


def test_a_mirrored_flow_keeps_its_own_results() -> None:
    watched = facts(state={"metadata": {"strategy": "mirrored"}, "results": {}}, trials=[], best=None)
    assert isinstance(check(completeness(watched), "completeness.results").score, Unknown)


def test_parameters_outside_the_search_space() -> None:
    outside = facts(trials=[trial(0), trial(1, parameters={"x": 1.5}), trial(2, parameters={"y": 0.5})])
    found = check(security(outside), "security.search_space")
    assert (found.score, found.evidence["outside"]) == (0.0, ["trial 1", "trial 2"])
    fixed = facts(trials=[trial(0, parameters={"x": 0.5, "fee": 3})])  # given beneath the searched ones
    assert check(security(fixed), "security.search_space").score == 1.0
    assert isinstance(part_score(security(facts(space=None)), "security"), Unknown)


@pytest.mark.parametrize(
    ("limits", "score"),
    [
        ({"drawdown": 0.3}, 1.0), ({"max_drawdown": 0.2}, 0.0), ({"drawdown": -0.2}, 0.0), ({"turnover": 1}, None),
        ({"drawdown": "low"}, None), ({"drawdown": True}, None), ({"drawdown": math.inf}, None), ([], None), ({}, None),
    ],
)  # fmt: skip
def test_risk_limits_of_the_best_trial(limits: Any, score: float | None) -> None:
    best = trial(0, metrics={"drawdown": -0.25})
    told = part_score(security(facts(state={"metadata": {"risk_limits": limits}}, best=best)), "security")
    assert isinstance(told, Unknown) if score is None else told == score


@pytest.mark.parametrize(
    ("value", "where"),
    [
        ({"password": "x"}, "parameters.password"), ({"a": {"db_password": "x"}}, "parameters.a.db_password"),
        ({"a": ["postgresql://me:pw@host/db"]}, "parameters.a[0]"), ({"a": "AKIA" + "A" * 16}, "parameters.a"),
        ({"key": "value", "token_count": 3, "url": "https://host:8080/x@y", "secret": ""}, None),
        ({"api_key": {"type": "categorical"}}, None),
    ],
)  # fmt: skip
def test_secrets_are_found_but_not_repeated(value: Any, where: str | None) -> None:
    found = check(security(facts(state={"parameters": value})), "security.secrets")
    assert found.evidence.get("places", []) == ([where] if where else [])
    assert "pw@" not in found.words


@pytest.mark.parametrize(
    ("state", "name", "score"),
    [
        ({"baseline_performance": 0.5}, "baseline", 1.0), ({"baseline_performance": 1.0}, "baseline", 0.0),
        ({"baseline_performance": 0.5, "metadata": {"direction": "minimize"}}, "baseline", 0.0),
        ({}, "baseline", None), ({"target_performance": 4.0}, "target", 0.25),
        ({"target_performance": 0.5}, "target", 1.0),
        ({"baseline_performance": 2.0, "target_performance": 1.5}, "target", None),
    ],
)  # fmt: skip
def test_performance_against_baseline_and_target(state: dict[str, Any], name: str, score: float | None) -> None:
    found = check(performance(facts(state=state)), f"performance.{name}").score
    assert isinstance(found, Unknown) if score is None else found == score


def test_performance_history_and_failures() -> None:
    assert check(performance(facts(bests=[1.0, 1.0, 2.0])), "performance.history").score == 1.0
    assert check(performance(facts(bests=[1.0, 3.0, 2.0])), "performance.history").score == 0.0
    lost = [trial(0), *(trial(n, None, state=TrialState.FAILED, error="no data") for n in (1, 2, 3))]
    found = check(performance(facts(trials=lost)), "performance.failures")
    assert (found.score, found.words) == (0.25, "3 of 4 trials failed; last error: no data")
    quiet = facts(state={"current_performance": 3.0, "baseline_performance": 2.0}, trials=[], best=None)
    assert check(performance(quiet), "performance.baseline").score == 1.0  # a strategy that keeps no trials
    assert isinstance(
        part_score(performance(facts(state={"baseline_performance": 2.0}, best=None)), "performance"), Unknown
    )


def test_secrets_are_found_in_every_field() -> None:
    lost = [trial(n, None, state=TrialState.FAILED, error="login(password='hunter22') failed") for n in (3, 4)]
    rows = [{"to_status": "failed", "from_status": "running", "message": "GET https://me:pw@host/x: 401"}]
    prefect = [{"state_name": "Failed", "run_name": "swift-owl", "message": "api_key=abc123def is refused"}]
    state = {
        "issues": ["fine", "token ghp_" + "a" * 36],
        "warnings": ["secret: 'abcdefg'"],
        "description": "AKIA" + "B" * 16,
    }
    found = check(
        security(facts(state=state, trials=lost, transitions=rows, prefect_states=prefect)), "security.secrets"
    )
    assert found.score == 0.0
    assert found.evidence["places"] == [
        "description", "issues[1]", "warnings[0]", "trial 3.error", "transitions[0].message",
    ]  # fmt: skip
    assert found.words.startswith("6 values look like secrets")
    told = str(found.to_dict())
    assert not any(value in told for value in ("hunter22", "abc123def", "pw@", "abcdefg", "ghp_", "AKIA"))
    alone = check(security(facts(prefect_states=prefect)), "security.secrets")
    assert alone.evidence["places"] == ["Failed of swift-owl in Prefect"]


@pytest.mark.parametrize(
    "text",
    [
        'File "a.py", line 3, in f\n    connect(host, password=os.environ["DB_PASSWORD1"])',
        "    connect(password=password)", "password: expected a string, got None", "api_key is missing",
        "password=None",
        "connect(password=settings().password1)", "the secret of 100 trials", "private_key=<Key 1>",
    ],
)  # fmt: skip
def test_code_and_plain_text_are_not_secrets(text: str) -> None:
    quiet = [trial(0, None, state=TrialState.FAILED, error=text)]
    assert check(security(facts(trials=quiet)), "security.secrets").score == 1.0


def ran(*codes: str, data: Any = "d") -> list[Ran]:
    kept = [data] * len(codes) if isinstance(data, str) else data
    return [Ran(attempt, "crossover", code, kept[attempt - 1]) for attempt, code in enumerate(codes, start=1)]


def of_attempts(*attempts: int, family: str = "crossover@d") -> list[Trial]:
    return [trial(number, attempt=attempt, family=family) for number, attempt in enumerate(attempts)]


@pytest.mark.parametrize(
    ("attempts", "score", "words"),
    [
        (ran("c1"), 1.0, "crossover has the fingerprint c1 in its only attempt"),
        (ran("c1", "c1", "c1"), 1.0, "crossover has the fingerprint c1 in all 3 attempts"),
        (ran("c1", "c2"), 0.8, "between attempt 1 and 2; trials up to 1 "),
        ([Ran(0, "crossover", "c0", "d"), *ran("c1")], 0.8, "between the inherited trials and 1"),
        (ran("", ""), None, "crossover"),
    ],
)  # fmt: skip
def test_attempts_are_compared_by_code(attempts: list[Ran], score: float | None, words: str) -> None:
    found = check(security(facts(trials=of_attempts(1, 1, 2), ran=attempts)), "security.code")
    assert words in found.words, found.words
    assert isinstance(found.score, Unknown) if score is None else found.score == score
    assert bool(found.remedy) == (score == 0.8)


def test_trials_are_compared_by_data() -> None:
    def data(**fields: Any) -> Check:
        return check(security(facts(**({"ran": ran("c1", "c1")} | fields))), "security.data")

    assert (data().score, data().words) == (1.0, "all trials use the data d")
    declared = data(ran=ran("c1", "c1", data=["d1", "d2"]), trials=of_attempts(1, 2))
    assert (declared.score, declared.words) == (
        0.3, "its data changed between attempt 1 and 2; trials up to 0 were evaluated before the change",
    )  # fmt: skip
    moved = [*of_attempts(1, 1), trial(2, attempt=2, family="crossover@e")]
    told = data(ran=ran("c1", "c1", data=""), trials=moved)
    assert (told.score, told.words) == (
        0.3, "its data changed: trial 2 (attempt 2) belongs to crossover@e, those before it to crossover@d",
    )  # fmt: skip
    lost = trial(3, None, state=TrialState.FAILED, family="crossover")  # it did not come to say what it is of
    assert data(ran=ran("c1", data=""), trials=[*of_attempts(1, 1), lost]).words == "all trials use the data d"
    silent = data(ran=ran("c1", data=""), trials=of_attempts(1, family="crossover"))
    assert isinstance(silent.score, Unknown)
    assert "data=…" in silent.remedy


def test_missing_provenance_is_unknown_and_omitted_before_the_first_attempt() -> None:
    def names(**holding: Any) -> set[str]:
        metadata = {"strategy": holding.pop("strategy", "default")}
        held = Holding("running", "run", "", None, 0, **({"attempt": 1} | holding), **_HOLDING)
        return {one.name for one in security(facts(state={"metadata": metadata}, holding=held))}

    assert not any(name in names(attempt=0) for name in ("security.code", "security.data"))
    assert {"security.code", "security.data"} <= names()
    assert "security.code" not in names(strategy="mirrored")


_HOLDING: dict[str, Any] = {
    "deaths": 0, "fence": 1, "version": 1, "max_attempts": 3, "lease_node": None, "prefect_run_id": None,
    "suspended_run_id": None,
}  # fmt: skip


@pytest.mark.parametrize(
    ("metadata", "score"),
    [
        ({"objective": "desk.models:crossover"}, 1.0), ({"objective": "crossover"}, 1.0), ({}, 1.0),
        ({"objective": "desktop.models:crossover"}, 0.8), ({"strategy": "other:Own"}, 0.8),
    ],
)  # fmt: skip
def test_import_paths_are_compared_with_the_allowed_ones(metadata: dict[str, Any], score: float) -> None:
    found = check(security(facts(state={"metadata": metadata}, allowed_imports=("desk",))), "security.imports")
    assert found.score == score
    assert not any(one.name == "security.imports" for one in security(facts(state={"metadata": metadata})))


def figures(seconds: Sequence[float] = (), **named: Sequence[float]) -> dict[int, dict[str, float]]:
    steps: dict[int, dict[str, float]] = {}
    for name, values in {"step_seconds": seconds, **named}.items():
        for step, value in enumerate(values):
            steps.setdefault(step, {})[name] = value
    return steps


def test_speed_is_compared_with_earlier_steps() -> None:
    def speed(seconds: Sequence[float], **named: Sequence[float]) -> Check:
        return check(performance(facts(figures=figures(seconds, **named))), "performance.speed")

    steady = [1.0, 1.1, 0.9] * 10
    assert (speed(steady).score, speed(steady).remedy) == (1.0, "")
    slower = speed([*steady, *[3.0] * 10])
    assert (slower.score, slower.evidence["seconds_now"]) == (0.6, 3.0)
    assert all(each in slower.words for each in ("3 s in the last 10 steps", "1 s", "3.0 times as long"))
    assert speed([*steady, *[3.0] * 10], trials=[1.0] * 30 + [3.0] * 10).score == 1.0  # a step of three trials
    few = speed(steady[:19])
    assert isinstance(few.score, Unknown)
    assert "19 steps" in few.words
    long_ago = speed([*[0.01] * 300, *[1.0] * 200])
    assert long_ago.score == 1.0  # what was before the newest 200 is no measure


def test_growing_memory_is_a_warning() -> None:
    def memory(readings: Sequence[float], **named: Sequence[float]) -> Check:
        return check(performance(facts(figures=figures([], memory_mib=readings, **named))), "performance.memory")

    grown = memory([100.0 + 10 * n for n in range(20)], cpu_percent=[90.0, 110.0])
    assert (grown.score, grown.evidence["last_mib"]) == (0.6, 290.0)
    assert "went from 100 to 290 MiB, at most 290; they used 100% of a core" in grown.words
    assert memory([100.0, 200.0, *[210.0] * 20]).score == 1.0  # it has levelled off
    few = memory([100.0] * 9)
    assert isinstance(few.score, Unknown)
    assert "9 steps" in few.words
    assert not any(one.name == "performance.memory" for one in performance(facts()))


Returns = tuple[float, ...]


@pytest.mark.parametrize(
    ("keys", "place", "series"),
    [
        ([("b", 0), ("a", 0)], 1, 2), ([("b", 0)], 1, 2), ([("b", 7)], 0, 1), ([], 0, 1),
    ],
)  # fmt: skip
def test_the_best_is_located_in_its_family(keys: list[tuple[str, int]], place: int, series: int) -> None:
    """Its own, that of the one it was taken over from (b's seventh), or one behind all that the bound left in."""
    best = trial(0, returns=(0.1, 0.2), family="f")
    data: Callable[[tuple[str, int]], bytes] = lambda key: pack_returns((0.1, 0.2) if key != ("b", 0) else (0.3, 0.4))  # noqa: E731
    family = family_of(best, "a", FamilyTrials({"completed": 2}, {key: data(key) for key in keys}, complete=True))
    assert (family.judged, len(family.series)) == (place, series)
    assert family.series[place] == pack_returns((0.1, 0.2))
    assert family_of(replace(best, returns=None), "a", FamilyTrials({}, {}, True)).judged is None


def test_trials_that_saw_the_hold_out_are_counted_and_cut() -> None:
    """a holds out behind two periods; b was valued on three, c held out behind one."""
    data = {("a", 0): (0.1, 0.2), ("b", 0): (0.3, 0.4, 0.5), ("b", 1): (0.1, 0.2, 0.6), ("c", 0): (0.7,)}
    packed = {key: pack_returns(values) for key, values in data.items()}
    found = FamilyTrials({"completed": 4}, packed, True, cut=frozenset("ac"))
    found = replace(found, searches=dict.fromkeys("abc", ("", "random")))
    best = trial(0, returns=(0.1, 0.2), family="f")
    family = family_of(best, "a", found, is_cut=True)
    assert (family.series, family.judged, family.seen) == (
        [packed["a", 0], pack_returns((0.3, 0.4)), packed["a", 0]],
        0,
        2,
    )
    assert not family.adaptive
    later = family_of(trial(0, returns=data["b", 0], family="f"), "b", found)
    assert (later.series, later.judged, later.seen) == ([packed["b", 0], packed["b", 1]], 0, 0)
    after = replace(found, started={("b", 1): "2026-02-01"}, searches={**found.searches, "c": ("", "tpe")})
    assert [family_of(best, "a", after, is_cut=True, looked_at=at).seen for at in (None, "2026-01", "2026-03")] == [
        2,
        1,
        2,
    ]
    assert family_of(best, "a", after, is_cut=True, looked_at="2026-01").adaptive
    after = replace(after, started=dict.fromkeys(after.returns, "2026-02-01"))
    assert not family_of(best, "a", after, is_cut=True, looked_at="2026-01").adaptive
    gone = family_of(best, "a", replace(found, pruned=PrunedTrials(5)), is_cut=True)
    assert (gone.seen, gone.adaptive) == (7, True)  # nobody knows any more how they were found, and on what


def test_validity_without_trials_or_returns_is_unknown() -> None:
    assert isinstance(part_score(validity(facts(trials=[], best=None)), "validity"), Unknown)
    bare = trial(0, family="f")
    family = family_of(bare, "a", FamilyTrials({"completed": 1}, {}, True))
    for best, its_family, reason in (
        (None, None, GradeReason.NO_TRIALS), (bare, family, GradeReason.NO_RETURNS),
    ):  # fmt: skip
        found = validity(facts(trials=[bare], best=best, family=its_family))
        assert isinstance(part_score(found, "validity"), Unknown)
        verdict = verdict_of([each.to_dict() for each in found])
        assert verdict is not None
        assert (verdict.grade, verdict.reason, verdict.score) == (Grade.UNPROVEN, reason, None)
