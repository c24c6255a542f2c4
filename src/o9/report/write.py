"""Make a report from the store, and write it to a file. Blocks.

Contract. A file is written completely or not at all, by renaming. An existing file is overwritten only if it is such a
report, or empty, and keeps its mode. A new file is for its owner alone.
"""

from __future__ import annotations

import hashlib
import os
import re
import stat
from collections.abc import Sequence
from pathlib import Path

from o9.model.errors import OptimizationError, OptimizationValidationError
from o9.model.files import private
from o9.model.optimization import utc_now
from o9.report.article import article
from o9.report.facts import read_all, read_one
from o9.report.overview import overview
from o9.report.page import GENERATOR, render
from o9.store.store import Store
from o9.text.format import count

LONGEST_NAME = 50  # characters of an id in a file's name, up to four bytes each; 255 bytes are the limit
_HEAD = 4_096  # bytes that are searched for the generator's name


def report_of(store: Store, optimization_ids: Sequence[str]) -> str:
    """The page of one optimization, or of several below each other. Raises OptimizationError for an unknown id."""
    now = utc_now()
    articles = [article(read_one(store, name), now) for name in optimization_ids]
    title = articles[0]["name"] if len(articles) == 1 else count(len(articles), "optimization")
    return render("optimizations.html", title, now, store.name, articles=articles)


def report_of_all(store: Store) -> str:
    """The page of all optimizations: counts, trends, rankings, the queue and the newest."""
    now = utc_now()
    found = read_all(store, now)
    return render("overview.html", "All optimizations", now, store.name, all=found, **overview(found))


def file_name(optimization_ids: Sequence[str], what: str = "report", ending: str = "html") -> str:
    """`o9-report-ID.html`, in letters, digits, dots and dashes. Other ids never give the same name."""
    if not optimization_ids:
        return f"o9-{what}.{ending}"
    first = optimization_ids[0]
    safe = re.sub(r"[^\w.]+", "-", first)[:LONGEST_NAME].strip("-")
    more = len(optimization_ids) - 1
    if safe != first or more:
        digest = hashlib.blake2b(
            "\0".join(optimization_ids).encode("utf-8", "surrogatepass"), digest_size=3
        ).hexdigest()
        safe = f"{safe}{f'-and-{more}-more' if more else ''}-{digest}"
    return f"o9-{what}-{safe.strip('-')}.{ending}"


def write(page: str, path: Path) -> Path:
    """Write `page` to `path`, and return the absolute path. Raises OptimizationError, which names the remedy."""
    target = path.absolute().resolve()
    problem = _why_not(target)
    if problem:
        raise OptimizationValidationError("--output", f"{path}: {problem}; name another file")
    temporary = target.with_name(f".{target.name[:LONGEST_NAME]}.{os.getpid()}.tmp")
    try:
        try:
            with open(temporary, "x", opener=private, encoding="utf-8", errors="backslashreplace") as file:
                if target.exists():
                    os.fchmod(file.fileno(), stat.S_IMODE(target.stat().st_mode))
                file.write(page)
            temporary.replace(target)
        finally:
            temporary.unlink(missing_ok=True)
    except OSError as error:
        raise OptimizationError(f"{path}: {error.strerror or error}; choose another place with --output") from error
    return target


def _why_not(target: Path) -> str:
    if not target.parent.is_dir():
        return "its folder does not exist"
    if not target.exists():
        return ""
    if target.is_dir():
        return "it is a folder"
    if not target.is_file():
        return "it is not a regular file"
    try:
        with target.open("rb") as file:
            head = file.read(_HEAD)
    except OSError as error:
        return f"it cannot be read ({error.strerror})"
    return "" if not head or GENERATOR.encode() in head else "it exists, and is not an O9 report"
