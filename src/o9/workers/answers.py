"""Checks what an objective returned and makes it a plain dict; and turns its exceptions into text.

Contract. Runs in child processes and in the event loop, and imports only the standard library. A valid answer becomes a
plain dict; an invalid one raises BadAnswer, which says what was returned and what is expected. A child sends the dict
to its node as JSON, bit for bit, without users' classes. Texts have at most ERROR_LENGTH characters, without NULs and
lone surrogates, so that every store can hold them. Nothing else is raised, whatever users' objects do.
"""

from __future__ import annotations

import binascii
import itertools
import math
import os
import sys
from array import array
from collections.abc import Sequence
from typing import Any, TypeAlias

from o9.model.dates import index_of, seconds_of

ERROR_LENGTH = 4_000
SUMMARY_LENGTH = 1_000
TRACEBACK_FRAMES = 8
MOST_METRICS = 500  # even with the longest names they fit into an optimization's results
# The folders whose frames come before the objective's in a traceback.
_OURS = {os.path.dirname(__file__), os.path.join(os.path.dirname(os.path.dirname(__file__)), "strategies")}
RETURNS = ("returns", "hold_out_returns", "baseline_returns", "baseline_hold_out_returns")
SERIES = (*RETURNS, "dates", "hold_out_dates")
_SAME_PERIODS = {"baseline_returns": "returns", "baseline_hold_out_returns": "hold_out_returns"}
NAN = "NaN: "  # begins the error of an answer that contains NaN, in place of an exception's class
Numbers: TypeAlias = "array[float]"
EXPECTED = "an objective returns one finite number or an Evaluation"


class BadAnswer(Exception):
    """The objective returned something that is not a result."""


def plain_answer(answer: Any) -> dict[str, Any]:
    """Return the fields of an Evaluation as plain values, with returns and dates as arrays of float64.

    The value is None if O9 is to compute it (`o9.workers.measured_objective`). Raises BadAnswer; raises Infeasible for
    an infeasible Evaluation.
    """
    # If the module was never imported, the answer cannot be an instance of its class.
    model = sys.modules.get("o9.model.trial")
    if model is None or not isinstance(answer, model.Evaluation):
        return {"value": _result(answer)}
    if answer.feasible is not True:
        if str(answer.feasible) != "False":  # numpy's False is not `False`
            raise BadAnswer(f"the objective returned feasible {_show(answer.feasible)}; it must be True or False")
        raise model.Infeasible("its evaluation is not feasible")
    return {
        "value": None if answer.value is None else _result(answer.value),
        **(returns := _all_returns(answer)),
        **_dates(answer, returns["returns"], returns["hold_out_returns"]),
        "periods_per_year": _periods(answer.periods_per_year),
        "metrics": _metrics(answer.metrics),
        "data_fingerprint": _name(answer.data_fingerprint),
    }


def answer_from_json(data: Any, texts: Sequence[Any]) -> dict[str, Any]:
    """Read the plain answer that a child sent, with the `texts` after it. Raises BadAnswer if it is unreadable."""
    try:
        return {
            "value": None if data["value"] is None else _result(data["value"]),
            "scored": data.get("scored") is True,
            "total": None if data.get("total") is None else int(data["total"]),
            **{name: numbers_of(texts, data[name]) for name in SERIES if data.get(name) is not None},
            "periods_per_year": _periods(data.get("periods_per_year")),
            "metrics": _metrics(data.get("metrics", {})),
            "data_fingerprint": _name(data.get("data_fingerprint")),
        }
    except (AttributeError, LookupError, TypeError, ValueError) as error:
        raise BadAnswer(f"it cannot be read: {error!r}") from error


def numbers_of(texts: Sequence[Any], place: Any) -> array[float]:
    """Read the array that a child sent as text number `place`. Raises LookupError, TypeError or ValueError."""
    return array("d", binascii.a2b_base64(texts[place], strict_mode=True))


def infeasible_text(error: BaseException) -> str | None:
    """Return why the parameters are infeasible; None if `error` is not Infeasible."""
    model = sys.modules.get("o9.model.trial")
    if model is None or not isinstance(error, model.Infeasible):
        return None
    return storable(_message(error).strip() or "no reason given", SUMMARY_LENGTH)


def failure_text(error: BaseException) -> str:
    """Return the type, the message and the end of the traceback, bounded and storable."""
    if isinstance(error, BadAnswer):
        return storable(str(error))
    summary = f"{type(error).__name__}: {_message(error)}"[:SUMMARY_LENGTH]
    if isinstance(error, SystemExit):
        summary = f"the objective called sys.exit({_message(error)})"[:SUMMARY_LENGTH]
    return storable(f"{summary}\n{_frames(error)}".rstrip())


def storable(text: str, length: int = ERROR_LENGTH) -> str:
    """Cut `text` to `length` characters, and escape NULs and lone surrogates."""
    clean = text[:length].replace("\0", "\\x00").encode("utf-8", "backslashreplace").decode("utf-8")
    return clean if len(clean) <= length else clean[: length - 1] + "…"


def _result(value: Any) -> float:
    number = _number(value, "returned")
    _require_finite(number, f"the objective returned {number}; {EXPECTED}")
    return number


def _require_finite(number: float, error: str) -> None:
    if not math.isfinite(number):
        raise BadAnswer(f"{NAN if math.isnan(number) else ''}{error}")


