"""The history of optimizations in the order of time: transitions, and the intents between them."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping
from typing import Any

from o9.store import queries
from o9.store.optimizations.transitions import Cause
from o9.store.store import Store
from o9.text.escape import shortened, shown
from o9.text.format import local_moment

MOST_CHARACTERS = 400
Event = Mapping[str, Any]  # a row of the table `transition`, or of `intent`


class EventFeed:
    """Reads the events since it was made, or since the last read, in order."""

    def __init__(self, store: Store) -> None:
        self._store = store
        self._change = store.read(queries.last_change)
        self._transition = store.read(queries.last_transition)

    def read(self) -> list[Event]:
        intents: Counter[str] = Counter()
        moves = 0
        while changes := self._store.read(queries.changes, self._change):
            self._change = changes[-1]["id"]
            intents.update(row["optimization_id"] for row in changes if row["kind"] == "intent")
            moves += sum(row["kind"] in ("transition", "ended") for row in changes)
        # Only those that the changes name: a later one may follow an intent that only the next call reads.
        transitions = self._store.read(queries.transitions_since, self._transition, limit=moves) if moves else []
        if transitions:
            self._transition = transitions[-1]["id"]
        asked = [row for name, count in intents.items() for row in self._store.read(queries.intents, name)[-count:]]
        return merged(transitions, asked)


def merged(transitions: Iterable[Event], asked: Iterable[Event]) -> list[Event]:
    """Merge them by time. An intent that was carried out at once is left out: its transition names who asked for it."""
    moves = list(transitions)
    moved = {(row["optimization_id"], row["at"]) for row in moves if row["cause"] == Cause.PERSON.value}
    intents = [row for row in asked if (row["optimization_id"], row["at"]) not in moved]
    return sorted([*moves, *intents], key=lambda row: (row["at"], "to_status" in row))


def event_line(event: Event, *, of_many: bool = False) -> str:
    """`2026-01-31 12:00:00 UTC running (hook): why`, or `… pause requested by o9, ann@desk`."""
    at = local_moment(event["at"])
    whose = f"{shown(event['optimization_id'])}  " if of_many else ""
    return f"{at}  {whose}{event_text(event, came=of_many)}"


def event_text(event: Event, *, came: bool) -> str:
    """The same without the time and the id. came: with the previous status."""
    if "intent" in event:
        return intent_text(event)
    before = f"{event['from_status']} → " if came and event["from_status"] else ""
    why = f": {shown(first_line(event['message']))}" if event["message"] else ""
    return f"{before}{event['to_status']} ({event['cause']}){why}"


def first_line(message: str) -> str:
    return shortened(message.strip().partition("\n")[0], MOST_CHARACTERS)


def intent_text(event: Event) -> str:
    """`pause requested by o9, ann@desk`"""
    return f"{event['intent']} requested by {shown(event['by'])}"
