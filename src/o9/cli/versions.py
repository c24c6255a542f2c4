"""Which releases are installed and which O9 requires, read without importing them."""

from __future__ import annotations

from collections.abc import Iterator
from importlib.metadata import PackageNotFoundError, requires, version

from packaging.requirements import Requirement

DISTRIBUTION = "prefect-o9"
# By extra: the main distribution that it installs, and what needs that.
EXTRAS = {
    "quant": ("skfolio", "`o9 demo`"), "postgres": ("psycopg", "a store in PostgreSQL"),
    "gp": ("torch", "the sampler gp"), "parquet": ("pyarrow", "`o9 export -o FILE.parquet`"),
}  # fmt: skip


def release_of(distribution: str) -> str | None:
    """Return the installed release; None if there is none."""
    try:
        return version(distribution)
    except PackageNotFoundError:
        return None


def needed() -> Iterator[Requirement]:
    """Yield what O9 requires, without its extras."""
    for requirement in map(Requirement, requires(DISTRIBUTION) or ()):
        if requirement.marker is None:
            yield requirement


def install_command(extra: str) -> str:
    return f"pip install '{DISTRIBUTION}[{extra}]'"
