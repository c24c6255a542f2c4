"""Packages that O9 cannot work with: `o9 doctor` names each, with the command that replaces it."""

from __future__ import annotations

import pytest

from o9.cli.commands.doctor import Level, package
from o9.cli.versions import needed

DECLARED = {each.name: each for each in needed()}


@pytest.mark.parametrize(
    ("name", "release", "problem"),
    [
        ("prefect", "3.8.0", False), ("prefect", None, True), ("sqlalchemy", "2.0.51", False),
        ("sqlalchemy", "2.1.0b1", True), ("fastapi", "0.151.0", True), ("apprise", "2.0.0", True),
    ],
)  # fmt: skip
def test_a_release_that_o9_does_not_declare_is_a_problem(name: str, release: str | None, problem: bool) -> None:
    (found,) = package(DECLARED[name], release)
    assert (found.name, found.level is Level.PROBLEM, bool(found.remedy)) == (name, problem, problem)


def test_what_is_fine_is_named_only_where_it_is_looked_for() -> None:
    assert list(package(DECLARED["fastapi"], "0.150.0")) == []
