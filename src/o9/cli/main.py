"""The command `o9`: its commands and its exit codes.

Contract. `main` returns the exit code: 0 done; 1 an error; 2 wrong usage; 3 an optimization did not complete, or its
health is critical; 130 interrupted. An error is one line on stderr, `o9: …`, that says what to do; `--verbose` adds the
traceback. Results go to stdout, progress and remarks to stderr, where `--quiet` suppresses them. The list of commands
needs only typer: the module of a command is imported when the command is typed. Reading never imports Prefect.
"""

from __future__ import annotations

import inspect
import os
import platform
import sys
from collections.abc import Mapping, MutableMapping
from functools import cache
from importlib import import_module
from itertools import groupby
from typing import Annotated, Any, NamedTuple

import typer
from typer.core import TyperCommand, TyperGroup

from o9.cli import failures


class Entry(NamedTuple):
    """A command: its summary, and its `module:function`, whose docstring completes the help; or a group of commands."""

    summary: str
    of: str | Mapping[str, Any]


COMMANDS: Mapping[str, Mapping[str, Entry]] = {
    "Run": {
        "demo": Entry("Optimize four strategies on real S&P 500 prices.", "demo:demo"),
        "init": Entry("Write an example objective and run file.", "init:init"),
        "run": Entry("Run the optimizations of a file, with progress.", "run:run"),
        "submit": Entry("Record the optimizations of a file to run them later.", "submit:submit"),
        "start": Entry("Queue optimizations that were submitted with --hold.", "control:start"),
        "pause": Entry("Pause optimizations once their running step is committed.", "control:pause"),
        "resume": Entry("Queue paused optimizations again, or run them here.", "control:resume"),
        "cancel": Entry("Cancel optimizations at once, and keep the best so far.", "control:cancel"),
        "retry": Entry("Run an ended optimization again as a new one.", "control:retry"),
    },
    "Inspect": {
        "list": Entry("List optimizations.", "inspect:list_"),
        "show": Entry("Show one optimization and its history.", "inspect:show"),
        "trials": Entry("Show the trials of an optimization.", "inspect:trials"),
        "logs": Entry("Show what an objective printed and logged.", "inspect:logs"),
        "watch": Entry("Follow one optimization until it ends, or all of them.", "watch:watch"),
        "stats": Entry("Show statistics over all optimizations.", "stats:stats"),
        "trends": Entry("Show trends over time.", "stats:trends"),
        "rankings": Entry("Rank optimizations by a metric.", "stats:rankings"),
        "export": Entry("Write a table of the record as CSV or Parquet.", "stats:export"),
    },
    "Judge": {
        "health": Entry("Judge whether a result can be trusted.", "judge:health"),
        "placebo": Entry("Run the same search on data without an edge.", "judge:placebo"),
        "report": Entry("Write a report as a single HTML file.", "judge:report"),
    },
    "Operate": {
        "serve": Entry("Run queued optimizations and serve HTTP until Ctrl-C.", "serve:serve"),
        "alerts": Entry(
            "List, acknowledge, silence and configure alerts.",
            {
                "list": Entry("List firing alerts, newest first.", "alerts.list:list_"),
                "show": Entry("Show one alert, with its notifications.", "alerts.list:show"),
                "ack": Entry("Acknowledge alerts.", "alerts.respond:ack"),
                "resolve": Entry("Resolve alerts.", "alerts.respond:resolve"),
                "history": Entry("List notifications, and why others were suppressed.", "alerts.list:history"),
                "silence": Entry(
                    "Silence alerts for a while.",
                    {
                        "add": Entry("Silence alerts that match all matchers.", "alerts.respond:add"),
                        "list": Entry("List active and future silences.", "alerts.respond:list_"),
                        "expire": Entry("End silences early.", "alerts.respond:expire"),
                    },
                ),
                "config": Entry(
                    "Check and try out a configuration.",
                    {
                        "check": Entry("Show what a configuration means, or list its faults.", "alerts.config:check"),
                        "simulate": Entry("Simulate alerts without sending anything.", "alerts.config:simulate"),
                        "test": Entry("Send a test message through a channel.", "alerts.test:send_test"),
                    },
                ),
            },
        ),
        "db": Entry(
            "Upgrade, check, back up or prune the store.",
            {
                "upgrade": Entry("Upgrade the store to this release's schema.", "db:upgrade"),
                "check": Entry("Check the store for damage; exit 1 if there is any.", "db:check"),
                "backup": Entry("Copy the store to a new file, even while it is in use.", "db:backup"),
                "prune": Entry("Delete old optimizations and alerts permanently.", "db:prune"),
            },
        ),
        "schedule": Entry(
            "Manage the schedules of deployments.",
            {
                "list": Entry("List recurring optimizations, with their next runs.", "schedule:list_"),
                "create": Entry("Add a schedule to a deployment.", "schedule:create"),
                "pause": Entry("Pause the schedules of a deployment.", "schedule:pause"),
                "resume": Entry("Resume the schedules of a deployment.", "schedule:resume"),
                "delete": Entry("Delete the schedules of a deployment.", "schedule:delete"),
            },
        ),
        "deploy": Entry("Deploy all flows, or one recurring optimization.", "deploy:deploy_"),
        "open": Entry("Open Prefect's UI in a browser.", "open:open_"),
        "doctor": Entry("Check the installation and suggest remedies.", "doctor:doctor"),
    },
}
COMPLETION = "_O9_COMPLETE"  # set by the shell that asks for completions


