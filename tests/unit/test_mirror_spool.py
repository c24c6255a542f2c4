"""What a store that was away has not heard: kept in order on the node, delivered once, whoever does it."""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import signal
import sqlite3
import subprocess
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
import zygote

from o9.mirror.observed_state import FLOW, ObservedState, Run, operation_for
from o9.mirror.spool import Spool, deliver, refused
from o9.mirror.spooling_writer import SpoolingWriter
from o9.model.errors import OptimizationStoreError, StoreUnavailableError
from o9.model.optimization import OptimizationState, utc_now
from o9.model.states import OptimizationPriority, OptimizationStatus, OptimizationType
from o9.store import queries
from o9.store.optimizations.prefect_runs import Adopt
from o9.store.optimizations.transitions import Cause, RecordPrefectState, Transition
from o9.store.store import Store

RUN = Run("r", "run-r", 1, "mirrored")
NAMES = ["PENDING Pending", "RUNNING Running", "COMPLETED Completed"]


@pytest.fixture
def folder(tmp_path: Path, set_o9: Callable[..., None]) -> Path:
    """The node's spool folder."""
    set_o9(spool_folder=tmp_path / "spool")
    return tmp_path / "spool"


@pytest.fixture
def store(store_url: str) -> Iterator[Store]:
    with Store(store_url) as opened:
        yield opened


def adoption() -> Adopt:
    state = OptimizationState(
        "run-r", "r", "", OptimizationType.PARAMETER_TUNING, OptimizationStatus.CREATED, OptimizationPriority.NORMAL,
        utc_now(), utc_now(), metadata={"strategy": "mirrored", "desk": "Zürich"},
    )  # fmt: skip
    return Adopt(state, "r", "node", 30.0)


def state_of(number: int) -> RecordPrefectState:
    at = datetime(2026, 1, 1, tzinfo=UTC) + timedelta(seconds=number)
    state_type, name = NAMES[number].split() if number < len(NAMES) else ("RUNNING", f"Running {number}")
    return operation_for(ObservedState(FLOW, "r", "r", f"s{number}", state_type, name, "", at), RUN, Cause.HOOK, "node")


def recorded(store: Store) -> list[str]:
    return [row["state_id"] for row in store.read(queries.prefect_states, "run-r")]


def test_what_waits_is_delivered_in_order_and_the_file_is_gone(folder: Path, store: Store) -> None:
    spool = Spool(store.url)
    for operation in (adoption(), state_of(0), state_of(1), state_of(2)):
        spool.append(operation)
    assert len(spool) == sum(path.stat().st_size for path in folder.iterdir())
    assert deliver(store) == 0, "its writer lives and delivers it itself"
    assert spool.deliver(store) == 4
    state = store.read(queries.get, "run-r")
    assert state is not None
    assert state.status is OptimizationStatus.COMPLETED
    assert state.metadata["desk"] == "Zürich"
    assert recorded(store) == ["s0", "s1", "s2"]
    assert len(spool) == 0
    assert list(folder.iterdir()) == []


def test_every_kind_of_line_comes_back_as_it_was(folder: Path, store: Store) -> None:
    moved = Transition("run-r", OptimizationStatus.INITIALIZING, Cause.HOOK, "adopted", "node", prefect_run_id="r")
    heard: list[Any] = []

    class Recording(Store):
        def write_async(self, operation: Any) -> Any:
            heard.append(operation)
            return super().write_async(operation)

    said: list[Any]
    spool, said = Spool(store.url), [adoption(), moved, state_of(1)]
    for operation in said:
        spool.append(operation)
    with Recording(store.url) as listening:
        spool.deliver(listening)
    assert heard == said


def test_delivered_twice_counts_once(folder: Path, store: Store) -> None:
    for _ in range(2):
        spool = Spool(store.url)
        for operation in (adoption(), state_of(0), state_of(1)):
            spool.append(operation)
        spool.deliver(store)
    assert recorded(store) == ["s0", "s1"]
    assert len(store.read(queries.transitions, "run-r")) == 3


