"""Notices: what is sent to a receiver, and how it is stored. Pure; see `o9.store.alert_tables.NoticeRow`."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

from o9.store.codec import to_json
from o9.store.unit import Row

KNOWN = ""  # no alert's id: in `firing`, the alerts behind it were known before


class NewNotice(NamedTuple):
    """What is sent to a receiver, through `channels`; `firing` and `resolved` are episodes, `labels` JSON.

    known: how many at the end of `firing` were known to it before.
    """

    group_key: str
    number: int
    receiver: str
    kind: str
    reason: str
    at: str
    labels: str
    firing: Sequence[str]
    resolved: Sequence[str]
    channels: Sequence[str]
    known: int = 0


def new_row(notice: NewNotice) -> Row:
    row = notice._asdict() | {
        "firing": _written(notice.firing, notice.known), "resolved": to_json(list(notice.resolved)),
        "firing_count": len(notice.firing), "resolved_count": len(notice.resolved),
    }  # fmt: skip
    del row["channels"], row["known"]
    return row


def notice_row(row: Mapping[Any, Any]) -> Row:
    """A row of NOTICE as it is read: its JSON decoded, and how many of `firing` at its end were `known`."""
    said = dict(row) | {name: json.loads(row[name]) for name in ("labels", "firing", "resolved")}
    firing, known = said["firing"], 0
    if KNOWN in firing:
        begins = firing.index(KNOWN)
        known = len(firing) - begins - 1
        firing = [*firing[:begins], *firing[begins + 1 :]]
    return said | {"firing": firing, "known": known}


def _written(firing: Sequence[str], known: int) -> str:
    begins = len(firing) - known
    return to_json([*firing[:begins], *[KNOWN] * bool(known), *firing[begins:]])
