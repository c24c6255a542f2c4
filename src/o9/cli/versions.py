"""Which releases are installed, without importing any of them."""

from __future__ import annotations

import platform
from importlib.metadata import PackageNotFoundError, version

DISTRIBUTION = "prefect-o9"
# An extra, and the distribution that it brings first of all.
EXTRAS = {"quant": "skfolio", "postgres": "psycopg", "gp": "torch", "parquet": "pyarrow"}
NEEDED = ("prefect", "sqlalchemy", "optuna", "fastapi", "apprise", "typer", "rich")


def installed() -> dict[str, str | None]:
    """Versions by name: o9, python, and what O9 stands on; None where it is not installed."""
    return {"o9": release_of(DISTRIBUTION), "python": platform.python_version()} | {
        name: release_of(name) for name in (*NEEDED, *EXTRAS.values())
    }


def release_of(distribution: str) -> str | None:
    try:
        return version(distribution)
    except PackageNotFoundError:
        return None


def install_command(extra: str) -> str:
    return f"pip install '{DISTRIBUTION}[{extra}]'"
