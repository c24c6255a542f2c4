"""Who may read what O9 writes: its owner, unless somebody widened that; in another user's folder that user."""

from __future__ import annotations

import asyncio
import os
import stat
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from command_line import O9Command, command_in, create

from o9.statistics.statistics import OptimizationStatistics
from o9.store import queries
from o9.store.store import Store

pytestmark = pytest.mark.slow
SOMEBODY, THEIR_GROUP = 54_321, 54_322
WRITTEN = {"store.db", "store.db-wal", "store.db-shm", "backup.db", "report.html", "all.csv", "all.parquet"}


@pytest.fixture(autouse=True)
def _everything_may_be_read() -> Iterator[None]:
    before = os.umask(0)
    yield
    os.umask(before)


@pytest.fixture
def write_all(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> Callable[[], dict[str, os.stat_result]]:
    """Makes all that O9 writes, in `tmp_path`; answers with what each file is while the store is open."""
    pytest.importorskip("pandas")
    pytest.importorskip("pyarrow")
    o9: O9Command = command_in(tmp_path, capsys, monkeypatch)

    def write() -> dict[str, os.stat_result]:
        with Store("store.db") as store:
            create(store, f"a{store.read(queries.last_change)}")
            for arguments in (["db", "backup", "backup.db"], ["report", "-o", "report.html"]):
                answer = o9(*arguments, "--store", "store.db")
                assert answer.code == 0, answer.err
            for path in ("all.csv", "all.parquet"):
                asyncio.run(OptimizationStatistics(store=store).export(path, "optimizations"))
            return {path.name: path.stat() for path in Path().iterdir()}

    return write


def modes(found: dict[str, os.stat_result]) -> dict[str, int]:
    return {name: stat.S_IMODE(each.st_mode) for name, each in found.items()}


def test_a_new_file_is_for_its_owner_alone(write_all: Callable[[], dict[str, os.stat_result]]) -> None:
    assert modes(write_all()) == dict.fromkeys(WRITTEN, 0o600)


def test_a_mode_that_somebody_chose_is_kept(write_all: Callable[[], dict[str, os.stat_result]]) -> None:
    write_all()
    Path("backup.db").unlink()
    for path in Path().iterdir():
        path.chmod(0o660)
    assert modes(write_all()) == dict.fromkeys(WRITTEN, 0o660) | {"backup.db": 0o600}


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can write as somebody else")
def test_what_root_writes_in_somebodys_folder_is_theirs(
    write_all: Callable[[], dict[str, os.stat_result]], tmp_path: Path
) -> None:
    os.chown(tmp_path, SOMEBODY, THEIR_GROUP)
    found = write_all()
    assert {name: (each.st_uid, each.st_gid) for name, each in found.items()} == dict.fromkeys(
        WRITTEN, (SOMEBODY, THEIR_GROUP)
    )
    assert modes(found) == dict.fromkeys(WRITTEN, 0o600)


@pytest.mark.skipif(os.geteuid() != 0, reason="only root gives files away")
def test_a_file_behind_a_link_is_not_given_away(tmp_path: Path) -> None:
    """Else whoever owns the folder could have any file given to them."""
    folder, elsewhere = tmp_path / "folder", tmp_path / "elsewhere"
    folder.mkdir()
    elsewhere.mkdir()
    (folder / "store.db").symlink_to(elsewhere / "store.db")
    os.chown(folder, SOMEBODY, THEIR_GROUP)
    Store(str(folder / "store.db")).close()
    made = (elsewhere / "store.db").stat()
    assert (made.st_uid, stat.S_IMODE(made.st_mode)) == (0, 0o600)
