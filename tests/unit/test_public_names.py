"""The import name: every name that users know is there, and an objective's module stays cheap to load."""

import subprocess
import sys
from importlib.metadata import version

import pytest

import OptimizationStateAggregator as public


def test_every_name_is_there_and_listed_once() -> None:
    assert sorted(public._HOME_OF) == sorted(public.__all__)
    for name in public.__all__:
        assert getattr(public, name).__name__ == name


def test_it_says_its_version() -> None:
    assert public.__version__ == version("prefect-o9")


@pytest.mark.slow
def test_an_objective_s_module_does_not_load_prefect() -> None:
    program = (
        "import sys\n"
        "from OptimizationStateAggregator import Evaluation, objective\n"
        "print(sorted({'prefect', 'sqlalchemy', 'optuna', 'fastapi', 'numpy'} & set(sys.modules)))\n"
    )
    told = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True).stdout
    assert told.strip() == "[]"
