"""What a submission may hold. Each refusal is an OptimizationValidationError that names the field and the remedy.

`validate_new` checks everything about a new optimization that needs no strategy, and tells all faults at once:
objectives, samplers and search spaces are judged by `o9.strategies`. `METADATA` are the keys that there are.
`validate_changes` checks values that are to replace fields of one that is there. What passes is stored and read back as
it was, with tuples as lists. Nothing is changed or corrected.
"""

from __future__ import annotations

import json
import math
import re
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from decimal import Decimal
from enum import Enum
from pathlib import PurePath
from typing import Any

from o9.model.errors import Faults, OptimizationValidationError
from o9.model.optimization import FIGURES, GIVEN, OptimizationAlert, OptimizationState, as_utc
from o9.model.states import AlertLevel, OptimizationPriority, OptimizationStatus, OptimizationType
from o9.text.suggest import did_you_mean, hint_of, near

ID_LIMIT = 200
NAME_LIMIT = 500
TITLE_LIMIT = 1_000
STEP_LIMIT = 1_000
DESCRIPTION_LIMIT = 10_000
JSON_LIMIT_BYTES = 1 << 20
LONGEST_PLAIN_BYTES = 32  # of a number, true, false or null, a bracket pair, with what stands around it
MOST_BYTES_A_CHARACTER = 6  # \\u001f
NESTING_LIMIT = 64
AFTER_LIMIT = 1_000
COUNT_LIMIT = 2**31 - 1  # PostgreSQL's integer
INTEGER_LIMITS = (-(2**63), 2**63 - 1)
TIMEOUT_LIMIT_SECONDS = 10 * 366 * 86_400.0

Check = Callable[[str, Any], None]


@dataclass(frozen=True)
class Key:
    """A key of the metadata. `meaning` reads on after its name; `check` None: it is free, or the strategy checks it."""

    meaning: str
    check: Check | None = None


def validate_new(state: OptimizationState) -> None:
    """Raise OptimizationValidationError for all that keeps `state` from being submitted, whatever its strategy."""
    if not isinstance(state, OptimizationState):
        raise OptimizationValidationError(
            "optimization",
            f"expected an OptimizationState, got {type(state).__name__}; from_dict() makes one of fields",
        )
    faults = Faults()
    for name, check in _CHECKS.items():
        with faults:
            check(name, getattr(state, name))
    _validate_life(state, faults)
    if isinstance(state.metadata, dict):
        with faults:
            validate_metadata(state.optimization_id, state.metadata)
    faults.refuse()


def unknown_keys(metadata: Mapping[str, Any], declared: Collection[str] = ()) -> Iterator[OptimizationValidationError]:
    """A fault for each key of the metadata that means nothing; `declared` are those of a user's strategy."""
    known = [*METADATA, *declared]
    for key in metadata:
        if key not in known:
            yield OptimizationValidationError(
                f"metadata.{key!s:.60}", f"there is no such key; {_remedy_of_key(key, known)}"
            )


def _remedy_of_key(key: str, known: Sequence[str]) -> str:
    if key in _CHECKS and key != "metadata":
        return "it is a field of its own: put it beside metadata"
    if key in _ELSEWHERE:
        return f"here that is {_ELSEWHERE[key]}"
    if hint := did_you_mean(near(key, known)):
        return hint
    return (
        "what an objective or a strategy is to know goes into parameters; notes and tags are free; a strategy of your "
        "own may declare keys: register_strategy(name, …, metadata=(…,))"
    )


def validate_metadata(optimization_id: str, metadata: Mapping[str, Any]) -> None:
    """Raise OptimizationValidationError for all values that known keys cannot have."""
    faults = Faults()
    for name, key in METADATA.items():
        if name in metadata and key.check is not None:
            with faults:
                key.check(f"metadata.{name}", metadata[name])
    if "retry_from_step" in metadata and "retry_of" not in metadata:
        faults.add(
            OptimizationValidationError("metadata.retry_from_step", "of which one? name it in metadata.retry_of")
        )
    after = metadata.get("after")
    if isinstance(after, list | tuple) and optimization_id in after:
        faults.add(OptimizationValidationError("metadata.after", "it cannot wait for itself; take its own id out"))
    faults.refuse()


