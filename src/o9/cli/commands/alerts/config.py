"""`alerts config check` and `simulate`: what a configuration means, and what it would do. Nothing is sent.

Contract. A file with faults is answered with all of them, each with its line, and the exit code 1; likely mistakes are
warnings beside what the file means. Apprise is imported only if the file has addresses, which nothing else can check.
Of an address only the host is printed.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import asdict, replace
from pathlib import Path
from typing import Annotated, Any

import typer

from o9.cli.failures import DONE, ERROR, help_only
from o9.cli.options import Json
from o9.model.errors import OptimizationValidationError

if not help_only:
    from rich.table import Table
    from rich.text import Text

    from o9.alerts.channels.redaction import redacted
    from o9.alerts.config.schema import Configuration, Read, load, read, read_file
    from o9.alerts.pipeline.alert import Alert, Notice
    from o9.alerts.pipeline.groups import Suppression
    from o9.alerts.pipeline.simulation import Script, TimelineEntry, columns, load_script
    from o9.alerts.pipeline.simulation import simulate as entries_of
    from o9.cli.console import complain, say, show, write_json, write_json_list
    from o9.cli.views.alert_config import configuration_view
    from o9.config.document import FAULTS_SHOWN, DocumentError, Fault
    from o9.model.settings import settings
    from o9.text.format import count


_STYLES = {"→": "bold", "✗": "yellow"}


ConfigFile = Annotated[
    Path | None,
    typer.Option(
        "--config",
        metavar="FILE",
        help="Configuration of alerts.  [env: O9_ALERTS_FILE; default: built in]",
    ),
]


def check(
    file: Annotated[Path, typer.Argument(metavar="FILE", help="Configuration of alerts.")],
    json: Json = False,
) -> int:
    """Prints each fault, up to a hundred, with its line, its field and the remedy, and exits 1 if there is any. Warns
    of likely mistakes: unknown labels, rules and channels, routes that no alert reaches, conditions that never hold.
    """
    found, faults = _read(read_file(file), file)
    warnings = _harmless(() if found is None else found.warnings)
    if json:
        found_in = {"faults": [asdict(each) for each in faults], "warnings": [asdict(each) for each in warnings]}
        write_json({"file": str(file), "valid": not faults, **found_in})
        return ERROR if faults else DONE
    if found is not None:
        show(*configuration_view(found.configuration))
        for each in warnings:
            complain(f"{file}:{each.line}: warning: {each.field}: {each.problem}")
        return DONE
    for each in faults[:FAULTS_SHOWN]:
        field = f"{each.field}: " if each.field else ""
        show(f"{file}:{each.line}: {field}{each.problem}")
    cut = f"; these are the first {FAULTS_SHOWN}, --json has all" if len(faults) > FAULTS_SHOWN else ""
    complain(f"{file} has {count(len(faults), 'fault')}{cut}")
    return ERROR


def faults_of(path: Path) -> int:
    """Return the number of faults. Raises OptimizationError if the file cannot be read."""
    return len(_read(read_file(path), path)[1])


def simulate(
    script: Annotated[Path, typer.Argument(metavar="FILE", help="Script: a list of events under `happens`.")],
    config: ConfigFile = None,
    json: Json = False,
) -> None:
    """Prints a timeline of who would be notified of what, and why others would not. An entry of FILE looks like {at:
    90s, fires: {title: Drawdown, level: critical}}; besides fires there are resolved, acknowledged, silence and
    suppress. Impossible entries are refused: the end of an alert that never fired, a time outside the script's.
    """
    try:
        configuration = configuration_in(config)
        played = load_script(read_file(script), str(script))
    except DocumentError as error:
        raise DocumentError(error.source, _harmless(error.faults)) from None
    entries = entries_of(configuration, played)
    if json:
        write_json_list(map(_document, entries))
        return
    source = config or settings().alerts_file
    found = list(entries)
    if not found:
        say("the script has no events; list them under `happens`")
        return
    show(_timeline(played, found))
    notices = sum(isinstance(entry.what, Notice) for entry in found)
    held = sum(isinstance(entry.what, Suppression) for entry in found)
    by = f"by {source}" if source else "by the built-in configuration (--config FILE uses another)"
    say(f"{by}: {count(notices, 'message')}; {count(held, 'suppression')}")


def configuration_in(path: Path | None) -> Configuration:
    """Return the configuration in `path`, else in O9_ALERTS_FILE, else the built-in one. Raises DocumentError if it has
    faults.
    """
    if path is not None:
        return load(read_file(path.expanduser()), str(path))
    named = settings().alerts_file
    return load(read_file(Path(named).expanduser()), named) if named else Configuration()


def _read(text: bytes, path: Path) -> tuple[Read | None, list[Fault]]:
    """Return what the file means, and its faults without secrets."""
    try:
        return read(text, str(path), _address_problem), []
    except DocumentError as error:
        return None, _harmless(error.faults)


def _address_problem(address: str) -> str:
    from o9.alerts.channels.registry import channel_name, channel_of

    try:
        channel_of(channel_name(address), address)
    except OptimizationValidationError as error:
        return error.problem
    return ""


def _harmless(faults: Iterable[Fault]) -> list[Fault]:
    """Redact the faults: an address with secrets may be anywhere."""
    return [replace(each, problem=redacted(each.problem) if "://" in each.problem else each.problem) for each in faults]


def _timeline(script: Script, entries: list[TimelineEntry]) -> Table:
    table = Table.grid(padding=(0, 2))
    table.add_column(no_wrap=True)
    table.add_column(overflow="fold")
    table.add_column(overflow="fold")
    for entry in entries:
        at, who, what = columns(script, entry)
        style = _STYLES.get(who[:1], "dim")
        table.add_row(Text(at.rstrip() if script.start else at), Text(who, style=style), Text(what, style=style))
    return table


def _document(entry: TimelineEntry) -> Mapping[str, Any]:
    at, what = entry.at.isoformat(), entry.what
    if isinstance(what, Notice):
        return {
            "at": at, "what": "notified", "receiver": what.receiver, "kind": what.kind.value, "reason": what.reason,
            "group_labels": dict(what.group_labels), "firing": [dict(alert.labels) for alert in what.firing],
            "resolved": [dict(alert.labels) for alert in what.resolved],
        }  # fmt: skip
    if isinstance(what, Suppression):
        return {
            "at": at, "what": "suppressed", "receiver": what.receiver, "reason": what.decision.reason.value,
            "by": what.decision.by, "alert": dict(what.alert.labels),
        }  # fmt: skip
    happened: dict[str, Any] = {"at": at, "what": what.what, "by": what.author}
    if isinstance(what.alert, Alert):
        happened["alert"] = dict(what.alert.labels)
    if what.silence is not None:
        happened |= {"silence": str(what.silence), "until": what.silence.ends_at.isoformat()}
    return happened
