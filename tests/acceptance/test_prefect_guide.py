"""The guide to Prefect's UI, walked through in a real browser with a wheel, a real server and a worker."""

from __future__ import annotations

import re
import shutil
import subprocess
import sys
from pathlib import Path

import o9_testing
import pytest

DOCS = Path(__file__).parents[2] / "docs"
GUIDE = (DOCS / "prefect-guide.md").read_text(encoding="utf-8")
MISSING = [
    package
    for package, program in (("chromium", "chromium"), ("chromium-driver", "chromedriver"))
    if not shutil.which(program)
]


def shown() -> list[str]:
    """The pictures that the guide shows."""
    return re.findall(r"\]\(images/(\S+\.png)\)", GUIDE)


def test_the_pictures_are_there_and_small() -> None:
    there = {path.name: path.stat().st_size for path in (DOCS / "images").iterdir()}
    assert sorted(there) == sorted(shown())
    assert max(there.values()) < 120_000
    assert sum(there.values()) < 1_000_000


@pytest.mark.long  # ten minutes
@pytest.mark.xdist_group("browser")
@pytest.mark.skipif(bool(MISSING), reason=f"on Debian: apt-get install {' '.join(MISSING)}")
def test_a_reader_gets_there(tmp_path: Path) -> None:
    with o9_testing.no_process_left(60) as environment:
        command = [sys.executable, str(DOCS / "screenshots.py"), str(o9_testing.wheel()), str(tmp_path / "images")]
        done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    assert sorted(path.name for path in (tmp_path / "images").iterdir()) == sorted(shown())