def validate_changes(changes: Mapping[str, Any]) -> None:
    """Raise OptimizationValidationError for the first of these fields of an optimization that cannot be stored."""
    for name, value in changes.items():
        if name not in _CHECKS:
            raise OptimizationValidationError(name, f"no such field; the fields are {', '.join(_CHECKS)}")
        _CHECKS[name](name, value)


def validate_alert(alert: OptimizationAlert) -> None:
    """Raise OptimizationValidationError for the first thing that keeps `alert` from being taken.

    It may be about an optimization that nobody knows, or about none. How long its message is, is for others to bound.
    """
    if not isinstance(alert, OptimizationAlert):
        raise OptimizationValidationError(
            "alert", f"expected an OptimizationAlert, got {type(alert).__name__}; from_dict() makes one of fields"
        )
    for name, check in _ALERT_CHECKS.items():
        check(name, getattr(alert, name))


def _validate_life(state: OptimizationState, faults: Faults) -> None:
    if state.status is not OptimizationStatus.CREATED:
        problem = f"a new optimization is created, not {state.status.value}; leave the rest of its life to O9"
        faults.add(OptimizationValidationError("status", problem))
    if state.completed_steps:
        problem = "a new optimization has completed none; leave it at 0"
        faults.add(OptimizationValidationError("completed_steps", problem))
    for name in ("started_at", "completed_at"):
        if getattr(state, name) is not None:
            faults.add(OptimizationValidationError(name, "O9 records it when it happens; leave it out"))


def _text(limit: int, *, lines: bool = False, required: bool = False) -> Check:
    """A check for text of at most `limit` characters; `lines`: it may hold line breaks and tabs."""
    forbidden = _CONTROL_BUT_LINES if lines else _CONTROL

    def check(field: str, value: Any) -> None:
        if not isinstance(value, str):
            raise _wrong_type(field, "text", value)
        if required and not value.strip():
            raise OptimizationValidationError(field, "it is empty; give a text that is not only blanks")
        if len(value) > limit:
            raise OptimizationValidationError(field, f"{len(value):,} characters; at most {limit:,} are allowed")
        if found := forbidden.search(value):
            raise OptimizationValidationError(field, f"it holds {_named(found[0])}; take that out")

    return check


def _words(limit: int | None = None) -> Check:
    """A check for a text in which anything may stand; one with a `limit` says something."""

    def check(field: str, value: Any) -> None:
        if not isinstance(value, str):
            raise _wrong_type(field, "text", value)
        if limit is not None and not value.strip():
            raise OptimizationValidationError(field, "it is empty; say in a few words what happened")
        if limit is not None and len(value) > limit:
            raise OptimizationValidationError(field, f"{len(value):,} characters; at most {limit:,} are allowed")

    return check


def _check_id_or_none(field: str, value: Any) -> None:
    if value != "":
        _check_id(field, value)


def _check_id(field: str, value: Any) -> None:
    _check_id_text(field, value)
    if value != value.strip():
        raise OptimizationValidationError(field, f"{value!r} begins or ends with a blank; take that out")
    if "/" in value or value in {".", ".."}:
        raise OptimizationValidationError(field, f"{value!r} cannot be part of a URL's path; use '-' instead of '/'")


def _ids(field: str, value: Any) -> None:
    if not isinstance(value, (list, tuple)):
        raise _wrong_type(field, "a list of ids", value)
    if len(value) > AFTER_LIMIT:
        raise OptimizationValidationError(field, f"{len(value):,} ids; at most {AFTER_LIMIT:,} are allowed")
    for index, name in enumerate(value):
        _check_id(f"{field}[{index}]", name)
    if len(set(value)) < len(value):
        raise OptimizationValidationError(field, "it names one more than once; name each once")


def _number(low: float = -math.inf, high: float = math.inf, *, optional: bool = False) -> Check:
    """A check for a finite number from `low` to `high`."""

    def check(field: str, value: Any) -> None:
        if optional and value is None:
            return
        if isinstance(value, bool) or not isinstance(value, (int, float)):
            raise _wrong_type(field, "a number", value)
        _check_number(field, value)
        if not low <= value <= high:
            raise OptimizationValidationError(field, f"{value} is not {_between(low, high)}")

    return check


