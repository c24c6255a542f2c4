"""What the operator has set: limits, and defaults for what is submitted, for all, for a type, or for a strategy.

A policy has a name: `all`, a type's value, or a strategy's name. Its config may hold

- `max_concurrent_optimizations`: how many of these may run at once, counted once over all nodes;
- `timeout_seconds`, `max_attempts`: for what is submitted without its own.

Of several that apply, each limit holds; of defaults the strategy's counts before the type's, that before `all`.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

from sqlalchemy import Connection, delete, select

from o9.model.errors import OptimizationError, OptimizationValidationError
from o9.store.core.column_types import to_json
from o9.store.core.unit import Operation, UnitOfWork
from o9.store.schema.optimizations import POLICY

ALL = "all"
LIMIT = "max_concurrent_optimizations"
DEFAULTS = ("timeout_seconds", "max_attempts")
Policies = Mapping[str, Mapping[str, Any]]


@dataclass(frozen=True)
class SetPolicy(Operation[None]):
    """Put a policy in the place of the one that has its name; an empty config lifts it.

    Raises OptimizationValidationError, naming the key.
    """

    name: str
    config: Mapping[str, Any] = field(default_factory=dict)

    def apply(self, unit: UnitOfWork) -> None:
        if not isinstance(self.name, str) or not self.name.strip():
            raise OptimizationValidationError("name", f"a policy is for {ALL!r}, a type or a strategy, by its name")
        config = checked(self.config)
        if not config:
            unit.connection.execute(delete(POLICY).where(POLICY.c.name == self.name))
            return
        unit.upsert(POLICY, [{"name": self.name, "config": to_json(config), "at": unit.now}])


def checked(config: Mapping[str, Any]) -> dict[str, Any]:
    """The config without what is None. Raises OptimizationValidationError, naming the key."""
    if not isinstance(config, Mapping):
        raise OptimizationValidationError("config", f"expected keys and values, got {type(config).__name__}")
    for key, value in config.items():
        if key not in (LIMIT, *DEFAULTS):
            raise OptimizationValidationError(f"config.{key}", f"not one of {', '.join((LIMIT, *DEFAULTS))}")
        number = isinstance(value, int | float) and not isinstance(value, bool)
        whole = number and (key == "timeout_seconds" or isinstance(value, int))
        if value is not None and not (whole and 0 < value < float("inf")):
            kind = "a number of seconds above 0" if key == "timeout_seconds" else "a whole number of 1 or more"
            raise OptimizationValidationError(f"config.{key}", f"{value!r} is not {kind}; leave it out to lift it")
    return {key: value for key, value in config.items() if value is not None}


class PoliciesChangedError(OptimizationError):
    """There are other policies now than those that a submission went by: `current`."""

    def __init__(self, current: Policies) -> None:
        super().__init__("the policies have changed; submit it again")
        self.current = current


class CurrentPolicies:
    """Of one unit of work, which reads them once."""

    def __init__(self) -> None:
        self._found: Policies | None = None

    def check(self, unit: UnitOfWork, assumed: Policies) -> None:
        """Raises PoliciesChangedError where they are others."""
        if self._found is None:
            self._found = policies(unit.connection)
        if self._found != assumed:
            raise PoliciesChangedError(self._found)


def policies(connection: Connection) -> dict[str, dict[str, Any]]:
    """All policies by name."""
    return {name: json.loads(config) for name, config in connection.execute(select(POLICY.c.name, POLICY.c.config))}


def room(policies: Policies, held: Mapping[tuple[str, str], int], limit: int) -> Callable[[str, str], bool]:
    """Is there room for one more of a type and strategy, when `held` are taken, by type and strategy?"""
    total = sum(held.values())

    def below(name: str, taken: int) -> bool:
        most = policies.get(name, {}).get(LIMIT)
        return most is None or taken < most

    def has_room(kind: str, strategy: str) -> bool:
        of_kind = sum(count for (other, _), count in held.items() if other == kind)
        of_strategy = sum(count for (_, other), count in held.items() if other == strategy)
        return total < limit and below(ALL, total) and below(kind, of_kind) and below(strategy, of_strategy)

    return has_room


def with_defaults(policies: Policies, kind: str, strategy: str, metadata: Mapping[str, Any]) -> dict[str, Any]:
    """`metadata`, with the policies' defaults where it has none of its own."""
    filled = dict(metadata)
    for name in (strategy, kind, ALL):
        for key in DEFAULTS:
            if key not in filled and key in policies.get(name, {}):
                filled[key] = policies[name][key]
    return filled
