"""The API reference: every name that users import is documented, and the pages can be built."""

from __future__ import annotations

import inspect
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import zygote

import OptimizationStateAggregator as public

ROOT = Path(__file__).parents[2]


def members(thing: Any) -> Iterator[tuple[str, Any]]:
    """Methods and properties that O9 itself defines, inherited ones too."""
    for name, member in inspect.getmembers(thing) if inspect.isclass(thing) else ():
        function = member.fget if isinstance(member, property) else member
        if not name.startswith("_") and inspect.isfunction(function) and function.__module__.startswith("o9."):
            yield name, function


@pytest.mark.parametrize("name", public.__all__)
def test_every_public_name_and_its_methods_say_what_they_are(name: str) -> None:
    thing = getattr(public, name)
    assert (thing.__doc__ or "").strip()
    # What a data class or an enum gets by itself says nothing.
    assert not thing.__doc__.startswith((f"{name}(", "An enumeration", "Create a collection of name/value pairs"))
    silent = [each for each, function in members(thing) if not inspect.getdoc(function)]
    assert silent == []


def test_the_reference_is_built(tmp_path: Path) -> None:
    pytest.importorskip("pdoc", reason="pdoc is not installed: pip install 'prefect-o9[dev]'")
    done = zygote.run([str(ROOT / "docs" / "reference.py"), str(tmp_path)], cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    page = (tmp_path / "OptimizationStateAggregator.html").read_text(encoding="utf-8")
    assert [name for name in public.__all__ if f'id="{name}"' not in page] == []
    # Where the names are defined is no matter: what is documented there is here.
    assert "AlertNotificationSystem.register_alert_rule" in page
    assert (tmp_path / "index.html").is_file()
    assert "mirror_states" in (tmp_path / "o9" / "flows" / "mirror.html").read_text(encoding="utf-8")
