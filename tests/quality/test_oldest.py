"""The oldest Prefect and SQLAlchemy that O9 declares, in an environment of their own; all other tests have the newest.

Needs the package registry: O9_LONG_TESTS=1.
"""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
import tomllib
import venv
from pathlib import Path

import pytest
from packaging.requirements import Requirement

ROOT = Path(__file__).parents[2]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
CORE = (
    "tests/integration/test_cli_run.py::test_the_demonstration_says_the_same_of_each_strategy_everywhere",
    "tests/integration/test_schedules.py",
    "tests/integration/test_mirror_flows.py",
    "tests/integration/test_prefect_server.py",
)


def oldest(name: str) -> str:
    (needed,) = [needed for needed in map(Requirement, PROJECT["dependencies"]) if needed.name == name]
    (bound,) = [each.version for each in needed.specifier if each.operator == ">="]
    return f"{name}=={bound}"


@pytest.mark.long
def test_the_core_runs_on_the_oldest_that_is_declared() -> None:
    # Not below pytest's folder, which only root may enter: PostgreSQL's programs in it run as another user.
    with tempfile.TemporaryDirectory(prefix="o9-oldest-") as environment:
        Path(environment).chmod(0o755)
        run_core(environment)


def run_core(environment: str) -> None:
    venv.create(environment, with_pip=True)
    python = f"{environment}/bin/python"
    ours = ("PYTHON", "PREFECT_", "O9_", "PYTEST_", "TESTS_")  # the last holds a database of the newest Prefect
    clean = {name: value for name, value in os.environ.items() if not name.startswith(ours)}
    versions = [oldest("prefect"), oldest("sqlalchemy")]

    def run(*arguments: str) -> str:
        done = subprocess.run([python, *arguments], cwd=ROOT, env=clean, capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stdout + done.stderr
        return done.stdout

    run("-m", "pip", "install", "-q", "-e", ".[dev]", *versions)
    installed = run("-m", "pip", "list", "--format=freeze").lower().splitlines()
    assert set(versions) <= set(installed)
    print(run("-m", "pytest", "-q", "-p", "no:cacheprovider", *CORE), file=sys.stderr)
