"""Date templates of recurring optimizations: `{{ scheduled_date }}` in any text of a specification.

| template                                        | in a run scheduled for 2026-01-31 22:00 in New York          |
| `{{ scheduled_date }}`                          | `2026-02-01`, the date in UTC                                |
| `{{ scheduled_date America/New_York }}`         | `2026-01-31`                                                 |
| `{{ scheduled_date - 365d }}`, `{{ … + 12h }}`  | that much earlier or later, in h, d or w                     |
| `{{ scheduled_at }}`                            | `2026-02-01T03:00:00+00:00`                                  |

Pure functions. Text without braces is unchanged.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from datetime import datetime, timedelta
from typing import Any
from zoneinfo import ZoneInfo, available_timezones

from o9.model.errors import Faults, OptimizationValidationError

_BRACES = re.compile(r"\{\{(.*?)\}\}")
_CUT_OUT = re.compile(r"([\s\-_·:,.]*\{\{.*?\}\})+[\s\-_·:,.]*")  # with the separators around it
_WRITTEN = re.compile(
    r"\s*(?P<what>scheduled_date|scheduled_at)(\s+(?P<zone>[A-Za-z][\w/+-]*))?"
    r"(\s*(?P<sign>[+-])\s*(?P<number>\d{1,18})(?P<unit>[hdw]))?\s*"
)
_UNITS = {"h": "hours", "d": "days", "w": "weeks"}


def fill_dates(given: Any, at: datetime, faults: Faults | None = None) -> Any:
    """Fill in the templates for the run that is scheduled for `at`, an aware datetime.

    Raises OptimizationValidationError with the field of each invalid template. With `faults`, these are added to them
    instead, and such texts are left as they are.
    """

    def fill(written: re.Match[str]) -> str:
        moment = at.astimezone(ZoneInfo(written["zone"] or "UTC"))
        if written["number"]:
            span = timedelta(**{_UNITS[written["unit"]]: int(written["number"])})
            moment = moment + span if written["sign"] == "+" else moment - span
        return moment.date().isoformat() if written["what"] == "scheduled_date" else moment.isoformat()

    found = Faults() if faults is None else faults
    made = _replaced(given, fill, found)
    if faults is None:
        found.refuse()
    return made


def with_time_zone(given: Any, zone: str) -> Any:
    """Add `zone` to the templates that name no time zone. Raises like `fill_dates`."""

    def name_it(written: re.Match[str]) -> str:
        return written[0] if written["zone"] else written[0].replace(written["what"], f"{written['what']} {zone}", 1)

    faults = Faults()
    made = _replaced(given, lambda written: f"{{{{{name_it(written)}}}}}", faults)
    faults.refuse()
    return made


def series_name(spec: Mapping[str, Any]) -> str:
    """The default name of a series: the optimization's name without templates and separators, or its objective."""
    metadata, name = spec.get("metadata", {}), str(spec.get("name") or "")
    named = _CUT_OUT.sub(" ", name).strip()
    return str(named or metadata.get("objective") or metadata.get("strategy") or "optimization")


def _replaced(given: Any, by: Callable[[re.Match[str]], str], faults: Faults, field: str = "") -> Any:
    """Replace what is between braces. Texts with an invalid template are left as they are."""
    if isinstance(given, dict):
        return {
            key: _replaced(value, by, faults, f"{field}.{key}" if field else str(key)) for key, value in given.items()
        }
    if isinstance(given, list):
        return [_replaced(value, by, faults, f"{field}[{n}]") for n, value in enumerate(given)]
    if isinstance(given, str) and "{{" in given:
        with faults:
            return _filled(given, by, field)
    return given


def _filled(text: str, by: Callable[[re.Match[str]], str], field: str) -> str:
    if "{{" in (rest := _BRACES.sub("", text)):
        raise _refusal(field, rest[rest.index("{{") :])
    try:
        return _BRACES.sub(lambda braces: by(_read(braces[1], field)), text)
    except OverflowError:
        raise OptimizationValidationError(field, f"{text:.80}: the date is not in the years 1 to 9999") from None


def _read(text: str, field: str) -> re.Match[str]:
    written = _WRITTEN.fullmatch(text)
    if written is None:
        raise _refusal(field, f"{{{{{text}}}}}")
    if written["zone"] and written["zone"] not in available_timezones():
        raise OptimizationValidationError(field, f"{written['zone']} is not a time zone such as America/New_York")
    return written


def _refusal(field: str, text: str) -> OptimizationValidationError:
    return OptimizationValidationError(
        field,
        f"{text} is not a template: write {{{{ scheduled_date }}}}, {{{{ scheduled_at }}}}, "
        "{{ scheduled_date America/New_York }} or {{ scheduled_date - 365d }}",
    )
