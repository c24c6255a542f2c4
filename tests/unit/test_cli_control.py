"""What the control commands print: pure decisions from what was known and what was asked for."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Any

import pytest

from o9.cli.answers import Outcome
from o9.cli.commands.control import answer_to, carried_out, queue_outlook
from o9.cli.commands.submit import submitted_line
from o9.cli.session.follow import Nodes, why_idle
from o9.cli.views.history import event_line, merged
from o9.cli.views.words import command
from o9.lifecycle.control import Verb
from o9.model.specification import new_optimization
from o9.model.states import ENDED, OptimizationStatus
from o9.store.optimizations.queries import Holding
from o9.text.escape import shown

S = OptimizationStatus
NOON = datetime(2026, 1, 31, 12, tzinfo=UTC)
NODE = Nodes({"node": {"limit": 1}})
NOBODY = Nodes()
DEAD = Nodes({}, {"node": NOON})
_EMPTY: dict[str, Any] = dict.fromkeys(Holding.__dataclass_fields__)


def holding(status: str = "running", intent: str = "run", **fields: Any) -> Holding:
    held = "node" if status in ("running", "initializing") else None
    given = {"status": status, "intent": intent, "intent_by": "", "attempt": 1, "lease_node": held, "unmet": 0}
    return Holding(**_EMPTY | given | fields)


@pytest.mark.parametrize(
    ("wish", "before", "after", "nodes", "outcome", "told"),
    [
        ("pause", holding(), "running", NODE, "asked", "running; it will pause when its step is committed"),
        ("pause", holding(intent="pause"), "running", NODE, "already", "running; it will pause when its step is"),
        ("pause", holding("initializing"), "initializing", NODE, "asked", "initializing; it will pause when"),
        ("pause", holding(), "running", DEAD, "asked", "running, but its node node has been gone since 2026-01-31"),
        ("pause", holding(), "running", DEAD, "asked", "the next aggregator that runs will pause it"),
        ("pause", holding("created", attempt=0), "paused", NODE, "done", "paused"),
        ("pause", holding("created", attempt=2), "paused", NODE, "done", "paused"),
        ("pause", holding(lease_node=None), "paused", NODE, "done", "paused"),
        ("pause", holding("created", lease_node="node"), "created", NODE, "asked", "created; it will pause"),
        ("pause", holding("paused", "pause"), "paused", NODE, "already", "already paused"),
        ("pause", holding("suspended"), "suspended", NODE, "already", "already suspended"),
        ("cancel", holding(), "running", NODE, "asked", "the best so far is kept"),
        ("cancel", holding(), "running", DEAD, "asked", "the next aggregator that runs will cancel it"),
        ("cancel", holding("paused", "pause"), "cancelled", NODE, "done", "cancelled"),
        ("cancel", holding("created", attempt=0), "cancelled", NODE, "done", "cancelled"),
        ("cancel", holding("cancelled", "cancel"), "cancelled", NODE, "already", "already cancelled"),
        ("resume", holding("paused", "pause"), "created", NODE, "asked", "queued; it starts when a slot is free"),
        ("resume", holding("paused", "pause"), "created", NOBODY, "asked", "no node runs queued optimizations now"),
        ("resume", holding("suspended"), "created", NODE, "asked", "queued; "),
        ("resume", holding(), "running", NODE, "already", "already running"),
        ("resume", holding(), "running", DEAD, "asked", "has been gone since"),
        ("resume", holding(intent="pause"), "running", NODE, "done", "running; it continues"),
        ("resume", holding("created"), "created", NODE, "already", "already queued; it starts when a slot is free"),
        ("start", holding("created", "hold"), "created", NODE, "asked", "queued; it starts when a slot is free"),
        ("start", holding("created", "hold", unmet=1), "created", NODE, "asked", "when another has completed"),
        ("start", holding("created", "hold", unmet=3), "created", NODE, "asked", "when 3 others have completed"),
    ],
)  # fmt: skip
def test_what_is_said_is_what_is_true(
    wish: str, before: Holding, after: str, nodes: Nodes, outcome: str, told: str
) -> None:
    found, text = answer_to(Verb(wish), "alpha", before, S(after), nodes)
    assert (found, told in text) == (Outcome(outcome), True), text


def test_every_wish_has_an_answer_whatever_the_status() -> None:
    for wish in Verb:
        for status in S:
            for nodes in (NODE, NOBODY, DEAD):
                for intent in ("hold", "run", "pause", "cancel", "timeout"):
                    outcome, text = answer_to(wish, "alpha", holding(status.value, intent), status, nodes)
                    assert outcome in (Outcome.DONE, Outcome.ASKED, Outcome.ALREADY)
                    assert text


@pytest.mark.parametrize(
    ("wish", "so", "never"),
    [
        (Verb.PAUSE, {S.PAUSED, S.SUSPENDED}, ENDED),
        (Verb.CANCEL, {S.CANCELLED}, ENDED - {S.CANCELLED}),
        (Verb.RESUME, {S.INITIALIZING, S.RUNNING, S.COMPLETED, S.FAILED, S.TIMEOUT}, {S.CANCELLED}),
        (Verb.START, {S.INITIALIZING, S.RUNNING, S.COMPLETED, S.FAILED, S.TIMEOUT}, {S.CANCELLED}),
    ],
)
def test_when_waiting_is_over(wish: Verb, so: set[S], never: set[S]) -> None:
    assert {status for status in S if carried_out(wish, status)} == so
    assert {status for status in S if carried_out(wish, status) is None} == never


def test_nobody_works_on_what_waits_without_a_node_or_was_held_by_a_dead_one() -> None:
    take_no_work = Nodes({"node#flows": {}, "node#sync": {}})
    assert why_idle(S.CREATED, holding("created"), NOBODY, "a")
    assert why_idle(S.CREATED, holding("created"), take_no_work, "a")
    assert why_idle(S.RUNNING, holding(), DEAD, "a")
    picky = Nodes({"node": {"limit": 1, "only": ["b"]}, "node#flows": {}})
    assert why_idle(S.CREATED, holding("created"), picky, "a")
    assert why_idle(S.CREATED, holding("created"), picky, "b") is None
    assert why_idle(S.CREATED, holding("created"), NODE, "a") is None
    assert why_idle(S.CREATED, holding("created", "hold"), NOBODY, "a") is None
    assert why_idle(S.RUNNING, holding(), NOBODY, "a") is None  # nothing is known of its node
    assert why_idle(S.PAUSED, holding("paused"), NOBODY, "a") is None
    assert why_idle(S.FAILED, holding("failed"), DEAD, "a") is None


def test_the_outlook_suggests_what_can_be_typed() -> None:
    told = queue_outlook("my id's", holding("created"), NOBODY, " --store 'a b'")
    assert told.endswith("""`o9 resume --here 'my id'"'"'s' --store 'a b'` runs it""")


@pytest.mark.parametrize(
    ("status", "intent", "nodes", "told"),
    [
        ("failed", "run", NOBODY, "; `o9 retry x` queues it again, as a new optimization"),
        ("completed", "run", NOBODY, ""),
        ("paused", "pause", NODE, "; `o9 resume x` queues it again"),
        ("paused", "pause", NOBODY, "; `o9 resume --here x` continues it here, after the last committed step"),
        ("created", "hold", NODE, "; `o9 start x` queues it"),
        ("running", "run", NODE, ""),
        ("running", "run", DEAD, "; `o9 resume --here x` continues it here, after the last committed step"),
    ],
)
def test_submitting_again_says_what_is_true(status: str, intent: str, nodes: Nodes, told: str) -> None:
    state = new_optimization({"optimization_id": "x", "metadata": {"objective": "branin"}})
    state.status = S(status)
    line = submitted_line(state, holding(status, intent), nodes, "", known=True)
    assert line == f"x  {status}  already recorded, unchanged{told}"


@pytest.mark.parametrize(
    ("text", "harmless"),
    [
        ("plain 横截面 👩‍🔬 é", "plain 横截面 👩‍🔬 é"),
        ("\u202egnp.exe", "\\u202egnp.exe"),
        ("a\u2066b\u2069", "a\\u2066b\\u2069"),
        ("\x1b[2J\x9b\r\n", "\\x1b[2J\\x9b\\r\\n"),
        ("\ud800", "\\ud800"),
    ],
)
def test_what_is_shown_steers_no_terminal(text: str, harmless: str) -> None:
    assert shown(text) == harmless
    assert shown(harmless) == harmless


def test_commands_can_be_typed() -> None:
    assert command("show", ["a", "b c"], " --store x") == "o9 show a 'b c' --store x"


def test_a_wish_that_moved_at_once_is_told_once() -> None:
    at = NOON.isoformat()
    moved = {"id": 1, "optimization_id": "a", "at": at, "cause": "person", "message": "pause requested by ann",
             "from_status": "created", "to_status": "paused"}  # fmt: skip
    same = {"id": 1, "optimization_id": "a", "at": at, "intent": "pause", "by": "ann"}
    other = same | {"id": 2, "optimization_id": "b"}
    assert merged([moved], [same, other]) == [other, moved]
    assert event_line(moved, of_many=True).endswith("a  created → paused (person): pause requested by ann")
    assert event_line(other).endswith("  pause requested by ann")
