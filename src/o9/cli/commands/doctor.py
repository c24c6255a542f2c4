"""`doctor`: check what is installed, reachable and configured, and suggest remedies.

Contract. Each check yields findings, changes nothing and shows no secret. Nothing is started, except the local Prefect
server if a block holds the store's URL and no server answers. A check that fails is a finding, and the others still
run.
"""

from __future__ import annotations

import os
import platform
import shlex
import shutil
import sys
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from enum import Enum
from functools import partial
from pathlib import Path

from o9.cli import failures
from o9.cli.options import Json, StoreUrl
from o9.model.states import ACTIVE

if not failures.help_only:
    from packaging.requirements import Requirement
    from rich.table import Column, Table
    from rich.text import Text
    from sqlalchemy.exc import DBAPIError, NoSuchModuleError

    from o9.cli.console import show, write_json
    from o9.cli.open_store import option_for, revision_of, size_of, sqlite_path, store_url
    from o9.cli.session.follow import nodes_of, status_counts, why_idle
    from o9.cli.versions import DISTRIBUTION, EXTRAS, install_command, needed, release_of
    from o9.cli.views.words import command
    from o9.mirror.spool import SUFFIX, refused, spool_folder
    from o9.model.settings import STORE_BLOCK, Settings, settings
    from o9.model.urls import public_url
    from o9.store import queries
    from o9.store.core.engine import describe, parse_url, store_error
    from o9.store.migrations import HEAD, REVISIONS
    from o9.store.store import Store
    from o9.text.escape import one_line, shortened, shown
    from o9.text.format import count
    from o9.text.suggest import did_you_mean, near


LOW_DISK_BYTES, VERY_LOW_DISK_BYTES = 2**30, 100 * 2**20
SHOWN = frozenset({"prefect", "sqlalchemy", "optuna"})  # packages whose releases are always printed


class Level(str, Enum):
    OK = "ok"
    WARNING = "warning"
    PROBLEM = "problem"


_STYLES = {Level.OK: "green", Level.WARNING: "yellow", Level.PROBLEM: "bold red"}


@dataclass(frozen=True)
class DoctorFinding:
    """One line: what was checked, the result, and the remedy."""

    name: str
    level: Level
    detail: str
    remedy: str = ""


def doctor(store: StoreUrl = None, json: Json = False) -> int:
    """Checks what is installed, reachable and configured, and changes nothing. Exits 1 if there is a problem."""
    findings = list(_findings(store))
    problems = sum(finding.level is Level.PROBLEM for finding in findings)
    if json:
        write_json({"ok": not problems, "findings": [asdict(finding) for finding in findings]})
        return failures.ERROR if problems else failures.DONE
    table = Table.grid(Column(no_wrap=True), Column(no_wrap=True), "", padding=(0, 2))
    for finding in findings:
        style = _STYLES[finding.level]
        detail = Text(finding.detail)
        if finding.remedy:
            detail.append(f"\n→ {finding.remedy}", style="dim" if finding.level is Level.OK else style)
        table.add_row(Text(finding.level.value, style=style), finding.name, detail)
    show(table, "", count(problems, "problem") if problems else "no problems")
    return failures.ERROR if problems else failures.DONE


def _findings(url: str | None) -> Iterator[DoctorFinding]:
    checks: tuple[tuple[str, Callable[[], Iterator[DoctorFinding]]], ...] = (
        ("packages", packages),
        ("extras", extras),
        ("settings", partial(settings_in_force, url)),
        ("store", partial(store_found, url)),
        ("alerts", alerts),
        ("spool", spool),
        ("disk", partial(disk, url)),
        ("prefect server", prefect_server),
    )
    for name, check in checks:
        try:
            yield from check()
        except Exception as error:  # noqa: BLE001 - a check that fails is a finding, and must not hide the others
            yield DoctorFinding(name, Level.PROBLEM, failures.explain(error)[0])