def _integer(low: int, high: int, *, optional: bool = False) -> Check:
    def check(field: str, value: Any) -> None:
        if optional and value is None:
            return
        if isinstance(value, bool) or not isinstance(value, int):
            raise _wrong_type(field, "an integer", value)
        if not low <= value <= high:
            raise OptimizationValidationError(field, f"{_shown(value)} is not {_between(low, high)}")

    return check


def _flag(field: str, value: Any) -> None:
    if not isinstance(value, bool):
        raise _wrong_type(field, "True or False", value)


def _choice(*known: str) -> Check:
    def check(field: str, value: Any) -> None:
        if value not in known:
            raise OptimizationValidationError(
                field, f"{_shown(value)} is not one of {', '.join(known)}{hint_of(value, known)}"
            )

    return check


def _one_of(kind: type[Enum]) -> Check:
    def check(field: str, value: Any) -> None:
        if not isinstance(value, kind):
            raise _wrong_type(field, f"a member of {kind.__name__}", value)

    return check


def _moment(*, optional: bool = False) -> Check:
    def check(field: str, value: Any) -> None:
        if optional and value is None:
            return
        if not isinstance(value, datetime):
            raise _wrong_type(field, "a datetime", value)
        try:
            as_utc(value)
        except (OverflowError, ValueError):
            raise OptimizationValidationError(field, f"{value} cannot be expressed in UTC; give a later one") from None

    return check


def _iso_moment(field: str, value: Any) -> None:
    try:
        moment = datetime.fromisoformat(value)
    except (TypeError, ValueError):
        raise _wrong_type(field, "ISO 8601 text such as 2026-01-31T09:30:00+00:00", value) from None
    if moment.tzinfo is None:
        raise OptimizationValidationError(field, f"{value!r} has no offset from UTC; write 2026-01-31T09:30:00+00:00")
    _moment()(field, moment)


def _limits(field: str, value: Any) -> None:
    """A number for each name, or None: a limit that cannot be read would never be broken."""
    if value is None:
        return
    if not isinstance(value, Mapping) or not value:
        raise _wrong_type(field, 'a dict such as {"drawdown": 0.2}', value)
    for name, limit in value.items():
        _number()(f"{field}.{name}", limit)


def _figures(field: str, value: Any) -> None:
    if not isinstance(value, (list, tuple)) or not all(name in FIGURES for name in value):
        raise _wrong_type(field, f"a list of {' and '.join(FIGURES)}", value)


def _json(kind: type[dict[str, Any]] | type[list[Any]]) -> Check:
    """A check for a dict or list of what JSON can hold, of at most JSON_LIMIT_BYTES as JSON."""

    def check(field: str, value: Any) -> None:
        if not isinstance(value, kind):
            raise _wrong_type(field, f"a {kind.__name__}", value)
        if not value:
            return
        walk = _Walk(field)
        walk.check(field, value, 1)
        if walk.most_bytes > JSON_LIMIT_BYTES:
            size = len(json.dumps(value, ensure_ascii=False, separators=(",", ":")).encode())
            if size > JSON_LIMIT_BYTES:
                raise _too_large(field, f"{size:,} bytes")

    return check


class _Walk:
    """Looks at each value inside one field, and stops once there are too many to fit."""

    def __init__(self, field: str) -> None:
        self._field = field
        self._left = JSON_LIMIT_BYTES
        self.most_bytes = 2  # that it can have as JSON

    def check(self, path: str, value: Any, depth: int) -> None:
        self._left -= 1  # each value takes a byte at least; so that what refers to itself many times over ends, too
        if self._left < 0:
            raise _too_large(self._field, f"over {JSON_LIMIT_BYTES:,} values")
        self.most_bytes += LONGEST_PLAIN_BYTES
        if value is None or isinstance(value, bool):
            return
        if isinstance(value, str):
            self._text(path, value)
        elif isinstance(value, (int, float)):
            _check_number(path, value)
        elif isinstance(value, (dict, list, tuple)):
            if depth > NESTING_LIMIT:
                raise OptimizationValidationError(
                    self._field, f"nested deeper than {NESTING_LIMIT} levels; flatten it, or keep it in a file"
                )
            self._check_members(path, value, depth)
        else:
            raise OptimizationValidationError(path, f"JSON cannot hold {_a_kind(value)}; {_remedy(value)}")

    def _check_members(self, path: str, value: Any, depth: int) -> None:
        if not isinstance(value, dict):
            for index, member in enumerate(value):
                self.check(f"{path}[{index}]", member, depth + 1)
            return
        for key, member in value.items():
            if not isinstance(key, str):
                raise OptimizationValidationError(
                    f"{path}[{_shown(key)}]", f"the key is {_a_kind(key)}, and JSON's keys are texts; give text"
                )
            inner = f"{path}.{key}" if key.isidentifier() else f"{path}[{_shown(key)}]"
            self._text(inner, key)
            self.check(inner, member, depth + 1)

    def _text(self, path: str, value: str) -> None:
        _check_json_text(path, value)
        self.most_bytes += MOST_BYTES_A_CHARACTER * len(value) + 2


