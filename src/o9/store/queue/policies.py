"""Policies: the operator's limits and submission defaults for all optimizations, for a type, or for a strategy.

A policy's name is `all`, the value of a type, or the name of a strategy. Its config may hold

- `max_concurrent_optimizations`: how many of these may run at once, counted over all nodes;
- `timeout_seconds`, `max_attempts`: defaults for submissions that set none.

If several policies apply, every limit holds. A strategy's default takes precedence over a type's, and that over `all`.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
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
    """Set or replace the policy of this name; an empty config removes it. Raises OptimizationValidationError."""

    name: str
    config: Mapping[str, Any] = field(default_factory=dict)

    def apply(self, unit: UnitOfWork) -> None:
        if not isinstance(self.name, str) or not self.name.strip():
            raise OptimizationValidationError("name", f"give {ALL!r}, the name of a type, or that of a strategy")
        config = validate_policy(self.config)
        if not config:
            unit.connection.execute(delete(POLICY).where(POLICY.c.name == self.name))
            return
        unit.upsert(POLICY, [{"name": self.name, "config": to_json(config), "at": unit.now}])


def validate_policy(config: Mapping[str, Any]) -> dict[str, Any]:
    """Return the config without keys that are None. Raises OptimizationValidationError, naming the key."""
    if not isinstance(config, Mapping):
        raise OptimizationValidationError("config", f"expected keys and values, got {type(config).__name__}")
    for key, value in config.items():
        if key not in (LIMIT, *DEFAULTS):
            raise OptimizationValidationError(f"config.{key}", f"not one of {', '.join((LIMIT, *DEFAULTS))}")
        number = isinstance(value, int | float) and not isinstance(value, bool)
        whole = number and (key == "timeout_seconds" or isinstance(value, int))
        if value is not None and not (whole and 0 < value < float("inf")):
            kind = "a number of seconds above 0" if key == "timeout_seconds" else "a whole number of 1 or more"
            raise OptimizationValidationError(f"config.{key}", f"{value!r} is not {kind}; omit the key to remove it")
    return {key: value for key, value in config.items() if value is not None}


class PoliciesChangedError(OptimizationError):
    """The policies changed after a submission had read them; `current` has the new ones."""

    def __init__(self, current: Policies) -> None:
        super().__init__("the policies have changed; submit it again")
        self.current = current


class CurrentPolicies:
    """The policies as one unit of work sees them, read once."""

    def __init__(self) -> None:
        self._found: Policies | None = None

    def check(self, unit: UnitOfWork, assumed: Policies) -> None:
        """Raises PoliciesChangedError if they differ from `assumed`."""
        if self._found is None:
            self._found = policies(unit.connection)
        if self._found != assumed:
            raise PoliciesChangedError(self._found)


def policies(connection: Connection) -> dict[str, dict[str, Any]]:
    """All policies by name."""
    return {name: json.loads(config) for name, config in connection.execute(select(POLICY.c.name, POLICY.c.config))}


def has_room(policies: Policies, held: Mapping[tuple[str, str], int], limit: int, kind: str, strategy: str) -> bool:
    """Whether the limits allow one more; `held` counts the slots in use by type and strategy."""
    total = sum(held.values())
    taken = (
        (ALL, total),
        (kind, sum(count for (other, _), count in held.items() if other == kind)),
        (strategy, sum(count for (_, other), count in held.items() if other == strategy)),
    )
    return total < limit and all(count < policies.get(name, {}).get(LIMIT, math.inf) for name, count in taken)


def with_defaults(policies: Policies, kind: str, strategy: str, metadata: Mapping[str, Any]) -> dict[str, Any]:
    """Return `metadata`, completed with the policies' defaults."""
    filled = dict(metadata)
    for name in (strategy, kind, ALL):
        for key in DEFAULTS:
            if key not in filled and key in policies.get(name, {}):
                filled[key] = policies[name][key]
    return filled
