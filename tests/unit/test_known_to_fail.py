"""Releases that do not work together: `o9 doctor` names them, and what O9 declares keeps pip from installing them."""

from __future__ import annotations

import tomllib
from pathlib import Path

import pytest
from packaging.requirements import Requirement

from o9.cli.commands.doctor import Level, known_to_fail

PROJECT = tomllib.loads((Path(__file__).parents[2] / "pyproject.toml").read_text(encoding="utf-8"))["project"]
DECLARED = {needed.name: needed.specifier for needed in map(Requirement, PROJECT["dependencies"])}
WORKS: dict[str, str | None] = {"prefect": "3.9.1", "sqlalchemy": "2.0.51", "fastapi": "0.150.0", "apprise": "1.13.1"}


@pytest.mark.parametrize(
    ("installed", "named"),
    [
        ({}, []),
        ({"prefect": "3.8.0"}, []),
        ({"sqlalchemy": "2.1.9"}, []),
        ({"prefect": "3.8.8", "sqlalchemy": "2.1.9"}, ["sqlalchemy"]),
        ({"prefect": "3.9.0", "sqlalchemy": "2.1.0b1"}, ["sqlalchemy"]),
        ({"prefect": "3.10.0", "sqlalchemy": "2.1.9"}, []),
        ({"prefect": "3.8.8", "fastapi": "0.151.0"}, ["fastapi"]),
        ({"prefect": "3.8.8", "fastapi": "1.0", "sqlalchemy": "2.2"}, ["fastapi", "sqlalchemy"]),
        ({"apprise": "2.0.0"}, ["apprise"]),
        ({"prefect": None, "sqlalchemy": None, "fastapi": None, "apprise": None}, []),
    ],
)
def test_what_is_known_to_fail_is_named_and_not_installed(installed: dict[str, str | None], named: list[str]) -> None:
    versions = WORKS | installed
    found = list(known_to_fail(versions))
    assert [(each.name, each.level) for each in found] == [(name, Level.PROBLEM) for name in named]
    for each in found:
        refused = [name for name, version in versions.items() if version and not DECLARED[name].contains(version)]
        assert each.name in refused
        assert each.remedy
