"""`alerts resolve`, `ack`, `silence add`, `silence expire`: record what a person says; the leader reads it.

Contract. Each id is answered for itself; one that is unknown makes the exit code 1 and keeps nothing from the others.
What is so already is no error, and is said. Nothing here imports Prefect, or the channels.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from datetime import datetime

import typer
from rich.text import Text

from o9.alerts.config.builtin_rules import BUILT_IN
from o9.alerts.config.fields import span_of
from o9.alerts.config.schema import OF_O9, likely_label
from o9.alerts.pipeline.alert import Alert
from o9.alerts.pipeline.matchers import Matchers, parse_all, written_out
from o9.alerts.pipeline.silences import Silence, new_silence
from o9.alerts.service.repository import add_silence, alert_in
from o9.cli.commands.alerts.list import NEAR_AMONG, fires, unknown_alert
from o9.cli.commands.control import Outcome, who
from o9.cli.console import emit, results, say, write_json
from o9.cli.failures import DONE, ERROR
from o9.cli.open_store import existing_store, option_for
from o9.cli.views.words import command
from o9.model.errors import OptimizationError, OptimizationStoreError, OptimizationValidationError
from o9.model.optimization import utc_now
from o9.store import queries
from o9.store.alerts.episodes import AcknowledgeAlert, ResolveAlert
from o9.store.alerts.silences import EndSilence
from o9.store.store import Store
from o9.text.escape import shown
from o9.text.format import local_moment
from o9.text.suggest import did_you_mean, near, suggestion

_OPTIONS = {"starts_at": "'--from'", "ends_at": "'--from' and '--for'", "author": "'--by'", "comment": "'--comment'"}
_FINE = frozenset({Outcome.DONE, Outcome.ALREADY})
NAMED = 3


@dataclass(frozen=True)
class Answer:
    """One line for one id; the fields are those of `--json`."""

    id: str
    outcome: str
    message: str


def resolve_alerts(url: str | None, ids: Sequence[str], by: str | None, *, as_json: bool) -> int:
    with existing_store(url) as store:
        answers = [_resolved(store, name, by or who()) for name in dict.fromkeys(ids)]
    return _told(answers, as_json=as_json)


def acknowledge_alerts(url: str | None, ids: Sequence[str], by: str | None, *, as_json: bool) -> int:
    with existing_store(url) as store:
        answers = [_acknowledged(store, name, by or who()) for name in dict.fromkeys(ids)]
    return _told(answers, as_json=as_json)


def expire_silences(url: str | None, ids: Sequence[str], by: str | None, *, as_json: bool) -> int:
    with existing_store(url) as store:
        answers = [_expired(store, name, by or who()) for name in dict.fromkeys(ids)]
    return _told(answers, as_json=as_json)


def silence_alerts(
    url: str | None,
    matchers: Sequence[str],
    lasts: str,
    begins: str | None,
    *,
    comment: str,
    by: str | None,
    as_json: bool,
) -> int:
    """Print its id, and say what it fits now: a mistyped matcher fits nothing."""
    now = utc_now()
    starts_at = now if begins is None else moment_of(begins)
    silence = made_silence(matchers, starts_at, lasts, now, comment=comment, author=by or who())
    with existing_store(url) as store:
        store.write(add_silence(silence))
        firing = [alert_in(episode) for episode in fires(store, now)]
        seen = _labels_seen(store, firing)
    fitting = [alert for alert in firing if silence.fits(alert)]
    warnings = list(warnings_of(silence.matchers, seen))
    for warning in warnings:
        say(shown(f"o9: warning: {warning}"))
    if as_json:
        write_json(
            {
                "silence_id": silence.silence_id,
                "matchers": str(silence),
                "starts_at": silence.starts_at.isoformat(),
                "ends_at": silence.ends_at.isoformat(),
                "author": silence.author,
                "comment": silence.comment,
                "matches": [alert.alert_id for alert in fitting],
                "warnings": warnings,
            }
        )
        return DONE
    print(silence.silence_id)
    begin = "" if silence.starts_at <= now else f"from {local_moment(silence.starts_at)} "
    span = f"{begin}until {local_moment(silence.ends_at)}"
    say(shown(f"{silence} is silent {span}; {fits(fitting)}"))
    say(f"`{command('alerts silence expire', [silence.silence_id], option_for(url))}` ends it early")
    return DONE


def made_silence(
    matchers: Sequence[str], starts_at: datetime, lasts: str, now: datetime, *, comment: str = "", author: str = ""
) -> Silence:
    """Raises a usage error for a duration or matchers that mean nothing, or that mean everything."""
    try:
        span = span_of(lasts)
    except ValueError as error:
        raise typer.BadParameter(str(error), param_hint="'--for'") from None
    try:
        found = parse_all(matchers)
        if not found:
            raise typer.BadParameter("it is empty; say what shall be silent", param_hint="MATCHER")
        return new_silence(now, span, found, starts_at=starts_at, author=author, comment=comment)
    except OptimizationValidationError as error:
        hint = _OPTIONS.get(error.field, "MATCHER")
        raise typer.BadParameter(_of_matchers(error, matchers), param_hint=hint) from None


def warnings_of(matchers: Matchers, seen: Mapping[str, Collection[str]]) -> Iterator[str]:
    """What is likely a mistake: labels, and rules, that neither O9 has nor any alert in `seen`: values by label."""
    labels = {*OF_O9, *seen}
    rules = {*(rule.name for rule in BUILT_IN), *seen.get("rule", ())}
    for matcher in matchers:
        if matcher.name not in labels:
            likely = likely_label(matcher.name, labels)
            hint = f"; did you mean {likely}?" if likely else ""
            yield f"no alert so far has the label {matcher.name!r:.80}, and O9 sets none of that name{hint}"
        elif matcher.name == "rule":
            for name in written_out(matcher):
                if name not in {"", *rules}:
                    yield f"no alert so far is of the rule {name!r:.80}{suggestion(name, rules)}"


def moment_of(text: str) -> datetime:
    """A moment, in the reader's own time zone unless it says otherwise. Raises a usage error."""
    try:
        return datetime.fromisoformat(text).astimezone()
    except (ValueError, OverflowError):
        raise typer.BadParameter(
            f"{text!r:.80} is no moment; write one such as '2026-01-31 18:00', or 2026-01-31T18:00:00+00:00",
            param_hint="'--from'",
        ) from None


