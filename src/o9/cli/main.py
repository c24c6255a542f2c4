"""The command `o9`: what can be typed, and what each command answers to the shell.

Contract. `main` returns the exit code: 0 done; 1 an error; 2 wrong usage; 3 the optimization ended otherwise than
completed; 130 interrupted. An error is one line on stderr, `o9: …`, that says what to do; `--debug` adds the
traceback. Results go to stdout, progress and messages to stderr. Each command imports what it needs when it runs:
help needs nothing but typer, and reading commands never import Prefect.
"""

from __future__ import annotations

import sys
from functools import cache
from pathlib import Path
from typing import Annotated, Any

import typer

from o9.cli import failures
from o9.cli.alerts import alerts
from o9.cli.judging import add_judging
from o9.cli.options import (
    WAIT_SECONDS,
    Debug,
    Id,
    Ids,
    Json,
    Limit,
    MaxConcurrent,
    StoreUrl,
    Wait,
    days_above_zero,
)
from o9.model.states import OptimizationStatus, OptimizationType

app = typer.Typer(
    name="o9",
    help="Optimizations of trading strategies, run by Prefect, with a record that no crash can take away.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,  # typer's own rich pages cost 0.15 s of imports, half of what help may take
    context_settings={"help_option_names": ["-h", "--help"]},
)
database = typer.Typer(help="Upgrade, check, back up or prune the store.", no_args_is_help=True, rich_markup_mode=None)


def main(arguments: list[str] | None = None) -> int:
    """Run one command line (None: the process's own) and return its exit code."""
    typed = sys.argv[1:] if arguments is None else arguments
    for stream in (sys.stdout, sys.stderr):
        if hasattr(stream, "reconfigure"):
            stream.reconfigure(errors="replace")  # a name in Chinese must not fail in a terminal without UTF-8
    failures.debug = False
    try:
        code = _command()(with_wait_spelled_out(typed), prog_name="o9", standalone_mode=False)
        if sys.stdout is not None:  # closed by who called
            sys.stdout.flush()
        return code if isinstance(code, int) else 0
    except BaseException as error:  # noqa: BLE001 - the outermost boundary: every error becomes a line and a code
        return failures.report(error)


@cache
def _command() -> Any:
    return typer.main.get_command(app)


def with_wait_spelled_out(typed: list[str]) -> list[str]:
    """`--wait` alone means `--wait=60`: typer knows no option whose value may be left out."""
    if typed[:1] == ["placebo"]:  # whose --wait has no value
        return typed
    end = typed.index("--") if "--" in typed else len(typed)
    following = dict(zip(range(end), [*typed[1:end], ""], strict=False))
    alone = {i for i in range(end) if typed[i] == "--wait" and not _is_number(following[i])}
    return [f"--wait={WAIT_SECONDS}" if i in alone else word for i, word in enumerate(typed)]


def _is_number(text: str) -> bool:
    try:
        float(text)
    except ValueError:
        return False
    return True


def _print_version(asked: bool) -> None:
    if asked:
        print(_version_line())
        raise typer.Exit


def _version_line() -> str:
    from o9.cli.versions import installed

    found = installed()
    return f"o9 {found['o9']} (Prefect {found['prefect']}, Python {found['python']})"


@app.callback()
def options(
    version: Annotated[
        bool, typer.Option("--version", callback=_print_version, is_eager=True, help="Print the version.")
    ] = False,
) -> None: ...


@app.command()
def demo(
    seed: Annotated[int, typer.Option("--seed", help="The same seed gives the same trials.")] = 7,
    small: Annotated[bool, typer.Option("--small", help="A few trials each: seconds instead of a minute.")] = False,
    store: StoreUrl = None,
    debug: Debug = False,
) -> int:
    """Optimize four strategies on real S&P 500 prices.

    Side by side, each with live progress, then what may be believed of each. Needs the extra [quant].
    """
    from o9.cli.commands.demo import demonstrate

    return demonstrate(store, seed=seed, small=small)


@app.command()
def run(
    targets: Annotated[
        list[str], typer.Argument(metavar="FILE.yaml", help="What to optimize; - reads stdin. With --resume: ids.")
    ],
    resume: Annotated[
        bool, typer.Option("--resume", help="Go on with paused or interrupted optimizations, given by id.")
    ] = False,
    max_concurrent: MaxConcurrent = 10,
    store: StoreUrl = None,
    debug: Debug = False,
) -> int:
    """Run what a file describes, with progress.

    Submits it, shows its progress, waits for its end, and says what may be believed of the result. The file holds one
    optimization or a list of them, with the fields that `o9 show ID --json` prints. A first Ctrl-C pauses what runs
    and says how to go on; a second one leaves at once.
    """
    from o9.cli.commands.run import resume_optimizations, run_files

    if resume:
        return resume_optimizations(targets, store, max_concurrent)
    return run_files(targets, store, max_concurrent)


