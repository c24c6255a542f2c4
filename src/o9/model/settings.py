"""Settings: arguments override the environment (`O9_…`), which overrides a `.env` file."""

from __future__ import annotations

import os
import re
import socket
from functools import cache
from typing import Annotated, Literal
from urllib.parse import quote

from pydantic import Field, ValidationError, field_validator
from pydantic_settings import BaseSettings, NoDecode, SettingsConfigDict

from o9.model.errors import Faults, OptimizationValidationError
from o9.model.faults import refusal_of

DEFAULT_STORE = "optimization_state.db"
DEFAULT_RATE_LIMIT = "100/minute"
STORE_BLOCK = "block:"  # before the name of a Prefect block that holds the URL


_ADDRESS = re.compile(r"https?://[\w.:\[\]-]+(/[\w.~%/-]*)?", re.ASCII)


class Settings(BaseSettings):
    """All settings; the environment variable of each field is `O9_` and its name in capitals."""

    model_config = SettingsConfigDict(env_prefix="O9_", env_file=".env", extra="ignore")

    store_url: str = Field(  # may hold a password
        DEFAULT_STORE, description="a path, sqlite:///…, postgresql://… or block:NAME", repr=False
    )
    store_durability: Literal["process", "power"] = Field(
        "process",
        description="what an acknowledged write in SQLite survives: any process's death, or also a power cut",
    )
    allowed_imports: Annotated[tuple[str, ...], NoDecode] = Field(
        (),
        description="module prefixes, separated by commas, that may be named; empty: none by requests, any by commands",
    )
    task_runner: str = Field(
        "",
        description="the import path of a Prefect task runner on which trials are evaluated, such as "
        "prefect_dask:DaskTaskRunner; empty: this machine",
    )
    lease_seconds: float = Field(
        30.0, ge=1.0, le=86_400.0, description="how long a lease lasts; it is renewed every third of that"
    )
    memory_reserve_mib: float = Field(
        128.0, ge=0.0, allow_inf_nan=False, description="MiB of memory to keep free by suspending; 0: none"
    )
    disk_reserve_mib: float = Field(
        128.0, ge=0.0, allow_inf_nan=False, description="MiB of disk to keep free by suspending; 0: none"
    )
    node_id: str = Field(
        default_factory=lambda: f"{socket.gethostname()}:{os.getpid()}", description="this node's name"
    )
    retention_days: float = Field(
        0.0,
        ge=0.0,
        allow_inf_nan=False,
        description="the days for which pruning keeps an optimization that has ended; 0: for ever",
    )
    spool_folder: str = Field(
        "~/.local/state/o9/spool", description="where states of Prefect wait while the store is unavailable"
    )
    api_host: str = Field("127.0.0.1", description="the loopback address or name that `o9 serve` listens on")
    api_port: int = Field(8420, ge=0, le=65535, description="the port that `o9 serve` listens on; 0: any free port")
    public_url: str = Field(
        "",
        description="the address of `o9 serve` for links to reports, such as https://o9.desk.example; empty: no links",
    )
    api_rate_limit: str = Field(
        DEFAULT_RATE_LIMIT, description="the requests that each client may send; separate several limits by ;"
    )
    alerts_file: str = Field("", description="a YAML file that says who is notified of which alerts, and when")
    alerts_log: str = Field("~/.local/state/o9/alerts.log", description="where the alerts' channel `file` writes")
    log_level: Literal["DEBUG", "INFO", "WARNING", "ERROR", "CRITICAL"] = Field(
        "INFO", description="the lowest level that is logged"
    )
    log_format: Literal["text", "json"] = Field("text", description="json gives one object a line")

    @field_validator("allowed_imports", mode="before")
    @classmethod
    def _split(cls, value: object) -> object:
        return tuple(part.strip() for part in value.split(",") if part.strip()) if isinstance(value, str) else value

    @field_validator("api_rate_limit")
    @classmethod
    def _rate_limit(cls, value: str) -> str:
        return value if value == DEFAULT_RATE_LIMIT else checked_rate_limit(value)

    @field_validator("public_url")
    @classmethod
    def _address(cls, value: str) -> str:
        if value and not _ADDRESS.fullmatch(value):
            raise ValueError("expected an address such as https://o9.desk.example, without a password and a query")
        return value.rstrip("/")

    @field_validator("log_level", mode="before")
    @classmethod
    def _upper(cls, value: object) -> object:
        return value.upper() if isinstance(value, str) else value


def checked_rate_limit(text: str) -> str:
    """Return `text`; raise ValueError if it is not in the notation of the library `limits`."""
    from limits import parse_many  # here, since few programs need it

    try:
        parse_many(text)
    except (TypeError, ValueError):
        raise ValueError(f"{text!r:.80} is not a limit such as 100/minute or 10/second;1000/hour") from None
    return text


@cache
def settings() -> Settings:
    """The settings of this process, read once; `settings.cache_clear()` makes the next call read them again.

    Raises OptimizationValidationError that names the variables.
    """
    try:
        return Settings()
    except ValidationError as refused:
        errors = refused.errors()
    given = {error["loc"][0]: error["input"] for error in errors}
    faults = Faults()
    for fault in refusal_of(errors, Settings, given).faults:
        name = f"O9_{fault.field.partition('.')[0].partition('[')[0]}".upper()
        faults.add(OptimizationValidationError(name, f"{fault.problem} (correct it in the environment or in .env)"))
    raise faults.refusal()


def report_page(optimization_id: str) -> str:
    """The address of the optimization's report; empty if O9_PUBLIC_URL is not set."""
    root = settings().public_url
    return f"{root}/api/v1/optimizations/{quote(optimization_id, safe='')}/report" if root else ""
