"""Notices as they may come, on which templates are tried before they are used. Pure."""

from __future__ import annotations

from dataclasses import replace
from datetime import UTC, datetime, timedelta
from functools import cache

from o9.alerts.pipeline.alert import Alert, in_order
from o9.alerts.pipeline.notice import Notice, NoticeKind
from o9.model.states import AlertLevel

_NOW = datetime(2026, 1, 30, 14, 5, tzinfo=UTC)


@cache
def samples() -> dict[str, Notice]:
    """One of each kind, by what it is."""
    one = _alert(0)
    bare = Alert({"title": "Store away"}, _NOW, "bare", "", AlertLevel.INFO, "Store away")
    many = tuple(_alert(n) for n in range(14))
    return {
        "one alert": _notice(NoticeKind.FIRING, (one,), reason="new"),
        "an alert of no optimization": _notice(NoticeKind.FIRING, (bare,), reason="new"),
        "a group of 14": _notice(NoticeKind.FIRING, many, (_over(_alert(14)), _over(_alert(15))), reason="all are new"),
        "4 of 14 are new": _notice(NoticeKind.FIRING, many, (_over(_alert(14)),), reason="4 are new", known=10),
        "resolved": _notice(NoticeKind.RESOLVED, (), (_over(one),), reason="nothing of it fires any more"),
        "a group resolved": _notice(NoticeKind.RESOLVED, (), tuple(map(_over, many)), reason="nothing of it fires"),
        "flapping": _notice(
            NoticeKind.FLAPPING, (one,), reason="it changed 6 times in 10 min; no other message until it is quiet"
        ),
        "escalation": _notice(NoticeKind.ESCALATION, (one,), reason="not acknowledged for 30 min"),
        "repeat": _notice(NoticeKind.REPEAT, (one,), reason="it still fires after 4 h"),
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
        starts_at=_NOW - timedelta(minutes=4 + 11 * number),
        alert_id=f"sample-{number}",
        optimization_id=place,
        level=level,
        title=title,
        message=message,
        metadata={"evidence": evidence, "remedy": remedy, "link": f"https://o9.example.com/optimizations/{number}"},
    )


def _over(alert: Alert) -> Alert:
    return replace(alert, ends_at=_NOW)


def _notice(
    kind: NoticeKind, firing: tuple[Alert, ...], resolved: tuple[Alert, ...] = (), *, reason: str = "", known: int = 0
) -> Notice:
    first, new = (firing or resolved)[0], len(firing) - known
    in_its_order = (*in_order(firing[:new]), *in_order(firing[new:]))
    labels = {"title": first.title, "level": first.level.value}
    return Notice("desk", "sample", 1, labels, kind, _NOW, in_its_order, in_order(resolved), reason, known)