def test_a_store_that_goes_away_in_the_middle_loses_nothing(
    folder: Path, store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("o9.mirror.spool.TOGETHER", 1)
    spool = Spool(store.url)
    for operation in (adoption(), state_of(0), state_of(1)):
        spool.append(operation)

    class Failing(Store):
        calls = 0

        def write_async(self, operation: Any) -> Any:
            self.calls += 1
            if self.calls == 3:
                raise StoreUnavailableError("away")
            return super().write_async(operation)

    with Failing(store.url) as failing, pytest.raises(StoreUnavailableError):
        spool.deliver(failing)
    spool.append(state_of(2))
    assert spool.deliver(store) == 2, "from where it stopped"
    assert recorded(store) == ["s0", "s1", "s2"]


WRITER = """
import sys, time
sys.path[:0] = {folders!r}
from test_mirror_spool import adoption, state_of
from o9.mirror.spool import Spool
spool = Spool({url!r})
for operation in (adoption(), state_of(0), state_of(1)):
    spool.append(operation)
print("kept", flush=True)
time.sleep(60)
"""


def killed_writer(store: Store) -> None:
    folders = [str(Path(file).parent) for file in (__file__, zygote.__file__)]
    source = WRITER.format(folders=folders, url=store.url)
    with zygote.start(["-c", source], stdout=subprocess.PIPE) as writer:
        assert writer.stdout is not None
        assert writer.stdout.readline() == "kept\n"
        assert deliver(store) == 0, "its writer lives"
        writer.send_signal(signal.SIGKILL)


@pytest.mark.slow
def test_after_a_kill_another_process_delivers(folder: Path, store: Store) -> None:
    killed_writer(store)
    assert deliver(store) == 3
    assert recorded(store) == ["s0", "s1"]
    assert deliver(store) == 0
    assert list(folder.iterdir()) == []


@pytest.mark.slow
def test_of_many_that_deliver_one_does(folder: Path, store: Store) -> None:
    killed_writer(store)
    source = (
        f"from o9.store.store import Store; from o9.mirror.spool import deliver; print(deliver(Store({store.url!r})))"
    )
    many = [zygote.start(["-c", source], stdout=subprocess.PIPE) for _ in range(3)]
    assert sorted(process.communicate(timeout=60)[0] for process in many) == ["0\n", "0\n", "3\n"]
    assert recorded(store) == ["s0", "s1"]


@pytest.mark.slow
def test_a_line_that_a_power_cut_tore_is_quarantined(
    folder: Path, store: Store, caplog: pytest.LogCaptureFixture
) -> None:
    killed_writer(store)
    (path,) = folder.iterdir()
    with path.open("ab") as file:
        file.write(b'{"state": {"optimi')
    assert deliver(store) == 4
    assert recorded(store) == ["s0", "s1"]
    assert next(record.levelname for record in caplog.records if record.name == "o9.mirror.spool") == "ERROR"
    assert lines_kept(folder) == ['{"state": {"optimi']


def lines_kept(folder: Path) -> list[str]:
    """What stands in the one file there, beside the spool, of what was refused."""
    (found,) = folder.iterdir()
    assert found.suffix == ".refused"
    assert found.stat().st_mode & 0o777 == 0o600
    (kept,) = refused()
    lines = [json.loads(line)["refused"] for line in found.read_text().splitlines()]
    assert (kept.path, kept.lines, kept.reason) == (found, len(lines), lines[-1]["reason"])
    return [line["line"] for line in lines]


def test_what_the_store_refuses_is_quarantined_and_stops_nothing(folder: Path, store: Store) -> None:
    spool = Spool(store.url)
    taken_over = Transition("run-r", OptimizationStatus.RUNNING, Cause.HOOK, "begun", "node", fence=0)
    nobodys = replace(state_of(0), optimization_id="run-x")
    for operation in (nobodys, adoption(), taken_over, state_of(1)):  # a state of what nobody created; an old fence
        spool.append(operation)
    assert spool.deliver(store) == 4
    assert recorded(store) == ["s1"]
    assert [next(iter(json.loads(line))) for line in lines_kept(folder)] == ["state", "transition"]


NOT_THIS_ONE = """
CREATE TRIGGER no BEFORE INSERT ON prefect_state WHEN new.state_id = 's0' BEGIN SELECT RAISE(ABORT, 'not this one'); END
"""


def test_what_the_database_refuses_is_kept_until_somebody_has_it_tried_again(folder: Path, store: Store) -> None:
    """Whatever the reason, only a store that is away stops a delivery."""
    spool = Spool(store.url)
    for operation in (adoption(), state_of(0), state_of(1)):
        spool.append(operation)
    with contextlib.closing(sqlite3.connect(store.url)) as connection:
        connection.execute(NOT_THIS_ONE)
        assert spool.deliver(store) == 3
        assert recorded(store) == ["s1"]
        for _ in range(2):  # once more in vain
            (line,) = lines_kept(folder)
            assert json.loads(line)["state"]["state_id"] == "s0"
            (found,) = folder.iterdir()
            found.rename(found.with_suffix(".jsonl"))
            assert deliver(store) == 1
        connection.execute("DROP TRIGGER no")
    (found,) = folder.iterdir()
    found.rename(found.with_suffix(".jsonl"))
    assert deliver(store) == 1
    assert recorded(store) == ["s0", "s1"]
    assert list(folder.iterdir()) == []


@pytest.mark.slow
def test_what_postgresql_cannot_hold_is_refused_and_stops_nothing(folder: Path, postgres_url: str) -> None:
    with Store(postgres_url) as store:
        first, spool = adoption(), Spool(store.url)
        nameless = replace(first, state=replace(first.state, optimization_id="run-n", name="a\0b"), run_id="n")
        for operation in (nameless, first, state_of(0)):
            spool.append(operation)
        spool.close()  # as its process ends
        assert deliver(store) == 3
        assert recorded(store) == ["s0"]
        assert [json.loads(line)["adopt"]["run_id"] for line in lines_kept(folder)] == ["n"]


def test_a_write_that_was_interrupted_is_no_refusal(folder: Path, store: Store) -> None:
    """By Ctrl-C, which hits the thread that commits for all who wait."""

    class Interrupted(Store):
        calls = 0

        def write_async(self, operation: Any) -> Any:
            self.calls += 1
            if self.calls > 1:
                return super().write_async(operation)
            interrupted = asyncio.get_running_loop().create_future()
            interrupted.set_exception(OptimizationStoreError("the write was interrupted"))
            return interrupted

    spool = Spool(store.url)
    spool.append(adoption())
    with Interrupted(store.url) as interrupted:
        assert spool.deliver(interrupted) == 1
    assert store.read(queries.get, "run-r") is not None
    assert list(folder.iterdir()) == []


def test_a_store_that_is_closed_has_refused_nothing(folder: Path, store_url: str) -> None:
    spool = Spool(store_url)
    for operation in (adoption(), state_of(0)):
        spool.append(operation)
    with Store(store_url) as store:
        pass
    with pytest.raises(OptimizationStoreError):
        spool.deliver(store)
    spool.close()
    with pytest.raises(OptimizationStoreError):
        deliver(store)
    assert [path.suffix for path in folder.iterdir()] == [".jsonl"]
    with Store(store_url) as store:
        assert deliver(store) == 2


@pytest.mark.slow
def test_a_file_that_cannot_be_read_stops_no_other(
    folder: Path, store: Store, caplog: pytest.LogCaptureFixture
) -> None:
    killed_writer(store)
    (path,) = folder.iterdir()
    for name in ("0", "z"):  # before it and behind it
        (folder / f"{path.name.partition('.')[0]}.{name}.jsonl").mkdir()
    assert deliver(store) == 3
    assert recorded(store) == ["s0", "s1"]
    assert [record.levelname for record in caplog.records if "directory" in record.getMessage()] == ["ERROR"] * 2


def test_a_folder_that_cannot_be_written_says_so(tmp_path: Path, store: Store, set_o9: Callable[..., None]) -> None:
    (tmp_path / "file").write_text("")
    set_o9(spool_folder=tmp_path / "file")
    with pytest.raises(OSError, match="file"):
        Spool(store.url).append(adoption())


@pytest.mark.slow
def test_stores_do_not_get_each_other_s(folder: Path, store: Store, tmp_path: Path) -> None:
    killed_writer(store)
    with Store(str(tmp_path / "other.db")) as other:
        assert deliver(other) == 0
    assert deliver(store) == 3


# The way into the store


@pytest.fixture
def patience(monkeypatch: pytest.MonkeyPatch) -> float:
    """The seconds that a store which hangs is waited for; a busy machine takes a second for a write by itself."""
    monkeypatch.setattr("o9.mirror.spooling_writer.PATIENCE_SECONDS", 2.0)
    return 2.0


def test_while_something_waits_the_new_goes_behind_it(
    folder: Path, store: Store, patience: float, wait_until: Callable[..., Any]
) -> None:
    """A store that hangs: the first write waits a little, those behind it not at all, and the order holds."""
    writer = SpoolingWriter(store.url, lambda: store)

    async def write(*operations: Any) -> float:
        began = time.monotonic()
        for operation in operations:
            await writer.write(operation)
        return time.monotonic() - began

    asyncio.run(write(adoption(), state_of(0)))
    other = sqlite3.connect(store.url, isolation_level=None)
    other.execute("BEGIN IMMEDIATE")
    assert asyncio.run(write(state_of(1))) >= patience
    behind = [state_of(number) for number in range(2, 30)]
    assert asyncio.run(write(*behind)) < patience * len(behind) / 2
    assert recorded(store) == ["s0"]
    other.execute("COMMIT")
    other.close()
    wait_until(lambda: not writer.is_away)
    asyncio.run(write(state_of(30)))
    assert recorded(store) == [f"s{number}" for number in range(31)]
    assert list(folder.iterdir()) == []


def test_a_store_that_cannot_be_opened_yet(
    folder: Path, store_url: str, tmp_path: Path, wait_until: Callable[..., Any]
) -> None:
    missing = tmp_path / "mount" / "store.db"
    writer = SpoolingWriter(str(missing), lambda: Store(str(missing)))

    async def write(*operations: Any) -> None:
        for operation in operations:
            await writer.write(operation)

    asyncio.run(write(adoption(), state_of(0), state_of(1)))
    assert writer.is_away
    missing.parent.mkdir()
    wait_until(lambda: not writer.is_away)
    asyncio.run(write(state_of(2)))
    with Store(str(missing)) as store:
        assert recorded(store) == ["s0", "s1", "s2"]


def test_one_that_is_refused_does_not_keep_the_others_waiting(
    folder: Path, store: Store, patience: float, wait_until: Callable[..., Any]
) -> None:
    writer = SpoolingWriter(store.url, lambda: store)

    async def write(*operations: Any) -> None:
        for operation in operations:
            await writer.write(operation)

    asyncio.run(write(adoption()))
    with contextlib.closing(sqlite3.connect(store.url)) as connection:
        connection.execute(NOT_THIS_ONE)
        asyncio.run(write(state_of(0), state_of(1)))
        wait_until(lambda: not writer.is_away)
        asyncio.run(write(state_of(2)))
        assert recorded(store) == ["s1", "s2"]
    assert [json.loads(line)["state"]["state_id"] for line in lines_kept(folder)] == ["s0"]


def test_at_the_end_a_last_try(folder: Path, store: Store, patience: float) -> None:
    writer = SpoolingWriter(store.url, lambda: store)
    other = sqlite3.connect(store.url, isolation_level=None)
    other.execute("BEGIN IMMEDIATE")
    asyncio.run(writer.write(adoption()))
    other.execute("COMMIT")
    other.close()
    writer.close()
    assert store.read(queries.get, "run-r") is not None


def test_what_the_operation_itself_raises_reaches_the_caller(folder: Path, store: Store) -> None:
    writer = SpoolingWriter(store.url, lambda: store)
    with pytest.raises(Exception, match="no optimization 'run-r'") as raised:
        asyncio.run(writer.write(state_of(0)))
    assert not isinstance(raised.value, OptimizationStoreError)
    assert not writer.is_away


def test_a_forked_child_leaves_its_parent_s_file_alone(folder: Path, store: Store) -> None:
    spool = Spool(store.url)
    spool.append(adoption())
    child = os.fork()
    if child == 0:
        spool.disown()
        os._exit(0)
    os.waitpid(child, 0)
    assert deliver(store) == 0, "still its own"
    assert spool.deliver(store) == 1
