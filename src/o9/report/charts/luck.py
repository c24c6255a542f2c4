"""How much of the best is luck: the Sharpe ratios of all trials, and the best's ranks over split samples. Pure."""

from __future__ import annotations

import math
from collections.abc import Sequence
from itertools import pairwise
from typing import Any

import numpy as np
from numpy.typing import ArrayLike

from o9.health.statistics.moments import Floats
from o9.health.statistics.overfitting import BacktestOverfitting
from o9.health.unknown import Unknown
from o9.health.verdict import OVERFITTING_LEVEL, Evidence
from o9.health.wording import sharpe
from o9.report.charts.downsample import all_significant, significant
from o9.report.charts.figure import BLUE, ORANGE, PURPLE, SKY, Plot, axis, layout, range_around
from o9.text.format import count, percent, ratio

MOST_BINS = 40


def sharpe_distribution(evidence: Evidence) -> Plot | Unknown:
    """The Sharpe ratios of all trials of the family, with the best, and with what luck gives the best."""
    sharpes, best = evidence.sharpes, evidence.best
    if isinstance(sharpes, Unknown):
        return sharpes
    if isinstance(best, Unknown):
        return best
    scale = math.sqrt(evidence.periods_per_year) if evidence.periods_per_year else 1.0
    unit = "a year" if evidence.periods_per_year else "a period"
    shown, luck = best.sharpe * scale, evidence.luck
    lines: list[tuple[str, float, str, str]] = [("best", shown, BLUE, "solid")]
    over = " over the baseline" if evidence.over_market else ""
    finding = f"Of {count(evidence.counted, 'trial')} the best has a Sharpe ratio{over} of "
    finding += f"{sharpe(shown)} {unit}; "
    if isinstance(luck, Unknown):
        finding += f"what luck alone gives the best is {luck}."
    else:
        lines.append(("what luck gives the best", luck * scale, PURPLE, "dash"))
        finding += f"luck alone is expected to give the best {sharpe(luck * scale)}."
    counts, edges = np.histogram(sharpes * scale, bins=_bins(len(sharpes)))
    bars = _bars(counts, edges, [SKY] * len(counts), "trials", "Sharpe ratio")
    places = [*edges.tolist(), *(at for _, at, _, _ in lines)]
    x = axis(f"Sharpe ratio {unit}", range=all_significant(range_around(min(places), max(places), room=0.03)))
    return Plot(
        finding,
        [bars, *(_upright(*line, top=int(counts.max())) for line in lines)],
        layout(x, axis("trials"), showlegend=True, bargap=0.04),
        _what_is_counted(evidence, len(sharpes), unit),
    )


def rank_logits(found: BacktestOverfitting | Unknown) -> Plot | Unknown:
    """How the best of one half of the time ranked in the other half, over all splits."""
    if isinstance(found, Unknown):
        return found
    counts, edges = np.histogram(found.logits, bins=_bins(len(found.logits), zero_is_an_edge=found.logits))
    middle = (edges[:-1] + edges[1:]) / 2
    colours = [ORANGE if at < 0 else BLUE for at in middle.tolist()]
    dropped = f" The oldest {count(found.dropped_periods, 'period')} fill no block." if found.dropped_periods else ""
    loss = percent(found.probability_of_loss)
    alike = found.pbo >= OVERFITTING_LEVEL > found.probability_of_loss
    flat = " Equally good trials, too, are often below the median and seldom at a loss." * alike
    return Plot(
        f"In {percent(found.pbo)} of {len(found.logits):,} splits the best of one half ranked below the median of "
        f"the other half (the probability of backtest overfitting), and in {loss} it lost money there.",
        [_bars(counts, edges, colours, "splits", "logit")],
        layout(axis("rank out of sample (logit)"), axis("splits"), bargap=0.04),
        f"{count(found.trials, 'trial')} over {found.periods:,} periods in {found.blocks} blocks, of which each "
        f"half was once in sample. Below 0 is below the median; a rank of exactly the median counts as half."
        f"{dropped}{flat}",
    )


def _upright(name: str, at: float, colour: str, dash: str, *, top: int) -> dict[str, Any]:
    """A line across the bars. Its value is in the legend, where close ones do not overlap."""
    text = f"{name}: {sharpe(at)}"
    return {
        "type": "scatter", "mode": "lines", "name": text, "x": [significant(at)] * 2, "y": [0, significant(top * 1.06)],
        "line": {"color": colour, "width": 2.5, "dash": dash}, "hovertemplate": f"{text}<extra></extra>",
    }  # fmt: skip


def _what_is_counted(evidence: Evidence, kept: int, unit: str) -> str:
    text = f"The Sharpe ratios {unit} of {count(kept, 'trial')} of the whole family, measured over "
    text += "what each has of the baseline" if evidence.over_market else "zero or cash"
    if not (evidence.over_market or evidence.market_neutral):
        text += ", so that the market's own rise counts as an edge"
    missing = evidence.counted - kept
    if missing:
        which = "counts, has" if missing == 1 else "count, have"
        text += f"; {count(missing, 'trial')} more, which {which} no returns over the same periods"
    return f"{text}."


def _bins(count: int, zero_is_an_edge: Floats | None = None) -> Any:
    """Enough bins to see the shape; for logits, zero is an edge of them."""
    number = max(5, min(MOST_BINS, round(2 * count ** (1 / 3)) * 2))
    if zero_is_an_edge is None:
        return number
    width = max(float(np.abs(zero_is_an_edge).max()), 1e-9) / (number // 2)
    return np.arange(-(number // 2), number // 2 + 1) * width


def _bars(counts: ArrayLike, edges: Floats, colours: Sequence[str], what: str, of: str) -> dict[str, Any]:
    spans = [f"{ratio(low)} to {ratio(high)}" for low, high in pairwise(edges.tolist())]
    return {
        "type": "bar", "name": what, "showlegend": False, "marker": {"color": list(colours)},
        "x": all_significant(((edges[:-1] + edges[1:]) / 2).tolist()), "y": np.asarray(counts).tolist(),
        "width": significant(float(edges[1] - edges[0])) * 0.96, "customdata": spans,
        "hovertemplate": f"{of} %{{customdata}}: %{{y}} {what}<extra></extra>",
    }  # fmt: skip