def fits(alerts: Sequence[Alert]) -> str:
    """`it matches 2 firing alerts: A, B`"""
    if not alerts:
        return "no firing alert matches it"
    titles = list(dict.fromkeys(alert.title for alert in alerts))
    more = f", and {len(titles) - NAMED:,} more" if len(titles) > NAMED else ""
    count = f"{len(alerts):,} firing alerts" if len(alerts) > 1 else "one firing alert"
    return f"it matches {count}: {', '.join(titles[:NAMED])}{more}"


def _labels_seen(store: Store, firing: Iterable[Alert]) -> dict[str, set[str]]:
    """The values of all labels, of what fires and of the newest alerts."""
    newest = store.read(queries.episodes, [row["episode"] for row in store.read(queries.alerts, limit=NEAR_AMONG)])
    seen: dict[str, set[str]] = {}
    for alert in (*firing, *(alert_in(episode) for episode, _ in newest.values())):
        for name, value in alert.labels.items():
            seen.setdefault(name, set()).add(value)
    return seen


def _of_matchers(error: OptimizationValidationError, matchers: Sequence[str]) -> str:
    """With the text that is meant, where there are several."""
    place = next((text for number, text in enumerate(matchers) if error.field == f"matchers[{number}]"), None)
    if place is None:
        return error.problem
    return f"{place!r:.200}: {error.problem}; write a matcher as 'title=\"Drawdown\"' or 'level=~\"warning|error\"'"


def _resolved(store: Store, name: str, by: str) -> Answer:
    if store.read(queries.alert, name) is None:
        return Answer(name, Outcome.UNKNOWN.value, unknown_alert(store, name))
    if store.write(ResolveAlert(name, by)):
        return Answer(name, Outcome.DONE.value, f"{name}: resolved; its receivers are notified")
    return _over(store, name)


def _acknowledged(store: Store, name: str, by: str) -> Answer:
    if store.read(queries.alert, name) is None:
        return Answer(name, Outcome.UNKNOWN.value, unknown_alert(store, name))
    if store.write(AcknowledgeAlert(name, by)):
        text = f"{name}: acknowledged by {by}; it is neither repeated nor escalated"
        return Answer(name, Outcome.DONE.value, text)
    row = store.read(queries.alert, name)
    if row is None or row["resolved_at"]:
        return _over(store, name)
    at = local_moment(row["acknowledged_at"])
    return Answer(name, Outcome.ALREADY.value, f"{name}: acknowledged already, by {row['acknowledged_by']}, {at}")


def _over(store: Store, name: str) -> Answer:
    row = store.read(queries.alert, name)
    at = f", since {local_moment(row['resolved_at'])}" if row and row["resolved_at"] else ""
    return Answer(name, Outcome.ALREADY.value, f"{name}: over already{at}")


def _expired(store: Store, name: str, by: str) -> Answer:
    try:
        stood = store.write(EndSilence(name, by))
    except OptimizationStoreError:
        raise
    except OptimizationError:
        known = [row["silence_id"] for row in store.read(queries.silences)]
        likely = [each for each in known if name and each.startswith(name)] + near(name, known, n=3)
        hint = did_you_mean(likely) or "`o9 alerts silence list` lists them"
        message = f"there is no silence {name!r} in {store.name}; {hint}"
        return Answer(name, Outcome.UNKNOWN.value, message)
    if not stood:
        return Answer(name, Outcome.ALREADY.value, f"{name}: over already")
    return Answer(name, Outcome.DONE.value, f"{name}: ended; firing alerts that it held back are sent from now on")


def _told(answers: Sequence[Answer], *, as_json: bool) -> int:
    for answer in answers:
        if Outcome(answer.outcome) not in _FINE:
            say(f"o9: {shown(answer.message)}")
        elif not as_json:
            emit(results(), Text(shown(answer.message)))
    if as_json:
        write_json([asdict(answer) for answer in answers])
    return DONE if all(Outcome(answer.outcome) in _FINE for answer in answers) else ERROR
