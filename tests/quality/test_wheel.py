"""What is installed is what is here: a wheel built from a clean copy, and everything imported from it."""

import shutil
import subprocess
import sys
import venv
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]


@pytest.fixture(scope="module")
def installed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The Python of an environment that holds the wheel, and sees the libraries of this one."""
    folder = tmp_path_factory.mktemp("wheel")
    copy = folder / "checkout"
    files = subprocess.run(
        ["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard"],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=True,
    ).stdout.split("\0")
    for name in filter(None, files):
        source, target = ROOT / name, copy / name
        if source.is_symlink() or source.is_file():
            target.parent.mkdir(parents=True, exist_ok=True)
            shutil.copy2(source, target, follow_symlinks=False)
    subprocess.run(
        [sys.executable, "-m", "build", "--wheel", "--no-isolation", "--outdir", str(folder), str(copy)],
        check=True,
        capture_output=True,
        timeout=300,
    )
    (wheel,) = folder.glob("*.whl")
    environment = folder / "environment"
    venv.create(environment, with_pip=True)
    python = environment / "bin" / "python"
    subprocess.run([str(python), "-m", "pip", "install", "-q", "--no-deps", str(wheel)], check=True, timeout=300)
    (site,) = (environment / "lib").glob("python*/site-packages")
    here = next(Path(entry) for entry in sys.path if entry.endswith("site-packages"))
    # Only the folder itself: its .pth files, and with them the editable install, are not followed.
    (site / "libraries.pth").write_text(f"{here}\n", encoding="utf-8")
    return python


def modules_here() -> list[str]:
    """Every module of the checkout, by the name it has when installed."""
    found = ["OptimizationStateAggregator"]
    for folder, package in ((ROOT / "src" / "o9", "o9"), *((ROOT / room, f"o9.{room}") for room in ROOMS)):
        for path in folder.rglob("*.py"):
            if not any(parent.is_symlink() for parent in path.parents):
                parts = path.relative_to(folder).with_suffix("").parts
                found.append(".".join((package, *(part for part in parts if part != "__init__"))))
    return sorted(set(found) - RUN_BY_OTHERS)


ROOMS = ("flows", "tasks", "blocks")
RUN_BY_OTHERS = {"o9.store.migrations.env"}  # Alembic runs it, and only inside a migration


def test_everything_is_imported_from_the_wheel(installed: Path, tmp_path: Path) -> None:
    names = modules_here()
    program = (
        "import importlib, pathlib, sys\n"
        f"for name in {names!r}:\n"
        "    module = importlib.import_module(name)\n"
        "    where = pathlib.Path(module.__file__)\n"
        "    assert where.is_relative_to(sys.prefix), (name, where)\n"
        "print(len(sys.modules))\n"
    )
    done = subprocess.run(
        [str(installed), "-c", program], cwd=tmp_path, capture_output=True, text=True, check=False, timeout=120
    )
    assert done.returncode == 0, done.stderr


def test_the_rooms_at_the_root_are_no_packages_of_their_own(installed: Path, tmp_path: Path) -> None:
    for room in ROOMS:
        done = subprocess.run(
            [str(installed), "-c", f"import {room}"], cwd=tmp_path, capture_output=True, text=True, check=False
        )
        assert "No module named" in done.stderr


def test_the_command_and_prefect_s_collection_are_there(installed: Path, tmp_path: Path) -> None:
    told = subprocess.run(
        [str(installed.with_name("o9")), "version"], cwd=tmp_path, capture_output=True, text=True, check=True
    )
    assert "0.1.0" in told.stdout
    program = (
        "from importlib.metadata import entry_points\n"
        "(found,) = entry_points(group='prefect.collections', name='o9')\n"
        "print(found.load().AggregatorStore.get_block_type_slug())\n"
    )
    told = subprocess.run([str(installed), "-c", program], cwd=tmp_path, capture_output=True, text=True, check=True)
    assert told.stdout.strip() == "o9-aggregator-store"
