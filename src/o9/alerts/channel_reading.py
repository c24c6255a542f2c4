"""What the alerts file says of channels: names, addresses, blocks, or `*` for all. Pure.

Contract. Whether an address is one only Apprise knows: `addresses` has each with its first place, for whoever asks it.
A name that nothing here has is no fault, as programs register channels of their own; one that looks like a slip of the
pen is a doubt. No text here repeats what may be an address.
"""

from __future__ import annotations

from collections.abc import Iterator

from o9.alerts.reading import Fault, Node, Reader, near

STANDING = ("log", "console", "file")
BLOCK = "block:"


def says_where(channel: str) -> bool:
    """Whether it is there, or says where it goes: no program has to register it."""
    return "://" in channel or channel in STANDING or channel.startswith(BLOCK)


class ChannelReading:
    """Reads for one file, and remembers which channels it names where."""

    def __init__(self, reader: Reader) -> None:
        self._reader = reader
        self._named: dict[str, Node] = {}

    def channels(self, node: Node | None) -> tuple[str, ...]:
        """A list of texts, or one text."""
        found: list[str] = []
        for each in self._reader.one_or_more(node):
            channel = self._reader.understood(each, _channel)
            if channel is not None:
                found.append(channel)
                self._named.setdefault(channel, each)
        return tuple(found)

    @property
    def addresses(self) -> dict[str, Node]:
        return {channel: node for channel, node in self._named.items() if "://" in channel}

    def doubts(self) -> Iterator[Fault]:
        for channel, node in self._named.items():
            if says_where(channel):
                continue
            if ":" in channel:
                yield node.told(
                    "an address has `://` in it; as it is, a program has to register a channel of this name"
                )
            elif any(each in channel for each in ", "):
                yield node.told("one text is one channel; write several as a list, such as [log, desk]")
            elif (likely := near(channel, STANDING)) is not None:
                yield node.told(f"did you mean `{likely}`? A program has to register {channel!r:.80}")


def _channel(text: str) -> str:
    if not text.strip():
        raise ValueError("it is empty; name a channel, or give an address")
    if text.startswith(BLOCK) and not all(text.removeprefix(BLOCK).split("/", 1)):
        raise ValueError("a block is named as block:NAME, or as block:TYPE/NAME")
    return text