def _check_json_text(path: str, value: str) -> None:
    if found := _NOT_IN_JSON.search(value):
        raise OptimizationValidationError(path, f"it holds {_named(found[0])}; take that out")


def _check_number(path: str, value: float) -> None:
    if isinstance(value, int):
        if not INTEGER_LIMITS[0] <= value <= INTEGER_LIMITS[1]:
            raise OptimizationValidationError(path, f"{_shown(value)} needs more than 64 bits; give a smaller number")
    elif not math.isfinite(value):
        raise OptimizationValidationError(
            path, f"{value} is not a finite number; leave it out, or use null in metadata"
        )


def _wrong_type(field: str, expected: str, value: Any) -> OptimizationValidationError:
    remedy = f"; {_remedy(value)}" if hasattr(value, "ndim") else ""
    return OptimizationValidationError(field, f"expected {expected}, got {_a_kind(value)} ({_shown(value)}){remedy}")


def _too_large(field: str, size: str) -> OptimizationValidationError:
    return OptimizationValidationError(
        field, f"{size}; at most {JSON_LIMIT_BYTES:,} bytes (1 MiB) of JSON are allowed: keep large data in a file"
    )


def _remedy(value: Any) -> str:
    """How to turn `value` into something that can be stored."""
    if hasattr(value, "ndim"):
        return "convert it with .item()" if value.ndim == 0 else "convert it with .tolist()"
    if isinstance(value, (set, frozenset)):
        return "give a list: sorted(…)"
    if isinstance(value, (bytes, bytearray)):
        return "give text: .decode() or .hex()"
    if hasattr(value, "isoformat"):
        return "give text: .isoformat()"
    if isinstance(value, (Decimal, complex)):
        return "give a float"
    if isinstance(value, PurePath):
        return "give text: str(…)"
    if isinstance(value, Mapping):
        return "give a dict: dict(…)"
    if callable(value):
        return "register it under a name, and give the name"
    return "give text, numbers, booleans, null, lists and dicts of them"


def _a_kind(value: Any) -> str:
    kind = type(value)
    if value is None:
        return "None"
    return kind.__name__ if kind.__module__ == "builtins" else f"{kind.__module__}.{kind.__name__}"


def _shown(value: Any) -> str:
    if isinstance(value, int) and not isinstance(value, bool) and value.bit_length() > 200:
        return f"an integer of {value.bit_length():,} bits"  # which Python may refuse to print
    text = ascii(value)
    return text if len(text) <= 60 else f"{text[:60]}…"


def _named(character: str) -> str:
    if "\ud800" <= character <= "\udfff":
        return f"half a character (the surrogate U+{ord(character):04X})"
    return f"the control character U+{ord(character):04X}"


def _between(low: float, high: float) -> str:
    if low == -math.inf:
        return f"at most {high:,}"
    return f"at least {low:,}" if high == math.inf else f"between {low:,} and {high:,}"


