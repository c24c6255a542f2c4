"""Settings: an argument wins over the environment, that over `.env`, that over the default; what cannot be one."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from command_line import O9Command, command_in

from o9.model.errors import OptimizationValidationError
from o9.model.settings import DEFAULT_STORE, settings
from o9.store import queries
from o9.store.store import Store
from OptimizationStateAggregator import OptimizationStateAggregator

Given = Callable[..., None]
ONE = "{name: one, optimization_id: one, metadata: {objective: branin}}"
# By the sources that give a value: whose value counts.
SOURCES = [
    ((), "default"),
    ((".env",), ".env"),
    (("environment",), "environment"),
    ((".env", "environment"), "environment"),
    ((".env", "argument"), "argument"),
    ((".env", "environment", "argument"), "argument"),
]


@pytest.fixture
def o9(tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> Iterator[O9Command]:
    monkeypatch.delenv("O9_RETENTION_DAYS", raising=False)
    yield command_in(tmp_path, capsys, monkeypatch)
    settings.cache_clear()


@pytest.fixture
def given(o9: O9Command, monkeypatch: pytest.MonkeyPatch) -> Given:
    """`given("O9_…", {".env": …, "environment": …})`: a new process would find these; other sources are left out."""

    def give(variable: str, values: dict[str, object]) -> None:
        if ".env" in values:
            Path(".env").write_text(f"# the desk's\nPASSWORD_OF_ANOTHER=x\n{variable}={values['.env']}\n")
        if "environment" in values:
            monkeypatch.setenv(variable, str(values["environment"]))
        settings.cache_clear()

    return give


@pytest.mark.parametrize(("sources", "counts"), SOURCES)
def test_the_store_of_a_command(o9: O9Command, given: Given, sources: tuple[str, ...], counts: str) -> None:
    given("O9_STORE_URL", {source: f"{source.strip('.')}.db" for source in sources})
    Path("one.yaml").write_text(ONE)
    assert o9("submit", "one.yaml", *(["--store", "argument.db"] if "argument" in sources else [])).code == 0
    expected = DEFAULT_STORE if counts == "default" else f"{counts.strip('.')}.db"
    assert {path.name for path in Path().glob("*.db")} == {expected}
    with Store(expected) as store:
        assert store.read(queries.get, "one") is not None


@pytest.mark.parametrize(("sources", "counts"), SOURCES)
async def test_the_store_of_an_aggregator(given: Given, sources: tuple[str, ...], counts: str) -> None:
    given("O9_STORE_URL", {source: f"{source.strip('.')}.db" for source in sources})
    aggregator = OptimizationStateAggregator(storage_path="argument.db" if "argument" in sources else DEFAULT_STORE)
    await aggregator.initialize()
    try:
        assert aggregator.store.name == (DEFAULT_STORE if counts == "default" else f"{counts.strip('.')}.db")
    finally:
        await aggregator.cleanup()


@pytest.mark.parametrize(("sources", "counts"), SOURCES)
def test_a_number(o9: O9Command, given: Given, sources: tuple[str, ...], counts: str) -> None:
    days = {".env": 10.5, "environment": 20.0, "argument": 30.0}
    given("O9_RETENTION_DAYS", {source: days[source] for source in sources})
    Store(DEFAULT_STORE).close()
    argument = ["--older-than", "30"] if "argument" in sources else []
    told = o9("db", "prune", "--dry-run", "--json", *argument)
    if counts == "default":  # nothing is old
        assert (told.code, told.out) == (1, "")
    else:
        assert (told.code, told.json()["older_than_days"]) == (0, days[counts])


@pytest.mark.parametrize(
    ("variable", "value"),
    [
        ("O9_LEASE_SECONDS", "soon"), ("O9_LEASE_SECONDS", "0"), ("O9_STORE_DURABILITY", "none"),
        ("O9_RETENTION_DAYS", "-1"), ("O9_RETENTION_DAYS", "inf"), ("O9_LOG_LEVEL", "LOUD"), ("O9_LOG_FORMAT", "xml"),
    ],
)  # fmt: skip
def test_what_cannot_be_one_is_refused_by_its_name(o9: O9Command, given: Given, variable: str, value: str) -> None:
    given(variable, {".env": value})
    Path("one.yaml").write_text(ONE)
    for command in (["list"], ["submit", "one.yaml"], ["run", "one.yaml"]):
        told = o9(*command)
        assert (told.code, told.out) == (1, "")
        (line,) = told.err.splitlines()[-1:]
        assert line.startswith(f"o9: {variable}: ")
        assert repr(value) in line
        assert ".env" in line
    (finding,) = [each for each in o9("doctor", "--json").json()["findings"] if each["name"] == "settings"]
    assert finding["level"] == "problem"
    assert variable in finding["detail"]
    with pytest.raises(OptimizationValidationError) as refused:
        OptimizationStateAggregator()
    assert refused.value.field == variable
    assert not list(Path().glob("*.db"))


def test_the_environment_takes_the_place_of_what_cannot_be_one(o9: O9Command, given: Given) -> None:
    given("O9_LEASE_SECONDS", {".env": "soon", "environment": 12})
    found = {each["name"]: each for each in o9("doctor", "--json").json()["findings"]}
    assert found["O9_LEASE_SECONDS"]["detail"] == "12.0 (set)"
    assert "O9_LOG_LEVEL" not in found  # what is set, and no more
    assert settings().lease_seconds == 12
