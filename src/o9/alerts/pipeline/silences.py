"""Silences: a person's mute, from a start to an end, with who and why.

A silence has either matchers or a pattern. A pattern without wildcards mutes what has it somewhere in the title or the
message, in whatever case, or has exactly this optimization id (`opt-1` is not `opt-10`). With `*` (anything) or `?`
(one character) it has to fit the whole of one of the three. Pure, but for the id that `new_silence` gives.
"""

from __future__ import annotations

import uuid
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from datetime import datetime, timedelta

import re2

from o9.alerts.pipeline.alert import Alert
from o9.alerts.pipeline.matchers import Matchers, match, regular_expression, unfit, written
from o9.model.errors import OptimizationValidationError

PATTERN_LIMIT = 1000
COMMENT_LIMIT = 10_000
LONGEST = timedelta(days=10 * 366)


@dataclass(frozen=True, slots=True)
class Silence:
    """It stands from `starts_at` until `ends_at`; `checked` says what is acceptable."""

    silence_id: str
    starts_at: datetime
    ends_at: datetime
    matchers: Matchers = ()
    pattern: str = ""
    author: str = ""
    comment: str = ""
    fits: Callable[[Alert], bool] = field(init=False, repr=False, compare=False)
    """Whether it mutes this alert while it stands."""

    def __post_init__(self) -> None:
        fits = _fits_pattern(self.pattern) if self.pattern else lambda alert: match(self.matchers, alert.labels)
        object.__setattr__(self, "fits", fits)

    def __str__(self) -> str:
        return f"{self.pattern!r}" if self.pattern else written(self.matchers)

    def stands(self, now: datetime) -> bool:
        return self.starts_at <= now < self.ends_at


def new_silence(
    now: datetime,
    lasts: timedelta,
    matchers: Matchers = (),
    *,
    pattern: str = "",
    starts_at: datetime | None = None,
    author: str = "",
    comment: str = "",
) -> Silence:
    """One with a new id, short enough to be typed. Raises as `checked` does."""
    begins = now if starts_at is None else starts_at
    try:
        ends_at = begins + lasts
    except OverflowError:
        raise OptimizationValidationError("starts_at", f"{lasts} from {begins} on is behind the end of time") from None
    return checked(Silence(uuid.uuid4().hex[:12], begins, ends_at, matchers, pattern, author, comment), now)


def checked(silence: Silence, now: datetime) -> Silence:
    """The silence. Raises OptimizationValidationError for one that mutes nothing, everything or never."""
    if not silence.matchers and not silence.pattern.strip():
        raise OptimizationValidationError("matchers", "there are no matchers and no pattern; say what shall be silent")
    if silence.matchers and silence.pattern:
        raise OptimizationValidationError("pattern", "give either matchers or a pattern")
    if silence.matchers and match(silence.matchers, {}):
        raise OptimizationValidationError(
            "matchers",
            f"{written(silence.matchers)} fits every alert, even without labels; name a label that an alert must have",
        )
    if (why := unfit(silence.matchers)) is not None:
        raise OptimizationValidationError("matchers", why)
    for name, limit in (("pattern", PATTERN_LIMIT), ("author", PATTERN_LIMIT), ("comment", COMMENT_LIMIT)):
        if len(getattr(silence, name)) > limit:
            raise OptimizationValidationError(name, f"at most {limit:,} characters are allowed")
    if silence.ends_at <= silence.starts_at:
        raise OptimizationValidationError("ends_at", f"{silence.ends_at} is not after the start, {silence.starts_at}")
    if silence.ends_at <= now:
        raise OptimizationValidationError("ends_at", f"{silence.ends_at} is over already; give a moment in the future")
    if silence.ends_at - max(silence.starts_at, now) > LONGEST:
        raise OptimizationValidationError(
            "ends_at", f"at most {LONGEST.days:,} days are allowed; change the rule instead"
        )
    return silence


def muting(silences: Iterable[Silence], alert: Alert, now: datetime) -> Silence | None:
    """Of those that stand and fit, the one that stands longest."""
    fitting = (each for each in silences if each.stands(now) and each.fits(alert))
    return max(fitting, key=lambda each: (each.ends_at, each.silence_id), default=None)


def _fits_pattern(pattern: str) -> Callable[[Alert], bool]:
    if not any(wildcard in pattern for wildcard in "*?"):
        wanted = pattern.casefold()
        return lambda alert: (
            wanted in alert.title.casefold() or wanted in alert.message.casefold() or pattern == alert.optimization_id
        )
    parts = {"*": ".*", "?": "."}
    translated = "".join(parts.get(character) or re2.escape(character) for character in pattern)
    ids, words = regular_expression(translated), regular_expression(f"(?i:{translated})")
    return lambda alert: words(alert.title) or words(alert.message) or ids(alert.optimization_id)
