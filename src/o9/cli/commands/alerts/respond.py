"""`alerts ack`, `alerts resolve` and `alerts silence`: record a response, which the leading node reads.

A matcher that no alert can match is refused, and one that is likely a mistake gets a warning. Nothing here imports
Prefect or the channels.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from datetime import datetime
from typing import Annotated

import typer

from o9.cli.failures import help_only
from o9.cli.options import By, Json, StoreUrl, moment_of
from o9.model.errors import OptimizationError, OptimizationStoreError, OptimizationValidationError

if not help_only:
    from o9.alerts.config.fields import span_of
    from o9.alerts.config.rules import BUILT_IN
    from o9.alerts.config.schema import OF_O9, similar_label
    from o9.alerts.pipeline.alert import Alert
    from o9.alerts.pipeline.matchers import Matchers, literal_values, parse_all
    from o9.alerts.pipeline.stages import Silence, new_silence
    from o9.alerts.service.repository import add_silence, alert_in, silence_in
    from o9.cli.answers import Answer, Outcome, conclude, print_answer, who
    from o9.cli.commands.alerts.list import existing_alert, fires
    from o9.cli.console import complain, say, show, write_json
    from o9.cli.open_store import NEAR_AMONG, existing_store, option_for, pick
    from o9.cli.views.alerts import silences_view
    from o9.cli.views.words import command
    from o9.model.optimization import utc_now
    from o9.store import queries
    from o9.store.alerts.episodes import AcknowledgeAlert, ResolveAlert
    from o9.store.alerts.silences import EndSilence
    from o9.store.store import Store
    from o9.text.format import local_moment
    from o9.text.suggest import suggestion


AlertIds = Annotated[list[str], typer.Argument(metavar="ID", help="Ids of alerts, or unique prefixes of them.")]


def ack(ids: AlertIds, by: By = None, store: StoreUrl = None, json: Json = False) -> int:
    """An acknowledged alert is neither repeated nor escalated."""
    return _respond(_acknowledged, ids, by, store, json)


def resolve(ids: AlertIds, by: By = None, store: StoreUrl = None, json: Json = False) -> int:
    """The receivers of a resolved alert are notified."""
    return _respond(_resolved, ids, by, store, json)


def _respond(
    what: Callable[[Store, str, str], Answer], ids: Sequence[str], by: str | None, url: str | None, as_json: bool
) -> int:
    answers = []
    with existing_store(url) as store:
        for typed in dict.fromkeys(ids):
            try:
                name = existing_alert(store, typed)["alert_id"]
            except OptimizationError as error:
                answers.append(Answer(typed, Outcome.UNKNOWN, str(error)))
            else:
                answers.append(what(store, name, by or who()))
            print_answer(answers[-1], as_json=as_json)
    return conclude(answers, as_json=as_json)


def _resolved(store: Store, name: str, by: str) -> Answer:
    if store.write(ResolveAlert(name, by)):
        return Answer(name, Outcome.DONE, f"{name}: resolved; its receivers are notified")
    return _over(store, name)


def _acknowledged(store: Store, name: str, by: str) -> Answer:
    if store.write(AcknowledgeAlert(name, by)):
        return Answer(name, Outcome.DONE, f"{name}: acknowledged by {by}; it is neither repeated nor escalated")
    row = store.read(queries.alert, name)
    if row is None or row["resolved_at"]:
        return _over(store, name)
    at = local_moment(row["acknowledged_at"])
    return Answer(name, Outcome.ALREADY, f"{name}: already acknowledged by {row['acknowledged_by']}, {at}")


def _over(store: Store, name: str) -> Answer:
    row = store.read(queries.alert, name)
    at = f", since {local_moment(row['resolved_at'])}" if row and row["resolved_at"] else ""
    return Answer(name, Outcome.ALREADY, f"{name}: already resolved{at}")


_OPTIONS = {"starts_at": "'--from'", "ends_at": "'--from' and '--for'", "author": "'--by'", "comment": "'--comment'"}
NAMED = 3


def add(
    matchers: Annotated[
        list[str], typer.Argument(metavar="MATCHER", help="""Such as 'title="Drawdown"' or 'level=~"info|warning"'.""")
    ],
    lasts: Annotated[str, typer.Option("--for", metavar="TIME", help="Duration: 90s, 30m, 2h, 1d12h.")],
    begins: Annotated[
        datetime | None,
        typer.Option(
            "--from", parser=moment_of, metavar="TIME", help="Start, in local time: '2026-01-31 18:00'.  [default: now]"
        ),
    ] = None,
    comment: Annotated[str, typer.Option(metavar="TEXT", help="Why, for the record.")] = "",
    by: By = None,
    store: StoreUrl = None,
    json: Json = False,
) -> None:
    """Matchers use Alertmanager's syntax: = != =~ !~ on labels; the case of a level does not matter. Prints the
    silence's id, and the firing alerts that it matches. Refuses matchers that no alert can match, and warns of unknown
    labels and rules.
    """
    now = utc_now()
    silence = made_silence(matchers, begins or now, lasts, now, comment=comment, author=by or who())
    with existing_store(store) as opened:
        opened.write(add_silence(silence))
        row = next(each for each in opened.read(queries.silences) if each["silence_id"] == silence.silence_id)
        firing = [alert_in(episode) for episode in fires(opened, now)]
        seen = _labels_seen(opened, firing)
    matching = [alert for alert in firing if silence.matches(alert)]
    warnings = list(warnings_of(silence.matchers, seen))
    for warning in warnings:
        complain(f"warning: {warning}")
    if json:
        write_json(row | {"matches": [alert.alert_id for alert in matching], "warnings": warnings})
        return
    print(silence.silence_id)
    begin = "" if silence.starts_at <= now else f"from {local_moment(silence.starts_at)} "
    span = f"{begin}until {local_moment(silence.ends_at)}"
    say(f"{silence} is silenced {span}; {matches(matching)}")
    say(f"`{command('alerts silence expire', [silence.silence_id], option_for(store))}` ends it early")


def list_(store: StoreUrl = None, json: Json = False) -> None:
    """The silence that ends first comes first, each with the number of firing alerts that it matches."""
    with existing_store(store) as opened:
        rows = opened.read(queries.silences)
        firing = [] if json or not rows else [alert_in(each) for each in fires(opened, utc_now())]
    if json:
        write_json(rows)
    elif rows:
        show(silences_view([silence_in(row) for row in rows], firing, utc_now()))
    else:
        say("no active or future silences; `o9 alerts silence add 'title=\"…\"' --for 2h` adds one")


def expire(
    ids: Annotated[
        list[str],
        typer.Argument(
            metavar="ID", help="Ids of silences, as in `o9 alerts silence list`, or unique prefixes of them."
        ),
    ],
    by: By = None,
    store: StoreUrl = None,
    json: Json = False,
) -> int:
    """Firing alerts that the silence suppressed are sent from then on."""
    answers = []
    with existing_store(store) as opened:
        known = {row["silence_id"]: row["comment"] for row in opened.read(queries.silences)}
        for typed in dict.fromkeys(ids):
            answers.append(_expired(opened, typed, known, by or who()))
            print_answer(answers[-1], as_json=json)
    return conclude(answers, as_json=json)


def made_silence(
    matchers: Sequence[str], starts_at: datetime, lasts: str, now: datetime, *, comment: str = "", author: str = ""
) -> Silence:
    """Return the silence. Raises a usage error for an invalid duration, and for matchers that are invalid or match
    everything.
    """
    try:
        span = span_of(lasts)
    except ValueError as error:
        raise typer.BadParameter(str(error), param_hint="'--for'") from None
    try:
        found = parse_all(matchers)
        if not found:
            raise typer.BadParameter("it is empty; say what to silence", param_hint="MATCHER")
        return new_silence(now, span, found, starts_at=starts_at, author=author, comment=comment)
    except OptimizationValidationError as error:
        wrong = next((text for n, text in enumerate(matchers) if error.field == f"matchers[{n}]"), None)
        advice = "; write a matcher as 'title=\"Drawdown\"' or 'level=~\"warning|error\"'"
        problem = error.problem if wrong is None else f"{wrong!r:.200}: {error.problem}{advice}"
        raise typer.BadParameter(problem, param_hint=_OPTIONS.get(error.field, "MATCHER")) from None


def warnings_of(matchers: Matchers, seen: Mapping[str, Collection[str]]) -> Iterator[str]:
    """Yield likely mistakes: labels and rules that neither O9 nor any alert in `seen` has (values by label)."""
    labels = {*OF_O9, *seen}
    rules = {*(rule.name for rule in BUILT_IN), *seen.get("rule", ())}
    for matcher in matchers:
        if matcher.name not in labels:
            likely = similar_label(matcher.name, labels)
            hint = f"; did you mean {likely}?" if likely else ""
            yield f"no alert so far has the label {matcher.name!r:.80}, and O9 sets none of that name{hint}"
        elif matcher.name == "rule":
            for name in literal_values(matcher):
                if name not in {"", *rules}:
                    yield f"no alert so far is of the rule {name!r:.80}{suggestion(name, rules)}"


def matches(alerts: Sequence[Alert]) -> str:
    """`it matches 2 firing alerts: A, B`"""
    if not alerts:
        return "no firing alert matches it"
    titles = list(dict.fromkeys(alert.title for alert in alerts))
    more = f", and {len(titles) - NAMED:,} more" if len(titles) > NAMED else ""
    count = f"{len(alerts):,} firing alerts" if len(alerts) > 1 else "one firing alert"
    return f"it matches {count}: {', '.join(titles[:NAMED])}{more}"


def _labels_seen(store: Store, firing: Iterable[Alert]) -> dict[str, set[str]]:
    """The values of all labels of firing and of the newest alerts."""
    newest = store.read(queries.episodes, [row["episode"] for row in store.read(queries.alerts, limit=NEAR_AMONG)])
    seen: dict[str, set[str]] = {}
    for alert in (*firing, *(alert_in(episode) for episode, _ in newest.values())):
        for name, value in alert.labels.items():
            seen.setdefault(name, set()).add(value)
    return seen


def _expired(store: Store, typed: str, known: Mapping[str, str], by: str) -> Answer:
    name, problem = typed, ""
    try:
        name = pick(typed, known, "silence", "o9 alerts silence list", store)
    except OptimizationError as error:  # or it has expired, and is no longer listed
        problem = str(error)
    try:
        was_active = store.write(EndSilence(name, by))
    except OptimizationStoreError:
        raise
    except OptimizationError:
        return Answer(typed, Outcome.UNKNOWN, problem)
    if not was_active:
        return Answer(name, Outcome.ALREADY, f"{name}: already expired")
    return Answer(name, Outcome.DONE, f"{name}: expired; firing alerts that it suppressed are sent from now on")
