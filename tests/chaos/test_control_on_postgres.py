"""Two aggregators on one PostgreSQL, one of which is killed in the middle: nothing is lost, no limit or turn is broken.

The scenarios on SQLite are in `test_control_under_kill.py`; what looks on from inside the store is written for
PostgreSQL here.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import o9_testing
import psycopg
import pytest
import zygote
from control_chaos import (
    Floor,
    assert_completed,
    assert_leases,
    assert_order,
    assert_whole,
    most_at_work,
    node_of,
    plan,
    submitted_ago,
    wait_for,
)
from o9_testing import ledger, path_of

from o9.store import queries

LIMIT, STEPS = 3, 7
SAMPLERS = ("tpe", "random")
# Sampler, priority, and how long it has waited when it is submitted: a level is worth ten minutes.
PLANS = [("tpe", 2, 0.0), ("random", 4, 0.0), ("tpe", 1, 1900.0), ("random", 1, 0.0), ("tpe", 3, 0.0)]
PROBE = """
CREATE TABLE chaos_lease (id bigserial PRIMARY KEY, did text, optimization_id text, node text, held int,
    ahead int, queue_key float8, priority int, queued bigint);
CREATE FUNCTION chaos_look() RETURNS trigger LANGUAGE plpgsql AS $$
DECLARE
    taken bool := old.lease_expires_at IS NULL AND new.lease_expires_at IS NOT NULL;
BEGIN
    IF taken OR (old.lease_expires_at IS NOT NULL AND new.lease_expires_at IS NULL) THEN
        INSERT INTO chaos_lease (did, optimization_id, node, held, ahead, queue_key, priority, queued) VALUES (
            CASE WHEN taken THEN 'taken' ELSE 'freed' END, new.optimization_id,
            CASE WHEN taken THEN new.lease_node ELSE old.lease_node END,
            (SELECT count(*) FROM optimization WHERE lease_expires_at IS NOT NULL),
            (SELECT count(*) FROM optimization WHERE status = 'created' AND intent = 'run' AND unmet = 0
                AND lease_expires_at IS NULL AND queue_key < new.queue_key),
            new.queue_key, new.priority,
            (SELECT max(id) FROM transition WHERE optimization_id = new.optimization_id AND to_status = 'created'));
    END IF;
    RETURN NULL;
END $$;
CREATE TRIGGER chaos_look AFTER UPDATE ON optimization FOR EACH ROW EXECUTE FUNCTION chaos_look();
"""


class PostgresFloor(Floor):
    """One whose store is PostgreSQL, in whose own words the probe is."""

    def rows(self, sql: str) -> list[tuple[Any, ...]]:
        with psycopg.connect(self.url) as connection:
            return connection.execute(sql).fetchall()

    def probe(self) -> None:
        with psycopg.connect(self.url) as connection:
            connection.execute(PROBE)


@pytest.mark.slow
def test_one_of_two_nodes_dies(tmp_path: Path, postgres_url: str) -> None:
    o9_testing.session_server()
    with o9_testing.no_process_left() as environment:
        floor = PostgresFloor(tmp_path / "floor", environment, limit=LIMIT, url=postgres_url)
        try:
            floor.probe()
            for sampler in SAMPLERS:
                submit(floor, f"calm-{sampler}", sampler, 2, 0.0)
            workers = [floor.aggregator() for _ in range(2)]
            for worker in workers:
                floor.wait_ready(worker)
            floor.wait_ended()
            for number, plan_of_it in enumerate(PLANS):
                submit(floor, f"hit-{number}", *plan_of_it)
            victim, name = wait_for(lambda: at_work(floor, workers), 120, "one in the middle of its work")
            before = ledger(floor.store, name)
            assert floor.kill(victim), "it had ended by itself"
            floor.wait_ended()
            (survivor,) = (worker for worker in workers if worker is not victim)
            floor.stop(survivor)
            assert_record(floor, name, before)
            nodes = {node for (node,) in floor.rows("SELECT DISTINCT node FROM chaos_lease WHERE did = 'taken'")}
            assert nodes == {node_of(worker) for worker in workers}
        finally:
            floor.close()


def submit(floor: Floor, name: str, sampler: str, priority: int, ago: float) -> None:
    with submitted_ago(ago):
        floor.submit(plan(name, "asynchronous", STEPS, priority=priority, sampler=sampler, trials_per_step=2))


def at_work(floor: Floor, workers: list[zygote.Process]) -> tuple[zygote.Process, str] | None:
    """Who holds one that is in the middle, and its id."""
    by_node = {node_of(worker): worker for worker in workers}
    for name, state in floor.states().items():
        if name.startswith("hit") and 2 <= state.completed_steps <= STEPS - 3:
            holding = floor.store.read(queries.holding, name)
            assert holding is not None
            if holding.lease_node in by_node:
                return by_node[holding.lease_node], name
    return None


def assert_record(floor: PostgresFloor, killed: str, before: list[tuple[Any, ...]]) -> None:
    assert_completed(floor.states())
    calm = {sampler: ledger(floor.store, f"calm-{sampler}") for sampler in SAMPLERS}
    for sampler in SAMPLERS:
        assert path_of(floor.store, f"calm-{sampler}") == ["created", "initializing", "running", "completed"]
    for number, (sampler, _, _) in enumerate(PLANS):
        assert_whole(floor.store, f"hit-{number}", 2 * STEPS)
        assert ledger(floor.store, f"hit-{number}") == calm[sampler], f"hit-{number}: not the undisturbed one's"
    assert ledger(floor.store, killed)[: len(before)] == before
    holding = floor.store.read(queries.holding, killed)
    assert holding is not None
    assert (holding.deaths, holding.attempt) == (1, 2)
    assert (assert_leases(floor, LIMIT), most_at_work(floor)) == (LIMIT, LIMIT), "the limit was never reached"
    assert assert_order(floor) > len(SAMPLERS) + len(PLANS)
    assert floor.store.read(queries.nodes) == []
    assert floor.store.check() == []
