"""`alerts config test`: a test message through a channel, and whether it was sent.

Contract. Of a receiver all channels are tried; what cannot be from here is named, with the reason, and keeps nothing
from the others. Nothing that is printed holds more of an address than its scheme and host. Prefect is imported for a
block alone.
"""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from typing import Annotated, Any, NamedTuple

import typer

from o9.alerts.channels.builtin import FileChannel
from o9.alerts.channels.outcome import Channel, Failed, Sent
from o9.alerts.channels.redaction import redacted
from o9.alerts.channels.registry import built_in_channels, channel_name, channel_of
from o9.alerts.config.schema import BLOCK, BUILT_IN_CHANNELS, EVERY_CHANNEL, Configuration, Receiver, says_where
from o9.alerts.messages.render import Messages
from o9.alerts.pipeline.alert import Alert
from o9.alerts.pipeline.notice import Notice, NoticeKind
from o9.cli import failures
from o9.cli.answers import who
from o9.cli.commands.alerts.config import ConfigFile, configuration_in
from o9.cli.console import complain, show, write_json
from o9.cli.failures import DONE, ERROR
from o9.cli.options import Json
from o9.model.errors import OptimizationError
from o9.model.logs import configure_logging
from o9.model.optimization import utc_now
from o9.model.settings import settings
from o9.model.states import AlertLevel
from o9.text.format import duration
from o9.text.suggest import did_you_mean, near

TITLE = "Test of a channel"
LEFT_OUT = "left out"


class Untried(NamedTuple):
    """One of a receiver's channels; it has failed, or only a program has it."""

    name: str
    why: str
    failed: bool


class ChannelTrial(NamedTuple):
    receiver: Receiver
    channels: list[Channel]
    untried: tuple[Untried, ...] = ()


def send_test(
    channel: Annotated[
        str,
        typer.Argument(
            metavar="CHANNEL",
            help="log, console, file, an Apprise URL, block:NAME, or a channel or receiver of the configuration.",
        ),
    ],
    config: ConfigFile = None,
    json: Json = False,
) -> int:
    """Shows whether it was sent; exits 1 if not. Only the host of an address is shown. Of a receiver all channels are
    tried; one that a program registers is skipped, since it can only be tried there.
    """
    configuration = Configuration() if "://" in channel and config is None else configuration_in(config)
    configure_logging("DEBUG" if failures.verbose else "INFO")
    trial = channels_for(channel, configuration)
    outcomes = asyncio.run(_send(trial.channels, trial.receiver, configuration))
    out = [_document(tried, outcome) for tried, outcome in zip(trial.channels, outcomes, strict=True)]
    out += [_document_of(each) for each in trial.untried]
    if json:
        write_json(out)
    for each in out:
        if each["outcome"] == LEFT_OUT:
            complain(f"{each['channel']}: left out: {each['reason']}")
        elif each["outcome"] == "failed":
            complain(f"{each['channel']}: not sent: {'; '.join(filter(None, (each['reason'], each['remedy'])))}")
        elif not json:
            show(f"{each['channel']}: sent")
    return ERROR if any(each["outcome"] == "failed" for each in out) else DONE


def channels_for(name: str, configuration: Configuration) -> ChannelTrial:
    """The channels that `name` means, and whose messages they would get. Raises OptimizationError for none."""
    references = _references(configuration)
    if name in references:
        receiver, reference = references[name]
        return ChannelTrial(receiver, [_channel(reference)])
    if says_where(name):
        return ChannelTrial(Receiver(name="test", channels=(name,)), [_channel(name)])
    receiver_named = configuration.receivers.get(name)
    if receiver_named is not None:
        return _trial_of(receiver_named)
    known = [*BUILT_IN_CHANNELS, *(each for each in references if "://" not in each), *configuration.receivers]
    hint = did_you_mean(near(name, known, n=2)) or f"there are {', '.join(dict.fromkeys(known))}."
    raise OptimizationError(
        f"no channel or receiver is called {_plain(name)!r:.100}; {hint} Or give an Apprise URL; a channel that a "
        "program registers can only be tried there"
    )