def packages() -> Iterator[DoctorFinding]:
    release = f"{platform.python_version()} ({sys.executable})"
    yield _found("python", (3, 11) <= sys.version_info[:2] <= (3, 13), release, "use Python 3.11, 3.12 or 3.13")
    yield DoctorFinding("o9", Level.OK, release_of(DISTRIBUTION) or "not installed as a package")
    for requirement in needed():
        yield from package(requirement, release_of(requirement.name))


def package(requirement: Requirement, release: str | None) -> Iterator[DoctorFinding]:
    """Whether the installed release is one that O9 supports. One that is not in SHOWN is reported only if it is not."""
    fine = release is not None and requirement.specifier.contains(release, prereleases=True)
    if not fine or requirement.name in SHOWN:
        wanted = "" if fine else f"; O9 needs {requirement.specifier}"
        yield _found(requirement.name, fine, f"{release or 'missing'}{wanted}", f"pip install '{requirement}'")


def extras() -> Iterator[DoctorFinding]:
    for extra, (distribution, user) in EXTRAS.items():
        release = release_of(distribution)
        detail = f"{distribution} {release}" if release else f"not installed; only {user} needs it"
        yield DoctorFinding(f"extra {extra}", Level.OK, detail, "" if release else install_command(extra))


def settings_in_force(given: str | None) -> Iterator[DoctorFinding]:
    known = sorted(f"O9_{name.upper()}" for name in Settings.model_fields)
    for variable in sorted(name for name in os.environ if name.startswith("O9_") and name not in known):
        remedy = did_you_mean(near(variable, known)) or f"the settings are {', '.join(known)}"
        yield DoctorFinding(variable, Level.WARNING, "is not a setting of this release", remedy)
    in_force = settings()
    for name in [each for each in Settings.model_fields if each in in_force.model_fields_set | {"store_url"}]:
        value = getattr(in_force, name)
        text = ", ".join(value) or "none" if isinstance(value, tuple) else str(value)
        source = "set" if name in in_force.model_fields_set else "default"
        if name == "store_url":
            text = text if text.startswith(STORE_BLOCK) else describe(parse_url(text))  # without its password
            source += "; --store overrides it here" if given else ""
        yield DoctorFinding(f"O9_{name.upper()}", Level.OK, f"{text} ({source})")
    yield DoctorFinding("other settings", Level.OK, "defaults")


def store_found(given: str | None) -> Iterator[DoctorFinding]:
    url = store_url(given)
    name, path = describe(parse_url(url)), sqlite_path(url)
    if path is not None and path.is_dir():
        yield DoctorFinding("store", Level.PROBLEM, f"{path} is a folder", "give the path of a file in it")
        return
    if path is not None and (not path.exists() or path.stat().st_size == 0):
        yield DoctorFinding(
            "store", Level.OK, f"{path} does not exist yet", "`o9 demo` or `o9 run FILE.yaml` creates it"
        )
        return
    try:
        revision = revision_of(url)
    except (ModuleNotFoundError, NoSuchModuleError):
        yield DoctorFinding("store", Level.PROBLEM, f"{name} needs a driver", install_command("postgres"))
    except DBAPIError as error:
        yield DoctorFinding("store", Level.PROBLEM, one_line(str(store_error(error, parse_url(url)))))
    else:
        yield from _contents(given, name, path) if revision == HEAD else [_other_schema(name, revision)]


def alerts() -> Iterator[DoctorFinding]:
    """Whether the configuration of alerts has faults."""
    from o9.cli.commands.alerts.config import faults_of  # imports what alerts are decided by

    file = settings().alerts_file
    if not file:
        return
    faults = faults_of(Path(file).expanduser())
    detail = f"{file} has {count(faults, 'fault') if faults else 'no faults'}"
    yield _found("alerts", not faults, detail, f"`o9 alerts config check {shlex.quote(file)}` lists them")


def spool() -> Iterator[DoctorFinding]:
    """Whether the spool folder is writable, and what stores have refused."""
    yield _writable("spool folder", spool_folder().absolute(), "set O9_SPOOL_FOLDER to a folder that you may write to")
    for kept in refused():
        detail = (
            f"{kept.path} contains records that a store refused ({kept.lines}); last: {shortened(kept.reason, 400)}"
        )
        again = f"mv {shlex.quote(str(kept.path))} {shlex.quote(str(kept.path.with_suffix(SUFFIX)))}"
        yield DoctorFinding("spool", Level.WARNING, shown(detail), f"`{again}` retries it; or delete it")