@app.command()
def submit(
    files: Annotated[list[str], typer.Argument(metavar="FILE.yaml", help="What to optimize; - reads stdin.")],
    hold: Annotated[bool, typer.Option("--hold", help="Do not queue it before `o9 start`.")] = False,
    store: StoreUrl = None,
    debug: Debug = False,
) -> int:
    """Record what a file describes, to be run later.

    Whichever aggregator runs next on that store takes it.
    """
    from o9.cli.commands.submit import submit_files

    return submit_files(files, store, hold=hold)


@app.command()
def serve(max_concurrent: MaxConcurrent = 10, store: StoreUrl = None, debug: Debug = False) -> int:
    """Run what is queued, and the scheduled flows, until Ctrl-C; answer requests over HTTP.

    Also what is submitted from elsewhere. Several may serve one store: the limit counts over all of them, and each
    scheduled run is claimed by one of them, once in its interval. Ctrl-C and SIGTERM end it in good order: what runs
    then waits for the next start. HTTP listens on O9_API_HOST and O9_API_PORT, 127.0.0.1 and 8420 unless set; a
    second one on the same machine needs another port, or 0 for one that is free.
    """
    from o9.cli.commands.serve import serve as serve_store

    return serve_store(store, max_concurrent)


@app.command("open")
def open_(
    optimization_id: Annotated[str | None, typer.Argument(metavar="ID", help="Its flow run; none: the start.")] = None,
    browser: Annotated[bool, typer.Option(help="Open a browser, beside printing the address.")] = True,
    store: StoreUrl = None,
    debug: Debug = False,
) -> int:
    """Open Prefect's pages in a browser.

    Those of the server that Prefect's settings name, else of the local server, already let in: the address that is
    printed is a file that only you can read. Where no local server runs, one runs until Ctrl-C.
    """
    from o9.cli.commands.open import open_pages

    return open_pages(store, optimization_id, browser=browser)


@app.command("list")
def list_(
    status: Annotated[OptimizationStatus | None, typer.Option("--status", help="Only those that are so.")] = None,
    kind: Annotated[OptimizationType | None, typer.Option("--type", help="Only those of this type.")] = None,
    everything: Annotated[bool, typer.Option("--all", help="Placebo runs too.")] = False,
    limit: Limit = None,
    store: StoreUrl = None,
    json: Json = False,
    debug: Debug = False,
) -> int:
    """List optimizations, newest first.

    The newest 50, unless --limit or --json.
    """
    from o9.cli.commands.inspect import list_optimizations

    return list_optimizations(store, status, kind, limit, as_json=json, placebos=everything)


@app.command()
def show(optimization_id: Id, store: StoreUrl = None, json: Json = False, debug: Debug = False) -> int:
    """Show one optimization and its history."""
    from o9.cli.commands.inspect import show_optimization

    return show_optimization(store, optimization_id, as_json=json)


@app.command()
def trials(
    optimization_id: Id, limit: Limit = None, store: StoreUrl = None, json: Json = False, debug: Debug = False
) -> int:
    """Show what was tried, the best marked.

    The last 20 trials and the best, unless --limit or --json.
    """
    from o9.cli.commands.inspect import show_trials

    return show_trials(store, optimization_id, limit, as_json=json)


@app.command()
def logs(
    optimization_id: Id,
    trial: Annotated[int | None, typer.Option("--trial", min=0, metavar="N", help="Of this trial alone.")] = None,
    store: StoreUrl = None,
    json: Json = False,
    debug: Debug = False,
) -> int:
    """Show what its objective printed and logged.

    Of each trial the first 64 KiB are kept, of an optimization 16 MiB.
    """
    from o9.cli.session.logs import print_logs

    return print_logs(store, optimization_id, trial, as_json=json)


@app.command()
def watch(
    optimization_id: Annotated[
        str | None, typer.Argument(metavar="ID", help="An optimization's id; none: follow all of them.")
    ] = None,
    store: StoreUrl = None,
    json: Json = False,
    debug: Debug = False,
) -> int:
    """Follow an optimization until it ends, or all of them.

    Whichever process runs it. Exits 3 if it did not complete. Without ID, --json prints a document for each change, on
    a line of its own.
    """
    from o9.cli.commands.watch import watch_all, watch_optimization

    return (
        watch_all(store, as_json=json)
        if optimization_id is None
        else watch_optimization(store, optimization_id, as_json=json)
    )


add_judging(app)


