"""Notices as a desk may get them, by what each is."""

from __future__ import annotations

from dataclasses import replace
from datetime import UTC, datetime, timedelta
from functools import cache
from typing import Any

from o9.alerts.pipeline.alert import Alert, Notice, NoticeKind, worst_first
from o9.model.states import AlertLevel

NOW = datetime(2026, 1, 30, 14, 5, tzinfo=UTC)


def alert(title: str = "Trials fail", message: str = "", optimization: str = "trend-7", **metadata: Any) -> Alert:
    return Alert(
        labels={"title": title, "level": "error"},
        starts_at=NOW - timedelta(hours=2, minutes=5),
        alert_id="a",
        optimization_id=optimization,
        level=AlertLevel.ERROR,
        title=title,
        message=message,
        metadata=metadata,
    )


def notice(*firing: Alert, kind: NoticeKind = NoticeKind.FIRING, resolved: tuple[Alert, ...] = ()) -> Notice:
    return Notice("desk", "group", 1, {"title": "Trials fail"}, kind, NOW, firing, resolved, "new alerts")


@cache
def samples() -> dict[str, Notice]:
    """By what each is."""
    one, *more = (_alert(n) for n in range(16))
    over = tuple(replace(alert, ends_at=NOW) for alert in (one, *more))
    bare = Alert({"title": "Store away"}, NOW, "bare", "", AlertLevel.INFO, "Store away")
    some_new = (*worst_first((one, *more[:3])), *worst_first(more[3:13]))
    return {
        "one alert": _notice(one),
        "an alert of no optimization": _notice(bare),
        "a group of 14": replace(_notice(one, *more[:13]), reason="all are new", resolved=worst_first(over[14:])),
        "4 of 14 are new": replace(_notice(one), reason="4 are new", firing=some_new, known=10, resolved=over[14:15]),
        "resolved": replace(_notice(one), kind=NoticeKind.RESOLVED, firing=(), resolved=over[:1], reason="it is over"),
    }


_CASES = (
    (
        AlertLevel.CRITICAL,
        "Drawdown limit breached",
        "The best trial has lost 23.4% from its peak; metadata.risk_limits allows 20%.",
        {"drawdown": 0.2341, "limit": 0.2, "trial": 118},
        "halve the leverage, or take the next best trial within the limit",
    ),
    (
        AlertLevel.ERROR,
        "Trials fail",
        "31 of the last 40 trials failed (78%); most often: ZeroDivisionError: float division by zero",
        {"failed": 31, "trials": 40, "share": 0.775},
        "fix the objective, or exclude what it cannot evaluate from the search space",
    ),
    (
        AlertLevel.WARNING,
        "Plateaued",
        "The last 45 steps (180 trials) found next to nothing better",
        {"steps": 45, "gain": 0.00031},
        "stop it if the result is good enough; else widen the search space",
    ),
)
_PLACES = ("momentum-us", "pairs-eu", "carry-fx", "trend-7", "均值回归-a股")


def _alert(number: int) -> Alert:
    level, title, message, evidence, remedy = _CASES[min(number % 5, 2)]
    place = f"{_PLACES[number % len(_PLACES)]}-{number}" if number else _PLACES[0]
    return Alert(
        labels={"title": title, "level": level.value, "optimization": place, "rule": "sample", "desk": "systematic"},
        starts_at=NOW - timedelta(minutes=4 + 11 * number),
        alert_id=f"sample-{number}",
        optimization_id=place,
        level=level,
        title=title,
        message=message,
        metadata={"evidence": evidence, "remedy": remedy, "link": f"https://o9.example.com/optimizations/{number}"},
    )


def _notice(*alerts: Alert) -> Notice:
    labels = {"title": alerts[0].title, "level": alerts[0].level.value}
    return Notice("desk", "sample", 1, labels, NoticeKind.FIRING, NOW, worst_first(alerts), (), "new")