def _number(value: Any, returned: str) -> float:
    kind = getattr(getattr(value, "dtype", None), "kind", "f")
    is_number = (
        not isinstance(value, (bool, str, bytes, bytearray, complex))
        and hasattr(value, "__float__")
        and kind in "iuf"
        and getattr(value, "shape", ()) == ()
    )
    try:
        if is_number:
            return float(value)
    except Exception as error:
        raise BadAnswer(
            f"the objective {returned} {_show(value)}, and float() of it failed: {error}; {EXPECTED}"
        ) from error
    raise BadAnswer(f"the objective {returned} {_show(value)}; {EXPECTED}")


def _all_returns(answer: Any) -> dict[str, array[float] | None]:
    found = {name: _returns(name, getattr(answer, name)) for name in RETURNS}
    if found["hold_out_returns"] is not None and found["returns"] is None:
        raise BadAnswer("the objective returned hold_out_returns without returns; return both")
    for name, other in _SAME_PERIODS.items():
        mine, others = found[name], found[other]
        if mine is not None and others is None:
            raise BadAnswer(f"the objective returned {name} without {other}; return both, or neither")
        if mine is not None and others is not None and len(mine) != len(others):
            raise BadAnswer(
                f"the objective returned {len(mine)} {name} and {len(others)} {other}; return as many, over the same "
                "periods"
            )
    return found


def _returns(name: str, values: Any) -> array[float] | None:
    if values is None:
        return None
    expected = f"Evaluation.{name} takes one finite number a period, in one dimension"
    if isinstance(values, (str, bytes, bytearray, dict, set, frozenset)) or len(getattr(values, "shape", (0,))) != 1:
        raise BadAnswer(f"the objective returned {name} as {_show(values)}; {expected}")
    try:
        items = values.tolist() if hasattr(values, "tolist") else list(values)
        numbers = array("d", items)
    except Exception as error:
        raise BadAnswer(f"the objective returned {name} that are not numbers ({error}); {expected}") from error
    if not numbers:
        raise BadAnswer(f"the objective returned empty {name}; {expected}, or None")
    if not math.isfinite(sum(numbers)):  # one sum is faster than a check of each
        for index, number in enumerate(numbers):
            _require_finite(number, f"the objective returned {name} of which number {index} is {number}; {expected}")
    return numbers


def _dates(answer: Any, returns: Numbers | None, hold_out: Numbers | None) -> dict[str, Numbers | None]:
    """Return the given dates, which may include those of the hold-out; without any, the index of the Series."""
    if returns is None:
        return {}
    given = answer.dates
    dates = _seconds("dates", index_of(answer.returns) if given is None else given)
    if dates is not None and given is not None and hold_out and len(dates) == len(returns) + len(hold_out):
        return {"dates": dates[: len(returns)], "hold_out_dates": dates[len(returns) :]}
    if dates is not None and len(dates) != len(returns):
        raise BadAnswer(f"the objective returned {len(dates)} dates and {len(returns)} returns; return one for each")
    later = _seconds("dates of hold_out_returns", index_of(answer.hold_out_returns))
    return {"dates": dates, "hold_out_dates": later}


def _seconds(name: str, labels: Any) -> Numbers | None:
    if labels is None:
        return None
    try:
        return seconds_of(labels)
    except Exception as error:
        raise BadAnswer(f"the objective returned {name} of which {storable(str(error), 300)}") from error


def _metrics(metrics: Any) -> dict[str, float]:
    if not hasattr(metrics, "items"):
        raise BadAnswer(f"the objective returned metrics as {_show(metrics)}; Evaluation.metrics maps names to numbers")
    plain: dict[str, float] = {}
    if len(metrics) > MOST_METRICS:
        raise BadAnswer(f"the objective returned {len(metrics):,} metrics; a trial has at most {MOST_METRICS}")
    for name, value in dict(metrics).items():
        if not isinstance(name, str) or not name or storable(name, 200) != name:
            raise BadAnswer(f"the objective returned a metric named {_show(name)}; a name has 1 to 200 characters")
        plain[name] = _number(value, f"returned as metric {name!r}")
        error = f"the objective returned as metric {name!r} {plain[name]}; leave out a metric that is not finite"
        _require_finite(plain[name], error)
    return plain


def _periods(value: Any) -> float | None:
    if value is None:
        return None
    number = _number(value, "returned as periods_per_year")
    if not (math.isfinite(number) and number > 0):
        raise BadAnswer(f"the objective returned periods_per_year {number}; it must be positive, 252 for trading days")
    return number


def _name(value: Any) -> str | None:
    if value is None:
        return None
    if not isinstance(value, str) or not value or storable(value, 200) != value:
        raise BadAnswer(f"the objective returned data_fingerprint {_show(value)}; it has 1 to 200 characters")
    return value


def _show(value: Any) -> str:
    if value is None:
        return "None"
    try:
        shape = getattr(value, "shape", ())
        text = f"numbers in the shape {shape}" if len(shape) > 1 else " ".join(repr(value).split())
    except Exception as error:  # noqa: BLE001 - the user's __repr__ raised, and the text says so
        text = f"<no repr: {type(error).__name__}>"
    return f"{text if len(text) <= 80 else text[:79] + '…'} ({type(value).__name__})"


def _message(error: BaseException) -> str:
    try:
        return str(error)
    except Exception as second:  # noqa: BLE001 - the user's __str__ raised, and the text says so
        return f"<no message: its __str__ raised {type(second).__name__}>"


def _frames(error: BaseException) -> str:
    import traceback  # needed only after a failure

    frames = traceback.extract_tb(error.__traceback__)
    # The first frames are O9's call of the objective.
    users = list(itertools.dropwhile(lambda frame: os.path.dirname(frame.filename) in _OURS, frames))
    return "".join(traceback.format_list(users[-TRACEBACK_FRAMES:]))[-(ERROR_LENGTH - SUMMARY_LENGTH - 1) :]
