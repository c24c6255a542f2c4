"""A plot as plain data for Plotly, and what all plots of a report share: colours, axes, fonts, escaped text.

Contract. A builder returns a `Plot`, or an `Unknown` whose reason replaces the plot on the page. A `Plot` holds only
JSON values, and numbers are finite and rounded. Only traces that are drawn as SVG are used: those on WebGL compile code
from text at run time, which the page's Content-Security-Policy forbids.

Colours are from Okabe and Ito's palette, which colour-blind readers can tell apart, with enough contrast on white and
on near-black. The page's style sheet colours the text and lines of the axes, to follow the reader's light or dark mode.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from html import escape
from typing import Any

from o9.model.states import OptimizationStatus
from o9.text.escape import plain, shortened

BLUE, ORANGE, GREEN, PURPLE, SKY, GREY = "#2f7fc1", "#d9691e", "#1a9c78", "#b065a0", "#56a9da", "#8b929b"
STATUS_COLOURS = {
    OptimizationStatus.CREATED: "#9aa1a9",
    OptimizationStatus.INITIALIZING: "#7cc0e8",
    OptimizationStatus.RUNNING: BLUE,
    OptimizationStatus.PAUSED: "#e0a526",
    OptimizationStatus.SUSPENDED: "#b08a3e",
    OptimizationStatus.COMPLETED: GREEN,
    OptimizationStatus.FAILED: ORANGE,
    OptimizationStatus.CANCELLED: PURPLE,
    OptimizationStatus.TIMEOUT: "#a5421a",
}
FONT = "system-ui, -apple-system, 'Segoe UI', Roboto, 'Noto Sans', 'PingFang SC', 'Hiragino Sans GB', "
FONT += "'Microsoft YaHei', 'Noto Sans CJK SC', sans-serif"
FONT_SIZE = 12
LABEL_LIMIT = 28


@dataclass(frozen=True)
class Plot:
    """`finding` says in a sentence what there is to see; `note` how to read it, and what was left out.

    size: `plain`, `small` (one of many beside each other), `tall`, or `own` (the height of the layout).
    """

    finding: str
    data: Sequence[Mapping[str, Any]]
    layout: Mapping[str, Any]
    note: str = ""
    size: str = "plain"

    def to_dict(self) -> dict[str, Any]:
        return {"data": list(self.data), "layout": dict(self.layout)}


def axis(title: str = "", **more: Any) -> dict[str, Any]:
    """An axis without a box; its colours come from the style sheet."""
    found: dict[str, Any] = {"automargin": True, "showline": False, "zeroline": False, "ticks": ""}
    found |= {"exponentformat": "power", "minexponent": 6}
    if title:
        found["title"] = {"text": label(title, 80), "standoff": 10}
    return found | more


def layout(x: Mapping[str, Any], y: Mapping[str, Any], **more: Any) -> dict[str, Any]:
    """What all plots have, updated with `more`."""
    return {
        "autosize": True,
        "font": {"family": FONT, "size": FONT_SIZE},
        "paper_bgcolor": "rgba(0,0,0,0)",
        "plot_bgcolor": "rgba(0,0,0,0)",
        "margin": {"l": 48, "r": 12, "t": 12, "b": 40},
        "hovermode": "closest",
        "hoverlabel": {"font": {"family": FONT, "size": FONT_SIZE}, "align": "left"},
        "showlegend": False,
        "legend": LEGEND_ABOVE,
        "xaxis": dict(x),
        "yaxis": dict(y),
    } | more


# Above the plot: a phone has no room beside it.
LEGEND_ABOVE = {"orientation": "h", "x": 0, "xanchor": "left", "y": 1.02, "yanchor": "bottom", "traceorder": "normal"}


def label(text: str, limit: int = LABEL_LIMIT) -> str:
    """Escape a user's text where Plotly reads HTML."""
    return escape(shortened(plain(text), limit), quote=False)


def range_around(low: float, high: float, *, room: float = 0.06) -> list[float]:
    """From a little below to a little above; if both are the same, some room on both sides."""
    width = (high - low) or abs(high) or 1.0
    return [low - room * width, high + room * width]
