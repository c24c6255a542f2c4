"""What can be typed about alerts: `o9 alerts …`. Each command imports what it needs when it runs."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from o9.cli.options import Debug, Json, Limit, StoreUrl
from o9.model.states import AlertLevel

MOST_OF_HISTORY = 1_000

alerts = typer.Typer(
    help="List, acknowledge, silence and configure alerts.", no_args_is_help=True, rich_markup_mode=None
)
silence = typer.Typer(help="Silence alerts for a while.", no_args_is_help=True, rich_markup_mode=None)
config = typer.Typer(help="Check and try out a configuration of alerts.", no_args_is_help=True, rich_markup_mode=None)
alerts.add_typer(silence, name="silence")
alerts.add_typer(config, name="config")


def _file(text: str) -> Path:
    """An empty text would be the folder that one is in."""
    if not text.strip():
        raise typer.BadParameter("no file is named")
    return Path(text)


AlertIds = Annotated[list[str], typer.Argument(metavar="ID", help="Ids of alerts, as `o9 alerts list` shows them.")]
By = Annotated[str | None, typer.Option("--by", metavar="NAME", help="Name of the person.  [default: you]")]
ConfigFile = Annotated[
    Path | None,
    typer.Option(
        "--config",
        parser=_file,
        metavar="FILE",
        help="The alerts' configuration.  [env: O9_ALERTS_FILE; default: the built-in one]",
    ),
]


@alerts.command("list")
def list_(
    level: Annotated[AlertLevel | None, typer.Option("--level", case_sensitive=False, help="Filter by level.")] = None,
    optimization: Annotated[
        str | None, typer.Option("--optimization", metavar="ID", help="Filter by optimization.")
    ] = None,
    everything: Annotated[bool, typer.Option("--all", help="Include resolved alerts.")] = False,
    resolved: Annotated[bool, typer.Option("--resolved", help="List resolved alerts only.")] = False,
    limit: Limit = None,
    store: StoreUrl = None,
    json: Json = False,
    debug: Debug = False,
) -> int:
    """List firing alerts, newest first.

    Shows who was notified of each, or why not. The newest 50, unless --limit or --json.
    """
    from o9.cli.commands.alerts.list import list_alerts

    if everything and resolved:
        raise typer.BadParameter("--all includes what --resolved lists: give one of them")
    return list_alerts(store, level, optimization, limit, everything=everything, resolved=resolved, as_json=json)


@alerts.command()
def show(
    alert_id: Annotated[str, typer.Argument(metavar="ID", help="An alert's id, as `o9 alerts list` shows it.")],
    store: StoreUrl = None,
    json: Json = False,
    debug: Debug = False,
) -> int:
    """Show one alert: who was notified when, and why others were not."""
    from o9.cli.commands.alerts.list import show_alert

    return show_alert(store, alert_id, as_json=json)


@alerts.command()
def ack(ids: AlertIds, by: By = None, store: StoreUrl = None, json: Json = False, debug: Debug = False) -> int:
    """Acknowledge alerts.

    An acknowledged alert is neither repeated nor escalated.
    """
    from o9.cli.commands.alerts.respond import acknowledge_alerts

    return acknowledge_alerts(store, ids, by, as_json=json)


@alerts.command()
def resolve(ids: AlertIds, by: By = None, store: StoreUrl = None, json: Json = False, debug: Debug = False) -> int:
    """Resolve alerts."""
    from o9.cli.commands.alerts.respond import resolve_alerts

    return resolve_alerts(store, ids, by, as_json=json)


@alerts.command()
def history(
    limit: Annotated[
        int | None, typer.Option("--limit", "-n", min=1, max=MOST_OF_HISTORY, metavar="N", help="At most N entries.")
    ] = None,
    store: StoreUrl = None,
    json: Json = False,
    debug: Debug = False,
) -> int:
    """List notifications, and why others were suppressed.

    Newest first: the newest 50, or 1000 with --json, unless --limit.
    """
    from o9.cli.commands.alerts.list import show_history

    return show_history(store, limit, as_json=json)


@silence.command()
def add(
    matchers: Annotated[
        list[str], typer.Argument(metavar="MATCHER", help="""Such as 'title="Drawdown"' or 'level=~"info|warning"'.""")
    ],
    lasts: Annotated[str, typer.Option("--for", metavar="TIME", help="How long: 90s, 30m, 2h, 1d12h.")],
    begins: Annotated[
        str | None,
        typer.Option("--from", metavar="TIME", help="Start, in local time: '2026-01-31 18:00'.  [default: now]"),
    ] = None,
    comment: Annotated[str, typer.Option("--comment", metavar="TEXT", help="Reason.")] = "",
    by: By = None,
    store: StoreUrl = None,
    json: Json = False,
    debug: Debug = False,
) -> int:
    """Silence alerts that match all matchers.

    Matchers are Alertmanager's: = != =~ !~ on labels; the case of a level does not matter. Prints the silence's id, and
    the firing alerts that it matches. Refuses matchers that no alert can match, and warns of unknown labels and rules.
    """
    from o9.cli.commands.alerts.respond import silence_alerts

    return silence_alerts(store, matchers, lasts, begins, comment=comment, by=by, as_json=json)


@silence.command("list")
def list_silences(store: StoreUrl = None, json: Json = False, debug: Debug = False) -> int:
    """List active and future silences."""
    from o9.cli.commands.alerts.list import show_silences

    return show_silences(store, as_json=json)


@silence.command()
def expire(
    ids: Annotated[
        list[str], typer.Argument(metavar="ID", help="Ids of silences, as `o9 alerts silence list` shows them.")
    ],
    by: By = None,
    store: StoreUrl = None,
    json: Json = False,
    debug: Debug = False,
) -> int:
    """End silences early."""
    from o9.cli.commands.alerts.respond import expire_silences

    return expire_silences(store, ids, by, as_json=json)


@config.command()
def check(
    file: Annotated[Path, typer.Argument(parser=_file, metavar="FILE", help="The alerts' configuration.")],
    json: Json = False,
    debug: Debug = False,
) -> int:
    """Show what a configuration means, or all its faults.

    Each fault (of the first hundred) has its line, its field and the remedy; exits 1 if there is any. Warns of likely
    mistakes: unknown labels, rules and channels, and routes that no alert reaches.
    """
    from o9.cli.commands.alerts.config import check_file

    return check_file(file, as_json=json)


@config.command()
def simulate(
    script: Annotated[Path, typer.Argument(parser=_file, metavar="FILE", help="What happens when: `happens`, a list.")],
    config: ConfigFile = None,
    json: Json = False,
    debug: Debug = False,
) -> int:
    """Simulate alerts: who would be notified of what, and why others would not.

    Prints a timeline at once, and sends nothing. An entry of FILE is such as {at: 90s, fires: {title: Drawdown, level:
    critical}}; besides fires there are resolved, acknowledged, silence and suppress. What cannot happen is refused: an
    end of an alert that never fired, a time outside the script's.
    """
    from o9.cli.commands.alerts.config import simulate_file

    return simulate_file(script, config, as_json=json)


@config.command("test")
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
    """Send a test message through a channel.

    Shows whether it was sent; exits 1 if not. Only the host of an address is shown. Of a receiver all channels are
    tried; one that a program registers is skipped, since it can only be tried there.
    """
    from o9.cli.commands.alerts.test import try_channel

    return try_channel(channel, config, as_json=json)
