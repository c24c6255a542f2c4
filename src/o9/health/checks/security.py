"""Are parameters and risk within their limits, is the record free of secrets, and are code and data the same? Pure.

Contract. A value that looks like a secret is never repeated; the finding names its place. The search for secrets covers
the record, but neither Prefect's logs nor what the objective prints.
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterator, Mapping
from typing import Any

from o9.health.checks.check import SHOWN, Check, examples, unknown
from o9.health.checks.provenance import provenance
from o9.health.facts import HealthFacts
from o9.model.search_space import is_number

SPACE, RISK, SECRETS = "security.search_space", "security.risk_limits", "security.secrets"
_OF_THE_STATE = (
    "name", "description", "current_step", "parameters", "optimized_parameters", "results", "metadata", "issues",
    "warnings",
)  # fmt: skip
DEEPEST = 20
_SECRET_NAME = re.compile(
    r"(?:^|[_\-.])(?:password|passwd|secret|api_?key|access_?token|auth_?token|private_?key)$", re.I
)
# Cheap to match on hostile input: `re` does not release the interpreter's lock.
_SECRET_VALUE = re.compile(
    r"-----BEGIN [A-Z ]*PRIVATE KEY-----|\bAKIA[0-9A-Z]{16}\b|\bgh[pousr]_[A-Za-z0-9]{36}|\bsk-[A-Za-z0-9_-]{20,}"
    r"|\bxox[abprs]-[A-Za-z0-9-]{10,}|\bpnu_[A-Za-z0-9]{30,}|(?<![\w-])eyJ[\w-]{10,}\.eyJ[\w-]{10,}\.[\w-]{10,}"
    r"|://[^/\s:@]+:[^/\s@]+@"
)
# In free text: password='hunter', api_key=abc123; not password=password, nor password=os.environ["PASSWORD"].
_SECRET_IN_TEXT = re.compile(
    r"(?:password|passwd|secret|api_?key|access_?token|auth_?token|private_?key)[\"']?\s*[=:]\s*"
    r"(?:[\"'][^\"'\s]{4,}[\"']|(?=\S{0,200}\d)[\w!#$%&*+./@^-]{6,}(?=[\s,;)]|$))",
    re.I,
)


def security(facts: HealthFacts) -> list[Check]:
    return [*within_space(facts), *risk_limits(facts), secrets(facts), *provenance(facts)]


def within_space(facts: HealthFacts) -> list[Check]:
    """Every trial's parameters, and the optimized ones, lie inside the search space. No check without trials."""
    space = facts.space
    sets = {f"trial {trial.number}": trial.parameters for trial in facts.trials}
    if not sets:
        return []
    if space is None:
        remedy = "set metadata.search_space, or register the objective in the process that checks"
        return [unknown(SPACE, "the search space is unknown here", remedy, essential=True)]
    if facts.state.optimized_parameters:
        sets["optimized_parameters"] = facts.state.optimized_parameters
    outside = [where for where, parameters in sets.items() if not space.contains(_searched(space.names, parameters))]
    if outside:
        words = f"{len(outside)} of {len(sets)} parameter sets lie outside the search space: {examples(outside)}"
        remedy = "do not use them; correct the strategy"
        return [Check(SPACE, 0.0, words, remedy, True, {"outside": outside[:SHOWN]})]
    return [Check(SPACE, 1.0, f"all {len(sets)} parameter sets lie inside the search space", "", True)]


def risk_limits(facts: HealthFacts) -> list[Check]:
    """Compare `metadata["risk_limits"]`, such as {"drawdown": 0.2}, with the best trial's metrics.

    A metric has the limit's name, with or without `max_`. Absolute values are compared: a drawdown of -0.25 is 0.25. A
    limit without a metric makes the part unknown. No check without limits.
    """
    limits = facts.state.metadata.get("risk_limits")
    if limits is None:
        return []
    if not isinstance(limits, Mapping) or not limits:
        return [unknown(RISK, 'risk_limits is not a mapping such as {"drawdown": 0.2}', "correct it", essential=True)]
    if facts.best is None:
        return [unknown(RISK, "no trial has completed", essential=True)]
    checks = []
    for limit, most in limits.items():
        name, metrics = f"{RISK}.{limit}", facts.best.metrics
        bare = str(limit).removeprefix("max_")
        value = next((metrics[key] for key in (str(limit), bare, f"max_{bare}") if key in metrics), None)
        if not is_number(most) or not math.isfinite(most):
            checks.append(unknown(name, f"the limit {most!r:.60} is not a number", "correct it", essential=True))
        elif value is None:
            why = f"trial {facts.best.number}, the best, has no metric {bare!r}"
            remedy = f"return Evaluation(…, metrics={{{bare!r}: …}}) from the objective"
            checks.append(unknown(name, why, remedy, essential=True))
        else:
            kept = abs(value) <= abs(most)
            words = f"the best trial has {bare} {value:.6g}, the limit is {most:.6g}"
            remedy = "" if kept else "do not use this result; make the limit part of the objective"
            checks.append(Check(name, 1.0 if kept else 0.0, words, remedy, True, {"value": value, "limit": most}))
    return checks


def secrets(facts: HealthFacts) -> Check:
    """No password, key or token, by name or by form, in parameters, results, errors, issues and messages."""
    found = [where for place, value in _places(facts) for where in _secret_places(place, value, 0)]
    if found:
        words = f"{len(found)} values look like secrets: {examples(found)}"
        remedy = "revoke these secrets, which stay in the record; read new ones from the environment or a Prefect block"
        return Check(SECRETS, 0.0, words, remedy, evidence={"places": found[:SHOWN]})
    return Check(SECRETS, 1.0, "no value of the record looks like a secret")


def _places(facts: HealthFacts) -> Iterator[tuple[str, Any]]:
    for name in _OF_THE_STATE:
        yield name, getattr(facts.state, name)
    errors: set[str] = set()
    for trial in facts.trials:
        yield f"trial {trial.number}", trial.parameters
        if trial.error and trial.error not in errors:  # an error that a thousand trials repeat is searched once
            errors.add(trial.error)
            yield f"trial {trial.number}.error", trial.error
    for number, row in enumerate(facts.transitions):
        yield f"transitions[{number}].message", row["message"]
    for row in facts.prefect_states:
        yield f"{row['state_name']} of {row['run_name']} in Prefect", row["message"]


def _secret_places(place: str, value: Any, depth: int) -> Iterator[str]:
    if depth > DEEPEST:
        return
    if isinstance(value, Mapping):
        for key, inner in value.items():
            if isinstance(inner, str) and inner and _SECRET_NAME.search(str(key)):
                yield f"{place}.{key}"
            else:
                yield from _secret_places(f"{place}.{key}", inner, depth + 1)
    elif isinstance(value, (list, tuple)):
        for position, inner in enumerate(value):
            yield from _secret_places(f"{place}[{position}]", inner, depth + 1)
    elif isinstance(value, str) and (_SECRET_VALUE.search(value) or _SECRET_IN_TEXT.search(value)):
        yield place


def _searched(names: tuple[str, ...], parameters: Mapping[str, Any]) -> dict[str, Any]:
    """Leave out the fixed parameters."""
    return {name: parameters[name] for name in names if name in parameters}