def _trial_of(receiver: Receiver) -> ChannelTrial:
    mine = [each for each in receiver.channels if each != EVERY_CHANNEL]
    if EVERY_CHANNEL in receiver.channels:
        mine += [each for each in BUILT_IN_CHANNELS if each not in mine]
    if not mine:
        raise OptimizationError(f"the receiver {receiver.name!r} has no channel; give it some in `channels`")
    channels, untried = [], []
    for each in mine:
        try:
            channels.append(_channel(each))
        except OptimizationError as error:
            if len(mine) == 1:
                raise
            untried.append(Untried(channel_name(each), str(error), says_where(each)))
    if not channels:
        raise OptimizationError("; ".join(each.why for each in untried))
    return ChannelTrial(receiver, channels, tuple(untried))


def _plain(name: str) -> str:
    """A mistyped address holds secrets, too."""
    scheme, colon, _ = name.partition(":")
    return f"{scheme}:…" if colon else name


def _references(configuration: Configuration) -> dict[str, tuple[Receiver, str]]:
    """What the configuration's receivers name, by the name that others show, and by their own words.

    A channel of several receivers gets the default templates.
    """
    found: dict[str, tuple[Receiver, str]] = {}
    for receiver in configuration.receivers.values():
        for each in receiver.channels:
            if each != EVERY_CHANNEL:
                name = channel_name(each)
                one = (receiver if name not in found else Receiver(name="test", channels=(each,)), each)
                found[name] = one
                if "://" in each:
                    found[each] = one
    return found


def _channel(reference: str) -> Channel:
    """Raises OptimizationError where it is none."""
    if reference in (notifications := built_in_channels()):
        return notifications[reference]
    if reference.startswith(BLOCK):
        return channel_of(channel_name(reference), asyncio.run(_block(reference.removeprefix(BLOCK))))
    if "://" in reference:
        return channel_of(channel_name(reference), reference)
    raise OptimizationError(f"the channel {reference!r:.100} is registered by a program, and can only be tried there")


async def _block(name: str) -> Any:
    """Where the nodes would find it: with the Prefect server that is configured, else with the local one."""
    from o9.aggregator.prefect_server import ensure_prefect_server, prefect_client_settings
    from o9.blocks.alert_channel import load_block

    async with await ensure_prefect_server() as server:
        with prefect_client_settings(server):
            return await asyncio.to_thread(load_block, name)


async def _send(channels: list[Channel], receiver: Receiver, configuration: Configuration) -> list[Sent | Failed]:
    templates = {**configuration.templates, **receiver.templates}
    notice = _notice(receiver)
    message = Messages(templates, link=configuration.link).of(notice)
    return list(await asyncio.gather(*(channel.send(message, notice) for channel in channels)))


def _notice(receiver: Receiver) -> Notice:
    now = utc_now()
    alert = Alert(
        labels={"title": TITLE, "level": AlertLevel.INFO.value},
        starts_at=now,
        alert_id="test",
        optimization_id="",
        level=AlertLevel.INFO,
        title=TITLE,
        message=f"{who()} tried this channel. It works; nothing has happened, and there is nothing to do.",
    )
    reason = "a test of the channel"
    return Notice(receiver.name, "test", 1, dict(alert.labels), NoticeKind.FIRING, now, (alert,), (), reason)


def _document(channel: Channel, outcome: Sent | Failed) -> dict[str, Any]:
    out: Mapping[str, Any] = {"channel": _shown(channel)}
    if isinstance(outcome, Sent):
        return {**out, "outcome": "sent", "reason": None, "permanent": None, "remedy": None}
    return {
        **out, "outcome": "failed", "reason": redacted(outcome.reason), "permanent": outcome.permanent,
        "remedy": remedy(outcome),
    }  # fmt: skip


def _document_of(untried: Untried) -> dict[str, Any]:
    outcome = "failed" if untried.failed else LEFT_OUT
    return {
        "channel": untried.name, "outcome": outcome, "reason": redacted(untried.why), "permanent": None, "remedy": None,
    }  # fmt: skip


def remedy(failed: Failed) -> str:
    """What to do about it."""
    if failed.permanent:
        return "the service refuses it for good: correct the address, its credentials or who it is for"
    if failed.retry_after is not None:
        return f"the service asks to wait {duration(failed.retry_after)}; try it again then"
    return "check the address, its credentials, and that its host can be reached from here; then try again"


def _shown(channel: Channel) -> str:
    address = settings().alerts_log if isinstance(channel, FileChannel) else getattr(channel, "address", "")
    return f"{channel.name} ({address})" if address else channel.name
