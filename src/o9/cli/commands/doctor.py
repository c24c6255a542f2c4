"""`doctor`: what is installed, reachable and misconfigured, each with a remedy.

Changes nothing. Starts nothing but the local Prefect server, where a block holds the store's URL and none answers.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import asdict
from functools import partial

from rich.text import Text

from o9.cli import failures
from o9.cli.commands import doctor_checks as checks
from o9.cli.commands.doctor_checks import Finding, Level
from o9.cli.console import emit, plain_table, results, write_json

_STYLES = {Level.OK: "green", Level.WARNING: "yellow", Level.PROBLEM: "bold red"}


def examine(url: str | None, *, as_json: bool) -> int:
    findings = list(_findings(url))
    problems = sum(finding.level is Level.PROBLEM for finding in findings)
    if as_json:
        write_json({"ok": not problems, "findings": [asdict(f) | {"level": f.level.value} for f in findings]})
        return failures.ERROR if problems else failures.DONE
    table = plain_table("", "what", "how it is")
    table.show_header = False
    for column in table.columns[:2]:
        column.no_wrap = True
    for finding in findings:
        style = _STYLES[finding.level]
        told = Text(finding.detail)
        if finding.remedy:
            told.append(f"\n→ {finding.remedy}", style="dim" if finding.level is Level.OK else style)
        table.add_row(Text(finding.level.value, style=style), finding.name, told)
    verdict = f"{problems} problem{'s' if problems > 1 else ''}" if problems else "no problem"
    emit(results(), table, Text(), Text(verdict))
    return failures.ERROR if problems else failures.DONE


def _findings(url: str | None) -> Iterator[Finding]:
    looks: dict[str, Callable[[], Iterator[Finding]]] = {
        "python": checks.python,
        "packages": checks.packages,
        "extras": checks.extras,
        "settings": partial(checks.settings_in_force, url),
        "store": partial(checks.store, url),
        "alerts": checks.alerts,
        "spool": checks.spool,
        "disk": partial(checks.disk, url),
        "prefect server": checks.prefect_server,
    }
    for name, check in looks.items():
        try:
            yield from check()
        except Exception as error:  # noqa: BLE001 - a check that fails is a finding, and must not hide the others
            yield Finding(name, Level.PROBLEM, failures.explain(error)[0])