def main(arguments: list[str] | None = None) -> int:
    """Run one command line (None: the process's own) and return its exit code."""
    for stream in (sys.stdout, sys.stderr):
        if hasattr(stream, "reconfigure"):
            stream.reconfigure(errors="replace")  # a name in Chinese must not fail in a terminal without UTF-8
    failures.verbose = failures.quiet = False
    try:
        code = root()(arguments, prog_name="o9", standalone_mode=False)
        if sys.stdout is not None:  # None if the caller closed it
            sys.stdout.flush()
        return code if isinstance(code, int) else 0
    except BaseException as error:  # noqa: BLE001 - the outermost boundary: every error becomes a line and a code
        if isinstance(error, SystemExit) and COMPLETION in os.environ:
            return int(error.code or 0)
        return failures.report(error)


@cache
def root() -> TyperGroup:
    """The command `o9` itself."""
    group = typer.main.get_command(app)
    assert isinstance(group, TyperGroup)
    for panel, commands in COMMANDS.items():
        _add(group, commands, panel)
    return group


def _add(group: TyperGroup, commands: Mapping[str, Entry], panel: str = "Commands") -> None:
    for name, (summary, of) in commands.items():
        shown: Any = {"name": name, "help": summary, "rich_markup_mode": None, "rich_help_panel": panel}
        if isinstance(of, str):
            group.add_command(LazyCommand(of, **shown))
        else:
            several = HelpGroup(no_args_is_help=True, **shown)
            _add(several, of)
            group.add_command(several)


class HelpGroup(TyperGroup):
    """Lists commands under the names of their panels, without the 0.15 s that importing rich's help pages costs."""

    def format_commands(self, ctx: Any, formatter: Any) -> None:
        width = max(map(len, self.commands))
        for panel, commands in groupby(self.commands.items(), lambda item: getattr(item[1], "rich_help_panel", None)):
            with formatter.section(panel):
                formatter.write_dl([(name.ljust(width), command.help) for name, command in commands])


class HelpCommand(TyperCommand):
    """Shows arguments by their names, without Python's types, and without braces around required ones."""

    def collect_usage_pieces(self, ctx: Any) -> list[str]:
        return [piece.replace("{", "").replace("}", "") for piece in super().collect_usage_pieces(ctx)]

    def format_options(self, ctx: Any, formatter: Any) -> None:
        found: MutableMapping[str, list[tuple[str, str]]] = {"argument": [], "option": []}
        for parameter in self.get_params(ctx):
            if (record := parameter.get_help_record(ctx)) is not None:
                kind = parameter.param_type_name
                found[kind].append((parameter.metavar or record[0], record[1]) if kind == "argument" else record)
        for kind, rows in found.items():
            if rows:
                with formatter.section(f"{kind.capitalize()}s"):
                    formatter.write_dl(rows)


class LazyCommand(TyperCommand):
    """Stands for a command until it is typed, or its options are needed."""

    def __init__(self, function: str, **shown: Any) -> None:
        super().__init__(**shown)
        self._function = function

    def make_context(self, info_name: str | None, args: list[str], parent: Any = None, **extra: Any) -> Any:
        return self._loaded().make_context(info_name, args, parent, **extra)

    def _loaded(self) -> Any:
        module, _, name = self._function.partition(":")
        function = getattr(import_module(f"o9.cli.commands.{module}"), name)
        alone = typer.Typer(rich_markup_mode=None, add_completion=False)
        details = inspect.getdoc(function) or ""
        alone.command(self.name, cls=HelpCommand, help=f"{self.help}\n\n{details}".strip())(function)
        command = typer.main.get_command(alone)
        command.params += [each for each in root().params if each.name in ("quiet", "verbose")]
        return command


app = typer.Typer(
    name="o9",
    cls=HelpGroup,
    help="Optimize trading strategies on Prefect, with a record that survives any crash.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
    context_settings={"help_option_names": ["-h", "--help"]},
)


def _set_quiet(value: bool) -> None:
    failures.quiet |= value


def _set_verbose(value: bool) -> None:
    failures.verbose |= value


def _print_version(asked: bool) -> None:
    if asked:
        from o9.cli.versions import DISTRIBUTION, release_of

        print(f"o9 {release_of(DISTRIBUTION)} (Prefect {release_of('prefect')}, Python {platform.python_version()})")
        raise typer.Exit


@app.callback()
def options(
    version: Annotated[
        bool, typer.Option("--version", callback=_print_version, is_eager=True, help="Print the version.")
    ] = False,
    quiet: Annotated[
        bool,
        typer.Option("--quiet", "-q", callback=_set_quiet, expose_value=False, help="Print only results and errors."),
    ] = False,
    verbose: Annotated[
        bool,
        typer.Option(
            "--verbose", "-v", callback=_set_verbose, expose_value=False, help="Show debug logs and tracebacks."
        ),
    ] = False,
) -> None: ...


if __name__ == "__main__":
    sys.exit(main())