_CONTROL = re.compile("[\x00-\x1f\x7f-\x9f\ud800-\udfff]")
_CONTROL_BUT_LINES = re.compile("[\x00-\x08\x0b\x0c\x0e-\x1f\x7f-\x9f\ud800-\udfff]")
_check_id_text = _text(ID_LIMIT, required=True)
validate_node_id, validate_json = _check_id_text, _json(dict)  # of (field, value)
_NOT_IN_JSON = re.compile("[\x00\ud800-\udfff]")
_CHECKS: dict[str, Check] = {
    "optimization_id": _check_id,
    "name": _text(NAME_LIMIT),
    "description": _text(DESCRIPTION_LIMIT, lines=True),
    "optimization_type": _one_of(OptimizationType),
    "status": _one_of(OptimizationStatus),
    "priority": _one_of(OptimizationPriority),
    "created_at": _moment(),
    "updated_at": _moment(),
    "started_at": _moment(optional=True),
    "completed_at": _moment(optional=True),
    "progress": _number(0.0, 1.0),
    "current_step": _text(STEP_LIMIT, lines=True),
    "total_steps": _integer(0, COUNT_LIMIT),
    "completed_steps": _integer(0, COUNT_LIMIT),
    "current_performance": _number(),
    "baseline_performance": _number(),
    "target_performance": _number(),
    "performance_improvement": _number(),
    "parameters": _json(dict),
    "optimized_parameters": _json(dict),
    "results": _json(dict),
    "metrics": _json(dict),
    "issues": _json(list),
    "warnings": _json(list),
    "cpu_usage": _number(0.0),
    "memory_usage": _number(0.0),
    "execution_time": _number(0.0),
    "metadata": _json(dict),
}
_ALERT_CHECKS: dict[str, Check] = {
    "alert_id": _check_id,
    "optimization_id": _check_id_or_none,
    "level": _one_of(AlertLevel),
    "title": _words(TITLE_LIMIT),
    "message": _words(),
    "timestamp": _moment(),
    "resolved": _flag,
    "resolved_at": _moment(optional=True),
    "metadata": _json(dict),
}
# Every key that metadata may have. The names are columns of their own, in indexes that hold no long texts. What only
# the built-in strategy reads, and its objective, sampler and search space, `o9.strategies.plan` checks.
METADATA: dict[str, Key] = {
    "strategy": Key("who says what to try next", _text(ID_LIMIT, required=True)),
    "objective": Key("what is optimized, by a registered name or an import path"),
    "search_space": Key("the parameters to search"),
    "direction": Key("maximize or minimize", _choice("maximize", "minimize")),
    "sampler": Key("how the built-in strategy samples"),
    "seed": Key("of the sampler", _integer(0, INTEGER_LIMITS[1], optional=True)),
    "trials_per_step": Key("how many trials a step evaluates", _integer(1, 10_000)),
    "family": Key("whose trials count together", _text(NAME_LIMIT)),
    "hold_out": Key("the part of the data that the search never sees"),
    "score": Key("what is computed of returns that come without a value"),
    "market_neutral": Key("whether its returns are to be judged without a baseline", _flag),
    "risk_limits": Key("metrics of the best trial above which it is suspended", _limits),
    "timeout_seconds": Key("of running, over all attempts", _number(1e-3, TIMEOUT_LIMIT_SECONDS, optional=True)),
    "trial_timeout_seconds": Key("of one trial", _number(1e-3, TIMEOUT_LIMIT_SECONDS, optional=True)),
    "stop_after_failures": Key("failed trials in a row that end it early", _integer(1, COUNT_LIMIT, optional=True)),
    "max_attempts": Key("lives after a death", _integer(1, 1_000_000)),
    "after": Key("those that must complete before it is queued", _ids),
    "series": Key("reserved: the recurring optimization that it is a run of", _text(NAME_LIMIT, required=True)),
    "scheduled_at": Key("reserved: for when that run was scheduled", _iso_moment),
    "retry_of": Key("the one that ended and is run again", _check_id),
    "retry_from_step": Key("behind which step of that it begins", _integer(0, COUNT_LIMIT)),
    "placebo_of": Key("the one whose search it repeats on data without an edge", _check_id),
    "placebo_number": Key("which of the placebo runs of that it is", _integer(1, COUNT_LIMIT)),
    "demonstration": Key("written by O9: nothing to optimize was named", _flag),
    GIVEN: Key("which of baseline_performance and target_performance are 0, and not left out", _figures),
    "tags": Key("free"),
    "notes": Key("free"),
}
# What other tools call it.
_ELSEWHERE = {
    "n_trials": "total_steps, beside metadata, times metadata.trials_per_step",
    "n_jobs": "metadata.trials_per_step",
    "timeout": "metadata.timeout_seconds",
    "pruner": "nothing: each trial is evaluated whole",
}