def disk(given: str | None) -> Iterator[DoctorFinding]:
    """The free space and the permissions where a SQLite store is."""
    path = sqlite_path(store_url(given))
    if path is None:
        return
    folder = (path if path.is_dir() else path.absolute().parent).resolve()
    if not folder.is_dir():
        yield DoctorFinding("folder", Level.PROBLEM, f"{folder} does not exist", f"mkdir -p {folder}")
        return
    free = shutil.disk_usage(folder).free
    level = Level.PROBLEM if free < VERY_LOW_DISK_BYTES else Level.WARNING if free < LOW_DISK_BYTES else Level.OK
    remedy = "" if level is Level.OK else "free some space: on a full disk O9 stops recording, but no data is lost"
    yield DoctorFinding("disk", level, f"{free / 2**30:.1f} GiB free in {folder}", remedy)
    yield _writable("folder", folder, "make it writable, or give another store")


def prefect_server() -> Iterator[DoctorFinding]:
    from o9.cli.prefect_side import configured_server, home, local_server, problem_of_configured  # imports Prefect

    if configured := configured_server():
        problem = problem_of_configured(configured)
        yield _found(
            "prefect server", not problem, f"{public_url(configured)} {problem or 'answers'}",
            "start it (`prefect server start`), correct PREFECT_API_URL and PREFECT_API_AUTH_STRING, or unset the "
            "first (`prefect config unset PREFECT_API_URL`) to use a local one",
        )  # fmt: skip
    elif local := local_server():
        url, file = local
        remedy = f'for Prefect\'s own commands: export PREFECT_API_URL={url} PREFECT_API_AUTH_STRING="$(cat {file})"'
        yield DoctorFinding("prefect server", Level.OK, f"none is configured; the local one answers at {url}", remedy)
    else:
        yield DoctorFinding("prefect server", Level.OK, "none is configured; a local one starts when it is needed")
    yield _writable("prefect home", home(), "make it writable, or set PREFECT_HOME to another")


def _writable(name: str, folder: Path, remedy: str) -> DoctorFinding:
    there = next(place for place in (folder, *folder.parents) if place.exists())
    fine = there.is_dir() and os.access(there, os.W_OK | os.X_OK)
    return _found(name, fine, f"{folder} is {'' if fine else 'not '}writable", remedy)


def _found(name: str, fine: object, detail: str, remedy: str) -> DoctorFinding:
    """A problem with its remedy, unless it is `fine`."""
    return DoctorFinding(name, Level.OK if fine else Level.PROBLEM, detail, "" if fine else remedy)


def _other_schema(name: str, revision: str | None) -> DoctorFinding:
    known = revision is None or revision in REVISIONS
    remedy = "`o9 db upgrade`, or any command that opens it, upgrades it; run `o9 db backup` first"
    newer = "install the newer release that wrote it, or give another store"
    detail = f"{name} is at schema {revision or 'none'}, this release at {HEAD}"
    return DoctorFinding("store", Level.WARNING if known else Level.PROBLEM, detail, remedy if known else newer)


def _contents(given: str | None, name: str, path: Path | None) -> Iterator[DoctorFinding]:
    with Store(store_url(given)) as opened:
        size = size_of(path)
        space = "" if size is None else f", {size / 2**20:.1f} MiB"
        yield DoctorFinding("store", Level.OK, f"{name}: schema {HEAD}{space}; {status_counts(opened) or 'empty'}")
        nodes = nodes_of(opened)
        for status in ACTIVE:
            for state in opened.read(queries.page, queries.Filter(status=status)).items:
                one = state.optimization_id
                if problem := why_idle(status, opened.read(queries.holding, one), nodes, one):
                    again = command("resume --here", [one], option_for(given))
                    remedy = f"`{again}` continues it after the last committed step"
                    yield DoctorFinding(shown(one), Level.WARNING, f"is {status.value}, but {problem}", remedy)
