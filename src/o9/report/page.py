"""Render articles as one HTML file that makes no network requests.

Contract. Pure, except that it reads this package's templates, and plotly.js from its package. Every value that a
template prints passes `plain` and is escaped. The page's Content-Security-Policy forbids all requests, and all scripts
but the two whose hashes it names, so that no text can become a script.
"""

from __future__ import annotations

import base64
import hashlib
import json
import re
from collections.abc import Mapping
from datetime import datetime
from functools import cache
from importlib.metadata import PackageNotFoundError, version
from typing import Any

from jinja2 import Environment, PackageLoader, StrictUndefined
from markupsafe import Markup, escape
from plotly.offline import get_plotlyjs

from o9.health.grades import VERDICT
from o9.health.unknown import Unknown
from o9.health.wording import GRADES, forecast_sentence
from o9.report.charts.figure import STATUS_COLOURS, Plot
from o9.text.escape import plain, shortened
from o9.text.format import duration, moment, number, percent, ratio, sentence, value_text

GENERATOR = "O9 report"  # in the head of files that may be overwritten
_ESCAPES = {"<": "\\u003c", ">": "\\u003e", "&": "\\u0026", "\u2028": "\\u2028", "\u2029": "\\u2029"}
_CODE = re.compile("`([^`]+)`")
_UNIT = re.compile(r"(?<=\d) (?=(?:s|min|h|d)\b)")
_NEGATIVE = re.compile(r"(?<![\w.,)\]-])-(?=\d)")


def render(template: str, title: str, now: datetime, source: str, **context: Any) -> str:
    """Render `template` within the page. `source` names the store, without a password."""
    plots: dict[str, Plot] = {}

    def place(plot: Plot) -> str:
        """Register a plot that a template puts on the page; return the id of its element."""
        name = f"plot-{len(plots) + 1}"
        plots[name] = plot
        return name

    environment = _environment()
    body = environment.get_template(template).render(place=place, title=title, **context)
    scripts = [Markup(_normal(text)) for text in (get_plotlyjs(), _text("draw.js"))] if plots else []
    return environment.get_template("page.html").render(
        title=title,
        now=now,
        source=source,
        generator=f"{GENERATOR} {_release()}",
        policy=_policy(scripts),
        style=Markup(_text("style.css")),
        status_colours={status.value: colour for status, colour in STATUS_COLOURS.items()},
        body=Markup(body),
        plots=Markup(script_json({name: plot.to_dict() for name, plot in plots.items()})),
        scripts=scripts,
    )


def script_json(document: Any) -> str:
    """JSON for a script element: it cannot end the element, or begin a comment in it."""
    text = json.dumps(document, ensure_ascii=False, allow_nan=False, separators=(",", ":"))
    for character, escaped in _ESCAPES.items():
        text = text.replace(character, escaped)
    return text.encode("utf-8", "backslashreplace").decode()


@cache
def _environment() -> Environment:
    environment = Environment(
        loader=PackageLoader("o9.report"),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        finalize=_shown,
    )
    environment.filters |= {
        each.__name__: each
        for each in (duration, forecast_sentence, moment, number, percent, ratio, sentence, shortened, value_text)
    }
    environment.filters["with_code"] = _with_code
    environment.globals |= {"GRADES": GRADES, "VERDICT": VERDICT}
    environment.tests["unknown"] = lambda value: isinstance(value, Unknown)
    return environment


def _shown(value: Any) -> Any:
    if not isinstance(value, str) or isinstance(value, Markup):
        return value
    # A minus sign aligns with digits, unlike a hyphen; a number and its unit stay on one line.
    return _NEGATIVE.sub("\u2212", _UNIT.sub("\u00a0", plain(value)))


def _with_code(text: str) -> Markup:
    """Text between backticks as code, the rest escaped."""
    return Markup(_CODE.sub(r"<code>\1</code>", str(escape(_NEGATIVE.sub("\u2212", plain(text))))))


def _text(name: str) -> str:
    environment = _environment()
    assert environment.loader is not None
    return environment.loader.get_source(environment, name)[0]


def _normal(text: str) -> str:
    """Normalize line ends as an HTML parser does, since the hash is that of the parsed text."""
    if "</script" in text.lower() or "<!--" in text:
        raise ValueError("a script with </script or <!-- cannot be put into a page")
    return text.replace("\r\n", "\n").replace("\r", "\n")


def _policy(scripts: list[Markup]) -> str:
    hashes = [base64.b64encode(hashlib.sha256(script.encode()).digest()).decode() for script in scripts]
    allowed = " ".join(f"'sha256-{each}'" for each in hashes) or "'none'"
    # Plotly writes style attributes, and exports a plot as an image through a blob.
    rules: Mapping[str, str] = {
        "default-src": "'none'",
        "script-src": allowed,
        "style-src": "'unsafe-inline'",
        "img-src": "data: blob:",
        "base-uri": "'none'",
        "form-action": "'none'",
    }
    return "; ".join(f"{name} {value}" for name, value in rules.items())


def _release() -> str:
    try:
        return version("prefect-o9")
    except PackageNotFoundError:
        return ""
