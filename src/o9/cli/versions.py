"""Which releases are installed, and whether they are those that O9 declares; without importing any of them."""

from __future__ import annotations

from collections.abc import Iterator
from importlib.metadata import PackageNotFoundError, requires, version

from packaging.requirements import Requirement

DISTRIBUTION = "prefect-o9"
# Of an extra the distribution that it brings first of all, and what needs it.
EXTRAS = {
    "quant": ("skfolio", "`o9 demo`"), "postgres": ("psycopg", "a store in PostgreSQL"),
    "gp": ("torch", "the sampler gp"), "parquet": ("pyarrow", "`o9 export -o FILE.parquet`"),
}  # fmt: skip


def release_of(distribution: str) -> str | None:
    """None where it is not installed."""
    try:
        return version(distribution)
    except PackageNotFoundError:
        return None


def needed() -> Iterator[Requirement]:
    """What O9 declares to need, without its extras."""
    for requirement in map(Requirement, requires(DISTRIBUTION) or ()):
        if requirement.marker is None:
            yield requirement


def install_command(extra: str) -> str:
    return f"pip install '{DISTRIBUTION}[{extra}]'"
