"""What is installed is what is here: a wheel built from a clean copy, and everything imported from it.

And what a user does: an empty environment of each supported Python, the wheel installed with all that it depends on,
and a first optimization. That needs the package registry: O9_LONG_TESTS=1.
"""

import json
import os
import subprocess
import sys
import tomllib
import venv
from collections.abc import Collection
from pathlib import Path

import o9_testing
import pytest

ROOT = Path(__file__).parents[2]
pytestmark = pytest.mark.xdist_group("wheel")


PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
PYTHONS = ("3.11", "3.12", "3.13")
FIRST_RUN = """
import asyncio
from datetime import datetime

from OptimizationStateAggregator import (
    OptimizationPriority, OptimizationState, OptimizationStateAggregator, OptimizationStatus, OptimizationType,
    objective,
)


@objective("bowl", search_space={"x": {"type": "float", "low": -1.0, "high": 1.0}})
def bowl(parameters):
    return -parameters["x"] ** 2


async def main():
    now = datetime.now()
    state = OptimizationState(
        "first", "a first one", "", OptimizationType.PARAMETER_TUNING, OptimizationStatus.CREATED,
        OptimizationPriority.NORMAL, now, now, total_steps=3, metadata={"objective": "bowl", "seed": 7},
    )
    async with OptimizationStateAggregator(monitoring_interval=0.1) as aggregator:
        await aggregator.submit_optimization(state)
        while (state := await aggregator.get_optimization_status("first")).completed_at is None:
            await asyncio.sleep(0.05)
    print(state.status.value, state.progress, state.current_performance > -1.0)


if __name__ == "__main__":
    asyncio.run(main())
"""


@pytest.fixture(scope="module")
def wheel() -> Path:
    return o9_testing.wheel()


@pytest.fixture(scope="module")
def installed(wheel: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The Python of an environment that holds the wheel, and sees the libraries of this one."""
    environment = tmp_path_factory.mktemp("environment")
    venv.create(environment)
    python = environment / "bin" / "python"
    pip = [sys.executable, "-m", "pip", "--python", str(python)]
    subprocess.run([*pip, "install", "-q", "--no-deps", str(wheel)], check=True, timeout=300)
    (site,) = (environment / "lib").glob("python*/site-packages")
    here = [entry for entry in sys.path if entry.endswith("site-packages")]
    # Only the folders themselves: their .pth files, and with them the editable install, are not followed.
    (site / "libraries.pth").write_text("\n".join([*here, ""]), encoding="utf-8")
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


def imports_everything(without: Collection[str] = ()) -> str:
    """A program that imports every module, each from the environment it runs in; `without` those of an extra."""
    return (
        "import importlib, pathlib, sys\n"
        f"for name in {[name for name in modules_here() if name not in without]!r}:\n"
        "    module = importlib.import_module(name)\n"
        "    where = pathlib.Path(module.__file__)\n"
        "    assert where.is_relative_to(sys.prefix), (name, where)\n"
    )


def test_everything_is_imported_from_the_wheel(installed: Path, tmp_path: Path) -> None:
    done = subprocess.run(
        [str(installed), "-c", imports_everything()],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        check=False,
        timeout=120,
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
        [str(installed.with_name("o9")), "--version"], cwd=tmp_path, capture_output=True, text=True, check=True
    )
    assert "0.1.0" in told.stdout
    program = (
        "from importlib.metadata import entry_points\n"
        "(found,) = entry_points(group='prefect.collections', name='o9')\n"
        "print(found.load().AggregatorStore.get_block_type_slug())\n"
    )
    told = subprocess.run([str(installed), "-c", program], cwd=tmp_path, capture_output=True, text=True, check=True)
    assert told.stdout.strip() == "o9-aggregator-store"


# An empty environment


def python_of(version: str) -> Path | None:
    """A Python of this version that starts and makes environments: on the PATH, or among pyenv's."""
    folders = [Path(entry) for entry in os.environ.get("PATH", "").split(os.pathsep) if entry]
    if root := os.environ.get("PYENV_ROOT"):
        folders += sorted(Path(root).glob(f"versions/{version}*/bin"))
    program = "import ensurepip, sys, venv; print(*sys.version_info[:2], sep='.')"
    for path in (folder / f"python{version}" for folder in folders):
        if path.is_file():  # pyenv's shims are there for each version, and start none that is not chosen
            told = subprocess.run([str(path), "-c", program], capture_output=True, text=True, check=False, timeout=60)
            if told.returncode == 0 and told.stdout.strip() == version:
                return path
    return None


def test_the_pythons_are_those_that_the_package_says_it_supports() -> None:
    assert PROJECT["requires-python"] == f">={PYTHONS[0]},<3.{int(PYTHONS[-1].partition('.')[2]) + 1}"


@pytest.mark.long
@pytest.mark.parametrize("version", PYTHONS)
def test_the_wheel_runs_a_first_optimization_in_an_empty_environment(wheel: Path, tmp_path: Path, version: str) -> None:
    python = python_of(version)
    if python is None:
        pytest.skip(f"no Python {version} with venv; on Debian: apt-get install python{version}-venv")
    others = ("PYTHON", "PREFECT_", "O9_", "VIRTUAL")
    clean = {name: value for name, value in os.environ.items() if not name.startswith(others)}
    clean |= {"PREFECT_HOME": str(tmp_path / "prefect"), "O9_SPOOL_FOLDER": str(tmp_path / "spool")}
    desk = tmp_path / "desk"
    desk.mkdir()

    def run(*command: str | Path, seconds: float = 600.0) -> str:
        told = subprocess.run(
            [str(part) for part in command], cwd=desk, env=clean, capture_output=True, text=True, check=False,
            timeout=seconds,
        )  # fmt: skip
        assert told.returncode == 0, (command, told.stdout, told.stderr)
        return told.stdout

    run(python, "-m", "venv", tmp_path / "environment")
    own, o9 = (tmp_path / "environment" / "bin" / name for name in ("python", "o9"))
    assert len(json.loads(run(own, "-m", "pip", "list", "--format=json"))) <= 2, "the environment was to be empty"
    run(own, "-m", "pip", "install", "-q", wheel, seconds=1800.0)
    run(own, "-m", "pip", "check")

    shown = run(o9, "--version")
    assert f"o9 {PROJECT['version']}" in shown
    assert f"Python {version}." in shown
    assert json.loads(run(o9, "doctor", "--json"))["ok"] is True
    run(own, "-c", imports_everything(without=["o9.store.core.postgres"]))
    (desk / "first.py").write_text(FIRST_RUN, encoding="utf-8")
    assert run(own, "first.py").split() == ["completed", "1.0", "True"]
    (listed,) = json.loads(run(o9, "list", "--json"))
    assert (listed["optimization_id"], listed["status"]) == ("first", "completed")
    assert [trial["step"] for trial in json.loads(run(o9, "trials", "first", "--json"))] == [0, 1, 2]
