"""`block:NAME` as the store's URL: commands, aggregators and flows open the store of that Prefect block."""

from __future__ import annotations

import uuid
from collections.abc import Awaitable, Callable, Iterator
from pathlib import Path

import o9_testing
import pytest
from command_line import O9Command, command_in, create
from o9_testing import ended, free_port, new
from prefect.settings import PREFECT_API_URL, temporary_settings

from o9.aggregator.prefect_server import prefect_client_settings
from o9.blocks import store as store_block
from o9.blocks.store import AggregatorStore, current_store, current_url
from o9.model.settings import settings
from o9.store import queries
from o9.store.store import Store
from OptimizationStateAggregator import OptimizationStateAggregator, OptimizationStoreError

Save = Callable[[str], Awaitable[str]]
SECRET = "T0PSECRET"


@pytest.fixture
def o9(tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> Iterator[O9Command]:
    yield command_in(tmp_path, capsys, monkeypatch)
    settings.cache_clear()


@pytest.fixture
def name(monkeypatch: pytest.MonkeyPatch, o9: O9Command) -> str:
    """The name of a block that does not exist, in O9_STORE_URL. Prefect's server is running."""
    o9_testing.session_server()
    name = f"desk-{uuid.uuid4().hex[:8]}"
    monkeypatch.setenv("O9_STORE_URL", f"block:{name}")
    settings.cache_clear()
    return name


async def save(name: str, url: str) -> None:
    with prefect_client_settings(o9_testing.session_server()):
        await AggregatorStore(url=url).save(name)


@pytest.fixture
async def saved(name: str, store_url: str) -> str:
    """The name of a saved block, whose store has the optimization `there`."""
    await save(name, store_url)
    with Store(store_url) as store:
        create(store, "there")
    return name


def assert_no_file_of_that_name() -> None:
    assert not list(Path().glob("block:*"))


def test_a_command_reads_the_store_that_the_block_names(saved: str, o9: O9Command, store_url: str) -> None:
    for arguments in ([], ["--store", f"block:{saved}"]):
        told = o9("list", "--json", *arguments)
        assert (told.code, [one["optimization_id"] for one in told.json()]) == (0, ["there"]), told.err
    (finding,) = [each for each in o9("doctor", "--json").json()["findings"] if each["name"] == "store"]
    assert (finding["level"], finding["detail"].partition(":")[0]) == ("ok", store_url)


def test_a_command_writes_to_the_store_that_the_block_names(saved: str, o9: O9Command, store_url: str) -> None:
    Path("one.yaml").write_text("{name: one, optimization_id: one, metadata: {objective: branin}}")
    assert o9("submit", "one.yaml").code == 0
    assert o9("pause", "there").code == 0
    with Store(store_url) as store:
        assert {state.optimization_id: state.status.value for state in store.read(queries.page).items} == {
            "there": "paused", "one": "created",
        }  # fmt: skip
    assert_no_file_of_that_name()


async def test_an_aggregator_works_on_the_store_that_the_block_names(saved: str, store_url: str) -> None:
    async with OptimizationStateAggregator(monitoring_interval=0.1) as aggregator:
        await aggregator.submit_optimization(new("here", objective="branin", total_steps=1, trials_per_step=1))
        assert (await ended(aggregator, "here")).status.value == "completed"
    async with OptimizationStateAggregator(storage_path=f"block:{saved}") as aggregator:
        assert {state.optimization_id for state in await aggregator.get_all_optimizations()} == {"there", "here"}
    with Store(store_url) as store:
        assert len(store.read(queries.trials, "here")) == 1
    assert_no_file_of_that_name()


def test_a_flow_works_on_the_store_that_the_block_names(
    saved: str, store_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(store_block, "_in_use", [])
    with prefect_client_settings(o9_testing.session_server()):
        assert current_url() == store_url
        with current_store() as store:
            assert store.read(queries.get, "there") is not None


async def test_a_missing_block_is_refused(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(store_block, "_in_use", [])
    aggregator = OptimizationStateAggregator()
    with pytest.raises(OptimizationStoreError, match=f"block:{name}"):
        await aggregator.start()
    assert not aggregator.is_running
    with prefect_client_settings(o9_testing.session_server()), pytest.raises(OptimizationStoreError, match=name):
        current_store()
    assert_no_file_of_that_name()


@pytest.mark.parametrize("command", [["list"], ["submit", "one.yaml"], ["run", "one.yaml"], ["serve"]])
def test_a_command_names_the_missing_block(name: str, o9: O9Command, command: list[str]) -> None:
    Path("one.yaml").write_text("{name: one, optimization_id: one, metadata: {objective: branin}}")
    told = o9(*command)
    assert (told.code, told.out) == (1, "")
    line = told.err.splitlines()[-1]  # `run` shows its progress before
    assert line.startswith("o9: ")
    assert f"block:{name}" in line
    assert_no_file_of_that_name()


def test_a_store_without_block_support_creates_no_file(name: str) -> None:
    with pytest.raises(OptimizationStoreError, match=f"block:{name}"):
        Store()
    assert_no_file_of_that_name()


async def test_the_password_in_a_block_is_not_shown(name: str, o9: O9Command) -> None:
    await save(name, f"postgresql://ann:{SECRET}@127.0.0.1:{free_port()}/desk?connect_timeout=2")
    aggregator = OptimizationStateAggregator()
    with pytest.raises(OptimizationStoreError, match="postgresql") as refusal:
        await aggregator.start()
    assert SECRET not in str(refusal.value)


def test_an_unreachable_prefect_server_is_reported(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(store_block, "_in_use", [])
    with (
        temporary_settings({PREFECT_API_URL: f"http://127.0.0.1:{free_port()}/api"}),
        pytest.raises(OptimizationStoreError, match=f"block:{name} .*ConnectError"),
    ):
        current_store()
