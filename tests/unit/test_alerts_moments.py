"""Alerts whose moments cannot be, or are to come, as their sources tell them: what people read stays sensible."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

import pytest

from o9.alerts.messages.render import Form, Message
from o9.alerts.pipeline.alert import Alert, Notice, NoticeKind
from o9.cli.views.alerts import Listed, alerts_view
from o9.model.states import AlertLevel
from o9.store.alerts.queries import Episode
from o9.store.core.column_types import moment

NOW = datetime(2026, 1, 30, 14, 5, tzinfo=UTC)
MINUTE = timedelta(minutes=1)


@pytest.mark.parametrize(
    ("begins", "ends", "told"),
    [
        (NOW - 4 * MINUTE, None, "14:01:00 UTC, for 4 min"),
        (NOW - 4 * MINUTE, NOW - MINUTE, "14:01:00 UTC, ended after 3 min"),
        (NOW + 2 * MINUTE, None, "14:07:00 UTC, for 0 s"),  # a clock that is ahead by a little
        (NOW + 90 * MINUTE, None, "15:35:00 UTC, 1 h 30 min in the future"),
        (NOW.replace(year=9999), None, "9999-01-30 14:05:00 UTC, 2,912,078 d in the future"),
        (NOW - MINUTE, NOW - 4 * MINUTE, "14:04:00 UTC, ended before that, at 2026-01-30 14:01:00 UTC"),
        (NOW + 90 * MINUTE, NOW, "15:35:00 UTC, ended before that, at 2026-01-30 14:05:00 UTC"),
        (NOW, NOW, "14:05:00 UTC, ended after 0 s"),
    ],
)
@pytest.mark.parametrize("many", [False, True])
def test_since_when_an_alert_fires(begins: datetime, ends: datetime | None, told: str, many: bool) -> None:
    labels = {"title": "Drawdown"}
    alert = Alert(labels, begins, "a", "opt-1", AlertLevel.ERROR, "Drawdown", "it fell", ends)
    alerts = (alert, alert) if many else (alert,)
    firing, resolved = ((), alerts) if ends else (alerts, ())
    notice = Notice("desk", "g", 1, labels, NoticeKind.FIRING, NOW, firing, resolved, "new")
    for form in Form:
        assert told in " ".join(Message(notice).body(form).split()), form


def test_a_list_tells_the_same() -> None:
    def since(begins: datetime, ends: datetime | None) -> str:
        over = None if ends is None else moment(ends)
        episode = Episode(
            "a", "f", "{}", moment(begins), over, 0, moment(begins), 1, over, None, None, 1, 1, "", "error", "t", ""
        )  # fmt: skip
        table = alerts_view([Listed(episode)], 200, NOW)
        return " ".join(str(cell) for column in table.columns for cell in column.cells)

    assert ", in the future" in since(NOW + 90 * MINUTE, None)
    assert ", ended before that" in since(NOW - MINUTE, NOW - 4 * MINUTE)
    assert ", 3 min" in since(NOW - 4 * MINUTE, NOW - MINUTE)
