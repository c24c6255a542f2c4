"""Where messages go: `channel_of` makes a channel of whatever a user gives for one."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from o9.alerts.channel_reading import BLOCK
from o9.alerts.channels.local import ConsoleChannel, FileChannel, LogChannel, show_only
from o9.alerts.channels.outcome import Channel, Failed, Sent
from o9.alerts.channels.own import BlockChannel, FunctionChannel
from o9.model.errors import OptimizationValidationError

if TYPE_CHECKING:
    from o9.alerts.channels.apprise_url import AppriseChannel

__all__ = [
    "BLOCK", "AppriseChannel", "BlockChannel", "Channel", "ConsoleChannel", "Failed", "FileChannel", "FunctionChannel",
    "LogChannel", "Sent", "channel_of", "show_only", "shows_the_first", "standing_channels",
]  # fmt: skip
NAME_LIMIT = 200


def __getattr__(name: str) -> Any:
    """Apprise is imported where there is a URL to send to."""
    if name != "AppriseChannel":
        raise AttributeError(name)
    from o9.alerts.channels.apprise_url import AppriseChannel

    return AppriseChannel


def standing_channels(logged: Callable[[str], bool] = lambda _: False) -> dict[str, Channel]:
    """Those that are there from the start; a user's of the same name replaces one. `logged`: see ConsoleChannel."""
    return {"log": LogChannel(), "console": ConsoleChannel(logged=logged), "file": FileChannel()}


def shows_the_first(channel: Channel) -> bool:
    """Whether it says what the message says, and so needs no more of the notice than its first alerts and counts."""
    return bool(getattr(channel, "shows_the_first", False))


def channel_of(name: str, what: Any, resolve: Callable[[str], Any] | None = None) -> Channel:
    """The channel `name`: a function or coroutine function of one alert, an Apprise URL, an object with `notify(body,
    subject)`, `block:NAME`, for which `resolve(NAME)` loads the block, or a channel.

    Raises OptimizationValidationError, which names the channel and the remedy, and holds nothing of a URL.
    """
    if not isinstance(name, str) or not name.strip() or len(name) > NAME_LIMIT or not name.isprintable():
        raise OptimizationValidationError(
            "channels", f"{name!r:.80} cannot name a channel; take printable text of 1 to {NAME_LIMIT} characters"
        )
    field = f"channels.{name}"
    if isinstance(what, str) and what.startswith(BLOCK):
        if resolve is None:
            raise OptimizationValidationError(field, "blocks cannot be loaded here; give the block itself, or its URL")
        what = resolve(what.removeprefix(BLOCK))
    if isinstance(what, str):
        from o9.alerts.channels.apprise_url import AppriseChannel

        return AppriseChannel(name, what)
    if inspect.isclass(what):
        raise OptimizationValidationError(field, f"{what.__name__} is a class; give an instance of it")
    if hasattr(what, "to_channel"):  # O9's block
        channel: Channel = what.to_channel(name)
        return channel
    if hasattr(what, "send") and isinstance(getattr(what, "name", None), str):
        made: Channel = what
        return made
    if callable(getattr(what, "notify", None)):
        return BlockChannel(name, what)
    if inspect.isgeneratorfunction(what) or inspect.isasyncgenfunction(what):
        raise OptimizationValidationError(field, "it yields, so that calling it runs nothing; let it return")
    if callable(what):
        _check_takes_one(field, what)
        return FunctionChannel(name, what)
    raise OptimizationValidationError(
        field,
        f"{type(what).__name__} is no channel; give a function or coroutine function of one alert, an Apprise URL, "
        "a block with notify(body, subject), or block:NAME",
    )


def _check_takes_one(field: str, function: Callable[..., Any]) -> None:
    try:
        signature = inspect.signature(function)
    except (TypeError, ValueError):
        return  # written in C: it is seen when it is called
    try:
        signature.bind(object())
    except TypeError:
        raise OptimizationValidationError(
            field, f"it is called with one alert, and takes {signature}; let it take exactly one argument"
        ) from None
