"""What can be typed about alerts: `o9 alerts …`. Each command imports what it needs when it runs."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from o9.cli.options import Debug, Json, Limit, StoreUrl
from o9.model.states import AlertLevel

MOST_OF_HISTORY = 1_000

alerts = typer.Typer(help="See, answer, silence and try out alerts.", no_args_is_help=True, rich_markup_mode=None)


def _file(text: str) -> Path:
    """An empty text would be the folder that one is in."""
    if not text.strip():
        raise typer.BadParameter("no file is named")
    return Path(text)


AlertIds = Annotated[list[str], typer.Argument(metavar="ID", help="Ids of alerts, as `o9 alerts list` shows them.")]
By = Annotated[str | None, typer.Option("--by", metavar="NAME", help="Who says so; you, unless told.")]
ConfigFile = Annotated[
    Path | None,
    typer.Option(
        "--config",
        parser=_file,
        metavar="FILE",
        help="The alerts' configuration.  [env: O9_ALERTS_FILE; default: O9's own]",
    ),
]


@alerts.command("list")
def list_(
    level: Annotated[
        AlertLevel | None, typer.Option("--level", case_sensitive=False, help="Only those of this level.")
    ] = None,
    optimization: Annotated[
        str | None, typer.Option("--optimization", metavar="ID", help="Only those about this optimization.")
    ] = None,
    everything: Annotated[bool, typer.Option("--all", help="Also what is over.")] = False,
    resolved: Annotated[bool, typer.Option("--resolved", help="Only what is over.")] = False,
    limit: Limit = None,
    store: StoreUrl = None,
    json: Json = False,
    debug: Debug = False,
) -> int:
    """List what fires, newest first.

    With who was told, or why not. The newest 50, unless --limit or --json.
    """
    from o9.cli.alert_reading import list_alerts

    if everything and resolved:
        raise typer.BadParameter("--all has what --resolved has, and what fires: give one of them")
    return list_alerts(store, level, optimization, limit, everything=everything, resolved=resolved, as_json=json)


@alerts.command()
def show(
    alert_id: Annotated[str, typer.Argument(metavar="ID", help="An alert's id, as `o9 alerts list` shows it.")],
    store: StoreUrl = None,
    json: Json = False,
    debug: Debug = False,
) -> int:
    """Show one alert: who was told when, and why somebody was not."""
    from o9.cli.alert_reading import show_alert

    return show_alert(store, alert_id, as_json=json)


@alerts.command()
def ack(ids: AlertIds, by: By = None, store: StoreUrl = None, json: Json = False, debug: Debug = False) -> int:
    """Say that you see to it.

    Nobody is reminded of it any more, and it is not escalated.
    """
    from o9.cli.alert_asking import acknowledge_alerts

    return acknowledge_alerts(store, ids, by, as_json=json)


@alerts.command()
def resolve(ids: AlertIds, by: By = None, store: StoreUrl = None, json: Json = False, debug: Debug = False) -> int:
    """Say that it is over."""
    from o9.cli.alert_asking import resolve_alerts

    return resolve_alerts(store, ids, by, as_json=json)


@alerts.command()
def silence(
    matchers: Annotated[
        list[str], typer.Argument(metavar="MATCHER", help="""Such as 'title="Drawdown"' or 'level=~"info|warning"'.""")
    ],
    lasts: Annotated[str, typer.Option("--for", metavar="TIME", help="How long: 90s, 30m, 2h, 1d12h.")],
    begins: Annotated[
        str | None,
        typer.Option(
            "--from", metavar="MOMENT", help="Since when, in local time: '2026-01-31 18:00'; now, unless told."
        ),
    ] = None,
    comment: Annotated[str, typer.Option("--comment", metavar="TEXT", help="Why.")] = "",
    by: By = None,
    store: StoreUrl = None,
    json: Json = False,
    debug: Debug = False,
) -> int:
    """Tell nobody of what fits all matchers, for a while.

    They are Alertmanager's: = != =~ !~ on labels; a level in any case. Prints the silence's id, and says what that
    fires now it fits. Refuses what no alert can have, and warns of labels and rules that none had so far.
    """
    from o9.cli.alert_asking import silence_alerts

    return silence_alerts(store, matchers, lasts, begins, comment=comment, by=by, as_json=json)


@alerts.command()
def silences(store: StoreUrl = None, json: Json = False, debug: Debug = False) -> int:
    """List the silences that hold, or will."""
    from o9.cli.alert_reading import show_silences

    return show_silences(store, as_json=json)


@alerts.command()
def expire(
    ids: Annotated[
        list[str], typer.Argument(metavar="ID", help="Ids of silences, as `o9 alerts silences` shows them.")
    ],
    by: By = None,
    store: StoreUrl = None,
    json: Json = False,
    debug: Debug = False,
) -> int:
    """End silences before their time."""
    from o9.cli.alert_asking import expire_silences

    return expire_silences(store, ids, by, as_json=json)


@alerts.command()
def history(
    limit: Annotated[
        int | None, typer.Option("--limit", "-n", min=1, max=MOST_OF_HISTORY, metavar="N", help="At most so many.")
    ] = None,
    store: StoreUrl = None,
    json: Json = False,
    debug: Debug = False,
) -> int:
    """List what was sent, and what was not and why.

    Newest first: the newest 50, or 1000 with --json, unless --limit.
    """
    from o9.cli.alert_reading import show_history

    return show_history(store, limit, as_json=json)


@alerts.command("test")
def try_(
    channel: Annotated[
        str,
        typer.Argument(
            metavar="CHANNEL",
            help="log, console, file, an Apprise URL, block:NAME, or a channel or receiver of the configuration.",
        ),
    ],
    config: ConfigFile = None,
    json: Json = False,
    debug: Debug = False,
) -> int:
    """Send a test message, really.

    Says what became of it; exits 1 if it was not sent. Of an address only the host is shown. Of a receiver all channels
    are tried; one that a program registers can only be tried there: it is named as left out, and is no failure.
    """
    from o9.cli.alert_sending import try_channel

    return try_channel(channel, config, as_json=json)


@alerts.command()
def check(
    file: Annotated[Path, typer.Argument(parser=_file, metavar="FILE", help="The alerts' configuration.")],
    json: Json = False,
    debug: Debug = False,
) -> int:
    """Say what a configuration means, or all its faults.

    Each fault (of the first hundred) with its line, its field and the remedy; exits 1 if there is any. Warns of what is
    likely a mistake: labels, rules and channels that nothing known has, routes that no alert gets to.
    """
    from o9.cli.alert_files import check_file

    return check_file(file, as_json=json)


@alerts.command()
def simulate(
    script: Annotated[Path, typer.Argument(parser=_file, metavar="FILE", help="What happens when: `happens`, a list.")],
    config: ConfigFile = None,
    json: Json = False,
    debug: Debug = False,
) -> int:
    """Play alerts, and say who would be told what, and why not.

    A timeline, at once and without sending anything. An entry of FILE is such as {at: 90s, fires: {title: Drawdown,
    level: critical}}; beside fires there are resolved, acknowledged, silence and suppress. What could not happen is
    refused: an end of what never fired, a time outside of the script's.
    """
    from o9.cli.alert_files import simulate_file

    return simulate_file(script, config, as_json=json)
