"""`alerts ack` and `resolve`: record what a person says; the leader reads it.

Nothing here imports Prefect, or the channels.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Annotated

import typer

from o9.cli.answers import Answer, Outcome, conclude, tell, who
from o9.cli.commands.alerts.list import existing_alert
from o9.cli.open_store import existing_store
from o9.cli.options import Json, StoreUrl
from o9.model.errors import OptimizationError
from o9.store import queries
from o9.store.alerts.episodes import AcknowledgeAlert, ResolveAlert
from o9.store.store import Store
from o9.text.format import local_moment

AlertIds = Annotated[
    list[str], typer.Argument(metavar="ID", help="Ids, as `o9 alerts list` shows them, or their beginnings.")
]
By = Annotated[str | None, typer.Option("--by", metavar="NAME", help="Name of the person.  [default: you]")]


def ack(ids: AlertIds, by: By = None, store: StoreUrl = None, json: Json = False) -> int:
    """An acknowledged alert is neither repeated nor escalated."""
    return _respond(_acknowledged, ids, by, store, json)


def resolve(ids: AlertIds, by: By = None, store: StoreUrl = None, json: Json = False) -> int:
    """Its receivers are notified."""
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
            tell(answers[-1], as_json=as_json)
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
    return Answer(name, Outcome.ALREADY, f"{name}: acknowledged already, by {row['acknowledged_by']}, {at}")


def _over(store: Store, name: str) -> Answer:
    row = store.read(queries.alert, name)
    at = f", since {local_moment(row['resolved_at'])}" if row and row["resolved_at"] else ""
    return Answer(name, Outcome.ALREADY, f"{name}: over already{at}")