@app.command()
def pause(ids: Ids, wait: Wait = None, store: StoreUrl = None, json: Json = False, debug: Debug = False) -> int:
    """Finish the step that runs, and free the slot."""
    return _control("pause", ids, wait, store, json)


@app.command()
def resume(ids: Ids, wait: Wait = None, store: StoreUrl = None, json: Json = False, debug: Debug = False) -> int:
    """Queue again what is paused.

    It goes on behind its last committed step.
    """
    return _control("resume", ids, wait, store, json)


@app.command()
def cancel(ids: Ids, wait: Wait = None, store: StoreUrl = None, json: Json = False, debug: Debug = False) -> int:
    """Cut off at once, for good; the best so far is kept."""
    return _control("cancel", ids, wait, store, json)


@app.command()
def start(ids: Ids, wait: Wait = None, store: StoreUrl = None, json: Json = False, debug: Debug = False) -> int:
    """Queue what was recorded and held back."""
    return _control("start", ids, wait, store, json)


def _control(verb: str, ids: list[str], wait: float | None, store: str | None, json: bool) -> int:
    from o9.cli.commands.control import control
    from o9.lifecycle.control import Verb

    return control(store, ids, Verb(verb), wait_seconds=wait, as_json=json)


@app.command()
def retry(
    optimization_id: Id,
    from_step: Annotated[
        int | None,
        typer.Option("--from-step", min=0, metavar="N", help="Begin behind its step N; 0: from the beginning."),
    ] = None,
    new_id: Annotated[str | None, typer.Option("--id", metavar="NEW", help="The new optimization's id.")] = None,
    store: StoreUrl = None,
    json: Json = False,
    debug: Debug = False,
) -> int:
    """Run one that has ended once more, as a new optimization.

    It keeps the seed, and the trials up to step N. N is by default the last step committed, but for steps at the end of
    which every trial failed; 0 if it completed.
    """
    from o9.cli.commands.retry import retry_optimization

    return retry_optimization(store, optimization_id, from_step=from_step, new_id=new_id, as_json=json)


@database.command()
def upgrade(store: StoreUrl = None, json: Json = False, debug: Debug = False) -> int:
    """Bring the store to this release's schema."""
    from o9.cli.commands.db import upgrade_store

    return upgrade_store(store, as_json=json)


@database.command()
def check(store: StoreUrl = None, json: Json = False, debug: Debug = False) -> int:
    """Look for damage. Exits 1 if there is any."""
    from o9.cli.commands.db import check_store

    return check_store(store, as_json=json)


@database.command()
def backup(
    path: Annotated[Path, typer.Argument(metavar="PATH", help="The new file.")],
    store: StoreUrl = None,
    json: Json = False,
    debug: Debug = False,
) -> int:
    """Copy the store into a new file, while it is in use."""
    from o9.cli.commands.db import backup_store

    return backup_store(store, path, as_json=json)


@database.command()
def prune(
    older_than: Annotated[
        float | None,
        typer.Option(
            "--older-than",
            metavar="DAYS",
            callback=days_above_zero,
            help="Delete what ended so many days ago or earlier.  [env: O9_RETENTION_DAYS]",
        ),
    ] = None,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Only say what would be deleted.")] = False,
    yes: Annotated[bool, typer.Option("--yes", "-y", help="Do not ask.")] = False,
    vacuum: Annotated[
        bool, typer.Option("--vacuum", help="Give the space back to the disk; SQLite, and everybody waits meanwhile.")
    ] = False,
    store: StoreUrl = None,
    json: Json = False,
    debug: Debug = False,
) -> int:
    """Delete what ended long ago, for good.

    Optimizations with everything of theirs; counts, statistics and the number of trials in a family stay. Says what
    that is before it asks, on a terminal. Others may write meanwhile.
    """
    from o9.cli.commands.prune import prune_store

    return prune_store(store, older_than, dry_run=dry_run, yes=yes, vacuum=vacuum, as_json=json)


app.add_typer(alerts, name="alerts")
app.add_typer(database, name="db")


@app.command()
def doctor(store: StoreUrl = None, json: Json = False, debug: Debug = False) -> int:
    """Say what is wrong here, and what to do about it.

    What is installed, reachable and misconfigured. Changes nothing; exits 1 on a problem.
    """
    from o9.cli.commands.doctor import examine

    return examine(store, as_json=json)


@app.command()
def version(json: Json = False, debug: Debug = False) -> int:
    """Print the version."""
    from o9.cli.console import write_json
    from o9.cli.versions import installed

    if json:
        write_json(installed())
    else:
        print(_version_line())
    return 0


if __name__ == "__main__":
    sys.exit(main())
