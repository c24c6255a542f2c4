"""`alerts config test`: send a test message through a channel, and say whether it was sent.

Contract. All channels of a receiver are tried; one that cannot be tried here is reported with the reason. Of an address
only the scheme and the host are printed. Prefect is imported only for a block.
"""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from typing import Annotated, Any

import typer

from o9.cli import failures
from o9.cli.commands.alerts.config import ConfigFile, configuration_in
from o9.cli.failures import DONE, ERROR
from o9.cli.options import Json
from o9.model.errors import OptimizationError, OptimizationValidationError
from o9.model.states import AlertLevel

if not failures.help_only:
    from o9.alerts.channels.outcome import Channel, Failed, Sent
    from o9.alerts.channels.redaction import redacted
    from o9.alerts.channels.registry import FileChannel, built_in_channels, channel_name, channel_of
    from o9.alerts.config.schema import (
        BLOCK,
        BUILT_IN_CHANNELS,
        EVERY_CHANNEL,
        Configuration,
        Receiver,
        needs_no_registration,
    )
    from o9.alerts.messages.render import Message
    from o9.alerts.pipeline.alert import Alert, Notice, NoticeKind
    from o9.cli.answers import who
    from o9.cli.console import complain, show, write_json
    from o9.model.logs import configure_logging
    from o9.model.optimization import utc_now
    from o9.model.settings import settings
    from o9.text.format import duration
    from o9.text.suggest import did_you_mean, near


TITLE = "Test of a channel"
LEFT_OUT = "left out"


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
    """Says whether the message was sent, and exits 1 if not. Prints only the host of an address. All channels of a
    receiver are tried, except those that a program registers: they can only be tried there.
    """
    configuration = Configuration() if "://" in channel and config is None else configuration_in(config)
    configure_logging("DEBUG" if failures.verbose else "INFO")
    receiver, references = channels_for(channel, configuration)
    out = asyncio.run(_send(references, receiver, configuration))
    if json:
        write_json(out)
    for each in out:
        if each["outcome"] == LEFT_OUT:
            complain(f"{each['channel']}: left out: {each['reason']}")
        elif each["outcome"] == "failed":
            complain(f"{each['channel']}: not sent: {'; '.join(filter(None, (each['reason'], each['remedy'])))}")
        elif not json:
            show(f"{each['channel']}: sent")
    outcomes = {each["outcome"] for each in out}
    return DONE if "sent" in outcomes and "failed" not in outcomes else ERROR


def channels_for(name: str, configuration: Configuration) -> tuple[Receiver, Sequence[str]]:
    """Return the receiver whose messages are sent, and the channels that `name` means.

    A channel of several receivers gets the default templates. Raises OptimizationError if there is none.
    """
    receivers = configuration.receivers
    named = [(each, own) for each in receivers.values() for own in each.channels if own != EVERY_CHANNEL]
    if uses := [(each, own) for each, own in named if name in (own, channel_name(own))]:
        receiver, reference = uses[0]
        return receiver if len(uses) == 1 else _receiver_of(reference), [reference]
    if needs_no_registration(name):
        return _receiver_of(name), [name]
    if name not in receivers:
        known = dict.fromkeys([*BUILT_IN_CHANNELS, *(own for _, own in named if "://" not in own), *receivers])
        hint = did_you_mean(near(name, known, n=2)) or f"available: {', '.join(known)}."
        scheme, colon, _ = name.partition(":")  # a mistyped address may hold secrets
        raise OptimizationError(
            f"no channel or receiver is called {scheme + colon + '…' * bool(colon)!r:.100}; {hint} Or give an Apprise "
            "URL; a channel that a program registers can only be tried there"
        )
    listed = receivers[name].channels
    found = dict.fromkeys([*listed, *(BUILT_IN_CHANNELS if EVERY_CHANNEL in listed else ())])
    if not found:
        raise OptimizationError(f"the receiver {name!r} has no channel; give it some in `channels`")
    return receivers[name], [each for each in found if each != EVERY_CHANNEL]


def remedy(failed: Failed) -> str:
    """Say what to do about a failure."""
    if failed.permanent:
        return "the service rejects it permanently: correct the address, its credentials or the recipient"
    if failed.retry_after is not None:
        return f"the service asks to wait {duration(failed.retry_after)}; try again then"
    return "check the address, its credentials, and that its host can be reached from here; then try again"


def _receiver_of(reference: str) -> Receiver:
    return Receiver(name="test", channels=(reference,))


async def _channel(reference: str) -> Channel:
    """Return the channel that is meant. Raises OptimizationError if it is none."""
    if reference in BUILT_IN_CHANNELS:
        return built_in_channels()[reference]
    if reference.startswith(BLOCK):
        return channel_of(channel_name(reference), await _block(reference.removeprefix(BLOCK)))
    if "://" in reference:
        return channel_of(channel_name(reference), reference)
    raise OptimizationError(f"the channel {reference!r:.100} is registered by a program, and can only be tried there")


async def _block(name: str) -> Any:
    """Load the block as nodes would: from the configured Prefect server, or else from the local one."""
    from o9.aggregator.prefect_server import ensure_prefect_server, prefect_client_settings
    from o9.blocks.alert_channel import load_block

    async with await ensure_prefect_server() as server:
        with prefect_client_settings(server):
            return await asyncio.to_thread(load_block, name)


async def _send(references: Sequence[str], receiver: Receiver, configuration: Configuration) -> list[dict[str, Any]]:
    """Send to all of them at once, and return a document for each."""
    now = utc_now()
    alert = Alert(
        labels={"title": TITLE, "level": AlertLevel.INFO.value},
        starts_at=now,
        alert_id="test",
        optimization_id="",
        level=AlertLevel.INFO,
        title=TITLE,
        message=f"{who()} tested this channel. It works; there is nothing to do.",
    )
    reason = "a test of the channel"
    notice = Notice(receiver.name, "test", 1, dict(alert.labels), NoticeKind.FIRING, now, (alert,), (), reason)
    message = Message(notice, {**configuration.templates, **receiver.templates}, configuration.link)

    async def try_one(reference: str) -> dict[str, Any]:
        try:
            channel = await _channel(reference)
        except OptimizationError as error:
            outcome = "failed" if needs_no_registration(reference) else LEFT_OUT
            problem = error.problem if isinstance(error, OptimizationValidationError) else str(error)
            return _document(channel_name(reference), outcome, reason=redacted(problem))
        address = settings().alerts_log if isinstance(channel, FileChannel) else getattr(channel, "address", "")
        name = f"{channel.name} ({address})" if address else channel.name
        sent = await channel.send(message, notice)
        if isinstance(sent, Sent):
            return _document(name, "sent")
        return _document(name, "failed", redacted(sent.reason), sent.permanent, remedy(sent))

    return await asyncio.gather(*map(try_one, references))


def _document(
    channel: str, outcome: str, reason: str | None = None, permanent: bool | None = None, remedy: str | None = None
) -> dict[str, Any]:
    return {"channel": channel, "outcome": outcome, "reason": reason, "permanent": permanent, "remedy": remedy}
